import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Queue, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as LeaderElection from "../../src/LeaderElection.ts"
import { LeaseUnavailable } from "../../src/LeaseError.ts"
import type { LeaseChange } from "../../src/LeaseStore.ts"
import { Fault, LeaseFaults, MemoryCluster, MemoryLeaseStore } from "../../src/testing/index.ts"

const key = { namespace: "default", name: "x" }

const setup = Effect.gen(function*() {
  const cluster = yield* MemoryCluster.make()
  const faults = yield* LeaseFaults.make(yield* MemoryLeaseStore.make(cluster))
  return { cluster, faults, store: faults.store }
})

const withLease = Effect.gen(function*() {
  const made = yield* setup
  const { lease } = yield* made.store.create(key, { holderIdentity: "a", leaseDurationSeconds: 15 })
  return { ...made, lease }
})

const holder = (cluster: MemoryCluster.MemoryCluster["Service"]) =>
  Effect.map(cluster.lease(key), (lease) => lease?.holderIdentity)

// What a watch has delivered so far, and how it ended.
const follow = (faults: LeaseFaults.LeaseFaults["Service"], since?: bigint) =>
  Effect.gen(function*() {
    const heard: Array<string> = []
    const fiber = yield* faults.store.changes(key, since).pipe(
      Stream.runForEach((change: LeaseChange) =>
        Effect.sync(() => {
          heard.push("lease" in change ? `${change._tag} ${change.lease.holderIdentity}` : change._tag)
        })
      ),
      Effect.matchEffect({
        onFailure: (error) => Effect.sync(() => heard.push(error.reason._tag)),
        onSuccess: () => Effect.sync(() => heard.push("End"))
      }),
      Effect.forkChild({ startImmediately: true })
    )
    yield* settle
    return { heard, fiber }
  })

// Lets everything run that does not wait for time.
const settle = Effect.repeat(Effect.yieldNow, { times: 10 })

