/**
 * `effect-kubernetes-leader-election serve` and `step-down` on a real API server, as the executable that users have.
 */
import { assert, describe, it } from "@effect/vitest"
import { setTimeout as sleep } from "node:timers/promises"
import type { Running } from "../cli/Executable.ts"
import { leaseName, logs, makeTrials, quick, says, type Trial } from "../cli/Trial.ts"
import { eventually } from "./utils/Testing.ts"

const makeTrial = makeTrials()

interface Answer {
  readonly leading: boolean
  readonly leader: string | null
  readonly fencingToken: string | null
  readonly remainingSeconds: number | null
}

const serve = async (trial: Trial, identity: string) => {
  const running = trial.cli([
    "serve",
    "--kubeconfig",
    trial.kubeconfig,
    "--name",
    leaseName,
    "--identity",
    identity,
    "--port",
    "0",
    ...quick
  ])
  await running.until(logs("Listening on"))
  const url = `http://127.0.0.1:${/Listening on port (\d+)/.exec(running.stderr)?.[1]}`
  const leader = async (): Promise<{ readonly status: number; readonly body: Answer }> => {
    const response = await fetch(`${url}/leader`)
    return { status: response.status, body: await response.json() as Answer }
  }
  const leads = () =>
    eventually(`${identity} leads`, async () => {
      const answer = await leader()
      return answer.status === 200 && answer.body
    })
  return { running, url, leader, leads }
}

const stepDown = (trial: Trial, ...options: ReadonlyArray<string>): Running =>
  trial.cli(["step-down", "--kubeconfig", trial.kubeconfig, ...options, leaseName])

describe("serve", () => {
  it("tells who leads, to the leader's Pod with 200 and to the others with 503", async () => {
    await using trial = await makeTrial()
    const one = await serve(trial, "one")
    const answer = await one.leads()
    assert.strictEqual(answer.leader, "one")
    assert.match(answer.fencingToken ?? "", /^\d+$/)
    // renewDeadline of 4 s is 2.667 s.
    assert.isAbove(answer.remainingSeconds ?? 0, 0)
    assert.isAtMost(answer.remainingSeconds ?? 0, 2.667)

    const two = await serve(trial, "two")
    await two.running.until(logs("Following one"))
    const other = await two.leader()
    assert.strictEqual(other.status, 503)
    assert.isFalse(other.body.leading)
    assert.strictEqual(other.body.leader, "one")
    assert.isNull(other.body.fencingToken)

    for (const path of ["/livez", "/healthz", "/readyz"]) {
      assert.strictEqual((await fetch(one.url + path)).status, 200)
      assert.strictEqual((await fetch(two.url + path)).status, 200)
    }
    const metrics = await (await fetch(`${one.url}/metrics`)).text()
    assert.match(metrics, /^leader_election_leader\{[^}]*identity="one"\} 1$/m)
    assert.strictEqual((await fetch(`${one.url}/nothing`)).status, 404)
  })

  it("gives the Lease away only when the validity that it told has run out", async () => {
    await using trial = await makeTrial()
    const one = await serve(trial, "one")
    const two = await serve(trial, "two")
    await one.leads().catch(() => two.leads())
    const [leader, follower] = (await one.leader()).status === 200 ? [one, two] : [two, one]
    const asked = performance.now()
    const { remainingSeconds } = await leader.leads()
    leader.running.signal("SIGTERM")
    await eventually("503 at once", async () => (await leader.leader()).status === 503, 1_000)
    await follower.leads()
    assert.isAtLeast(performance.now() - asked, (remainingSeconds ?? 0) * 1000)
    assert.strictEqual((await leader.running.exit).code, 143)
  })

  it("streams each change", async () => {
    await using trial = await makeTrial()
    const one = await serve(trial, "one")
    await one.leads()
    const events: Array<Answer> = []
    const response = await fetch(`${one.url}/changes`)
    assert.strictEqual(response.headers.get("content-type"), "text/event-stream")
    const reading = (async () => {
      let text = ""
      for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
        text += chunk
        const blocks = text.split("\n\n")
        text = blocks.pop() ?? ""
        for (const block of blocks) {
          const data = /^event: change\ndata: (.*)$/.exec(block)?.[1]
          if (data !== undefined) {
            events.push(JSON.parse(data))
          }
        }
      }
    })()
    await eventually("the present state comes first", async () => events[0]?.leading)
    await trial.cluster.admin.deleteLease(trial.namespace, leaseName)
    await eventually("the loss", async () => events.some(({ leading }) => !leading))
    const lost = events.findIndex(({ leading }) => !leading)
    await eventually("the next term", async () => events.slice(lost).some(({ leading }) => leading))
    one.running.signal("SIGTERM")
    // The stream ends in good order; nothing holds up the end of the process.
    await reading
    assert.strictEqual((await one.running.exit).code, 143)
  })

  it("says in one line that its port is taken", async () => {
    await using trial = await makeTrial()
    const one = await serve(trial, "one")
    const port = new URL(one.url).port
    const other = trial.cli(["serve", "--kubeconfig", trial.kubeconfig, "--name", "other", "--port", port])
    assert.strictEqual((await other.exit).code, 1)
    assert.match(
      other.stderr,
      /^effect-kubernetes-leader-election: cannot listen on port \d+ of 127\.0\.0\.1: .*EADDRINUSE.*\n$/
    )
  })
})

