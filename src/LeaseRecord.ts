/**
 * The Lease as this library reads and writes it, and its codec to
 * `coordination.k8s.io/v1`.
 *
 * Everything that decides about leadership works on {@link LeaseRecord}; only
 * stores that speak the Kubernetes API use {@link FromJson}, {@link decode},
 * {@link toCreateBody} and {@link toPatchBody}. Times are whole microseconds since the Unix epoch, as
 * Kubernetes' `MicroTime` has them, so that none is rounded on its way through.
 *
 * @since 0.1.0
 */
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Json from "./internal/leaseJson.ts"
import * as MicroTime from "./internal/protocol/microTime.ts"

/**
 * Names one Lease object.
 *
 * @category models
 * @since 0.1.0
 */
export interface LeaseKey {
  readonly namespace: string
  readonly name: string
}

/**
 * Formats a key as `namespace/name`.
 *
 * @category models
 * @since 0.1.0
 */
export const formatKey = (key: LeaseKey): string => `${key.namespace}/${key.name}`

/**
 * One entry of `metadata.ownerReferences`. Fields this library does not use are
 * kept in place, because a merge patch replaces the whole list.
 *
 * @category models
 * @since 0.1.0
 */
export interface OwnerReference {
  readonly apiVersion: string
  readonly kind: string
  readonly name: string
  readonly uid: string
  readonly controller?: boolean | undefined
  readonly blockOwnerDeletion?: boolean | undefined
}

/**
 * A Lease as it was stored at one `resourceVersion`.
 *
 * @category models
 * @since 0.1.0
 */
export interface LeaseRecord extends LeaseKey {
  /** Differs between an object and its re-creation under the same name. */
  readonly uid: string
  /** Grows with every change, through deletion and re-creation too (KEP-5504). */
  readonly resourceVersion: bigint
  /** Set while a finalizer holds up the object's deletion, Unix milliseconds. */
  readonly deletionTimestamp: number | undefined
  readonly labels: Readonly<Record<string, string>>
  readonly annotations: Readonly<Record<string, string>>
  readonly ownerReferences: ReadonlyArray<OwnerReference>
  /** `""` where the Lease has no holder: Kubernetes stores that as `""`, null or nothing at all. */
  readonly holderIdentity: string
  readonly leaseDurationSeconds: number | undefined
  /** Unix microseconds. */
  readonly acquireTime: bigint | undefined
  /** Unix microseconds. */
  readonly renewTime: bigint | undefined
  /** 0 where missing. */
  readonly leaseTransitions: number
  /** Set on Leases of Kubernetes' coordinated leader election (KEP-4355). */
  readonly strategy: string | undefined
  /** Set on Leases of Kubernetes' coordinated leader election (KEP-4355). */
  readonly preferredHolder: string | undefined
}

/**
 * What one write changes. A field that is left out stays as it is stored;
 * `null` removes it. `ownerReferences` replaces the list.
 *
 * @category models
 * @since 0.1.0
 */
export interface LeaseWrite {
  readonly holderIdentity?: string
  readonly leaseDurationSeconds?: number
  /** Unix microseconds. */
  readonly acquireTime?: bigint
  /** Unix microseconds. */
  readonly renewTime?: bigint
  readonly leaseTransitions?: number
  readonly labels?: Readonly<Record<string, string>>
  readonly annotations?: Readonly<Record<string, string | null>>
  readonly ownerReferences?: ReadonlyArray<OwnerReference>
}

/**
 * The annotation that carries the instance id of the campaign that holds the
 * Lease: it distinguishes two processes with one identity.
 *
 * @category annotations
 * @since 0.1.0
 */
export const instanceAnnotation = "effect-kubernetes-leader-election/instance"

/**
 * The age mark: an annotation whose value is the Lease's own uid. It says that
 * a process has seen this very object for leaseDuration, so that a candidate
 * that has just started need not wait as long before it leads.
 *
 * @category annotations
 * @since 0.2.0
 */
export const ageMarkAnnotation = "effect-kubernetes-leader-election/age-mark"

/**
 * The annotation with the leader's note: what it publishes with its term, its
 * address or version for example. Written and removed with the holder, and no
 * sign of life.
 *
 * @category annotations
 * @since 0.2.0
 */
export const noteAnnotation = "effect-kubernetes-leader-election/note"

