/**
 * A candidate: one Pod after another on one node, each running the real election in a simulated process, over a
 * connection on which everything goes wrong that the weather tells.
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as References from "effect/References"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { ActiveTerms, makeUnsafe as makeActiveTerms } from "../../src/internal/election/activeTerms.ts"
import * as LeaderElection from "../../src/LeaderElection.ts"
import { LeaderElectionConfig, type Settings } from "../../src/LeaderElectionConfig.ts"
import { Leadership } from "../../src/Leadership.ts"
import type { LeaseError } from "../../src/LeaseError.ts"
import type { LeaseKey, LeaseWrite } from "../../src/LeaseRecord.ts"
import { type LeaseChange, type LeaseResponse, LeaseStore } from "../../src/LeaseStore.ts"
import { SuspendWitness } from "../../src/SuspendWitness.ts"
import { LeaseFaults, MemoryLeaseStore } from "../../src/testing/index.ts"
import type * as Monitor from "./Monitor.ts"
import type { Simulation } from "./Simulation.ts"
import { key, makeContext, milli, Process, second } from "./World.ts"

/** How long the programs of a run take to end, and what they do. */
export interface ProgramOptions {
  /** Longest time from its interruption to its end. */
  readonly ending: number
  /** How long a term's program runs at most, unless it is stopped. */
  readonly lifetime: () => number
}

export interface CandidateOptions {
  readonly name: string
  readonly rate: number
  /** Of its node's wall clock, from the true one. */
  readonly wallOffset: number
  readonly witness: boolean
  readonly watch: boolean
  readonly settings: Omit<Settings, "identity" | "pod" | "watch">
  /** Whether its Lease names its Pod as owner. */
  readonly owned: boolean
  /** Runs in this candidate's Pod, as a second container there under a name of its own. */
  readonly podOf: Candidate | undefined
  readonly program: ProgramOptions
}

/** One process of a candidate, with its connection. */
export interface Incarnation {
  readonly candidate: Candidate
  readonly process: Process
  readonly identity: string
  readonly faults: LeaseFaults.LeaseFaults["Service"]
  main: Fiber.Fiber<unknown, unknown> | undefined
  /** It has been asked to end. */
  terminating: boolean
  /** When its watch was last refused: it polls for a minute then. */
  watchRefusedAt: number
}

export class Candidate {
  readonly simulation: Simulation
  readonly options: CandidateOptions
  /** The newest process; earlier ones may still run where their Pod was deleted by force. */
  current: Incarnation | undefined
  podUid = ""
  /** Whether its node's wall clock has ever stepped back. */
  steppedBack = false
  wallOffset: number
  private starts = 0

  constructor(simulation: Simulation, options: CandidateOptions) {
    this.simulation = simulation
    this.options = options
    this.wallOffset = options.wallOffset
  }

  get name(): string {
    return this.options.name
  }

  get podKey(): LeaseKey {
    return this.options.podOf?.podKey ?? { namespace: this.options.settings.namespace, name: `pod-${this.name}` }
  }

  get alive(): boolean {
    return this.current?.process.alive === true
  }

  /** Starts the process: in a Pod of its own, or again in the one that there is. */
  start(): void {
    if (this.alive) {
      return
    }
    const { cluster, world } = this.simulation
    const pod = world.sync(cluster.pod(this.podKey)) ?? world.sync(Effect.orDie(cluster.createPod(this.podKey)))
    this.podUid = pod.uid
    // Who has just started cannot know what the holder wrote: what was shortened is put right before.
    const leaseDurationSeconds = this.simulation.monitor.shortened()
    if (leaseDurationSeconds !== undefined) {
      this.simulation.foreign(cluster.editLease(key, { spec: { leaseDurationSeconds } }))
    }
    this.current = this.launch()
  }

  /** Starts a process beside the one that runs, in the same Pod and under the same identity. */
  duplicate(): Incarnation {
    const duplicate = this.launch()
    this.simulation.monitor.duplicated.add(duplicate.identity)
    return duplicate
  }

