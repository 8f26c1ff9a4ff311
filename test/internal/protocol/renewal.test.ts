import { assert, describe, it } from "@effect/vitest"
import type * as Attempts from "../../../src/internal/protocol/attempts.ts"
import { initial, type Observation } from "../../../src/internal/protocol/observation.ts"
import * as Renewal from "../../../src/internal/protocol/renewal.ts"
import type { Moment } from "../../../src/internal/protocol/timing.ts"
import type { Candidate } from "../../../src/internal/protocol/writes.ts"
import type { LossReason } from "../../../src/LeaderElectionError.ts"
import { type LeaseRecord, stepDownAnnotation } from "../../../src/LeaseRecord.ts"
import { lease, seconds } from "../../utils/leases.ts"

const instance = "50-0123456789abcdef0123-x"
const candidate: Candidate = {
  identity: "me",
  instance,
  leaseDuration: seconds(15),
  leaseDurationSeconds: 15,
  pod: undefined
}
const timing = {
  leaseDuration: seconds(15),
  renewInterval: seconds(5),
  renewDeadline: seconds(10),
  retryPeriod: seconds(2),
  requestTimeout: seconds(2)
}

const moment = (at: number): Moment => ({ monotonic: seconds(at), witness: 0n, wall: seconds(at) })

const attempt = (id: number, start: number, guard = 10n): Attempts.Attempt => ({
  id,
  start: moment(start),
  open: true,
  guard,
  renewTime: BigInt(id),
  cause: "renewal"
})

/** A record of ours, with the renewTime of the attempt with this number. */
const mine = (version: bigint, renewedBy: number, change: Partial<LeaseRecord> = {}) =>
  lease({ holderIdentity: "me", instance, resourceVersion: version, renewTime: BigInt(renewedBy), ...change })

const seen = (lease: LeaseRecord | "absent" | "unknown"): Observation => ({ ...initial, lease, revision: 1 })

const term = { fencingToken: 10n, transitions: 3, leaseUid: "uid-1", cause: "expired" as const, since: 0 }

/** Held by a take that began at 0 s. */
const held = Renewal.make(candidate, "expired", mine(10n, 1), attempt(1, 0, 9n), undefined)
const leading = Renewal.begin(held, term, undefined)

const attempted = (claim: Renewal.Claim, ...starts: ReadonlyArray<number>) =>
  starts.reduce((claim, start, index) => Renewal.attempted(claim, attempt(index + 2, start)), claim)

const due = (claim: Renewal.Claim, oldEnoughAt?: number) =>
  Number(Renewal.dueAt(claim, timing, oldEnoughAt === undefined ? undefined : seconds(oldEnoughAt))) / 1e9

describe("validity", () => {
  const table: ReadonlyArray<[string, Renewal.Claim, number, number]> = [
    ["a term", leading, 4, 6],
    ["a term at its end", leading, 10, 0],
    ["held before the term", held, 4, 0],
    ["lost", Renewal.lose(leading, "LeaseTaken"), 4, 0],
    ["ended by its program", Renewal.end(leading), 4, 0]
  ]
  for (const [what, claim, at, expected] of table) {
    it(`${what}: ${expected} s`, () => {
      assert.strictEqual(Renewal.validity(claim, moment(at), timing.renewDeadline), seconds(expected))
    })
  }
})

describe("the end", () => {
  it("the first reason stands", () => {
    const lost = Renewal.lose(leading, "LeaseTaken")
    assert.strictEqual(lost.lost, "LeaseTaken")
    assert.strictEqual(Renewal.lose(lost, "LeaseDeleted"), lost)
  })

  it("a program that ends by itself loses nothing, and a lost one does not end by itself", () => {
    assert.isTrue(Renewal.end(leading).over)
    const lost = Renewal.lose(leading, "LeaseTaken")
    assert.strictEqual(Renewal.end(lost), lost)
    const over = Renewal.end(leading)
    assert.strictEqual(Renewal.end(over), over)
  })
})

describe("committed", () => {
  it("counts from the start of that very attempt, whatever began later", () => {
    const claim = Renewal.committed(attempted(leading, 5, 7), attempt(2, 5), mine(11n, 2))
    assert.strictEqual(claim.validFrom.monotonic, seconds(5))
    assert.deepStrictEqual([claim.validBy, claim.provenBy], [2, 11n])
    assert.deepStrictEqual(claim.renewals.requests.map(({ id }) => id), [3])
  })

  it("an older one shortens nothing", () => {
    const claim = Renewal.committed(attempted(leading, 5, 7), attempt(3, 7), mine(11n, 3))
    assert.strictEqual(Renewal.committed(claim, attempt(2, 5), mine(11n, 2)), claim)
  })

  it("saves the finalizers of a lost term, and not the term", () => {
    const lost = Renewal.lose(attempted(leading, 5), "RenewDeadlineExceeded")
    const claim = Renewal.committed(lost, attempt(2, 5), mine(11n, 2))
    assert.strictEqual(claim.validFrom.monotonic, seconds(5))
    assert.strictEqual(claim.lost, "RenewDeadlineExceeded")
  })

  it("the same one twice changes nothing", () => {
    const claim = Renewal.committed(attempted(leading, 5), attempt(2, 5), mine(11n, 2))
    assert.strictEqual(Renewal.committed(claim, attempt(2, 5), mine(12n, 2)), claim)
  })

  it("explains a conflict", () => {
    assert.isFalse(held.mustRead)
    const conflicting = Renewal.conflicted(attempted(leading, 5, 7), attempt(3, 7), 0n)
    assert.isTrue(conflicting.mustRead)
    assert.isFalse(Renewal.committed(conflicting, attempt(2, 5), mine(11n, 2)).mustRead)
  })

  it("where the Lease is gone, nothing", () => {
    const gone = Renewal.observed(attempted(leading, 5), seen("absent"))
    assert.strictEqual(Renewal.committed(gone, attempt(2, 5), mine(11n, 2)), gone)
  })
})

