/**
 * What a candidate knows of the Lease, and since when.
 *
 * Snapshots come from the watch, from reads and from write responses, in any
 * order (an event beats its own write's response about every third time). This
 * file decides which of them count, and which are signs of life. Times are the
 * monotonic clock's, taken when a snapshot was *handled* here: nothing is ever
 * concluded from the times in the record.
 *
 * @internal
 */
import { isSignOfLife, type LeaseRecord } from "../../LeaseRecord.ts"
import { isMarked } from "./youngLease.ts"

export { instanceOf, isSignOfLife } from "../../LeaseRecord.ts"

export interface Observation {
  /** The newest state known: a record, its absence, or nothing yet. */
  readonly lease: LeaseRecord | "absent" | "unknown"
  /** The newest version known, of a record or of a deletion. */
  readonly version: bigint
  /** Counts the snapshots that changed what is known: a read that began at this count began after them all. */
  readonly revision: number
  /**
   * The duration that the last holder wrote, in seconds, or a longer one that
   * was edited in since; 0 where it wrote none.
   */
  readonly heldFor: number
  /** When the last sign of life of a holder was handled. */
  readonly signOfLifeAt: bigint
  /** When the last change of version was handled. */
  readonly changedAt: bigint
  /** When the state was last reported, changed or not. */
  readonly reportedAt: bigint
  /** When an object with this uid was first seen here. */
  readonly firstSeenAt: bigint
  /** When the age mark was first seen on this object here. */
  readonly markedAt: bigint | undefined
  /** The first snapshot of this election, whatever brought it: only that very version may be resumed. */
  readonly first: { readonly uid: string; readonly version: bigint } | "absent" | undefined
}

export const initial: Observation = {
  lease: "unknown",
  version: 0n,
  revision: 0,
  heldFor: 0,
  signOfLifeAt: 0n,
  changedAt: 0n,
  reportedAt: 0n,
  firstSeenAt: 0n,
  markedAt: undefined,
  first: undefined
}

/** Whether this is the very version that this election saw first. */
export const isFirst = ({ first }: Observation, lease: LeaseRecord): boolean =>
  first !== undefined && first !== "absent" && first.uid === lease.uid && first.version === lease.resourceVersion

/**
 * Every write of an elector has a renewTime of its own. What keeps the one
 * before is somebody's edit, and of that the leader need not know: it goes on
 * for the duration that it has written itself.
 */
const heldFor = (observation: Observation, before: LeaseRecord, lease: LeaseRecord): number => {
  const written = holdersSeconds(lease)
  const isEdited = lease.renewTime === undefined || lease.renewTime === before.renewTime
  return isEdited && observation.heldFor > written ? observation.heldFor : written
}

const holdersSeconds = ({ holderIdentity, leaseDurationSeconds = 0 }: LeaseRecord): number =>
  holderIdentity === "" ? 0 : leaseDurationSeconds

const seePresent = (observation: Observation, lease: LeaseRecord, now: bigint): Observation => {
  const before = observation.lease
  const first = observation.first ?? { uid: lease.uid, version: lease.resourceVersion }
  if (typeof before === "string" || before.uid !== lease.uid) {
    // Another object: its age is its own, whatever was known of its namesake.
    return {
      lease,
      version: lease.resourceVersion,
      revision: observation.revision + 1,
      heldFor: holdersSeconds(lease),
      signOfLifeAt: now,
      changedAt: now,
      reportedAt: now,
      firstSeenAt: now,
      markedAt: isMarked(lease) ? now : undefined,
      first
    }
  }
  // After etcd was restored from a backup a version can come a second time, with another content.
  if (before.resourceVersion === lease.resourceVersion && !isSignOfLife(before, lease)) {
    return { ...observation, reportedAt: now }
  }
  return {
    ...observation,
    lease,
    version: lease.resourceVersion,
    revision: observation.revision + 1,
    heldFor: heldFor(observation, before, lease),
    signOfLifeAt: isSignOfLife(before, lease) ? now : observation.signOfLifeAt,
    changedAt: now,
    reportedAt: now,
    markedAt: observation.markedAt ?? (isMarked(lease) ? now : undefined)
  }
}

const seeAbsent = (observation: Observation, version: bigint, now: bigint): Observation => ({
  ...observation,
  lease: "absent",
  first: observation.first ?? "absent",
  version,
  revision: observation.lease === "absent" ? observation.revision : observation.revision + 1,
  reportedAt: now
})

const isNews = (observation: Observation, lease: LeaseRecord): boolean =>
  lease.resourceVersion > observation.version ||
  (typeof observation.lease !== "string" &&
    observation.lease.uid === lease.uid &&
    observation.lease.resourceVersion === lease.resourceVersion)

/** An ADDED or MODIFIED event: dropped where it is older than what is known. */
export const onApplied = (observation: Observation, lease: LeaseRecord, now: bigint): Observation =>
  isNews(observation, lease) ? seePresent(observation, lease, now) : observation

/**
 * A DELETED event. It counts only for the object that is known: that of an
 * earlier object of the same name says nothing about this one.
 */
export const onDeleted = (observation: Observation, lease: LeaseRecord, now: bigint): Observation => {
  if (lease.resourceVersion <= observation.version) {
    return observation
  }
  if (typeof observation.lease !== "string" && observation.lease.uid !== lease.uid) {
    return observation
  }
  return observation.lease === "unknown"
    ? { ...observation, first: observation.first ?? "absent", version: lease.resourceVersion }
    : seeAbsent(observation, lease.resourceVersion, now)
}

/**
 * The response of our own write, begun at revision `begun`. Where nothing newer
 * was seen since, it is what followed the state it was decided on, whatever its
 * version (etcd may have been restored); else the versions decide.
 */
export const onWritten = (
  observation: Observation,
  begun: number,
  lease: LeaseRecord,
  now: bigint
): Observation =>
  begun === observation.revision || isNews(observation, lease) ? seePresent(observation, lease, now) : observation

/**
 * A read, or the 404 of a patch, begun at revision `begun`. One that began
 * after the newest snapshot was seen is the truth, whatever its version. One
 * that began before counts only where its version is newer; a late 404 has no
 * version, and must neither end a term nor start a create: `undefined` asks for
 * another read.
 */
export const onRead = (
  observation: Observation,
  begun: number,
  lease: LeaseRecord | "absent",
  now: bigint
): Observation | undefined => {
  if (begun === observation.revision) {
    return lease === "absent" ? seeAbsent(observation, observation.version, now) : seePresent(observation, lease, now)
  }
  return lease !== "absent" && isNews(observation, lease) ? seePresent(observation, lease, now) : undefined
}