  /** Its Pod is gone, and whatever runs there runs on: the next `start` is that of another Pod. */
  abandon(): Incarnation | undefined {
    const { current } = this
    this.current = undefined
    return current
  }

  private launch(): Incarnation {
    const { cluster, monitor, weather, world } = this.simulation
    const identity = `${this.podKey.name}_${this.podUid.slice(-4)}${this.options.podOf === undefined ? "" : this.name}`
    this.starts++
    const process = new Process(world, {
      name: `${this.name}${this.starts}`,
      rate: this.options.rate,
      wallOffset: () => this.wallOffset,
      lateness: () => world.dice.chance(0.05) ? -world.dice.between(0, 0.9) * milli : world.dice.scale(0.01, 4) * milli
    })
    world.note(process.name, () => `starts as ${identity}`)
    const store = world.sync(MemoryLeaseStore.make(cluster, { name: process.name }))
    const faults = world.sync(
      Effect.provideService(
        LeaseFaults.make(monitor.spy(this, identity, process, store)),
        Scope.Scope,
        world.sync(Scope.make())
      )
    )
    const incarnation: Incarnation = {
      candidate: this,
      process,
      identity,
      faults,
      main: undefined,
      terminating: false,
      watchRefusedAt: -Infinity
    }
    monitor.onStart(incarnation)
    weather.connect(incarnation)
    const settings: Settings = {
      ...this.options.settings,
      identity,
      pod: this.options.owned ? { name: this.podKey.name, uid: this.podUid } : undefined,
      watch: this.options.watch
    }
    const context = contextOf(process, this.options.witness, this.simulation.profile.loggerThrows).pipe(
      Context.add(LeaderElectionConfig, settings),
      Context.add(LeaseStore, bridge(this.simulation, incarnation, faults.store)),
      Context.add(LeaderElection.ProcessElections, new Set<string>())
    )
    const main = Effect.scoped(Effect.gen({ self: this }, function*() {
      const election = yield* LeaderElection.make
      while (true) {
        yield* Effect.provideService(
          LeaderElection.whileLeadingForever(this.program(incarnation)),
          LeaderElection.LeaderElection,
          election
        )
        yield* Effect.sleep(process.dice.scale(1, 3000))
      }
    }))
    const fiber = Effect.runForkWith(context)(main)
    incarnation.main = fiber
    fiber.addObserver((exit) => {
      if (process.alive) {
        world.note(
          process.name,
          () => `ends: ${Exit.isSuccess(exit) ? "done" : Cause.pretty(exit.cause).split("\n")[0]}`
        )
        this.kill(incarnation)
        if (Exit.isFailure(exit) && !Cause.hasInterruptsOnly(exit.cause)) {
          this.simulation.onFailure(incarnation, exit.cause)
        }
      }
    })
    return incarnation
  }

  private program(incarnation: Incarnation): Effect.Effect<void, never, Leadership> {
    const { monitor } = this.simulation
    const { process } = incarnation
    const { ending, lifetime } = this.options.program
    const { dice } = process
    return Effect.gen({ self: this }, function*() {
      const leadership = yield* Leadership
      const term = monitor.begin(incarnation, leadership)
      const end = process.monotonic() + lifetime()
      // What the interruption has to wait for, and then the finalizer: together within `ending`.
      const busy = dice.chance(0.3) ? dice.between(0, ending * 0.5) : 0
      const closing = dice.chance(0.2) ? 0 : dice.between(0, ending * (busy > 0 ? 0.5 : 1))
      yield* this.work(process, term, end, busy).pipe(
        Effect.onExit((exit) =>
          Effect.suspend(() => {
            monitor.closing(term, Exit.isFailure(exit))
            return closing === 0 ? Effect.void : Effect.sleep(Duration.millis(Math.floor(closing / milli)))
          })
        ),
        Effect.ensuring(Effect.sync(() => monitor.end(term)))
      )
    })
  }

