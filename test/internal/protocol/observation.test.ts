import { assert, describe, it } from "@effect/vitest"
import * as Observation from "../../../src/internal/protocol/observation.ts"
import type { LeaseRecord } from "../../../src/LeaseRecord.ts"
import { lease, seconds } from "../../utils/leases.ts"

/** What is known after this Lease was read at 1 s, and seen again at 2 s. */
const known = (change?: Parameters<typeof lease>[0]): Observation.Observation => ({
  lease: lease(change),
  version: 10n,
  revision: 4,
  signOfLifeAt: seconds(1),
  changedAt: seconds(1.5),
  heardAt: seconds(2),
  firstSeenAt: seconds(0.5),
  createdBefore: seconds(0.25)
})

const absent: Observation.Observation = { ...known(), lease: "absent", version: 12n }

const now = seconds(9)

/** The same object, seen first at `now`. */
const newcomer = (lease: LeaseRecord, revision: number): Observation.Observation => ({
  lease,
  version: lease.resourceVersion,
  revision,
  signOfLifeAt: now,
  changedAt: now,
  heardAt: now,
  firstSeenAt: now,
  createdBefore: undefined
})

it("at first nothing is known", () => {
  assert.deepStrictEqual(Observation.initial, {
    lease: "unknown",
    version: 0n,
    revision: 0,
    signOfLifeAt: 0n,
    changedAt: 0n,
    heardAt: 0n,
    firstSeenAt: 0n,
    createdBefore: undefined
  })
})

it("the instance stands in its annotation", () => {
  assert.strictEqual(Observation.instanceOf(lease({ instance: "1-a" })), "1-a")
  assert.strictEqual(Observation.instanceOf(lease()), undefined)
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
    assert.deepStrictEqual(Observation.onApplied(Observation.initial, seen, now), newcomer(seen, 1))
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
      heardAt: now
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
      heardAt: now
    })
  })

  it("the same version again is heard, and no more", () => {
    const before = known()
    const after = Observation.onApplied(before, lease(), now)
    assert.deepStrictEqual(after, { ...before, heardAt: now })
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
      heardAt: now
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
      heardAt: now
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
      version: 11n
    })
  })

  it("of what is absent already is heard, and changes nothing but the version", () => {
    assert.deepStrictEqual(Observation.onDeleted(absent, lease({ uid: "uid-7", resourceVersion: 13n }), now), {
      ...absent,
      version: 13n,
      heardAt: now
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
    assert.deepStrictEqual(Observation.onWritten(before, 3, lease(), now), { ...before, heardAt: now })
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
      heardAt: now
    })
  })

  it("the first 404 makes the absence known", () => {
    assert.deepStrictEqual(Observation.onRead(Observation.initial, 0, "absent", now), {
      ...Observation.initial,
      lease: "absent",
      revision: 1,
      heardAt: now
    })
  })

  it("a 404 of what is absent already is heard, and no news", () => {
    assert.deepStrictEqual(Observation.onRead(absent, 4, "absent", now), { ...absent, heardAt: now })
  })

  it("a late 404 asks for another read", () => {
    assert.strictEqual(Observation.onRead(known(), 3, "absent", now), undefined)
    assert.strictEqual(Observation.onRead(absent, 3, "absent", now), undefined)
  })

  it("a late record counts only where it is newer", () => {
    const newer = lease({ resourceVersion: 11n })
    assert.strictEqual(Observation.onRead(known(), 3, newer, now)?.lease, newer)
    assert.strictEqual(Observation.onRead(known(), 3, lease({ resourceVersion: 9n }), now), undefined)
    assert.deepStrictEqual(Observation.onRead(known(), 3, lease(), now), { ...known(), heardAt: now })
  })
})

describe("onServerTime", () => {
  // Created at 1000 s of the server's clock.
  const young = { ...known(), createdBefore: undefined }

  it("the difference of the server's own times, projected on our clock", () => {
    assert.deepStrictEqual(Observation.onServerTime(young, lease(), 1_003_000, now), {
      ...young,
      createdBefore: now - seconds(3)
    })
  })

  it("the earliest one stays", () => {
    const at = (createdBefore: bigint) => ({ ...young, createdBefore })
    assert.strictEqual(
      Observation.onServerTime(at(now - seconds(2)), lease(), 1_003_000, now).createdBefore,
      now - seconds(3)
    )
    const older = at(now - seconds(4))
    assert.strictEqual(Observation.onServerTime(older, lease(), 1_003_000, now), older)
    const same = at(now - seconds(3))
    assert.strictEqual(Observation.onServerTime(same, lease(), 1_003_000, now), same)
  })

  const nothing: ReadonlyArray<[string, Observation.Observation, LeaseRecord, number | undefined]> = [
    ["no Date", young, lease(), undefined],
    ["no creationTimestamp", young, lease({ creationTimestamp: undefined }), 1_003_000],
    ["another object", young, lease({ uid: "uid-2" }), 1_003_000],
    ["an absent Lease", { ...absent, createdBefore: undefined }, lease(), 1_003_000],
    ["nothing known", Observation.initial, lease(), 1_003_000]
  ]
  for (const [what, observation, response, serverTime] of nothing) {
    it(`${what}: nothing is concluded`, () => {
      assert.strictEqual(Observation.onServerTime(observation, response, serverTime, now), observation)
    })
  }
})

describe("oldEnoughAt", () => {
  const table: ReadonlyArray<[string, bigint, bigint | undefined, bigint]> = [
    ["seen here for leaseDuration", seconds(100), undefined, seconds(115)],
    ["twice as old by the server's clock", seconds(100), seconds(80), seconds(110)],
    ["long since", seconds(100), seconds(0), seconds(30)],
    ["as soon as either holds", seconds(100), seconds(86), seconds(115)],
    ["both at once", seconds(100), seconds(85), seconds(115)]
  ]
  for (const [what, firstSeenAt, createdBefore, expected] of table) {
    it(what, () => {
      assert.strictEqual(
        Observation.oldEnoughAt({ ...known(), firstSeenAt, createdBefore }, seconds(15)),
        expected
      )
    })
  }
})
