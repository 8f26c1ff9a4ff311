/**
 * Runs seeds in a thread of its own, with a rule broken where it is told to: the sources are loaded after that.
 */
import { parentPort, workerData } from "node:worker_threads"
import type { Kind } from "./adversary.ts"
import { breakRule, brokenRules } from "./brokenRules.ts"
import type { Misuse } from "./Simulation.ts"

/** What a thread is asked to do. */
export interface Job {
  readonly from: number
  readonly to: number
  /** Every so many seeds, so that several threads share a range. */
  readonly step: number
  readonly rule: string | undefined
  /** Whether to stop at the first violation. */
  readonly stop: boolean
}

/** What a thread tells of each seed. */
export interface Report {
  readonly seed: number
  readonly invariant: string | undefined
  readonly message: string | undefined
  readonly duration: number
  readonly terms: number
  readonly programSteps: number
  readonly requests: number
  readonly steps: number
  readonly leaderless: number
  readonly leaseDuration: number
  readonly faults: ReadonlyMap<string, number>
}

const job = workerData as Job

let misuse: Misuse | undefined
let among: ReadonlyArray<Kind> | undefined
if (job.rule !== undefined) {
  const rule = brokenRules.find(({ name }) => name === job.rule)
  if (rule === undefined) {
    throw new Error(`No broken rule "${job.rule}"`)
  }
  breakRule(rule)
  misuse = rule.misuse
  among = rule.among
}

const { kindsOf, simulate } = await import("./Simulation.ts")

for (let seed = job.from; seed <= job.to; seed += job.step) {
  if (among !== undefined && !kindsOf(seed).some((kind) => among.includes(kind))) {
    continue
  }
  const { timeline: _, violation, ...figures } = simulate(seed, { misuse })
  const report: Report = { ...figures, invariant: violation?.invariant, message: violation?.message }
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
  parentPort?.postMessage(report)
  if (job.stop && violation !== undefined) {
    break
  }
}
