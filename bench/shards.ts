/**
 * One hundred shards over five processes: moves, spread, the longest time
 * without a leader, and what it costs the API server. Beside them the same
 * Leases with client-go in five processes, which nothing shares.
 */
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import { cleanEnvironment, JsonLinesProcess } from "../test/cluster/utils/Processes.ts"
import { Proxy } from "../test/cluster/utils/Proxy.ts"
import type { ShardEvent, Work } from "./programs/shards.ts"
import {
  countBy,
  type Lab,
  leaseDuration,
  mono,
  repository,
  requests,
  round,
  type Site,
  sleep,
  times
} from "./support.ts"

const shards = 100
const replicas = 5
const wall = () => performance.timeOrigin + performance.now()

interface Entry extends ShardEvent {
  readonly replica: string
}

class Replica {
  readonly identity: string
  readonly process: JsonLinesProcess<ShardEvent>
  /** SIGKILL, monotonic milliseconds: what it led has no leader from then on. */
  killedAt: number | undefined

  constructor(identity: string, process: JsonLinesProcess<ShardEvent>) {
    this.identity = identity
    this.process = process
  }

  get log(): ReadonlyArray<Entry> {
    return this.process.lines.map(({ value }) => ({ ...value, replica: this.identity }))
  }

  ready(): Promise<unknown> {
    return this.process.waitFor(({ event }) => event === "ready", 30_000)
  }
}

const leads = ({ log }: Replica): number =>
  log.reduce((sum, { event }) => sum + (event === "leading" ? 1 : event === "ended" ? -1 : 0), 0)

class Team {
  readonly lab: Lab
  readonly site: Site
  readonly kind: "ours" | "client-go"
  readonly all: Array<Replica> = []
  readonly living = new Set<Replica>()
  private started = 0

  constructor(lab: Lab, site: Site, kind: "ours" | "client-go") {
    this.lab = lab
    this.site = site
    this.kind = kind
  }

  private async command(identity: string, generation: string, server: string): Promise<[string, Array<string>]> {
    const { lab: { cluster, programs }, site: { namespace, users: { leader: { token } } } } = this
    if (this.kind === "client-go") {
      const kubeconfig = await cluster.writeKubeconfig({ token, namespace, server })
      return [programs.leases, [
        `--kubeconfig=${kubeconfig}`,
        `--namespace=${namespace}`,
        `--identity=${identity}`,
        `--leases=${shards}`
      ]]
    }
    const file = join(cluster.directory, `shards-${namespace}-${identity}.json`)
    const work: Work = { server, ca: cluster.ca!, token, namespace, identity, generation, shards }
    await writeFile(file, JSON.stringify(work))
    return [process.execPath, [`${repository}/bench/programs/shards.ts`, file]]
  }

  async start(generation: string, server = this.lab.cluster.url): Promise<Replica> {
    const identity = `${generation}-${this.started++}`
    const [command, args] = await this.command(identity, generation, server)
    const replica = new Replica(
      identity,
      JsonLinesProcess.start<ShardEvent>({ name: identity, command, args, env: cleanEnvironment() })
    )
    this.all.push(replica)
    this.living.add(replica)
    await replica.process.waitFor(({ event }) => event === "started", 30_000)
    return replica
  }

  async end(replica: Replica): Promise<void> {
    this.living.delete(replica)
    replica.process.signal("SIGTERM")
    await replica.process.exit
  }

  async kill(replica: Replica): Promise<void> {
    this.living.delete(replica)
    replica.killedAt = mono()
    replica.process.signal("SIGKILL")
    await replica.process.exit
  }

  /** All that was told, in order; a killed replica's programs ended when it was killed. */
  log(): Array<Entry> {
    const entries = this.all.flatMap(({ identity, killedAt, log }) => {
      const leads = new Map<string, number>()
      for (const { event, shard } of log) {
        if (shard !== undefined) leads.set(shard, (leads.get(shard) ?? 0) + (event === "leading" ? 1 : -1))
      }
      const killed = killedAt === undefined
        ? []
        : [...leads].filter(([, count]) => count > 0).map(([shard]): Entry => ({
          event: "ended",
          mono: killedAt,
          shard,
          replica: identity
        }))
      return [...log, ...killed]
    })
    return entries.sort((a, b) => a.mono - b.mono)
  }

  /** How many each living replica leads. */
  spread(): Array<number> {
    return [...this.living].map(leads).sort((a, b) => a - b)
  }

  /** The one that leads most. */
  get busiest(): Replica {
    return [...this.living].sort((a, b) => leads(b) - leads(a))[0]!
  }

