/**
 * What all parts of the benchmarks need: candidates of each implementation as
 * processes, Leases that are old enough to be led on at once, and readings of
 * processes, the API server and etcd.
 */
import * as Esbuild from "esbuild"
import { spawnSync } from "node:child_process"
import { createReadStream, existsSync } from "node:fs"
import { mkdir, readdir, readFile, rm } from "node:fs/promises"
import { cpus, loadavg, release, totalmem } from "node:os"
import { createInterface } from "node:readline"
import { setTimeout as sleep } from "node:timers/promises"
import { fileURLToPath } from "node:url"
import { bundleOptions } from "../scripts/bundle.ts"
import type { Pod, Rule } from "../test/cluster/utils/ApiClient.ts"
import type { KubeCluster } from "../test/cluster/utils/KubeCluster.ts"
import { cleanEnvironment, JsonLinesProcess } from "../test/cluster/utils/Processes.ts"

export const repository = fileURLToPath(new URL("..", import.meta.url))

export const kinds = ["ours", "client-go", "codedependant"] as const
export type Kind = (typeof kinds)[number]

/** Milliseconds: the settings of all candidates, which are the defaults of this library and of client-go. */
export const leaseDuration = 15_000

/** Who has not taken over by then is not going to, and gets few samples. */
export const patience = 60_000

// --- Programs ---

export interface Programs {
  /** The command line as users have it: the bundle. */
  readonly command: string
  /** The library as users have it: plain modules. */
  readonly library: string
  readonly elections: string
  readonly candidates: string
  readonly app: string
  readonly codedependant: string
  /** client-go with many Leases in one process. */
  readonly leases: string
  readonly remove: () => Promise<void>
}

const run = (command: string, args: ReadonlyArray<string>, cwd = repository): void => {
  const { status, stderr, stdout } = spawnSync(command, args, { cwd, encoding: "utf8" })
  if (status !== 0) throw new Error(`${command} ${args.join(" ")}\n${stdout}${stderr}`)
}

/** Builds everything that is measured into a place of its own, so that nothing depends on what was built before. */
export const buildPrograms = async (): Promise<Programs> => {
  const bench = `${repository}/bench`
  if (!existsSync(`${bench}/node_modules/@codedependant`)) {
    run("npm", ["ci", "--no-audit", "--no-fund"], bench)
  }
  const directory = `${repository}/node_modules/.cache/bench-${process.pid}`
  await mkdir(directory, { recursive: true })
  await Esbuild.build({ ...bundleOptions, outdir: `${directory}/bin` })
  await Esbuild.build({
    ...bundleOptions,
    entryPoints: [`${bench}/programs/elections.ts`, `${bench}/programs/candidates.ts`],
    outdir: `${directory}/programs`
  })
  const leases = `${directory}/bin/leases`
  run("go", ["build", "-o", leases, `${bench}/programs/leases.go`], `${repository}/test/cluster/go`)
  const tsc = `${repository}/node_modules/typescript/bin/tsc`
  run(process.execPath, [tsc, "-p", "tsconfig.build.json", "--outDir", `${directory}/lib`])
  return {
    command: `${directory}/bin/leader-election.js`,
    library: `${directory}/lib/index.js`,
    elections: `${directory}/programs/elections.js`,
    candidates: `${directory}/programs/candidates.js`,
    app: `${bench}/programs/app.mjs`,
    codedependant: `${bench}/programs/codedependant.cjs`,
    leases,
    remove: () => rm(directory, { recursive: true, force: true })
  }
}

// --- Where and with what ---

export interface Machine {
  readonly time: string
  readonly cpu: string
  readonly cores: number
  readonly memoryGiB: number
  readonly kernel: string
  readonly loadAverage: number
}

export const machine = (): Machine => ({
  time: new Date().toISOString(),
  cpu: cpus()[0]?.model ?? "unknown",
  cores: cpus().length,
  memoryGiB: Math.round(totalmem() / 2 ** 30),
  kernel: release(),
  loadAverage: loadavg()[0] ?? 0
})

