/** What shards and their replicas do to each other in the field. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Logger, Metric, Schedule, type Scope, Stream, SubscriptionRef } from "effect"
import { LeaderShards, LeaderShardsMetrics } from "effect-kubernetes-leader-election"
import { Fault } from "effect-kubernetes-leader-election/testing"
import { TestClock } from "effect/testing"
import { failures, makeWorld, names, withMetrics } from "./utils/shards.ts"

const test = <E>(name: string, effect: () => Effect.Effect<unknown, E, Scope.Scope>) =>
  it.effect(name, () => withMetrics(Effect.suspend(effect)))

/** What is logged from warnings on. */
const withLogs = (logs: Array<string>) =>
  Effect.provide(Logger.layer([Logger.make(({ logLevel, message }) => {
    if (logLevel === "Warn" || logLevel === "Error") {
      logs.push(String([message].flat()[0]))
    }
  })]))

const member = ({ labels }: { readonly labels: Readonly<Record<string, string>> }) =>
  labels[LeaderShards.labels.role] === "member"

describe("a replica that takes nothing", () => {
  for (
    const [how, decide] of [
      ["is refused its watches", ({ verb }: { verb: string }) => verb === "watch" ? Fault.serverError(500) : undefined],
      ["opens watches that never answer", ({ verb }: { verb: string }) => verb === "watch" ? Fault.hang : undefined]
    ] as const
  ) {
    test(`does not keep shards from being led: one that ${how}`, () =>
      Effect.gen(function*() {
        const { cluster, led, replica, starts } = yield* makeWorld()
        yield* replica("blind", names(4), { decide })
        yield* replica("b", names(4))
        yield* TestClock.adjust("2 minutes")
        const before = starts.length
        let samples = 0
        for (let i = 0; i < 40; i++) {
          yield* TestClock.adjust("15 seconds")
          samples += [...led.values()].reduce((sum, { size }) => sum + size, 0)
        }
        // Ten minutes: one is offered now and then.
        assert.isAtLeast(samples, 40 * 4 - 4)
        assert.isAtMost(starts.length - before, 6)
        const transitions = (yield* cluster.leases()).map(({ leaseTransitions }) => leaseTransitions ?? 0)
        assert.isAtMost(Math.max(...transitions), 12)
      }))
  }

  test("gets its part once it takes it", () =>
    Effect.gen(function*() {
      const { counts, replica } = yield* makeWorld()
      const { faults } = yield* replica("late", names(8))
      yield* faults.delayEvents(() => "3 seconds")
      yield* replica("b", names(8))
      yield* TestClock.adjust("2 minutes")
      yield* faults.delayEvents(() => "10 millis")
      yield* TestClock.adjust("6 minutes")
      assert.deepStrictEqual(counts(), [4, 4])
    }))

  test("is offered shards ever less often: one whose programs are run no more", () =>
    Effect.gen(function*() {
      const { led, replica, starts } = yield* makeWorld()
      yield* replica("a", names(6), { lead: () => Effect.fail("no database here"), retry: Schedule.recurs(0) })
      yield* replica("b", names(6))
      yield* TestClock.adjust("2 minutes")
      const before = starts.length
      yield* TestClock.adjust("10 minutes")
      assert.isAtMost(starts.length - before, 8)
      assert.isAtLeast(led.get("b")!.size, 5)
    }))
})

