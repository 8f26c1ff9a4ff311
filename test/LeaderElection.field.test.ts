/**
 * What was seen to go wrong in the field.
 */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Logger, Scope, Stream, Tracer } from "effect"
import { TestClock } from "effect/testing"
import { Deference } from "../src/internal/election/deference.ts"
import * as MicroTime from "../src/internal/protocol/microTime.ts"
import * as LeaderElection from "../src/LeaderElection.ts"
import * as LeaderElectionConfig from "../src/LeaderElectionConfig.ts"
import { LeaderElectionError, LeadershipLost } from "../src/LeaderElectionError.ts"
import { Leadership } from "../src/Leadership.ts"
import { LeaseError, LeaseExpired } from "../src/LeaseError.ts"
import { instanceAnnotation } from "../src/LeaseRecord.ts"
import { AnsweredWithin, LeaseStore } from "../src/LeaseStore.ts"
import { Fault, MemoryCluster, MemoryLeaseStore } from "../src/testing/index.ts"
import { heldBy, key, oldLease, test } from "./utils/Elections.ts"

const led = (timeline: ReadonlyArray<string>) => timeline.filter((line) => line.endsWith("leads"))

describe("slow and dead paths", () => {
  for (
    const [what, fault] of [
      ["land late", Fault.delayRequest("4 seconds")],
      ["land, and are answered late", Fault.delayAnswer("4 seconds")],
      ["land late, and their answers are lost", Fault.all(Fault.delayRequest("4 seconds"), Fault.gatewayTimeout)]
    ] as const
  ) {
    for (const watch of [true, false]) {
      test(
        `A7 writes of 4 s that ${what} cost a leader nothing, and a candidate leads (watch: ${watch})`,
        function*(w) {
          yield* oldLease(w)
          const a = yield* w.candidate("a", { settings: { watch } })
          yield* a.faults.set({ patch: fault })
          yield* a.lead
          yield* w.until(250_000)
          assert.strictEqual(w.timeline.length, 1, w.timeline.join(", "))
          assert.match(w.timeline[0] ?? "", /^10[0-8]\d\d\d a leads$/)
          const patches = (yield* a.requests("patch")).length
          assert.isTrue(patches <= 3 * 33, String(patches))
        }
      )
    }
  }

  for (const seconds of [2, 3, 4, 4.9]) {
    for (const watch of [true, false]) {
      test(
        `A7 writes of ${seconds} s that are dropped with whoever gives them up cost nothing either (watch: ${watch})`,
        function*(w) {
          yield* oldLease(w)
          const base = yield* MemoryLeaseStore.make(w.cluster)
          const store = LeaseStore.of({
            ...base,
            patch: (key, version, write) => Effect.delay(base.patch(key, version, write), `${seconds} seconds`)
          })
          const a = yield* w.candidate("a", { store, settings: { watch } })
          yield* a.lead
          yield* w.until(250_000)
          assert.deepStrictEqual(w.timeline, [`${100_000 + seconds * 1000} a leads`])
        }
      )
    }
  }

  test("answers of 3 s to reads: a candidate campaigns all the same", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    yield* a.faults.set({ get: Fault.delayAnswer("3 seconds") })
    yield* a.lead
    yield* w.until(110_000)
    assert.deepStrictEqual(w.timeline, ["103000 a leads"])
  })

  for (
    const [watch, expected] of [
      [true, ["160030 a is done", "160030 a succeeds with undefined", "160030 b leads"]],
      // The conflict, and the read that explains it.
      [false, ["160090 a is done", "160090 b leads", "160150 a succeeds with undefined"]]
    ] as const
  ) {
    test(`a take, renewals and a release that a proxy sends twice cost nothing (watch: ${watch})`, function*(w) {
      yield* oldLease(w)
      const a = yield* w.candidate("a", { settings: { watch } })
      const b = yield* w.candidate("b")
      yield* a.faults.set({ get: Fault.delayAnswer(30), patch: Fault.all(Fault.sentTwice, Fault.delayAnswer(30)) })
      yield* a.start(Effect.andThen(Effect.sleep("1 minute"), w.note("a is done")))
      yield* w.until(101_000)
      yield* b.lead
      yield* w.until(170_000)
      assert.deepStrictEqual(w.timeline, expected)
      const patches = (yield* a.requests("patch")).length
      assert.isTrue(patches <= 15, String(patches))
    })
  }

  test("a path that is dead for three attempts is tried again each retryPeriod", function*(w) {
    yield* oldLease(w)
    const settings = { ...LeaderElectionConfig.defaultsFor(Duration.seconds(3600)) }
    const a = yield* w.candidate("a", { settings })
    yield* a.lead
    yield* w.until(1_299_000)
    // From the first renewal on, for 31 s.
    yield* a.faults.next("patch", Fault.hang, 4)
    yield* w.until(6_000_000)
    assert.deepStrictEqual(led(w.timeline), ["100000 a leads"])
    assert.strictEqual(w.timeline.length, 1)
  })

  test("A6 one hung request costs no term where retryPeriod is as long as the rule allows", function*(w) {
    yield* oldLease(w)
    const settings = { retryPeriod: Duration.seconds(3), requestTimeout: Duration.seconds(2) }
    const a = yield* w.candidate("a", { settings })
    yield* a.lead
    for (let round = 0; round < 20; round++) {
      yield* a.faults.next("patch", Fault.hang)
      yield* w.until((yield* w.now) + 11_000)
    }
    assert.deepStrictEqual(w.timeline, ["100000 a leads"])
  })
})

