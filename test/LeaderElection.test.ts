import { assert, describe, it } from "@effect/vitest"
import {
  Cause,
  Config,
  ConfigProvider,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Option,
  Scope,
  Stream
} from "effect"
import { TestClock } from "effect/testing"
import * as LeaderElection from "../src/LeaderElection.ts"
import * as LeaderElectionConfig from "../src/LeaderElectionConfig.ts"
import type { LeaderElectionError } from "../src/LeaderElectionError.ts"
import type { LeaderElectionStatus } from "../src/LeaderElectionStatus.ts"
import { Leadership } from "../src/Leadership.ts"
import { LeaseStore } from "../src/LeaseStore.ts"
import { MemoryLeaseStore } from "../src/testing/index.ts"
import { type Candidate, heldBy, key, oldLease, test } from "./utils/Elections.ts"

const reasonOf = (exit: Exit.Exit<unknown, LeaderElectionError>) =>
  Exit.isFailure(exit)
    ? Option.map(Cause.findErrorOption(exit.cause), (error) => error.reason._tag)
    : Option.some("success")

describe("a campaign", () => {
  test("waits leaseDuration where there is no Lease, then leads, renews, and hands over", function*(w) {
    const a = yield* w.candidate("a")
    const b = yield* w.candidate("b")
    const leading = yield* a.lead
    yield* w.until(1000)
    yield* b.lead
    yield* w.until(14_999)
    assert.deepStrictEqual(w.timeline, [])
    yield* w.until(600_000)
    assert.deepStrictEqual(w.timeline, ["15000 a leads"])
    yield* Fiber.interrupt(leading)
    yield* w.settle
    assert.deepStrictEqual(w.timeline, ["15000 a leads", "600000 a ends", "600000 b leads"])
  })

  test("writes the whole record, and leaves one that everybody may take", function*(w) {
    const pod = yield* w.cluster.createPod({ namespace: "default", name: "web-0" })
    const a = yield* w.candidate("a", { identity: `web-0_${pod.uid}`, pod, settings: { newLease: "lead" } })
    yield* w.until(1000)
    const fiber = yield* a.lead
    yield* w.until(7000)
    const held = yield* w.lease
    assert.strictEqual(held.holderIdentity, `web-0_${pod.uid}`)
    assert.strictEqual(held.leaseDurationSeconds, 15)
    assert.strictEqual(held.leaseTransitions, 0)
    assert.strictEqual(held.acquireTime, 1_000_000n)
    assert.strictEqual(held.renewTime, 6_000_000n)
    assert.deepStrictEqual(held.ownerReferences, [{ apiVersion: "v1", kind: "Pod", name: "web-0", uid: pod.uid }])
    assert.match(
      held.annotations["effect-kubernetes-leader-election/instance"] ?? "",
      /^1000000-[0-9a-f]{20}-[0-9a-z]+$/
    )
    yield* Fiber.interrupt(fiber)
    const free = yield* w.lease
    assert.strictEqual(free.uid, held.uid)
    assert.strictEqual(free.holderIdentity, "")
    assert.strictEqual(free.leaseDurationSeconds, 1)
    assert.deepStrictEqual(free.ownerReferences, [])
    assert.deepStrictEqual(free.annotations, {})
    assert.strictEqual(free.leaseTransitions, 0)
  })

  test("can be interrupted while it waits, and leaves nothing behind", function*(w) {
    yield* w.cluster.createLease(key, heldBy("other", 15))
    const a = yield* w.candidate("a")
    const fiber = yield* a.lead
    yield* w.until(5000)
    assert.strictEqual(yield* a.faults.openWatches, 1)
    const before = yield* w.lease
    yield* Fiber.interrupt(fiber)
    assert.strictEqual(yield* a.faults.openWatches, 0)
    assert.deepStrictEqual(yield* w.lease, before)
    assert.deepStrictEqual(yield* a.election.status, { _tag: "Idle", leader: Option.some("other") })
    yield* w.until(60_000)
    assert.deepStrictEqual(yield* w.lease, before)
  })

  test("one election runs one campaign at a time", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const first = yield* a.lead
    yield* w.settle
    assert.deepStrictEqual(
      reasonOf(yield* Effect.exit(a.run(a.election.whileLeading(Effect.void)))),
      Option.some("AlreadyCampaigning")
    )
    assert.deepStrictEqual(
      reasonOf(yield* Effect.exit(Effect.scoped(a.run(a.election.acquire)))),
      Option.some("AlreadyCampaigning")
    )
    yield* Fiber.interrupt(first)
    assert.strictEqual(yield* a.run(a.election.whileLeading(Effect.succeed("again"))), "again")
    assert.deepStrictEqual(w.timeline, ["100000 a leads", "100000 a ends"])
  })

  test("none begins while the program of the last one still runs", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const fiber = yield* a.start(a.program(Effect.addFinalizer(() => Effect.sleep("2 seconds"))))
    yield* w.settle
    fiber.interruptUnsafe()
    yield* w.until(101_000)
    assert.deepStrictEqual(
      reasonOf(yield* Effect.exit(a.run(a.election.whileLeading(Effect.void)))),
      Option.some("AlreadyCampaigning")
    )
    yield* w.until(102_000)
    yield* a.lead
    yield* w.settle
    assert.deepStrictEqual(w.timeline, ["100000 a leads", "102000 a ends", "102000 a leads"])
  })

  test("two elections of one identity in one process: the second cannot be built", function*(w) {
    const store = yield* MemoryLeaseStore.make(w.cluster)
    yield* Effect.scoped(Effect.gen(function*() {
      const a = yield* w.candidate("a", { store })
      const same = yield* Effect.flip(w.candidate("same", { identity: "a", store }))
      assert.strictEqual(same.reason._tag, "AlreadyCampaigning")
      assert.match(same.message, /default\/invoices.*share one election layer/s)
      // Another identity, and another Lease, are other elections.
      yield* w.candidate("b", { store })
      yield* w.candidate("a elsewhere", { identity: "a", store, settings: { name: "other" } })
      yield* a.lead
    }))
  })
})

