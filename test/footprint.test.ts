/**
 * What keeps the library light: the modules that it loads inside a cluster, the requests that it makes while nothing
 * happens, and the connections that it opens. Nothing here is timed; bench/ is.
 */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, type Scope } from "effect"
import * as Esbuild from "esbuild"
import { mkdtemp, rm, writeFile } from "node:fs/promises"
import { type AddressInfo, connect } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createServer } from "node:tls"
import { fileURLToPath } from "node:url"
import { bundleOptions } from "../scripts/bundle.ts"
import { LeaseApiServer, MemoryCluster } from "../src/testing/index.ts"
import { Running } from "./cli/Executable.ts"
import { makeAuthority } from "./utils/certificates.ts"

/** What nobody needs who is in a cluster; each costs megabytes in every replica. */
const heavy = [
  /\/undici\//,
  /HttpServer|HttpRouter|HttpApi|FetchHttpClient|NodeHttpClient/,
  /\/node_modules\/(ws|redis|yaml|jose|openid-client|agent-base|https-proxy-agent|socks-proxy-agent|socks)\//
]

const heavyAmong = (paths: ReadonlyArray<string>) => paths.filter((path) => heavy.some((part) => part.test(path)))

describe("the command", () => {
  it("contains for `run` nothing that only others need", async () => {
    const { metafile } = await Esbuild.build({ ...bundleOptions, outdir: "none", write: false, metafile: true })
    const entry = Object.keys(metafile.outputs).find((path) => path.endsWith("leader-election.js"))!
    const inputs = new Set<string>()
    const externals = new Set<string>()
    const visit = (path: string, seen: Set<string>) => {
      if (seen.has(path)) return
      seen.add(path)
      const output = metafile.outputs[path]!
      Object.keys(output.inputs).forEach((input) => inputs.add(input))
      for (const one of output.imports) {
        if (one.kind !== "import-statement") continue
        if (one.external) externals.add(one.path)
        else visit(one.path, seen)
      }
    }
    visit(entry, new Set())
    assert.isTrue([...inputs].some((path) => path.endsWith("src/cli/run/run.ts")))
    assert.deepStrictEqual(heavyAmong([...inputs]), [])
    // An import of node:http loads undici.
    for (const name of ["node:http", "http", "node:http2", "undici"]) {
      assert.isFalse(externals.has(name), name)
    }
  }, 60_000)
})

interface Stage {
  readonly server: LeaseApiServer.LeaseApiServer["Service"]
  /** Starts the program as if in a Pod. */
  readonly start: (identity: string, names: ReadonlyArray<string>) => Effect.Effect<Running, never, Scope.Scope>
  /** Of each connection that was opened the Leases that it carried requests for. */
  readonly connections: ReadonlyArray<ReadonlySet<string>>
}

/** The local API server behind TLS, as a Pod has it. */
const stage = Effect.gen(function*(): Effect.fn.Return<Stage, LeaseApiServer.ListenError, Scope.Scope> {
  const cluster = yield* MemoryCluster.make()
  const server = yield* LeaseApiServer.make({ cluster, tokens: {} })
  const authority = makeAuthority("test CA")
  const { cert, key } = authority.server(["127.0.0.1"])
  const connections: Array<Set<string>> = []
  const tls = createServer({ cert, key }, (socket) => {
    const leases = new Set<string>()
    connections.push(leases)
    const upstream = connect(server.port, "127.0.0.1")
    socket.pipe(upstream).pipe(socket)
    socket.on("data", (chunk: Buffer) => {
      const [, lease] = /^[A-Z]+ \S+\/leases\/([\w-]+)/.exec(chunk.toString()) ?? []
      if (lease !== undefined) leases.add(lease)
    })
    socket.on("error", () => upstream.destroy())
    upstream.on("error", () => socket.destroy())
  })
  const listening = Deferred.makeUnsafe<number>()
  yield* Effect.acquireRelease(
    Effect.sync(() =>
      tls.listen(0, "127.0.0.1", () => Effect.runFork(Deferred.succeed(listening, (tls.address() as AddressInfo).port)))
    ),
    () => Effect.sync(() => tls.close())
  )
  const port = yield* Deferred.await(listening)
  const start: Stage["start"] = Effect.fnUntraced(function*(identity, names) {
    const pod = yield* Effect.orDie(cluster.createPod({ namespace: "default", name: identity }))
    yield* server.addToken(`token-${identity}`, identity)
    const directory = yield* Effect.acquireRelease(
      Effect.promise(() => mkdtemp(join(tmpdir(), "footprint-"))),
      (path) => Effect.promise(() => rm(path, { recursive: true }))
    )
    yield* Effect.promise(() =>
      Promise.all([
        writeFile(join(directory, "token"), `token-${identity}`),
        writeFile(join(directory, "ca.crt"), authority.cert),
        writeFile(join(directory, "namespace"), "default")
      ])
    )
    const program = fileURLToPath(new URL("utils/footprintProgram.ts", import.meta.url))
    return yield* Effect.acquireRelease(
      Effect.sync(() =>
        new Running(process.execPath, [program, directory, ...names], {
          KUBERNETES_SERVICE_HOST: "127.0.0.1",
          KUBERNETES_SERVICE_PORT: `${port}`,
          POD_NAME: identity,
          POD_UID: pod.uid,
          POD_NAMESPACE: "default"
        })
      ),
      (running) => Effect.promise(() => running[Symbol.asyncDispose]())
    )
  })
  return { server, start, connections }
})

