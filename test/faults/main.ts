/**
 * Faults on real processes and a real API server, with PostgreSQL as the witness.
 *
 * `npm run test:faults [-- --minutes 3] [--only TEXT] [--report FILE]`
 */
import * as Esbuild from "esbuild"
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import { startCluster } from "../cluster/utils/KubeCluster.ts"
import { missingPostgres } from "../utils/Postgres.ts"
import { clusterFaults, type Fault, faults } from "./faults.ts"
import { pause, Team } from "./Team.ts"
import { startWitness, type Verdict } from "./witness.ts"

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "5" },
    only: { type: "string", default: "" },
    report: { type: "string" }
  }
})
const minutes = Number(values.minutes)
if (!(minutes > 0)) {
  console.error(`--minutes ${values.minutes}: give a number of minutes, such as 3`)
  process.exit(2)
}

const missing = missingPostgres()
if (missing !== undefined) {
  console.error(`SKIPPED, nothing was tested: ${missing}`)
  process.exit(process.env["CI"] === "true" ? 1 : 0)
}

const leaseSeconds = 4

interface Row extends Verdict {
  readonly fault: string
  readonly injected: number
  readonly overrun: number
  readonly problems: ReadonlyArray<string>
}

const root = fileURLToPath(new URL("../..", import.meta.url))
const cache = join(root, "node_modules/.cache/faults")
mkdirSync(cache, { recursive: true })
const program = join(cache, "candidate.mjs")
await Esbuild.build({
  entryPoints: [join(root, "test/faults/candidate.ts")],
  outfile: program,
  bundle: true,
  platform: "node",
  format: "esm",
  packages: "external"
})

await using witness = await startWitness()
await using cluster = await startCluster()

const judge = async (fault: Fault, team: Team, injected: number, recovered: boolean): Promise<Row> => {
  const verdict = await witness.judge(team.options.name, { monotonic: fault.monotonic !== false })
  const problems = [
    ...(injected === 0 ? ["was never injected"] : []),
    ...(verdict.twoLeaders > 0 ? [`${verdict.twoLeaders} writes while another led`] : []),
    ...(verdict.staleLetIn > 0 ? [`${verdict.staleLetIn} stale writes were let in`] : []),
    ...(recovered ? [] : ["nobody led when it was over"]),
    ...(fault.endsWithin !== undefined && team.overrun > fault.endsWithin
      ? [`a program ended ${team.overrun.toFixed(0)} ms after its leadership`]
      : []),
    ...team.members.flatMap((member) =>
      member.lines.flatMap((line) => line.event === "error" ? [`${member.pod}: ${line.message}`] : [])
    )
  ]
  for (const problem of problems) {
    console.error(`  ${fault.name}: ${problem}`)
  }
  if (problems.length > 0) {
    for (const member of team.members) {
      console.error(`--- ${member.pod}\n${member.process.stderr}`)
    }
  }
  return { fault: fault.name, injected, overrun: team.overrun, problems, ...verdict }
}

/** Injects a fault again and again until the time is up, and then sees whether somebody leads. */
const tryFault = async (fault: Fault, name: string, size: number, millis: number): Promise<Row> => {
  await using team = await Team.start({
    cluster,
    witness,
    program,
    name,
    size,
    leaseSeconds,
    http: fault.http === true,
    ...(fault.environment !== undefined && { environment: fault.environment })
  })
  await team.led(5 * leaseSeconds * 1000)
  const end = performance.now() + millis
  let injected = 0
  while (performance.now() < end || injected === 0) {
    await fault.inject(team, injected)
    injected++
    // The next one hits a leader again.
    await team.led(3 * leaseSeconds * 1000)
  }
  return judge(fault, team, injected, await team.led(3 * leaseSeconds * 1000))
}

const restarts = async (size: number, millis: number): Promise<Row> => {
  await using team = await Team.start({ cluster, witness, program, name: "restarts", size, leaseSeconds })
  await team.led(60_000)
  const end = performance.now() + millis
  let injected = 0
  while (performance.now() < end) {
    // Mostly whoever leads, as a rollout does; else one after the other.
    const member = injected % 2 === 0 ? await team.holder() : team.members[injected % size]
    injected++
    if (member === undefined) {
      await pause(100)
      continue
    }
    member.process.signal("SIGTERM")
    await member.process.exit
    member.start()
  }
  const fault = { name: `${size} candidates on one Lease, restarted one after the other`, inject: () => pause(0) }
  return judge(fault, team, injected, await team.led(3 * leaseSeconds * 1000))
}

const chosen = (all: ReadonlyArray<Fault>) =>
  all.filter((fault) => {
    const reason = fault.missing?.()
    if (reason !== undefined) {
      console.error(`SKIPPED: ${fault.name}: ${reason}`)
    }
    return reason === undefined && fault.name.includes(values.only)
  })

const total = minutes * 60_000
const rows: Array<Row> = []
console.log(`leaseDuration ${leaseSeconds} s; about ${minutes} minutes`)

rows.push(
  ...await Promise.all(
    chosen(faults).map(async (fault, index) => {
      // Not all at once: on a small machine their starts would be a fault of their own.
      await pause(index * 500)
      return tryFault(fault, `fault-${index}`, 2, total * 0.45)
    })
  )
)
for (const [index, fault] of chosen(clusterFaults).entries()) {
  rows.push(await tryFault(fault, `cluster-fault-${index}`, 3, total * 0.08))
}
if ("restarts".includes(values.only) || values.only === "") {
  rows.push(await restarts(50, total * 0.2))
}

const columns: ReadonlyArray<readonly [string, (row: Row) => string]> = [
  ["fault", (row) => row.fault],
  ["times", (row) => String(row.injected)],
  ["terms", (row) => String(row.terms)],
  ["writes", (row) => String(row.writes)],
  ["longest without leader", (row) => `${(row.longestGap / 1000).toFixed(1)} s`],
  ["two leaders", (row) => String(row.twoLeaders)],
  ["stale refused", (row) => String(row.staleRefused)],
  ["stale let in", (row) => String(row.staleLetIn)],
  ["longest overrun", (row) => `${row.overrun.toFixed(0)} ms`]
]
const cells = [columns.map(([title]) => title), ...rows.map((row) => columns.map(([, cell]) => cell(row)))]
const widths = columns.map((_, column) => Math.max(...cells.map((row) => row[column]!.length)))
const line = (row: ReadonlyArray<string>) =>
  `| ${row.map((cell, column) => cell.padEnd(widths[column]!)).join(" | ")} |`
const table = [line(cells[0]!), line(widths.map((width) => "-".repeat(width))), ...cells.slice(1).map(line)].join("\n")
console.log(`\n${table}\n`)
if (values.report !== undefined) {
  writeFileSync(values.report, JSON.stringify({ leaseSeconds, minutes, rows }, null, 2))
}
const failed = rows.filter((row) => row.problems.length > 0)
console.log(failed.length === 0 ? "No two leaders, and no stale write" : `${failed.length} faults did harm`)
// The harness's watchdog and the witness's own handler take down what still runs.
process.exit(failed.length === 0 ? 0 : 1)
