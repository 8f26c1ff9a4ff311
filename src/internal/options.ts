/**
 * Options in code, checked where they are given: what is wrong with one is a
 * mistake of the program's, and a defect that names it.
 *
 * @internal
 */
import * as Duration from "effect/Duration"
import { InvalidSettings, LeaderElectionError } from "../LeaderElectionError.ts"
import * as DurationText from "./duration.ts"

/** Throws where it is no duration, is less than `least`, or has no end. */
export const duration = (
  name: string,
  given: DurationText.Input,
  least: Duration.Duration = Duration.zero
): Duration.Duration => {
  const problem = DurationText.problem(given, least)
  if (problem !== undefined) {
    throw new LeaderElectionError({ reason: new InvalidSettings({ problems: [`${name} ${problem}`] }) })
  }
  return DurationText.read(given)!
}
