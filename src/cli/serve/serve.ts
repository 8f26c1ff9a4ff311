/**
 * `effect-kubernetes-leader-election serve`: takes part in the election, and tells by HTTP who
 * leads: for programs beside it that ask instead of being started by it.
 *
 * @internal
 */
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Options from "../shared/options.ts"

export const command = Command.make(
  "serve",
  {
    host: Flag.String("host").pipe(
      Flag.withMetavar("ADDRESS"),
      Flag.withDescription("Address to listen on (default 127.0.0.1: only this Pod)"),
      Flag.withDefault("127.0.0.1")
    ),
    port: Options.port("port").pipe(
      Flag.withDescription("Port to listen on (default 4040; 0: a free one, which the log tells)"),
      Flag.withDefault(4040)
    ),
    statsd: Options.statsd,
    ...Options.settings,
    ...Options.connection
  },
  Effect.fnUntraced(function*({ host, port, statsd, ...options }) {
    // The HTTP server is loaded by nobody else.
    const { serve } = yield* Effect.promise(() => import("./http.ts"))
    return yield* Effect.provide(serve({ host, port }), [Options.layerElection(options), Options.layerStatsD(statsd)])
  })
).pipe(
  Command.withShortDescription("Take part in the election, and tell by HTTP who leads (sidecar)"),
  Command.withDescription(
    "Take part in the election, and tell by HTTP who leads: a sidecar for programs that ask.\n\n" +
      "  GET /leader    200 with fencing token and remaining validity while this Pod leads; 503 with who leads\n" +
      "  GET /changes   the same as server-sent events, one for each change\n" +
      "  GET /healthz   liveness    GET /readyz   readiness    GET /metrics   Prometheus\n\n" +
      "Whoever got 200 leads for remainingSeconds, counted from before it asked. When told to end, serve answers\n" +
      "503 at once, and gives the Lease away when the last validity that it told has run out."
  ),
  Command.withExamples([
    { command: "effect-kubernetes-leader-election serve --name my-service", description: "Listen on 127.0.0.1:4040" },
    { command: "curl -fsS http://127.0.0.1:4040/leader", description: "Fails unless this Pod leads" },
    { command: "curl -N http://127.0.0.1:4040/changes", description: "Each change, as it happens" }
  ])
)