describe("requests", () => {
  it.effect("pass without a fault, and are written down", () =>
    Effect.gen(function*() {
      const { faults, lease, store } = yield* withLease
      yield* TestClock.adjust("2 seconds")
      yield* store.patch(key, lease.resourceVersion, { renewTime: 1n })
      const error = yield* Effect.flip(store.patch(key, lease.resourceVersion, { renewTime: 2n }))
      assert.strictEqual(error.reason._tag, "LeaseConflict")
      const log = yield* faults.log
      assert.deepStrictEqual(
        log.map(({ began, ended, id, outcome, resourceVersion, verb, write }) => [
          id,
          verb,
          resourceVersion,
          write?.renewTime,
          began,
          ended,
          outcome?._tag
        ]),
        [
          [1, "create", undefined, undefined, 0, 0, "Answered"],
          [2, "patch", lease.resourceVersion, 1n, 2000, 2000, "Answered"],
          [3, "patch", lease.resourceVersion, 2n, 2000, 2000, "Failed"]
        ]
      )
      assert.deepStrictEqual(log.map(({ applied }) => applied?.at), [0, 2000, undefined])
    }))

  it.effect("next strikes the next request with that verb only", () =>
    Effect.gen(function*() {
      const { faults, store } = yield* withLease
      yield* faults.next("get", Fault.conflict)
      yield* faults.next("get", Fault.tooManyRequests("3 seconds"), 2)
      yield* store.patch(key, (yield* faults.log)[0]!.applied!.lease.resourceVersion, { renewTime: 1n })
      const reasons = yield* Effect.forEach([1, 2, 3, 4], () =>
        store.get(key).pipe(
          Effect.as("Answered"),
          Effect.catch((error) => Effect.succeed(error.reason._tag))
        ))
      assert.deepStrictEqual(reasons, ["LeaseConflict", "LeaseUnavailable", "LeaseUnavailable", "Answered"])
    }))

  it.effect("set strikes until it is cleared, decide asks each time, next comes first", () =>
    Effect.gen(function*() {
      const { faults, store } = yield* withLease
      const tag = store.get(key).pipe(
        Effect.as("Answered"),
        Effect.catch((error) => Effect.succeed(error.reason._tag))
      )
      yield* faults.decide(({ id }) => id % 2 === 0 ? Fault.notFound : undefined)
      assert.deepStrictEqual([yield* tag, yield* tag, yield* tag], ["LeaseNotFound", "Answered", "LeaseNotFound"])
      yield* faults.set({ get: Fault.forbidden })
      yield* faults.next("get", Fault.unauthorized)
      assert.deepStrictEqual([yield* tag, yield* tag, yield* tag], [
        "LeaseUnauthorized",
        "LeaseForbidden",
        "LeaseForbidden"
      ])
      yield* faults.clear
      assert.deepStrictEqual([yield* tag, yield* tag], ["Answered", "Answered"])
    }))

  it.effect("a delayed request is applied when it arrives, also after its caller gave up", () =>
    Effect.gen(function*() {
      const { cluster, faults, lease, store } = yield* withLease
      yield* faults.next("patch", Fault.delayRequest("3 seconds"))
      const fiber = yield* Effect.forkChild(
        Effect.timeoutOption(store.patch(key, lease.resourceVersion, { holderIdentity: "b" }), "2 seconds")
      )
      yield* TestClock.adjust("2999 millis")
      assert.strictEqual((yield* Fiber.join(fiber))._tag, "None")
      assert.strictEqual(yield* holder(cluster), "a")
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(yield* holder(cluster), "b")
      const [, request] = yield* faults.log
      assert.deepStrictEqual(
        [request?.began, request?.ended, request?.outcome?._tag, request?.applied?.at],
        [0, 2000, "Interrupted", 3000]
      )
    }))

  it.effect("a delayed answer comes after the request was applied", () =>
    Effect.gen(function*() {
      const { cluster, faults, lease, store } = yield* withLease
      yield* faults.next("patch", Fault.delayAnswer("3 seconds"))
      const fiber = yield* Effect.forkChild(store.patch(key, lease.resourceVersion, { holderIdentity: "b" }))
      yield* TestClock.adjust("2999 millis")
      assert.strictEqual(yield* holder(cluster), "b")
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      assert.strictEqual((yield* Fiber.join(fiber)).lease.holderIdentity, "b")
    }))

  it.effect.each(
    [
      ["hang", Fault.hang, "a"],
      ["hangAfterCommit", Fault.hangAfterCommit, "b"]
    ] as const
  )("%s never answers", ([, fault, stored]) =>
    Effect.gen(function*() {
      const { cluster, faults, lease, store } = yield* withLease
      yield* faults.next("patch", fault)
      const fiber = yield* Effect.forkChild(store.patch(key, lease.resourceVersion, { holderIdentity: "b" }))
      yield* TestClock.adjust("1 hour")
      assert.isUndefined(fiber.pollUnsafe())
      assert.strictEqual(yield* holder(cluster), stored)
      yield* Fiber.interrupt(fiber)
      assert.strictEqual((yield* faults.log)[1]?.outcome?._tag, "Interrupted")
    }))

  it.effect.each(
    [
      ["dropRequest", Fault.dropRequest, "a"],
      ["dropAnswer", Fault.dropAnswer, "b"],
      ["gatewayTimeout", Fault.gatewayTimeout, "b"],
      ["serverError", Fault.serverError(503), "a"]
    ] as const
  )("after %s the outcome is unknown", ([, fault, stored]) =>
    Effect.gen(function*() {
      const { cluster, faults, lease, store } = yield* withLease
      yield* faults.next("patch", fault)
      const { reason } = yield* Effect.flip(store.patch(key, lease.resourceVersion, { holderIdentity: "b" }))
      assert.instanceOf(reason, LeaseUnavailable)
      assert.isTrue(reason._tag === "LeaseUnavailable" && reason.outcomeUnknown)
      assert.strictEqual(yield* holder(cluster), stored)
    }))

  it.effect("applyLate fails now and is applied later, guarded", () =>
    Effect.gen(function*() {
      const { cluster, faults, lease, store } = yield* withLease
      yield* faults.next("patch", Fault.applyLate("10 seconds"), 2)
      yield* Effect.flip(store.patch(key, lease.resourceVersion, { holderIdentity: "b" }))
      yield* Effect.flip(store.patch(key, lease.resourceVersion, { holderIdentity: "c" }))
      yield* TestClock.adjust("9999 millis")
      assert.strictEqual(yield* holder(cluster), "a")
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(yield* holder(cluster), "b")
      assert.deepStrictEqual((yield* faults.log).map(({ applied }) => applied?.at), [0, 10_000, undefined])
    }))

  it.effect("faults put together all hold", () =>
    Effect.gen(function*() {
      const { cluster, faults, lease, store } = yield* withLease
      yield* faults.next("patch", Fault.all(Fault.delayRequest("2 seconds"), Fault.dropAnswer))
      const fiber = yield* Effect.forkChild(
        Effect.flip(store.patch(key, lease.resourceVersion, { holderIdentity: "b" }))
      )
      yield* TestClock.adjust("1999 millis")
      assert.strictEqual(yield* holder(cluster), "a")
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(yield* holder(cluster), "b")
      assert.strictEqual((yield* Fiber.join(fiber)).reason._tag, "LeaseUnavailable")
    }))
})