const requestsOf = (server: Stage["server"], user: string) =>
  Effect.map(server.requests, (all) => all.filter((request) => request.user === user).map(({ verb }) => verb))

/** Waits until the server has got what is asked for; the limit of the test is the limit. */
const until = (condition: Effect.Effect<boolean>) =>
  Effect.sleep("20 millis").pipe(Effect.andThen(condition), Effect.repeat({ until: (met) => met }), Effect.asVoid)

interface Loaded {
  readonly modules: Array<string>
  readonly native: Array<string>
}

/** What the program has told with each term that began; its log stands between. */
const told = (running: Running): Array<Loaded> => {
  assert.isTrue(running.running, running.stdout + running.stderr)
  return running.stdout.split("\n").slice(0, -1).filter((line) => line.startsWith("{")).map((line) => JSON.parse(line))
}

/** Waits until so many terms have begun, and gives what was loaded for the first. */
const loadedBy = (running: Running, terms: number) =>
  until(Effect.sync(() => told(running).length >= terms)).pipe(Effect.map(() => told(running)[0]!))

describe("in a cluster", () => {
  it.live(
    "a leader writes once per renewInterval, a follower asks for nothing, and neither loads more than it needs",
    () =>
      Effect.gen(function*() {
        const { connections, server, start } = yield* stage
        const one = yield* start("one", ["job"])
        const loaded = yield* loadedBy(one, 1)
        assert.isTrue(loaded.modules.some((url) => url.endsWith("/src/kubernetes/KubernetesClient.ts")))
        assert.deepStrictEqual(heavyAmong(loaded.modules), [])
        assert.deepStrictEqual(loaded.native.filter((name) => /undici|http2/.test(name)), [])

        yield* start("two", ["job"])
        yield* until(Effect.map(requestsOf(server, "two"), (verbs) => verbs.includes("watch")))
        const count = (user: string) => Effect.map(requestsOf(server, user), (verbs) => verbs.length)
        // On a slow machine its first reads may still be under way, one beside the other.
        const early = yield* count("one")
        yield* until(Effect.map(count("one"), (now) => now > early))
        const [leader, follower] = [yield* count("one"), yield* count("two")]
        // A leaseDuration, in which the leader says three times that it lives.
        yield* until(Effect.map(count("one"), (now) => now >= leader + 3))
        const verbs = (yield* requestsOf(server, "one")).slice(leader)
        assert.deepStrictEqual(new Set(verbs), new Set(["patch"]))
        assert.strictEqual(yield* count("two"), follower)
        // One for its watch and one for everything else.
        assert.isAtMost(connections.length, 4)
      }),
    40_000
  )

  it.live("fifty elections have one watch, and few connections", () =>
    Effect.gen(function*() {
      const { connections, server, start } = yield* stage
      const names = Array.from({ length: 50 }, (_, index) => `shard-${index}`)
      const running = yield* start("one", names)
      const loaded = yield* loadedBy(running, names.length)
      const verbs = yield* requestsOf(server, "one")
      assert.strictEqual(verbs.filter((verb) => verb === "watch").length, 1)
      assert.deepStrictEqual(heavyAmong(loaded.modules), [])
      // At most one for each request under way, and one for the watch. With a pool or a watch for each they were a hundred.
      assert.isAtMost(connections.length, names.length + 1)

      // The renewals find each other's connections; with a pool for each election none would carry two.
      const before = (yield* requestsOf(server, "one")).length
      yield* until(Effect.map(requestsOf(server, "one"), (now) => now.length >= before + names.length))
      assert.isAbove(connections.filter((leases) => leases.size > 1).length, 0)
      assert.isAtMost(connections.length, names.length + 1)
    }), 40_000)
})
