import { assert, describe } from "@effect/vitest"
import { Duration, Effect, Fiber, Latch, Random } from "effect"
import * as LeaderElectionConfig from "../src/LeaderElectionConfig.ts"
import { instanceAnnotation } from "../src/LeaseRecord.ts"
import { Fault } from "../src/testing/index.ts"
import { heldBy, key, oldLease, predecessor, released, test } from "./utils/Elections.ts"

describe("whose duration", () => {
  test(
    "T8 a crashed leader is replaced at the lease's end, to the millisecond, however long others have waited",
    function*(w) {
      yield* oldLease(w)
      const a = yield* w.candidate("a")
      const b = yield* w.candidate("b")
      yield* a.lead
      yield* w.until(101_000)
      yield* b.lead
      yield* w.until(300_000 + 2345)
      // The last renewal began, and was seen, at 300000.
      yield* a.crash
      yield* w.until(314_999)
      assert.deepStrictEqual(w.timeline, ["100000 a leads"])
      yield* w.until(315_000)
      assert.deepStrictEqual(w.timeline, ["100000 a leads", "315000 b leads"])
    }
  )

  for (const [how, seconds] of [["longer", 40], ["shorter", 3], ["equal", 15]] as const) {
    test(`T6 the holder's ${how} one counts`, function*(w) {
      yield* w.createOld(heldBy("other", seconds))
      const a = yield* w.candidate("a")
      yield* a.lead
      yield* w.until(100_000 + seconds * 1000 - 1)
      assert.deepStrictEqual(w.timeline, [])
      yield* w.until(100_000 + seconds * 1000)
      assert.deepStrictEqual(w.timeline, [`${100_000 + seconds * 1000} a leads`])
      assert.strictEqual((yield* w.lease).leaseDurationSeconds, 15)
    })
  }

  test("T6 a holder that writes another duration is waited for by the new one, from that write", function*(w) {
    yield* w.createOld(heldBy("other", 60))
    const a = yield* w.candidate("a")
    yield* a.lead
    yield* w.until(110_000)
    yield* w.cluster.editLease(key, { spec: { leaseDurationSeconds: 5, renewTime: "2026-11-22T12:00:01.000000Z" } })
    yield* w.until(120_000)
    assert.deepStrictEqual(w.timeline, ["115000 a leads"])
  })

  test("a duration that somebody else shortens is not believed: its leader may be cut off, and valid", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const b = yield* w.candidate("b")
    yield* a.lead
    yield* b.lead
    yield* w.until(106_000)
    yield* a.faults.stall
    for (const spec of [{ leaseDurationSeconds: 2 }, { leaseDurationSeconds: null }, { holderIdentity: null }]) {
      yield* w.cluster.editLease(key, { spec })
      yield* w.until((yield* w.now) + 100)
    }
    yield* w.until(130_000)
    // 15 s after the last edit, and never beside the leader, which was valid to 115 s.
    assert.deepStrictEqual(w.timeline.filter((line) => !line.includes("fails")), [
      "100000 a leads",
      "115000 a ends",
      "121200 b leads"
    ])
  })

  const incomplete: ReadonlyArray<[string, object]> = [
    ["no duration", { holderIdentity: "other", renewTime: "2026-11-22T12:00:00.000000Z" }],
    ["nothing but a holder", { holderIdentity: "other" }],
    ["a null duration and null times", {
      holderIdentity: "other",
      leaseDurationSeconds: null,
      renewTime: null,
      acquireTime: null
    }],
    ["an empty holder", { holderIdentity: "", leaseDurationSeconds: 30 }],
    ["a null holder", { holderIdentity: null, leaseDurationSeconds: 30 }],
    ["a holder missing", { leaseDurationSeconds: 30 }],
    ["an empty spec", {}]
  ]
  for (const [what, spec] of incomplete) {
    test(`T7 a Lease with ${what} is taken after my leaseDuration without a change`, function*(w) {
      yield* w.createOld({ spec: { ...spec } })
      const a = yield* w.candidate("a")
      yield* a.lead
      yield* w.until(114_999)
      assert.deepStrictEqual(w.timeline, [])
      yield* w.until(115_000)
      assert.deepStrictEqual(w.timeline, ["115000 a leads"])
    })
  }

  for (const holder of ["", null, undefined]) {
    test(`T7 a released Lease (holder ${JSON.stringify(holder)}, 1 s) is taken at once`, function*(w) {
      yield* w.createOld({
        spec: { leaseDurationSeconds: 1, ...(holder !== undefined && { holderIdentity: holder }) }
      })
      const a = yield* w.candidate("a")
      yield* a.lead
      yield* w.settle
      assert.deepStrictEqual(w.timeline, ["100000 a leads"])
    })
  }

  test("T7 a lease of 1 s that has a holder is no released one", function*(w) {
    yield* w.createOld(heldBy("other", 1))
    const a = yield* w.candidate("a")
    yield* a.lead
    yield* w.until(110_000)
    assert.deepStrictEqual(w.timeline, ["101000 a leads"])
  })

  test(
    "T7 a live lease emptied in place is left alone for leaseDuration, and its leader has ended by then",
    function*(w) {
      yield* oldLease(w)
      const a = yield* w.candidate("a")
      const b = yield* w.candidate("b")
      yield* a.lead
      yield* w.settle
      yield* b.lead
      yield* w.until(104_000)
      yield* w.cluster.emptyLease(key)
      yield* w.until(130_000)
      assert.deepStrictEqual(w.timeline, [
        "100000 a leads",
        "104000 a ends",
        "104000 a fails: LeaseTaken",
        "119000 b leads"
      ])
    }
  )

  test("A4 the shortest lease whose holder is removed by hand is not taken for a released one", function*(w) {
    yield* oldLease(w)
    const settings = LeaderElectionConfig.defaultsFor("2 seconds")
    const a = yield* w.candidate("a", { settings })
    const b = yield* w.candidate("b", { settings })
    yield* a.lead
    yield* w.until(100_100)
    yield* b.lead
    yield* w.until(103_000)
    yield* a.faults.stall
    yield* w.cluster.editLease(key, { spec: { holderIdentity: null } })
    yield* w.until(110_000)
    assert.deepStrictEqual(w.timeline.filter((line) => /ends|leads/.test(line)).map((line) => line.slice(7)), [
      "a leads",
      "a ends",
      "b leads"
    ])
    assert.strictEqual(w.timeline.at(-1), "105000 b leads")
  })

  test("T7 any change of a Lease without holder begins the wait anew", function*(w) {
    yield* w.createOld({ spec: {} })
    const a = yield* w.candidate("a")
    yield* a.lead
    yield* w.until(110_000)
    yield* w.cluster.editLease(key, { metadata: { labels: { x: "1" } } })
    yield* w.until(130_000)
    assert.deepStrictEqual(w.timeline, ["125000 a leads"])
  })
})

