/**
 * The exit codes of the command line, all in one table. `run` gives the exit
 * code of its COMMAND; its own are those of sysexits.h and of the shells, which
 * few programs use, so that they are not mistaken for it.
 *
 * @internal
 */
import { constants } from "node:os"

export const exitCodes = {
  /** All is well; of `run`: COMMAND ended with 0. */
  success: 0,
  /** What was asked for did not happen, or what was checked is not in order. */
  failure: 1,
  /** A bad flag or argument; settings that are missing or contradict each other. */
  usage: 2,
  /** The API server cannot be reached, or does not answer in time. */
  unavailable: 69,
  /** A defect of this program. */
  internal: 70,
  /** `run`: leadership was lost, and COMMAND was ended. */
  leadershipLost: 75,
  /** A right is missing, or the API server refuses the request. */
  refused: 77,
  /** No way to reach a cluster is configured, or two processes share one identity. */
  configuration: 78,
  /** `run`: COMMAND was found, but cannot be executed. */
  notExecutable: 126,
  /** `run`: COMMAND was not found. */
  notFound: 127
} as const

/** The table, for help and documentation. */
export const descriptions: ReadonlyArray<readonly [code: string, meaning: string]> = [
  ["0", "all is well; of run: COMMAND ended with 0"],
  ["1", "what was asked for did not happen, or what was checked is not in order"],
  ["2", "a bad flag or argument; settings that are missing or contradict each other"],
  ["69", "the API server cannot be reached, or does not answer in time"],
  ["70", "a defect of effect-kubernetes-leader-election itself"],
  ["75", "run: leadership was lost, and COMMAND was ended"],
  ["77", "a right is missing, or the API server refuses the request"],
  ["78", "no way to reach a cluster is configured, or two processes share one identity"],
  ["126", "run: COMMAND was found, but cannot be executed"],
  ["127", "run: COMMAND was not found"],
  ["128 + n", "ended by signal n (143: SIGTERM, 130: SIGINT); of run: COMMAND was, or run while it waited"],
  ["other", "run: the exit code of COMMAND"]
]

/** As the shells have it: 128 and the signal's number. */
export const ofSignal = (signal: NodeJS.Signals): number => 128 + constants.signals[signal]
