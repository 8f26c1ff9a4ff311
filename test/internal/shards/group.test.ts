import { assert, describe, it } from "@effect/vitest"
import { annotations, Group, labels, memberLease, shardLease } from "../../../src/internal/shards/group.ts"
import type { LeaseRecord } from "../../../src/LeaseRecord.ts"
import { lease as record, seconds } from "../../utils/leases.ts"

const make = () => new Group({ group: "tenants", identity: "me", leaseDuration: seconds(15) })

const shown = (group: Group, lease: LeaseRecord, now = 0n) => group.observe({ _tag: "Applied", lease }, now)

/** Something about none of them: the watch lives. */
const spoken = (group: Group, now: bigint) => group.observe({ _tag: "Bookmark", resourceVersion: 0n }, now)

const s1 = shardLease("tenants", "s1")

const shard = (version: number, holderIdentity: string): LeaseRecord =>
  record({
    name: s1,
    resourceVersion: BigInt(version),
    holderIdentity,
    leaseDurationSeconds: holderIdentity === "" ? 1 : 15,
    labels: { [labels.group]: "tenants", [labels.role]: "shard" }
  })

const member = (identity: string, version: number, renewedAt: number): LeaseRecord =>
  record({
    name: memberLease("tenants", identity),
    uid: identity,
    resourceVersion: BigInt(version),
    holderIdentity: identity,
    renewTime: BigInt(renewedAt) * 1_000_000n,
    labels: { [labels.group]: "tenants", [labels.role]: "member" }
  })

const identities = (group: Group, now: bigint) => group.members(now).map(({ identity }) => identity)

describe("what a member is about to take", () => {
  it("counts as its own until its time is over", () => {
    const group = make()
    shown(group, shard(1, ""))
    assert.isUndefined(group.holder(s1, 0n))
    group.claim(s1, 0n, seconds(2))
    assert.strictEqual(group.holder(s1, seconds(1)), "me")
    assert.deepStrictEqual(group.view(new Set(["s1"]), seconds(1)).shards.map(({ holder }) => holder), ["me"])
    assert.isUndefined(group.holder(s1, seconds(2)))
  })

  it("also where the release is shown later, but not once a holder is", () => {
    const group = make()
    group.claim(s1, 0n, seconds(2))
    shown(group, shard(1, ""))
    assert.strictEqual(group.holder(s1, seconds(1)), "me")
    shown(group, shard(2, "other"))
    assert.strictEqual(group.holder(s1, seconds(1)), "other")
  })

  it("no longer once another one was faster, which may have been shown before", () => {
    const group = make()
    shown(group, shard(2, "other"))
    group.claim(s1, 0n, seconds(2))
    assert.strictEqual(group.holder(s1, seconds(1)), "me")
    group.refused(s1, 0n)
    assert.strictEqual(group.holder(s1, seconds(1)), "other")
  })
})

describe("what its election has found free", () => {
  it("is free, unless the group has been shown who took it since", () => {
    const group = make()
    shown(group, shard(2, "other"))
    group.found(s1, 1n, 0n)
    assert.strictEqual(group.holder(s1, seconds(1)), "other")
    // Nothing has come from its holder for as long as it said.
    group.found(s1, 2n, 0n)
    assert.isUndefined(group.holder(s1, seconds(1)))
    group.refused(s1, 0n)
    assert.strictEqual(group.holder(s1, seconds(1)), "other")
    group.found(s1, 3n, 0n)
    assert.isUndefined(group.holder(s1, seconds(1)))
    shown(group, shard(4, "other"))
    assert.strictEqual(group.holder(s1, seconds(1)), "other")
    // It is gone.
    group.found(s1, undefined, 0n)
    assert.isUndefined(group.holder(s1, seconds(1)))
  })
})