describe("signs of life", () => {
  test("a label edited on a dead leader's lease does not prolong it", function*(w) {
    yield* w.createOld(heldBy("dead", 15))
    const a = yield* w.candidate("a")
    yield* a.lead
    for (let at = 101_000; at < 115_000; at += 1000) {
      yield* w.until(at)
      yield* w.cluster.editLease(key, {
        metadata: { labels: { touched: String(at) }, annotations: { seen: String(at) } }
      })
    }
    yield* w.until(115_000)
    assert.deepStrictEqual(w.timeline, ["115000 a leads"])
    const lease = yield* w.lease
    assert.deepStrictEqual(lease.labels, { touched: "114000" })
    assert.strictEqual(lease.annotations["seen"], "114000")
  })

  test("the collector removing a dangling reference does not prolong it either", function*(w) {
    const pod = yield* w.cluster.createPod({ namespace: "default", name: "p" })
    yield* w.createOld({
      ...heldBy("dead", 15),
      metadata: {
        ownerReferences: [
          { apiVersion: "v1", kind: "Pod", name: "p", uid: pod.uid },
          { apiVersion: "example.com/v1", kind: "Foo", name: "f", uid: "1234" }
        ]
      }
    })
    const a = yield* w.candidate("a")
    yield* a.lead
    yield* w.until(110_000)
    yield* w.cluster.deletePod({ namespace: "default", name: "p" })
    yield* w.until(110_100)
    assert.strictEqual((yield* w.lease).ownerReferences.length, 1)
    yield* w.until(120_000)
    assert.deepStrictEqual(w.timeline, ["115000 a leads"])
  })

  const signs: ReadonlyArray<[string, object]> = [
    ["renewTime", { spec: { renewTime: "2026-11-22T12:00:05.000000Z" } }],
    ["renewTime in the past", { spec: { renewTime: "1999-11-22T12:00:05.000000Z" } }],
    ["acquireTime", { spec: { acquireTime: "2026-11-22T12:00:05.000000Z" } }],
    ["leaseTransitions", { spec: { leaseTransitions: 9 } }],
    ["holderIdentity", { spec: { holderIdentity: "next" } }],
    ["instance annotation", { metadata: { annotations: { [instanceAnnotation]: "5-abc" } } }]
  ]
  for (const [what, edit] of signs) {
    test(`another ${what} does`, function*(w) {
      yield* w.createOld(heldBy("other", 15))
      const a = yield* w.candidate("a")
      yield* a.lead
      yield* w.until(110_000)
      yield* w.cluster.editLease(key, edit)
      yield* w.until(130_000)
      assert.deepStrictEqual(w.timeline, ["125000 a leads"])
    })
  }

  test("after a stall, what has arrived meanwhile is handled before expiry is decided", function*(w) {
    yield* oldLease(w)
    const timers = yield* Latch.make(true)
    const a = yield* w.candidate("a")
    const b = yield* w.candidate("b", { timers })
    yield* a.lead
    yield* w.settle
    yield* b.lead
    yield* w.until(103_000)
    yield* timers.close
    yield* b.faults.pause
    yield* w.until(163_000)
    // The timers of the process fire first, and then it reads from its sockets.
    yield* timers.open
    yield* w.settle
    yield* b.faults.restore
    yield* w.until(170_000)
    assert.deepStrictEqual(w.timeline, ["100000 a leads"])
    assert.deepStrictEqual(yield* b.requests("patch"), [])
    yield* a.crash
    yield* w.until(185_000)
    assert.deepStrictEqual(w.timeline, ["100000 a leads", "185000 b leads"])
  })
})

