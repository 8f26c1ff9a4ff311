/**
 * Snapshots of metrics as StatsD lines, batched into packets.
 *
 * @internal
 */
import type * as Metric from "effect/Metric"

export interface Options {
  readonly dialect: "statsd" | "dogstatsd"
  readonly prefix: string
  readonly tags: Readonly<Record<string, string>>
  readonly omitAttributes: ReadonlyArray<string>
  readonly maxPacketSize: number
}

/** What is to be sent: the packets, and what to forget once they were. */
export interface Batch {
  readonly packets: ReadonlyArray<string>
  readonly commit: () => void
}

export interface Renderer {
  /** What is to be sent of all series as they are now, and of those that are gone. */
  readonly render: (snapshots: ReadonlyArray<Metric.Metric.Snapshot>) => Batch
  /** Takes what removed series were at last. */
  readonly removed: (snapshots: ReadonlyArray<Metric.Metric.Snapshot>) => void
}

type Attributes = Readonly<Record<string, string>>

/** One value with a name of its own. */
interface Part {
  readonly key: string
  readonly type: "count" | "gauge" | "quantile"
  readonly id: string
  readonly attributes: Attributes
  readonly value: number | bigint
  /** A value that only grows: where it is less than before, the series has started again. */
  readonly measure: { readonly key: string; readonly value: number | bigint } | undefined
}

