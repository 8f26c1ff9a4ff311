/**
 * Which connection a request gets, and what it waits for: over real sockets, on a server that lets some handshakes hang.
 */
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Duration, Effect, Exit, Fiber, Layer, type Scope } from "effect"
import type { ServerResponse } from "node:http"
import * as Client from "../../src/kubernetes/KubernetesClient.ts"
import { AnsweredWithin } from "../../src/LeaseStore.ts"
import { makeAuthority } from "../utils/certificates.ts"
import { type Handler, json, serve } from "../utils/TestServer.ts"

const authority = makeAuthority("connections CA")
const tls = authority.server(["127.0.0.1"])

const ok: Handler = (_, response) => json(response, 200, {})
const get = { method: "GET", path: "/get" } as const
const patch = { method: "PATCH", path: "/patch", body: {} } as const

/** A client of a server that admits only some connections, and answers `/held` when the test says so. */
const setup = Effect.fnUntraced(function*(
  admit: (connection: number) => boolean,
  limits: Client.TimeLimits = {}
) {
  const held: Array<ServerResponse> = []
  const server = yield* serve((received, response) => {
    if (received.url.startsWith("/held")) {
      held.push(response)
    } else {
      ok(received, response, response.socket!)
    }
  }, { tls, admit })
  const client = yield* Layer.build(
    Layer.fresh(Client.layerServer({ server: server.url, ca: authority.cert, ...limits }))
  )
    .pipe(Effect.map(Context.get(Client.KubernetesClient)))
  return { client, held, server }
})

const fork = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkScoped(effect, { startImmediately: true })

const connectionsOf = (server: { readonly received: ReadonlyArray<{ url: string; connection: number }> }) =>
  server.received.map(({ connection, url }) => `${url} ${connection}`)

/** Within much less than any limit of the client. */
const soon = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.timeout(effect, "25 seconds")

describe("B4 handshakes that hang", () => {
  for (const hung of [16, 32, 100]) {
    it.live(`hold up no request that has an idle connection: ${hung}`, () =>
      Effect.gen(function*() {
        const { client, server } = yield* setup((connection) => connection === 1, { connectTimeout: "50 seconds" })
        yield* client.request(get)
        const blocked = yield* Effect.forEach(
          Array.from({ length: hung }),
          () =>
            fork(
              Effect.exit(
                Effect.provideService(client.request({ ...get, path: "/new" }), AnsweredWithin, Duration.zero)
              )
            )
        )
        yield* server.accepted(2)
        for (let i = 0; i < 20; i++) {
          yield* soon(client.request(patch))
        }
        assert.deepStrictEqual(new Set(server.received.map(({ connection }) => connection)), new Set([1]))
        yield* Effect.forEach(blocked, Fiber.interrupt)
      }))
  }

  it.live("hold up nobody where another request is done with its connection", () =>
    Effect.gen(function*() {
      const { client, held, server } = yield* setup((connection) => connection === 1, { connectTimeout: "50 seconds" })
      const first = yield* fork(client.request({ ...get, path: "/held" }))
      yield* server.arrival(1)
      const others = yield* Effect.forEach(Array.from({ length: 40 }), () => fork(client.request(patch)))
      yield* server.accepted(2)
      json(held[0]!, 200, {})
      yield* soon(Fiber.join(first))
      yield* soon(Effect.forEach(others, Fiber.join))
      assert.deepStrictEqual(new Set(connectionsOf(server)), new Set(["/held 1", "/patch 1"]))
    }))

  it.live("give their places up: what comes after 32 of them is connected", () =>
    Effect.gen(function*() {
      const { client, server } = yield* setup((connection) => connection > 32, { connectTimeout: "50 seconds" })
      const blocked = yield* Effect.forEach(Array.from({ length: 32 }), () => fork(Effect.exit(client.request(get))))
      yield* server.accepted(16)
      yield* soon(client.request(patch))
      // And those behind which it waited share its connection.
      yield* soon(Effect.forEach(blocked, Fiber.join))
    }))

  it.live("fail by themselves, and no idle connection is closed for it", () =>
    Effect.gen(function*() {
      let admitted = true
      const { client, server } = yield* setup(() => admitted, { connectTimeout: "100 millis" })
      yield* Effect.eventually(client.request(get))
      const [first] = server.received
      admitted = false
      for (let i = 0; i < 3; i++) {
        // On the only connection there is, in the end: better than none.
        yield* Effect.provideService(client.request({ ...get, path: "/new" }), AnsweredWithin, Duration.zero)
      }
      yield* client.request(patch)
      assert.deepStrictEqual(new Set(server.received.map(({ connection }) => connection)), new Set([first?.connection]))
    }))

  it.live("are not gone on with when nobody waits for them", () =>
    Effect.gen(function*() {
      const { client, server } = yield* setup(() => false)
      const fibers = yield* Effect.forEach(Array.from({ length: 20 }), () => fork(client.request(get)))
      yield* server.accepted(16)
      yield* Effect.forEach(fibers, Fiber.interrupt)
      yield* soon(server.closed(server.connections()))
    }))
})

