/**
 * How long nobody leads: after a leader that ends in good order, that is killed,
 * whose Pod is deleted, or that is cut off from the API server.
 */
import { Proxy } from "../test/cluster/utils/Proxy.ts"
import {
  inParallel,
  type Kind,
  type Lab,
  leaseDuration,
  leaseName,
  makeSite,
  mono,
  monoOf,
  pair,
  patience,
  requests,
  round,
  rssMiB,
  type Site,
  sleep,
  start,
  type StartOptions,
  times
} from "./support.ts"

/** Milliseconds; null: not within a minute. */
export type Samples = Array<number | null>

const random = (milliseconds: number) => sleep(Math.random() * milliseconds)

const since = (at: number | undefined, zero: number): number | null => at === undefined ? null : round(at - zero)

// --- SIGTERM ---

/** Where the time of a handover goes, milliseconds: one after the other, from the signal to the next term. */
export interface Stages {
  /** From the signal until the API server has the release. */
  readonly release: Samples
  readonly released: Samples
  /** From the release's answer until the API server has the take. */
  readonly take: Samples
  readonly taken: Samples
  /** From the take's answer until the program runs. */
  readonly begin: Samples
}

export interface Graceful extends Record<Kind, Samples> {
  readonly stages: Stages
  /** The memory of the followers, when the leaders are told to end. */
  readonly rssMiB: ReadonlyArray<number>
  /** Ours with all of its code compiled at the start. */
  readonly eager: { readonly samples: Samples; readonly rssMiB: ReadonlyArray<number> }
}

interface Series {
  readonly site: Site
  readonly samples: Samples
  readonly rssMiB: Array<number>
  readonly handovers: Array<{ readonly at: number; readonly began: number }>
}

const gracefulSeries = async (
  lab: Lab,
  kind: Kind,
  count: number,
  options: Partial<StartOptions> = {}
): Promise<Series> => {
  let { follower, leader, site } = await pair(lab, kind, options, options)
  const series: Series = { site, samples: [], rssMiB: [], handovers: [] }
  for (let index = 0; index < count; index++) {
    // client-go asks from time to time: the signal comes at any moment of that.
    await random(2_000)
    series.rssMiB.push(round(await rssMiB(follower.process.pid)))
    const at = mono()
    leader.process.signal("SIGTERM")
    const began = await follower.when("leading", patience)
    series.samples.push(since(began, at))
    await leader.process.close()
    if (began === undefined) break
    series.handovers.push({ at, began })
    if (index === count - 1) break
    leader = follower
    follower = await start(lab, kind, site, { identity: `next-${index}`, user: "follower", ...options })
    await follower.follows(leader)
  }
  await Promise.all([leader.process.close(), follower.process.close()])
  return series
}

/** What the API server's audit log tells of handovers. */
const stagesOf = async (lab: Lab, { handovers, site }: Series): Promise<Stages> => {
  const stages: Record<keyof Stages, Samples> = { release: [], released: [], take: [], taken: [], begin: [] }
  const user = `system:serviceaccount:${site.namespace}:`
  const patches = (await requests(lab.cluster, 0)).filter((request) =>
    request.user.startsWith(user) && request.verb === "patch" && request.code === 200
  ).map(({ answered, at }) => ({ at: monoOf(at), answered: monoOf(answered) }))
  for (const { at, began } of handovers) {
    const [release, take] = patches.filter((patch) => patch.at > at && patch.at < began).slice(-2)
    if (release === undefined || take === undefined) throw new Error("a handover is not in the audit log")
    const moments = [at, release.at, release.answered, take.at, take.answered, began]
    for (const [index, stage] of (["release", "released", "take", "taken", "begin"] as const).entries()) {
      stages[stage].push(round(moments[index + 1]! - moments[index]!))
    }
  }
  return stages
}

export const graceful = async (lab: Lab): Promise<Graceful> => {
  const never = await hopeless(lab)
  // Alone: these are milliseconds. The others are seconds, and are measured together.
  const ours = await gracefulSeries(lab, "ours", lab.options.samples)
  const eager = await gracefulSeries(lab, "ours", lab.options.samples, { nodeOptions: ["--no-lazy"] })
  const width = Math.min(5, lab.options.samples)
  const clientGo = await inParallel(
    times(width),
    width,
    () => gracefulSeries(lab, "client-go", Math.ceil(lab.options.samples / width))
  )
  return {
    ours: ours.samples,
    stages: await stagesOf(lab, ours),
    rssMiB: ours.rssMiB,
    eager: { samples: eager.samples, rssMiB: eager.rssMiB },
    "client-go": clientGo.flatMap(({ samples }) => samples),
    codedependant: await never.graceful
  }
}

// --- kill -9 ---

type Pair = Awaited<ReturnType<typeof pair>>

/** Kills the leaders of many pairs at different times; milliseconds past the end of their leases. */
const crashAll = async (lab: Lab, pairs: ReadonlyArray<Pair>): Promise<Samples> => {
  const observers = await inParallel(
    pairs,
    8,
    ({ site }) => lab.cluster.admin.observeLease(site.namespace, leaseName)
  )
  // Every leader has renewed since it is observed.
  await sleep(6_000)
  const samples = await Promise.all(pairs.map(async ({ follower, leader }, index) => {
    await random(5_000)
    await leader.kill()
    const began = await follower.when("leading", patience)
    const renewal = observers[index]!.events.findLast(({ lease }) => lease.spec.holderIdentity === leader.identity)!
    return since(began, monoOf(renewal.at) + leaseDuration)
  }))
  await Promise.all(observers.map((observer) => observer.close()))
  await Promise.all(pairs.map(({ follower }) => follower.process.close()))
  return samples
}

