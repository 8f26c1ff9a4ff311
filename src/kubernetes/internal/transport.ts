/**
 * One HTTP exchange with the API server, and the pool of connections it uses.
 *
 * This is `node:https` itself and not Effect's `HttpClient`, for two reasons.
 * Whether a write that got no answer may have been applied depends on whether
 * its connection was ever established, and whether a read may be sent again on
 * whether the connection had been used before: the client hides both. And with
 * its modules a replica takes 7 MB and 50 ms more.
 *
 * @internal
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Predicate from "effect/Predicate"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import type { Agent, ClientRequest, IncomingMessage } from "node:http"
import * as Https from "node:https"
import type { Duplex } from "node:stream"
import { createSecureContext, type SecureContext } from "node:tls"
import { format } from "../../internal/duration.ts"
import { KubernetesConnectionError, KubernetesTimeoutError } from "../KubernetesError.ts"

/** TLS settings as text, so that a change is found by comparing. */
export interface Tls {
  /** PEM; without it the CAs that come with Node are trusted. */
  readonly ca?: string | undefined
  readonly cert?: string | undefined
  readonly key?: string | undefined
  /** The name that the server's certificate must have, where it is not the URL's host. */
  readonly servername?: string | undefined
  /** Do not verify the server's certificate. */
  readonly insecure?: boolean | undefined
  /** Where the CA comes from, for messages. */
  readonly trust?: string | undefined
}

/** Connections that are kept open between requests. */
export interface Pool {
  readonly tls: Tls
  readonly agent: Agent
  readonly isEstablished: (socket: Duplex) => boolean
  /** How many responses have begun. */
  answers: number
  /** Held until a request has its connection. */
  readonly connecting: Semaphore.Semaphore
  /** Closes the connections that no request uses. */
  readonly closeIdle: () => void
  /** Lets the requests under way finish, and keeps no connection after them. */
  readonly retire: () => void
  readonly destroy: () => void
}

// Shorter than the idle limits of API servers (90 s) and load balancers (60 s and more): the side that closes first
// cannot be surprised in the middle of a request.
const idleMillis = 30_000

// A thousand elections that begin at once, or go on after the API server was restarted, would open a thousand connections:
// all handshakes would take longer than the time limit of the requests that they are for, and each that fails makes room
// for the next. So a few at a time; who waits takes a connection that another has done with.
const handshakes = 16

// An `import` of node:http evaluates lazy exports that load undici, 8 MB; node:https has none. In a cluster it is not
// needed at all.
const http = () => process.getBuiltinModule("node:http")

export const makePool = (secure: boolean, tls: Tls): Pool => {
  const options = { keepAlive: true, keepAliveMsecs: idleMillis, timeout: idleMillis }
  const agent: Agent = secure
    ? new Https.Agent({
      ...options,
      ca: tls.ca,
      cert: tls.cert,
      key: tls.key,
      ...(tls.servername !== undefined && { servername: tls.servername }),
      // Said explicitly, so that NODE_TLS_REJECT_UNAUTHORIZED cannot turn it off.
      rejectUnauthorized: tls.insecure !== true
    })
    : new (http()).Agent(options)
  const established = new WeakSet<Duplex>()
  const createConnection = agent.createConnection.bind(agent)
  // Made once: from the certificates' text it takes as long as the rest of a resumed handshake.
  let secureContext: SecureContext | undefined
  agent.createConnection = (options, callback) => {
    secureContext ??= secure ? createSecureContext({ ca: tls.ca, cert: tls.cert, key: tls.key }) : undefined
    const socket = createConnection(Object.assign(options, { secureContext }), callback)
    socket?.once(secure ? "secureConnect" : "connect", () => established.add(socket))
    return socket
  }
  const closeIdle = () => {
    for (const sockets of Object.values(agent.freeSockets)) {
      for (const socket of sockets ?? []) {
        socket.destroy()
      }
    }
  }
  return {
    tls,
    agent,
    isEstablished: (socket) => established.has(socket),
    answers: 0,
    connecting: Semaphore.makeUnsafe(handshakes),
    closeIdle,
    retire: () => {
      agent.maxFreeSockets = 0
      closeIdle()
    },
    destroy: () => agent.destroy()
  }
}

/** How far a request has come; kept outside it, since it must be known after an interruption. */
export interface Progress {
  readonly isWrite: boolean
  phase: KubernetesTimeoutError["phase"]
  /** The connection was established, so that the request may have arrived. */
  sent: boolean
  /** The connection had carried an earlier request. */
  reused: boolean
  status: number | undefined
}

/**
 * Whether the write may have been applied, now or later: it may have arrived,
 * and no answer of the API server itself says that it was refused. A status
 * alone does not say so, for it may be that of something in front of it, but 429
 * is what nothing ever answers to a request that it lets through.
 */
