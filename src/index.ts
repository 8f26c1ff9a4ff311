/**
 * Leader election on Kubernetes Leases for Effect.
 *
 * @since 0.1.0
 */

/** Notices a blocked event loop, and ends terms that are over. */
export * as EventLoopMonitor from "./EventLoopMonitor.ts"

/** Transactions that commit only in the term of their leader. */
export * as Fence from "./Fence.ts"

/** Fencing tokens over HTTP. */
export * as FenceHttp from "./FenceHttp.ts"

/** Connection and credentials of the Kubernetes API. */
export * as KubernetesClient from "./kubernetes/KubernetesClient.ts"

/** Durations as people write them. */
export * as DurationText from "./DurationText.ts"

/** What a request to the Kubernetes API can fail with. */
export * as KubernetesError from "./kubernetes/KubernetesError.ts"

/** Leases on the Kubernetes API server. */
export * as KubernetesLeaseStore from "./kubernetes/KubernetesLeaseStore.ts"

/** Kubernetes Events on the Lease. */
export * as KubernetesEvents from "./kubernetes/KubernetesEvents.ts"

/** The election: `whileLeading`, `whileLeadingForever`, `acquire`, and its layers. */
export * as LeaderElection from "./LeaderElection.ts"

/** The election on Kubernetes. */
export * as KubernetesLeaderElection from "./kubernetes/KubernetesLeaderElection.ts"

/** Many elections on Kubernetes. */
export * as KubernetesLeaderElections from "./kubernetes/KubernetesLeaderElections.ts"

/** The election with everything from the environment. */
export { LeaderElectionLive } from "./kubernetes/KubernetesLeaderElection.ts"

/** Settings, their defaults and their validation. */
export * as LeaderElectionConfig from "./LeaderElectionConfig.ts"

/** What a program can catch. */
export * as LeaderElectionError from "./LeaderElectionError.ts"

/** Many elections in one process, by name. */
export * as LeaderElections from "./LeaderElections.ts"

/** The metrics of the election. */
export * as LeaderElectionMetrics from "./LeaderElectionMetrics.ts"

/** Many leaderships, spread fairly over the replicas. */
export * as LeaderShards from "./LeaderShards.ts"

/** The metrics of a group of shards. */
export * as LeaderShardsMetrics from "./LeaderShardsMetrics.ts"

/** Groups of shards on Kubernetes. */
export * as KubernetesLeaderShards from "./kubernetes/KubernetesLeaderShards.ts"

/** Where an election stands. */
export type * as LeaderElectionStatus from "./LeaderElectionStatus.ts"

/** Health for liveness probes, with ready-made HTTP routes. */
export * as LeaderHealth from "./LeaderHealth.ts"

/** What a store can answer instead of a Lease. */
export * as LeaseError from "./LeaseError.ts"

/** The Lease, and its codec to `coordination.k8s.io/v1`. */
export * as LeaseRecord from "./LeaseRecord.ts"

/** Removing Leases on purpose, for elections that come and go. */
export * as LeaseRemoval from "./kubernetes/LeaseRemoval.ts"

/** The seam between the election and where Leases are kept. */
export * as LeaseStore from "./LeaseStore.ts"

/** How the packages are loaded that only some kubeconfigs need. */
export * as OptionalPackages from "./kubernetes/OptionalPackages.ts"

/** A label on the leader's Pod, for a Service that routes to the leader. */
export * as PodLabel from "./kubernetes/PodLabel.ts"

/** Metrics to a StatsD or DogStatsD server. */
export * as StatsD from "./StatsD.ts"

/** A clock that goes on while the machine is suspended. */
export * as SuspendWitness from "./SuspendWitness.ts"

/** An election without any cluster, for local development. */
export * as LocalLeaderElection from "./LocalLeaderElection.ts"

/** Ends a process whose event loop is blocked when its term is over. */
export * as TermGuard from "./TermGuard.ts"

/** The term that a program runs in: a service inside `whileLeading`. */
export { Leadership } from "./Leadership.ts"
