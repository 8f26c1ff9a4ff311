/**
 * Attempts: requests that began and whose outcome is not known yet.
 *
 * An attempt is not given up when the next one begins. *Open* (its answer is
 * awaited), *living* (it may still be committed, or recognised when it is read
 * back) and *dead* are three things:
 *
 * - A time-out, a 504, a broken connection or a slot that was given up ends
 *   "open" only: the write may still be committed.
 * - A newer version of the Lease than the one that a write is guarded by ends
 *   "living": it can never be committed any more. But that whose renewTime the
 *   newer version shows *was* committed.
 * - Its own start + the limit (renewDeadline for a holder; leaseDuration for a
 *   candidate and for reads) ends both.
 *
 * The dead count for nothing: they are not in the list.
 *
 * @internal
 */
import type { LeaseRecord } from "../../LeaseRecord.ts"
import type { Moment } from "./timing.ts"

/** A request under way: a read, or a write. */
export interface Request {
  /** Grows from request to request of one election. */
  readonly id: number
  /** Read before anything else: the request queued, a token fetched, a connection opened. */
  readonly start: Moment
  readonly open: boolean
}

/** A guarded write. */
export interface Attempt extends Request {
  /** The version that it was decided on; a create is guarded by absence. */
  readonly guard: bigint | "absent"
  /** Found nowhere else: by it the write is recognised. */
  readonly renewTime: bigint
}

/** Those that are living, in the order in which they began. */
export type Attempts = ReadonlyArray<Attempt>

/** How many requests of one kind may be open: a slow server gets its time, and a dead path is tried again. */
export const maxOpen = 3

const close = <R extends Request>(requests: ReadonlyArray<R>, id: number): ReadonlyArray<R> =>
  requests.map((request) => request.id === id ? { ...request, open: false } : request)

/** Those whose answers are awaited. */
export const open = <R extends Request>(requests: ReadonlyArray<R>): ReadonlyArray<R> =>
  requests.filter((request) => request.open)

/**
 * What must be given up for another request to begin: the *newest* of three,
 * never the two oldest. So a slow server gets its time, and the third slot
 * tries a dead path again every retryPeriod.
 */
export const givenUp = <R extends Request>(requests: ReadonlyArray<R>): R | undefined => {
  const awaited = open(requests)
  return awaited.length < maxOpen ? undefined : awaited.at(-1)
}

/** Another request begins beside those under way. */
export const begun = <R extends Request>(requests: ReadonlyArray<R>, request: R): ReadonlyArray<R> => {
  const old = givenUp(requests)
  return [...(old === undefined ? requests : close(requests, old.id)), request]
}

/** Its answer has come and leaves nothing open: it was committed, or certainly was not. */
export const settled = <R extends Request>(requests: ReadonlyArray<R>, id: number): ReadonlyArray<R> =>
  requests.filter((request) => request.id !== id)

/** No answer will come any more, and whether the write was or will be committed is not known. */
export const unanswered = close

/** Without those whose time is over at `now` (monotonic). */
export const expired = <R extends Request>(requests: ReadonlyArray<R>, now: bigint, limit: bigint): ReadonlyArray<R> =>
  requests.some((request) => now - request.start.monotonic >= limit)
    ? requests.filter((request) => now - request.start.monotonic < limit)
    : requests

/** Whether the attempt may still be committed, or was, where the Lease is this. */
const isLiving = (attempt: Attempt, lease: LeaseRecord | "absent" | "unknown"): boolean =>
  lease === "unknown"
    ? true
    : lease === "absent"
    ? attempt.guard === "absent"
    : attempt.guard === lease.resourceVersion || attempt.renewTime === lease.renewTime

/** Without those that the newest state of the Lease has killed. */
export const living = (attempts: Attempts, lease: LeaseRecord | "absent" | "unknown"): Attempts =>
  attempts.every((attempt) => isLiving(attempt, lease))
    ? attempts
    : attempts.filter((attempt) => isLiving(attempt, lease))

/** The attempt that wrote what the Lease shows. */
export const shownBy = (attempts: Attempts, lease: LeaseRecord): Attempt | undefined =>
  attempts.find((attempt) => attempt.renewTime === lease.renewTime)
