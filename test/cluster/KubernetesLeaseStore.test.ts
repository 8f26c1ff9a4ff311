/**
 * What the client and the store make of a real API server's rights, tokens and failures, beyond the suite that all
 * stores are held to.
 */
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Context, Effect, Fiber, Layer, Queue, Redacted, type Scope, Stream } from "effect"
import { rename, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { parse } from "yaml"
import { KubernetesClient } from "../../src/kubernetes/KubernetesClient.ts"
import * as Client from "../../src/kubernetes/KubernetesClient.ts"
import type { KubernetesConfigError } from "../../src/kubernetes/KubernetesError.ts"
import * as KubernetesLeaseStore from "../../src/kubernetes/KubernetesLeaseStore.ts"
import type { LeaseError, LeaseErrorReason } from "../../src/LeaseError.ts"
import type { LeaseWrite } from "../../src/LeaseRecord.ts"
import { type LeaseChange, LeaseStore } from "../../src/LeaseStore.ts"
import type { Rule } from "./utils/ApiClient.ts"
import { type KubeCluster, startCluster } from "./utils/KubeCluster.ts"
import { Proxy } from "./utils/Proxy.ts"
import { scoped, sharedCluster, skipWithout } from "./utils/Testing.ts"

// --- Helpers ---

const name = "x"

const write: LeaseWrite = { holderIdentity: "me", leaseDurationSeconds: 15, renewTime: 1_795_354_201_123_456n }

const build = (layer: Layer.Layer<KubernetesClient, KubernetesConfigError>) =>
  Layer.build(Layer.provideMerge(KubernetesLeaseStore.layer, layer)).pipe(
    Effect.map((context) => ({
      client: Context.get(context, KubernetesClient),
      store: Context.get(context, LeaseStore)
    }))
  )

const connect = (cluster: KubeCluster, token: string | undefined, server = cluster.url) =>
  build(Client.layerServer({
    server,
    ca: cluster.ca,
    ...(token !== undefined && { token: Redacted.make(token) })
  }))

/** A namespace with a service account that may do what these rules say. */
const makeAccount = (cluster: KubeCluster, rules: ReadonlyArray<Rule>) =>
  Effect.promise(async () => {
    const { admin } = cluster
    const namespace = await admin.createNamespace()
    await admin.createServiceAccount(namespace, "candidate")
    await admin.putRole(namespace, "candidate", rules)
    await admin.putRoleBinding(namespace, "candidate", "candidate")
    return { key: { namespace, name }, namespace, token: await admin.createToken(namespace, "candidate") }
  })

const leases = (...verbs: ReadonlyArray<string>): Rule => ({
  apiGroups: ["coordination.k8s.io"],
  resources: ["leases"],
  verbs
})

const all = leases("create", "get", "patch", "watch")

const reasonOf = <A>(effect: Effect.Effect<A, LeaseError, Scope.Scope>) =>
  Effect.map(Effect.flip(effect), (error): LeaseErrorReason => error.reason)

const expectReason = Effect.fnUntraced(function*<A, Tag extends LeaseErrorReason["_tag"]>(
  effect: Effect.Effect<A, LeaseError, Scope.Scope>,
  tag: Tag
) {
  const reason = yield* reasonOf(effect)
  assert.strictEqual(reason._tag, tag, reason.message)
  return reason as Extract<LeaseErrorReason, { readonly _tag: Tag }>
})

/** The rule that a message says is missing, as the YAML that it is. */
const ruleIn = (message: string): Rule => {
  const [, yaml] = message.split("lacks this rule:\n")
  assert.isDefined(yaml, message)
  const [rule] = parse(yaml!)
  return rule
}

const until = <A, E>(effect: Effect.Effect<A, E, Scope.Scope>) => Effect.eventually(effect)

// --- Rights ---

describe("rights", () => {
  const cases = [
    { verb: "get", call: (store: LeaseStore["Service"], key: { namespace: string; name: string }) => store.get(key) },
    {
      verb: "create",
      call: (store: LeaseStore["Service"], key: { namespace: string; name: string }) => store.create(key, write)
    },
    {
      verb: "patch",
      call: (store: LeaseStore["Service"], key: { namespace: string; name: string }) => store.patch(key, 1n, write)
    },
    {
      verb: "watch",
      call: (store: LeaseStore["Service"], key: { namespace: string; name: string }) =>
        Stream.runDrain(Stream.take(store.changes(key, undefined), 1))
    }
  ] as const
  it.live.each(cases)(
    "without $verb, the rule that the error names is the one that is missing",
    ({ call, verb }) =>
      Effect.gen(function*() {
        const cluster = yield* scoped(sharedCluster)
        const { key, namespace, token } = yield* makeAccount(cluster, [])
        const { store } = yield* connect(cluster, token)
        const reason = yield* expectReason(Effect.asVoid(call(store, key)), "LeaseForbidden")
        assert.isFalse(reason.anonymous)
        assert.isFalse(reason.ownerReferences)
        const rule = ruleIn(reason.message)
        assert.deepStrictEqual(rule.verbs, [verb])
        yield* Effect.promise(() => cluster.admin.putRole(namespace, "candidate", [rule]))
        // A new right takes some milliseconds to be known. There is no Lease; with the right, that is what is answered.
        yield* until(
          Effect.asVoid(call(store, key)).pipe(
            Effect.catchIf(({ reason }) => reason._tag === "LeaseNotFound", () => Effect.void)
          )
        )
      })
  )

  it.live("changing owners where a plugin guards them, the rule that the error names is the one that is missing", (context) =>
    Effect.gen(function*() {
      const shared = yield* scoped(sharedCluster)
      if (shared.descriptor.kind === "existing") context.skip("needs an API server with other settings")
      const cluster = yield* scoped(() =>
        startCluster({
          apiServerArgs: ["--enable-admission-plugins=OwnerReferencesPermissionEnforcement"],
          garbageCollector: false
        })
      )
      const { key, namespace, token } = yield* makeAccount(cluster, [all])
      const { store } = yield* connect(cluster, token)
      const { lease } = yield* store.create(key, write)
      const owner = { apiVersion: "v1", kind: "Pod", name: "p", uid: "00000000-0000-0000-0000-000000000000" }
      const setOwner = store.patch(key, lease.resourceVersion, { ownerReferences: [owner] })
      const reason = yield* expectReason(setOwner, "LeaseForbidden")
      assert.isTrue(reason.ownerReferences)
      const rule = ruleIn(reason.message)
      assert.deepStrictEqual(rule, { ...leases("delete"), resourceNames: [name] })
      yield* Effect.promise(() => cluster.admin.putRole(namespace, "candidate", [all, rule]))
      yield* until(setOwner)

      const blocking = [{ ...owner, blockOwnerDeletion: true }]
      const current = yield* store.get(key)
      const block = store.patch(key, current.lease.resourceVersion, { ownerReferences: blocking })
      const refused = yield* expectReason(block, "LeaseForbidden")
      assert.isTrue(refused.ownerReferences)
      const finalizers = ruleIn(refused.message)
      assert.deepStrictEqual(finalizers, { apiGroups: [""], resources: ["pods/finalizers"], verbs: ["update"] })
      yield* Effect.promise(() => cluster.admin.putRole(namespace, "candidate", [all, rule, finalizers]))
      yield* until(block)
    }))
})

// --- Tokens ---

/** As `cluster.writeServiceAccountFiles`, with the environment of a Pod. */
const inPod = Effect.fnUntraced(function*(cluster: KubeCluster, namespace: string, token: string) {
  const directory = yield* Effect.promise(() => cluster.writeServiceAccountFiles({ token, namespace }))
  const pod = yield* build(Client.layerInCluster({ directory })).pipe(
    Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({
      KUBERNETES_SERVICE_HOST: cluster.host,
      KUBERNETES_SERVICE_PORT: `${cluster.port}`
    })))
  )
  return { ...pod, directory }
})

