import { assert, describe } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { LeaseExpired, LeaseForbidden } from "../src/LeaseError.ts"
import { Fault } from "../src/testing/index.ts"
import { heldBy, key, oldLease, test, type World } from "./utils/Elections.ts"

/** A leader from 100 s on, and a follower. */
const pair = Effect.fnUntraced(function*(w: World, options?: Parameters<World["candidate"]>[1]) {
  yield* oldLease(w)
  const a = yield* w.candidate("a")
  const b = yield* w.candidate("b", options)
  const leading = yield* a.lead
  yield* w.settle
  return { a, b, leading }
})

const at = (line: string | undefined) => Number.parseInt(line ?? "")

describe("B10 a watch that is cut", () => {
  test("each minute, as by a load balancer, is opened again at once and without a word", function*(w) {
    const { b } = yield* pair(w)
    yield* b.lead
    for (let minute = 1; minute <= 5; minute++) {
      yield* w.until(100_000 + minute * 60_000)
      yield* b.faults.cutWatches
    }
    yield* w.until(401_000)
    assert.deepStrictEqual(
      (yield* b.requests("watch")).map(at),
      [100_000, 160_000, 220_000, 280_000, 340_000, 400_000]
    )
    assert.deepStrictEqual(w.logs.filter((line) => !line.startsWith("Debug") && line.includes("watch")), [])
    assert.deepStrictEqual(w.logs.filter((line) => line.includes("succeed again")), [])
  })

  test("and cannot be opened again is worth one warning", function*(w) {
    const { b } = yield* pair(w)
    yield* b.lead
    yield* w.until(160_000)
    yield* b.faults.set({ watch: Fault.refused })
    yield* b.faults.cutWatches
    yield* w.until(160_500)
    assert.strictEqual(w.logs.filter((line) => line.startsWith("Warn b") && line.includes("watch lease")).length, 1)
  })
})

describe("T15 a watch that is not granted", () => {
  test("B9 is replaced by polling with jitter, and tried again each minute", function*(w) {
    const { b } = yield* pair(w)
    yield* b.faults.set({
      watch: Fault.fail(new LeaseForbidden({ message: "cannot watch", anonymous: false, ownerReferences: false }))
    })
    yield* b.lead
    yield* w.until(221_000)
    assert.deepStrictEqual(yield* b.requests("watch"), ["100000 watch", "160000 watch", "220000 watch"])
    const gets = (yield* b.requests("get")).map(at)
    const gaps = gets.slice(1).map((time, index) => time - gets[index]!)
    assert.isTrue(gaps.every((gap) => gap >= 1600 && gap <= 2001), gaps.join(" "))
    assert.isTrue(new Set(gaps).size > 20)
    assert.strictEqual(w.logs.filter((line) => line.startsWith("Warn b") && line.includes("watch lease")).length, 1)
  })

  test("B9 is one line however long it lasts, and nothing is said to succeed again", function*(w) {
    const { b } = yield* pair(w)
    yield* b.faults.set({ watch: Fault.forbidden })
    yield* b.lead
    yield* w.until(1_000_000)
    assert.isAtLeast((yield* b.requests("watch")).length, 15)
    const lines = w.logs.filter((line) => / b: .*(watch|succeed again)/.test(line) && !line.startsWith("Debug"))
    assert.strictEqual(lines.length, 1, lines.join("\n"))
    // What else fails meanwhile is said, and forgotten when it has passed; the watch is still refused.
    yield* b.faults.next("get", Fault.serverError())
    yield* w.until(1_100_000)
    const later = w.logs.filter((line) => / b: .*(watch|get|succeed again)/.test(line) && !line.startsWith("Debug"))
    assert.deepStrictEqual(later.slice(1).map((line) => line.replace(/: (get lease|500).*/s, "")), [
      "Warn b: Request failed",
      "Info b: Requests succeed again: get"
    ])
  })

  test("does not keep anybody from taking over at the lease's end", function*(w) {
    const { a, b } = yield* pair(w)
    yield* b.faults.set({ watch: Fault.forbidden })
    yield* b.lead
    yield* w.until(151_000)
    yield* a.crash
    yield* w.until(180_000)
    // The renewal at 150 s was seen by a poll within retryPeriod; the end is a timer, and no poll later.
    assert.strictEqual(w.timeline.length, 2)
    assert.isTrue(at(w.timeline[1]) >= 165_000 && at(w.timeline[1]) <= 167_001, w.timeline[1])
  })

  test("T14 a released Lease is found by the next poll", function*(w) {
    const { b, leading } = yield* pair(w, { settings: { watch: false } })
    yield* b.lead
    yield* w.until(151_000)
    yield* Fiber.interrupt(leading)
    yield* w.until(154_000)
    assert.isTrue(at(w.timeline[2]) <= 153_001, w.timeline[2])
    assert.deepStrictEqual(yield* b.requests("watch"), [])
  })

  test("granted later, it ends the polling", function*(w) {
    const { b } = yield* pair(w)
    yield* b.faults.set({ watch: Fault.forbidden })
    yield* b.lead
    yield* w.until(130_000)
    yield* b.faults.clear
    yield* w.until(161_000)
    const polls = (yield* b.requests("get")).length
    yield* w.until(1_000_000)
    assert.strictEqual((yield* b.requests("get")).length, polls)
  })
})

