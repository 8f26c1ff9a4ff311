/**
 * What a request says that got no answer: how far it came, where that was, and whether anything was sent.
 */
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Fiber, Layer, type Scope } from "effect"
import { TestClock } from "effect/testing"
import * as Client from "../../src/kubernetes/KubernetesClient.ts"
import { isOutcomeUnknown } from "../../src/kubernetes/KubernetesError.ts"
import { blackHole } from "../utils/blackHole.ts"
import { makeAuthority } from "../utils/certificates.ts"
import { json, serve, serveSockets } from "../utils/TestServer.ts"

const authority = makeAuthority("messages CA")
const tls = authority.server(["127.0.0.1"])

interface Target {
  readonly url: string
  readonly ca?: string
  /** Where nothing comes: until this has happened, time does not pass. */
  readonly hangs?: Effect.Effect<void>
}

interface Case {
  readonly title: string
  readonly target: Effect.Effect<Target, never, Scope.Scope>
  readonly phase?: string
  readonly message: RegExp
  readonly unknown: boolean
}

const sockets = Effect.fnUntraced(function*(scheme: string, onConnection: Parameters<typeof serveSockets>[0]) {
  const server = yield* serveSockets(onConnection)
  return { url: `${scheme}://127.0.0.1:${server.port}` }
})

const silent = Effect.fnUntraced(function*() {
  const greeted = yield* Deferred.make<void>()
  const target = yield* sockets(
    "https",
    (socket) => socket.once("data", () => Deferred.doneUnsafe(greeted, Effect.void))
  )
  return { ...target, hangs: Deferred.await(greeted) }
})

const cases: ReadonlyArray<Case> = [
  {
    title: "a name that does not exist",
    target: Effect.succeed({ url: "https://no-such-host.invalid:6443" }),
    message:
      /^no connection to https:\/\/no-such-host\.invalid:6443: the name no-such-host\.invalid could not be resolved \(/,
    unknown: false
  },
  {
    title: "a port at which nothing listens",
    target: Effect.scoped(sockets("https", () => {})),
    message: /^no connection to https:\/\/127\.0\.0\.1:\d+: nothing listens there \(connect ECONNREFUSED/,
    unknown: false
  },
  {
    title: "an address that does not answer",
    target: Effect.map(blackHole, (port) => ({ url: `https://127.0.0.1:${port}`, hangs: Effect.void })),
    phase: "connection",
    message:
      /^no connection to https:\/\/127\.0\.0\.1:\d+ within 2s: nothing answers at this address; is a firewall, a proxy or a VPN between\?$/,
    unknown: false
  },
  {
    title: "a TLS handshake that is not answered",
    target: silent(),
    phase: "tls",
    message:
      /^no connection to https:\/\/127\.0\.0\.1:\d+ within 2s: it was accepted, but the TLS handshake was not answered$/,
    unknown: false
  },
  {
    title: "a TLS handshake that is cut",
    target: sockets("https", (socket) => socket.once("data", () => socket.destroy())),
    message: /^no connection to https:\/\/127\.0\.0\.1:\d+: the TLS handshake failed \(/,
    unknown: false
  },
  {
    title: "a port without TLS",
    target: Effect.map(serve((_, response) => json(response, 200, {})), ({ port }) => ({
      url: `https://127.0.0.1:${port}`
    })),
    message:
      /^no connection to https:\/\/127\.0\.0\.1:\d+: what listens there does not speak TLS \(.*is the URL right, and its port\?$/,
    unknown: false
  },
  {
    title: "a certificate of another CA",
    target: Effect.map(serve(() => {}, { tls }), ({ url }) => ({ url, ca: makeAuthority("other").cert })),
    message:
      /^the certificate of https:\/\/127\.0\.0\.1:\d+ is not trusted \(.*\); it must be signed by the CA that was given$/,
    unknown: false
  },
  {
    title: "a certificate of a CA that Node does not know",
    target: Effect.map(serve(() => {}, { tls }), ({ url }) => ({ url })),
    message:
      /is not trusted \(.*\); it must be signed by a CA that Node knows\..*NODE_EXTRA_CA_CERTS or --use-system-ca$/,
    unknown: false
  },
  {
    title: "a certificate for another name",
    target: Effect.map(serve(() => {}, { tls: authority.server(["the.cluster"]) }), ({ url }) => ({
      url,
      ca: authority.cert
    })),
    message: /^the certificate of https:\/\/127\.0\.0\.1:\d+ is for another name: /,
    unknown: false
  },
  {
    title: "a port that does not speak HTTP",
    target: sockets("http", (socket) => socket.end("SSH-2.0-OpenSSH_9.9\r\n")),
    message: /^what answers at http:\/\/127\.0\.0\.1:\d+ does not speak HTTP \(.*is the URL right, and its port\?$/,
    unknown: true
  },
  {
    title: "a connection that is cut when the request was sent",
    target: sockets("http", (socket) => socket.once("data", () => socket.destroy())),
    message: /^the connection to http:\/\/127\.0\.0\.1:\d+ broke before the answer: /,
    unknown: true
  },
  {
    title: "an answer that is cut",
    target: sockets(
      "http",
      (socket) => socket.once("data", () => socket.end("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"))
    ),
    message: /^the connection to http:\/\/127\.0\.0\.1:\d+ broke within the answer: /,
    unknown: true
  },
  {
    title: "a request that is not answered",
    target: Effect.gen(function*() {
      const server = yield* serve(() => {})
      return { url: server.url, hangs: Effect.asVoid(server.arrival(1)) }
    }),
    phase: "response",
    message: /^no answer from http:\/\/127\.0\.0\.1:\d+ within 2s, though the request was sent$/,
    unknown: true
  }
]

describe.skipIf(process.platform !== "linux")("a write that got no answer", () => {
  it.effect.each(cases)("$title", ({ message, phase, target, unknown }) =>
    Effect.gen(function*() {
      const { ca, hangs, url } = yield* target
      const client = yield* Layer.build(Layer.fresh(Client.layerServer({ server: url, ca }))).pipe(
        Effect.map(Context.get(Client.KubernetesClient))
      )
      const fiber = yield* Effect.forkChild(
        Effect.flip(client.request({ method: "PATCH", path: "/", body: {}, timeout: "2 seconds" })),
        { startImmediately: true }
      )
      if (hangs !== undefined) {
        yield* hangs
        yield* TestClock.adjust("2 seconds")
      }
      const error = yield* Fiber.join(fiber)
      assert.match(error.reason.message, message)
      assert.strictEqual(isOutcomeUnknown(error), unknown)
      if (phase !== undefined) {
        assert(error.reason._tag === "KubernetesTimeoutError")
        assert.strictEqual(error.reason.phase, phase as never)
      }
    }))
})
