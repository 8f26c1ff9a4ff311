/**
 * `serve` on the local API server: what the program beside it is promised.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { LeaseApiServer } from "effect-kubernetes-leader-election/testing"
import { readFileSync } from "node:fs"
import { request } from "node:http"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { afterAll, beforeAll } from "vitest"
import { bundle, type Executable, Running } from "./Executable.ts"

let executable: Executable
beforeAll(async () => {
  executable = await bundle()
})
afterAll(() => executable[Symbol.asyncDispose]())

interface Answer {
  readonly leading: boolean
  readonly leader: string | null
  readonly status: string
  readonly fencingToken: string | null
  readonly transitions: number | null
  readonly remainingSeconds: number | null
  readonly validUntilMonotonic: number | null
}

const monotonic = () => Number(process.hrtime.bigint()) / 1e9

const makeStage = Effect.gen(function*() {
  const server = yield* LeaseApiServer.make()
  const kubeconfig = yield* server.writeKubeconfig(join(executable.file, "..", `serve-${Math.random()}`))
  const key = { namespace: "default", name: "x" }
  const holder = () => Effect.runPromise(server.cluster.lease(key)).then((lease) => lease?.holderIdentity ?? "")
  const serve = Effect.fnUntraced(function*(identity: string, ...options: ReadonlyArray<string>) {
    const running = yield* Effect.acquireRelease(
      Effect.sync(() =>
        new Running(process.execPath, [
          executable.file,
          "serve",
          `--kubeconfig=${kubeconfig}`,
          "--name=x",
          `--identity=${identity}`,
          "--port=0",
          "--new-lease=lead",
          ...options
        ], {})
      ),
      (running) => Effect.promise(() => running[Symbol.asyncDispose]())
    )
    yield* Effect.promise(() => running.until(({ stderr }) => /port \d+ of/.test(stderr)))
    const url = `http://127.0.0.1:${/port (\d+) of/.exec(running.stderr)![1]}`
    const leader = async () => {
      const response = await fetch(`${url}/leader`)
      return { status: response.status, body: await response.json() as Answer }
    }
    const leads = async () => {
      while (true) {
        const { body, status } = await leader()
        if (status === 200) {
          return body
        }
        await sleep(5)
      }
    }
    const post = (headers: Record<string, string> = {}, base = url) =>
      new Promise<number>((resolve, reject) => {
        const sent = request(`${base}/release`, { method: "POST", headers }, (response) => {
          response.resume().on("end", () => resolve(response.statusCode ?? 0))
        })
        sent.on("error", reject).end()
      })
    return { running, url, leader, leads, post }
  })
  return { server, key, serve, holder }
})

/** Waits until it holds; gives how long that took, in milliseconds. */
const until = async (holds: () => Promise<boolean>): Promise<number> => {
  const start = performance.now()
  while (!(await holds())) {
    await sleep(2)
  }
  return performance.now() - start
}

