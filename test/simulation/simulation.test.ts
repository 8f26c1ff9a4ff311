/**
 * A small part of the simulation with every test run; `npm run simulate` runs as much as is wanted.
 */
import { assert, describe, it } from "@effect/vitest"
import { readFileSync } from "node:fs"
import { Worker } from "node:worker_threads"
import { apply, type BrokenRule, brokenRules } from "./brokenRules.ts"
import { simulate } from "./Simulation.ts"
import type { Job, Report } from "./worker.ts"

const seeds = 300
/** On a busy machine fewer seeds will do. */
const enough = 40
const budget = 15_000

describe("simulation", () => {
  it("no seed violates an invariant", { timeout: 180_000 }, () => {
    const began = performance.now()
    let ran = 0
    for (let seed = 1; seed <= seeds && (ran < enough || performance.now() - began < budget); seed++) {
      const { violation } = simulate(seed)
      assert.isUndefined(violation, `seed ${seed}: ${violation?.message} (npm run simulate -- --seed ${seed} --trace)`)
      ran++
    }
    assert.isAtLeast(ran, enough)
  })

  it("a seed replays exactly", { timeout: 60_000 }, () => {
    for (const seed of [2, 766]) {
      const first = simulate(seed, { trace: true })
      const again = simulate(seed, { trace: true })
      assert.isAbove(first.timeline.length, 100)
      assert.deepStrictEqual(again.timeline, first.timeline)
      // Nor does it matter whether anybody looks.
      assert.strictEqual(simulate(seed).steps, first.steps)
    }
  })

  it("another seed is another run", { timeout: 60_000 }, () => {
    assert.notDeepEqual(simulate(3, { trace: true }).timeline, simulate(4, { trace: true }).timeline)
  })
})

describe("broken rules", () => {
  it.each(brokenRules.filter(({ edits }) => edits.length > 0))("still fits the sources: $name", (rule) => {
    for (const { file } of rule.edits) {
      const source = readFileSync(new URL(`../../src/${file}`, import.meta.url), "utf8")
      assert.notStrictEqual(apply(rule, file, source), source)
    }
  })

  it("a change that no longer fits is an error", () => {
    assert.throws(() => apply(brokenRules[0]!, brokenRules[0]!.edits[0]!.file, "something else"), /no longer fits/)
  })

  it.each(["unguarded patch", "a young Lease leads at once", "expiry by renewTime and the wall clock"])(
    "is found: %s",
    { timeout: 180_000 },
    async (name) => {
      const rule: BrokenRule | undefined = brokenRules.find((rule) => rule.name === name)
      assert.isDefined(rule)
      assert.isDefined(await firstViolation(rule))
    }
  )
})

const firstViolation = (rule: BrokenRule): Promise<Report | undefined> =>
  new Promise((resolve, reject) => {
    const job: Job = { from: 1, to: rule.within, step: 1, rule: rule.name, stop: true }
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { workerData: job })
    let found: Report | undefined
    worker.on("message", (report: Report) => {
      found = report.invariant === undefined ? found : report
    })
    worker.on("error", reject)
    worker.on("exit", () => resolve(found))
  })