describe("the connection", () => {
  it.effect("refuse fails what is on its way, what comes, and open watches", () =>
    Effect.gen(function*() {
      const { cluster, faults, lease, store } = yield* withLease
      const { heard } = yield* follow(faults)
      yield* faults.next("patch", Fault.delayRequest("1 second"))
      const fiber = yield* Effect.forkChild(
        Effect.flip(store.patch(key, lease.resourceVersion, { holderIdentity: "b" }))
      )
      yield* settle
      yield* faults.refuse
      const onItsWay = (yield* Fiber.join(fiber)).reason
      assert.isTrue(onItsWay._tag === "LeaseUnavailable" && onItsWay.outcomeUnknown)
      const refused = (yield* Effect.flip(store.patch(key, lease.resourceVersion, { holderIdentity: "c" }))).reason
      assert.isTrue(refused._tag === "LeaseUnavailable" && !refused.outcomeUnknown)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(heard, ["Opened", "Applied a", "LeaseUnavailable"])
      assert.strictEqual(yield* holder(cluster), "a")
      assert.deepStrictEqual((yield* follow(faults)).heard, ["LeaseUnavailable"])
      yield* faults.restore
      yield* store.patch(key, lease.resourceVersion, { holderIdentity: "d" })
      assert.strictEqual(yield* holder(cluster), "d")
    }))

  it.effect("stall loses what is on its way and what is sent meanwhile, without a word", () =>
    Effect.gen(function*() {
      const { cluster, faults, lease, store } = yield* withLease
      const before = yield* follow(faults)
      yield* faults.next("patch", Fault.delayRequest("1 second"))
      const onItsWay = yield* Effect.forkChild(store.patch(key, lease.resourceVersion, { holderIdentity: "b" }))
      yield* settle
      yield* faults.stall
      const during = yield* follow(faults)
      const sent = yield* Effect.forkChild(store.patch(key, lease.resourceVersion, { holderIdentity: "c" }))
      yield* TestClock.adjust("1 minute")
      yield* faults.restore
      yield* cluster.editLease(key, { spec: { holderIdentity: "d" } })
      yield* TestClock.adjust("1 minute")
      assert.isUndefined(onItsWay.pollUnsafe())
      assert.isUndefined(sent.pollUnsafe())
      assert.deepStrictEqual([before.heard, during.heard], [["Opened", "Applied a"], []])
      assert.strictEqual(yield* holder(cluster), "d")
      assert.deepStrictEqual((yield* follow(faults)).heard, ["Opened", "Applied d"])
    }))

  it.effect("an answer on its way is lost with the connection, and held up with it", () =>
    Effect.gen(function*() {
      const { cluster, faults, lease, store } = yield* withLease
      yield* faults.set({ patch: Fault.delayAnswer("2 seconds") })
      const lost = yield* Effect.forkChild(store.patch(key, lease.resourceVersion, { holderIdentity: "b" }))
      yield* TestClock.adjust("1 second")
      yield* faults.stall
      yield* TestClock.adjust("1 minute")
      yield* faults.restore
      yield* TestClock.adjust("1 minute")
      assert.isUndefined(lost.pollUnsafe())
      assert.strictEqual(yield* holder(cluster), "b")
      const held = yield* Effect.forkChild(store.patch(key, lease.resourceVersion + 1n, { holderIdentity: "c" }))
      yield* TestClock.adjust("1 second")
      yield* faults.pause
      yield* TestClock.adjust("1 minute")
      assert.isUndefined(held.pollUnsafe())
      yield* faults.restore
      assert.strictEqual((yield* Fiber.join(held)).lease.holderIdentity, "c")
    }))

  it.effect("pause holds everything up until restore", () =>
    Effect.gen(function*() {
      const { cluster, faults, lease, store } = yield* withLease
      const watch = yield* follow(faults)
      yield* faults.pause
      const patch = yield* Effect.forkChild(store.patch(key, lease.resourceVersion + 2n, { holderIdentity: "b" }))
      yield* TestClock.adjust("30 seconds")
      yield* cluster.editLease(key, { spec: { holderIdentity: "c" } })
      yield* cluster.editLease(key, { spec: { holderIdentity: "d" } })
      yield* settle
      assert.deepStrictEqual(watch.heard, ["Opened", "Applied a"])
      assert.isUndefined(patch.pollUnsafe())
      yield* faults.restore
      yield* settle
      assert.strictEqual((yield* Fiber.join(patch)).lease.holderIdentity, "b")
      assert.deepStrictEqual(watch.heard, ["Opened", "Applied a", "Applied c", "Applied d", "Applied b"])
    }))
})

