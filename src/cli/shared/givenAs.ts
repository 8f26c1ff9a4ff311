/**
 * What is wrong with a setting, in the words of where it came from: the rules
 * of the settings call each by its variable, and at the command line it may
 * have come from a flag. Pure.
 *
 * @internal
 */
import { variables } from "../../LeaderElectionConfig.ts"
import { InvalidSettings, LeaderElectionError } from "../../LeaderElectionError.ts"

type Setting = keyof typeof variables

/** How each setting was given: as `--name`, or as the argument `NAME`. Those that are missing came from elsewhere. */
export type GivenAs = { readonly [S in Setting]?: string | undefined }

/** The flags of those settings that have a value; each is called as its setting is. */
export const flagsOf = (input: { readonly [S in Setting]?: unknown }): GivenAs =>
  Object.fromEntries(
    (Object.keys(variables) as ReadonlyArray<Setting>)
      .filter((setting) => input[setting] !== undefined)
      .map((setting) => [setting, `--${setting.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`])
  )

/** A problem that the rules have found, in the words of {@link GivenAs}. */
export const inWordsOf = (givenAs: GivenAs) => (problem: string): string =>
  (Object.entries(givenAs) as ReadonlyArray<[Setting, string | undefined]>).reduce(
    (text, [setting, called]) =>
      called === undefined ? text : text.replaceAll(`${setting} (${variables[setting]})`, called)
        // The example of the remedy.
        .replaceAll(`${variables[setting]}=`, called.startsWith("--") ? `${called} ` : ""),
    problem
  )

/** An error with all of its problems in the words of {@link GivenAs}. */
export const rename = (givenAs: GivenAs) => (error: LeaderElectionError): LeaderElectionError =>
  error.reason._tag === "InvalidSettings"
    ? new LeaderElectionError({
      reason: new InvalidSettings({ problems: error.reason.problems.map(inWordsOf(givenAs)) })
    })
    : error
