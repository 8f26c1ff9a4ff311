/**
 * `effect-kubernetes-leader-election manifest`: what it prints, applied to a real API server, is all that an election needs.
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

const event = (name: string) => ({ stdout }: { readonly stdout: string }) => stdout.includes(`"event":"${name}"`)

describe("manifest", () => {
  it.each([["with", []], ["without", ["--no-watch"]]])("is enough for an election, %s watch", async (_, options) => {
    await using cluster = await sharedCluster()
    const { admin } = cluster
    const namespace = await admin.createNamespace("manifest")
    await using printed = new Running(process.execPath, [
      executable.file,
      "manifest",
      "--name=invoices",
      `--namespace=${namespace}`,
      "--service-account=accountant",
      "--image=invoices:1",
      "--lease-duration=5s",
      "--ending=10s",
      ...options
    ], {})
    const applied = await admin.apply(await printed.output)
    assert.strictEqual((await printed.exit).code, 0)
    const deployment = applied.find(({ kind }) => kind === "Deployment")
    const spec = deployment.spec.template.spec
    assert.strictEqual(spec.serviceAccountName, "accountant")
    assert.strictEqual(spec.terminationGracePeriodSeconds, 16)
    assert.strictEqual(deployment.spec.replicas, 2)

    // There is no kubelet: the candidates get what it would give to the containers.
    const token = await admin.createToken(namespace, spec.serviceAccountName)
    const kubeconfig = await cluster.writeKubeconfig({ token, namespace })
    const start = async (name: string) => {
      const { metadata } = await admin.createPod(namespace, name)
      const fields: Record<string, string> = {
        "metadata.name": metadata.name,
        "metadata.uid": metadata.uid,
        "metadata.namespace": namespace
      }
      const variables = spec.containers[0].env.map(({ name, value, valueFrom }: any) => [
        name,
        value ?? fields[valueFrom.fieldRef.fieldPath]
      ])
      const args = [executable.file, "candidate", "--kubeconfig", kubeconfig]
      return new Running(process.execPath, args, Object.fromEntries(variables))
    }
    await using first = await start("invoices-a")
    await first.until(event("leading"))
    await using second = await start("invoices-b")
    await second.until(event("following"))
    const lease = await admin.getLease(namespace, "invoices")
    assert.deepStrictEqual(lease?.metadata.ownerReferences?.map(({ kind, name }) => [kind, name]), [[
      "Pod",
      "invoices-a"
    ]])
    first.signal("SIGTERM")
    assert.strictEqual((await first.exit).code, 0)
    await second.until(event("leading"))
    second.signal("SIGTERM")
    assert.strictEqual((await second.exit).code, 0)
    assert.strictEqual((await admin.getLease(namespace, "invoices"))?.spec.holderIdentity, "")
    assert.notMatch(first.stderr + second.stderr, /forbidden/i)
    await admin.deleteNamespace(namespace)
  })
})
