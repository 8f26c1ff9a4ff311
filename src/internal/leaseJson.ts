/**
 * The JSON of a Lease: the object that the API server stores, and the bodies of
 * the requests that write it. The public side of both is in `LeaseRecord.ts`.
 *
 * @internal
 */
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import * as SchemaTransformation from "effect/SchemaTransformation"
import type { LeaseKey, LeaseRecord, LeaseWrite } from "../LeaseRecord.ts"
import * as MicroTime from "./protocol/microTime.ts"

const NullOr = <S extends Schema.Top>(schema: S) => Schema.optional(Schema.NullOr(schema))

const StringMap = Schema.Record(Schema.String, Schema.String)

const OwnerReferenceJson = Schema.Struct({
  apiVersion: Schema.String,
  kind: Schema.String,
  name: Schema.String,
  uid: Schema.String,
  controller: Schema.optional(Schema.Boolean),
  blockOwnerDeletion: Schema.optional(Schema.Boolean)
})

// What the API server stores, and what another server may hand out in its place: null for missing, and any number.
const LeaseJson = Schema.Struct({
  metadata: Schema.Struct({
    name: Schema.String,
    namespace: Schema.String,
    uid: Schema.String,
    resourceVersion: Schema.String.check(Schema.isPattern(/^[0-9]+$/)),
    deletionTimestamp: NullOr(Schema.String),
    labels: NullOr(StringMap),
    annotations: NullOr(StringMap),
    ownerReferences: NullOr(Schema.Array(OwnerReferenceJson))
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

// The fields are checked once, as JSON: this is read for every event of a watch.
const Record = Schema.declare((value): value is LeaseRecord =>
  Predicate.isReadonlyObject(value) && typeof value["resourceVersion"] === "bigint"
)

/** Reads a Lease, and writes all that a record holds. */
export const FromJson = LeaseJson.pipe(Schema.decodeTo(
  Record,
  SchemaTransformation.transform({
    decode: ({ metadata, spec }): LeaseRecord => ({
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
    }),
    encode: (lease) => ({
      metadata: {
        namespace: lease.namespace,
        name: lease.name,
        uid: lease.uid,
        resourceVersion: lease.resourceVersion.toString(),
        ...(lease.deletionTimestamp !== undefined && {
          deletionTimestamp: new Date(lease.deletionTimestamp).toISOString()
        }),
        labels: lease.labels,
        annotations: lease.annotations,
        ownerReferences: lease.ownerReferences
      },
      spec: {
        ...specOf(lease),
        ...(lease.strategy !== undefined && { strategy: lease.strategy }),
        ...(lease.preferredHolder !== undefined && { preferredHolder: lease.preferredHolder })
      }
    })
  })
))

// The API server stores nothing else. What another may hand out in its place counts as missing.
const wholeNumber = (value: number | null | undefined, least: number): number | undefined =>
  typeof value === "number" && Number.isInteger(value) && value >= least && value <= 2 ** 31 - 1 ? value : undefined

const timestamp = (text: string | null | undefined): number | undefined => {
  const millis = text == null ? Number.NaN : Date.parse(text)
  return Number.isNaN(millis) ? undefined : millis
}

/** The body of the POST that creates a Lease. */
export const toCreateBody = (key: LeaseKey, write: LeaseWrite): unknown => ({
  apiVersion: "coordination.k8s.io/v1",
  kind: "Lease",
  metadata: { namespace: key.namespace, name: key.name, ...metadataOf(write) },
  spec: specOf(write)
})

/** The body of the merge patch that changes the Lease which is at that version. */
export const toPatchBody = (resourceVersion: bigint, write: LeaseWrite): unknown => ({
  metadata: { resourceVersion: resourceVersion.toString(), ...metadataOf(write) },
  spec: specOf(write)
})

const metadataOf = (write: LeaseWrite) => ({
  ...(write.labels !== undefined && { labels: write.labels }),
  ...(write.annotations !== undefined && { annotations: write.annotations }),
  ...(write.ownerReferences !== undefined && { ownerReferences: write.ownerReferences })
})

type Spec = Pick<
  LeaseRecord,
  "acquireTime" | "holderIdentity" | "leaseDurationSeconds" | "leaseTransitions" | "renewTime"
>

// Of a whole record, or of what a write changes: what is left out stays as it is stored.
const specOf = (of: { readonly [Field in keyof Spec]?: Spec[Field] | undefined }) => ({
  ...(of.holderIdentity !== undefined && { holderIdentity: of.holderIdentity }),
  ...(of.leaseDurationSeconds !== undefined && { leaseDurationSeconds: of.leaseDurationSeconds }),
  ...(of.acquireTime !== undefined && { acquireTime: MicroTime.format(of.acquireTime) }),
  ...(of.renewTime !== undefined && { renewTime: MicroTime.format(of.renewTime) }),
  ...(of.leaseTransitions !== undefined && { leaseTransitions: of.leaseTransitions })
})
