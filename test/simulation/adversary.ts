/**
 * What kind of run a seed is, beyond the weather: its settings, the clocks of its API servers, how slow its writes are,
 * and what its storm is about. Drawn from a stream of its own.
 */
import * as Duration from "effect/Duration"
import { defaultsFor } from "../../src/LeaderElectionConfig.ts"
import type { CandidateOptions } from "./Candidate.ts"
import type * as Dice from "./random.ts"
import { key } from "./World.ts"

type Settings = CandidateOptions["settings"]

/** What a storm is about: few kinds at a time meet in more interesting ways than all of them at once. */
export type Theme = "usual" | "forgery" | "newLease" | "durations" | "hung" | "slow writes" | "server clocks"

/** Writes that are slow all the time: a webhook that times out, a slow etcd, a proxy. */
export interface SlowWrites {
  /** Milliseconds. */
  readonly delay: number
  /** Whether a write whose sender gives up before its time is dropped. */
  readonly dropped: boolean
  /** How much of the answers is lost. */
  readonly lost: number
  /** Nothing comes back, or the answer that the server or a proxy has given up. */
  readonly how: "none" | "504"
}

export interface Profile {
  readonly theme: Theme
  /** The settings that the candidates of the run have; drawn by the run where undefined. */
  readonly settings: ReadonlyArray<Settings> | undefined
  readonly skews: ReadonlyArray<number> | undefined
  /** How much of the requests hangs, all the time. */
  readonly hung: number
  readonly slowWrites: SlowWrites | undefined
  /** Milliseconds by which answers to reads are late, at most. */
  readonly slowReads: number
  /** Longest usual one-way delay, in milliseconds. */
  readonly latency: number
  /** Milliseconds by which the wall clocks of the API servers behind the balancer are off. */
  readonly serverClocks: ReadonlyArray<number>
  /** Loggers throw. */
  readonly loggerThrows: boolean
  /** How much of what a program does is `confirm`. */
  readonly confirms: number
  /** Time for which the storm goes on, in leaseDurations; drawn by the run where undefined. */
  readonly lasts: number | undefined
}

const base: Profile = {
  theme: "usual",
  settings: undefined,
  skews: undefined,
  hung: 0,
  slowWrites: undefined,
  slowReads: 0,
  latency: 100,
  serverClocks: [],
  loggerThrows: false,
  confirms: 0.05,
  lasts: undefined
}

const seconds = (settings: Settings, name: "leaseDuration" | "renewInterval" | "renewDeadline" | "retryPeriod") =>
  Duration.toSeconds(settings[name])

const derived = (leaseSeconds: number): Settings =>
  Object.assign(defaultsFor(Duration.seconds(leaseSeconds)), key) as Settings

const withDurations = (base: Settings, durations: { readonly [name: string]: number }): Settings => ({
  ...base,
  ...Object.fromEntries(Object.entries(durations).map(([name, value]) => [name, Duration.millis(Math.floor(value))]))
})

/** The time that one hung request leaves for another write. */
export const spare = (settings: Settings): number =>
  seconds(settings, "renewDeadline") - seconds(settings, "renewInterval") -
  Math.max(seconds(settings, "retryPeriod"), Duration.toSeconds(settings.requestTimeout))

/** Settings as they are accepted, whatever they are. */
const accepted = (dice: Dice.Dice): Settings => {
  while (true) {
    const lease = dice.pick([2, 3, 5, 8, 15, 15, 20, 40]) * 1000
    const renewDeadline = lease * dice.pick([2 / 3, dice.between(0.4, 0.9)])
    // Shorter ones are accepted too, but hundreds of polls for each lease take their time here.
    const shortest = Math.max(50, lease / 100)
    const requestTimeout = dice.scale(shortest, renewDeadline / 2.2)
    const retryPeriod = dice.chance(0.5) ? requestTimeout : dice.scale(shortest, renewDeadline / 2)
    const most = renewDeadline - Math.max(retryPeriod, requestTimeout) - requestTimeout
    if (most < shortest + 10) {
      continue
    }
    const settings = withDurations(derived(lease / 1000), {
      renewInterval: Math.max(shortest, most * dice.pick([1, 0.5, dice.next()])),
      renewDeadline,
      retryPeriod,
      requestTimeout
    })
    // Where a network takes tenths of a second, nobody can hold a lease with less than that to spare.
    if (spare(settings) > 0.1) {
      return settings
    }
  }
}

const slowWrites = (dice: Dice.Dice, most: number): SlowWrites => ({
  delay: dice.between(0.3, 1) * most,
  dropped: dice.chance(0.4),
  lost: dice.pick([0, 0.5, 1]),
  how: dice.pick(["none", "504"])
})

