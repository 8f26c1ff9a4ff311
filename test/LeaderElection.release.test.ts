import { assert, describe } from "@effect/vitest"
import { Effect, Exit, Fiber, Metric } from "effect"
import * as LeaderElectionMetrics from "../src/LeaderElectionMetrics.ts"
import { Leadership } from "../src/Leadership.ts"
import { LeaseForbidden } from "../src/LeaseError.ts"
import { Fault } from "../src/testing/index.ts"
import { type Candidate, heldBy, key, oldLease, test, type World } from "./utils/Elections.ts"

const holder = (w: World) => Effect.map(Effect.orDie(w.lease), ({ holderIdentity }) => holderIdentity)

/** Leads from 100 s on, with finalizers that take this long, and notes what they see. */
const leading = Effect.fnUntraced(function*(
  w: World,
  finalizers: Effect.Effect<unknown>,
  options?: Parameters<World["candidate"]>[1]
) {
  yield* oldLease(w)
  const a = yield* w.candidate("a", options)
  const program = Effect.gen(function*() {
    const { isValid } = yield* Leadership
    yield* Effect.addFinalizer(() =>
      Effect.gen(function*() {
        yield* w.note(`a ends, valid: ${yield* isValid}, holder: ${yield* holder(w)}`)
        yield* finalizers
        yield* w.note(`a has ended, valid: ${yield* isValid}, holder: ${yield* holder(w)}`)
      })
    )
    return yield* Effect.never
  })
  const fiber = yield* a.start(program)
  yield* w.settle
  return { a, fiber }
})

const overruns = Effect.map(
  Metric.value(Metric.withAttributes(LeaderElectionMetrics.overruns, { lease: "default/invoices" })),
  ({ count }) => Number(count)
)

