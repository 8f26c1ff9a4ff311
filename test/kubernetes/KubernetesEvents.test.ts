import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Layer } from "effect"
import { KubernetesEvents } from "effect-kubernetes-leader-election"
import { MemoryCluster } from "effect-kubernetes-leader-election/testing"
import { TestClock } from "effect/testing"
import { attach, makeClient, status, unreachable } from "../utils/fakeClient.ts"
import { brokenLogger, candidate, lease } from "../utils/observed.ts"

const setupWith = Effect.fnUntraced(function*(logger: Layer.Layer<never>) {
  const cluster = yield* MemoryCluster.make()
  const made = yield* candidate(cluster, "web-1_uid", { newLease: "lead" })
  const client = makeClient()
  const stop = yield* attach(made, client, Layer.provide(KubernetesEvents.layer, logger))
  return { cluster, ...made, client, stop }
})

const setup = setupWith(Layer.empty)

it.effect("a term gives two Events on the Lease, by its uid", () =>
  Effect.gen(function*() {
    const { client, cluster, election, run, stop } = yield* setup
    yield* TestClock.setTime(Date.UTC(2026, 0, 2, 3, 4, 5))
    const fiber = yield* Effect.forkChild(run(election.whileLeading(Effect.sleep("2 seconds"))))
    yield* TestClock.adjust("1 second")
    assert.strictEqual(client.requests.length, 1)
    const { resourceVersion, uid } = (yield* cluster.lease(lease))!
    assert.deepStrictEqual(client.requests[0], {
      method: "POST",
      path: "/apis/events.k8s.io/v1/namespaces/default/events",
      body: {
        apiVersion: "events.k8s.io/v1",
        kind: "Event",
        metadata: { namespace: "default", name: `demo.${resourceVersion.toString(16)}.becameleader` },
        eventTime: "2026-01-02T03:04:05.000000Z",
        reportingController: "effect-kubernetes-leader-election",
        reportingInstance: "web-1_uid",
        action: "Lead",
        reason: "BecameLeader",
        type: "Normal",
        note: `web-1_uid became leader: there was no Lease (fencing token ${resourceVersion})`,
        regarding: {
          apiVersion: "coordination.k8s.io/v1",
          kind: "Lease",
          namespace: "default",
          name: "demo",
          uid,
          resourceVersion: `${resourceVersion}`
        }
      }
    })
    yield* TestClock.adjust("1 second")
    yield* Fiber.join(fiber)
    yield* stop
    assert.deepStrictEqual(
      client.requests.slice(1).map(({ body: { action, note, reason, type } }) => ({ action, note, reason, type })),
      [{
        action: "StopLeading",
        note: `web-1_uid stopped leading: its program ended (fencing token ${resourceVersion})`,
        reason: "StoppedLeading",
        type: "Normal"
      }]
    )
  }))

it.effect("a loss is a warning that says why, sent when the API server can be reached again", () =>
  Effect.gen(function*() {
    const { client, election, faults, observed, run, stop } = yield* setup
    const fiber = yield* Effect.forkChild(Effect.exit(run(election.whileLeading(Effect.never))))
    yield* TestClock.adjust("1 second")
    yield* faults.stall
    client.answer = () => Effect.fail(unreachable)
    yield* TestClock.adjust("14 seconds")
    client.answer = () => Effect.fail(status(409))
    yield* TestClock.adjust("1 minute")
    const notes = client.requests.map(({ body }) => `${body.type} ${body.metadata.name.split(".")[2]}`)
    // At 10, 11, 13 and 17 seconds. That it exists by then means that it was created before.
    assert.deepStrictEqual(notes, ["Normal becameleader", ...Array(4).fill("Warning stoppedleading")])
    assert.include(client.requests[1]!.body.note, "leadership lost: no renewal succeeded within renewDeadline")
    assert.strictEqual(observed.lines.filter(({ level, text }) => level === "Warn" && text.includes("Event")).length, 1)
    yield* faults.restore
    yield* Fiber.join(fiber)
    yield* stop
  }))

it.effect("without the right there is one warning, and nothing waits", () =>
  Effect.gen(function*() {
    const { client, election, observed, run, stop } = yield* setup
    client.answer = () => Effect.fail(status(403, "forbidden"))
    for (let term = 0; term < 3; term++) {
      const fiber = yield* Effect.forkChild(run(election.whileLeading(Effect.void)))
      yield* TestClock.adjust("20 seconds")
      yield* Fiber.join(fiber)
    }
    const warnings = observed.lines.filter(({ level }) => level === "Warn")
    assert.strictEqual(warnings.length, 1)
    assert.include(
      warnings[0]!.text,
      `lacks this rule:\n  - apiGroups: ["events.k8s.io"]\n    resources: ["events"]\n    verbs: ["create"]`
    )
    assert.strictEqual(client.requests.length, 6)
    yield* stop
  }))

it.effect("A10 a logger that throws costs no later Event", () =>
  Effect.gen(function*() {
    const { client, election, run, stop } = yield* setupWith(brokenLogger)
    for (const answer of [Effect.fail(status(403, "forbidden")), Effect.void]) {
      client.answer = () => answer
      const fiber = yield* Effect.forkChild(run(election.whileLeading(Effect.void)))
      yield* TestClock.adjust("20 seconds")
      yield* Fiber.join(fiber)
    }
    assert.strictEqual(client.requests.length, 4)
    yield* stop
  }))

it.effect("the page of something in front of the API server is no refusal: it is tried again", () =>
  Effect.gen(function*() {
    const { client, election, run, stop } = yield* setup
    client.answer = () => Effect.fail(client.requests.length < 3 ? status(404, "no route", false) : status(409))
    const fiber = yield* Effect.forkChild(run(election.whileLeading(Effect.never)))
    yield* TestClock.adjust("1 minute")
    assert.deepStrictEqual(client.requests.map(({ body }) => body.reason), Array(3).fill("BecameLeader"))
    yield* Fiber.interrupt(fiber)
    yield* TestClock.adjust("1 minute")
    yield* stop
  }))

it.effect("an API server that hangs delays neither the program nor, by more than 2 seconds, the end", () =>
  Effect.gen(function*() {
    const { client, election, run, stop } = yield* setup
    client.answer = () => Effect.never
    const fiber = yield* Effect.forkChild(run(election.whileLeading(Effect.succeed("done"))))
    yield* TestClock.adjust("1 second")
    assert.strictEqual(yield* Fiber.join(fiber), "done")
    const stopping = yield* Effect.forkChild(stop)
    yield* TestClock.adjust("1999 millis")
    assert.isUndefined(stopping.pollUnsafe())
    yield* TestClock.adjust("1 millis")
    yield* Fiber.join(stopping)
  }))