/**
 * The annotation that asks one leader to give up its term in good order. Its
 * value is the instance id of the leader that is meant: any other leader
 * ignores it.
 *
 * @category annotations
 * @since 0.1.0
 */
export const stepDownAnnotation = "effect-kubernetes-leader-election/step-down"

/**
 * The largest `leaseTransitions` that the API server accepts (a 32-bit
 * integer). Takeovers beyond it keep it there.
 *
 * @category models
 * @since 0.1.0
 */
export const maxLeaseTransitions = 2 ** 31 - 1

/**
 * A Lease object of the Kubernetes API, as far as {@link FromJson} reads it.
 *
 * @category models
 * @since 0.2.0
 */
export interface LeaseJson {
  readonly metadata: {
    readonly name: string
    readonly namespace: string
    readonly uid: string
    readonly resourceVersion: string
    readonly deletionTimestamp?: string | null | undefined
    readonly labels?: Readonly<Record<string, string>> | null | undefined
    readonly annotations?: Readonly<Record<string, string>> | null | undefined
    readonly ownerReferences?: ReadonlyArray<OwnerReference> | null | undefined
  }
  readonly spec?:
    | {
      readonly holderIdentity?: string | null | undefined
      readonly leaseDurationSeconds?: number | null | undefined
      readonly acquireTime?: string | null | undefined
      readonly renewTime?: string | null | undefined
      readonly leaseTransitions?: number | null | undefined
      readonly strategy?: string | null | undefined
      readonly preferredHolder?: string | null | undefined
    }
    | null
    | undefined
}

/**
 * A Lease as a schema: the object of the Kubernetes API on one side, a
 * {@link LeaseRecord} on the other.
 *
 * **Details**
 *
 * Missing, `null` and empty fields become what {@link LeaseRecord} documents; a
 * time that is not a `MicroTime` counts as missing, since nothing is ever decided
 * by comparing it with a clock. Fails where the object is not a Lease at all (no
 * name, no uid, no decimal resourceVersion).
 *
 * @category codecs
 * @since 0.2.0
 */
export const FromJson: Schema.Codec<LeaseRecord, LeaseJson> = Json.FromJson

/**
 * Reads a Lease object of the Kubernetes API, as {@link FromJson} does.
 *
 * @category codecs
 * @since 0.1.0
 */
export const decode: (value: unknown) => Effect.Effect<LeaseRecord, Schema.SchemaError> = Schema.decodeUnknownEffect(
  FromJson
)

/**
 * The body of the POST that creates a Lease.
 *
 * @category codecs
 * @since 0.1.0
 */
export const toCreateBody: (key: LeaseKey, write: LeaseWrite) => unknown = Json.toCreateBody

/**
 * The campaign that holds the Lease, or held it last; `undefined` where it is
 * another implementation's.
 *
 * @category guards
 * @since 0.2.0
 */
export const instanceOf = (lease: LeaseRecord): string | undefined => lease.annotations[instanceAnnotation]

/**
 * Whether the difference between two states of the Lease shows that a holder
 * lives. Any other edit (a label, the garbage collector removing a dangling
 * reference) is not a holder's doing, and only gives a newer version to guard
 * with: counting it would let a stray controller keep a dead leader's lease.
 *
 * @category guards
 * @since 0.2.0
 */
export const isSignOfLife = (before: LeaseRecord, after: LeaseRecord): boolean =>
  before.uid !== after.uid ||
  before.holderIdentity !== after.holderIdentity ||
  before.renewTime !== after.renewTime ||
  before.acquireTime !== after.acquireTime ||
  before.leaseTransitions !== after.leaseTransitions ||
  before.leaseDurationSeconds !== after.leaseDurationSeconds ||
  instanceOf(before) !== instanceOf(after)

/**
 * A time of the record, Unix microseconds, as Kubernetes writes it: RFC 3339 with
 * six digits after the point.
 *
 * @category codecs
 * @since 0.2.0
 */
export const formatTime = (micros: bigint): string => MicroTime.format(micros)

/**
 * The body of the merge patch that changes a Lease, guarded by the version that
 * the change was decided on: the API server answers 409 where the object has
 * changed since. A uid beside the version would turn that into a 422.
 *
 * @category codecs
 * @since 0.1.0
 */
export const toPatchBody: (resourceVersion: bigint, write: LeaseWrite) => unknown = Json.toPatchBody