describe("how much is under way", () => {
  test("an election whose server answers nothing has at most seven requests open", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    yield* a.lead
    yield* w.until(104_000)
    yield* a.faults.set({ get: Fault.hang, create: Fault.hang, patch: Fault.hang })
    let most = 0
    for (let at = 105_000; at < 200_000; at += 500) {
      yield* w.until(at)
      const open = (yield* a.faults.log).filter(({ ended }) => ended === undefined).length
      most = Math.max(most, open)
    }
    // Three writes, three reads, one watch.
    assert.isAtMost(most, 7)
    assert.isAtLeast(most, 4)
  })

  test("after the end nothing is left open", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const fiber = yield* a.lead
    yield* w.until(104_000)
    yield* a.faults.set({ patch: Fault.hang })
    yield* w.until(108_000)
    fiber.interruptUnsafe()
    yield* w.until(120_000)
    assert.isDefined(fiber.pollUnsafe())
    assert.deepStrictEqual((yield* a.faults.log).filter(({ ended }) => ended === undefined), [])
  })

  test(
    "an attempt that begins beside another asks for a connection that has answered since that one began",
    function*(w) {
      yield* oldLease(w)
      const base = yield* MemoryLeaseStore.make(w.cluster)
      const asked: Array<number> = []
      let hangs = false
      const store = LeaseStore.of({
        ...base,
        patch: (key, version, write) =>
          Effect.flatMap(AnsweredWithin, (limit) => {
            asked.push(Duration.toMillis(limit))
            return hangs ? Effect.never : base.patch(key, version, write)
          })
      })
      const a = yield* w.candidate("a", { store })
      yield* a.lead
      yield* w.until(104_000)
      hangs = true
      yield* w.until(109_500)
      assert.deepStrictEqual(asked, [Infinity, Infinity, 2000, 2000])
    }
  )
})

describe("deference", () => {
  const deferring = (delays: ReadonlyArray<number>) => {
    let drawn = 0
    const deference = () => {
      drawn++
      const delay = BigInt(delays[drawn - 1] ?? 0) * 1_000_000n
      return () => delay
    }
    return { drawn: () => drawn, provide: Effect.provideService(Deference, deference) }
  }

  test("postpones a take, is drawn once, and not again for an edit", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const { drawn, provide } = deferring([1500])
    yield* provide(a.lead)
    for (let at = 100_200; at < 101_500; at += 200) {
      yield* w.until(at)
      yield* w.cluster.editLease(key, { metadata: { labels: { at: String(at) } } })
    }
    yield* w.until(101_499)
    assert.deepStrictEqual(w.timeline, [])
    yield* w.until(101_500)
    assert.deepStrictEqual(w.timeline, ["101500 a leads"])
    assert.strictEqual(drawn(), 1)
  })

  test("is at most retryPeriod, also before a create, and never before a resume", function*(w) {
    const a = yield* w.candidate("a", { settings: { newLease: "lead" } })
    const { provide } = deferring([3_600_000, 3_600_000])
    yield* provide(a.lead)
    yield* w.until(1999)
    assert.deepStrictEqual(yield* a.requests("create"), [])
    yield* w.until(2000)
    assert.deepStrictEqual(w.timeline, ["2000 a leads"])
    yield* a.crash
    const restarted = yield* w.candidate("a2", { identity: "a", settings: { newLease: "lead" } })
    yield* deferring([3_600_000]).provide(restarted.lead)
    yield* w.until(3000)
    assert.deepStrictEqual(led(w.timeline).slice(1), ["2000 a2 leads"])
  })
})

