import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Option, Random } from "effect"
import { Deference, draw } from "../src/internal/election/deference.ts"
import { Fault } from "../src/testing/index.ts"
import { heldBy, oldLease, test, type World } from "./utils/Elections.ts"

const led = (timeline: ReadonlyArray<string>) => timeline.filter((line) => line.endsWith(" leads"))

/** Candidates whose requests take 10 ms, and which hear of a change 5 ms after it. */
const makeCrowd = Effect.fnUntraced(function*(w: World, size: number, candidates: number | undefined, seed = 0) {
  const crowd = yield* Effect.forEach(
    Array.from({ length: size }, (_, index) => index),
    (index) => w.candidate(`c${index}`, { settings: { candidates } })
  )
  const both = Fault.all(Fault.delayRequest("5 millis"), Fault.delayAnswer("5 millis"))
  for (const [index, { faults, lead }] of crowd.entries()) {
    yield* faults.set({ create: both, patch: both, get: both })
    yield* faults.delayEvents("5 millis")
    yield* Random.withSeed(lead, `${seed}, ${index}`)
  }
  const conflicts = Effect.map(
    Effect.forEach(crowd, ({ faults }) => faults.log),
    (logs) =>
      logs.flat().filter(({ outcome }) => outcome?._tag === "Failed" && outcome.error.reason._tag === "LeaseConflict")
        .length
  )
  return { conflicts, crowd }
})

/** Millisecond by millisecond: what is answered is handled before the next begins. */
const stepwise = Effect.fnUntraced(function*(w: World, from: number, until: number) {
  for (let at = from; at <= until; at++) {
    yield* w.until(at)
  }
})

/** How long after `from` each of them led, in milliseconds. */
const took = (timeline: ReadonlyArray<string>, from: number) =>
  led(timeline).map((line) => Number(line.split(" ")[0]) - from)

describe("200 candidates", () => {
  for (const seed of [1, 2, 3]) {
    test(`a release: a handful write, one leads soon, and all the others follow it (seed ${seed})`, function*(w) {
      yield* oldLease(w)
      const leader = yield* w.candidate("leader")
      const fiber = yield* leader.lead
      yield* w.settle
      const { conflicts, crowd } = yield* makeCrowd(w, 200, 200, seed)
      yield* w.until(103_000)
      yield* Effect.forkDetach(Fiber.interrupt(fiber), { startImmediately: true })
      yield* stepwise(w, 103_000, 103_400)
      yield* w.until(106_000)
      const [millis, ...others] = took(w.timeline, 103_000).slice(1)
      assert.deepStrictEqual(others, [])
      // What it takes one: 5 ms until it hears of it, and 10 for the write.
      assert.isAtMost(millis!, 15 + 30)
      assert.isAtMost(yield* conflicts, 10)
      const { holderIdentity } = yield* w.lease
      for (const { election } of crowd) {
        assert.deepStrictEqual((yield* election.status).leader, Option.some(holderIdentity))
      }
    })
  }

  test("a Lease that is not there", function*(w) {
    const { conflicts } = yield* makeCrowd(w, 200, 200)
    yield* stepwise(w, 0, 400)
    assert.isAtMost(yield* conflicts, 10)
    yield* w.until(16_000)
    // Created, and old enough.
    assert.strictEqual(led(w.timeline).length, 1)
  })

  test("a Lease that runs out", function*(w) {
    yield* w.createOld(heldBy("dead", 15))
    const { conflicts } = yield* makeCrowd(w, 200, 200)
    yield* w.until(114_990)
    yield* stepwise(w, 115_000, 115_400)
    assert.strictEqual(led(w.timeline).length, 1)
    assert.isAtMost(yield* conflicts, 10)
  })
})

describe("a small group", () => {
  for (const [size, candidates] of [[2, undefined], [2, 2], [2, 8]] as const) {
    test(`takes at once: ${size} of ${candidates ?? "an unknown number"}`, function*(w) {
      yield* oldLease(w)
      yield* makeCrowd(w, size, candidates)
      yield* stepwise(w, 100_000, 100_100)
      assert.deepStrictEqual(took(w.timeline, 100_000), [20])
    })
  }

  it.effect("draws no number", () =>
    Effect.gen(function*() {
      const asked = () => 7n
      const never = { nextDoubleUnsafe: () => assert.fail(), nextIntUnsafe: () => assert.fail() }
      const drawn = yield* draw(undefined, 8, 2_000_000_000n).pipe(
        Effect.provideService(Random.Random, never),
        Effect.provideService(Deference, () => asked)
      )
      assert.strictEqual(drawn, asked)
    }))
})

for (const [watch, millis] of [[false, 0], [true, 250]] as const) {
  test(`one of 10,000 that polls waits for nobody: it would not see the winner (watch: ${watch})`, function*(w) {
    yield* oldLease(w)
    const one = yield* w.candidate("one", { settings: { watch, candidates: 10_000 } })
    yield* one.lead
    yield* w.until(102_000)
    const at = Number(led(w.timeline)[0]?.split(" ")[0])
    assert.isTrue(millis === 0 ? at === 100_000 : at >= 100_000 + millis, String(at))
  })
}

describe("what is drawn", () => {
  const at = (next: number) =>
    draw(undefined, 200, 2_000_000_000n).pipe(
      Effect.provideService(Random.Random, { nextDoubleUnsafe: () => next, nextIntUnsafe: () => 0 }),
      Effect.provideService(Deference, () => (since, now) => now - since),
      Effect.map((deference) => deference(1n, 8n))
    )

  it.effect("comes beside what is asked for", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* at(0), 7n)
      assert.strictEqual(yield* at(0.025), 7n + 250_000_000n)
    }))
})
