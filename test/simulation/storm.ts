/**
 * What goes wrong in a run: the weather on the connections, and what happens to processes, Pods and the Lease.
 */
import * as Duration from "effect/Duration"
import { LeaseForbidden, LeaseUnavailable } from "../../src/LeaseError.ts"
import { instanceAnnotation, stepDownAnnotation } from "../../src/LeaseRecord.ts"
import { Fault, type LeaseFaults, type MemoryCluster } from "../../src/testing/index.ts"
import type { Profile, Theme } from "./adversary.ts"
import type { Candidate, Incarnation } from "./Candidate.ts"
import { forgeries } from "./forgery.ts"
import type { Simulation } from "./Simulation.ts"
import { epoch, key, milli, second } from "./World.ts"

/** Something that befalls the requests of a connection for a while. */
interface Episode {
  readonly kind: RequestFault
  readonly until: number
  /** How much of the requests it meets. */
  readonly share: number
  readonly verbs: ReadonlyArray<LeaseFaults.Verb>
}

export const requestFaults = [
  "slow answer",
  "slow request",
  "request lost",
  "answer lost",
  "hang",
  "hang after commit",
  "applied late",
  "delivered late",
  "429",
  "500",
  "503",
  "504 applied",
  "sent twice",
  "401",
  "403",
  "409",
  "422",
  "403 for the owner",
  "a proxy's page"
] as const

export type RequestFault = typeof requestFaults[number]

const everyVerb: ReadonlyArray<LeaseFaults.Verb> = ["get", "create", "patch", "watch"]

/** What the connections go through at the moment. */
export class Weather {
  private readonly simulation: Simulation
  private readonly connections = new Set<Incarnation>()
  private readonly episodes = new Map<Incarnation | "all", Array<Episode>>()
  private readonly next = new Map<Incarnation, { readonly kind: RequestFault; readonly verb: LeaseFaults.Verb }>()
  /** Usual one-way delay, in milliseconds. */
  private readonly latency: number
  private readonly eventLatency: number
  private readonly cuts = new Map<Incarnation, number>()
  private outage = false
  private outageEnds = 0
  /** What is wrong all the time. */
  private standing: Pick<Profile, "hung" | "slowWrites" | "slowReads">

  constructor(simulation: Simulation) {
    this.simulation = simulation
    this.latency = Math.min(simulation.dice.scale(0.3, 100), simulation.profile.latency)
    this.eventLatency = Math.min(simulation.dice.scale(0.3, 100), simulation.profile.latency)
    this.standing = simulation.profile
  }

  /** Milliseconds for which something on the way holds each write. */
  get holdsWrites(): number {
    const { slowWrites } = this.standing
    return slowWrites?.dropped === true ? slowWrites.delay : 0
  }

  /** The longest that a request and its answer take when nothing is wrong, and an event. */
  get roundTrip(): number {
    return (this.latency * 4 + (this.standing.slowWrites?.delay ?? 0) + this.standing.slowReads) * milli
  }

  get eventDelay(): number {
    return this.eventLatency * 2 * milli
  }

  connect(incarnation: Incarnation): void {
    this.connections.add(incarnation)
    const { world } = this.simulation
    world.sync(incarnation.faults.decide((request) => this.decide(incarnation, request)))
    this.usualEvents(incarnation)
    if (this.outage) {
      world.sync(incarnation.faults.refuse)
    }
  }

  disconnect(incarnation: Incarnation): void {
    this.connections.delete(incarnation)
    this.episodes.delete(incarnation)
    this.next.delete(incarnation)
  }

  private usualEvents(incarnation: Incarnation): void {
    const { world } = this.simulation
    world.sync(incarnation.faults.delayEvents(() => this.eventLatency * world.dice.scale(0.2, 2)))
  }

