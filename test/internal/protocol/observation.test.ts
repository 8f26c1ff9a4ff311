import { assert, describe, it } from "@effect/vitest"
import * as Observation from "../../../src/internal/protocol/observation.ts"
import { ageMarkAnnotation, type LeaseRecord } from "../../../src/LeaseRecord.ts"
import { lease, seconds } from "../../utils/leases.ts"

/** What is known after this Lease was read at 1 s, and seen again at 2 s. */
const known = (change?: Parameters<typeof lease>[0]): Observation.Observation => ({
  lease: lease(change),
  version: 10n,
  revision: 4,
  heldFor: 15,
  signOfLifeAt: seconds(1),
  changedAt: seconds(1.5),
  reportedAt: seconds(2),
  firstSeenAt: seconds(0.5),
  markedAt: undefined,
  first: { uid: "uid-1", version: 7n }
})

const absent: Observation.Observation = { ...known(), lease: "absent", version: 12n }

const now = seconds(9)

/** The same object, seen first at `now`. */
const newcomer = (
  lease: LeaseRecord,
  revision: number,
  first: Observation.Observation["first"] = known().first
): Observation.Observation => ({
  lease,
  version: lease.resourceVersion,
  revision,
  heldFor: 15,
  signOfLifeAt: now,
  changedAt: now,
  reportedAt: now,
  firstSeenAt: now,
  markedAt: undefined,
  first
})

it("at first nothing is known", () => {
  assert.deepStrictEqual(Observation.initial, {
    lease: "unknown",
    version: 0n,
    revision: 0,
    heldFor: 0,
    signOfLifeAt: 0n,
    changedAt: 0n,
    reportedAt: 0n,
    firstSeenAt: 0n,
    markedAt: undefined,
    first: undefined
  })
})

it("the instance stands in its annotation", () => {
  assert.strictEqual(Observation.instanceOf(lease({ instance: "1-a" })), "1-a")
  assert.strictEqual(Observation.instanceOf(lease()), undefined)
})

describe("heldFor: what the holder wrote, which an edit may lengthen and not shorten", () => {
  const table: ReadonlyArray<[string, Parameters<typeof lease>[0], number]> = [
    ["a shorter one, edited", { leaseDurationSeconds: 2 }, 15],
    ["none, edited", { leaseDurationSeconds: undefined }, 15],
    ["a longer one, edited", { leaseDurationSeconds: 20 }, 20],
    ["another holder, and a shorter one, edited", { holderIdentity: "other", leaseDurationSeconds: 2 }, 15],
    ["emptied in place", { holderIdentity: "", leaseDurationSeconds: undefined, renewTime: undefined }, 15],
    ["a shorter one, and no renewTime", { leaseDurationSeconds: 2, renewTime: undefined }, 15],
    ["a shorter one, written", { leaseDurationSeconds: 2, renewTime: 77n }, 2],
    ["none, written", { leaseDurationSeconds: undefined, renewTime: 77n }, 0],
    ["released", { holderIdentity: "", leaseDurationSeconds: 1, renewTime: 77n }, 0]
  ]
  for (const [what, change, expected] of table) {
    it(`${what}: ${expected} s`, () => {
      const observation = Observation.onApplied(known(), lease({ resourceVersion: 11n, ...change }), now)
      assert.strictEqual(observation.heldFor, expected)
      // Another edit of the same does not change it.
      const again = Observation.onApplied(
        observation,
        lease({ ...change, resourceVersion: 12n, leaseTransitions: 9 }),
        now
      )
      assert.strictEqual(again.heldFor, expected)
    })
  }

  it("of the first record", () => {
    const first = (change?: Parameters<typeof lease>[0]) =>
      Observation.onApplied(Observation.initial, lease(change), now).heldFor
    assert.deepStrictEqual(
      [first(), first({ leaseDurationSeconds: undefined }), first({ holderIdentity: "" })],
      [15, 0, 0]
    )
  })

  it("of another object", () => {
    const other = lease({ uid: "uid-2", resourceVersion: 11n, leaseDurationSeconds: 2 })
    assert.strictEqual(Observation.onApplied(known(), other, now).heldFor, 2)
  })
})

