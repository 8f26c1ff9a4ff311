/**
 * What a candidate costs while nothing happens, and until it takes part.
 */
import { spawnSync } from "node:child_process"
import { readFileSync } from "node:fs"
import { JsonLinesProcess } from "../test/cluster/utils/Processes.ts"
import {
  asInPod,
  type Candidate,
  countBy,
  cpuMillis,
  inParallel,
  type Kind,
  kinds,
  type Lab,
  mono,
  pair,
  requests,
  round,
  rssMiB,
  type Site,
  sleep,
  start,
  times
} from "./support.ts"

// --- At rest ---

export interface AtRest {
  /** One value for each process and minute. */
  readonly cpuMillisPerMinute: Array<number>
  readonly rssMiB: Array<number>
  readonly requestsPerMinute: Array<number>
  /** All requests of all these processes, by verb. */
  readonly verbs: Record<string, number>
}

export type Role = "leader" | "follower"

export type Subject = `${Kind | "library"} ${Role}` | "bare Node"

interface Watched {
  readonly subject: Subject
  readonly pid: number
  readonly user: string | undefined
  readonly close: () => Promise<void>
}

const candidate = (kind: Kind, role: Role, site: Site, candidate: Candidate): Watched => ({
  subject: `${kind} ${role}`,
  pid: candidate.process.pid,
  user: site.users[role].name,
  close: () => candidate.process.close()
})

/** `effect-kubernetes-leader-election run`, or the README's program, as if in a Pod. */
const startInPod = async (lab: Lab, site: Site, role: Role, args: ReadonlyArray<string>): Promise<JsonLinesProcess> =>
  JsonLinesProcess.start({ ...(await asInPod(lab, site, { identity: role, user: role }, args)), name: args.join(" ") })

const untilLogged = async (process: JsonLinesProcess, text: string): Promise<void> => {
  const deadline = mono() + 30_000
  while (!process.stderr.includes(text)) {
    if (mono() > deadline || !process.running) throw new Error(`${process.name}: no "${text}" in\n${process.stderr}`)
    await sleep(5)
  }
}

const runArgs = (lab: Lab) => [lab.programs.command, "run", "--", "sleep", "100000"]

const pairInPod = async (
  lab: Lab,
  kind: "ours" | "library",
  args: ReadonlyArray<string>
): Promise<Array<Watched>> => {
  const site = await lab.site()
  const watched: Array<Watched> = []
  for (const role of ["leader", "follower"] as const) {
    const process = await startInPod(lab, site, role, args)
    if (kind === "ours") await untilLogged(process, role === "leader" ? "Became leader" : "Following")
    else await sleep(3_000)
    watched.push({
      subject: `${kind} ${role}`,
      pid: process.pid,
      user: site.users[role].name,
      close: () => process.close()
    })
  }
  return watched
}

/** Pairs of each kind, minute by minute. */
export const atRest = async (lab: Lab): Promise<Partial<Record<Subject, AtRest>>> => {
  const pairs = Math.max(1, Math.ceil(lab.options.samples / lab.options.idleMinutes))
  const bare = JsonLinesProcess.start({ command: process.execPath, args: ["-e", "setInterval(() => {}, 1 << 30)"] })
  const watched: Array<Watched> = [
    { subject: "bare Node", pid: bare.pid, user: undefined, close: () => bare.close() },
    ...(await inParallel(times(pairs), 2, async () => [
      ...(await pairInPod(lab, "ours", runArgs(lab))),
      ...(await pairInPod(lab, "library", [lab.programs.app, lab.programs.library])),
      ...(await inParallel(["client-go", "codedependant"] as const, 1, async (kind) => {
        const { follower, leader, site } = await pair(lab, kind)
        return [candidate(kind, "leader", site, leader), candidate(kind, "follower", site, follower)]
      })).flat()
    ])).flat()
  ]
  // What belongs to the start is over: codedependant asks for one lease duration, and Node compiles for a while.
  await sleep(20_000)
  const results = new Map(watched.map(({ pid }) => [pid, { cpu: [] as Array<number>, rss: [] as Array<number> }]))
  const began = performance.timeOrigin + performance.now()
  let before = await inParallel(watched, 8, ({ pid }) => cpuMillis(pid))
  for (let minute = 1; minute <= lab.options.idleMinutes; minute++) {
    await sleep(began + minute * 60_000 - (performance.timeOrigin + performance.now()))
    const now = await inParallel(watched, 8, ({ pid }) => cpuMillis(pid))
    for (const [index, { pid }] of watched.entries()) {
      results.get(pid)!.cpu.push(round(now[index]! - before[index]!))
      results.get(pid)!.rss.push(round(await rssMiB(pid)))
    }
    before = now
  }
  const made = await requests(lab.cluster, began, began + lab.options.idleMinutes * 60_000)
  await Promise.all(watched.map(({ close }) => close()))

  const subjects: Partial<Record<Subject, AtRest>> = {}
  for (const subject of new Set(watched.map(({ subject }) => subject))) {
    const those = watched.filter((one) => one.subject === subject)
    const users = new Set(those.map(({ user }) => user))
    subjects[subject] = {
      cpuMillisPerMinute: those.flatMap(({ pid }) => results.get(pid)!.cpu),
      rssMiB: those.flatMap(({ pid }) => results.get(pid)!.rss),
      requestsPerMinute: those.flatMap(({ user }) =>
        times(lab.options.idleMinutes).map((minute) =>
          made.filter((request) => request.user === user && Math.floor((request.at - began) / 60_000) === minute).length
        )
      ),
      verbs: countBy(made.filter(({ user }) => users.has(user)), ({ verb }) => verb)
    }
  }
  return subjects
}

