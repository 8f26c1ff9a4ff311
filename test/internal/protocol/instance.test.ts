import { assert, describe, it } from "@effect/vitest"
import * as Instance from "../../../src/internal/protocol/instance.ts"

it("format joins the start and the random part", () => {
  assert.strictEqual(Instance.format(1_763_818_200_123_456n, "k3j"), "1763818200123456-k3j")
  assert.strictEqual(Instance.format(0n, "0"), "0-0")
})

describe("startedBefore", () => {
  const table: ReadonlyArray<[string | undefined, string, boolean]> = [
    ["1-a", "2-a", true],
    ["2-a", "1-a", false],
    // As numbers, not as text.
    ["9-a", "10-a", true],
    ["10-a", "9-a", false],
    // In the same microsecond the random part decides, so that exactly one of two is the earlier.
    ["5-a", "5-b", true],
    ["5-b", "5-a", false],
    ["5-a", "5-a", false],
    ["05-a", "5-b", true],
    ["99999999999999999998-a", "99999999999999999999-a", true],
    ["0-a", "1-a", true],
    ["1-0", "1-z", true],
    // What is no instance id started before nothing.
    [undefined, "2-a", false],
    ["", "2-a", false],
    ["1", "2-a", false],
    ["-a", "2-a", false],
    ["1-", "2-a", false],
    ["1-A", "2-a", false],
    ["1-a b", "2-a", false],
    ["x1-a", "2-a", false],
    [" 1-a", "2-a", false],
    ["1-a ", "2-a", false],
    ["1-a-b", "2-a", false],
    ["-1-a", "2-a", false],
    ["100000000000000000000-a", "100000000000000000001-a", false],
    [`1-${"a".repeat(32)}`, "2-a", true],
    [`1-${"a".repeat(33)}`, "2-a", false],
    ["1-a", "", false],
    ["1-a", "mine", false],
    ["1-a", "x2-a", false],
    ["1-a", "2-a x", false]
  ]
  for (const [other, own, expected] of table) {
    it(`${JSON.stringify(other)} before ${JSON.stringify(own)}: ${expected}`, () => {
      assert.strictEqual(Instance.startedBefore(other, own), expected)
    })
  }
})
