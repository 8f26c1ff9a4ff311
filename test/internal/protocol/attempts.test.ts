import { assert, describe, it } from "@effect/vitest"
import * as Attempts from "../../../src/internal/protocol/attempts.ts"
import type { LeaseRecord } from "../../../src/LeaseRecord.ts"
import { lease, seconds } from "../../utils/leases.ts"

const pace = { retryPeriod: seconds(2), requestTimeout: seconds(2) }

const attempt = (start: number, change: Partial<Attempts.Attempt> = {}): Attempts.Attempt => ({
  id: start,
  start: { monotonic: seconds(start), witness: 0n, wall: 0n },
  open: true,
  guard: 10n,
  renewTime: BigInt(Math.floor(start)),
  cause: "renewal",
  ...change
})

/** A series in which attempts began at these seconds. */
const series = (...starts: ReadonlyArray<number>): Attempts.Series<Attempts.Attempt> =>
  starts.reduce<Attempts.Series<Attempts.Attempt>>(
    (series, start) => Attempts.begun(series, attempt(start)),
    Attempts.none
  )

const ids = (series: Attempts.Series<Attempts.Attempt>) => series.requests.map(({ id }) => id)
const openIds = (series: Attempts.Series<Attempts.Attempt>) => Attempts.open(series).map(({ id }) => id)

describe("begun", () => {
  it("three may be open; a fourth gives up the newest, never the two oldest", () => {
    assert.strictEqual(Attempts.givenUp(series(5, 7)), undefined)
    assert.strictEqual(Attempts.givenUp(series(5, 7, 9))?.id, 9)
    assert.deepStrictEqual(openIds(series(5, 7, 9)), [5, 7, 9])
    assert.deepStrictEqual(openIds(series(5, 7, 9, 11)), [5, 7, 11])
    assert.deepStrictEqual(openIds(series(5, 7, 9, 11, 13)), [5, 7, 13])
  })

  it("it begins beside all that are open, but for the one that is given up", () => {
    const beside = (series: Attempts.Series<Attempts.Attempt>) => Attempts.beside(series).map(({ id }) => id)
    assert.deepStrictEqual(beside(series()), [])
    assert.deepStrictEqual(beside(series(5, 7)), [5, 7])
    assert.deepStrictEqual(beside(series(5, 7, 9)), [5, 7])
    assert.deepStrictEqual(beside(Attempts.unanswered(series(5, 7, 9), 5, 0n)), [7, 9])
  })

  it("what was given up stays recognised", () => {
    const four = series(5, 7, 9, 11)
    assert.deepStrictEqual(ids(four), [5, 7, 9, 11])
    assert.strictEqual(Attempts.shownBy(four.requests, lease({ renewTime: 9n }))?.id, 9)
  })

  it("one that has no answer to come frees its slot", () => {
    const three = Attempts.unanswered(series(5, 7, 9), 5, 0n)
    assert.strictEqual(Attempts.givenUp(three), undefined)
    assert.deepStrictEqual(openIds(Attempts.begun(three, attempt(11))), [7, 9, 11])
  })
})

