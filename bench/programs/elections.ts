/**
 * Many elections in one process, by `KubernetesLeaderElections.layer`. Tells of
 * each term, as `effect-kubernetes-leader-election candidate` does, and of itself after SIGUSR2.
 * What to do is in the JSON file that is the only argument.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Redacted from "effect/Redacted"
import * as References from "effect/References"
import { readFileSync, writeSync } from "node:fs"
import { monitorEventLoopDelay } from "node:perf_hooks"
import { logger } from "../../src/cli/shared/log.ts"
import * as KubernetesClient from "../../src/kubernetes/KubernetesClient.ts"
import * as KubernetesLeaderElections from "../../src/kubernetes/KubernetesLeaderElections.ts"
import * as LeaderElections from "../../src/LeaderElections.ts"
import { Leadership } from "../../src/Leadership.ts"

export interface Work {
  readonly server: string
  readonly ca: string
  readonly token: string
  readonly namespace: string
  readonly identity: string
  readonly names: ReadonlyArray<string>
}

export interface ElectionEvent {
  readonly event: "started" | "leading" | "ended" | "self"
  /** Monotonic milliseconds. */
  readonly mono: number
  readonly lease?: string
  /** Bytes in use after a collection, where the process was started with --expose-gc. */
  readonly heapUsed?: number
  readonly rss?: number
  /** Milliseconds of CPU since the last such line. */
  readonly cpu?: number
  /** Of the event loop since the last such line, milliseconds. */
  readonly delayP50?: number
  readonly delayP99?: number
  readonly delayMax?: number
  readonly leading?: number
}

const work: Work = JSON.parse(readFileSync(process.argv[2]!, "utf8"))

const mono = () => Number(process.hrtime.bigint()) / 1e6

const tell = (event: Omit<ElectionEvent, "mono">) => writeSync(1, `${JSON.stringify({ mono: mono(), ...event })}\n`)

const resolution = 5
const delay = monitorEventLoopDelay({ resolution })
// The histogram is of the times between two ticks.
const late = (nanos: number) => Math.max(0, nanos / 1e6 - resolution)

let leading = 0
let cpu = process.cpuUsage()

const self = () => {
  const used = process.cpuUsage(cpu)
  const delays = {
    delayP50: late(delay.percentile(50)),
    delayP99: late(delay.percentile(99)),
    delayMax: late(delay.max)
  }
  globalThis.gc?.()
  globalThis.gc?.()
  const { heapUsed, rss } = process.memoryUsage()
  tell({ event: "self", heapUsed, rss, cpu: (used.user + used.system) / 1e3, ...delays, leading })
  // The collection was ours.
  cpu = process.cpuUsage()
  delay.reset()
}

const program = Effect.gen(function*() {
  const { lease } = yield* Leadership
  leading++
  tell({ event: "leading", lease: lease.name })
  return yield* Effect.onExit(Effect.never, () =>
    Effect.sync(() => {
      leading--
      tell({ event: "ended", lease: lease.name })
    }))
})

const main = Effect.gen(function*() {
  const elections = yield* LeaderElections.LeaderElections
  const go = Deferred.makeUnsafe<void>()
  const context = yield* Effect.context<never>()
  process.once("SIGUSR1", () => Effect.runForkWith(context)(Deferred.succeed(go, void 0)))
  process.on("SIGUSR2", self)
  delay.enable()
  tell({ event: "started" })
  yield* Deferred.await(go)
  yield* Effect.forEach(work.names, (name) => elections.whileLeadingForever(name, program), {
    concurrency: "unbounded",
    discard: true
  })
})

NodeRuntime.runMain(
  main.pipe(
    Effect.tapError((error) => Effect.logError(error.message)),
    Effect.provide(Layer.provide(
      KubernetesLeaderElections.layer({ namespace: work.namespace, identity: work.identity }),
      KubernetesClient.layerServer({ server: work.server, token: Redacted.make(work.token), ca: work.ca })
    )),
    Effect.provide(Logger.layer([logger("text")])),
    Effect.provideService(References.MinimumLogLevel, "Warn")
  ),
  { disableErrorReporting: true }
)
