/**
 * Candidates on one Lease, as processes on a real API server, each with a Pod, a service account's files and a
 * connection of its own that can be interfered with.
 */
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import { HttpFaultProxy } from "../cluster/utils/HttpFaultProxy.ts"
import type { KubeCluster } from "../cluster/utils/KubeCluster.ts"
import { cleanEnvironment, JsonLinesProcess } from "../cluster/utils/Processes.ts"
import { Proxy } from "../cluster/utils/Proxy.ts"
import type { Witness } from "./witness.ts"

export interface Line {
  readonly event: "started" | "leading" | "blocking" | "ended" | "refused" | "error"
  readonly mono: number
  readonly token?: string
  readonly validUntil?: number
  readonly message?: string
}

export interface TeamOptions {
  readonly cluster: KubeCluster
  readonly witness: Witness
  readonly program: string
  /** The Lease's name: no other team has it. */
  readonly name: string
  readonly size: number
  readonly leaseSeconds: number
  /** Puts an HTTP proxy that can answer by itself before all candidates. */
  readonly http?: boolean
  readonly environment?: (directory: string, index: number) => Record<string, string>
}

export class Member implements AsyncDisposable {
  readonly team: Team
  readonly pod: string
  readonly identity: string
  readonly directory: string
  readonly proxy: Proxy | undefined
  readonly runs: Array<JsonLinesProcess<Line>> = []
  /** By how much programs outlived their leadership that were killed and could not say so, in milliseconds. */
  readonly overruns: Array<number> = []
  private readonly env: Record<string, string>

  constructor(
    team: Team,
    pod: { name: string; uid: string },
    directory: string,
    proxy: Proxy | undefined,
    index: number
  ) {
    const { cluster, environment, leaseSeconds, name, witness } = team.options
    this.team = team
    this.pod = pod.name
    this.identity = `${pod.name}_${pod.uid}`
    this.directory = directory
    this.proxy = proxy
    const port = team.http === undefined ? proxy?.port ?? cluster.port : Number(new URL(team.http.url).port)
    this.env = cleanEnvironment({
      KUBERNETES_SERVICE_HOST: "127.0.0.1",
      KUBERNETES_SERVICE_PORT: String(port),
      SERVICE_ACCOUNT_DIRECTORY: directory,
      WITNESS: witness.directory,
      BLOCK: String(leaseSeconds * 1500),
      POD_NAME: pod.name,
      POD_UID: pod.uid,
      POD_NAMESPACE: team.namespace,
      LEADER_ELECTION_NAME: name,
      LEADER_ELECTION_LEASE_DURATION: `${leaseSeconds}s`,
      ...environment?.(directory, index)
    })
  }

  get process(): JsonLinesProcess<Line> {
    return this.runs.at(-1)!
  }

  start(): void {
    this.runs.push(JsonLinesProcess.start({
      command: process.execPath,
      args: [this.team.options.program],
      env: this.env,
      name: this.pod
    }))
  }

  get lines(): ReadonlyArray<Line> {
    return this.runs.flatMap((run) => run.values)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const run of this.runs) {
      await run[Symbol.asyncDispose]()
    }
    await this.proxy?.close()
  }
}

export class Team implements AsyncDisposable {
  readonly options: TeamOptions
  readonly namespace: string
  readonly http: HttpFaultProxy | undefined
  readonly members: Array<Member> = []

  private constructor(options: TeamOptions, namespace: string, http: HttpFaultProxy | undefined) {
    this.options = options
    this.namespace = namespace
    this.http = http
  }

  static async start(options: TeamOptions): Promise<Team> {
    const { cluster, name, size } = options
    const namespace = await cluster.admin.createNamespace("faults")
    const http = options.http === true
      ? await HttpFaultProxy.start({ url: cluster.url, ca: cluster.ca })
      : undefined
    const team = new Team(options, namespace, http)
    const token = await cluster.admin.createCandidateAccount(namespace, name)
    for (let index = 0; index < size; index++) {
      const pod = await cluster.admin.createPod(namespace, `${name}-${index}`)
      const directory = await cluster.writeServiceAccountFiles({
        token,
        namespace,
        ...(http !== undefined && { ca: http.ca })
      })
      const proxy = http === undefined && size < 10 ? await Proxy.start(cluster) : undefined
      const member = new Member(team, { name: pod.metadata.name, uid: pod.metadata.uid }, directory, proxy, index)
      team.members.push(member)
      member.start()
    }
    return team
  }

  async writeTokens(token: string): Promise<void> {
    await Promise.all(this.members.map((member) => writeFile(join(member.directory, "token"), token)))
  }

  /** Who holds the Lease. */
  async holder(): Promise<Member | undefined> {
    const { admin } = this.options.cluster
    const lease = await admin.getLease(this.namespace, this.options.name).catch(() => undefined)
    return this.members.find((member) => member.identity === lease?.spec.holderIdentity)
  }

  isLed(millis = 300): Promise<boolean> {
    return this.options.witness.isLed(this.options.name, millis)
  }

  /** Waits until somebody leads; false where nobody does within `millis`. */
  async led(millis: number): Promise<boolean> {
    const end = performance.now() + millis
    while (performance.now() < end) {
      if (await this.isLed()) {
        return true
      }
      await pause(50)
    }
    return false
  }

  /** The longest time by which a program of this team outlived its leadership, in milliseconds. */
  get overrun(): number {
    const late = this.members.flatMap((member) =>
      member.lines.flatMap(({ event, mono, validUntil }) =>
        event === "ended" && validUntil !== undefined ? [mono - validUntil] : []
      )
    )
    return Math.max(0, ...late, ...this.members.flatMap(({ overruns }) => overruns))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.members.map((member) => member[Symbol.asyncDispose]()))
    await this.http?.close()
  }
}

export const pause = (millis: number) => new Promise<void>((resolve) => setTimeout(resolve, millis))
