/**
 * Many elections in one process, many candidates for one Lease, and what both
 * cost the API server and etcd.
 */
import { writeFile } from "node:fs/promises"
import type { ClientRequest } from "node:http"
import * as Https from "node:https"
import { connect, createServer } from "node:net"
import { join } from "node:path"
import { cleanEnvironment, JsonLinesProcess } from "../test/cluster/utils/Processes.ts"
import { Proxy } from "../test/cluster/utils/Proxy.ts"
import type { ManyEvent, Work as CandidatesWork } from "./programs/candidates.ts"
import type { ElectionEvent, Work as ElectionsWork } from "./programs/elections.ts"
import {
  countBy,
  inParallel,
  type Kind,
  kinds,
  type Lab,
  leaseDuration,
  leaseName,
  mono,
  patience,
  type Request,
  requests,
  round,
  servers,
  type Servers,
  type Site,
  sleep,
  start,
  times
} from "./support.ts"

const wall = () => performance.timeOrigin + performance.now()

/** What the servers did between two readings. */
const between = (from: Servers, to: Servers) => ({
  seconds: round((to.at - from.at) / 1_000),
  apiServerCpuPercent: round(100 * (to.apiServerCpu - from.apiServerCpu) / ((to.at - from.at) / 1_000)),
  etcdCpuPercent: round(100 * (to.etcdCpu - from.etcdCpu) / ((to.at - from.at) / 1_000)),
  walBytesPerSecond: round((to.walBytes - from.walBytes) / ((to.at - from.at) / 1_000))
})

// --- Many elections ---

/** Passes connections on to one API server or another. */
class Balancer {
  target: { readonly port: number }
  readonly port: number
  readonly close: () => void

  static start(host: string, port: number): Promise<Balancer> {
    return new Promise((resolve) => {
      const server = createServer((client) => {
        const upstream = connect({ host, port: balancer.target.port, noDelay: true })
        client.setNoDelay(true)
        client.pipe(upstream).pipe(client)
        for (const [one, other] of [[client, upstream], [upstream, client]] as const) {
          one.on("error", () => other.destroy())
          one.on("close", () => other.destroy())
        }
      })
      const close = () => void server.close()
      let balancer: Balancer
      server.listen(0, "127.0.0.1", () => {
        const address = server.address()
        balancer = new Balancer(typeof address === "object" ? address!.port : 0, { port }, close)
        resolve(balancer)
      })
    })
  }

  private constructor(port: number, target: { readonly port: number }, close: () => void) {
    this.port = port
    this.target = target
    this.close = close
  }
}

/** Notes when each Lease of a namespace was last renewed by `holder`, monotonic milliseconds: an independent witness. */
const observeAll = (lab: Lab, site: Site, holder: string, renewals: Map<string, number>): Promise<ClientRequest> =>
  new Promise((resolve, reject) => {
    const { ca, descriptor, url } = lab.cluster
    const request = Https.get(`${url}/apis/coordination.k8s.io/v1/namespaces/${site.namespace}/leases?watch=1`, {
      ca: ca!,
      headers: { authorization: `Bearer ${descriptor.local!.adminToken}` }
    }, (response) => {
      let rest = ""
      response.setEncoding("utf8").on("data", (chunk: string) => {
        const at = mono()
        const lines = (rest + chunk).split("\n")
        rest = lines.pop()!
        for (const line of lines) {
          const { object } = JSON.parse(line)
          if (object.spec?.holderIdentity === holder) renewals.set(object.metadata.name, at)
        }
      })
      response.on("error", () => {})
      resolve(request)
    })
    request.on("error", reject)
  })

const percentiles = (values: ReadonlyArray<number>) => values.map(round).sort((a, b) => a - b)

class Elections {
  readonly process: JsonLinesProcess<ElectionEvent>
  constructor(process: JsonLinesProcess<ElectionEvent>) {
    this.process = process
  }

