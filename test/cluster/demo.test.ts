/**
 * `effect-kubernetes-leader-election demo --kubeconfig` on a real API server.
 */
import { assert, describe, it } from "@effect/vitest"
import { afterAll, beforeAll } from "vitest"
import { bundle, type Executable, Running } from "../cli/Executable.ts"
import { sharedCluster } from "./utils/Testing.ts"

let executable: Executable

beforeAll(async () => {
  executable = await bundle()
})
afterAll(async () => {
  await executable[Symbol.asyncDispose]()
})

const rules = [
  { apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["create", "get", "patch", "watch", "delete"] }
]

describe("demo", () => {
  it("shows each handover on a cluster, finds no two leaders, and leaves nothing behind", async () => {
    await using cluster = await sharedCluster()
    const { admin } = cluster
    const namespace = await admin.createNamespace("demo")
    await admin.createServiceAccount(namespace, "demo")
    await admin.putRole(namespace, "demo", rules)
    await admin.putRoleBinding(namespace, "demo", "demo")
    const kubeconfig = await cluster.writeKubeconfig({ token: await admin.createToken(namespace, "demo"), namespace })
    await using demo = new Running(process.execPath, [executable.file, "demo", "--kubeconfig", kubeconfig], {})
    const { code } = await demo.exit
    assert.strictEqual(code, 0, demo.stdout + demo.stderr)
    for (
      const text of ["first start", "asked to stop (SIGTERM)", "killed (SIGKILL)", "cut off from the API server"]
    ) {
      assert.match(demo.stdout, new RegExp(`^${text.replaceAll(/[()]/g, "\\$&")} +[\\d.]+ m?s .* token \\d+`, "m"))
    }
    assert.include(demo.stdout, "No two led at once, and fencing tokens only grew.")
    assert.deepStrictEqual(await admin.listLeases(namespace), [])
    await admin.deleteNamespace(namespace)
  })

  it("cleans up after Ctrl-C", async () => {
    await using cluster = await sharedCluster()
    const { admin } = cluster
    const namespace = await admin.createNamespace("demo")
    await admin.createServiceAccount(namespace, "demo")
    await admin.putRole(namespace, "demo", rules)
    await admin.putRoleBinding(namespace, "demo", "demo")
    const kubeconfig = await cluster.writeKubeconfig({ token: await admin.createToken(namespace, "demo"), namespace })
    await using demo = new Running(process.execPath, [executable.file, "demo", "--kubeconfig", kubeconfig], {})
    await demo.until(({ stdout }) => stdout.includes("holds the Lease"))
    assert.strictEqual((await admin.listLeases(namespace)).length, 1)
    demo.signal("SIGINT")
    assert.strictEqual((await demo.exit).code, 130)
    assert.deepStrictEqual(await admin.listLeases(namespace), [])
    await admin.deleteNamespace(namespace)
  })
})