  private decide(incarnation: Incarnation, request: LeaseFaults.Request): Fault.Fault {
    const { dice } = this.simulation.world
    const usual = this.usual(incarnation, request)
    const next = this.next.get(incarnation)
    if (next?.verb === request.verb) {
      this.next.delete(incarnation)
      return Fault.all(usual, this.make(next.kind))
    }
    const now = this.simulation.world.now
    for (const where of [incarnation, "all"] as const) {
      const episodes = this.episodes.get(where)
      if (episodes === undefined) {
        continue
      }
      for (const episode of episodes) {
        if (episode.until > now && episode.verbs.includes(request.verb) && dice.chance(episode.share)) {
          return Fault.all(usual, this.make(episode.kind))
        }
      }
    }
    return usual
  }

  /** What befalls every request. */
  private usual({ process }: Incarnation, { verb }: LeaseFaults.Request): Fault.Fault {
    const { monitor, world: { dice } } = this.simulation
    const { hung, slowReads, slowWrites } = this.standing
    const delays: Fault.Fault = {
      requestDelay: this.latency * dice.scale(0.2, 2),
      answerDelay: this.latency * dice.scale(0.2, 2)
    }
    if (verb === "get") {
      monitor.count(process).reads++
    }
    if (hung > 0 && verb !== "watch") {
      const hangs = dice.chance(hung)
      if (verb === "patch") {
        monitor.onPatch(process, hangs)
      }
      return hangs ? Fault.all(delays, Fault.hang) : delays
    }
    if (slowReads > 0 && verb === "get") {
      return Fault.all(delays, { answerDelay: slowReads * dice.between(0.7, 1) })
    }
    if (slowWrites !== undefined && (verb === "patch" || verb === "create")) {
      return Fault.all(
        delays,
        slowWrites.dropped ? {} : { requestDelay: slowWrites.delay },
        !dice.chance(slowWrites.lost) ? {} : slowWrites.how === "none" ? { answer: "none" } : Fault.gatewayTimeout
      )
    }
    return delays
  }

  private make(kind: RequestFault): Fault.Fault {
    const { simulation } = this
    const { dice } = simulation.world
    const { leaseDuration } = simulation.timing
    switch (kind) {
      case "slow answer": {
        const delay = dice.scale(50, 8000)
        simulation.fault(kind, delay * milli)
        return Fault.delayAnswer(delay)
      }
      case "slow request": {
        const delay = dice.scale(50, 8000)
        simulation.fault(kind, delay * milli)
        return Fault.delayRequest(delay)
      }
      case "applied late": {
        const delay = dice.scale(100, 30_000)
        simulation.fault(kind, delay * milli)
        return Fault.applyLate(delay)
      }
      case "delivered late": {
        // Nobody hears of it; the write is applied all the same.
        const delay = dice.scale(100, 30_000)
        simulation.fault(kind, delay * milli)
        return Fault.all(Fault.delayRequest(delay), { answer: "none" })
      }
      case "429": {
        const wait = dice.scale(0.5, 60) * second
        simulation.fault(kind, Math.min(wait, leaseDuration) * 1.1)
        return Fault.tooManyRequests(Duration.millis(Math.ceil(wait / milli)))
      }
      default: {
        simulation.fault(kind)
        return plain[kind]
      }
    }
  }

  /** Does this to some of the requests, of one connection or of all, for a while. */
  episode(where: Incarnation | "all", episode: Episode): void {
    const { world } = this.simulation
    world.note(
      "fault",
      () =>
        `${episode.kind} on ${Math.round(episode.share * 100)} % of ${episode.verbs.join(", ")} of ` +
        `${where === "all" ? "all" : where.process.name} until ${(episode.until / second).toFixed(1)}`
    )
    this.episodes.set(where, [...this.episodes.get(where) ?? [], episode])
  }

  /** Does this to the next request of this kind. */
  once(incarnation: Incarnation, kind: RequestFault, verb: LeaseFaults.Verb): void {
    this.simulation.world.note("fault", () => `${kind} on the next ${verb} of ${incarnation.process.name}`)
    this.next.set(incarnation, { kind, verb })
  }