describe("observed", () => {
  it("a renewTime of a living attempt counts as its answer", () => {
    const claim = Renewal.observed(attempted(leading, 5, 7), seen(mine(11n, 2)))
    assert.strictEqual(claim.validFrom.monotonic, seconds(5))
    assert.strictEqual(claim.provenBy, 11n)
    assert.strictEqual(claim.lease.resourceVersion, 11n)
    // The other one was guarded by the version before.
    assert.deepStrictEqual(claim.renewals.requests, [])
  })

  it("also where somebody has edited a label since", () => {
    const claim = Renewal.observed(attempted(leading, 5), seen(mine(12n, 2, { labels: { a: "1" } })))
    assert.deepStrictEqual([claim.validFrom.monotonic, claim.provenBy], [seconds(5), 12n])
  })

  it("a newer record without it gives a version and extends nothing, and kills what was guarded by the older", () => {
    const claim = Renewal.observed(attempted(leading, 5), seen(mine(11n, 1, { labels: { a: "1" } })))
    assert.strictEqual(claim.validFrom.monotonic, 0n)
    assert.strictEqual(claim.lease.resourceVersion, 11n)
    assert.deepStrictEqual(claim.renewals.requests, [])
    const dead = Renewal.observed(claim, seen(mine(12n, 2)))
    assert.strictEqual(dead.validFrom.monotonic, 0n)
  })

  it("a newer record of ours that no attempt wrote ends no term", () => {
    const claim = Renewal.observed(leading, seen(mine(11n, 77)))
    assert.deepStrictEqual([claim.gone, claim.lost, claim.lease.resourceVersion], [undefined, undefined, 11n])
    assert.strictEqual(claim.validFrom.monotonic, 0n)
  })

  it("explains a conflict", () => {
    const claim = Renewal.conflicted(attempted(leading, 5), attempt(2, 5), seconds(7))
    assert.isTrue(claim.mustRead)
    assert.isFalse(Renewal.observed(claim, seen(mine(11n, 1))).mustRead)
  })

  it("nothing new changes nothing", () => {
    assert.strictEqual(Renewal.observed(leading, seen("unknown")), leading)
    assert.strictEqual(Renewal.observed(leading, seen(leading.lease)), leading)
  })

  const losses: ReadonlyArray<[string, LeaseRecord | "absent", LossReason]> = [
    ["absent", "absent", "LeaseDeleted"],
    ["another object", mine(20n, 1, { uid: "uid-2" }), "LeaseDeleted"],
    ["another's", lease({ resourceVersion: 11n }), "LeaseTaken"],
    ["an older record put back", lease({ holderIdentity: "me", instance: "1-x", resourceVersion: 11n }), "LeaseTaken"],
    ["a later instance", lease({ holderIdentity: "me", instance: "99-x", resourceVersion: 11n }), "DuplicateIdentity"]
  ]
  for (const [what, record, reason] of losses) {
    it(`${what}: lost and gone, for good`, () => {
      const gone = Renewal.observed(leading, seen(record))
      assert.deepStrictEqual([gone.lost, gone.gone], [reason, reason])
      assert.strictEqual(Renewal.observed(gone, seen(mine(30n, 1))), gone)
    })
  }

  it("a loss by deadline keeps its reason when the Lease goes too", () => {
    const gone = Renewal.observed(Renewal.lose(leading, "RenewDeadlineExceeded"), seen("absent"))
    assert.deepStrictEqual([gone.lost, gone.gone], ["RenewDeadlineExceeded", "LeaseDeleted"])
  })

  describe("a newer record of ours, once the Lease may have been another's", () => {
    const at = (lease: LeaseRecord, changedAt: number): Observation => ({
      ...seen(lease),
      changedAt: seconds(changedAt)
    })
    const claim = attempted(leading, 5)
    const table: ReadonlyArray<[string, Renewal.Claim, renewedBy: number, changedAt: number, LossReason | undefined]> =
      [
        ["lost by deadline, edited or put back", Renewal.lose(claim, "RenewDeadlineExceeded"), 1, 11, "LeaseTaken"],
        ["lost by deadline, unknown", Renewal.lose(claim, "RenewDeadlineExceeded"), 99, 11, "LeaseTaken"],
        ["lost by deadline, read back", Renewal.lose(claim, "RenewDeadlineExceeded"), 2, 11, undefined],
        ["stepped down, edited", Renewal.lose(claim, "SteppedDown"), 1, 14.999, undefined],
        ["stepped down, unknown", Renewal.lose(claim, "SteppedDown"), 99, 11, "LeaseTaken"],
        [
          "stepped down, edited or put back after leaseDuration",
          Renewal.lose(claim, "SteppedDown"),
          1,
          15,
          "LeaseTaken"
        ],
        ["ended, edited", Renewal.end(claim), 1, 14.999, undefined],
        ["ended, edited or put back after leaseDuration", Renewal.end(claim), 1, 15, "LeaseTaken"],
        ["ended, read back after leaseDuration", Renewal.end(claim), 2, 15, undefined]
      ]
    for (const [what, of, renewedBy, changedAt, expected] of table) {
      it(`${what}: ${expected ?? "ours"}`, () => {
        const after = Renewal.observed(of, at(mine(30n, renewedBy), changedAt))
        assert.strictEqual(after.gone, expected)
        assert.strictEqual(after.lost, of.lost ?? (expected === undefined ? undefined : "RenewDeadlineExceeded"))
      })
    }
  })

  it("a request to step down counts for this instance, in its term and before it", () => {
    const asked = (of: string) =>
      seen({ ...mine(11n, 1), annotations: { ...mine(11n, 1).annotations, [stepDownAnnotation]: of } })
    assert.strictEqual(Renewal.observed(leading, asked(instance)).lost, "SteppedDown")
    assert.strictEqual(Renewal.observed(leading, asked("other")).lost, undefined)
    assert.strictEqual(Renewal.observed(held, asked(instance)).lost, "SteppedDown")
  })
})

