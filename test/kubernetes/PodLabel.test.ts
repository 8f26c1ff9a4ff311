import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Layer } from "effect"
import { PodLabel } from "effect-kubernetes-leader-election"
import { MemoryCluster } from "effect-kubernetes-leader-election/testing"
import { TestClock } from "effect/testing"
import { attach, makeClient, status, unreachable } from "../utils/fakeClient.ts"
import { brokenLogger, candidate } from "../utils/observed.ts"

const setup = Effect.fnUntraced(function*(
  pod?: { readonly name: string; readonly uid: string },
  logger: Layer.Layer<never> = Layer.empty
) {
  // The garbage collector would remove a Lease whose Pod it does not know.
  const cluster = yield* MemoryCluster.make({ collector: { _tag: "off" } })
  const made = yield* candidate(cluster, "web-1_uid", { newLease: "lead", pod })
  const client = makeClient()
  const stop = yield* attach(made, client, Layer.provide(PodLabel.layer({ label: "leads" }), logger))
  return { ...made, client, stop, labels: () => client.requests.map(({ body }) => body.metadata.labels.leads) }
})

const pod = { name: "web-1", uid: "uid" }

it.effect("is removed at the start, set while leading, and removed with the term", () =>
  Effect.gen(function*() {
    const { client, election, labels, run, stop } = yield* setup(pod)
    yield* TestClock.adjust("1 second")
    assert.deepStrictEqual(client.requests, [{
      method: "PATCH",
      path: "/api/v1/namespaces/default/pods/web-1",
      body: { metadata: { uid: "uid", labels: { leads: null } } }
    }])
    const fiber = yield* Effect.forkChild(run(election.whileLeading(Effect.sleep("10 minutes"))))
    yield* TestClock.adjust("5 minutes")
    assert.deepStrictEqual(labels(), [null, "true"])
    yield* TestClock.adjust("5 minutes")
    yield* Fiber.join(fiber)
    assert.deepStrictEqual(labels(), [null, "true", null])
    yield* stop
    assert.strictEqual(client.requests.length, 3)
  }))

it.effect("is removed with a loss, while the program's finalizers still run", () =>
  Effect.gen(function*() {
    const { election, faults, labels, run, stop } = yield* setup(pod)
    const program = Effect.onExit(Effect.never, () => Effect.sleep("3 seconds"))
    const fiber = yield* Effect.forkChild(Effect.exit(run(election.whileLeading(program))))
    yield* TestClock.adjust("1 second")
    yield* faults.stall
    yield* TestClock.adjust("9500 millis")
    assert.strictEqual((yield* election.status)._tag, "Ending")
    assert.deepStrictEqual(labels(), [null, "true", null])
    yield* faults.restore
    yield* TestClock.adjust("1 minute")
    yield* Fiber.join(fiber)
    yield* stop
  }))

it.effect("what cannot be written is tried again with longer pauses, with one warning", () =>
  Effect.gen(function*() {
    const { client, election, labels, observed, run, stop } = yield* setup(pod)
    yield* TestClock.adjust("1 second")
    client.answer = () => Effect.fail(status(403, "forbidden"))
    const fiber = yield* Effect.forkChild(run(election.whileLeading(Effect.never)))
    yield* TestClock.adjust("10 minutes")
    const warnings = observed.lines.filter(({ level }) => level === "Warn")
    assert.strictEqual(warnings.length, 1)
    assert.include(
      warnings[0]!.text,
      `lacks this rule:\n  - apiGroups: [""]\n    resources: ["pods"]\n    verbs: ["patch"]`
    )
    // One at the start, 7 in the first 63 seconds, then one each minute.
    assert.strictEqual(labels().length, 1 + 7 + 8)
    client.answer = () => Effect.void
    yield* TestClock.adjust("1 minute")
    const settled = labels().length
    yield* TestClock.adjust("10 minutes")
    assert.strictEqual(labels().length, settled)
    yield* Fiber.interrupt(fiber)
    yield* stop
  }))