describe("a shard of which something fails", () => {
  test("is alone with that where lead throws, and is tried again", () =>
    Effect.gen(function*() {
      const { led, replica } = yield* makeWorld()
      let calls = 0
      yield* replica("a", names(3), {
        lead: (shard) => {
          if (shard === "t1") {
            calls++
            throw new Error("no config for t1")
          }
          return Effect.never
        }
      })
      yield* TestClock.adjust("20 seconds")
      assert.deepStrictEqual([...led.get("a")!].toSorted(), ["t0", "t2"])
      // After 17 s, and 1 and 2 s later.
      assert.isAtLeast(calls, 2)
      assert.strictEqual(yield* failures, calls)
    }))

  test("is tried again from the beginning after it has run well", () =>
    Effect.gen(function*() {
      const { replica, starts } = yield* makeWorld()
      let length = 1
      yield* replica("a", ["x"], {
        lead: () => Effect.andThen(Effect.suspend(() => Effect.sleep(length * 1000)), Effect.fail("no"))
      })
      yield* TestClock.adjust("3 minutes")
      length = 600
      yield* TestClock.adjust("1 minute")
      const before = starts.length
      // It runs for ten minutes, fails, and is run again after 1 s, not after a minute.
      yield* TestClock.adjust("10 minutes")
      length = 1
      yield* TestClock.adjust("5 seconds")
      assert.isAtLeast(starts.length, before + 1)
    }))

  test("is alone with that where the API server refuses its Lease", () =>
    Effect.gen(function*() {
      const { counts, replica } = yield* makeWorld()
      const list = yield* SubscriptionRef.make<ReadonlyArray<string>>(names(6))
      let refused = true
      const replicas = yield* Effect.forEach(["a", "b", "c"], (name) =>
        replica(name, SubscriptionRef.changes(list), {
          decide: ({ key, verb }) =>
            refused && verb === "create" && key.name === "tenants-new" ? Fault.forbidden : undefined
        }))
      yield* TestClock.adjust("40 seconds")
      yield* SubscriptionRef.set(list, [...names(6), "new"])
      yield* TestClock.adjust("5 minutes")
      assert.deepStrictEqual(counts(), [2, 2, 2])
      assert.isAbove(yield* failures, 0)
      refused = false
      yield* TestClock.adjust("3 minutes")
      assert.strictEqual(counts().reduce((sum, count) => sum + count), 7)
      yield* Effect.forEach(replicas, ({ end }) => end)
    }))

  test("ends the replica where the API server refuses all of its Leases", () =>
    Effect.gen(function*() {
      const { replica } = yield* makeWorld()
      const { fiber } = yield* replica("a", names(3), {
        decide: ({ key, verb }) => verb === "create" && !key.name.includes("member") ? Fault.forbidden : undefined
      })
      yield* TestClock.adjust("3 minutes")
      const exit = yield* Fiber.await(fiber)
      assert.match(String(Exit.isFailure(exit) && Cause.squash(exit.cause)), /create/)
    }))

  test("is left out where a later list has a name that no Lease can have", () =>
    Effect.gen(function*() {
      const logs: Array<string> = []
      yield* Effect.gen(function*() {
        const { led, replica } = yield* makeWorld()
        const list = yield* SubscriptionRef.make<ReadonlyArray<string>>(names(3))
        yield* replica("a", SubscriptionRef.changes(list))
        yield* TestClock.adjust("20 seconds")
        yield* SubscriptionRef.set(list, [...names(3), "New Tenant", "t3"])
        yield* SubscriptionRef.set(list, [...names(3), "New Tenant", "t3", "t4"])
        yield* TestClock.adjust("20 seconds")
        assert.deepStrictEqual([...led.get("a")!].toSorted(), names(5))
        assert.strictEqual(yield* failures, 1)
      }).pipe(withLogs(logs))
      assert.deepStrictEqual(logs.filter((message) => message.startsWith("Shard")), ["Shard New Tenant is not led"])
    }))

  test("is named where its program does not end", () =>
    Effect.gen(function*() {
      const logs: Array<string> = []
      yield* Effect.gen(function*() {
        const { replica } = yield* makeWorld()
        const list = yield* SubscriptionRef.make<ReadonlyArray<string>>(names(2))
        yield* replica("a", SubscriptionRef.changes(list), {
          lead: (shard) => shard === "t0" ? Effect.uninterruptible(Effect.sleep("2 minutes")) : Effect.never
        })
        yield* TestClock.adjust("20 seconds")
        yield* SubscriptionRef.set(list, [])
        yield* TestClock.adjust("2 minutes")
      }).pipe(withLogs(logs))
      assert.deepStrictEqual(
        logs.filter((message) => message.includes("has not ended")),
        ["The program of shard t0 has not ended for 15s: it keeps the shard until it has"]
      )
    }))
})

/** The Lease of one shard cannot be created. */
const without = (shard: string, fault: Fault.Fault) => ({ key, verb }: { key: { name: string }; verb: string }) =>
  verb === "create" && key.name === `tenants-${shard}` ? fault : undefined

const isTaken = ({ verb, write }: { verb: string; write?: { acquireTime?: unknown } | undefined }) =>
  verb === "create" || (verb === "patch" && write?.acquireTime !== undefined)

