/**
 * Elections in memory: candidates on one cluster, each behind faults of its own, and a record of what happens when.
 */
import { it } from "@effect/vitest"
import { Cause, Clock, Effect, Exit, type Fiber, type Latch, Logger, Metric, References, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as Instance from "../../src/internal/protocol/instance.ts"
import * as LeaderElection from "../../src/LeaderElection.ts"
import * as LeaderElectionConfig from "../../src/LeaderElectionConfig.ts"
import { isLeaderElectionError, type LeaderElectionError } from "../../src/LeaderElectionError.ts"
import { Leadership } from "../../src/Leadership.ts"
import { ageMarkAnnotation, instanceAnnotation, type LeaseRecord } from "../../src/LeaseRecord.ts"
import { LeaseStore } from "../../src/LeaseStore.ts"
import { SuspendWitness } from "../../src/SuspendWitness.ts"
import { LeaseFaults, MemoryCluster, MemoryLeaseStore } from "../../src/testing/index.ts"

export const key = { namespace: "default", name: "invoices" }

export interface CandidateOptions {
  /** By default the name it is given here. */
  readonly identity?: string
  readonly pod?: { readonly name: string; readonly uid: string }
  readonly settings?: Partial<Omit<LeaderElectionConfig.Settings, "identity" | "pod">>
  /** By how many milliseconds its wall clock is ahead. */
  readonly wallClock?: () => number
  readonly witness?: () => bigint
  /** While it is closed, no timer of this replica fires: its process is stalled. */
  readonly timers?: Latch.Latch
  /** In place of a connection of its own. */
  readonly store?: LeaseStore["Service"]
}

type Program<A, E> = Effect.Effect<A, E, Leadership | Scope.Scope>

/** One replica. */
export interface Candidate {
  readonly election: LeaderElection.LeaderElection["Service"]
  readonly faults: LeaseFaults.LeaseFaults["Service"]
  /** That of its newest term. */
  readonly leadership: Effect.Effect<Leadership["Service"]>
  /** Notes that it leads, does `during`, and never ends. */
  readonly program: <E = never>(during?: Program<unknown, E>) => Program<never, E>
  /** Campaigns in the background. What it comes to, unless it is interrupted, is noted. */
  readonly start: <A, E>(program: Program<A, E>) => Effect.Effect<Fiber.Fiber<A, E | LeaderElectionError>>
  /** As `start`, and campaigns again after each loss. */
  readonly startForever: <A, E>(program: Program<A, E>) => Effect.Effect<Fiber.Fiber<A, E | LeaderElectionError>>
  /** Starts the plain program. */
  readonly lead: Effect.Effect<Fiber.Fiber<never, LeaderElectionError>>
  /** Runs something on this replica's clocks. */
  readonly run: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** Its process is gone: nothing that it does reaches anybody, and nothing more of it is noted. */
  readonly crash: Effect.Effect<void>
  /** Its requests so far, as `<start in milliseconds> <verb>`: of these verbs only, where some are given. */
  readonly requests: (...verbs: ReadonlyArray<LeaseFaults.Verb>) => Effect.Effect<ReadonlyArray<string>>
}

export interface World {
  readonly cluster: MemoryCluster.MemoryCluster["Service"]
  readonly candidate: (name: string, options?: CandidateOptions) => Effect.Effect<Candidate, LeaderElectionError>
  /** What was noted, each line with the milliseconds since the start. */
  readonly timeline: ReadonlyArray<string>
  readonly note: (text: string) => Effect.Effect<void>
  /** What was logged, as `<level> <candidate>: <message>`. */
  readonly logs: ReadonlyArray<string>
  readonly now: Effect.Effect<number>
  /** Lets everything happen up to this time, in milliseconds since the start. */
  readonly until: (millis: number) => Effect.Effect<void>
  /** Lets everything happen that needs no time. */
  readonly settle: Effect.Effect<void>
  /** The Lease as it is stored; a defect where there is none. */
  readonly lease: Effect.Effect<LeaseRecord>
  /** Creates the Lease with the age mark on it, so that nobody needs to wait before it leads, and goes on to 100 s. */
  readonly createOld: (object: MemoryCluster.LeaseBody) => Effect.Effect<void>
}

/** A test of elections, on a cluster of its own. */
export const test = (
  title: string,
  body: (world: World) => Effect.fn.Return<void, unknown, Scope.Scope>,
  options: MemoryCluster.Options = {}
) =>
  it.effect(title, () => {
    const logs: Array<string> = []
    const logger = Logger.make<unknown, void>(({ fiber, logLevel, message }) => {
      const text = Array.isArray(message) ? message.map(String).join(" ") : String(message)
      logs.push(`${logLevel} ${String(fiber.getRef(References.CurrentLogAnnotations)["candidate"] ?? "?")}: ${text}`)
    })
    return Effect.flatMap(makeWorld(logs, options), (world) => Effect.gen(() => body(world))).pipe(
      Effect.provide(Logger.layer([logger])),
      Effect.provideService(Metric.MetricRegistry, new Map())
    )
    // All tests of a file run at once, and the machine may be busy.
  }, 60_000)

const makeWorld = Effect.fnUntraced(function*(logs: ReadonlyArray<string>, options: MemoryCluster.Options) {
  const cluster = yield* MemoryCluster.make(options)
  const clock = yield* Clock.Clock
  const scope = yield* Effect.scope
  const timeline: Array<string> = []
  const millis = () => Math.round(Number(clock.monotonicTimeNanosUnsafe()) / 1e6)
  const note = (text: string) =>
    Effect.sync(() => {
      timeline.push(`${millis()} ${text}`)
    })
  const fibers = new Set<Fiber.Fiber<unknown, unknown>>()
  // Not awaited: a candidate whose requests hang would release for ever, now that nobody moves the clock.
  yield* Effect.addFinalizer(() => Effect.sync(() => fibers.forEach((fiber) => fiber.interruptUnsafe())))

  const candidate: World["candidate"] = Effect.fnUntraced(function*(name, options = {}) {
    const base = options.store ?? (yield* MemoryLeaseStore.make(cluster, { name }))
    const faults = yield* LeaseFaults.make(base)
    const own = makeClock(clock, options)
    let crashed = false
    let leadership: Leadership["Service"] | undefined
    const say = (text: string) => Effect.suspend(() => crashed ? Effect.void : note(`${name} ${text}`))

    const run: Candidate["run"] = (effect) =>
      effect.pipe(
        Effect.provideService(Clock.Clock, own),
        Effect.provideService(SuspendWitness, options.witness),
        Effect.annotateLogs({ candidate: name })
      )

    const election = yield* LeaderElection.make.pipe(
      Effect.provideService(LeaseStore, faults.store),
      Effect.provideService(LeaderElectionConfig.LeaderElectionConfig, {
        ...LeaderElectionConfig.defaults,
        ...key,
        ...options.settings,
        identity: options.identity ?? name,
        pod: options.pod
      }),
      run
    )

    const program: Candidate["program"] = (during) =>
      Effect.gen(function*() {
        leadership = yield* Leadership
        yield* say("leads")
        yield* Effect.addFinalizer(() => say("ends"))
        if (during !== undefined) {
          yield* during
        }
        return yield* Effect.never
      })

    const inBackground = <A, E>(campaign: Effect.Effect<A, E>) =>
      campaign.pipe(
        Effect.onExit((exit) => Exit.hasInterrupts(exit) ? Effect.void : say(outcome(exit))),
        run,
        Effect.forkDetach({ startImmediately: true }),
        Effect.tap((fiber) => Effect.sync(() => fibers.add(fiber)))
      )

    const self: Candidate = {
      election,
      faults,
      leadership: Effect.suspend(() =>
        leadership === undefined ? Effect.die(new Error(`${name} has not led`)) : Effect.succeed(leadership)
      ),
      program,
      start: (program) => inBackground(election.whileLeading(program)),
      startForever: (program) =>
        inBackground(
          Effect.provideService(
            LeaderElection.whileLeadingForever(program),
            LeaderElection.LeaderElection,
            election
          )
        ),
      lead: Effect.suspend(() => self.start(program())),
      run,
      crash: Effect.suspend(() => {
        crashed = true
        return faults.stall
      }),
      requests: (...verbs) =>
        Effect.map(faults.log, (log) =>
          log
            .filter(({ verb }) => verbs.length === 0 || verbs.includes(verb))
            .map(({ began, verb }) => `${began} ${verb}`))
    }
    return self
  }, Effect.provideService(Scope.Scope, scope))

  const world: World = {
    cluster,
    candidate,
    timeline,
    note,
    logs,
    now: Effect.sync(millis),
    // The test clock does not wait for what the test has set off without it.
    until: (millis) => Effect.andThen(settle, TestClock.setTime(millis)),
    settle,
    lease: Effect.flatMap(
      cluster.lease(key),
      (lease) => lease === undefined ? Effect.die(new Error("no Lease")) : Effect.succeed(lease)
    ),
    createOld: Effect.fnUntraced(function*(object) {
      yield* Effect.orDie(cluster.createLease(key, object))
      const { uid } = yield* world.lease
      yield* Effect.orDie(cluster.editLease(key, { metadata: { annotations: { [ageMarkAnnotation]: uid } } }))
      yield* world.until(100_000)
    })
  }
  return world
})

const settle: Effect.Effect<void> = Effect.asVoid(Effect.repeat(Effect.yieldNow, { times: 40 }))

const outcome = (exit: Exit.Exit<unknown, unknown>): string => {
  if (Exit.isSuccess(exit)) {
    return `succeeds with ${String(exit.value)}`
  }
  const error = Cause.squash(exit.cause)
  return isLeaderElectionError(error)
    ? `fails: ${error.reason._tag === "LeadershipLost" ? error.reason.reason : error.reason._tag}`
    : `fails: ${String(error)}`
}

const makeClock = (clock: Clock.Clock, { timers, wallClock: ahead = () => 0 }: CandidateOptions): Clock.Clock => {
  const currentTimeMillisUnsafe = () => clock.currentTimeMillisUnsafe() + ahead()
  const currentTimeNanosUnsafe = () => clock.currentTimeNanosUnsafe() + BigInt(ahead()) * 1_000_000n
  return {
    currentTimeMillisUnsafe,
    currentTimeMillis: Effect.sync(currentTimeMillisUnsafe),
    currentTimeNanosUnsafe,
    currentTimeNanos: Effect.sync(currentTimeNanosUnsafe),
    monotonicTimeNanosUnsafe: () => clock.monotonicTimeNanosUnsafe(),
    monotonicTimeNanos: clock.monotonicTimeNanos,
    sleep: (duration) =>
      timers === undefined ? clock.sleep(duration) : Effect.andThen(clock.sleep(duration), timers.await)
  }
}

/** What a Lease made by somebody else says of its holder. */
export const heldBy = (holderIdentity: string, leaseDurationSeconds: number, instance?: string) => ({
  ...(instance !== undefined && { metadata: { annotations: { [instanceAnnotation]: instance } } }),
  spec: {
    holderIdentity,
    leaseDurationSeconds,
    acquireTime: "2026-11-22T12:00:00.000000Z",
    renewTime: "2026-11-22T12:00:00.000000Z",
    leaseTransitions: 3
  }
})

/** The instance id of an earlier process of the same identity, in the same Pod. */
export const predecessor = (identity: string, podUid?: string): string =>
  Instance.format(1n, Instance.originOf(identity, podUid), "a")

/** The mark of a release. */
export const released = {
  spec: { holderIdentity: "", leaseDurationSeconds: 1, renewTime: "2026-11-22T12:00:00.000000Z", leaseTransitions: 3 }
}

/** A released Lease with the age mark: whoever comes leads at once. It is 100 s past the start then. */
export const oldLease = (world: World): Effect.Effect<void> => world.createOld(released)
