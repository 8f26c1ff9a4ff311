/**
 * `effect-kubernetes-leader-election serve`: takes part in the election, and answers over HTTP
 * who leads: for programs beside it that ask instead of being started by it.
 *
 * @internal
 */
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Options from "../shared/options.ts"

export const command = Command.make(
  "serve",
  {
    host: Options.filled("host", "ADDRESS", "Address to listen on (default 127.0.0.1: only this Pod)").pipe(
      Flag.withDefault("127.0.0.1")
    ),
    port: Options.port("port").pipe(
      Flag.withDescription("Port to listen on (default 4040; 0: a free one, which the log names)"),
      Flag.withDefault(4040)
    ),
    metricsPort: Options.port("metrics-port").pipe(
      Flag.withDescription("Listen there, on all addresses, for probes and Prometheus: others do not reach 127.0.0.1"),
      Flag.optional,
      Flag.map(Option.getOrUndefined)
    ),
    statsd: Options.statsd,
    ...Options.settings,
    ...Options.connection
  },
  Effect.fnUntraced(function*({ host, metricsPort, port, statsd, ...options }) {
    // No other command loads the HTTP server.
    const { layerMetrics, serve } = yield* Effect.promise(() => import("./http.ts"))
    return yield* serve({ host, port }).pipe(
      Effect.provide(metricsPort === undefined ? Layer.empty : layerMetrics(metricsPort)),
      Effect.provide([Options.layerElection(options), Options.layerStatsD(statsd)])
    )
  })
).pipe(
  Command.withShortDescription("Take part in the election, and answer over HTTP who leads (sidecar)"),
  Command.withDescription(
    "Take part in the election, and answer over HTTP who leads: a sidecar for programs that ask.\n\n" +
      "  GET  /leader    200 with fencing token and remaining validity while this Pod leads, else 503; who leads\n" +
      "  GET  /changes   the same as server-sent events: each change, and often enough to renew the validity\n" +
      "  POST /release   the program has stopped: the Lease is released at once\n" +
      "  GET  /livez, /healthz   liveness    GET /readyz   readiness    GET /metrics   Prometheus\n\n" +
      "A program that got 200 leads for remainingSeconds, counted from before it asked. At SIGTERM serve answers 503 at\n" +
      "once, and releases the Lease when the last validity that it gave out has run out, or after POST /release."
  ),
  Command.withExamples([
    { command: "effect-kubernetes-leader-election serve --name my-service", description: "Listen on 127.0.0.1:4040" },
    { command: "curl -fsS http://127.0.0.1:4040/leader", description: "Fails unless this Pod leads" },
    { command: "curl -N http://127.0.0.1:4040/changes", description: "Each change, as it happens" }
  ])
)
