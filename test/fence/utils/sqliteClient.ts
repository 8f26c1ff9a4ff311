/**
 * An `SqlClient` on `node:sqlite`, as small as the tests need it.
 */
import { Effect, type Scope, Semaphore, Stream } from "effect"
import type { Reactivity } from "effect/reactivity"
import { SqlClient, type SqlConnection, SqlError, Statement } from "effect/sql"
import { DatabaseSync, type SQLInputValue } from "node:sqlite"

/** `node:sqlite` has the result code under a name that Effect does not look for. */
const withErrno = (cause: unknown): unknown =>
  cause instanceof Error && "errcode" in cause ? Object.assign(cause, { errno: cause.errcode }) : cause

export const make = (
  file: string
): Effect.Effect<SqlClient.SqlClient, never, Scope.Scope | Reactivity.Reactivity> =>
  Effect.gen(function*() {
    // A lock that is not available fails at once: to wait for it here would block the event loop.
    const database = yield* Effect.acquireRelease(
      Effect.sync(() => new DatabaseSync(file, { timeout: 0 })),
      (database) => Effect.sync(() => database.close())
    )
    const run = (sql: string, params: ReadonlyArray<unknown>) =>
      Effect.try({
        try: () => database.prepare(sql).all(...params as Array<SQLInputValue>),
        catch: (cause) => new SqlError.SqlError({ reason: SqlError.classifySqliteError(withErrno(cause)) })
      })
    const connection: SqlConnection.Connection = {
      execute: run,
      executeRaw: run,
      executeStream: (sql, params) => Stream.fromIterableEffect(run(sql, params)),
      executeValues: (sql, params) => Effect.map(run(sql, params), (rows) => rows.map((row) => Object.values(row))),
      executeValuesUnprepared: (sql, params) =>
        Effect.map(run(sql, params), (rows) => rows.map((row) => Object.values(row))),
      executeUnprepared: run
    }
    return yield* SqlClient.make({
      ...SqlClient.makeSqliteAcquirers({
        connection: Effect.succeed(connection),
        semaphore: Semaphore.makeUnsafe(1),
        isTransaction: () => database.isTransaction
      }),
      compiler: Statement.makeCompilerSqlite(),
      driver: "node-sqlite",
      spanAttributes: []
    })
  })