describe("the order of an end", () => {
  const ends: ReadonlyArray<[string, Effect.Effect<unknown, string>]> = [
    ["succeeds", Effect.sleep("3 seconds")],
    ["fails", Effect.andThen(Effect.sleep("3 seconds"), Effect.fail("no"))],
    ["dies", Effect.andThen(Effect.sleep("3 seconds"), Effect.die("oh"))],
    ["interrupts itself", Effect.andThen(Effect.sleep("3 seconds"), Effect.interrupt)]
  ]
  for (const [how, end] of ends) {
    test(`T17 a program that ${how}: leadership over, then its finalizers, then the release`, function*(w) {
      yield* oldLease(w)
      const a = yield* w.candidate("a")
      const b = yield* w.candidate("b")
      const program = Effect.gen(function*() {
        const { isValid } = yield* Leadership
        yield* Effect.addFinalizer(() =>
          Effect.gen(function*() {
            yield* w.note(`valid: ${yield* isValid}, holder: ${yield* holder(w)}`)
            yield* Effect.sleep("20 seconds")
            yield* w.note(`holder: ${yield* holder(w)}`)
          })
        )
        yield* end
      })
      yield* a.start(program)
      yield* w.settle
      yield* b.lead
      yield* w.until(150_000)
      assert.deepStrictEqual(w.timeline.slice(0, 2), ["103000 valid: false, holder: a", "123000 holder: a"])
      assert.deepStrictEqual(w.timeline.filter((line) => line.includes("b leads")), ["123000 b leads"])
      // Renewal went on while the finalizers ran.
      assert.isTrue((yield* a.requests("patch")).includes("120000 patch"))
    })
  }

  test("T17 T26 one that is interrupted from outside, as by SIGTERM", function*(w) {
    const { a, fiber } = yield* leading(w, Effect.sleep("20 seconds"))
    const b = yield* w.candidate("b")
    yield* b.lead
    yield* w.until(103_000)
    fiber.interruptUnsafe()
    yield* w.until(110_000)
    // A second signal changes nothing.
    fiber.interruptUnsafe()
    yield* w.until(122_999)
    assert.deepStrictEqual(w.timeline, ["103000 a ends, valid: false, holder: a"])
    assert.isUndefined(fiber.pollUnsafe())
    yield* w.until(123_000)
    assert.deepStrictEqual(w.timeline.slice(1), ["123000 a has ended, valid: false, holder: a", "123000 b leads"])
    assert.isTrue(Exit.hasInterrupts(fiber.pollUnsafe()!))
    assert.deepStrictEqual((yield* a.requests("patch")).slice(-2), ["120000 patch", "123000 patch"])
    assert.isFalse(w.logs.some((line) => line.startsWith("Warn") || line.startsWith("Error")))
  })

  test("a program in an uninterruptible region ends first, and is renewed for so long", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const b = yield* w.candidate("b")
    const fiber = yield* a.start(
      Effect.uninterruptible(Effect.andThen(Effect.sleep("40 seconds"), w.note("region ends")))
    )
    yield* w.settle
    yield* b.lead
    yield* w.until(101_000)
    fiber.interruptUnsafe()
    yield* w.until(160_000)
    assert.deepStrictEqual(w.timeline, ["140000 region ends", "140000 b leads"])
  })

  test("a failure while the program is being stopped is logged, and the loss is the outcome", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    yield* a.start(Effect.andThen(Effect.addFinalizer(() => Effect.die("finalizer")), Effect.never))
    yield* w.until(101_000)
    yield* w.cluster.deleteLease(key)
    yield* w.until(102_000)
    assert.deepStrictEqual(w.timeline, ["101000 a fails: LeaseDeleted"])
    assert.isTrue(w.logs.some((line) => line.startsWith("Error a: The program failed while it was being stopped")))
  })

  test("a failure while the program is being interrupted from outside is logged too", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const fiber = yield* a.start(Effect.andThen(Effect.addFinalizer(() => Effect.die("finalizer")), Effect.never))
    yield* w.until(101_000)
    fiber.interruptUnsafe()
    yield* w.until(102_000)
    assert.isTrue(Exit.hasInterrupts(fiber.pollUnsafe()!))
    assert.isTrue(w.logs.some((line) => line.startsWith("Error a: The program failed while it was being stopped")))
  })

  test("the scope of acquire ends the same way", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const fiber = yield* Effect.forkChild(a.run(Effect.scoped(Effect.gen(function*() {
      yield* a.election.acquire
      yield* Effect.addFinalizer(() => Effect.andThen(Effect.sleep("20 seconds"), w.note("finalizer ended")))
      return yield* Effect.never
    }))))
    yield* w.until(103_000)
    fiber.interruptUnsafe()
    yield* w.until(122_999)
    assert.strictEqual(yield* holder(w), "a")
    yield* w.until(123_000)
    assert.strictEqual(yield* holder(w), "")
    assert.deepStrictEqual(w.timeline, ["123000 finalizer ended"])
  })
})