describe("clocks", () => {
  for (const hours of [1, -1]) {
    test(`T5 a candidate whose wall clock is ${hours} h off neither takes too early nor too late`, function*(w) {
      yield* oldLease(w)
      const a = yield* w.candidate("a")
      const b = yield* w.candidate("b", { wallClock: () => hours * 3_600_000 })
      yield* a.lead
      yield* w.settle
      yield* b.lead
      yield* w.until(500_000)
      assert.deepStrictEqual(w.timeline, ["100000 a leads"])
      yield* a.crash
      yield* w.until(514_999)
      assert.deepStrictEqual(w.timeline, ["100000 a leads"])
      yield* w.until(515_000)
      assert.deepStrictEqual(w.timeline, ["100000 a leads", "515000 b leads"])
      yield* w.until(600_000)
      assert.deepStrictEqual(w.timeline.slice(2), [])
    })

    test(
      `T5 a leader whose wall clock steps by ${hours} h in mid-term keeps it, and loses it as late as ever`,
      function*(w) {
        yield* oldLease(w)
        let ahead = 0
        const a = yield* w.candidate("a", { wallClock: () => ahead })
        const b = yield* w.candidate("b")
        yield* a.lead
        yield* w.settle
        yield* b.lead
        yield* w.until(152_000)
        ahead = hours * 3_600_000
        yield* w.until(300_000)
        assert.deepStrictEqual(w.timeline, ["100000 a leads"])
        yield* a.faults.stall
        yield* w.until(310_000)
        assert.deepStrictEqual(w.timeline.slice(1), ["310000 a ends"])
        yield* w.until(314_999)
        assert.deepStrictEqual(w.timeline.slice(2), [])
        yield* w.until(315_000)
        assert.isTrue(w.timeline.includes("315000 b leads"))
      }
    )
  }

  test("T5 every renewal of a leader whose clock stands still or goes back is a sign of life", function*(w) {
    yield* oldLease(w)
    const start = 100_000
    let ahead = () => 0
    const a = yield* w.candidate("a", { wallClock: () => ahead() })
    const b = yield* w.candidate("b")
    yield* a.lead
    yield* w.settle
    yield* b.lead
    // Its wall clock stands, then runs backwards.
    let now = start
    ahead = () => start - now
    for (now = start; now < start + 120_000; now += 1000) {
      yield* w.until(now)
    }
    const stood = (yield* w.lease).renewTime
    ahead = () => 2 * (start - now)
    for (; now < start + 240_000; now += 1000) {
      yield* w.until(now)
    }
    assert.deepStrictEqual(w.timeline, ["100000 a leads"])
    const times = (yield* w.cluster.commits).flatMap(({ lease }) =>
      lease.holderIdentity === "a" ? [lease.renewTime ?? 0n] : []
    )
    assert.strictEqual(new Set(times).size, times.length)
    assert.isTrue(times.length > 40 && stood !== undefined)
  })
})