describe("the end of an attempt", () => {
  it("unanswered ends open, and not living", () => {
    const after = Attempts.unanswered(series(5, 7), 5, seconds(1))
    assert.deepStrictEqual([ids(after), openIds(after), after.notBefore], [[5, 7], [7], seconds(1)])
  })

  it("refused ends both", () => {
    const after = Attempts.refused(series(5, 7), 5, seconds(8))
    assert.deepStrictEqual([ids(after), openIds(after), after.notBefore], [[7], [7], seconds(8)])
  })

  it("the later of two pauses counts", () => {
    const after = Attempts.refused(Attempts.refused(series(5, 7), 5, seconds(8)), 7, seconds(6))
    assert.strictEqual(after.notBefore, seconds(8))
    const unknown = Attempts.unanswered(Attempts.unanswered(series(5, 7), 5, seconds(8)), 7, seconds(6))
    assert.strictEqual(unknown.notBefore, seconds(8))
  })

  it("the first conflict in a row asks for no pause, the second does", () => {
    const first = Attempts.conflicted(series(5, 7), 5, seconds(8))
    assert.deepStrictEqual([ids(first), first.conflicts, first.notBefore], [[7], 1, 0n])
    const second = Attempts.conflicted(first, 7, seconds(9))
    assert.deepStrictEqual([ids(second), second.conflicts, second.notBefore], [[], 2, seconds(9)])
  })

  it("a success ends those that began before it, and the streak of conflicts", () => {
    const failed = Attempts.conflicted(Attempts.refused(series(1, 3, 5, 7, 9), 1, seconds(20)), 3, 0n)
    assert.deepStrictEqual(Attempts.succeeded(failed, seconds(7)), {
      requests: [attempt(9)],
      conflicting: [],
      starts: [seconds(9)],
      notBefore: 0n,
      conflicts: 0
    })
  })

  it("the dead change nothing", () => {
    const before = series(7)
    assert.isTrue(Attempts.isAlive(before, 7))
    assert.isFalse(Attempts.isAlive(before, 5))
    assert.strictEqual(Attempts.refused(before, 5, seconds(99)), before)
    assert.strictEqual(Attempts.unanswered(before, 5, seconds(99)), before)
    assert.strictEqual(Attempts.conflicted(before, 5, seconds(99)), before)
  })

  it("expired ends both at its own start and the limit", () => {
    const both = series(5, 7)
    assert.strictEqual(Attempts.expired(both, seconds(14.999), seconds(10)), both)
    assert.deepStrictEqual(ids(Attempts.expired(both, seconds(15), seconds(10))), [7])
    assert.deepStrictEqual(ids(Attempts.expired(both, seconds(17), seconds(10))), [])
  })
})

describe("recognised: also what a conflict answered, which may have been sent twice", () => {
  const conflicting = Attempts.conflicted(series(5, 7), 5, 0n)
  const recognisedIds = (of: Attempts.Series<Attempts.Attempt>) => Attempts.recognised(of).map(({ id }) => id)

  it("is not alive, and counts for nothing", () => {
    assert.isFalse(Attempts.isAlive(conflicting, 5))
    assert.deepStrictEqual([ids(conflicting), recognisedIds(conflicting)], [[7], [5, 7]])
  })

  it("by its renewTime, until another record is known", () => {
    const shown = lease({ resourceVersion: 11n, renewTime: 5n })
    assert.deepStrictEqual(recognisedIds(Attempts.living(conflicting, shown)), [5])
    assert.deepStrictEqual(recognisedIds(Attempts.living(conflicting, lease({ renewTime: 1n }))), [5, 7])
    assert.deepStrictEqual(
      recognisedIds(Attempts.living(conflicting, lease({ resourceVersion: 11n, renewTime: 1n }))),
      []
    )
  })

  it("until its time is over, or a later one has succeeded", () => {
    assert.strictEqual(Attempts.expired(conflicting, seconds(14.999), seconds(10)), conflicting)
    assert.deepStrictEqual(recognisedIds(Attempts.expired(conflicting, seconds(15), seconds(10))), [7])
    assert.deepStrictEqual(recognisedIds(Attempts.succeeded(conflicting, seconds(4))), [5, 7])
    assert.deepStrictEqual(recognisedIds(Attempts.succeeded(conflicting, seconds(5))), [7])
  })

  it("where there is none, those that are living", () => {
    const one = series(5)
    assert.strictEqual(Attempts.recognised(one), one.requests)
  })
})

describe("uncontested", () => {
  it("the next conflict is a first one, and nothing else changes", () => {
    const contested = Attempts.conflicted(series(5, 7), 5, seconds(8))
    assert.deepStrictEqual(Attempts.uncontested(contested), { ...contested, conflicts: 0 })
    const before = series(5)
    assert.strictEqual(Attempts.uncontested(before), before)
  })
})

