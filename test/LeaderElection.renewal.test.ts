import { assert, describe } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Latch } from "effect"
import type { LeaderElectionError } from "../src/LeaderElectionError.ts"
import type { Leadership } from "../src/Leadership.ts"
import { ageMarkAnnotation, instanceAnnotation, stepDownAnnotation } from "../src/LeaseRecord.ts"
import { LeaseStore } from "../src/LeaseStore.ts"
import { Fault, MemoryLeaseStore } from "../src/testing/index.ts"
import { type Candidate, key, oldLease, test, type World } from "./utils/Elections.ts"

/** Leads from 100 s on, with the take begun then. */
const leading = Effect.fnUntraced(function*(w: World, options?: Parameters<World["candidate"]>[1]) {
  yield* oldLease(w)
  const a = yield* w.candidate("a", options)
  yield* a.lead
  yield* w.settle
  return a
})

const reasonOf = (exit: Exit.Exit<void, LeaderElectionError>) =>
  Exit.match(exit, {
    onSuccess: () => "success",
    onFailure: () => {
      const error = Exit.findErrorOption(exit)
      return error._tag === "Some" ? error.value.reason._tag : "defect"
    }
  })

/** What a program would do, on the clocks of its replica. */
const asProgram = Effect.fnUntraced(
  function*<A, E>(a: Candidate, f: (leadership: Leadership["Service"]) => Effect.Effect<A, E>) {
    return yield* a.run(f(yield* a.leadership))
  }
)

// Each of them strikes one request; the write is applied or not.
const faults: ReadonlyArray<[string, Fault.Fault]> = [
  ["hangs", Fault.hang],
  ["hangs after the commit", Fault.hangAfterCommit],
  ["is lost with its connection", Fault.dropRequest],
  ["is answered into a broken connection", Fault.dropAnswer],
  ["is applied 3 s later, with its connection broken", Fault.applyLate("3 seconds")],
  ["is answered 409", Fault.conflict],
  ["is answered 401", Fault.unauthorized],
  ["is answered 403", Fault.forbidden],
  ["is answered 422", Fault.invalid],
  ["is answered 429", Fault.tooManyRequests("1 second")],
  ["is answered 500", Fault.serverError()],
  ["is answered 504 after the commit", Fault.gatewayTimeout],
  ["is refused", Fault.refused],
  ["takes longer than requestTimeout", Fault.delayAnswer("2500 millis")]
]