  /** Does something, waits, and says what it brought. */
  async phase(during: () => Promise<unknown>, settle: number) {
    const from = mono()
    const since = wall()
    await during()
    await sleep(settle)
    const until = mono()
    const ended = new Map<string, number>()
    let moves = 0
    let overlaps = 0
    const leaders = new Map<string, Set<string>>()
    const moved = new Map<string, number>()
    const without: Array<number> = []
    for (const { event, mono: at, replica, shard } of this.log()) {
      if (shard === undefined || at > until) continue
      const leading = leaders.get(shard) ?? new Set()
      leaders.set(shard, leading)
      if (event === "leading") {
        leading.add(replica)
        overlaps += leading.size > 1 ? 1 : 0
        if (at >= from) {
          moves++
          moved.set(shard, (moved.get(shard) ?? 0) + 1)
          const since = ended.get(shard)
          if (since !== undefined) without.push(at - since)
        }
      } else {
        leading.delete(replica)
        ended.set(shard, at)
      }
    }
    const led = [...leaders.values()].filter(({ size }) => size > 0).length
    const made = (await requests(this.lab.cluster, since)).filter(({ user }) => user === this.site.users.leader.name)
    const minutes = (until - from) / 60_000
    return {
      moves,
      mostMovesOfOne: Math.max(0, ...moved.values()),
      spread: this.spread(),
      led,
      overlaps,
      longestWithoutLeader: round(Math.max(0, ...without)),
      medianWithoutLeader: round(without.sort((a, b) => a - b)[Math.floor(without.length / 2)] ?? 0),
      requestsPerMinute: Math.round(made.length / minutes),
      conflicts: made.filter(({ code }) => code === 409).length,
      requests: countBy(made, ({ code, verb }) => `${verb} ${code}`)
    }
  }
}

export type Phase = Awaited<ReturnType<Team["phase"]>>

export interface ShardsResult {
  readonly shards: number
  readonly replicas: number
  readonly ours: Record<
    | "firstStart"
    | "atRest"
    | "join"
    | "leave"
    | "cutOff"
    | "connected"
    | "killed"
    | "replaced"
    | "rollingUpdate",
    Phase
  >
  readonly "client-go": Record<"firstStart" | "atRest" | "killed" | "leave", Phase>
}

const ours = async (lab: Lab): Promise<ShardsResult["ours"]> => {
  const team = new Team(lab, await lab.site(), "ours")
  const proxy = await Proxy.start({ host: lab.cluster.host, port: lab.cluster.port })
  try {
    const firstStart = await team.phase(async () => {
      await Promise.all(
        times(replicas).map((index) =>
          team.start("v1", index === 0 ? `https://${lab.cluster.host}:${proxy.port}` : undefined)
        )
      )
    }, leaseDuration + 10_000)
    const atRest = await team.phase(async () => {}, lab.options.idleMinutes * 60_000)
    const join = await team.phase(() => team.start("v1"), 15_000)
    const leave = await team.phase(() => team.end([...team.living].at(-1)!), 10_000)
    const cutOff = await team.phase(() => proxy.set("stall"), leaseDuration + 10_000)
    const connected = await team.phase(() => proxy.set("pass"), leaseDuration + 15_000)
    const killed = await team.phase(() => team.kill([...team.living].at(-1)!), leaseDuration + 10_000)
    const replaced = await team.phase(() => team.start("v1"), 15_000)
    const rollingUpdate = await team.phase(async () => {
      for (const old of Array.from(team.living)) {
        await (await team.start("v2")).ready()
        await team.end(old)
      }
    }, 15_000)
    return { firstStart, atRest, join, leave, cutOff, connected, killed, replaced, rollingUpdate }
  } finally {
    await Promise.all(team.all.map(({ process }) => process.close()))
    await proxy.close()
  }
}

/** The same Leases, an elector for each in every process. What is killed or ended is the process that leads most. */
const clientGo = async (lab: Lab): Promise<ShardsResult["client-go"]> => {
  const team = new Team(lab, await lab.site(), "client-go")
  try {
    const firstStart = await team.phase(
      () => Promise.all(times(replicas).map(() => team.start("v1"))),
      10_000
    )
    const atRest = await team.phase(async () => {}, lab.options.idleMinutes * 60_000)
    const killed = await team.phase(() => team.kill(team.busiest), leaseDuration + 15_000)
    const leave = await team.phase(() => team.end(team.busiest), 15_000)
    return { firstStart, atRest, killed, leave }
  } finally {
    await Promise.all(team.all.map(({ process }) => process.close()))
  }
}

export const shardsPart = async (lab: Lab): Promise<ShardsResult> => ({
  shards,
  replicas,
  ours: await ours(lab),
  "client-go": await clientGo(lab)
})
