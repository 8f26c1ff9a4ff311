import { assert, describe, it } from "@effect/vitest"
import { Context, Duration, Effect, Exit, Fiber, Layer, Queue, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { mkdtemp, readFile, rm, stat } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as KubernetesClient from "../../src/kubernetes/KubernetesClient.ts"
import * as KubernetesLeaseStore from "../../src/kubernetes/KubernetesLeaseStore.ts"
import type { LeaseError } from "../../src/LeaseError.ts"
import { LeaseStore } from "../../src/LeaseStore.ts"
import { LeaseApiServer, MemoryCluster } from "../../src/testing/index.ts"
import * as LeaseApiSuite from "../utils/LeaseApiSuite.ts"
import * as LeaseStoreSuite from "../utils/LeaseStoreSuite.ts"

const namespace = "suite"

const startServer = Effect.gen(function*() {
  const cluster = yield* MemoryCluster.make({
    namespaces: [namespace],
    bookmarkInterval: "50 millis",
    history: 100_000
  })
  // Version 1 is too old from now on.
  yield* cluster.compact
  const server = yield* LeaseApiServer.make({ cluster, tokens: { admin: "system:serviceaccount:default:admin" } })
  return { server, client: LeaseApiSuite.makeClient({ url: server.url, token: server.token }) }
})

const temporaryDirectory = Effect.acquireRelease(
  Effect.promise(() => mkdtemp(join(tmpdir(), "lease-api-server-"))),
  (directory) => Effect.promise(() => rm(directory, { recursive: true }))
)

const connect = (kubeconfig: string) =>
  Layer.build(Layer.provide(KubernetesLeaseStore.layer, KubernetesClient.layerKubeconfig({ file: kubeconfig }))).pipe(
    Effect.map(Context.get(LeaseStore)),
    Effect.orDie
  )

LeaseApiSuite.suite(
  "local server",
  Layer.effect(
    LeaseApiSuite.Environment,
    Effect.gen(function*() {
      const { client, server } = yield* startServer
      const stranger = { token: "stranger", user: "system:serviceaccount:suite:stranger" }
      yield* server.addToken(stranger.token, stranger.user)
      yield* server.forbid({ token: stranger.token }, ["get", "list", "watch", "create", "update", "patch", "delete"])
      return { client, namespace, missingNamespace: "missing", stranger, garbageCollector: true }
    })
  )
)

LeaseStoreSuite.suite(
  "local server over HTTP",
  Layer.effect(
    LeaseStoreSuite.Environment,
    Effect.gen(function*() {
      const { client, server } = yield* startServer
      const directory = yield* temporaryDirectory
      const kubeconfig = yield* server.writeKubeconfig(join(directory, "kubeconfig"), { namespace })
      return {
        namespace,
        missingNamespace: "missing",
        connect: connect(kubeconfig),
        admin: LeaseApiSuite.makeAdmin(client, namespace),
        tooOld: Effect.succeed(1n),
        garbageCollector: true
      }
    })
  )
)

const key = { namespace: "default", name: "x" }

/** A server, and the stores of two clients that each have a token of their own. */
const twoClients = Effect.gen(function*() {
  const server = yield* LeaseApiServer.make({ tokens: { "token-a": "user-a", "token-b": "user-b" } })
  const directory = yield* temporaryDirectory
  const store = (token: string) => Effect.flatMap(server.writeKubeconfig(join(directory, token), { token }), connect)
  return { server, a: yield* store("token-a"), b: yield* store("token-b") }
})

/** What a watch has told, as it comes: bookmarks left out, its end as the last word. */
const follow = Effect.fnUntraced(function*(store: LeaseStore["Service"]) {
  const heard = yield* Queue.unbounded<string>()
  yield* store.changes(key, undefined).pipe(
    Stream.runForEach((change) =>
      change._tag === "Bookmark"
        ? Effect.void
        : Queue.offer(heard, "lease" in change ? `${change._tag} ${change.lease.holderIdentity}` : change._tag)
    ),
    Effect.matchEffect({
      onFailure: (error) => Queue.offer(heard, error.reason._tag),
      onSuccess: () => Queue.offer(heard, "End")
    }),
    Effect.forkScoped
  )
  return {
    next: Queue.take(heard).pipe(Effect.timeout("5 seconds"), Effect.orDie),
    sizeNow: Queue.size(heard)
  }
})

const reason = <A>(effect: Effect.Effect<A, LeaseError>) => Effect.map(Effect.flip(effect), (error) => error.reason)

describe("a client", () => {
  it.live("that is refused is cut off, and no other", () =>
    Effect.gen(function*() {
      const { a, b, server } = yield* twoClients
      const { lease } = yield* a.create(key, { holderIdentity: "a" })
      const [mine, theirs] = [yield* follow(a), yield* follow(b)]
      for (const watch of [mine, theirs]) {
        assert.deepStrictEqual([yield* watch.next, yield* watch.next], ["Opened", "Applied a"])
      }
      yield* server.refuse({ token: "token-a" })
      assert.strictEqual(yield* mine.next, "LeaseUnavailable")
      const refused = yield* reason(a.patch(key, lease.resourceVersion, { holderIdentity: "late" }))
      assert.strictEqual(refused._tag, "LeaseUnavailable")
      yield* b.patch(key, lease.resourceVersion, { holderIdentity: "b" })
      assert.strictEqual(yield* theirs.next, "Applied b")
      yield* server.restore({ token: "token-a" })
      assert.strictEqual((yield* a.get(key)).lease.holderIdentity, "b")
    }))

  // On the test clock, so that the server's own wait can be seen to its end.
  it.effect("that is refused loses what waits for its answer", () =>
    Effect.gen(function*() {
      const server = yield* LeaseApiServer.make()
      yield* server.setLatency("1 hour")
      const client = LeaseApiSuite.makeClient({ url: server.url, token: server.token })
      const leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
      const waiting = yield* client.request("POST", leases, { metadata: { name: "x" } }).pipe(
        Effect.exit,
        Effect.forkChild
      )
      yield* Effect.repeat(server.requests, { until: (requests) => requests.length === 1 })
      yield* server.refuse()
      assert.isTrue(Exit.isFailure(yield* Fiber.join(waiting)))
      yield* TestClock.adjust("2 hours")
      assert.isUndefined(yield* server.cluster.lease(key))
    }))

  it.live("that is stalled hears nothing until it is restored, and what it sent is lost", () =>
    Effect.gen(function*() {
      const { a, b, server } = yield* twoClients
      const { lease } = yield* a.create(key, { holderIdentity: "a" })
      const [mine, theirs] = [yield* follow(a), yield* follow(b)]
      for (const watch of [mine, theirs]) {
        assert.deepStrictEqual([yield* watch.next, yield* watch.next], ["Opened", "Applied a"])
      }
      yield* server.stall({ token: "token-a" })
      const sent = yield* Effect.forkChild(reason(a.patch(key, lease.resourceVersion, { holderIdentity: "late" })))
      yield* Effect.repeat(server.requests, { until: (requests) => requests.some(({ method }) => method === "PATCH") })
      yield* b.patch(key, lease.resourceVersion, { holderIdentity: "b" })
      assert.strictEqual(yield* theirs.next, "Applied b")
      assert.isUndefined(sent.pollUnsafe())
      assert.strictEqual(yield* mine.sizeNow, 0)
      yield* server.restore()
      assert.strictEqual((yield* Fiber.join(sent))._tag, "LeaseUnavailable")
      assert.strictEqual(yield* mine.next, "LeaseUnavailable")
      assert.strictEqual((yield* a.get(key)).lease.holderIdentity, "b")
    }))

  it.live("is told to come back later while the server is overloaded", () =>
    Effect.gen(function*() {
      const { a, b, server } = yield* twoClients
      yield* server.overload({ token: "token-a" }, "3 seconds")
      const overloaded = yield* reason(a.create(key, {}))
      assert.deepInclude(overloaded, { _tag: "LeaseUnavailable", outcomeUnknown: false, code: 429 })
      assert.strictEqual(
        overloaded._tag === "LeaseUnavailable" && overloaded.retryAfter && Duration.toSeconds(overloaded.retryAfter),
        3
      )
      yield* b.create(key, {})
      const raw = yield* LeaseApiSuite.makeClient({ url: server.url, token: "token-a" }).request("GET", "/version")
      assert.deepStrictEqual(
        [raw.status, raw.headers["content-type"], raw.headers["retry-after"], raw.text],
        [429, "text/plain; charset=utf-8", "3", "Too many requests, please try again later.\n"]
      )
      yield* server.restore()
      yield* a.get(key)
    }))

  it.live("can lose a right, and its token", () =>
    Effect.gen(function*() {
      const { a, b, server } = yield* twoClients
      yield* a.create(key, { holderIdentity: "a" })
      const open = yield* follow(a)
      assert.deepStrictEqual([yield* open.next, yield* open.next], ["Opened", "Applied a"])
      yield* server.forbid({ token: "token-a" }, ["watch"])
      const refused = yield* reason(Stream.runDrain(a.changes(key, undefined)))
      assert.strictEqual(refused._tag, "LeaseForbidden")
      assert.include(refused.message, "User \"user-a\" cannot watch resource \"leases\"")
      // An open watch survives that.
      yield* b.patch(key, (yield* b.get(key)).lease.resourceVersion, { holderIdentity: "b" })
      assert.strictEqual(yield* open.next, "Applied b")
      yield* server.forbid({ token: "token-a" }, [])
      assert.strictEqual(yield* (yield* follow(a)).next, "Opened")
      yield* server.removeToken("token-a")
      assert.strictEqual((yield* reason(a.get(key)))._tag, "LeaseUnauthorized")
      yield* server.addToken("token-a", "user-a")
      yield* a.get(key)
    }))

  it.live("can be known by its user agent", () =>
    Effect.gen(function*() {
      const { server } = yield* twoClients
      const client = LeaseApiSuite.makeClient({ url: server.url, token: "token-a" })
      const status = (userAgent: string) =>
        Effect.map(client.request("GET", "/version", undefined, { headers: { "user-agent": userAgent } }), (answer) =>
          answer.status)
      yield* server.overload({ userAgent: "replica-1" })
      assert.deepStrictEqual([yield* status("x/replica-1"), yield* status("x/replica-2")], [429, 200])
    }))
})

describe("the server", () => {
  it.live("waits before it answers", () =>
    Effect.gen(function*() {
      const { a, server } = yield* twoClients
      yield* server.setLatency("300 millis")
      const [elapsed] = yield* Effect.timed(a.create(key, {}))
      assert.isAtLeast(Duration.toMillis(elapsed), 299)
    }))

  it.live("writes down who asked for what", () =>
    Effect.gen(function*() {
      const { a, server } = yield* twoClients
      yield* a.create(key, {})
      yield* Effect.flip(a.get({ ...key, name: "none" }))
      const client = LeaseApiSuite.makeClient({ url: server.url, token: "" })
      yield* client.request("GET", "/readyz")
      assert.deepStrictEqual(
        (yield* server.requests).map(({ code, method, url, user, verb }) => [user, method, verb, url, code]),
        [
          ["user-a", "POST", "create", "/apis/coordination.k8s.io/v1/namespaces/default/leases", 201],
          ["user-a", "GET", "get", "/apis/coordination.k8s.io/v1/namespaces/default/leases/none", 404],
          ["system:anonymous", "GET", "", "/readyz", 200]
        ]
      )
    }))

  // kubectl and client-go send no token where there is no TLS.
  it.live("knows those who send no token, where it is not told whom it knows", () =>
    Effect.gen(function*() {
      const leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
      const statuses = Effect.fnUntraced(function*(server: LeaseApiServer.LeaseApiServer["Service"]) {
        const { request } = LeaseApiSuite.makeClient({ url: server.url, token: "" })
        const review = yield* request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
        const answers = [
          yield* request("POST", leases, { metadata: { name: "x" } }),
          yield* request("GET", "/apis"),
          yield* request("GET", leases, undefined, { token: "wrong" })
        ]
        return [review.body.status.userInfo?.username, ...answers.map(({ status }) => status)]
      })
      const server = yield* LeaseApiServer.make()
      assert.deepStrictEqual(yield* statuses(server), ["system:serviceaccount:default:candidate", 201, 200, 401])
      assert.deepStrictEqual(
        (yield* server.requests).map(({ user }) => user),
        [...Array(3).fill("system:serviceaccount:default:candidate"), undefined]
      )
      assert.deepStrictEqual(yield* statuses((yield* twoClients).server), [undefined, 403, 403, 401])
    }))

  it.live("refuses what it would else do otherwise than it was asked", () =>
    Effect.gen(function*() {
      const { a, server } = yield* twoClients
      yield* a.create(key, {})
      const { request } = LeaseApiSuite.makeClient({ url: server.url, token: "token-a" })
      const leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
      for (
        const [method, path, body] of [
          ["POST", "?dryRun=All", { metadata: { name: "y" } }],
          ["PATCH", "/x?dryRun=All", { spec: { holderIdentity: "b" } }],
          ["DELETE", "/x?dryRun=All"],
          ["DELETE", "/x", { dryRun: ["All"] }],
          ["GET", "?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"],
          ["GET", "?resourceVersion=1&resourceVersionMatch=Exact"]
        ] as const
      ) {
        const answer = yield* request(method, leases + path, body)
        assert.deepStrictEqual([answer.status, answer.body.reason], [400, "BadRequest"], `${method} ${path}`)
        assert.match(answer.body.message, /^\w+ is not supported by this server$/)
      }
      assert.strictEqual((yield* a.get(key)).lease.holderIdentity, "")
    }))

  it.live("goes on with a list as long as it has the history, and says so after that", () =>
    Effect.gen(function*() {
      const { a, server } = yield* twoClients
      yield* a.create(key, {})
      yield* a.create({ ...key, name: "y" }, {})
      const client = LeaseApiSuite.makeClient({ url: server.url, token: "token-a" })
      const path = "/apis/coordination.k8s.io/v1/leases?limit=1"
      const next = `${path}&continue=${(yield* client.request("GET", path)).body.metadata.continue}`
      yield* server.cluster.deleteLease({ ...key, name: "y" })
      assert.strictEqual((yield* client.request("GET", next)).body.items[0].metadata.name, "y")
      yield* server.cluster.compact
      const { body, status } = yield* client.request("GET", next)
      assert.deepStrictEqual([status, body.reason], [410, "Expired"])
    }))

  it.live("ends with its scope, and all its connections with it", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const server = yield* Scope.provide(LeaseApiServer.make(), scope)
      const client = LeaseApiSuite.makeClient({ url: server.url, token: server.token })
      const leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
      const lines = yield* client.watch(`${leases}?watch=1`)
      yield* server.stall({ userAgent: "stalled" })
      const stalled = yield* client.request("GET", leases, undefined, { headers: { "user-agent": "stalled" } }).pipe(
        Effect.exit,
        Effect.forkChild
      )
      yield* Effect.repeat(server.requests, { until: (requests) => requests.length === 2 })
      const [elapsed] = yield* Effect.timed(Scope.close(scope, Exit.void))
      assert.isBelow(Duration.toMillis(elapsed), 2000)
      assert.isTrue(Exit.isFailure(yield* Fiber.join(stalled)))
      assert.isTrue(Exit.isFailure(yield* Effect.exit(lines.next)))
      // The port is free again.
      const next = yield* LeaseApiServer.make({ port: server.port })
      assert.strictEqual(next.url, server.url)
      const taken = yield* Effect.flip(LeaseApiServer.make({ port: server.port }))
      assert.include(taken.message, `cannot listen on 127.0.0.1:${server.port}`)
    }))

  it.live("writes a kubeconfig that only its owner can read", () =>
    Effect.gen(function*() {
      const { server } = yield* twoClients
      const path = join(yield* temporaryDirectory, "kubeconfig")
      assert.strictEqual(yield* server.writeKubeconfig(path, { namespace: "shop", token: "token-b" }), path)
      const { mode } = yield* Effect.promise(() => stat(path))
      assert.strictEqual(mode & 0o777, 0o600)
      const { clusters, contexts, users } = JSON.parse(yield* Effect.promise(() => readFile(path, "utf8")))
      assert.deepStrictEqual(
        [clusters[0].cluster.server, contexts[0].context.namespace, users[0].user.token],
        [server.url, "shop", "token-b"]
      )
    }))
})