describe("conflicted", () => {
  it("that of a dead attempt is ignored", () => {
    assert.strictEqual(Renewal.conflicted(leading, attempt(9, 5), seconds(7)), leading)
  })

  it("asks for a read only where nothing newer is known", () => {
    const claim = Renewal.attempted(leading, attempt(2, 5, 9n))
    assert.isFalse(Renewal.conflicted(claim, attempt(2, 5, 9n), seconds(7)).mustRead)
  })
})

describe("dueAt", () => {
  const early = Renewal.begin(held, term, seconds(3))
  const conflict = Renewal.conflicted(attempted(leading, 5), attempt(2, 5), seconds(7))
  const table: ReadonlyArray<[string, Renewal.Claim, number | undefined, number]> = [
    ["at rest: renewInterval after the start of the last success", leading, undefined, 5],
    ["spread: earlier", early, undefined, 3],
    ["spread: the first only", attempted(early, 3), undefined, 5],
    ["beside one without an answer", attempted(leading, 5), undefined, 7],
    ["beside two", attempted(leading, 5, 7), undefined, 9],
    [
      "after a success, whatever began later",
      Renewal.observed(attempted(leading, 5, 7), seen(mine(11n, 2))),
      undefined,
      10
    ],
    ["after a first conflict", conflict, undefined, 5],
    [
      "after one that a newer version killed",
      Renewal.observed(attempted(leading, 5), seen(mine(11n, 1))),
      undefined,
      5
    ],
    ["held, too young before the next renewal", held, 8, 5],
    ["held, old enough before the next renewal", held, 4, 4],
    ["held, old enough, beside one without an answer", attempted(held, 3), 4, 5],
    ["in a term the age is of no interest", leading, 4, 5],
    ["asked for", Renewal.asked(leading, 1), undefined, 0],
    ["asked for before the one that is under way", Renewal.asked(attempted(leading, 5), 1), undefined, 7],
    ["asked for after it", Renewal.asked(attempted(leading, 5), 2), undefined, 0],
    ["asked for, and answered since", Renewal.asked(leading, 0), undefined, 5]
  ]
  for (const [what, claim, oldEnoughAt, expected] of table) {
    it(`${what}: ${expected} s`, () => {
      assert.strictEqual(due(claim, oldEnoughAt), expected)
    })
  }

  it("with the defaults attempts start at 5, 7 and 9 s", () => {
    const starts: Array<number> = []
    let claim = leading
    for (let next = due(claim); next < 10; next = due(claim)) {
      starts.push(next)
      claim = Renewal.attempted(claim, attempt(1 + starts.length, next))
    }
    assert.deepStrictEqual(starts, [5, 7, 9])
  })
})

it("a program must have ended by 95 % of leaseDuration after the last success", () => {
  assert.isFalse(Renewal.hasOverrun(leading, moment(14.249), seconds(15)))
  assert.isTrue(Renewal.hasOverrun(leading, moment(14.25), seconds(15)))
  assert.strictEqual(Renewal.untilOverrun(leading, moment(4), seconds(15)), seconds(10.25))
  assert.strictEqual(Renewal.untilOverrun(leading, moment(20), seconds(15)), 0n)
})
