/**
 * Where objects are on the API server.
 *
 * @internal
 */

/** The Leases of a namespace. */
export const leases = (namespace: string): string =>
  `/apis/coordination.k8s.io/v1/namespaces/${encodeURIComponent(namespace)}/leases`

/** One Lease. */
export const lease = (namespace: string, name: string): string => `${leases(namespace)}/${encodeURIComponent(name)}`

/** The Events of a namespace. */
export const events = (namespace: string): string =>
  `/apis/events.k8s.io/v1/namespaces/${encodeURIComponent(namespace)}/events`

/** One Pod. */
export const pod = (namespace: string, name: string): string =>
  `/api/v1/namespaces/${encodeURIComponent(namespace)}/pods/${encodeURIComponent(name)}`
