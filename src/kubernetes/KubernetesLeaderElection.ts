/**
 * The election on Kubernetes: its Lease on the API server, and a clock that
 * notices suspension.
 *
 * @since 0.2.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as LeaderElection from "../LeaderElection.ts"
import * as LeaderElectionConfig from "../LeaderElectionConfig.ts"
import type { LeaderElectionError } from "../LeaderElectionError.ts"
import * as SuspendWitness from "../SuspendWitness.ts"
import * as KubernetesClient from "./KubernetesClient.ts"
import type { KubernetesConfigError } from "./KubernetesError.ts"
import * as KubernetesLeaseStore from "./KubernetesLeaseStore.ts"

/**
 * The namespace of the credentials and where they come from: what the settings
 * of an election have to know of the connection.
 *
 * @category layers
 * @since 0.2.0
 */
export const layerCredentials: Layer.Layer<never, never, KubernetesClient.KubernetesClient> = Layer.effectContext(
  Effect.map(KubernetesClient.KubernetesClient, (client) =>
    Context.empty().pipe(
      Context.add(LeaderElectionConfig.CredentialsNamespace, client.namespace),
      Context.add(LeaderElectionConfig.CredentialsOrigin, client.origin)
    ))
)

/**
 * An election on Kubernetes: `LeaderElection.layer` with the store on the API
 * server, and a clock that notices suspension. What is not named is read from
 * the environment.
 *
 * **Example** (Naming the Lease in code)
 *
 * ```ts
 * import { Layer } from "effect"
 * import { KubernetesClient, KubernetesLeaderElection } from "effect-kubernetes-leader-election"
 *
 * export const ElectionLive = KubernetesLeaderElection.layer({ name: "invoices", leaseDuration: "30 seconds" }).pipe(
 *   Layer.provide(KubernetesClient.layer)
 * )
 * ```
 *
 * @category layers
 * @since 0.2.0
 */
export const layer = (
  input?: LeaderElectionConfig.Input
): Layer.Layer<LeaderElection.LeaderElection, LeaderElectionError, KubernetesClient.KubernetesClient> =>
  LeaderElection.layer(input).pipe(
    Layer.provide(KubernetesLeaseStore.layer),
    Layer.provide(layerCredentials),
    Layer.provide(SuspendWitness.layerNode)
  )

/**
 * An election on Kubernetes with every setting from the environment:
 * LEADER_ELECTION_NAME, and POD_NAME, POD_UID and POD_NAMESPACE from the
 * downward API. The connection is that of `KubernetesClient.layer`.
 *
 * @category layers
 * @since 0.1.0
 */
export const LeaderElectionLive: Layer.Layer<
  LeaderElection.LeaderElection,
  LeaderElectionError | KubernetesConfigError
> = layer().pipe(Layer.provide(KubernetesClient.layer))
