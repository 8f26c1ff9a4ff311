/**
 * Makes the table in docs/benchmarks.md, between its markers, and the picture
 * docs/benchmarks.svg, both of bench/results.json.
 *
 *     node bench/report.ts
 */
import { readFile, writeFile } from "node:fs/promises"
import { resolve } from "node:path"
import type { AtRest, Start, Subject } from "./footprint.ts"
import type { CutOff, Graceful, PodDeleted, Samples } from "./handover.ts"
import type { CrowdResult, ElectionsResult, EtcdResult, FollowersResult, Handover, Load } from "./scale.ts"
import type { Phase, ShardsResult } from "./shards.ts"
import { type Kind, kinds, type Machine, repository } from "./support.ts"

type Part<A> = Machine & {
  readonly samples: number
  readonly seconds: number
  readonly versions: Record<string, string>
  readonly result: A
}

interface Parts {
  readonly start?: Part<Start>
  readonly graceful?: Part<Graceful>
  readonly crash?: Part<Record<Kind, Samples>>
  readonly podDeleted?: Part<PodDeleted>
  readonly cutOff?: Part<Record<Kind, CutOff>>
  readonly etcd?: Part<Record<Kind, EtcdResult>>
  readonly atRest?: Part<Partial<Record<Subject, AtRest>>>
  readonly followers?: Part<FollowersResult>
  readonly elections?: Part<ElectionsResult>
  readonly shards?: Part<ShardsResult>
}

const input = resolve(repository, process.argv[2] ?? "bench/results.json")
const { parts }: { readonly parts: Parts } = JSON.parse(await readFile(input, "utf8"))

// --- Numbers ---

const sorted = (samples: ReadonlyArray<number | null>) =>
  samples.map((value) => value ?? Infinity).sort((a, b) => a - b)

const quantile = (samples: ReadonlyArray<number | null>, q: number): number => {
  const values = sorted(samples)
  return values[Math.min(values.length - 1, Math.max(0, Math.ceil(q * values.length) - 1))] ?? Number.NaN
}

const median = (samples: ReadonlyArray<number | null>): number => {
  const values = sorted(samples)
  const middle = values.length / 2
  return values.length % 2 === 1 ? values[Math.floor(middle)]! : (values[middle - 1]! + values[middle]!) / 2
}

const digits = (value: number): string =>
  value === 0
    ? "0"
    : Math.abs(value) >= 100
    ? value.toFixed(0)
    : Math.abs(value) >= 10
    ? value.toFixed(1)
    : value.toFixed(2)

const milliseconds = (value: number): string =>
  value === Infinity ? "never" : Math.abs(value) < 1_000 ? `${digits(value)} ms` : `${digits(value / 1_000)} s`

const unit = (name: string) => (value: number): string =>
  value === Infinity ? "never" : `${digits(value)} ${name}`.trimEnd()

const cell = (samples: ReadonlyArray<number | null> | undefined, show: (value: number) => string): string => {
  if (samples === undefined || samples.length === 0) return "—"
  const values = [median(samples), quantile(samples, 0.95), quantile(samples, 1)]
  return values.every((value) => value === values[0])
    ? `${show(values[0]!)} (n = ${samples.length})`
    : `**${show(values[0]!)}** (p95 ${show(values[1]!)}, max ${show(values[2]!)}; n = ${samples.length})`
}

const verdict = (met: boolean | undefined): string => met === undefined ? "" : met ? "met" : "**missed**"

// --- The table ---

interface Row {
  readonly what: string
  readonly target: string
  readonly met: boolean | undefined
  readonly cells: ReadonlyArray<string>
}

const rows: Array<Row> = []

const row = (what: string, target: string, met: boolean | undefined, ...cells: ReadonlyArray<string>) => {
  rows.push({ what, target, met, cells })
}

const byKind = <A>(of: (kind: Kind) => A): ReadonlyArray<A> => kinds.map(of)

