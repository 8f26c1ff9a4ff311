/**
 * What to do about the Lease: the decision table of the protocol, as two pure
 * functions.
 *
 * @internal
 */
import type { LossReason } from "../../LeaderElectionError.ts"
import type { TakeoverCause } from "../../LeaderElectionStatus.ts"
import type { LeaseRecord } from "../../LeaseRecord.ts"
import * as Attempts from "./attempts.ts"
import * as Instance from "./instance.ts"
import { instanceOf, isFirst, type Observation } from "./observation.ts"
import { expiresAt } from "./timing.ts"

/** What distinguishes a candidate and its records from all others. */
export interface CandidateIdentity {
  readonly identity: string
  /** The instance id of this campaign. */
  readonly instance: string
  /** This candidate's own leaseDuration, in nanoseconds. */
  readonly leaseDuration: bigint
}

export type { TakeoverCause } from "../../LeaderElectionStatus.ts"

export type Decision =
  /** Nothing is known yet. */
  | { readonly _tag: "Read" }
  | { readonly _tag: "Create" }
  /** Take the Lease with one write guarded by this record's version. */
  | { readonly _tag: "Take"; readonly lease: LeaseRecord; readonly cause: TakeoverCause }
  /** A write of this campaign whose answer has not come was committed: the Lease is held from its start. */
  | { readonly _tag: "Adopt"; readonly lease: LeaseRecord; readonly attempt: Attempts.Attempt }
  /** Leave it alone until `until` (monotonic), unless something is observed before. */
  | {
    readonly _tag: "Wait"
    readonly until: bigint
    readonly lease: LeaseRecord
    /** Set where a live process with this same identity holds the Lease. */
    readonly duplicate: boolean
  }

/** The duration that a released Lease carries, in seconds: client-go's mark of a release. */
export const releasedDurationSeconds = 1

/** Whether the last holder gave the Lease up: free at once. */
export const isReleased = (lease: LeaseRecord): boolean =>
  lease.holderIdentity === "" && lease.leaseDurationSeconds === releasedDurationSeconds

/** What a candidate does, given what it has seen and which of its writes may have been committed. */
export const decide = (
  observation: Observation,
  attempts: ReadonlyArray<Attempts.Attempt>,
  candidate: CandidateIdentity,
  now: bigint
): Decision => {
  const lease = observation.lease
  if (lease === "unknown") {
    return { _tag: "Read" }
  }
  if (lease === "absent") {
    return { _tag: "Create" }
  }
  if (isReleased(lease)) {
    return { _tag: "Take", lease, cause: "released" }
  }
  const own = lease.holderIdentity === candidate.identity
  const instance = instanceOf(lease)
  // This campaign's own write, read back. Without this a candidate whose answers are lost would write for ever. A dead
  // one is as any other record under our name: it may have been put back beside a leader that is valid.
  const adopted = own && instance === candidate.instance ? Attempts.shownBy(attempts, lease) : undefined
  if (adopted !== undefined) {
    return { _tag: "Adopt", lease, attempt: adopted }
  }
  // An earlier process of this Pod (its container was restarted): a new guarded write, and with it a new term. Only
  // what stood there at the first look: an older record may have been put back since, beside a leader that is valid.
  if (own && Instance.isPredecessor(instance, candidate.instance) && isFirst(observation, lease)) {
    return { _tag: "Take", lease, cause: "resumed" }
  }
  const until = expiresAt(observation, lease, candidate)
  return now >= until
    ? { _tag: "Take", lease, cause: "expired" }
    : { _tag: "Wait", until, lease, duplicate: own && Instance.startedAfter(instance, candidate.instance) }
}

/** Whether the record is this campaign's. A record of ours that lost its annotation in an edit still is. */
export const isHeldBy = (lease: LeaseRecord, candidate: CandidateIdentity): boolean =>
  lease.holderIdentity === candidate.identity && (instanceOf(lease) ?? candidate.instance) === candidate.instance

/**
 * Why the holder of this Lease has lost it, judging by what was observed;
 * `undefined` while it holds it.
 */
export const lossOf = (observation: Observation, uid: string, candidate: CandidateIdentity): LossReason | undefined => {
  const lease = observation.lease
  if (lease === "unknown") {
    return undefined
  }
  if (lease === "absent" || lease.uid !== uid) {
    return "LeaseDeleted"
  }
  if (isHeldBy(lease, candidate)) {
    return undefined
  }
  // Where the instance did not start after this one, somebody has put an older record back: that ends a term, and not
  // the process.
  return lease.holderIdentity === candidate.identity && Instance.startedAfter(instanceOf(lease), candidate.instance)
    ? "DuplicateIdentity"
    : "LeaseTaken"
}