describe("a failed read", () => {
  test("B7 is due again: a watch that began anew, a Lease that was deleted, and a read that fails", function*(w) {
    yield* w.cluster.createLease(key, heldBy("dead", 600))
    const b = yield* w.candidate("b", { settings: { newLease: "lead" } })
    yield* b.lead
    yield* w.until(1000)
    // The watch breaks, cannot go on from where it was, and meanwhile the Lease is gone.
    yield* b.faults.next("watch", Fault.fail(new LeaseExpired({ message: "too old" })))
    // The poll while there is no watch, and the read that follows when it has begun anew.
    yield* b.faults.next("get", Fault.serverError(), 2)
    yield* b.faults.set({ watch: Fault.delayRequest("100 millis") })
    yield* b.faults.cutWatches
    yield* w.cluster.deleteLease(key)
    yield* w.until(10_000)
    assert.match(led(w.timeline).join(), /^[3-7]\d\d\d b leads$/)
  })
})

describe("edits", () => {
  test("A1 another candidate's name beside the leader's instance: it waits, and does not lead beside it", function*(w) {
    yield* oldLease(w)
    const b = yield* w.candidate("b")
    const a = yield* w.candidate("a")
    yield* b.lead
    yield* w.until(101_000)
    yield* a.lead
    yield* w.until(102_000)
    yield* b.faults.stall
    yield* w.cluster.editLease(key, { spec: { holderIdentity: "a" } })
    yield* w.until(130_000)
    assert.deepStrictEqual(w.timeline.slice(0, 3), [
      "100000 b leads",
      "110000 b ends",
      "115000 b fails: RenewDeadlineExceeded"
    ])
    assert.deepStrictEqual(w.timeline.slice(3), ["117000 a leads"])
  })

  test("A2 an older record of its own put back: it waits", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const b = yield* w.candidate("b")
    const first = yield* a.lead
    yield* w.until(106_000)
    const old = yield* w.lease
    yield* Fiber.interrupt(first)
    yield* b.lead
    yield* w.until(107_000)
    yield* a.lead
    yield* w.until(108_000)
    yield* b.faults.stall
    yield* w.cluster.editLease(key, {
      metadata: { annotations: { [instanceAnnotation]: old.annotations[instanceAnnotation] ?? null } },
      spec: { holderIdentity: "a" }
    })
    yield* w.until(130_000)
    assert.deepStrictEqual(led(w.timeline), ["100000 a leads", "106000 b leads", "123000 a leads"])
  })

  test(
    "the last record of its own put back over a successor's that it missed: a sign of life all the same",
    function*(w) {
      yield* oldLease(w)
      const a = yield* w.candidate("a")
      const b = yield* w.candidate("b")
      yield* a.startForever(a.program())
      yield* b.startForever(b.program())
      yield* w.until(106_000)
      const last = yield* w.lease
      yield* a.faults.stall
      yield* w.until(131_000)
      // Valid until 140: it renewed a second ago.
      yield* b.faults.stall
      yield* w.cluster.editLease(key, {
        metadata: { annotations: last.annotations },
        spec: {
          holderIdentity: last.holderIdentity,
          leaseDurationSeconds: last.leaseDurationSeconds ?? null,
          acquireTime: MicroTime.format(last.acquireTime!),
          renewTime: MicroTime.format(last.renewTime!),
          leaseTransitions: last.leaseTransitions
        }
      })
      const { renewTime, resourceVersion } = yield* w.lease
      assert.strictEqual(renewTime, last.renewTime)
      assert.isTrue(resourceVersion > last.resourceVersion)
      yield* a.faults.restore
      yield* w.until(160_000)
      // 15 s after it had read the record again.
      assert.deepStrictEqual(led(w.timeline), ["100000 a leads", "120000 b leads", "147000 a leads"])
    }
  )

  test("an older record of the leader put back costs its term, and never its process", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    yield* a.startForever(a.program())
    yield* w.until(101_000)
    yield* w.cluster.editLease(key, { metadata: { annotations: { [instanceAnnotation]: "1-0123456789abcdef0123-x" } } })
    yield* w.until(130_000)
    assert.deepStrictEqual(w.timeline, ["100000 a leads", "101000 a ends", "116000 a leads"])
  })

  test("a record whose duration differs much is warned of, once", function*(w) {
    yield* w.cluster.createLease(key, heldBy("other", 30))
    const a = yield* w.candidate("a")
    yield* a.lead
    yield* w.until(1000)
    yield* w.cluster.editLease(key, heldBy("other", 31))
    yield* w.until(2000)
    const warnings = w.logs.filter((line) => line.startsWith("Warn a: The Lease says leaseDurationSeconds 30"))
    assert.strictEqual(warnings.length, 1)
  })
})