const crashSeries = async (lab: Lab, kind: Kind): Promise<Samples> =>
  crashAll(lab, await inParallel(times(lab.options.samples), 4, () => pair(lab, kind)))

export const crash = async (lab: Lab): Promise<Record<Kind, Samples>> => {
  const never = await hopeless(lab)
  return {
    ours: await crashSeries(lab, "ours"),
    "client-go": await crashSeries(lab, "client-go"),
    codedependant: await never.crash
  }
}

// --- Pod deleted ---

/** Milliseconds from the deletion of a Pod, whose process is dead, to the next term. */
const podSeries = async (
  lab: Lab,
  count: number,
  newLease: "lead" | undefined
): Promise<Samples> => {
  const pairs = await inParallel(times(count), 4, () =>
    pair(
      lab,
      "ours",
      newLease === undefined ? {} : { newLease },
      newLease === undefined ? {} : { newLease }
    ))
  // One after the other where milliseconds count, so that no takeover delays another.
  const width = newLease === undefined ? count : 1
  const samples = await inParallel(pairs, width, async ({ follower, leader, site }) => {
    await random(1_000)
    await leader.kill()
    const at = mono()
    await lab.cluster.admin.deletePod(site.namespace, "one")
    return since(await follower.when("leading", patience), at)
  })
  await Promise.all(pairs.map(({ follower }) => follower.process.close()))
  return samples
}

export interface PodDeleted {
  readonly lead: Samples
  readonly wait: Samples
}

export const podDeleted = async (lab: Lab): Promise<PodDeleted> => ({
  lead: await podSeries(lab, lab.options.samples, "lead"),
  // The promise that it keeps instead is a whole leaseDuration: a few samples show it.
  wait: await podSeries(lab, Math.min(5, lab.options.samples), undefined)
})

// --- Cut off ---

export interface CutOff {
  /** Seconds with two leaders. */
  readonly overlap: Array<number>
  /** From the cut to the moment in which the old leader's program is interrupted. */
  readonly told: Samples
  /** From the cut to the next term. */
  readonly next: Samples
}

/** The leader reaches the API server through a proxy that stops to move bytes; the follower reaches it directly. */
const cuttable = async (lab: Lab, kind: Kind, site?: Site) => {
  const proxy = await Proxy.start({ host: lab.cluster.host, port: lab.cluster.port })
  return { proxy, ...(await pair(lab, kind, { port: proxy.port }, {}, site)) }
}

const cutAll = async (cuts: ReadonlyArray<Awaited<ReturnType<typeof cuttable>>>): Promise<CutOff> => {
  const results = await Promise.all(cuts.map(async ({ follower, leader, proxy }) => {
    await random(5_000)
    const at = mono()
    await proxy.set("stall")
    const [told, next] = await Promise.all([
      leader.when(leader.kind === "ours" ? "lost" : "stopped", patience, leader.process.lines.length),
      follower.when("leading", patience)
    ])
    return {
      // Who never stops leads to the end of the minute.
      overlap: next === undefined ? 0 : Math.max(0, (told ?? at + patience) - next) / 1_000,
      told: since(told, at),
      next: since(next, at)
    }
  }))
  await Promise.all(
    cuts.flatMap(({ follower, leader, proxy }) => [leader.process.close(), follower.process.close(), proxy.close()])
  )
  return {
    overlap: results.map(({ overlap }) => round(overlap)),
    told: results.map(({ told }) => told),
    next: results.map(({ next }) => next)
  }
}

const cutOffSeries = async (lab: Lab, kind: Kind): Promise<CutOff> =>
  cutAll(await inParallel(times(lab.options.samples), 4, () => cuttable(lab, kind)))

export const cutOff = async (lab: Lab): Promise<Record<Kind, CutOff>> => {
  const never = await hopeless(lab)
  return {
    ours: await cutOffSeries(lab, "ours"),
    "client-go": await cutOffSeries(lab, "client-go"),
    codedependant: await never.cutOff
  }
}

// --- Those who never take over ---

interface Hopeless {
  readonly graceful: Promise<Samples>
  readonly crash: Promise<Samples>
  readonly cutOff: Promise<CutOff>
}

const few = 3

/** They wait for a minute, idle, while others are measured. */
const startHopeless = async (lab: Lab): Promise<Hopeless> => {
  const pairs = await inParallel(
    times(2 * few),
    3,
    async () => pair(lab, "codedependant", {}, {}, await makeSite(lab.cluster))
  )
  const cuts = await inParallel(
    times(few),
    3,
    async () => cuttable(lab, "codedependant", await makeSite(lab.cluster))
  )
  // Its followers try three times, half a lease apart, and then only listen: that is where they are in real life.
  const settled = sleep(leaseDuration + 2_000)
  return {
    graceful: settled.then(() =>
      Promise.all(
        pairs.slice(0, few).map(async ({ follower, leader }) => {
          const at = mono()
          leader.process.signal("SIGTERM")
          const began = await follower.when("leading", patience)
          await Promise.all([leader.process.close(), follower.process.close()])
          return since(began, at)
        })
      )
    ),
    crash: settled.then(() => crashAll(lab, pairs.slice(few))),
    cutOff: settled.then(() => cutAll(cuts))
  }
}

let started: Promise<Hopeless> | undefined

const hopeless = (lab: Lab): Promise<Hopeless> => started ??= startHopeless(lab)
