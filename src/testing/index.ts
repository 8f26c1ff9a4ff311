/**
 * For tests of programs that use leader election: Leases in memory, a fault layer in front of any store, and a local
 * API server that speaks the real one's HTTP.
 *
 * @since 0.1.0
 */

/** What can happen to one request on its way. */
export * as Fault from "./Fault.ts"

/** A local API server that speaks the real one's HTTP. */
export * as LeaseApiServer from "./LeaseApiServer.ts"

/** Faults in front of any `LeaseStore`, controlled while the election runs. */
export * as LeaseFaults from "./LeaseFaults.ts"

/** What the election relies on, asserted of any `LeaseStore`: named effects without a test framework. */
export * as LeaseStoreSuite from "./LeaseStoreSuite.ts"

/** A Kubernetes cluster in memory, and what others do to it. */
export * as MemoryCluster from "./MemoryCluster.ts"

/** `LeaseStore` on a cluster in memory. */
export * as MemoryLeaseStore from "./MemoryLeaseStore.ts"

/** A term for unit tests, whose validity and loss the test decides. */
export * as TestLeadership from "./TestLeadership.ts"
