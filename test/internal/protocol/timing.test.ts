import { assert, describe, it } from "@effect/vitest"
import { initial } from "../../../src/internal/protocol/observation.ts"
import {
  candidateRetriesAt,
  elapsed,
  expiresAt,
  holderRetriesAt,
  isFarFrom,
  type Moment,
  programDeadline,
  remaining
} from "../../../src/internal/protocol/timing.ts"
import { lease, seconds } from "../../utils/leases.ts"

const timing = {
  leaseDuration: seconds(15),
  renewInterval: seconds(5),
  renewDeadline: seconds(10),
  retryPeriod: seconds(2),
  requestTimeout: seconds(2)
}

const moment = (monotonic: number, witness = 0, wall = monotonic): Moment => ({
  monotonic: seconds(monotonic),
  witness: seconds(witness),
  wall: seconds(wall)
})

describe("A8 elapsed: a suspension counts as far as witness and wall clock agree", () => {
  const table: ReadonlyArray<[string, Moment, Moment, number]> = [
    ["no witness", moment(1), moment(4), 3],
    ["no witness, a wall clock that jumps", moment(1), moment(4, 0, 3600), 3],
    ["a witness that stands", moment(1, 100), moment(4, 100), 3],
    ["all agree", moment(1, 100), moment(4, 103), 3],
    ["suspended for an hour", moment(1, 100, 7), moment(4, 3703, 3610), 3603],
    ["the witness alone jumps", moment(1, 100, 7), moment(4, 3703, 10), 3],
    ["the wall clock alone jumps", moment(1, 100, 7), moment(4, 103, 3610), 3],
    ["both jump, the witness farther", moment(1, 100, 7), moment(4, 3703, 1007), 1000],
    ["both jump, the wall clock farther", moment(1, 100, 7), moment(4, 1100, 3610), 1000],
    ["the wall clock was stepped back meanwhile", moment(1, 100, 7), moment(4, 3703, 1), 3],
    ["a witness that went back, or is coarser", moment(1, 100), moment(4, 50), 3],
    ["a witness that is coarser", moment(1, 100), moment(4, 102.9), 3]
  ]
  for (const [what, since, now, expected] of table) {
    it(`${what}: ${expected} s`, () => {
      assert.strictEqual(elapsed(since, now), seconds(expected))
    })
  }
})

describe("remaining", () => {
  const table: ReadonlyArray<[Moment, bigint]> = [
    [moment(100), seconds(10)],
    [moment(109.999), seconds(0.001)],
    [{ ...moment(110), monotonic: seconds(110) - 1n }, 1n],
    [moment(110), 0n],
    [moment(111), 0n],
    [moment(100, 10, 110), 0n],
    [moment(103, 4, 104), seconds(6)]
  ]
  for (const [now, expected] of table) {
    it(`at ${now.monotonic}/${now.witness}: ${expected}`, () => {
      assert.strictEqual(remaining(moment(100), now, seconds(10)), expected)
    })
  }
})

it("a program must have ended by 95 % of leaseDuration", () => {
  assert.strictEqual(programDeadline(seconds(15)), seconds(14.25))
  assert.strictEqual(programDeadline(seconds(60)), seconds(57))
  assert.strictEqual(programDeadline(1n), 0n)
})

const failure = (start: number, end: number, retryAfter: number | undefined) => ({
  start: seconds(start),
  end: seconds(end),
  retryAfter: retryAfter === undefined ? undefined : seconds(retryAfter)
})

