/**
 * Health of a process that takes part in an election, for liveness probes.
 *
 * A process is unhealthy when a program of its term runs and has not renewed
 * for longer than leaseDuration and a tolerance: it should have stopped long
 * ago, and has not. Restarting it is the only remedy then. Everything else is
 * healthy: following, leading, losing a term, an API server that nobody can
 * reach.
 *
 * **Gotchas**
 *
 * Readiness must never depend on leading: followers would get no traffic, and a
 * rollout would wait for ever for a new replica to become ready. Likewise a
 * probe whose server runs in this process gets no answer while the event loop
 * is blocked; Kubernetes counts that as a failure, as it should.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as HttpRouter from "effect/http/HttpRouter"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import { format } from "./internal/duration.ts"
import { duration } from "./internal/options.ts"
import { LeaderElection } from "./LeaderElection.ts"
import type { DurationInput } from "./LeaderElectionConfig.ts"
import { formatKey } from "./LeaseRecord.ts"

/**
 * What a check found.
 *
 * @category models
 * @since 0.1.0
 */
export interface Health {
  readonly healthy: boolean
  /** One sentence, for people that read the answer of the probe. */
  readonly message: string
}

/**
 * How much is tolerated.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /**
   * How long beyond leaseDuration a program of this process may run without a
   * renewal. 20 seconds by default, as in Kubernetes' own components: a program
   * whose clean-up takes a little longer is not worth a restart.
   */
  readonly tolerance?: DurationInput | undefined
}

/**
 * Checks the election of this process, now. Makes no request and never fails; a
 * tolerance that is less than 0, or no duration, is a defect.
 *
 * @category checks
 * @since 0.1.0
 */
export const check = (options?: Options): Effect.Effect<Health, never, LeaderElection> => {
  return LeaderElection.use((election) => {
    const limit = Duration.sum(election.settings.leaseDuration, toleranceOf(options))
    const lease = formatKey(election.settings)
    return Effect.map(election.sinceRenewal, (since) => {
      if (Option.isNone(since)) {
        return { healthy: true, message: `no program runs as leader on ${lease}` }
      }
      const said = `the program that runs as leader on ${lease} was last renewed ${seconds(since.value)} ago`
      return Duration.isLessThanOrEqualTo(since.value, limit)
        ? { healthy: true, message: said }
        : {
          healthy: false,
          message: `${said}, longer than leaseDuration and the tolerance (${format(limit)}): ` +
            "its term is over, it was interrupted, and it has not ended"
        }
    })
  })
}

const toleranceOf = (options: Options | undefined): Duration.Duration =>
  duration("LeaderHealth: tolerance", options?.tolerance ?? "20 seconds")

const seconds = (duration: Duration.Duration): string => `${Duration.toSeconds(duration).toFixed(1)} s`

/**
 * {@link check} as a plain function, for any other server or framework.
 *
 * **Example** (Answering with `node:http`)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { LeaderHealth } from "effect-kubernetes-leader-election"
 * import { createServer } from "node:http"
 *
 * const serve = Effect.gen(function*() {
 *   const check = yield* LeaderHealth.makeCheck()
 *   createServer((_request, response) => {
 *     const { healthy, message } = check()
 *     response.writeHead(healthy ? 200 : 503, { "content-type": "text/plain" }).end(message)
 *   }).listen(8080)
 * })
 * ```
 *
 * @category checks
 * @since 0.1.0
 */
export const makeCheck = (options?: Options): Effect.Effect<() => Health, never, LeaderElection> =>
  Effect.gen(function*() {
    const election = yield* LeaderElection
    const clock = yield* Clock.Clock
    toleranceOf(options)
    return () =>
      Effect.runSync(
        check(options).pipe(
          Effect.provideService(LeaderElection, election),
          Effect.provideService(Clock.Clock, clock)
        )
      )
  })

/**
 * Routes for liveness and readiness probes, to be merged with those of your
 * program.
 *
 * **Details**
 *
 * - `GET /livez` (`livenessPath`): 200 while {@link check} finds the process
 *   healthy, else 503; with its message.
 * - `GET /readyz` (`readinessPath`): 200, whether this process leads or not. Leave it out with
 *   `false` where your program has a readiness of its own.
 *
 * **Example** (Serving probes)
 *
 * ```ts
 * import { NodeHttpServer } from "@effect/platform-node"
 * import { Layer } from "effect"
 * import { HttpRouter } from "effect/http"
 * import { LeaderHealth } from "effect-kubernetes-leader-election"
 * import { createServer } from "node:http"
 *
 * export const ProbesLive = HttpRouter.serve(LeaderHealth.layerRoutes()).pipe(
 *   Layer.provide(NodeHttpServer.layer(createServer, { port: 8080 }))
 * )
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerRoutes = (
  options?: Options & {
    readonly livenessPath?: HttpRouter.PathInput | undefined
    readonly readinessPath?: HttpRouter.PathInput | false | undefined
  }
): Layer.Layer<never, never, LeaderElection | HttpRouter.HttpRouter> =>
  Layer.effectDiscard(Effect.gen(function*() {
    toleranceOf(options)
    // Loaded only here: a program without routes does not pay for a router.
    const { HttpRouter } = yield* Effect.promise(() => import("effect/http/HttpRouter"))
    const { withLoggerDisabled } = yield* Effect.promise(() => import("effect/http/HttpMiddleware"))
    const Response = yield* Effect.promise(() => import("effect/http/HttpServerResponse"))
    const router = yield* HttpRouter
    const election = yield* LeaderElection
    const live = Effect.map(
      Effect.provideService(check(options), LeaderElection, election),
      ({ healthy, message }) => Response.text(`${message}\n`, { status: healthy ? 200 : 503 })
    )
    yield* router.add("GET", options?.livenessPath ?? "/livez", withLoggerDisabled(live))
    const readinessPath = options?.readinessPath ?? "/readyz"
    if (readinessPath !== false) {
      yield* router.add("GET", readinessPath, withLoggerDisabled(Effect.succeed(Response.text("ready\n"))))
    }
  }))