describe("a shard whose Lease cannot be written", () => {
  for (
    const [how, fault] of [["fails", Fault.serverError(500)], ["is refused", Fault.forbidden], [
      "hangs",
      Fault.hang
    ]] as const
  ) {
    test(`keeps no newcomer from its part, and nothing moves at rest: it ${how}`, () =>
      Effect.gen(function*() {
        const { counts, replica, starts } = yield* makeWorld()
        const decide = without("t0", fault)
        const others = yield* Effect.forEach(["a", "b"], (name) => replica(name, names(9), { decide }))
        yield* TestClock.adjust("1 minute")
        const c = yield* replica("c", names(9), { decide })
        yield* TestClock.adjust("2 minutes")
        assert.deepStrictEqual(counts().toSorted(), [2, 3, 3])
        const before = starts.length
        yield* TestClock.adjust("4 minutes")
        assert.strictEqual(starts.length, before)
        // Nor does it keep a replica from being drained.
        const drained = yield* Effect.forkChild(c.drain)
        yield* TestClock.adjust("20 seconds")
        assert.isDefined(drained.pollUnsafe())
        assert.deepStrictEqual(counts(), [4, 4, 0])
        yield* Effect.forkChild(Effect.forEach([...others, c], ({ end }) => end))
        yield* TestClock.adjust("30 seconds")
      }))
  }

  test("is forgotten once another leads it: what was refused long ago does not add up", () =>
    Effect.gen(function*() {
      const { cluster, counts, replica } = yield* makeWorld()
      const refused = new Set(["tenants-t0"])
      const a = yield* replica("a", names(2), {
        decide: (request) => isTaken(request) && refused.has(request.key.name) ? Fault.forbidden : undefined
      })
      yield* TestClock.adjust("90 seconds")
      yield* replica("b", names(2), {
        decide: (request) => isTaken(request) && request.key.name === "tenants-t1" ? Fault.forbidden : undefined
      })
      yield* TestClock.adjust("5 minutes")
      assert.deepStrictEqual(counts(), [1, 1])
      refused.clear()
      yield* TestClock.adjust("10 minutes")
      refused.add("tenants-t1")
      yield* cluster.deleteLease({ namespace: "default", name: "tenants-t1" })
      yield* TestClock.adjust("3 minutes")
      assert.isUndefined(a.fiber.pollUnsafe())
    }))
})

