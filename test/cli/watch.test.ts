import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Console, Effect, Fiber, Layer, Logger, Redacted, Stdio, Stream, Terminal } from "effect"
import { KubernetesClient, KubernetesLeaseStore, LeaseRecord, LeaseStore } from "effect-kubernetes-leader-election"
import { LeaseApiServer } from "effect-kubernetes-leader-election/testing"
import { TestClock } from "effect/testing"
import { watchGroup } from "../../src/cli/watch/group.ts"
import * as History from "../../src/cli/watch/history.ts"
import { watch } from "../../src/cli/watch/watch.ts"

let version = 100

/** `a`, `a renewed 3`: held by a, with that renewTime; `released`, `emptied`, `absent`, `nothing`, `blind` as they say. */
const look = (text: string): History.Look => {
  version += 1
  const lease: LeaseRecord.LeaseRecord = {
    namespace: "ns",
    name: "x",
    uid: "u",
    resourceVersion: BigInt(version),
    deletionTimestamp: undefined,
    labels: {},
    annotations: {},
    ownerReferences: [],
    holderIdentity: "",
    leaseDurationSeconds: 15,
    acquireTime: undefined,
    renewTime: undefined,
    leaseTransitions: 2,
    strategy: undefined,
    preferredHolder: undefined
  }
  const [word, what, value] = text.split(" ")
  switch (word) {
    case "absent":
      return { _tag: "Absent" }
    case "nothing":
      return { _tag: "Nothing" }
    case "blind":
      return { _tag: "Blind", reason: "no connection" }
    case "released":
      return { _tag: "Lease", lease: { ...lease, leaseDurationSeconds: 1 } }
    case "emptied":
      return { _tag: "Lease", lease }
    default:
      return {
        _tag: "Lease",
        lease: {
          ...lease,
          holderIdentity: word!,
          ...(what === "renewed" && { renewTime: BigInt(value!) }),
          ...(what === "acquired" && { acquireTime: BigInt(value!) }),
          ...(what === "instance" && { annotations: { [LeaseRecord.instanceAnnotation]: value! } }),
          ...(what === "old" && { resourceVersion: 1n })
        }
      }
  }
}

/** Looks at these times, in seconds. */
const run = (looks: ReadonlyArray<readonly [at: number, look: string]>) => {
  let history = History.initial
  const news: Array<string> = []
  for (const [at, text] of looks) {
    const next = History.step(history, look(text), at * 1000)
    history = next.history
    news.push(...next.news.map(({ kind, text }) => `${kind}: ${text.replace(/ \(.*?\)/, "")}`))
  }
  const spans = (row: ReadonlyArray<{ phase: string; from: number; to: number | undefined }>) =>
    row.map(({ from, phase, to }) => `${phase} ${from / 1000}-${to === undefined ? "" : to / 1000}`).join(", ")
  return {
    news,
    rows: Object.fromEntries([
      ...history.holders.map((row) => [row.label, spans(row.spans)]),
      ...(history.nobody.length > 0 ? [["nobody", spans(history.nobody)]] : [])
    ])
  }
}

