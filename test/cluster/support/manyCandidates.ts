/**
 * One candidate for each of many Leases, in one process: for races that have to be run hundreds of times. What each
 * tells is a JSON line, as of `effect-kubernetes-leader-election candidate`, with the Lease's name; and how its attempts to take the
 * Lease ended. What to do is in the JSON file that is the only argument.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Redacted from "effect/Redacted"
import * as References from "effect/References"
import * as Stream from "effect/Stream"
import { readFileSync, writeSync } from "node:fs"
import { logger } from "../../../src/cli/shared/log.ts"
import * as KubernetesClient from "../../../src/kubernetes/KubernetesClient.ts"
import * as KubernetesLeaseStore from "../../../src/kubernetes/KubernetesLeaseStore.ts"
import * as LeaderElection from "../../../src/LeaderElection.ts"
import { Leadership } from "../../../src/Leadership.ts"
import type { LeaseWrite } from "../../../src/LeaseRecord.ts"
import { LeaseStore } from "../../../src/LeaseStore.ts"

export interface Work {
  readonly server: string
  readonly ca: string | undefined
  readonly token: string
  /** Seconds. */
  readonly leaseDuration: number
  readonly candidates: ReadonlyArray<{
    readonly namespace: string
    readonly name: string
    readonly identity: string
    readonly pod?: { readonly name: string; readonly uid: string }
  }>
}

/**
 * - `following`: the candidate has seen who leads.
 * - `took`, `beaten`: its attempt to take a Lease that was there was committed, or refused as a conflict.
 * - `leading`, `lost`, `ending`, `ended`: as in `CandidateEvent`.
 */
export interface ManyEvent {
  readonly lease: string
  readonly identity: string
  readonly event: "following" | "took" | "beaten" | "leading" | "lost" | "ending" | "ended"
  readonly at: number
  readonly mono: number
  readonly leader: string | null
  readonly fencingToken?: string
  readonly cause?: string
  readonly reason?: string
}

const work: Work = JSON.parse(readFileSync(process.argv[2]!, "utf8"))

// Only a take sets both.
const isTake = (write: LeaseWrite) => write.acquireTime !== undefined && write.leaseTransitions !== undefined

const run = Effect.fnUntraced(function*(candidate: Work["candidates"][number], index: number) {
  // Hundreds of TLS handshakes at once take longer than the time limit of the requests that they are for.
  yield* Effect.sleep(Duration.millis(20 * index))
  const clock = yield* Clock.Clock
  const emit = (
    event: ManyEvent["event"],
    fields: {
      readonly leader?: string
      readonly fencingToken?: string
      readonly cause?: string
      readonly reason?: string
    } = {}
  ) =>
    Effect.sync(() => {
      const value: ManyEvent = {
        lease: candidate.name,
        identity: candidate.identity,
        event,
        at: Number(clock.currentTimeNanosUnsafe()) / 1e6,
        mono: Number(clock.monotonicTimeNanosUnsafe()) / 1e6,
        leader: null,
        ...fields
      }
      writeSync(1, `${JSON.stringify(value)}\n`)
    })

  const store = yield* LeaseStore
  const observed = LeaseStore.of({
    ...store,
    patch: (key, version, write) =>
      isTake(write)
        ? store.patch(key, version, write).pipe(
          Effect.tap(() => emit("took")),
          Effect.tapError((error) => error.reason._tag === "LeaseConflict" ? emit("beaten") : Effect.void)
        )
        : store.patch(key, version, write)
  })

  yield* Effect.gen(function*() {
    const election = yield* LeaderElection.LeaderElection
    yield* Effect.forkScoped(
      Stream.runForEach(election.changes, (status) =>
        status._tag === "Following" && status.leader._tag === "Some"
          ? emit("following", { leader: status.leader.value })
          : Effect.void)
    )
    yield* LeaderElection.whileLeadingForever(Effect.gen(function*() {
      const fencingToken = String((yield* Leadership).fencingToken)
      const status = yield* election.status
      yield* emit("leading", { fencingToken, ...(status._tag === "Leading" && { cause: status.term.cause }) })
      yield* Effect.onExit(Effect.never, () =>
        Effect.gen(function*() {
          const status = yield* election.status
          const reason = status._tag === "Ending" ? status.reason : undefined
          yield* reason === undefined ? emit("ending") : emit("lost", { reason })
          yield* emit("ended")
        }))
    }))
  }).pipe(
    Effect.provide(
      LeaderElection.layer({
        namespace: candidate.namespace,
        name: candidate.name,
        identity: candidate.identity,
        leaseDuration: Duration.seconds(work.leaseDuration),
        ...(candidate.pod !== undefined && { pod: candidate.pod })
      }).pipe(Layer.provide(Layer.succeed(LeaseStore, observed)), Layer.fresh)
    ),
    Effect.scoped
  )
})

NodeRuntime.runMain(
  Effect.forEach(work.candidates, run, { concurrency: "unbounded", discard: true }).pipe(
    Effect.tapError((error) => Effect.logError(error.message)),
    Effect.provide(
      KubernetesLeaseStore.layer.pipe(Layer.provide(KubernetesClient.layerServer({
        server: work.server,
        token: Redacted.make(work.token),
        ...(work.ca !== undefined && { ca: work.ca })
      })))
    ),
    Effect.provide(Logger.layer([logger("text")])),
    // Hundreds of terms are lost here on purpose.
    Effect.provideService(References.MinimumLogLevel, "Error")
  ),
  { disableErrorReporting: true }
)