describe("who am I", () => {
  test("T3 a Pod of the same name with another uid is another candidate", function*(w) {
    yield* w.createOld(heldBy("web-0_uid-1", 15, predecessor("web-0_uid-1")))
    const a = yield* w.candidate("web-0", { identity: "web-0_uid-2" })
    yield* a.lead
    yield* w.until(114_999)
    assert.deepStrictEqual(w.timeline, [])
    yield* w.until(115_000)
    assert.deepStrictEqual(w.timeline, ["115000 web-0 leads"])
  })

  test("T4 a restarted container of the same Pod resumes at once, by a guarded write", function*(w) {
    yield* w.createOld(heldBy("web-0_uid-1", 15, predecessor("web-0_uid-1")))
    const before = yield* w.lease
    const a = yield* w.candidate("web-0", { identity: "web-0_uid-1", settings: { watch: false } })
    yield* a.faults.next("patch", Fault.delayAnswer("300 millis"))
    yield* a.lead
    yield* w.until(100_299)
    assert.deepStrictEqual(w.timeline, [])
    yield* w.until(100_300)
    assert.deepStrictEqual(w.timeline, ["100300 web-0 leads"])
    const lease = yield* w.lease
    const leadership = yield* a.leadership
    assert.strictEqual(leadership.fencingToken, lease.resourceVersion)
    assert.isTrue(leadership.fencingToken > before.resourceVersion)
    assert.strictEqual(lease.leaseTransitions, before.leaseTransitions)
    assert.match(lease.annotations[instanceAnnotation] ?? "", /^100000000-/)
    const write = (yield* a.faults.log).find(({ verb }) => verb === "patch")
    assert.strictEqual(write?.resourceVersion, before.resourceVersion)
  })

  test("T4 a resume whose write conflicts is no term", function*(w) {
    yield* w.createOld(heldBy("web-0_uid-1", 15, predecessor("web-0_uid-1")))
    const a = yield* w.candidate("web-0", { identity: "web-0_uid-1" })
    yield* a.faults.next("patch", Fault.delayRequest("100 millis"))
    yield* a.lead
    yield* w.settle
    yield* w.cluster.editLease(key, { spec: { holderIdentity: "other" } })
    yield* w.until(114_999)
    assert.deepStrictEqual(w.timeline, [])
    yield* w.until(115_000)
    assert.deepStrictEqual(w.timeline, ["115000 web-0 leads"])
  })

  for (const watch of [true, false]) {
    test(`a take whose answer was lost counts from its start when it is read back (watch: ${watch})`, function*(w) {
      yield* oldLease(w)
      const a = yield* w.candidate("a", { settings: { watch } })
      yield* a.faults.next("patch", Fault.hangAfterCommit)
      yield* a.lead
      yield* w.until(103_000)
      assert.match(w.timeline.join(), watch ? /^10[02]000 a leads$/ : /^102000 a leads$/)
      const leadership = yield* a.leadership
      const lease = yield* w.lease
      assert.strictEqual(leadership.fencingToken, lease.resourceVersion)
      assert.strictEqual(lease.renewTime, 100_000_000n)
      assert.strictEqual(Duration.toMillis(yield* a.run(leadership.remaining)), 7000)
    })
  }

  test(
    "T12 a take whose answer is handled after its validity is no term: its lease runs out, and another write is one",
    function*(w) {
      yield* oldLease(w)
      const timers = yield* Latch.make(true)
      const a = yield* w.candidate("a", { timers, settings: { watch: false } })
      yield* timers.close
      yield* a.faults.next("patch", Fault.delayAnswer("11 seconds"))
      yield* a.lead
      yield* w.until(114_999)
      assert.deepStrictEqual(w.timeline, [])
      yield* timers.open
      yield* w.until(128_000)
      assert.deepStrictEqual(w.timeline, ["126000 a leads"])
      const leadership = yield* a.leadership
      assert.isTrue(yield* a.run(leadership.isValid))
      assert.strictEqual(leadership.fencingToken, (yield* w.lease).resourceVersion)
      assert.deepStrictEqual(yield* a.requests("patch"), ["100000 patch", "126000 patch"])
    }
  )

  test("T4 an instance that started later than mine is another holder, reported once", function*(w) {
    yield* w.createOld(heldBy("web-0_uid-1", 15, "999999999999-a"))
    const a = yield* w.candidate("web-0", { identity: "web-0_uid-1" })
    yield* a.lead
    yield* w.until(105_000)
    yield* w.cluster.editLease(key, { spec: { renewTime: "2026-11-22T12:00:05.000000Z" } })
    yield* w.until(119_999)
    assert.deepStrictEqual(w.timeline, [])
    yield* w.until(120_000)
    assert.deepStrictEqual(w.timeline, ["120000 web-0 leads"])
    const reports = w.logs.filter((line) => line.startsWith("Error"))
    assert.strictEqual(reports.length, 1)
    assert.match(reports[0] ?? "", /web-0_uid-1.*give each process its own/)
  })

  test("a second process of one identity takes the Lease from the first, which fails for good", function*(w) {
    yield* oldLease(w)
    const first = yield* w.candidate("first", { identity: "same" })
    const second = yield* w.candidate("second", { identity: "same" })
    yield* first.startForever(first.program())
    yield* w.until(101_000)
    yield* second.startForever(second.program())
    yield* w.until(200_000)
    assert.deepStrictEqual(w.timeline, [
      "100000 first leads",
      "101000 second leads",
      "101000 first ends",
      "101000 first fails: DuplicateIdentity"
    ])
    assert.strictEqual(yield* second.run((yield* second.leadership).isValid), true)
  })

  test("whileLeading tells a duplicate identity as the cause of the loss", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    yield* a.lead
    yield* w.until(101_000)
    yield* w.cluster.editLease(key, { metadata: { annotations: { [instanceAnnotation]: "999999999999-x" } } })
    yield* w.until(110_000)
    assert.deepStrictEqual(w.timeline, ["100000 a leads", "101000 a ends", "101000 a fails: DuplicateIdentity"])
    // Not ours to release.
    assert.strictEqual((yield* w.lease).holderIdentity, "a")
  })
})

