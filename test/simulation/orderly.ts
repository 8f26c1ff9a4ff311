/**
 * One fault at a time, with time to recover between them: a healthy leader is not lost to it, and whoever takes over
 * does so within the time that is promised for that fault.
 */
import type { Candidate, Incarnation } from "./Candidate.ts"
import { putBack, witnessJumps } from "./forgery.ts"
import type { ObservedTerm } from "./Monitor.ts"
import type { Simulation } from "./Simulation.ts"
import { type RequestFault, requestFaults } from "./storm.ts"
import { format, key, milli, second, Violation } from "./World.ts"

/** A fault for the leader, and by when who leads again. */
type Act = (simulation: Simulation, leader: ObservedTerm) => Expectation

interface Expectation {
  readonly name: string
  /** The term has to survive. */
  readonly keeps: boolean
  /** Somebody leads within this time. */
  readonly within: number
}

/** How late timers and the code between two requests may be, all together. */
const slack = 50 * milli

const slowestRate = ({ candidates }: Simulation): number => Math.min(...candidates.map(({ options }) => options.rate))

/** Whether it has a watch: one that was refused is left alone for a minute, or leaseDuration where that is longer. */
const isWatching = ({ timing, world }: Simulation, { current, options }: Candidate): boolean =>
  options.watch &&
  (world.now - (current?.watchRefusedAt ?? -Infinity)) * options.rate > Math.max(60 * second, timing.leaseDuration) +
      timing.retryPeriod

const labelNow = (simulation: Simulation): void => {
  const labels = { touched: String(simulation.world.now) }
  simulation.foreign(simulation.cluster.editLease(key, { metadata: { labels } }))
}

const hungOnce: Act = (simulation, { incarnation }) => {
  const kind = simulation.dice.pick(["hang", "request lost"] as const)
  simulation.weather.once(incarnation, kind, "patch")
  return { name: `one renewal: ${kind}`, keeps: true, within: 0 }
}

const restartLater = (simulation: Simulation, { candidate }: Incarnation, delay: number): void => {
  simulation.world.after(delay, () => candidate.start())
}

