/**
 * What each write of the protocol changes.
 *
 * @internal
 */
import {
  ageMarkAnnotation,
  instanceAnnotation,
  type LeaseRecord,
  type LeaseWrite,
  maxLeaseTransitions,
  noteAnnotation,
  type OwnerReference,
  stepDownAnnotation
} from "../../LeaseRecord.ts"
import { type CandidateIdentity, releasedDurationSeconds } from "./decision.ts"
import { instanceOf } from "./observation.ts"

/** The Pod that owns the Lease while its process holds it. */
export interface Pod {
  readonly name: string
  readonly uid: string
}

/** What a candidate writes of itself. */
export interface Candidate extends CandidateIdentity {
  readonly leaseDurationSeconds: number
  /** No Pod, no reference: one that names no existing Pod costs the Lease within 10 ms. */
  readonly pod: Pod | undefined
  /** What this holder publishes with the Lease. */
  readonly note?: string | undefined
}

/**
 * A renewTime found nowhere else, by which a write can be recognised when it is
 * read back. It also differs from the stored one, because a write that changes
 * nothing leaves the version as it was, and followers would see a dead leader.
 */
export const uniqueRenewTime = (wallClock: bigint, lastWritten: bigint, stored: bigint | undefined): bigint => {
  const unique = wallClock > lastWritten ? wallClock : lastWritten + 1n
  return unique === stored ? unique + 1n : unique
}

const isPod = (reference: OwnerReference): boolean => reference.kind === "Pod" && reference.apiVersion === "v1"

/**
 * The owner references with this holder's Pod as the only Pod among them. The
 * reference to a former holder's Pod is removed, or the Lease would be deleted
 * with it; references of other kinds are somebody's intention, and stay.
 */
export const ownedBy = (
  references: ReadonlyArray<OwnerReference>,
  pod: Pod | undefined
): ReadonlyArray<OwnerReference> => {
  const others = references.filter((reference) => !isPod(reference))
  return pod === undefined ? others : [...others, { apiVersion: "v1", kind: "Pod", name: pod.name, uid: pod.uid }]
}

const sameReferences = (left: ReadonlyArray<OwnerReference>, right: ReadonlyArray<OwnerReference>): boolean =>
  left.length === right.length &&
  left.every((reference, index) =>
    reference.uid === right[index]!.uid && reference.name === right[index]!.name &&
    reference.kind === right[index]!.kind && reference.apiVersion === right[index]!.apiVersion
  )

/** The list to write, or nothing where it would not change: setting it needs a right that not everyone has. */
const changedReferences = (lease: LeaseRecord, pod: Pod | undefined) => {
  const references = ownedBy(lease.ownerReferences, pod)
  return sameReferences(references, lease.ownerReferences) ? {} : { ownerReferences: references }
}

/** The holder's note, where it is not there already; its predecessor's is removed. */
const published = (note: string | undefined, lease?: LeaseRecord) =>
  note === lease?.annotations[noteAnnotation] ? {} : { [noteAnnotation]: note ?? null }

export const create = (candidate: Candidate, renewTime: bigint): LeaseWrite => ({
  holderIdentity: candidate.identity,
  leaseDurationSeconds: candidate.leaseDurationSeconds,
  acquireTime: renewTime,
  renewTime,
  leaseTransitions: 0,
  annotations: { [instanceAnnotation]: candidate.instance, ...published(candidate.note) },
  ...(candidate.pod !== undefined && { ownerReferences: ownedBy([], candidate.pod) })
})

const ageMark = (lease: LeaseRecord, mark: boolean) => mark ? { [ageMarkAnnotation]: lease.uid } : {}

/**
 * Takes or resumes the Lease in place. `owner: false` leaves the owner
 * references alone; `mark` adds the age mark.
 */
export const take = (
  candidate: Candidate,
  lease: LeaseRecord,
  renewTime: bigint,
  options: { readonly owner: boolean; readonly mark: boolean }
): LeaseWrite => ({
  holderIdentity: candidate.identity,
  leaseDurationSeconds: candidate.leaseDurationSeconds,
  acquireTime: renewTime,
  renewTime,
  leaseTransitions: lease.holderIdentity === candidate.identity
    ? lease.leaseTransitions
    : Math.min(lease.leaseTransitions + 1, maxLeaseTransitions),
  annotations: {
    [instanceAnnotation]: candidate.instance,
    ...published(candidate.note, lease),
    ...ageMark(lease, options.mark),
    // Asked of the leader before: this term is not meant.
    ...(lease.annotations[stepDownAnnotation] !== undefined && { [stepDownAnnotation]: null })
  },
  ...(options.owner && changedReferences(lease, candidate.pod))
})

/**
 * Renews. The holder and the duration are written each time, because somebody
 * may have shortened the duration that followers wait for; the instance, the note
 * and the age mark where they are missing.
 */
export const renew = (
  candidate: Candidate,
  lease: LeaseRecord,
  renewTime: bigint,
  options: { readonly mark: boolean }
): LeaseWrite => {
  const annotations = {
    ...(instanceOf(lease) === undefined && { [instanceAnnotation]: candidate.instance }),
    ...published(candidate.note, lease),
    ...ageMark(lease, options.mark)
  }
  return {
    holderIdentity: candidate.identity,
    leaseDurationSeconds: candidate.leaseDurationSeconds,
    renewTime,
    ...(Object.keys(annotations).length > 0 && { annotations })
  }
}

/** The guarded write that begins a term on a Lease that was held while it was young. */
export const begin = (
  candidate: Candidate,
  lease: LeaseRecord,
  renewTime: bigint,
  options: { readonly mark: boolean }
): LeaseWrite => ({
  ...renew(candidate, lease, renewTime, options),
  acquireTime: renewTime
})

/**
 * Releases: no holder, no owner, and a duration of one second, the mark by
 * which every implementation may take it at once. The note is removed with the holder.
 */
export const release = (
  lease: LeaseRecord,
  renewTime: bigint,
  options: { readonly owner: boolean }
): LeaseWrite => ({
  holderIdentity: "",
  leaseDurationSeconds: releasedDurationSeconds,
  renewTime,
  annotations: { [instanceAnnotation]: null, ...published(undefined, lease) },
  ...(options.owner && changedReferences(lease, undefined))
})
