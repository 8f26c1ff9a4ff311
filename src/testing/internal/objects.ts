/**
 * The API server's storage: objects, one version counter for all of them, guarded writes, watches. Each operation is one
 * synchronous step, as a transaction of etcd is, so that no fiber ever sees half of one.
 *
 * @internal
 */
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import { isDeepStrictEqual } from "node:util"
import * as ApiError from "./apiError.ts"
import { type ApiObject, formatTime, mergePatch, type ObjectMeta } from "./apiObject.ts"
import { apiVersionOf, namespaces, pods, type ResourceType, type SentObject } from "./resources.ts"

type Answer<A> = Result.Result<A, ApiError.ApiError>

export interface WatchEvent {
  readonly type: "ADDED" | "MODIFIED" | "DELETED"
  readonly version: bigint
  readonly object: ApiObject
}

export interface Listener {
  readonly onEvent: (event: WatchEvent) => void
  readonly onClose: () => void
}

export interface WatchTarget {
  readonly type: ResourceType
  /** All namespaces where it is missing. */
  readonly namespace?: string | undefined
  /** All objects where it is missing. */
  readonly name?: string | undefined
  /** Which of these; all where it is missing. */
  readonly selects?: ((object: ApiObject) => boolean) | undefined
}

/** Where a list goes on: at this key, as everything was at this version. */
export interface Continuation {
  readonly version: bigint
  readonly start: string
}

export interface Page {
  readonly items: ReadonlyArray<ApiObject>
  readonly version: bigint
  /** `undefined` where nothing is left. */
  readonly next: Continuation | undefined
  /** How many are left, selected or not. */
  readonly remaining: number
}

export interface DeleteOptions {
  readonly preconditions?: { readonly uid?: string | undefined; readonly resourceVersion?: string | undefined }
  readonly propagationPolicy?: string | undefined
  readonly gracePeriodSeconds?: number | undefined
}

export interface Deletion {
  readonly object: ApiObject
  /** False where a finalizer, or a Pod's grace period, holds the object up. */
  readonly removed: boolean
}

export interface State {
  readonly version: bigint
  readonly objects: ReadonlyMap<string, ReadonlyMap<string, ApiObject>>
}

export interface Objects {
  readonly version: () => bigint
  readonly get: (type: ResourceType, namespace: string, name: string) => Answer<ApiObject>
  readonly list: (target: WatchTarget) => ReadonlyArray<ApiObject>
  /** At most so many of a list. */
  readonly page: (target: WatchTarget, limit: number, from: Continuation | undefined) => Answer<Page>
  readonly create: (type: ResourceType, namespace: string, body: unknown) => Answer<ApiObject>
  readonly put: (
    type: ResourceType,
    namespace: string,
    name: string,
    body: unknown
  ) => Answer<{ readonly object: ApiObject; readonly created: boolean }>
  readonly patch: (type: ResourceType, namespace: string, name: string, patch: unknown) => Answer<ApiObject>
  readonly remove: (
    type: ResourceType,
    namespace: string,
    name: string,
    options?: DeleteOptions
  ) => Answer<Deletion>
  /** Without `since`, begins with the objects as they are. Events that have happened are handed over at once. */
  readonly watch: (target: WatchTarget, since: bigint | undefined, listener: Listener) => Answer<() => void>
  readonly openWatches: () => number
  readonly closeWatches: () => void
  /** Takes versions as writes to objects of no interest would. */
  readonly skipVersions: (count: number) => void
  /** Forgets the events so far: a watch cannot begin before this version any more. */
  readonly compact: () => void
  readonly state: () => State
  readonly restore: (state: State) => void
}

