/**
 * For tests of programs that use leader election: Leases in memory, a fault layer in front of any store, and a local
 * API server that speaks the real one's HTTP.
 *
 * @since 0.1.0
 */

/** A Kubernetes cluster in memory, and what others do to it. */
export * as MemoryCluster from "./MemoryCluster.ts"

/** `LeaseStore` on a cluster in memory. */
export * as MemoryLeaseStore from "./MemoryLeaseStore.ts"