describe("T15 a watch that breaks", () => {
  for (const how of ["cut", "ended", "closed by the server"] as const) {
    test(`${how}: it goes on where it was, and nothing is missed`, function*(w) {
      const { b, leading } = yield* pair(w)
      yield* b.lead
      yield* w.until(112_000)
      yield* how === "cut" ? b.faults.cutWatches : how === "ended" ? b.faults.endWatches : w.cluster.closeWatches
      yield* w.settle
      yield* Fiber.interrupt(leading)
      yield* w.until(115_000)
      assert.strictEqual(w.timeline.length, 3)
      assert.isTrue(at(w.timeline[2]) <= 114_001, w.timeline[2])
      const watches = (yield* b.faults.log).filter(({ verb }) => verb === "watch")
      assert.strictEqual(watches.length, 2)
      // Resumed after the renewal at 110 s.
      assert.strictEqual(
        watches[1]?.resourceVersion,
        (yield* w.cluster.commits).find(({ at }) => at === 110_000)?.lease.resourceVersion
      )
    })
  }

  test("one that is closed as soon as it is open is not opened at full speed", function*(w) {
    const { b } = yield* pair(w)
    yield* b.lead
    for (let time = 100_000; time < 130_000; time += 100) {
      yield* w.until(time)
      yield* b.faults.endWatches
    }
    const watches = yield* b.requests("watch")
    assert.isTrue(watches.length >= 15 && watches.length <= 20, String(watches.length))
  })

  test("T28 a watch's Retry-After is honoured, but never beyond leaseDuration", function*(w) {
    const { b } = yield* pair(w)
    yield* b.faults.next("watch", Fault.tooManyRequests("7 seconds"))
    yield* b.faults.next("watch", Fault.tooManyRequests("1 hour"))
    yield* b.lead
    yield* w.until(200_000)
    assert.deepStrictEqual(yield* b.requests("watch"), ["100000 watch", "107000 watch", "122000 watch"])
  })

  test("too old a version (410): opened again at once without one", function*(w) {
    const { b, leading } = yield* pair(w)
    yield* b.lead
    yield* w.until(112_000)
    yield* w.cluster.skipVersions(5)
    yield* b.faults.next("watch", Fault.fail(new LeaseExpired({ message: "too old resource version" })))
    yield* b.faults.cutWatches
    yield* w.until(114_500)
    const watches = (yield* b.faults.log).filter(({ verb }) => verb === "watch")
    assert.strictEqual(watches.length, 3)
    assert.isDefined(watches[1]?.resourceVersion)
    assert.isUndefined(watches[2]?.resourceVersion)
    assert.strictEqual(watches[2]?.began, watches[1]?.began)
    yield* Fiber.interrupt(leading)
    yield* w.settle
    assert.strictEqual(w.timeline[2], "114500 b leads")
  })

  test("410 again and again: not at full speed", function*(w) {
    const { b } = yield* pair(w)
    yield* b.faults.set({ watch: Fault.fail(new LeaseExpired({ message: "too old resource version" })) })
    yield* b.lead
    yield* w.until(120_000)
    assert.isTrue((yield* b.requests("watch")).length <= 15)
  })

  test("a deletion that happened while it could not be resumed is found by a read", function*(w) {
    yield* w.createOld(heldBy("other", 3600))
    const b = yield* w.candidate("b")
    yield* b.lead
    yield* w.until(101_000)
    yield* b.faults.next("watch", Fault.fail(new LeaseExpired({ message: "too old resource version" })))
    yield* b.faults.cutWatches
    yield* w.cluster.deleteLease(key)
    yield* w.until(104_000)
    assert.strictEqual((yield* w.lease).holderIdentity, "b")
  })
})

test("etcd restored from a backup: the watch does not wait for a version yet to come", function*(w) {
  const { b, leading } = yield* pair(w)
  yield* b.lead
  yield* w.until(106_000)
  const backup = yield* w.cluster.snapshot
  yield* w.until(200_500)
  yield* w.cluster.restore(backup)
  // Its leader has renewed what was restored: before that it could be any older record that was put back.
  yield* w.until(208_000)
  yield* Fiber.interrupt(leading)
  yield* w.until(210_001)
  assert.deepStrictEqual(w.timeline.slice(0, 2), ["100000 a leads", "208000 a ends"])
  assert.match(w.timeline[2] ?? "", /^20[89]\d\d\d b leads$/)
})

