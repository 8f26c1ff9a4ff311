/**
 * Holding the Lease: from the write that took it until it was released or lost.
 *
 * A tenure may begin before its term (a Lease that may be young is held, and
 * waited for) and goes on after it (until the program's finalizers have ended).
 *
 * @internal
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as Result from "effect/Result"
import { LeaderElectionError, LeadershipLost, type LossCause, RenewalFailed } from "../../LeaderElectionError.ts"
import type { TakeoverCause, Term } from "../../LeaderElectionStatus.ts"
import { type LeaseError, retryAfter } from "../../LeaseError.ts"
import { type LeaseRecord, type LeaseWrite, stepDownAnnotation } from "../../LeaseRecord.ts"
import { lossOf } from "../protocol/decision.ts"
import { needsMark } from "../protocol/observation.ts"
import { elapsed, type Moment, nextRenewal, programDeadline, remaining } from "../protocol/timing.ts"
import * as Writes from "../protocol/writes.ts"
import { type Environment, nanos, seconds, waitUntil } from "./environment.ts"
import { type Attempt, jitter, type Observer } from "./observer.ts"

export interface Tenure {
  readonly author: Writes.Author
  readonly uid: string
  readonly cause: TakeoverCause
  /** Completed when the term is lost. */
  readonly loss: Deferred.Deferred<LossCause>
  /** The newest record of ours: what the next write is guarded by. */
  lease: LeaseRecord
  /** Start of the last request that is known to have succeeded. */
  validFrom: Moment
  /** Attempts that may have been applied, by the renewTime that only they wrote. */
  readonly pending: Map<bigint, Moment>
  failed: { readonly start: bigint; readonly end: bigint; readonly retryAfter: bigint | undefined } | undefined
  conflicts: number
  /** The next attempt is due now: after a first conflict, or for `confirm`. */
  hurry: boolean
  /** When the first renewal is due, where it comes early to spread many. */
  firstDue: bigint | undefined
  readonly confirmations: Set<Confirmation>
  /** The term, once it has begun. */
  term: Term | undefined
  /** Why the term is over, where it was lost. Final. */
  lost: LossCause | undefined
  /** The Lease is no longer ours: nothing is left to renew or to release. */
  gone: LossCause | undefined
  /** The program has ended, or is being ended by its own side. */
  over: boolean
  /** Called at once when the validity was prolonged or is over. */
  onMove: () => void
}

interface Confirmation {
  readonly asked: bigint
  readonly result: Deferred.Deferred<void, LeaderElectionError>
}

/** The last renewTime that this election wrote: the next one is greater. */
export interface Pen {
  lastWritten: bigint
}

/** A renewTime for the next write, found nowhere else. */
export const nextRenewTime = (environment: Environment, pen: Pen, stored: bigint | undefined): Effect.Effect<bigint> =>
  Effect.map(environment.wallClock, (wallClock) => {
    pen.lastWritten = Writes.uniqueRenewTime(wallClock, pen.lastWritten, stored)
    return pen.lastWritten
  })

export const make = (options: {
  readonly author: Writes.Author
  readonly cause: TakeoverCause
  readonly lease: LeaseRecord
  readonly start: Moment
  readonly firstDue: bigint | undefined
}): Tenure => ({
  author: options.author,
  uid: options.lease.uid,
  cause: options.cause,
  loss: Deferred.makeUnsafe(),
  lease: options.lease,
  validFrom: options.start,
  pending: new Map(),
  failed: undefined,
  conflicts: 0,
  hurry: false,
  firstDue: options.firstDue,
  confirmations: new Set(),
  term: undefined,
  lost: undefined,
  gone: undefined,
  over: false,
  onMove: () => {}
})

/** What is left of the leadership's validity: a function of time, never a stored flag. */
export const validity = (tenure: Tenure, now: Moment, renewDeadline: bigint): bigint =>
  tenure.term === undefined || tenure.over || tenure.lost !== undefined
    ? 0n
    : remaining(tenure.validFrom, now, renewDeadline)

/** Ends the term. The first cause stands; nothing that arrives later revives it. */
export const lose = (tenure: Tenure, cause: LossCause): void => {
  if (tenure.lost === undefined) {
    tenure.lost = cause
    tenure.onMove()
    Deferred.doneUnsafe(tenure.loss, Effect.succeed(cause))
  }
}

const succeed = (tenure: Tenure, start: Moment): void => {
  if (start.monotonic <= tenure.validFrom.monotonic) {
    return
  }
  tenure.validFrom = start
  tenure.onMove()
  if (tenure.failed !== undefined && tenure.failed.start <= start.monotonic) {
    tenure.failed = undefined
  }
  for (const [renewTime, pending] of tenure.pending) {
    if (pending.monotonic <= start.monotonic) {
      tenure.pending.delete(renewTime)
    }
  }
}

