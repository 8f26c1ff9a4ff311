import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Layer, Logger } from "effect"
import { Fence, FenceHttp, LeaderElectionError } from "effect-kubernetes-leader-election"
import { HttpClient, HttpClientResponse, HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { Reactivity } from "effect/reactivity"
import { SqlClient } from "effect/sql"
import * as SqliteClient from "./utils/sqliteClient.ts"
import { inTerm, term } from "./utils/terms.ts"

const Receiver = Layer.provideMerge(
  Fence.layer({ table: "seen", limit: "100 millis" }),
  Layer.effect(SqlClient.SqlClient, SqliteClient.make(":memory:")).pipe(Layer.provide(Reactivity.layer))
)

const makeReceiver = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  yield* sql.unsafe(Fence.createTable("seen", "sqlite"))
  yield* sql`CREATE TABLE orders (token text)`
  const add = Effect.gen(function*() {
    const request = yield* HttpServerRequest.HttpServerRequest
    yield* sql`INSERT INTO orders VALUES (${request.headers[FenceHttp.header]!})`
    return request.url === "/fails" ? yield* Effect.fail("no such article") : HttpServerResponse.empty({ status: 201 })
  })
  const context = yield* Effect.context<Fence.Fence>()
  const app = FenceHttp.middleware({ name: "shop/orders" })(add)
  return {
    send: (token: string | undefined, url = "/orders") => {
      const headers = new Headers(token === undefined ? [] : [[FenceHttp.header, token]])
      const request = HttpServerRequest.fromWeb(new Request(`http://receiver${url}`, { method: "POST", headers }))
      return app.pipe(
        Effect.provideContext(context),
        Effect.provideService(HttpServerRequest.HttpServerRequest, request)
      )
    },
    orders: Effect.map(sql<{ token: string }>`SELECT token FROM orders`, (rows) => rows.map((row) => row.token))
  }
})

const status = Effect.map((response: HttpServerResponse.HttpServerResponse) => response.status)

describe("FenceHttp", () => {
  it.effect("lets the newest token in and refuses smaller ones, missing ones and what is not a token", () =>
    Effect.gen(function*() {
      const { orders, send } = yield* makeReceiver
      assert.strictEqual(yield* status(send("9007199254740992")), 201)
      assert.strictEqual(yield* status(send("9007199254740993")), 201)
      assert.strictEqual(yield* status(send("9007199254740992")), 412)
      assert.strictEqual(yield* status(send("9007199254740993")), 201)
      assert.strictEqual(yield* status(send(undefined)), 428)
      for (const malformed of ["", "0", "-5", "1e9", "0x10", "9223372036854775808", "12 13"]) {
        assert.strictEqual(yield* status(send(malformed)), 400, malformed)
      }
      assert.deepStrictEqual(yield* orders, ["9007199254740992", "9007199254740993", "9007199254740993"])
    }).pipe(Effect.provide(Receiver)))

  it.effect("a handler that fails writes nothing, and its error is passed on", () =>
    Effect.gen(function*() {
      const { orders, send } = yield* makeReceiver
      const exit = yield* Effect.exit(send("7", "/fails"))
      assert.deepStrictEqual(exit, Exit.fail("no such article"))
      assert.deepStrictEqual(yield* orders, [])
    }).pipe(Effect.provide(Receiver)))

  it.effect("a handler's own FenceError is the handler's, and not taken for a refusal", () =>
    Effect.gen(function*() {
      yield* makeReceiver
      const own = new Fence.FenceError({
        reason: new Fence.FenceStale({ name: "shop/stock", stored: 9n, token: 1n })
      })
      const request = HttpServerRequest.fromWeb(
        new Request("http://receiver/", { method: "POST", headers: { [FenceHttp.header]: "7" } })
      )
      const exit = yield* Effect.exit(
        Effect.provideService(
          FenceHttp.middleware({ name: "shop/orders" })(Effect.fail(own)),
          HttpServerRequest.HttpServerRequest,
          request
        )
      )
      assert.deepStrictEqual(exit, Exit.fail(own))
    }).pipe(Effect.provide(Receiver)))

  it.effect("fences the routes of a router", () =>
    Effect.gen(function*() {
      yield* makeReceiver
      const context = yield* Effect.context<Fence.Fence>()
      // As in the documentation of `middleware`.
      const Fenced = HttpRouter.middleware(Effect.map(Fence.Fence, (fence) => (handler) =>
        FenceHttp.middleware({ name: "shop/orders" })(handler).pipe(Effect.provideService(Fence.Fence, fence)))).layer
      const Routes = HttpRouter.add("POST", "/orders", HttpServerResponse.empty({ status: 201 })).pipe(
        Layer.provide(Fenced),
        Layer.provide(Layer.succeedContext(context))
      )
      const { dispose, handler } = HttpRouter.toWebHandler(Routes, { disableLogger: true })
      const send = (headers: Record<string, string>) =>
        Effect.promise(() =>
          handler(new Request("http://receiver/orders", { method: "POST", headers }))
        )
      assert.strictEqual((yield* send({})).status, 428)
      assert.strictEqual((yield* send({ [FenceHttp.header]: "8" })).status, 201)
      assert.strictEqual((yield* send({ [FenceHttp.header]: "7" })).status, 412)
      yield* Effect.promise(dispose)
    }).pipe(Effect.provide(Receiver)))

  it.effect("a client sends the token of its term, and nothing when the term is over", () =>
    Effect.gen(function*() {
      const sent: Array<string | undefined> = []
      const client = FenceHttp.withToken(HttpClient.make((request) => {
        sent.push(request.headers[FenceHttp.header])
        return Effect.succeed(HttpClientResponse.fromWeb(request, new Response()))
      }))
      yield* inTerm(term(2n ** 53n + 1n))(client.post("http://receiver/orders"))
      const over = yield* Effect.exit(
        inTerm(term(7n, { isValid: () => false }))(client.post("http://receiver/orders"))
      )
      assert.isTrue(
        Exit.isFailure(over) && Cause.squash(over.cause) instanceof LeaderElectionError.LeaderElectionError
      )
      assert.deepStrictEqual(sent, ["9007199254740993"])
    }))

  it.effect("a row that stays locked is answered with 503", () =>
    Effect.gen(function*() {
      const locked = Fence.Fence.of({
        ...(yield* Fence.Fence),
        accept: () =>
          Effect.fail(
            new Fence.FenceError({
              reason: new Fence.FenceBlocked({
                table: "seen",
                name: "shop/orders",
                limit: "100ms",
                sessions: [],
                remedy: "End it"
              })
            })
          )
      })
      const app = FenceHttp.middleware({ name: "shop/orders" })(Effect.succeed(HttpServerResponse.empty()))
      const request = HttpServerRequest.fromWeb(
        new Request("http://receiver/", { method: "POST", headers: { [FenceHttp.header]: "7" } })
      )
      const response = yield* app.pipe(
        Effect.provideService(Fence.Fence, locked),
        Effect.provideService(HttpServerRequest.HttpServerRequest, request)
      )
      assert.strictEqual(response.status, 503)
    }).pipe(Effect.provide(Receiver), Effect.provide(Logger.layer([]))))
})
