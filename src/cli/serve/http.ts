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
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Layer from "effect/Layer"
import * as PrometheusMetrics from "effect/observability/PrometheusMetrics"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import { createServer } from "node:http"
import { isIP } from "node:net"
import { LeaderElection, whileLeadingForever } from "../../LeaderElection.ts"
import type { LeaderElectionError } from "../../LeaderElectionError.ts"
import * as LeaderHealth from "../../LeaderHealth.ts"
import { Leadership } from "../../Leadership.ts"
import { exitCodes } from "../shared/exitCodes.ts"
import { CommandFailure } from "../shared/failure.ts"
import { json } from "../shared/printable.ts"

/** What `/leader` and `/changes` answer. */
interface Answer {
  readonly leading: boolean
  readonly status: "idle" | "following" | "pending" | "leading" | "ending"
  /** The holder of the Lease; null where there is none, or nothing is known yet. */
  readonly leader: string | null
  /** What the holder publishes with its term. */
  readonly leaderNote: string | null
  readonly identity: string
  readonly namespace: string
  readonly name: string
  /** While leading, else null: decimal, since it does not fit into a JSON number. */
  readonly fencingToken: string | null
  readonly transitions: number | null
  /** While leading, else null: how long this is certain, from before the question. */
  readonly remainingSeconds: number | null
  /** The same as a time: seconds of this machine's CLOCK_MONOTONIC, which all of its processes share. */
  readonly validUntilMonotonic: number | null
}

/** Whether there is nothing new in it but the time that has passed. */
const isSame = (one: Answer, other: Answer): boolean =>
  one.status === other.status && one.leader === other.leader && one.leaderNote === other.leaderNote &&
  one.fencingToken === other.fencingToken

const statusNames = {
  Idle: "idle",
  Following: "following",
  Pending: "pending",
  Leading: "leading",
  Ending: "ending"
} as const

/** A path that is there, asked in another way, is not a path that is not there. */
const only = (method: "GET" | "POST", path: `/${string}`) =>
  Layer.mergeAll(
    Layer.empty,
    ...(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] as const).filter((other) => other !== method).map((
      other
    ) =>
      HttpRouter.add(
        other,
        path,
        HttpServerResponse.text(`${path} answers ${method} only\n`, {
          status: 405,
          headers: { allow: method === "GET" ? "GET, HEAD" : method }
        })
      )
    )
  )

