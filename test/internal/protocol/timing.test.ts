import { assert, describe, it } from "@effect/vitest"
import {
  type Attempts,
  elapsed,
  type Moment,
  nextAttempt,
  nextRenewal,
  programDeadline,
  remaining
} from "../../../src/internal/protocol/timing.ts"
import { seconds } from "../../utils/leases.ts"

const timing = {
  leaseDuration: seconds(15),
  renewInterval: seconds(5),
  renewDeadline: seconds(10),
  retryPeriod: seconds(2),
  requestTimeout: seconds(2)
}

const moment = (monotonic: number, witness = 0): Moment => ({
  monotonic: seconds(monotonic),
  witness: seconds(witness)
})

describe("elapsed: the longer of the two clocks counts", () => {
  const table: ReadonlyArray<[Moment, Moment, number]> = [
    [moment(1), moment(4), 3],
    [moment(1, 100), moment(4, 100), 3],
    [moment(1, 100), moment(4, 103), 3],
    // Suspended for an hour.
    [moment(1, 100), moment(4, 3703), 3603],
    // A witness that went back, or is coarser.
    [moment(1, 100), moment(4, 50), 3],
    [moment(1, 100), moment(4, 102.9), 3]
  ]
  for (const [since, now, expected] of table) {
    it(`${since.monotonic}/${since.witness} to ${now.monotonic}/${now.witness}: ${expected} s`, () => {
      assert.strictEqual(elapsed(since, now), seconds(expected))
    })
  }
})

describe("remaining", () => {
  const table: ReadonlyArray<[Moment, bigint]> = [
    [moment(100), seconds(10)],
    [moment(109.999), seconds(0.001)],
    [{ monotonic: seconds(110) - 1n, witness: 0n }, 1n],
    [moment(110), 0n],
    [moment(111), 0n],
    [moment(100, 10), 0n],
    [moment(103, 4), seconds(6)]
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

describe("nextRenewal", () => {
  const failed = (start: number, end: number, retryAfter?: number): Attempts["failed"] => ({
    start: seconds(start),
    end: seconds(end),
    retryAfter: retryAfter === undefined ? undefined : seconds(retryAfter)
  })
  const table: ReadonlyArray<[string, Attempts["failed"], number]> = [
    ["no failure", undefined, 5],
    ["a hung attempt at 5 s", failed(5, 7), 7],
    ["a hung attempt at 7 s", failed(7, 9), 9],
    ["an attempt that failed at once", failed(5, 5), 7],
    ["a Retry-After shorter than retryPeriod", failed(5, 5, 1), 7],
    ["a Retry-After as long as retryPeriod", failed(5, 5, 2), 7],
    ["a longer one, counted from the answer", failed(5, 5.5, 2), 7.5],
    ["one that is just not cut", failed(5, 5, 3), 8],
    ["one that is cut: a whole requestTimeout remains", failed(5, 5, 3.001), 8],
    ["one of an hour", failed(5, 5, 3600), 8],
    ["one so late that retryPeriod is beyond the cut", failed(7, 7, 3600), 9],
    ["one at the deadline", failed(9, 9, 3600), 11]
  ]
  for (const [what, attempt, expected] of table) {
    it(`after ${what}: ${expected} s`, () => {
      assert.strictEqual(
        nextRenewal({
          succeeded: seconds(100),
          failed: attempt && {
            start: attempt.start + seconds(100),
            end: attempt.end + seconds(100),
            retryAfter: attempt.retryAfter
          }
        }, timing),
        seconds(100 + expected)
      )
    })
  }

  it("with the defaults attempts start at 5, 7 and 9 s", () => {
    const starts: Array<bigint> = []
    let attempts: Attempts = { succeeded: 0n, failed: undefined }
    for (let next = nextRenewal(attempts, timing); next < timing.renewDeadline; next = nextRenewal(attempts, timing)) {
      starts.push(next)
      attempts = { succeeded: 0n, failed: { start: next, end: next + timing.requestTimeout, retryAfter: undefined } }
    }
    assert.deepStrictEqual(starts, [5, 7, 9].map(seconds))
  })
})

describe("nextAttempt", () => {
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
      assert.strictEqual(
        nextAttempt({
          start: seconds(start),
          end: seconds(end),
          retryAfter: retryAfter === undefined ? undefined : seconds(retryAfter)
        }, timing),
        seconds(expected)
      )
    })
  }
})
