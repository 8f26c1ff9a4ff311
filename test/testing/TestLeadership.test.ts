import { assert, describe, it } from "@effect/vitest"
import { Cause, Duration, Effect, Exit, Fiber, type Scope } from "effect"
import { LeaderElection, Leadership } from "effect-kubernetes-leader-election"
import { MemoryLeaseStore, TestLeadership } from "effect-kubernetes-leader-election/testing"
import { TestClock } from "effect/testing"

const reasonOf = (error: { readonly reason: { readonly _tag: string } }) => error.reason._tag

describe("TestLeadership", () => {
  it.effect("is valid, and confirms, until the test says otherwise", () =>
    Effect.gen(function*() {
      const { confirm, ensure, fencingToken, identity, isValid, lease, remaining } = yield* Leadership
      assert.deepStrictEqual([identity, fencingToken, lease.name], ["me", 7n, "test"])
      yield* TestClock.adjust("1 day")
      yield* ensure
      yield* confirm
      assert.isTrue(yield* isValid)
      assert.isFalse(Duration.isFinite(yield* remaining))
    }).pipe(Effect.provide(TestLeadership.layer({ identity: "me", fencingToken: 7n }))))

  it.effect("a loss interrupts the program, runs its finalizers and is what it fails with", () =>
    Effect.gen(function*() {
      const term = yield* TestLeadership.make()
      const steps: Array<string> = []
      const program = Effect.gen(function*() {
        yield* Effect.addFinalizer(() => Effect.sync(() => steps.push("finalizer")))
        return yield* Effect.never
      })
      const fiber = yield* Effect.forkChild(term.whileLeading(program), { startImmediately: true })
      yield* term.lose("SteppedDown")
      yield* term.lose("LeaseDeleted")
      const error = yield* Effect.flip(Fiber.join(fiber))
      assert.strictEqual(error.message, "leadership lost: the leader was asked to step down")
      assert.deepStrictEqual(steps, ["finalizer"])
      assert.strictEqual(yield* term.leadership.lost, "SteppedDown")
      assert.strictEqual(reasonOf(yield* Effect.flip(term.whileLeading(Effect.void))), "LeadershipLost")
    }))

  it.effect("the program's own success and failure pass", () =>
    Effect.gen(function*() {
      const term = yield* TestLeadership.make()
      assert.strictEqual(yield* term.whileLeading(Effect.succeed(1)), 1)
      assert.strictEqual(yield* Effect.flip(term.whileLeading(Effect.fail("no"))), "no")
      assert.isTrue(Exit.hasDies(yield* Effect.exit(term.whileLeading(Effect.die("defect")))))
    }))

  it.effect("a program that loses its term, or ends, at once: as in the real one", () =>
    Effect.gen(function*() {
      const ended = yield* TestLeadership.make()
      yield* ended.whileLeading(Effect.void)
      const after = yield* Effect.flip(ended.leadership.ensure)
      assert.strictEqual(after.message, "not leading: the program of this term has ended")

      const lost = yield* TestLeadership.make()
      const error = yield* Effect.flip(lost.whileLeading(Effect.as(lost.leadership.stepDown, "value")))
      assert.strictEqual(error.message, "leadership lost: the leader was asked to step down")
    }))

  it.effect("setRemaining: valid for that long, then lost; a later call replaces it", () =>
    Effect.gen(function*() {
      const { leadership, setRemaining } = yield* TestLeadership.make()
      yield* setRemaining("3 seconds")
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(Duration.toSeconds(yield* leadership.remaining), 1)
      yield* setRemaining("3 seconds")
      yield* TestClock.adjust("2999 millis")
      yield* leadership.ensure
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(yield* leadership.lost, "RenewDeadlineExceeded")
      assert.strictEqual(reasonOf(yield* Effect.flip(leadership.ensure)), "LeadershipLost")
    }))

  it.effect("stall: over at the point of use, before anything has been interrupted", () =>
    Effect.gen(function*() {
      const term = yield* TestLeadership.make()
      const program = Effect.gen(function*() {
        const { ensure, isValid } = yield* Leadership
        yield* term.stall
        assert.isFalse(yield* isValid)
        yield* Effect.ignore(ensure)
        return yield* Effect.never
      })
      assert.strictEqual(reasonOf(yield* Effect.flip(term.whileLeading(program))), "LeadershipLost")
    }))

  it.effect("failConfirm: that confirm fails, and the term goes on", () =>
    Effect.gen(function*() {
      const { failConfirm, leadership } = yield* TestLeadership.make()
      yield* failConfirm()
      assert.strictEqual(reasonOf(yield* Effect.flip(leadership.confirm)), "RenewalFailed")
      yield* leadership.confirm
      assert.isTrue(yield* leadership.isValid)
    }))

  it.effect("setRemaining: a duration as settings are written, without end, and nothing else", () =>
    Effect.gen(function*() {
      const { leadership, setRemaining } = yield* TestLeadership.make()
      yield* setRemaining("5s")
      yield* setRemaining(Number.POSITIVE_INFINITY)
      yield* TestClock.adjust("1 minute")
      assert.isFalse(Duration.isFinite(yield* leadership.remaining))
      assert.include(String(yield* Effect.exit(setRemaining(Number.NaN))), "setRemaining: remaining is NaN")
    }))
})