const { atRest, crash, cutOff, elections, etcd, followers, graceful, podDeleted, shards, start } = parts

if (graceful !== undefined) {
  const { result } = graceful
  const faster = median(result["client-go"]) / median(result.ours)
  row(
    `SIGTERM to the leader, until the next one leads`,
    "≤ 25 ms, 50 times as fast as client-go",
    median(result.ours) <= 25 && faster >= 50,
    ...byKind((kind) => cell(result[kind], milliseconds))
  )
  const { begin, release, released, take, taken } = result.stages
  row(
    "… until the release arrives, is answered; the take arrives, is answered; the program runs",
    "",
    undefined,
    `${[release, released, take, taken, begin].map((samples) => digits(median(samples))).join(" + ")} ms`,
    "",
    ""
  )
  row(
    "… with all code compiled at the start (`node --no-lazy`)",
    "",
    undefined,
    `${cell(result.eager.samples, milliseconds)}, and ${
      digits(median(result.eager.rssMiB) - median(result.rssMiB))
    } MiB more`,
    "",
    ""
  )
}
if (crash !== undefined) {
  row(
    "kill -9 of the leader: past the end of its lease",
    "≤ 50 ms",
    median(crash.result.ours) <= 50,
    ...byKind((kind) => cell(crash.result[kind], milliseconds))
  )
}
if (podDeleted !== undefined) {
  row(
    "Pod deleted, leader dead, `newLease: \"lead\"`",
    "≤ 100 ms",
    median(podDeleted.result.lead) <= 100,
    cell(podDeleted.result.lead, milliseconds),
    "no owner: as after kill -9",
    "no owner: never"
  )
  row(
    "the same with `newLease: \"wait\"`, the default",
    "",
    undefined,
    cell(podDeleted.result.wait, milliseconds),
    "",
    ""
  )
}
if (cutOff !== undefined) {
  row(
    "leader cut off, connections stalled: with two leaders",
    "0",
    cutOff.result.ours.overlap.every((seconds) => seconds === 0),
    ...byKind((kind) =>
      cutOff.result[kind].next.every((next) => next === null)
        ? "no successor within a minute"
        : cell(cutOff.result[kind].overlap, unit("s"))
    )
  )
  row(
    "… until the old leader's program is interrupted",
    "",
    undefined,
    ...byKind((kind) => cell(cutOff.result[kind].told, milliseconds))
  )
}
if (atRest !== undefined) {
  const { result } = atRest
  const of = (role: "leader" | "follower", what: "requestsPerMinute" | "cpuMillisPerMinute" | "rssMiB", name: string) =>
    byKind((kind) => cell(result[`${kind} ${role}`]?.[what], unit(name)))
  const ours = (role: "leader" | "follower") => result[`ours ${role}`]!
  row(
    "requests of an idle follower, per minute",
    "0",
    median(ours("follower").requestsPerMinute) === 0,
    ...of("follower", "requestsPerMinute", "")
  )
  row(
    "requests of a leader, per minute",
    "≤ 12 writes",
    median(ours("leader").requestsPerMinute) <= 12,
    ...of("leader", "requestsPerMinute", "")
  )
  row(
    "CPU of an idle follower, per minute",
    "≤ 30 ms",
    median(ours("follower").cpuMillisPerMinute) <= 30,
    ...of("follower", "cpuMillisPerMinute", "ms")
  )
  row("CPU of a leader, per minute", "", undefined, ...of("leader", "cpuMillisPerMinute", "ms"))
  row(
    "memory (RSS) of an idle follower; ours is `effect-kubernetes-leader-election run`",
    "≤ 80 MiB",
    median(ours("follower").rssMiB) <= 80,
    ...of("follower", "rssMiB", "MiB")
  )
  row("memory (RSS) of a leader", "", undefined, ...of("leader", "rssMiB", "MiB"))
  row(
    "memory of the README's program, following",
    "",
    undefined,
    cell(result["library follower"]?.rssMiB, unit("MiB")),
    "",
    ""
  )
  row(
    "CPU of the README's program, following, per minute",
    "",
    undefined,
    cell(result["library follower"]?.cpuMillisPerMinute, unit("ms")),
    "",
    ""
  )
  row(
    "an idle Node process, for comparison",
    "",
    undefined,
    `${digits(median(result["bare Node"]!.rssMiB))} MiB, ${
      digits(median(result["bare Node"]!.cpuMillisPerMinute))
    } ms per minute`,
    "",
    ""
  )
}
if (start !== undefined) {
  const { load, takesPart } = start.result
  row(
    "process start until it takes part; ours is `effect-kubernetes-leader-election run`",
    "≤ 300 ms",
    median(takesPart.ours) <= 300,
    ...byKind((kind) => cell(takesPart[kind], milliseconds))
  )
  row(
    "loading the library",
    "",
    undefined,
    cell(load.library, milliseconds),
    "",
    cell(load.codedependant, milliseconds)
  )
}
if (etcd !== undefined) {
  row(
    "written to etcd by one leader, per hour",
    "",
    undefined,
    ...byKind((kind) => {
      const { bytesPerLeaderHour, bytesPerWrite, writesPerMinute } = etcd.result[kind]
      return `${digits(bytesPerLeaderHour / 1_024)} KiB (${
        digits(writesPerMinute)
      } writes a minute of ${bytesPerWrite} bytes)`
    })
  )
}

