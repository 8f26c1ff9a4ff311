/**
 * A term for unit tests: {@link Leadership} without an election, whose validity and loss the test decides.
 *
 * @since 0.2.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as FiberHandle from "effect/FiberHandle"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { LeaderElectionError, LeadershipLost, type LossReason, RenewalFailed } from "../LeaderElectionError.ts"
import { Leadership } from "../Leadership.ts"
import { LeaseError, LeaseUnavailable } from "../LeaseError.ts"
import type { LeaseKey } from "../LeaseRecord.ts"

/**
 * What the term says of itself, where a test needs it to say something else than by default.
 *
 * @category models
 * @since 0.2.0
 */
export interface Options {
  /** By default `default/test`. */
  readonly lease?: LeaseKey | undefined
  /** By default `test`. */
  readonly identity?: string | undefined
  /** By default 1. */
  readonly fencingToken?: bigint | undefined
  /** By default 1. */
  readonly transitions?: number | undefined
}

/**
 * A term, and what happens to it.
 *
 * @category services
 * @since 0.2.0
 */
export class TestLeadership extends Context.Service<TestLeadership, {
  /** The term, as the program sees it. Valid until the test says otherwise. */
  readonly leadership: Leadership["Service"]

  /** The term is lost; by default with `RenewDeadlineExceeded`. Only the first loss counts. */
  readonly lose: (reason?: LossReason) => Effect.Effect<void>

  /** From now on the term is valid for this long, by the clock of this call, and is then lost. */
  readonly setRemaining: (remaining: Duration.Input) => Effect.Effect<void>

  /**
   * The validity is over, and nothing has noticed it yet: what code finds that wakes up after a stall. `ensure` fails,
   * and the program has not been interrupted.
   */
  readonly stall: Effect.Effect<void>

  /** The next `confirm` fails with `RenewalFailed`, or the next `times`. The term goes on. */
  readonly failConfirm: (times?: number) => Effect.Effect<void>

  /**
   * Runs a program in this term, as `LeaderElection.whileLeading` does: with the term and a scope; a loss interrupts it,
   * and is what it fails with.
   */
  readonly whileLeading: <A, E, R>(
    program: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E | LeaderElectionError, Exclude<R, Leadership | Scope.Scope>>
}>()("effect-kubernetes-leader-election/testing/TestLeadership") {}

/**
 * A term that has begun.
 *
 * **Example** (A job that must not send after its term)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Leadership } from "effect-kubernetes-leader-election"
 * import { TestLeadership } from "effect-kubernetes-leader-election/testing"
 *
 * const send = Effect.flatMap(Leadership, ({ ensure }) => ensure)
 *
 * export const test = Effect.gen(function*() {
 *   const term = yield* TestLeadership.make()
 *   yield* term.stall
 *   return yield* Effect.flip(Effect.provideService(send, Leadership, term.leadership))
 * })
 * ```
 *
 * @category constructors
 * @since 0.2.0
 */
export const make = Effect.fnUntraced(function*(
  options: Options = {}
): Effect.fn.Return<TestLeadership["Service"], never, Scope.Scope> {
  const lease = options.lease ?? { namespace: "default", name: "test" }
  const loss = yield* Deferred.make<LossReason>()
  const expiry = yield* FiberHandle.make()
  let lost: LossReason | undefined
  // Monotonic nanoseconds.
  let validUntil: bigint | undefined
  let failing = 0

  const lose = (reason: LossReason = "RenewDeadlineExceeded") =>
    Effect.suspend(() => {
      lost ??= reason
      return Deferred.succeed(loss, lost)
    })

  const remaining = Effect.map(Clock.monotonicTimeNanos, (now) =>
    lost !== undefined
      ? Duration.zero
      : validUntil === undefined
      ? Duration.infinity
      : Duration.nanos(validUntil > now ? validUntil - now : 0n))

  const isValid = Effect.map(remaining, Duration.isGreaterThan(Duration.zero))

  const lostError = () =>
    new LeaderElectionError({ reason: new LeadershipLost({ reason: lost ?? "RenewDeadlineExceeded" }) })

  const ensure = Effect.flatMap(
    isValid,
    (valid) => valid ? Effect.void : Effect.andThen(lose(), Effect.suspend(() => Effect.fail(lostError())))
  )

  const confirm = Effect.andThen(
    ensure,
    Effect.suspend(() => {
      if (failing === 0) {
        return Effect.void
      }
      failing -= 1
      const reason = new LeaseUnavailable({ message: "the test says so", outcomeUnknown: false })
      return Effect.fail(
        new LeaderElectionError({
          reason: new RenewalFailed({ error: new LeaseError({ verb: "patch", ...lease, reason }) })
        })
      )
    })
  )

  const leadership = Leadership.of({
    lease,
    identity: options.identity ?? "test",
    fencingToken: options.fencingToken ?? 1n,
    transitions: options.transitions ?? 1,
    isValid,
    remaining,
    untilOverrun: remaining,
    ensure,
    confirm,
    stepDown: Effect.asVoid(lose("SteppedDown")),
    lost: Deferred.await(loss)
  })

  return TestLeadership.of({
    leadership,
    lose: (reason) => Effect.asVoid(lose(reason)),
    setRemaining: Effect.fnUntraced(function*(remaining) {
      const duration = Duration.fromInputUnsafe(remaining)
      validUntil = (yield* Clock.monotonicTimeNanos) + Duration.toNanosUnsafe(duration)
      yield* FiberHandle.run(expiry, Effect.andThen(Effect.sleep(duration), lose()), { startImmediately: true })
    }),
    stall: Effect.andThen(
      FiberHandle.clear(expiry),
      Effect.sync(() => {
        validUntil = 0n
      })
    ),
    failConfirm: (times = 1) =>
      Effect.sync(() => {
        failing = times
      }),
    whileLeading: (program) => whileLeading(leadership, lostError, program)
  })
})

/**
 * A term that has begun: {@link Leadership} for the program, {@link TestLeadership} for the test.
 *
 * @category layers
 * @since 0.2.0
 */
export const layer = (options?: Options): Layer.Layer<Leadership | TestLeadership> =>
  Layer.effectContext(
    Effect.map(
      make(options),
      (term) => Context.make(TestLeadership, term).pipe(Context.add(Leadership, term.leadership))
    )
  )

// --- internal ---------------------------------------------------------------------------------------------------

const whileLeading = <A, E, R>(
  leadership: Leadership["Service"],
  lostError: () => LeaderElectionError,
  program: Effect.Effect<A, E, R>
) =>
  Effect.scopedWith((scope) =>
    Effect.gen(function*() {
      yield* leadership.ensure
      const fiber = yield* Effect.forkChild(
        Effect.provideContext(program, Context.make(Leadership, leadership).pipe(Context.add(Scope.Scope, scope))),
        { startImmediately: true }
      )
      yield* Effect.raceFirst(Effect.asVoid(Fiber.await(fiber)), Effect.asVoid(leadership.lost))
      yield* Fiber.interrupt(fiber)
      const exit = yield* Fiber.await(fiber)
      return yield* exit._tag === "Failure" && Cause.hasInterruptsOnly(exit.cause)
        ? Effect.suspend(() => Effect.fail(lostError()))
        : exit
    })
  )
