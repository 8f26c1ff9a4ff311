/**
 * One HTTP exchange with the API server.
 *
 * This is `node:https` itself and not Effect's `HttpClient`, for two reasons.
 * Whether a write that got no answer may have been applied depends on whether
 * its connection was ever established, and whether a request may be sent again
 * on whether the connection had been used before: the client hides both. And
 * with its modules a replica takes 7 MB and 50 ms more.
 *
 * @internal
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import type { ClientRequest, IncomingMessage } from "node:http"
import * as Https from "node:https"
import type { KubernetesConnectionError, KubernetesTimeoutError } from "../KubernetesError.ts"
import * as Failure from "./connectionFailure.ts"
import type { Connection, Connections } from "./connections.ts"
import type { Progress } from "./progress.ts"

// An `import` of node:http evaluates lazy exports that load undici, 8 MB; node:https has none. In a cluster it is not
// needed at all.
const http = () => process.getBuiltinModule("node:http")

export interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  /** The body as it arrives. */
  readonly chunks: Queue.Dequeue<Uint8Array, KubernetesConnectionError | Cause.Done>
}

/**
 * Sends one request and waits for the head of its response. The connection is
 * given back when the body has been read to its end, and destroyed when the
 * scope closes before that, or when the effect fails or is interrupted.
 */
export const exchange: (
  pool: Connections,
  options: {
    readonly url: URL
    readonly method: string
    readonly headers: Readonly<Record<string, string | Array<string>>>
    readonly body: string | undefined
    /** On a new connection, or on one that has given a sign of life within so many milliseconds. */
    readonly aliveWithin: number
    /** What is answered for as long as it goes on: it has time to wait for a connection. */
    readonly stream: boolean
  },
  progress: Progress
) => Effect.Effect<Answer, KubernetesConnectionError | KubernetesTimeoutError, Scope.Scope> = Effect
  // oxlint-disable-next-line max-lines-per-function -- one request, from its start to its answer
  .fnUntraced(function*(pool, options, progress) {
    const chunks = yield* Queue.make<Uint8Array, KubernetesConnectionError | Cause.Done>()
    const responded = Deferred.makeUnsafe<IncomingMessage, KubernetesConnectionError | KubernetesTimeoutError>()
    progress.phase = "connection"
    progress.sent = false
    progress.reused = false
    progress.status = undefined
    progress.address = undefined
    let request: ClientRequest | undefined
    let sentAt = 0

    const onFailure = (cause: unknown) => {
      const failure = Cause.fail(Failure.broken(pool.target, progress, cause))
      Deferred.doneUnsafe(responded, Exit.failCause(failure))
      Queue.failCauseUnsafe(chunks, failure)
    }

    // Creates the request and all of its listeners in one turn: an `error` that finds none would end the process.
    const send = (connection: Connection): ClientRequest => {
      const { socket } = connection
      const request = (pool.target.tls === undefined ? http() : Https).request(options.url, {
        createConnection: () => socket,
        method: options.method,
        headers: { connection: "keep-alive", ...options.headers }
      })
      let ended = false
      request.on("error", onFailure)
      request.once("close", () => {
        if (!ended) {
          onFailure(new Error("the connection was closed"))
        }
      })
      request.once("response", (response) => {
        progress.phase = "body"
        progress.status = response.statusCode
        connection.idleMillis = idleMillis(response, connection.idleMillis)
        response.on("data", (chunk: Buffer) => Queue.offerUnsafe(chunks, chunk))
        response.once("end", () => {
          ended = true
          Queue.endUnsafe(chunks)
        })
        response.on("error", onFailure)
        Deferred.doneUnsafe(responded, Exit.succeed(response))
      })
      // Not where either side closes it after this answer.
      socket.once("free", () => pool.release(connection))
      request.end(options.body)
      progress.phase = "response"
      progress.sent = true
      progress.reused = connection.uses++ > 0
      progress.address = connection.address
      sentAt = performance.now()
      return request
    }

    const onConnection = (connection: Connection) => {
      try {
        request = send(connection)
      } catch (cause) {
        // What a token may contain is not ours to say, and Node throws where it cannot be a header.
        pool.release(connection)
        onFailure(cause)
      }
    }

    const abandon = Effect.sync(() => {
      progress.ticket?.cancel()
      request?.destroy()
    })
    yield* Effect.acquireRelease(
      Effect.sync(() => {
        progress.ticket = pool.acquire({
          aliveWithin: options.aliveWithin,
          stream: options.stream,
          onConnection,
          onFailed: (error) => {
            Deferred.doneUnsafe(responded, Exit.fail(Failure.notConnected(pool, error, progress)))
          }
        })
      }),
      () => abandon
    )
    return yield* Deferred.await(responded).pipe(
      Effect.onError(() =>
        Effect.andThen(
          abandon,
          Effect.sync(() => {
            // What broke or stalled this connection has most likely met the idle ones too, but those that have answered
            // since: the next request is to find a new one, and not to lose its time on one after the other.
            if (progress.sent && progress.reused) {
              pool.distrust(sentAt)
            }
          })
        )
      ),
      Effect.map((response): Answer => ({
        status: response.statusCode ?? 0,
        headers: flatten(response.headers),
        chunks
      }))
    )
  })

/** A server that says for how long it keeps an idle connection is left before that. */
const idleMillis = (response: IncomingMessage, otherwise: number): number => {
  const seconds = /(?:^|[\s,])timeout=(\d+)/.exec(String(response.headers["keep-alive"] ?? ""))?.[1]
  return seconds === undefined ? otherwise : Math.max(1, Math.min(otherwise, Number(seconds) * 1000 - 1000))
}

const flatten = (headers: IncomingMessage["headers"]): Record<string, string> => {
  const out: Record<string, string> = {}
  for (const [name, value] of Object.entries(headers)) {
    if (value !== undefined) {
      out[name] = Array.isArray(value) ? value.join(", ") : value
    }
  }
  return out
}

/** Reads the body to its end. */
export const readText = (answer: Answer): Effect.Effect<string, KubernetesConnectionError> =>
  Effect.map(Queue.collect(answer.chunks), (chunks) => Buffer.concat(chunks).toString("utf8"))