const scale: Array<readonly [string, string, boolean | undefined, string]> = []

if (elections !== undefined) {
  const { result } = elections
  const { failover, rest, restart, slow, standby } = result
  const n = result.elections.toLocaleString("en")
  scale.push(
    ["heap for each", "≤ 100 kB", result.bytesPerElection <= 100_000, `${digits(result.bytesPerElection / 1_000)} kB`],
    ["memory of the process (RSS)", "", undefined, `${digits(result.rssMiB)} MiB`],
    [
      "event loop delay",
      "p99 ≤ 20 ms",
      rest.delayP99 <= 20,
      `p50 ${digits(rest.delayP50)} ms, p99 ${digits(rest.delayP99)} ms, max ${digits(rest.delayMax)} ms`
    ],
    [`lost in ${digits(rest.minutes)} minutes`, "0", rest.lost === 0, `${rest.lost}`],
    ["CPU", "", undefined, `${digits(rest.cpuPercent)} % of a core`],
    [
      "requests",
      "",
      undefined,
      `${digits(rest.requestsPerSecond)} a second (${
        Object.entries(rest.requests).map(([verb, count]) => `${count} ${verb}`).join(", ")
      })`
    ],
    [
      "API server, etcd",
      "",
      undefined,
      `${digits(rest.servers.apiServerCpuPercent)} % and ${digits(rest.servers.etcdCpuPercent)} % of a core; ${
        digits(rest.servers.walBytesPerSecond / 1_024)
      } KiB a second to etcd`
    ],
    [
      "from nothing until all lead (15 s of it is the age of new Leases)",
      "",
      undefined,
      `${digits(result.secondsUntilAllLead)} s`
    ],
    [
      "a second process that follows all",
      "",
      undefined,
      `${Object.values(standby.requests).reduce((sum, count) => sum + count, 0)} requests in 20 s, ${
        digits(standby.cpuPercent)
      } % of a core, ${digits(standby.rssMiB)} MiB`
    ],
    [
      "kill -9: taken over by it, past the end of each lease",
      "all",
      failover.missing === 0,
      `${result.elections - failover.missing} of ${n}; ${cell(failover.late, milliseconds)}`
    ],
    [`every answer ${slow.addedMillis} ms late, for ${slow.seconds} s: lost`, "0", slow.lost === 0, `${slow.lost}`],
    ["API server ended, another one beside it: lost", "0", restart.lostWithAnother === 0, `${restart.lostWithAnother}`],
    [
      `the only API server killed and started, ${digits(restart.secondsDown)} s: lost`,
      "0",
      restart.lost === 0,
      `${restart.lost}`
    ]
  )
}