  private work(process: Process, term: Monitor.ObservedTerm, end: number, busy: number) {
    const { simulation } = this
    const { monitor } = simulation
    const { dice } = process
    const confirms = 0.85 + simulation.profile.confirms
    // With a lease of an hour nobody needs to look so often.
    const pace = Math.max(1, simulation.timing.leaseDuration / (60 * second))
    return Effect.gen(function*() {
      while (process.monotonic() < end || simulation.isCalm) {
        yield* Effect.sleep(Math.ceil(dice.scale(20, 2500) * pace))
        const roll = dice.next()
        if (roll < 0.5) {
          monitor.step(term, false)
        } else if (roll < 0.85) {
          if (Exit.isFailure(yield* Effect.exit(term.leadership.ensure))) {
            // Told at the point of use; the interruption follows.
            yield* Effect.never
          }
          monitor.step(term, true)
        } else if (roll < confirms) {
          monitor.confirms++
          const asked = process.world.now
          if (Exit.isSuccess(yield* Effect.exit(term.leadership.confirm))) {
            monitor.confirmed(term, asked)
          }
        } else if (busy > 0) {
          yield* Effect.uninterruptible(Effect.sleep(Duration.millis(Math.floor(busy / milli))))
        }
      }
    })
  }

  /** SIGTERM, and SIGKILL after 30 s. */
  terminate(incarnation: Incarnation): void {
    const { main, process } = incarnation
    if (main === undefined || !process.alive) {
      return
    }
    this.simulation.world.note(process.name, () => "is asked to end")
    incarnation.terminating = true
    process.deliver(() => main.interruptUnsafe())
    this.simulation.world.after(30 * second, () => this.kill(incarnation))
  }

  /** SIGKILL: its fibers get no time, no answers and no finalizers any more. */
  kill(incarnation: Incarnation): void {
    const { faults, process } = incarnation
    if (!process.alive) {
      return
    }
    const { monitor, world } = this.simulation
    world.note(process.name, () => "is dead")
    process.kill()
    monitor.onDead(process)
    this.simulation.weather.disconnect(incarnation)
    // Its connections close; what was sent may still be on its way.
    world.sync(faults.endWatches)
  }
}

const contextOf = (process: Process, witness: boolean, loggerThrows: boolean) => {
  const { world } = process
  const context = makeContext(process.clock, process.tasks, process.dice).pipe(
    Context.add(Metric.MetricRegistry, new Map()),
    // Each process has its own; a default is this one's, and would keep what is dead.
    Context.add(ActiveTerms, makeActiveTerms()),
    Context.add(SuspendWitness, witness ? () => BigInt(process.uptime()) : undefined)
  )
  return world.tracing || loggerThrows
    ? context.pipe(
      Context.add(References.MinimumLogLevel, "Info"),
      Context.add(
        Logger.CurrentLoggers,
        new Set([
          Logger.make(({ message }) => {
            world.note(process.name, () => `  log: ${[message].flat().map(String).join(" ")}`)
            if (loggerThrows) {
              throw new Error("a logger that throws")
            }
          })
        ])
      )
    )
    : context
}

const describeWrite = (write: LeaseWrite): string =>
  write.holderIdentity === "" ? "release" : write.acquireTime === undefined ? "renew" : "take"

const describeExit = (exit: Exit.Exit<LeaseResponse, LeaseError>): string =>
  Exit.match(exit, {
    onSuccess: ({ lease }) => `v${lease.resourceVersion} ${lease.holderIdentity}`,
    onFailure: (cause) => {
      const failure = Exit.findErrorOption(Exit.failCause(cause))
      return failure._tag === "Some" ? failure.value.reason._tag : "interrupted"
    }
  })

const isNotFound = (exit: Exit.Exit<LeaseResponse, LeaseError>): boolean => {
  const failure = Exit.findErrorOption(exit)
  return failure._tag === "Some" && failure.value.reason._tag === "LeaseNotFound"
}

