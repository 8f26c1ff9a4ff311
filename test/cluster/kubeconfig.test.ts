/**
 * What this library makes of kubeconfigs, compared with what client-go makes of them. `npm run test:kubeconfigs` does it
 * with thousands.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { clientConfigProgram } from "../../scripts/build-cluster.ts"
import { brokenRules, withBrokenRule } from "./kubeconfig/brokenRules.ts"
import { compare, exceptions } from "./kubeconfig/oracle.ts"

const program = await clientConfigProgram()

describe.skipIf(program === undefined)("kubeconfigs are read as by client-go", () => {
  it.live("200 of them, but for the exceptions", () =>
    Effect.gen(function*() {
      const report = yield* compare({ program: program!, runs: 200, seed: "gate" })
      assert.isUndefined(
        report.difference,
        JSON.stringify({ ...report.difference, replay: report.replay }, undefined, 1)
      )
      assert.strictEqual(report.runs, 200)
      const excepted = Object.values(report.exceptions).reduce((sum, count) => sum + count, 0)
      assert.strictEqual(report.agreed + excepted, 200)
      // Neither refused by both, for the most part, nor excused.
      assert.isAbove(report.agreed - report.refused, 60)
      assert.isAtMost(excepted, 8)
      assert.isAtMost(exceptions.length, 15)
    }))

  it.live.each(brokenRules)("and it is found when $name", (rule) =>
    Effect.gen(function*() {
      const ours = yield* Effect.promise(() => withBrokenRule(rule))
      const report = yield* compare({ program: program!, runs: 300, seed: "broken", ours })
      assert.isDefined(report.difference)
    }))
})