describe("isSignOfLife", () => {
  const table: ReadonlyArray<[string, Parameters<typeof lease>[0], boolean]> = [
    ["nothing", {}, false],
    ["a new version", { resourceVersion: 11n }, false],
    ["a label", { labels: { a: "1" } }, false],
    ["another annotation", { annotations: { a: "1" } }, false],
    ["an owner reference", { ownerReferences: [{ apiVersion: "v1", kind: "Pod", name: "p", uid: "1" }] }, false],
    ["a strategy", { strategy: "OldestEmulationVersion", preferredHolder: "x" }, false],
    ["a deletion that waits for a finalizer", { deletionTimestamp: 5 }, false],
    ["another uid", { uid: "uid-2" }, true],
    ["another holder", { holderIdentity: "next" }, true],
    ["no holder", { holderIdentity: "" }, true],
    ["another renewTime", { renewTime: 3n }, true],
    ["an earlier renewTime", { renewTime: 1n }, true],
    ["no renewTime", { renewTime: undefined }, true],
    ["another acquireTime", { acquireTime: 3n }, true],
    ["another transition", { leaseTransitions: 4 }, true],
    ["another duration", { leaseDurationSeconds: 16 }, true],
    ["no duration", { leaseDurationSeconds: undefined }, true],
    ["another instance", { instance: "1-a" }, true]
  ]
  for (const [what, change, expected] of table) {
    it(`${what}: ${expected}`, () => {
      assert.strictEqual(Observation.isSignOfLife(lease(), lease(change)), expected)
      assert.strictEqual(Observation.isSignOfLife(lease(change), lease()), expected)
    })
  }
})

describe("onApplied", () => {
  it("the first one ever makes it known", () => {
    const seen = lease()
    assert.deepStrictEqual(
      Observation.onApplied(Observation.initial, seen, now),
      newcomer(seen, 1, { uid: "uid-1", version: 10n })
    )
  })

  it("a sign of life in a newer version", () => {
    const seen = lease({ resourceVersion: 11n, renewTime: 3n })
    assert.deepStrictEqual(Observation.onApplied(known(), seen, now), {
      ...known(),
      lease: seen,
      version: 11n,
      revision: 5,
      signOfLifeAt: now,
      changedAt: now,
      reportedAt: now
    })
  })

  it("a newer version without one", () => {
    const seen = lease({ resourceVersion: 11n, labels: { a: "1" } })
    assert.deepStrictEqual(Observation.onApplied(known(), seen, now), {
      ...known(),
      lease: seen,
      version: 11n,
      revision: 5,
      changedAt: now,
      reportedAt: now
    })
  })

  it("the same version again is heard, and no more", () => {
    const before = known()
    const after = Observation.onApplied(before, lease(), now)
    assert.deepStrictEqual(after, { ...before, reportedAt: now })
    assert.strictEqual(after.lease, before.lease)
  })

  it("an older version is dropped", () => {
    const before = known()
    assert.strictEqual(Observation.onApplied(before, lease({ resourceVersion: 9n, renewTime: 1n }), now), before)
  })

  it("the same version of another object is dropped", () => {
    const before = known()
    assert.strictEqual(Observation.onApplied(before, lease({ uid: "uid-2" }), now), before)
  })

  it("the same version with another content counts: etcd was restored", () => {
    const seen = lease({ renewTime: 7n })
    assert.deepStrictEqual(Observation.onApplied(known(), seen, now), {
      ...known(),
      lease: seen,
      revision: 5,
      signOfLifeAt: now,
      changedAt: now,
      reportedAt: now
    })
  })

  it("another object is a newcomer, whatever was known of its namesake", () => {
    const seen = lease({ uid: "uid-2", resourceVersion: 20n })
    assert.deepStrictEqual(Observation.onApplied(known(), seen, now), newcomer(seen, 5))
  })

  it("after a deletion only what is newer than it", () => {
    assert.strictEqual(Observation.onApplied(absent, lease({ resourceVersion: 12n }), now), absent)
    assert.strictEqual(Observation.onApplied(absent, lease({ resourceVersion: 11n }), now), absent)
    const seen = lease({ uid: "uid-2", resourceVersion: 13n })
    assert.deepStrictEqual(Observation.onApplied(absent, seen, now), newcomer(seen, 5))
  })

  it("the same uid after a deletion that was only believed is first seen anew", () => {
    const seen = lease({ resourceVersion: 13n })
    assert.deepStrictEqual(Observation.onApplied(absent, seen, now), newcomer(seen, 5))
  })
})

