/**
 * One replica of a group of shards, by `KubernetesLeaderShards.layer`. Tells of each program as JSON lines, gives up
 * everything and ends after SIGTERM. What to do is in the JSON file that is the only argument.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Redacted from "effect/Redacted"
import * as References from "effect/References"
import * as Stream from "effect/Stream"
import { readFileSync, writeSync } from "node:fs"
import { logger } from "../../src/cli/shared/log.ts"
import * as KubernetesClient from "../../src/kubernetes/KubernetesClient.ts"
import * as KubernetesLeaderShards from "../../src/kubernetes/KubernetesLeaderShards.ts"
import * as LeaderShards from "../../src/LeaderShards.ts"

export interface Work {
  readonly server: string
  readonly ca: string
  readonly token: string
  readonly namespace: string
  readonly identity: string
  readonly generation: string
  readonly shards: number
}

export interface ShardEvent {
  /** `ready`: the others have seen this member. */
  readonly event: "started" | "ready" | "leading" | "ended"
  /** Monotonic milliseconds. */
  readonly mono: number
  readonly shard?: string
}

const work: Work = JSON.parse(readFileSync(process.argv[2]!, "utf8"))

const tell = (event: ShardEvent["event"], shard?: string) =>
  Effect.sync(() => {
    const value: ShardEvent = {
      event,
      mono: Number(process.hrtime.bigint()) / 1e6,
      ...(shard !== undefined && { shard })
    }
    writeSync(1, `${JSON.stringify(value)}\n`)
  })

const program = Effect.gen(function*() {
  const shards = yield* LeaderShards.LeaderShards
  yield* tell("started")
  yield* Stream.runForEach(
    Stream.takeUntil(Stream.tick("100 millis").pipe(Stream.mapEffect(() => shards.ready)), (ready) => ready),
    (ready) => ready ? tell("ready") : Effect.void
  ).pipe(Effect.forkScoped)
  return yield* shards.run({
    shards: Array.from({ length: work.shards }, (_, index) => `s${index}`),
    lead: (shard) =>
      Effect.gen(function*() {
        yield* tell("leading", shard)
        yield* Effect.addFinalizer(() => tell("ended", shard))
        return yield* Effect.never
      })
  })
}).pipe(Effect.scoped)

NodeRuntime.runMain(
  program.pipe(
    Effect.tapError((error) => Effect.logError(error.message)),
    Effect.provide(Layer.provide(
      KubernetesLeaderShards.layer({
        group: "bench",
        identity: work.identity,
        namespace: work.namespace,
        generation: work.generation
      }),
      KubernetesClient.layerServer({ server: work.server, token: Redacted.make(work.token), ca: work.ca })
    )),
    Effect.provide(Logger.layer([logger("text")])),
    Effect.provideService(References.MinimumLogLevel, "Warn")
  ),
  { disableErrorReporting: true }
)