describe("tokens", () => {
  it.live("a service account's files are all that is needed, and a new token is found when the old one is refused", () =>
    Effect.gen(function*() {
      const cluster = yield* scoped(sharedCluster)
      const { key, namespace, token } = yield* makeAccount(cluster, [all])
      const { client, directory, store } = yield* inPod(cluster, namespace, "not a token")
      assert.strictEqual(client.namespace, namespace)
      const refused = yield* expectReason(store.get(key), "LeaseUnauthorized")
      assert.match(refused.message, /^401 Unauthorized: Unauthorized/)
      yield* Effect.promise(async () => {
        await writeFile(join(directory, "new"), token)
        await rename(join(directory, "new"), join(directory, "token"))
      })
      assert.strictEqual((yield* store.create(key, write)).lease.holderIdentity, "me")
    }))

  it.live("a request without one is told so", () =>
    Effect.gen(function*() {
      const cluster = yield* scoped(sharedCluster)
      const { key } = yield* makeAccount(cluster, [])
      const { store } = yield* connect(cluster, undefined)
      assert.isTrue((yield* expectReason(store.get(key), "LeaseForbidden")).anonymous)
      assert.isTrue((yield* expectReason(store.patch(key, 1n, write), "LeaseForbidden")).anonymous)
    }))

  it.live("a kubeconfig's", () =>
    Effect.gen(function*() {
      const cluster = yield* scoped(sharedCluster)
      const { key, namespace, token } = yield* makeAccount(cluster, [all])
      const file = yield* Effect.promise(() => cluster.writeKubeconfig({ token, namespace }))
      const { client, store } = yield* build(Client.layerKubeconfig({ file }))
      assert.strictEqual(client.namespace, namespace)
      yield* store.create(key, write)
    }))
})