  static async start(
    lab: Lab,
    work: Omit<ElectionsWork, "server" | "ca">,
    server = lab.cluster.url
  ): Promise<Elections> {
    const file = join(lab.cluster.directory, `elections-${work.identity}.json`)
    const all: ElectionsWork = { ...work, server, ca: lab.cluster.ca! }
    await writeFile(file, JSON.stringify(all))
    const process = JsonLinesProcess.start<ElectionEvent>({
      name: `elections of ${work.identity}`,
      command: globalThis.process.execPath,
      args: ["--expose-gc", lab.programs.elections, file],
      env: cleanEnvironment()
    })
    await process.waitFor(({ event }) => event === "started", 30_000)
    return new Elections(process)
  }

  campaign(): void {
    this.process.signal("SIGUSR1")
  }

  async self(): Promise<ElectionEvent> {
    const from = this.process.lines.length
    this.process.signal("SIGUSR2")
    return (await this.process.waitFor(({ event }) => event === "self", 60_000, from)).value
  }

  get leading(): number {
    return this.count("leading") - this.count("ended")
  }

  count(what: ElectionEvent["event"], from = 0): number {
    return this.process.values.slice(from).filter(({ event }) => event === what).length
  }

  async untilLeading(count: number, timeout: number): Promise<void> {
    const deadline = mono() + timeout
    while (this.leading < count) {
      if (mono() > deadline || !this.process.running) {
        throw new Error(`${this.leading} of ${count} lead: ${this.process.stderr}`)
      }
      await sleep(100)
    }
  }
}

export interface ElectionsResult {
  readonly elections: number
  /** From the start of all campaigns on new Leases, which have to grow leaseDuration old, until all lead. */
  readonly secondsUntilAllLead: number
  /** heapUsed after a collection, with all of them less with none, by their number. */
  readonly bytesPerElection: number
  readonly rssMiB: number
  readonly rest: {
    readonly minutes: number
    readonly lost: number
    readonly cpuPercent: number
    readonly delayP50: number
    readonly delayP99: number
    readonly delayMax: number
    readonly requests: Record<string, number>
    readonly requestsPerSecond: number
    readonly servers: ReturnType<typeof between>
  }
  readonly slow: { readonly seconds: number; readonly addedMillis: number; readonly lost: number }
  readonly restart: {
    readonly secondsDown: number
    readonly lost: number
    readonly delayMax: number
    /** After a SIGTERM of the API server with another one to go to. */
    readonly lostWithAnother: number
  }
  readonly standby: { readonly requests: Record<string, number>; readonly cpuPercent: number; readonly rssMiB: number }
  /** From the end of each lease to the next term, milliseconds; `missing`: not within a minute. */
  readonly failover: { readonly missing: number; readonly late: Array<number>; readonly delayMax: number }
}