  /** Single faults that are still to come do not. */
  forget(): void {
    this.next.clear()
  }

  cut(incarnation: Incarnation, how: "refuse" | "stall" | "pause", duration: number): void {
    const { world } = this.simulation
    this.simulation.fault(`connection: ${how}`, duration)
    world.note("fault", () => `${how} ${incarnation.process.name} for ${(duration / second).toFixed(3)} s`)
    world.sync(incarnation.faults[how])
    this.cuts.set(incarnation, Math.max(world.now + duration, this.cuts.get(incarnation) ?? 0))
    world.after(duration, () => {
      if (!this.outage) {
        world.sync(incarnation.faults.restore)
      }
    })
  }

  isCut(incarnation: Incarnation): boolean {
    return (this.cuts.get(incarnation) ?? 0) > this.simulation.world.now
  }

  /** The API server is down. */
  down(duration: number): void {
    const { world } = this.simulation
    this.simulation.fault("API server down", duration)
    world.note("fault", () => `API server down for ${(duration / second).toFixed(3)} s`)
    this.outage = true
    for (const { faults } of this.connections) {
      world.sync(faults.refuse)
    }
    const until = Math.max(world.now + duration, this.outageEnds)
    this.outageEnds = until
    world.after(duration, () => {
      if (this.outageEnds > world.now) {
        return
      }
      this.outage = false
      for (const { faults } of this.connections) {
        world.sync(faults.restore)
      }
    })
  }

  watches(incarnation: Incarnation, how: "cut" | "end" | "silent" | "late", duration: number): void {
    const { simulation } = this
    const { world } = simulation
    world.note("fault", () => `watch of ${incarnation.process.name}: ${how}`)
    switch (how) {
      case "cut": {
        simulation.fault("watch cut")
        return world.sync(incarnation.faults.cutWatches)
      }
      case "end": {
        simulation.fault("watch closed")
        return world.sync(incarnation.faults.endWatches)
      }
      case "silent": {
        simulation.fault("watch silent", duration)
        world.sync(incarnation.faults.silenceWatches)
        world.after(duration, () => this.mend(incarnation))
        return
      }
      case "late": {
        simulation.fault("events late", duration + 5 * second)
        world.sync(incarnation.faults.delayEvents(() => world.dice.scale(100, 5000)))
        world.after(duration, () => this.usualEvents(incarnation))
        return
      }
    }
  }

  /** Silence ends for watches that are opened from now on: those that fell silent stay so. */
  private mend(incarnation: Incarnation): void {
    this.simulation.world.sync(incarnation.faults.clear)
    if (this.connections.has(incarnation)) {
      this.connect(incarnation)
    }
  }

  /** Good weather from now on. */
  clear(): void {
    this.episodes.clear()
    this.next.clear()
    this.outage = false
    this.standing = { hung: 0, slowWrites: undefined, slowReads: 0 }
    for (const incarnation of this.connections) {
      this.mend(incarnation)
    }
  }
}

const plain = {
  "request lost": Fault.dropRequest,
  "answer lost": Fault.dropAnswer,
  "hang": Fault.hang,
  "hang after commit": Fault.hangAfterCommit,
  "500": Fault.serverError(500),
  "503": Fault.serverError(503),
  "504 applied": Fault.gatewayTimeout,
  "sent twice": Fault.sentTwice,
  "401": Fault.unauthorized,
  "403": Fault.forbidden,
  "409": Fault.conflict,
  "422": Fault.invalid,
  "403 for the owner": Fault.fail(
    new LeaseForbidden({ message: "cannot set blockOwnerDeletion", anonymous: false, ownerReferences: true })
  ),
  "a proxy's page": Fault.fail(
    new LeaseUnavailable({ message: "the answer is not the API server's", outcomeUnknown: true, code: 404 })
  )
}

// --- what happens to processes, Pods and the Lease --------------------------------------------------------------

export type Act = (simulation: Simulation, target: Candidate) => void

