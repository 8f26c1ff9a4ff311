import { assert, describe, it } from "@effect/vitest"
import * as MicroTime from "../../../src/internal/protocol/microTime.ts"

const micros = (text: string): bigint => BigInt(Date.parse(text)) * 1000n

describe("format", () => {
  const table: ReadonlyArray<[bigint, string]> = [
    [0n, "1970-01-01T00:00:00.000000Z"],
    [1n, "1970-01-01T00:00:00.000001Z"],
    [999_999n, "1970-01-01T00:00:00.999999Z"],
    [1_000_000n, "1970-01-01T00:00:01.000000Z"],
    [micros("2026-11-22T13:30:00Z") + 123_456n, "2026-11-22T13:30:00.123456Z"],
    [micros("2026-11-22T13:30:00Z") + 100n, "2026-11-22T13:30:00.000100Z"],
    // Before 1970: the fraction still counts forwards.
    [-1n, "1969-12-31T23:59:59.999999Z"],
    [-1_000_000n, "1969-12-31T23:59:59.000000Z"],
    [micros("1969-07-20T20:17:40Z") + 5n, "1969-07-20T20:17:40.000005Z"],
    // Its zero value would be read back as null, and years of five digits are refused.
    [micros("0001-01-01T00:00:00Z"), "0001-01-01T00:00:00.000001Z"],
    [micros("0001-01-01T00:00:00Z") + 1n, "0001-01-01T00:00:00.000001Z"],
    [micros("0001-01-01T00:00:00Z") + 2n, "0001-01-01T00:00:00.000002Z"],
    [-(10n ** 30n), "0001-01-01T00:00:00.000001Z"],
    [micros("9999-12-31T23:59:59Z") + 999_998n, "9999-12-31T23:59:59.999998Z"],
    [micros("9999-12-31T23:59:59Z") + 999_999n, "9999-12-31T23:59:59.999999Z"],
    [micros("9999-12-31T23:59:59Z") + 1_000_000n, "9999-12-31T23:59:59.999999Z"],
    [10n ** 30n, "9999-12-31T23:59:59.999999Z"]
  ]
  for (const [time, text] of table) {
    it(`T20 ${time} is ${text}`, () => {
      assert.strictEqual(MicroTime.format(time), text)
    })
  }

  it("T20 always has six digits, in UTC, and is read back as it was", () => {
    for (let time = -3_000_000n; time < 3_000_000n; time += 99_991n) {
      const text = MicroTime.format(time)
      assert.match(text, /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z$/)
      assert.strictEqual(MicroTime.parse(text), time)
    }
  })
})

describe("parse", () => {
  const base = micros("2026-11-22T13:30:00Z")
  const table: ReadonlyArray<[string | null | undefined, bigint | undefined]> = [
    ["2026-11-22T13:30:00.123456Z", base + 123_456n],
    ["2026-11-22T13:30:00.000000Z", base],
    // What the API server reads back is UTC; what others write into a body may not be.
    ["2026-11-22T13:30:00.123456+02:00", base + 123_456n - 7_200_000_000n],
    ["2026-11-22T13:30:00.123456-00:30", base + 123_456n + 1_800_000_000n],
    ["2026-11-22T13:30:00,123456Z", base + 123_456n],
    ["2026-11-22T13:30:00Z", base],
    ["2026-11-22T13:30:00.1Z", base + 100_000n],
    ["2026-11-22T13:30:00.123Z", base + 123_000n],
    ["2026-11-22T13:30:00.123456789Z", base + 123_456n],
    ["1969-12-31T23:59:59.999999Z", -1n],
    ["9999-12-31T23:59:59.999999Z", micros("9999-12-31T23:59:59Z") + 999_999n],
    [null, undefined],
    [undefined, undefined],
    ["", undefined],
    ["now", undefined],
    ["2026-11-22", undefined],
    ["2026-11-22T13:30:00.123456", undefined],
    ["2026-11-22 13:30:00.123456Z", undefined],
    ["2026-11-22T13:30:60.000000Z", undefined],
    ["2026-13-22T13:30:00.000000Z", undefined],
    ["2026-11-22T13:30:00.Z", undefined],
    ["2026-11-22T13:30:00.1234567890Z", undefined],
    ["2026-11-22T13:30:00.123456Z ", undefined],
    [" 2026-11-22T13:30:00.123456Z", undefined],
    ["+010000-11-22T13:30:00.123456Z", undefined],
    ["02026-11-22T13:30:00.123456Z", undefined],
    ["2026-11-022T13:30:00.123456Z", undefined],
    ["2026-11-22T13:30:00.123456+2:00", undefined],
    ["2026-11-22T13:30:00.123456+02:000", undefined],
    ["2026-11-22T13:30:00.123456z", undefined],
    ["2026-11-22T3:30:00.123456Z", undefined],
    ["2026-1-22T13:30:00.123456Z", undefined],
    ["2026-11-2T13:30:00.123456Z", undefined],
    ["2026-11-22T13:3:00.123456Z", undefined],
    ["2026-11-22T13:30:0.123456Z", undefined],
    ["2026-11-22T13:30:00.12345aZ", undefined]
  ]
  for (const [text, time] of table) {
    it(`${JSON.stringify(text)} is ${time}`, () => {
      assert.strictEqual(MicroTime.parse(text), time)
    })
  }
})
