import { assert, describe, it } from "@effect/vitest"
import type { Attempt } from "../../../src/internal/protocol/attempts.ts"
import {
  type CandidateIdentity,
  decide,
  isHeldBy,
  isReleased,
  lossOf
} from "../../../src/internal/protocol/decision.ts"
import { initial, type Observation } from "../../../src/internal/protocol/observation.ts"
import type { LossReason } from "../../../src/LeaderElectionError.ts"
import type { LeaseRecord } from "../../../src/LeaseRecord.ts"
import { lease, seconds } from "../../utils/leases.ts"

const o = "0123456789abcdef0123"
const p = "fedcba98765432100000"

const candidate: CandidateIdentity = { identity: "me", instance: `50-${o}-x`, leaseDuration: seconds(20) }

/** A take that began at 99 s, whose answer has not come. */
const attempt: Attempt = {
  id: 1,
  start: { monotonic: seconds(99), witness: 0n, wall: 0n },
  open: false,
  guard: 9n,
  renewTime: 77n,
  cause: "expired"
}

/** Last sign of life at 100 s, last change at 103 s. */
const seen = (lease: LeaseRecord | "absent" | "unknown", first?: Observation["first"]): Observation => ({
  ...initial,
  lease,
  version: 10n,
  revision: 3,
  signOfLifeAt: seconds(100),
  changedAt: seconds(103),
  reportedAt: seconds(104),
  first: first ?? { uid: "uid-1", version: 10n }
})

type Case = [
  what: string,
  lease: LeaseRecord | "absent" | "unknown",
  now: number,
  expected: string,
  more?: { readonly first?: Observation["first"]; readonly attempts?: ReadonlyArray<Attempt> }
]

