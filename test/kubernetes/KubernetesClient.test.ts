import { assert, describe, it } from "@effect/vitest"
import {
  Cause,
  ConfigProvider,
  Context,
  Deferred,
  Duration,
  Effect,
  Fiber,
  Layer,
  Logger,
  Metric,
  Queue,
  Redacted,
  type Scope,
  Stream
} from "effect"
import { TestClock } from "effect/testing"
import { spawn } from "node:child_process"
import { mkdir, mkdtemp, rename, rm, writeFile } from "node:fs/promises"
import { createServer, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { delimiter, join } from "node:path"
import { inspect } from "node:util"
import * as Credentials from "../../src/kubernetes/internal/credentials.ts"
import { KubernetesClient } from "../../src/kubernetes/KubernetesClient.ts"
import * as Client from "../../src/kubernetes/KubernetesClient.ts"
import {
  isOutcomeUnknown,
  type KubernetesConfigError,
  KubernetesCredentialsError,
  type KubernetesError
} from "../../src/kubernetes/KubernetesError.ts"
import { requests } from "../../src/LeaderElectionMetrics.ts"
import { blackHole } from "../utils/blackHole.ts"
import { makeAuthority } from "../utils/certificates.ts"
import { brokenLogger } from "../utils/observed.ts"
import { type Handler, json, serve, serveSockets, type TestServer } from "../utils/TestServer.ts"

// --- Helpers ---

const connect = <E>(layer: Layer.Layer<KubernetesClient, E>) =>
  Effect.map(Layer.build(Layer.fresh(layer)), (context) => Context.get(context, KubernetesClient))

const environment = (variables: Record<string, string>) =>
  Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown(variables)))

const to = (server: { readonly url: string }, options: Partial<Parameters<typeof Client.layerServer>[0]> = {}) =>
  connect(Client.layerServer({ server: server.url, ...options }))

/** The error's reason, which must be of this kind. */
const failure = Effect.fnUntraced(function*<A, R, Tag extends KubernetesError["reason"]["_tag"]>(
  effect: Effect.Effect<A, KubernetesError, R>,
  tag: Tag
) {
  const { reason } = yield* Effect.flip(effect)
  assert.strictEqual(reason._tag, tag, reason.message)
  return reason as Extract<KubernetesError["reason"], { readonly _tag: Tag }>
})

const configFailure = <A>(effect: Effect.Effect<A, KubernetesConfigError, Scope.Scope>) =>
  Effect.map(Effect.flip(effect), (error) => error.message)

const directory: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.promise(() => mkdtemp(join(tmpdir(), "kubernetes-client-"))),
  (path) => Effect.promise(() => rm(path, { recursive: true }))
)

/** Replaces the file in one step, as the kubelet does. */
const put = (path: string, text: string) =>
  Effect.promise(async () => {
    await writeFile(`${path}.new`, text)
    await rename(`${path}.new`, path)
  })

const filesIn = Effect.fnUntraced(function*(files: Record<string, string>) {
  const path = yield* directory
  yield* Effect.forEach(Object.entries(files), ([name, text]) => put(join(path, name), text))
  return path
})

const captureLogs = () => {
  const lines: Array<string> = []
  const logger = Logger.make((options) => {
    lines.push(`${options.logLevel} ${String(options.message)}`)
  })
  return { lines, layer: Logger.layer([logger]) }
}

const ok: Handler = (_, response) => json(response, 200, { ok: true })
const hang: Handler = () => {}
const get = { method: "GET", path: "/api/v1/things" } as const
const post = { method: "POST", path: "/api/v1/things", body: { a: 1 } } as const

const authority = makeAuthority("test CA")
const tls = authority.server(["127.0.0.1", "::1", "localhost"])

const unauthorized = {
  kind: "Status",
  apiVersion: "v1",
  metadata: {},
  status: "Failure",
  message: "Unauthorized",
  reason: "Unauthorized",
  code: 401
}

/** Serves who presents this token, which can be changed. */
const guarded = (allowed: { token: string }): Handler => (received, response) =>
  received.headers.authorization === `Bearer ${allowed.token}`
    ? json(response, 200, { ok: true })
    : json(response, 401, unauthorized)

const tokens = (server: TestServer) => server.received.map((received) => received.headers.authorization)

// --- Requests ---

describe("request", () => {
  it.live("sends JSON and reads the answer", () =>
    Effect.gen(function*() {
      const server = yield* serve((_, response) =>
        json(response, 201, { name: "ü" }, { date: "Sun, 22 Nov 2026 13:30:00 GMT", "x-some": "header" })
      )
      const client = yield* connect(Client.layerServer({
        server: `${server.url}/prefix/`,
        namespace: "here",
        token: Redacted.make("secret")
      }))
      assert.strictEqual(client.server, `${server.url}/prefix`)
      assert.strictEqual(client.namespace, "here")
      const answer = yield* client.request({
        ...post,
        query: { fieldSelector: "metadata.name=x", dryRun: "All", absent: undefined },
        body: { name: "ü" }
      })
      assert.strictEqual(answer.status, 201)
      assert.deepStrictEqual(answer.body, { name: "ü" })
      assert.strictEqual(answer.headers["x-some"], "header")
      assert.strictEqual(answer.serverTime, Date.UTC(2026, 10, 22, 13, 30))
      const [received] = server.received
      assert.strictEqual(received?.method, "POST")
      assert.strictEqual(received?.url, "/prefix/api/v1/things?fieldSelector=metadata.name%3Dx&dryRun=All")
      assert.strictEqual(received?.body, `{"name":"ü"}`)
      assert.strictEqual(received?.headers["content-type"], "application/json")
      assert.strictEqual(received?.headers["content-length"], "13")
      assert.strictEqual(received?.headers.accept, "application/json")
      assert.strictEqual(received?.headers.authorization, "Bearer secret")
      assert.strictEqual(received?.headers["user-agent"], "effect-kubernetes-leader-election")
    }))

  it.live("sends a PATCH as a merge patch unless told otherwise, and a GET without a body", () =>
    Effect.gen(function*() {
      const server = yield* serve(ok)
      const client = yield* to(server)
      yield* client.request({ ...post, method: "PATCH" })
      yield* client.request({ ...post, method: "PATCH", contentType: "application/json-patch+json" })
      yield* client.request(get)
      assert.deepStrictEqual(server.received.map(({ body, headers }) => [headers["content-type"], body]), [
        ["application/merge-patch+json", `{"a":1}`],
        ["application/json-patch+json", `{"a":1}`],
        [undefined, ""]
      ])
    }))

  it.live("gives text that is no JSON as it is", () =>
    Effect.gen(function*() {
      const server = yield* serve((_, response) => {
        response.setHeader("content-type", "text/plain")
        response.end("ok")
      })
      const client = yield* to(server)
      assert.strictEqual((yield* client.request(get)).body, "ok")
    }))

  it.live("uses one connection for one request after another, refused ones too", () =>
    Effect.gen(function*() {
      const server = yield* serve((received, response) =>
        json(response, received.method === "GET" ? 200 : 409, { message: "no" })
      )
      const client = yield* to(server)
      yield* client.request(get)
      yield* Effect.flip(client.request(post))
      yield* client.request(get)
      assert.deepStrictEqual(server.received.map((received) => received.connection), [1, 1, 1])
    }))

  it.live("closes its connections with the layer", () =>
    Effect.gen(function*() {
      const server = yield* serve(ok)
      yield* Effect.scoped(Effect.flatMap(to(server), (client) => client.request(get)))
      yield* server.closed(1)
    }))
})

