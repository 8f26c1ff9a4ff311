/**
 * One run: a cluster, its candidates, a storm of faults, and the calm after it. Everything is drawn from the seed.
 */
import type * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import * as LeaderElectionConfig from "../../src/LeaderElectionConfig.ts"
import { MemoryCluster } from "../../src/testing/index.ts"
import * as Adversary from "./adversary.ts"
import { Candidate, type Incarnation } from "./Candidate.ts"
import { ClientGo } from "./ClientGo.ts"
import { Monitor } from "./Monitor.ts"
import * as Orderly from "./orderly.ts"
import * as Dice from "./random.ts"
import * as Storm from "./storm.ts"
import { format, key, milli, second, Violation, World } from "./World.ts"

/** How much of the seeds have one fault at a time. */
const orderlyShare = 0.25

/** What a run came to. */
export interface Outcome {
  readonly seed: number
  readonly violation: Violation | undefined
  /** True time simulated. */
  readonly duration: number
  readonly terms: number
  readonly programSteps: number
  readonly requests: number
  readonly steps: number
  /** From the last fault and its late effects until somebody led. */
  readonly leaderless: number
  readonly leaseDuration: number
  readonly faults: ReadonlyMap<string, number>
  readonly timeline: ReadonlyArray<string>
}

/** How a seed is run. */
export interface Options {
  readonly trace?: boolean | undefined
  /** What is done here must not be done, and has to be found. */
  readonly misuse?: Misuse | undefined
}

/** Conditions of use that the documentation excludes. */
export type Misuse = "leaseDurations too far apart"

export class Simulation {
  readonly profile: Adversary.Profile
  readonly world: World
  readonly dice: Dice.Dice
  readonly cluster: MemoryCluster.MemoryCluster["Service"]
  readonly monitor: Monitor
  readonly candidates: Array<Candidate> = []
  readonly weather: Storm.Weather
  readonly faults = new Map<string, number>()
  /** One fault at a time, with time to recover between them. */
  readonly orderly: boolean
  /** Somebody edits a label all the time. */
  readonly relabelled: boolean
  readonly timing: {
    readonly shortestLease: number
    readonly leaseDuration: number
    readonly renewDeadline: number
    readonly retryPeriod: number
    readonly ending: number
    /** Relative difference of the clocks' rates. */
    readonly skew: number
    /** How long a healthy leader can do without its requests, one hung one included. */
    readonly spare: number
  }
  /** Whether R + S ≤ D / (1 + e) holds. */
  readonly programsNeverOverlap: boolean
  readonly requestLimit: number
  stormEnds: number
  /** The last moment at which a fault, or a late effect of one, can have happened. */
  lastFault = 0
  clientGo: ClientGo | undefined
  /** Called when a release is about to leave its process. */
  onRelease: (() => void) | undefined
  /** Whether machines are suspended in this run. */
  suspends = false
  private firstLeaderAt: number | undefined
  private endsAt = 0

