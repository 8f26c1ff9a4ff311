import { assert, describe, it } from "@effect/vitest"
import { delay, isCrowd } from "../../../src/internal/protocol/crowd.ts"
import { seconds } from "../../utils/leases.ts"

describe("a crowd", () => {
  it("is more than 8", () => {
    assert.deepStrictEqual(
      [undefined, 1, 2, 8, 9, 200].map(isCrowd),
      [false, false, false, false, true, true]
    )
  })
})

describe("what a candidate of a crowd draws", () => {
  const table: ReadonlyArray<[candidates: number, retryPeriod: number, random: number, milliseconds: number]> = [
    // Five of them at once.
    [200, 2, 0, 0],
    [200, 2, 0.0249, 0],
    [1_000, 2, 0.0049, 0],
    // The others not before an eighth of retryPeriod.
    [200, 2, 0.025, 250],
    [1_000, 2, 0.005, 250],
    [200, 0.1, 0.025, 12.5],
    // 10 ms apart,
    [10, 2, 0.5, 250],
    [10, 2, 0.75, 300],
    [100, 2, 0.525, 750],
    // and closer where retryPeriod is too short for that.
    [200, 2, 0.5125, 1_125],
    [1_000, 2, 0.5025, 1_125],
    [200, 0.1, 0.5125, 56.25]
  ]
  for (const [candidates, retryPeriod, random, milliseconds] of table) {
    it(`${candidates} candidates, retryPeriod ${retryPeriod} s, ${random}: ${milliseconds} ms`, () => {
      const drawn = Number(delay(candidates, seconds(retryPeriod), random)) / 1e6
      assert.approximately(drawn, milliseconds, milliseconds / 1e6)
    })
  }

  it("is at most retryPeriod", () => {
    for (const candidates of [9, 200, 1_000_000]) {
      for (const retryPeriod of [seconds(0.05), seconds(2), seconds(10)]) {
        assert.isTrue(delay(candidates, retryPeriod, 1 - 2 ** -53) <= retryPeriod)
      }
    }
  })

  it("is drawn so that on average five of them are first, however many there are", () => {
    for (const candidates of [9, 200, 1_000]) {
      const draws = Array.from({ length: 100_000 }, (_, index) => delay(candidates, seconds(2), index / 100_000))
      assert.approximately(draws.filter((drawn) => drawn === 0n).length / 100_000 * candidates, 5, 0.02)
    }
  })
})
