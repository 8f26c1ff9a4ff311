/**
 * What a candidate process reports, one JSON line for each change: written by
 * `effect-kubernetes-leader-election candidate`, read by the demo, the fault tests and the
 * benchmarks.
 *
 * @internal
 */
import * as Schema from "effect/Schema"

/**
 * - `started`: the settings are complete; the campaign begins.
 * - `idle`, `following`, `pending`: as in `LeaderElectionStatus`. `following`
 *   comes again when another candidate is seen to lead.
 * - `leading`: the leader program has begun.
 * - `step`: the leader program has asked whether it still leads, and gone on.
 * - `lost`: the leader's program was notified that its term is over, and why.
 * - `ending`: the leader program was asked to end in good order.
 * - `ended`: the leader program, its finalizers included, is over.
 * - `blocked`, `unblocked`: the event loop was stopped on purpose, and goes on.
 * - `error`: the candidacy ends with this error.
 * - `exit`: the last line; nothing was left behind.
 *
 * The program of a term runs from `leading` to `ended`, and it may act as leader
 * from `leading` to the first of `lost`, `ending` and `ended`.
 */
export const CandidateEvent = Schema.Struct({
  /** The wall clock, Unix milliseconds, with a fraction. */
  at: Schema.Number,
  /** The monotonic clock in milliseconds, with a fraction: on one machine, the same for all processes. */
  mono: Schema.Number,
  event: Schema.Literals([
    "started",
    "idle",
    "following",
    "pending",
    "leading",
    "step",
    "lost",
    "ending",
    "ended",
    "blocked",
    "unblocked",
    "error",
    "exit"
  ]),
  pid: Schema.Number,
  identity: Schema.String,
  /** Who holds the Lease, as seen by this candidate; null where nobody does, or nothing is known. */
  leader: Schema.NullOr(Schema.String),
  /** Of the term; decimal, because it may be more than a JSON number can hold. */
  fencingToken: Schema.optional(Schema.String),
  transitions: Schema.optional(Schema.Number),
  /** Of `pending` and `leading`: how the Lease was taken. */
  cause: Schema.optional(Schema.String),
  /** Of `lost`: why the term was lost. Of `error`: its reason. */
  reason: Schema.optional(Schema.String),
  /** For how long the leadership is valid without another renewal. */
  remainingMs: Schema.optional(Schema.Number),
  message: Schema.optional(Schema.String)
})

export type CandidateEvent = typeof CandidateEvent.Type

/** Reads one line of a candidate. */
export const decodeLine = Schema.decodeUnknownOption(Schema.fromJsonString(CandidateEvent))