export const versions = async (cluster: KubeCluster): Promise<Record<string, string>> => {
  const json = async (path: string) => JSON.parse(await readFile(`${repository}/${path}`, "utf8"))
  const goMod = await readFile(`${repository}/test/cluster/go/go.mod`, "utf8")
  const ours = spawnSync("git", ["rev-parse", "--short", "HEAD"], { cwd: repository, encoding: "utf8" })
  return {
    ours: `${(await json("package.json")).version} (${ours.stdout.trim()})`,
    effect: (await json("node_modules/effect/package.json")).version,
    node: process.version,
    kubernetes: (await cluster.admin.ok("GET", "/version")).gitVersion,
    "client-go": /^\s*k8s\.io\/client-go (v\S+)/m.exec(goMod)?.[1] ?? "unknown",
    "@codedependant/kubernetes-leader-election":
      (await json("bench/node_modules/@codedependant/kubernetes-leader-election/package.json")).version
  }
}

// --- Clocks: one for all processes of this machine ---

/** Monotonic milliseconds: the clock of `mono` in a line of `effect-kubernetes-leader-election candidate`. */
export const mono = (): number => Number(process.hrtime.bigint()) / 1e6

const monoOfWall = mono() - (performance.timeOrigin + performance.now())

/** When something happened that the harness has received. */
export const monoOf = (received: number): number => received + monoOfWall

// --- Sites: each a namespace with one Lease and those who may take it ---

export const leaseName = "bench"

export interface Site {
  readonly namespace: string
  /** Whose requests are counted apart. */
  readonly users: Record<"leader" | "follower", User>
}

export interface User {
  /** As in the audit log. */
  readonly name: string
  readonly token: string
  readonly directory: string
}

const leases = { apiGroups: ["coordination.k8s.io"], resources: ["leases"] }

export const rules: ReadonlyArray<Rule> = [
  { ...leases, verbs: ["create", "get", "list", "patch", "update", "watch"] }
]

const makeUser = async (cluster: KubeCluster, namespace: string, name: string): Promise<User> => {
  await cluster.admin.createServiceAccount(namespace, name)
  await cluster.admin.putRoleBinding(namespace, "bench", name)
  const token = await cluster.admin.createToken(namespace, name, 7_200)
  const directory = await cluster.writeServiceAccountFiles({ token, namespace })
  return { name: `system:serviceaccount:${namespace}:${name}`, token, directory }
}

/** A Lease as client-go leaves it behind. */
const released = {
  holderIdentity: "",
  leaseDurationSeconds: 1,
  leaseTransitions: 1,
  acquireTime: "2020-01-01T00:00:00.000000Z",
  renewTime: "2020-01-01T00:00:00.000000Z"
}

export const makeSite = async (cluster: KubeCluster): Promise<Site> => {
  const namespace = await cluster.admin.createNamespace("bench")
  await cluster.admin.createLease(namespace, leaseName, released)
  await cluster.admin.putRole(namespace, "bench", rules)
  return {
    namespace,
    users: {
      leader: await makeUser(cluster, namespace, "leader"),
      follower: await makeUser(cluster, namespace, "follower")
    }
  }
}

// --- Candidates ---

export interface CandidateEvent {
  readonly at: number
  readonly mono?: number
  readonly event: string
  readonly identity: string
  readonly leader?: string | null
}

export interface Lab {
  readonly cluster: KubeCluster
  readonly programs: Programs
  readonly options: Options
  /** A site whose Lease is old. */
  readonly site: () => Promise<Site>
}

export interface Options {
  /** Samples of each measurement. */
  readonly samples: number
  /** Minutes of the long run of 1,000 elections, and of the idle ones. */
  readonly minutes: number
  readonly idleMinutes: number
  readonly elections: number
}

export interface StartOptions {
  readonly identity: string
  /** Whose rights it has; "leader" unless said otherwise. */
  readonly user?: "leader" | "follower"
  readonly pod?: Pod
  readonly newLease?: "lead"
  /** A proxy in front of the API server. */
  readonly port?: number
  /** Options of Node, for ours. */
  readonly nodeOptions?: ReadonlyArray<string>
}

const mountPoint = "/var/run/secrets/kubernetes.io/serviceaccount"

// What a Pod finds, seen by this process alone: /run is a file system in memory, empty at first. When it is the
// program's turn, the time.
const inPod = `mount -t tmpfs none /run && mkdir -p ${mountPoint} && mount --bind "$0" ${mountPoint} && ` +
  `date +%s.%N >&2 && exec "$@"`