export const outcomeUnknown = (progress: Progress): boolean =>
  progress.isWrite && progress.sent && progress.status !== 429

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
  pool: Pool,
  options: {
    readonly url: URL
    readonly method: string
    readonly headers: Readonly<Record<string, string>>
    readonly body: string | undefined
    readonly connectTimeout: Duration.Duration
  },
  progress: Progress
) => Effect.Effect<Answer, KubernetesConnectionError | KubernetesTimeoutError, Scope.Scope> = Effect
  .fnUntraced(function*(pool, options, progress) {
    const { origin } = options.url
    const secure = options.url.protocol === "https:"
    const chunks = yield* Queue.make<Uint8Array, KubernetesConnectionError | Cause.Done>()
    const connected = Deferred.makeUnsafe<void, KubernetesConnectionError>()
    const responded = Deferred.makeUnsafe<IncomingMessage, KubernetesConnectionError>()
    progress.phase = "connection"
    progress.sent = false
    progress.reused = false
    progress.status = undefined

    // Creates the request and all of its listeners in one turn: an `error` that finds none would end the process.
    const start = (): ClientRequest => {
      const request = (secure ? Https : http()).request(options.url, {
        agent: pool.agent,
        method: options.method,
        headers: options.headers
      })
      const onConnected = () => {
        progress.phase = "response"
        progress.sent = true
        progress.reused = request.reusedSocket
        Deferred.doneUnsafe(connected, Exit.void)
      }
      const onFailure = (cause: unknown) => {
        const failure = Cause.fail(connectionError(origin, pool.tls, progress, cause))
        Deferred.doneUnsafe(connected, Exit.failCause(failure))
        Deferred.doneUnsafe(responded, Exit.failCause(failure))
        Queue.failCauseUnsafe(chunks, failure)
      }
      request.once("socket", (socket) => {
        if (pool.isEstablished(socket)) {
          onConnected()
        } else {
          socket.once(secure ? "secureConnect" : "connect", onConnected)
        }
      })
      request.on("error", onFailure)
      let ended = false
      request.once("close", () => {
        if (!ended) {
          onFailure(new Error("the connection was closed"))
        }
      })
      request.once("response", (response) => {
        pool.answers++
        progress.phase = "body"
        progress.status = response.statusCode
        response.on("data", (chunk: Buffer) => Queue.offerUnsafe(chunks, chunk))
        response.once("end", () => {
          ended = true
          Queue.endUnsafe(chunks)
        })
        response.on("error", onFailure)
        Deferred.doneUnsafe(responded, Exit.succeed(response))
      })
      request.end(options.body)
      return request
    }

    const { answers } = pool
    let request: ClientRequest | undefined
    const connect = Effect.acquireRelease(
      // What a token may contain is not ours to say, and Node throws where it cannot be a header.
      Effect.try({
        try: () => {
          request = start()
        },
        catch: (cause) => connectionError(origin, pool.tls, progress, cause)
      }),
      () => Effect.sync(() => request?.destroy())
    ).pipe(
      Effect.andThen(Deferred.await(connected)),
      Effect.timeoutOrElse({
        duration: options.connectTimeout,
        orElse: () =>
          Effect.fail(
            new KubernetesTimeoutError({
              phase: "connection",
              message: `no connection to ${origin} within ${format(options.connectTimeout)}`,
              outcomeUnknown: false
            })
          )
      })
    )
    return yield* pool.connecting.withPermit(connect).pipe(
      Effect.andThen(Deferred.await(responded)),
      Effect.onError(() =>
        Effect.sync(() => {
          request?.destroy()
          // What broke or stalled this connection has most likely met the idle ones too; the next attempt is to find a
          // fresh one, and not to lose its time on one after the other. Not so where others were answered meanwhile: of
          // many requests some fail, and must not make the others connect anew.
          if (pool.answers === answers) {
            pool.closeIdle()
          }
        })
      ),
      Effect.map((response): Answer => ({
        status: response.statusCode ?? 0,
        headers: flatten(response.headers),
        chunks
      }))
    )
  })

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

const untrusted = new Set([
  "CERT_SIGNATURE_FAILURE",
  "CERT_UNTRUSTED",
  "DEPTH_ZERO_SELF_SIGNED_CERT",
  "SELF_SIGNED_CERT_IN_CHAIN",
  "UNABLE_TO_GET_ISSUER_CERT",
  "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
  "UNABLE_TO_VERIFY_LEAF_SIGNATURE"
])

const connectionError = (
  origin: string,
  tls: Tls,
  progress: Progress,
  cause: unknown
): KubernetesConnectionError => {
  const code = Predicate.hasProperty(cause, "code") && Predicate.isString(cause.code) ? cause.code : undefined
  const text = errorText(cause)
  const message = code !== undefined && untrusted.has(code)
    ? `the certificate of ${origin} is not trusted (${code}); it must be signed by ${
      tls.trust ?? (tls.ca === undefined ? "a CA that Node knows" : "the CA that was given")
    }`
    : progress.sent
    ? `the connection to ${origin} broke: ${text}`
    : `no connection to ${origin}: ${text}`
  return new KubernetesConnectionError({
    message,
    ...(code !== undefined && { code }),
    outcomeUnknown: outcomeUnknown(progress),
    cause
  })
}

// A host name with several addresses fails with an AggregateError, which has no message of its own.
const errorText = (cause: unknown): string =>
  cause instanceof AggregateError
    ? cause.errors.map(errorText).join("; ")
    : cause instanceof Error && cause.message !== ""
    ? cause.message
    : String(cause)