// --- Until it takes part ---

/** The time at which `asInPod` has handed over to the program, Unix milliseconds. */
const handedOver = (stderr: string): number => Number(/^(\d+\.\d+)$/m.exec(stderr)?.[1]) * 1_000

export interface Start {
  /** Milliseconds from the start of the process until it has seen who leads. */
  readonly takesPart: Record<Kind, Array<number>>
  /** Milliseconds that loading takes. */
  readonly load: Record<"library" | "codedependant", Array<number>>
  /** KiB of JavaScript that `effect-kubernetes-leader-election run` loads. */
  readonly bundleKiB: number
}

const takesPart = async (lab: Lab, kind: Kind, site: Site): Promise<number> => {
  if (kind === "ours") {
    const process = await startInPod(lab, site, "follower", runArgs(lab))
    await untilLogged(process, "Following")
    const at = performance.timeOrigin + performance.now()
    await process.close()
    await lab.cluster.admin.deletePod(site.namespace, "follower")
    return round(at - handedOver(process.stderr))
  }
  const at = performance.timeOrigin + performance.now()
  const candidate = await start(lab, kind, site, { identity: "two", user: "follower" })
  const line = await candidate.process.waitFor(({ event }) => event === "newLeader", 30_000)
  await candidate.process.close()
  return round(line.receivedAt - at)
}

const load = (what: string): number => {
  const script = `const began = performance.now(); await import(${JSON.stringify(what)}); ` +
    "console.log(performance.now() - began); process.exit()"
  const { stderr, stdout } = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
    cwd: import.meta.dirname,
    encoding: "utf8"
  })
  if (stdout === "") throw new Error(stderr)
  return round(Number(stdout))
}

export const starting = async (lab: Lab): Promise<Start> => {
  const takes: Record<Kind, Array<number>> = { ours: [], "client-go": [], codedependant: [] }
  for (const kind of kinds) {
    const site = await lab.site()
    // Any leader will do: what counts is that the other has seen it.
    await lab.cluster.admin.patchLease(site.namespace, "bench", {
      spec: {
        holderIdentity: "somebody",
        leaseDurationSeconds: 3_600,
        renewTime: new Date().toISOString().replace("Z", "000Z")
      }
    })
    // The first comes with cold files.
    await takesPart(lab, kind, site)
    for (let index = 0; index < lab.options.samples; index++) takes[kind].push(await takesPart(lab, kind, site))
  }
  const loads = {
    library: lab.programs.library,
    codedependant: "@codedependant/kubernetes-leader-election"
  }
  const measured: Start["load"] = { library: [], codedependant: [] }
  for (const name of ["library", "codedependant"] as const) {
    load(loads[name])
    for (let index = 0; index < lab.options.samples; index++) measured[name].push(load(loads[name]))
  }
  return { takesPart: takes, load: measured, bundleKiB: round(bytesLoaded(lab.programs.command) / 1_024) }
}

/** Of a file and all that it imports without being asked to. */
const bytesLoaded = (entry: string): number => {
  const seen = new Map<string, string>()
  const visit = (file: string) => {
    if (seen.has(file)) return
    const text = readFileSync(file, "utf8")
    seen.set(file, text)
    for (const [, path] of text.matchAll(/(?:from|import)\s*"(\.{1,2}\/[^"]+\.js)"/g)) {
      visit(new URL(path!, `file://${file}`).pathname)
    }
  }
  visit(entry)
  return [...seen.values()].reduce((sum, text) => sum + text.length, 0)
}