/** Whether another candidate's process runs in the same Pod. */
const sharesPod = ({ candidates }: Simulation, candidate: Candidate): boolean =>
  candidates.some((other) => other !== candidate && other.podKey.name === candidate.podKey.name)

/** Starts a second process under the identity of one that runs. */
export const duplicate = (simulation: Simulation, candidate: Candidate): void => {
  const { dice, world } = simulation
  if (candidate.alive) {
    const duration = dice.scale(0.5, 10) * simulation.timing.leaseDuration
    simulation.fault("duplicated identity", duration)
    const duplicate = candidate.duplicate()
    world.note("fault", () => `${duplicate.process.name} uses the identity of another live process`)
    world.after(duration, () => candidate.kill(duplicate))
  }
}

const restart = (simulation: Simulation, candidate: Candidate, delay: number): void => {
  simulation.world.after(delay, () => candidate.start())
}

const acts: { readonly [name: string]: Act } = {
  crash: (simulation, candidate) => {
    const { current } = candidate
    if (current?.process.alive === true) {
      const delay = simulation.dice.scale(0.05, 30) * second
      simulation.fault("crash", delay)
      candidate.kill(current)
      restart(simulation, candidate, delay)
    }
  },

  "pod deleted": (simulation, candidate) => {
    const { current } = candidate
    if (current?.process.alive === true) {
      const delay = simulation.dice.scale(0.05, 30) * second
      simulation.fault("Pod deleted", delay)
      candidate.kill(current)
      if (!sharesPod(simulation, candidate)) {
        simulation.foreign(simulation.cluster.deletePod(candidate.podKey))
      }
      restart(simulation, candidate, delay)
    }
  },

  terminate: (simulation, candidate) => {
    const { current } = candidate
    if (current?.process.alive === true) {
      const delay = simulation.dice.scale(0.05, 30) * second
      simulation.fault("SIGTERM", delay + 30 * second)
      candidate.terminate(current)
      simulation.world.after(delay, () => {
        candidate.kill(current)
        if (candidate.current === current && simulation.dice.chance(0.5) && !sharesPod(simulation, candidate)) {
          simulation.foreign(simulation.cluster.deletePod(candidate.podKey))
        }
        candidate.start()
      })
    }
  },

  // The node is cut off, its Pod is deleted by force, and a StatefulSet starts another of the same name.
  "pod deleted by force": (simulation, candidate) => {
    const { dice, weather, world } = simulation
    const { current } = candidate
    if (current?.process.alive !== true || sharesPod(simulation, candidate)) {
      return
    }
    const { leaseDuration } = simulation.timing
    const runsOn = dice.scale(0.1, 2) * leaseDuration
    simulation.fault("Pod deleted by force", runsOn)
    if (dice.chance(0.8)) {
      weather.cut(current, dice.pick(["refuse", "stall", "stall", "pause"]), dice.scale(0.05, 2) * leaseDuration)
    }
    world.after(dice.scale(0.001, 1) * leaseDuration, () => {
      if (candidate.current !== current) {
        return
      }
      candidate.abandon()
      simulation.foreign(simulation.cluster.deletePod(candidate.podKey))
      simulation.world.note("fault", () => `Pod of ${current.process.name} deleted by force: it runs on`)
      world.after(dice.scale(0.001, 3) * second, () => candidate.start())
      world.after(runsOn, () => candidate.kill(current))
    })
  },

  stall: (simulation, candidate) => {
    const { dice, world } = simulation
    const { process } = candidate.current ?? {}
    if (process?.state === "running") {
      const duration = dice.scale(0.02, 2 * simulation.timing.leaseDuration / second) * second
      simulation.fault("stall", duration)
      world.note("fault", () => `${process.name} stalls for ${(duration / second).toFixed(3)} s`)
      process.stall()
      world.after(duration, () => process.resume(dice.chance(0.5)))
    }
  },

  suspend: (simulation, candidate) => {
    const { dice, world } = simulation
    const { process } = candidate.current ?? {}
    if (process?.state === "running" && candidate.options.witness) {
      const duration = dice.scale(0.02, 2 * simulation.timing.leaseDuration / second) * second
      simulation.fault("suspend", duration)
      simulation.suspends = true
      world.note("fault", () => `${process.name} is suspended for ${(duration / second).toFixed(3)} s`)
      process.suspend()
      world.after(duration, () => process.resume(dice.chance(0.5)))
    }
  },

  "wall clock": (simulation, candidate) => {
    const { dice } = simulation
    const by = Math.floor(dice.scale(0.001, 86_400) * second) *
      // A suspension during which the wall clock steps back goes unnoticed.
      (dice.chance(0.5) || simulation.suspends ? 1 : -1)
    if (candidate.current !== undefined) {
      simulation.fault("wall clock step")
      simulation.world.note("fault", () => `wall clock of ${candidate.name} steps by ${(by / second).toFixed(3)} s`)
      candidate.wallOffset += by
      candidate.steppedBack ||= by < 0
    }
  },

  "lease deleted": (simulation) => {
    simulation.fault("Lease deleted")
    simulation.world.note("fault", () => "kubectl delete lease")
    simulation.foreign(simulation.cluster.deleteLease(key, { foreground: simulation.dice.chance(0.1) }))
  },

  "lease applied again": (simulation) => {
    const { cluster, dice, monitor, world } = simulation
    const before = monitor.record
    if (before === undefined) {
      return
    }
    simulation.fault("Lease deleted and applied again", 3 * second)
    world.note("fault", () => "kubectl delete lease, and apply it again")
    simulation.foreign(cluster.deleteLease(key))
    const body: MemoryCluster.LeaseBody = dice.chance(0.5) ? {} : {
      metadata: dice.chance(0.5) ? { annotations: before.annotations } : {},
      spec: {
        holderIdentity: before.holderIdentity,
        leaseDurationSeconds: before.leaseDurationSeconds ?? null,
        leaseTransitions: before.leaseTransitions
      }
    }
    world.after(dice.scale(0.0001, 2) * second, () => {
      simulation.fault("Lease applied", simulation.timing.leaseDuration)
      simulation.foreign(cluster.createLease(key, body))
    })
  },

  "lease emptied": (simulation) => {
    const { clientGo, cluster, dice } = simulation
    if (clientGo !== undefined) {
      // Takes it at once, may release it a moment later, and to that release nobody can see that a leader may live.
      return
    }
    simulation.fault("Lease emptied in place")
    simulation.world.note("fault", () => "the Lease is emptied in place")
    simulation.foreign(dice.chance(0.5) ? cluster.emptyLease(key) : cluster.putLease(key, {}))
  },

  "lease edited": (simulation) => {
    const { clientGo, cluster, dice, timing, world } = simulation
    const record = simulation.monitor.record
    if (record === undefined) {
      return
    }
    const longer = Math.ceil((timing.leaseDuration / second) * dice.between(1, 3))
    const { monitor } = simulation
    // client-go believes it; so does who has not seen what the holder wrote.
    const shorter = clientGo === undefined && monitor.isSeenByAll() && (record.leaseDurationSeconds ?? 0) > 2
      ? { spec: { leaseDurationSeconds: dice.int(2, record.leaseDurationSeconds ?? 2) } }
      : {}
    // A made-up renewTime beside a shortened duration is a forged record.
    const leaseDurationSeconds = monitor.shortened() ?? record.leaseDurationSeconds ?? null
    const [what, patch, lasts]: readonly [string, MemoryCluster.LeaseBody, number] = dice.pick([
      ["a label", { metadata: { labels: { touched: String(world.now) } } }, 0],
      ["a label", { metadata: { labels: { touched: String(world.now) } } }, 0],
      ["without instance", { metadata: { annotations: { [instanceAnnotation]: null } } }, 0],
      ["without annotations", { metadata: { annotations: null } }, 0],
      ["without owner", { metadata: { ownerReferences: null } }, 0],
      ["a longer duration", { spec: { leaseDurationSeconds: longer } }, longer * second],
      ["a shorter duration", shorter, 0],
      ["a shorter duration", shorter, 0],
      ["without duration", { spec: { leaseDurationSeconds: null } }, 0],
      ["an old renewTime", { spec: { renewTime: microTime(epoch - 3_600_000), leaseDurationSeconds } }, 0],
      ["a renewTime to come", { spec: { renewTime: microTime(epoch + 3_600_000), leaseDurationSeconds } }, 0],
      ["without times", { spec: { renewTime: null, acquireTime: null } }, 0],
      // As above.
      ["without holder", clientGo === undefined ? { spec: { holderIdentity: null } } : {}, 0],
      // Another one each time: who puts back what stood there before, and no new renewTime, has given no sign of life.
      ["another holder", { spec: { holderIdentity: `stranger-${world.now}` } }, timing.leaseDuration],
      ["step down", {
        metadata: { annotations: { [stepDownAnnotation]: record.annotations[instanceAnnotation] ?? "nobody" } }
      }, 2 * timing.leaseDuration]
    ])
    simulation.fault("Lease edited", lasts)
    world.note("fault", () => `the Lease is edited: ${what}`)
    simulation.foreign(cluster.editLease(key, patch))
  },

  compaction: (simulation) => {
    simulation.fault("history compacted")
    simulation.world.sync(simulation.cluster.compact)
  },

  "watches closed": (simulation) => {
    simulation.fault("watches closed by the server")
    simulation.world.sync(simulation.cluster.closeWatches)
  },

  // Two live processes under one identity: what is promised of them is only that the others do not suffer.
  duplicate,

  "versions taken": (simulation) => {
    simulation.world.sync(simulation.cluster.skipVersions(simulation.dice.int(1, 50)))
  },

  "API server down": (simulation) => {
    const { dice, weather } = simulation
    weather.down(dice.scale(0.1, 3 * simulation.timing.leaseDuration / second) * second)
  },

  requests: (simulation, candidate) => {
    const { dice, weather, world } = simulation
    const { current } = candidate
    if (current === undefined) {
      return
    }
    const duration = dice.scale(0.1, 2 * simulation.timing.leaseDuration / second) * second
    const verbs: ReadonlyArray<LeaseFaults.Verb> = dice.chance(0.5)
      ? everyVerb
      : dice.pick([["patch"], ["get"], ["watch"], ["create", "patch"], ["get", "create"]])
    weather.episode(dice.chance(0.15) ? "all" : current, {
      kind: dice.pick(requestFaults),
      until: world.now + duration,
      share: dice.chance(0.4) ? 1 : dice.next(),
      verbs
    })
  },

  connection: (simulation, { current }) => {
    const { dice } = simulation
    if (current !== undefined) {
      const duration = dice.scale(0.1, 3 * simulation.timing.leaseDuration / second) * second
      simulation.weather.cut(current, dice.pick(["refuse", "stall", "pause"]), duration)
    }
  },

  watch: (simulation, { current }) => {
    const { dice } = simulation
    if (current !== undefined) {
      const duration = dice.scale(0.1, 3 * simulation.timing.leaseDuration / second) * second
      simulation.weather.watches(current, dice.pick(["cut", "end", "silent", "silent", "late"]), duration)
    }
  }
}

