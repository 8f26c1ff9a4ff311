/**
 * How far one request has come, and what that says about its outcome.
 *
 * @internal
 */
import type { KubernetesTimeoutError } from "../KubernetesError.ts"
import type { Ticket } from "./connections.ts"

/** How far a request has come; kept outside it, since it must be known after an interruption. */
export interface Progress {
  readonly isWrite: boolean
  phase: KubernetesTimeoutError["phase"]
  /** The connection was established, so that the request may have arrived. */
  sent: boolean
  /** The connection had carried an earlier request. */
  reused: boolean
  status: number | undefined
  /** It was sent a second time. */
  repeated: boolean
  /** The wait for a connection, and where the connection leads to. */
  ticket: Ticket | undefined
  address: string | undefined
}

/**
 * Whether the write may have been applied, now or later: it may have arrived,
 * and no answer of the API server itself says that it was refused. A status
 * alone does not say so, for it may be that of something in front of it, but 429
 * is what nothing ever answers to a request that it lets through.
 */
export const outcomeUnknown = (progress: Progress): boolean =>
  progress.isWrite && progress.sent && progress.status !== 429

/** Of a request that has not begun. */
export const make = (isWrite: boolean): Progress => ({
  isWrite,
  phase: "credentials",
  sent: false,
  reused: false,
  repeated: false,
  status: undefined,
  ticket: undefined,
  address: undefined
})
