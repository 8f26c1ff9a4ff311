/**
 * Compares this library with client-go on generated kubeconfigs.
 *
 *     node test/cluster/kubeconfig/main.ts [--runs 5000] [--seed TEXT] [--replay TOKEN]
 */
import { Effect } from "effect"
import { parseArgs } from "node:util"
import { clientConfigProgram } from "../../../scripts/build-cluster.ts"
import { compare, families } from "./oracle.ts"

const { values } = parseArgs({
  options: { runs: { type: "string", default: "5000" }, seed: { type: "string" }, replay: { type: "string" } }
})

const show = (answer: unknown) =>
  JSON.stringify(
    answer,
    (_, value) => typeof value === "string" && value.length > 300 ? `${value.slice(0, 60)}…` : value,
    1
  )

const program = await clientConfigProgram()
if (program === undefined) {
  process.exit(1)
}
const seed = values.seed ?? String(Date.now())
const report = await Effect.runPromise(
  compare({ program, runs: Number(values.runs), seed, replay: values.replay })
)
const excepted = Object.values(report.exceptions).reduce((sum, count) => sum + count, 0)
console.log(`seed ${seed}: ${report.runs} cases, ${report.agreed} agree (client-go refuses ${report.refused} of all)`)
console.log(`reached: ${families.map((name) => `${name} ${report.families[name]}`).join(", ")}`)
console.log(
  `exceptions: ${excepted} (${(100 * excepted / Math.max(1, report.runs)).toFixed(1)} %): ${
    JSON.stringify(report.exceptions)
  }`
)
if (report.difference !== undefined) {
  const { asked, ours, theirs } = report.difference
  console.log(`DIFFERENCE (--replay ${report.replay})`)
  for (const { name, text } of asked.files) {
    console.log(`--- ${name}\n${text?.replaceAll(/[A-Za-z0-9+/=]{80,}/g, "…") ?? "(missing)"}`)
  }
  console.log({ list: asked.list, explicit: asked.explicit, context: asked.context, env: asked.env })
  console.log("client-go:", show(theirs))
  console.log("here:", show(ours))
}
process.exitCode = report.difference === undefined ? 0 : 1