describe("watches", () => {
  it.effect("are cut, end, and are refused", () =>
    Effect.gen(function*() {
      const { cluster, faults } = yield* withLease
      const cut = yield* follow(faults)
      assert.strictEqual(yield* faults.openWatches, 1)
      yield* faults.cutWatches
      yield* settle
      assert.strictEqual(yield* faults.openWatches, 0)
      const ended = yield* follow(faults)
      yield* faults.endWatches
      yield* settle
      yield* faults.set({ watch: Fault.forbidden })
      const refused = yield* follow(faults)
      yield* faults.clear
      const again = yield* follow(faults)
      yield* cluster.closeWatches
      yield* settle
      assert.deepStrictEqual([cut.heard, ended.heard, refused.heard, again.heard], [
        ["Opened", "Applied a", "LeaseUnavailable"],
        ["Opened", "Applied a", "End"],
        ["LeaseForbidden"],
        ["Opened", "Applied a", "End"]
      ])
      assert.deepStrictEqual(
        (yield* faults.log).slice(1).map(({ outcome }) =>
          outcome?._tag === "Failed" ? outcome.error.reason._tag : outcome?._tag
        ),
        ["LeaseUnavailable", "Ended", "LeaseForbidden", "Ended"]
      )
    }))

  it.effect("that are silenced stay open and hear nothing", () =>
    Effect.gen(function*() {
      const { cluster, faults } = yield* withLease
      const before = yield* follow(faults)
      yield* faults.silenceWatches
      const during = yield* follow(faults)
      yield* cluster.editLease(key, { spec: { holderIdentity: "b" } })
      yield* settle
      yield* faults.clear
      yield* cluster.editLease(key, { spec: { holderIdentity: "c" } })
      yield* settle
      const after = yield* follow(faults)
      assert.deepStrictEqual([before.heard, during.heard.slice(0, 1), after.heard], [
        ["Opened", "Applied a"],
        ["Opened"],
        ["Opened", "Applied c"]
      ])
      assert.notInclude(during.heard, "Applied b")
      assert.strictEqual(yield* faults.openWatches, 3)
    }))

  it.effect("open late, or never", () =>
    Effect.gen(function*() {
      const { faults } = yield* withLease
      yield* faults.next("watch", Fault.delayAnswer("2 seconds"))
      const late = yield* follow(faults)
      yield* TestClock.adjust("1999 millis")
      assert.deepStrictEqual(late.heard, [])
      yield* TestClock.adjust("1 millis")
      assert.deepStrictEqual(late.heard, ["Opened", "Applied a"])
      yield* faults.next("watch", Fault.hang)
      const never = yield* follow(faults)
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(never.heard, [])
    }))

  it.effect("hear late events in order, and answers do not wait for them", () =>
    Effect.gen(function*() {
      const { faults, lease, store } = yield* withLease
      const watch = yield* follow(faults)
      yield* faults.delayEvents((change) =>
        "lease" in change && change.lease.holderIdentity === "b" ? "3 seconds" : "1 second"
      )
      const next = yield* store.patch(key, lease.resourceVersion, { holderIdentity: "b" })
      yield* TestClock.adjust("1 second")
      yield* store.patch(key, next.lease.resourceVersion, { holderIdentity: "c" })
      yield* TestClock.adjust("1999 millis")
      assert.deepStrictEqual(watch.heard, ["Opened", "Applied a"])
      yield* TestClock.adjust("1 millis")
      assert.deepStrictEqual(watch.heard, ["Opened", "Applied a", "Applied b", "Applied c"])
    }))

  it.effect("hear of a write before its delayed answer", () =>
    Effect.gen(function*() {
      const { faults, lease, store } = yield* withLease
      const order = yield* Queue.unbounded<string>()
      yield* store.changes(key, lease.resourceVersion).pipe(
        Stream.runForEach((change) => "lease" in change ? Queue.offer(order, "event") : Effect.void),
        Effect.forkChild({ startImmediately: true })
      )
      yield* faults.next("patch", Fault.delayAnswer("1 millis"))
      yield* store.patch(key, lease.resourceVersion, { holderIdentity: "b" }).pipe(
        Effect.andThen(Queue.offer(order, "answer")),
        Effect.forkChild
      )
      yield* settle
      yield* TestClock.adjust("1 millis")
      assert.deepStrictEqual(yield* Queue.takeAll(order), ["event", "answer"])
    }))
})