// oxlint-disable-next-line max-lines-per-function -- one store of objects: its functions share the versions
export const make = (options: {
  /** The server's wall clock, Unix milliseconds. */
  readonly now: () => number
  /** Namespaces that exist from the start; `"any"` for a cluster in which every namespace exists. */
  readonly namespaces: ReadonlyArray<string> | "any"
  /** How many events a watch can go back. */
  readonly history: number
  /** Called after each change, for the garbage collector. */
  readonly onChange: (event: WatchEvent, type: ResourceType) => void
}): Objects => {
  // The first writes cross from two digits to three, so that comparing versions as text is found out.
  let version = 96n
  let uids = 0
  let objects = new Map<string, Map<string, ApiObject>>()
  let history: Array<Change> = []
  let forgotten = version
  const listeners = new Set<{ readonly target: WatchTarget; readonly listener: Listener }>()

  const collection = (type: ResourceType): Map<string, ApiObject> => {
    const key = `${type.plural}.${type.group}`
    const found = objects.get(key)
    if (found !== undefined) {
      return found
    }
    const made = new Map<string, ApiObject>()
    objects.set(key, made)
    return made
  }

  const find = (type: ResourceType, namespace: string, name: string): ApiObject | undefined =>
    collection(type).get(`${namespace}/${name}`)

  const emit = (type: ResourceType, event: WatchEvent, before: ApiObject | undefined) => {
    const change: Change = { event, type, before }
    history.push(change)
    while (history.length > options.history) {
      forgotten = history.shift()?.event.version ?? forgotten
    }
    // A copy: a listener that is notified may well leave, or bring another.
    for (const entry of Array.from(listeners)) {
      const seen = seenBy(entry.target, change)
      if (seen !== undefined) {
        entry.listener.onEvent(seen)
      }
    }
    options.onChange(event, type)
  }

  const nextUid = () => {
    uids += 1
    return `5eed0000-0000-4000-8000-${uids.toString(16).padStart(12, "0")}`
  }

  // --- one object -------------------------------------------------------------------------------------------

  const store = (type: ResourceType, object: ApiObject, before: ApiObject | undefined): ApiObject => {
    version += 1n
    const stored = atVersion(object, version)
    collection(type).set(keyOf(stored), stored)
    emit(type, { type: before === undefined ? "ADDED" : "MODIFIED", version, object: stored }, before)
    return stored
  }

  const drop = (type: ResourceType, object: ApiObject, before: ApiObject): ApiObject => {
    version += 1n
    collection(type).delete(keyOf(object))
    const last = atVersion(object, version)
    emit(type, { type: "DELETED", version, object: last }, before)
    return last
  }

  /** The objects of a kind as they were at a version that is not forgotten. */
  const collectionAt = (type: ResourceType, at: bigint): ReadonlyMap<string, ApiObject> => {
    const then = new Map(collection(type))
    for (let index = history.length - 1; index >= 0; index--) {
      const { before, event, type: changed } = history[index]!
      if (event.version <= at) {
        break
      }
      if (changed === type && before === undefined) {
        then.delete(keyOf(event.object))
      } else if (changed === type && before !== undefined) {
        then.set(keyOf(before), before)
      }
    }
    return then
  }

  // What the server sets is taken from the stored object, whatever was sent.
  const assemble = (
    type: ResourceType,
    namespace: string,
    sent: SentObject,
    own: Pick<
      ObjectMeta,
      "uid" | "creationTimestamp" | "resourceVersion" | "deletionTimestamp" | "deletionGracePeriodSeconds"
    >
  ): ApiObject => ({
    kind: type.kind,
    apiVersion: apiVersionOf(type),
    metadata: {
      name: sent.metadata.name,
      ...(type.namespaced && { namespace }),
      uid: own.uid,
      resourceVersion: own.resourceVersion,
      creationTimestamp: own.creationTimestamp,
      ...(own.deletionTimestamp !== undefined && { deletionTimestamp: own.deletionTimestamp }),
      ...(own.deletionGracePeriodSeconds !== undefined &&
        { deletionGracePeriodSeconds: own.deletionGracePeriodSeconds }),
      ...sent.metadata.kept
    },
    ...sent.rest
  })

  const checkEnvelope = (
    type: ResourceType,
    namespace: string,
    body: unknown
  ): Answer<{ readonly [field: string]: unknown }> => {
    if (!Predicate.isReadonlyObject(body)) {
      return Result.fail(ApiError.undecodable(type, "couldn't get version/kind; json parse error"))
    }
    const { apiVersion, kind, metadata } = body
    if (apiVersion !== undefined && apiVersion !== "" && apiVersion !== apiVersionOf(type)) {
      return Result.fail(ApiError.badRequest(
        `the API version in the data (${String(apiVersion)}) does not match the expected API version ` +
          `(${apiVersionOf(type)})`
      ))
    }
    if (kind !== undefined && kind !== "" && kind !== type.kind) {
      return Result.fail(ApiError.badRequest(
        `${String(kind)} in version "${type.version}" cannot be handled as a ${type.kind}: no kind "${
          String(kind)
        }" is registered`
      ))
    }
    const sent = Predicate.isReadonlyObject(metadata) ? metadata.namespace : undefined
    if (type.namespaced && Predicate.isString(sent) && sent !== "" && sent !== namespace) {
      return Result.fail(ApiError.badRequest(
        "the namespace of the provided object does not match the namespace sent on the request"
      ))
    }
    return Result.succeed(body)
  }

  const insert = (type: ResourceType, namespace: string, sent: SentObject): Answer<ApiObject> =>
    Result.gen(function*() {
      if (
        type.namespaced && options.namespaces !== "any" && find(namespaces, "", namespace) === undefined
      ) {
        return yield* Result.fail(ApiError.notFound(namespaces, namespace))
      }
      const name = sent.metadata.name === "" && sent.metadata.generateName !== ""
        ? `${sent.metadata.generateName}${nextUid().slice(-5)}`
        : sent.metadata.name
      const named = { ...sent, metadata: { ...sent.metadata, name } }
      const errors = type.validate(named)
      if (errors.length > 0) {
        return yield* Result.fail(ApiError.invalid(type, name, errors))
      }
      if (sent.metadata.resourceVersion !== "") {
        return yield* Result.fail(ApiError.internal("resourceVersion should not be set on objects to be created"))
      }
      const present = find(type, namespace, name)
      if (present !== undefined) {
        return yield* Result.fail(
          ApiError.alreadyExists(type, name, present.metadata.deletionTimestamp !== undefined)
        )
      }
      return store(
        type,
        assemble(type, namespace, named, {
          uid: nextUid(),
          creationTimestamp: formatTime(options.now()),
          resourceVersion: ""
        }),
        undefined
      )
    })

  // Shared by PUT and PATCH, once it is clear what the object would become.
  const update = (type: ResourceType, namespace: string, current: ApiObject, sent: SentObject): Answer<ApiObject> =>
    Result.gen(function*() {
      const { name, resourceVersion, uid } = current.metadata
      if (sent.metadata.resourceVersion === "" || sent.metadata.resourceVersion === "0") {
        return yield* Result.fail(ApiError.versionRequired(type, name))
      }
      if (!/^\d+$/.test(sent.metadata.resourceVersion)) {
        return yield* Result.fail(ApiError.internal(
          `strconv.ParseUint: parsing ${JSON.stringify(sent.metadata.resourceVersion)}: invalid syntax`
        ))
      }
      if (sent.metadata.resourceVersion !== resourceVersion) {
        return yield* Result.fail(ApiError.modified(type, name))
      }
      const errors = [
        ...(sent.metadata.uid !== "" && sent.metadata.uid !== uid
          ? [ApiError.invalidValue("metadata.uid", sent.metadata.uid, "field is immutable")]
          : []),
        ...type.validate(sent)
      ]
      if (errors.length > 0) {
        return yield* Result.fail(ApiError.invalid(type, name, errors))
      }
      const next = assemble(type, namespace, sent, current.metadata)
      if (isDeepStrictEqual(next, current)) {
        return current
      }
      // The last finalizer went: the object goes with it, and the watch reports the deletion only.
      return isDone(next) ? drop(type, next, current) : store(type, next, current)
    })

  const self: Objects = {
    version: () => version,

    get: (type, namespace, name) => {
      const found = find(type, namespace, name)
      return found === undefined ? Result.fail(ApiError.notFound(type, name)) : Result.succeed(found)
    },

    list: (target) =>
      inOrder(collection(target.type).values()).filter((object) => matches(target, target.type, object)),

    page: (target, limit, from) => {
      const at = from?.version ?? version
      if (at < forgotten || at > version) {
        return Result.fail(ApiError.continueExpired)
      }
      const { selects: _, ...whole } = target
      const left = inOrder(collectionAt(target.type, at).values()).filter((object) =>
        matches(whole, target.type, object) && (from === undefined || keyOf(object) >= from.start)
      )
      const items: Array<ApiObject> = []
      let looked = 0
      for (const object of left) {
        if (limit > 0 && items.length >= limit) {
          break
        }
        looked += 1
        if (matches(target, target.type, object)) {
          items.push(object)
        }
      }
      const next = left[looked]
      return Result.succeed({
        items,
        version: at,
        next: next === undefined ? undefined : { version: at, start: keyOf(next) },
        remaining: left.length - looked
      })
    },

    create: (type, namespace, body) =>
      Result.gen(function*() {
        const checked = yield* checkEnvelope(type, namespace, body)
        const sent = yield* Result.mapError(type.decode(checked), (cause) => ApiError.undecodable(type, cause))
        return yield* insert(type, namespace, sent)
      }),

    put: (type, namespace, name, body) =>
      Result.gen(function*() {
        const checked = yield* checkEnvelope(type, namespace, body)
        const sent = yield* Result.mapError(type.decode(checked), (cause) => ApiError.undecodable(type, cause))
        if (sent.metadata.name !== name) {
          return yield* Result.fail(nameMismatch(sent.metadata.name, name))
        }
        const current = find(type, namespace, name)
        if (sent.metadata.uid !== "" && sent.metadata.uid !== current?.metadata.uid) {
          return yield* Result.fail(
            ApiError.uidConflict(type, namespace, name, sent.metadata.uid, current?.metadata.uid ?? "")
          )
        }
        if (current === undefined) {
          // A version does not hinder it: PUT creates what is missing, which is why the election never uses it.
          const object = yield* insert(type, namespace, {
            ...sent,
            metadata: { ...sent.metadata, resourceVersion: "" }
          })
          return { object, created: true }
        }
        return { object: yield* update(type, namespace, current, sent), created: false }
      }),

    patch: (type, namespace, name, patch) =>
      Result.gen(function*() {
        const current = yield* self.get(type, namespace, name)
        if (!Predicate.isReadonlyObject(patch)) {
          return yield* Result.fail(ApiError.badRequest("invalid JSON patch"))
        }
        const patched = mergePatch(current, patch)
        if (!Predicate.isReadonlyObject(patched)) {
          return yield* Result.fail(ApiError.badRequest("invalid JSON patch"))
        }
        const sent = yield* Result.mapError(
          type.decode(patched),
          (cause) => ApiError.undecodablePatch(patched, cause)
        )
        if (sent.metadata.name !== name) {
          return yield* Result.fail(nameMismatch(sent.metadata.name, name))
        }
        return yield* update(type, namespace, current, sent)
      }),

    remove: (type, namespace, name, deleteOptions = {}) =>
      Result.gen(function*() {
        const current = yield* self.get(type, namespace, name)
        const { gracePeriodSeconds, preconditions = {}, propagationPolicy } = deleteOptions
        const { metadata } = current
        if (preconditions.uid !== undefined && preconditions.uid !== metadata.uid) {
          return yield* Result.fail(ApiError.deleteConflict(
            type,
            name,
            `the UID in the precondition (${preconditions.uid}) does not match the UID in record (${metadata.uid}). ` +
              "The object might have been deleted and then recreated"
          ))
        }
        if (preconditions.resourceVersion !== undefined && preconditions.resourceVersion !== metadata.resourceVersion) {
          return yield* Result.fail(ApiError.deleteConflict(
            type,
            name,
            `the ResourceVersion in the precondition (${preconditions.resourceVersion}) does not match the ` +
              `ResourceVersion in record (${metadata.resourceVersion}). The object might have been modified`
          ))
        }
        const finalizers = propagationPolicy === "Foreground" && !metadata.finalizers?.includes(foregroundDeletion)
          ? [...metadata.finalizers ?? [], foregroundDeletion]
          : metadata.finalizers ?? []
        const grace = type === pods && isScheduled(current) ? gracePeriodSeconds ?? 30 : 0
        if (finalizers.length === 0 && grace === 0) {
          return { object: drop(type, current, current), removed: true }
        }
        const terminating: ApiObject = {
          ...current,
          metadata: {
            ...metadata,
            deletionTimestamp: metadata.deletionTimestamp ?? formatTime(options.now() + grace * 1000),
            deletionGracePeriodSeconds: Math.min(metadata.deletionGracePeriodSeconds ?? grace, grace),
            ...(finalizers.length > 0 && { finalizers })
          }
        }
        return {
          object: isDeepStrictEqual(terminating, current) ? current : store(type, terminating, current),
          removed: false
        }
      }),

    watch: (target, since, listener) => {
      if (since !== undefined && since > 0n && since < forgotten) {
        return Result.fail(ApiError.expired(since, forgotten))
      }
      const entry = {
        target,
        listener: since === undefined || since <= version ? listener : {
          onClose: listener.onClose,
          // Versions that are still to come are not delivered: the real server is silent up to there.
          onEvent: (event: WatchEvent) => {
            if (event.version > since) {
              listener.onEvent(event)
            }
          }
        }
      }
      if (since === undefined || since === 0n) {
        for (const object of self.list(target)) {
          listener.onEvent({ type: "ADDED", version: BigInt(object.metadata.resourceVersion), object })
        }
      } else {
        for (const change of history) {
          const seen = change.event.version > since ? seenBy(target, change) : undefined
          if (seen !== undefined) {
            listener.onEvent(seen)
          }
        }
      }
      listeners.add(entry)
      return Result.succeed(() => {
        listeners.delete(entry)
      })
    },

    openWatches: () => listeners.size,

    closeWatches: () => {
      const open = [...listeners]
      listeners.clear()
      for (const { listener } of open) {
        listener.onClose()
      }
    },

    skipVersions: (count) => {
      version += BigInt(count)
    },

    compact: () => {
      history = []
      forgotten = version
    },

    state: () => ({
      version,
      objects: new Map([...objects].map(([key, map]) => [key, new Map(map)]))
    }),

    restore: (state) => {
      version = state.version
      objects = new Map([...state.objects].map(([key, map]) => [key, new Map(map)]))
      history = []
      forgotten = version
      self.closeWatches()
    }
  }

  if (options.namespaces !== "any") {
    for (const name of options.namespaces) {
      self.create(namespaces, "", { metadata: { name } })
    }
  }
  return self
}