describe("streams", () => {
  it.live("B4 wait behind requests, whenever they came", () =>
    Effect.gen(function*() {
      const admitted = yield* Deferred.make<void>()
      const { client, server } = yield* setup((connection) => connection > 16, { connectTimeout: "50 seconds" })
      const open = (path: string): Effect.Effect<void, unknown, Scope.Scope> =>
        Effect.asVoid(client.stream({ path: `/held/${path}`, timeout: "50 seconds" }))
      for (let i = 0; i < 40; i++) yield* fork(Effect.exit(open(`${i}`)))
      yield* server.accepted(16)
      const requests = yield* Effect.forEach(Array.from({ length: 3 }), () => fork(client.request(patch)))
      yield* soon(Effect.forEach(requests, Fiber.join))
      assert.deepStrictEqual(server.received.slice(0, 3).map(({ url }) => url), ["/patch", "/patch", "/patch"])
      yield* Deferred.succeed(admitted, undefined)
    }))
})

describe("streams and idle connections", () => {
  it.live("B4 streams leave those to requests, also where no new one can be had", () =>
    Effect.gen(function*() {
      const { client, held, server } = yield* setup((connection) => connection <= 2, { connectTimeout: "50 seconds" })
      const both = yield* Effect.forEach(["/held/a", "/held/b"], (path) => fork(client.request({ ...get, path })))
      yield* server.arrival(2)
      for (const response of held) json(response, 200, {})
      yield* Effect.forEach(both, Fiber.join)
      for (let i = 0; i < 40; i++) {
        yield* fork(Effect.exit(client.stream({ path: "/held/stream", timeout: "50 seconds" })))
      }
      yield* server.accepted(3)
      for (let i = 0; i < 20; i++) {
        yield* soon(client.request(patch))
      }
      // Neither when their handshakes have become slow.
      yield* server.accepted(20)
      yield* soon(client.request(patch))
      assert.isFalse(server.received.some(({ url }) => url === "/held/stream"))
    }))
})

describe("a new connection", () => {
  it.live("is opened for an attempt beside another, although one is idle", () =>
    Effect.gen(function*() {
      const { client, server } = yield* setup(() => true)
      yield* client.request(get)
      yield* Effect.provideService(client.request(patch), AnsweredWithin, Duration.zero)
      // On a machine that is too slow for it the idle one is taken in the end, but a new one is opened in any case.
      yield* soon(server.accepted(2))
    }))

  it.live("is not opened where an idle one has answered within the time that is given", () =>
    Effect.gen(function*() {
      const { client, server } = yield* setup(() => true)
      yield* client.request(get)
      yield* Effect.provideService(client.request(patch), AnsweredWithin, Duration.hours(1))
      assert.deepStrictEqual(connectionsOf(server), ["/get 1", "/patch 1"])
    }))

  it.live("is not waited for where another has answered meanwhile", () =>
    Effect.gen(function*() {
      const { client, held, server } = yield* setup((connection) => connection <= 2, { connectTimeout: "50 seconds" })
      const first = yield* fork(client.request({ ...get, path: "/held" }))
      yield* server.arrival(1)
      yield* client.request(get)
      const beside = yield* fork(Effect.provideService(client.request(patch), AnsweredWithin, Duration.zero))
      yield* server.accepted(3)
      json(held[0]!, 200, {})
      yield* soon(Effect.all([Fiber.join(first), Fiber.join(beside)]))
      assert.deepStrictEqual(connectionsOf(server), ["/held 1", "/get 2", "/patch 1"])
    }))
})

