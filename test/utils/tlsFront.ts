/**
 * A program: an API server with TLS in front of it, as behind a load balancer that can cut all connections and let
 * handshakes hang. In a process of its own, so that what is tested has one to itself.
 */
import { Effect } from "effect"
import { type AddressInfo, connect, createServer, type Socket } from "node:net"
import { createServer as createTlsServer } from "node:tls"
import { LeaseApiServer } from "../../src/testing/index.ts"

/** What it is told, and what it answers: itself with the first line, and how many handshakes hang with every other. */
export interface Order {
  /** Lets so many handshakes hang from now on. */
  readonly hang?: number
  /** Cuts all connections. */
  readonly cut?: boolean
}

const [key, cert] = [process.env["TLS_KEY"]!, process.env["TLS_CERT"]!]

const program = Effect.gen(function*() {
  const api = yield* LeaseApiServer.LeaseApiServer
  const sockets = new Set<Socket>()
  let hanging = 0
  let hung = 0
  const tls = createTlsServer({ key, cert }, (client) => {
    const upstream = connect({ port: api.port, host: "127.0.0.1", noDelay: true })
    client.pipe(upstream).pipe(client)
    for (const [one, other] of [[client, upstream], [upstream, client]] as const) {
      one.on("error", () => other.destroy())
      one.on("close", () => other.destroy())
    }
  })
  tls.on("tlsClientError", () => {})
  const server = createServer({ noDelay: true }, (socket) => {
    sockets.add(socket)
    socket.on("error", () => {})
    socket.once("close", () => sockets.delete(socket))
    if (hung < hanging) {
      hung++
      socket.resume()
    } else {
      tls.emit("connection", socket)
    }
  })
  process.on("message", ({ cut, hang }: Order) => {
    if (hang !== undefined) {
      hung = 0
      hanging = hang
    }
    if (cut === true) {
      for (const socket of sockets) socket.destroy()
    }
    process.send!({ hung })
  })
  process.on("disconnect", () => process.exit(0))
  server.listen(0, "127.0.0.1", 1024, () => {
    process.send!({ port: (server.address() as AddressInfo).port, token: api.token })
  })
  return yield* Effect.never
})

Effect.runFork(Effect.provide(program, LeaseApiServer.layer()))
