/**
 * The {@link LeaseStore} on the Kubernetes API: `coordination.k8s.io/v1` Leases
 * over a {@link KubernetesClient}.
 *
 * **Details**
 *
 * Reads ask for the newest state and never for a cached one. Creating is a POST;
 * changing is a merge patch that carries the version it was decided on. Neither
 * PUT nor server-side apply is used: both create an object that is missing,
 * whatever version they carry.
 *
 * What the service account needs, and what {@link LeaseForbidden} names when it
 * is missing:
 *
 * ```yaml
 * rules:
 *   - apiGroups: ["coordination.k8s.io"]
 *     resources: ["leases"]
 *     verbs: ["create"] # not to be limited by resourceNames: the name is not known to the authoriser
 *   - apiGroups: ["coordination.k8s.io"]
 *     resources: ["leases"]
 *     verbs: ["get", "patch", "watch"]
 *     resourceNames: ["my-lease"]
 * ```
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Random from "effect/Random"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { LeaseError, type LeaseErrorReason, LeaseUnavailable, type LeaseVerb } from "../LeaseError.ts"
import { decode, formatKey, type LeaseKey, toCreateBody, toPatchBody } from "../LeaseRecord.ts"
import { type LeaseChange, type LeaseResponse, LeaseStore } from "../LeaseStore.ts"
import * as LeaseErrors from "./internal/leaseError.ts"
import * as NamespaceWatch from "./internal/namespaceWatch.ts"
import * as Paths from "./internal/paths.ts"
import { KubernetesClient, type KubernetesRequest, type KubernetesResponse } from "./KubernetesClient.ts"
import * as KubernetesError from "./KubernetesError.ts"

/**
 * How long a watch may be silent before its connection counts as dead. The API
 * server sends a bookmark about each minute.
 */
const silence = Duration.seconds(90)

/** How long a watch may take to open. The API server sends the response's head at once. */
const opening = Duration.seconds(10)

/**
 * Makes the store.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: Effect.Effect<LeaseStore["Service"], never, KubernetesClient> = Effect.gen(function*() {
  const client = yield* KubernetesClient

  const request = (
    key: LeaseKey,
    verb: LeaseVerb,
    options: KubernetesRequest
  ): Effect.Effect<LeaseResponse, LeaseError> =>
    client.request(options).pipe(
      Effect.mapError((error) => LeaseErrors.fromRequest(key, verb, error)),
      Effect.flatMap((response) => toResponse(key, verb, response)),
      Effect.mapError((reason) => new LeaseError({ verb, ...key, reason }))
    )

  return LeaseStore.of({
    server: client.server,
    // No resourceVersion parameter, not even "0": with one the answer may come from a cache.
    get: (key) => request(key, "get", { method: "GET", path: Paths.lease(key.namespace, key.name) }),
    create: (key, write) =>
      request(key, "create", {
        method: "POST",
        path: Paths.leases(key.namespace),
        body: toCreateBody(key, write),
        repeatable: true
      }),
    patch: (key, resourceVersion, write) =>
      request(key, "patch", {
        method: "PATCH",
        path: Paths.lease(key.namespace, key.name),
        contentType: "application/merge-patch+json",
        body: toPatchBody(resourceVersion, write),
        repeatable: true
      }),
    changes: (key, since) => watch(client, key.name === "" ? { namespace: key.namespace } : key, since)
  })
})

/**
 * As {@link make}, with one watch for all Leases of a namespace: for a process
 * that takes part in many elections.
 *
 * **Details**
 *
 * Needs the right to `watch` all Leases of the namespace, not limited by
 * `resourceNames`. Where the API server refuses that, a warning says so and each
 * Lease is watched by itself; the shared watch is tried again each minute, and
 * takes over when it is granted.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeShared: Effect.Effect<LeaseStore["Service"], never, KubernetesClient | Scope.Scope> = Effect.gen(
  function*() {
    const client = yield* KubernetesClient
    const store = yield* make
    const scope = yield* Effect.scope
    const namespaces = new Map<string, LeaseStore["Service"]["changes"]>()

    const changesOf = (namespace: string): Effect.Effect<LeaseStore["Service"]["changes"]> =>
      Effect.suspend(() => {
        const existing = namespaces.get(namespace)
        return existing !== undefined ?
          Effect.succeed(existing) :
          NamespaceWatch.make({
            namespace,
            together: (since) => watch(client, { namespace }, since),
            apart: store.changes
          }).pipe(
            Scope.provide(scope),
            Effect.tap((made) => Effect.sync(() => namespaces.set(namespace, made)))
          )
      })

    return LeaseStore.of({
      ...store,
      changes: (key, since) => Stream.unwrap(Effect.map(changesOf(key.namespace), (changes) => changes(key, since)))
    })
  }
)

/**
 * The store on the API server that {@link KubernetesClient} is connected to.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<LeaseStore, never, KubernetesClient> = Layer.effect(LeaseStore, make)

/**
 * As {@link layer}, with one watch for all Leases of a namespace; see
 * {@link makeShared}.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerShared: Layer.Layer<LeaseStore, never, KubernetesClient> = Layer.effect(LeaseStore, makeShared)

// --- Watches ---

/** Watches one Lease, or, without a name, all of a namespace. */
const watch = (
  client: KubernetesClient["Service"],
  target: { readonly namespace: string; readonly name?: string },
  since: bigint | undefined
): Stream.Stream<LeaseChange, LeaseError> => {
  const key: LeaseKey = { namespace: target.namespace, name: target.name ?? "" }
  return Stream.unwrap(
    Effect.gen(function*() {
      // Spread, so that the watches of many replicas do not end together.
      const timeoutSeconds = yield* Random.nextIntBetween(300, 600)
      const { lines } = yield* client.stream({
        path: Paths.leases(key.namespace),
        query: {
          watch: "1",
          fieldSelector: target.name === undefined ? undefined : `metadata.name=${target.name}`,
          allowWatchBookmarks: "true",
          timeoutSeconds: `${timeoutSeconds}`,
          resourceVersion: since?.toString()
        },
        timeout: opening,
        silence
      })
      return Stream.concat(
        Stream.succeed<LeaseChange>({ _tag: "Opened" }),
        lines.pipe(
          Stream.mapError((error) => LeaseErrors.fromRequest(key, "watch", error)),
          Stream.mapEffect((line) => toChange(key, line)),
          Stream.filter((change) => change !== undefined),
          Stream.filter((change) => isAbout(target, change))
        )
      )
    }).pipe(
      Effect.mapError((error) => LeaseErrors.fromRequest(key, "watch", error))
    )
  ).pipe(
    Stream.mapError((reason) => new LeaseError({ verb: "watch", ...key, reason }))
  )
}

