/**
 * Kubeconfigs against the real API server: who it takes the client for, and what that one may do.
 */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import { readFile, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as KubernetesClient from "../../src/kubernetes/KubernetesClient.ts"
import { scoped, sharedCluster } from "./utils/Testing.ts"

/** A service account that may impersonate one user, one group, and one kind of extra, and nothing else. */
const stage = Effect.gen(function*() {
  const cluster = yield* scoped(sharedCluster)
  const { admin } = cluster
  const namespace = yield* Effect.promise(() => admin.createNamespace("impersonate"))
  const [token, kubeconfig] = yield* Effect.promise(async () => {
    await admin.createServiceAccount(namespace, "robot")
    await admin.apply({
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "ClusterRole",
      metadata: { name: namespace },
      rules: [
        { apiGroups: [""], resources: ["users"], verbs: ["impersonate"], resourceNames: ["boss"] },
        { apiGroups: [""], resources: ["groups"], verbs: ["impersonate"], resourceNames: [`${namespace}:leaders`] },
        { apiGroups: ["authentication.k8s.io"], resources: ["uids"], verbs: ["impersonate"] },
        { apiGroups: ["authentication.k8s.io"], resources: ["userextras/example.com/reason"], verbs: ["impersonate"] }
      ]
    })
    await admin.apply({
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "ClusterRoleBinding",
      metadata: { name: namespace },
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: namespace },
      subjects: [{ kind: "ServiceAccount", name: "robot", namespace }]
    })
    // The right to Leases is the group's.
    await admin.putRole(namespace, "leases", [
      { apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["create", "get", "patch"] }
    ])
    await admin.apply({
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "RoleBinding",
      metadata: { name: "leases" },
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name: "leases" },
      subjects: [{ apiGroup: "rbac.authorization.k8s.io", kind: "Group", name: `${namespace}:leaders` }]
    }, namespace)
    const token = await admin.createToken(namespace, "robot")
    return [token, await cluster.writeKubeconfig({ token, namespace })] as const
  })
  yield* Effect.addFinalizer(() =>
    Effect.promise(async () => {
      await admin.ok("DELETE", `/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/${namespace}`)
      await admin.ok("DELETE", `/apis/rbac.authorization.k8s.io/v1/clusterroles/${namespace}`)
      await admin.deleteNamespace(namespace)
    })
  )
  const connect = Effect.fnUntraced(function*(user: Record<string, unknown>) {
    const content = JSON.parse(yield* Effect.promise(() => readFile(kubeconfig, "utf8")))
    content.users = content.users.map(({ name }: { readonly name: string }) => ({ name, user: { token, ...user } }))
    const file = join(cluster.directory, `${Object.keys(user).join("-")}.json`)
    yield* Effect.promise(() => writeFile(file, JSON.stringify(content)))
    const context = yield* Layer.build(Layer.fresh(KubernetesClient.layerKubeconfig({ file })))
    return Context.get(context, KubernetesClient.KubernetesClient)
  })
  return { namespace, connect }
})

const create = (client: KubernetesClient.KubernetesClient["Service"], name: string) =>
  client.request({
    method: "POST",
    path: `/apis/coordination.k8s.io/v1/namespaces/${client.namespace}/leases`,
    body: { apiVersion: "coordination.k8s.io/v1", kind: "Lease", metadata: { name } }
  })

describe("impersonation", () => {
  it.live("gives the rights of a group, and nothing without it", () =>
    Effect.gen(function*() {
      const { connect, namespace } = yield* stage
      const leader = yield* connect({
        as: "boss",
        "as-groups": [`${namespace}:leaders`],
        "as-uid": "42",
        "as-user-extra": { "example.com/reason": ["one", "two"] }
      })
      const whoAmI = yield* leader.request({
        method: "POST",
        path: "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        body: { apiVersion: "authentication.k8s.io/v1", kind: "SelfSubjectReview" }
      })
      const { userInfo } = (whoAmI.body as { readonly status: { readonly userInfo: Record<string, unknown> } }).status
      assert.deepStrictEqual({ ...userInfo, groups: (userInfo["groups"] as Array<string>).toSorted() }, {
        username: "boss",
        uid: "42",
        groups: [`${namespace}:leaders`, "system:authenticated"].toSorted(),
        extra: { "example.com/reason": ["one", "two"] }
      })
      assert.strictEqual((yield* create(leader, "by-group")).status, 201)

      const alone = yield* connect({ as: "boss" })
      const refused = yield* Effect.flip(create(alone, "alone"))
      assert.include(refused.message, `403 Forbidden`)
      assert.include(refused.message, `User "boss" cannot create`)
      const strangers = yield* connect({ as: "boss", "as-groups": ["system:masters"] })
      assert.include(
        (yield* Effect.flip(create(strangers, "others"))).message,
        "cannot impersonate resource \"groups\""
      )
    }))
})
