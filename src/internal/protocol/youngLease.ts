/**
 * When a young Lease may be led on.
 *
 * A Lease that was deleted and created again leaves the leader of the earlier
 * one valid for up to renewDeadline more. So no term begins on an object before
 * it is known to be older than leaseDuration: seen here for that long, or
 * marked by a process that has seen it for that long.
 *
 * @internal
 */
import { ageMarkAnnotation, type LeaseRecord } from "../../LeaseRecord.ts"
import type { Observation } from "./observation.ts"
import type { Claim } from "./renewal.ts"

/**
 * Whether the object carries the age mark: an annotation whose value is the
 * object's own uid. Servers assign uids, so no copy, backup or `kubectl apply`
 * carries the mark to another object.
 */
export const isMarked = (lease: LeaseRecord): boolean =>
  lease.uid !== "" && lease.annotations[ageMarkAnnotation] === lease.uid

/**
 * The monotonic time from which the object is known to be older than
 * leaseDuration: seen here, by this uid, for that long, or found with the age
 * mark on it. No clock but our own takes part. No term begins before it: an
 * absent Lease does not prove that nobody leads, and the leader of a deleted
 * one may be valid for up to renewDeadline more.
 */
export const oldEnoughAt = (observation: Observation, leaseDuration: bigint): bigint => {
  const seen = observation.firstSeenAt + leaseDuration
  return observation.markedAt !== undefined && observation.markedAt < seen ? observation.markedAt : seen
}

/**
 * Whether the term may begin: the success that validity counts from was an
 * attempt that *started* when the object was known to be old. A renewal begun
 * before, and read back later, does not begin it.
 */
export const mayBegin = (claim: Claim, observation: Observation, leaseDuration: bigint): boolean =>
  claim.validFrom.monotonic >= oldEnoughAt(observation, leaseDuration)

/**
 * Whether a write that starts at `start` is to add the age mark: only a process
 * that itself knows the object to be old, and only where it is missing. Leading
 * gives no right to it: under `newLease: "lead"` a leader may hold an object
 * that is a moment old.
 */
export const needsMark = (observation: Observation, start: bigint, leaseDuration: bigint): boolean =>
  typeof observation.lease !== "string" && !isMarked(observation.lease) &&
  start >= oldEnoughAt(observation, leaseDuration)
