import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Layer } from "effect"
import { LeaderElection, LeaderElectionConfig, Leadership } from "effect-kubernetes-leader-election"
import { MemoryLeaseStore } from "effect-kubernetes-leader-election/testing"
import { TestClock } from "effect/testing"

const settings = (identity: string): LeaderElectionConfig.Settings => ({
  ...LeaderElectionConfig.defaults,
  namespace: "default",
  name: "demo",
  identity,
  pod: undefined
})

const candidate = (identity: string) =>
  LeaderElection.make.pipe(
    Effect.provideService(LeaderElectionConfig.LeaderElectionConfig, settings(identity))
  )

it.effect("first candidate waits leaseDuration, leads, hands over", () =>
  Effect.gen(function*() {
    const log: Array<string> = []
    const a = yield* candidate("a")
    const b = yield* candidate("b")
    const program = (name: string) =>
      Effect.gen(function*() {
        const leadership = yield* Leadership
        log.push(`${name} leads`)
        yield* Effect.addFinalizer(() => Effect.sync(() => log.push(`${name} ends`)))
        yield* leadership.confirm
        return yield* Effect.never
      })
    const fa = yield* Effect.forkChild(a.whileLeading(program("a")))
    yield* TestClock.adjust("1 second")
    const fb = yield* Effect.forkChild(b.whileLeading(program("b")))
    yield* TestClock.adjust("13900 millis")
    assert.deepStrictEqual(log, [])
    yield* TestClock.adjust("100 millis")
    assert.deepStrictEqual(log, ["a leads"])
    yield* TestClock.adjust("1 hour")
    assert.deepStrictEqual(log, ["a leads"])
    yield* Fiber.interrupt(fa)
    yield* TestClock.adjust("1 millis")
    assert.deepStrictEqual(log, ["a leads", "a ends", "b leads"])
    yield* Fiber.interrupt(fb)
  }).pipe(Effect.provide(Layer.mergeAll(MemoryLeaseStore.layerMemory()))))
