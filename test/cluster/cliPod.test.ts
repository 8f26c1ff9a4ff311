/**
 * `effect-kubernetes-leader-election run` in a Pod, or what looks like one: the service account's files where Kubernetes mounts them, the
 * Pod's variables, and the rights that the Ruby gem `kubernetes_leader_election` has.
 */
import { assert, describe, it } from "@effect/vitest"
import { createSocket } from "node:dgram"
import { readFile } from "node:fs/promises"
import { leaseName, logs, makeTrials, says } from "../cli/Trial.ts"
import { inPod, skipWithoutMounts } from "./utils/inPod.ts"
import { eventually } from "./utils/Testing.ts"

const makeTrial = makeTrials()

/** The Role of the gem's README: it creates, gets, patches and deletes, and watches nothing. */
const gemRules = [
  { apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["create"] },
  {
    apiGroups: ["coordination.k8s.io"],
    resources: ["leases"],
    verbs: ["get", "patch", "delete"],
    resourceNames: ["foo"]
  }
]

describe("run in a Pod", () => {
  it("stands in for the Ruby gem: its variables, its rights, its metric; one leads, crashes, is replaced", async (context) => {
    await using trial = await makeTrial()
    await skipWithoutMounts(context, trial.cluster.directory)
    const { admin } = trial.cluster
    await admin.createServiceAccount(trial.namespace, "gem")
    await admin.putRole(trial.namespace, "gem", gemRules)
    await admin.putRoleBinding(trial.namespace, "gem", "gem")
    const files = await trial.cluster.writeServiceAccountFiles({
      token: await admin.createToken(trial.namespace, "gem"),
      namespace: trial.namespace
    })

    const received: Array<string> = []
    const statsd = createSocket("udp4").on("message", (packet) => received.push(...String(packet).split("\n")))
    await new Promise<void>((resolve) => statsd.bind(0, "127.0.0.1", resolve))

    const start = async (podName: string, command: ReadonlyArray<string>) => {
      const pod = await admin.createPod(trial.namespace, podName)
      const program = inPod(files, [
        process.execPath,
        trial.executable,
        "run",
        "--name",
        "foo",
        "--lease-duration",
        "4s",
        "--new-lease",
        "lead",
        "--statsd",
        `127.0.0.1:${statsd.address().port}`,
        "--log",
        "json",
        "--",
        ...command
      ])
      return trial.start(...program, {
        KUBERNETES_SERVICE_HOST: trial.cluster.host,
        KUBERNETES_SERVICE_PORT: String(trial.cluster.port),
        POD_NAME: podName,
        POD_UID: pod.metadata.uid,
        POD_NAMESPACE: trial.namespace
      })
    }
    const command = ["sh", "-c", "echo starts $POD_NAME; exec sleep 600"]

    const began = performance.now()
    const one = await start("replica-1", command)
    await one.until(says("starts replica-1"))
    context.annotate(
      `from the start of the process to the start of COMMAND: ${Math.round(performance.now() - began)} ms`
    )
    const lease = await admin.getLease(trial.namespace, "foo")
    const pod = lease?.metadata.ownerReferences?.[0]
    assert.strictEqual(pod?.name, "replica-1")
    assert.strictEqual(lease?.spec.holderIdentity, `replica-1_${pod?.uid}`)

    const two = await start("replica-2", command)
    await two.until(logs("Following replica-1"))
    // The gem's Role lets nobody watch: it is polled, and said so.
    await two.until(logs("watch"))

    const status = await readFile(`/proc/${two.pid}/status`, "utf8")
    const resident = Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) / 1024
    context.annotate(`memory of a run that follows: ${resident.toFixed(1)} MiB`)
    assert.isBelow(resident, 80)

    one.signal("SIGKILL")
    await two.until(says("starts replica-2"))
    two.signal("SIGTERM")
    assert.strictEqual((await two.exit).code, 143)
    assert.strictEqual((await admin.getLease(trial.namespace, "foo"))?.spec.holderIdentity ?? "", "")
    await eventually(
      "the metric has arrived",
      async () => received.some((line) => /^leader_running:\d+\|c$/.test(line))
    )
    await new Promise<void>((resolve) => statsd.close(() => resolve()))
  })

  it("says how to set the variables that are missing", async (context) => {
    await using trial = await makeTrial()
    await skipWithoutMounts(context, trial.cluster.directory)
    const files = await trial.cluster.writeServiceAccountFiles({ token: "unused", namespace: trial.namespace })
    const program = inPod(files, [process.execPath, trial.executable, "run", "--name", "foo", "--", "true"])
    const run = trial.start(...program, { KUBERNETES_SERVICE_HOST: "127.0.0.1", KUBERNETES_SERVICE_PORT: "443" })
    assert.strictEqual((await run.exit).code, 2)
    assert.include(run.stderr, "POD_NAME")
    assert.include(run.stderr, "fieldPath: metadata.uid")
    assert.notInclude(run.stderr, "    at ")
  })

  it("with a kubeconfig elects in its namespace, names no owner, and says so in one line", async () => {
    await using trial = await makeTrial()
    const run = trial.cli([
      "run",
      "--name",
      leaseName,
      "--kubeconfig",
      trial.kubeconfig,
      "--new-lease",
      "lead",
      "--",
      "sh",
      "-c",
      "echo leads; exec sleep 600"
    ], {
      KUBERNETES_SERVICE_HOST: "127.0.0.1",
      POD_NAME: "elsewhere-1",
      POD_UID: "11111111-2222-3333-4444-555555555555",
      POD_NAMESPACE: "elsewhere"
    })
    await run.until(says("leads"))
    const lease = await trial.lease()
    assert.deepStrictEqual(lease?.metadata.ownerReferences ?? [], [])
    assert.strictEqual(run.stderr.split("\n").filter((line) => line.includes("does not name this Pod")).length, 1)
    run.signal("SIGTERM")
    await run.exit
  })
})
