import { assert, describe } from "@effect/vitest"
import { Duration, Effect, Fiber } from "effect"
import * as LeaderElectionConfig from "../src/LeaderElectionConfig.ts"
import { ageMarkAnnotation, instanceAnnotation, stepDownAnnotation } from "../src/LeaseRecord.ts"
import { Fault } from "../src/testing/index.ts"
import { heldBy, key, oldLease, predecessor, released, test } from "./utils/Elections.ts"

describe("a young Lease", () => {
  test("created: held and renewed for leaseDuration; the term begins with a write that starts then", function*(w) {
    const a = yield* w.candidate("a")
    yield* a.lead
    yield* w.until(14_999)
    assert.strictEqual((yield* w.lease).holderIdentity, "a")
    assert.deepStrictEqual((yield* a.election.status)._tag, "Pending")
    yield* w.until(15_000)
    assert.deepStrictEqual(w.timeline, ["15000 a leads"])
    assert.deepStrictEqual(yield* a.requests("create", "patch"), [
      "0 create",
      "5000 patch",
      "10000 patch",
      "15000 patch"
    ])
    const lease = yield* w.lease
    const leadership = yield* a.leadership
    assert.strictEqual(leadership.fencingToken, lease.resourceVersion)
    assert.strictEqual(lease.acquireTime, 15_000_000n)
    assert.strictEqual(Duration.toMillis(yield* a.run(leadership.remaining)), 10_000)
  })

  test("the wait is logged with its reason", function*(w) {
    const a = yield* w.candidate("a")
    yield* a.lead
    yield* w.settle
    const line = w.logs.find((line) => line.includes("Holding a new Lease"))
    assert.match(
      line ?? "",
      /^Info a: Holding a new Lease before leading \(created\): it may be younger than leaseDuration/
    )
  })

  test("newLease lead: the term begins with the create", function*(w) {
    const a = yield* w.candidate("a", { settings: { newLease: "lead" } })
    yield* a.lead
    yield* w.settle
    assert.deepStrictEqual(w.timeline, ["0 a leads"])
    assert.strictEqual((yield* a.leadership).fencingToken, (yield* w.lease).resourceVersion)
  })

  test("T14 deleted under a leader: created at once, but nobody leads for leaseDuration", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const b = yield* w.candidate("b")
    yield* a.startForever(a.program())
    yield* w.settle
    yield* b.startForever(b.program())
    yield* w.until(102_000)
    yield* w.cluster.deleteLease(key)
    yield* w.settle
    const created = yield* w.lease
    yield* w.until(116_999)
    assert.deepStrictEqual(w.timeline, ["100000 a leads", "102000 a ends"])
    yield* w.until(117_000)
    assert.deepStrictEqual(w.timeline.slice(2), [`117000 ${created.holderIdentity} leads`])
  })

  test("deleted under a leader that is cut off: it has ended before another leads", function*(w) {
    const pod = yield* w.cluster.createPod({ namespace: "default", name: "web-0" })
    yield* oldLease(w)
    const a = yield* w.candidate("a", { pod })
    yield* a.lead
    yield* w.until(109_000)
    // Its node is gone for the cluster, which has its Pod force-deleted and replaced; the process still runs.
    yield* a.faults.stall
    yield* w.until(109_500)
    yield* w.cluster.deletePod({ namespace: "default", name: "web-0" })
    yield* w.until(109_600)
    assert.isUndefined(yield* w.cluster.lease(key))
    const replacement = yield* w.cluster.createPod({ namespace: "default", name: "web-0" })
    const b = yield* w.candidate("b", { pod: replacement })
    yield* b.lead
    yield* w.until(130_000)
    assert.deepStrictEqual(w.timeline, [
      "100000 a leads",
      "115000 a ends",
      "120000 a fails: RenewDeadlineExceeded",
      "124600 b leads"
    ])
  })

  const oneStep = LeaderElectionConfig.defaultsFor("30 seconds")
  const inTwoSteps = { ...LeaderElectionConfig.defaults, leaseDuration: oneStep.leaseDuration }
  for (
    const [how, settings, end] of [
      ["one step: two lead", oneStep, 120_000],
      ["two steps: it has ended before another leads", inTwoSteps, 110_000]
    ] as const
  ) {
    test(`deleted under a leader that is cut off, while leaseDuration changes in ${how}`, function*(w) {
      yield* oldLease(w)
      const a = yield* w.candidate("a", { settings })
      yield* a.lead
      yield* w.until(100_100)
      yield* a.faults.stall
      yield* w.cluster.deleteLease(key)
      const b = yield* w.candidate("b")
      yield* b.lead
      yield* w.until(130_000)
      const ends = `${end} a ends`
      const leads = "115100 b leads"
      assert.deepStrictEqual(
        w.timeline.filter((line) => line.endsWith(" ends") || line.endsWith(" leads")),
        ["100000 a leads", ...(end < 115_100 ? [ends, leads] : [leads, ends])]
      )
    })
  }

  test("taken: a released one is held at once, and led when it is old enough", function*(w) {
    yield* w.until(100_000)
    yield* w.cluster.createLease(key, released)
    yield* w.until(101_000)
    const a = yield* w.candidate("a")
    yield* a.lead
    yield* w.settle
    assert.strictEqual((yield* w.lease).holderIdentity, "a")
    yield* w.until(115_999)
    assert.deepStrictEqual(w.timeline, [])
    yield* w.until(116_000)
    assert.deepStrictEqual(w.timeline, ["116000 a leads"])
  })

  test("resumed: the same", function*(w) {
    yield* w.until(100_000)
    yield* w.cluster.createLease(key, heldBy("a", 15, predecessor("a")))
    yield* w.until(101_000)
    const a = yield* w.candidate("a")
    yield* a.lead
    yield* w.settle
    assert.match((yield* w.lease).annotations[instanceAnnotation] ?? "", /^101000000-/)
    yield* w.until(130_000)
    assert.deepStrictEqual(w.timeline, ["116000 a leads"])
  })

  test("who has seen the object for leaseDuration leads when it takes it", function*(w) {
    yield* w.until(100_000)
    const a = yield* w.candidate("a")
    yield* w.cluster.createLease(key, heldBy("other", 15))
    yield* a.lead
    yield* w.until(114_999)
    assert.strictEqual((yield* w.lease).holderIdentity, "other")
    yield* w.until(115_000)
    assert.deepStrictEqual(w.timeline, ["115000 a leads"])
  })

  test("a shorter duration of its holder does not make it older", function*(w) {
    yield* w.until(100_000)
    yield* w.cluster.createLease(key, heldBy("other", 2))
    const a = yield* w.candidate("a")
    yield* a.lead
    yield* w.until(102_000)
    assert.strictEqual((yield* w.lease).holderIdentity, "a")
    yield* w.until(130_000)
    assert.deepStrictEqual(w.timeline, ["115000 a leads"])
  })

  for (const age of [0, 14_999, 15_000, 30_000, 3_600_000]) {
    test(
      `a candidate that has just started waits for one of ${age / 1000} s: no clock of a server counts`,
      function*(w) {
        yield* w.until(100_000)
        yield* w.cluster.createLease(key, released)
        yield* w.until(100_000 + age)
        // A wall clock that is a day off takes no part.
        const a = yield* w.candidate("a", { wallClock: () => 86_400_000 })
        yield* a.lead
        yield* w.until(100_000 + age + 14_999)
        assert.deepStrictEqual(w.timeline, [])
        yield* w.until(100_000 + age + 15_000)
        assert.deepStrictEqual(w.timeline, [`${100_000 + age + 15_000} a leads`])
      }
    )
  }

  test(
    "the age mark is written with the write that begins the term, and the next candidate leads at once",
    function*(w) {
      const a = yield* w.candidate("a")
      const first = yield* a.lead
      yield* w.until(14_999)
      assert.isUndefined((yield* w.lease).annotations[ageMarkAnnotation])
      yield* w.until(15_000)
      const { annotations, uid } = yield* w.lease
      assert.strictEqual(annotations[ageMarkAnnotation], uid)
      yield* w.until(20_000)
      yield* Fiber.interrupt(first)
      // A release keeps it.
      assert.strictEqual((yield* w.lease).annotations[ageMarkAnnotation], uid)
      const b = yield* w.candidate("b")
      yield* b.lead
      yield* w.settle
      assert.deepStrictEqual(w.timeline.filter((line) => line.endsWith("leads")), ["15000 a leads", "20000 b leads"])
    }
  )

  test("a mark that was copied to another object counts for nothing", function*(w) {
    yield* oldLease(w)
    const { annotations } = yield* w.lease
    yield* w.cluster.deleteLease(key)
    yield* w.cluster.createLease(key, { ...released, metadata: { annotations } })
    const a = yield* w.candidate("a")
    yield* a.lead
    yield* w.until(114_999)
    assert.deepStrictEqual(w.timeline, [])
    yield* w.until(115_000)
    assert.deepStrictEqual(w.timeline, ["115000 a leads"])
    const lease = yield* w.lease
    assert.strictEqual(lease.annotations[ageMarkAnnotation], lease.uid)
  })

  test("a mark that somebody removes is written again with the next renewal", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    yield* a.lead
    yield* w.until(102_000)
    yield* w.cluster.editLease(key, { metadata: { annotations: { [ageMarkAnnotation]: null } } })
    yield* w.until(106_000)
    const lease = yield* w.lease
    assert.strictEqual(lease.annotations[ageMarkAnnotation], lease.uid)
  })

  test(
    "leading alone gives no right to the mark: newLease lead writes it when it has seen it for leaseDuration",
    function*(w) {
      const a = yield* w.candidate("a", { settings: { newLease: "lead" } })
      yield* a.lead
      yield* w.until(14_999)
      assert.isUndefined((yield* w.lease).annotations[ageMarkAnnotation])
      yield* w.until(15_000)
      const lease = yield* w.lease
      assert.strictEqual(lease.annotations[ageMarkAnnotation], lease.uid)
      assert.deepStrictEqual(w.timeline, ["0 a leads"])
    }
  )

  test("released or taken over during the wait, its age counts on", function*(w) {
    const a = yield* w.candidate("a")
    const b = yield* w.candidate("b")
    const c = yield* w.candidate("c")
    const first = yield* a.lead
    yield* w.settle
    const second = yield* b.lead
    yield* w.settle
    yield* c.lead
    yield* w.until(5000)
    yield* Fiber.interrupt(first)
    yield* w.settle
    const { holderIdentity } = yield* w.lease
    assert.include(["b", "c"], holderIdentity)
    yield* w.until(10_000)
    if (holderIdentity === "b") {
      yield* Fiber.interrupt(second)
    }
    yield* w.until(30_000)
    assert.deepStrictEqual(w.timeline, ["15000 c leads"])
  })

  test("deleted during the wait, the next one is waited for anew", function*(w) {
    const a = yield* w.candidate("a")
    yield* a.lead
    yield* w.until(14_000)
    yield* w.cluster.deleteLease(key)
    yield* w.until(28_999)
    assert.deepStrictEqual(w.timeline, [])
    yield* w.until(29_000)
    assert.deepStrictEqual(w.timeline, ["29000 a leads"])
  })

  test("its holder lets go at once where it is asked to step down, and never begins that term", function*(w) {
    const a = yield* w.candidate("a")
    const b = yield* w.candidate("b")
    yield* a.startForever(a.program())
    yield* w.until(3000)
    assert.strictEqual((yield* a.election.status)._tag, "Pending")
    yield* b.startForever(b.program())
    yield* w.settle
    const instance = (yield* w.lease).annotations[instanceAnnotation]!
    yield* w.cluster.editLease(key, { metadata: { annotations: { [stepDownAnnotation]: instance } } })
    yield* w.settle
    assert.strictEqual((yield* w.lease).holderIdentity, "b")
    assert.strictEqual((yield* a.election.status)._tag, "Following")
    assert.deepStrictEqual(w.logs.filter((line) => /before the term began|Released/.test(line)), [
      "Info a: Asked to step down before the term began",
      "Info a: Released the Lease"
    ])
    yield* w.until(60_000)
    assert.deepStrictEqual(w.timeline, ["18000 b leads"])
  })

  test("its holder that stepped down alone holds it again after leaseDuration", function*(w) {
    const a = yield* w.candidate("a")
    yield* a.startForever(a.program())
    yield* w.until(3000)
    const instance = (yield* w.lease).annotations[instanceAnnotation]!
    yield* w.cluster.editLease(key, { metadata: { annotations: { [stepDownAnnotation]: instance } } })
    yield* w.until(17_999)
    assert.strictEqual((yield* w.lease).holderIdentity, "")
    yield* w.until(60_000)
    assert.deepStrictEqual(w.timeline, ["18000 a leads"])
  })

  test("taken from its holder during the wait: it follows", function*(w) {
    const a = yield* w.candidate("a")
    yield* a.lead
    yield* w.until(6000)
    yield* w.cluster.editLease(key, heldBy("thief", 60))
    yield* w.settle
    assert.strictEqual((yield* a.election.status)._tag, "Following")
    yield* w.until(66_000)
    assert.deepStrictEqual(w.timeline, ["66000 a leads"])
    assert.isTrue(w.logs.some((line) => line.includes("Lost the Lease before the term began")))
  })

  test("the write that begins the term has to start when it is old enough, and to succeed", function*(w) {
    const a = yield* w.candidate("a")
    yield* a.lead
    yield* w.until(9000)
    // Attempts: 10 s lost, 12 s lost, 14 s applied, and answered at 15.5 s: it began too early. 15 s lost.
    yield* a.faults.next("patch", Fault.dropRequest, 2)
    yield* a.faults.next("patch", Fault.delayAnswer("1500 millis"))
    yield* a.faults.next("patch", Fault.dropRequest)
    yield* w.until(15_499)
    assert.deepStrictEqual(w.timeline, [])
    yield* w.until(20_000)
    assert.deepStrictEqual((yield* a.requests("patch")).slice(1, 6), [
      "10000 patch",
      "12000 patch",
      "14000 patch",
      "15000 patch",
      "17000 patch"
    ])
    assert.deepStrictEqual(w.timeline, ["17000 a leads"])
  })

  test("an answer to that write that comes after the deadline begins nothing", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a", { settings: { requestTimeout: Duration.seconds(2) } })
    yield* a.faults.pause
    yield* a.lead
    yield* w.until(101_000)
    yield* a.faults.restore
    yield* w.until(110_000)
    assert.deepStrictEqual(w.timeline, ["101000 a leads"])
    assert.strictEqual((yield* a.leadership).fencingToken, (yield* w.cluster.commits)[2]?.lease.resourceVersion)
  })

  test(
    "whoever cannot be reached during the wait leads when the connection is back, with a write of then",
    function*(w) {
      const a = yield* w.candidate("a")
      yield* a.lead
      yield* w.until(7000)
      yield* a.faults.refuse
      yield* w.until(20_100)
      yield* a.faults.restore
      yield* w.until(30_000)
      // Without success for renewDeadline it is a candidate again, at 15 s, and waits for the lease's end like everybody.
      assert.deepStrictEqual(w.timeline, ["22000 a leads"])
    }
  )

  test("a duplicate identity during the wait ends the campaign", function*(w) {
    const a = yield* w.candidate("a")
    yield* a.lead
    yield* w.until(6000)
    yield* w.cluster.editLease(key, { metadata: { annotations: { [instanceAnnotation]: "9999999999999-x" } } })
    yield* w.until(7000)
    assert.deepStrictEqual(w.timeline, ["6000 a fails: DuplicateIdentity"])
    assert.strictEqual((yield* w.lease).holderIdentity, "a")
  })
})