describe("a program", () => {
  const ends: ReadonlyArray<[string, Effect.Effect<string, string>, string]> = [
    ["success", Effect.succeed("done"), "a succeeds with done"],
    ["failure", Effect.fail("no"), "a fails: no"],
    ["defect", Effect.die(new Error("oh")), "a fails: Error: oh"]
  ]
  for (const [how, effect, line] of ends) {
    test(`T19 its ${how} releases the Lease and is the outcome`, function*(w) {
      yield* oldLease(w)
      const a = yield* w.candidate("a")
      const b = yield* w.candidate("b")
      yield* a.start(Effect.andThen(Effect.sleep("3 seconds"), effect))
      yield* w.settle
      yield* b.lead
      yield* w.until(104_000)
      assert.deepStrictEqual(w.timeline, [`103000 ${line}`, "103000 b leads"])
      assert.strictEqual((yield* a.election.status)._tag, "Idle")
    })
  }

  test("one whose term is lost before it ends has lost it, however soon it ends", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const b = yield* w.candidate("b")
    const steppingDown = Leadership.use(({ stepDown }) => Effect.as(stepDown, "value"))
    yield* a.start(steppingDown)
    yield* w.settle
    yield* b.start(Effect.andThen(Effect.sleep("1 second"), steppingDown))
    yield* w.until(130_000)
    assert.deepStrictEqual(w.timeline.map((line) => line.replace(/^\d+ /, "")), [
      "a fails: SteppedDown",
      "b fails: SteppedDown"
    ])
  })

  test(
    "one that has ended has not lost its term, whatever happens to the Lease while its finalizers run",
    function*(w) {
      yield* oldLease(w)
      const a = yield* w.candidate("a")
      yield* a.startForever(Effect.as(Effect.addFinalizer(() => Effect.sleep("5 seconds")), "value"))
      yield* w.until(101_000)
      yield* w.cluster.deleteLease(key)
      yield* w.until(130_000)
      assert.deepStrictEqual(w.timeline, ["105000 a succeeds with value"])
    }
  )

  test("T19 one that interrupts itself releases the Lease", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const fiber = yield* a.start(Effect.andThen(Effect.sleep("3 seconds"), Effect.interrupt))
    yield* w.until(103_000)
    assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
    assert.strictEqual((yield* w.lease).holderIdentity, "")
  })

  test("one that has ended by itself is told so, and not of a loss, whatever happens afterwards", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const kept: Array<Leadership["Service"]> = []
    const ask = Effect.gen(function*() {
      for (const refusing of [kept[0]!.ensure, kept[0]!.confirm]) {
        yield* w.note((yield* Effect.flip(refusing)).message)
      }
    }).pipe(Effect.orDie)
    yield* a.start(Effect.gen(function*() {
      kept.push(yield* Leadership)
      yield* Effect.addFinalizer(() => Effect.andThen(ask, Effect.andThen(Effect.sleep("5 seconds"), ask)))
      return "done"
    }))
    yield* w.until(101_000)
    yield* w.cluster.deleteLease(key)
    yield* w.until(120_000)
    yield* a.run(ask)
    const told = "not leading: the program of this term has ended"
    assert.deepStrictEqual(w.timeline, [
      `100000 ${told}`,
      `100000 ${told}`,
      `105000 ${told}`,
      `105000 ${told}`,
      "105000 a succeeds with done",
      `120000 ${told}`,
      `120000 ${told}`
    ])
  })

  test("has a scope of its own, closed before the Lease is released", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const holder = Effect.map(w.lease, ({ holderIdentity }) => holderIdentity)
    const program = Effect.gen(function*() {
      yield* Effect.addFinalizer(() =>
        Effect.flatMap(Effect.orDie(holder), (holder) => w.note(`closed, held by ${holder}`))
      )
      return "result"
    })
    assert.strictEqual(yield* a.run(a.election.whileLeading(program)), "result")
    assert.strictEqual(yield* holder, "")
    assert.deepStrictEqual(w.timeline, ["100000 closed, held by a"])
  })

  test("sees its term: lease, identity, fencing token and transitions", function*(w) {
    yield* oldLease(w)
    const before = yield* w.lease
    const a = yield* w.candidate("a")
    yield* a.lead
    yield* w.settle
    const leadership = yield* a.leadership
    assert.deepStrictEqual(leadership.lease, key)
    assert.strictEqual(leadership.identity, "a")
    assert.isTrue(leadership.fencingToken > before.resourceVersion)
    assert.strictEqual(leadership.fencingToken, (yield* w.lease).resourceVersion)
    assert.strictEqual(leadership.transitions, 4)
    yield* w.until(200_000)
    assert.strictEqual(leadership.fencingToken, before.resourceVersion + 1n)
  })

  test("acquire leads as long as its scope is open", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const close = yield* Deferred.make<void>()
    const leaderships: Array<Leadership["Service"]> = []
    const fiber = yield* Effect.forkChild(a.run(Effect.scoped(Effect.gen(function*() {
      const leadership = yield* a.election.acquire
      leaderships.push(leadership)
      yield* Effect.addFinalizer(() =>
        Effect.flatMap(leadership.isValid, (valid) => w.note(`finalizer of the user, valid: ${valid}`))
      )
      yield* w.note("acquired")
      yield* Deferred.await(close)
    }))))
    yield* w.until(130_000)
    assert.strictEqual((yield* w.lease).holderIdentity, "a")
    yield* Deferred.succeed(close, undefined)
    yield* Fiber.join(fiber)
    assert.strictEqual((yield* w.lease).holderIdentity, "")
    assert.isFalse(yield* a.run(leaderships[0]!.isValid))
    assert.deepStrictEqual(w.timeline, ["100000 acquired", "130000 finalizer of the user, valid: true"])
  })

  test("acquire in a scope that is closed takes no step, and is interrupted", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const scope = yield* Scope.make()
    yield* Scope.close(scope, Exit.void)
    const fiber = yield* Effect.forkChild(a.run(Scope.provide(a.election.acquire, scope)))
    yield* w.until(130_000)
    assert.isTrue(Exit.hasInterrupts(fiber.pollUnsafe()!))
    assert.deepStrictEqual(yield* a.requests(), [])
    assert.strictEqual((yield* a.election.status)._tag, "Idle")
    // The election is as good as new.
    yield* a.lead
    yield* w.settle
    assert.deepStrictEqual(w.timeline, ["130000 a leads"])
  })

  for (const state of ["Following", "Pending"] as const) {
    test(`acquire whose scope is closed while it is ${state} ends, and takes nothing afterwards`, function*(w) {
      if (state === "Following") {
        yield* w.createOld(heldBy("other", 15))
      }
      const a = yield* w.candidate("a")
      const scope = yield* Scope.make()
      // Uninterruptible, as where it is a resource of somebody's: the scope ends it all the same.
      const fiber = yield* Effect.forkChild(a.run(Effect.uninterruptible(Scope.provide(a.election.acquire, scope))))
      const began = yield* w.now
      yield* w.until(began + 3000)
      assert.strictEqual((yield* a.election.status)._tag, state)
      yield* a.run(Scope.close(scope, Exit.void))
      yield* w.settle
      assert.isTrue(Exit.hasInterrupts(fiber.pollUnsafe()!))
      assert.strictEqual((yield* a.election.status)._tag, "Idle")
      assert.strictEqual((yield* w.lease).holderIdentity, state === "Following" ? "other" : "")
      const requests = yield* a.requests()
      yield* w.until(began + 100_000)
      assert.deepStrictEqual(yield* a.requests(), requests)
      yield* a.lead
      yield* w.until(began + 200_000)
      assert.strictEqual(w.timeline.filter((line) => line.endsWith("a leads")).length, 1)
    })
  }

  test("acquire does not stop anything by itself when the term is lost, but tells", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const fiber = yield* Effect.forkChild(a.run(Effect.scoped(Effect.gen(function*() {
      const leadership = yield* a.election.acquire
      const cause = yield* leadership.lost
      yield* w.note(`lost: ${cause}`)
      return yield* Effect.exit(leadership.ensure)
    }))))
    yield* w.until(102_000)
    yield* w.cluster.deleteLease(key)
    const ensured = yield* Fiber.join(fiber)
    assert.deepStrictEqual(w.timeline, ["102000 lost: LeaseDeleted"])
    assert.deepStrictEqual(reasonOf(ensured), Option.some("LeadershipLost"))
  })
})