describe("many candidates", () => {
  test("T1 of two that see the same expired Lease exactly one wins, 200 times", function*(w) {
    const a = yield* w.candidate("a")
    const b = yield* w.candidate("b")
    yield* w.createOld(released)
    for (let round = 0; round < 200; round++) {
      yield* w.cluster.editLease(key, heldBy(`dead ${round}`, 15))
      const before = w.timeline.length
      const fibers = [yield* a.lead, yield* b.lead]
      // Both requests are under way before either is answered.
      yield* a.faults.next("patch", Fault.delayRequest(`${1 + round % 3} millis`))
      yield* b.faults.next("patch", Fault.delayRequest("2 millis"))
      yield* w.until((yield* w.now) + 15_010)
      const leads = w.timeline.slice(before)
      assert.strictEqual(leads.length, 1, leads.join(", "))
      const [winner] = leads.map((line) => line.split(" ")[1])
      const lease = yield* w.lease
      assert.strictEqual(lease.holderIdentity, winner)
      yield* Effect.forEach(fibers, Fiber.interrupt)
      yield* a.faults.clear
      yield* b.faults.clear
    }
  })

  test("T2 a stale leader that wakes up cannot touch its successor's Lease", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const b = yield* w.candidate("b")
    yield* a.lead
    yield* w.settle
    yield* b.lead
    yield* w.until(104_000)
    // Its next renewal is on its way for a minute, and a hears nothing any more.
    yield* a.faults.silenceWatches
    yield* a.faults.next("patch", Fault.delayRequest("60 seconds"))
    yield* a.faults.set({ patch: Fault.hang, get: Fault.hang })
    yield* w.until(200_000)
    assert.deepStrictEqual(w.timeline, [
      "100000 a leads",
      "110000 a ends",
      "115000 b leads",
      "115000 a fails: RenewDeadlineExceeded"
    ])
    const foreign = (yield* w.cluster.commits).filter(({ at, lease }) => at > 115_000 && lease.holderIdentity !== "b")
    assert.deepStrictEqual(foreign, [])
    assert.strictEqual((yield* w.lease).leaseDurationSeconds, 15)
  })

  test("T29 those who cannot watch poll at times of their own", function*(w) {
    yield* w.createOld(heldBy("other", 3600))
    const a = yield* w.candidate("a", { settings: { watch: false } })
    yield* Random.withSeed(a.lead, "any")
    yield* w.until(200_000)
    const gets = (yield* a.requests()).map((line) => Number(line.split(" ")[0]))
    assert.isTrue((yield* a.requests()).every((line) => line.endsWith("get")))
    const gaps = gets.slice(1).map((at, index) => at - gets[index]!)
    assert.isTrue(gaps.every((gap) => gap >= 1600 && gap <= 2001), gaps.join(" "))
    assert.isTrue(new Set(gaps).size > 20)
  })
})