describe("no loop at full speed", () => {
  test("B6 without a Pod, a Lease that is deleted as soon as it is created", function*(w) {
    const a = yield* w.candidate("a", { settings: { newLease: "lead" } })
    const store = a.faults
    yield* Effect.forkScoped(Effect.forever(
      Effect.gen(function*() {
        yield* Effect.ignore(w.cluster.deleteLease(key))
        yield* Effect.yieldNow
      }).pipe(Effect.andThen(Effect.sleep(1)))
    ))
    yield* a.startForever(a.program())
    yield* w.until(10_000)
    const creates = (yield* a.requests("create")).length
    assert.isTrue(creates <= 18, String(creates))
    assert.isAtLeast(creates, 2)
    yield* store.refuse
  })

  test("a holder that somebody robs at once, again and again", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    yield* a.startForever(a.program())
    yield* Effect.forkScoped(Effect.forever(Effect.gen(function*() {
      const lease = yield* w.cluster.lease(key)
      if (lease?.holderIdentity === "a") {
        yield* Effect.ignore(w.cluster.editLease(key, { spec: { holderIdentity: "", leaseDurationSeconds: 1 } }))
      }
      yield* Effect.sleep(1)
    })))
    yield* w.until(110_000)
    const patches = (yield* a.requests("patch")).length
    assert.isTrue(patches <= 18, String(patches))
  })

  it.effect("B5 a program that fails with another election's loss, or a Leadership it kept, has failed", () =>
    Effect.gen(function*() {
      const cluster = yield* MemoryCluster.make()
      const store = yield* MemoryLeaseStore.make(cluster)
      const scope = yield* Effect.scope
      const election = yield* LeaderElection.make.pipe(
        Effect.provideService(LeaseStore, store),
        Effect.provideService(LeaderElectionConfig.LeaderElectionConfig, {
          ...LeaderElectionConfig.defaults,
          ...key,
          identity: "a",
          pod: undefined,
          newLease: "lead"
        }),
        Effect.provideService(Scope.Scope, scope)
      )
      let terms = 0
      const run = <A, E>(program: Effect.Effect<A, E, Leadership>) =>
        Effect.exit(Effect.provideService(
          LeaderElection.whileLeadingForever(Effect.suspend(() => {
            terms++
            return terms > 50 ? Effect.die("a loop") : program
          })),
          LeaderElection.LeaderElection,
          election
        ))
      const foreign = new LeaderElectionError({ reason: new LeadershipLost({ reason: "LeaseTaken" }) })
      const exit = yield* run(Effect.fail(foreign))
      assert.deepStrictEqual([terms, Exit.findErrorOption(exit)._tag], [1, "Some"])

      let kept: Leadership["Service"] | undefined
      yield* run(Leadership.use((leadership) =>
        Effect.sync(() => {
          kept = leadership
        })
      ))
      terms = 0
      const stale = yield* run(Effect.suspend(() => kept!.ensure))
      assert.deepStrictEqual([terms, Exit.findErrorOption(stale)._tag], [1, "Some"])
    }).pipe(Effect.provide(Logger.layer([]))))
})