describe("after a loss by deadline", () => {
  test("finalizers that end in time: the Lease is released when it can be reached again", function*(w) {
    const { a } = yield* leading(w, Effect.sleep("3 seconds"))
    const b = yield* w.candidate("b")
    yield* b.lead
    yield* a.faults.refuse
    yield* w.until(112_000)
    yield* a.faults.restore
    yield* w.until(130_000)
    assert.deepStrictEqual(w.timeline, [
      "110000 a ends, valid: false, holder: a",
      "113000 a has ended, valid: false, holder: a",
      "113000 a fails: RenewDeadlineExceeded",
      "113000 b leads"
    ])
    assert.strictEqual(yield* overruns, 0)
  })

  test("a renewal that succeeds again saves the finalizers, never the term", function*(w) {
    const { a } = yield* leading(w, Effect.sleep("30 seconds"))
    const b = yield* w.candidate("b")
    yield* b.lead
    yield* a.faults.refuse
    yield* w.until(110_500)
    yield* a.faults.restore
    yield* w.until(150_000)
    assert.deepStrictEqual(w.timeline, [
      "110000 a ends, valid: false, holder: a",
      "140000 a has ended, valid: false, holder: a",
      "140000 a fails: RenewDeadlineExceeded",
      "140000 b leads"
    ])
    assert.strictEqual(yield* overruns, 0)
  })

  test(
    "a record under its name with a renewTime that it did not write is left alone: it may stand over its successor's",
    function*(w) {
      const { a } = yield* leading(w, Effect.sleep("3 seconds"))
      const b = yield* w.candidate("b")
      yield* b.lead
      yield* a.faults.refuse
      yield* w.until(111_000)
      yield* w.cluster.editLease(key, { spec: { renewTime: "2026-01-01T00:00:00.000001Z" } })
      yield* a.faults.restore
      yield* w.until(114_000)
      assert.strictEqual(yield* holder(w), "a")
      yield* w.until(130_000)
      assert.deepStrictEqual(w.timeline, [
        "110000 a ends, valid: false, holder: a",
        "113000 a has ended, valid: false, holder: a",
        "113000 a fails: RenewDeadlineExceeded",
        "126000 b leads"
      ])
    }
  )

  test("finalizers that overrun are reported when they do, and nothing is released", function*(w) {
    const { a } = yield* leading(w, Effect.sleep("20 seconds"))
    const b = yield* w.candidate("b")
    yield* b.lead
    yield* a.faults.refuse
    yield* w.until(114_249)
    assert.strictEqual(yield* overruns, 0)
    assert.isFalse(w.logs.some((line) => line.startsWith("Error")))
    yield* w.until(114_250)
    assert.strictEqual(yield* overruns, 1)
    const errors = w.logs.filter((line) => line.startsWith("Error"))
    assert.strictEqual(errors.length, 1)
    assert.match(errors[0] ?? "", /still running although its term is over/)
    yield* w.until(116_000)
    yield* a.faults.restore
    yield* w.until(140_000)
    assert.deepStrictEqual(w.timeline, [
      "110000 a ends, valid: false, holder: a",
      "115000 b leads",
      "130000 a has ended, valid: false, holder: b",
      "130000 a fails: RenewDeadlineExceeded"
    ])
    assert.strictEqual(yield* holder(w), "b")
    assert.strictEqual(yield* overruns, 1)
    const touched = (yield* w.cluster.commits).filter(({ at, lease }) => at > 100_000 && lease.holderIdentity !== "b")
    assert.deepStrictEqual(touched, [])
  })

  test("an overrun with nobody waiting releases nothing either, and the Lease runs out", function*(w) {
    const { a } = yield* leading(w, Effect.sleep("20 seconds"))
    yield* a.faults.refuse
    yield* w.until(129_900)
    yield* a.faults.restore
    // The connection is back, but renewals come every retryPeriod only: none before the end.
    const before = yield* w.lease
    yield* a.faults.set({ patch: Fault.hang })
    yield* w.until(131_000)
    assert.deepStrictEqual(yield* w.lease, before)
    assert.isTrue(w.logs.some((line) => line.startsWith("Warn a: Not released")))
  })

  test("no request delays telling the program, the release included", function*(w) {
    const { a } = yield* leading(w, Effect.void)
    yield* a.faults.stall
    yield* w.until(130_000)
    assert.deepStrictEqual(w.timeline, [
      "110000 a ends, valid: false, holder: a",
      "110000 a has ended, valid: false, holder: a",
      "115000 a fails: RenewDeadlineExceeded"
    ])
    assert.isTrue(w.logs.some((line) => line === "Warn a: The Lease could not be released: it runs out by itself"))
  })
})