describe("timing", () => {
  test(
    "a renewal starts renewInterval after the start of the last success, however long its answer took",
    function*(w) {
      const a = yield* leading(w)
      yield* a.faults.next("patch", Fault.delayAnswer("1900 millis"))
      yield* a.faults.next("patch", Fault.delayRequest("1500 millis"))
      yield* w.until(121_000)
      assert.deepStrictEqual(yield* a.requests("patch"), [
        "100000 patch",
        "105000 patch",
        "110000 patch",
        "115000 patch",
        "120000 patch"
      ])
      assert.deepStrictEqual(w.timeline, ["100000 a leads"])
    }
  )

  test("T11 hung requests: attempts at 5, 7 and 9 s, and the program is interrupted at 10 s exactly", function*(w) {
    const a = yield* leading(w)
    yield* a.faults.set({ patch: Fault.hang })
    yield* w.until(109_999)
    assert.deepStrictEqual(yield* a.requests("patch"), [
      "100000 patch",
      "105000 patch",
      "107000 patch",
      "109000 patch"
    ])
    assert.deepStrictEqual(w.timeline, ["100000 a leads"])
    assert.strictEqual((yield* a.election.status)._tag, "Leading")
    yield* w.until(110_000)
    assert.deepStrictEqual(w.timeline, ["100000 a leads", "110000 a ends"])
    yield* w.until(130_000)
    assert.deepStrictEqual(w.timeline.slice(2), ["115000 a fails: RenewDeadlineExceeded"])
  })

  test("T10 the deadline counts from the start of the request, not from its answer", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a", { settings: { watch: false } })
    yield* a.faults.next("patch", Fault.delayAnswer("1900 millis"))
    yield* a.lead
    yield* w.until(102_000)
    yield* a.faults.set({ patch: Fault.hang })
    yield* w.until(112_000)
    assert.deepStrictEqual(w.timeline, ["101900 a leads", "110000 a ends"])
  })

  for (const watch of [true, false]) {
    test(`T10 a renewal whose answer is lost counts from its own start (watch: ${watch})`, function*(w) {
      const a = yield* leading(w, { settings: { watch } })
      yield* a.faults.next("patch", Fault.hangAfterCommit)
      yield* w.until(106_000)
      yield* a.faults.silenceWatches
      yield* w.until(107_000)
      yield* a.faults.set({ patch: Fault.hang })
      yield* w.until(109_999)
      assert.deepStrictEqual(w.timeline, ["100000 a leads"])
      // Where no watch told of it, the attempt at 107000 conflicts, and the read after it knows.
      assert.deepStrictEqual((yield* a.requests("get")).slice(1), watch ? [] : ["107000 get"])
      yield* w.until(122_000)
      assert.deepStrictEqual(w.timeline, ["100000 a leads", "115000 a ends", "120000 a fails: RenewDeadlineExceeded"])
    })
  }

  test("a committed attempt that is found by a read extends validity from its start only", function*(w) {
    const a = yield* leading(w, { settings: { watch: false } })
    yield* a.faults.next("patch", Fault.hangAfterCommit)
    yield* a.faults.next("patch", Fault.pass)
    yield* a.faults.set({ patch: Fault.hang })
    yield* w.until(122_000)
    assert.deepStrictEqual((yield* a.requests()).slice(0, 6), [
      "100000 get",
      "100000 patch",
      "105000 patch",
      "107000 patch",
      "107000 get",
      // The attempt of 105 s counts from there, whatever began later.
      "110000 patch"
    ])
    assert.deepStrictEqual(w.timeline, ["100000 a leads", "115000 a ends", "120000 a fails: RenewDeadlineExceeded"])
  })

  test("what others write into a held Lease extends nothing", function*(w) {
    const a = yield* leading(w)
    yield* a.faults.set({ patch: Fault.hang })
    for (let at = 101_000; at < 110_000; at += 1000) {
      yield* w.until(at)
      yield* w.cluster.editLease(key, {
        metadata: { labels: { at: String(at) } },
        spec: { renewTime: `2026-11-22T12:00:00.${at}Z` }
      })
    }
    yield* w.until(111_000)
    assert.deepStrictEqual(w.timeline, ["100000 a leads", "110000 a ends"])
  })

  test("a write that is applied after the loss revives nothing", function*(w) {
    const a = yield* leading(w)
    yield* a.faults.next("patch", Fault.applyLate("6 seconds"))
    yield* a.faults.set({ patch: Fault.hang })
    yield* w.until(130_000)
    assert.deepStrictEqual(w.timeline, ["100000 a leads", "110000 a ends", "115000 a fails: RenewDeadlineExceeded"])
    assert.strictEqual((yield* w.cluster.commits).at(-1)?.at, 111_000)
    assert.isFalse(yield* asProgram(a, ({ isValid }) => isValid))
  })
})

