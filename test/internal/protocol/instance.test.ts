import { assert, describe, it } from "@effect/vitest"
import * as Instance from "../../../src/internal/protocol/instance.ts"

const o = "0123456789abcdef0123"
const p = "fedcba98765432100000"

it("format joins the start, the origin and the random part", () => {
  assert.strictEqual(Instance.format(1_763_818_200_123_456n, o, "k3j"), `1763818200123456-${o}-k3j`)
  assert.strictEqual(Instance.format(0n, o, "0"), `0-${o}-0`)
})

describe("originOf", () => {
  it("is the same after a restart: no salt", () => {
    assert.strictEqual(Instance.originOf("web-0_uid-1", "uid-1"), "16249ff9c45157d935b8")
  })

  const others: ReadonlyArray<[string, string, string | undefined]> = [
    ["another identity in the same Pod", "y", "uid-1"],
    ["the same identity in another Pod", "x", "uid-2"],
    ["the same identity without a Pod", "x", undefined],
    ["a Pod called null", "x", "null"],
    ["parts that join to the same text", "x,uid-1", undefined]
  ]
  const own = Instance.originOf("x", "uid-1")
  for (const [what, identity, pod] of others) {
    it(`differs for ${what}`, () => {
      const other = Instance.originOf(identity, pod)
      assert.notStrictEqual(other, own)
      assert.match(other, /^[0-9a-f]{20}$/)
    })
  }

  it("version 0.1.0 does not take a new id for one of its own, or it would resume it", () => {
    assert.notMatch(Instance.format(5n, own, "x"), /^([0-9]{1,20})-([0-9a-z]{1,32})$/)
  })
})

describe("the order", () => {
  /** Earlier, later, or neither (the same, or not an instance id). */
  const table: ReadonlyArray<[string | undefined, string, "before" | "after" | "neither"]> = [
    [`1-${o}-a`, `2-${o}-a`, "before"],
    [`2-${o}-a`, `1-${o}-a`, "after"],
    // As numbers, not as text.
    [`9-${o}-a`, `10-${o}-a`, "before"],
    [`10-${o}-a`, `9-${o}-a`, "after"],
    // In the same microsecond the random part decides, so that exactly one of two is the earlier.
    [`5-${o}-a`, `5-${o}-b`, "before"],
    [`5-${o}-b`, `5-${o}-a`, "after"],
    [`5-${o}-a`, `5-${o}-a`, "neither"],
    [`05-${o}-a`, `5-${o}-b`, "before"],
    [`99999999999999999998-${o}-a`, `99999999999999999999-${o}-a`, "before"],
    [`0-${o}-a`, `1-${o}-a`, "before"],
    [`1-${o}-0`, `1-${o}-z`, "before"],
    [`1-${o}-${"a".repeat(32)}`, `2-${o}-a`, "before"],
    // What is not an instance id started neither before nor after anything.
    [undefined, `2-${o}-a`, "neither"],
    ["", `2-${o}-a`, "neither"],
    ["1", `2-${o}-a`, "neither"],
    [`-${o}-a`, `2-${o}-a`, "neither"],
    [`1-${o}-`, `2-${o}-a`, "neither"],
    [`1-${o}-A`, `2-${o}-a`, "neither"],
    [`1-${o}-a b`, `2-${o}-a`, "neither"],
    [`x1-${o}-a`, `2-${o}-a`, "neither"],
    [` 1-${o}-a`, `2-${o}-a`, "neither"],
    [`1-${o}-a `, `2-${o}-a`, "neither"],
    [`1-${o}-a-b`, `2-${o}-a`, "neither"],
    [`1-${o.slice(1)}-a`, `2-${o}-a`, "neither"],
    [`1-${o}0-a`, `2-${o}-a`, "neither"],
    [`1-${o.toUpperCase()}-a`, `2-${o}-a`, "neither"],
    [`-1-${o}-a`, `2-${o}-a`, "neither"],
    [`100000000000000000000-${o}-a`, `2-${o}-a`, "neither"],
    [`1-${o}-${"a".repeat(33)}`, `2-${o}-a`, "neither"],
    [`1-${o}-a`, "", "neither"],
    [`1-${o}-a`, "mine", "neither"],
    [`1-${o}-a`, `2-${o}-a x`, "neither"]
  ]
  for (const [other, own, expected] of table) {
    it(`${JSON.stringify(other)} beside ${JSON.stringify(own)}: ${expected}`, () => {
      assert.strictEqual(Instance.isPredecessor(other, own), expected === "before")
      assert.strictEqual(Instance.startedAfter(other, own), expected === "after")
    })
  }

  it("of another origin is never a predecessor, and may have started after", () => {
    assert.isFalse(Instance.isPredecessor(`1-${p}-a`, `2-${o}-a`))
    assert.isTrue(Instance.startedAfter(`3-${p}-a`, `2-${o}-a`))
    assert.isFalse(Instance.startedAfter(`1-${p}-a`, `2-${o}-a`))
  })

  it("without origin, as version 0.1.0 wrote it, neither is one a predecessor", () => {
    assert.isFalse(Instance.isPredecessor("1-a", `2-${o}-a`))
    assert.isFalse(Instance.isPredecessor("1-a", "2-a"))
    assert.isTrue(Instance.startedAfter("3-a", `2-${o}-a`))
    assert.isFalse(Instance.startedAfter("1-a", `2-${o}-a`))
  })
})