describe("answers that are errors", () => {
  const cases: ReadonlyArray<{
    readonly status: number
    readonly body: string
    readonly contentType?: string
    readonly retryAfter?: string
    readonly expected: Record<string, unknown>
    readonly unknown: boolean
  }> = [
    {
      status: 409,
      body:
        `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"leases.coordination.k8s.io \\"x\\" already exists","reason":"AlreadyExists","details":{"name":"x","group":"coordination.k8s.io","kind":"leases"},"code":409}\n`,
      expected: {
        reason: "AlreadyExists",
        message: `leases.coordination.k8s.io "x" already exists`,
        details: { name: "x", group: "coordination.k8s.io", kind: "leases" }
      },
      unknown: false
    },
    {
      status: 429,
      body: "Too many requests, please try again later.\n",
      contentType: "text/plain; charset=utf-8",
      retryAfter: "1",
      expected: { message: "Too many requests, please try again later.", retryAfter: Duration.seconds(1) },
      unknown: false
    },
    {
      status: 504,
      body:
        `{"metadata":{},"status":"Failure","message":"Timeout: request did not complete within the allotted timeout","reason":"Timeout","details":{},"code":504}`,
      expected: {
        reason: "Timeout",
        message: "Timeout: request did not complete within the allotted timeout",
        details: {}
      },
      unknown: true
    },
    {
      status: 500,
      body:
        `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"etcdserver: request is too large","code":500}`,
      expected: { message: "etcdserver: request is too large" },
      unknown: true
    },
    {
      status: 503,
      body: "",
      contentType: "text/html",
      retryAfter: "soon",
      expected: { message: "no message" },
      unknown: true
    },
    {
      status: 302,
      body: `<html>${"x".repeat(1000)}`,
      contentType: "text/html",
      expected: { message: `<html>${"x".repeat(294)}…` },
      // Whose page it is, and what its sender did before, is not known.
      unknown: true
    }
  ]
  it.live.each(cases)(
    "$status",
    ({ body, contentType, expected, retryAfter, status, unknown }) =>
      Effect.gen(function*() {
        const server = yield* serve((_, response) => {
          response.writeHead(status, {
            "content-type": contentType ?? "application/json",
            ...(retryAfter !== undefined && { "retry-after": retryAfter })
          })
          response.end(body)
        })
        const client = yield* to(server)
        const error = yield* Effect.flip(client.request(post))
        const { reason } = error
        assert(reason._tag === "KubernetesStatusError")
        const { details, message, retryAfter: wait } = reason
        const expectation = {
          reason: undefined,
          details: undefined,
          retryAfter: undefined,
          ...expected,
          status,
          unknown
        }
        assert.deepEqual({
          details,
          message,
          reason: reason.reason,
          retryAfter: wait,
          status: reason.status,
          unknown: isOutcomeUnknown(error)
        }, expectation as never)
        // A read has no outcome.
        assert.isFalse(isOutcomeUnknown(yield* Effect.flip(client.request(get))))
        assert.isTrue(error.message.startsWith(`POST /api/v1/things: ${status}`), error.message)
      })
  )

  it.live("a 2xx that is no JSON although it says so", () =>
    Effect.gen(function*() {
      const server = yield* serve((_, response) => {
        response.setHeader("content-type", "application/json")
        response.end(`{"a":`)
      })
      const client = yield* to(server)
      const reason = yield* failure(client.request(post), "KubernetesBodyError")
      assert.strictEqual(reason.message, `the answer (200) is not JSON: {"a":`)
    }))
})

// --- Connections that fail ---