const acts: ReadonlyArray<Act> = [
  (simulation, { incarnation }) => {
    const kind: RequestFault = simulation.dice.pick(requestFaults)
    simulation.weather.once(incarnation, kind, "patch")
    return { name: `one renewal: ${kind}`, keeps: true, within: 0 }
  },

  (simulation, { incarnation }) => {
    simulation.fault("Lease edited")
    simulation.weather.once(incarnation, simulation.dice.pick(["hang", "429", "500"]), "get")
    labelNow(simulation)
    return { name: "a label, and the read after the conflict fails", keeps: true, within: 0 }
  },

  (simulation, { process }) => {
    const { dice, timing, world } = simulation
    const most = Math.min(timing.shortestLease / 6, timing.spare * 0.8)
    const duration = dice.scale(Math.min(0.02, most / second / 2), most / second) * second
    simulation.fault("stall")
    process.stall()
    world.after(duration, () => process.resume(dice.chance(0.5)))
    return { name: `stall of ${format(duration)} s`, keeps: true, within: 0 }
  },

  (simulation, { incarnation }) => {
    simulation.weather.watches(incarnation, simulation.dice.pick(["cut", "end"]), 0)
    return { name: "watch", keeps: true, within: 0 }
  },

  (simulation, { incarnation }) => {
    const { timing, weather } = simulation
    simulation.fault("crash")
    incarnation.candidate.kill(incarnation)
    restartLater(simulation, incarnation, 2.5 * timing.leaseDuration)
    const seen = simulation.candidates.every((candidate) => isWatching(simulation, candidate))
      ? weather.eventDelay
      : timing.retryPeriod / slowestRate(simulation) + weather.roundTrip
    return {
      name: "crash",
      keeps: false,
      within: timing.leaseDuration / slowestRate(simulation) + seen + 4 * weather.roundTrip + slack
    }
  },

  (simulation, { incarnation }) => {
    const { dice, timing, weather, world } = simulation
    const { candidate } = incarnation
    const delay = dice.scale(0.01, 0.5) * timing.shortestLease / (1 + timing.skew)
    simulation.fault("container restart")
    candidate.kill(incarnation)
    restartLater(simulation, incarnation, delay)
    const atOnce = delay + 4 * weather.roundTrip + slack
    // Only the very version that it saw first is resumed: an edit that comes between costs it the wait.
    if (simulation.relabelled) {
      const wait = timing.leaseDuration / slowestRate(simulation)
      return { name: "container restart", keeps: false, within: atOnce + wait + weather.eventDelay }
    }
    world.after(atOnce, () => {
      const leader = simulation.monitor.leader()
      if (leader?.incarnation.candidate !== candidate) {
        world.violate(
          new Violation("a container that was restarted leads on at once", `${candidate.name} after ${format(delay)} s`)
        )
      }
    })
    return { name: "container restart", keeps: false, within: atOnce }
  },

  (simulation, { incarnation }) => {
    const { dice, timing, weather, world } = simulation
    const { candidate } = incarnation
    simulation.fault("SIGTERM")
    const conflict = dice.chance(0.5)
    const watched = simulation.candidates.some((other) => other !== candidate && isWatching(simulation, other))
    const retryPeriod = timing.retryPeriod / slowestRate(simulation)
    const handover = (conflict ? 4 : 2) * weather.roundTrip + slack +
      (watched ? weather.eventDelay : retryPeriod + weather.roundTrip) +
      // A second conflict in a row is followed by a pause.
      (simulation.relabelled ? retryPeriod + 3 * weather.roundTrip : 0)
    simulation.onRelease = () => {
      simulation.onRelease = undefined
      if (conflict) {
        labelNow(simulation)
      }
      world.after(handover, () => {
        if (simulation.monitor.leader() === undefined) {
          world.violate(new Violation("prompt takeover", `nobody leads ${format(handover)} s after a release`))
        }
      })
    }
    candidate.terminate(incarnation)
    restartLater(simulation, incarnation, 2 * timing.leaseDuration)
    return {
      name: conflict ? "SIGTERM, and a conflict on release" : "SIGTERM",
      keeps: false,
      within: timing.ending / slowestRate(simulation) + slack + handover
    }
  },

  (simulation, { incarnation }) => {
    const { cluster, timing, weather } = simulation
    const { candidate } = incarnation
    simulation.fault("Pod deleted")
    candidate.kill(incarnation)
    simulation.foreign(cluster.deletePod(candidate.podKey))
    restartLater(simulation, incarnation, 2.5 * timing.leaseDuration)
    return {
      name: "Pod deleted",
      keeps: false,
      within: 2 * timing.leaseDuration / slowestRate(simulation) + timing.ending + 6 * weather.roundTrip + 11 * second
    }
  }
]

const isQuick = ({ profile, timing }: Simulation): boolean =>
  (profile.slowWrites?.delay ?? 0) * milli + profile.latency * 4 * milli < timing.spare

