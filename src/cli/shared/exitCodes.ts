/**
 * The exit codes of the command line, all in one table. `run` gives the exit
 * code of its COMMAND; its own are those of sysexits.h and of the shells, which
 * few programs use, so that they are not mistaken for it.
 *
 * @internal
 */
import { constants } from "node:os"

const table = {
  success: [0, "all is well; of run: COMMAND ended with 0"],
  failure: [1, "the request could not be carried out, or a check failed"],
  usage: [2, "a bad flag or argument; settings that are missing or contradict each other"],
  unavailable: [69, "the API server cannot be reached, or does not answer in time"],
  internal: [70, "a defect of effect-kubernetes-leader-election itself"],
  leadershipLost: [75, "run: leadership was lost, for whatever reason, and COMMAND was ended"],
  refused: [77, "a right is missing, or the API server refuses the request"],
  configuration: [
    78,
    "no way to reach a cluster is configured; two processes share one identity (run without --again: 75)"
  ],
  notExecutable: [126, "run: COMMAND was found, but cannot be executed"],
  notFound: [127, "run: COMMAND was not found"]
} as const

type Name = keyof typeof table

/** Each code by its name. */
export const exitCodes = Object.fromEntries(
  Object.entries(table).map(([name, [code]]) => [name, code])
) as { readonly [N in Name]: (typeof table)[N][0] }

/** The table, for help and documentation. */
export const descriptions: ReadonlyArray<readonly [code: string, meaning: string]> = [
  ...Object.values(table).map(([code, meaning]) => [String(code), meaning] as const),
  ["128 + n", "ended by signal n (143: SIGTERM, 130: SIGINT): COMMAND was, or run while it waited, or serve"],
  ["other", "run: the exit code of COMMAND"]
]

/** As the shells have it: 128 and the signal's number. */
export const ofSignal = (signal: NodeJS.Signals): number => 128 + constants.signals[signal]
