/**
 * The shipped code with shards: replicas with everything that is theirs in simulated processes, on one cluster, and
 * faults between them. Everything is drawn from the seed.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import * as Metric from "effect/Metric"
import * as Queue from "effect/Queue"
import * as References from "effect/References"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import { ActiveTerms, makeUnsafe as makeActiveTerms } from "../../src/internal/election/activeTerms.ts"
import * as LeaderElection from "../../src/LeaderElection.ts"
import * as LeaderShards from "../../src/LeaderShards.ts"
import { Leadership } from "../../src/Leadership.ts"
import type { LeaseError } from "../../src/LeaseError.ts"
import { type LeaseChange, type LeaseResponse, LeaseStore } from "../../src/LeaseStore.ts"
import { Fault, LeaseFaults, MemoryCluster, MemoryLeaseStore } from "../../src/testing/index.ts"
import * as Dice from "../simulation/random.ts"
import { makeContext, milli, Process, second, Violation, World } from "../simulation/World.ts"
import type { Outcome } from "./scenarios.ts"

const leaseDuration = 15 * second
const retryPeriod = 2 * second
const group = "shards"

interface Term {
  readonly replica: Replica
  readonly leadership: Leadership["Service"]
}

/** A replica: one process, with its connection and its list of shards. */
export class Replica {
  readonly simulation: Simulation
  readonly name: string
  readonly generation: string
  readonly process: Process
  readonly faults: LeaseFaults.LeaseFaults["Service"]
  readonly list: SubscriptionRef.SubscriptionRef<ReadonlyArray<string>>
  /** Whose programs run, and when each began. */
  readonly running = new Set<string>()
  service: LeaderShards.LeaderShards["Service"] | undefined
  leaving = false
  connected = true
  /** Its watches are refused. */
  readonly blind: boolean
  /** By how much later its elections hear of a change than its group: they have watches of their own. */
  electionsLag = 0
  private main: Fiber.Fiber<unknown, unknown>

  constructor(simulation: Simulation, name: string, generation: string, blind: boolean) {
    this.simulation = simulation
    this.blind = blind
    this.name = name
    this.generation = generation
    const { cluster, dice, world } = simulation
    const wallOffset = Math.floor(dice.pick([0, dice.between(-5, 5)]) * second)
    this.process = new Process(world, {
      name,
      rate: simulation.calm ? 1 : 1 + dice.pick([0, 0.001, 0.05]) * dice.next(),
      wallOffset: () => wallOffset,
      lateness: () => world.dice.scale(0.01, 4) * milli
    })
    world.note(name, () => `starts (${generation})`)
    const store = world.sync(MemoryLeaseStore.make(cluster, { name }))
    this.faults = world.sync(
      Effect.provideService(LeaseFaults.make(store), Scope.Scope, world.sync(Scope.make()))
    )
    this.latency()
    this.list = world.sync(SubscriptionRef.make(simulation.names))
    this.main = Effect.runForkWith(this.context())(this.program)
    this.main.addObserver((exit) => {
      if (this.process.alive) {
        world.note(name, () => `ends ${exit._tag === "Failure" ? Cause.pretty(exit.cause).split("\n")[0] : ""}`)
        if (exit._tag === "Failure" && !Cause.hasInterruptsOnly(exit.cause)) {
          world.violate(new Violation("a replica goes on", Cause.pretty(exit.cause)))
        }
        this.kill()
      }
    })
  }

  get alive(): boolean {
    return this.process.alive
  }

  latency(): void {
    const { dice, world } = this.simulation
    world.sync(this.faults.decide(({ verb }) =>
      Fault.all(
        Fault.delayRequest(Duration.millis(dice.scale(0.5, 20))),
        Fault.delayAnswer(Duration.millis(dice.scale(0.5, 20))),
        ...(this.blind && verb === "watch" ? [Fault.serverError()] : [])
      )
    ))
    world.sync(this.faults.delayEvents(() => Duration.millis(dice.scale(0.5, 50))))
  }

