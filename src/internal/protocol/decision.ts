/**
 * What to do about the Lease: the decision table of the protocol, as two pure
 * functions.
 *
 * @internal
 */
import type { LossCause } from "../../LeaderElectionError.ts"
import type { LeaseRecord } from "../../LeaseRecord.ts"
import * as Instance from "./instance.ts"
import { instanceOf, type Observation } from "./observation.ts"

export interface Self {
  readonly identity: string
  /** The instance id of this campaign. */
  readonly instance: string
  /** This candidate's own leaseDuration, in nanoseconds. */
  readonly leaseDuration: bigint
}

/** How a candidate comes to hold the Lease. */
export type TakeoverCause = "created" | "released" | "expired" | "resumed"

export type Decision =
  /** Nothing is known yet. */
  | { readonly _tag: "Read" }
  | { readonly _tag: "Create" }
  /** Take the Lease with one write guarded by this record's version. */
  | { readonly _tag: "Take"; readonly lease: LeaseRecord; readonly cause: TakeoverCause }
  /** Leave it alone until `until` (monotonic), unless something is heard before. */
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

/**
 * When the holder counts as dead: no sign of life seen here for the *holder's*
 * duration (ours where it is missing). A Lease without holder that was not
 * released (made by hand, or a live one emptied in place by a deployment tool)
 * may still have a leader who has not noticed: any change of it counts as a
 * sign of life, for our duration.
 */
export const expiresAt = (observation: Observation, lease: LeaseRecord, leaseDuration: bigint): bigint =>
  lease.holderIdentity === ""
    ? observation.changedAt + leaseDuration
    : observation.signOfLifeAt +
      (lease.leaseDurationSeconds === undefined ? leaseDuration : BigInt(lease.leaseDurationSeconds) * 1_000_000_000n)

/** What a candidate does, given what it has seen. */
export const decide = (observation: Observation, self: Self, now: bigint): Decision => {
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
  const own = lease.holderIdentity === self.identity
  const instance = instanceOf(lease)
  // This campaign's own take whose answer was lost, or an earlier process of this Pod: a new guarded
  // write, and with it a new term. Nothing older is ever adopted.
  if (own && (instance === self.instance || Instance.startedBefore(instance, self.instance))) {
    return { _tag: "Take", lease, cause: "resumed" }
  }
  const until = expiresAt(observation, lease, self.leaseDuration)
  return now >= until
    ? { _tag: "Take", lease, cause: "expired" }
    : { _tag: "Wait", until, lease, duplicate: own && instance !== undefined }
}

/** Whether the record is this campaign's. A record of ours that lost its annotation in an edit still is. */
export const isHeldBy = (lease: LeaseRecord, self: Self): boolean =>
  lease.holderIdentity === self.identity && (instanceOf(lease) ?? self.instance) === self.instance

/**
 * Why who holds the Lease with this uid holds it no longer, given what it has
 * seen; `undefined` while it does.
 */
export const lossOf = (observation: Observation, uid: string, self: Self): LossCause | undefined => {
  const lease = observation.lease
  if (lease === "unknown") {
    return undefined
  }
  if (lease === "absent" || lease.uid !== uid) {
    return "LeaseDeleted"
  }
  if (isHeldBy(lease, self)) {
    return undefined
  }
  return lease.holderIdentity === self.identity ? "DuplicateIdentity" : "LeaseTaken"
}