/** The command and the environment that let `args` run as if in a Pod of this site. */
export const asInPod = async (lab: Lab, site: Site, options: StartOptions, args: ReadonlyArray<string>) => {
  const user = site.users[options.user ?? "leader"]
  // One that exists: the garbage collector deletes the Lease of any other.
  const { metadata } = options.pod ?? await lab.cluster.admin.createPod(site.namespace, options.identity)
  return {
    identity: `${metadata.name}_${metadata.uid}`,
    command: "unshare",
    args: ["--mount", "sh", "-c", inPod, user.directory, process.execPath, ...options.nodeOptions ?? [], ...args],
    env: cleanEnvironment({
      KUBERNETES_SERVICE_HOST: lab.cluster.host,
      KUBERNETES_SERVICE_PORT: `${options.port ?? lab.cluster.port}`,
      POD_NAMESPACE: site.namespace,
      LEADER_ELECTION_NAME: leaseName,
      POD_NAME: metadata.name,
      POD_UID: metadata.uid,
      LEADER_ELECTION_NEW_LEASE: options.newLease
    })
  }
}

export class Candidate implements AsyncDisposable {
  readonly kind: Kind
  readonly identity: string
  readonly process: JsonLinesProcess<CandidateEvent>

  constructor(kind: Kind, identity: string, process: JsonLinesProcess<CandidateEvent>) {
    this.kind = kind
    this.identity = identity
    this.process = process
  }

  /** When it told of its first such event, monotonic milliseconds; undefined where it did not. */
  async when(event: string, timeout: number, from = 0): Promise<number | undefined> {
    try {
      const line = await this.process.waitFor((value) => value.event === event, timeout, from)
      return line.value.mono ?? monoOf(line.receivedAt)
    } catch {
      return undefined
    }
  }

  async leading(timeout = patience): Promise<number> {
    const at = await this.when("leading", timeout)
    if (at === undefined) throw new Error(`${this.kind} ${this.identity} does not lead: ${this.process.stderr}`)
    return at
  }

  /** Waits until it has seen who leads. */
  async follows(leader: Candidate): Promise<void> {
    await this.process.waitFor((value) => value.leader === leader.identity, 30_000)
  }

  async kill(): Promise<void> {
    this.process.signal("SIGKILL")
    await this.process.exit
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.process.close()
  }
}

export const start = async (lab: Lab, kind: Kind, site: Site, options: StartOptions): Promise<Candidate> => {
  const { identity } = options
  const user = site.users[options.user ?? "leader"]
  if (kind === "ours") {
    const child = await asInPod(lab, site, options, [lab.programs.command, "candidate"])
    return new Candidate(kind, child.identity, JsonLinesProcess.start({ name: identity, ...child }))
  }
  const kubeconfig = await lab.cluster.writeKubeconfig({
    token: user.token,
    namespace: site.namespace,
    server: `https://${lab.cluster.host}:${options.port ?? lab.cluster.port}`
  })
  if (kind === "client-go") {
    return new Candidate(
      kind,
      identity,
      JsonLinesProcess.start({
        name: identity,
        command: lab.cluster.candidateProgram!,
        args: [
          `--kubeconfig=${kubeconfig}`,
          `--namespace=${site.namespace}`,
          `--name=${leaseName}`,
          `--identity=${identity}`,
          "--release"
        ],
        env: cleanEnvironment()
      })
    )
  }
  return new Candidate(
    kind,
    identity,
    JsonLinesProcess.start({
      name: identity,
      command: process.execPath,
      args: [lab.programs.codedependant, site.namespace, leaseName, identity],
      // Without the variable it believes to be outside of Kubernetes, and leads at once.
      env: cleanEnvironment({ KUBECONFIG: kubeconfig, KUBERNETES_SERVICE_HOST: lab.cluster.host })
    })
  )
}

/** A leader, and a follower that has seen it lead. */
export const pair = async (
  lab: Lab,
  kind: Kind,
  forLeader: Partial<StartOptions> = {},
  forFollower: Partial<StartOptions> = {},
  on?: Site
) => {
  const site = on ?? await lab.site()
  const leader = await start(lab, kind, site, { identity: "one", ...forLeader })
  await leader.leading()
  const follower = await start(lab, kind, site, { identity: "two", user: "follower", ...forFollower })
  await follower.follows(leader)
  return { site, leader, follower }
}