describe("a run", () => {
  test("is the only one of its replica", () =>
    Effect.gen(function*() {
      const { led, replica } = yield* makeWorld()
      const { run } = yield* replica("a", names(4))
      yield* TestClock.adjust("20 seconds")
      const error = yield* Effect.flip(run(["u0"]))
      assert.strictEqual(error.reason._tag, "AlreadyCampaigning")
      yield* TestClock.adjust("20 seconds")
      assert.strictEqual(led.get("a")!.size, 4)
    }))

  test("leads its part again after another one of its replica has ended", () =>
    Effect.gen(function*() {
      const { counts, replica } = yield* makeWorld()
      const { fiber, ready, run } = yield* replica("a", names(6))
      yield* replica("b", names(6))
      yield* TestClock.adjust("30 seconds")
      yield* Fiber.interrupt(fiber)
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(counts(), [0, 6])
      assert.isFalse(yield* ready)
      yield* Effect.forkChild(run(names(6)))
      yield* TestClock.adjust("30 seconds")
      assert.deepStrictEqual(counts(), [3, 3])
      assert.isTrue(yield* ready)
    }))

  test("leaves nothing of what it shows", () =>
    Effect.gen(function*() {
      const { replica } = yield* makeWorld()
      const a = yield* replica("a", names(4))
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual((yield* a.status).leads.size, 4)
      yield* Fiber.interrupt(a.fiber)
      const { leads, members, shards } = yield* a.status
      assert.deepStrictEqual([leads.size, members.length, shards.size, yield* a.ready], [0, 0, 0, false])
      for (const metric of [LeaderShardsMetrics.led, LeaderShardsMetrics.listed, LeaderShardsMetrics.members]) {
        const { value } = yield* Metric.value(Metric.withAttributes(metric, { group: "default/tenants" }))
        assert.strictEqual(value, 0)
      }
    }))

  test("ends its programs at once, also where its list takes its time to end", () =>
    Effect.gen(function*() {
      const { led, replica } = yield* makeWorld()
      const lists = Stream.ensuring(Stream.concat(Stream.make(names(2)), Stream.never), Effect.sleep("20 seconds"))
      const { fiber } = yield* replica("a", lists)
      yield* TestClock.adjust("20 seconds")
      assert.strictEqual(led.get("a")!.size, 2)
      yield* Effect.forkChild(Fiber.interrupt(fiber))
      yield* TestClock.adjust("1 second")
      assert.strictEqual(led.get("a")!.size, 0)
      yield* TestClock.adjust("20 seconds")
    }))

  test("without a list is no member, and not ready", () =>
    Effect.gen(function*() {
      const { cluster, counts, replica } = yield* makeWorld()
      yield* replica("a", names(4))
      const b = yield* replica(
        "b",
        Stream.concat(Stream.fromEffect(Effect.as(Effect.sleep("1 minute"), names(4))), Stream.never)
      )
      yield* TestClock.adjust("50 seconds")
      assert.isFalse(yield* b.ready)
      assert.deepStrictEqual(counts(), [4, 0])
      assert.strictEqual((yield* cluster.leases()).filter(member).length, 1)
      yield* TestClock.adjust("30 seconds")
      assert.isTrue(yield* b.ready)
      assert.deepStrictEqual(counts(), [2, 2])
    }))

  test("writes nothing where the same list comes again and again", () =>
    Effect.gen(function*() {
      const { replica } = yield* makeWorld()
      const lists = Stream.map(Stream.fromSchedule(Schedule.spaced("1 second")), () => names(2))
      const { faults } = yield* replica("a", lists)
      yield* TestClock.adjust("1 minute")
      const from = (yield* faults.log).length
      yield* TestClock.adjust("1 minute")
      // Three Leases, renewed every 5 s.
      assert.isAtMost((yield* faults.log).length - from, 36)
    }))

  for (const shards of ["acme", Stream.make("acme", "globex")]) {
    test(`refuses a text for a list: ${typeof shards === "string" ? shards : "a stream of names"}`, () =>
      Effect.gen(function*() {
        const { replica } = yield* makeWorld()
        const { fiber } = yield* replica("a", shards)
        const exit = yield* Fiber.await(fiber)
        assert.match(
          String(Exit.isFailure(exit) && Cause.squash(exit.cause)),
          /shards is the text "acme": give a list of names, or a stream of such lists/
        )
      }))
  }

  test("says once that its watch brings nothing, and again after it has", () =>
    Effect.gen(function*() {
      const logs: Array<string> = []
      yield* Effect.gen(function*() {
        const { replica } = yield* makeWorld()
        const { faults } = yield* replica("a", names(2))
        yield* TestClock.adjust("30 seconds")
        for (let i = 0; i < 2; i++) {
          yield* faults.decide(({ key, verb }) =>
            verb === "watch" && key.name === "" ? Fault.serverError(500) : undefined
          )
          yield* faults.endWatches
          yield* TestClock.adjust("1 minute")
          yield* faults.decide(() => undefined)
          yield* TestClock.adjust("1 minute")
        }
      }).pipe(withLogs(logs))
      assert.strictEqual(
        logs.filter((message) => message.startsWith("The watch of the group brings nothing")).length,
        2
      )
    }))

  test("goes on where its watch is refused for less than a minute, as by a server that starts", () =>
    Effect.gen(function*() {
      const { counts, replica } = yield* makeWorld()
      const { faults, fiber } = yield* replica("a", names(4))
      yield* TestClock.adjust("30 seconds")
      yield* faults.decide(({ key, verb }) => verb === "watch" && key.name === "" ? Fault.forbidden : undefined)
      yield* faults.endWatches
      yield* TestClock.adjust("55 seconds")
      assert.deepStrictEqual(counts(), [4])
      yield* faults.decide(() => undefined)
      yield* TestClock.adjust("30 seconds")
      yield* faults.decide(({ key, verb }) => verb === "watch" && key.name === "" ? Fault.forbidden : undefined)
      yield* faults.endWatches
      yield* TestClock.adjust("55 seconds")
      assert.deepStrictEqual(counts(), [4])
      yield* TestClock.adjust("20 seconds")
      const exit = yield* Fiber.await(fiber)
      assert.match(String(Exit.isFailure(exit) && Cause.squash(exit.cause)), /watch/)
    }))

  test("names a Lease that belongs to another group", () =>
    Effect.gen(function*() {
      const logs: Array<string> = []
      yield* Effect.gen(function*() {
        const { cluster, replica } = yield* makeWorld()
        yield* cluster.createLease({ namespace: "default", name: "tenants-eu-t0" }, {
          metadata: { labels: { [LeaderShards.labels.group]: "tenants-eu", [LeaderShards.labels.role]: "shard" } },
          spec: {}
        })
        yield* replica("a", ["eu-t0"])
        yield* TestClock.adjust("1 minute")
      }).pipe(withLogs(logs))
      assert.isTrue(
        logs.some((message) => message.startsWith("The Lease tenants-eu-t0 of shard eu-t0 belongs to group tenants-eu"))
      )
    }))
})