const cases: ReadonlyArray<{
  readonly name: string
  readonly looks: ReadonlyArray<readonly [number, string]>
  readonly news: ReadonlyArray<string>
  readonly rows: Record<string, string>
}> = [
  { name: "it is held", looks: [[0, "a"], [5, "nothing"]], news: ["held: a holds it"], rows: { a: "leads 0-" } },
  {
    name: "a renewed lease does not run out",
    looks: [[0, "a renewed 1"], [14, "a renewed 2"], [28, "nothing"]],
    news: ["held: a holds it"],
    rows: { a: "leads 0-" }
  },
  {
    name: "it runs out and is taken",
    looks: [[0, "a"], [5, "a renewed 1"], [21, "nothing"], [22, "b"]],
    news: [
      "held: a holds it",
      "free: a has not renewed it: it has run out",
      "held: b takes it; nobody held it for 2.00 s"
    ],
    rows: { a: "leads 0-20", b: "leads 22-", nobody: "gap 20-22" }
  },
  {
    name: "a label edited on a lease that has run out is no sign of life, and ends nothing",
    looks: [[0, "a"], [16, "nothing"], [17, "a"], [18, "a renewed 1"]],
    news: [
      "held: a holds it",
      "free: a has not renewed it: it has run out",
      "held: a renews it again, after 3.00 s"
    ],
    rows: { a: "leads 0-15, leads 18-", nobody: "gap 15-18" }
  },
  {
    name: "it is released and taken",
    looks: [[0, "a"], [10, "released"], [10.02, "b"]],
    news: [
      "held: a holds it",
      "free: a has released it, held for 10.00 s",
      "held: b takes it; nobody held it for 20 ms"
    ],
    rows: { a: "leads 0-10", b: "leads 10.02-", nobody: "gap 10-10.02" }
  },
  {
    name: "it is taken from a holder",
    looks: [[0, "a"], [10, "b"]],
    news: ["held: a holds it", "held: b takes it from a, held for 10.00 s"],
    rows: { a: "leads 0-10", b: "leads 10-" }
  },
  {
    name: "a new Lease is held first, and led later",
    looks: [[0, "absent"], [1, "a acquired 1"], [16, "a acquired 2"]],
    news: [
      "free: does not exist",
      "held: a takes it; nobody held it for 1.00 s",
      "held: a begins its term, having waited for 15.00 s"
    ],
    rows: { a: "holds 1-16, leads 16-", nobody: "gap 0-1" }
  },
  {
    name: "another process of the same identity",
    looks: [[0, "a instance 1"], [4, "a instance 2"]],
    news: ["held: a holds it", "held: a takes it anew: another process or campaign of this identity"],
    rows: { a: "leads 0-4, leads 4-" }
  },
  {
    name: "it is deleted, and comes back without holder",
    looks: [[0, "a"], [3, "absent"], [4, "emptied"], [5, "emptied"]],
    news: ["held: a holds it", "free: was deleted, held for 3.00 s", "free: was created without holder"],
    rows: { a: "leads 0-3", nobody: "gap 3-" }
  },
  {
    name: "it is emptied by hand",
    looks: [[0, "a"], [3, "emptied"]],
    news: ["held: a holds it", "free: was emptied; a was its holder, held for 3.00 s"],
    rows: { a: "leads 0-3", nobody: "gap 3-" }
  },
  {
    name: "while it cannot be seen, nothing runs out",
    looks: [[0, "a"], [10, "blind"], [11, "blind"], [30, "nothing"], [40, "b"]],
    news: ["held: a holds it", "other: cannot be seen: no connection", "held: b holds it"],
    rows: { a: "leads 0-10", b: "leads 40-" }
  },
  {
    name: "a read overtaken by an event changes nothing",
    looks: [[0, "a"], [10, "b"], [11, "a old"]],
    news: ["held: a holds it", "held: b takes it from a, held for 10.00 s"],
    rows: { a: "leads 0-10", b: "leads 10-" }
  }
]

describe("history", () => {
  it.each(cases)("$name", ({ looks, news, rows }) => {
    assert.deepStrictEqual(run(looks), { news: [...news], rows })
  })

  it("forgets what is older than the picture", () => {
    let history = History.initial
    const looks: ReadonlyArray<readonly [number, string]> = [[0, "a"], [10, "b"], [20, "released"], [30, "c"]]
    for (const [at, text] of looks) {
      history = History.step(history, look(text), at).history
    }
    const kept = History.forget(history, 15)
    assert.deepStrictEqual(kept.holders.map(({ label }) => label), ["b", "c"])
  })
})

const key = { namespace: "default", name: "x" }

