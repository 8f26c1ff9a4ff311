/**
 * What a failed request means, by the role in which it was made: one table.
 *
 * Only the API server's own refusals can end a candidate, and only when they
 * persist: a server that starts refuses for a while, because its authorization
 * is not in sync; a Role may be about to be replaced; a webhook may be broken
 * for a minute. Everything that is not the API server's own answer arrives here
 * as `LeaseUnavailable`, whatever its code, and never ends anything.
 *
 * @internal
 */
import type { LeaseErrorReason, LeaseVerb } from "../../LeaseError.ts"

/** In which role a request is made. */
export type Role =
  /** Reads, creates and takes while campaigning. */
  | "candidate"
  /** Writes and reads while the Lease is held, before the term and during it. */
  | "holder"
  /** The release, and the reads between its attempts. */
  | "releasing"
  /** The watch, in any role. */
  | "watching"

export type Meaning =
  /** The Lease is known to be absent. For a holder: it is lost. For a release: nothing is left to do. */
  | "Absent"
  /** The guard did not hold: find out what is there now. */
  | "Read"
  /** Refused by the API server. A candidate that gets no other answer for long ends; a holder goes on to its deadline. */
  | "Refused"
  /** Only the change of the owner was refused: the same write without it, at once. */
  | "WithoutOwner"
  /** Try again: at retryPeriod, or when the server asks for it. */
  | "Retry"
  /** The watch cannot go on from its version: open it without one, and read. */
  | "StartOver"
  /** Watching is not granted: poll, and try the watch again much later. */
  | "Poll"

/** The table. */
export const meaningOf = (role: Role, verb: LeaseVerb, reason: LeaseErrorReason): Meaning => {
  if (role === "watching") {
    return whileWatching(reason)
  }
  switch (reason._tag) {
    case "LeaseConflict":
      return "Read"
    case "LeaseNotFound":
      // The answer to a create speaks of the namespace, which somebody may be about to create.
      return verb === "create" ? "Refused" : "Absent"
    case "LeaseForbidden":
      return reason.ownerReferences ? "WithoutOwner" : "Refused"
    case "LeaseInvalid":
      return "Refused"
    // Credentials are read anew for each attempt: tomorrow's may be right.
    case "LeaseUnauthorized":
    case "LeaseExpired":
    case "LeaseUnavailable":
      return "Retry"
  }
}

const whileWatching = (reason: LeaseErrorReason): Meaning => {
  switch (reason._tag) {
    case "LeaseExpired":
      return "StartOver"
    case "LeaseForbidden":
    case "LeaseInvalid":
      return "Poll"
    default:
      return "Retry"
  }
}

/** Consecutive refusals of one verb: when the first was asked for, and when the last was answered. */
export interface Streak {
  readonly since: bigint
  readonly last: bigint
}

/** The shortest time for which a candidate puts up with refusals, in nanoseconds. */
export const leastPatience = 60_000_000_000n

/**
 * The streak after one more refusal of the same verb. Only consecutive refusals
 * form a streak: nobody knows what would have been granted in a gap in which
 * nothing was answered, so a refusal long after the last one starts anew.
 */
export const refused = (
  streak: Streak | undefined,
  request: { readonly start: bigint; readonly end: bigint },
  timing: { readonly retryPeriod: bigint; readonly requestTimeout: bigint }
): Streak => ({
  since: streak !== undefined && request.start - streak.last <= 2n * timing.retryPeriod + timing.requestTimeout
    ? streak.since
    : request.start,
  last: request.end
})

/** Whether a candidate ends: nothing but refusals for leaseDuration, and for at least a minute. */
export const endsCandidate = (streak: Streak, leaseDuration: bigint): boolean =>
  streak.last - streak.since >= (leaseDuration > leastPatience ? leaseDuration : leastPatience)
