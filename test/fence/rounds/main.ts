/**
 * Leaders that are stopped at the worst moment, and whether a write of theirs comes after their successor's first: with
 * a fence, and with a check alone.
 *
 * `npm run test:fence [-- --rounds 10000] [--elections 60] [--only TEXT] [--report FILE]`
 */
import { Effect, Layer } from "effect"
import { writeFileSync } from "node:fs"
import { parseArgs } from "node:util"
import { startCluster } from "../../cluster/utils/KubeCluster.ts"
import { missingMariaDb } from "../../utils/MariaDb.ts"
import { missingPostgres } from "../../utils/Postgres.ts"
import { rounds } from "./compare.ts"
import * as Databases from "./databases.ts"
import * as Elections from "./elections.ts"
import { judge, type Verdict } from "./history.ts"

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "10000" },
    elections: { type: "string", default: "60" },
    only: { type: "string", default: "" },
    report: { type: "string" }
  }
})
const small = Math.min(200, Number(values.rounds))

for (const missing of [missingPostgres(), missingMariaDb()]) {
  if (missing !== undefined) {
    console.error(`SKIPPED, nothing was tested: ${missing}`)
    process.exit(process.env["CI"] === "true" ? 1 : 0)
  }
}

interface Row extends Verdict {
  readonly what: string
  readonly rounds: number
  readonly fenced: boolean
  readonly refused: number | undefined
  readonly seconds: number
  readonly failures: ReadonlyArray<string>
}

const rows: Array<Row> = []
const chosen = (what: string) => what.includes(values.only)

const add = (row: Row) => {
  rows.push(row)
  const harm = row.fenced ? row.stale > 0 : false
  console.log(
    `${harm || row.failures.length > 0 ? "FAILED " : ""}${row.what}: ${row.rounds} rounds, ${row.writes} writes of ` +
      `${row.terms} terms, ${row.stale} stale` +
      (row.refused === undefined ? "" : `, ${row.refused} refused`) + `, ${row.seconds.toFixed(0)} s`
  )
  for (const failure of row.failures.slice(0, 3)) {
    console.error(failure)
  }
}

const databases = [
  ["PostgreSQL", Databases.postgres, Number(values.rounds)],
  ["MariaDB", Databases.mariadb, small],
  ["SQLite", Databases.sqlite, small]
] as const
for (const [name, start, count] of databases) {
  const runs = [true, false].map((fenced) => ({ fenced, what: `${name}, ${fenced ? "fenced" : "checked only"}` }))
    .filter(({ what }) => chosen(what))
  if (runs.length === 0) {
    continue
  }
  await using database = await start()
  for (const { fenced, what } of runs) {
    add({
      what,
      fenced,
      ...await rounds(database, { rounds: count, workers: name === "SQLite" ? 1 : 8, fenced })
    })
  }
}

const kinds = [
  ["fence", "elections, fenced"],
  ["naive", "elections, checked only"],
  ["client-go", "elections, client-go and checked only"]
] as const
if (kinds.some(([, what]) => chosen(what))) {
  await using database = await Databases.postgres()
  await using cluster = await startCluster()
  for (const [kind, what] of kinds.filter(([, what]) => chosen(what))) {
    await Databases.clear(database)
    const started = performance.now()
    const wanted = Number(values.elections)
    const done = await Elections.run({ cluster, database, kind, rounds: wanted, elections: 6 })
    const verdict = await Effect.runPromise(Effect.provide(judge, Layer.fresh(database.client)))
    add({
      what,
      fenced: kind === "fence",
      rounds: done,
      refused: undefined,
      seconds: (performance.now() - started) / 1000,
      failures: done < wanted ? [`only ${done} of ${wanted} rounds had a successor`] : [],
      ...verdict
    })
  }
}

if (values.report !== undefined) {
  writeFileSync(values.report, JSON.stringify(rows, undefined, 2))
}
const bad = rows.filter((row) => row.failures.length > 0 || (row.fenced ? row.stale > 0 : row.stale === 0))
console.log(
  bad.length === 0
    ? "No stale write with a fence; without one there were some"
    : `Not as it should be: ${bad.map(({ what }) => what).join("; ")}`
)
process.exit(bad.length === 0 ? 0 : 1)