describe("connections", () => {
  it.live("a refused one says that nothing was sent", () =>
    Effect.gen(function*() {
      const { port } = yield* Effect.scoped(serveSockets(() => {}))
      const client = yield* to({ url: `http://127.0.0.1:${port}` })
      const reason = yield* failure(client.request(post), "KubernetesConnectionError")
      assert.strictEqual(reason.code, "ECONNREFUSED")
      assert.isFalse(reason.outcomeUnknown)
      assert.strictEqual(
        reason.message,
        `no connection to http://127.0.0.1:${port}: nothing listens there (connect ECONNREFUSED 127.0.0.1:${port})`
      )
    }))

  it.live("a host that does not exist says that nothing was sent", () =>
    Effect.gen(function*() {
      const client = yield* to({ url: "https://no-such-host.invalid" })
      const reason = yield* failure(client.request(post), "KubernetesConnectionError")
      assert.isFalse(reason.outcomeUnknown)
      assert.match(
        reason.message,
        /^no connection to https:\/\/no-such-host\.invalid:443: the name no-such-host\.invalid could not be resolved \(getaddr/
      )
    }))

  it.live("a TLS handshake that fails says that nothing was sent", () =>
    Effect.gen(function*() {
      const server = yield* serveSockets((socket) => socket.once("data", () => socket.destroy()))
      const client = yield* to({ url: `https://127.0.0.1:${server.port}` })
      const reason = yield* failure(client.request(post), "KubernetesConnectionError")
      assert.isFalse(reason.outcomeUnknown)
    }))

  it.effect("time limits that are none are named", () =>
    Effect.gen(function*() {
      for (const limits of [{ connectTimeout: 0 }, { requestTimeout: Number.NaN }, { requestTimeout: "soon" }]) {
        const exit = yield* Effect.exit(to({ url: "https://127.0.0.1:1" }, limits))
        assert.match(String(exit), /(connect|request)Timeout is /)
      }
    }))

  it.live("a TLS handshake that hangs is cut at the limit for connecting", () =>
    Effect.gen(function*() {
      const server = yield* serveSockets(() => {})
      const client = yield* to({ url: `https://127.0.0.1:${server.port}` }, { connectTimeout: "50ms" })
      const reason = yield* failure(client.request(post), "KubernetesTimeoutError")
      // On a busy machine 50 ms may not be enough to be accepted.
      assert.include(["connection", "tls"], reason.phase)
      assert.match(reason.message, /^no connection to https:\/\/127\.0\.0\.1:\d+ within 50ms: /)
      assert.isFalse(reason.outcomeUnknown)
    }))

  it.effect("a TLS handshake that hangs is cut at the limit of the request, too", () =>
    Effect.gen(function*() {
      const greeted = yield* Deferred.make<void>()
      const server = yield* serveSockets((socket) =>
        socket.once("data", () => Deferred.doneUnsafe(greeted, Effect.void))
      )
      const client = yield* to({ url: `https://127.0.0.1:${server.port}` })
      const fiber = yield* Effect.forkChild(client.request({ ...post, timeout: "2 seconds" }))
      yield* Deferred.await(greeted)
      yield* TestClock.adjust("2 seconds")
      const reason = yield* failure(Fiber.join(fiber), "KubernetesTimeoutError")
      assert.strictEqual(reason.phase, "tls")
      assert.isFalse(reason.outcomeUnknown)
      yield* server.closed(1)
    }))

  it.live.skipIf(process.platform !== "linux")(
    "one that cannot be established because nobody accepts it is cut at the limit",
    () =>
      Effect.gen(function*() {
        const port = yield* blackHole
        const client = yield* to({ url: `http://127.0.0.1:${port}` }, { connectTimeout: "100 millis" })
        const reason = yield* failure(client.request(post), "KubernetesTimeoutError")
        assert.strictEqual(reason.phase, "connection")
        assert.isFalse(reason.outcomeUnknown)
      })
  )

  it.effect("an answer that does not come is cut at the limit", () =>
    Effect.gen(function*() {
      const server = yield* serve(hang)
      const client = yield* to(server, { requestTimeout: "2 seconds" })
      const write = yield* Effect.forkChild(client.request(post))
      yield* server.arrival(1)
      yield* TestClock.adjust("1999 millis")
      assert.isUndefined(write.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      const reason = yield* failure(Fiber.join(write), "KubernetesTimeoutError")
      assert.strictEqual(reason.phase, "response")
      assert.strictEqual(reason.message, `no answer from ${server.url} within 2s, though the request was sent`)
      assert.isTrue(reason.outcomeUnknown)
      yield* server.closed(1)
      const read = yield* Effect.forkChild(client.request({ ...get, timeout: "3 seconds" }))
      yield* server.arrival(2)
      yield* TestClock.adjust("3 seconds")
      assert.isFalse((yield* failure(Fiber.join(read), "KubernetesTimeoutError")).outcomeUnknown)
    }))

  it.live("a body that does not come to its end is cut at the limit", () =>
    Effect.gen(function*() {
      const server = yield* serve((_, response) => {
        response.writeHead(200, { "content-type": "application/json", "content-length": "100" })
        response.write(`{"a":`)
      })
      const client = yield* to(server, { requestTimeout: "1 second" })
      const reason = yield* failure(client.request(post), "KubernetesTimeoutError")
      assert.strictEqual(reason.phase, "body")
      assert.isTrue(reason.outcomeUnknown)
      yield* server.closed(1)
    }))

  for (const [status, unknown] of [[409, true], [429, false]] as const) {
    it.live(`a body that hangs after ${status}: ${unknown ? "it may not be the API server's" : "not applied"}`, () =>
      Effect.gen(function*() {
        const server = yield* serve((_, response) => {
          response.writeHead(status, { "content-type": "application/json", "content-length": "100" })
          response.write(`{"a":`)
        })
        const client = yield* to(server, { requestTimeout: "1 second" })
        const reason = yield* failure(client.request(post), "KubernetesTimeoutError")
        assert.strictEqual(reason.phase, "body")
        assert.strictEqual(reason.outcomeUnknown, unknown)
      }))
  }

  it.live("one that breaks before the answer leaves the outcome unknown", () =>
    Effect.gen(function*() {
      const server = yield* serve((_, __, socket) => socket.destroy())
      const client = yield* to(server)
      const reason = yield* failure(client.request(post), "KubernetesConnectionError")
      assert.isTrue(reason.outcomeUnknown)
      assert.match(reason.message, /^the connection to http:\/\/127.0.0.1:\d+ broke before the answer: /)
      assert.isFalse((yield* failure(client.request(get), "KubernetesConnectionError")).outcomeUnknown)
      // On new connections a read is not sent again either.
      assert.deepStrictEqual(server.received.map(({ method }) => method), ["POST", "GET"])
    }))

  it.live("one that breaks within the answer leaves the outcome unknown", () =>
    Effect.gen(function*() {
      const server = yield* serve((_, response, socket) => {
        response.writeHead(200, { "content-type": "application/json", "content-length": "100" })
        response.write(`{"a":`, () => socket.destroy())
      })
      const client = yield* to(server)
      assert.isTrue((yield* failure(client.request(post), "KubernetesConnectionError")).outcomeUnknown)
    }))

  it.live("a kept one that breaks costs a read nothing and a write its outcome", () =>
    Effect.gen(function*() {
      const server = yield* serve(({ connection }, response, socket) => {
        if (server.received.filter((received) => received.connection === connection).length > 1) {
          socket.destroy()
        } else {
          json(response, 200, { connection })
        }
      })
      const client = yield* to(server)
      assert.deepStrictEqual((yield* client.request(get)).body, { connection: 1 })
      assert.deepStrictEqual((yield* client.request(get)).body, { connection: 2 })
      assert.isTrue((yield* failure(client.request(post), "KubernetesConnectionError")).outcomeUnknown)
      assert.deepStrictEqual(server.received.map(({ connection, method }) => `${method} ${connection}`), [
        "GET 1",
        "GET 1",
        "GET 2",
        "POST 2"
      ])
    }))

  it.effect("idle ones are not tried one after the other when one has stalled", () =>
    Effect.gen(function*() {
      const responses: Array<ServerResponse> = []
      const server = yield* serve(({ url }, response) => {
        if (url === "/together" && responses.push(response) === 2) {
          for (const response of responses) json(response, 200, {})
        }
        if (url === "/fresh") json(response, 200, {})
      })
      const client = yield* to(server)
      const together = client.request({ method: "GET", path: "/together" })
      yield* Effect.all([together, together], { concurrency: 2 })
      const fiber = yield* Effect.forkChild(Effect.flip(client.request({ method: "POST", path: "/hang" })))
      yield* server.arrival(3)
      yield* TestClock.adjust("30 seconds")
      yield* Fiber.join(fiber)
      yield* client.request({ method: "POST", path: "/fresh" })
      assert.deepStrictEqual(server.received.map(({ connection, url }) => `${url} ${connection > 2}`).slice(2), [
        "/hang false",
        "/fresh true"
      ])
    }))
})

// --- Interruption ---

describe("interruption", () => {
  it.live("closes the connection while it waits for the answer", () =>
    Effect.gen(function*() {
      const server = yield* serve(hang)
      const client = yield* to(server)
      const fiber = yield* Effect.forkChild(client.request(post))
      yield* server.arrival(1)
      yield* Fiber.interrupt(fiber)
      yield* server.closed(1)
    }))

  it.live("closes the connection while it reads the answer", () =>
    Effect.gen(function*() {
      const written = yield* Deferred.make<void>()
      const server = yield* serve((_, response) => {
        response.writeHead(200, { "content-type": "application/json", "content-length": "100" })
        response.write(`{"a":`, () => Deferred.doneUnsafe(written, Effect.void))
      })
      const client = yield* to(server)
      const fiber = yield* Effect.forkChild(client.request(post))
      yield* Deferred.await(written)
      yield* Fiber.interrupt(fiber)
      yield* server.closed(1)
    }))

  it.live("closes the connection while it is being established", () =>
    Effect.gen(function*() {
      const server = yield* serveSockets(() => {})
      const client = yield* to({ url: `https://127.0.0.1:${server.port}` })
      const fiber = yield* Effect.forkChild(client.request(post))
      yield* server.accepted(1)
      yield* Fiber.interrupt(fiber)
      yield* server.closed(1)
    }))

  it.live("does not wait for the credentials, nor does a time limit", () =>
    Effect.gen(function*() {
      const plugin = yield* makePlugin
      const server = yield* serve(guarded({ token: "late" }))
      const file = yield* kubeconfig({ server: server.url, user: { exec: plugin.exec } })
      const client = yield* connect(Client.layerKubeconfig({ file }))
      const fiber = yield* Effect.forkChild(client.request(post))
      yield* plugin.asked(1)
      yield* Fiber.interrupt(fiber)
      const reason = yield* failure(client.request({ ...post, timeout: "50 millis" }), "KubernetesTimeoutError")
      assert.strictEqual(reason.phase, "credentials")
      assert.isFalse(reason.outcomeUnknown)
      // The plugin was left to its work: whoever waits for it next need not begin again.
      const patient = yield* Effect.forkChild(client.request(post))
      yield* plugin.answer(0, { token: "late" })
      yield* Fiber.join(patient)
      assert.strictEqual(plugin.count(), 1)
      assert.deepStrictEqual(tokens(server), ["Bearer late"])
    }))
})

// --- Streams ---

const watch = { path: "/watch" }

describe("stream", () => {
  it.live("opens with the response's head, and gives lines however they are cut", () =>
    Effect.gen(function*() {
      const more = yield* Queue.make<Uint8Array | undefined>()
      const server = yield* serve((_, response) => {
        response.writeHead(200, { "content-type": "application/json", date: "Sun, 22 Nov 2026 13:30:00 GMT" })
        response.flushHeaders()
        Effect.runFork(
          Stream.fromQueue(more).pipe(
            Stream.runForEach((chunk) =>
              Effect.callback<void>((resume) => {
                if (chunk === undefined) response.end(() => resume(Effect.void))
                else response.write(chunk, () => resume(Effect.void))
              })
            )
          )
        )
      })
      const client = yield* to(server)
      const { lines, serverTime, status } = yield* client.stream({ path: "/watch", query: { watch: "1" } })
      assert.strictEqual(status, 200)
      assert.strictEqual(serverTime, Date.UTC(2026, 10, 22, 13, 30))
      assert.strictEqual(server.received[0]?.url, "/watch?watch=1")
      const bytes = Buffer.from(`{"a":"ü€𝄞"}\n\n{"a":2}\n{"a":3}\n`)
      // One byte at a time: within characters, within lines, between lines.
      for (const byte of bytes) yield* Queue.offer(more, Uint8Array.of(byte))
      yield* Queue.offer(more, Buffer.from(`{"a":4}\n{"a":5}\n{"a`))
      yield* Queue.offer(more, Buffer.from(`":6}\n`))
      yield* Queue.offer(more, undefined)
      assert.deepStrictEqual(yield* Stream.runCollect(lines), [
        { a: "ü€𝄞" },
        { a: 2 },
        { a: 3 },
        { a: 4 },
        { a: 5 },
        { a: 6 }
      ])
    }))

  it.live("gives a line when it is there, and not with the next one", () =>
    Effect.gen(function*() {
      const server = yield* serve((_, response) => {
        response.writeHead(200)
        response.write(`{"a":1}\n`)
      })
      const client = yield* to(server)
      const { lines } = yield* client.stream(watch)
      assert.deepStrictEqual(yield* Stream.runCollect(Stream.take(lines, 1)), [{ a: 1 }])
    }))

  it.live("keeps the connection for other requests when the server has ended the stream", () =>
    Effect.gen(function*() {
      const server = yield* serve(ok)
      const client = yield* to(server)
      yield* Effect.scoped(Effect.flatMap(client.stream(watch), ({ lines }) => Stream.runDrain(lines)))
      yield* client.request(get)
      assert.strictEqual(server.connections(), 1)
    }))

  it.live("fails where the connection breaks", () =>
    Effect.gen(function*() {
      const server = yield* serve((_, response, socket) => {
        response.writeHead(200)
        response.write(`{"a":1}\n`, () => socket.destroy())
      })
      const client = yield* to(server)
      const { lines } = yield* client.stream(watch)
      yield* failure(Stream.runDrain(lines), "KubernetesConnectionError")
    }))

  it.live("fails with a line that is no JSON", () =>
    Effect.gen(function*() {
      const server = yield* serve((_, response) => response.end(`{"a":1}\n{"a":`))
      const client = yield* to(server)
      const { lines } = yield* client.stream(watch)
      yield* failure(Stream.runDrain(lines), "KubernetesBodyError")
    }))

  it.live("fails with the status where that is not 2xx", () =>
    Effect.gen(function*() {
      const server = yield* serve((_, response) => json(response, 403, { reason: "Forbidden", message: "no" }))
      const client = yield* to(server)
      assert.strictEqual((yield* failure(Effect.scoped(client.stream(watch)), "KubernetesStatusError")).status, 403)
    }))

  it.effect("fails where the head does not come, and closes the connection", () =>
    Effect.gen(function*() {
      const server = yield* serve(hang)
      const client = yield* to(server)
      const fiber = yield* Effect.forkChild(client.stream({ ...watch, timeout: "2 seconds" }))
      yield* server.arrival(1)
      yield* TestClock.adjust("2 seconds")
      const reason = yield* failure(Fiber.join(fiber), "KubernetesTimeoutError")
      assert.strictEqual(reason.phase, "response")
      // While the scope that it would have had is still open.
      yield* server.closed(1)
    }))

  it.effect("fails after 90 seconds of silence, counted from the last byte", () =>
    Effect.gen(function*() {
      let response: { write: (text: string) => unknown } | undefined
      const server = yield* serve((_, to) => {
        to.writeHead(200)
        to.flushHeaders()
        response = to
      })
      const client = yield* to(server)
      const { lines } = yield* client.stream(watch)
      const seen = yield* Queue.make<unknown>()
      const fiber = yield* Effect.forkChild(Stream.runForEach(lines, (line) => Queue.offer(seen, line)))
      yield* TestClock.adjust("89 seconds")
      response?.write("1\n")
      assert.strictEqual(yield* Queue.take(seen), 1)
      yield* TestClock.adjust("89 seconds")
      // Half a line is a sign of life too.
      response?.write("2\n3")
      assert.strictEqual(yield* Queue.take(seen), 2)
      yield* TestClock.adjust("89 seconds")
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("1 second")
      const reason = yield* failure(Fiber.join(fiber), "KubernetesTimeoutError")
      assert.strictEqual(reason.phase, "stream")
      assert.strictEqual(reason.message, "not a byte from the API server for 90s")
    }))

  it.live("closes the connection when it is interrupted", () =>
    Effect.gen(function*() {
      const server = yield* serve((_, response) => {
        response.writeHead(200)
        response.write("1\n")
      })
      const client = yield* to(server)
      const seen = yield* Deferred.make<void>()
      const fiber = yield* Effect.forkChild(Effect.scoped(Effect.flatMap(client.stream(watch), ({ lines }) =>
        Stream.runForEach(lines, () =>
          Deferred.succeed(seen, undefined)))))
      yield* Deferred.await(seen)
      yield* Fiber.interrupt(fiber)
      yield* server.closed(1)
    }))
})

// --- In a cluster ---

const inCluster = Effect.fnUntraced(function*(port: number, path: string, host = "127.0.0.1") {
  return yield* connect(Client.layerInCluster({ directory: path })).pipe(
    environment({ KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: `${port}` })
  )
})

describe("in a cluster", () => {
  it.live("connects as the service account", () =>
    Effect.gen(function*() {
      const server = yield* serve(guarded({ token: "one" }), { tls })
      const path = yield* filesIn({ token: "one\n", "ca.crt": authority.cert, namespace: "here\n" })
      const client = yield* inCluster(server.port, path)
      assert.strictEqual(client.server, server.url)
      assert.strictEqual(client.namespace, "here")
      yield* client.request(get)
    }))

  it.live("connects to an IPv6 address", () =>
    Effect.gen(function*() {
      const server = yield* serve(ok, { tls, host: "::1" })
      const path = yield* filesIn({ token: "one", "ca.crt": authority.cert })
      const client = yield* inCluster(server.port, path, "::1")
      assert.strictEqual(client.server, `https://[::1]:${server.port}`)
      assert.isUndefined(client.namespace)
      yield* client.request(get)
    }))

  it.effect("reads the token again when it is older than 10 seconds", () =>
    Effect.gen(function*() {
      const server = yield* serve(ok, { tls })
      const path = yield* filesIn({ token: "one", "ca.crt": authority.cert })
      const client = yield* inCluster(server.port, path)
      yield* client.request(get)
      yield* put(join(path, "token"), "two")
      yield* TestClock.adjust("9 seconds")
      yield* client.request(get)
      yield* TestClock.adjust("1 second")
      yield* client.request(get)
      assert.deepStrictEqual(tokens(server), ["Bearer one", "Bearer one", "Bearer two"])
      assert.strictEqual(server.connections(), 1)
    }))

  it.live("reads the token again at once after a 401, and sends the request again", () =>
    Effect.gen(function*() {
      const allowed = { token: "one" }
      const server = yield* serve(guarded(allowed), { tls })
      const path = yield* filesIn({ token: "one", "ca.crt": authority.cert })
      const client = yield* inCluster(server.port, path)
      yield* client.request(get)
      allowed.token = "two"
      yield* put(join(path, "token"), "two")
      yield* client.request(post)
      assert.deepStrictEqual(tokens(server), ["Bearer one", "Bearer one", "Bearer two"])
      assert.strictEqual(server.received[2]?.body, `{"a":1}`)
      assert.strictEqual(server.connections(), 1)
      yield* Effect.scoped(client.stream(watch))
      assert.strictEqual(tokens(server)[3], "Bearer two")
    }))

  it.live("sends it only once more", () =>
    Effect.gen(function*() {
      const server = yield* serve(guarded({ token: "none" }), { tls })
      const path = yield* filesIn({ token: "one", "ca.crt": authority.cert })
      const client = yield* inCluster(server.port, path)
      const reason = yield* failure(client.request(post), "KubernetesStatusError")
      assert.strictEqual(reason.status, 401)
      assert.isFalse(reason.outcomeUnknown)
      assert.strictEqual(server.received.length, 2)
    }))

  it.live("knows that a write was not applied where only the refused one was sent", () =>
    Effect.gen(function*() {
      const server = createServer((_, response) => {
        server.close()
        json(response, 401, unauthorized, { connection: "close" })
      })
      yield* Effect.callback<void>((resume) => {
        server.listen(0, "127.0.0.1", () => resume(Effect.void))
      })
      const { port } = server.address() as AddressInfo
      const client = yield* to({ url: `http://127.0.0.1:${port}` })
      const reason = yield* failure(client.request(post), "KubernetesConnectionError")
      assert.strictEqual(reason.code, "ECONNREFUSED")
      assert.isFalse(reason.outcomeUnknown)
    }))

  it.effect("goes on with the former token while the file cannot be read", () => {
    const logs = captureLogs()
    return Effect.gen(function*() {
      const server = yield* serve(ok, { tls })
      const path = yield* filesIn({ token: "one", "ca.crt": authority.cert })
      const client = yield* inCluster(server.port, path)
      yield* put(join(path, "token"), "\n")
      yield* TestClock.adjust("10 seconds")
      yield* client.request(get)
      assert.deepStrictEqual(tokens(server), ["Bearer one"])
      assert.deepStrictEqual(logs.lines, [
        `Warn Could not refresh credentials; continuing with the previous ones: ${path}/token is empty`
      ])
    }).pipe(Effect.provide(logs.layer))
  })

  it.effect("A10 a logger that throws costs no request", () =>
    Effect.gen(function*() {
      const server = yield* serve(ok, { tls })
      const path = yield* filesIn({ token: "one", "ca.crt": authority.cert })
      const client = yield* inCluster(server.port, path)
      yield* put(join(path, "token"), "\n")
      yield* TestClock.adjust("10 seconds")
      yield* client.request(get)
      assert.deepStrictEqual(tokens(server), ["Bearer one"])
    }).pipe(Effect.provide(brokenLogger)))

  it.live("does not talk to a server that the CA has not signed, whatever NODE_TLS_REJECT_UNAUTHORIZED says", () =>
    Effect.gen(function*() {
      const server = yield* serve(ok, { tls })
      const path = yield* filesIn({ token: "one", "ca.crt": makeAuthority("another CA").cert })
      const client = yield* inCluster(server.port, path)
      yield* Effect.acquireRelease(
        Effect.sync(() => process.env["NODE_TLS_REJECT_UNAUTHORIZED"] = "0"),
        () => Effect.sync(() => delete process.env["NODE_TLS_REJECT_UNAUTHORIZED"])
      )
      const reason = yield* failure(client.request(post), "KubernetesConnectionError")
      assert.isFalse(reason.outcomeUnknown)
      assert.strictEqual(reason.code, "UNABLE_TO_GET_ISSUER_CERT_LOCALLY")
      assert.strictEqual(
        reason.message,
        `the certificate of ${server.url} is not trusted (UNABLE_TO_GET_ISSUER_CERT_LOCALLY); it must be signed by ` +
          `the CA in ${path}/ca.crt`
      )
      assert.strictEqual(server.received.length, 0)
    }))

  it.live("does not talk to a server with another name", () =>
    Effect.gen(function*() {
      const server = yield* serve(ok, { tls: authority.server(["elsewhere"]) })
      const path = yield* filesIn({ token: "one", "ca.crt": authority.cert })
      const client = yield* inCluster(server.port, path)
      const reason = yield* failure(client.request(post), "KubernetesConnectionError")
      assert.strictEqual(reason.code, "ERR_TLS_CERT_ALTNAME_INVALID")
      assert.strictEqual(server.received.length, 0)
    }))

  it.effect("follows the CA when it is replaced", () =>
    Effect.gen(function*() {
      const next = makeAuthority("next CA")
      const server = yield* serve(ok, { tls })
      const path = yield* filesIn({ token: "one", "ca.crt": authority.cert })
      const client = yield* inCluster(server.port, path)
      yield* client.request(get)
      yield* put(join(path, "ca.crt"), next.cert)
      yield* TestClock.adjust("10 seconds")
      // The connection that the former CA vouched for is not used any more.
      yield* failure(client.request(get), "KubernetesConnectionError")
      yield* server.closed(2)
      yield* put(join(path, "ca.crt"), authority.cert + next.cert)
      yield* TestClock.adjust("10 seconds")
      yield* client.request(get)
    }))

  const settings: ReadonlyArray<
    { readonly name: string; readonly variables: Record<string, string>; readonly message: RegExp }
  > = [
    {
      name: "no host",
      variables: {},
      message: /^KUBERNETES_SERVICE_HOST is not set, so this process does not run in a Pod/
    },
    {
      name: "an empty host",
      variables: { KUBERNETES_SERVICE_HOST: "" },
      message: /^KUBERNETES_SERVICE_HOST is not set/
    },
    {
      name: "no port",
      variables: { KUBERNETES_SERVICE_HOST: "h" },
      message: /is set \(h\), but KUBERNETES_SERVICE_PORT is not; Kubernetes sets both/
    },
    {
      name: "a wrong port",
      variables: { KUBERNETES_SERVICE_HOST: "h", KUBERNETES_SERVICE_PORT: "https" },
      message: /is set \(h\), but KUBERNETES_SERVICE_PORT is not a valid port: https;/
    }
  ]
  it.live.each(settings)("says what is wrong with $name", ({ message, variables }) =>
    Effect.gen(function*() {
      assert.match(yield* configFailure(connect(Client.layerInCluster())).pipe(environment(variables)), message)
    }))

  it.live("says which file is missing, before the first request", () =>
    Effect.gen(function*() {
      const path = yield* filesIn({ "ca.crt": authority.cert })
      const message = yield* configFailure(connect(Client.layerInCluster({ directory: path }))).pipe(
        environment({ KUBERNETES_SERVICE_HOST: "127.0.0.1", KUBERNETES_SERVICE_PORT: "443" })
      )
      assert.match(message, /\/token cannot be read \(ENOENT.*automountServiceAccountToken/)
      yield* put(join(path, "token"), "one")
      yield* Effect.promise(() => rm(join(path, "ca.crt")))
      assert.match(
        yield* configFailure(connect(Client.layerInCluster({ directory: path }))).pipe(
          environment({ KUBERNETES_SERVICE_HOST: "127.0.0.1", KUBERNETES_SERVICE_PORT: "443" })
        ),
        /\/ca\.crt cannot be read \(ENOENT/
      )
    }))

  it.live("loads neither undici, nor what only kubeconfigs need, nor Effect's barrel", () =>
    Effect.gen(function*() {
      const modules = ["KubernetesClient", "KubernetesLeaseStore"].map((name) =>
        new URL(`../../src/kubernetes/${name}.ts`, import.meta.url).href
      )
      const script = `
        const { registerHooks } = await import("node:module")
        const loaded = new Set()
        registerHooks({ resolve: (specifier, context, next) => (loaded.add(specifier), next(specifier, context)) })
        for (const module of ${JSON.stringify(modules)}) await import(module)
        const builtin = process.moduleLoadList.map((name) => name.split(" ")[1])
        const heavy = /undici|^yaml$|proxy-agent|openid-client|^effect$|^@effect/
        console.log([...loaded, ...builtin].filter((name) => heavy.test(name)).join() + " of " + (loaded.size > 20))
      `
      assert.strictEqual(yield* run(process.execPath, ["--input-type=module", "-e", script]), " of true\n")
    }), 20_000)
})

const run = (command: string, args: ReadonlyArray<string>): Effect.Effect<string> =>
  Effect.callback((resume) => {
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "inherit"] })
    let output = ""
    child.stdout.on("data", (chunk) => output += String(chunk))
    child.once("close", () => resume(Effect.succeed(output)))
    return Effect.sync(() => child.kill("SIGKILL"))
  })

// --- Kubeconfigs ---

interface KubeconfigParts {
  readonly server: string
  readonly cluster?: Record<string, unknown>
  readonly user?: Record<string, unknown>
  readonly context?: Record<string, unknown>
  readonly name?: string
}

const kubeconfigText = ({ cluster, context, name = "test", server, user }: KubeconfigParts) =>
  JSON.stringify({
    apiVersion: "v1",
    kind: "Config",
    clusters: [{ name, cluster: { server, ...cluster } }],
    users: user === undefined ? [] : [{ name, user }],
    contexts: [{ name, context: { cluster: name, ...(user !== undefined && { user: name }), ...context } }],
    "current-context": name
  })

const kubeconfig = Effect.fnUntraced(function*(parts: KubeconfigParts) {
  const path = yield* directory
  const file = join(path, "config")
  yield* put(file, kubeconfigText(parts))
  return file
})

const base64 = (text: string) => Buffer.from(text).toString("base64")

/** An exec plugin that asks this test what to say: it prints what a server answers. */
const makePlugin = Effect.gen(function*() {
  const waiting: Array<(body: string) => void> = []
  const server = yield* serve((_, response) => waiting.push((body) => response.end(body)))
  return {
    exec: {
      apiVersion: "client.authentication.k8s.io/v1",
      command: process.execPath,
      args: [
        "-e",
        `fetch(${JSON.stringify(server.url)}).then(async (answer) => process.stdout.write(await answer.text()))`
      ],
      interactiveMode: "Never"
    },
    asked: server.arrival,
    count: () => server.received.length,
    answer: (index: number, status: Record<string, unknown>) =>
      Effect.sync(() =>
        waiting[index]!(JSON.stringify({
          apiVersion: "client.authentication.k8s.io/v1",
          kind: "ExecCredential",
          status
        }))
      )
  }
})

describe("with a kubeconfig", () => {
  it.live("logs in with a token", () =>
    Effect.gen(function*() {
      const server = yield* serve(ok, { tls })
      const file = yield* kubeconfig({
        server: `${server.url}/`,
        cluster: { "certificate-authority-data": base64(authority.cert) },
        user: { token: "one" },
        context: { namespace: "here" }
      })
      const client = yield* connect(Client.layerKubeconfig({ file }))
      assert.strictEqual(client.server, server.url)
      assert.strictEqual(client.namespace, "here")
      yield* client.request(get)
      assert.deepStrictEqual(tokens(server), ["Bearer one"])
    }))

  it.live("logs in with a client certificate, in files beside it", () =>
    Effect.gen(function*() {
      const server = yield* serve(ok, {
        tls: { ...tls, ca: authority.cert, requestCert: true, rejectUnauthorized: true }
      })
      const file = yield* kubeconfig({
        server: server.url,
        cluster: { "certificate-authority": "ca.pem" },
        user: { "client-certificate": "client.pem", "client-key": "client.key" }
      })
      const { cert, key } = authority.client("somebody")
      yield* put(join(file, "../ca.pem"), authority.cert)
      yield* put(join(file, "../client.pem"), cert)
      yield* put(join(file, "../client.key"), key)
      const client = yield* connect(Client.layerKubeconfig({ file }))
      // As for kubectl, where a context names none.
      assert.strictEqual(client.namespace, "default")
      yield* client.request(get)
      assert.deepStrictEqual(server.received.map(({ headers, user }) => [user, headers.authorization]), [
        ["somebody", undefined]
      ])
    }))

  it.live("follows a client certificate that is replaced", () =>
    Effect.gen(function*() {
      const server = yield* serve(
        ({ user }, response) => user === "second" ? json(response, 200, {}) : json(response, 401, unauthorized),
        {
          tls: { ...tls, ca: authority.cert, requestCert: true, rejectUnauthorized: true }
        }
      )
      const user = (name: string) => {
        const { cert, key } = authority.client(name)
        return { "client-certificate-data": base64(cert), "client-key-data": base64(key) }
      }
      const cluster = { "certificate-authority-data": base64(authority.cert) }
      const file = yield* kubeconfig({ server: server.url, cluster, user: user("first") })
      const client = yield* connect(Client.layerKubeconfig({ file }))
      yield* failure(client.request(get), "KubernetesStatusError")
      yield* put(file, kubeconfigText({ server: server.url, cluster, user: user("second") }))
      yield* client.request(get)
      assert.deepStrictEqual(server.received.map(({ user }) => user), ["first", "first", "first", "second"])
    }))

  it.live("reads a token file again after a 401", () =>
    Effect.gen(function*() {
      const allowed = { token: "one" }
      const server = yield* serve(guarded(allowed))
      const file = yield* kubeconfig({ server: server.url, user: { tokenFile: "token", token: "unused" } })
      yield* put(join(file, "../token"), "one\n")
      const client = yield* connect(Client.layerKubeconfig({ file }))
      yield* client.request(get)
      yield* put(join(file, "../token"), "two\n")
      allowed.token = "two"
      yield* client.request(get)
      assert.deepStrictEqual(tokens(server), ["Bearer one", "Bearer one", "Bearer two"])
    }))

  it.live("logs in with name and password, and as someone else", () =>
    Effect.gen(function*() {
      const server = yield* serve(ok)
      const file = yield* kubeconfig({ server: server.url, user: { username: "me", password: "word", as: "boss" } })
      const client = yield* connect(Client.layerKubeconfig({ file }))
      yield* client.request(get)
      assert.strictEqual(server.received[0]?.headers.authorization, `Basic ${base64("me:word")}`)
      assert.strictEqual(server.received[0]?.headers["impersonate-user"], "boss")
    }))

  it.live("needs no user", () =>
    Effect.gen(function*() {
      const server = yield* serve(ok, { tls })
      const file = yield* kubeconfig({
        server: server.url,
        cluster: { "certificate-authority-data": base64(authority.cert) }
      })
      const client = yield* connect(Client.layerKubeconfig({ file }))
      yield* client.request(get)
      assert.deepStrictEqual(tokens(server), [undefined])
    }))

  it.effect("asks an exec plugin again before its token expires, without holding up requests", () =>
    Effect.gen(function*() {
      const plugin = yield* makePlugin
      const server = yield* serve(ok)
      const file = yield* kubeconfig({ server: server.url, user: { exec: plugin.exec } })
      // The package compares with the system's clock.
      const now = Date.now()
      yield* TestClock.setTime(now)
      const until = (minutes: number) => new Date(now + minutes * 60_000).toISOString()
      const client = yield* connect(Client.layerKubeconfig({ file }))
      const first = yield* Effect.forkChild(client.request(get))
      yield* plugin.asked(1)
      yield* plugin.answer(0, { token: "one", expirationTimestamp: until(15) })
      yield* Fiber.join(first)
      yield* TestClock.adjust("13 minutes")
      yield* client.request(get)
      assert.strictEqual(plugin.count(), 1)
      yield* TestClock.adjust("1 minute")
      yield* client.request(get)
      yield* plugin.asked(2)
      yield* client.request(get)
      yield* plugin.answer(1, { token: "two", expirationTimestamp: until(30) })
      while ((yield* client.request(get)) !== undefined && tokens(server).at(-1) !== "Bearer two") {
        assert.isBelow(server.received.length, 1_000)
      }
      assert.deepStrictEqual(tokens(server).slice(0, 4), ["Bearer one", "Bearer one", "Bearer one", "Bearer one"])
      assert.strictEqual(plugin.count(), 2)
    }))

  it.live("asks an exec plugin again after a 401", () =>
    Effect.gen(function*() {
      const plugin = yield* makePlugin
      const allowed = { token: "one" }
      const server = yield* serve(guarded(allowed))
      const file = yield* kubeconfig({ server: server.url, user: { exec: plugin.exec } })
      const client = yield* connect(Client.layerKubeconfig({ file }))
      const first = yield* Effect.forkChild(client.request(get))
      yield* plugin.asked(1)
      yield* plugin.answer(0, { token: "one" })
      yield* Fiber.join(first)
      yield* client.request(get)
      assert.strictEqual(plugin.count(), 1)
      allowed.token = "two"
      const second = yield* Effect.forkChild(client.request(get))
      yield* plugin.asked(2)
      yield* plugin.answer(1, { token: "two" })
      yield* Fiber.join(second)
      assert.deepStrictEqual(tokens(server), ["Bearer one", "Bearer one", "Bearer one", "Bearer two"])
    }))

  it.live("uses the client certificate of an exec plugin", () =>
    Effect.gen(function*() {
      const plugin = yield* makePlugin
      const server = yield* serve(ok, {
        tls: { ...tls, ca: authority.cert, requestCert: true, rejectUnauthorized: true }
      })
      const file = yield* kubeconfig({
        server: server.url,
        cluster: { "certificate-authority-data": base64(authority.cert) },
        user: { exec: plugin.exec }
      })
      const client = yield* connect(Client.layerKubeconfig({ file }))
      const fiber = yield* Effect.forkChild(client.request(get))
      yield* plugin.asked(1)
      const { cert, key } = authority.client("plugged in")
      yield* plugin.answer(0, { clientCertificateData: cert, clientKeyData: key })
      yield* Fiber.join(fiber)
      assert.strictEqual(server.received[0]?.user, "plugged in")
    }))

  it.live("says which exec plugin failed, and its hint", () =>
    Effect.gen(function*() {
      const file = yield* kubeconfig({
        server: "https://127.0.0.1:1",
        user: {
          exec: {
            apiVersion: "client.authentication.k8s.io/v1",
            command: "no-such-plugin",
            interactiveMode: "Never",
            installHint: "Install it."
          }
        }
      })
      const client = yield* connect(Client.layerKubeconfig({ file }))
      const reason = yield* failure(client.request(post), "KubernetesCredentialsError")
      assert.strictEqual(
        reason.message,
        "the kubeconfig's exec plugin no-such-plugin was not found:\nInstall it."
      )
    }))

  it.live("does not verify the certificate only where it says so, with a warning", () => {
    const logs = captureLogs()
    return Effect.gen(function*() {
      const server = yield* serve(ok, { tls })
      const careful = yield* kubeconfig({ server: server.url, user: { token: "one" } })
      const verifying = yield* connect(Client.layerKubeconfig({ file: careful }))
      yield* failure(verifying.request(get), "KubernetesConnectionError")
      assert.deepStrictEqual(logs.lines, [])
      const careless = yield* kubeconfig({
        server: server.url,
        cluster: { "insecure-skip-tls-verify": true },
        user: { token: "one" }
      })
      yield* Effect.flatMap(connect(Client.layerKubeconfig({ file: careless })), (client) => client.request(get))
      assert.deepStrictEqual(logs.lines, [
        `Warn The certificate of ${server.url} is not verified, because the kubeconfig says insecure-skip-tls-verify`
      ])
    }).pipe(Effect.provide(logs.layer), Effect.orDie)
  })

  it.live("knows tls-server-name", () =>
    Effect.gen(function*() {
      const server = yield* serve(ok, { tls: authority.server(["the.cluster"]) })
      const file = yield* kubeconfig({
        server: server.url,
        cluster: { "certificate-authority-data": base64(authority.cert), "tls-server-name": "the.cluster" },
        user: { token: "one" }
      })
      const client = yield* connect(Client.layerKubeconfig({ file }))
      yield* client.request(get)
    }))

  it.live("sends no credentials without TLS but to this machine", () =>
    Effect.gen(function*() {
      const file = yield* kubeconfig({ server: "http://192.0.2.1", user: { token: "one" } })
      const client = yield* connect(Client.layerKubeconfig({ file }))
      const reason = yield* failure(client.request(get), "KubernetesCredentialsError")
      assert.strictEqual(
        reason.message,
        "the kubeconfig's credentials are not sent to http://192.0.2.1, which has no TLS; use https"
      )
      assert.match(
        yield* configFailure(to({ url: "http://192.0.2.1" }, { token: Redacted.make("one") })),
        /^the token is not sent to http:\/\/192.0.2.1, which has no TLS/
      )
    }))

  it.live("goes on with its context when another becomes the current one", () =>
    Effect.gen(function*() {
      const allowed = { token: "one" }
      const server = yield* serve(guarded(allowed))
      const file = yield* kubeconfig({ server: server.url, user: { token: "one" }, name: "a" })
      const client = yield* connect(Client.layerKubeconfig({ file }))
      allowed.token = "other"
      const a = kubeconfigText({ server: server.url, user: { token: "one" }, name: "a" })
      const b = kubeconfigText({ server: "https://192.0.2.1", user: { token: "other" }, name: "b" })
      const both: Record<string, Array<unknown>> = {}
      for (const key of ["clusters", "users", "contexts"]) both[key] = [...JSON.parse(a)[key], ...JSON.parse(b)[key]]
      yield* put(file, JSON.stringify({ ...JSON.parse(b), ...both }))
      yield* failure(client.request(get), "KubernetesStatusError")
      assert.deepStrictEqual(tokens(server), ["Bearer one", "Bearer one"])
    }))

  it.live("merges several files as kubectl does", () =>
    Effect.gen(function*() {
      const server = yield* serve(ok)
      const path = yield* filesIn({
        first: kubeconfigText({ server: server.url, user: { token: "first" }, name: "a" }),
        second: kubeconfigText({ server: "https://192.0.2.1", user: { token: "second" }, name: "a" }),
        third: kubeconfigText({ server: server.url, user: { token: "third" }, name: "b" })
      })
      const files = ["missing", "first", "second", "third"].map((name) => join(path, name)).join(delimiter)
      const variables = environment({ KUBECONFIG: files })
      const current = yield* connect(Client.layerKubeconfig()).pipe(variables)
      yield* current.request(get)
      const other = yield* connect(Client.layerKubeconfig({ context: "b" })).pipe(variables)
      yield* other.request(get)
      assert.deepStrictEqual(tokens(server), ["Bearer first", "Bearer third"])
    }))

  const wrong: ReadonlyArray<{ readonly name: string; readonly text: string; readonly message: RegExp }> = [
    {
      name: "no YAML",
      text: "a: [",
      message:
        /^\/.*\/config: \/.*\/config is not a valid kubeconfig: it is not valid YAML \([A-Z_]+ in line 1, column \d+\)$/
    },
    { name: "an empty file", text: "", message: /has no current-context; set one/ },
    {
      name: "no current context",
      text: JSON.stringify({ kind: "Config" }),
      message: /has no current-context; set one/
    },
    {
      name: "a context that is missing",
      text: JSON.stringify({ ...JSON.parse(kubeconfigText({ server: "https://h" })), "current-context": "x" }),
      message: /has no context x, only: test$/
    },
    {
      name: "a cluster that is missing",
      text: kubeconfigText({ server: "https://h", context: { cluster: "x" } }),
      message: /context test of the kubeconfig names the cluster x, which it lacks$/
    },
    {
      name: "a user that is missing",
      text: kubeconfigText({ server: "https://h", context: { user: "x" } }),
      message: /context test of the kubeconfig names the user x, which it lacks$/
    },
    {
      name: "a server that is none",
      text: kubeconfigText({ server: "here" }),
      message: /the server of context test is not a URL with https or http: here$/
    },
    {
      name: "another scheme",
      text: kubeconfigText({ server: "ftp://here" }),
      message: /the server of context test is not a URL with https or http: ftp:\/\/here$/
    },
    {
      name: "a proxy",
      text: kubeconfigText({ server: "https://h", cluster: { "proxy-url": "ftp://p" } }),
      message: /the proxy-url of context test is not a URL with http, https or socks5$/
    }
  ]
  it.live.each(wrong)("says what is wrong with $name", ({ message, text }) =>
    Effect.gen(function*() {
      const path = yield* filesIn({ config: text })
      assert.match(yield* configFailure(connect(Client.layerKubeconfig({ file: join(path, "config") }))), message)
    }))

  const secret = "s3cr3t"
  const broken: ReadonlyArray<{ readonly name: string; readonly text: string }> = [
    { name: "an indentation", text: `users:\n- name: a\n  user:\n    token: ${secret}\n   password: ${secret}\n` },
    { name: "a quote", text: `users:\n- name: a\n  user:\n    token: "${secret}\n` },
    { name: "an alias", text: `users:\n- name: a\n  user:\n    token: *${secret}\n` },
    { name: "a tag", text: `users:\n- name: a\n  user:\n    token: !${secret} x\n` },
    { name: "a key twice", text: `users:\n- user:\n    ${secret}: 1\n    ${secret}: 2\n  name: {` },
    { name: "JSON", text: `{"users":[{"name":"a","user":{"token":"${secret}","password":"${secret}}]}` },
    { name: "a list", text: `- ${secret}\n` },
    { name: "a text", text: secret },
    { name: "a type", text: `users: ${secret}\n` }
  ]
  it.live.each(broken)("never shows what stands beside a mistake in it: $name", ({ text }) =>
    Effect.gen(function*() {
      const path = yield* filesIn({ config: text })
      const cause = yield* Effect.flip(
        Effect.sandbox(connect(Client.layerKubeconfig({ file: join(path, "config") })))
      )
      assert.notInclude(Cause.pretty(cause), secret)
      assert.notInclude(inspect(cause, { depth: 20 }), secret)
      assert.match(Cause.pretty(cause), /\/config(: the kubeconfig| is not a valid kubeconfig)/)
    }))

  const outputs: ReadonlyArray<{ readonly name: string; readonly script: string }> = [
    { name: "a bare token", script: `console.log("${secret}")` },
    { name: "broken JSON", script: `console.log('{"status":{"token":"${secret}"')` },
    { name: "no credentials", script: `console.log(JSON.stringify({ status: { other: "${secret}" } }))` },
    { name: "nothing but a failure", script: `console.error("${secret}"); process.exit(3)` }
  ]
  it.live.each(outputs)("never shows what an exec plugin printed: $name", ({ script }) => {
    const logs = captureLogs()
    return Effect.gen(function*() {
      const server = yield* serve(ok)
      const exec = {
        apiVersion: "client.authentication.k8s.io/v1",
        command: process.execPath,
        args: ["-e", script],
        interactiveMode: "Never"
      }
      const file = yield* kubeconfig({ server: server.url, user: { exec } })
      const client = yield* connect(Client.layerKubeconfig({ file }))
      const cause = yield* Effect.flip(Effect.sandbox(client.request(get)))
      yield* Effect.logError(cause)
      assert.notInclude(inspect(cause, { depth: 20 }), secret)
      assert.notInclude(logs.lines.join(), secret)
      assert.include(Cause.pretty(cause), "the kubeconfig's exec plugin ")
    }).pipe(Effect.provide(logs.layer))
  })
})

describe("layer", () => {
  it.live("is in the cluster where KUBERNETES_SERVICE_HOST is set, whatever the home directory has", () =>
    Effect.gen(function*() {
      const home = yield* directory
      yield* Effect.promise(() => mkdir(join(home, ".kube")))
      yield* put(join(home, ".kube", "config"), kubeconfigText({ server: "https://h" }))
      const message = yield* configFailure(connect(Client.layer)).pipe(
        environment({ KUBERNETES_SERVICE_HOST: "h", KUBECONFIG: "", HOME: home })
      )
      assert.match(message, /^KUBERNETES_SERVICE_HOST is set \(h\), but/)
    }))

  for (
    const [options, message] of [
      [{ file: "" }, "the kubeconfig's file is empty: give the path of a kubeconfig, or leave it out"],
      [{ context: "" }, "context is empty: give the name of a context, or leave it out"]
    ] as const
  ) {
    it.effect(`an empty ${Object.keys(options)[0]} is refused, and not taken for none`, () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(connect(Client.layerKubeconfig(options)))
        assert.strictEqual(error.message, message)
      }))
  }

  it.live("is the kubeconfig that KUBECONFIG names, in a cluster too", () =>
    Effect.gen(function*() {
      const file = yield* kubeconfig({ server: "https://h", context: { namespace: "theirs" } })
      const client = yield* connect(Client.layer).pipe(
        environment({ KUBERNETES_SERVICE_HOST: "10.96.0.1", KUBERNETES_SERVICE_PORT: "443", KUBECONFIG: file })
      )
      assert.deepStrictEqual([client.server, client.namespace, client.origin], ["https://h", "theirs", "given"])
      assert.strictEqual(
        yield* configFailure(connect(Client.layer)).pipe(
          environment({ KUBERNETES_SERVICE_HOST: "10.96.0.1", KUBECONFIG: "/no/such/file" })
        ),
        "KUBECONFIG=/no/such/file: /no/such/file does not exist; set KUBECONFIG to a kubeconfig file that does"
      )
    }))

  it.live("says where its credentials are from", () =>
    Effect.gen(function*() {
      const origin = (layer: Layer.Layer<KubernetesClient, KubernetesConfigError>, variables: Record<string, string>) =>
        Effect.map(connect(layer), (client) => client.origin).pipe(environment(variables))
      const home = yield* directory
      yield* Effect.promise(() => mkdir(join(home, ".kube")))
      const file = join(home, ".kube", "config")
      yield* put(file, kubeconfigText({ server: "https://h", name: "a" }))
      const pod = yield* filesIn({ token: "one", "ca.crt": authority.cert })
      const inCluster = { KUBERNETES_SERVICE_HOST: "h", KUBERNETES_SERVICE_PORT: "443" }
      assert.deepStrictEqual(
        [
          yield* origin(Client.layerInCluster({ directory: pod }), inCluster),
          yield* origin(Client.layer, { HOME: home }),
          yield* origin(Client.layerKubeconfig(), { HOME: home }),
          yield* origin(Client.layerKubeconfig({ context: "a" }), { HOME: home }),
          yield* origin(Client.layerKubeconfig({ file }), inCluster),
          yield* origin(Client.layer, { ...inCluster, KUBECONFIG: file }),
          yield* origin(Client.layerServer({ server: "https://h" }), inCluster)
        ],
        ["pod", "found", "found", "given", "given", "given", "given"]
      )
    }))

  it.live("takes what KUBECONFIG says, else the one in the home directory", () =>
    Effect.gen(function*() {
      const server = yield* serve(ok)
      const file = yield* kubeconfig({ server: server.url, user: { token: "variable" } })
      const home = yield* directory
      yield* Effect.promise(() => mkdir(join(home, ".kube")))
      yield* put(join(home, ".kube", "config"), kubeconfigText({ server: server.url, user: { token: "home" } }))
      for (const variables of [{ KUBECONFIG: file, HOME: home }, { HOME: home }]) {
        const client = yield* connect(Client.layer).pipe(environment(variables))
        yield* client.request(get)
      }
      assert.deepStrictEqual(tokens(server), ["Bearer variable", "Bearer home"])
    }))

  it.live("fails where there is neither", () =>
    Effect.gen(function*() {
      assert.strictEqual(
        yield* configFailure(connect(Client.layer)).pipe(environment({ KUBECONFIG: "/no/such/file" })),
        "KUBECONFIG=/no/such/file: /no/such/file does not exist; set KUBECONFIG to a kubeconfig file that does " +
          "(KUBERNETES_SERVICE_HOST is not set either, so this process does not run in a Pod)"
      )
      assert.strictEqual(
        yield* configFailure(connect(Client.layer)).pipe(environment({ HOME: "/no/home" })),
        "KUBECONFIG is not set: /no/home/.kube/config does not exist; set KUBECONFIG to a kubeconfig file that does " +
          "(KUBERNETES_SERVICE_HOST is not set either, so this process does not run in a Pod)"
      )
    }))

  it.live("accepts only http and https", () =>
    Effect.gen(function*() {
      assert.strictEqual(
        yield* configFailure(to({ url: "ftp://h" })),
        "the server is not a URL with https or http: ftp://h"
      )
    }))
})