describe("serve", () => {
  it.live("has the same keys whoever leads; null where there is nothing to say", () =>
    Effect.gen(function*() {
      const { serve } = yield* makeStage
      const one = yield* serve("one")
      const leading = yield* Effect.promise(one.leads)
      const two = yield* serve("two")
      yield* Effect.promise(() => two.running.until(({ stderr }) => stderr.includes("Following one")))
      const { body, status } = yield* Effect.promise(two.leader)
      assert.strictEqual(status, 503)
      assert.deepStrictEqual(Object.keys(body), Object.keys(leading))
      const page = readFileSync(new URL("../../docs/command-line.md", import.meta.url), "utf8")
      for (const key of Object.keys(body)) {
        assert.match(page, new RegExp(`^\\| .*\`${key}\`.* \\|`, "m"))
      }
      assert.deepInclude(body, {
        leading: false,
        leader: "one",
        fencingToken: null,
        transitions: null,
        remainingSeconds: null,
        validUntilMonotonic: null
      })
      // A time that any process of this machine can compare with its own clock.
      assert.approximately(leading.validUntilMonotonic! - monotonic(), leading.remainingSeconds!, 5)
    }))

  it.live("listens on a second port for probes and metrics only", () =>
    Effect.gen(function*() {
      const { serve } = yield* makeStage
      const one = yield* serve("one", "--metrics-port=0")
      yield* Effect.promise(() => one.running.until(({ stderr }) => /port \d+ for probes/.test(stderr)))
      const url = `http://127.0.0.1:${/port (\d+) for probes/.exec(one.running.stderr)![1]}`
      const status = (base: string, path: string) =>
        Effect.promise(() => fetch(base + path).then(({ status }) => status))
      for (const path of ["/livez", "/healthz", "/readyz", "/metrics"]) {
        assert.strictEqual(yield* status(one.url, path), 200)
        assert.strictEqual(yield* status(url, path), 200)
      }
      for (const path of ["/leader", "/changes"]) {
        assert.strictEqual(yield* status(url, path), 404)
      }
      assert.strictEqual(yield* Effect.promise(() => one.post({}, url)), 404)
    }))

  it.live("names the methods of a path to those that use another, on both ports", () =>
    Effect.gen(function*() {
      const { serve } = yield* makeStage
      const one = yield* serve("one", "--metrics-port=0")
      yield* Effect.promise(() => one.running.until(({ stderr }) => /port \d+ for probes/.test(stderr)))
      const metrics = `http://127.0.0.1:${/port (\d+) for probes/.exec(one.running.stderr)![1]}`
      const ask = (method: string, url: string) =>
        Effect.promise(() => fetch(url, { method }).then(({ headers, status }) => [status, headers.get("allow")]))
      for (
        const [path, own] of [["leader", "GET"], ["changes", "GET"], ["release", "POST"], ["metrics", "GET"]] as const
      ) {
        for (const method of ["GET", "POST", "PUT", "DELETE"].filter((method) => method !== own)) {
          assert.deepStrictEqual(
            yield* ask(method, `${one.url}/${path}`),
            [405, own === "GET" ? "GET, HEAD" : own],
            `${method} ${path}`
          )
        }
      }
      for (const path of ["livez", "healthz", "readyz", "metrics"]) {
        assert.deepStrictEqual(yield* ask("POST", `${metrics}/${path}`), [405, "GET, HEAD"])
        assert.deepStrictEqual((yield* ask("HEAD", `${metrics}/${path}`))[0], 200)
      }
      assert.deepStrictEqual(yield* ask("HEAD", `${one.url}/release`), [405, "POST"])
      assert.deepStrictEqual(yield* ask("POST", `${one.url}/nothing`), [404, null])
      const text = yield* Effect.promise(() => fetch(`${one.url}/leader`).then((response) => response.text()))
      assert.match(text, /^\{.*\}\n$/)
    }))

  it.live("sends events so often that each comes before the validity of the one before has run out", () =>
    Effect.gen(function*() {
      const { serve } = yield* makeStage
      const one = yield* serve("one", "--lease-duration=3s")
      yield* Effect.promise(one.leads)
      const response = yield* Effect.promise(() => fetch(`${one.url}/changes`))
      const events: Array<{ readonly at: number; readonly data: Answer }> = []
      const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader()
      yield* Effect.promise(async () => {
        let text = ""
        while (events.length < 8) {
          text += (await reader.read()).value ?? ""
          const blocks = text.split("\n\n")
          text = blocks.pop() ?? ""
          for (const block of blocks) {
            const data = /^event: change\ndata: (.*)$/m.exec(block)?.[1]
            if (data !== undefined) {
              events.push({ at: monotonic(), data: JSON.parse(data) })
            }
          }
        }
        await reader.cancel()
      })
      for (const [index, { at, data }] of events.entries()) {
        assert.isTrue(data.leading)
        if (index > 0) {
          // renewInterval of 3 s is 1 s.
          assert.isBelow(at - events[index - 1]!.at, 1)
          assert.isBelow(at, events[index - 1]!.data.validUntilMonotonic!)
        }
      }
    }))

  it.live("releases the Lease at once when the program says that it has stopped, and campaigns again", () =>
    Effect.gen(function*() {
      const { holder, serve } = yield* makeStage
      const one = yield* serve("one")
      const first = yield* Effect.promise(one.leads)
      const two = yield* serve("two")
      yield* Effect.promise(() => two.running.until(({ stderr }) => stderr.includes("Following one")))
      assert.strictEqual(yield* Effect.promise(() => one.post()), 200)
      assert.strictEqual((yield* Effect.promise(one.leader)).status, 503)
      // Its validity was for 10 s.
      assert.isBelow(yield* Effect.promise(() => until(async () => (await holder()) === "two")), 2_000)
      const second = yield* Effect.promise(two.leads)
      assert.isTrue(BigInt(second.fencingToken!) > BigInt(first.fencingToken!))
      // It has not gone: it follows, and takes over again.
      yield* Effect.promise(() => one.running.until(({ stderr }) => stderr.includes("Following two")))
      assert.strictEqual(yield* Effect.promise(() => two.post()), 200)
      yield* Effect.promise(one.leads)
    }))

  it.live("ends at once when the program has stopped, or has never asked; else with the last validity", () =>
    Effect.gen(function*() {
      const { holder, serve } = yield* makeStage
      const one = yield* serve("one")
      yield* Effect.promise(one.leads)
      one.running.signal("SIGTERM")
      yield* Effect.promise(() => until(async () => (await one.leader()).body.status === "ending"))
      assert.strictEqual(yield* Effect.promise(holder), "one")
      assert.strictEqual(yield* Effect.promise(() => one.post()), 200)
      assert.isBelow(yield* Effect.promise(() => until(async () => (await holder()) === "")), 2_000)
      assert.strictEqual((yield* Effect.promise(() => one.running.exit)).code, 143)

      const two = yield* serve("two")
      yield* Effect.promise(() => two.running.until(({ stderr }) => /Became leader/.test(stderr)))
      two.running.signal("SIGTERM")
      assert.isBelow(yield* Effect.promise(() => until(async () => (await holder()) === "")), 2_000)
      assert.strictEqual((yield* Effect.promise(() => two.running.exit)).code, 143)
    }))

  it.live("refuses a release that a web page could have sent", () =>
    Effect.gen(function*() {
      const { serve } = yield* makeStage
      const one = yield* serve("one")
      yield* Effect.promise(one.leads)
      const { host } = new URL(one.url)
      for (
        const headers of [
          { origin: "http://evil.example" },
          { origin: "null" },
          { origin: one.url },
          { host: "evil.example" },
          { host: "evil.example:4040" },
          { host: "127.0.0.1.evil.example" }
        ]
      ) {
        assert.strictEqual(yield* Effect.promise(() => one.post({ host, ...headers })), 403, JSON.stringify(headers))
        assert.strictEqual((yield* Effect.promise(one.leader)).status, 200)
      }
      for (const host of ["localhost:4040", "[::1]:4040", "127.0.0.1"]) {
        assert.strictEqual(yield* Effect.promise(() => one.post({ host })), 200, host)
      }
    }))
})