describe("members", () => {
  it("one that was left behind is none until it is renewed", () => {
    const group = make()
    shown(group, member("dead", 1, 100))
    shown(group, member("alive", 2, 115))
    assert.deepStrictEqual(identities(group, 1n), ["alive", "dead"])
    shown(group, member("alive", 3, 116))
    assert.deepStrictEqual(identities(group, 1n), ["alive"])
    shown(group, member("dead", 4, 105))
    assert.deepStrictEqual(identities(group, 1n), ["alive", "dead"])
  })

  it("this one's own clock hides nobody, nor is it hidden", () => {
    const group = make()
    shown(group, member("me", 1, 5000))
    shown(group, member("a", 2, 100))
    assert.deepStrictEqual(identities(group, 1n), ["a", "me"])
    const slow = make()
    shown(slow, member("me", 1, 100))
    shown(slow, member("a", 2, 5000))
    assert.deepStrictEqual(identities(slow, 1n), ["a", "me"])
  })

  it("count for half the holder's duration after a sign of life", () => {
    const group = make()
    shown(group, member("a", 1, 100), seconds(1))
    spoken(group, seconds(8))
    assert.deepStrictEqual(identities(group, seconds(8)), ["a"])
    spoken(group, seconds(9))
    assert.deepStrictEqual(identities(group, seconds(9)), [])
  })

  it("count, and lead, as long as the watch says nothing about anybody: it may be the watch that is silent", () => {
    const group = make()
    shown(group, member("a", 1, 100))
    shown(group, shard(2, "a"))
    assert.deepStrictEqual(identities(group, seconds(20)), ["a"])
    assert.strictEqual(group.holder(s1, seconds(20)), "a")
    // What it says next wakes those who wait for it.
    assert.isTrue(spoken(group, seconds(20)))
    assert.deepStrictEqual(identities(group, seconds(20)), [])
    assert.isUndefined(group.holder(s1, seconds(20)))
    assert.isFalse(spoken(group, seconds(20)))
  })

  it("one that died with a duration of years is none for long, nor to one that starts later", () => {
    const ghost = { ...member("ghost", 1, 100), leaseDurationSeconds: 2_147_483_647 }
    const group = make()
    shown(group, ghost)
    spoken(group, seconds(29))
    assert.deepStrictEqual(identities(group, seconds(29)), ["ghost"])
    spoken(group, seconds(30))
    assert.deepStrictEqual(identities(group, seconds(30)), [])
    const later = make()
    shown(later, ghost)
    shown(later, member("alive", 2, 161))
    assert.deepStrictEqual(identities(later, 1n), ["alive"])
  })

  it("one whose duration is longer than this one's counts from renewal to renewal", () => {
    const group = make()
    shown(group, { ...member("a", 1, 100), leaseDurationSeconds: 60 })
    spoken(group, seconds(20))
    assert.deepStrictEqual(identities(group, seconds(20)), ["a"])
  })

  it("an identity that stands in several Leases is one, as written last", () => {
    const group = make()
    const other = {
      ...member("a", 5, 100),
      name: memberLease("tenants", "b"),
      annotations: { [annotations.list]: "new" }
    }
    shown(group, other)
    shown(group, member("a", 4, 100))
    assert.deepStrictEqual(group.members(1n).map(({ identity, list }) => `${identity} ${list}`), ["a new"])
    shown(group, member("a", 6, 100))
    assert.deepStrictEqual(group.members(1n).map(({ identity, list }) => `${identity} ${list}`), ["a "])
  })

  it("what this one released says nothing about the others", () => {
    const group = make()
    shown(group, member("a", 1, 100))
    shown(group, { ...shard(2, ""), renewTime: 5_000_000_000n })
    assert.deepStrictEqual(identities(group, 1n), ["a"])
  })
})

