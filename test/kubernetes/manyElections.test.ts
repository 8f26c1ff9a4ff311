/**
 * Many elections of one process while handshakes hang, over TLS. `ELECTIONS=1000` for as many as a process is promised to
 * carry, with the default lease.
 */
import { assert, it } from "@effect/vitest"
import { Context, Effect, type Exit, Fiber, Layer, Option, Redacted, type Scope } from "effect"
import { KubernetesClient, KubernetesLeaseStore, LeaderElections } from "effect-kubernetes-leader-election"
import { LeaseApiServer } from "effect-kubernetes-leader-election/testing"
import { type AddressInfo, connect, createServer, type Socket } from "node:net"
import { createServer as createTlsServer } from "node:tls"
import { makeAuthority } from "../utils/certificates.ts"

const elections = Number(process.env["ELECTIONS"] ?? 50)
const handshakes = Number(process.env["HANDSHAKES"] ?? 32)
const leaseSeconds = elections > 100 ? 15 : 9

const authority = makeAuthority("elections CA")

interface Front {
  readonly port: number
  /** Lets the next handshakes hang. */
  readonly hang: (handshakes: number) => void
  /** Cuts all connections. */
  readonly cut: () => void
  /** How many handshakes have been left hanging. */
  readonly hung: () => number
}

/** TLS in front of a server, as a load balancer is. */
const makeFront = (port: number): Effect.Effect<Front, never, Scope.Scope> => {
  const sockets = new Set<Socket>()
  let hanging = 0
  let hung = 0
  const tls = createTlsServer(authority.server(["127.0.0.1"]), (client) => {
    const upstream = connect({ port, host: "127.0.0.1", noDelay: true })
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
  const cut = () => {
    for (const socket of sockets) socket.destroy()
  }
  return Effect.acquireRelease(
    Effect.callback<Front>((resume) => {
      server.listen(0, "127.0.0.1", 1024, () =>
        resume(Effect.succeed({
          port: (server.address() as AddressInfo).port,
          hang: (handshakes) => {
            hung = 0
            hanging = handshakes
          },
          cut,
          hung: () => hung
        })))
    }),
    () =>
      Effect.sync(() => {
        server.close()
        cut()
      })
  )
}

/** A process with all elections, each of which leads. */
const setup = Effect.gen(function*() {
  const server = yield* Effect.map(Layer.build(LeaseApiServer.layer()), Context.get(LeaseApiServer.LeaseApiServer))
  const front = yield* makeFront(server.port)
  const context = yield* Layer.build(
    LeaderElections.layer({
      namespace: "default",
      identity: "one",
      newLease: "lead",
      leaseDuration: `${leaseSeconds} seconds`
    }).pipe(
      Layer.provide(KubernetesLeaseStore.layerShared),
      Layer.provideMerge(KubernetesClient.layerServer({
        server: `https://127.0.0.1:${front.port}`,
        ca: authority.cert,
        token: Redacted.make(server.token)
      }))
    )
  )
  const all = Context.get(context, LeaderElections.LeaderElections)
  const ended: Array<Exit.Exit<never, unknown>> = []
  const names = Array.from({ length: elections }, (_, index) => `shard-${index}`)
  const fiber = yield* Effect.forkScoped(Effect.forEach(
    names,
    (name) => Effect.onExit(all.whileLeading(name, Effect.never), (exit) => Effect.sync(() => ended.push(exit))),
    { concurrency: "unbounded" }
  ))
  const leading = Effect.map(
    Effect.forEach(names, (name) => Effect.scoped(Effect.flatMap(all.get(name), ({ leader }) => leader))),
    (leaders) => leaders.filter(Option.isSome).length
  )
  yield* Effect.eventually(Effect.filterOrFail(
    Effect.andThen(Effect.sleep("100 millis"), leading),
    (count) => count === elections
  ))
  return { front, fiber, ended, client: Context.get(context, KubernetesClient.KubernetesClient) }
})

// A term without renewals ends renewDeadline after the last one.
const oneTerm = Effect.sleep(`${leaseSeconds * 0.8} seconds`)

it.live(`${elections} elections lose nothing where no handshake is answered any more`, () =>
  Effect.gen(function*() {
    const { client, ended, fiber, front } = yield* setup
    front.hang(Infinity)
    // More than there are connections, for longer than a term.
    const path = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
    const others = yield* Effect.forkScoped(Effect.forEach(
      Array.from({ length: 60 }),
      () => Effect.scoped(Effect.andThen(Effect.exit(client.stream({ path, query: { watch: "1" } })), Effect.never)),
      { concurrency: "unbounded" }
    ))
    yield* oneTerm
    assert.isAtLeast(front.hung(), 16)
    assert.deepStrictEqual(ended.map(String), [])
    yield* Fiber.interrupt(others)
    yield* Fiber.interrupt(fiber)
  }), { timeout: 180_000 })

it.live(
  `${elections} elections lose nothing where all connections are cut, and the next ${handshakes} handshakes hang`,
  () =>
    Effect.gen(function*() {
      const { ended, fiber, front } = yield* setup
      front.hang(handshakes)
      front.cut()
      yield* oneTerm
      assert.isAtLeast(front.hung(), Math.min(handshakes, 16))
      assert.deepStrictEqual(ended.map(String), [])
      yield* Fiber.interrupt(fiber)
    }),
  { timeout: 180_000 }
)