  private context() {
    const { process, simulation: { world } } = this
    const context = makeContext(process.clock, process.tasks, process.dice).pipe(
      Context.add(Metric.MetricRegistry, new Map()),
      Context.add(ActiveTerms, makeActiveTerms()),
      Context.add(LeaderElection.ProcessElections, new Set<string>()),
      Context.add(LeaseStore, bridge(process, this.faults.store, () => this.electionsLag))
    )
    return world.tracing
      ? context.pipe(
        Context.add(References.MinimumLogLevel, "Info"),
        Context.add(
          Logger.CurrentLoggers,
          new Set([Logger.make(({ message }) => world.note(this.name, () => `  log: ${[message].flat().map(String)}`))])
        )
      )
      : context
  }

  private get program() {
    return Effect.scoped(Effect.gen({ self: this }, function*() {
      this.service = yield* LeaderShards.make({
        group,
        namespace: "default",
        identity: this.name,
        generation: this.generation
      })
      return yield* this.service.run({
        shards: SubscriptionRef.changes(this.list),
        lead: (shard) => this.lead(shard)
      })
    }))
  }

  private lead(shard: string) {
    const { simulation } = this
    const { dice } = this.process
    return Effect.gen({ self: this }, function*() {
      const leadership = yield* Leadership
      const term: Term = { replica: this, leadership }
      simulation.begin(shard, term)
      // Less than renewDeadline leaves until the lease's end.
      const closing = dice.chance(0.5) ? 0 : dice.scale(1, 2000)
      yield* Effect.never.pipe(
        Effect.ensuring(Effect.suspend(() => closing === 0 ? Effect.void : Effect.sleep(Math.floor(closing)))),
        Effect.ensuring(Effect.sync(() => simulation.end(shard, term)))
      )
    })
  }

  // --- What happens to it ---

  /** SIGTERM, and SIGKILL after 30 s. */
  terminate(): void {
    this.simulation.world.note(this.name, () => "is asked to end")
    this.leaving = true
    this.process.deliver(() => this.main.interruptUnsafe())
    this.simulation.world.after(30 * second, () => this.kill())
  }

  kill(): void {
    if (this.alive) {
      const { simulation } = this
      simulation.world.note(this.name, () => "is dead")
      this.leaving = true
      this.process.kill()
      simulation.onDead(this)
      simulation.world.sync(this.faults.endWatches)
    }
  }

  cutOff(duration: number, how: "refuse" | "stall" | "pause"): void {
    const { world } = this.simulation
    if (this.connected) {
      world.note(this.name, () => `cut off (${how}) for ${(duration / second).toFixed(1)} s`)
      this.connected = false
      world.sync(this.faults[how])
      world.after(duration, () => {
        this.connected = true
        world.sync(this.faults.restore)
        world.note(this.name, () => "connected again")
      })
    }
  }

  stall(duration: number): void {
    const { dice, world } = this.simulation
    world.note(this.name, () => `stalls for ${(duration / second).toFixed(1)} s`)
    this.process.stall()
    world.after(duration, () => this.process.resume(dice.chance(0.5)))
  }

  /** Its view is old for a while. */
  slow(duration: number): void {
    const { dice, world } = this.simulation
    world.sync(this.faults.delayEvents(() => Duration.millis(dice.scale(10, 5000))))
    world.after(duration, () => world.sync(this.faults.delayEvents(() => Duration.millis(dice.scale(0.5, 50)))))
  }

  /** What its watches are about to say is lost, and they stay open; the next ones deliver again. */
  deaf(): void {
    const { world } = this.simulation
    world.note(this.name, () => "its watches go silent")
    world.sync(this.faults.silenceWatches)
    world.sync(this.faults.clear)
    this.latency()
  }

  misses(shards: ReadonlyArray<string>, duration: number): void {
    const { names, world } = this.simulation
    const set = (list: ReadonlyArray<string>) =>
      this.process.deliver(() => void Effect.runForkWith(this.context())(SubscriptionRef.set(this.list, list)))
    set(names.filter((name) => !shards.includes(name)))
    world.after(duration, () => set(names))
  }
}

