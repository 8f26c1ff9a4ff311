/**
 * Whether what is sent to a host stays on this machine.
 *
 * @internal
 */

/** `hostname` as in a URL: an IPv6 address in brackets. */
export const isLoopback = (hostname: string): boolean =>
  hostname === "localhost" || hostname === "[::1]" || /^127\.\d+\.\d+\.\d+$/.test(hostname)
