/**
 * Sends all metrics of the process to a StatsD or DogStatsD server over UDP.
 *
 * The election's metrics and those of your own program go the same way. Nothing
 * here ever fails or delays the program: where nobody listens, packets are lost,
 * as is usual with StatsD.
 *
 * @since 0.1.0
 */
import * as NodeDatagramSocket from "@effect/platform-node/NodeDatagramSocket"
import * as Config from "effect/Config"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import * as DurationText from "./internal/duration.ts"
import * as Log from "./internal/log.ts"
import * as RemovedSeries from "./internal/removedSeries.ts"
import * as Statsd from "./internal/statsd.ts"
import type { DurationInput } from "./LeaderElectionConfig.ts"

/**
 * Where to send, and in which words.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** By default `STATSD_HOST`, or `127.0.0.1`. Looked up again for each batch. */
  readonly host?: string | undefined
  /** By default `STATSD_PORT`, or 8125. */
  readonly port?: number | undefined
  /**
   * `dogstatsd` sends attributes as tags; `statsd` has none, and puts their
   * values behind the name. By default `STATSD_DIALECT`, or `statsd`.
   */
  readonly dialect?: "statsd" | "dogstatsd" | undefined
  /** Put before each name, as it is: `"invoices."`. By default `STATSD_PREFIX`, or nothing. */
  readonly prefix?: string | undefined
  /** Attributes for all metrics; none by default. */
  readonly tags?: Readonly<Record<string, string>> | undefined
  /**
   * Attributes that plain StatsD names go without; `["lease"]` by default, so
   * that `leader_running` is called as the Ruby gem calls it. A process with
   * several elections gives `[]`: their gauges would have one name.
   */
  readonly omitAttributes?: ReadonlyArray<string> | undefined
  /** How often; 10 seconds by default, as often as StatsD servers pass on what they got. */
  readonly interval?: DurationInput | undefined
  /** The most bytes in a packet; 1432 by default, what an Ethernet frame has room for. */
  readonly maxPacketSize?: number | undefined
}

/**
 * A Service called `statsd` in the namespace has Kubernetes set STATSD_PORT to
 * `tcp://10.0.0.1:8125` in every container: a link to that Service, and not what
 * is meant here.
 */
const serviceLink = /^\w+:\/\//

interface Settings extends Statsd.Options {
  readonly host: string
  readonly port: number
  readonly interval: Duration.Duration
}

const isWord = (value: unknown): boolean =>
  typeof value === "string" || typeof value === "number" || typeof value === "boolean"
const isText = (value: unknown): boolean => typeof value === "string"
const isWhole = (value: unknown, most: number): boolean =>
  Number.isInteger(Number(value)) && Number(value) >= 1 && Number(value) <= most
const quote = (value: unknown): string => isText(value) ? JSON.stringify(value) : String(value)

// What a UDP datagram holds over IPv4.
const maxDatagram = 65_507

/** All settings, checked together; each variable is read only where its option is missing. */
const settings = Effect.fnUntraced(function*(options: Options): Effect.fn.Return<Settings, Config.ConfigError> {
  const problems: Array<string> = []
  const check = ([what, value]: readonly [string, unknown], isRight: boolean, remedy: string) => {
    if (!isRight) {
      problems.push(`${what} is ${quote(value)}: ${remedy}`)
    }
  }
  const setting = Effect.fnUntraced(function*(name: "host" | "port" | "dialect" | "prefix", fallback: string) {
    const option = options[name] ?? undefined
    if (option !== undefined) {
      return [name, option] as const
    }
    const variable = `STATSD_${name.toUpperCase()}`
    const text = Option.getOrElse(yield* Config.option(Config.String(variable)), () => "")
    return [variable, text === "" || (name === "port" && serviceLink.test(text)) ? fallback : text] as const
  })
  const host = yield* setting("host", "127.0.0.1")
  check(host, isText(host[1]) && host[1] !== "", "give a host name or an address")
  const port = yield* setting("port", "8125")
  check(port, isWhole(port[1], 65_535), "give a port, from 1 to 65535")
  const dialect = yield* setting("dialect", "statsd")
  check(dialect, dialect[1] === "statsd" || dialect[1] === "dogstatsd", "give statsd or dogstatsd")
  const prefix = yield* setting("prefix", "")
  check(prefix, isText(prefix[1]), "give text")
  const tags = options.tags ?? {}
  for (const [name, value] of Object.entries(tags)) {
    check([`tags.${name}`, value], isWord(value), "give text, or leave it out")
  }
  const omitAttributes = options.omitAttributes ?? ["lease"]
  check(["omitAttributes", omitAttributes], Array.isArray(omitAttributes), "give a list of names")
  const maxPacketSize = options.maxPacketSize ?? 1432
  check(["maxPacketSize", maxPacketSize], isWhole(maxPacketSize, maxDatagram), `give bytes, from 1 to ${maxDatagram}`)
  const interval = options.interval ?? "10 seconds"
  const problem = DurationText.problem(interval, leastInterval)
  if (problem !== undefined) {
    problems.push(`interval ${problem}`)
  }
  if (problems.length > 0) {
    return yield* Effect.fail(new Config.ConfigError(new ConfigProvider.SourceError({ message: problems.join("; ") })))
  }
  return {
    host: String(host[1]),
    port: Number(port[1]),
    dialect: dialect[1] === "dogstatsd" ? "dogstatsd" : "statsd",
    prefix: String(prefix[1]),
    tags: Object.fromEntries(Object.entries(tags).map(([name, value]) => [name, String(value)])),
    omitAttributes,
    maxPacketSize,
    interval: DurationText.read(interval)!
  }
})

