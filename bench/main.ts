/**
 * The benchmarks: this library beside client-go and
 * @codedependant/kubernetes-leader-election, on a real API server that is
 * started for them.
 *
 *     npm run bench
 *     npm run bench -- --only graceful,crash --samples 20
 *
 * Results go to bench/results.json, part by part, so that one part can be
 * repeated. `node bench/report.ts` makes the table and the picture of it.
 */
import { mkdir, readFile, writeFile } from "node:fs/promises"
import { dirname, resolve } from "node:path"
import { parseArgs } from "node:util"
import { startCluster } from "../test/cluster/utils/KubeCluster.ts"
import * as Footprint from "./footprint.ts"
import * as Handover from "./handover.ts"
import * as Scale from "./scale.ts"
import * as Shards from "./shards.ts"
import {
  buildPrograms,
  inParallel,
  type Lab,
  leaseDuration,
  machine,
  makeSite,
  type Options,
  repository,
  type Site,
  sleep,
  times,
  versions
} from "./support.ts"

/** How many sites a part takes. */
const parts = {
  start: { run: Footprint.starting, sites: () => 3 },
  graceful: { run: Handover.graceful, sites: () => 7 },
  crash: { run: Handover.crash, sites: ({ samples }: Options) => 2 * samples },
  podDeleted: { run: Handover.podDeleted, sites: ({ samples }: Options) => samples + 5 },
  cutOff: { run: Handover.cutOff, sites: ({ samples }: Options) => 2 * samples },
  etcd: { run: Scale.etcd, sites: ({ samples }: Options) => 3 * Math.min(20, samples) },
  atRest: { run: Footprint.atRest, sites: ({ idleMinutes, samples }: Options) => 4 * Math.ceil(samples / idleMinutes) },
  followers: { run: Scale.followers, sites: () => 4 },
  elections: { run: Scale.elections, sites: () => 1 },
  shards: { run: Shards.shardsPart, sites: () => 2 }
}

const names = Object.keys(parts) as Array<keyof typeof parts>

const { values } = parseArgs({
  options: {
    only: { type: "string", default: names.join(",") },
    samples: { type: "string", default: "20" },
    minutes: { type: "string", default: "10" },
    "idle-minutes": { type: "string", default: "2" },
    elections: { type: "string", default: "1000" },
    out: { type: "string", default: "bench/results.json" }
  }
})

const fail = (message: string): never => {
  console.error(message)
  process.exit(2)
}

const number = (name: "samples" | "minutes" | "idle-minutes" | "elections", least: number): number => {
  const value = Number(values[name])
  return value >= least ? value : fail(`--${name} is ${values[name]}: give a number, ${least} or more`)
}

const options: Options = {
  samples: number("samples", 1),
  minutes: number("minutes", 0.1),
  idleMinutes: number("idle-minutes", 1),
  elections: number("elections", 1)
}
const only = values.only.split(",").map((name) =>
  names.find((known) => known === name) ?? fail(`--only has no part ${name}: the parts are ${names.join(", ")}`)
)
const out = resolve(repository, values.out)

const began = performance.now()
const log = (line: string) => console.log(`${((performance.now() - began) / 1_000).toFixed(0).padStart(5)} s  ${line}`)

const record = async (name: string, part: object): Promise<void> => {
  const stored = await readFile(out, "utf8").catch(() => "{}")
  await mkdir(dirname(out), { recursive: true })
  const { parts = {} } = JSON.parse(stored)
  const ordered = Object.fromEntries(
    [...names].flatMap((key) => key === name ? [[key, part]] : key in parts ? [[key, parts[key]]] : [])
  )
  await writeFile(out, `${JSON.stringify({ parts: ordered }, undefined, 1)}\n`)
}

log("builds what is measured")
const programs = await buildPrograms()
log("starts an API server")
// Tens of thousands of requests a minute are wanted here; the limits are for clusters with other work.
const cluster = await startCluster()
try {
  const missing = (["garbageCollector", "audit", "restart", "clientGo"] as const).flatMap((feature) =>
    cluster.missing(feature) ?? []
  )
  if (missing.length > 0) throw new Error(missing.join("\n"))

  const ready = performance.now()
  const count = only.reduce((sum, name) => sum + parts[name].sites(options), 0)
  const sites: Array<Site> = await inParallel(times(count), 8, () => makeSite(cluster))
  // By the server's clock, which tells whole seconds, a Lease is old after two lease durations.
  const old = ready + (performance.now() - ready) + 2 * leaseDuration + 1_500
  const lab: Lab = {
    cluster,
    programs,
    options,
    site: async () => {
      await sleep(Math.max(0, old - performance.now()))
      return sites.pop() ?? await makeSite(cluster)
    }
  }
  log(`${count} Leases`)
  const used = await versions(cluster)
  for (const name of only) {
    const start = performance.now()
    const meta = { ...machine(), samples: options.samples, versions: used }
    try {
      const result = await parts[name].run(lab)
      const seconds = Math.round((performance.now() - start) / 1_000)
      await record(name, { ...meta, seconds, result })
      log(`${name}: ${seconds} s`)
    } catch (error) {
      // The other parts are worth having.
      log(`${name} FAILED: ${error instanceof Error ? error.stack : String(error)}`)
      process.exitCode = 1
    }
  }
} finally {
  await cluster.close()
  await programs.remove()
}
// What a broken connection has left behind must not keep it from ending.
process.exit()
