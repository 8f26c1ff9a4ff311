/**
 * The real programs that metrics, logs and spans are sent to, started on free ports of the loopback address.
 */
import { Effect } from "effect"
import { spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync } from "node:fs"
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises"
import { homedir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import type { TestContext } from "vitest"
import { freePort } from "../../cluster/utils/ports.ts"
import { cleanEnvironment } from "../../cluster/utils/Processes.ts"
import { eventually } from "../../cluster/utils/Testing.ts"
import { killGroup, spawnGuarded, temporaryDirectory } from "../../cluster/utils/Watchdog.ts"

/** Skips the test where a program is not installed, and says so even where skipped tests are not listed. */
export const skipWithout = (context: TestContext, ...programs: ReadonlyArray<string>): void => {
  for (const program of programs) {
    if (spawnSync("sh", ["-c", `command -v ${program}`]).status !== 0) {
      const reason = `${program} is not installed (scripts/install-test-daemons.sh, or Go for the collector)`
      process.stderr.write(`SKIPPED: ${context.task.name}: ${reason}\n`)
      context.skip(reason)
    }
  }
}

/** Gives what a program wrote, and fails with it. */
export const run = (command: string, args: ReadonlyArray<string>, input?: string): string => {
  const { error, status, stderr, stdout } = spawnSync(command, args, { encoding: "utf8", input })
  if (error !== undefined || status !== 0) {
    throw new Error(`${command} ${args.join(" ")}: ${error?.message ?? `code ${status}`}\n${stdout}${stderr}`)
  }
  return stdout + stderr
}

const directory = Effect.acquireRelease(
  Effect.promise(() => temporaryDirectory("leader-election-observability")),
  ({ remove }) => Effect.promise(remove)
).pipe(Effect.map(({ path }) => path))

/** A program until the end of the scope, with all that it has written so far. */
const daemon = Effect.fnUntraced(function*(command: string, args: ReadonlyArray<string>) {
  const child = yield* Effect.acquireRelease(
    Effect.sync(() => spawnGuarded(command, args, { stdio: ["ignore", "pipe", "pipe"], env: cleanEnvironment() })),
    (child) => Effect.promise(() => killGroup(child))
  )
  const written: Array<string> = []
  for (const stream of [child.stdout!, child.stderr!]) {
    stream.setEncoding("utf8").on("data", (text: string) => written.push(text))
  }
  return {
    output: () => written.join(""),
    ready: (what: string, attempt: () => Promise<unknown>) =>
      Effect.promise(() =>
        eventually(`${what} answers`, async () => {
          if (child.exitCode !== null) throw new Error(`${what} has ended:\n${written.join("")}`)
          return attempt().then(() => true, () => false)
        }, 30_000).catch((error) => {
          throw new Error(`${error.message}\n${written.join("")}`)
        })
      )
  }
})

// --- StatsD ---

const backend = `
exports.init = (startup, config, events) => {
  events.on("flush", (_, { counters, gauges }) => process.stdout.write(JSON.stringify({ counters, gauges }) + "\\n"))
  return true
}`

// util.log is gone from Node 24.
const shim = `require("node:util").log = (...args) => process.stderr.write(args.join(" ") + "\\n")`

export interface Flush {
  readonly counters: Record<string, number>
  readonly gauges: Record<string, number>
}

/** npm's StatsD daemon, with a backend that tells what it passes on each 200 ms. */
export const statsd = Effect.gen(function*() {
  const path = yield* directory
  const port = yield* Effect.promise(freePort)
  const managementPort = yield* Effect.promise(freePort)
  const config = {
    address: "127.0.0.1",
    port,
    mgmt_address: "127.0.0.1",
    mgmt_port: managementPort,
    flushInterval: 200,
    deleteIdleStats: true,
    backends: [join(path, "backend.cjs")]
  }
  yield* Effect.promise(async () => {
    await writeFile(join(path, "backend.cjs"), backend)
    await writeFile(join(path, "shim.cjs"), shim)
    await writeFile(join(path, "config.js"), JSON.stringify(config))
  })
  const stats = fileURLToPath(new URL("../../../node_modules/statsd/stats.js", import.meta.url))
  const { output, ready } = yield* daemon(process.execPath, [
    "-r",
    join(path, "shim.cjs"),
    stats,
    join(path, "config.js")
  ])
  const flushes = () =>
    output().split("\n").filter((line) => line.startsWith("{")).map((line): Flush => JSON.parse(line))
  yield* ready("statsd", async () => {
    if (flushes().length === 0) throw new Error("not yet")
  })
  return {
    port,
    /** The sum of what was passed on under this name. */
    count: (name: string) => flushes().reduce((sum, { counters }) => sum + (counters[name] ?? 0), 0),
    gauge: (name: string) => flushes().findLast(({ gauges }) => name in gauges)?.gauges[name]
  }
})

// --- Prometheus ---

/** Prometheus, which scrapes these ports each second; with rules where a file is given. */
export const prometheus = Effect.fnUntraced(function*(
  ports: Record<string, number>,
  options: { readonly rules?: string } = {}
) {
  const path = yield* directory
  const port = yield* Effect.promise(freePort)
  const config = {
    global: { scrape_interval: "1s", scrape_timeout: "1s", evaluation_interval: "1s" },
    rule_files: options.rules === undefined ? [] : [join(path, "rules.yaml")],
    scrape_configs: [{
      job_name: "election",
      static_configs: Object.entries(ports).map(([instance, port]) => ({
        targets: [`127.0.0.1:${port}`],
        labels: { instance }
      }))
    }]
  }
  yield* Effect.promise(async () => {
    // JSON is YAML.
    await writeFile(join(path, "prometheus.yml"), JSON.stringify(config))
    if (options.rules !== undefined) await writeFile(join(path, "rules.yaml"), options.rules)
  })
  const { ready } = yield* daemon("prometheus", [
    `--config.file=${join(path, "prometheus.yml")}`,
    `--storage.tsdb.path=${join(path, "data")}`,
    `--web.listen-address=127.0.0.1:${port}`,
    "--log.level=warn"
  ])
  const get = async (path: string): Promise<any> => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`)
    const body: any = await response.json()
    if (body.status !== "success") throw new Error(`${path}: ${JSON.stringify(body)}`)
    return body.data
  }
  yield* ready("Prometheus", () => get("/api/v1/status/runtimeinfo"))
  return {
    /** An instant query. */
    query: async (expression: string) => {
      const { result } = await get(`/api/v1/query?query=${encodeURIComponent(expression)}`)
      return (result as Array<any>).map(({ metric, value }): { labels: Record<string, string>; value: number } => ({
        labels: metric,
        value: Number(value[1])
      }))
    },
    /** The alerts that fire now, as `Name lease`. */
    firing: async (): Promise<Array<string>> => {
      const { alerts } = await get("/api/v1/alerts")
      return (alerts as Array<any>).filter(({ state }) => state === "firing").map(({ labels }) =>
        `${labels.alertname} ${labels.lease.split("/")[1]}`
      ).toSorted()
    }
  }
})

// --- OpenTelemetry Collector ---

const moduleDirectory = fileURLToPath(new URL("../collector", import.meta.url))

/** Builds the collector into a cache outside the checkout, once per version of its module. */
const buildCollector = async (): Promise<string> => {
  const hash = createHash("sha256")
  for (const file of ["go.mod", "go.sum", "main.go"]) hash.update(await readFile(join(moduleDirectory, file)))
  const goMod = await readFile(join(moduleDirectory, "go.mod"), "utf8")
  const version = /collector\/otelcol v(\S+)/.exec(goMod)![1]!
  const cache = join(
    process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"),
    "effect-kubernetes-leader-election",
    `collector-${version}-${hash.digest("hex").slice(0, 12)}`
  )
  const target = join(cache, "collector")
  if (existsSync(target)) return target
  process.stderr.write(`Building the OpenTelemetry Collector ${version} (a minute, only once)\n`)
  await mkdir(cache, { recursive: true })
  const temporary = `${target}.${process.pid}.tmp`
  try {
    const { status, stderr } = spawnSync("go", ["build", "-ldflags", "-s -w", "-o", temporary, "."], {
      cwd: moduleDirectory,
      encoding: "utf8",
      env: { ...process.env, CGO_ENABLED: "0", GOFLAGS: "-mod=readonly -buildvcs=false", GOWORK: "off" }
    })
    if (status !== 0) throw new Error(`go build failed:\n${stderr}`)
    await rename(temporary, target)
  } finally {
    await rm(temporary, { force: true })
  }
  return target
}

/** A collector that receives OTLP over HTTP, and writes all of it out. */
export const collector = Effect.gen(function*() {
  const program = yield* Effect.promise(buildCollector)
  const path = yield* directory
  const port = yield* Effect.promise(freePort)
  const pipeline = { receivers: ["otlp"], exporters: ["debug"] }
  yield* Effect.promise(() =>
    writeFile(
      join(path, "config.yaml"),
      JSON.stringify({
        receivers: { otlp: { protocols: { http: { endpoint: `127.0.0.1:${port}` } } } },
        exporters: { debug: { verbosity: "detailed", sampling_initial: 100_000 } },
        service: {
          telemetry: { metrics: { level: "none" } },
          pipelines: { metrics: pipeline, logs: pipeline, traces: pipeline }
        }
      })
    )
  )
  const { output, ready } = yield* daemon(program, ["--config", `file:${join(path, "config.yaml")}`])
  yield* ready("the collector", () => fetch(`http://127.0.0.1:${port}/`))
  return { baseUrl: `http://127.0.0.1:${port}`, output }
})
