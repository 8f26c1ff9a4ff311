/**
 * `npm run simulate:shards -- [--what model|code|large] [--runs N] [--from K] [--workers W]`, `--seed N --trace`,
 * `--broken [--rule TEXT]`.
 */
import { availableParallelism } from "node:os"
import { parseArgs } from "node:util"
import { Worker } from "node:worker_threads"
import type { BrokenRule } from "../simulation/brokenRules.ts"
import { brokenInShippedCode, brokenRules } from "./brokenRules.ts"
import type { Job, Report, What } from "./worker.ts"

const usage = `npm run simulate:shards -- [options]

Members, shards and the rule that shares them.

  --what WHAT   model: the rule alone (default); code: the shipped code with 2 to 4 processes and 3 to 12 shards;
                large: with 5 processes and 100 shards
  --runs N      how many runs (1000)
  --from K      the seed of the first (1)
  --seed N      one seed; with --trace, its timeline
  --workers W   threads (one for each processor)
  --broken      each broken rule, until a seed finds it; with --rule TEXT, those whose names contain it
`

const { values } = parseArgs({
  options: {
    what: { type: "string", default: "model" },
    runs: { type: "string", default: "1000" },
    from: { type: "string", default: "1" },
    seed: { type: "string" },
    trace: { type: "boolean" },
    workers: { type: "string", default: `${availableParallelism()}` },
    broken: { type: "boolean" },
    rule: { type: "string", default: "" },
    help: { type: "boolean" }
  }
})

const integer = (name: "runs" | "from" | "seed" | "workers"): number => {
  const text = values[name] ?? ""
  if (!/^[1-9][0-9]{0,14}$/.test(text)) {
    console.error(`--${name} ${text}: give a whole number, 1 or more`)
    process.exit(2)
  }
  return Number(text)
}

const what = (["model", "code", "large"] as const).find((known): known is What => known === values.what)
if (what === undefined) {
  console.error(`--what ${values.what}: give model, code or large`)
  process.exit(2)
}

const work = (job: Omit<Job, "what">, onReport: (report: Report) => void): Promise<void> =>
  new Promise((resolve, reject) => {
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { workerData: { ...job, what } satisfies Job })
    worker.on("message", onReport)
    worker.on("error", reject)
    worker.on("exit", () => resolve())
  })

const runOne = async (seed: number): Promise<boolean> => {
  const { simulate } = what === "model" ? await import("./scenarios.ts") : await import("./Simulation.ts")
  const { timeline, violation, ...figures } = simulate(seed, { trace: values.trace === true, large: what === "large" })
  console.log(timeline.join("\n"))
  console.log(figures)
  console.log(violation === undefined ? "no violation" : `${violation.invariant}: ${violation.message}`)
  return violation === undefined
}

const runSeeds = async (from: number, runs: number, workers: number): Promise<boolean> => {
  const began = performance.now()
  const rows = new Map<string, { runs: number; shards: number; moves: number; longest: number; violations: number }>()
  const report = (): boolean => {
    console.log("scenario                    runs   shards    moves  longest without a leader")
    let violations = 0
    let ran = 0
    for (const [scenario, row] of [...rows].sort()) {
      violations += row.violations
      ran += row.runs
      console.log(
        `${scenario.padEnd(24)}${String(row.runs).padStart(8)}${String(row.shards).padStart(9)}` +
          `${String(row.moves).padStart(9)}${(row.longest / 1000).toFixed(1).padStart(8)} s`
      )
    }
    console.log(`${ran} runs in ${((performance.now() - began) / 1000).toFixed(0)} s: ${violations} violations`)
    return violations === 0
  }
  // Who has waited long enough sees what was done until then.
  process.once("SIGINT", () => process.exit(report() ? 0 : 1))
  await Promise.all(
    Array.from(
      { length: workers },
      (_, index) =>
        work({ from: from + index, to: from + runs - 1, step: workers, rule: undefined, stop: false }, (report) => {
          const row = rows.get(report.scenario) ?? { runs: 0, shards: 0, moves: 0, longest: 0, violations: 0 }
          rows.set(report.scenario, {
            runs: row.runs + 1,
            shards: row.shards + report.shards,
            moves: row.moves + report.moves,
            longest: Math.max(row.longest, report.longestLeaderless),
            violations: row.violations + (report.invariant === undefined ? 0 : 1)
          })
          if (report.invariant !== undefined) {
            console.log(`seed ${report.seed} (${report.scenario}): ${report.invariant}: ${report.message}`)
          }
        })
    )
  )
  return report()
}

const runBroken = async (workers: number): Promise<boolean> => {
  const rules = (what === "model" ? brokenRules : brokenInShippedCode).filter(({ name }) => name.includes(values.rule))
  const waiting = [...rules]
  let found = 0
  const next = async (): Promise<void> => {
    const rule: BrokenRule | undefined = waiting.shift()
    if (rule === undefined) {
      return
    }
    let seen: Report | undefined
    await work({ from: 1, to: rule.within, step: 1, rule: rule.name, stop: true }, (report) => {
      seen = report.invariant === undefined ? seen : report
    })
    found += seen === undefined ? 0 : 1
    console.log(
      seen === undefined
        ? `NOT FOUND in ${rule.within} runs   ${rule.name}`
        : `${String(seen.seed).padStart(5)} runs   ${rule.name.padEnd(62)} ${seen.invariant}`
    )
    return next()
  }
  await Promise.all(Array.from({ length: workers }, next))
  console.log(`${found} of ${rules.length} broken rules found`)
  return found === rules.length
}

if (values.help === true) {
  console.log(usage)
} else {
  const ok = values.seed !== undefined
    ? await runOne(integer("seed"))
    : values.broken === true
    ? await runBroken(integer("workers"))
    : await runSeeds(integer("from"), integer("runs"), integer("workers"))
  process.exitCode = ok ? 0 : 1
}