describe("a drain", () => {
  test("is over when the Leases are released", () =>
    Effect.gen(function*() {
      const { cluster, replica } = yield* makeWorld()
      const a = yield* replica("a", names(8))
      yield* replica("b", names(8))
      yield* TestClock.adjust("30 seconds")
      yield* a.faults.decide(({ verb }) => verb === "patch" ? Fault.delayRequest("800 millis") : undefined)
      const drained = yield* Effect.forkChild(a.drain)
      let millis = 0
      while (drained.pollUnsafe() === undefined && millis < 60_000) {
        yield* TestClock.adjust("100 millis")
        millis += 100
      }
      const held = (yield* cluster.leases()).filter((lease) => lease.holderIdentity === "a" && !member(lease))
      assert.deepStrictEqual(held, [])
      assert.isBelow(millis, 10_000)
    }))

  test("needs no watch", () =>
    Effect.gen(function*() {
      const { counts, replica } = yield* makeWorld()
      const a = yield* replica("a", names(6))
      yield* replica("b", names(6))
      yield* TestClock.adjust("1 minute")
      yield* a.faults.decide(({ key, verb }) => verb === "watch" && key.name === "" ? Fault.hang : undefined)
      yield* a.faults.endWatches
      yield* TestClock.adjust("1 second")
      const drained = yield* Effect.forkChild(a.drain)
      yield* TestClock.adjust("20 seconds")
      assert.isDefined(drained.pollUnsafe())
      assert.deepStrictEqual(counts(), [0, 6])
    }))

  test("is over when the run has ended, and lasts beyond it", () =>
    Effect.gen(function*() {
      const { counts, replica } = yield* makeWorld()
      const a = yield* replica("a", names(4))
      yield* TestClock.adjust("30 seconds")
      // The only member keeps what it leads.
      const drained = yield* Effect.forkChild(a.drain)
      yield* TestClock.adjust("30 seconds")
      assert.isUndefined(drained.pollUnsafe())
      yield* Fiber.interrupt(a.fiber)
      yield* Fiber.join(drained)
      yield* replica("b", names(4))
      yield* Effect.forkChild(a.run(names(4)))
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(counts(), [0, 4])
    }))
})

describe("what is shown", () => {
  test("is what the Leases say: a shard that cannot be created is free", () =>
    Effect.gen(function*() {
      const { replica } = yield* makeWorld()
      const a = yield* replica("a", names(2), {
        decide: ({ key, verb }) => verb === "create" && key.name === "tenants-t1" ? Fault.serverError(500) : undefined
      })
      yield* TestClock.adjust("10 seconds")
      for (let i = 0; i < 20; i++) {
        yield* TestClock.adjust("500 millis")
        assert.isUndefined((yield* a.status).shards.get("t1"))
      }
      yield* Effect.forkChild(a.end)
      yield* TestClock.adjust("20 seconds")
    }))
})

test("a member whose Lease is deleted is no newer one", () =>
  Effect.gen(function*() {
    const { cluster, replica } = yield* makeWorld()
    const joined = Effect.map(cluster.leases(), (leases) =>
      new Map(
        leases.filter(member).map(({ annotations, holderIdentity }) =>
          [holderIdentity, Number(annotations[LeaderShards.annotations.joined])] as const
        )
      ))
    yield* replica("old", names(4), { generation: "old" })
    yield* TestClock.adjust("30 seconds")
    yield* replica("new", names(4), { generation: "new" })
    yield* TestClock.adjust("10 seconds")
    const before = yield* joined
    for (
      const lease of (yield* cluster.leases()).filter((lease) => member(lease) && lease.holderIdentity === "old")
    ) {
      yield* cluster.deleteLease(lease)
    }
    yield* TestClock.adjust("30 seconds")
    assert.deepStrictEqual(yield* joined, before)
  }))