it.effect("A10 a logger that throws leaves no label behind", () =>
  Effect.gen(function*() {
    const { client, election, labels, run, stop } = yield* setup(pod, brokenLogger)
    client.answer = () => Effect.fail(status(403, "forbidden"))
    const fiber = yield* Effect.forkChild(run(election.whileLeading(Effect.sleep("10 minutes"))))
    yield* TestClock.adjust("5 minutes")
    client.answer = () => Effect.void
    yield* TestClock.adjust("10 minutes")
    yield* Fiber.join(fiber)
    assert.deepStrictEqual(labels().slice(-2), ["true", null])
    yield* stop
  }))

it.effect("the page of something in front of the API server does not mean that the Pod is gone", () =>
  Effect.gen(function*() {
    const { client, election, labels, observed, run, stop } = yield* setup(pod)
    yield* TestClock.adjust("1 second")
    client.answer = () => labels().length < 4 ? Effect.fail(status(404, "no route", false)) : Effect.void
    const fiber = yield* Effect.forkChild(run(election.whileLeading(Effect.never)))
    yield* TestClock.adjust("1 minute")
    assert.deepStrictEqual(labels(), [null, "true", "true", "true"])
    assert.isFalse(observed.lines.some(({ text }) => text.includes("There is no Pod")))
    client.answer = () => Effect.void
    yield* Fiber.interrupt(fiber)
    yield* stop
  }))

it.effect("a write that set it and may be applied late is followed by a second removal", () =>
  Effect.gen(function*() {
    const { client, election, labels, run, stop } = yield* setup(pod)
    yield* TestClock.adjust("1 second")
    client.answer = ({ body }) => body.metadata.labels.leads === null ? Effect.void : Effect.fail(status(504))
    const fiber = yield* Effect.forkChild(run(election.whileLeading(Effect.sleep("500 millis"))))
    yield* TestClock.adjust("1 second")
    yield* Fiber.join(fiber)
    assert.deepStrictEqual(labels(), [null, "true", null])
    yield* TestClock.adjust("59 seconds")
    assert.deepStrictEqual(labels(), [null, "true", null])
    yield* TestClock.adjust("1 second")
    assert.deepStrictEqual(labels(), [null, "true", null, null])
    yield* TestClock.adjust("1 hour")
    assert.strictEqual(labels().length, 4)
    yield* stop
  }))

it.effect("the end waits for the removal, but not for longer than 2 seconds", () =>
  Effect.gen(function*() {
    const { client, election, labels, run, stop } = yield* setup(pod)
    yield* TestClock.adjust("1 second")
    const fiber = yield* Effect.forkChild(run(election.whileLeading(Effect.never)))
    yield* TestClock.adjust("1 second")
    client.answer = () => Effect.fail(unreachable)
    yield* Fiber.interrupt(fiber)
    const stopping = yield* Effect.forkChild(stop)
    yield* TestClock.adjust("1900 millis")
    assert.isUndefined(stopping.pollUnsafe())
    yield* TestClock.adjust("100 millis")
    yield* Fiber.join(stopping)
    const tried = labels().length
    yield* TestClock.adjust("1 hour")
    assert.strictEqual(labels().length, tried)
  }))

it.effect("without a Pod identity there is a warning and no request", () =>
  Effect.gen(function*() {
    const { client, election, observed, run, stop } = yield* setup()
    const fiber = yield* Effect.forkChild(run(election.whileLeading(Effect.sleep("1 second"))))
    yield* TestClock.adjust("1 minute")
    yield* Fiber.join(fiber)
    yield* stop
    assert.deepStrictEqual(client.requests, [])
    assert.deepStrictEqual(observed.lines.filter(({ level }) => level === "Warn").map(({ text }) => text), [
      `The leader's Pod gets no label "leads": set POD_NAME, POD_UID and POD_NAMESPACE from the downward API`
    ])
  }))