describe("one failure", () => {
  for (const [what, fault] of faults) {
    test(`T9 a renewal that ${what} costs no term`, function*(w) {
      const a = yield* leading(w)
      const b = yield* w.candidate("b")
      yield* b.lead
      for (let round = 0; round < 5; round++) {
        yield* a.faults.next("patch", fault)
        yield* w.until((yield* w.now) + 20_000)
      }
      assert.deepStrictEqual(w.timeline, ["100000 a leads"])
      assert.strictEqual((yield* w.lease).holderIdentity, "a")
    })

    test(`T9 without a watch neither, when it ${what}`, function*(w) {
      const a = yield* leading(w, { settings: { watch: false } })
      for (let round = 0; round < 5; round++) {
        yield* a.faults.next("patch", fault)
        yield* w.until((yield* w.now) + 20_000)
      }
      assert.deepStrictEqual(w.timeline, ["100000 a leads"])
    })
  }

  test("a defect of the store is a failed attempt", function*(w) {
    yield* oldLease(w)
    const base = yield* MemoryLeaseStore.make(w.cluster)
    let broken = false
    const store = LeaseStore.of({
      ...base,
      patch: (key, version, write) =>
        Effect.suspend(() => broken ? Effect.die(new Error("oh")) : base.patch(key, version, write))
    })
    const a = yield* w.candidate("a", { store })
    yield* a.lead
    yield* w.until(104_000)
    broken = true
    yield* w.until(108_000)
    broken = false
    yield* w.until(140_000)
    assert.deepStrictEqual(w.timeline, ["100000 a leads"])
    assert.isTrue(w.logs.some((line) => line.includes("the store failed unexpectedly")))
    broken = true
    yield* w.until(160_000)
    assert.deepStrictEqual(w.timeline.slice(1, 2), ["149000 a ends"])
  })

  test("a store that cannot be interrupted holds up neither the next attempt nor the deadline", function*(w) {
    yield* oldLease(w)
    const base = yield* MemoryLeaseStore.make(w.cluster)
    const end = yield* Latch.make()
    let hangs = false
    const store = LeaseStore.of({
      ...base,
      patch: (key, version, write) =>
        Effect.suspend(() =>
          hangs
            ? Effect.andThen(Effect.uninterruptible(end.await), base.patch(key, version, write))
            : base.patch(key, version, write)
        )
    })
    const a = yield* w.candidate("a", { store })
    yield* a.lead
    yield* w.until(104_000)
    hangs = true
    yield* w.until(106_000)
    hangs = false
    yield* w.until(130_000)
    assert.deepStrictEqual(w.timeline, ["100000 a leads"])
    assert.deepStrictEqual((yield* a.requests("patch")).slice(1, 4), ["105000 patch", "107000 patch", "112000 patch"])
    hangs = true
    yield* w.until(150_000)
    // Or the end of the test would wait for these requests.
    yield* end.open
    assert.deepStrictEqual(w.timeline.slice(1, 2), ["137000 a ends"])
  })
})

describe("lasting failure", () => {
  for (const [what, fault] of faults) {
    if (what.includes("applied") || what.includes("after the commit") || what.includes("answered into")) {
      continue
    }
    const late = what.includes("longer")
    test(`T9 T13 a leader whose every renewal ${what} ends at the deadline`, function*(w) {
      const a = yield* leading(w, { settings: { watch: !late } })
      const b = yield* w.candidate("b")
      yield* b.lead
      yield* a.faults.set({ patch: late ? Fault.all(Fault.hang, { answerDelay: "3 seconds" }) : fault })
      yield* w.until(109_999)
      assert.deepStrictEqual(w.timeline, ["100000 a leads"])
      yield* w.until(120_000)
      assert.strictEqual(w.timeline[1], "110000 a ends")
      assert.isTrue(w.timeline.includes("115000 b leads"), w.timeline.join(", "))
      // Not at full speed against a server in need.
      assert.isTrue((yield* a.requests("patch")).length <= 12)
    })
  }

  test("T28 a Retry-After beyond the deadline is cut: one whole requestTimeout remains", function*(w) {
    const a = yield* leading(w)
    yield* a.faults.next("patch", Fault.tooManyRequests("1 minute"))
    yield* w.until(114_000)
    assert.deepStrictEqual(yield* a.requests("patch"), [
      "100000 patch",
      "105000 patch",
      "108000 patch",
      "113000 patch"
    ])
    assert.deepStrictEqual(w.timeline, ["100000 a leads"])
  })

  for (const [asked, next] of [["500 millis", 107_000], ["2500 millis", 107_500]] as const) {
    test(`T28 a Retry-After of ${asked} is honoured, but never before retryPeriod`, function*(w) {
      const a = yield* leading(w)
      yield* a.faults.next("patch", Fault.tooManyRequests(asked))
      yield* w.until(109_000)
      assert.deepStrictEqual((yield* a.requests("patch")).slice(2), [`${next} patch`])
    })
  }

  test("T23 403 while leading is logged with its verb at once, and retried until the deadline", function*(w) {
    const a = yield* leading(w)
    yield* a.faults.set({ patch: Fault.forbidden })
    yield* w.until(105_000)
    const warnings = w.logs.filter((line) => line.startsWith("Warn"))
    assert.strictEqual(warnings.length, 1)
    assert.match(warnings[0] ?? "", /patch lease default\/invoices.*forbidden/)
    yield* w.until(108_000)
    yield* a.faults.clear
    yield* w.until(140_000)
    assert.deepStrictEqual(w.timeline, ["100000 a leads"])
  })

  test("T22 401 is retried, and costs no term when it passes", function*(w) {
    const a = yield* leading(w)
    yield* a.faults.next("patch", Fault.unauthorized, 2)
    yield* w.until(140_000)
    assert.deepStrictEqual(w.timeline, ["100000 a leads"])
    assert.deepStrictEqual((yield* a.requests("patch")).slice(1, 4), ["105000 patch", "107000 patch", "109000 patch"])
  })
})

