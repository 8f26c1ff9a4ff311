/**
 * What a holder of the Lease knows and does next: from the write that took it
 * until it was released or lost, as a value and its transitions.
 *
 * A claim may exist before its term (a Lease that may be young is held, and
 * waited for) and goes on after it (until the program's finalizers have ended).
 *
 * @internal
 */
import type { LossReason } from "../../LeaderElectionError.ts"
import type { Term } from "../../LeaderElectionStatus.ts"
import { type LeaseRecord, stepDownAnnotation } from "../../LeaseRecord.ts"
import * as Attempts from "./attempts.ts"
import { lossOf, type TakeoverCause } from "./decision.ts"
import type { Observation } from "./observation.ts"
import { elapsed, type Moment, programDeadline, remaining, type Timing } from "./timing.ts"
import type { Candidate } from "./writes.ts"

/** One holding of the Lease. */
export interface Claim {
  readonly candidate: Candidate
  readonly uid: string
  readonly cause: TakeoverCause
  /** The newest record of ours: what the next write is guarded by. */
  readonly lease: LeaseRecord
  /** Start of the last attempt that is known to have succeeded. */
  readonly validFrom: Moment
  /** Its number. */
  readonly validBy: number
  /** The version by which that success is known: of its answer, else of the record that was read back. */
  readonly provenBy: bigint
  readonly renewals: Attempts.Series<Attempts.Attempt>
  /** A conflict that nothing has explained yet: another write on the same version would conflict too. */
  readonly mustRead: boolean
  /** Somebody waits for an attempt that begins after the one with this number. */
  readonly confirmAfter: number | undefined
  /** When the first renewal is due, where it comes early to spread many. */
  readonly firstDue: bigint | undefined
  /** The term, once it has begun. */
  readonly term: Term | undefined
  /** Why the term is over, where it was lost. Final. */
  readonly lost: LossReason | undefined
  /** The Lease is no longer ours: nothing is left to renew or to release. */
  readonly gone: LossReason | undefined
  /** The program has ended, or is being ended by its own side. */
  readonly over: boolean
}

export const make = (
  candidate: Candidate,
  cause: TakeoverCause,
  lease: LeaseRecord,
  attempt: Attempts.Request,
  firstDue: bigint | undefined
): Claim => ({
  candidate,
  uid: lease.uid,
  cause,
  lease,
  validFrom: attempt.start,
  validBy: attempt.id,
  provenBy: lease.resourceVersion,
  renewals: Attempts.none,
  mustRead: false,
  confirmAfter: undefined,
  firstDue,
  term: undefined,
  lost: undefined,
  gone: undefined,
  over: false
})

/** What is left of the leadership's validity: a function of time, never a stored flag. */
export const validity = (claim: Claim, now: Moment, renewDeadline: bigint): bigint =>
  claim.term === undefined || claim.over || claim.lost !== undefined
    ? 0n
    : remaining(claim.validFrom, now, renewDeadline)

/** Ends the term. The first reason stands; nothing that arrives later revives it. */
export const lose = (claim: Claim, reason: LossReason): Claim =>
  claim.lost === undefined ? { ...claim, lost: reason } : claim

/** The program has ended: leadership is over, and nothing that happens to the Lease from now on is a loss. */
export const end = (claim: Claim): Claim => claim.over || claim.lost !== undefined ? claim : { ...claim, over: true }

/** The term begins. */
export const begin = (claim: Claim, term: Term, firstDue: bigint | undefined): Claim => ({ ...claim, term, firstDue })

/** An attempt begins. */
export const attempted = (claim: Claim, attempt: Attempts.Attempt): Claim => ({
  ...claim,
  renewals: Attempts.begun(claim.renewals, attempt),
  firstDue: undefined
})

/** The attempt was committed: validity counts from its own start, whatever began later. */
const extend = (claim: Claim, attempt: Attempts.Request, provenBy: bigint): Claim =>
  attempt.id <= claim.validBy
    ? claim
    : {
      ...claim,
      validFrom: attempt.start,
      validBy: attempt.id,
      provenBy,
      renewals: Attempts.succeeded(claim.renewals, attempt.start.monotonic),
      mustRead: false
    }