// --- Credentials ---

describe("credentials", () => {
  const credentials = (token: string, lifetime?: Duration.Duration): Credentials.Credentials => ({
    headers: { authorization: token },
    tls: {},
    lifetime
  })

  const makeSource = (load: (fresh: boolean) => Effect.Effect<Credentials.Credentials, KubernetesCredentialsError>) =>
    Credentials.make({ load, maxAge: Duration.seconds(10), timeLimit: Duration.seconds(5) })

  it.effect("are loaded once for all who wait, and an interruption of one does not end it", () =>
    Effect.gen(function*() {
      const loaded = yield* Deferred.make<Credentials.Credentials>()
      let loads = 0
      const source = yield* makeSource(() => Effect.suspend(() => (loads++, Deferred.await(loaded))))
      const first = yield* Effect.forkChild(source.get, { startImmediately: true })
      const second = yield* Effect.forkChild(source.get, { startImmediately: true })
      yield* Fiber.interrupt(first)
      yield* Deferred.succeed(loaded, credentials("a"))
      assert.deepStrictEqual((yield* Fiber.join(second)).headers, { authorization: "a" })
      assert.strictEqual(loads, 1)
    }))

  it.effect("fail where there are none yet, and are tried again", () =>
    Effect.gen(function*() {
      let loads = 0
      const source = yield* makeSource(() =>
        Effect.suspend(() =>
          loads++ === 0
            ? Effect.fail(new KubernetesCredentialsError({ message: "no" }))
            : Effect.succeed(credentials("a"))
        )
      )
      assert.strictEqual((yield* Effect.flip(source.get)).message, "no")
      yield* source.get
    }))

  it.effect("that hang are given up after a while, so that the next load may do better", () =>
    Effect.gen(function*() {
      let loads = 0
      const source = yield* makeSource(() =>
        Effect.suspend(() => loads++ === 0 ? Effect.never : Effect.succeed(credentials("a")))
      )
      const fiber = yield* Effect.forkChild(Effect.flip(source.get), { startImmediately: true })
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual((yield* Fiber.join(fiber)).message, "the credentials could not be read within 5s")
      yield* source.get
    }))

  it.effect("that were refused are not renewed twice by two requests", () =>
    Effect.gen(function*() {
      const seen: Array<boolean> = []
      const source = yield* makeSource((fresh) => Effect.sync(() => credentials(`${seen.push(fresh)}`)))
      const refused = yield* source.get
      yield* source.renew(refused)
      yield* source.renew(refused)
      assert.deepStrictEqual(seen, [false, true])
    }))

  it.effect("that were refused are loaded afresh, even if they are being read again just then", () =>
    Effect.gen(function*() {
      const seen: Array<boolean> = []
      const slow = yield* Deferred.make<void>()
      const source = yield* makeSource((fresh) =>
        Effect.suspend(() => {
          seen.push(fresh)
          return Effect.as(seen.length === 2 ? Deferred.await(slow) : Effect.void, credentials(fresh ? "b" : "a"))
        })
      )
      const refused = yield* source.get
      yield* TestClock.adjust("10 seconds")
      const stale = yield* Effect.forkChild(source.get, { startImmediately: true })
      const renewed = yield* Effect.forkChild(source.renew(refused), { startImmediately: true })
      yield* Deferred.succeed(slow, undefined)
      assert.deepStrictEqual((yield* Fiber.join(renewed)).headers, { authorization: "b" })
      yield* Fiber.join(stale)
      assert.deepStrictEqual(seen, [false, false, true])
    }))

  it.effect("that last longer although they are the same ones are kept for longer", () =>
    Effect.gen(function*() {
      const seen: Array<boolean> = []
      const source = yield* makeSource((fresh) =>
        Effect.sync(() => {
          seen.push(fresh)
          return credentials("a", Duration.minutes(10))
        })
      )
      yield* source.get
      yield* TestClock.adjust("10 minutes")
      yield* source.get
      yield* TestClock.adjust("5 seconds")
      yield* source.get
      assert.deepStrictEqual(seen, [false, true])
    }))

  it.effect("that have expired are not used any more", () =>
    Effect.gen(function*() {
      const seen: Array<boolean> = []
      const source = yield* makeSource((fresh) =>
        Effect.sync(() => credentials(`${seen.push(fresh)}`, Duration.seconds(5)))
      )
      yield* source.get
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual((yield* source.get).headers, { authorization: "2" })
      assert.deepStrictEqual(seen, [false, true])
    }))
})

