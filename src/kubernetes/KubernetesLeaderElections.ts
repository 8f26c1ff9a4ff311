/**
 * Many elections on Kubernetes, with one connection pool and one watch.
 *
 * @since 0.2.0
 */
import * as Layer from "effect/Layer"
import * as LeaderElections from "../LeaderElections.ts"
import * as SuspendWitness from "../SuspendWitness.ts"
import type * as KubernetesClient from "./KubernetesClient.ts"
import { layerCredentials } from "./KubernetesLeaderElection.ts"
import * as KubernetesLeaseStore from "./KubernetesLeaseStore.ts"

/**
 * Elections on Kubernetes, with one connection pool and one watch.
 *
 * **Details**
 *
 * The shared watch needs the right to `watch` all Leases of the namespace. Where
 * it is missing, each Lease is watched by itself, or polled. The Role, for
 * Leases of any name:
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
  input?: LeaderElections.Input
): Layer.Layer<LeaderElections.LeaderElections, never, KubernetesClient.KubernetesClient> =>
  LeaderElections.layer(input).pipe(
    Layer.provide(KubernetesLeaseStore.layerShared),
    Layer.provide(layerCredentials),
    Layer.provide(SuspendWitness.layerNode)
  )