export const foregroundDeletion = "foregroundDeletion"

const nameMismatch = (sent: string, name: string): ApiError.ApiError =>
  ApiError.badRequest(`the name of the object (${sent}) does not match the name on the URL (${name})`)

const keyOf = ({ metadata }: ApiObject): string => `${metadata.namespace ?? ""}/${metadata.name}`

const atVersion = (object: ApiObject, version: bigint): ApiObject => ({
  ...object,
  metadata: { ...object.metadata, resourceVersion: version.toString() }
})

const inOrder = (objects: Iterable<ApiObject>): ReadonlyArray<ApiObject> =>
  [...objects].sort((a, b) => keyOf(a) < keyOf(b) ? -1 : keyOf(a) > keyOf(b) ? 1 : 0)

const matches = (target: WatchTarget, type: ResourceType, object: ApiObject): boolean =>
  type === target.type &&
  (target.namespace === undefined || object.metadata.namespace === target.namespace) &&
  (target.name === undefined || object.metadata.name === target.name) &&
  (target.selects === undefined || target.selects(object))

interface Change {
  readonly event: WatchEvent
  readonly type: ResourceType
  /** The object before; `undefined` where it was created. */
  readonly before: ApiObject | undefined
}

/** What a watch shows of a change: an object that ceases to match goes, and one that begins to comes. */
const seenBy = (target: WatchTarget, { before, event, type }: Change): WatchEvent | undefined => {
  const was = before !== undefined && matches(target, type, before)
  const is = event.type !== "DELETED" && matches(target, type, event.object)
  return is
    ? was || event.type === "ADDED" ? event : { ...event, type: "ADDED" }
    : !was
    ? undefined
    : event.type === "DELETED"
    ? event
    : { ...event, type: "DELETED", object: atVersion(before, event.version) }
}

const isScheduled = (pod: ApiObject): boolean =>
  Predicate.isReadonlyObject(pod.spec) && Predicate.isString(pod.spec.nodeName) && pod.spec.nodeName !== ""

const isDone = ({ metadata }: ApiObject): boolean =>
  metadata.deletionTimestamp !== undefined && metadata.finalizers === undefined &&
  (metadata.deletionGracePeriodSeconds ?? 0) === 0