/** Applies `f` to each, at most `width` at a time. */
export const inParallel = async <A, B>(
  items: ReadonlyArray<A>,
  width: number,
  f: (item: A, index: number) => Promise<B>
): Promise<Array<B>> => {
  const results: Array<B> = []
  let next = 0
  await Promise.all(Array.from({ length: Math.min(width, items.length) }, async () => {
    while (next < items.length) {
      const index = next++
      results[index] = await f(items[index]!, index)
    }
  }))
  return results
}

export const times = (count: number): Array<number> => Array.from({ length: count }, (_, index) => index)

export { sleep }

// --- Readings ---

/** CPU time of all threads of a process, milliseconds. */
export const cpuMillis = async (pid: number): Promise<number> => {
  let nanos = 0
  for (const thread of await readdir(`/proc/${pid}/task`)) {
    const text = await readFile(`/proc/${pid}/task/${thread}/schedstat`, "utf8").catch(() => "0")
    nanos += Number(text.split(" ")[0])
  }
  return nanos / 1e6
}

/** Resident memory of a process, MiB. */
export const rssMiB = async (pid: number): Promise<number> =>
  Number(/VmRSS:\s+(\d+) kB/.exec(await readFile(`/proc/${pid}/status`, "utf8"))?.[1]) / 1024

const sumOf = (metrics: string, name: string): number =>
  metrics.split("\n")
    .filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`))
    .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" ") + 1)), 0)

export interface Servers {
  readonly at: number
  /** Seconds of CPU. */
  readonly apiServerCpu: number
  readonly etcdCpu: number
  /** Bytes written to etcd's write-ahead log. */
  readonly walBytes: number
}

export const servers = async (cluster: KubeCluster): Promise<Servers> => {
  const pid = cluster.descriptor.local!.etcdPid
  const args = (await readFile(`/proc/${pid}/cmdline`, "utf8")).split("\0")
  const url = args.find((arg) => arg.startsWith("--listen-client-urls="))!.split("=")[1]!
  const etcd = await (await fetch(`${url}/metrics`)).text()
  const api = (await cluster.admin.request("GET", "/metrics")).text
  return {
    at: mono(),
    apiServerCpu: sumOf(api, "process_cpu_seconds_total"),
    etcdCpu: sumOf(etcd, "process_cpu_seconds_total"),
    walBytes: sumOf(etcd, "etcd_disk_wal_write_bytes_total")
  }
}

export interface Request {
  /** When it was received, and when its answer was complete: wall-clock milliseconds, with microseconds. */
  readonly at: number
  readonly answered: number
  readonly verb: string
  readonly user: string
  readonly code: number
}

/** Of a time with six digits after the point; `Date.parse` drops the last three. */
const precise = (time: string): number => Date.parse(`${time.slice(0, 23)}Z`) + Number(time.slice(23, 26)) / 1_000

/** The requests for Leases that were received from `since` on (wall-clock milliseconds). The log can be large. */
export const requests = async (
  cluster: KubeCluster,
  since: number,
  until = Infinity
): Promise<ReadonlyArray<Request>> => {
  const found: Array<Request> = []
  for await (const line of createInterface({ input: createReadStream(cluster.descriptor.local!.auditLogPath) })) {
    if (!line.endsWith("}") || !line.includes(`"resource":"leases"`)) continue
    const entry = JSON.parse(line)
    const at = precise(entry.requestReceivedTimestamp)
    // A watch has two entries: when it is answered and when it ends.
    if (at < since || at >= until || entry.user.username === "admin") continue
    if (entry.verb === "watch" && entry.stage !== "ResponseStarted") continue
    found.push({
      at,
      answered: precise(entry.stageTimestamp),
      verb: entry.verb,
      user: entry.user.username,
      code: entry.responseStatus?.code ?? 0
    })
  }
  return found
}

export const countBy = <A>(items: ReadonlyArray<A>, key: (item: A) => string): Record<string, number> => {
  const counts: Record<string, number> = {}
  for (const item of items) counts[key(item)] = (counts[key(item)] ?? 0) + 1
  return counts
}

/** To three digits after the point: what is stored is what is shown. */
export const round = (value: number): number => Math.round(value * 1_000) / 1_000
