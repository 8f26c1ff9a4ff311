/**
 * A server on the loopback address that does what a test tells it to, and tells
 * the test what arrived.
 */
import { Effect, type Scope } from "effect"
import * as Http from "node:http"
import * as Https from "node:https"
import { type AddressInfo, createServer, type Socket } from "node:net"
import type { TLSSocket } from "node:tls"

export interface Received {
  readonly method: string
  readonly url: string
  readonly headers: Http.IncomingHttpHeaders
  /** Names and values in turn, as they were sent. */
  readonly rawHeaders: ReadonlyArray<string>
  readonly body: string
  /** Counts the connections that this server has accepted, from 1. */
  readonly connection: number
  /** The subject of the client's certificate. */
  readonly user: string | undefined
}

export type Handler = (received: Received, response: Http.ServerResponse, socket: Socket) => void

export interface TestServer {
  readonly url: string
  readonly port: number
  readonly received: ReadonlyArray<Received>
  /** Waits until that many requests have arrived. */
  readonly arrival: (count: number) => Effect.Effect<Received>
  /** Waits until that many connections have been accepted. */
  readonly accepted: (count: number) => Effect.Effect<void>
  /** How many connections have been accepted. */
  readonly connections: () => number
  /** Waits until that many connections are closed. */
  readonly closed: (count: number) => Effect.Effect<void>
}

/** Lets effects wait until a number is reached. */
const makeCounter = () => {
  let count = 0
  const waiting = new Set<{ readonly until: number; readonly resolve: () => void }>()
  return {
    get: () => count,
    increment: () => {
      count++
      for (const waiter of waiting) {
        if (count >= waiter.until) {
          waiting.delete(waiter)
          waiter.resolve()
        }
      }
    },
    reaches: (until: number): Effect.Effect<void> =>
      Effect.callback<void>((resume) => {
        if (count >= until) {
          resume(Effect.void)
          return
        }
        const waiter = { until, resolve: () => resume(Effect.void) }
        waiting.add(waiter)
        return Effect.sync(() => waiting.delete(waiter))
      })
  }
}

/** Serves HTTP, or HTTPS where `tls` is given. */
export const serve = (
  handler: Handler,
  options: {
    readonly tls?: Https.ServerOptions
    readonly host?: string
    /** Whether the connection with this number, from 1, is served; what is not hangs in its handshake. */
    readonly admit?: (connection: number) => boolean
  } = {}
): Effect.Effect<TestServer, never, Scope.Scope> =>
  Effect.gen(function*() {
    const received: Array<Received> = []
    const arrivals = makeCounter()
    const accepted = makeCounter()
    const ended = makeCounter()
    const numbers = new WeakMap<object, number>()
    const listener: Http.RequestListener = (request, response) => {
      const chunks: Array<Buffer> = []
      request.on("error", () => {})
      request.on("data", (chunk: Buffer) => chunks.push(chunk))
      request.on("end", () => {
        const certificate = options.tls === undefined ? undefined : (request.socket as TLSSocket).getPeerCertificate()
        const item: Received = {
          method: request.method ?? "",
          url: request.url ?? "",
          headers: request.headers,
          rawHeaders: request.rawHeaders,
          body: Buffer.concat(chunks).toString(),
          connection: numbers.get(request.socket) ?? 0,
          user: certificate?.subject?.CN as string | undefined
        }
        received.push(item)
        handler(item, response, request.socket)
        arrivals.increment()
      })
    }
    const server = options.tls === undefined ? Http.createServer(listener) : Https.createServer(options.tls, listener)
    // The client decides when a connection is no longer needed.
    server.keepAliveTimeout = 0
    const host = options.host ?? "127.0.0.1"
    const sockets = new Set<Socket>()
    const onAccepted = (socket: Socket) => {
      sockets.add(socket)
      accepted.increment()
      numbers.set(socket, accepted.get())
      socket.on("error", () => {})
      socket.once("close", () => {
        sockets.delete(socket)
        ended.increment()
      })
    }
    const { admit } = options
    if (admit === undefined) {
      server.on("connection", onAccepted)
    }
    const front = admit === undefined ? server : createServer((socket) => {
      onAccepted(socket)
      if (admit(accepted.get())) {
        server.emit("connection", socket)
      } else {
        // Who does not read does not learn that the other side has closed.
        socket.resume()
      }
    })
    server.on("secureConnection", (socket: Socket) => {
      numbers.set(socket, accepted.get())
      socket.on("error", () => {})
    })
    const port = yield* listen(front, host, sockets)
    const scheme = options.tls === undefined ? "http" : "https"
    return {
      url: `${scheme}://${host.includes(":") ? `[${host}]` : host}:${port}`,
      port,
      received,
      accepted: accepted.reaches,
      arrival: (count) => Effect.map(arrivals.reaches(count), () => received[count - 1]!),
      connections: accepted.get,
      closed: ended.reaches
    }
  })

/** Accepts connections, and leaves what happens on them to the test. */
export const serveSockets = (
  onConnection: (socket: Socket) => void
): Effect.Effect<
  {
    readonly port: number
    readonly accepted: (count: number) => Effect.Effect<void>
    readonly closed: TestServer["closed"]
  },
  never,
  Scope.Scope
> =>
  Effect.gen(function*() {
    const accepted = makeCounter()
    const ended = makeCounter()
    const sockets = new Set<Socket>()
    const server = createServer((socket) => {
      sockets.add(socket)
      socket.on("error", () => {})
      socket.once("close", () => {
        sockets.delete(socket)
        ended.increment()
      })
      // Who does not read does not learn that the other side has closed.
      socket.resume()
      onConnection(socket)
      accepted.increment()
    })
    const port = yield* listen(server, "127.0.0.1", sockets)
    return { port, accepted: accepted.reaches, closed: ended.reaches }
  })

const listen = (
  server: {
    listen: (port: number, host: string, done: () => void) => unknown
    close: (done: () => void) => unknown
    address: () => AddressInfo | string | null
  },
  host: string,
  sockets: ReadonlySet<Socket>
) =>
  Effect.acquireRelease(
    Effect.callback<number>((resume) => {
      server.listen(0, host, () => resume(Effect.succeed((server.address() as AddressInfo).port)))
    }),
    () =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        for (const socket of sockets) socket.destroy()
      })
  )

/** Answers with JSON as the API server does. */
export const json = (
  response: Http.ServerResponse,
  status: number,
  body: unknown,
  headers: Http.OutgoingHttpHeaders = {}
): void => {
  response.writeHead(status, { "content-type": "application/json", ...headers })
  response.end(`${JSON.stringify(body)}\n`)
}