/** A proxy that drops the field selector sends the events of all Leases. */
const isAbout = (target: { readonly namespace: string; readonly name?: string }, change: LeaseChange): boolean =>
  !("lease" in change) ||
  (change.lease.namespace === target.namespace && (target.name === undefined || change.lease.name === target.name))

// --- Answers ---

const toResponse = (
  key: LeaseKey,
  verb: LeaseVerb,
  response: KubernetesResponse
): Effect.Effect<LeaseResponse, LeaseErrorReason> =>
  Effect.matchEffect(decode(response.body), {
    onSuccess: (lease) =>
      lease.namespace === key.namespace && lease.name === key.name
        ? Effect.succeed({ lease })
        : Effect.fail(LeaseErrors.noLease(verb, response.status, `it is ${formatKey(lease)}`)),
    onFailure: (error) => Effect.fail(LeaseErrors.noLease(verb, response.status, error.message))
  })

const WatchEvent = Schema.Struct({ type: Schema.String, object: Schema.Unknown })

const Bookmark = Schema.Struct({
  metadata: Schema.Struct({ resourceVersion: Schema.String.check(Schema.isPattern(/^[0-9]+$/)) })
})

const WatchStatus = Schema.Struct({
  kind: Schema.optional(Schema.String),
  code: Schema.optional(Schema.Number),
  reason: Schema.optional(Schema.String),
  message: Schema.optional(Schema.String)
})

const decodeEvent = Schema.decodeUnknownEffect(WatchEvent)
const decodeBookmark = Schema.decodeUnknownEffect(Bookmark)
const decodeStatus = Schema.decodeUnknownResult(WatchStatus)

const toChange = (key: LeaseKey, line: unknown): Effect.Effect<LeaseChange | undefined, LeaseErrorReason> =>
  decodeEvent(line).pipe(
    Effect.flatMap(
      ({ object, type }): Effect.Effect<LeaseChange | undefined, LeaseErrorReason | Schema.SchemaError> => {
        switch (type) {
          case "ADDED":
          case "MODIFIED":
            return Effect.map(decode(object), (lease) => ({ _tag: "Applied", lease }))
          case "DELETED":
            return Effect.map(decode(object), (lease) => ({ _tag: "Deleted", lease }))
          case "BOOKMARK":
            return Effect.map(decodeBookmark(object), ({ metadata }) => ({
              _tag: "Bookmark",
              resourceVersion: BigInt(metadata.resourceVersion)
            }))
          case "ERROR":
            return Effect.fail(toWatchReason(key, object))
          default:
            return Effect.undefined
        }
      }
    ),
    Effect.catchTag(
      "SchemaError",
      (error) =>
        Effect.fail(
          new LeaseUnavailable({
            message: `the watch sent something that is not an event of a Lease: ${LeaseErrors.oneLine(error.message)}`,
            outcomeUnknown: false,
            code: 200
          })
        )
    )
  )

/** The Status that a watch which was answered with 200 may still send. */
const toWatchReason = (key: LeaseKey, object: unknown): LeaseErrorReason => {
  const { code = 500, kind, message = "no message", reason } = Result.getOrElse(
    decodeStatus(object),
    (): typeof WatchStatus.Type => ({})
  )
  return LeaseErrors.fromStatus(
    key,
    "watch",
    new KubernetesError.KubernetesStatusError({
      status: code,
      message,
      ...(reason !== undefined && { reason }),
      fromApiServer: kind === "Status",
      outcomeUnknown: false
    })
  )
}
