/**
 * One term, as the program that leads sees it.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type { LeaderElectionError, LossReason } from "./LeaderElectionError.ts"
import type { LeaseKey } from "./LeaseRecord.ts"

/**
 * The leadership of the term that a program runs in: a service inside
 * `LeaderElection.whileLeading`, and the result of `LeaderElection.acquire`.
 *
 * **Details**
 *
 * Validity is a function of time, not a flag: it is compared with the clocks at
 * the moment of the call, so code that wakes up after a stall (garbage
 * collection, a blocked event loop, a suspended machine) learns the truth.
 *
 * **Gotchas**
 *
 * Between any check and the write that it is meant to protect, time passes.
 * Where the resource can compare numbers, send it the {@link fencingToken} and
 * let it refuse a smaller one than it has seen.
 *
 * @category services
 * @since 0.1.0
 */
export class Leadership extends Context.Service<Leadership, {
  /** The Lease. */
  readonly lease: LeaseKey

  /** The identity under which this process leads. */
  readonly identity: string

  /**
   * The resourceVersion of the guarded write that began this term. Greater than
   * that of every earlier term on this Lease, through its deletion and
   * re-creation too. Not comparable after etcd was restored from a backup.
   */
  readonly fencingToken: bigint

  /** The Lease's leaseTransitions in this term: for people. */
  readonly transitions: number

  /** Whether this process leads at this moment. */
  readonly isValid: Effect.Effect<boolean>

  /** How long the leadership remains valid without another renewal; zero once it is over. */
  readonly remaining: Effect.Effect<Duration.Duration>

  /**
   * How long the program may still run before another candidate can take the
   * Lease, 95 % of `leaseDuration` after the last renewal: also after the loss of
   * the term, for what must have ended by then. Zero when the term is long over.
   */
  readonly untilOverrun: Effect.Effect<Duration.Duration>

  /**
   * Fails with `LeadershipLost` unless this process leads at this moment: with
   * the reason of the loss, or `ProgramEnded`. Makes no request. Call it at the
   * point of use, right before something that only a leader may do.
   */
  readonly ensure: Effect.Effect<void, LeaderElectionError>

  /**
   * Renews now, and succeeds only if that renewal was committed: nobody else
   * has held the Lease up to the moment that this was called. One request.
   * Fails with `RenewalFailed` where the attempt failed (the term may go on),
   * with `LeadershipLost` where the term is over.
   */
  readonly confirm: Effect.Effect<void, LeaderElectionError>

  /**
   * Gives up this term, with the reason `SteppedDown`, and returns at once. The
   * election then leaves the Lease to others, until another leads or
   * `leaseDuration` has passed.
   */
  readonly stepDown: Effect.Effect<void>

  /** Waits until the term is lost. `whileLeading` interrupts its program by itself then. */
  readonly lost: Effect.Effect<LossReason>
}>()("effect-kubernetes-leader-election/Leadership") {}