const crowd: Array<ReadonlyArray<string>> = []

if (followers !== undefined) {
  const { result } = followers
  const list = (requests: Record<string, number>, per: number) =>
    Object.entries(requests).map(([what, count]) => `${digits(count / per)} ${what}`).join(", ")
  const millisOf = (handovers: ReadonlyArray<Handover>) => handovers.map(({ millis }) => millis)
  const conflictsOf = (handovers: ReadonlyArray<Handover>) =>
    handovers.map(({ requests }) => (requests["patch 409"] ?? 0) + (requests["update 409"] ?? 0))
  const total = (handovers: ReadonlyArray<Handover>): Record<string, number> => {
    const sum: Record<string, number> = {}
    for (const { requests } of handovers) {
      for (const [what, count] of Object.entries(requests)) sum[what] = (sum[what] ?? 0) + count
    }
    return sum
  }
  const atRest = ({ requests, seconds, servers }: Load) =>
    `${list(requests, seconds / 60)}; ${digits(servers.apiServerCpuPercent)} % and ${
      digits(servers.etcdCpuPercent)
    } % of a core`
  const add = (
    who: string,
    { candidates, floor, rest }: Partial<CrowdResult>,
    handovers: ReadonlyArray<Handover>
  ) => {
    const millis = millisOf(handovers)
    const conflicts = conflictsOf(handovers)
    const met = floor && candidates === 200
      ? median(millis) <= median(millisOf(floor)) + 30 && median(conflicts) <= 10
      : undefined
    crowd.push([
      who,
      verdict(met),
      cell(millis, milliseconds),
      cell(conflicts, unit("")),
      list(total(handovers), handovers.length),
      rest === undefined ? "" : atRest(rest)
    ])
  }
  for (const crowd of [result.ours, result.thousand]) {
    const candidates = crowd.candidates.toLocaleString("en")
    add(`ours, ${candidates} with \`candidates: ${crowd.candidates}\``, crowd, crowd.handovers)
    add(`… in turn with these: one of the ${candidates} writes, and the others only watch`, {}, crowd.floor ?? [])
  }
  add(`ours, ${result.unset.candidates} without this setting`, result.unset, result.unset.handovers)
  const { "client-go": other } = result
  add(`client-go, ${other.candidates} processes`, other, other.handovers)
}

const sharing: Array<ReadonlyArray<string>> = []

if (shards !== undefined) {
  const { result: { "client-go": clientGo, ours } } = shards
  const cells = (phase: Phase | undefined): ReadonlyArray<string> =>
    phase === undefined ? ["", "", "", ""] : [
      `${phase.moves}${phase.mostMovesOfOne > 1 ? ` (one ${phase.mostMovesOfOne} times)` : ""}`,
      phase.spread.join(", "),
      phase.longestWithoutLeader === 0 ? "" : milliseconds(phase.longestWithoutLeader),
      `${phase.requestsPerMinute}`
    ]
  const phases: ReadonlyArray<readonly [string, Phase, Phase?]> = [
    ["first start of five", ours.firstStart, clientGo.firstStart],
    ["at rest", ours.atRest, clientGo.atRest],
    ["one joins", ours.join],
    ["one gets SIGTERM (client-go: the one that leads most)", ours.leave, clientGo.leave],
    ["one is cut off", ours.cutOff],
    ["it is connected again", ours.connected],
    ["one gets kill -9 (client-go: the one that leads most)", ours.killed, clientGo.killed],
    ["one joins in its place", ours.replaced],
    ["rolling update: each new one is ready before an old one ends", ours.rollingUpdate]
  ]
  for (const [what, one, other] of phases) {
    sharing.push([what, ...cells(one), ...cells(other)])
  }
}