export class Simulation {
  readonly world: World
  readonly dice: Dice.Dice
  readonly cluster: MemoryCluster.MemoryCluster["Service"]
  readonly names: ReadonlyArray<string>
  readonly size: number
  readonly replicas: Array<Replica> = []
  /** No faults but what the scenario does: then moves and times have their exact bounds. */
  readonly calm: boolean
  private readonly terms = new Map<string, Set<Term>>()
  /** How often each shard has begun to be led, and by which replica last. */
  readonly begun = new Map<string, number>()
  private readonly lastLeader = new Map<string, string>()
  private readonly leaderlessSince = new Map<string, number>()
  longestLeaderless = 0
  moves = 0
  /** Which replica led each shard, and from when to when; for a picture. */
  readonly spans: Array<{ readonly shard: string; readonly replica: string; readonly from: number; to: number }> = []
  private started = 0

  constructor(
    seed: number,
    options: { readonly trace: boolean; readonly calm: boolean; readonly size: number; readonly shards: number }
  ) {
    this.world = new World(seed, options.trace)
    this.dice = Dice.make(seed, "shards of the shipped code")
    this.calm = options.calm
    this.size = options.size
    this.names = Array.from({ length: options.shards }, (_, index) => `s${index}`)
    this.cluster = this.world.sync(
      Effect.provideService(
        MemoryCluster.make({ collector: { _tag: "manual" } }),
        Scope.Scope,
        this.world.sync(Scope.make())
      )
    )
    this.world.check = () => this.check()
  }

  launch(generation: string, blind = false): Replica {
    const replica = new Replica(this, `${generation}-${this.started++}`, generation, blind)
    this.replicas.push(replica)
    return replica
  }

  get living(): Array<Replica> {
    return this.replicas.filter(({ alive, leaving }) => alive && !leaving)
  }

  wait(duration: number): void {
    this.world.run(this.world.now + duration)
  }

  // --- Terms ---

  begin(shard: string, term: Term): void {
    const { name, running } = term.replica
    this.world.note(name, () => `leads ${shard}`)
    const before = this.lastLeader.get(shard)
    this.moves += before !== undefined && before !== name ? 1 : 0
    this.lastLeader.set(shard, name)
    this.begun.set(shard, (this.begun.get(shard) ?? 0) + 1)
    const since = this.leaderlessSince.get(shard)
    if (since !== undefined) {
      this.longestLeaderless = Math.max(this.longestLeaderless, this.world.now - since)
      this.leaderlessSince.delete(shard)
    }
    running.add(shard)
    this.spans.push({ shard, replica: name, from: this.world.now, to: Infinity })
    const terms = this.terms.get(shard) ?? new Set()
    this.terms.set(shard, terms.add(term))
    const programs = [...terms].map(({ replica }) => replica.name)
    // A process that stalls cannot end its programs in time.
    if (this.calm && programs.length > 1) {
      this.fail("programs never overlap", `${shard} runs on ${programs.join(" and ")}`)
    }
  }

  end(shard: string, term: Term): void {
    term.replica.running.delete(shard)
    this.terms.get(shard)?.delete(term)
    this.world.note(term.replica.name, () => `has ended ${shard}`)
    const span = this.spans.findLast((span) => span.shard === shard && span.replica === term.replica.name)
    if (span !== undefined) {
      span.to = this.world.now
    }
    this.leaderlessSince.set(shard, this.world.now)
  }

  onDead(replica: Replica): void {
    for (const [shard, terms] of this.terms) {
      for (const term of terms) {
        if (term.replica === replica) {
          terms.delete(term)
          this.leaderlessSince.set(shard, this.world.now)
        }
      }
    }
    replica.running.clear()
  }

  private fail(invariant: string, detail: string): never {
    throw this.world.violate(new Violation(invariant, detail))
  }

  /** After each step of true time. */
  private check(): void {
    for (const [shard, terms] of this.terms) {
      if (terms.size > 1) {
        const valid = [...terms].filter(({ leadership, replica }) =>
          Effect.runSync(Effect.provideService(leadership.isValid, Clock.Clock, replica.process.clock))
        )
        if (valid.length > 1) {
          this.fail("at most one valid leader", `${shard}: ${valid.map(({ replica }) => replica.name).join(" and ")}`)
        }
      }
    }
  }

