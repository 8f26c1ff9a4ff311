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
import type { TakeoverCause } from "./decision.ts"
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
  /** How this came to be written. */
  readonly cause: TakeoverCause | "renewal" | "release"
}

/** How many requests of one kind may be open: a slow server gets its time, and a dead path is tried again. */
export const maxOpen = 3

/**
 * The requests of one kind, and when the next may begin. *This is the rule that
 * makes a loop at full speed impossible:* of those that failed at most
 * three begin within one retryPeriod, whatever the reason (an answer, a
 * conflict, a version that killed them, a holding that was lost at once).
 */
export interface Series<R extends Request> {
  /** Those that are living, in the order in which they began. */
  readonly requests: ReadonlyArray<R>
  /**
   * Those whose guard did not hold, until what is there now is known: a proxy
   * may have sent one twice, and the conflict answers the second time. They are
   * recognised when they are read back, and count for nothing else.
   */
  readonly conflicting: ReadonlyArray<R>
  /** Starts of the newest three since the last that came to something. */
  readonly starts: ReadonlyArray<bigint>
  /** After a failure: what the server asked for, or the pause after a second conflict. */
  readonly notBefore: bigint
  /** Consecutive conflicts. */
  readonly conflicts: number
}

export const none: Series<never> = { requests: [], conflicting: [], starts: [], notBefore: 0n, conflicts: 0 }

export interface Pace {
  readonly retryPeriod: bigint
  readonly requestTimeout: bigint
}

const close = <R extends Request>(series: Series<R>, id: number): Series<R> => ({
  ...series,
  requests: series.requests.map((request) => request.id === id ? { ...request, open: false } : request)
})

/** Those whose answers are awaited. */
export const open = <R extends Request>({ requests }: Series<R>): ReadonlyArray<R> =>
  requests.filter((request) => request.open)

/** Whether the request counts for anything. */
export const isAlive = <R extends Request>({ requests }: Series<R>, id: number): boolean =>
  requests.some((request) => request.id === id)

/**
 * What must be given up for another request to begin: the *newest* of three,
 * never the two oldest. So a slow server gets its time, and the third slot
 * tries a dead path again every retryPeriod. It stays recognised.
 */
export const givenUp = <R extends Request>(series: Series<R>): R | undefined => {
  const awaited = open(series)
  return awaited.length < maxOpen ? undefined : awaited.at(-1)
}

/** Those whose answers are still awaited when another request begins. */
export const beside = <R extends Request>(series: Series<R>): ReadonlyArray<R> => {
  const old = givenUp(series)
  return open(series).filter((request) => request !== old)
}

/** Another request begins beside those under way. */
export const begun = <R extends Request>(series: Series<R>, request: R): Series<R> => {
  const old = givenUp(series)
  const { requests } = old === undefined ? series : close(series, old.id)
  return {
    ...series,
    requests: [...requests, request],
    starts: [...series.starts, request.start.monotonic].slice(-maxOpen)
  }
}

/** It was not done, for certain; the next one begins no sooner than `notBefore`. The dead change nothing. */
export const refused = <R extends Request>(series: Series<R>, id: number, notBefore: bigint): Series<R> =>
  isAlive(series, id)
    ? {
      ...series,
      requests: series.requests.filter((request) => request.id !== id),
      notBefore: notBefore > series.notBefore ? notBefore : series.notBefore
    }
    : series

/** Its guard did not hold. The first may be followed at once, from the second consecutive one on not before `pause`. */
export const conflicted = <R extends Request>(series: Series<R>, id: number, pause: bigint): Series<R> => {
  const request = series.requests.find((request) => request.id === id)
  return request === undefined ? series : {
    ...refused(series, id, series.conflicts > 0 ? pause : 0n),
    conflicting: [...series.conflicting, request],
    conflicts: series.conflicts + 1
  }
}

/** Another leads, so that what follows is no longer the same contest: the next conflict is a first one. */
export const uncontested = <R extends Request>(series: Series<R>): Series<R> =>
  series.conflicts === 0 ? series : { ...series, conflicts: 0 }

/** No answer will come any more, and whether the write was or will be committed is not known. */
export const unanswered = <R extends Request>(series: Series<R>, id: number, notBefore: bigint): Series<R> =>
  isAlive(series, id)
    ? { ...close(series, id), notBefore: notBefore > series.notBefore ? notBefore : series.notBefore }
    : series

/** The request that began at `start` came to something: those before it count for nothing any more. */
export const succeeded = <R extends Request>(series: Series<R>, start: bigint): Series<R> => ({
  requests: series.requests.filter((request) => request.start.monotonic > start),
  conflicting: series.conflicting.filter((request) => request.start.monotonic > start),
  starts: series.starts.filter((other) => other > start),
  notBefore: 0n,
  conflicts: 0
})

/** Without those that do not hold; the same series where all do. */
const keep = <R extends Request>(series: Series<R>, holds: (request: R) => boolean): Series<R> =>
  series.requests.every(holds) && series.conflicting.every(holds)
    ? series
    : { ...series, requests: series.requests.filter(holds), conflicting: series.conflicting.filter(holds) }

/** Without those whose time is over at `now` (monotonic). */
export const expired = <R extends Request>(series: Series<R>, now: bigint, limit: bigint): Series<R> =>
  keep(series, (request) => now - request.start.monotonic < limit)

/**
 * The earliest start of the next one: retryPeriod after that of the last, or
 * requestTimeout where that one has no answer yet and this is longer; what the
 * server asked for; and never more than three in a retryPeriod. An `urgent` one
 * (somebody asked for it) waits for the last alone. A result in the past means
 * at once.
 */
export const dueAt = <R extends Request>(series: Series<R>, pace: Pace, urgent = false): bigint => {
  const last = series.requests.at(-1)
  const gap = last?.open === true && pace.requestTimeout > pace.retryPeriod ? pace.requestTimeout : pace.retryPeriod
  const crowded = series.starts.length < maxOpen ? 0n : series.starts[0]! + pace.retryPeriod
  if (urgent) {
    return crowded
  }
  const spaced = last === undefined ? 0n : last.start.monotonic + gap
  const later = spaced > series.notBefore ? spaced : series.notBefore
  return later > crowded ? later : crowded
}

/** Whether the attempt may still be committed, or was, where the Lease is this. */
const isLiving = (attempt: Attempt, lease: LeaseRecord | "absent" | "unknown"): boolean =>
  lease === "unknown"
    ? true
    : lease === "absent"
    ? attempt.guard === "absent"
    : attempt.guard === lease.resourceVersion || attempt.renewTime === lease.renewTime

/** Without those that the newest state of the Lease has killed. */
export const living = (series: Series<Attempt>, lease: LeaseRecord | "absent" | "unknown"): Series<Attempt> =>
  keep(series, (attempt) => isLiving(attempt, lease))

/** All that are recognised when they are read back. */
export const recognised = ({ conflicting, requests }: Series<Attempt>): ReadonlyArray<Attempt> =>
  conflicting.length === 0 ? requests : [...conflicting, ...requests]

/** The attempt that wrote what the Lease shows. */
export const shownBy = (attempts: ReadonlyArray<Attempt>, lease: LeaseRecord): Attempt | undefined =>
  attempts.find((attempt) => attempt.renewTime === lease.renewTime)