/** What happens where everything is as it should be, or slow all the time. */
const moreActs: ReadonlyArray<Act> = [
  (simulation, { incarnation, process }) => {
    const { monitor, profile, timing, world } = simulation
    const duration = 4 * timing.leaseDuration
    const { confirms } = monitor
    monitor.traffic.delete(process)
    world.after(duration, () => {
      const { commits, reads, writes } = monitor.count(process)
      const most = 3 * (commits + 1) + 4 * (monitor.confirms - confirms)
      const unheard = profile.slowWrites?.lost ?? 0
      // A leader that does not watch may ask once what became of a write that has had no answer for long.
      if (
        process.alive && unheard === 0 && !simulation.relabelled &&
        (writes > most || (reads > 0 && incarnation.candidate.options.watch))
      ) {
        const { name } = incarnation.process
        world.violate(
          new Violation("three writes for a renewal, and no read", `${name}: ${writes} and ${reads} for ${commits}`)
        )
      }
    })
    return { name: "nothing", keeps: true, within: 0 }
  },

  (simulation, { incarnation }) => {
    witnessJumps(simulation, incarnation.candidate)
    return { name: "the suspend witness jumps", keeps: true, within: 0 }
  },

  (simulation, { incarnation }) => {
    const { candidate } = incarnation
    // Not back: a container is known to be the later one by its start, and would wait like everybody.
    const by = Math.floor(simulation.dice.scale(0.1, 86_400) * second)
    simulation.fault("wall clock step")
    candidate.wallOffset += by
    return { name: `wall clock steps by ${format(by)} s`, keeps: true, within: 0 }
  },

  // A webhook that denies, an API server whose rights are not there yet.
  (simulation) => {
    const { dice, weather, world } = simulation
    const duration = dice.between(5, 55) * second
    weather.episode("all", {
      kind: dice.pick(["403", "422", "a proxy's page"]),
      until: world.now + duration,
      share: 1,
      verbs: dice.pick([["get", "create", "patch"], ["create", "patch"], ["get", "create", "patch", "watch"]])
    })
    return { name: `everything refused for ${format(duration)} s`, keeps: false, within: duration + simulation.bound() }
  },

  // What it wrote before it was started again, or what another wrote.
  (simulation, { identity, process }) => {
    const { dice, monitor } = simulation
    const before = monitor.history.filter((written) =>
      written.record.holderIdentity !== "" && (written.identity !== identity || written.process !== process)
    )
    if (before.length > 0) {
      putBack(simulation, dice.pick(before).record)
    }
    return { name: "an older record is put back", keeps: false, within: simulation.bound() }
  }
]

/**
 * What can be expected where every write takes seconds. Not that a container leads on at once: a write of the one
 * before it may land after its first look.
 */
const slowActs: ReadonlyArray<Act> = [moreActs[0]!, acts[3]!, acts[4]!]

const actsOf = (simulation: Simulation): ReadonlyArray<Act> =>
  simulation.profile.slowWrites !== undefined
    ? isQuick(simulation) ? [...slowActs, hungOnce] : slowActs
    : simulation.profile.slowReads > 0
    ? [...slowActs, hungOnce, acts[5]!, acts[6]!]
    : [...acts, ...acts, ...moreActs]

export const plan = (simulation: Simulation): void => {
  const { dice, monitor, timing, weather, world } = simulation
  const pause = 3 * timing.leaseDuration * (1 + timing.skew)
  let left = dice.int(2, 6)

  const begin = (): void => {
    const leader = monitor.leader()
    if (leader === undefined) {
      throw world.violate(new Violation("somebody leads", "nobody, although one fault at a time is all that happens"))
    }
    if (left === 0) {
      simulation.stormEnds = world.now
      return
    }
    left--
    weather.forget()
    simulation.onRelease = undefined
    const { lost } = monitor
    const { keeps, name, within } = dice.pick(actsOf(simulation))(simulation, leader)
    world.note("fault", () => `${leader.process.name}: ${name}`)
    if (!keeps) {
      world.after(within, () => {
        if (monitor.leader() === undefined) {
          world.violate(new Violation("prompt takeover", `nobody leads ${format(within)} s after: ${name}`))
        }
      })
    }
    const until = name === "nothing" ? 4.5 * timing.leaseDuration : 0
    world.after(Math.max(pause, within + second, until), () => {
      if (keeps && (monitor.lost !== lost || monitor.leader() !== leader)) {
        world.violate(new Violation("a healthy leader is not lost", `to: ${name}`))
      }
      begin()
    })
  }

  // Everybody has started, and the Lease is old enough for a container that is restarted to lead on at once.
  world.after(40 * second + 4 * timing.leaseDuration * (1 + timing.skew), begin)
}
