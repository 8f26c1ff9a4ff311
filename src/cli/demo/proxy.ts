/**
 * A connection to the API server that can be cut: a TCP proxy for one replica.
 *
 * @internal
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Net from "node:net"

export interface Proxy {
  readonly port: number
  /**
   * From now on nothing gets through, in either direction: open connections
   * stay open, and new ones are accepted. It is what a broken network looks
   * like from inside.
   */
  readonly cut: Effect.Effect<void>
  /** Breaks what was cut; new connections get through. */
  readonly restore: Effect.Effect<void>
}

/** Listens on the loopback interface until the scope closes. */
export const make = (host: string, port: number): Effect.Effect<Proxy, never, Scope.Scope> =>
  Effect.gen(function*() {
    let isCut = false
    const sockets = new Set<Net.Socket>()
    const keep = (socket: Net.Socket, other: () => Net.Socket | undefined) => {
      sockets.add(socket)
      socket.on("error", () => {})
      socket.once("close", () => {
        sockets.delete(socket)
        other()?.destroy()
      })
    }
    const destroyAll = Effect.sync(() => {
      for (const socket of sockets) {
        socket.destroy()
      }
    })

    const server = yield* Effect.acquireRelease(
      Effect.callback<Net.Server>((resume) => {
        const server = Net.createServer({ pauseOnConnect: true }, (client) => {
          if (isCut) {
            keep(client, () => undefined)
            return
          }
          const upstream = Net.connect(port, host)
          keep(client, () => upstream)
          keep(upstream, () => client)
          client.pipe(upstream)
          upstream.pipe(client)
        })
        server.once("error", (error) => resume(Effect.die(error)))
        server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
      }),
      (server) =>
        Effect.andThen(
          destroyAll,
          Effect.callback<void>((resume) => {
            server.close(() => resume(Effect.void))
          })
        )
    )
    const address = server.address()
    return {
      port: address !== null && typeof address === "object" ? address.port : 0,
      cut: Effect.sync(() => {
        isCut = true
        for (const socket of sockets) {
          socket.unpipe()
        }
      }),
      restore: Effect.suspend(() => {
        isCut = false
        return destroyAll
      })
    }
  })
