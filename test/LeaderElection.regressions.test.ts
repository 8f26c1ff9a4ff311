/**
 * Schedules that the simulation found, each as small as it can be told.
 */
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import { Fault } from "../src/testing/index.ts"
import { key, oldLease, test } from "./utils/Elections.ts"

test(
  "a beginning write whose answer is lost, but which is read back, begins the term and is not repeated",
  function*(world) {
    const a = yield* world.candidate("a")
    yield* a.lead
    yield* world.until(14_000)
    // From now on every answer to a write is lost, while the watch tells of each.
    yield* a.faults.set({ patch: Fault.all(Fault.delayAnswer(20), Fault.gatewayTimeout) })
    yield* world.until(16_000)
    assert.deepStrictEqual(world.timeline, ["15000 a leads"])
    assert.deepStrictEqual(yield* a.requests("patch"), ["5000 patch", "10000 patch", "15000 patch"])
    const leadership = yield* a.leadership
    assert.strictEqual(leadership.fencingToken, (yield* world.lease).resourceVersion)
    assert.isTrue(yield* a.run(leadership.isValid))
  }
)

test(
  "a leader that polls, whose Lease somebody relabels faster than it retries, is not lost to one failed read",
  function*(world) {
    yield* oldLease(world)
    const a = yield* world.candidate("a", { settings: { watch: false } })
    yield* a.lead
    yield* world.until(104_000)
    // From here on there is another label before each attempt.
    yield* Effect.forkScoped(Effect.forever(Effect.gen(function*() {
      yield* Effect.orDie(world.cluster.editLease(key, { metadata: { labels: { at: String(yield* world.now) } } }))
      yield* Effect.sleep(900)
    })))
    yield* a.faults.next("get", Fault.serverError())
    yield* world.until(160_000)
    assert.deepStrictEqual(world.timeline, ["100000 a leads"])
  }
)