describe("others at the Lease", () => {
  for (const watch of [true, false]) {
    test(
      `T14 deleted under the leader: noticed, and not created again from inside a term (watch: ${watch})`,
      function*(w) {
        const a = yield* leading(w, { settings: { watch } })
        yield* w.until(102_000)
        yield* w.cluster.deleteLease(key)
        yield* w.until(140_000)
        const at = watch ? 102_000 : 105_000
        assert.deepStrictEqual(w.timeline, ["100000 a leads", `${at} a ends`, `${at} a fails: LeaseDeleted`])
        assert.deepStrictEqual(yield* a.requests("create"), [])
        assert.isUndefined(yield* w.cluster.lease(key))
      }
    )

    test(`T14 deleted and created again by another: lost (watch: ${watch})`, function*(w) {
      const a = yield* leading(w, { settings: { watch } })
      yield* w.until(102_000)
      const { metadata, spec } = { metadata: {}, spec: { holderIdentity: "a", leaseDurationSeconds: 15 } }
      yield* w.cluster.deleteLease(key)
      yield* w.cluster.createLease(key, { metadata, spec })
      const created = yield* w.lease
      yield* w.until(140_000)
      const at = watch ? 102_000 : 105_000
      assert.deepStrictEqual(w.timeline, ["100000 a leads", `${at} a ends`, `${at} a fails: LeaseDeleted`])
      assert.deepStrictEqual(yield* w.lease, created)
      assert.deepStrictEqual(yield* a.requests("create"), [])
    })

    test(`stolen: lost at once, and not taken back or released (watch: ${watch})`, function*(w) {
      yield* leading(w, { settings: { watch } })
      yield* w.until(102_000)
      yield* w.cluster.editLease(key, { spec: { holderIdentity: "thief" } })
      yield* w.until(140_000)
      const at = watch ? 102_000 : 105_000
      assert.deepStrictEqual(w.timeline, ["100000 a leads", `${at} a ends`, `${at} a fails: LeaseTaken`])
      const lease = yield* w.lease
      assert.strictEqual(lease.holderIdentity, "thief")
      assert.strictEqual(lease.leaseDurationSeconds, 15)
    })

    test(`a label edited on a live leader's Lease costs nothing (watch: ${watch})`, function*(w) {
      const a = yield* leading(w, { settings: { watch } })
      for (let at = 101_000; at < 131_000; at += 1000) {
        yield* w.until(at)
        yield* w.cluster.editLease(key, { metadata: { labels: { at: String(at) } } })
      }
      assert.deepStrictEqual(w.timeline, ["100000 a leads"])
      const patches = yield* a.requests("patch")
      // Without a watch each renewal needs a second attempt, right after the first.
      assert.strictEqual(patches.length, watch ? 7 : 1 + 2 * 6)
      assert.strictEqual((yield* w.lease).labels["at"], "130000")
    })
  }

  test("a shortened duration and a removed annotation are put right by the next renewal", function*(w) {
    yield* leading(w)
    const before = yield* w.lease
    yield* w.until(102_000)
    yield* w.cluster.editLease(key, {
      metadata: { annotations: { [instanceAnnotation]: null } },
      spec: { leaseDurationSeconds: 7 }
    })
    yield* w.until(106_000)
    const after = yield* w.lease
    assert.strictEqual(after.leaseDurationSeconds, 15)
    assert.deepStrictEqual(after.annotations, before.annotations)
    assert.deepStrictEqual(w.timeline, ["100000 a leads"])
  })

  test("what others wrote beside us stays", function*(w) {
    yield* w.createOld({
      metadata: {
        labels: { team: "billing" },
        annotations: { note: "ours" },
        ownerReferences: [{ apiVersion: "apps/v1", kind: "Deployment", name: "d", uid: "1" }]
      },
      spec: { holderIdentity: "", leaseDurationSeconds: 1 }
    })
    const a = yield* w.candidate("a")
    const fiber = yield* a.lead
    yield* w.until(130_000)
    yield* Fiber.interrupt(fiber)
    const lease = yield* w.lease
    assert.deepStrictEqual(lease.labels, { team: "billing" })
    assert.deepStrictEqual(lease.annotations, { note: "ours", [ageMarkAnnotation]: lease.uid })
    assert.deepStrictEqual(lease.ownerReferences.map(({ name }) => name), ["d"])
  })

  test("a leader that is asked to step down does, and stands back while another takes over", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const b = yield* w.candidate("b")
    yield* a.startForever(a.program())
    yield* w.settle
    yield* b.startForever(b.program())
    yield* w.until(103_000)
    const instance = (yield* w.lease).annotations[instanceAnnotation]!
    yield* w.cluster.editLease(key, { metadata: { annotations: { [stepDownAnnotation]: "somebody-else" } } })
    yield* w.until(104_000)
    assert.deepStrictEqual(w.timeline, ["100000 a leads"])
    yield* w.cluster.editLease(key, { metadata: { annotations: { [stepDownAnnotation]: instance } } })
    yield* w.until(150_000)
    assert.deepStrictEqual(w.timeline, ["100000 a leads", "104000 a ends", "104000 b leads"])
    assert.isUndefined((yield* w.lease).annotations[stepDownAnnotation])
    assert.isFalse(w.logs.some((line) => line.startsWith("Warn")))
  })

  test("one that has stepped down is a candidate like any other once another has led", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const b = yield* w.candidate("b")
    yield* a.startForever(a.program())
    yield* w.settle
    const following = yield* b.lead
    yield* w.until(104_000)
    const instance = (yield* w.lease).annotations[instanceAnnotation]!
    yield* w.cluster.editLease(key, { metadata: { annotations: { [stepDownAnnotation]: instance } } })
    yield* w.until(106_000)
    yield* Fiber.interrupt(following)
    yield* w.until(107_000)
    assert.deepStrictEqual(w.timeline, [
      "100000 a leads",
      "104000 a ends",
      "104000 b leads",
      "106000 b ends",
      "106000 a leads"
    ])
  })

  test("one that steps down with nobody to follow leads again after leaseDuration", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    yield* a.startForever(a.program())
    yield* w.until(104_000)
    const instance = (yield* w.lease).annotations[instanceAnnotation]!
    yield* w.cluster.editLease(key, { metadata: { annotations: { [stepDownAnnotation]: instance } } })
    yield* w.until(150_000)
    assert.deepStrictEqual(w.timeline, ["100000 a leads", "104000 a ends", "119000 a leads"])
  })

  test(
    "etcd restored from a backup: a leader whose version came back goes on or gives up, and never twice",
    function*(w) {
      const a = yield* leading(w)
      yield* w.until(106_000)
      const backup = yield* w.cluster.snapshot
      yield* w.until(121_000)
      yield* w.cluster.restore(backup)
      yield* w.until(200_000)
      assert.deepStrictEqual(w.timeline, ["100000 a leads"])
      assert.strictEqual((yield* w.lease).holderIdentity, "a")
      assert.isTrue(yield* asProgram(a, ({ isValid }) => isValid))
    }
  )
})