export const microTime = (millis: number): string => new Date(millis).toISOString().replace("Z", "000Z")

type Weights = ReadonlyArray<readonly [name: string, weight: number]>

/** How likely each act is: a run has its own selection of them. */
const weights: Weights = [
  ["crash", 2],
  ["pod deleted", 1],
  ["terminate", 1.5],
  ["pod deleted by force", 1.5],
  ["stall", 3],
  ["suspend", 1.5],
  ["wall clock", 1],
  ["lease deleted", 2],
  ["lease applied again", 1],
  ["lease emptied", 1],
  ["lease edited", 2],
  ["duplicate", 1],
  ["compaction", 0.5],
  ["watches closed", 0.5],
  ["versions taken", 0.5],
  ["API server down", 0.7],
  ["requests", 8],
  ["connection", 4],
  ["watch", 3]
]

/** Storms that are about one thing have few others in them. */
const themes: { readonly [theme in Theme]: Weights } = {
  "usual": [...weights, ...forgeries.usual],
  "forgery": [
    ...forgeries.all,
    ["crash", 1],
    ["lease deleted", 1],
    ["connection", 1.5],
    ["requests", 1.5],
    ["lease edited", 1],
    ["terminate", 0.7],
    ["pod deleted by force", 0.5],
    ["watch", 0.7],
    ["stall", 0.5]
  ],
  "newLease": [["lead and go", 4], ["lease deleted", 1], ["crash", 1], ["connection", 2], ["terminate", 1]],
  "durations": [
    ["delete beside", 5],
    ["lease deleted", 1],
    ["lease emptied", 1],
    ["connection", 2],
    ["crash", 1],
    ["terminate", 1],
    ["lease edited", 1]
  ],
  "hung": [["crash", 1]],
  "slow writes": [["crash", 2], ["terminate", 2], ["lease deleted", 1], ["connection", 1], ["requests", 1], [
    "watch",
    1
  ]],
  "server clocks": [
    ["delete beside", 4],
    ["lease applied again", 2],
    ["lease deleted", 2],
    ["connection", 2],
    ["crash", 1],
    ["pod deleted", 1]
  ]
}