/** The process's side of its connection: requests leave it at once, answers and events wait while it is stalled. */
const bridge = (
  simulation: Simulation,
  incarnation: Incarnation,
  store: LeaseStore["Service"]
): LeaseStore["Service"] => {
  const { process } = incarnation
  const { monitor, weather, world } = simulation
  // A proxy on the way that holds each write for a while, and drops what its sender has given up.
  const held = <A, E>(request: Effect.Effect<A, E>): Effect.Effect<A, E> =>
    weather.holdsWrites > 0 ? Effect.andThen(Effect.sleep(Duration.millis(weather.holdsWrites)), request) : request
  const call = (
    describe: () => string,
    request: Effect.Effect<LeaseResponse, LeaseError>
  ): Effect.Effect<LeaseResponse, LeaseError> =>
    Effect.callback((resume) => {
      monitor.onRequest(process)
      const began = world.now
      const news = monitor.news(process)
      world.note(process.name, () => `-> ${describe()}`)
      const fiber = world.fork(request)
      let done = false
      fiber.addObserver((exit) =>
        process.deliver(() => {
          if (!done) {
            done = true
            world.note(process.name, () => `<- ${describe()} of ${(began / second).toFixed(3)}: ${describeExit(exit)}`)
            monitor.onAnswer(process, exit)
            if (Exit.isSuccess(exit)) {
              monitor.onSeen(process, exit.value.lease)
            } else if (isNotFound(exit)) {
              monitor.onNotFound(process, news)
            }
            resume(exit)
          }
        })
      )
      return Effect.sync(() => {
        done = true
        fiber.interruptUnsafe()
      })
    })
  return LeaseStore.of({
    server: store.server,
    get: (key) => call(() => "get", store.get(key)),
    create: (key, write) => {
      monitor.onWrite(incarnation, undefined, write)
      return call(() => "create", held(store.create(key, write)))
    },
    patch: (key, resourceVersion, write) => {
      monitor.onWrite(incarnation, resourceVersion, write)
      return call(() => `${describeWrite(write)} @v${resourceVersion}`, held(store.patch(key, resourceVersion, write)))
    },
    changes: (key, since) =>
      Stream.unwrap(Effect.gen(function*() {
        const queue = yield* Queue.unbounded<LeaseChange, LeaseError | Cause.Done>()
        // What was on its way to a process that stalled, and has closed the watch since, nobody reads.
        let closed = false
        yield* Effect.acquireRelease(
          Effect.sync(() => {
            monitor.onRequest(process)
            world.note(process.name, () => `-> watch from ${since}`)
            const fiber = world.fork(Stream.runForEach(store.changes(key, since), (change) =>
              Effect.sync(() =>
                process.deliver(() => {
                  if (closed) {
                    return
                  }
                  if (change._tag === "Applied" || change._tag === "Deleted") {
                    world.note(
                      process.name,
                      () => `<~ ${change._tag} v${change.lease.resourceVersion} ${change.lease.holderIdentity}`
                    )
                    if (change._tag === "Applied") {
                      monitor.onSeen(process, change.lease)
                    } else {
                      monitor.onDeleted(process, change.lease)
                    }
                  }
                  Queue.offerUnsafe(queue, change)
                })
              )))
            fiber.addObserver((exit) =>
              process.deliver(() => {
                world.note(process.name, () =>
                  `<~ watch ends${Exit.isSuccess(exit) ? "" : " broken"}`)
                const reason = Option.getOrUndefined(Exit.findErrorOption(exit))?.reason._tag
                if (reason === "LeaseForbidden" || reason === "LeaseInvalid") {
                  incarnation.watchRefusedAt = world.now
                }
                if (Exit.isSuccess(exit)) {
                  Queue.endUnsafe(queue)
                } else {
                  Queue.failCauseUnsafe(queue, exit.cause)
                }
              })
            )
            return fiber
          }),
          (fiber) =>
            Effect.sync(() => {
              closed = true
              monitor.onWatchClosed(process)
              fiber.interruptUnsafe()
            })
        )
        return Stream.fromQueue(queue)
      }))
  })
}
