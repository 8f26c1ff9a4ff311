/**
 * `effect-kubernetes-leader-election status` and `effect-kubernetes-leader-election watch` on Leases of a real API server.
 */
import { assert, describe, it } from "@effect/vitest"
import { afterAll, beforeAll } from "vitest"
import { bundle, type Executable, Running } from "../cli/Executable.ts"
import { cleanEnvironment, JsonLinesProcess } from "./utils/Processes.ts"
import { sharedCluster, skipWithout } from "./utils/Testing.ts"

let executable: Executable

beforeAll(async () => {
  executable = await bundle()
})
afterAll(async () => {
  await executable[Symbol.asyncDispose]()
})

const start = (...args: ReadonlyArray<string>) => new Running(process.execPath, [executable.file, ...args], {})

const reader = [{ apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["get", "list"] }]

describe("status", () => {
  it("knows whose record it is: ours, client-go's, the gem's", async (context) => {
    await using cluster = await sharedCluster()
    skipWithout(context, cluster, "clientGo")
    const { admin } = cluster
    const namespace = await admin.createNamespace("status")
    const token = await admin.createCandidateAccount(namespace, "ours")
    const kubeconfig = await cluster.writeKubeconfig({ token, namespace })
    await admin.putRole(namespace, "reader", reader)
    await admin.putRoleBinding(namespace, "reader", "candidate")

    const renewTime = new Date().toISOString().replace("Z", "000Z")
    const held = { leaseDurationSeconds: 60, renewTime, acquireTime: renewTime }
    const pod = await admin.createPod(namespace, "job-1")
    const lease = (name: string, holderIdentity: string, metadata: object, spec: object = {}) =>
      admin.apply({
        apiVersion: "coordination.k8s.io/v1",
        kind: "Lease",
        metadata: { name, namespace, ...metadata },
        spec: { holderIdentity, ...held, ...spec }
      })
    const owner = { apiVersion: "v1", kind: "Pod", name: "job-1", uid: pod.metadata.uid }
    await lease("gem", "job-1", { ownerReferences: [owner] })
    await lease("expired", "x", {}, { renewTime: "2026-01-01T00:00:00.000000Z" })
    await lease("released", "", {}, { leaseDurationSeconds: 1 })
    await admin.putRole(namespace, "go", [{ apiGroups: ["*"], resources: ["*"], verbs: ["*"] }])
    await admin.putRoleBinding(namespace, "go", "candidate")
    await using _go = JsonLinesProcess.start({
      command: cluster.candidateProgram!,
      args: ["-kubeconfig", kubeconfig, "-namespace", namespace, "-name", "go", "-identity", "gopher"],
      env: cleanEnvironment()
    })
    await using ours = start("candidate", "--kubeconfig", kubeconfig, "--name", "ours", "--identity", "me")
    await ours.until(({ stdout }) => stdout.includes(`"event":"pending"`))
    await admin.waitForLease(namespace, "go", (lease) => lease?.spec.holderIdentity === "gopher")

    await using json = start("status", "--kubeconfig", kubeconfig, "-o", "json")
    const statuses: Array<any> = JSON.parse(await json.output)
    assert.deepStrictEqual(statuses.map(({ holder, kind, name, state }) => [name, state, holder, kind]), [
      ["expired", "expired", "x", "client-go"],
      ["gem", "held", "job-1", "gem"],
      ["go", "held", "gopher", "client-go"],
      ["ours", "young", "me", "ours"],
      ["released", "released", null, "unknown"]
    ])
    for (const { ageSeconds, clock, name } of statuses) {
      assert.strictEqual(clock, "server")
      assert.isTrue(name === "expired" || (ageSeconds > -2 && ageSeconds < 60), `${name}: ${ageSeconds}`)
    }

    await using table = start("status", "--kubeconfig", kubeconfig, "gem", "nope")
    assert.match(await table.output, /^NAME +STATE +HOLDER.*\ngem +held +job-1 .* job-1 +gem\n$/)
    assert.strictEqual((await table.exit).code, 1)
    assert.include(table.stderr, `there is no Lease ${namespace}/nope`)
    await admin.deleteNamespace(namespace)
  })

  it("needs no more than get for a Lease that is named, and says what it needs for all", async () => {
    await using cluster = await sharedCluster()
    const { admin } = cluster
    const namespace = await admin.createNamespace("status")
    const token = await admin.createCandidateAccount(namespace, "ours")
    const kubeconfig = await cluster.writeKubeconfig({ token, namespace })
    await admin.createLease(namespace, "ours", { holderIdentity: "a", leaseDurationSeconds: 15 })
    await using named = start("status", "--kubeconfig", kubeconfig, "ours")
    assert.strictEqual((await named.exit).code, 0)
    for (const [args, message] of [[[], "name the Leases"], [["-A"], "a ClusterRole"]] as const) {
      await using all = start("status", "--kubeconfig", kubeconfig, ...args)
      assert.strictEqual((await all.exit).code, 77)
      assert.include(all.stderr, message)
    }
    await admin.deleteNamespace(namespace)
  })
})

describe("watch", () => {
  it.each([["with", true], ["without", false]])("tells of a handover, %s the right to watch", async (_, watch) => {
    await using cluster = await sharedCluster()
    const { admin } = cluster
    const namespace = await admin.createNamespace("watch")
    const token = await admin.createCandidateAccount(namespace, "ours", { watch })
    const kubeconfig = await cluster.writeKubeconfig({ token, namespace })
    await using watcher = start("watch", "--kubeconfig", kubeconfig, "ours")
    const tells = (text: string) => watcher.until(({ stdout }) => stdout.includes(text))
    await tells("does not exist")
    const candidate = (identity: string) =>
      start("candidate", "--kubeconfig", kubeconfig, "--name", "ours", "--identity", identity, "--lease-duration", "5s")
    await using first = candidate("first")
    await tells("first takes it")
    await tells("first begins its term, having waited for")
    await using second = candidate("second")
    await second.until(({ stdout }) => stdout.includes(`"leader":"first"`))
    await second.until(({ stderr }) => stderr.includes("Following first"))
    first.signal("SIGTERM")
    await tells("second takes it")
    second.signal("SIGKILL")
    await tells("second has not renewed it: it has run out")
    await admin.deleteLease(namespace, "ours")
    await tells("was deleted")
    watcher.signal("SIGINT")
    assert.strictEqual((await watcher.exit).code, 130)
    await admin.deleteNamespace(namespace)
  })
})
