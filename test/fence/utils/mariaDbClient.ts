/**
 * An `SqlClient` on `mysql2` for MariaDB, as small as the tests need it.
 */
import { Effect, type Scope, Stream } from "effect"
import type { Reactivity } from "effect/reactivity"
import { SqlClient, type SqlConnection, SqlError, Statement } from "effect/sql"
import { createPool, type PoolConnection, type PoolOptions, type RowDataPacket } from "mysql2/promise"

const lockWaitTimeout = 1205
const deadlock = 1213

const reasonOf = (cause: unknown): SqlError.SqlErrorReason => {
  const errno = typeof cause === "object" && cause !== null && "errno" in cause ? cause.errno : undefined
  const message = cause instanceof Error ? cause.message : String(cause)
  return errno === lockWaitTimeout
    ? new SqlError.LockTimeoutError({ cause, message })
    : errno === deadlock
    ? new SqlError.DeadlockError({ cause, message })
    : new SqlError.UnknownError({ cause, message })
}

const attempt = <A>(run: () => Promise<A>) =>
  Effect.tryPromise({ try: run, catch: (cause) => new SqlError.SqlError({ reason: reasonOf(cause) }) })

const makeConnection = (connection: PoolConnection): SqlConnection.Connection => {
  const run = (sql: string, params: ReadonlyArray<unknown>) =>
    attempt(async () => {
      const [rows] = await connection.query<Array<RowDataPacket>>(sql, [...params])
      return Array.isArray(rows) ? rows : []
    })
  const values = (sql: string, params: ReadonlyArray<unknown>) =>
    Effect.map(run(sql, params), (rows) => rows.map((row) => Object.values(row)))
  return {
    execute: run,
    executeRaw: run,
    executeStream: (sql, params) => Stream.fromIterableEffect(run(sql, params)),
    executeValues: values,
    executeValuesUnprepared: values,
    executeUnprepared: run
  }
}

export const make = (
  options: PoolOptions
): Effect.Effect<SqlClient.SqlClient, never, Scope.Scope | Reactivity.Reactivity> =>
  Effect.gen(function*() {
    const pool = yield* Effect.acquireRelease(
      Effect.sync(() => createPool(options)),
      (pool) => Effect.promise(() => pool.end())
    )
    const acquirer = Effect.map(
      Effect.acquireRelease(
        attempt(() => pool.getConnection()),
        (connection) => Effect.sync(() => connection.release())
      ),
      makeConnection
    )
    return yield* SqlClient.make({
      acquirer,
      compiler: Statement.makeCompiler({
        dialect: "mysql",
        placeholder: () => "?",
        onIdentifier: Statement.defaultEscape("`"),
        onRecordUpdate: () => ["", []],
        onCustom: () => ["", []]
      }),
      driver: "mysql2",
      spanAttributes: []
    })
  })
