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

/** What a snapshot comes to: the packets, and what to remember once they were sent. */
export interface Batch {
  readonly packets: ReadonlyArray<string>
  readonly commit: () => void
}

const plainName = (text: string): string => text.replace(/[^A-Za-z0-9_.-]+/g, "_")
// A dot would begin another level of the hierarchy.
const plainSegment = (text: string): string => text.replace(/[^A-Za-z0-9_-]+/g, "_")
const tagKey = (text: string): string => text.replace(/[\s,|#:]+/g, "_")
const tagValue = (text: string): string => text.replace(/[\s,|#]+/g, "_")

/** Up to six decimals, never in the form 1e-7, which StatsD servers do not all read. */
const text = (value: number | bigint): string =>
  typeof value === "bigint" || Number.isInteger(value) ? BigInt(value).toString() : value.toFixed(6)

/**
 * Counters are sent as what they grew by since the last batch that was sent;
 * so are the parts of histograms.
 */
export const make = (options: Options): (snapshots: ReadonlyArray<Metric.Metric.Snapshot>) => Batch => {
  const isTagged = options.dialect === "dogstatsd"
  let sent = new Map<string, number | bigint>()

  return (snapshots) => {
    const next = new Map(sent)
    const groups: Array<ReadonlyArray<string>> = []

    const address = (id: string, attributes: Readonly<Record<string, string>>) => {
      const all = { ...options.tags, ...attributes }
      const keys = Object.keys(all).sort()
      if (isTagged) {
        const tags = keys.map((key) => `${tagKey(key)}:${tagValue(all[key]!)}`)
        return { name: plainName(options.prefix + id), tags: tags.length === 0 ? "" : `|#${tags.join(",")}` }
      }
      const segments = keys.filter((key) => !options.omitAttributes.includes(key)).map((key) => plainSegment(all[key]!))
      return { name: [plainName(options.prefix + id), ...segments].join("."), tags: "" }
    }

    const count = (id: string, attributes: Readonly<Record<string, string>>, value: number | bigint) => {
      // What is omitted from the name still distinguishes two series.
      const key = JSON.stringify([id, Object.entries(attributes).sort()])
      const before = sent.get(key)
      const delta = typeof value === "bigint" ? value - BigInt(before ?? 0) : value - Number(before ?? 0)
      if (typeof delta === "bigint" ? delta === 0n : delta === 0 || !Number.isFinite(delta)) {
        return
      }
      next.set(key, value)
      const { name, tags } = address(id, attributes)
      groups.push([`${name}:${text(delta)}|c${tags}`])
    }

    const gauge = (id: string, attributes: Readonly<Record<string, string>>, value: number | bigint) => {
      if (typeof value === "number" && !Number.isFinite(value)) {
        return
      }
      const { name, tags } = address(id, attributes)
      const line = `${name}:${text(value)}|g${tags}`
      // Plain StatsD takes a sign for a change: a negative value is a change from 0, in the same packet.
      groups.push(value < 0 && !isTagged ? [`${name}:0|g`, line] : [line])
    }

    for (const metric of snapshots) {
      const { id } = metric
      const attributes = metric.attributes ?? {}
      switch (metric.type) {
        case "Counter": {
          count(id, attributes, metric.state.count)
          break
        }
        case "Gauge": {
          gauge(id, attributes, metric.state.value)
          break
        }
        case "Frequency": {
          for (const [key, occurrences] of metric.state.occurrences) {
            count(id, { ...attributes, key }, occurrences)
          }
          break
        }
        case "Histogram": {
          count(`${id}.count`, attributes, metric.state.count)
          count(`${id}.sum`, attributes, metric.state.sum)
          for (const [boundary, occurrences] of metric.state.buckets) {
            if (Number.isFinite(boundary)) {
              count(`${id}.bucket`, { ...attributes, le: `${boundary}` }, occurrences)
            }
          }
          break
        }
        case "Summary": {
          count(`${id}.count`, attributes, metric.state.count)
          count(`${id}.sum`, attributes, metric.state.sum)
          for (const [quantile, value] of metric.state.quantiles) {
            if (value !== undefined) {
              gauge(id, { ...attributes, quantile: `${quantile}` }, value)
            }
          }
          break
        }
      }
    }

    return {
      packets: pack(groups, options.maxPacketSize),
      commit: () => {
        sent = next
      }
    }
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