// --- Requests ---

describe("requests", () => {
  it.live("say who asks", (context) =>
    Effect.gen(function*() {
      const cluster = yield* scoped(sharedCluster)
      skipWithout(context, cluster, "audit")
      const { key, namespace, token } = yield* makeAccount(cluster, [all])
      const { store } = yield* connect(cluster, token)
      yield* store.create(key, write)
      const user = `system:serviceaccount:${namespace}:candidate`
      const entries = yield* until(
        Effect.promise(() => cluster.auditLog({ user })).pipe(
          Effect.filterOrFail((entries) => entries.length > 0, () => "not written yet")
        )
      )
      assert.deepStrictEqual(entries.map(({ userAgent, verb }) => [verb, userAgent]), [
        ["create", "effect-kubernetes-leader-election"]
      ])
    }))

  it.live("of a general kind: access reviews, Events, Pod labels, lists", () =>
    Effect.gen(function*() {
      const cluster = yield* scoped(sharedCluster)
      const { namespace, token } = yield* makeAccount(cluster, [
        leases("create", "list"),
        { apiGroups: ["events.k8s.io"], resources: ["events"], verbs: ["create"] },
        { apiGroups: [""], resources: ["pods"], verbs: ["patch"] }
      ])
      const { client, store } = yield* connect(cluster, token)
      yield* until(store.create({ namespace, name }, write))
      const review = yield* client.request({
        method: "POST",
        path: "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        body: {
          apiVersion: "authorization.k8s.io/v1",
          kind: "SelfSubjectAccessReview",
          spec: { resourceAttributes: { group: "coordination.k8s.io", resource: "leases", namespace, verb: "watch" } }
        }
      })
      assert.strictEqual(review.status, 201)
      assert.nestedPropertyVal(review.body, "status.allowed", false)
      const list = yield* client.request({
        method: "GET",
        path: `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases`,
        verb: "list"
      })
      assert.nestedPropertyVal(list.body, "items[0].metadata.name", name)
      yield* client.request({
        method: "POST",
        path: `/apis/events.k8s.io/v1/namespaces/${namespace}/events`,
        body: {
          metadata: { name: "x.1" },
          eventTime: "2026-11-22T13:30:00.123456Z",
          reportingController: "example.com/elector",
          reportingInstance: "pod-1",
          action: "Acquire",
          reason: "BecameLeader",
          type: "Normal",
          regarding: { apiVersion: "coordination.k8s.io/v1", kind: "Lease", namespace, name }
        }
      })
      yield* Effect.promise(() => cluster.admin.createPod(namespace, "p"))
      const pod = yield* client.request({
        method: "PATCH",
        path: `/api/v1/namespaces/${namespace}/pods/p`,
        body: { metadata: { labels: { role: "leader" } } }
      })
      assert.nestedPropertyVal(pod.body, "metadata.labels.role", "leader")
    }))
})

// --- Bad networks ---

const behindProxy = Effect.gen(function*() {
  const cluster = yield* scoped(sharedCluster)
  const { key, token } = yield* makeAccount(cluster, [all])
  const proxy = yield* scoped(() => Proxy.start(cluster))
  const direct = yield* connect(cluster, token)
  const { store } = yield* build(Client.layerServer({
    server: proxy.url,
    ca: cluster.ca,
    token: Redacted.make(token),
    requestTimeout: "500 millis"
  }))
  return {
    direct: direct.store,
    key,
    proxy,
    store,
    set: (mode: Proxy["mode"]) => Effect.promise(() => proxy.set(mode))
  }
})

