import { assert, describe, it } from "@effect/vitest"
import { decide, expiresAt, isHeldBy, isReleased, lossOf, type Self } from "../../../src/internal/protocol/decision.ts"
import { initial, type Observation } from "../../../src/internal/protocol/observation.ts"
import type { LossCause } from "../../../src/LeaderElectionError.ts"
import type { LeaseRecord } from "../../../src/LeaseRecord.ts"
import { lease, seconds } from "../../utils/leases.ts"

const self: Self = { identity: "me", instance: "50-x", leaseDuration: seconds(20) }

/** Last sign of life at 100 s, last change at 103 s. */
const seen = (lease: LeaseRecord | "absent" | "unknown"): Observation => ({
  ...initial,
  lease,
  version: 10n,
  revision: 3,
  signOfLifeAt: seconds(100),
  changedAt: seconds(103),
  heardAt: seconds(104)
})

describe("decide", () => {
  const show = (lease: LeaseRecord | "absent" | "unknown", now: number): string => {
    const decision = decide(seen(lease), self, seconds(now))
    switch (decision._tag) {
      case "Take": {
        assert.strictEqual(decision.lease, lease)
        return `Take (${decision.cause})`
      }
      case "Wait": {
        assert.strictEqual(decision.lease, lease)
        return `Wait until ${Number(decision.until) / 1e9}${decision.duplicate ? ", duplicate" : ""}`
      }
      default: {
        return decision._tag
      }
    }
  }

  const table: ReadonlyArray<[string, LeaseRecord | "absent" | "unknown", number, string]> = [
    ["nothing is known yet", "unknown", 1000, "Read"],
    ["absent", "absent", 1000, "Create"],
    // --- without holder, released
    ["released", lease({ holderIdentity: "", leaseDurationSeconds: 1 }), 100, "Take (released)"],
    [
      "released, with nothing else in it",
      lease({
        holderIdentity: "",
        leaseDurationSeconds: 1,
        renewTime: undefined,
        acquireTime: undefined,
        leaseTransitions: 0
      }),
      100,
      "Take (released)"
    ],
    // --- without holder otherwise: any change counts, for my duration
    ["no holder, 15 s", lease({ holderIdentity: "" }), 122.999, "Wait until 123"],
    ["no holder, 15 s, without a change for mine", lease({ holderIdentity: "" }), 123, "Take (expired)"],
    ["no holder, no duration", lease({ holderIdentity: "", leaseDurationSeconds: undefined }), 122, "Wait until 123"],
    ["no holder, 2 s", lease({ holderIdentity: "", leaseDurationSeconds: 2 }), 122, "Wait until 123"],
    ["no holder, an hour", lease({ holderIdentity: "", leaseDurationSeconds: 3600 }), 123, "Take (expired)"],
    // --- mine, this instance
    ["my own take", lease({ holderIdentity: "me", instance: "50-x" }), 100, "Take (resumed)"],
    ["my own take, expired", lease({ holderIdentity: "me", instance: "50-x" }), 1000, "Take (resumed)"],
    // --- my identity, an earlier instance
    ["an earlier instance of mine", lease({ holderIdentity: "me", instance: "49-z" }), 100, "Take (resumed)"],
    ["as early, by the random part", lease({ holderIdentity: "me", instance: "50-a" }), 100, "Take (resumed)"],
    // --- my identity, a later instance
    [
      "a later instance of mine",
      lease({ holderIdentity: "me", instance: "51-a" }),
      114.999,
      "Wait until 115, duplicate"
    ],
    [
      "as early, but later by the random part",
      lease({ holderIdentity: "me", instance: "50-y" }),
      100,
      "Wait until 115, duplicate"
    ],
    ["one that cannot be told", lease({ holderIdentity: "me", instance: "what" }), 100, "Wait until 115, duplicate"],
    ["a later instance of mine, expired", lease({ holderIdentity: "me", instance: "51-a" }), 115, "Take (expired)"],
    // Written by another implementation under our identity, or the annotation was removed.
    ["my identity without instance", lease({ holderIdentity: "me" }), 100, "Wait until 115"],
    ["my identity without instance, expired", lease({ holderIdentity: "me" }), 115, "Take (expired)"],
    // --- another's
    ["another's", lease(), 100, "Wait until 115"],
    ["another's, at its end", lease(), 114.999, "Wait until 115"],
    ["another's, for its duration without a sign of life", lease(), 115, "Take (expired)"],
    ["another's, long dead", lease(), 100_000, "Take (expired)"],
    ["another's, for longer than mine", lease({ leaseDurationSeconds: 60 }), 159, "Wait until 160"],
    ["another's, for longer than mine, at its end", lease({ leaseDurationSeconds: 60 }), 160, "Take (expired)"],
    ["another's, for 1 s", lease({ leaseDurationSeconds: 1 }), 100.5, "Wait until 101"],
    ["another's, for 1 s, at its end", lease({ leaseDurationSeconds: 1 }), 101, "Take (expired)"],
    ["another's, without a duration: mine", lease({ leaseDurationSeconds: undefined }), 119, "Wait until 120"],
    ["another's, without a duration, at its end", lease({ leaseDurationSeconds: undefined }), 120, "Take (expired)"],
    ["another's, the greatest duration", lease({ leaseDurationSeconds: 2 ** 31 - 1 }), 100, "Wait until 2147483747"],
    ["another's with my instance", lease({ instance: "50-x" }), 100, "Wait until 115"],
    ["another's with an earlier instance", lease({ instance: "1-x" }), 100, "Wait until 115"],
    // The times of the record are never looked at.
    ["another's, renewed in the year 9999", lease({ renewTime: 253_402_300_799_000_000n }), 115, "Take (expired)"],
    ["another's, renewed in 1969", lease({ renewTime: -1n }), 100, "Wait until 115"],
    ["another's, terminating", lease({ deletionTimestamp: 5 }), 100, "Wait until 115"]
  ]
  for (const [what, lease, now, expected] of table) {
    it(`${what}: ${expected}`, () => {
      assert.strictEqual(show(lease, now), expected)
    })
  }
})

