/**
 * Fencing tokens over HTTP: a leader sends the token of its term with each
 * request, and the receiver refuses one that is smaller than one it has seen.
 *
 * The receiver keeps what it has seen in the table of a {@link Fence}, and its
 * handler runs in a transaction on it: a request of an earlier leader, however
 * late it arrives, changes nothing.
 *
 * @since 0.2.0
 */
import * as Effect from "effect/Effect"
import * as HttpClient from "effect/http/HttpClient"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import type { SqlError } from "effect/sql/SqlError"
import { Fence, FenceError } from "./Fence.ts"
import * as Log from "./internal/log.ts"
import type { LeaderElectionError } from "./LeaderElectionError.ts"
import { Leadership } from "./Leadership.ts"

/**
 * The header that carries a token, as decimal digits.
 *
 * @category configuration
 * @since 0.2.0
 */
export const header = "fencing-token"

/**
 * Makes a client that sends the token of the term with each request. Asks
 * `ensure` right before it, and fails as that does.
 *
 * **Example** (Ordering as the leader)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { HttpClient } from "effect/http"
 * import { FenceHttp } from "effect-kubernetes-leader-election"
 *
 * export const order = Effect.gen(function*() {
 *   const client = FenceHttp.withToken(yield* HttpClient.HttpClient)
 *   return yield* client.post("http://warehouse/orders")
 * })
 * ```
 *
 * @category mapping
 * @since 0.2.0
 */
export const withToken = <E, R>(
  client: HttpClient.HttpClient.With<E, R>
): HttpClient.HttpClient.With<E | LeaderElectionError, R | Leadership> =>
  HttpClient.mapRequestEffect(client, (request) =>
    Leadership.use((leadership) =>
      Effect.as(
        leadership.ensure,
        HttpClientRequest.setHeader(request, header, String(leadership.fencingToken))
      )
    ))

/**
 * A middleware that lets a request in only with a token that is not smaller
 * than one seen for `name` before, around a handler or for the routes of a
 * router.
 *
 * **Details**
 *
 * - 428 where the header is missing, 400 where it is not a number;
 * - 412 where the token is smaller than one that was seen;
 * - 503 where the row stays locked for longer than the fence's limit.
 *
 * Otherwise the handler runs in a transaction, which is committed when it
 * succeeds, and before the response is sent: what it writes through the fence's
 * `SqlClient` is written by this leader or not at all.
 *
 * **Gotchas**
 *
 * - A large token shuts out everybody who has a smaller one: let only requests
 *   in that were authenticated.
 * - A response of the handler is a success whatever its status. Fail to roll
 *   back.
 *
 * **Example** (Receiving orders of one leader at a time)
 *
 * ```ts
 * import { Effect, Layer } from "effect"
 * import { HttpRouter, HttpServerResponse } from "effect/http"
 * import { SqlClient } from "effect/sql"
 * import { FenceHttp } from "effect-kubernetes-leader-election"
 *
 * const addOrder = Effect.gen(function*() {
 *   const sql = yield* SqlClient.SqlClient
 *   yield* sql`INSERT INTO orders DEFAULT VALUES`
 *   return HttpServerResponse.empty({ status: 201 })
 * })
 *
 * export const Routes = HttpRouter.add("POST", "/orders", FenceHttp.middleware({ name: "shop/orders" })(addOrder))
 * ```
 *
 * **Example** (All routes of a router)
 *
 * `HttpRouter.middleware` takes the fence from the layer, and no handler needs it.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { HttpRouter } from "effect/http"
 * import { Fence, FenceHttp } from "effect-kubernetes-leader-election"
 *
 * export const Fenced = HttpRouter.middleware(
 *   Effect.map(Fence.Fence, (fence) => (handler) =>
 *     FenceHttp.middleware({ name: "shop/orders" })(handler).pipe(Effect.provideService(Fence.Fence, fence)))
 * ).layer
 * ```
 *
 * @category middleware
 * @since 0.2.0
 */
export const middleware = (options: {
  /** What the token is for: `namespace/name` of the sender's Lease, or any name that its senders share. */
  readonly name: string
}) =>
<E, R>(
  handler: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>
): Effect.Effect<
  HttpServerResponse.HttpServerResponse,
  E | FenceError | SqlError,
  R | Fence | HttpServerRequest.HttpServerRequest
> =>
  Effect.gen(function*() {
    const request = yield* HttpServerRequest.HttpServerRequest
    const text = request.headers[header]
    if (text === undefined) {
      return refusal(428, `send the fencing token of your term in the header ${header}`)
    }
    // What a database's 64 bits hold; a resourceVersion has no sign and no leading zero.
    if (!/^[1-9]\d{0,18}$/.test(text) || BigInt(text) > 9_223_372_036_854_775_807n) {
      return refusal(400, `the header ${header} is not a fencing token: send decimal digits`)
    }
    const fence = yield* Fence
    return yield* fence.accept(
      { name: options.name, token: BigInt(text) },
      Effect.mapError(handler, (error) => new Handlers(error))
    ).pipe(
      Effect.catchIf(isRefusal, ({ reason }) =>
        reason._tag === "FenceStale"
          ? Effect.succeed(refusal(412, reason.message))
          : Effect.as(Log.error(reason.message), refusal(503, "the fence is blocked"))),
      Effect.mapError((error) => error instanceof Handlers ? error.error : error)
    )
  })

/** What the handler failed with: it may use a fence of its own, whose errors are not ours. */
class Handlers<E> {
  readonly error: E
  constructor(error: E) {
    this.error = error
  }
}

const isRefusal = (error: unknown): error is FenceError =>
  error instanceof FenceError && (error.reason._tag === "FenceStale" || error.reason._tag === "FenceBlocked")

const refusal = (status: number, message: string) => HttpServerResponse.text(`${message}\n`, { status })