describe("a bad network", () => {
  it.live("a write whose answer is lost may have been applied, and sent again on the same version shows it", () =>
    Effect.gen(function*() {
      const { key, set, store } = yield* behindProxy
      const { lease } = yield* store.create(key, write)
      yield* set("stallAnswers")
      const lost = yield* expectReason(
        store.patch(key, lease.resourceVersion, { holderIdentity: "other" }),
        "LeaseUnavailable"
      )
      assert.isTrue(lost.outcomeUnknown)
      yield* set("pass")
      yield* expectReason(store.patch(key, lease.resourceVersion, { holderIdentity: "other" }), "LeaseConflict")
      assert.strictEqual((yield* store.get(key)).lease.holderIdentity, "other")
    }))

  it.live("a write that found no connection was not applied", () =>
    Effect.gen(function*() {
      const { direct, key, set, store } = yield* behindProxy
      const { lease } = yield* direct.create(key, write)
      for (const mode of ["refuse", "stall"] as const) {
        yield* set(mode)
        const reason = yield* expectReason(
          store.patch(key, lease.resourceVersion, { holderIdentity: mode }),
          "LeaseUnavailable"
        )
        assert.isFalse(reason.outcomeUnknown, mode)
      }
      yield* set("pass")
      assert.deepStrictEqual((yield* store.get(key)).lease, lease)
    }))

  it.live("a connection that was cut while idle costs the next request nothing", () =>
    Effect.gen(function*() {
      const { key, proxy, store } = yield* behindProxy
      const { lease } = yield* store.create(key, write)
      proxy.cut()
      yield* store.get(key)
      const { lease: next } = yield* store.patch(key, lease.resourceVersion, { holderIdentity: "other" })
      assert.strictEqual(next.holderIdentity, "other")
      assert.strictEqual(proxy.accepted, 2)
    }))

  it.live("a watch that is cut fails, and another takes up where it ended", () =>
    Effect.gen(function*() {
      const { direct, key, proxy, store } = yield* behindProxy
      const { lease } = yield* direct.create(key, write)
      const changes = yield* Queue.make<LeaseChange>()
      const fiber = yield* Effect.forkChild(
        Stream.runForEach(store.changes(key, lease.resourceVersion), (change) => Queue.offer(changes, change))
      )
      assert.strictEqual((yield* Queue.take(changes))._tag, "Opened")
      const { lease: second } = yield* direct.patch(key, lease.resourceVersion, { holderIdentity: "second" })
      const seen = yield* Queue.take(changes)
      assert(seen._tag === "Applied")
      assert.deepStrictEqual(seen.lease, second)
      proxy.cut()
      assert.isFalse((yield* expectReason(Fiber.join(fiber), "LeaseUnavailable")).outcomeUnknown)
      const { lease: third } = yield* direct.patch(key, second.resourceVersion, { holderIdentity: "third" })
      assert.deepStrictEqual(
        yield* Stream.runCollect(Stream.take(store.changes(key, second.resourceVersion), 2)),
        [{ _tag: "Opened" }, { _tag: "Applied", lease: third }]
      )
    }))

  it.live("a server that has gone away says that nothing was written, and the next finds it again", (context) =>
    Effect.gen(function*() {
      const shared = yield* scoped(sharedCluster)
      if (shared.descriptor.kind === "existing") {
        context.skip("an existing cluster's API server is not stopped by tests")
      }
      const cluster = yield* scoped(() => startCluster({ garbageCollector: false }))
      const { key, token } = yield* makeAccount(cluster, [all])
      const { store } = yield* connect(cluster, token)
      const { lease } = yield* store.create(key, write)
      yield* Effect.promise(() => cluster.stopApiServer())
      const reason = yield* expectReason(store.patch(key, lease.resourceVersion, write), "LeaseUnavailable")
      assert.isFalse(reason.outcomeUnknown, reason.message)
      yield* Effect.promise(() => cluster.startApiServer())
      assert.deepStrictEqual((yield* until(store.get(key))).lease, lease)
    }))
})
