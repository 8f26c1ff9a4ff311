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
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Log from "./internal/log.ts"
import * as Statsd from "./internal/statsd.ts"

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
  readonly interval?: Duration.Input | undefined
  /** The most bytes in a packet; 1432 by default, what an Ethernet frame has room for. */
  readonly maxPacketSize?: number | undefined
}

/**
 * A Service called `statsd` in the namespace has Kubernetes set STATSD_PORT to
 * `tcp://10.0.0.1:8125` in every container: a link to that Service, and not what
 * is meant here.
 */
const serviceLink = /^\w+:\/\//

const port = Config.String("STATSD_PORT").pipe(
  Config.map((text) => serviceLink.test(text) ? "" : text),
  Config.withDefault(""),
  Config.mapEffect((text) => {
    const number = Number(text === "" ? 8125 : text)
    return Number.isInteger(number) && number >= 1 && number <= 65535
      ? Effect.succeed(number)
      : Effect.fail(problem(`STATSD_PORT is ${JSON.stringify(text)}: give a port, from 1 to 65535`))
  })
)

const dialect = Config.String("STATSD_DIALECT").pipe(
  Config.withDefault("statsd"),
  Config.mapEffect((text) =>
    text === "statsd" || text === "dogstatsd"
      ? Effect.succeed<"statsd" | "dogstatsd">(text)
      : Effect.fail(problem(`STATSD_DIALECT is ${JSON.stringify(text)}: give statsd or dogstatsd`))
  )
)

const problem = (message: string) => new Config.ConfigError(new ConfigProvider.SourceError({ message }))

/** Each variable is read only where its option is missing. */
const settings = (options: Options) =>
  Config.all({
    host: options.host === undefined
      ? Config.String("STATSD_HOST").pipe(Config.withDefault("127.0.0.1"))
      : Config.succeed(options.host),
    port: options.port === undefined ? port : Config.succeed(options.port),
    dialect: options.dialect === undefined ? dialect : Config.succeed(options.dialect),
    prefix: options.prefix === undefined
      ? Config.String("STATSD_PREFIX").pipe(Config.withDefault(""))
      : Config.succeed(options.prefix)
  })

/**
 * Sends all metrics while the layer lives, and once more at its end.
 *
 * **Details**
 *
 * - Counters are sent as counts: what they grew by since the last batch. What
 *   has not grown is not sent.
 * - Gauges are sent as gauges, with each batch.
 * - Histograms are sent as the counts `.count`, `.sum` and `.bucket` (attribute
 *   `le`; all values up to it): nothing is made up, and the mean is the quotient
 *   of the first two. Summaries likewise, with a gauge for each `quantile`.
 *
 * Where a batch cannot be sent (a host name that cannot be looked up), its
 * counts go with the next one; this is logged once.
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
    const { dialect, host: address, port, prefix } = yield* settings(options)
    const render = Statsd.make({
      dialect,
      prefix,
      tags: options.tags ?? {},
      omitAttributes: options.omitAttributes ?? ["lease"],
      maxPacketSize: options.maxPacketSize ?? 1432
    })
    let warned = false

    // Not connected: that nobody listens would come back as an error. A socket for each batch, so that a server that
    // has moved is found again.
    const send = (packets: ReadonlyArray<string>) =>
      Effect.gen(function*() {
        const socket = yield* NodeDatagramSocket.make({ peer: { address, port } })
        yield* socket.reader
        const writer = yield* socket.writer
        yield* Effect.forEach(packets, (payload) => writer.write({ payload }), { discard: true })
      }).pipe(Effect.scoped, Effect.timeout("5 seconds"))

    const flush = Effect.gen(function*() {
      const { commit, packets } = render(yield* Metric.snapshot)
      if (packets.length === 0) {
        return
      }
      const exit = yield* Effect.exit(send(packets))
      if (Exit.isSuccess(exit)) {
        commit()
        warned = false
      } else if (!warned) {
        warned = true
        yield* Log.warn(`Metrics cannot be sent to the StatsD server at ${address}:${port}`, exit.cause)
      }
    }).pipe(Effect.withTracerEnabled(false))

    // Registered before the loop, so that it runs after the loop has ended.
    yield* Effect.addFinalizer(() => Effect.ignore(Effect.timeout(Effect.interruptible(flush), "1 second")))
    yield* Effect.sleep(options.interval ?? "10 seconds").pipe(
      Effect.andThen(flush),
      Effect.forever,
      Effect.forkScoped({ startImmediately: true })
    )
  }))