// Sharing has a line of its own that says when it was measured.
const { shards: _, ...compared } = parts
const some = Object.values(compared).find((part) => part !== undefined)!
const began = Object.values(compared).map((part) => part.time).sort()[0]!
const ended = new Date(
  Math.max(...Object.values(compared).map((part) => Date.parse(part.time) + part.seconds * 1_000))
).toISOString()

const text = [
  `Measured ${began.slice(0, 10)}, ${began.slice(11, 16)} to ` +
  `${ended.slice(0, 10) === began.slice(0, 10) ? "" : `${ended.slice(0, 10)}, `}${
    ended.slice(11, 16)
  } UTC, on ${some.cores} cores ` +
  `(${some.cpu}), ${some.memoryGiB} GiB, Linux ${some.kernel.split("-")[0]}; Node ${some.versions["node"]}, ` +
  `Kubernetes ${some.versions["kubernetes"]}, client-go ${some.versions["client-go"]}, ` +
  `@codedependant/kubernetes-leader-election ${some.versions["@codedependant/kubernetes-leader-election"]}. ` +
  `Median (95th percentile, maximum; samples).`,
  "",
  "| | target | | ours | client-go | @codedependant |",
  "|---|---|---|---|---|---|",
  ...rows.map(({ cells, met, target, what }) => `| ${what} | ${target} | ${verdict(met)} | ${cells.join(" | ")} |`),
  ...(scale.length === 0 ? [] : [
    "",
    `**${elections!.result.elections.toLocaleString("en")} elections in one process**`,
    "",
    "| | target | | measured |",
    "|---|---|---|---|",
    ...scale.map(([what, target, met, measured]) => `| ${what} | ${target} | ${verdict(met)} | ${measured} |`)
  ]),
  ...(crowd.length === 0 ? [] : [
    "",
    `**A crowd on one Lease** (ours: ${followers!.result.ours.processes} processes; the target: the median at most ` +
    "30 ms more than where one writes, and at most 10 conflicts)",
    "",
    "| | target | SIGTERM or step-down, until the next one leads | conflicts in each | requests in each | " +
    "at rest, requests per minute, API server and etcd |",
    "|---|---|---|---|---|---|",
    ...crowd.map((cells) => `| ${cells.join(" | ")} |`)
  ]),
  ...(shards === undefined ? [] : [
    "",
    `**${shards.result.shards} Leases in ${shards.result.replicas} processes** (ours: ` +
    `[\`LeaderShards\`](shards.md); client-go: an elector for each Lease in every process). Measured ` +
    `${shards.time.slice(0, 10)} with ${digits(shards.loadAverage)} processes waiting for ${shards.cores} cores; ` +
    `led by each is in ascending order, and requests are a minute's.`,
    "",
    "| | ours: moves | led by each | longest without leader | requests | client-go: moves | led by each | longest " +
    "without leader | requests |",
    "|---|---|---|---|---|---|---|---|---|",
    ...sharing.map((cells) => `| ${cells.join(" | ")} |`)
  ])
].join("\n")

const document = resolve(repository, "docs/benchmarks.md")
const markers = ["<!-- results: node bench/report.ts -->", "<!-- end of results -->"] as const
const old = await readFile(document, "utf8")
const [from, to] = markers.map((marker) => old.indexOf(marker)) as [number, number]
if (from < 0 || to < from) throw new Error(`docs/benchmarks.md lacks the markers ${markers.join(" and ")}`)
await writeFile(document, `${old.slice(0, from + markers[0].length)}\n\n${text}\n\n${old.slice(to)}`)

// --- The picture: a point for each sample, on a logarithmic scale ---

interface Strip {
  readonly title: string
  readonly unit: "ms" | "MiB"
  readonly series: ReadonlyArray<readonly [string, ReadonlyArray<number | null> | undefined]>
}

