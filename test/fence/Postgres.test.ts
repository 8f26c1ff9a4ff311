import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Cause, Effect, Exit, Layer, Option } from "effect"
import { Fence } from "effect-kubernetes-leader-election"
import { SqlClient, SqlError } from "effect/sql"
import { afterAll } from "vitest"
import { missingPostgres, startPostgres } from "../utils/Postgres.ts"
import { suite } from "./utils/FenceSuite.ts"
import { skipWhere } from "./utils/skip.ts"
import { inTerm, term } from "./utils/terms.ts"

if (!skipWhere(missingPostgres())) {
  const server = await startPostgres()
  afterAll(() => server[Symbol.asyncDispose]())
  const client = Layer.orDie(PgClient.layer({
    host: server.directory,
    username: "postgres",
    database: "postgres",
    applicationName: "closing"
  }))
  suite("Fence on PostgreSQL", {
    dialect: "pg",
    client,
    sideBySide: true,
    blocker:
      /session \d+ of user postgres, application closing, idle in transaction, its transaction open for \ds\. Set idle_in_transaction_session_timeout/
  })

  it.live("a session that the server has ended is an SqlError, not a defect, and the next transaction goes on", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      yield* sql.unsafe(Fence.createTable("leader_fences", "pg"))
      const leading = inTerm(term(7n, { name: "ended" }))
      const stopped = Effect.andThen(
        sql`SET LOCAL idle_in_transaction_session_timeout = '20ms'`,
        Effect.sleep("200 millis")
      )
      const exit = yield* Effect.exit(leading(Fence.transaction(Effect.andThen(stopped, sql`SELECT 1`))))
      assert.isTrue(
        Exit.isFailure(exit) && SqlError.isSqlError(Option.getOrUndefined(Cause.findErrorOption(exit.cause)))
      )
      yield* leading(Fence.transaction(sql`SELECT 1`))
    }).pipe(Effect.provide(Layer.provideMerge(Fence.layer({ table: "leader_fences" }), client))))

  // As the statements for other programs raise it, which take a weaker lock than `raise`.
  it.live("an UPDATE of the token by another program waits for a fenced transaction too", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      yield* sql.unsafe(Fence.createTable("leader_fences", "pg"))
      const update = Effect.gen(function*() {
        const other = yield* SqlClient.SqlClient
        const raise = other`UPDATE leader_fences SET token = 9 WHERE name = 'default/updated'`
        return yield* Effect.exit(
          other.withTransaction(Effect.andThen(other`SET LOCAL lock_timeout = '100ms'`, raise))
        )
      }).pipe(Effect.provide(client, { local: true }))
      const leading = inTerm(term(7n, { name: "updated" }))
      const exit = yield* leading(Fence.transaction(update))
      assert.include(String(exit), "LockTimeout")
    }).pipe(Effect.provide(Layer.provideMerge(Fence.layer({ table: "leader_fences" }), client))))
}
