import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Fiber, Layer } from "effect"
import { EventLoopMonitor, Leadership } from "effect-kubernetes-leader-election"
import { MemoryCluster } from "effect-kubernetes-leader-election/testing"
import { TestClock } from "effect/testing"
import { ActiveTerms, makeUnsafe } from "../src/internal/election/activeTerms.ts"
import { brokenLogger, candidate, observe } from "./utils/observed.ts"

/** Blocks the event loop. */
const block = (milliseconds: number) => {
  const until = performance.now() + milliseconds
  while (performance.now() < until) {
    // Busy.
  }
}

// They block each other.
describe("the event loop", { concurrent: false }, () => {
  it.live("counts stalls, and warns of the first in a minute with how long it was", () =>
    Effect.gen(function*() {
      const { context, lines, value } = observe()
      yield* Effect.gen(function*() {
        yield* Layer.build(EventLoopMonitor.layer({ limit: "300 millis", interval: "20 millis" }))
        assert.strictEqual(value("leader_election_event_loop_stalls_total"), 0)
        for (let stall = 0; stall < 3; stall++) {
          yield* Effect.sleep("50 millis")
          block(400)
          yield* Effect.sleep("50 millis")
        }
      }).pipe(Effect.scoped, Effect.provideContext(context))
      assert.isAtLeast(value("leader_election_event_loop_stalls_total")!, 3)
      const warnings = lines.filter(({ level }) => level === "Warn")
      assert.strictEqual(warnings.length, 1)
      assert.match(warnings[0]!.text, /^Event loop blocked for \d+(\.\d+)?m?s/)
    }))

  it.live("A10 goes on counting where the logger throws", () =>
    Effect.gen(function*() {
      const { context, value } = observe()
      yield* Effect.gen(function*() {
        yield* Layer.build(EventLoopMonitor.layer({ limit: "100 millis", interval: "20 millis" }))
        for (let stall = 0; stall < 2; stall++) {
          yield* Effect.sleep("50 millis")
          block(200)
          yield* Effect.sleep("50 millis")
        }
      }).pipe(Effect.scoped, Effect.provide(brokenLogger), Effect.provideContext(context))
      assert.isAtLeast(value("leader_election_event_loop_stalls_total")!, 2)
    }))

  it.effect("a process that is not stalled has nothing to say", () =>
    Effect.gen(function*() {
      const { context, lines, value } = observe()
      yield* Effect.gen(function*() {
        yield* Layer.build(EventLoopMonitor.layer())
        yield* TestClock.adjust("1 minute")
      }).pipe(Effect.scoped, Effect.provideContext(context))
      assert.strictEqual(value("leader_election_event_loop_stalls_total"), 0)
      assert.deepStrictEqual(lines, [])
    }))

  it.effect("names an option that is wrong: it would look all the time, or never", () =>
    Effect.gen(function*() {
      for (const value of [0, -5, Number.NaN, "soon"]) {
        for (const name of ["interval", "limit"]) {
          const exit = yield* Effect.exit(Layer.build(EventLoopMonitor.layer({ [name]: value })))
          assert.include(String(exit), `EventLoopMonitor: ${name} is `)
        }
      }
      yield* Layer.build(EventLoopMonitor.layer({ interval: "1s", limit: "2s" }))
    }))

  /** What a timer of the program finds that comes due while the loop is blocked beyond the term's validity. */
  const afterStall = (monitor: Layer.Layer<never>) =>
    Effect.gen(function*() {
      const cluster = yield* MemoryCluster.make()
      const { election, run } = yield* candidate(cluster, "a", {
        leaseDuration: Duration.seconds(3),
        renewInterval: Duration.seconds(1),
        renewDeadline: Duration.seconds(2),
        retryPeriod: Duration.millis(400),
        requestTimeout: Duration.millis(400),
        newLease: "lead"
      })
      // Of its own, so that the monitors of other tests have no part in it.
      const active = makeUnsafe()
      yield* Effect.provideService(Layer.build(monitor), ActiveTerms, active)
      return yield* Effect.callback<{ readonly valid: boolean; readonly interrupted: boolean }>((resume) => {
        let interrupted = false
        const program = Effect.gen(function*() {
          const leadership = yield* Leadership
          yield* Effect.sleep("300 millis")
          // A timer like any user's, long before the one that ends the term.
          setTimeout(() => resume(Effect.succeed({ valid: Effect.runSync(leadership.isValid), interrupted })), 500)
          // Not in a turn in which the monitor's timer has fired already, and what follows from it has yet to run.
          setTimeout(() => setImmediate(block, 2_300), 100)
          yield* Effect.never
        }).pipe(Effect.onInterrupt(() =>
          Effect.sync(() => {
            interrupted = true
          })
        ))
        Effect.runFork(Effect.provideService(run(election.whileLeading(program)), ActiveTerms, active))
      })
    }).pipe(Effect.scoped)

  it.live(
    "a term whose validity is over ends before timers that came due after the monitor's",
    () =>
      Effect.gen(function*() {
        // Validity is a function of time either way; only with the monitor has the program been stopped by then.
        assert.deepStrictEqual(yield* afterStall(Layer.empty), { valid: false, interrupted: false })
        assert.deepStrictEqual(yield* afterStall(EventLoopMonitor.layer()), { valid: false, interrupted: true })
      }),
    30_000
  )

  it.effect("a term is looked at while it lasts, and no longer", () =>
    Effect.gen(function*() {
      const cluster = yield* MemoryCluster.make()
      const { election, run } = yield* candidate(cluster, "a", { newLease: "lead" })
      const active = makeUnsafe()
      const fiber = yield* Effect.forkChild(
        Effect.provideService(run(election.whileLeading(Effect.sleep("1 second"))), ActiveTerms, active)
      )
      yield* TestClock.adjust("900 millis")
      assert.strictEqual(active.terms.size, 1)
      yield* TestClock.adjust("100 millis")
      yield* Fiber.join(fiber)
      assert.strictEqual(active.terms.size, 0)
    }))
})