describe("what fails loudly, and what does not", () => {
  it.effect("A10 a logger that throws hurts no term", () =>
    Effect.gen(function*() {
      const cluster = yield* MemoryCluster.make()
      const base = yield* MemoryLeaseStore.make(cluster)
      let failing = false
      const store = LeaseStore.of({
        ...base,
        patch: (key, version, write) =>
          Effect.suspend(() => failing ? Effect.die(new Error("oh")) : base.patch(key, version, write))
      })
      const election = yield* LeaderElection.make.pipe(
        Effect.provideService(LeaseStore, store),
        Effect.provideService(LeaderElectionConfig.LeaderElectionConfig, {
          ...LeaderElectionConfig.defaults,
          ...key,
          identity: "a",
          pod: undefined,
          newLease: "lead"
        })
      )
      const fiber = yield* Effect.forkDetach(election.whileLeading(Effect.never))
      yield* TestClock.adjust("1 second")
      failing = true
      yield* TestClock.adjust("6 seconds")
      failing = false
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual((yield* election.status)._tag, "Leading")
      fiber.interruptUnsafe()
      yield* TestClock.adjust("1 minute")
    }).pipe(Effect.provide(Logger.layer([
      Logger.make(() => {
        throw new Error("this logger is broken")
      })
    ]))))

  for (const method of ["span", "attribute", "end"] as const) {
    for (const name of ["acquire", "term", "renew", "release"]) {
      test(`A10 a tracer whose ${method} throws costs no term and no release: ${name}`, function*(w) {
        yield* oldLease(w)
        const a = yield* w.candidate("a")
        const breakIt = () => {
          throw new Error("this tracer is broken")
        }
        const tracer = Tracer.make({
          span: (options) => {
            const span = new Tracer.NativeSpan(options)
            return options.name !== `LeaderElection.${name}`
              ? span
              : method === "span"
              ? breakIt()
              : Object.assign(span, { [method]: breakIt })
          }
        })
        yield* Effect.withTracer(a.start(Effect.andThen(Effect.sleep("30 seconds"), Effect.succeed("done"))), tracer)
        yield* w.until(140_000)
        assert.deepStrictEqual(w.timeline, ["130000 a succeeds with done"])
        assert.strictEqual((yield* w.lease).holderIdentity, "")
        assert.deepStrictEqual(w.logs.filter((line) => /^(Warn|Error)/.test(line)), [])
      })
    }
  }

  test("A10 a defect where the answer to a renewal is handled ends the term at once, with its cause", function*(w) {
    yield* oldLease(w)
    const base = yield* MemoryLeaseStore.make(w.cluster)
    let poisoned = false
    const store = LeaseStore.of({
      ...base,
      patch: (key, version, write) =>
        Effect.map(base.patch(key, version, write), ({ lease }) => ({
          lease: poisoned
            ? Object.defineProperty({ ...lease }, "renewTime", {
              get: () => {
                throw new Error("poison")
              }
            })
            : lease
        }))
    })
    const a = yield* w.candidate("a", { store, settings: { watch: false } })
    yield* a.lead
    yield* w.until(101_000)
    poisoned = true
    yield* w.until(106_000)
    assert.deepStrictEqual(w.timeline.slice(0, 2), ["100000 a leads", "105000 a ends"])
    assert.isTrue(
      w.logs.some((line) => line.startsWith("Error a: A defect in the election ends the term")),
      w.logs.join("\n")
    )
  })

  test("A10 so does one where an event of the watch is handled", function*(w) {
    yield* oldLease(w)
    const base = yield* MemoryLeaseStore.make(w.cluster)
    let poisoned = false
    const store = LeaseStore.of({
      ...base,
      changes: (key, since) =>
        Stream.map(base.changes(key, since), (change) =>
          poisoned && change._tag === "Applied"
            ? {
              ...change,
              lease: Object.defineProperty({ ...change.lease }, "resourceVersion", {
                get: () => {
                  throw new Error("poison")
                }
              })
            }
            : change)
    })
    const a = yield* w.candidate("a", { store })
    yield* a.lead
    yield* w.until(101_000)
    poisoned = true
    yield* w.cluster.editLease(key, { metadata: { labels: { edited: "yes" } } })
    yield* w.until(101_001)
    assert.deepStrictEqual(w.timeline.slice(0, 2), ["100000 a leads", "101000 a ends"])
    assert.isTrue(
      w.logs.some((line) => line.startsWith("Error a: A defect in the election ends the term")),
      w.logs.join("\n")
    )
  })

  test("E10 a program that fails is logged as a failure", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    yield* a.start(Effect.fail(new Error("no money")))
    yield* w.settle
    assert.isTrue(
      w.logs.some((line) => line.startsWith("Error a: Stopped leading: its program has failed")),
      w.logs.join("\n")
    )
  })

  test("B12 an event of another Lease is not taken for ours", function*(w) {
    yield* oldLease(w)
    const base = yield* MemoryLeaseStore.make(w.cluster)
    // A proxy that drops the field selector delivers the events of the whole namespace.
    const store = LeaseStore.of({
      ...base,
      changes: (key, since) => base.changes({ ...key, name: "other" }, since)
    })
    const a = yield* w.candidate("a", { store })
    yield* a.lead
    yield* w.until(101_000)
    yield* w.cluster.createLease({ ...key, name: "other" }, heldBy("x", 15))
    yield* w.until(120_000)
    assert.deepStrictEqual(w.timeline, ["100000 a leads"])
  })

  it.effect("A5 an election whose scope is closed while its program runs is still registered", () =>
    Effect.gen(function*() {
      const cluster = yield* MemoryCluster.make()
      const store = yield* MemoryLeaseStore.make(cluster)
      const build = LeaderElection.make.pipe(
        Effect.provideService(LeaseStore, store),
        Effect.provideService(LeaderElectionConfig.LeaderElectionConfig, {
          ...LeaderElectionConfig.defaults,
          ...key,
          identity: "a",
          pod: undefined,
          newLease: "lead"
        })
      )
      const scope = yield* Scope.make()
      const election = yield* Scope.provide(build, scope)
      const fiber = yield* Effect.forkDetach(election.whileLeading(Effect.never))
      yield* TestClock.adjust("1 second")
      yield* Scope.close(scope, Exit.void)
      const error = yield* Effect.flip(build)
      assert.strictEqual(error.reason._tag, "AlreadyCampaigning")
      yield* Fiber.interrupt(fiber)
      yield* build
    }).pipe(Effect.provide(Logger.layer([]))))
})

