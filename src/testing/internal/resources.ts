/**
 * The kinds of objects that the in-memory cluster knows: how each is read, and what is refused.
 *
 * @internal
 */
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import { type FieldError, invalidValue, required } from "./apiError.ts"
import type { ObjectMeta, OwnerRef } from "./apiObject.ts"
import * as Decoder from "./decoder.ts"

/** `metadata` as a client sent it: everything may be missing. */
export interface SentMeta {
  readonly name: string
  readonly generateName: string
  readonly namespace: string
  readonly uid: string
  readonly resourceVersion: string
  readonly kept: Pick<ObjectMeta, "labels" | "annotations" | "ownerReferences" | "finalizers">
}

/** An object as a client sent it, unknown fields dropped. `rest` is everything but `metadata`. */
export interface SentObject {
  readonly metadata: SentMeta
  readonly rest: { readonly [field: string]: unknown }
}

export interface ResourceType {
  readonly group: string
  readonly version: string
  readonly plural: string
  readonly kind: string
  readonly namespaced: boolean
  readonly decode: (body: { readonly [field: string]: unknown }) => Decoder.Decoded<SentObject>
  readonly validate: (object: SentObject) => ReadonlyArray<FieldError>
}

export const apiVersionOf = (type: ResourceType): string =>
  type.group === "" ? type.version : `${type.group}/${type.version}`

// --- metadata ---------------------------------------------------------------------------------------------------

const decodeOwner = (value: unknown): Decoder.Decoded<OwnerRef> =>
  Result.gen(function*() {
    const at = "ObjectMeta.metadata.ownerReferences"
    const owner = (yield* Decoder.struct(value, at, "v1.OwnerReference")) ?? {}
    const controller = yield* Decoder.boolean(owner.controller, `${at}.controller`)
    const blockOwnerDeletion = yield* Decoder.boolean(owner.blockOwnerDeletion, `${at}.blockOwnerDeletion`)
    return {
      apiVersion: (yield* Decoder.string(owner.apiVersion, `${at}.apiVersion`)) ?? "",
      kind: (yield* Decoder.string(owner.kind, `${at}.kind`)) ?? "",
      name: (yield* Decoder.string(owner.name, `${at}.name`)) ?? "",
      uid: (yield* Decoder.string(owner.uid, `${at}.uid`)) ?? "",
      ...(controller !== undefined && { controller }),
      ...(blockOwnerDeletion !== undefined && { blockOwnerDeletion })
    }
  })

const decodeMeta = (value: unknown): Decoder.Decoded<SentMeta> =>
  Result.gen(function*() {
    const at = "ObjectMeta.metadata"
    const meta = (yield* Decoder.struct(value, at, "v1.ObjectMeta")) ?? {}
    const labels = yield* Decoder.stringMap(meta.labels, `${at}.labels`)
    const annotations = yield* Decoder.stringMap(meta.annotations, `${at}.annotations`)
    const finalizers = yield* Decoder.strings(meta.finalizers, `${at}.finalizers`)
    const owners: Array<OwnerRef> = []
    for (
      const owner of (yield* Decoder.list(meta.ownerReferences, `${at}.ownerReferences`, "v1.OwnerReference")) ?? []
    ) {
      owners.push(yield* decodeOwner(owner))
    }
    return {
      name: (yield* Decoder.string(meta.name, `${at}.name`)) ?? "",
      generateName: (yield* Decoder.string(meta.generateName, `${at}.generateName`)) ?? "",
      namespace: (yield* Decoder.string(meta.namespace, `${at}.namespace`)) ?? "",
      uid: (yield* Decoder.string(meta.uid, `${at}.uid`)) ?? "",
      resourceVersion: (yield* Decoder.string(meta.resourceVersion, `${at}.resourceVersion`)) ?? "",
      kept: {
        ...(labels !== undefined && { labels }),
        ...(annotations !== undefined && { annotations }),
        ...(owners.length > 0 && { ownerReferences: owners }),
        ...(finalizers !== undefined && { finalizers })
      }
    }
  })

const subdomain = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/

const validateMeta = ({ kept, name }: SentMeta): ReadonlyArray<FieldError> => {
  const errors: Array<FieldError> = []
  if (name === "") {
    errors.push(required("metadata.name", "name or generateName is required"))
  } else if (name.length > 253) {
    errors.push(invalidValue("metadata.name", name, "must be no more than 253 bytes"))
  } else if (!subdomain.test(name)) {
    errors.push(invalidValue(
      "metadata.name",
      name,
      "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start " +
        "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is " +
        "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
    ))
  }
  const encoder = new TextEncoder()
  const size = Object.entries(kept.annotations ?? {})
    .reduce((total, [key, value]) => total + encoder.encode(key + value).length, 0)
  if (size > maxAnnotations) {
    errors.push({
      field: "metadata.annotations",
      reason: "FieldValueTooLong",
      message: `Too long: may not be more than ${maxAnnotations} bytes`
    })
  }
  for (const [index, owner] of (kept.ownerReferences ?? []).entries()) {
    const at = `metadata.ownerReferences[${index}]`
    for (const field of ["apiVersion", "kind", "name", "uid"] as const) {
      if (owner[field] === "") {
        errors.push(required(`${at}.${field}`, "must not be empty"))
      }
    }
  }
  const controllers = (kept.ownerReferences ?? []).filter((owner) => owner.controller === true)
  if (controllers.length > 1) {
    errors.push(invalidValue(
      "metadata.ownerReferences",
      JSON.stringify(kept.ownerReferences),
      "Only one reference can have Controller set to true. Found \"true\" in references for " +
        `${controllers[0]?.name} and ${controllers[1]?.name}`
    ))
  }
  return errors
}