describe("whileLeading does the same in a test's term and in a real one", () => {
  const settings = { name: "test", namespace: "default", identity: "test", newLease: "lead" } as const
  const inReal = <A, E>(program: Effect.Effect<A, E, Leadership | Scope.Scope>) =>
    LeaderElection.whileLeading(program).pipe(
      Effect.provide(LeaderElection.layer(settings)),
      Effect.provide(MemoryLeaseStore.layerMemory())
    )
  const inTest = <A, E>(program: Effect.Effect<A, E, Leadership | Scope.Scope>) =>
    Effect.scoped(Effect.flatMap(TestLeadership.make(), (term) => term.whileLeading(program)))
  const said = (exit: Exit.Exit<unknown, unknown> | undefined): string =>
    exit === undefined ? "running" : Exit.isSuccess(exit) ? `success: ${exit.value}` : String(Cause.squash(exit.cause))

  type Program = Effect.Effect<unknown, unknown, Leadership | Scope.Scope>
  const programs: Record<string, (seen: Array<unknown>) => Program> = {
    "a program that interrupts itself": () => Effect.interrupt,
    "one that joins a fiber that was interrupted": () =>
      Effect.gen(function*() {
        const fiber = yield* Effect.forkChild(Effect.never)
        yield* Fiber.interrupt(fiber)
        return yield* Fiber.join(fiber)
      }),
    "one that is lost": () => Effect.flatMap(Leadership, ({ stepDown }) => Effect.andThen(stepDown, Effect.never)),
    "one that succeeds after a loss": () =>
      Effect.flatMap(
        Leadership,
        ({ stepDown }) =>
          Effect.uninterruptible(Effect.andThen(stepDown, Effect.delay(Effect.succeed("late"), "1 second")))
      ),
    "one whose finalizer asks": (seen) =>
      Effect.gen(function*() {
        const { ensure, isValid } = yield* Leadership
        yield* Effect.addFinalizer(() =>
          Effect.gen(function*() {
            seen.push(yield* isValid, (yield* Effect.exit(ensure))._tag)
          })
        )
      }),
    "one whose finalizer fails": () => Effect.addFinalizer(() => Effect.die("finalizer")),
    "one that asks after a loss how long it may run": (seen) =>
      Effect.gen(function*() {
        const { stepDown, untilOverrun } = yield* Leadership
        yield* stepDown
        yield* Effect.sleep("1 second")
        seen.push(Duration.toMillis(yield* untilOverrun))
      }).pipe(Effect.uninterruptible)
  }

  for (const [name, program] of Object.entries(programs)) {
    it.effect(name, () =>
      Effect.gen(function*() {
        const [real, test] = yield* Effect.forEach([inReal, inTest], (run) =>
          Effect.gen(function*() {
            const seen: Array<unknown> = []
            const fiber = yield* Effect.forkChild(run(program(seen)))
            yield* TestClock.adjust("10 seconds")
            return [said(fiber.pollUnsafe()), ...seen]
          }))
        assert.deepStrictEqual(test, real)
      }))
  }
})
