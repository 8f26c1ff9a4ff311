/**
 * {@link LeaseStore} on a {@link MemoryCluster}: the election under `TestClock`, without sockets.
 *
 * Each store is one client's connection to the cluster. Requests are answered at once and watches report a change as
 * it is made; put {@link LeaseFaults} in front for everything that goes wrong on the way.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { fromStatus } from "../kubernetes/internal/leaseError.ts"
import { KubernetesStatusError } from "../kubernetes/KubernetesError.ts"
import * as LeaderElectionConfig from "../LeaderElectionConfig.ts"
import { LeaseError, type LeaseVerb } from "../LeaseError.ts"
import { type LeaseKey, toCreateBody, toPatchBody } from "../LeaseRecord.ts"
import { type LeaseChange, type LeaseResponse, LeaseStore } from "../LeaseStore.ts"
import type { ApiError } from "./internal/apiError.ts"
import type { ApiObject } from "./internal/apiObject.ts"
import { apiOf } from "./internal/clusterApi.ts"
import * as MemoryCluster from "./MemoryCluster.ts"

/**
 * Connects to a cluster. Each connection has a name of its own, so that several candidates of one process count as
 * several.
 *
 * **Example** (Two candidates on one cluster)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { MemoryCluster, MemoryLeaseStore } from "effect-kubernetes-leader-election/testing"
 *
 * const program = Effect.gen(function*() {
 *   const cluster = yield* MemoryCluster.make()
 *   const a = yield* MemoryLeaseStore.make(cluster, { name: "a" })
 *   const b = yield* MemoryLeaseStore.make(cluster, { name: "b" })
 *   return [a.server, b.server]
 * })
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  cluster: MemoryCluster.MemoryCluster["Service"],
  options: { readonly name?: string | undefined } = {}
): Effect.Effect<LeaseStore["Service"]> =>
  Effect.sync(() => {
    const { decode, nextConnection, run, types: { leases }, watch } = apiOf(cluster)

    const respond = (
      verb: LeaseVerb,
      key: LeaseKey,
      answer: Effect.Effect<ApiObject, ApiError>
    ): Effect.Effect<LeaseResponse, LeaseError> =>
      answer.pipe(
        Effect.flatMap(decode),
        Effect.map((lease) => ({ lease })),
        Effect.mapError((error) => toLeaseError(verb, key, error))
      )

    return LeaseStore.of({
      server: `${cluster.name}/${nextConnection()}${options.name === undefined ? "" : `-${options.name}`}`,

      get: (key) => respond("get", key, run((objects) => objects.get(leases, key.namespace, key.name))),

      create: (key, write) =>
        respond("create", key, run((objects) => objects.create(leases, key.namespace, toCreateBody(key, write)))),

      patch: (key, resourceVersion, write) =>
        respond(
          "patch",
          key,
          run((objects) => objects.patch(leases, key.namespace, key.name, toPatchBody(resourceVersion, write)))
        ),

      changes: (key, since) =>
        watch({ type: leases, namespace: key.namespace, name: key.name === "" ? undefined : key.name }, since).pipe(
          Stream.mapEffect((element): Effect.Effect<LeaseChange> =>
            element._tag === "Event"
              ? Effect.map(decode(element.event.object), (lease) => ({
                _tag: element.event.type === "DELETED" ? "Deleted" : "Applied",
                lease
              }))
              : Effect.succeed(
                element._tag === "Opened" ? element : { _tag: "Bookmark", resourceVersion: element.version }
              )
          ),
          Stream.mapError((error) => toLeaseError("watch", key, error))
        )
    })
  })

/**
 * {@link LeaseStore} on the {@link MemoryCluster} in context. Every build of it is a connection of its own.
 *
 * Elections that are built on it read no environment: what they are not given has its default.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<LeaseStore, never, MemoryCluster.MemoryCluster> = Layer.effectContext(
  Effect.map(
    Effect.flatMap(MemoryCluster.MemoryCluster, (cluster) => make(cluster)),
    (store) => Context.make(LeaseStore, store).pipe(Context.add(LeaderElectionConfig.ReadsEnvironment, false))
  )
)

/**
 * {@link LeaseStore} on a cluster made for it. The cluster is provided too, for what others do to it.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory = (
  options?: MemoryCluster.Options
): Layer.Layer<LeaseStore | MemoryCluster.MemoryCluster> => Layer.provideMerge(layer, MemoryCluster.layer(options))

// --- internal ---------------------------------------------------------------------------------------------------

// What the emulator refuses means what the same refusal of the API server means.
const toLeaseError = (verb: LeaseVerb, key: LeaseKey, { code, details, message, reason }: ApiError): LeaseError =>
  new LeaseError({
    verb,
    namespace: key.namespace,
    name: key.name,
    reason: fromStatus(
      key,
      verb,
      new KubernetesStatusError({
        status: code,
        message,
        ...(reason !== undefined && { reason }),
        ...(details !== undefined && { details }),
        fromApiServer: true,
        outcomeUnknown: false
      })
    )
  })