const maxAnnotations = 262_144

// --- kinds ------------------------------------------------------------------------------------------------------

/** Coordinated leader election is off by default in Kubernetes 1.37, and its fields are dropped without a word. */
export const makeLeases = (options: { readonly coordinatedLeaderElection: boolean }): ResourceType => ({
  group: "coordination.k8s.io",
  version: "v1",
  plural: "leases",
  kind: "Lease",
  namespaced: true,
  decode: (body) =>
    Result.gen(function*() {
      const metadata = yield* decodeMeta(body.metadata)
      const at = "LeaseSpec.spec"
      const spec = (yield* Decoder.struct(body.spec, "Lease.spec", "v1.LeaseSpec")) ?? {}
      const holderIdentity = yield* Decoder.string(spec.holderIdentity, `${at}.holderIdentity`)
      const leaseDurationSeconds = yield* Decoder.integer(spec.leaseDurationSeconds, `${at}.leaseDurationSeconds`)
      const acquireTime = yield* Decoder.microTime(spec.acquireTime, `${at}.acquireTime`)
      const renewTime = yield* Decoder.microTime(spec.renewTime, `${at}.renewTime`)
      const leaseTransitions = yield* Decoder.integer(spec.leaseTransitions, `${at}.leaseTransitions`)
      const strategy = yield* Decoder.string(spec.strategy, `${at}.strategy`)
      const preferredHolder = yield* Decoder.string(spec.preferredHolder, `${at}.preferredHolder`)
      return {
        metadata,
        rest: {
          spec: {
            ...(holderIdentity !== undefined && { holderIdentity }),
            ...(leaseDurationSeconds !== undefined && { leaseDurationSeconds }),
            ...(acquireTime !== undefined && { acquireTime }),
            ...(renewTime !== undefined && { renewTime }),
            ...(leaseTransitions !== undefined && { leaseTransitions }),
            ...(options.coordinatedLeaderElection && strategy !== undefined && { strategy }),
            ...(options.coordinatedLeaderElection && preferredHolder !== undefined && { preferredHolder })
          }
        }
      }
    }),
  validate: ({ metadata, rest }) => {
    const errors = [...validateMeta(metadata)]
    const spec = Predicate.isReadonlyObject(rest.spec) ? rest.spec : {}
    const { leaseDurationSeconds, leaseTransitions, preferredHolder, strategy } = spec
    if (Predicate.isNumber(leaseDurationSeconds) && leaseDurationSeconds <= 0) {
      errors.push(invalidValue("spec.leaseDurationSeconds", leaseDurationSeconds, "must be greater than 0"))
    }
    if (Predicate.isNumber(leaseTransitions) && leaseTransitions < 0) {
      errors.push(invalidValue("spec.leaseTransitions", leaseTransitions, "must be greater than or equal to 0"))
    }
    if (Predicate.isString(strategy) && strategy !== "OldestEmulationVersion" && !strategy.includes("/")) {
      errors.push({
        field: "spec.strategy.strategy",
        reason: "FieldValueNotSupported",
        message: `Unsupported value: ${JSON.stringify(strategy)}: supported values: "OldestEmulationVersion"`
      })
    }
    if (Predicate.isString(preferredHolder) && preferredHolder !== "" && strategy === undefined) {
      errors.push({
        field: "spec.preferredHolder",
        reason: "FieldValueInvalid",
        message: "Forbidden: may only be specified if `strategy` is defined"
      })
    }
    return errors
  }
})

/** Kinds of which only the metadata matters here: the rest is kept as it was sent, and not looked at. */
const makeOpaque = (
  type: Pick<ResourceType, "group" | "version" | "plural" | "kind" | "namespaced">,
  validate: (object: SentObject) => ReadonlyArray<FieldError> = () => []
): ResourceType => ({
  ...type,
  decode: (body) =>
    Result.map(decodeMeta(body.metadata), (metadata) => {
      const { apiVersion: _apiVersion, kind: _kind, metadata: _metadata, ...rest } = body
      return { metadata, rest }
    }),
  validate: (object) => [...validateMeta(object.metadata), ...validate(object)]
})

export const pods: ResourceType = makeOpaque({
  group: "",
  version: "v1",
  plural: "pods",
  kind: "Pod",
  namespaced: true
})

export const namespaces: ResourceType = makeOpaque({
  group: "",
  version: "v1",
  plural: "namespaces",
  kind: "Namespace",
  namespaced: false
})

export const events: ResourceType = makeOpaque(
  { group: "events.k8s.io", version: "v1", plural: "events", kind: "Event", namespaced: true },
  ({ rest }) =>
    ["eventTime", "reportingController", "reportingInstance", "action", "reason"]
      .filter((field) => rest[field] === undefined || rest[field] === null || rest[field] === "")
      .map((field) => required(field, ""))
)