describe("decide", () => {
  const show = ([, lease, now, , more]: Case): string => {
    const decision = decide(seen(lease, more?.first), more?.attempts ?? [], candidate, seconds(now))
    switch (decision._tag) {
      case "Take": {
        assert.strictEqual(decision.lease, lease)
        return `Take (${decision.cause})`
      }
      case "Wait": {
        assert.strictEqual(decision.lease, lease)
        return `Wait until ${Number(decision.until) / 1e9}${decision.duplicate ? ", duplicate" : ""}`
      }
      case "Adopt": {
        assert.strictEqual(decision.lease, lease)
        return `Adopt from ${Number(decision.attempt.start.monotonic) / 1e9}`
      }
      default: {
        return decision._tag
      }
    }
  }

  const table: ReadonlyArray<Case> = [
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
    [
      "my own write, of a living attempt",
      lease({ holderIdentity: "me", instance: `50-${o}-x`, renewTime: 77n }),
      105,
      "Adopt from 99",
      { attempts: [{ ...attempt, id: 0, renewTime: 76n }, attempt] }
    ],
    [
      "my own write, no attempt of which is living",
      lease({ holderIdentity: "me", instance: `50-${o}-x`, renewTime: 77n }),
      105,
      "Wait until 118"
    ],
    [
      "this instance, with the renewTime of no attempt",
      lease({ holderIdentity: "me", instance: `50-${o}-x` }),
      105,
      "Wait until 118",
      { attempts: [attempt] }
    ],
    [
      "this instance, expired",
      lease({ holderIdentity: "me", instance: `50-${o}-x` }),
      118,
      "Take (expired)"
    ],
    [
      "my renewTime under another's name",
      lease({ instance: `50-${o}-x`, renewTime: 77n }),
      105,
      "Wait until 115",
      { attempts: [attempt] }
    ],
    [
      "my renewTime under another instance",
      lease({ holderIdentity: "me", instance: `51-${p}-x`, renewTime: 77n }),
      105,
      "Wait until 118, duplicate",
      { attempts: [attempt] }
    ],
    [
      "my renewTime without instance",
      lease({ holderIdentity: "me", renewTime: 77n }),
      105,
      "Wait until 118",
      { attempts: [attempt] }
    ],
    // --- my identity, an earlier instance of my origin, as it was first seen
    ["my predecessor's", lease({ holderIdentity: "me", instance: `49-${o}-z` }), 100, "Take (resumed)"],
    ["as early, by the random part", lease({ holderIdentity: "me", instance: `50-${o}-a` }), 100, "Take (resumed)"],
    [
      "my predecessor's, put back at a later version",
      lease({ holderIdentity: "me", instance: `49-${o}-z` }),
      100,
      "Wait until 118",
      { first: { uid: "uid-1", version: 9n } }
    ],
    [
      "my predecessor's late create, where there was none at first",
      lease({ holderIdentity: "me", instance: `49-${o}-z` }),
      100,
      "Wait until 118",
      { first: "absent" }
    ],
    [
      "my predecessor's, on another object",
      lease({ holderIdentity: "me", instance: `49-${o}-z` }),
      100,
      "Wait until 118",
      { first: { uid: "uid-0", version: 10n } }
    ],
    [
      "my predecessor's, dead, at a later version",
      lease({ holderIdentity: "me", instance: `49-${o}-z` }),
      118,
      "Take (expired)",
      { first: { uid: "uid-1", version: 9n } }
    ],
    // --- my identity in any other way: every change is a sign of life
    [
      "the leader's instance beside my name",
      lease({ holderIdentity: "me", instance: `49-${p}-z` }),
      100,
      "Wait until 118"
    ],
    ["an instance of version 0.1.0", lease({ holderIdentity: "me", instance: "49-z" }), 100, "Wait until 118"],
    [
      "a later instance of mine",
      lease({ holderIdentity: "me", instance: `51-${o}-a` }),
      117.999,
      "Wait until 118, duplicate"
    ],
    [
      "as early, but later by the random part",
      lease({ holderIdentity: "me", instance: `50-${o}-y` }),
      100,
      "Wait until 118, duplicate"
    ],
    [
      "a later instance of version 0.1.0",
      lease({ holderIdentity: "me", instance: "51-z" }),
      100,
      "Wait until 118, duplicate"
    ],
    ["one that cannot be ordered", lease({ holderIdentity: "me", instance: "what" }), 100, "Wait until 118"],
    [
      "a later instance of mine, expired",
      lease({ holderIdentity: "me", instance: `51-${o}-a` }),
      118,
      "Take (expired)"
    ],
    // Written by another implementation under our identity, or the annotation was removed.
    ["my identity without instance", lease({ holderIdentity: "me" }), 100, "Wait until 118"],
    ["my identity without instance, expired", lease({ holderIdentity: "me" }), 118, "Take (expired)"],
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
    ["another's with my instance", lease({ instance: `50-${o}-x` }), 100, "Wait until 115"],
    ["another's with an earlier instance", lease({ instance: `1-${o}-x` }), 100, "Wait until 115"],
    // The times of the record are never looked at.
    ["another's, renewed in the year 9999", lease({ renewTime: 253_402_300_799_000_000n }), 115, "Take (expired)"],
    ["another's, renewed in 1969", lease({ renewTime: -1n }), 100, "Wait until 115"],
    ["another's, terminating", lease({ deletionTimestamp: 5 }), 100, "Wait until 115"]
  ]
  for (const row of table) {
    it(`${row[0]}: ${row[3]}`, () => {
      assert.strictEqual(show(row), row[3])
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

describe("isHeldBy", () => {
  const table: ReadonlyArray<[string, Parameters<typeof lease>[0], boolean]> = [
    ["mine", { holderIdentity: "me", instance: `50-${o}-x` }, true],
    ["mine, its annotation lost", { holderIdentity: "me" }, true],
    ["another instance", { holderIdentity: "me", instance: `50-${o}-y` }, false],
    ["another's", { holderIdentity: "other", instance: `50-${o}-x` }, false],
    ["nobody's", { holderIdentity: "" }, false]
  ]
  for (const [what, change, expected] of table) {
    it(`${what}: ${expected}`, () => {
      assert.strictEqual(isHeldBy(lease(change), candidate), expected)
    })
  }
})

describe("lossOf", () => {
  const table: ReadonlyArray<[string, LeaseRecord | "absent" | "unknown", LossReason | undefined]> = [
    ["nothing known", "unknown", undefined],
    ["mine", lease({ holderIdentity: "me", instance: `50-${o}-x` }), undefined],
    ["mine, its annotation lost", lease({ holderIdentity: "me" }), undefined],
    ["mine, with a label", lease({ holderIdentity: "me", instance: `50-${o}-x`, labels: { a: "1" } }), undefined],
    ["mine, terminating", lease({ holderIdentity: "me", instance: `50-${o}-x`, deletionTimestamp: 5 }), undefined],
    ["absent", "absent", "LeaseDeleted"],
    ["another object", lease({ uid: "uid-2", holderIdentity: "me", instance: `50-${o}-x` }), "LeaseDeleted"],
    ["another object of another", lease({ uid: "uid-2" }), "LeaseDeleted"],
    ["another's", lease(), "LeaseTaken"],
    ["another's with my instance", lease({ instance: `50-${o}-x` }), "LeaseTaken"],
    ["emptied", lease({ holderIdentity: "" }), "LeaseTaken"],
    ["released by somebody", lease({ holderIdentity: "", leaseDurationSeconds: 1 }), "LeaseTaken"],
    ["mine by name, a later instance", lease({ holderIdentity: "me", instance: `51-${o}-x` }), "DuplicateIdentity"],
    ["a later one of 0.1.0", lease({ holderIdentity: "me", instance: "51-x" }), "DuplicateIdentity"],
    ["a later one of another origin", lease({ holderIdentity: "me", instance: `51-${p}-x` }), "DuplicateIdentity"],
    [
      "mine by name, an earlier instance put back",
      lease({ holderIdentity: "me", instance: `49-${o}-x` }),
      "LeaseTaken"
    ],
    ["an earlier one of 0.1.0", lease({ holderIdentity: "me", instance: "49-x" }), "LeaseTaken"],
    ["mine by name, one that cannot be ordered", lease({ holderIdentity: "me", instance: "what" }), "LeaseTaken"]
  ]
  for (const [what, lease, expected] of table) {
    it(`${what}: ${expected ?? "held"}`, () => {
      assert.strictEqual(lossOf(seen(lease), "uid-1", candidate), expected)
    })
  }
})