describe("watch", () => {
  it.live(
    "prints a line for each change into a pipe, with and without the right to watch",
    () =>
      Effect.gen(function*() {
        const server = yield* LeaseApiServer.LeaseApiServer
        const client = KubernetesClient.layerServer({ server: server.url, token: Redacted.make(server.token) })
        for (const forbidden of [[], ["watch"]]) {
          yield* server.forbid({}, forbidden)
          const lines: Array<string> = []
          const fiber = yield* watch(key).pipe(
            Effect.provide(Layer.provide(KubernetesLeaseStore.layer, client)),
            Effect.provideService(
              Console.Console,
              Object.assign(Object.create(console), { log: (line: string) => lines.push(line.replace(/ \(.*?\)/, "")) })
            ),
            Effect.forkChild
          )
          const seen = (pattern: RegExp) =>
            Effect.sleep("20 millis").pipe(
              Effect.repeat({ until: () => lines.some((line) => pattern.test(line)) }),
              Effect.timeout("8 seconds")
            )
          yield* seen(/^\d\d:\d\d:\d\d\.\d{3}Z {2}does not exist$/)
          yield* server.cluster.createLease(key, { spec: { holderIdentity: "a", leaseDurationSeconds: 15 } })
          yield* seen(/a takes it; nobody held it for/)
          yield* server.cluster.editLease(key, { spec: { holderIdentity: "", leaseDurationSeconds: 1 } })
          yield* seen(/a has released it, held for/)
          yield* server.cluster.deleteLease(key)
          yield* seen(/was deleted$/)
          assert.strictEqual(lines.length, 4)
          yield* Fiber.interrupt(fiber)
        }
      }).pipe(Effect.provide([LeaseApiServer.layer(), NodeServices.layer, Logger.layer([])])),
    20_000
  )

  /** What a terminal shows, or a pipe gets, after a time before a server that never answers. */
  const silent = (
    what: Effect.Effect<unknown, unknown, LeaseStore.LeaseStore | Terminal.Terminal | Stdio.Stdio>,
    isTerminal: boolean
  ) =>
    Effect.gen(function*() {
      const store = yield* LeaseStore.makeMemory
      const out: Array<string> = []
      const terminal = Terminal.make({
        columns: Effect.succeed(100),
        rows: Effect.succeed(24),
        size: Effect.never,
        readInput: Effect.never,
        readLine: Effect.never,
        display: (text) => Effect.sync(() => out.push(text))
      })
      yield* what.pipe(
        Effect.provideService(LeaseStore.LeaseStore, {
          ...store,
          get: () => Effect.never,
          changes: () => Stream.never
        }),
        Effect.provideService(Terminal.Terminal, terminal),
        Effect.provide(Stdio.layerTest({ stdoutIsTerminal: Effect.succeed(isTerminal) })),
        Effect.provideService(
          Console.Console,
          Object.assign(Object.create(console), { log: (line: string) => out.push(line) })
        ),
        Effect.forkChild({ startImmediately: true })
      )
      yield* TestClock.adjust("1 second")
      const first = out.join("\n")
      yield* TestClock.adjust("6 seconds")
      return { first, later: out.join("\n").slice(first.length) }
    })

  it.effect.each([["watch", watch(key)], ["watch --group", watchGroup("x", "default")]] as const)(
    "%s says that the server does not answer",
    ([, what]) =>
      Effect.gen(function*() {
        const { first, later } = yield* silent(what, false)
        assert.strictEqual(first, "")
        assert.match(later, /Z {2}cannot be seen: memory-\d+ has not answered for 5s$/)
      })
  )

  it.effect("a terminal shows no holder, and not nobody as one, before anything was read", () =>
    Effect.gen(function*() {
      const { first, later } = yield* silent(watch(key), true)
      assert.include(first, "default/x (memory-")
      assert.include(first, "): not seen yet")
      assert.notInclude(first, "held by")
      assert.include(later, "): cannot be seen")
    }))
})
