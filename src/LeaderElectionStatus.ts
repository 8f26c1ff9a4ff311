/**
 * Where an election stands, as this process sees it.
 *
 * @since 0.1.0
 */
import type * as Option from "effect/Option"
import type { LossReason } from "./LeaderElectionError.ts"

/**
 * How a candidate came to hold the Lease.
 *
 * - `created`: there was no Lease.
 * - `released`: the leader before gave it up.
 * - `expired`: the leader before had stopped renewing.
 * - `resumed`: an earlier process of this Pod held it.
 *
 * @category models
 * @since 0.1.0
 */
export type TakeoverCause = "created" | "released" | "expired" | "resumed"

/**
 * Where an election stands.
 *
 * - `Idle`: no campaign is under way.
 * - `Following`: campaigning; `leader` is the holder of the Lease.
 * - `Pending`: holds a Lease that may be younger than leaseDuration, and waits
 *   before it leads: an earlier Lease may still have a leader.
 * - `Leading`: the program runs.
 * - `Ending`: the term is over or is being given up, and the program's
 *   finalizers run; `reason` is `undefined` where nothing was lost.
 *
 * `leader` is the identity of the holder as last seen here, this process
 * included; `None` while the Lease has no holder, and where nothing is known.
 *
 * @category models
 * @since 0.1.0
 */
export type LeaderElectionStatus =
  | { readonly _tag: "Idle"; readonly leader: Option.Option<string> }
  | { readonly _tag: "Following"; readonly leader: Option.Option<string> }
  | { readonly _tag: "Pending"; readonly leader: Option.Option<string>; readonly cause: TakeoverCause }
  | {
    readonly _tag: "Leading"
    readonly leader: Option.Option<string>
    readonly term: Term
  }
  | {
    readonly _tag: "Ending"
    readonly leader: Option.Option<string>
    readonly term: Term
    /** Why the term was lost. */
    readonly reason: LossReason | undefined
  }

/**
 * One term of this process.
 *
 * @category models
 * @since 0.1.0
 */
export interface Term {
  /** The resourceVersion of the guarded write that began the term. */
  readonly fencingToken: bigint
  /** The Lease's leaseTransitions in this term: for people. */
  readonly transitions: number
  /** The Lease's uid. */
  readonly leaseUid: string
  /** How this process came to hold the Lease. */
  readonly cause: TakeoverCause
  /** The wall clock when the term began, Unix milliseconds: for people. */
  readonly since: number
}