export const elections = async (lab: Lab): Promise<ElectionsResult> => {
  const { host, port } = lab.cluster
  const site = await lab.site()
  const names = times(lab.options.elections).map((index) => `shard-${index}`)
  const work = (identity: string, user: "leader" | "follower") => ({
    namespace: site.namespace,
    identity,
    token: site.users[user].token,
    names
  })
  const balancer = await Balancer.start(host, port)
  await using proxy = await Proxy.start({ host, port: balancer.port })

  // --- At rest, directly connected ---
  const first = await Elections.start(lab, work("first", "leader"))
  await sleep(1_000)
  const empty = await first.self()
  const campaign = mono()
  first.campaign()
  await first.untilLeading(names.length, 180_000)
  const allLead = mono()
  await sleep(10_000)
  const full = await first.self()
  const marks = first.process.lines.length
  const from = wall()
  const serversFrom = await servers(lab.cluster)
  await sleep(lab.options.minutes * 60_000)
  const rested = await first.self()
  const to = wall()
  const made = await requests(lab.cluster, from, to)
  const rest = {
    minutes: lab.options.minutes,
    lost: first.count("ended", marks),
    cpuPercent: round(rested.cpu! / (to - from) * 100),
    delayP50: round(rested.delayP50!),
    delayP99: round(rested.delayP99!),
    delayMax: round(rested.delayMax!),
    requests: countBy(made, ({ verb }) => verb),
    requestsPerSecond: round(made.length / ((to - from) / 1_000)),
    servers: between(serversFrom, await servers(lab.cluster))
  }

  // --- A second process waits; the first one's leases run out ---
  const second = await Elections.start(lab, work("second", "follower"), proxy.url)
  second.campaign()
  // Each has read its Lease and listens.
  await sleep(20_000)
  await second.self()
  const standbyFrom = wall()
  await sleep(20_000)
  const waiting = await second.self()
  const standbyTo = wall()
  const standby = {
    requests: countBy(
      (await requests(lab.cluster, standbyFrom, standbyTo)).filter(({ user }) => user === site.users.follower.name),
      ({ verb }) => verb
    ),
    cpuPercent: round(waiting.cpu! / (standbyTo - standbyFrom) * 100),
    rssMiB: round(waiting.rss! / 2 ** 20)
  }
  const observed = new Map<string, number>()
  const observer = await observeAll(lab, site, "first", observed)
  await sleep(6_000)
  first.process.signal("SIGKILL")
  await first.process.exit
  await second.untilLeading(names.length, 75_000).catch(() => {})
  const after = await second.self()
  observer.destroy()
  const late = names.flatMap((name) => {
    const term = second.process.values.find(({ event, lease }) => event === "leading" && lease === name)
    const renewal = observed.get(name)
    return term === undefined || renewal === undefined ? [] : [term.mono - (renewal + leaseDuration)]
  })
  const failover = { missing: names.length - late.length, late: percentiles(late), delayMax: round(after.delayMax!) }

  // --- The API server answers slowly, is restarted alone, and with another beside it ---
  await sleep(10_000)
  const addedMillis = 500
  const slowFrom = second.process.lines.length
  proxy.setDelay(addedMillis / 2)
  await sleep(30_000)
  proxy.setDelay(0)
  const slow = { seconds: 30, addedMillis, lost: second.count("ended", slowFrom) }
  await sleep(6_000)

  // With another one beside it, to which new connections go, as a load balancer does it.
  const another = await lab.cluster.addApiServer()
  const moveFrom = second.process.lines.length
  balancer.target = another
  const stopped = lab.cluster.stopApiServer({ signal: "SIGTERM" })
  await sleep(20_000)
  const lostWithAnother = second.count("ended", moveFrom)
  await stopped
  await lab.cluster.startApiServer()
  balancer.target = { port }
  await another.stop()
  await sleep(10_000)

  // Alone.
  await second.self()
  const restartFrom = second.process.lines.length
  const down = mono()
  await lab.cluster.stopApiServer()
  await lab.cluster.startApiServer()
  const secondsDown = round((mono() - down) / 1_000)
  await sleep(15_000)
  const restarted = await second.self()
  const lost = second.count("ended", restartFrom)
  await second.process.close()
  await proxy.close()
  balancer.close()

  return {
    elections: names.length,
    secondsUntilAllLead: round((allLead - campaign) / 1_000),
    bytesPerElection: Math.round((full.heapUsed! - empty.heapUsed!) / names.length),
    rssMiB: round(rested.rss! / 2 ** 20),
    rest,
    standby,
    failover,
    slow,
    restart: { secondsDown, lost, delayMax: round(restarted.delayMax!), lostWithAnother }
  }
}

// --- Many candidates for one Lease ---

export interface Load {
  readonly seconds: number
  /** By verb and status. */
  readonly requests: Record<string, number>
  readonly servers: ReturnType<typeof between>
}

export interface Handover {
  /** From the signal to the leader until the next one leads. */
  readonly millis: number
  /** By verb and status: those of this handover, and what followed it. */
  readonly requests: Record<string, number>
}

export interface CrowdResult {
  readonly candidates: number
  readonly processes: number
  /** Nobody comes or goes. */
  readonly rest?: Load
  readonly handovers: ReadonlyArray<Handover>
  /** In turn with these, by the same processes: one takes the Lease, and all the others only watch it. */
  readonly floor?: ReadonlyArray<Handover>
}

