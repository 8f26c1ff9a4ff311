/**
 * A small part of the model with every test run; `npm run simulate:shards` runs as much as is wanted.
 */
import { assert, describe, it } from "@effect/vitest"
import { readFileSync } from "node:fs"
import { Worker } from "node:worker_threads"
import { apply } from "../simulation/brokenRules.ts"
import { brokenInShippedCode, brokenRules } from "./brokenRules.ts"
import { simulate } from "./scenarios.ts"
import { simulate as simulateCode } from "./Simulation.ts"
import type { Job, Report } from "./worker.ts"

const runs = 2000
/** On a busy machine fewer will do. */
const enough = 200
const budget = 8000

describe("model", () => {
  it("no run violates an invariant", { timeout: 120_000 }, () => {
    const began = performance.now()
    const scenarios = new Set<string>()
    let ran = 0
    for (let seed = 1; seed <= runs && (ran < enough || performance.now() - began < budget); seed++) {
      const { scenario, violation } = simulate(seed)
      assert.isUndefined(
        violation,
        `${violation?.invariant}: ${violation?.message} (npm run simulate:shards -- --seed ${seed} --trace)`
      )
      scenarios.add(scenario)
      ran++
    }
    assert.isAtLeast(ran, enough)
    assert.strictEqual(scenarios.size, 10)
  })

  it("a seed replays exactly", () => {
    const first = simulate(7, { trace: true })
    assert.isAbove(first.timeline.length, 20)
    assert.deepStrictEqual(simulate(7, { trace: true }).timeline, first.timeline)
    assert.strictEqual(simulate(7).events, first.events)
    assert.notDeepEqual(simulate(8, { trace: true }).timeline, first.timeline)
  })
})

describe("shipped code", () => {
  it("no run violates an invariant", { timeout: 180_000 }, () => {
    const began = performance.now()
    let ran = 0
    for (let seed = 1; seed <= 60 && (ran < 8 || performance.now() - began < budget); seed++) {
      const { violation } = simulateCode(seed)
      assert.isUndefined(
        violation,
        `${violation?.message} (npm run simulate:shards -- --what code --seed ${seed} --trace)`
      )
      ran++
    }
    assert.isAtLeast(ran, 8)
  })

  it("a seed replays exactly", { timeout: 60_000 }, () => {
    const first = simulateCode(4, { trace: true })
    assert.isAbove(first.timeline.length, 15)
    assert.deepStrictEqual(simulateCode(4, { trace: true }).timeline, first.timeline)
  })
})

describe("broken rules of the shards", () => {
  it.each([...brokenRules, ...brokenInShippedCode])("still fits the sources: $name", (rule) => {
    for (const { file } of rule.edits) {
      const source = readFileSync(new URL(`../../src/${file}`, import.meta.url), "utf8")
      assert.notStrictEqual(apply(rule, file, source), source)
    }
  })

  it.each(brokenRules)("is found: $name", { timeout: 120_000 }, async (rule) => {
    assert.isDefined(await firstViolation(rule.name, rule.within))
  })
})

const firstViolation = (rule: string, within: number): Promise<Report | undefined> =>
  new Promise((resolve, reject) => {
    const job: Job = { what: "model", from: 1, to: within, step: 1, rule, stop: true }
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { workerData: job })
    let found: Report | undefined
    worker.on("message", (report: Report) => {
      found = report.invariant === undefined ? found : report
    })
    worker.on("error", reject)
    worker.on("exit", () => resolve(found))
  })