describe("step-down", () => {
  it("hands over to another candidate, and tells to whom", async () => {
    await using trial = await makeTrial()
    const command = ["sh", "-c", "trap 'echo told; exit 0' TERM; echo starts; while :; do sleep 0.05; done"]
    const one = trial.run("one", [...quick, "--again"], command)
    await one.until(says("starts"))
    const two = trial.run("two", quick, command)
    await two.until(logs("Following one"))
    const asked = stepDown(trial)
    assert.strictEqual((await asked.exit).code, 0)
    assert.match(asked.stdout, /^one has stepped down \(after .*\)\ntwo holds the Lease now \(after .*\)\n$/)
    await one.until(says("told"))
    await two.until(says("starts"))
    // It does not take the Lease back from the one that it made room for.
    await sleep(500)
    assert.isTrue(one.running)
    const lease = await trial.lease()
    assert.strictEqual(lease?.spec.holderIdentity, "two")
    assert.notProperty(lease?.metadata.annotations ?? {}, "effect-kubernetes-leader-election/step-down")
  })

  it("ends a run without --again with its own exit code", async () => {
    await using trial = await makeTrial()
    const one = trial.run("one", quick, ["sh", "-c", "echo starts; exec sleep 600"])
    await one.until(says("starts"))
    const asked = stepDown(trial, "--timeout", "2s")
    assert.strictEqual((await one.exit).code, 75)
    assert.include(one.stderr, "asked to step down")
    assert.strictEqual((await asked.exit).code, 0)
    assert.match(asked.stdout, /^one has stepped down .*\nnobody has taken the Lease .* within 2s\n$/)
  })

  it("ends a COMMAND that does not want to end, and then hands over", async () => {
    await using trial = await makeTrial()
    const one = trial.run("one", quick, ["sh", "-c", "trap '' TERM; echo starts; while :; do sleep 0.05; done"])
    await one.until(says("starts"))
    // Long enough to be seen as the holder.
    const two = trial.run("two", quick, ["sh", "-c", "echo starts; sleep 3"])
    await two.until(logs("Following one"))
    const asked = stepDown(trial)
    assert.strictEqual((await one.exit).code, 75)
    assert.include(one.stderr, "was killed")
    assert.strictEqual((await asked.exit).code, 0)
    assert.include(asked.stdout, "two holds the Lease now")
    assert.strictEqual((await two.exit).code, 0)
  })

  it("can be ended while it waits", async () => {
    await using trial = await makeTrial()
    const { admin } = trial.cluster
    const metadata = { annotations: { "effect-kubernetes-leader-election/instance": "x" } }
    await admin.createLease(trial.namespace, leaseName, { holderIdentity: "gone", leaseDurationSeconds: 15 }, metadata)
    const asked = stepDown(trial)
    await admin.waitForLease(
      trial.namespace,
      leaseName,
      (lease) => lease?.metadata.annotations?.["effect-kubernetes-leader-election/step-down"] === "x"
    )
    asked.signal("SIGINT")
    assert.strictEqual((await asked.exit).code, 130)
  })

  it("says why it cannot be done", async () => {
    await using trial = await makeTrial()
    const { admin } = trial.cluster
    const missing = stepDown(trial)
    assert.strictEqual((await missing.exit).code, 1)
    assert.match(missing.stderr, /^effect-kubernetes-leader-election: there is no Lease .*\/job, so nobody leads\n$/)

    await admin.createLease(trial.namespace, leaseName, { holderIdentity: "controller-1", leaseDurationSeconds: 15 })
    const foreign = stepDown(trial)
    assert.strictEqual((await foreign.exit).code, 1)
    assert.match(
      foreign.stderr,
      /^effect-kubernetes-leader-election: controller-1 holds the Lease .*not one of ours.*\n$/
    )

    await admin.patchLease(trial.namespace, leaseName, { spec: { holderIdentity: "" } })
    const free = stepDown(trial)
    assert.strictEqual((await free.exit).code, 1)
    assert.match(free.stderr, /^effect-kubernetes-leader-election: nobody holds the Lease .*\n$/)

    // One of ours that is gone.
    const metadata = { annotations: { "effect-kubernetes-leader-election/instance": "x" } }
    await admin.patchLease(trial.namespace, leaseName, { spec: { holderIdentity: "gone" }, metadata })
    const gone = stepDown(trial, "--timeout", "1s")
    assert.strictEqual((await gone.exit).code, 1)
    assert.match(
      gone.stderr,
      /^effect-kubernetes-leader-election: gone was asked to step down, but still holds .* after 1s: .*\n$/
    )

    await admin.deleteRoleBinding(trial.namespace, "candidate", "candidate")
    await eventually("the right is gone", async () => {
      const refused = stepDown(trial)
      const { code } = await refused.exit
      return code === 77 &&
        /^effect-kubernetes-leader-election: get lease .*forbidden.*\n.*lacks this rule/.test(refused.stderr)
    })
  })
})
