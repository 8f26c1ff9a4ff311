/**
 * Runs seeds of the model in a thread of its own, with a rule broken where it is asked to: the sources are loaded after
 * that.
 */
import { parentPort, workerData } from "node:worker_threads"
import { breakRule } from "../simulation/brokenRules.ts"
import { brokenInShippedCode, brokenRules } from "./brokenRules.ts"
import type { Outcome } from "./scenarios.ts"

/** The model of the rule alone, or the shipped code: with a few shards, or with a hundred. */
export type What = "model" | "code" | "large"

export interface Job {
  readonly what: What
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
  const rules = job.what === "model" ? brokenRules : brokenInShippedCode
  breakRule(rules.find(({ name }) => name === job.rule)!)
}

const { simulate } = job.what === "model" ? await import("./scenarios.ts") : await import("./Simulation.ts")

for (let seed = job.from; seed <= job.to; seed += job.step) {
  const { timeline: _, violation, ...figures } = simulate(seed, { large: job.what === "large" })
  const report: Report = { ...figures, invariant: violation?.invariant, message: violation?.message }
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
  parentPort?.postMessage(report)
  if (job.stop && violation !== undefined) {
    break
  }
}