describe("whileLeadingForever", () => {
  test("campaigns again after a loss", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    yield* a.startForever(a.program())
    yield* w.until(101_000)
    yield* w.cluster.deleteLease(key)
    yield* w.until(120_000)
    assert.deepStrictEqual(w.timeline, ["100000 a leads", "101000 a ends", "116000 a leads"])
  })

  test("does not campaign while the program of the lost term still ends", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a", { settings: { newLease: "lead" } })
    yield* a.startForever(a.program(Effect.addFinalizer(() => Effect.sleep("30 seconds"))))
    yield* w.until(101_000)
    yield* w.cluster.deleteLease(key)
    yield* w.until(130_999)
    assert.isUndefined(yield* w.cluster.lease(key))
    yield* w.until(140_000)
    assert.deepStrictEqual(w.timeline, ["100000 a leads", "131000 a ends", "131000 a leads"])
  })

  test("campaigns again where the program notices its loss before its first asynchronous step", function*(w) {
    yield* oldLease(w)
    let asleep = 0
    let terms = 0
    const a = yield* w.candidate("a", { witness: () => BigInt(asleep) * 1_000_000n, wallClock: () => asleep })
    yield* a.startForever(Effect.gen(function*() {
      const { ensure, stepDown } = yield* Leadership
      terms++
      yield* w.note(`term ${terms}`)
      if (terms === 1) {
        // Its process does nothing for longer than its validity.
        asleep = 11_000
        yield* ensure
      } else if (terms === 2) {
        yield* stepDown
        yield* ensure
      }
      return "done"
    }))
    yield* w.until(200_000)
    assert.deepStrictEqual(w.timeline.map((line) => line.replace(/^\d+ /, "")), [
      "term 1",
      "term 2",
      "term 3",
      "a succeeds with done"
    ])
    assert.deepStrictEqual(w.logs.filter((line) => line.startsWith("Error")), [])
  })

  test("campaigns again where the term is lost before the program could begin", function*(w) {
    yield* oldLease(w)
    const candidates: Array<Candidate> = []
    let asleep = 0
    const a = yield* w.candidate("a", {
      // The process is suspended once, as soon as its term has begun.
      witness: () => {
        if (candidates.some(({ election }) => Effect.runSync(election.status)._tag === "Leading")) {
          asleep = 11_000
        }
        return BigInt(asleep) * 1_000_000n
      },
      wallClock: () => asleep
    })
    candidates.push(a)
    const fiber = yield* a.startForever(Effect.as(w.note("runs"), "done"))
    yield* w.until(200_000)
    assert.isDefined(fiber.pollUnsafe())
    assert.strictEqual(w.logs.filter((line) => line.includes("Stopped leading: leadership lost")).length, 1)
    assert.deepStrictEqual(w.timeline.map((line) => line.replace(/^\d+ /, "")), ["runs", "a succeeds with done"])
  })

  test("ends with the program's result, or its failure", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    yield* a.startForever(Effect.succeed(1))
    yield* w.settle
    yield* a.startForever(Effect.fail("bad"))
    yield* w.settle
    assert.deepStrictEqual(w.timeline, ["100000 a succeeds with 1", "100000 a fails: bad"])
    assert.strictEqual((yield* w.lease).holderIdentity, "")
  })
})

