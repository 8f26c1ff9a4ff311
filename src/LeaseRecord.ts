/**
 * The Lease as this library reads and writes it, and its codec to
 * `coordination.k8s.io/v1`.
 *
 * Everything that decides about leadership works on {@link LeaseRecord}; only
 * stores that speak the Kubernetes API use {@link decode}, {@link toCreateBody}
 * and {@link toPatchBody}. Times are whole microseconds since the Unix epoch, as
 * Kubernetes' `MicroTime` has them, so that none is rounded on its way through.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
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

const NullOr = <S extends Schema.Top>(schema: S) => Schema.optional(Schema.NullOr(schema))

const StringMap = Schema.Record(Schema.String, Schema.String)

const WireOwnerReference = Schema.Struct({
  apiVersion: Schema.String,
  kind: Schema.String,
  name: Schema.String,
  uid: Schema.String,
  controller: Schema.optional(Schema.Boolean),
  blockOwnerDeletion: Schema.optional(Schema.Boolean)
})

const WireLease = Schema.Struct({
  metadata: Schema.Struct({
    name: Schema.String,
    namespace: Schema.String,
    uid: Schema.String,
    resourceVersion: Schema.String.check(Schema.isPattern(/^[0-9]+$/)),
    deletionTimestamp: NullOr(Schema.String),
    labels: NullOr(StringMap),
    annotations: NullOr(StringMap),
    ownerReferences: NullOr(Schema.Array(WireOwnerReference))
  }),
  spec: NullOr(Schema.Struct({
    holderIdentity: NullOr(Schema.String),
    leaseDurationSeconds: NullOr(Schema.Number),
    acquireTime: NullOr(Schema.String),
    renewTime: NullOr(Schema.String),
    leaseTransitions: NullOr(Schema.Number),
    strategy: NullOr(Schema.String),
    preferredHolder: NullOr(Schema.String)
  }))
})

const decodeWire = Schema.decodeUnknownEffect(WireLease)

/**
 * Reads a Lease object of the Kubernetes API.
 *
 * **Details**
 *
 * Missing, `null` and empty fields become what {@link LeaseRecord} documents; a
 * time that is not a `MicroTime` counts as missing, since nothing is ever decided
 * by comparing it with a clock. Fails where the object is not a Lease at all (no
 * name, no uid, no decimal resourceVersion).
 *
 * @category codecs
 * @since 0.1.0
 */
export const decode = (value: unknown): Effect.Effect<LeaseRecord, Schema.SchemaError> =>
  Effect.map(decodeWire(value), ({ metadata, spec }) => ({
    namespace: metadata.namespace,
    name: metadata.name,
    uid: metadata.uid,
    resourceVersion: BigInt(metadata.resourceVersion),
    deletionTimestamp: timestamp(metadata.deletionTimestamp),
    labels: metadata.labels ?? {},
    annotations: metadata.annotations ?? {},
    ownerReferences: metadata.ownerReferences ?? [],
    holderIdentity: spec?.holderIdentity ?? "",
    leaseDurationSeconds: wholeNumber(spec?.leaseDurationSeconds, 1),
    acquireTime: MicroTime.parse(spec?.acquireTime),
    renewTime: MicroTime.parse(spec?.renewTime),
    leaseTransitions: wholeNumber(spec?.leaseTransitions, 0) ?? 0,
    strategy: spec?.strategy ?? undefined,
    preferredHolder: spec?.preferredHolder ?? undefined
  }))

// The API server stores nothing else. What another may hand out in its place counts as missing.
const wholeNumber = (value: number | null | undefined, least: number): number | undefined =>
  typeof value === "number" && Number.isInteger(value) && value >= least && value <= 2 ** 31 - 1 ? value : undefined

const timestamp = (text: string | null | undefined): number | undefined => {
  const millis = text == null ? Number.NaN : Date.parse(text)
  return Number.isNaN(millis) ? undefined : millis
}

/**
 * The body of the POST that creates a Lease.
 *
 * @category codecs
 * @since 0.1.0
 */
export const toCreateBody = (key: LeaseKey, write: LeaseWrite): unknown => ({
  apiVersion: "coordination.k8s.io/v1",
  kind: "Lease",
  metadata: { namespace: key.namespace, name: key.name, ...encodeMetadata(write) },
  spec: encodeSpec(write)
})

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
export const toPatchBody = (resourceVersion: bigint, write: LeaseWrite): unknown => ({
  metadata: { resourceVersion: resourceVersion.toString(), ...encodeMetadata(write) },
  spec: encodeSpec(write)
})

const encodeMetadata = (write: LeaseWrite) => ({
  ...(write.labels !== undefined && { labels: write.labels }),
  ...(write.annotations !== undefined && { annotations: write.annotations }),
  ...(write.ownerReferences !== undefined && { ownerReferences: write.ownerReferences })
})

const encodeSpec = (write: LeaseWrite) => ({
  ...(write.holderIdentity !== undefined && { holderIdentity: write.holderIdentity }),
  ...(write.leaseDurationSeconds !== undefined && { leaseDurationSeconds: write.leaseDurationSeconds }),
  ...(write.acquireTime !== undefined && { acquireTime: MicroTime.format(write.acquireTime) }),
  ...(write.renewTime !== undefined && { renewTime: MicroTime.format(write.renewTime) }),
  ...(write.leaseTransitions !== undefined && { leaseTransitions: write.leaseTransitions })
})