describe("T30 fencing tokens", () => {
  test("grow from term to term: release, takeover, deletion, resume, loss", function*(w) {
    yield* oldLease(w)
    const tokens: Array<bigint> = []
    const a = yield* w.candidate("a")
    const b = yield* w.candidate("b")
    const note = (candidate: typeof a) =>
      Effect.map(candidate.leadership, ({ fencingToken }) => tokens.push(fencingToken))

    let leading = yield* a.lead
    yield* w.until(110_000)
    yield* note(a)
    const following = yield* b.lead
    yield* w.settle
    yield* Fiber.interrupt(leading)
    yield* w.until(120_000)
    yield* note(b)
    // b crashes, a takes over.
    leading = yield* a.lead
    yield* w.until(130_000)
    yield* b.crash
    yield* w.until(150_000)
    yield* note(a)
    following.interruptUnsafe()
    // Deleted and created again.
    yield* w.cluster.deleteLease(key)
    yield* w.until(151_000)
    leading = yield* a.lead
    yield* w.until(170_000)
    yield* note(a)
    // A new container of its Pod resumes.
    const restarted = yield* w.candidate("a2", { identity: "a" })
    yield* a.crash
    yield* restarted.lead
    yield* w.until(190_000)
    yield* note(restarted)

    assert.strictEqual(tokens.length, 5)
    assert.deepStrictEqual(tokens, [...new Set(tokens)].sort((x, y) => Number(x - y)))
    assert.deepStrictEqual(
      w.timeline.filter((line) => line.endsWith("leads")).map((line) => line.split(" ")[1]),
      ["a", "b", "a", "a", "a2"]
    )
  })

  test("transitions count takeovers, and neither renewals nor resumes", function*(w) {
    yield* w.createOld(heldBy("other", 15))
    const a = yield* w.candidate("a")
    yield* a.startForever(a.program())
    yield* w.until(120_000)
    assert.strictEqual((yield* a.leadership).transitions, 4)
    yield* a.crash
    const again = yield* w.candidate("a", {})
    yield* again.lead
    yield* w.until(121_000)
    assert.strictEqual((yield* again.leadership).transitions, 4)
  })

  test("transitions stay at the greatest number there is", function*(w) {
    yield* w.createOld({ spec: { ...released.spec, leaseTransitions: 2 ** 31 - 1 } })
    const a = yield* w.candidate("a")
    yield* a.lead
    yield* w.settle
    assert.strictEqual((yield* a.leadership).transitions, 2 ** 31 - 1)
  })
})
