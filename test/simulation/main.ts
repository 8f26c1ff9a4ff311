/**
 * `npm run simulate -- [--seeds N] [--from K] [--workers W]`, `--seed N --trace`, `--broken`.
 */
import { availableParallelism } from "node:os"
import { parseArgs } from "node:util"
import { Worker } from "node:worker_threads"
import { type BrokenRule, brokenRules } from "./brokenRules.ts"
import type { Misuse } from "./Simulation.ts"
import type { Job, Report } from "./worker.ts"

const usage = `npm run simulate -- [options]

  --seeds N     how many seeds to run (1000)
  --from K      the first of them (1)
  --seed N      one seed; with --trace, its timeline
  --workers W   threads (one for each processor)
  --broken      each broken rule, until a seed finds it
  --rule NAME   run with this rule broken (part of its name is enough)
`

const { values } = parseArgs({
  options: {
    seeds: { type: "string" },
    from: { type: "string" },
    seed: { type: "string" },
    trace: { type: "boolean" },
    workers: { type: "string" },
    broken: { type: "boolean" },
    rule: { type: "string" },
    help: { type: "boolean" }
  }
})

const integer = (name: "seeds" | "from" | "seed" | "workers", otherwise: number): number => {
  const text = values[name]
  if (text === undefined) {
    return otherwise
  }
  if (!/^[1-9][0-9]{0,14}$/.test(text)) {
    console.error(`--${name} ${text}: give a whole number, 1 or more`)
    process.exit(2)
  }
  return Number(text)
}

const workers = new Set<Worker>()
// What has been found so far is told all the same.
process.once("SIGINT", () => workers.forEach((worker) => void worker.terminate()))

/** Runs a job in a thread, until it ends or the listener wants no more. */
const work = (job: Job, onReport: (report: Report) => void): Promise<void> =>
  new Promise((resolve, reject) => {
    const worker = new Worker(new URL("./worker.ts", import.meta.url), {
      workerData: job,
      // Nearly everything that a run allocates is garbage when it ends.
      resourceLimits: { maxYoungGenerationSizeMb: 128 }
    })
    worker.on("message", onReport)
    worker.on("error", reject)
    worker.on("exit", () => resolve())
    workers.add(worker)
    worker.on("exit", () => workers.delete(worker))
  })

const ruleNamed = (part: string): BrokenRule => {
  const found = brokenRules.filter(({ name }) => name.includes(part))
  if (found.length !== 1) {
    console.error(
      `--rule ${part}: ${found.length} rules match. They are:\n${brokenRules.map(({ name }) => `  ${name}`).join("\n")}`
    )
    process.exit(2)
  }
  return found[0]!
}

const pad = (text: string | number, width: number): string => String(text).padStart(width)

