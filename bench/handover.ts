/**
 * How long nobody leads: after a leader that ends in good order, that is killed,
 * whose Pod is deleted, or that is cut off from the API server.
 */
import { Proxy } from "../test/cluster/utils/Proxy.ts"
import {
  type Candidate,
  hopeless,
  inParallel,
  type Kind,
  type Lab,
  leaseDuration,
  leaseName,
  mono,
  monoOf,
  pair,
  patience,
  round,
  sleep,
  start,
  times
} from "./support.ts"

/** Milliseconds; null: not within a minute. */
export type Samples = Array<number | null>

const random = (milliseconds: number) => sleep(Math.random() * milliseconds)

const since = (at: number | undefined, zero: number): number | null => at === undefined ? null : round(at - zero)

// --- SIGTERM ---

const gracefulSeries = async (lab: Lab, kind: Kind, count: number): Promise<Samples> => {
  const samples: Samples = []
  let { follower, leader, site } = await pair(lab, kind)
  for (let index = 0; index < count; index++) {
    // client-go asks from time to time: the signal comes at any moment of that.
    await random(2_000)
    const at = mono()
    leader.process.signal("SIGTERM")
    const began = await follower.when("leading", patience)
    samples.push(since(began, at))
    await leader.process.close()
    if (began === undefined || index === count - 1) break
    leader = follower
    follower = await start(lab, kind, site, { identity: `next-${index}`, user: "follower" })
    await follower.follows(leader)
  }
  await Promise.all([leader.process.close(), follower.process.close()])
  return samples
}

export const graceful = async (lab: Lab): Promise<Record<Kind, Samples>> => {
  // Alone: these are milliseconds. The others are seconds, or never, and are measured together.
  const ours = await gracefulSeries(lab, "ours", lab.options.samples)
  const width = Math.min(5, lab.options.samples)
  const [clientGo, codedependant] = await Promise.all([
    inParallel(times(width), width, () => gracefulSeries(lab, "client-go", Math.ceil(lab.options.samples / width))),
    inParallel(times(hopeless), hopeless, async () => {
      const series = await pair(lab, "codedependant")
      // Its followers try three times, half a lease apart, and then only listen: that is where they are in real life.
      await sleep(leaseDuration + 2_000)
      const at = mono()
      series.leader.process.signal("SIGTERM")
      const began = await series.follower.when("leading", patience)
      await Promise.all([series.leader.process.close(), series.follower.process.close()])
      return since(began, at)
    })
  ])
  return { ours, "client-go": clientGo.flat(), codedependant }
}

// --- kill -9 ---

/** Many pairs, whose leaders are killed at different times; milliseconds past the end of their leases. */
const crashSeries = async (lab: Lab, kind: Kind, count: number): Promise<Samples> => {
  const pairs = await inParallel(times(count), 4, () => pair(lab, kind))
  const observers = await inParallel(
    pairs,
    8,
    ({ site }) => lab.cluster.admin.observeLease(site.namespace, leaseName)
  )
  // Every leader has renewed since it is observed; the followers of codedependant have stopped to ask.
  await sleep(kind === "codedependant" ? leaseDuration + 2_000 : 6_000)
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

export const crash = async (lab: Lab): Promise<Record<Kind, Samples>> => {
  const ours = await crashSeries(lab, "ours", lab.options.samples)
  const [clientGo, codedependant] = await Promise.all([
    crashSeries(lab, "client-go", lab.options.samples),
    crashSeries(lab, "codedependant", hopeless)
  ])
  return { ours, "client-go": clientGo, codedependant }
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
  /** From the cut to the moment in which the old leader's program is told. */
  readonly told: Samples
  /** From the cut to the next term. */
  readonly next: Samples
}

/** The leader reaches the API server through a proxy that stops to move bytes; the follower reaches it directly. */
const cutOffSeries = async (lab: Lab, kind: Kind, count: number): Promise<CutOff> => {
  const cuts = await inParallel(times(count), 4, async () => {
    const proxy = await Proxy.start({ host: lab.cluster.host, port: lab.cluster.port })
    return { proxy, ...(await pair(lab, kind, { port: proxy.port })) }
  })
  if (kind === "codedependant") await sleep(leaseDuration + 2_000)
  const stopped = (leader: Candidate) => leader.when(kind === "ours" ? "lost" : "stopped", patience)
  const results = await Promise.all(cuts.map(async ({ follower, leader, proxy }) => {
    await random(5_000)
    const at = mono()
    await proxy.set("stall")
    const [told, next] = await Promise.all([stopped(leader), follower.when("leading", patience)])
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

export const cutOff = async (lab: Lab): Promise<Record<Kind, CutOff>> => {
  const ours = await cutOffSeries(lab, "ours", lab.options.samples)
  const [clientGo, codedependant] = await Promise.all([
    cutOffSeries(lab, "client-go", lab.options.samples),
    cutOffSeries(lab, "codedependant", hopeless)
  ])
  return { ours, "client-go": clientGo, codedependant }
}