const probes = Layer.mergeAll(
  LeaderHealth.layerRoutes(),
  LeaderHealth.layerRoutes({ livenessPath: "/healthz", readinessPath: false }),
  PrometheusMetrics.layerHttp(),
  only("GET", "/livez"),
  only("GET", "/healthz"),
  only("GET", "/readyz"),
  only("GET", "/metrics")
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

/**
 * A page in a browser can send a request to any address that the browser
 * reaches: it comes with an Origin, or, where a name of its own was made to point
 * here, with that name as Host.
 */
const isFromPage = ({ host, origin }: Readonly<Record<string, string | undefined>>): boolean => {
  const name = (host ?? "").replace(/:\d+$/, "").replace(/^\[(.*)\]$/, "$1")
  return origin !== undefined || !(name === "localhost" || isIP(name) !== 0)
}

// Proxies close what is silent for a minute; EventSource opens it again, but misses nothing only if it has not to.
const heartbeat = Duration.seconds(15)

/** Metrics and health alone: for `run`, and for those outside of the Pod. */
export const layerMetrics = (port: number): Layer.Layer<never, CommandFailure, LeaderElection> =>
  Layer.mergeAll(
    HttpRouter.serve(probes, { disableLogger: true, disableListenLog: true }),
    Layer.effectDiscard(HttpServer.HttpServer.use(({ address }) =>
      address._tag === "UnixPathAddress"
        ? Effect.void
        : Effect.logInfo(`Listening on port ${address.port} for probes and metrics`)
    ))
  ).pipe(
    Layer.provide(NodeHttpServer.layer(createServer, { port, gracefulShutdownTimeout: "1 second" })),
    Layer.catchTag("ServeError", (error) => Layer.effectDiscard(Effect.fail(cannotListen({ port }, error))))
  )

export const serve = Effect.fnUntraced(
  // oxlint-disable-next-line max-lines-per-function -- the routes share what was given out, and the term
  function*(options: { readonly host: string; readonly port: number }) {
    const election = yield* LeaderElection
    const { identity, name, namespace } = election.settings
    const current = yield* SubscriptionRef.make<Leadership["Service"] | undefined>(undefined)
    /** When the last validity that was given out runs out (monotonic). */
    let givenOut = 0n

    const answer = Effect.gen(function*() {
      const status = yield* election.status
      const about = {
        leader: Option.getOrNull(status.leader),
        leaderNote: Option.getOrNull(yield* election.leaderNote),
        identity,
        namespace,
        name
      }
      const leadership = SubscriptionRef.getUnsafe(current)
      // Before the rest is asked for: this must not end later than the validity does.
      const before = yield* Clock.monotonicTimeNanos
      const remaining = leadership === undefined ? Duration.zero : yield* leadership.remaining
      // The part of the program may have ended meanwhile; what is given out after that, its end does not wait for.
      if (
        leadership === undefined || !Duration.isPositive(remaining) || SubscriptionRef.getUnsafe(current) !== leadership
      ) {
        const answer: Answer = {
          leading: false,
          // The term may have begun, and our part of it begins in this moment.
          status: status._tag === "Leading" ? "pending" : statusNames[status._tag],
          ...about,
          fencingToken: null,
          transitions: null,
          remainingSeconds: null,
          validUntilMonotonic: null
        }
        return answer
      }
      const until = before + Duration.toNanosUnsafe(remaining)
      givenOut = until > givenOut ? until : givenOut
      const answer: Answer = {
        leading: true,
        status: "leading",
        ...about,
        fencingToken: String(leadership.fencingToken),
        transitions: leadership.transitions,
        // Rounded down: never longer than it is.
        remainingSeconds: Math.floor(Duration.toMillis(remaining)) / 1000,
        validUntilMonotonic: Number(until / 1_000_000n) / 1000
      }
      return answer
    })

    // --- The term: as long as somebody may rely on what was given out, nobody else may lead. ---

    /** Done when the program beside says that it has stopped; a new one for each term. */
    let stopped = Deferred.makeUnsafe<void>()

    const term = Effect.gen(function*() {
      stopped = Deferred.makeUnsafe()
      yield* Effect.acquireRelease(
        Effect.flatMap(Leadership, (leadership) => SubscriptionRef.set(current, leadership)),
        () =>
          Effect.gen(function*() {
            yield* SubscriptionRef.set(current, undefined)
            const left = givenOut - (yield* Clock.monotonicTimeNanos)
            if (left > 0n) {
              yield* Effect.raceFirst(Effect.sleep(Duration.nanos(left)), Deferred.await(stopped))
            }
          })
      )
      return yield* Deferred.await(stopped)
    }).pipe(Effect.scoped)

    const campaigns = Effect.gen(function*() {
      while (true) {
        yield* whileLeadingForever(term)
        yield* Effect.logInfo("The program beside this one has stopped: released the Lease")
        // The others take it within milliseconds; where there are none, the program can lead again.
        yield* Effect.sleep(election.settings.retryPeriod)
      }
    })

    // --- Routes ---

    const closing = yield* Deferred.make<void>()

    const leader = Effect.gen(function*() {
      const body = yield* answer
      return HttpServerResponse.text(`${json(body)}\n`, {
        status: body.leading ? 200 : 503,
        contentType: "application/json",
        headers: { "cache-control": "no-store" }
      })
    })

    const release = Effect.gen(function*() {
      const { headers } = yield* HttpServerRequest.HttpServerRequest
      if (isFromPage(headers)) {
        return HttpServerResponse.text("requests of web pages are refused: Origin, or a Host that is a name\n", {
          status: 403
        })
      }
      givenOut = 0n
      yield* SubscriptionRef.set(current, undefined)
      yield* Deferred.succeed(stopped, undefined)
      return yield* leader.pipe(Effect.map(HttpServerResponse.setStatus(200)))
    })

    // Twice as often as validity is renewed, so that there always is an event before the deadline of the last one.
    const period = Duration.max(Duration.divideUnsafe(election.settings.renewInterval, 2), Duration.millis(100))

    const changes = Effect.sync(() =>
      HttpServerResponse.stream(
        Stream.merge(
          Stream.merge(election.changes, SubscriptionRef.changes(current)).pipe(
            Stream.mapEffect(() => answer),
            Stream.changesWith(isSame)
          ),
          Stream.mapEffect(Stream.drop(Stream.tick(period), 1), () => answer)
        ).pipe(
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
      HttpRouter.add("POST", "/release", release),
      only("GET", "/leader"),
      only("GET", "/changes"),
      only("POST", "/release"),
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
        `Listening on ${address._tag === "UnixPathAddress" ? address.path : `port ${address.port} of ${options.host}`}`
      )
      return yield* Effect.ensuring(campaigns, Deferred.succeed(closing, undefined))
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
