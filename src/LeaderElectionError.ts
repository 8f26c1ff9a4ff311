/**
 * What a program that takes part in an election can catch.
 *
 * Everything that retrying can cure is retried and logged, and never arrives
 * here. What does arrive is either the end of a term ({@link LeadershipLost})
 * or needs a person: a setting, a right, a second process under one identity.
 *
 * @since 0.1.0
 */
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import { LeaseError } from "./LeaseError.ts"

/**
 * Why a term ended before its program did.
 *
 * - `RenewDeadlineExceeded`: no renewal succeeded for `renewDeadline`; the API
 *   server could not be reached, or this process was stalled or suspended.
 * - `LeaseDeleted`: the Lease is gone, or another object has its name.
 * - `LeaseTaken`: another candidate holds the Lease, or someone emptied it.
 * - `DuplicateIdentity`: another process uses this identity.
 * - `SteppedDown`: the leader was asked to give up its term.
 * - `Defect`: something in this library, or in the store, failed in a way that
 *   it must not; the log has its cause.
 * - `ProgramEnded`: no loss; the program of the term has ended. Said by `ensure`
 *   and `confirm` alone, in its finalizers and afterwards.
 *
 * @category models
 * @since 0.1.0
 */
export const LossReason = Schema.Literals([
  "RenewDeadlineExceeded",
  "LeaseDeleted",
  "LeaseTaken",
  "DuplicateIdentity",
  "SteppedDown",
  "Defect",
  "ProgramEnded"
])

/**
 * Why a term ended before its program did.
 *
 * @category models
 * @since 0.1.0
 */
export type LossReason = typeof LossReason.Type

const lossText: Record<LossReason, string> = {
  RenewDeadlineExceeded: "no renewal succeeded within renewDeadline",
  LeaseDeleted: "the Lease was deleted",
  LeaseTaken: "the Lease is no longer held by this process",
  DuplicateIdentity: "another process holds the Lease under the same identity",
  SteppedDown: "the leader was asked to step down",
  Defect: "the election failed unexpectedly",
  ProgramEnded: "the program of this term has ended"
}

/**
 * The term is over. The program was interrupted before the Lease could
 * be taken by another candidate.
 *
 * @category errors
 * @since 0.1.0
 */
export class LeadershipLost
  extends Schema.Error<LeadershipLost>("effect-kubernetes-leader-election/LeaderElectionError/LeadershipLost")({
    _tag: Schema.tag("LeadershipLost"),
    reason: LossReason
  })
{
  override get message(): string {
    return `${this.reason === "ProgramEnded" ? "not leading" : "leadership lost"}: ${lossText[this.reason]}`
  }
}

/**
 * Settings are missing or contradict each other. `problems` has one sentence
 * for each, naming the setting, its variable, the value and the remedy.
 *
 * @category errors
 * @since 0.1.0
 */
export class InvalidSettings
  extends Schema.Error<InvalidSettings>("effect-kubernetes-leader-election/LeaderElectionError/InvalidSettings")({
    _tag: Schema.tag("InvalidSettings"),
    problems: Schema.Array(Schema.String)
  })
{
  override get message(): string {
    return this.problems.length === 1
      ? `invalid settings: ${this.problems[0]}`
      : `invalid settings:\n${this.problems.map((problem) => `  - ${problem}`).join("\n")}`
  }
}

/**
 * The API server will not let this process take part: a right is missing (for
 * longer than `leaseDuration` and a minute), something denies its requests, the
 * namespace does not exist, or they are invalid. `error` has the last answer.
 *
 * @category errors
 * @since 0.1.0
 */
export class LeaseRefused
  extends Schema.Error<LeaseRefused>("effect-kubernetes-leader-election/LeaderElectionError/LeaseRefused")({
    _tag: Schema.tag("LeaseRefused"),
    error: LeaseError
  })
{
  override get message(): string {
    return `cannot take part in the election: ${this.error.message}`
  }
}

/**
 * Another live process uses this identity on this Lease. Give every process its
 * own; the default, made from POD_NAME and POD_UID, is.
 *
 * @category errors
 * @since 0.1.0
 */
export class DuplicateIdentity
  extends Schema.Error<DuplicateIdentity>("effect-kubernetes-leader-election/LeaderElectionError/DuplicateIdentity")({
    _tag: Schema.tag("DuplicateIdentity"),
    identity: Schema.String,
    lease: Schema.String
  })
{
  override get message(): string {
    return `two processes take part in the election on ${this.lease} as "${this.identity}": ` +
      `give each its own identity (POD_NAME and POD_UID from the downward API, or LEADER_ELECTION_IDENTITY)`
  }
}

/**
 * This process already takes part in an election on this Lease: either a second
 * election was built for it, or a second campaign was begun while the first is
 * under way or its program still runs. Share one election (its layer), and run
 * everything that the leader does in one program.
 *
 * @category errors
 * @since 0.1.0
 */
export class AlreadyCampaigning
  extends Schema.Error<AlreadyCampaigning>("effect-kubernetes-leader-election/LeaderElectionError/AlreadyCampaigning")({
    _tag: Schema.tag("AlreadyCampaigning"),
    lease: Schema.String
  })
{
  override get message(): string {
    return `this process already takes part in an election on ${this.lease}: share one election layer, ` +
      `and run everything that the leader does in one program`
  }
}

/**
 * `confirm` could not show that the term goes on: the renewal it asked for did
 * not succeed. The term itself may still be valid; `error` has the answer,
 * where there was one.
 *
 * @category errors
 * @since 0.1.0
 */
export class RenewalFailed
  extends Schema.Error<RenewalFailed>("effect-kubernetes-leader-election/LeaderElectionError/RenewalFailed")({
    _tag: Schema.tag("RenewalFailed"),
    error: LeaseError
  })
{
  override get message(): string {
    return `the renewal was not committed: ${this.error.message}`
  }
}

/**
 * Everything a {@link LeaderElectionError} can be about.
 *
 * @category errors
 * @since 0.1.0
 */
export const LeaderElectionErrorReason = Schema.Union([
  LeadershipLost,
  InvalidSettings,
  LeaseRefused,
  DuplicateIdentity,
  AlreadyCampaigning,
  RenewalFailed
])

/**
 * Everything a {@link LeaderElectionError} can be about.
 *
 * @category errors
 * @since 0.1.0
 */
export type LeaderElectionErrorReason = typeof LeaderElectionErrorReason.Type

const TypeId = "~effect-kubernetes-leader-election/LeaderElectionError"

/**
 * Whether a value is a {@link LeaderElectionError}, also where two copies of
 * this library are loaded.
 *
 * @category guards
 * @since 0.2.0
 */
export const isLeaderElectionError = (value: unknown): value is LeaderElectionError =>
  Predicate.hasProperty(value, TypeId)

/**
 * The one error of this library. `reason` says what happened: match it with
 * `Effect.catchReason("LeaderElectionError", "LeadershipLost", ...)`.
 *
 * @category errors
 * @since 0.1.0
 */
export class LeaderElectionError
  extends Schema.Error<LeaderElectionError>("effect-kubernetes-leader-election/LeaderElectionError")({
    _tag: Schema.tag("LeaderElectionError"),
    reason: LeaderElectionErrorReason
  })
{
  readonly [TypeId] = TypeId

  override get message(): string {
    return this.reason.message
  }
}