describe("release", () => {
  const stop = Effect.fnUntraced(function*(w: World, a: Candidate, fault: Fault.Fault | undefined, times = 1) {
    const fiber = yield* a.lead
    yield* w.until(103_000)
    if (fault !== undefined) {
      yield* a.faults.next("patch", fault, times)
    }
    fiber.interruptUnsafe()
    return fiber
  })

  const faults: ReadonlyArray<[string, Fault.Fault, number]> = [
    ["hangs", Fault.hang, 105_000],
    ["is lost with its connection", Fault.dropRequest, 105_000],
    ["is answered 409", Fault.conflict, 103_000],
    ["is answered 429 with 3 s", Fault.tooManyRequests("3 seconds"), 106_000],
    ["is answered 500", Fault.serverError(), 105_000],
    ["is refused", Fault.refused, 105_000]
  ]
  for (const [what, fault, at] of faults) {
    test(`T16 one that ${what} is tried again`, function*(w) {
      yield* oldLease(w)
      const a = yield* w.candidate("a")
      const b = yield* w.candidate("b")
      yield* stop(w, a, fault)
      yield* b.lead
      yield* w.until(at)
      assert.deepStrictEqual(w.timeline.slice(1), ["103000 a ends", `${at} b leads`])
      // It is sent again as it was; only a conflict is followed by a look.
      assert.strictEqual((yield* a.requests("get")).length, what === "is answered 409" ? 2 : 1)
    })
  }

  for (const [what, fault] of [["hangs", Fault.hangAfterCommit], ["is lost", Fault.dropAnswer]] as const) {
    test(`T16 one whose answer ${what} is recognised, and tells no lie in the log`, function*(w) {
      yield* oldLease(w)
      const a = yield* w.candidate("a")
      const fiber = yield* stop(w, a, fault)
      yield* w.until(110_000)
      assert.isDefined(fiber.pollUnsafe())
      assert.strictEqual(yield* holder(w), "")
      assert.isFalse(w.logs.some((line) => line.includes("could not be released")))
    })
  }

  test("T17 T26 is bounded in time: three attempts, then the Lease runs out", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const fiber = yield* stop(w, a, Fault.hang, 10)
    yield* w.until(108_999)
    assert.isUndefined(fiber.pollUnsafe())
    yield* w.until(109_000)
    assert.isDefined(fiber.pollUnsafe())
    assert.deepStrictEqual((yield* a.requests("patch")).slice(1), ["103000 patch", "105000 patch", "107000 patch"])
    assert.isTrue(w.logs.includes("Warn a: The Lease could not be released: it runs out by itself"))
  })

  test("T16 a Retry-After of an hour does not keep the process", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const fiber = yield* stop(w, a, Fault.tooManyRequests("1 hour"), 10)
    yield* w.until(109_000)
    assert.isDefined(fiber.pollUnsafe())
  })

  test("T16 permanent conflicts are no reason to hurry", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const fiber = yield* stop(w, a, Fault.conflict, 1000)
    yield* w.until(109_000)
    assert.isDefined(fiber.pollUnsafe())
    assert.isTrue((yield* a.requests("patch")).length <= 6)
  })

  test("T16 of a renewal in flight: the release holds, and the renewal comes too late", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const b = yield* w.candidate("b")
    const fiber = yield* a.lead
    yield* w.settle
    yield* b.lead
    yield* a.faults.next("patch", Fault.delayRequest("500 millis"))
    yield* w.until(105_100)
    yield* Fiber.interrupt(fiber)
    yield* w.until(120_000)
    assert.deepStrictEqual(w.timeline, ["100000 a leads", "105100 a ends", "105100 b leads"])
  })

  test("T16 of a renewal whose answer is under way, unheard: a conflict, a read, and released", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a", { settings: { watch: false } })
    const b = yield* w.candidate("b")
    const fiber = yield* a.lead
    yield* w.settle
    yield* b.lead
    yield* a.faults.next("patch", Fault.delayAnswer("1 second"))
    yield* w.until(105_100)
    yield* Fiber.interrupt(fiber)
    yield* w.settle
    assert.deepStrictEqual(w.timeline, ["100000 a leads", "105100 a ends", "105100 b leads"])
    assert.deepStrictEqual((yield* a.requests()).slice(-3), ["105100 patch", "105100 get", "105100 patch"])
  })

  for (const watch of [true, false]) {
    test(`T16 never touches another's Lease (watch: ${watch})`, function*(w) {
      const { fiber } = yield* leading(w, Effect.sleep("2 seconds"), { settings: { watch } })
      yield* w.until(103_000)
      fiber.interruptUnsafe()
      yield* w.until(104_000)
      yield* w.cluster.editLease(key, heldBy("other", 30))
      const other = yield* w.lease
      yield* w.until(112_000)
      assert.isDefined(fiber.pollUnsafe())
      assert.deepStrictEqual(yield* w.lease, other)
    })

    test(`T16 nor one that was created anew under its name (watch: ${watch})`, function*(w) {
      const { fiber } = yield* leading(w, Effect.sleep("2 seconds"), { settings: { watch } })
      yield* w.until(103_000)
      const { annotations } = yield* w.lease
      fiber.interruptUnsafe()
      yield* w.until(104_000)
      yield* w.cluster.deleteLease(key)
      yield* w.cluster.createLease(key, { metadata: { annotations }, spec: { holderIdentity: "a" } })
      const other = yield* w.lease
      yield* w.until(112_000)
      assert.deepStrictEqual(yield* w.lease, other)
    })
  }

  test("T16 nor one that was created anew while the release was on its way", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a", { settings: { watch: false } })
    const fiber = yield* a.lead
    yield* w.until(103_000)
    const { annotations } = yield* w.lease
    yield* a.faults.next("patch", Fault.delayRequest("500 millis"))
    fiber.interruptUnsafe()
    yield* w.until(103_100)
    yield* w.cluster.deleteLease(key)
    yield* w.cluster.createLease(key, { metadata: { annotations }, spec: { holderIdentity: "a" } })
    const other = yield* w.lease
    yield* w.until(112_000)
    assert.isDefined(fiber.pollUnsafe())
    assert.deepStrictEqual(yield* w.lease, other)
  })

  test("where the owner may not be changed: without it", function*(w) {
    const pod = yield* w.cluster.createPod({ namespace: "default", name: "p" })
    yield* oldLease(w)
    const a = yield* w.candidate("a", { pod })
    const fiber = yield* a.lead
    yield* w.until(103_000)
    yield* a.faults.decide(({ verb, write }) =>
      verb === "patch" && write?.ownerReferences !== undefined
        ? Fault.fail(new LeaseForbidden({ message: "cannot set an ownerRef", anonymous: false, ownerReferences: true }))
        : undefined
    )
    yield* Fiber.interrupt(fiber)
    assert.strictEqual(yield* holder(w), "")
    assert.strictEqual((yield* w.lease).ownerReferences.length, 1)
  })
})