// --- Metrics ---

describe("metrics", () => {
  it.live("count requests by verb and code", () =>
    Effect.gen(function*() {
      const server = yield* serve(({ method, url }, response) => {
        if (url === "/hang") return
        json(response, method === "POST" ? 409 : 200, {})
      })
      const client = yield* to(server)
      yield* client.request(get)
      yield* client.request(get)
      yield* client.request({ ...get, verb: "list" })
      yield* Effect.flip(client.request(post))
      yield* Effect.scoped(client.stream(watch))
      const fiber = yield* Effect.forkChild(client.request({ method: "DELETE", path: "/hang" }))
      yield* server.arrival(6)
      yield* Fiber.interrupt(fiber)
      yield* Effect.flip(client.request({ method: "PATCH", path: "/hang", body: {}, timeout: "20 millis" }))
      const count = (verb: string, code: string) =>
        Effect.map(Metric.value(Metric.withAttributes(requests, { verb, code })), ({ count }) => count)
      assert.deepStrictEqual(
        yield* Effect.all([
          count("get", "200"),
          count("list", "200"),
          count("create", "409"),
          count("watch", "200"),
          count("patch", "error"),
          count("delete", "error"),
          count("get", "error")
        ]),
        [2, 1, 1, 1, 1, 1, 0]
      )
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map())))

  it.live("count a refused token with the request that it was sent with", () =>
    Effect.gen(function*() {
      const server = yield* serve(guarded({ token: "none" }))
      const client = yield* to(server)
      yield* Effect.flip(client.request(get))
      const value = yield* Metric.value(Metric.withAttributes(requests, { verb: "get", code: "401" }))
      assert.strictEqual(value.count, 2)
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map())))
})
