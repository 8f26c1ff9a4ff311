/**
 * How a name with several addresses is reached, over real sockets on addresses of the loopback network.
 */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, type Scope } from "effect"
import { createServer, type Server, type Socket } from "node:net"
import { createServer as createTlsServer } from "node:tls"
import * as Dial from "../../../src/kubernetes/internal/dial.ts"
import { makeAuthority } from "../../utils/certificates.ts"

const authority = makeAuthority("dial CA")
const tls = authority.server(["the.cluster"])

/** What an address does: it answers, it accepts and says nothing, it cuts, or nothing is there. */
type Behaviour = "answers" | "hangs" | "cuts" | "refuses"

const listen = (server: Server, host: string, port: number): Effect.Effect<number, never, Scope.Scope> => {
  const sockets = new Set<Socket>()
  server.on("connection", (socket: Socket) => {
    sockets.add(socket)
    socket.on("error", () => {})
  })
  return Effect.acquireRelease(
    Effect.callback<number>((resume) => {
      server.listen(port, host, () => resume(Effect.succeed((server.address() as { port: number }).port)))
    }),
    () =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        for (const socket of sockets) socket.destroy()
      })
  )
}

/** Serves 127.0.0.1, 127.0.0.2, … on one port, each as told, under one name. */
const setup = Effect.fnUntraced(function*(behaviours: ReadonlyArray<Behaviour>) {
  const address = (index: number) => `127.0.0.${index + 1}`
  let port = 0
  for (const [index, behaviour] of behaviours.entries()) {
    if (behaviour !== "refuses") {
      const server = behaviour === "answers" ? createTlsServer(tls) : createServer((socket) => {
        socket.resume()
        if (behaviour === "cuts") socket.once("data", () => socket.destroy())
      })
      server.on("tlsClientError", () => {})
      port = yield* listen(server, address(index), port)
    }
  }
  const dialer = Dial.makeDialer(
    {
      host: "the.cluster",
      port,
      tls: { ca: authority.cert }
    },
    (_, onDone) =>
      queueMicrotask(() => onDone(null, behaviours.map((_, index) => ({ address: address(index), family: 4 }))))
  )
  return { dialer, port }
})

const dial = (dialer: Dial.Dialer) =>
  Effect.callback<Dial.Dialed, Dial.DialError>((resume) => {
    const dialing = dialer.dial(
      (dialed) => resume(Effect.succeed(dialed)),
      (error) => resume(Effect.fail(error))
    )
    return Effect.sync(dialing.abort)
  })

const reaches = Effect.fnUntraced(function*(behaviours: ReadonlyArray<Behaviour>, address: string) {
  const { dialer, port } = yield* setup(behaviours)
  const dialed = yield* Effect.timeout(dial(dialer), "20 seconds")
  dialed.socket.destroy()
  assert.strictEqual(dialed.address, `${address}:${port}`)
})

describe.skipIf(process.platform !== "linux")("a name with several addresses", () => {
  const cases: ReadonlyArray<readonly [ReadonlyArray<Behaviour>, string]> = [
    [["answers"], "127.0.0.1"],
    [["answers", "answers"], "127.0.0.1"],
    [["refuses", "answers"], "127.0.0.2"],
    [["cuts", "answers"], "127.0.0.2"],
    [["hangs", "answers"], "127.0.0.2"],
    [["hangs", "hangs", "refuses", "answers"], "127.0.0.4"],
    [["answers", "hangs"], "127.0.0.1"],
    [["refuses", "refuses", "answers", "cuts"], "127.0.0.3"]
  ]
  it.live.each(cases)("%s", ([behaviours, address]) => reaches(behaviours, address))

  it.live("names every cause where none answers, and the place that came furthest", () =>
    Effect.gen(function*() {
      const { dialer, port } = yield* setup(["refuses", "cuts", "refuses"])
      const error = yield* Effect.flip(dial(dialer))
      assert.strictEqual(error.step, "tls")
      assert.strictEqual(error.address, `127.0.0.2:${port}`)
      assert(error.cause instanceof AggregateError)
      assert.strictEqual(error.cause.errors.length, 3)
    }))

  it.live("says what is wrong with a certificate that is not one", () =>
    Effect.gen(function*() {
      const dialer = Dial.makeDialer({ host: "127.0.0.1", port: 1, tls: { cert: "none", key: "none" } })
      const error = yield* Effect.flip(dial(dialer))
      assert.strictEqual(error.step, "tls")
      assert.match(String(error.cause), /PEM/)
    }))

  it.live("leaves no socket behind when it is given up", () =>
    Effect.gen(function*() {
      const accepted = yield* Deferred.make<void>()
      const closed = yield* Deferred.make<void>()
      let opened = 0
      let ended = 0
      const server = createServer((socket) => {
        socket.resume().once("close", () => ++ended === 3 && Deferred.doneUnsafe(closed, Effect.void))
        if (++opened === 3) Deferred.doneUnsafe(accepted, Effect.void)
      })
      const port = yield* listen(server, "127.0.0.1", 0)
      const dialer = Dial.makeDialer(
        { host: "the.cluster", port, tls: {} },
        (_, onDone) => onDone(null, Array.from({ length: 3 }, () => ({ address: "127.0.0.1", family: 4 })))
      )
      const called: Array<string> = []
      const dialing = dialer.dial(() => called.push("done"), () => called.push("failed"))
      yield* Deferred.await(accepted)
      dialing.abort()
      yield* Effect.timeout(Deferred.await(closed), "10 seconds")
      assert.deepStrictEqual(called, [])
    }))
})