/**
 * Takes in what was seen of the Lease. A record of ours gives the version to go
 * on with; it extends validity only if its renewTime is that of one of our
 * attempts, and then from the start of *that* attempt. Anything else newer (a
 * label, an older write of ours) extends nothing.
 */
export const reconcile = (tenure: Tenure, observer: Observer): void => {
  const observation = observer.observation()
  const loss = lossOf(observation, tenure.uid, tenure.author)
  if (loss !== undefined) {
    tenure.gone ??= loss
    lose(tenure, loss)
    return
  }
  if (typeof observation.lease === "string" || observation.lease === tenure.lease) {
    return
  }
  tenure.lease = observation.lease
  const start = tenure.lease.renewTime === undefined ? undefined : tenure.pending.get(tenure.lease.renewTime)
  if (start !== undefined) {
    succeed(tenure, start)
  }
  if (tenure.term !== undefined && tenure.lease.annotations[stepDownAnnotation] === tenure.author.instance) {
    lose(tenure, "SteppedDown")
  }
}

/** When the next attempt is due. */
export const dueAt = (environment: Environment, tenure: Tenure): bigint =>
  tenure.hurry
    ? 0n
    : tenure.firstDue ??
      nextRenewal({ succeeded: tenure.validFrom.monotonic, failed: tenure.failed }, environment.timing)

/**
 * Makes one guarded write. Its outcome is in the tenure; the result is the
 * response where this very write is known to have been committed.
 */
export const writeOnce = Effect.fnUntraced(function*(
  environment: Environment,
  observer: Observer,
  pen: Pen,
  tenure: Tenure,
  makeWrite: (
    author: Writes.Author,
    lease: LeaseRecord,
    renewTime: bigint,
    options: { readonly mark: boolean }
  ) => LeaseWrite
) {
  const before = tenure.validFrom
  if (tenure.conflicts > 0 && !tenure.hurry && !observer.isWatching()) {
    // Who keeps writing has written again during the pause, and no watch told what: read before it would only conflict.
    const read = yield* observer.read
    if (tenure.gone !== undefined) {
      return { made: read, left: 0n, committed: undefined }
    }
  }
  const start = yield* environment.moment
  const guard = tenure.lease
  const renewTime = yield* nextRenewTime(environment, pen, guard.renewTime)
  tenure.pending.set(renewTime, start)
  tenure.hurry = false
  tenure.firstDue = undefined
  const mark = needsMark(observer.observation(), start.monotonic, environment.timing.leaseDuration)
  const made = yield* observer.attempt(
    "patch",
    start,
    environment.store.patch(
      environment.key,
      guard.resourceVersion,
      makeWrite(tenure.author, guard, renewTime, { mark })
    )
  )
  const left = remaining(before, made.end, environment.timing.renewDeadline)
  yield* observer.learn(made)
  if (Result.isSuccess(made.result)) {
    succeed(tenure, start)
    tenure.conflicts = 0
    yield* Metric.update(environment.metrics.renewalDuration, seconds(made.end.monotonic - start.monotonic))
    return { made, left, committed: made.result.success.lease }
  }
  yield* onFailure(environment, observer, tenure, guard, made, made.result.failure)
  return { made, left, committed: undefined }
})

const onFailure = Effect.fnUntraced(function*(
  environment: Environment,
  observer: Observer,
  tenure: Tenure,
  guard: LeaseRecord,
  made: Attempt,
  error: LeaseError
) {
  const asked = retryAfter(error)
  const failed = {
    start: made.start.monotonic,
    end: made.end.monotonic,
    retryAfter: asked === undefined ? undefined : nanos(asked)
  }
  if (error.reason._tag !== "LeaseConflict") {
    tenure.failed = failed
    return
  }
  tenure.conflicts++
  // What explains the conflict may have arrived already, through the watch.
  const read = tenure.lease.resourceVersion === guard.resourceVersion && tenure.gone === undefined
    ? yield* observer.read
    : undefined
  if (read !== undefined && Result.isFailure(read.result)) {
    tenure.failed = failed
  } else if (tenure.conflicts === 1) {
    tenure.hurry = true
  } else {
    // Somebody else keeps writing: not at full speed against it.
    const early = environment.timing.retryPeriod - (yield* jitter(environment.timing.retryPeriod))
    tenure.failed = { ...failed, start: failed.start - early }
  }
})

