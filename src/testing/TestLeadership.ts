/**
 * A term for unit tests: {@link Leadership} without an election, whose validity and loss the test decides.
 *
 * @since 0.2.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberHandle from "effect/FiberHandle"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as DurationText from "../internal/duration.ts"
import { duration } from "../internal/options.ts"
import type { DurationInput } from "../LeaderElectionConfig.ts"
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

  /**
   * From now on the term is valid for this long, by the clock of this call, and is then lost; `Infinity`: until the test
   * says otherwise.
   */
  readonly setRemaining: (remaining: DurationInput) => Effect.Effect<void>

  /**
   * The validity is over, and nothing has noticed it yet: what code finds that wakes up after a stall. `ensure` fails,
   * and the program has not been interrupted.
   */
  readonly stall: Effect.Effect<void>

  /** The next `confirm` fails with `RenewalFailed`, or the next `times`. The term goes on. */
  readonly failConfirm: (times?: number) => Effect.Effect<void>

  /**
   * Runs a program in this term, as `LeaderElection.whileLeading` does: with the term and a scope; a loss interrupts it,
   * and is what it fails with. The term is over when the program has ended, before its finalizers run; another program
   * may be run in it after that.
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
  const expiry = yield* FiberHandle.make()
  const term = yield* makeTerm
  let failing = 0

  const ensure = Effect.flatMap(
    term.remaining,
    (left) => Duration.isPositive(left) ? Effect.void : Effect.andThen(term.lose(), term.lostError)
  )

  const confirm = Effect.andThen(
    ensure,
    Effect.suspend(() => {
      if (!(failing > 0)) {
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
    isValid: Effect.map(term.remaining, Duration.isPositive),
    remaining: term.remaining,
    untilOverrun: term.untilOverrun,
    ensure,
    confirm,
    stepDown: term.lose("SteppedDown"),
    lost: term.lost
  })

  return TestLeadership.of({
    leadership,
    lose: term.lose,
    setRemaining: Effect.fnUntraced(function*(remaining) {
      yield* FiberHandle.clear(expiry)
      const given = DurationText.read(remaining)
      if (given !== undefined && !Duration.isFinite(given) && Duration.isPositive(given)) {
        return yield* term.setRemaining(undefined)
      }
      const left = duration("setRemaining: remaining", remaining)
      yield* term.setRemaining(left)
      yield* FiberHandle.run(expiry, Effect.andThen(Effect.sleep(left), term.lose()), { startImmediately: true })
    }),
    stall: Effect.andThen(FiberHandle.clear(expiry), term.setRemaining(Duration.zero)),
    failConfirm: (times = 1) =>
      Effect.sync(() => {
        failing = times
      }),
    whileLeading: (program) => Effect.andThen(term.begin, whileLeading(leadership, term, program))
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

// Of the default settings: from the deadline, and from a renewal, to where others may lead.
const toEnd = 4_250_000_000n
const sinceRenewal = 14_250_000_000n

type Term = Effect.Success<typeof makeTerm>

/** How long a term is valid, and why no longer. */
const makeTerm = Effect.gen(function*() {
  const loss = yield* Deferred.make<LossReason>()
  let lost: LossReason | undefined
  // Monotonic nanoseconds.
  let validUntil: bigint | undefined
  let overrunAt = 0n
  // Its program has ended: nothing is lost any more.
  let over = false
  const now = Clock.monotonicTimeNanos
  const until = (at: bigint | undefined) =>
    Effect.map(
      now,
      (now) => at === undefined ? Duration.infinity : Duration.nanos(at > now ? at - now : 0n)
    )
  return {
    lost: Deferred.await(loss),
    isLost: () => lost !== undefined,
    begin: Effect.sync(() => {
      over = false
    }),
    end: Effect.sync(() => {
      over ||= lost === undefined
    }),
    lose: (reason: LossReason = "RenewDeadlineExceeded") =>
      Effect.flatMap(now, (now) => {
        if (over || lost !== undefined) {
          return Effect.void
        }
        lost = reason
        overrunAt = validUntil !== undefined
          ? validUntil + toEnd
          : now + (reason === "RenewDeadlineExceeded" ? toEnd : sinceRenewal)
        return Effect.asVoid(Deferred.succeed(loss, lost))
      }),
    lostError: Effect.suspend(() =>
      Effect.fail(new LeaderElectionError({ reason: new LeadershipLost({ reason: lost ?? "ProgramEnded" }) }))
    ),
    setRemaining: (left: Duration.Duration | undefined) =>
      Effect.map(now, (now) => {
        validUntil = left && now + Duration.toNanosUnsafe(left)
      }),
    remaining: Effect.suspend(() => lost !== undefined || over ? Effect.succeed(Duration.zero) : until(validUntil)),
    untilOverrun: Effect.suspend(() =>
      until(lost !== undefined ? overrunAt : validUntil === undefined ? undefined : validUntil + toEnd)
    )
  }
})

/** In the order of the real one: the end of the term, the program's finalizers, its result. */
const whileLeading = <A, E, R>(
  leadership: Leadership["Service"],
  { end, isLost, lostError }: Term,
  program: Effect.Effect<A, E, R>
): Effect.Effect<A, E | LeaderElectionError, Exclude<R, Leadership | Scope.Scope>> =>
  Effect.uninterruptibleMask(Effect.fnUntraced(function*(restore) {
    yield* leadership.ensure
    const fiber = yield* Effect.scopedWith((scope) =>
      Effect.onExit(
        Effect.provideContext(program, Context.make(Leadership, leadership).pipe(Context.add(Scope.Scope, scope))),
        () => end
      )
    ).pipe(Effect.interruptible, Effect.forkChild({ startImmediately: true }))
    const settled = yield* Effect.exit(restore(Effect.raceFirst(
      Effect.map(Fiber.await(fiber), Option.some),
      Effect.as(leadership.lost, Option.none<Exit.Exit<A, E>>())
    )))
    yield* end
    if (Exit.isSuccess(settled) && Option.isSome(settled.value) && !isLost()) {
      return yield* settled.value.value
    }
    yield* Fiber.interrupt(fiber)
    if (Exit.isFailure(settled)) {
      return yield* Effect.failCause(settled.cause)
    }
    return yield* lostError
  }))