const leastInterval = Duration.millis(10)

/**
 * Sends all metrics while the layer lives, and once more at its end.
 *
 * **Details**
 *
 * - Counters are sent as counts: what they grew by since the last batch. What
 *   has not grown is not sent.
 * - Gauges are sent as gauges, with each batch. One that is gone is sent once
 *   more: as it was at last where its election has ended, else as 0.
 * - The series of an election that has ended go with the next batch, and with
 *   the last one whatever the order of the layers.
 * - Histograms are sent as the counts `.count`, `.sum` and `.bucket` (attribute
 *   `le`; all values up to it): nothing is made up, and the mean is the quotient
 *   of the first two. Summaries likewise, with a gauge for each `quantile`.
 *
 * Where a batch cannot be sent (a host name that cannot be looked up), its
 * counts go with the next one; this is logged once. Options and variables that
 * are wrong are reported together, when the layer is built.
 *
 * **Example** (Sending metrics to the node's agent)
 *
 * ```ts
 * import { Layer } from "effect"
 * import { LeaderElectionLive, StatsD } from "effect-kubernetes-leader-election"
 *
 * export const MainLive = Layer.mergeAll(LeaderElectionLive, StatsD.layer({ dialect: "dogstatsd" }))
 * ```
 *
 * **Gotchas**
 *
 * - Build one such layer in a process: each has its own idea of what was sent.
 * - Plain StatsD has a gauge for each Pod, and many daemons repeat its last value
 *   for ever: after a leader was killed, its `leader_election_leader` stays 1.
 *   Look at the rate of the counter `leader_running`, which grows only while a
 *   process leads.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options = {}): Layer.Layer<never, Config.ConfigError> =>
  Layer.effectDiscard(Effect.gen(function*() {
    const all = yield* settings(options)
    const { removed, render } = Statsd.make(all)
    const peer = { address: all.host, port: all.port }
    let warned = false

    // Not connected: that nobody listens would come back as an error. A socket for each batch, so that a server that
    // has moved is found again.
    const send = (packets: ReadonlyArray<string>) =>
      Effect.gen(function*() {
        const socket = yield* NodeDatagramSocket.make({ peer })
        yield* socket.reader
        const writer = yield* socket.writer
        yield* Effect.forEach(packets, (payload) => writer.write({ payload }), { discard: true })
      }).pipe(Effect.scoped, Effect.timeout("5 seconds"))

    // Whatever a metric of the program's holds, the program does not learn of it here.
    const flush = Effect.gen(function*() {
      const { commit, packets } = render(yield* Metric.snapshot)
      if (packets.length === 0) {
        return
      }
      yield* send(packets)
      commit()
      warned = false
    }).pipe(
      Effect.catchCause((cause) => {
        if (warned) {
          return Effect.void
        }
        warned = true
        return Log.warn(`Metrics cannot be sent to the StatsD server at ${all.host}:${all.port}`, cause)
      }),
      Effect.withTracerEnabled(false)
    )

    // An election that ends takes its series with it, often before the last batch.
    yield* RemovedSeries.observe(removed)
    // Registered before the loop, so that it runs after the loop has ended.
    yield* Effect.addFinalizer(() => Effect.ignore(Effect.timeout(Effect.interruptible(flush), "1 second")))
    yield* Effect.sleep(all.interval).pipe(
      Effect.andThen(flush),
      Effect.forever,
      Effect.forkScoped({ startImmediately: true })
    )
  }))
