/**
 * What leaders wrote, and whether a write of an earlier term came after the first of a later one.
 */
import { Effect } from "effect"
import { SqlClient } from "effect/sql"

export type DialectName = "pg" | "mysql" | "sqlite"

const idColumn = {
  pg: "id bigserial PRIMARY KEY",
  mysql: "id bigint AUTO_INCREMENT PRIMARY KEY",
  sqlite: "id integer PRIMARY KEY AUTOINCREMENT"
}

export const createTable = (dialect: DialectName): string =>
  `CREATE TABLE IF NOT EXISTS history (${idColumn[dialect]}, name varchar(100) NOT NULL, token bigint NOT NULL)`

/** Adds one write. */
export const write = (name: string, token: bigint) =>
  SqlClient.SqlClient.use((sql) => sql`INSERT INTO history (name, token) VALUES (${name}, ${String(token)})`)

export interface Verdict {
  readonly writes: number
  readonly terms: number
  /** Writes of an earlier term that were made, or committed, after the first of a later one. */
  readonly stale: number
}

/**
 * Judges by the order in which rows were made, and on PostgreSQL (with track_commit_timestamp) also by the order in
 * which they were committed.
 */
export const judge = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  const committed = sql.onDialectOrElse({
    pg: () => sql.literal("pg_xact_commit_timestamp(xmin)"),
    orElse: () => sql.literal("id")
  })
  const rows = yield* sql<Record<string, unknown>>`
    SELECT CAST(COUNT(*) AS char(20)) AS writes,
           CAST(SUM(CASE WHEN token < made OR token < kept THEN 1 ELSE 0 END) AS char(20)) AS stale
    FROM (
      SELECT token,
             MAX(token) OVER (PARTITION BY name ORDER BY id) AS made,
             MAX(token) OVER (PARTITION BY name ORDER BY ${committed}, id) AS kept
      FROM history
    ) AS judged`
  const terms = yield* sql<Record<string, unknown>>`
    SELECT CAST(COUNT(*) AS char(20)) AS terms FROM (SELECT DISTINCT name, token FROM history) AS distinct_terms`
  return {
    writes: Number(rows[0]!["writes"]),
    stale: Number(rows[0]!["stale"] ?? 0),
    terms: Number(terms[0]!["terms"])
  } satisfies Verdict
})
