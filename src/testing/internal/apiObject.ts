/**
 * Objects of the Kubernetes API as the in-memory cluster keeps them: JSON, never changed in place.
 *
 * @internal
 */
import * as Predicate from "effect/Predicate"

export interface OwnerRef {
  readonly apiVersion: string
  readonly kind: string
  readonly name: string
  readonly uid: string
  readonly controller?: boolean
  readonly blockOwnerDeletion?: boolean
}

export interface ObjectMeta {
  readonly name: string
  readonly namespace?: string
  readonly uid: string
  readonly resourceVersion: string
  readonly creationTimestamp: string
  readonly deletionTimestamp?: string
  readonly deletionGracePeriodSeconds?: number
  readonly labels?: Readonly<Record<string, string>>
  readonly annotations?: Readonly<Record<string, string>>
  readonly ownerReferences?: ReadonlyArray<OwnerRef>
  readonly finalizers?: ReadonlyArray<string>
}

export interface ApiObject {
  readonly kind: string
  readonly apiVersion: string
  readonly metadata: ObjectMeta
  readonly [field: string]: unknown
}

/** RFC 7386: null removes, objects merge, everything else (lists too) replaces. */
export const mergePatch = (target: unknown, patch: unknown): unknown => {
  if (!Predicate.isReadonlyObject(patch)) {
    return patch
  }
  const result = new Map(Object.entries(Predicate.isReadonlyObject(target) ? target : {}))
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) {
      result.delete(key)
    } else {
      result.set(key, mergePatch(result.get(key), value))
    }
  }
  return Object.fromEntries(result)
}

/** RFC 3339 with whole seconds, as `metav1.Time` is written. */
export const formatTime = (millis: number): string =>
  new Date(Math.floor(millis / 1000) * 1000).toISOString().replace(".000Z", "Z")