describe("interruption of a campaign", () => {
  test("while it holds a young Lease: released", function*(w) {
    const a = yield* w.candidate("a")
    const b = yield* w.candidate("b")
    const fiber = yield* a.lead
    yield* w.until(7000)
    yield* b.lead
    yield* w.settle
    assert.strictEqual((yield* a.election.status)._tag, "Pending")
    yield* Fiber.interrupt(fiber)
    yield* w.settle
    assert.strictEqual(yield* holder(w), "b")
    // b has seen the object since 7 s.
    yield* w.until(30_000)
    assert.deepStrictEqual(w.timeline, ["22000 b leads"])
  })

  for (const verb of ["create", "patch"] as const) {
    test(`during a ${verb} that is applied, its answer still under way: released`, function*(w) {
      if (verb === "patch") {
        yield* oldLease(w)
      }
      const a = yield* w.candidate("a")
      yield* a.faults.next(verb, Fault.delayAnswer("1 second"))
      const fiber = yield* a.lead
      yield* w.settle
      assert.strictEqual(yield* holder(w), "a")
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(yield* holder(w), "")
    })

    test(`after a ${verb} whose answer was lost: released`, function*(w) {
      if (verb === "patch") {
        yield* oldLease(w)
      }
      const a = yield* w.candidate("a", { settings: { watch: false } })
      yield* a.faults.next(verb, Fault.hangAfterCommit)
      yield* a.faults.set({ get: Fault.pass })
      const fiber = yield* a.lead
      yield* w.until((yield* w.now) + 1000)
      assert.strictEqual(yield* holder(w), "a")
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(yield* holder(w), "")
    })
  }

  for (const verb of ["create", "patch"] as const) {
    for (const watch of [true, false]) {
      const how = verb === "create" ? "released then" : "the release comes first, and it conflicts"
      test(`during a ${verb} that would be applied later: ${how} (watch: ${watch})`, function*(w) {
        if (verb === "patch") {
          yield* oldLease(w)
        }
        const start = yield* w.now
        const a = yield* w.candidate("a", { settings: { watch } })
        yield* a.faults.next(verb, Fault.delayRequest("1 second"))
        const fiber = yield* a.lead
        yield* w.until(start + 500)
        fiber.interruptUnsafe()
        yield* w.until(start + 999)
        assert.strictEqual(yield* Effect.map(w.cluster.lease(key), (lease) => lease?.holderIdentity ?? ""), "")
        yield* w.until(start + 1000)
        if (watch) {
          assert.strictEqual(yield* holder(w), "")
          assert.isDefined(fiber.pollUnsafe())
        }
        yield* w.until(start + 2500)
        assert.isDefined(fiber.pollUnsafe())
        const commits = yield* w.cluster.commits
        assert.deepStrictEqual(
          commits.slice(-2).map(({ lease }) => lease.holderIdentity),
          verb === "create" ? ["a", ""] : ["", ""]
        )
      })
    }

    test(`during a ${verb} that never arrives: it waits for it in vain, for a limited time`, function*(w) {
      if (verb === "patch") {
        yield* oldLease(w)
      }
      const start = yield* w.now
      const a = yield* w.candidate("a")
      yield* a.faults.next(verb, Fault.hang)
      const fiber = yield* a.lead
      yield* w.until(start + 500)
      fiber.interruptUnsafe()
      yield* w.until(start + 6500)
      assert.isDefined(fiber.pollUnsafe())
      assert.isFalse(w.logs.some((line) => line.startsWith("Warn")))
    })
  }

  test("after a take of unknown outcome, and another that was refused: released on their version", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    yield* a.faults.next("patch", Fault.delayRequest("6 seconds"))
    yield* a.faults.next("patch", Fault.tooManyRequests("5 seconds"))
    const fiber = yield* a.lead
    yield* w.until(103_000)
    fiber.interruptUnsafe()
    yield* w.settle
    assert.isDefined(fiber.pollUnsafe())
    yield* w.until(110_000)
    // The first comes at 106 s, and conflicts.
    assert.isTrue((yield* w.cluster.commits).every(({ lease }) => lease.holderIdentity === ""))
  })

  test("long after a take whose answer was lost, when another holds the Lease: at once", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    yield* a.faults.next("patch", Fault.dropRequest)
    const fiber = yield* a.lead
    yield* w.until(101_000)
    yield* w.cluster.editLease(key, heldBy("other", 3600))
    yield* w.until(200_000)
    yield* Fiber.interrupt(fiber)
    assert.strictEqual(yield* holder(w), "other")
  })

  test("before anything was written: no request", function*(w) {
    yield* w.cluster.createLease(key, heldBy("other", 15))
    const a = yield* w.candidate("a")
    const fiber = yield* a.lead
    yield* w.until(1000)
    yield* Fiber.interrupt(fiber)
    assert.deepStrictEqual(yield* a.requests("get", "patch"), ["0 get"])
  })
})