const plainName = (text: string): string => text.replace(/[^A-Za-z0-9_.-]+/g, "_")
// A dot would begin another level of the hierarchy.
const plainSegment = (text: string): string => text.replace(/[^A-Za-z0-9_-]+/g, "_")
const tagKey = (text: string): string => text.replace(/[\s,|#:]+/g, "_")
const tagValue = (text: string): string => text.replace(/[\s,|#]+/g, "_")

/** Up to six decimals, never in the form 1e-7, which StatsD servers do not all read. */
const text = (value: number | bigint): string =>
  typeof value === "bigint" || Number.isInteger(value) ? BigInt(value).toString() : value.toFixed(6)

// A program's attributes are what it passed, whatever their type says.
const word = (value: unknown): string => {
  try {
    return String(value)
  } catch {
    return "unprintable"
  }
}

// What is omitted from the name still distinguishes two series.
const keyOf = (id: string, attributes: Attributes): string => JSON.stringify([id, Object.entries(attributes).sort()])

const partsOf = (metric: Metric.Metric.Snapshot): ReadonlyArray<Part> => {
  const { id } = metric
  const attributes = Object.fromEntries(
    Object.entries(metric.attributes ?? {}).map(([name, value]) => [name, word(value)])
  )
  const part = (
    type: Part["type"],
    name: string,
    value: number | bigint,
    extra: Attributes = {},
    measure?: Part["measure"]
  ): Part => {
    const all = { ...attributes, ...extra }
    return { key: keyOf(name, all), type, id: name, attributes: all, value, measure }
  }
  const growing = (name: string, value: number | bigint, extra: Attributes = {}): Part =>
    part("count", name, value, extra, { key: keyOf(name, { ...attributes, ...extra }), value })
  switch (metric.type) {
    case "Counter":
      return [metric.state.incremental ? growing(id, metric.state.count) : part("count", id, metric.state.count)]
    case "Gauge":
      return [part("gauge", id, metric.state.value)]
    case "Frequency":
      return Array.from(metric.state.occurrences, ([key, occurrences]) => growing(id, occurrences, { key }))
    case "Histogram": {
      const count = growing(`${id}.count`, metric.state.count)
      return [
        count,
        part("count", `${id}.sum`, metric.state.sum, {}, count.measure),
        ...metric.state.buckets.filter(([boundary]) => Number.isFinite(boundary)).map(([boundary, occurrences]) =>
          part("count", `${id}.bucket`, occurrences, { le: `${boundary}` }, count.measure)
        )
      ]
    }
    case "Summary": {
      const count = growing(`${id}.count`, metric.state.count)
      return [
        count,
        part("count", `${id}.sum`, metric.state.sum, {}, count.measure),
        ...metric.state.quantiles.flatMap(([quantile, value]) =>
          value === undefined ? [] : [part("quantile", id, value, { quantile: `${quantile}` })]
        )
      ]
    }
  }
}

/** From one value to a later one; one of another kind counts as none. */
const grown = (before: number | bigint | undefined, value: number | bigint): number | bigint =>
  typeof value === "bigint"
    ? value - (typeof before === "bigint" ? before : 0n)
    : value - (typeof before === "number" ? before : 0)

/**
 * Counters are sent as what they grew by since the last batch that was sent;
 * so are the parts of histograms.
 */
export const make = (options: Options): Renderer => {
  const lines = makeLines(options)
  /** What each count was when it was last looked at. */
  let seen = new Map<string, number | bigint>()
  /** What they grew by, and has not been sent. */
  const owed = new Map<string, Part>()
  /** The gauges that were there when they were last looked at. */
  let shown = new Map<string, Part>()
  /** What is still to be sent of gauges that are gone. */
  const ended = new Map<string, Part>()

  const read = (parts: ReadonlyArray<Part>): Map<string, number | bigint> => {
    const now = new Map<string, number | bigint>()
    for (const part of parts) {
      if (part.type !== "count") {
        continue
      }
      const { key, measure, value } = part
      const last = measure && seen.get(measure.key)
      const before = last !== undefined && last > measure!.value ? undefined : seen.get(key)
      if (typeof value === "number" && !Number.isFinite(value)) {
        if (before !== undefined) {
          now.set(key, before)
        }
        continue
      }
      now.set(key, value)
      const delta = grown(before, value)
      // oxlint-disable-next-line eqeqeq -- 0 or 0n
      if (delta != 0) {
        const former = owed.get(key)?.value
        owed.set(key, { ...part, value: former === undefined ? delta : add(former, delta) })
      }
    }
    return now
  }

  return {
    removed: (snapshots) => {
      const parts = snapshots.flatMap(partsOf)
      read(parts)
      for (const part of parts) {
        seen.delete(part.key)
        shown.delete(part.key)
        if (part.type === "gauge") {
          ended.set(part.key, part)
        }
      }
    },
    render: (snapshots) => {
      const parts = snapshots.flatMap(partsOf)
      // Without those that are gone: where one comes back, it starts again.
      seen = read(parts)
      const gauges = new Map(parts.filter(({ type }) => type === "gauge").map((part) => [part.key, part]))
      for (const [key, part] of shown) {
        if (!gauges.has(key)) {
          ended.set(key, { ...part, value: 0 })
        }
      }
      for (const key of gauges.keys()) {
        ended.delete(key)
      }
      shown = gauges
      const last = [...ended.values()]
      const counts = [...owed.values()]
      const groups = [
        // First: where plain StatsD has one name for several, what is still there stands.
        ...last.map(lines),
        ...counts.map(lines),
        ...parts.filter(({ type }) => type !== "count").map(lines)
      ]
      return {
        packets: pack(groups.filter((group) => group.length > 0), options.maxPacketSize),
        commit: () => {
          for (const part of last) {
            if (ended.get(part.key) === part) {
              ended.delete(part.key)
            }
          }
          for (const part of counts) {
            settle(owed, part)
          }
        }
      }
    }
  }
}

const add = (a: number | bigint, b: number | bigint): number | bigint =>
  typeof a === "bigint" ? a + BigInt(b) : a + Number(b)

/** Takes off what was sent; more may have come to it meanwhile. */
const settle = (owed: Map<string, Part>, sent: Part): void => {
  const part = owed.get(sent.key)
  if (part === sent) {
    owed.delete(sent.key)
  } else if (part !== undefined) {
    owed.set(sent.key, { ...part, value: grown(sent.value, part.value) })
  }
}

/** The lines of a part, which stay together. */
const makeLines = (options: Options): (part: Part) => ReadonlyArray<string> => {
  const isTagged = options.dialect === "dogstatsd"
  const address = ({ attributes, id }: Part) => {
    const all: Attributes = { ...options.tags, ...attributes }
    const keys = Object.keys(all).sort()
    if (isTagged) {
      const tags = keys.map((key) => `${tagKey(key)}:${tagValue(all[key]!)}`)
      return { name: plainName(options.prefix + id), tags: tags.length === 0 ? "" : `|#${tags.join(",")}` }
    }
    const segments = keys.filter((key) => !options.omitAttributes.includes(key)).map((key) => plainSegment(all[key]!))
    return { name: [plainName(options.prefix + id), ...segments].join("."), tags: "" }
  }
  return (part) => {
    const { type, value } = part
    if (typeof value === "number" && !Number.isFinite(value)) {
      return []
    }
    const { name, tags } = address(part)
    const line = `${name}:${text(value)}|${type === "count" ? "c" : "g"}${tags}`
    // Plain StatsD takes a sign for a change: a negative value is a change from 0, in the same packet.
    return type !== "count" && value < 0 && !isTagged ? [`${name}:0|g`, line] : [line]
  }
}

/** Fills packets up to a size in bytes. Lines of one group stay together; what is larger goes alone. */
const pack = (groups: ReadonlyArray<ReadonlyArray<string>>, maxPacketSize: number): ReadonlyArray<string> => {
  const packets: Array<string> = []
  let packet = ""
  for (const group of groups) {
    const lines = group.join("\n")
    const joined = packet === "" ? lines : `${packet}\n${lines}`
    if (packet !== "" && Buffer.byteLength(joined) > maxPacketSize) {
      packets.push(packet)
      packet = lines
    } else {
      packet = joined
    }
  }
  return packet === "" ? packets : [...packets, packet]
}
