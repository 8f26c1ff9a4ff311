/**
 * The HTTP server of `effect-kubernetes-leader-election serve`.
 *
 * @internal
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServer from "effect/http/HttpServer"
import type * as HttpServerError from "effect/http/HttpServerError"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Layer from "effect/Layer"
import * as PrometheusMetrics from "effect/observability/PrometheusMetrics"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import { createServer } from "node:http"
import { LeaderElection, whileLeadingForever } from "../../LeaderElection.ts"
import type { LeaderElectionError } from "../../LeaderElectionError.ts"
import * as LeaderHealth from "../../LeaderHealth.ts"
import { Leadership } from "../../Leadership.ts"
import { exitCodes } from "../shared/exitCodes.ts"
import { CommandFailure } from "../shared/failure.ts"
import { json } from "../shared/printable.ts"

/** What `/leader` and `/changes` tell. */
interface Answer {
  readonly leading: boolean
  readonly status: "idle" | "following" | "holding" | "leading" | "ending"
  /** Who holds the Lease; null where nobody does, or nothing is known yet. */
  readonly leader: string | null
  readonly identity: string
  readonly namespace: string
  readonly name: string
  /** While leading: decimal, since it does not fit into a JSON number. */
  readonly fencingToken?: string
  readonly transitions?: number
  /** While leading: how long this is certain, from before the question. */
  readonly remainingSeconds?: number
}

/** Whether there is nothing new in it but the time that has passed. */
const isSame = (one: Answer, other: Answer): boolean =>
  one.status === other.status && one.leader === other.leader && one.fencingToken === other.fencingToken

const statusNames = {
  Idle: "idle",
  Following: "following",
  Pending: "holding",
  Leading: "leading",
  Ending: "ending"
} as const

const probes = Layer.mergeAll(
  LeaderHealth.layerRoutes({ livenessPath: "/healthz" }),
  PrometheusMetrics.layerHttp()
)

const cannotListen = (
  { host, port }: { readonly host?: string; readonly port: number },
  { cause }: HttpServerError.ServeError
): CommandFailure =>
  new CommandFailure({
    message: `cannot listen on port ${port}${host === undefined ? "" : ` of ${host}`}: ${
      cause instanceof Error ? cause.message : String(cause)
    }`,
    exitCode: exitCodes.failure
  })

// Proxies close what is silent for a minute; EventSource opens it again, but misses nothing only if it has not to.
const heartbeat = Duration.seconds(15)

/** For what has nothing to tell but its metrics and its health: `run`. */
export const layerMetrics = (port: number): Layer.Layer<never, CommandFailure, LeaderElection> =>
  HttpRouter.serve(probes, { disableLogger: true, disableListenLog: true }).pipe(
    Layer.provide(NodeHttpServer.layer(createServer, { port, gracefulShutdownTimeout: "1 second" })),
    Layer.catchTag("ServeError", (error) => Layer.effectDiscard(Effect.fail(cannotListen({ port }, error))))
  )

export const serve = Effect.fnUntraced(
  function*(options: { readonly host: string; readonly port: number }) {
    const election = yield* LeaderElection
    const { identity, name, namespace } = election.settings
    const current = yield* SubscriptionRef.make<Leadership["Service"] | undefined>(undefined)
    /** When the last validity that was told runs out (monotonic). */
    let told = 0n

    const answer = Effect.gen(function*() {
      const status = yield* election.status
      const leadership = yield* SubscriptionRef.get(current)
      const about = { leader: Option.getOrNull(status.leader), identity, namespace, name }
      const remaining = leadership === undefined ? Duration.zero : yield* leadership.remaining
      if (leadership === undefined || !Duration.isPositive(remaining)) {
        // The term has begun, and our part of it begins in this moment.
        const answer: Answer = {
          leading: false,
          status: status._tag === "Leading" ? "holding" : statusNames[status._tag],
          ...about
        }
        return answer
      }
      const until = (yield* Clock.monotonicTimeNanos) + Duration.toNanosUnsafe(remaining)
      told = until > told ? until : told
      const answer: Answer = {
        leading: true,
        status: "leading",
        ...about,
        fencingToken: String(leadership.fencingToken),
        transitions: leadership.transitions,
        // Rounded down: never longer than it is.
        remainingSeconds: Math.floor(Duration.toMillis(remaining)) / 1000
      }
      return answer
    })

    // --- The term: as long as somebody may rely on what was told, nobody else may lead. ---

    const term = Effect.gen(function*() {
      yield* Effect.acquireRelease(
        Effect.flatMap(Leadership, (leadership) => SubscriptionRef.set(current, leadership)),
        () =>
          Effect.gen(function*() {
            yield* SubscriptionRef.set(current, undefined)
            const left = told - (yield* Clock.monotonicTimeNanos)
            if (left > 0n) {
              yield* Effect.sleep(Duration.nanos(left))
            }
          })
      )
      return yield* Effect.never
    }).pipe(Effect.scoped)

    // --- Routes ---

    const closing = yield* Deferred.make<void>()

    const leader = Effect.gen(function*() {
      const body = yield* answer
      return HttpServerResponse.text(json(body), {
        status: body.leading ? 200 : 503,
        contentType: "application/json",
        headers: { "cache-control": "no-store" }
      })
    })

    const changes = Effect.sync(() =>
      HttpServerResponse.stream(
        Stream.merge(Stream.map(election.changes, () => undefined), SubscriptionRef.changes(current)).pipe(
          Stream.mapEffect(() => answer),
          Stream.changesWith(isSame),
          Stream.map((body) => `event: change\ndata: ${json(body)}\n\n`),
          Stream.merge(Stream.map(Stream.tick(heartbeat), () => ": still here\n\n")),
          Stream.interruptWhen(Deferred.await(closing)),
          Stream.encodeText
        ),
        {
          contentType: "text/event-stream",
          headers: { "cache-control": "no-store", "x-accel-buffering": "no" }
        }
      )
    )

    const routes = Layer.mergeAll(
      HttpRouter.add("GET", "/leader", leader),
      HttpRouter.add("GET", "/changes", changes),
      probes
    )

    const layerServer = NodeHttpServer.layer(createServer, { ...options, gracefulShutdownTimeout: "1 second" })

    const program: Effect.Effect<
      never,
      LeaderElectionError,
      LeaderElection | HttpServer.HttpServer
    > = Effect.gen(function*() {
      const { address } = yield* HttpServer.HttpServer
      yield* Effect.logInfo(
        `Listens on ${address._tag === "UnixPathAddress" ? address.path : `port ${address.port} of ${options.host}`}`
      )
      return yield* Effect.ensuring(whileLeadingForever(term), Deferred.succeed(closing, undefined))
    })

    return yield* program.pipe(
      Effect.provide(
        HttpRouter.serve(routes, { disableLogger: true, disableListenLog: true }).pipe(
          Layer.provideMerge(layerServer)
        )
      ),
      Effect.catchTag("ServeError", (error) => Effect.fail(cannotListen(options, error)))
    )
  }
)