  constructor(seed: number, options: Options) {
    this.world = new World(seed, options.trace === true)
    this.dice = Dice.make(seed, "scenario")
    const { dice } = this
    this.cluster = this.world.sync(
      Effect.provideService(
        MemoryCluster.make({ collector: { _tag: "manual" } }),
        Scope.Scope,
        this.world.sync(Scope.make())
      )
    )

    this.orderly = dice.chance(orderlyShare) && options.misuse === undefined
    const adversary = Dice.make(seed, "adversary")
    const drawn = Adversary.draw(adversary, this.orderly)
    const profile = options.misuse === undefined ? drawn : Adversary.durationsApart(drawn)
    this.profile = profile
    const someSkew = dice.pick([0, 0, 0.001, 0.01, 0.1, 0.2, 0.45])
    const skew = profile.skews === undefined ? someSkew : adversary.pick(profile.skews)
    const usualSeconds = dice.pick([15, 15, 15, 6, 10, 30])
    const leaseSeconds = profile.settings === undefined
      ? usualSeconds
      : Duration.toSeconds(profile.settings[0]!.leaseDuration)
    // Some runs have candidates of two durations: none is smaller than another's renewDeadline.
    const mixed = skew <= 0.1 && dice.chance(0.2)
    const choices = profile.settings ??
      (mixed ? [leaseSeconds, Math.floor(leaseSeconds * 1.3)] : [leaseSeconds]).map((seconds) =>
        Object.assign(LeaderElectionConfig.defaultsFor(Duration.seconds(seconds)), key)
      )
    const shortest = choices[0]!
    const longest = choices.at(-1)!
    const ending = nanos(shortest.leaseDuration) / (1 + skew) - nanos(longest.renewDeadline) - 0.1 * second
    // Some programs take longer to end than they may: then only leadership is promised not to overlap.
    const overruns = !this.orderly && dice.chance(0.1)
    this.programsNeverOverlap = ending > 0 && !overruns
    this.timing = {
      shortestLease: nanos(shortest.leaseDuration),
      leaseDuration: nanos(longest.leaseDuration),
      renewDeadline: nanos(longest.renewDeadline),
      retryPeriod: nanos(longest.retryPeriod),
      spare: Adversary.spare(shortest) * second,
      ending: overruns ? nanos(shortest.leaseDuration) : Math.max(0, ending),
      skew
    }
    const { retryPeriod } = this.timing
    const pace = profile.settings === undefined ? retryPeriod : Math.min(retryPeriod, nanos(shortest.renewInterval))
    this.requestLimit = 40 + Math.ceil((10 * second) / pace) * 6
    this.monitor = new Monitor(this)
    this.world.check = () => this.monitor.check()
    this.weather = new Storm.Weather(this)

    const lasts = dice.between(60, 240) * second * (leaseSeconds / 15)
    this.stormEnds = this.orderly
      ? Infinity
      : Math.ceil(profile.lasts === undefined ? lasts : profile.lasts * this.timing.leaseDuration)
    const count = dice.pick([2, 2, 3, 3, 3, 4, 5, 7])
    const base = dice.chance(0.7) ? 1 : 1 / (1 + skew)
    for (let i = 0; i < count; i++) {
      const candidate = new Candidate(this, {
        name: "abcdefg"[i]!,
        rate: base * (1 + skew * dice.pick([0, 1, dice.next()])),
        wallOffset: Math.floor(dice.pick([0, dice.between(-5, 5), dice.between(-86_400, 86_400)]) * second),
        witness: dice.chance(0.8),
        // Who polls and never gets an answer to its writes learns of them by its next read at best.
        watch: dice.chance(0.9) || (this.orderly && (profile.slowWrites?.lost ?? 0) > 0),
        settings: profile.theme === "newLease"
          ? { ...dice.pick(choices), newLease: adversary.pick(["wait", "wait", "lead"]) }
          : dice.pick(choices),
        owned: dice.chance(0.8),
        podOf: !this.orderly && i > 0 && adversary.chance(0.08) ? this.candidates[i - 1] : undefined,
        program: {
          ending: this.timing.ending,
          lifetime: () => this.orderly || dice.chance(0.8) ? Infinity : dice.scale(0.1, 60) * second
        }
      })
      this.candidates.push(candidate)
      const twins = !this.orderly && adversary.chance(0.05)
      const together = adversary.between(0, 10) * second
      this.world.at(
        adversary.chance(0.3) && !this.orderly
          ? together
          : dice.between(0, dice.chance(0.5) ? 0.1 : 40) * second,
        () => {
          candidate.start()
          if (twins) {
            Storm.duplicate(this, candidate)
          }
        }
      )
    }
    this.relabelled = dice.chance(0.1) &&
      profile.settings === undefined && (profile.theme === "usual" || profile.theme === "forgery")
    if (this.relabelled) {
      this.fault("somebody edits a label all the time")
      Storm.busybody(this)
    }
    if (dice.chance(0.1) && !this.orderly && (profile.theme === "usual" || profile.theme === "forgery")) {
      this.clientGo = new ClientGo(this)
    }
    if (this.orderly) {
      Orderly.plan(this)
    } else {
      Storm.plan(this)
    }
  }

  get isCalm(): boolean {
    return this.world.now >= this.stormEnds
  }

  /** Counts a fault, and notes that its effects may last for so long. */
  fault(kind: string, lasts = 0): void {
    this.faults.set(kind, (this.faults.get(kind) ?? 0) + 1)
    this.lastFault = Math.max(this.lastFault, this.world.now + lasts)
  }

  /** Does something to the cluster that is nobody's request. */
  foreign<A, E>(effect: Effect.Effect<A, E>): A | undefined {
    const done = this.world.sync(Effect.match(effect, { onFailure: () => undefined, onSuccess: (value) => value }))
    this.monitor.onForeign(this.world.sync(this.cluster.lease(key)))
    this.collect()
    return done
  }

  /** Lets the garbage collector go on with what it has found, one step at a time. */
  collect(): void {
    for (const { id } of this.world.sync(this.cluster.collector.pending)) {
      if (!this.collecting.has(id)) {
        this.collecting.add(id)
        this.collectLater(id)
      }
    }
  }

  private readonly collecting = new Set<string>()

  private collectLater(id: string): void {
    const delay = this.dice.scale(1, this.dice.chance(0.1) ? 5000 : 20) * milli
    this.lastFault = Math.max(this.lastFault, this.world.now + delay)
    this.world.after(delay, () => {
      const done = this.world.sync(this.cluster.collector.step(id))
      if (done !== undefined) {
        this.world.note("collector", () => `${done.step} ${done.job.kind}: ${done.outcome}`)
      }
      this.collecting.delete(id)
      this.foreign(Effect.void)
    })
  }