const orderly = (dice: Dice.Dice): Profile => {
  const usual = { ...base, loggerThrows: dice.chance(0.1) }
  const roll = dice.next()
  if (roll < 0.3) {
    const settings = accepted(dice)
    return {
      ...usual,
      settings: [settings],
      // Leadership is promised not to overlap up to the quotient of leaseDuration and renewDeadline.
      skews: [
        0,
        0,
        Math.min(
          0.1,
          0.9 * (seconds(settings, "leaseDuration") / seconds(settings, "renewDeadline") - 1)
        )
      ],
      latency: Math.min(100, spare(settings) * 1000 / 16)
    }
  }
  if (roll < 0.5) {
    const settings = derived(dice.pick([15, 15, 30]))
    const bound = spare(settings) + (dice.chance(0.5) ? 0 : seconds(settings, "retryPeriod"))
    const latency = 20
    return {
      ...usual,
      settings: [settings],
      skews: [0, 0, 0.01],
      latency,
      slowWrites: slowWrites(dice, bound * 1000 - 12 * latency)
    }
  }
  return roll < 0.6 ? { ...usual, settings: [derived(15)], slowReads: 3000, latency: 20 } : usual
}

/** What a run is about, in a word. */
export type Kind =
  | Theme
  | "one at a time"
  | "slow writes, one at a time"
  | "slow reads"
  | "any settings"
  | "a Logger throws"

/** The kinds of run that a seed is. */
export const kindsOf = (profile: Profile, isOrderly: boolean): ReadonlyArray<Kind> => [
  ...(profile.loggerThrows ? ["a Logger throws" as const] : []),
  ...(!isOrderly
    ? [profile.theme]
    : profile.slowWrites !== undefined
    ? ["slow writes, one at a time" as const]
    : profile.slowReads > 0
    ? ["slow reads" as const]
    : profile.settings !== undefined
    ? ["any settings" as const]
    : ["one at a time" as const])
]

/** Draws what kind of run this is. */
export const draw = (dice: Dice.Dice, isOrderly: boolean): Profile => {
  if (isOrderly) {
    return orderly(dice)
  }
  const usual = { ...base, loggerThrows: dice.chance(0.05) }
  const roll = dice.next()
  if (roll < 0.35) {
    return { ...usual, theme: "forgery", lasts: dice.between(12, 40) }
  }
  if (roll < 0.43) {
    return { ...usual, theme: "newLease", lasts: dice.between(8, 30) }
  }
  if (roll < 0.51) {
    const settings = [derived(15), withDurations(derived(30), timingsOf(derived(15)))]
    return { ...usual, theme: "durations", settings, skews: [0, 0, 0.01, 0.1], lasts: dice.between(8, 20) }
  }
  if (roll < 0.56) {
    const quick = dice.chance(0.8)
    const settings = quick
      ? withDurations(derived(15), { retryPeriod: 500, requestTimeout: 500 })
      : derived(3600)
    return {
      ...usual,
      theme: "hung",
      settings: [settings],
      skews: [0, 0.01],
      hung: quick ? dice.between(0.3, 0.5) : 0.6,
      latency: 20,
      lasts: quick ? dice.between(8, 20) : dice.between(3, 6)
    }
  }
  if (roll < 0.64) {
    return { ...usual, theme: "slow writes", settings: [derived(15)], slowWrites: slowWrites(dice, 6000) }
  }
  if (roll < 0.72) {
    const clocks = Array.from({ length: dice.int(2, 3) }, () => Math.floor(dice.scale(1, 90_000)) * dice.pick([-1, 1]))
    return { ...usual, theme: "server clocks", serverClocks: clocks, lasts: dice.between(8, 30) }
  }
  return dice.chance(0.3)
    ? { ...usual, settings: [withDurations(derived(15), { renewInterval: 1000 })], confirms: 0.3 }
    : { ...usual, confirms: dice.pick([0.05, 0.2]) }
}

const timingsOf = (settings: Settings) => ({
  renewInterval: Duration.toMillis(settings.renewInterval),
  renewDeadline: Duration.toMillis(settings.renewDeadline),
  retryPeriod: Duration.toMillis(settings.retryPeriod),
  requestTimeout: Duration.toMillis(settings.requestTimeout)
})

/**
 * What nobody should do, and what the simulation has to find: leaseDurations so far apart that the larger one's
 * renewDeadline is longer than the smaller one.
 */
export const durationsApart = (profile: Profile): Profile => ({
  ...profile,
  theme: "durations",
  settings: [derived(15), derived(30)],
  skews: [0],
  lasts: 20
})