describe("isReleased", () => {
  const table: ReadonlyArray<[Parameters<typeof lease>[0], boolean]> = [
    [{ holderIdentity: "", leaseDurationSeconds: 1 }, true],
    [{ holderIdentity: "", leaseDurationSeconds: 2 }, false],
    [{ holderIdentity: "", leaseDurationSeconds: undefined }, false],
    [{ holderIdentity: "x", leaseDurationSeconds: 1 }, false]
  ]
  for (const [change, expected] of table) {
    it(`${JSON.stringify(change)}: ${expected}`, () => {
      assert.strictEqual(isReleased(lease(change)), expected)
    })
  }
})

it("expiresAt counts signs of life of a holder, and changes of a Lease without", () => {
  const held = lease({ leaseDurationSeconds: 7 })
  assert.strictEqual(expiresAt(seen(held), held, seconds(20)), seconds(107))
  const empty = lease({ holderIdentity: "", leaseDurationSeconds: 7 })
  assert.strictEqual(expiresAt(seen(empty), empty, seconds(20)), seconds(123))
})

describe("isHeldBy", () => {
  const table: ReadonlyArray<[string, Parameters<typeof lease>[0], boolean]> = [
    ["mine", { holderIdentity: "me", instance: "50-x" }, true],
    ["mine, its annotation lost", { holderIdentity: "me" }, true],
    ["another instance", { holderIdentity: "me", instance: "50-y" }, false],
    ["another's", { holderIdentity: "other", instance: "50-x" }, false],
    ["nobody's", { holderIdentity: "" }, false]
  ]
  for (const [what, change, expected] of table) {
    it(`${what}: ${expected}`, () => {
      assert.strictEqual(isHeldBy(lease(change), self), expected)
    })
  }
})

describe("lossOf", () => {
  const table: ReadonlyArray<[string, LeaseRecord | "absent" | "unknown", LossCause | undefined]> = [
    ["nothing known", "unknown", undefined],
    ["mine", lease({ holderIdentity: "me", instance: "50-x" }), undefined],
    ["mine, its annotation lost", lease({ holderIdentity: "me" }), undefined],
    ["mine, with a label", lease({ holderIdentity: "me", instance: "50-x", labels: { a: "1" } }), undefined],
    ["mine, terminating", lease({ holderIdentity: "me", instance: "50-x", deletionTimestamp: 5 }), undefined],
    ["absent", "absent", "LeaseDeleted"],
    ["another object", lease({ uid: "uid-2", holderIdentity: "me", instance: "50-x" }), "LeaseDeleted"],
    ["another object of another", lease({ uid: "uid-2" }), "LeaseDeleted"],
    ["another's", lease(), "LeaseTaken"],
    ["another's with my instance", lease({ instance: "50-x" }), "LeaseTaken"],
    ["emptied", lease({ holderIdentity: "" }), "LeaseTaken"],
    ["released by somebody", lease({ holderIdentity: "", leaseDurationSeconds: 1 }), "LeaseTaken"],
    ["mine by name, a later instance", lease({ holderIdentity: "me", instance: "51-x" }), "DuplicateIdentity"],
    ["mine by name, an earlier instance", lease({ holderIdentity: "me", instance: "49-x" }), "DuplicateIdentity"]
  ]
  for (const [what, lease, expected] of table) {
    it(`${what}: ${expected ?? "held"}`, () => {
      assert.strictEqual(lossOf(seen(lease), "uid-1", self), expected)
    })
  }
})