describe("living", () => {
  const table: ReadonlyArray<[string, Partial<Attempts.Attempt>, LeaseRecord | "absent" | "unknown", boolean]> = [
    ["nothing known", {}, "unknown", true],
    ["the version that it is guarded by", {}, lease({ renewTime: 1n }), true],
    ["a newer version", {}, lease({ resourceVersion: 11n, renewTime: 1n }), false],
    ["a newer version that shows its renewTime", {}, lease({ resourceVersion: 11n, renewTime: 5n }), true],
    ["an absent Lease", {}, "absent", false],
    ["a create, still absent", { guard: "absent" }, "absent", true],
    ["a create, and a Lease of another", { guard: "absent" }, lease({ renewTime: 1n }), false],
    ["a create, and the Lease that it made", { guard: "absent" }, lease({ renewTime: 5n }), true]
  ]
  for (const [what, change, record, expected] of table) {
    it(`${what}: ${expected}`, () => {
      const one = Attempts.begun(Attempts.none, attempt(5, change))
      const after = Attempts.living(one, record)
      assert.strictEqual(after.requests.length, expected ? 1 : 0)
      assert.strictEqual(after === one, expected)
    })
  }

  it("a newer version kills all but the one that it shows", () => {
    const after = Attempts.living(series(5, 7, 9), lease({ resourceVersion: 11n, renewTime: 7n }))
    assert.deepStrictEqual(ids(after), [7])
    assert.strictEqual(Attempts.shownBy(after.requests, lease({ renewTime: 9n })), undefined)
  })
})

describe("dueAt", () => {
  const table: ReadonlyArray<[string, Attempts.Series<Attempts.Attempt>, number]> = [
    ["nothing under way", Attempts.none, 0],
    ["one that is open", series(5), 7],
    ["two that are open", series(5, 7), 9],
    ["one that failed, of unknown outcome", Attempts.unanswered(series(5), 5, 0n), 7],
    ["a pause that the server asked for", Attempts.unanswered(series(5), 5, seconds(8)), 8],
    ["one that was refused", Attempts.refused(series(5), 5, seconds(7)), 7],
    ["a first conflict", Attempts.conflicted(series(5), 5, seconds(7)), 0],
    ["one that a newer version has killed", Attempts.living(series(5), lease({ resourceVersion: 11n })), 0],
    ["three that came to nothing at once", Attempts.living(series(5, 5.5, 6), lease({ resourceVersion: 11n })), 7],
    ["four", Attempts.living(series(5, 5.5, 6, 7), lease({ resourceVersion: 11n })), 7.5]
  ]
  for (const [what, of, expected] of table) {
    it(`after ${what}: ${expected} s`, () => {
      assert.strictEqual(Attempts.dueAt(of, pace), seconds(expected))
    })
  }

  it("the next one waits for requestTimeout where that is longer, and the last is open", () => {
    const slow = { retryPeriod: seconds(2), requestTimeout: seconds(3) }
    assert.strictEqual(Attempts.dueAt(series(5), slow), seconds(8))
    assert.strictEqual(Attempts.dueAt(Attempts.unanswered(series(5), 5, 0n), slow), seconds(7))
    const quick = { retryPeriod: seconds(2), requestTimeout: seconds(1) }
    assert.strictEqual(Attempts.dueAt(series(5), quick), seconds(7))
  })

  it("an urgent one waits for nothing but the pace", () => {
    const paused = Attempts.unanswered(series(5), 5, seconds(8))
    assert.strictEqual(Attempts.dueAt(paused, pace, true), 0n)
    assert.strictEqual(Attempts.dueAt(series(5, 5.5, 6), pace, true), seconds(7))
  })

  it("no way of failing at once lets more than three begin within a retryPeriod", () => {
    const ways: ReadonlyArray<
      (series: Attempts.Series<Attempts.Attempt>, id: number) => Attempts.Series<Attempts.Attempt>
    > = [
      (series, id) => Attempts.refused(series, id, 0n),
      (series, id) => Attempts.conflicted(series, id, 0n),
      (series) => Attempts.living(series, lease({ resourceVersion: 99n, renewTime: -1n }))
    ]
    for (const way of ways) {
      let one = series()
      const starts: Array<number> = []
      for (let now = 0; now < 10; now += 0.5) {
        while (Attempts.dueAt(one, pace, true) <= seconds(now)) {
          starts.push(now)
          one = way(Attempts.begun(one, attempt(now, { id: starts.length })), starts.length)
        }
      }
      for (const start of starts) {
        assert.isTrue(starts.filter((other) => other >= start && other < start + 2).length <= 3, starts.join(" "))
      }
    }
  })
})