it.effect("the layer takes the place of the store below it", () =>
  Effect.gen(function*() {
    const faults = yield* LeaseFaults.LeaseFaults
    const cluster = yield* MemoryCluster.MemoryCluster
    yield* faults.next("create", Fault.dropAnswer)
    yield* Effect.flip(faults.store.create(key, { holderIdentity: "a" }))
    assert.strictEqual(yield* holder(cluster), "a")
  }).pipe(
    Effect.provide(LeaseFaults.layer),
    Effect.provide(MemoryLeaseStore.layerMemory())
  ))

describe("a test that ends", () => {
  const settings = { namespace: "default", name: "x", identity: "a", newLease: "lead" } as const
  const layer = LeaderElection.layer(settings).pipe(
    Layer.provideMerge(LeaseFaults.layer),
    Layer.provideMerge(MemoryLeaseStore.layerMemory())
  )

  const cases: ReadonlyArray<readonly [string, (faults: LeaseFaults.LeaseFaults["Service"]) => Effect.Effect<void>]> = [
    ["while it leads", () => Effect.void],
    ["while nothing is answered", (faults) => faults.stall],
    ["while connections are refused", (faults) => faults.refuse],
    ["while everything is held up", (faults) => faults.pause],
    ["while a renewal waits for its answer", (faults) => faults.next("patch", Fault.dropAnswer, 9)]
  ]
  for (const [title, break_] of cases) {
    it.effect(title, () =>
      Effect.gen(function*() {
        // As a test of a program is written: it starts the program, and nothing stops it before the end.
        const test = Effect.gen(function*() {
          yield* Effect.forkChild(LeaderElection.whileLeadingForever(Effect.never))
          yield* TestClock.adjust("1 second")
          assert.strictEqual((yield* LeaderElection.status)._tag, "Leading")
          yield* break_(yield* LeaseFaults.LeaseFaults)
          yield* TestClock.adjust("5 seconds")
        }).pipe(Effect.provide(layer))
        // Detached: it could not be waited for where it does not end.
        const fiber = yield* Effect.forkDetach(test)
        yield* Effect.promise(() => settled(() => fiber.pollUnsafe() !== undefined))
        assert.strictEqual(fiber.pollUnsafe()?._tag, "Success")
      }))
  }
})

// Rounds of the event loop, not time.
const settled = async (isDone: () => boolean) => {
  for (let round = 0; round < 200 && !isDone(); round++) {
    await new Promise(setImmediate)
  }
}
