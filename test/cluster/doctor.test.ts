/**
 * `effect-kubernetes-leader-election doctor` under the rights that a candidate has, and under less.
 */
import { assert, describe, it } from "@effect/vitest"
import { afterAll, beforeAll } from "vitest"
import { bundle, type Executable, Running } from "../cli/Executable.ts"
import { inPod, skipWithoutMounts } from "./utils/inPod.ts"
import { sharedCluster } from "./utils/Testing.ts"

let executable: Executable

beforeAll(async () => {
  executable = await bundle()
})
afterAll(async () => {
  await executable[Symbol.asyncDispose]()
})

const makeTrial = async () => {
  const cluster = await sharedCluster()
  const { admin } = cluster
  const namespace = await admin.createNamespace("doctor")
  const token = await admin.createCandidateAccount(namespace, "job")
  return {
    admin,
    namespace,
    directory: cluster.directory,
    /** Runs it; gives the outcome of each check by its name, what it says, and its exit code. */
    run: async (
      env: Record<string, string> = {},
      given: { readonly token?: string; readonly namespace?: string; readonly inPod?: boolean } = {}
    ) => {
      const account = { token: given.token ?? token, namespace: given.namespace ?? namespace }
      const [command, args] = given.inPod === true
        ? inPod(await cluster.writeServiceAccountFiles(account), [
          process.execPath,
          executable.file,
          "doctor",
          "--name",
          "job"
        ])
        : [process.execPath, [
          executable.file,
          "doctor",
          "--kubeconfig",
          await cluster.writeKubeconfig(account),
          "--name",
          "job"
        ]] as const
      await using doctor = new Running(
        command,
        args,
        given.inPod === true
          ? { KUBERNETES_SERVICE_HOST: cluster.host, KUBERNETES_SERVICE_PORT: String(cluster.port), ...env }
          : env
      )
      const text = await doctor.output
      const outcomes = Object.fromEntries(
        text.split("\n").flatMap((line) => {
          const match = /^(ok|FAILED|warning|unknown) +(\S.*?) {2,}/.exec(line)
          return match === null ? [] : [[match[2], match[1]]]
        })
      )
      return { text, outcomes, code: (await doctor.exit).code }
    },
    [Symbol.asyncDispose]: async () => {
      await admin.deleteNamespace(namespace)
      await cluster[Symbol.asyncDispose]()
    }
  }
}

const allWell = {
  settings: "ok",
  "API server": "ok",
  latency: "ok",
  clock: "ok",
  credentials: "ok",
  "right to create": "ok",
  "right to get": "ok",
  "right to patch": "ok",
  "right to watch": "ok",
  Lease: "ok",
  watch: "ok",
  "own Pod": "ok"
}

describe("doctor", () => {
  it("passes under the Role that a candidate needs", async () => {
    await using trial = await makeTrial()
    const { code, outcomes, text } = await trial.run()
    // A machine that is busy may be slow to answer: that is what the warning is for.
    assert.deepStrictEqual({ ...outcomes, latency: "ok" }, allWell)
    assert.include(text, `accepted as system:serviceaccount:${trial.namespace}:candidate`)
    assert.include(text, `${trial.namespace}/job does not exist yet`)
    assert.strictEqual(code, 0)
    assert.deepStrictEqual(await trial.admin.listLeases(trial.namespace), [])
  })

  it("names each right that is missing", async () => {
    await using trial = await makeTrial()
    await trial.admin.putRole(trial.namespace, "candidate", [
      { apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["get"], resourceNames: ["job"] }
    ])
    const { code, outcomes, text } = await trial.run()
    assert.deepInclude(outcomes, {
      "right to create": "FAILED",
      "right to get": "ok",
      "right to patch": "FAILED",
      "right to watch": "warning"
    })
    assert.include(text, `resourceNames: ["job"]`)
    assert.strictEqual(code, 1)
  })

  it("knows the Pod by the right to get it, or by a token that was made for it, or says that it cannot", async (context) => {
    await using trial = await makeTrial()
    await skipWithoutMounts(context, trial.directory)
    const run = (env: Record<string, string>, given: { readonly token?: string } = {}) =>
      trial.run(env, { ...given, inPod: true })
    const { admin, namespace } = trial
    const { metadata: { name, uid } } = await admin.createPod(namespace, "job-1", { serviceAccountName: "candidate" })
    const env = { POD_NAME: name, POD_UID: uid, POD_NAMESPACE: namespace }
    const wrong = { ...env, POD_UID: "11111111-2222-3333-4444-555555555555" }

    const unknown = await run(env)
    assert.strictEqual(unknown.outcomes["own Pod"], "unknown")
    assert.include(unknown.text, "grant the verb get on pods")
    assert.strictEqual(unknown.code, 0)

    const path = `/api/v1/namespaces/${namespace}/serviceaccounts/candidate/token`
    const { status } = await admin.ok("POST", path, {
      apiVersion: "authentication.k8s.io/v1",
      kind: "TokenRequest",
      spec: { boundObjectRef: { apiVersion: "v1", kind: "Pod", name, uid } }
    })
    const bound = await run(env, { token: status.token })
    assert.strictEqual(bound.outcomes["own Pod"], "ok")
    assert.include(bound.text, "the token is that of the Pod job-1")
    const notMine = await run(wrong, { token: status.token })
    assert.strictEqual(notMine.outcomes["own Pod"], "FAILED")

    await admin.putRole(namespace, "pods", [{ apiGroups: [""], resources: ["pods"], verbs: ["get"] }])
    await admin.putRoleBinding(namespace, "pods", "candidate")
    assert.strictEqual((await run(env)).outcomes["own Pod"], "ok")
    assert.include((await run(wrong)).text, `the Pod job-1 has the uid ${uid}, not ${wrong.POD_UID}`)
    assert.include((await run({ ...env, POD_NAME: "job-2" })).text, "there is no Pod job-2")
  })

  it("tells a namespace that does not exist from a Lease that does not, and creates neither", async () => {
    await using trial = await makeTrial()
    // In a namespace that is missing nobody can have rights but who has them everywhere.
    const { admin, namespace } = trial
    const token = await admin.createToken(namespace, "candidate")
    await admin.apply({
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "ClusterRoleBinding",
      metadata: { name: namespace },
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: "cluster-admin" },
      subjects: [{ kind: "ServiceAccount", name: "candidate", namespace }]
    })
    const { code, outcomes, text } = await trial.run({}, { token, namespace: "nowhere" })
    await admin.ok("DELETE", `/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/${namespace}`)
    assert.strictEqual(outcomes["Lease"], "FAILED")
    assert.include(text, "there is no namespace nowhere")
    assert.strictEqual(code, 1)
  })

  it("stops at a token that is refused", async () => {
    await using trial = await makeTrial()
    const { code, outcomes, text } = await trial.run({}, { token: "nonsense" })
    assert.strictEqual(outcomes["credentials"], "FAILED", text)
    assert.isUndefined(outcomes["Lease"])
    assert.strictEqual(code, 1)
  })
})
