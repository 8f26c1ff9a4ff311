import { assert, describe, it } from "@effect/vitest"
import { initial, type Observation } from "../../../src/internal/protocol/observation.ts"
import * as Renewal from "../../../src/internal/protocol/renewal.ts"
import { isMarked, mayBegin, needsMark, oldEnoughAt } from "../../../src/internal/protocol/youngLease.ts"
import { ageMarkAnnotation, type LeaseRecord } from "../../../src/LeaseRecord.ts"
import { lease, seconds } from "../../utils/leases.ts"

/** What is known of an object that was first seen at 0.5 s. */
const known = (change?: Parameters<typeof lease>[0]): Observation => ({
  ...initial,
  lease: lease(change),
  firstSeenAt: seconds(0.5)
})

const mark = (uid: string) => ({ annotations: { [ageMarkAnnotation]: uid } })

describe("isMarked", () => {
  const table: ReadonlyArray<[string, LeaseRecord, boolean]> = [
    ["its own uid", lease(mark("uid-1")), true],
    ["another object's, copied with its annotations", lease(mark("uid-0")), false],
    ["none", lease(), false],
    ["empty, on an object without uid", lease({ uid: "", ...mark("") }), false]
  ]
  for (const [what, record, expected] of table) {
    it(`${what}: ${expected}`, () => {
      assert.strictEqual(isMarked(record), expected)
    })
  }
})

describe("oldEnoughAt", () => {
  const table: ReadonlyArray<[string, bigint, bigint | undefined, bigint]> = [
    ["seen here for leaseDuration", seconds(100), undefined, seconds(115)],
    ["marked when it was first seen", seconds(100), seconds(100), seconds(100)],
    ["marked later", seconds(100), seconds(108), seconds(108)],
    ["marked when it was old already", seconds(100), seconds(130), seconds(115)]
  ]
  for (const [what, firstSeenAt, markedAt, expected] of table) {
    it(what, () => {
      assert.strictEqual(oldEnoughAt({ ...known(), firstSeenAt, markedAt }, seconds(15)), expected)
    })
  }
})

describe("mayBegin", () => {
  const attempt = (id: number, start: number) => ({
    id,
    start: { monotonic: seconds(start), witness: 0n, wall: seconds(start) },
    open: true
  })
  const candidate = {
    identity: "me",
    instance: "50-0123456789abcdef0123-x",
    leaseDuration: seconds(15),
    leaseDurationSeconds: 15,
    pod: undefined
  }
  const held = Renewal.make(candidate, "created", lease(), attempt(1, 0), undefined)

  const table: ReadonlyArray<[string, number, number, boolean]> = [
    ["an attempt that began when it was old", 15, 0, true],
    ["one that began before, read back later", 14.999, 0, false],
    ["of an object seen later", 15, 1, false]
  ]
  for (const [what, start, firstSeen, expected] of table) {
    it(`${what}: ${expected}`, () => {
      const claim = Renewal.committed(held, attempt(2, start), lease({ resourceVersion: 11n }))
      assert.strictEqual(mayBegin(claim, { ...known(), firstSeenAt: seconds(firstSeen) }, seconds(15)), expected)
    })
  }
})

describe("needsMark", () => {
  const table: ReadonlyArray<[string, Observation, number, boolean]> = [
    ["seen for leaseDuration", known(), 15.5, true],
    ["not seen for so long", known(), 15.499, false],
    ["found, and removed since", { ...known(), markedAt: seconds(2) }, 2, true],
    ["there already", { ...known(mark("uid-1")), markedAt: seconds(2) }, 20, false],
    ["that of another object", known(mark("uid-0")), 15.5, true],
    ["of a Lease that is absent", { ...known(), lease: "absent" }, 100, false]
  ]
  for (const [what, observation, at, expected] of table) {
    it(`${what}: ${expected}`, () => {
      assert.strictEqual(needsMark(observation, seconds(at), seconds(15)), expected)
    })
  }
})
