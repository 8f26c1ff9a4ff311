import { assert, it } from "@effect/vitest"
import { Effect, Fiber, type Tracer } from "effect"
import { Fault, MemoryCluster } from "effect-kubernetes-leader-election/testing"
import { TestClock } from "effect/testing"
import { candidate } from "./utils/observed.ts"

const count = (spans: ReadonlyArray<Tracer.Span>) => {
  const counts: Record<string, number> = {}
  for (const { name } of spans) {
    counts[name] = (counts[name] ?? 0) + 1
  }
  return counts
}

it.effect("acquisition, term, renewals and release have spans; renewals are linked to their term", () =>
  Effect.gen(function*() {
    const cluster = yield* MemoryCluster.make()
    const { election, faults, observed, run } = yield* candidate(cluster, "a", { newLease: "lead" })
    const fiber = yield* Effect.forkChild(
      run(election.whileLeading(Effect.sleep("12 seconds")).pipe(Effect.withSpan("job")))
    )
    yield* TestClock.adjust("6 seconds")
    yield* faults.next("patch", Fault.serverError(503))
    yield* TestClock.adjust("6 seconds")
    yield* Fiber.join(fiber)
    // Renewals began at 5, 10 and 12 seconds; the last one was interrupted or is that of the program's end.
    const { "LeaderElection.renew": renewals, ...others } = count(observed.spans)
    assert.deepStrictEqual(others, {
      "job": 1,
      "get": 1,
      "LeaderElection.acquire": 1,
      "LeaderElection.term": 1,
      "LeaderElection.release": 1
    })
    assert.isAtLeast(renewals!, 2)
    const named = (name: string) => observed.spans.filter((span) => span.name === `LeaderElection.${name}`)
    const [term] = named("term")
    assert.deepStrictEqual(Object.fromEntries(term!.attributes), {
      lease: "default/demo",
      identity: "a",
      fencingToken: String((yield* cluster.commits)[0]!.lease.resourceVersion),
      cause: "created"
    })
    for (const renewal of named("renew")) {
      assert.isTrue(renewal.parent._tag === "None")
      assert.deepStrictEqual(renewal.links.map(({ span }) => span.spanId), [term!.spanId])
    }
    assert.deepStrictEqual(named("renew").slice(0, 2).map((span) => span.attributes.get("outcome")), [
      "committed",
      "LeaseUnavailable"
    ])
    assert.strictEqual(named("renew")[0]!.attributes.get("secondsLeft"), 5)
    const job = observed.spans.find(({ name }) => name === "job")!
    for (const span of [...named("acquire"), term!, ...named("release")]) {
      assert.strictEqual(span.parent._tag === "Some" ? span.parent.value.spanId : undefined, job.spanId)
    }
    assert.isTrue(observed.spans.every(({ status }) => status._tag === "Ended"))
  }))

it.effect("an idle follower is not traced, whether it watches or polls", () =>
  Effect.gen(function*() {
    const cluster = yield* MemoryCluster.make()
    const leader = yield* candidate(cluster, "a", { newLease: "lead" })
    const watching = yield* candidate(cluster, "b")
    const polling = yield* candidate(cluster, "c", { watch: false })
    const fibers = []
    for (const { election, run } of [leader, watching, polling]) {
      fibers.push(yield* Effect.forkChild(run(election.whileLeading(Effect.never))))
      yield* TestClock.adjust("1 second")
    }
    yield* TestClock.adjust("10 minutes")
    assert.isAbove((yield* polling.faults.log).length, 250)
    assert.deepStrictEqual(count(watching.observed.spans), { "LeaderElection.acquire": 1, "get": 1 })
    assert.deepStrictEqual(count(polling.observed.spans), { "LeaderElection.acquire": 1, "get": 1 })
    for (const fiber of fibers.toReversed()) {
      yield* Fiber.interrupt(fiber)
    }
  }), 30_000)