const named = (of: (kind: Kind) => ReadonlyArray<number | null> | undefined) =>
  kinds.map((kind) => [kind, of(kind)] as const)

const strips: ReadonlyArray<Strip> = [
  { title: "Graceful handover", unit: "ms", series: named((kind) => graceful?.result[kind]) },
  { title: "After kill -9, past the lease's end", unit: "ms", series: named((kind) => crash?.result[kind]) },
  {
    title: "After the Pod's deletion",
    unit: "ms",
    series: [["ours, newLease lead", podDeleted?.result.lead], ["ours, newLease wait", podDeleted?.result.wait]]
  },
  { title: "Process start until it takes part", unit: "ms", series: named((kind) => start?.result.takesPart[kind]) },
  {
    title: "CPU of an idle follower, per minute",
    unit: "ms",
    series: named((kind) => atRest?.result[`${kind} follower`]?.cpuMillisPerMinute)
  },
  {
    title: "1,000 elections: takeover past each lease's end",
    unit: "ms",
    series: [["ours", elections?.result.failover.late]]
  }
]

const colours: Record<string, string> = { ours: "#1a7f5a", "client-go": "#3b6fb6", codedependant: "#b5563c" }
const left = 190
const width = 640
const decades = [1, 10, 100, 1_000, 10_000, 100_000]
const x = (value: number) => left + width * Math.log10(Math.max(1, Math.min(value, 1e5))) / 5
const label = (value: number) => value < 1_000 ? `${value} ms` : `${value / 1_000} s`
const escape = (value: string) => value.replaceAll("&", "&amp;").replaceAll("<", "&lt;")

const body: Array<string> = []
let y = 20
for (const { series, title } of strips) {
  const present = series.flatMap(([name, samples]) =>
    samples === undefined || samples.length === 0 ? [] : [[name, samples] as const]
  )
  if (present.length === 0) continue
  const top = y + 14
  const bottom = top + present.length * 24
  body.push(`<text x="10" y="${y + 6}" class="title">${escape(title)}</text>`)
  for (const decade of decades) {
    body.push(`<line x1="${x(decade)}" x2="${x(decade)}" y1="${top}" y2="${bottom}" class="grid"/>`)
    body.push(`<text x="${x(decade)}" y="${bottom + 13}" class="axis">${label(decade)}</text>`)
  }
  for (const [index, [name, samples]] of present.entries()) {
    const centre = top + index * 24 + 12
    const colour = colours[name.split(",")[0]!] ?? "#555"
    body.push(`<text x="${left - 10}" y="${centre + 4}" class="name">${escape(name)}</text>`)
    // Spread over the height, so that equal samples are seen as many.
    samples.forEach((value, position) => {
      const offset = (position * 7) % 13 - 6
      body.push(
        value === null
          ? `<text x="${left + width + 6}" y="${centre + 4}" class="axis" text-anchor="start">never</text>`
          : `<circle cx="${x(value).toFixed(1)}" cy="${
            (centre + offset).toFixed(1)
          }" r="2.5" fill="${colour}" fill-opacity="0.55"/>`
      )
    })
    const middle = median(samples)
    if (middle !== Infinity) {
      body.push(
        `<line x1="${x(middle).toFixed(1)}" x2="${x(middle).toFixed(1)}" y1="${centre - 10}" y2="${
          centre + 10
        }" stroke="${colour}" stroke-width="2"/>`
      )
    }
  }
  y = bottom + 36
}

const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 890 ${y}" font-family="sans-serif">
<style>
.title { font-size: 13px; font-weight: bold; fill: #222 }
.name { font-size: 12px; text-anchor: end; fill: #333 }
.axis { font-size: 10px; text-anchor: middle; fill: #666 }
.grid { stroke: #ddd; stroke-width: 1 }
</style>
<rect width="890" height="${y}" fill="#fff"/>
${body.join("\n")}
</svg>
`
await writeFile(resolve(repository, "docs/benchmarks.svg"), svg)