export interface FollowersResult {
  /** With the setting `candidates`, and without. */
  readonly ours: CrowdResult
  readonly unset: CrowdResult
  readonly thousand: CrowdResult
  readonly "client-go": CrowdResult
}

const requestsOf = async (lab: Lab, site: Site, from: number) =>
  (await requests(lab.cluster, from, wall())).filter(({ user }) =>
    user.startsWith(`system:serviceaccount:${site.namespace}:`)
  )

const kindOf = ({ code, verb }: Request): string => `${verb} ${code}`

const load = async (lab: Lab, site: Site, during: () => Promise<void>): Promise<Load> => {
  const from = wall()
  const before = await servers(lab.cluster)
  await during()
  const after = between(before, await servers(lab.cluster))
  return { seconds: after.seconds, requests: countBy(await requestsOf(lab, site, from), kindOf), servers: after }
}

const handoverCount = 10
// Longer than any of them waits for its turn, or with another attempt.
const afterHandover = 4_000

/** Hands over again and again; `handOver` tells the leader to end, and says when that was and when another led. */
const handOvers = async (
  lab: Lab,
  site: Site,
  count: number,
  handOver: (index: number) => Promise<readonly [from: number, to: number]>
): Promise<ReadonlyArray<Handover>> => {
  const began: Array<{ readonly at: number; readonly millis: number }> = []
  for (let index = 0; index < count; index++) {
    const at = wall()
    const [from, to] = await handOver(index)
    began.push({ at, millis: round(to - from) })
    await sleep(Math.max(0, afterHandover - (mono() - from)))
  }
  const made = await requestsOf(lab, site, began[0]!.at)
  return began.map(({ at, millis }, index) => {
    const until = began[index + 1]?.at ?? Infinity
    return { millis, requests: countBy(made.filter((request) => request.at >= at && request.at < until), kindOf) }
  })
}

interface CrowdOptions {
  readonly processes: number
  readonly each: number
  readonly candidates?: number | undefined
  /** Every other handover with only one that writes. */
  readonly floor?: boolean
  readonly rest?: boolean
}

/** The leader is one of them: it steps down, and stands back until another leads. */
const oursCrowd = async (lab: Lab, options: CrowdOptions): Promise<CrowdResult> => {
  const { candidates, each, processes } = options
  const site = await lab.site()
  const writer = join(lab.cluster.directory, "candidates-writer")
  await writeFile(writer, "")
  const startOne = async (index: number) => {
    const file = join(lab.cluster.directory, `candidates-${index}.json`)
    const work: CandidatesWork = {
      server: lab.cluster.url,
      ca: lab.cluster.ca!,
      token: site.users.follower.token,
      namespace: site.namespace,
      name: leaseName,
      identities: times(each).map((number) => `candidate-${index}-${number}`),
      candidates,
      writer
    }
    await writeFile(file, JSON.stringify(work))
    return JsonLinesProcess.start<ManyEvent>({
      name: `candidates ${index}`,
      command: process.execPath,
      args: [lab.programs.candidates, file],
      env: cleanEnvironment()
    })
  }
  const first = await startOne(0)
  await first.waitFor(({ event }) => event === "leading", 60_000)
  const all = [first, ...await inParallel(times(processes - 1), processes, (index) => startOne(index + 1))]
  await Promise.all(all.map(async (one) => {
    while (new Set(one.values.map(({ identity }) => identity)).size < each) {
      if (!one.running) throw new Error(one.stderr)
      await sleep(100)
    }
  }))
  await sleep(5_000)
  const rest = options.rest === true ? await load(lab, site, () => sleep(30_000)) : undefined

  /** The newest term, and the process that it is in. */
  const newest = () =>
    all.flatMap((one) => one.values.map((value) => ({ ...value, one })))
      .filter(({ event }) => event === "leading")
      .reduce((latest, term) => term.mono > latest.mono ? term : latest)
  const turns = options.floor === true ? 2 : 1
  const measured = await handOvers(lab, site, turns * handoverCount, async (index) => {
    const leader = newest()
    if (turns === 2) {
      // Each time one of another process than the leader's, as it is where all write.
      const others = all.flatMap((one, number) => one === leader.one ? [] : [`candidate-${number}-0`])
      await writeFile(writer, index % 2 === 0 ? "" : others[(index - 1) / 2 % others.length]!)
      for (const one of all) one.signal("SIGUSR2")
      await sleep(100)
    }
    const from = mono()
    leader.one.signal("SIGUSR1")
    while (newest().mono === leader.mono) {
      if (mono() > from + patience) throw new Error(`nobody leads after ${leader.identity}`)
      await sleep(250)
    }
    return [from, newest().mono]
  })
  await Promise.all(all.map((one) => one.close()))
  return {
    candidates: processes * each,
    processes,
    ...(rest !== undefined && { rest }),
    handovers: measured.filter((_, index) => index % turns === 0),
    ...(turns === 2 && { floor: measured.filter((_, index) => index % turns === 1) })
  }
}