describe("giving a term up", () => {
  test("stepDown hands over, and stands back until another leads", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const b = yield* w.candidate("b")
    yield* a.startForever(a.program())
    yield* w.settle
    yield* b.startForever(b.program())
    yield* w.until(103_000)
    yield* a.run((yield* a.leadership).stepDown)
    yield* w.until(120_000)
    assert.deepStrictEqual(w.timeline, ["100000 a leads", "103000 a ends", "103000 b leads"])
  })

  test("with nobody else it leads again after leaseDuration", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    yield* a.startForever(a.program())
    yield* w.until(103_000)
    yield* a.run((yield* a.leadership).stepDown)
    yield* w.until(117_999)
    assert.deepStrictEqual(led(w.timeline), ["100000 a leads"])
    yield* w.until(118_000)
    assert.deepStrictEqual(led(w.timeline), ["100000 a leads", "118000 a leads"])
  })

  test("untilOverrun counts from the last renewal, in the term and after it", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const until = Effect.gen(function*() {
      return Duration.toMillis(yield* a.run((yield* a.leadership).untilOverrun))
    })
    yield* a.start(a.program(Effect.addFinalizer(() => Effect.sleep("20 seconds"))))
    yield* w.until(101_000)
    assert.strictEqual(yield* until, 13_250)
    yield* a.faults.refuse
    yield* w.until(112_000)
    assert.strictEqual(yield* until, 2250)
    yield* w.until(120_000)
    assert.strictEqual(yield* until, 0)
  })
})