describe("onDeleted", () => {
  it("the object that is known", () => {
    assert.deepStrictEqual(Observation.onDeleted(known(), lease({ resourceVersion: 11n }), now), {
      ...known(),
      lease: "absent",
      version: 11n,
      revision: 5,
      reportedAt: now
    })
  })

  it("an event that is no newer than what is known is dropped", () => {
    const before = known()
    assert.strictEqual(Observation.onDeleted(before, lease({ resourceVersion: 10n }), now), before)
    assert.strictEqual(Observation.onDeleted(before, lease({ resourceVersion: 9n }), now), before)
  })

  it("that of another object says nothing about this one", () => {
    const before = known()
    assert.strictEqual(Observation.onDeleted(before, lease({ uid: "uid-0", resourceVersion: 11n }), now), before)
  })

  it("before anything is known it only tells a version", () => {
    assert.deepStrictEqual(Observation.onDeleted(Observation.initial, lease({ resourceVersion: 11n }), now), {
      ...Observation.initial,
      version: 11n,
      first: "absent"
    })
  })

  it("of what is absent already is heard, and changes nothing but the version", () => {
    assert.deepStrictEqual(Observation.onDeleted(absent, lease({ uid: "uid-7", resourceVersion: 13n }), now), {
      ...absent,
      version: 13n,
      reportedAt: now
    })
  })
})

describe("onWritten", () => {
  it("with nothing newer seen since, it is what followed, whatever its version", () => {
    const seen = lease({ resourceVersion: 5n, renewTime: 3n })
    const after = Observation.onWritten(known(), 4, seen, now)
    assert.strictEqual(after.lease, seen)
    assert.strictEqual(after.version, 5n)
    assert.strictEqual(after.signOfLifeAt, now)
  })

  it("else the versions decide", () => {
    const before = known()
    const older = lease({ resourceVersion: 9n, renewTime: 3n })
    assert.strictEqual(Observation.onWritten(before, 3, older, now), before)
    const newer = lease({ resourceVersion: 11n, renewTime: 3n })
    assert.strictEqual(Observation.onWritten(before, 3, newer, now).lease, newer)
  })

  it("whose event came before it is heard, and no more", () => {
    const before = known()
    assert.deepStrictEqual(Observation.onWritten(before, 3, lease(), now), { ...before, reportedAt: now })
  })

  it("of a create that was answered after the object's deletion is dropped", () => {
    assert.strictEqual(Observation.onWritten(absent, 3, lease({ resourceVersion: 11n }), now), absent)
  })
})

describe("onRead", () => {
  it("one that began after the newest snapshot is the truth, whatever its version", () => {
    const restored = lease({ resourceVersion: 3n, renewTime: 1n })
    const after = Observation.onRead(known(), 4, restored, now)
    assert.strictEqual(after?.lease, restored)
    assert.strictEqual(after?.version, 3n)
    assert.strictEqual(after?.firstSeenAt, seconds(0.5))
  })

  it("so is its 404", () => {
    assert.deepStrictEqual(Observation.onRead(known(), 4, "absent", now), {
      ...known(),
      lease: "absent",
      revision: 5,
      reportedAt: now
    })
  })

  it("the first 404 makes the absence known", () => {
    assert.deepStrictEqual(Observation.onRead(Observation.initial, 0, "absent", now), {
      ...Observation.initial,
      lease: "absent",
      first: "absent",
      revision: 1,
      reportedAt: now
    })
  })

  it("a 404 of what is absent already is heard, and no news", () => {
    assert.deepStrictEqual(Observation.onRead(absent, 4, "absent", now), { ...absent, reportedAt: now })
  })

  it("a late 404 asks for another read", () => {
    assert.strictEqual(Observation.onRead(known(), 3, "absent", now), undefined)
    assert.strictEqual(Observation.onRead(absent, 3, "absent", now), undefined)
  })

  it("a late record counts only where it is newer", () => {
    const newer = lease({ resourceVersion: 11n })
    assert.strictEqual(Observation.onRead(known(), 3, newer, now)?.lease, newer)
    assert.strictEqual(Observation.onRead(known(), 3, lease({ resourceVersion: 9n }), now), undefined)
    assert.deepStrictEqual(Observation.onRead(known(), 3, lease(), now), { ...known(), reportedAt: now })
  })
})

