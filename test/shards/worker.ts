/**
 * Runs seeds of the model in a thread of its own, with a rule broken where it is asked to: the sources are loaded after
 * that.
 */
import { parentPort, workerData } from "node:worker_threads"
import { breakRule } from "../simulation/brokenRules.ts"
import { brokenRules } from "./brokenRules.ts"
import type { Outcome } from "./scenarios.ts"

export interface Job {
  readonly from: number
  readonly to: number
  /** Every so many seeds, so that several threads share a range. */
  readonly step: number
  readonly rule: string | undefined
  /** Whether to stop at the first violation. */
  readonly stop: boolean
}

export type Report = Omit<Outcome, "timeline" | "violation"> & {
  readonly invariant: string | undefined
  readonly message: string | undefined
}

const job = workerData as Job

if (job.rule !== undefined) {
  breakRule(brokenRules.find(({ name }) => name === job.rule)!)
}

const { simulate } = await import("./scenarios.ts")

for (let seed = job.from; seed <= job.to; seed += job.step) {
  const { timeline: _, violation, ...figures } = simulate(seed)
  const report: Report = { ...figures, invariant: violation?.invariant, message: violation?.message }
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
  parentPort?.postMessage(report)
  if (job.stop && violation !== undefined) {
    break
  }
}