  /** Everything is led, fairly, and nothing moves. */
  rest(settles: number, quiet: number): void {
    this.wait(settles)
    this.checkRest()
    const begun = this.total
    this.wait(quiet)
    if (this.total !== begun) {
      this.fail("no moves at rest", `${this.total - begun} moves although nothing happened`)
    }
    this.checkRest()
  }

  get total(): number {
    return [...this.begun.values()].reduce((sum, count) => sum + count, 0)
  }

  private checkRest(): void {
    const counts = this.living.map(({ running }) => running.size)
    const led = counts.reduce((sum, count) => sum + count, 0)
    if (led !== this.names.length) {
      this.fail("every shard is led", `${led} of ${this.names.length} after everything has settled`)
    }
    if (Math.max(...counts) - Math.min(...counts) > 1) {
      this.fail("fair within one", `replicas lead ${counts.join(", ")} after everything has settled`)
    }
  }

  expect(moves: number, bound: number, least: number): void {
    if (moves < least || moves > bound) {
      this.fail("moves within their bound", `${moves} moves, where ${least} to ${bound} are to be expected`)
    }
  }

  expectLed(within: number): void {
    if (this.longestLeaderless > within) {
      this.fail(
        "every shard is led within its bound",
        `one was not for ${(this.longestLeaderless / second).toFixed(1)} s`
      )
    }
  }
}