describe("the first snapshot", () => {
  const { first, ...rest } = known()
  const unknown = { ...rest, first: undefined, lease: "unknown" as const, version: 0n, revision: 0 }

  it("is a record, whatever brought it", () => {
    const seen = lease({ resourceVersion: 5n })
    const expected = { uid: "uid-1", version: 5n }
    assert.deepStrictEqual(Observation.onApplied(unknown, seen, now).first, expected)
    assert.deepStrictEqual(Observation.onRead(unknown, 0, seen, now)?.first, expected)
    assert.deepStrictEqual(Observation.onWritten(unknown, 0, seen, now).first, expected)
  })

  it("or the Lease's absence", () => {
    assert.strictEqual(Observation.onRead(unknown, 0, "absent", now)?.first, "absent")
    assert.strictEqual(Observation.onDeleted(unknown, lease(), now).first, "absent")
  })

  it("and stays what it was", () => {
    const newer = Observation.onApplied(known(), lease({ resourceVersion: 11n }), now)
    assert.deepStrictEqual(newer.first, first)
    assert.deepStrictEqual(
      Observation.onApplied(newer, lease({ uid: "uid-2", resourceVersion: 12n }), now).first,
      first
    )
    const absent = Observation.onRead(unknown, 0, "absent", now)!
    assert.strictEqual(Observation.onApplied(absent, lease(), now).first, "absent")
    assert.deepStrictEqual(Observation.onRead(known(), 4, "absent", now)?.first, first)
  })

  const table: ReadonlyArray<[string, Observation.Observation["first"], LeaseRecord, boolean]> = [
    ["that version", { uid: "uid-1", version: 10n }, lease(), true],
    ["a later version", { uid: "uid-1", version: 10n }, lease({ resourceVersion: 11n }), false],
    ["an earlier version", { uid: "uid-1", version: 10n }, lease({ resourceVersion: 9n }), false],
    ["another object", { uid: "uid-1", version: 10n }, lease({ uid: "uid-2" }), false],
    ["after an absence", "absent", lease(), false],
    ["nothing yet", undefined, lease(), false]
  ]
  for (const [what, first, record, expected] of table) {
    it(`isFirst, ${what}: ${expected}`, () => {
      assert.strictEqual(Observation.isFirst({ ...known(), first }, record), expected)
    })
  }
})

describe("the age mark", () => {
  const mark = (uid: string) => ({ annotations: { [ageMarkAnnotation]: uid } })

  it("is noted when it is first seen, and stays known when somebody removes it", () => {
    const marked = Observation.onApplied(Observation.initial, lease(mark("uid-1")), seconds(3))
    assert.strictEqual(marked.markedAt, seconds(3))
    const again = Observation.onApplied(marked, lease({ resourceVersion: 11n, ...mark("uid-1") }), seconds(4))
    assert.strictEqual(again.markedAt, seconds(3))
    const removed = Observation.onApplied(again, lease({ resourceVersion: 12n }), seconds(5))
    assert.strictEqual(removed.markedAt, seconds(3))
  })

  it("that appears later is noted then, and is not a sign of life", () => {
    const later = Observation.onApplied(known(), lease({ resourceVersion: 11n, ...mark("uid-1") }), now)
    assert.strictEqual(later.markedAt, now)
    assert.strictEqual(later.signOfLifeAt, known().signOfLifeAt)
  })

  it("says nothing about another object", () => {
    const marked = { ...known(), markedAt: seconds(1) }
    const copy = lease({ uid: "uid-2", resourceVersion: 20n, ...mark("uid-1") })
    assert.strictEqual(Observation.onApplied(marked, copy, now).markedAt, undefined)
    const own = lease({ uid: "uid-2", resourceVersion: 20n, ...mark("uid-2") })
    assert.strictEqual(Observation.onApplied(marked, own, now).markedAt, now)
  })
})