describe("holderRetriesAt", () => {
  const table: ReadonlyArray<[string, number, number, number | undefined, number]> = [
    ["an attempt that failed at once", 105, 105, undefined, 107],
    ["one that failed late", 105, 108, undefined, 107],
    ["a Retry-After shorter than retryPeriod", 105, 105, 1, 107],
    ["a Retry-After as long as retryPeriod", 105, 105, 2, 107],
    ["a longer one, counted from the answer", 105, 105.5, 2, 107.5],
    ["one that is just not cut", 105, 105, 3, 108],
    ["one that is cut: a whole requestTimeout remains", 105, 105, 3.001, 108],
    ["one of an hour", 105, 105, 3600, 108],
    ["one so late that retryPeriod is beyond the cut", 107, 107, 3600, 109],
    ["one at the deadline", 109, 109, 3600, 111]
  ]
  for (const [what, start, end, retryAfter, expected] of table) {
    it(`after ${what}: ${expected} s`, () => {
      assert.strictEqual(holderRetriesAt(failure(start, end, retryAfter), seconds(100), timing), seconds(expected))
    })
  }
})

describe("candidateRetriesAt", () => {
  const table: ReadonlyArray<[number, number, number | undefined, number]> = [
    [100, 100, undefined, 102],
    [100, 101.5, undefined, 102],
    [100, 102, undefined, 102],
    // A pause never begins in the past, so what hung longer is followed at once.
    [100, 103, undefined, 103],
    [100, 100, 1, 102],
    [100, 100, 2, 102],
    [100, 101, 2, 103],
    [100, 100, 15, 115],
    [100, 100, 16, 115],
    [100, 101, 3600, 116]
  ]
  for (const [start, end, retryAfter, expected] of table) {
    it(`${start} to ${end}, Retry-After ${retryAfter}: ${expected}`, () => {
      assert.strictEqual(candidateRetriesAt(failure(start, end, retryAfter), timing), seconds(expected))
    })
  }
})

describe("isFarFrom", () => {
  const table: ReadonlyArray<[number | undefined, boolean]> = [
    [15, false],
    [22, false],
    [22.5, false],
    [23, true],
    [30, true],
    [10, false],
    [9, true],
    [undefined, false]
  ]
  for (const [record, expected] of table) {
    it(`${record} s beside 15 s: ${expected}`, () => {
      assert.strictEqual(isFarFrom(record, seconds(15)), expected)
    })
  }
})

describe("expiresAt: counts signs of life of a holder, and all changes without one or under one's own name", () => {
  const seen = { ...initial, signOfLifeAt: seconds(100), changedAt: seconds(103) }
  const table: ReadonlyArray<[string, Parameters<typeof lease>[0], number]> = [
    ["the holder's duration", { leaseDurationSeconds: 7 }, 107],
    ["ours where the holder's is missing", { leaseDurationSeconds: undefined }, 120],
    ["ours where there is no holder", { holderIdentity: "", leaseDurationSeconds: 7 }, 123],
    ["the record's under our own name", { holderIdentity: "me", leaseDurationSeconds: 7 }, 110],
    ["ours where our own record has none", { holderIdentity: "me", leaseDurationSeconds: undefined }, 123]
  ]
  for (const [what, change, expected] of table) {
    it(`${what}: at ${expected} s`, () => {
      const candidate = { identity: "me", leaseDuration: seconds(20) }
      assert.strictEqual(expiresAt(seen, lease(change), candidate), seconds(expected))
    })
  }

  const longer: ReadonlyArray<[string, Parameters<typeof lease>[0], number]> = [
    ["a shorter one that was edited in", { leaseDurationSeconds: 7 }, 130],
    ["a longer one that was edited in", { leaseDurationSeconds: 40 }, 140],
    ["ours, where the holder's was removed", { leaseDurationSeconds: undefined }, 130],
    ["ours, where the holder was", { holderIdentity: "", leaseDurationSeconds: 7 }, 133],
    ["a shorter one under our own name", { holderIdentity: "me", leaseDurationSeconds: 7 }, 133]
  ]
  for (const [what, change, expected] of longer) {
    it(`where the holder wrote 30 s, not ${what}: at ${expected} s`, () => {
      const candidate = { identity: "me", leaseDuration: seconds(20) }
      assert.strictEqual(expiresAt({ ...seen, heldFor: 30 }, lease(change), candidate), seconds(expected))
    })
  }
})