  /** The main fiber of a candidate has failed: its container is started again, as the kubelet does. */
  onFailure(incarnation: Incarnation, cause: Cause.Cause<unknown>): void {
    const { candidate } = incarnation
    this.monitor.onProcessEnd(incarnation, cause)
    const delay = this.dice.scale(0.5, 10) * second
    this.fault("restart", delay)
    this.world.after(delay, () => candidate.start())
  }

  onLeader(): void {
    if (this.endsAt > 0 && this.firstLeaderAt === undefined) {
      this.firstLeaderAt = this.world.now
    }
  }

  /** How long it may take after the last fault and its late effects until somebody leads. */
  bound(): number {
    const { ending, leaseDuration, retryPeriod, skew } = this.timing
    return 2 * leaseDuration * (1 + skew) + ending + leaseDuration / 2 + 4 * retryPeriod +
      6 * this.weather.roundTrip
  }

  private pollPeriod(): number {
    const { retryPeriod, shortestLease } = this.timing
    return this.profile.settings === undefined ? shortestLease / 8 : Math.min(shortestLease / 8, 0.8 * retryPeriod)
  }

  private leads(): boolean {
    return this.clientGo?.leads === true || this.monitor.leader() !== undefined
  }

  /** Nothing happens: the leader stays, and nobody makes more requests than it takes. */
  private watchCalm(duration: number): void {
    const { monitor } = this
    const { confirms, lost } = monitor
    const leader = monitor.leader()
    monitor.requestsOf.clear()
    this.world.run(this.world.now + duration)
    if (monitor.lost !== lost || !this.leads()) {
      throw new Violation("a healthy leader is not lost", "the leader changed although nothing happened")
    }
    for (const [process, requests] of monitor.requestsOf) {
      const { renewInterval } = leader?.incarnation.candidate.options.settings ?? {}
      const renewals = renewInterval === undefined ? 0 : (duration * process.options.rate) / nanos(renewInterval)
      const limit = leader?.process === process
        // A confirmation that is asked for while a renewal is under way conflicts with it, and is written again.
        ? (renewals + 2 * (monitor.confirms - confirms) + 2) *
          (this.relabelled ? 4 : this.profile.settings === undefined ? 1 : 3)
        : (1.3 * duration * process.options.rate) / this.pollPeriod() + 8
      if (requests > limit) {
        throw new Violation("requests stay few", `${process.name} made ${requests} while nothing happened`)
      }
    }
  }

  run(): Outcome {
    let violation: Violation | undefined
    let leaderless = 0
    try {
      while (this.stormEnds > this.world.now) {
        this.world.run(Math.min(this.stormEnds, this.world.now + 60 * second))
      }
      Storm.end(this)
      // Late effects may have late effects.
      while (this.lastFault > this.world.now) {
        this.world.run(this.lastFault)
      }
      const calm = this.world.now
      this.world.note("world", () => "CALM: nothing happens from now on")
      this.endsAt = calm
      const bound = this.bound()
      if (this.leads()) {
        this.firstLeaderAt = calm
      }
      this.world.run(calm + bound)
      leaderless = (this.firstLeaderAt ?? this.world.now) - calm
      if (!this.leads()) {
        throw new Violation("somebody leads after the last fault", `nobody after ${format(bound)} s of calm`)
      }
      this.watchCalm(2.5 * this.timing.leaseDuration)
    } catch (error) {
      if (!(error instanceof Violation)) {
        throw error
      }
      violation = error
      this.world.note("world", () => `VIOLATION of "${error.invariant}": ${error.message}`)
    }
    return {
      seed: this.world.seed,
      violation,
      duration: this.world.now,
      terms: this.monitor.begun,
      programSteps: this.monitor.steps,
      requests: this.monitor.requestCount,
      steps: this.world.steps,
      leaderless,
      leaseDuration: this.timing.leaseDuration,
      faults: this.faults,
      timeline: this.world.timeline
    }
  }
}

const nanos = (duration: Duration.Duration): number => Number(Duration.toNanosUnsafe(duration))

/** What kinds of run a seed is, without running it. */
export const kindsOf = (seed: number): ReadonlyArray<Adversary.Kind> => {
  const isOrderly = Dice.make(seed, "scenario").chance(orderlyShare)
  return Adversary.kindsOf(Adversary.draw(Dice.make(seed, "adversary"), isOrderly), isOrderly)
}

/** Runs one seed. */
export const simulate = (seed: number, options: Options = {}): Outcome => {
  // Most of the time would go into the stacks of errors that are nothing but answers.
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0
  try {
    return new Simulation(seed, options).run()
  } finally {
    Error.stackTraceLimit = stackTraceLimit
  }
}
