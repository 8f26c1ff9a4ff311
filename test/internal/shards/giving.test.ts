import { assert, describe, it } from "@effect/vitest"
import { noReturns } from "../../../src/internal/protocol/shards.ts"
import { Giving } from "../../../src/internal/shards/giving.ts"
import { seconds } from "../../utils/leases.ts"

const make = () => new Giving({ leaseDuration: seconds(15), retryPeriod: seconds(2) })

const nobody = () => "nobody" as const

/** Gives a shard at a moment, and sees what becomes of it after three seconds. */
const give = (giving: Giving, at: bigint, to: "nobody" | "another" | "receiver", changedAt = 0n) => {
  giving.begin("x")
  giving.released("x", at)
  giving.settle(at + seconds(3), changedAt, () => to)
  return giving.returns(at + seconds(3), changedAt)
}

describe("a shard that is given", () => {
  it("counts as that until its program has ended, and then until others have had their turn", () => {
    const giving = make()
    giving.begin("x")
    giving.settle(seconds(1000), 0n, nobody)
    assert.deepStrictEqual([...giving.shards], ["x"])
    giving.released("x", seconds(1000))
    assert.strictEqual(giving.restOf("x", seconds(1001)), seconds(2))
    assert.strictEqual(giving.restOf("x", seconds(1004)), 0n)
    assert.strictEqual(giving.restOf("y", seconds(1001)), 0n)
    giving.settle(seconds(1003) - 1n, 0n, nobody)
    assert.deepStrictEqual([...giving.shards], ["x"])
    giving.settle(seconds(1003), 0n, nobody)
    assert.deepStrictEqual([...giving.shards], [])
  })

  it("no longer once another leads it", () => {
    const giving = make()
    giving.begin("x")
    giving.released("x", seconds(10))
    giving.settle(seconds(10), 0n, () => "receiver")
    assert.deepStrictEqual([...giving.shards], [])
    assert.strictEqual(giving.restOf("x", seconds(10)), 0n)
  })
})

describe("what came back", () => {
  it("is counted, and no more once one was taken by the member that it was for", () => {
    const giving = make()
    assert.strictEqual(giving.returns(seconds(1), 0n).count, 0)
    assert.strictEqual(give(giving, seconds(10), "nobody").count, 1)
    assert.strictEqual(give(giving, seconds(20), "another").count, 2)
    assert.strictEqual(give(giving, seconds(40), "receiver").count, 0)
  })

  it("counts once where several were given together", () => {
    const giving = make()
    for (const shard of ["x", "y", "z"]) {
      giving.begin(shard)
      giving.released(shard, seconds(10))
    }
    giving.settle(seconds(13), 0n, nobody)
    giving.cameBack(seconds(17), 0n)
    assert.deepStrictEqual(giving.returns(seconds(18), 0n), { count: 1, since: seconds(1) })
    // Ten seconds later it is what was given next.
    giving.cameBack(seconds(27), 0n)
    assert.strictEqual(giving.returns(seconds(27), 0n).count, 2)
  })

  it("counts no more once the members have changed", () => {
    const giving = make()
    give(giving, seconds(10), "nobody")
    assert.deepStrictEqual(giving.returns(seconds(14), seconds(14)), noReturns)
    assert.strictEqual(give(giving, seconds(20), "nobody", seconds(14)).count, 1)
  })

  it("does not count where the shard is none any more", () => {
    const giving = make()
    giving.begin("x")
    giving.released("x", seconds(10))
    giving.settle(seconds(10), 0n, () => "gone")
    assert.deepStrictEqual([...giving.shards], [])
    assert.strictEqual(giving.returns(seconds(13), 0n).count, 0)
  })

  it("says when to look again", () => {
    const giving = make()
    give(giving, seconds(10), "nobody")
    giving.begin("y")
    giving.released("y", seconds(20))
    assert.includeDeepMembers([...giving.timers], [seconds(23), seconds(23)])
  })
})
