/**
 * A fence and the election whose terms it guards, and what a fence refuses to be made of.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { Reactivity } from "effect/reactivity"
import { SqlClient } from "effect/sql"
import * as Fence from "../../src/Fence.ts"
import { Fault } from "../../src/testing/index.ts"
import { key, oldLease, test } from "../utils/Elections.ts"
import * as SqliteClient from "./utils/sqliteClient.ts"

const Database = Layer.effect(SqlClient.SqlClient, SqliteClient.make(":memory:")).pipe(Layer.provide(Reactivity.layer))

const prepare = Effect.gen(function*() {
  const database = yield* Layer.build(Layer.fresh(Database))
  return yield* Effect.provideContext(
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      yield* sql.unsafe(Fence.createTable("fences", "sqlite"))
      const fence = yield* Fence.make({ table: "fences" })
      return { fence, raiseTo: (token: bigint) => sql`UPDATE fences SET token = ${token}` }
    }),
    database
  )
})

describe("a row that shows a greater token", () => {
  test("ends the term of a leader that was replaced, and it campaigns again", function*(w) {
    yield* oldLease(w)
    const { fence, raiseTo } = yield* prepare
    // It does not learn of its successor by itself before its next renewal.
    const a = yield* w.candidate("a", { settings: { watch: false } })
    let terms = 0
    yield* a.startForever(Effect.gen(function*() {
      terms++
      yield* fence.raise
      yield* w.note(`term ${terms}`)
      if (terms === 1) {
        yield* Effect.orDie(w.cluster.editLease(key, { spec: { holderIdentity: "b", leaseDurationSeconds: 5 } }))
        yield* raiseTo((yield* w.lease).resourceVersion)
        yield* fence.transaction(w.note("writes"))
      }
      return "done"
    }))
    yield* w.until(140_000)
    assert.deepStrictEqual(w.timeline.map((line) => line.replace(/^\d+ /, "")), [
      "term 1",
      "term 2",
      "a succeeds with done"
    ])
    assert.isTrue(w.logs.some((line) => line.includes("the Lease is no longer held by this process")))
  })

  test("does so at its deadline, where nobody can say whether it was replaced", function*(w) {
    yield* oldLease(w)
    const { fence, raiseTo } = yield* prepare
    const a = yield* w.candidate("a", { settings: { watch: false } })
    yield* a.start(Effect.gen(function*() {
      yield* Effect.addFinalizer(() => w.note("ends"))
      yield* fence.raise
      yield* raiseTo(1_000_000n)
      yield* a.faults.set({ patch: Fault.refused, get: Fault.refused })
      yield* fence.transaction(w.note("writes"))
    }))
    yield* w.until(109_999)
    assert.deepStrictEqual(w.timeline, [])
    yield* w.until(120_000)
    assert.deepStrictEqual(w.timeline, ["110000 ends", "114000 a fails: RenewDeadlineExceeded"])
  })

  test("is an error that needs a person where the leader was not replaced", function*(w) {
    yield* oldLease(w)
    const { fence, raiseTo } = yield* prepare
    const a = yield* w.candidate("a")
    yield* a.startForever(Effect.gen(function*() {
      yield* fence.raise
      yield* raiseTo(1_000_000n)
      yield* fence.transaction(w.note("writes"))
    }))
    yield* w.settle
    assert.strictEqual(w.timeline.length, 1)
    assert.match(
      w.timeline[0]!,
      /a fails: .*shows token 1000000 in place of \d+, although no later term has begun: .*UPDATE fences SET token = \d+ WHERE/
    )
  })
})

describe("what cannot be the name of a table", () => {
  for (const table of ["", "a b", "x.y.z", "months; DROP TABLE months", undefined, 5]) {
    it.effect(`${JSON.stringify(table)} is refused, with the setting and the remedy`, () =>
      Effect.gen(function*() {
        const made = yield* Effect.flip(Fence.make({ table: table as string }))
        assert.match(made.message, /^table: .* cannot be the name of a table: use letters, digits and underscores$/)
        assert.throws(() => Fence.createTable(table as string, "pg"), made.message)
      }).pipe(Effect.provide(Database)))
  }
})

describe("what a fence is made with", () => {
  for (
    const [limit, shown] of [
      ["1h1m", "\"1h1m\""],
      ["soon", "\"soon\""],
      [0, "0 (a number in code is milliseconds)"],
      [Number.NaN, "NaN (a number in code is milliseconds)"]
    ] as const
  ) {
    it.effect(`limit ${limit} is refused as it was given`, () =>
      Effect.gen(function*() {
        const made = yield* Effect.flip(Fence.make({ table: "fences", limit }))
        assert.strictEqual(made.message, `limit: ${shown} cannot be waited for: give 1 millisecond to 1 hour`)
      }).pipe(Effect.provide(Database)))
  }

  it.effect("a limit as variables and options have it is taken", () =>
    Effect.asVoid(Fence.make({ table: "fences", limit: "1m30s" })).pipe(Effect.provide(Database)))

  it("a dialect that was not tried makes no table", () => {
    assert.throws(
      () => Fence.createTable("fences", "mssql" as "mysql"),
      "dialect: mssql is none that was tested: use pg,"
    )
  })
})