describe("status", () => {
  const show = (status: LeaderElectionStatus): string => {
    const by = Option.getOrElse(status.leader, () => "nobody")
    switch (status._tag) {
      case "Pending": {
        return `Pending (${status.cause}) ${by}`
      }
      case "Ending": {
        return `Ending (${status.reason}) ${by}`
      }
      case "Leading": {
        return `Leading (${status.term.cause}) ${by}`
      }
      default: {
        return `${status._tag} ${by}`
      }
    }
  }

  test("changes tells every step of a life, each once", function*(w) {
    const a = yield* w.candidate("a")
    yield* a.election.changes.pipe(Stream.runForEach((status) => w.note(show(status))), Effect.forkChild)
    yield* w.settle
    yield* a.startForever(a.program(Effect.addFinalizer(() => Effect.sleep("1 second"))))
    yield* w.until(40_000)
    yield* w.cluster.editLease(key, { spec: { holderIdentity: "thief" } })
    yield* w.until(50_000)
    yield* w.cluster.editLease(key, { spec: { holderIdentity: "", leaseDurationSeconds: 1 } })
    yield* w.until(60_000)
    assert.deepStrictEqual(w.timeline, [
      "0 Idle nobody",
      "0 Following nobody",
      "0 Following a",
      "0 Pending (created) a",
      "15000 Leading (created) a",
      "15000 a leads",
      "40000 Ending (LeaseTaken) thief",
      "41000 a ends",
      "41000 Idle thief",
      "41000 Following thief",
      "50000 Following a",
      "50000 Leading (released) a",
      "50000 a leads"
    ])
  })

  test("a program that ends by itself is ending without a cause", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const fiber = yield* a.start(a.program(Effect.addFinalizer(() => Effect.sleep("1 second"))))
    yield* w.until(101_000)
    fiber.interruptUnsafe()
    yield* w.settle
    const status = yield* a.election.status
    assert.strictEqual(show(status), "Ending (undefined) a")
    yield* w.until(102_000)
    assert.deepStrictEqual(yield* a.election.status, { _tag: "Idle", leader: Option.none() })
  })

  test("leader is who holds the Lease, as last seen here", function*(w) {
    const a = yield* w.candidate("a")
    assert.deepStrictEqual(yield* a.election.leader, Option.none())
    yield* w.cluster.createLease(key, heldBy("x", 15))
    yield* a.lead
    yield* w.settle
    assert.deepStrictEqual(yield* a.election.leader, Option.some("x"))
    yield* w.cluster.editLease(key, { spec: { holderIdentity: "y" } })
    yield* w.settle
    assert.deepStrictEqual(yield* a.election.leader, Option.some("y"))
    yield* w.cluster.editLease(key, { spec: { holderIdentity: "" } })
    yield* w.settle
    assert.deepStrictEqual(yield* a.election.leader, Option.none())
  })

  test("sinceRenewal counts from the start of the last success, and only in a term", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const since = Effect.map(a.election.sinceRenewal, Option.map(Duration.toMillis))
    assert.deepStrictEqual(yield* since, Option.none())
    const fiber = yield* a.lead
    yield* w.until(104_000)
    assert.deepStrictEqual(yield* since, Option.some(4000))
    yield* w.until(106_000)
    assert.deepStrictEqual(yield* since, Option.some(1000))
    yield* Fiber.interrupt(fiber)
    assert.deepStrictEqual(yield* since, Option.none())
  })
})