/** Renews until the Lease is no longer ours; interrupted when there is nothing left to renew for. */
export const renewing = Effect.fnUntraced(function*(
  environment: Environment,
  observer: Observer,
  pen: Pen,
  tenure: Tenure,
  span: (renewal: Effect.Effect<void>) => Effect.Effect<void>
) {
  let worst = environment.timing.renewDeadline
  while (tenure.gone === undefined) {
    observer.heard.closeUnsafe()
    const due = dueAt(environment, tenure)
    if (due > (yield* environment.monotonic)) {
      yield* waitUntil(environment, due, observer.heard)
      continue
    }
    yield* span(Effect.gen(function*() {
      const { committed, left, made } = yield* writeOnce(environment, observer, pen, tenure, Writes.renew)
      yield* Effect.annotateCurrentSpan(
        Result.match(made.result, {
          onSuccess: () => ({ outcome: "committed", secondsLeft: seconds(left) }),
          onFailure: (error) => ({ outcome: error.reason._tag })
        })
      )
      if (committed !== undefined && left < worst) {
        worst = left
        yield* Metric.update(environment.metrics.validityLeft, seconds(worst))
      }
      yield* answerConfirmations(tenure, made)
    }))
  }
  yield* answerConfirmations(tenure, undefined)
})

const answerConfirmations = (tenure: Tenure, made: Attempt | undefined): Effect.Effect<void> =>
  Effect.sync(() => {
    for (const confirmation of tenure.confirmations) {
      const answer = confirmed(tenure, confirmation, made)
      if (answer !== undefined) {
        tenure.confirmations.delete(confirmation)
        Deferred.doneUnsafe(confirmation.result, answer)
      }
    }
  })

const confirmed = (tenure: Tenure, confirmation: Confirmation, made: Attempt | undefined) => {
  if (tenure.lost !== undefined) {
    return Effect.fail(lostError(tenure.lost))
  }
  if (tenure.validFrom.monotonic >= confirmation.asked) {
    return Effect.void
  }
  // A conflict is followed by another attempt, unless it was not the first.
  return made !== undefined && Result.isFailure(made.result) && !tenure.hurry &&
      made.start.monotonic >= confirmation.asked
    ? Effect.fail(new LeaderElectionError({ reason: new RenewalFailed({ error: made.result.failure }) }))
    : undefined
}

export const lostError = (cause: LossCause): LeaderElectionError =>
  new LeaderElectionError({ reason: new LeadershipLost({ cause }) })

/** Asks the renewal for an attempt that begins from now on, and waits for its outcome. */
export const confirm = Effect.fnUntraced(function*(environment: Environment, observer: Observer, tenure: Tenure) {
  const now = yield* environment.moment
  if (validity(tenure, now, environment.timing.renewDeadline) === 0n) {
    return yield* lostError(tenure.lost ?? "RenewDeadlineExceeded")
  }
  const confirmation: Confirmation = { asked: now.monotonic, result: Deferred.makeUnsafe() }
  tenure.confirmations.add(confirmation)
  tenure.hurry = true
  observer.heard.openUnsafe()
  return yield* Effect.raceFirst(
    Deferred.await(confirmation.result),
    Effect.flatMap(Deferred.await(tenure.loss), (cause) => Effect.fail(lostError(cause)))
  ).pipe(Effect.ensuring(Effect.sync(() => tenure.confirmations.delete(confirmation))))
})

/**
 * Ends the term when its validity does. A timer of its own, which no request
 * can hold up: whoever looks at the deadline only between requests has a
 * program that leads for as long as a request hangs.
 */
export const watchDeadline = Effect.fnUntraced(function*(environment: Environment, tenure: Tenure, sliced: boolean) {
  while (tenure.lost === undefined) {
    const now = yield* environment.moment
    const left = remaining(tenure.validFrom, now, environment.timing.renewDeadline)
    if (left === 0n) {
      return lose(tenure, "RenewDeadlineExceeded")
    }
    // Timers stop with a suspended machine, and the witness does not: look at it in between.
    const slice = sliced && environment.timing.retryPeriod < left ? environment.timing.retryPeriod : left
    yield* Effect.sleep(Number((slice + 999_999n) / 1_000_000n))
  }
})

/** Whether others may have taken the Lease while the program was still running: then it is not released. */
export const hasOverrun = (environment: Environment, tenure: Tenure, now: Moment): boolean =>
  elapsed(tenure.validFrom, now) >= programDeadline(environment.timing.leaseDuration)

/** When a program that still runs then overruns its term (monotonic). */
export const overrunAt = (environment: Environment, tenure: Tenure, now: Moment): bigint =>
  now.monotonic + programDeadline(environment.timing.leaseDuration) - elapsed(tenure.validFrom, now)