describe("validity", () => {
  test("remaining counts down from the start of the last success", function*(w) {
    const a = yield* leading(w)
    const remaining = () => asProgram(a, ({ remaining }) => Effect.map(remaining, Duration.toMillis))
    assert.strictEqual(yield* remaining(), 10_000)
    yield* w.until(104_999)
    assert.strictEqual(yield* remaining(), 5001)
    yield* w.until(105_000)
    assert.strictEqual(yield* remaining(), 10_000)
    yield* a.faults.set({ patch: Fault.hang })
    yield* w.until(114_999)
    assert.strictEqual(yield* remaining(), 1)
    assert.isTrue(yield* asProgram(a, ({ isValid }) => isValid))
    yield* w.until(115_000)
    assert.strictEqual(yield* remaining(), 0)
    assert.isFalse(yield* asProgram(a, ({ isValid }) => isValid))
    assert.strictEqual(reasonOf(yield* Effect.exit(asProgram(a, ({ ensure }) => ensure))), "LeadershipLost")
  })

  test(
    "T12 a process that was stalled past the deadline finds itself no leader before anything else runs",
    function*(w) {
      const timers = yield* Latch.make(true)
      const a = yield* leading(w, { timers })
      const b = yield* w.candidate("b")
      yield* b.lead
      yield* w.until(102_000)
      yield* timers.close
      yield* w.until(109_999)
      assert.isTrue(yield* asProgram(a, ({ isValid }) => isValid))
      assert.strictEqual(reasonOf(yield* Effect.exit(asProgram(a, ({ ensure }) => ensure))), "success")
      yield* w.until(110_000)
      // Its timers have not fired, and its program has not been told.
      assert.deepStrictEqual(w.timeline, ["100000 a leads"])
      assert.isFalse(yield* asProgram(a, ({ isValid }) => isValid))
      assert.strictEqual(reasonOf(yield* Effect.exit(asProgram(a, ({ confirm }) => confirm))), "LeadershipLost")
      assert.strictEqual(reasonOf(yield* Effect.exit(asProgram(a, ({ ensure }) => ensure))), "LeadershipLost")
      // Who asks ends the term; the Lease is released as ever.
      yield* w.until(200_000)
      assert.deepStrictEqual(w.timeline.slice(1), [
        "110000 a ends",
        "110000 a fails: RenewDeadlineExceeded",
        "110000 b leads"
      ])
      yield* timers.open
      yield* w.until(210_000)
      assert.strictEqual((yield* w.lease).holderIdentity, "b")
    }
  )

  test("a suspended machine: witness and wall clock end the term although the monotonic clock stood", function*(w) {
    let suspended = 0
    yield* oldLease(w)
    const clock = yield* Effect.clockWith(Effect.succeed)
    const a = yield* w.candidate("a", {
      witness: () => clock.monotonicTimeNanosUnsafe() + BigInt(suspended) * 1_000_000n,
      wallClock: () => suspended
    })
    yield* a.lead
    yield* w.until(101_000)
    assert.isTrue(yield* asProgram(a, ({ isValid }) => isValid))
    suspended = 3_600_000
    assert.isFalse(yield* asProgram(a, ({ isValid }) => isValid))
    assert.deepStrictEqual(w.timeline, ["100000 a leads"])
    // Nobody asks: its timer looks at the witness every retryPeriod.
    yield* w.until(103_000)
    assert.deepStrictEqual(w.timeline.slice(1, 2), ["102000 a ends"])
  })

  for (const [what, witness, wall] of [["the witness", 3_600_000, 0], ["the wall clock", 0, 3_600_000]] as const) {
    test(`A8 ${what} alone that jumps ends no term`, function*(w) {
      let jumped = false
      yield* oldLease(w)
      const clock = yield* Effect.clockWith(Effect.succeed)
      const a = yield* w.candidate("a", {
        witness: () => clock.monotonicTimeNanosUnsafe() + (jumped ? BigInt(witness) * 1_000_000n : 0n),
        wallClock: () => jumped ? wall : 0
      })
      yield* a.lead
      yield* w.until(101_000)
      jumped = true
      assert.isTrue(yield* asProgram(a, ({ isValid }) => isValid))
      yield* w.until(160_000)
      assert.deepStrictEqual(w.timeline, ["100000 a leads"])
    })
  }

  test("a witness that jumps does not end the lease of another", function*(w) {
    let suspended = 0n
    const a = yield* leading(w)
    const b = yield* w.candidate("b", { witness: () => suspended })
    yield* b.lead
    yield* w.until(101_000)
    suspended = 3_600_000_000_000n
    yield* w.until(200_000)
    assert.deepStrictEqual(w.timeline, ["100000 a leads"])
    yield* a.crash
    yield* w.until(215_000)
    assert.deepStrictEqual(w.timeline.slice(1), ["215000 b leads"])
  })
})