describe("a watch that begins anew", () => {
  const opened = (group: Group, now: bigint) => group.observe({ _tag: "Opened" }, now)

  it("replaces what is known, where versions have stepped back", () => {
    const group = make()
    shown(group, member("a", 10, 100))
    shown(group, shard(11, "a"))
    opened(group, seconds(20))
    assert.isTrue(shown(group, member("a", 4, 90), seconds(20)))
    assert.isTrue(shown(group, shard(5, "b"), seconds(20)))
    assert.deepStrictEqual(identities(group, seconds(21)), ["a"])
    assert.strictEqual(group.holder(s1, seconds(21)), "b")
    // From there on versions count again.
    assert.isTrue(shown(group, shard(6, "a"), seconds(21)))
    assert.isFalse(shown(group, shard(5, "b"), seconds(21)))
    assert.strictEqual(group.holder(s1, seconds(21)), "a")
  })

  it("also where a deletion is what it shows first", () => {
    const group = make()
    shown(group, member("a", 10, 100))
    assert.deepStrictEqual(identities(group, 1n), ["a"])
    assert.isFalse(group.observe({ _tag: "Deleted", lease: member("a", 4, 90) }, 1n))
    opened(group, 2n)
    assert.isTrue(group.observe({ _tag: "Deleted", lease: member("a", 4, 90) }, 2n))
    assert.deepStrictEqual(identities(group, 2n), [])
  })

  it("shows no sign of life with what is known already, nor that a Lease is taken which was found free since", () => {
    const group = make()
    shown(group, member("a", 1, 100))
    shown(group, shard(2, "a"))
    group.found(s1, undefined, 0n)
    opened(group, seconds(5))
    assert.isFalse(shown(group, member("a", 1, 100), seconds(5)))
    shown(group, shard(2, "a"), seconds(5))
    spoken(group, seconds(8))
    assert.deepStrictEqual(identities(group, seconds(8)), [])
    assert.isUndefined(group.holder(s1, seconds(5)))
  })

  it("does not let those run out of which it has not said anything yet", () => {
    const group = make()
    shown(group, member("a", 1, 100))
    shown(group, member("b", 2, 100))
    opened(group, seconds(9))
    shown(group, member("b", 9, 109), seconds(9))
    assert.deepStrictEqual(identities(group, seconds(9)), ["a", "b"])
    assert.deepStrictEqual(identities(group, seconds(24)), ["b"])
  })

  it("nor where one after the other breaks before it comes to them", () => {
    const group = make()
    shown(group, member("me", 1, 100))
    shown(group, member("b", 2, 100))
    for (let at = 3; at <= 21; at += 3) {
      opened(group, seconds(at))
      shown(group, member("me", 10 + at, 100 + at), seconds(at))
    }
    assert.deepStrictEqual(identities(group, seconds(21)), ["b", "me"])
  })

  it("leaves out what was deleted meanwhile: that is forgotten after leaseDuration", () => {
    const group = make()
    const released = (identity: string): LeaseRecord => ({
      ...member(identity, 1, 100),
      holderIdentity: "",
      leaseDurationSeconds: 1
    })
    shown(group, released("a"))
    shown(group, released("b"))
    opened(group, seconds(20))
    shown(group, released("b"), seconds(20))
    group.members(seconds(34))
    assert.strictEqual(group.releasedMembers().length, 2)
    group.members(seconds(35))
    assert.deepStrictEqual(group.releasedMembers(), [memberLease("tenants", "b")])
  })
})

describe("the revision", () => {
  it("changes with whatever the view shows, and with nothing else", () => {
    const group = make()
    const changes = (f: () => unknown): boolean => {
      const before = group.revision
      f()
      return group.revision !== before
    }
    const renewed = (lease: LeaseRecord, version: number): LeaseRecord => ({
      ...lease,
      resourceVersion: BigInt(version),
      renewTime: BigInt(version)
    })
    assert.isTrue(changes(() => shown(group, shard(1, "a"))))
    assert.isFalse(changes(() => shown(group, renewed(shard(1, "a"), 2))))
    assert.isTrue(changes(() => group.found(s1, undefined, 0n)))
    assert.isFalse(changes(() => group.found(s1, undefined, 0n)))
    assert.isTrue(changes(() => group.claim(s1, 0n, seconds(2))))
    assert.isTrue(changes(() => group.refused(s1, 0n)))
    assert.isTrue(changes(() => shown(group, shard(3, ""))))
    // Free ones have an order.
    assert.isTrue(changes(() => shown(group, shard(4, ""))))
    assert.isTrue(changes(() => group.claim(s1, 0n, seconds(2))))
    assert.isFalse(changes(() => shown(group, shard(5, "me"))))
    assert.isTrue(changes(() => shown(group, member("a", 6, 100))))
    assert.isTrue(changes(() => group.members(seconds(1))))
    assert.isFalse(changes(() => group.members(seconds(2))))
    spoken(group, seconds(8))
    assert.isTrue(changes(() => group.members(seconds(8))))
    assert.isTrue(changes(() => group.observe({ _tag: "Deleted", lease: shard(7, "me") }, seconds(8))))
  })
})