/** The process's side of its connection: requests leave it at once, answers and events wait while it is stalled. */
const bridge = (
  process: Process,
  store: LeaseStore["Service"],
  electionsLag: () => number
): LeaseStore["Service"] => {
  const { world } = process
  const call = (request: Effect.Effect<LeaseResponse, LeaseError>): Effect.Effect<LeaseResponse, LeaseError> =>
    Effect.callback((resume) => {
      const fiber = world.fork(request)
      let done = false
      fiber.addObserver((exit) =>
        process.deliver(() => {
          if (!done) {
            done = true
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
    get: (key) => call(store.get(key)),
    create: (key, write) => call(store.create(key, write)),
    patch: (key, resourceVersion, write) => call(store.patch(key, resourceVersion, write)),
    changes: (key, since) =>
      Stream.unwrap(Effect.gen(function*() {
        const queue = yield* Queue.unbounded<LeaseChange, LeaseError | Cause.Done>()
        yield* Effect.acquireRelease(
          Effect.sync(() => {
            const fiber = world.fork(Stream.runForEach(store.changes(key, since), (change) =>
              Effect.sync(() => {
                const deliver = () => process.deliver(() => void Queue.offerUnsafe(queue, change))
                const lag = key.name === "" ? 0 : electionsLag()
                if (lag === 0) {
                  deliver()
                } else {
                  world.after(lag, deliver)
                }
              })))
            fiber.addObserver((exit: Exit.Exit<void, LeaseError>) =>
              process.deliver(() =>
                exit._tag === "Success" ? void Queue.endUnsafe(queue) : void Queue.failCauseUnsafe(queue, exit.cause)
              )
            )
            return fiber
          }),
          (fiber) => Effect.sync(() => fiber.interruptUnsafe())
        )
        return Stream.fromQueue(queue)
      }))
  })
}

// --- Scenarios ---

const leastMoves = (counts: ReadonlyArray<number>, shards: number, joining: number): number => {
  const least = Math.floor(shards / (counts.length + joining))
  const extra = shards - least * (counts.length + joining)
  return [...counts].sort((a, b) => b - a).reduce(
    (sum, count, index) => sum + Math.max(0, count - least - (index < extra ? 1 : 0)),
    0
  )
}

const quickly = retryPeriod + second
/** Before it is the turn of anybody else but the member that a shard belongs to. */
const atOnce = retryPeriod / 2 - 0.1 * second

const join = (run: Simulation) => {
  const before = run.moves
  const bound = leastMoves(run.living.map(({ running }) => running.size), run.names.length, 1)
  run.launch("v1")
  run.rest(60 * second, 120 * second)
  run.expect(run.moves - before, bound, bound)
  run.expectLed(quickly + 2 * second)
}

const end = (run: Simulation) => {
  const before = run.moves
  const gone = run.dice.pick(run.living)
  const own = gone.running.size
  gone.terminate()
  run.rest(60 * second, 120 * second)
  run.expect(run.moves - before, own, own)
  run.expectLed(atOnce)
}

/** The elections of one hear of what the others do after its group has: what it plans and what it sees differ. */
const lateElections = (run: Simulation) => {
  run.dice.pick(run.living).electionsLag = Math.floor(run.dice.between(50, 400)) * milli
  end(run)
}

const crash = (run: Simulation) => {
  const before = run.moves
  const gone = run.dice.pick(run.living)
  const own = gone.running.size
  gone.kill()
  run.rest(60 * second, 120 * second)
  run.expect(run.moves - before, own, own)
  run.expectLed(leaseDuration + 2 * retryPeriod)
}

/** The list of one replica lacks the shards of another, which ends: the others lead them nevertheless. */
const listsDiffer = (run: Simulation) => {
  if (run.size < 3) {
    return end(run)
  }
  const before = run.moves
  const [gone, missing] = run.living as [Replica, Replica]
  const own = gone.running.size
  missing.misses([...gone.running], 60 * second)
  run.wait(2 * second)
  gone.terminate()
  run.wait(70 * second)
  run.rest(60 * second, 60 * second)
  run.expect(run.moves - before, 2 * own + 1, own)
  run.expectLed(quickly)
}

/** One dies, and what it left behind stays: a newcomer sees its Leases, too. */
const afterCrash = (next: (run: Simulation) => void) => (run: Simulation) => {
  run.dice.pick(run.living).kill()
  run.wait(60 * second)
  run.longestLeaderless = 0
  next(run)
}

/** The watches of one stay open and say nothing any more; then another joins. */
const silentWatch = (run: Simulation) => {
  run.dice.pick(run.living).deaf()
  run.wait(run.dice.between(0, 10) * second)
  const before = run.moves
  const bound = leastMoves(run.living.map(({ running }) => running.size), run.names.length, 1)
  run.launch("v1")
  run.rest(60 * second, 60 * second)
  run.expect(run.moves - before, bound, bound)
  run.expectLed(quickly + 2 * second)
}

/** One joins that sees nobody, and so takes late or nothing of what the others give it. */
const blind = (run: Simulation) => {
  const before = run.total
  run.launch("v1", true)
  run.wait(240 * second)
  // A few at first, and then one at a time and ever less often; or it has taken its part.
  const bound = 10 * run.size + run.names.length
  if (run.total - before > bound) {
    throw new Violation("moves within their bound", `${run.total - before} programs began, where ${bound} may`)
  }
  run.expectLed(3 * retryPeriod)
  const led = run.living.reduce((sum, { running }) => sum + running.size, 0)
  if (led < run.names.length - run.size) {
    throw new Violation("every shard is led", `${led} of ${run.names.length} after four minutes`)
  }
}

const rest = (run: Simulation) => {
  const before = run.total
  run.rest(600 * second, 60 * second)
  if (run.total !== before) {
    throw new Violation("no moves at rest", `${run.total - before} in ten minutes`)
  }
}

/** A rolling update with a surge of one, and none unavailable: an old Pod ends when a new one is ready. */
export const rollingUpdate = (run: Simulation) => {
  const before = new Map(run.begun)
  for (const old of run.living) {
    const added = run.launch("v2")
    for (let waited = 0;; waited++) {
      run.wait(0.5 * second)
      const { service } = added
      if (
        service !== undefined &&
        Effect.runSync(Effect.provideService(service.ready, Clock.Clock, added.process.clock))
      ) {
        break
      }
      if (waited > 60) {
        throw new Violation("a new replica becomes ready", `${added.name} does not`)
      }
    }
    old.terminate()
    run.wait(run.dice.between(0, 8) * second)
  }
  run.rest(60 * second, 60 * second)
  for (const [shard, count] of run.begun) {
    if (count !== before.get(shard)! + 1) {
      throw new Violation(
        "a rolling update moves each shard once",
        `${shard} moved ${count - before.get(shard)!} times`
      )
    }
  }
  run.expectLed(quickly)
}

/** Anything at any moment; then calm. */
const storm = (run: Simulation) => {
  const { cluster, dice, names, world } = run
  const until = world.now + dice.between(30, 90) * second
  while (world.now < until) {
    const replica = dice.pick(run.living)
    dice.pick([
      () => run.living.length < run.size + 2 && run.launch(dice.pick(["v1", "v1", "v2"])),
      () => run.living.length > 1 && replica.terminate(),
      () => run.living.length > 1 && replica.kill(),
      () => replica.cutOff(dice.scale(0.1, 40) * second, dice.pick(["refuse", "stall", "pause"])),
      () => replica.stall(dice.scale(0.1, 20) * second),
      () => replica.slow(dice.scale(1, 20) * second),
      () => replica.misses([dice.pick(names)], dice.scale(0.1, 20) * second),
      () => void world.sync(replica.faults.cutWatches),
      () =>
        void world.sync(replica.faults.next("patch", dice.pick([Fault.dropAnswer, Fault.hang, Fault.serverError()]))),
      () => {
        const leases = world.sync(cluster.leases())
        if (leases.length > 0) {
          const { name, namespace } = dice.pick(leases)
          world.note("somebody", () => `deletes ${name}`)
          world.sync(Effect.ignore(cluster.deleteLease({ name, namespace })))
        }
      }
    ])()
    run.wait(dice.scale(0.01, 15) * second)
  }
  run.wait(45 * second)
  // It is not at rest while two generations stay.
  if (new Set(run.living.map(({ generation }) => generation)).size > 1) {
    run.living.filter(({ generation }) => generation === "v2").forEach((replica) => replica.terminate())
  }
  run.rest(120 * second, 60 * second)
}

const scenarios: ReadonlyArray<readonly [string, (run: Simulation) => void]> = [
  ["join", join],
  ["end", end],
  ["crash", crash],
  ["late elections", lateElections],
  ["lists differ", listsDiffer],
  ["rest", rest],
  ["rolling update", rollingUpdate],
  ["join after a crash", afterCrash(join)],
  ["rolling, after a crash", afterCrash(rollingUpdate)],
  ["silent watch", silentWatch],
  ["one is blind", blind],
  ["storm", storm],
  ["storm", storm],
  ["storm", storm]
]

/** Runs one seed; `large`: 100 shards over five replicas. */
export const simulate = (
  seed: number,
  options: { readonly trace?: boolean; readonly large?: boolean } = {}
): Outcome => {
  const dice = Dice.make(seed, "scenario of the shipped code")
  const [scenario, play] = dice.pick(scenarios)
  const run = new Simulation(seed, {
    trace: options.trace === true,
    calm: scenario !== "storm",
    size: options.large === true ? 5 : dice.int(2, 4),
    shards: options.large === true ? 100 : dice.int(3, 12)
  })
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0
  let violation: Violation | undefined
  let startMoves = 0
  try {
    for (let i = 0; i < run.size; i++) {
      run.world.after(run.dice.between(0, run.dice.pick([0.5, 10])) * second, () => run.launch("v1"))
    }
    run.wait(10 * second)
    run.rest(60 * second, second)
    startMoves = run.moves
    run.longestLeaderless = 0
    run.world.note("world", () => `--- ${scenario}`)
    play(run)
  } catch (error) {
    if (!(error instanceof Violation)) {
      throw error
    }
    violation = error
    run.world.note("world", () => `VIOLATION of "${error.invariant}": ${error.message}`)
  } finally {
    Error.stackTraceLimit = stackTraceLimit
  }
  return {
    seed,
    scenario,
    members: run.size,
    shards: run.names.length,
    moves: run.moves - startMoves,
    startMoves,
    longestLeaderless: run.longestLeaderless / milli,
    events: run.world.steps,
    violation,
    timeline: run.world.timeline
  }
}
