/**
 * Many candidates for one Lease in one process, each with a watch of its own, as
 * if they were processes of their own. What to do is in the JSON file that is
 * the only argument.
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
import * as KubernetesLeaseStore from "../../src/kubernetes/KubernetesLeaseStore.ts"
import * as LeaderElection from "../../src/LeaderElection.ts"

export interface Work {
  readonly server: string
  readonly ca: string
  readonly token: string
  readonly namespace: string
  readonly name: string
  readonly identities: ReadonlyArray<string>
}

export interface ManyEvent {
  readonly event: "following" | "leading" | "ended"
  readonly identity: string
  /** Monotonic milliseconds. */
  readonly mono: number
  readonly leader?: string
}

const work: Work = JSON.parse(readFileSync(process.argv[2]!, "utf8"))

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
      Effect.andThen(tell({ event: "leading" }), Effect.onExit(Effect.never, () => tell({ event: "ended" })))
    )
  },
  Effect.scoped,
  (effect, identity) =>
    Effect.provide(
      effect,
      LeaderElection.layer({ namespace: work.namespace, name: work.name, identity }).pipe(
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