describe("layers", () => {
  const program = Effect.gen(function*() {
    const { identity } = yield* Leadership
    return identity
  })

  it.effect("layer takes its settings from the call, and the rest from the environment", () =>
    Effect.gen(function*() {
      const fiber = yield* Effect.forkChild(LeaderElection.whileLeading(program))
      yield* TestClock.adjust("15 seconds")
      assert.strictEqual(yield* Fiber.join(fiber), "a")
    }).pipe(
      Effect.provide(LeaderElection.layer({ name: "x", identity: "a" })),
      // As below a store that does not say otherwise: the one in memory does.
      Effect.provideService(LeaderElectionConfig.ReadsEnvironment, true),
      Effect.provide(MemoryLeaseStore.layerMemory()),
      Effect.provideService(
        ConfigProvider.ConfigProvider,
        ConfigProvider.fromUnknown({ LEADER_ELECTION_NAMESPACE: "default" })
      )
    ))

  it.effect("layerConfig reads each setting from a Config", () =>
    Effect.gen(function*() {
      const fiber = yield* Effect.forkChild(LeaderElection.whileLeading(program))
      yield* TestClock.adjust("20 seconds")
      assert.strictEqual(yield* Fiber.join(fiber), "me")
    }).pipe(
      Effect.provide(
        LeaderElection.layerConfig({
          name: Config.String("LEASE"),
          namespace: Config.succeed("default"),
          identity: Config.String("WHO")
        })
      ),
      Effect.provide(MemoryLeaseStore.layerMemory()),
      Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromUnknown({ LEASE: "x", WHO: "me" }))
    ))

  it.effect("accessors work on the election in context", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* LeaderElection.status, { _tag: "Idle", leader: Option.none() })
      assert.deepStrictEqual(yield* LeaderElection.leader, Option.none())
      const first = yield* Stream.runHead(LeaderElection.changes)
      assert.strictEqual(Option.getOrThrow(first)._tag, "Idle")
      const fiber = yield* Effect.forkChild(
        Effect.scoped(Effect.flatMap(LeaderElection.acquire, ({ isValid }) => isValid))
      )
      yield* TestClock.adjust("15 seconds")
      assert.isTrue(yield* Fiber.join(fiber))
    }).pipe(
      Effect.provide(LeaderElection.layer({ name: "x", namespace: "default", identity: "a" })),
      Effect.provide(MemoryLeaseStore.layerMemory())
    ))

  it.effect("two layers of one identity on one store: the second fails with AlreadyCampaigning", () =>
    Effect.gen(function*() {
      const layer = LeaderElection.layer({ name: "x", namespace: "default", identity: "a" })
      const store = yield* LeaseStore
      const provided = Layer.provide(Layer.fresh(layer), Layer.succeed(LeaseStore, store))
      const error = yield* Effect.flip(
        Effect.scoped(Effect.andThen(Layer.build(provided), Layer.build(Layer.fresh(provided))))
      )
      assert.strictEqual(error.reason._tag, "AlreadyCampaigning")
      // Released with the layer.
      yield* Effect.scoped(Layer.build(provided))
    }).pipe(Effect.provide(MemoryLeaseStore.layerMemory())))
})