const runSeeds = async (from: number, count: number, workers: number, rule: string | undefined) => {
  const began = performance.now()
  const faults = new Map<string, number>()
  const violations: Array<Report> = []
  let seeds = 0
  let hours = 0
  let terms = 0
  let requests = 0
  let steps = 0
  let worst: Report | undefined
  const share = ({ leaderless, leaseDuration }: Report) => leaderless / leaseDuration
  const threads = Array.from(
    { length: Math.min(workers, count) },
    (_, index) =>
      work({ from: from + index, to: from + count - 1, step: workers, rule, stop: false }, (report) => {
        seeds++
        hours += report.duration / 3.6e12
        terms += report.terms
        requests += report.requests
        steps += report.programSteps
        if (worst === undefined || share(report) > share(worst)) {
          worst = report
        }
        for (const [kind, times] of report.faults) {
          faults.set(kind, (faults.get(kind) ?? 0) + times)
        }
        if (report.invariant !== undefined) {
          violations.push(report)
          console.log(`seed ${report.seed}: ${report.message}`)
        }
        if (seeds % 1000 === 0) {
          console.error(`${seeds} seeds, ${((performance.now() - began) / 1000).toFixed(0)} s`)
        }
      })
  )
  await Promise.all(threads)
  const seconds = (performance.now() - began) / 1000
  console.log(
    `seeds               ${pad(seeds, 10)}   (of ${from} to ${from + count - 1}; ${
      (seeds / seconds).toFixed(0)
    } a second)`
  )
  console.log(`simulated hours     ${pad(hours.toFixed(1), 10)}`)
  console.log(`terms               ${pad(terms, 10)}`)
  console.log(`program steps       ${pad(steps, 10)}`)
  console.log(`requests            ${pad(requests, 10)}`)
  console.log(`faults              ${pad([...faults.values()].reduce((a, b) => a + b, 0), 10)}`)
  for (const [kind, times] of [...faults].sort(([a], [b]) => a < b ? -1 : 1)) {
    console.log(`  ${kind.padEnd(32)}${pad(times, 10)}`)
  }
  if (worst !== undefined) {
    console.log(
      `longest time without leader after the last fault: ${share(worst).toFixed(2)} leaseDurations ` +
        `(${(worst.leaderless / 1e9).toFixed(1)} s of ${worst.leaseDuration / 1e9} s, seed ${worst.seed})`
    )
  }
  console.log(`violations: ${violations.length}`)
  const counts = new Map<string, number>()
  for (const { invariant = "" } of violations) {
    counts.set(invariant, (counts.get(invariant) ?? 0) + 1)
  }
  for (const [invariant, times] of counts) {
    console.log(`  ${pad(times, 5)}  ${invariant}`)
  }
  for (const { message, seed } of violations.sort((a, b) => a.seed - b.seed).slice(0, 20)) {
    console.log(`  seed ${seed}: ${message}   (npm run simulate -- --seed ${seed} --trace)`)
  }
  return violations.length === 0
}

const runOne = async (seed: number, trace: boolean, misuse: Misuse | undefined) => {
  const { simulate } = await import("./Simulation.ts")
  const outcome = simulate(seed, { trace, misuse })
  if (trace) {
    console.log(outcome.timeline.join("\n"))
  }
  console.log(
    `seed ${seed}: ${(outcome.duration / 1e9).toFixed(1)} s, ${outcome.terms} terms, ${outcome.requests} requests: ` +
      (outcome.violation === undefined ? "no violation" : outcome.violation.message)
  )
  return outcome.violation === undefined
}

/** Runs seeds with each rule broken until one finds it. */
const runBroken = async (rules: ReadonlyArray<BrokenRule>, workers: number, from: number) => {
  const found = new Map<BrokenRule, Report | undefined>()
  const waiting = [...rules]
  const next = async (): Promise<void> => {
    const rule = waiting.shift()
    if (rule === undefined) {
      return
    }
    await work({ from, to: from + rule.within - 1, step: 1, rule: rule.name, stop: true }, (report) => {
      if (report.invariant !== undefined) {
        found.set(rule, report)
      }
    })
    const report = found.get(rule)
    console.log(
      report === undefined
        ? `NOT FOUND in ${rule.within} seeds   ${rule.name}`
        : `${pad(report.seed - from + 1, 5)} seeds   ${rule.name.padEnd(58)} ${report.invariant}`
    )
    return next()
  }
  await Promise.all(Array.from({ length: workers }, next))
  console.log(`${found.size} of ${rules.length} broken rules found`)
  return found.size === rules.length
}

if (values.help === true) {
  console.log(usage)
} else {
  const threads = integer("workers", availableParallelism())
  const from = integer("from", 1)
  const rule = values.rule === undefined ? undefined : ruleNamed(values.rule)
  const ok = values.seed !== undefined
    ? await (async () => {
      if (rule !== undefined) {
        const { breakRule } = await import("./brokenRules.ts")
        breakRule(rule)
      }
      return runOne(integer("seed", 1), values.trace === true, rule?.misuse)
    })()
    : values.broken === true
    ? await runBroken(rule === undefined ? brokenRules : [rule], threads, from)
    : await runSeeds(from, integer("seeds", 1000), threads, rule?.name)
  process.exitCode = ok ? 0 : 1
}
