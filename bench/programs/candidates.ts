/**
 * Many candidates for one Lease in one process, each with a watch of its own, as
 * if they were processes of their own. After SIGUSR1 the one that leads steps
 * down; after SIGUSR2 the file `writer` is read again. What to do is in the JSON
 * file that is the only argument.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Random from "effect/Random"
import * as Redacted from "effect/Redacted"
import * as References from "effect/References"
import * as Stream from "effect/Stream"
import { readFileSync, writeSync } from "node:fs"
import { logger } from "../../src/cli/shared/log.ts"
import { Deference } from "../../src/internal/election/deference.ts"
import * as KubernetesClient from "../../src/kubernetes/KubernetesClient.ts"
import * as KubernetesLeaseStore from "../../src/kubernetes/KubernetesLeaseStore.ts"
import * as LeaderElection from "../../src/LeaderElection.ts"
import { Leadership } from "../../src/Leadership.ts"

export interface Work {
  readonly server: string
  readonly ca: string
  readonly token: string
  readonly namespace: string
  readonly name: string
  readonly identities: ReadonlyArray<string>
  /** The setting. */
  readonly candidates?: number | undefined
  /** A file with the only one that may take the Lease, while the others watch; empty where all may. */
  readonly writer: string
}

export interface ManyEvent {
  readonly event: "following" | "leading" | "ended"
  readonly identity: string
  /** Monotonic milliseconds. */
  readonly mono: number
  readonly leader?: string
}

const work: Work = JSON.parse(readFileSync(process.argv[2]!, "utf8"))

const stepDown = Latch.makeUnsafe(false)
process.on("SIGUSR1", () => stepDown.openUnsafe())

const readWriter = () => readFileSync(work.writer, "utf8")
let writer = readWriter()
process.on("SIGUSR2", () => {
  writer = readWriter()
})

// The others leave it for as long as a candidate may, and the writer is faster: it is among the first of a crowd.
const leaveItToWriter = (identity: string) => <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.flatMap(Random.Random, (random) =>
    effect.pipe(
      Effect.provideService(Deference, () => () => writer === "" || writer === identity ? 0n : 2n ** 62n),
      Effect.provideService(Random.Random, {
        ...random,
        nextDoubleUnsafe: () => writer === identity ? 0 : random.nextDoubleUnsafe()
      })
    ))

const run = Effect.fnUntraced(
  function*(identity: string, index: number) {
    // Hundreds of TLS handshakes at once take longer than the time limit of the requests that they are for.
    yield* Effect.sleep(100 * index)
    const tell = (event: Omit<ManyEvent, "mono" | "identity">) =>
      Effect.sync(() =>
        writeSync(1, `${JSON.stringify({ ...event, identity, mono: Number(process.hrtime.bigint()) / 1e6 })}\n`)
      )
    const election = yield* LeaderElection.LeaderElection
    yield* Effect.forkScoped(
      Stream.runForEach(election.changes, (status) =>
        status._tag === "Following" && status.leader._tag === "Some"
          ? tell({ event: "following", leader: status.leader.value })
          : Effect.void)
    )
    yield* LeaderElection.whileLeadingForever(
      Effect.gen(function*() {
        yield* tell({ event: "leading" })
        const leadership = yield* Leadership
        stepDown.closeUnsafe()
        yield* stepDown.await
        yield* leadership.stepDown
        return yield* Effect.never
      }).pipe(Effect.onExit(() => tell({ event: "ended" })))
    )
  },
  Effect.scoped,
  (effect, identity) => leaveItToWriter(identity)(effect),
  (effect, identity) =>
    Effect.provide(
      effect,
      LeaderElection.layer({
        namespace: work.namespace,
        name: work.name,
        identity,
        candidates: work.candidates
      }).pipe(
        Layer.provide(KubernetesLeaseStore.layer),
        Layer.fresh
      )
    )
)

NodeRuntime.runMain(
  Effect.forEach(work.identities, run, { concurrency: "unbounded", discard: true }).pipe(
    Effect.tapError((error) => Effect.logError(error.message)),
    Effect.provide(KubernetesClient.layerServer({
      server: work.server,
      token: Redacted.make(work.token),
      ca: work.ca
    })),
    Effect.provide(Logger.layer([logger("text")])),
    Effect.provideService(References.MinimumLogLevel, "Error")
  ),
  { disableErrorReporting: true }
)