/** The answer to an attempt of this holding: it was committed. Also where its snapshot is older than what is known. */
export const committed = (claim: Claim, attempt: Attempts.Request, lease: LeaseRecord): Claim =>
  claim.gone === undefined ? extend(claim, attempt, lease.resourceVersion) : claim

/**
 * Takes in what was seen of the Lease. A record of ours gives the version to go
 * on with, and kills the attempts on older ones; it extends validity only if
 * its renewTime is that of one of our attempts, and then from the start of
 * *that* attempt. Anything else newer (a label, an older write of ours) extends
 * nothing.
 *
 * Once the term is lost, or nothing has succeeded for leaseDuration, our name
 * and instance are not enough: others may have led since, unseen here, and
 * somebody may have put our name, or our last record, over theirs. To renew that
 * record, or to release it, would be to act on their Lease. Within its validity
 * an edit of a term that was lost otherwise (a step-down) is still an edit.
 */
export const observed = (claim: Claim, observation: Observation): Claim => {
  if (claim.gone !== undefined) {
    return claim
  }
  const loss = lossOf(observation, claim.uid, claim.candidate)
  if (loss !== undefined) {
    return lose({ ...claim, gone: loss }, loss)
  }
  const { lease } = observation
  if (typeof lease === "string" || lease === claim.lease) {
    return claim
  }
  const shown = Attempts.shownBy(Attempts.recognised(claim.renewals), lease)
  const mayBeAnothers = claim.lost === "RenewDeadlineExceeded" ||
    observation.changedAt - claim.validFrom.monotonic >= claim.candidate.leaseDuration ||
    (claim.lost !== undefined && lease.renewTime !== claim.lease.renewTime)
  if (shown === undefined && mayBeAnothers) {
    return lose({ ...claim, gone: "LeaseTaken" }, "RenewDeadlineExceeded")
  }
  const known = { ...claim, lease, mustRead: false, renewals: Attempts.living(claim.renewals, lease) }
  const next = shown === undefined ? known : extend(known, shown, lease.resourceVersion)
  return lease.annotations[stepDownAnnotation] === claim.candidate.instance ? lose(next, "SteppedDown") : next
}

/** The guard of an attempt did not hold. What explains it may have arrived already; else it must be read. */
export const conflicted = (claim: Claim, attempt: Attempts.Attempt, pause: bigint): Claim =>
  Attempts.isAlive(claim.renewals, attempt.id)
    ? {
      ...claim,
      renewals: Attempts.conflicted(claim.renewals, attempt.id, pause),
      mustRead: attempt.guard === claim.lease.resourceVersion
    }
    : claim

/** Somebody wants to know that the term goes on: an attempt that begins after that number is due. */
export const asked = (claim: Claim, confirmAfter: number): Claim => ({ ...claim, confirmAfter })

const isUrgent = ({ confirmAfter, renewals, validBy }: Claim): boolean => {
  const last = renewals.requests.at(-1)
  return confirmAfter !== undefined && validBy <= confirmAfter && (last === undefined || last.id <= confirmAfter)
}

/**
 * When the next attempt is due: renewInterval after the start of the last one
 * that succeeded; beside or after one that has not, as the series says; before
 * its term when the Lease is old enough, with the write that begins it.
 */
export const dueAt = (claim: Claim, timing: Timing, oldEnoughAt: bigint | undefined): bigint => {
  if (isUrgent(claim)) {
    return Attempts.dueAt(claim.renewals, timing, true)
  }
  const retry = Attempts.dueAt(claim.renewals, timing)
  if (claim.renewals.requests.length > 0) {
    return retry
  }
  const renewal = claim.firstDue ?? claim.validFrom.monotonic + timing.renewInterval
  const due = oldEnoughAt !== undefined && claim.term === undefined && oldEnoughAt < renewal ? oldEnoughAt : renewal
  return due > retry ? due : retry
}

/** Whether others may have taken the Lease while the program was still running: then it is not released. */
export const hasOverrun = (claim: Claim, now: Moment, leaseDuration: bigint): boolean =>
  elapsed(claim.validFrom, now) >= programDeadline(leaseDuration)

/** How long a program that still runs may go on before it overruns its term. */
export const untilOverrun = (claim: Claim, now: Moment, leaseDuration: bigint): bigint => {
  const left = programDeadline(leaseDuration) - elapsed(claim.validFrom, now)
  return left > 0n ? left : 0n
}
