/**
 * What differs between the databases in which a fence can be kept: the texts,
 * and what can be known of a session that keeps the row locked.
 *
 * @internal
 */
import * as Effect from "effect/Effect"
import type * as SqlClient from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"

/** The databases that were tested. */
export type DialectName = "pg" | "mysql" | "sqlite"

/** The row as it is read: the token is text in every driver, so that none rounds it. */
export interface TokenRow {
  readonly token: string
}

export interface Dialect {
  /** Opens a transaction; `undefined` for the client's own statement. */
  readonly begin: string | undefined
  /** Limits the waiting for locks in this transaction; the result identifies the session for `blockers`. */
  readonly limitWaiting: (millis: number) => Effect.Effect<string | undefined, SqlError>
  /** The row, locked so that no other transaction can lock it in any way. */
  readonly lockExclusively: (name: string, millis: number) => Effect.Effect<ReadonlyArray<TokenRow>, SqlError>
  /** The row, locked so that it cannot be raised before this transaction has ended. */
  readonly lockShared: (name: string) => Effect.Effect<ReadonlyArray<TokenRow>, SqlError>
  /** Makes the row with a token below every other; does nothing where there is one. */
  readonly insertIfAbsent: (name: string) => Effect.Effect<unknown, SqlError>
  readonly update: (name: string, token: bigint) => Effect.Effect<unknown, SqlError>
  /** One phrase for each session that `session` waits for. */
  readonly blockers: (session: string) => Effect.Effect<ReadonlyArray<string>, SqlError>
  /** What keeps a stopped session from holding the row for longer than a limit. */
  readonly remedy: string
  /** Whether a lock that is not available is reported at once, so that the waiting is ours. */
  readonly polls: boolean
}

const identifier = /^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$/

/** What is wrong with the name of a table, with or without its schema; `undefined` where nothing is. */
export const tableProblem = (table: unknown): string | undefined =>
  typeof table === "string" && identifier.test(table)
    ? undefined
    : `table: ${
      typeof table === "string" ? JSON.stringify(table) : String(table)
    } cannot be the name of a table: use ` +
      "letters, digits and underscores"

/** What is wrong with the name of a dialect. */
export const dialectProblem = (dialect: unknown): string | undefined =>
  dialect === "pg" || dialect === "mysql" || dialect === "sqlite"
    ? undefined
    : `dialect: ${String(dialect)} is none that was tested: use pg, mysql (for MariaDB) or sqlite`

const quoted = (table: string, quote: string): string =>
  table.split(".").map((part) => `${quote}${part}${quote}`).join(".")

/** The statement that makes the table. */
export const createTable = (table: string, dialect: DialectName): string => {
  switch (dialect) {
    case "pg":
      return `CREATE TABLE IF NOT EXISTS ${quoted(table, `"`)} (name text PRIMARY KEY, token bigint NOT NULL)`
    case "mysql":
      // Names of Leases are compared byte by byte, and a Lease's namespace and name are 317 characters at most.
      return `CREATE TABLE IF NOT EXISTS ${quoted(table, "`")} ` +
        `(name varchar(317) CHARACTER SET ascii COLLATE ascii_bin PRIMARY KEY, token bigint NOT NULL) ENGINE=InnoDB`
    case "sqlite":
      return `CREATE TABLE IF NOT EXISTS ${quoted(table, `"`)} (name text PRIMARY KEY, token integer NOT NULL)`
  }
}

/** The statement with which a person lets smaller tokens in again, down to this one. */
export const reset = (table: string, name: string, token: bigint): string =>
  `UPDATE ${table} SET token = ${token} WHERE name = '${name}'`

const none = Effect.succeed([])
const unlimited = Effect.succeed(undefined)

const seconds = (value: unknown): string => `${Math.round(Number(value ?? 0))}s`

const postgres = (sql: SqlClient.SqlClient, table: string): Dialect => {
  const fences = sql.literal(quoted(table, `"`))
  return {
    // In READ COMMITTED a lock that had to wait shows the row as it is then, not as it was when the transaction began.
    begin: "BEGIN ISOLATION LEVEL READ COMMITTED",
    limitWaiting: (millis) =>
      Effect.map(
        sql<{ readonly pid: string }>`
          SELECT CAST(pg_backend_pid() AS text) AS pid, set_config('lock_timeout', ${`${millis}ms`}, true) AS waiting`,
        (rows) => rows[0]?.pid
      ),
    lockExclusively: (name) =>
      sql<TokenRow>`SELECT CAST(token AS text) AS token FROM ${fences} WHERE name = ${name} FOR UPDATE`,
    // Not FOR KEY SHARE, beside which an UPDATE of the token could be committed.
    lockShared: (name) =>
      sql<TokenRow>`SELECT CAST(token AS text) AS token FROM ${fences} WHERE name = ${name} FOR SHARE`,
    insertIfAbsent: (name) => sql`INSERT INTO ${fences} (name, token) VALUES (${name}, 0) ON CONFLICT DO NOTHING`,
    update: (name, token) =>
      sql`UPDATE ${fences} SET token = CAST(CAST(${String(token)} AS text) AS bigint) WHERE name = ${name}`,
    blockers: (session) =>
      Effect.map(
        sql<Record<string, string | null>>`
          SELECT CAST(pid AS text) AS pid, CAST(usename AS text) AS usename, application_name,
                 CAST(client_addr AS text) AS client, state,
                 CAST(extract(epoch FROM clock_timestamp() - xact_start) AS text) AS age
          FROM pg_stat_activity
          WHERE pid = ANY (pg_blocking_pids(CAST(CAST(${session} AS text) AS integer)))
          ORDER BY xact_start`,
        (rows) =>
          rows.map((row) =>
            `session ${row["pid"]} of user ${row["usename"] ?? "?"}` +
            (row["application_name"] ? `, application ${row["application_name"]}` : "") +
            (row["client"] ? `, from ${row["client"]}` : "") +
            `, ${row["state"] ?? "in a state that this user may not see"}, its transaction open for ${
              seconds(row["age"])
            }`
          )
      ),
    remedy: "Set idle_in_transaction_session_timeout for the leader's role (ALTER ROLE ... SET), so that PostgreSQL " +
      "ends the session of a process that was stopped; SELECT pg_terminate_backend(PID) ends one now",
    polls: false
  }
}

