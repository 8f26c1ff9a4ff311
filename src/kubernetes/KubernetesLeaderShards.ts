/**
 * Groups of shards on Kubernetes, with one connection pool and one watch.
 *
 * @since 0.2.0
 */
import * as Layer from "effect/Layer"
import type { LeaderElectionError } from "../LeaderElectionError.ts"
import * as LeaderShards from "../LeaderShards.ts"
import * as SuspendWitness from "../SuspendWitness.ts"
import type * as KubernetesClient from "./KubernetesClient.ts"
import { layerCredentials } from "./KubernetesLeaderElection.ts"
import * as KubernetesLeaseStore from "./KubernetesLeaseStore.ts"

/**
 * A group of shards on Kubernetes.
 *
 * **Details**
 *
 * The Role, for Leases of any name:
 *
 * ```yaml
 * rules:
 *   - apiGroups: ["coordination.k8s.io"]
 *     resources: ["leases"]
 *     verbs: ["create", "get", "patch", "watch"]
 * ```
 *
 * @category layers
 * @since 0.2.0
 */
export const layer = (
  input?: LeaderShards.Input
): Layer.Layer<LeaderShards.LeaderShards, LeaderElectionError, KubernetesClient.KubernetesClient> =>
  LeaderShards.layer(input).pipe(
    Layer.provide(KubernetesLeaseStore.layerShared),
    Layer.provide(layerCredentials),
    Layer.provide(SuspendWitness.layerNode)
  )