describe("a connection that breaks", () => {
  it.live("gives the idle ones a bad name, but those that have answered since", () =>
    Effect.gen(function*() {
      const { client, held, server } = yield* setup(() => true)
      // Two that are idle.
      const both = yield* Effect.forEach(["/held/a", "/held/b"], (path) => fork(client.request({ ...get, path })))
      yield* server.arrival(2)
      for (const response of held.splice(0)) json(response, 200, {})
      yield* Effect.forEach(both, Fiber.join)
      const broken = yield* fork(Effect.exit(client.request({ ...patch, path: "/held/c" })))
      yield* server.arrival(3)
      held.splice(0)[0]!.socket!.destroy()
      assert.isTrue(Exit.isFailure(yield* Fiber.join(broken)))
      yield* client.request(get)
      assert.strictEqual(server.received[3]?.connection, 3)
      // Left, and not closed: it is what remains where no new one can be had.
      yield* server.closed(1)
      assert.strictEqual(server.connections(), 3)
    }))

  /** Closes a kept connection with the request that comes on it, as a proxy does whose idle limit has just passed. */
  const closing = (committed: boolean) => {
    let version = 1
    const used = new Set<number>()
    const handler: Handler = ({ body, connection, method }, response, socket) => {
      if (method === "GET") {
        used.add(connection)
        return json(response, 200, {})
      }
      const matches = JSON.parse(body).version === version
      if (used.has(connection)) {
        version += committed && matches ? 1 : 0
        socket.destroy()
        return
      }
      version += matches ? 1 : 0
      json(
        response,
        matches ? 200 : 409,
        matches ? {} : { kind: "Status", apiVersion: "v1", status: "Failure", reason: "Conflict", code: 409 }
      )
    }
    return handler
  }

  const guarded = { ...patch, body: { version: 1 }, repeatable: true }

  it.live("costs a guarded write nothing: it is sent again, on a new connection", () =>
    Effect.gen(function*() {
      const server = yield* serve(closing(false))
      const client = yield* Layer.build(Layer.fresh(Client.layerServer({ server: server.url }))).pipe(
        Effect.map(Context.get(Client.KubernetesClient))
      )
      yield* Effect.all([client.request(get), client.request(get)], { concurrency: 2 })
      yield* client.request(guarded)
      assert.deepStrictEqual(server.received.map(({ method }) => method), ["GET", "GET", "PATCH", "PATCH"])
    }))

  it.live("leaves the outcome unknown where the second conflicts, for it may be with the first", () =>
    Effect.gen(function*() {
      const server = yield* serve(closing(true))
      const client = yield* Layer.build(Layer.fresh(Client.layerServer({ server: server.url }))).pipe(
        Effect.map(Context.get(Client.KubernetesClient))
      )
      yield* client.request(get)
      const { reason } = yield* Effect.flip(client.request(guarded))
      assert(reason._tag === "KubernetesStatusError")
      assert.strictEqual(reason.status, 409)
      assert.isTrue(reason.outcomeUnknown)
    }))

  it.live("is left before its server closes it, where that says when", () =>
    Effect.gen(function*() {
      const server = yield* serve((_, response) => json(response, 200, {}, { "keep-alive": "timeout=1" }))
      const client = yield* Layer.build(Layer.fresh(Client.layerServer({ server: server.url }))).pipe(
        Effect.map(Context.get(Client.KubernetesClient))
      )
      yield* client.request(get)
      yield* soon(server.closed(1))
    }))
})