const mariadb = (sql: SqlClient.SqlClient, table: string): Dialect => {
  const fences = sql.literal(quoted(table, "`"))
  return {
    // There is no statement that begins a transaction with its own isolation level. Locking reads show the newest
    // committed row at every level, and the snapshot of REPEATABLE READ is taken after the lock.
    begin: undefined,
    limitWaiting: () =>
      Effect.map(
        sql<{ readonly id: string }>`SELECT CAST(CONNECTION_ID() AS CHAR) AS id`,
        (rows) => rows[0]?.id
      ),
    lockExclusively: (name, millis) =>
      sql<TokenRow>`
        SELECT CAST(token AS CHAR) AS token FROM ${fences} WHERE name = ${name}
        FOR UPDATE WAIT ${sql.literal(String(Math.max(1, Math.round(millis / 1000))))}`,
    lockShared: (name) =>
      sql<TokenRow>`SELECT CAST(token AS CHAR) AS token FROM ${fences} WHERE name = ${name} LOCK IN SHARE MODE`,
    insertIfAbsent: (name) => sql`INSERT IGNORE INTO ${fences} (name, token) VALUES (${name}, 0)`,
    update: (name, token) => sql`UPDATE ${fences} SET token = CAST(${String(token)} AS SIGNED) WHERE name = ${name}`,
    blockers: (session) =>
      Effect.map(
        sql<Record<string, string | null>>`
          SELECT CAST(blocking.trx_mysql_thread_id AS CHAR) AS id, processes.user AS user, processes.host AS host,
                 processes.command AS command,
                 CAST(TIMESTAMPDIFF(SECOND, blocking.trx_started, NOW()) AS CHAR) AS age
          FROM information_schema.innodb_lock_waits AS waits
          JOIN information_schema.innodb_trx AS waiting ON waiting.trx_id = waits.requesting_trx_id
          JOIN information_schema.innodb_trx AS blocking ON blocking.trx_id = waits.blocking_trx_id
          LEFT JOIN information_schema.processlist AS processes ON processes.id = blocking.trx_mysql_thread_id
          WHERE waiting.trx_mysql_thread_id = CAST(${session} AS SIGNED)
          ORDER BY blocking.trx_started`,
        (rows) =>
          rows.map((row) =>
            `session ${row["id"]} of user ${row["user"] ?? "?"} from ${row["host"] ?? "?"}, ${
              row["command"] ?? "?"
            }, its transaction open for ${seconds(row["age"])}`
          )
      ),
    remedy: "Set idle_transaction_timeout (seconds), so that MariaDB ends the session of a process that was stopped; " +
      "KILL ID ends one now",
    polls: false
  }
}

const sqlite = (sql: SqlClient.SqlClient, table: string): Dialect => {
  const fences = sql.literal(quoted(table, `"`))
  const read = (name: string) => sql<TokenRow>`SELECT CAST(token AS text) AS token FROM ${fences} WHERE name = ${name}`
  return {
    // No row locks: from its start the transaction is the only one that writes.
    begin: "BEGIN IMMEDIATE",
    limitWaiting: () => unlimited,
    lockExclusively: read,
    lockShared: read,
    insertIfAbsent: (name) => sql`INSERT INTO ${fences} (name, token) VALUES (${name}, 0) ON CONFLICT DO NOTHING`,
    update: (name, token) => sql`UPDATE ${fences} SET token = CAST(${String(token)} AS integer) WHERE name = ${name}`,
    blockers: () => none,
    remedy: "SQLite has no limit for a transaction of another process: end the process that was stopped",
    polls: true
  }
}

/** The dialect of a client; `undefined` where the fence was not tested with its database. */
export const make = (client: SqlClient.SqlClient, table: string): Dialect | undefined => {
  // Names and results of ours, whatever the program's own are changed to.
  const sql = client.withoutTransforms()
  return sql.onDialectOrElse<Dialect | undefined, Dialect, Dialect, Dialect>({
    orElse: () => undefined,
    pg: () => postgres(sql, table),
    mysql: () => mariadb(sql, table),
    sqlite: () => sqlite(sql, table)
  })
}
