/**
 * The databases, as the rounds use them: started, with the tables made.
 */
import { PgClient } from "@effect/sql-pg"
import { Effect, Layer } from "effect"
import { Reactivity } from "effect/reactivity"
import { SqlClient } from "effect/sql"
import { createConnection } from "mysql2/promise"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Fence from "../../../src/Fence.ts"
import { startMariaDb } from "../../utils/MariaDb.ts"
import { startPostgres } from "../../utils/Postgres.ts"
import * as MariaDbClient from "../utils/mariaDbClient.ts"
import * as SqliteClient from "../utils/sqliteClient.ts"
import { createTable, type DialectName } from "./history.ts"

export interface Database extends AsyncDisposable {
  readonly dialect: DialectName
  /** Each build has connections of its own, as each process has. */
  readonly client: Layer.Layer<SqlClient.SqlClient>
  /** PostgreSQL's socket directory. */
  readonly directory: string
}

export const table = "leader_fences"

/** Empty tables. */
export const clear = (database: Database): Promise<void> =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    yield* sql.unsafe(Fence.createTable(table, database.dialect))
    yield* sql.unsafe(createTable(database.dialect))
    yield* sql.unsafe(`DELETE FROM ${table}`)
    yield* sql.unsafe("DELETE FROM history")
  }).pipe(Effect.provide(Layer.fresh(database.client)), Effect.runPromise)

export const postgres = async (): Promise<Database> => {
  const server = await startPostgres(["track_commit_timestamp=on"])
  const client = Layer.orDie(PgClient.layer({
    host: server.directory,
    username: "postgres",
    database: "postgres",
    maxConnections: 40
  }))
  return {
    dialect: "pg",
    client,
    directory: server.directory,
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]()
  }
}

export const mariadb = async (): Promise<Database> => {
  const server = await startMariaDb()
  const options = { socketPath: server.socketPath, user: "root", database: "app", connectionLimit: 20 }
  const connection = await createConnection({ ...options, database: "" })
  await connection.query("CREATE DATABASE app")
  await connection.end()
  const client = Layer.effect(SqlClient.SqlClient, MariaDbClient.make(options)).pipe(Layer.provide(Reactivity.layer))
  return { dialect: "mysql", client, directory: "", [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() }
}

export const sqlite = (): Promise<Database> => {
  const directory = mkdtempSync(join(tmpdir(), "fence-"))
  const client = Layer.effect(SqlClient.SqlClient, SqliteClient.make(join(directory, "history.db"))).pipe(
    Layer.provide(Reactivity.layer)
  )
  return Promise.resolve({
    dialect: "sqlite",
    client,
    directory,
    [Symbol.asyncDispose]: async () => rmSync(directory, { recursive: true })
  })
}