/**
 * Somebody who edits a label again and again, also when all else is calm. Not where the Lease has no holder: there any
 * edit puts off the next take, so that one who edits more often than every leaseDuration would keep everybody waiting.
 */
export const busybody = (simulation: Simulation): void => {
  const { cluster, dice, timing, world } = simulation
  const next = () => {
    if (simulation.monitor.record?.holderIdentity !== "") {
      simulation.foreign(cluster.editLease(key, { metadata: { labels: { touched: String(world.now) } } }))
    }
    world.after(timing.shortestLease * dice.between(0.1, 0.3), next)
  }
  world.after(dice.between(0, 60) * second, next)
}

export const plan = (simulation: Simulation): void => {
  const { dice, profile, world } = simulation
  const all = themes[profile.theme]
  // Few kinds at a time meet in more interesting ways than all of them at once.
  const selected = all.filter(() => dice.chance(0.6))
  const chosen = selected.length > 0 ? selected : all
  simulation.suspends = chosen.some(([name]) => name === "suspend")
  const total = chosen.reduce((sum, [, weight]) => sum + weight, 0)
  const usualPause = dice.scale(0.05, 1) * (simulation.timing.leaseDuration / second)
  // What is about one thing has to get that far between two acts.
  const pause = profile.theme === "usual"
    ? usualPause
    : Math.max(usualPause, simulation.timing.leaseDuration / second / 2)
  const draw = (): Act => {
    let roll = dice.next() * total
    for (const [name, weight] of chosen) {
      roll -= weight
      if (roll <= 0) {
        return acts[name] ?? forgeries.acts[name]!
      }
    }
    return () => {}
  }
  const target = (): Candidate => {
    const leader = simulation.monitor.leader()
    return leader !== undefined && dice.chance(0.5) ? leader.incarnation.candidate : dice.pick(simulation.candidates)
  }
  const next = () => {
    if (world.now < simulation.stormEnds) {
      draw()(simulation, target())
      world.after(dice.scale(0.02, 4) * pause * second, next)
    }
  }
  world.after(dice.between(0, 40) * second, next)
}

/** The storm is over: everything works from now on, and every candidate runs. */
export const end = (simulation: Simulation): void => {
  const { candidates, weather, world } = simulation
  world.note("world", () => "the storm is over")
  weather.clear()
  for (const process of Array.from(world.processes)) {
    process.resume(true)
  }
  for (const candidate of candidates) {
    candidate.start()
  }
}