const clientGoCrowd = async (lab: Lab, count: number): Promise<CrowdResult> => {
  const site = await lab.site()
  let leader = await start(lab, "client-go", site, { identity: "candidate-0" })
  await leader.leading()
  const followers = await inParallel(times(count - 1), 8, async (index) => {
    const follower = await start(lab, "client-go", site, { identity: `candidate-${index + 1}`, user: "follower" })
    await follower.follows(leader)
    return follower
  })
  const waiting = new Set(followers)
  await sleep(5_000)
  const rest = await load(lab, site, () => sleep(30_000))
  const handovers = await handOvers(lab, site, handoverCount, async () => {
    const old = leader
    const from = mono()
    old.process.signal("SIGTERM")
    const [next, to] = await Promise.race([...waiting].map(async (one) => [one, await one.leading()] as const))
    waiting.delete(next)
    leader = next
    await old.process.close()
    return [from, to]
  })
  await Promise.all([leader, ...waiting].map((candidate) => candidate.process.close()))
  return { candidates: count, processes: count, rest, handovers }
}

export const followers = async (lab: Lab): Promise<FollowersResult> => ({
  ours: await oursCrowd(lab, { processes: 10, each: 20, candidates: 200, floor: true, rest: true }),
  unset: await oursCrowd(lab, { processes: 10, each: 20 }),
  thousand: await oursCrowd(lab, { processes: 10, each: 100, candidates: 1_000, floor: true }),
  "client-go": await clientGoCrowd(lab, 200)
})

// --- What leaders write to etcd ---

export interface EtcdResult {
  /** Bytes in etcd's write-ahead log for one leader in an hour. */
  readonly bytesPerLeaderHour: number
  readonly bytesPerWrite: number
  readonly writesPerMinute: number
  readonly leaders: number
}

/** Leaders alone, for a while, less what the API server itself writes. */
export const etcd = async (lab: Lab): Promise<Record<Kind, EtcdResult>> => {
  const seconds = 20
  const measure = async () => {
    const from = wall()
    const before = await servers(lab.cluster)
    await sleep(seconds * 1_000)
    const after = await servers(lab.cluster)
    const made = await requests(lab.cluster, from, wall())
    return {
      bytes: after.walBytes - before.walBytes,
      writes: made.filter(({ verb }) => verb === "patch" || verb === "update").length
    }
  }
  const idle = await measure()
  const results: Partial<Record<Kind, EtcdResult>> = {}
  for (const kind of kinds) {
    const count = Math.min(20, lab.options.samples)
    const leaders = await inParallel(times(count), 4, async () => {
      const leader = await start(lab, kind, await lab.site(), { identity: "one" })
      await leader.leading()
      return leader
    })
    const { bytes, writes } = await measure()
    await Promise.all(leaders.map((leader) => leader.process.close()))
    results[kind] = {
      leaders: count,
      writesPerMinute: round(writes / count * 60 / seconds),
      bytesPerWrite: Math.round((bytes - idle.bytes) / writes),
      bytesPerLeaderHour: Math.round((bytes - idle.bytes) / count * 3_600 / seconds)
    }
  }
  return results as Record<Kind, EtcdResult>
}