describe("T15 a watch that is silent", () => {
  test("D20 is found out by a read after half the holder's duration, and opened again", function*(w) {
    const { b, leading } = yield* pair(w)
    yield* b.lead
    yield* w.until(112_000)
    yield* b.faults.silenceWatches
    yield* w.until(117_499)
    assert.deepStrictEqual(yield* b.requests("get"), ["100000 get"])
    yield* b.faults.clear
    yield* w.until(119_600)
    assert.match((yield* b.requests("get")).join(), /^100000 get,117500 get,119\d\d\d get$/)
    assert.strictEqual((yield* b.requests("watch")).length, 2)
    // Polled until the watch has delivered something, and no longer.
    yield* w.until(122_600)
    const gets = (yield* b.requests("get")).length
    yield* w.until(129_600)
    assert.strictEqual((yield* b.requests("get")).length, gets)
    assert.strictEqual(w.logs.filter((line) => line.startsWith("Warn b: The watch did not deliver")).length, 1)
    yield* Fiber.interrupt(leading)
    yield* w.settle
    assert.strictEqual(w.timeline[2], "129600 b leads")
  })

  test("D20 and stays silent, as behind a buffering proxy: one warning, and polled from then on", function*(w) {
    const { b, leading } = yield* pair(w)
    yield* b.lead
    yield* w.until(112_000)
    yield* b.faults.silenceWatches
    yield* w.until(1_000_000)
    assert.strictEqual(w.logs.filter((line) => line.startsWith("Warn b: The watch did not deliver")).length, 1)
    const gets = (yield* b.requests("get")).map(at).filter((time) => time > 120_000)
    const gaps = gets.slice(1).map((time, index) => time - gets[index]!)
    assert.isTrue(gaps.every((gap) => gap <= 2001), gaps.join(" "))
    yield* Fiber.interrupt(leading)
    yield* w.until(1_010_000)
    assert.isAtMost(at(w.timeline.find((line) => line.endsWith("b leads"))), 1_002_001)
  })

  test("D20 and delivers in lumps, as a proxy that passes its buffer on when it is full: one warning", function*(w) {
    const { b } = yield* pair(w)
    yield* b.lead
    let reads = 0
    for (let time = 112_000; time < 300_000; time += 40_000) {
      yield* w.until(time)
      const before = (yield* b.requests("get")).length
      yield* b.faults.silenceWatches
      yield* w.until(time + 10_000)
      reads += (yield* b.requests("get")).length - before
      yield* b.faults.clear
      yield* b.faults.cutWatches
    }
    assert.isAtLeast(reads, 5)
    assert.strictEqual(w.logs.filter((line) => line.startsWith("Warn b: The watch did not deliver")).length, 1)
  })

  test("and stays silent: a live leader is not taken for a dead one", function*(w) {
    const { a, b } = yield* pair(w)
    yield* b.lead
    yield* w.until(112_000)
    yield* b.faults.silenceWatches
    yield* w.until(300_000)
    assert.deepStrictEqual(w.timeline, ["100000 a leads"])
    yield* a.crash
    yield* w.until(330_000)
    // Up to half a leaseDuration later, as long as a read takes to find the last renewal.
    assert.isTrue(at(w.timeline[1]) >= 315_000 && at(w.timeline[1]) <= 322_500, w.timeline[1])
  })

  test("a quiet watch of a dead holder is read once, and not opened again", function*(w) {
    yield* w.createOld(heldBy("dead", 60))
    const b = yield* w.candidate("b")
    yield* b.lead
    yield* w.until(159_999)
    assert.deepStrictEqual(yield* b.requests(), ["100000 get", "100000 watch", "130000 get"])
  })

  test("T15 a leader does not need its watch to renew", function*(w) {
    const { a } = yield* pair(w)
    yield* a.faults.silenceWatches
    yield* a.faults.set({ watch: Fault.hang })
    yield* w.until(300_000)
    assert.deepStrictEqual(w.timeline, ["100000 a leads"])
    yield* a.faults.cutWatches
    yield* w.until(400_000)
    assert.deepStrictEqual(w.timeline, ["100000 a leads"])
    assert.deepStrictEqual((yield* a.requests("get")).length, 1)
  })
})

describe("events in any order", () => {
  test("late ones, and writes that are answered after their event", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const b = yield* w.candidate("b")
    let turn = 0
    yield* a.faults.delayEvents(() => (turn += 1) % 3 * 400)
    yield* b.faults.delayEvents(() => (turn += 1) % 2 * 900)
    yield* a.faults.decide(({ verb }) => verb === "patch" ? Fault.delayAnswer((turn += 1) % 4 * 300) : undefined)
    yield* a.lead
    yield* w.settle
    yield* b.lead
    yield* w.until(400_000)
    assert.deepStrictEqual(w.timeline.length, 1)
    assert.isTrue((yield* a.requests("patch")).length <= 61)
  })

  test("a late 404 neither ends a term nor starts a create", function*(w) {
    const b = yield* w.candidate("b")
    yield* b.faults.next("get", Fault.delayAnswer("1500 millis"))
    yield* b.lead
    yield* w.until(1000)
    yield* w.cluster.createLease(key, heldBy("other", 15))
    yield* w.until(1400)
    assert.deepStrictEqual(yield* b.requests("create"), [])
    yield* w.until(3000)
    assert.strictEqual((yield* w.lease).holderIdentity, "other")
    assert.isTrue((yield* b.requests("create")).length <= 1)
  })
})
