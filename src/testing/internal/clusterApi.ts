/**
 * What the store in memory and the HTTP server need of a cluster and its users do not: kept beside the cluster, so that
 * it is not part of its public shape.
 *
 * @internal
 */
import type * as Clock from "effect/Clock"
import type * as Effect from "effect/Effect"
import type * as Result from "effect/Result"
import type * as Stream from "effect/Stream"
import type { LeaseRecord } from "../../LeaseRecord.ts"
import type { ApiError } from "./apiError.ts"
import type { ApiObject } from "./apiObject.ts"
import type { Objects, WatchEvent, WatchTarget } from "./objects.ts"
import type { ResourceType } from "./resources.ts"

export type WatchElement =
  | { readonly _tag: "Opened" }
  | { readonly _tag: "Event"; readonly event: WatchEvent }
  | { readonly _tag: "Bookmark"; readonly version: bigint }

export interface ClusterApi {
  readonly types: {
    readonly leases: ResourceType
    readonly pods: ResourceType
    readonly namespaces: ResourceType
    readonly events: ResourceType
  }
  readonly clock: Clock.Clock
  /** A number for the name of a connection. */
  readonly nextConnection: () => number
  /** One synchronous step on the storage; the garbage collector is notified of it. */
  readonly run: <A, E>(f: (objects: Objects) => Result.Result<A, E>) => Effect.Effect<A, E>
  readonly watch: (target: WatchTarget, since: bigint | undefined) => Stream.Stream<WatchElement, ApiError>
  readonly decode: (object: ApiObject) => Effect.Effect<LeaseRecord>
}

const apis = new WeakMap<object, ClusterApi>()

export const attach = <Cluster extends object>(cluster: Cluster, api: ClusterApi): Cluster => {
  apis.set(cluster, api)
  return cluster
}

export const apiOf = (cluster: object): ClusterApi => {
  const api = apis.get(cluster)
  if (api === undefined) {
    throw new Error("This is not a cluster that MemoryCluster.make has made")
  }
  return api
}
