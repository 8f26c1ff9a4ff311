/**
 * When things are due, in nanoseconds of the monotonic clock.
 *
 * Everything counts from the *start* of requests. The API server stamps a write
 * some time after its request began, and followers see it later still; so a
 * leader that counts from the start gives up before any follower may take over.
 * Counting from the answer, as client-go does, leaves a window with two leaders.
 *
 * @internal
 */
import type { LeaseRecord } from "../../LeaseRecord.ts"
import type { Observation } from "./observation.ts"

/**
 * A point in this process's time on its clocks: the monotonic one; the suspend
 * witness, which goes on while the machine is suspended (0n where there is
 * none); and the wall clock. All in nanoseconds.
 */
export interface Moment {
  readonly monotonic: bigint
  readonly witness: bigint
  readonly wall: bigint
}

/**
 * Time that has passed for one's *own* validity. A suspension, during which the
 * monotonic clock stands, is believed only as far as witness and wall clock
 * agree: the witness alone may jump (`/proc/uptime` where lxcfs restarts), and
 * the wall clock alone is stepped. The expiry of others is judged by the
 * monotonic clock alone, because a jump would end a live lease early.
 */
export const elapsed = (since: Moment, now: Moment): bigint => {
  const monotonic = now.monotonic - since.monotonic
  const witness = now.witness - since.witness
  const wall = now.wall - since.wall
  const suspended = witness < wall ? witness : wall
  return suspended > monotonic ? suspended : monotonic
}

/** What is left of the validity that a request begun at `start` gave; 0n when it is over. */
export const remaining = (start: Moment, now: Moment, renewDeadline: bigint): bigint => {
  const left = renewDeadline - elapsed(start, now)
  return left > 0n ? left : 0n
}

/** The later of two times, or the longer of two durations. */
export const later = (a: bigint, b: bigint): bigint => a > b ? a : b
const sooner = (a: bigint, b: bigint): bigint => a < b ? a : b

/** For how long a sign of life of the holder counts: the *holder's* duration, ours where it is missing. */
export const holdersDuration = ({ leaseDurationSeconds }: LeaseRecord, leaseDuration: bigint): bigint =>
  leaseDurationSeconds === undefined ? leaseDuration : BigInt(leaseDurationSeconds) * 1_000_000_000n

/**
 * When the holder counts as dead: no sign of life seen here for the *holder's*
 * duration (ours where it is missing), which an edit may lengthen, and not
 * shorten: a leader that is cut off does not know of it. Any change at all counts as one where
 * the record is not what a live holder leaves there:
 *
 * - without holder, and not released (made by hand, or a live Lease emptied in
 *   place by a deployment tool): its leader may not have noticed yet. For our
 *   duration.
 * - under our own name: it is not ours (or it would have been recognised), and
 *   what we wrote ourselves once may have been put back over another's, while
 *   we were cut off and saw nothing of that one. It then says what we knew
 *   already, and is a sign of life all the same.
 */
export const expiresAt = (
  observation: Observation,
  lease: LeaseRecord,
  candidate: { readonly identity: string; readonly leaseDuration: bigint }
): bigint => {
  const { holderIdentity } = lease
  const least = BigInt(observation.heldFor) * 1_000_000_000n
  if (holderIdentity === "") {
    return observation.changedAt + later(candidate.leaseDuration, least)
  }
  const since = holderIdentity === candidate.identity ? observation.changedAt : observation.signOfLifeAt
  return since + later(holdersDuration(lease, candidate.leaseDuration), least)
}

/** The part of leaseDuration by which a program that lost its term must have ended. */
export const programDeadline = (leaseDuration: bigint): bigint => (leaseDuration * 95n) / 100n

export interface Timing {
  readonly leaseDuration: bigint
  readonly renewInterval: bigint
  readonly renewDeadline: bigint
  readonly retryPeriod: bigint
  readonly requestTimeout: bigint
}

/** A request that failed: when it began, when it ended, and what the server asked to wait from then. */
export interface Failure {
  readonly start: bigint
  readonly end: bigint
  readonly retryAfter: bigint | undefined
}

/**
 * The start of a holder's next attempt after a failure: retryPeriod after its
 * start, or what the server asked for, cut so that one whole requestTimeout
 * remains before the deadline.
 */
export const holderRetriesAt = (failure: Failure, succeeded: bigint, timing: Timing): bigint => {
  const retry = failure.start + timing.retryPeriod
  const latest = succeeded + timing.renewDeadline - timing.requestTimeout
  return failure.retryAfter === undefined
    ? retry
    : later(retry, sooner(failure.end + failure.retryAfter, latest))
}

/** The same for a candidate, with leaseDuration as the limit of what a server may ask for. */
export const candidateRetriesAt = (
  failure: Failure,
  timing: { readonly retryPeriod: bigint; readonly leaseDuration: bigint }
): bigint =>
  later(failure.start + timing.retryPeriod, failure.end + sooner(failure.retryAfter ?? 0n, timing.leaseDuration))

/**
 * Whether a record's leaseDuration differs so much from one's own that a change
 * of it may be under way in one step: more than one and a half times, or less
 * than two thirds.
 */
export const isFarFrom = (recordSeconds: number | undefined, leaseDuration: bigint): boolean => {
  const own = Number(leaseDuration) / 1e9
  return recordSeconds !== undefined && (recordSeconds > own * 1.5 || recordSeconds * 1.5 < own)
}