describe("a confirmation that its term does not answer", () => {
  test("is not answered by the next term of the same process", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const b = yield* w.candidate("b")
    const first = yield* a.lead
    yield* w.until(101_000)
    // Asked by a fiber that outlives the program, whose end cannot be released.
    yield* a.faults.set({ patch: Fault.hang })
    const { confirm } = yield* a.leadership
    const asked = yield* a.run(Effect.forkDetach(Effect.exit(confirm), { startImmediately: true }))
    yield* w.until(101_500)
    first.interruptUnsafe()
    const between = yield* b.lead
    yield* w.until(117_000)
    yield* a.faults.clear
    between.interruptUnsafe()
    yield* w.until(118_000)
    yield* a.lead
    yield* w.until(121_000)
    assert.match(led(w.timeline).join(), /^100000 a leads,116500 b leads,1(18|19|20)\d\d\d a leads$/)
    const outcome = asked.pollUnsafe()
    assert.isTrue(outcome !== undefined && Exit.isSuccess(outcome) && Exit.isFailure(outcome.value))
  })
})

describe("a follower on a dead path", () => {
  test("its watch silent and the read that doubts it hung: it reads again, beside it", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const b = yield* w.candidate("b")
    yield* a.lead
    yield* w.settle
    yield* b.lead
    yield* w.until(104_000)
    yield* b.faults.silenceWatches
    yield* b.faults.next("get", Fault.hang)
    yield* w.until(106_000)
    yield* a.crash
    yield* w.until(140_000)
    // The last renewal began at 105 s: its end is that and 15 s, and half as much where the watch is silent.
    assert.match(led(w.timeline)[1] ?? "", /^12[0-7]\d\d\d b leads$/)
  })
})

describe("a watch that expires whenever it has delivered something", () => {
  test("is not opened again at full speed", function*(w) {
    yield* w.createOld(heldBy("other", 3600))
    const base = yield* MemoryLeaseStore.make(w.cluster)
    let opened = 0
    const a = yield* w.candidate("a", {
      store: LeaseStore.of({
        ...base,
        changes: (key, since) => {
          opened++
          return Stream.concat(
            Stream.take(base.changes(key, since), since === undefined ? 2 : 1),
            // A test that fails ends.
            opened > 100 ? Stream.never : Stream.fail(
              new LeaseError({ verb: "watch", ...key, reason: new LeaseExpired({ message: "too old" }) })
            )
          )
        }
      })
    })
    yield* a.lead
    yield* w.until(110_000)
    assert.isAtMost(opened, 9)
  })
})

describe("a program that ends by its own side, and takes long to end", () => {
  const slowly = Effect.addFinalizer(() => Effect.sleep("60 seconds"))
  const overruns = (logs: ReadonlyArray<string>) => logs.filter((line) => line.includes("is still running although"))

  test("is reported as an overrun where its Lease cannot be renewed meanwhile", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const fiber = yield* a.start(a.program(slowly))
    yield* w.until(101_000)
    fiber.interruptUnsafe()
    yield* w.settle
    yield* a.faults.refuse
    yield* w.until(114_249)
    assert.strictEqual(overruns(w.logs).length, 0)
    yield* w.until(114_250)
    assert.strictEqual(overruns(w.logs).length, 1)
    yield* w.until(150_000)
    assert.strictEqual(overruns(w.logs).length, 1)
  })

  test("once, where the Lease is taken from it first, too; and never while it is renewed", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const fiber = yield* a.start(a.program(slowly))
    yield* w.until(101_000)
    fiber.interruptUnsafe()
    yield* w.until(130_000)
    assert.strictEqual(overruns(w.logs).length, 0)
    yield* w.cluster.editLease(key, { spec: { holderIdentity: "thief" } })
    yield* w.until(150_000)
    assert.strictEqual(overruns(w.logs).length, 1)
  })
})

describe("a machine that was suspended", () => {
  test("its term is over for good, although the first renewal after it succeeds", function*(w) {
    yield* oldLease(w)
    let asleep = 0
    const a = yield* w.candidate("a", {
      witness: () => BigInt(asleep) * 1_000_000n,
      wallClock: () => asleep
    })
    yield* a.lead
    // Just before a renewal, and not before the witness is looked at.
    yield* w.until(104_900)
    asleep = 3_600_000
    assert.isFalse(yield* a.run((yield* a.leadership).isValid))
    yield* w.until(108_000)
    assert.deepStrictEqual(w.timeline.slice(1).map((line) => line.slice(7)), [
      "a ends",
      "a fails: RenewDeadlineExceeded"
    ])
  })
})
