/**
 * What a failure looks like at the command line: one line that says what is
 * wrong (a line for each problem, where there are several), and an exit code.
 * Only a defect shows a stack trace.
 *
 * @internal
 */
import * as Data from "effect/Data"
import * as Predicate from "effect/Predicate"
import { type KubernetesConfigError, type KubernetesError, refusedWith } from "../../kubernetes/KubernetesError.ts"
import type { LeaderElectionError } from "../../LeaderElectionError.ts"
import type { LeaseError } from "../../LeaseError.ts"
import { exitCodes } from "./exitCodes.ts"

/** A command ends with this exit code. `message` is reported as an error; without it, there is nothing left to say. */
export class CommandFailure extends Data.TaggedError("CommandFailure")<{
  readonly exitCode: number
  readonly message: string
}> {}

/** Everything that a command is expected to fail with. */
export type Failure = CommandFailure | LeaderElectionError | LeaseError | KubernetesError | KubernetesConfigError

export interface Report {
  readonly message: string
  readonly exitCode: number
}

/** What to report of an expected failure. */
export const report = (error: Failure): Report => ({ message: error.message, exitCode: exitCodeOf(error) })

const exitCodeOf = (error: Failure): number => {
  switch (error._tag) {
    case "CommandFailure":
      return error.exitCode
    case "KubernetesConfigError":
      return exitCodes.configuration
    case "KubernetesError":
      return (refusedWith(error) ?? 429) === 429 ? exitCodes.unavailable : exitCodes.refused
    case "LeaseError":
      return error.reason._tag === "LeaseUnavailable" ? exitCodes.unavailable : exitCodes.refused
    case "LeaderElectionError":
      switch (error.reason._tag) {
        case "InvalidSettings":
          return exitCodes.usage
        case "LeadershipLost":
          return exitCodes.leadershipLost
        case "LeaseRefused":
          return exitCodes.refused
        case "RenewalFailed":
          return exitCodes.unavailable
        case "DuplicateIdentity":
        case "AlreadyCampaigning":
          return exitCodes.configuration
      }
  }
}

/** Whether `error` is one of those that {@link report} knows. */
export const isFailure = (error: unknown): error is Failure =>
  Predicate.isTagged(error, "CommandFailure") || Predicate.isTagged(error, "KubernetesConfigError") ||
  Predicate.isTagged(error, "KubernetesError") || Predicate.isTagged(error, "LeaseError") ||
  Predicate.isTagged(error, "LeaderElectionError")