describe("confirm", () => {
  const confirm = (a: Candidate) => Effect.exit(asProgram(a, ({ confirm }) => confirm))

  test("renews now, with one request, and the next renewal follows renewInterval later", function*(w) {
    const a = yield* leading(w)
    yield* w.until(102_000)
    const before = yield* w.lease
    assert.strictEqual(reasonOf(yield* confirm(a)), "success")
    const after = yield* w.lease
    assert.strictEqual(after.resourceVersion, before.resourceVersion + 1n)
    yield* w.until(108_000)
    assert.deepStrictEqual((yield* a.requests()).slice(3), ["102000 patch", "107000 patch"])
  })

  test("waits for an attempt that begins after it was called", function*(w) {
    const a = yield* leading(w)
    yield* a.faults.next("patch", Fault.delayAnswer("1 second"))
    yield* w.until(105_500)
    const fiber = yield* Effect.forkChild(confirm(a))
    yield* w.until(106_001)
    assert.strictEqual(reasonOf(yield* Fiber.join(fiber)), "success")
    assert.deepStrictEqual((yield* a.requests("patch")).slice(1), ["105000 patch", "105500 patch"])
  })

  test("several at once share a request", function*(w) {
    const a = yield* leading(w)
    yield* w.until(102_000)
    yield* a.faults.next("patch", Fault.delayAnswer("100 millis"))
    const fibers = yield* Effect.forEach([1, 2, 3], () => Effect.forkChild(confirm(a)))
    yield* w.until(102_100)
    for (const fiber of fibers) {
      assert.strictEqual(reasonOf(yield* Fiber.join(fiber)), "success")
    }
    assert.isTrue((yield* a.requests("patch")).length <= 3)
  })

  test("fails where its attempt does, and the term goes on", function*(w) {
    const a = yield* leading(w)
    yield* w.until(102_000)
    yield* a.faults.next("patch", Fault.serverError())
    assert.strictEqual(reasonOf(yield* confirm(a)), "RenewalFailed")
    assert.isTrue(yield* asProgram(a, ({ isValid }) => isValid))
    yield* w.until(150_000)
    assert.deepStrictEqual(w.timeline, ["100000 a leads"])
  })

  test("a label that was edited unseen is no failure", function*(w) {
    const a = yield* leading(w, { settings: { watch: false } })
    yield* w.until(102_000)
    yield* w.cluster.editLease(key, { metadata: { labels: { x: "1" } } })
    assert.strictEqual(reasonOf(yield* confirm(a)), "success")
  })

  test("fails with LeadershipLost where the Lease turns out to be another's", function*(w) {
    const a = yield* leading(w, { settings: { watch: false } })
    yield* w.until(102_000)
    yield* w.cluster.editLease(key, { spec: { holderIdentity: "thief" } })
    assert.strictEqual(reasonOf(yield* confirm(a)), "LeadershipLost")
  })

  test("fails at the deadline, not later", function*(w) {
    const a = yield* leading(w)
    yield* a.faults.set({ patch: Fault.hang })
    yield* w.until(109_500)
    const fiber = yield* Effect.forkChild(confirm(a))
    yield* w.until(110_000)
    assert.strictEqual(reasonOf(yield* Fiber.join(fiber)), "LeadershipLost")
  })
})
