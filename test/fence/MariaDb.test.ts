import { Layer } from "effect"
import { Reactivity } from "effect/reactivity"
import { SqlClient } from "effect/sql"
import { createConnection } from "mysql2/promise"
import { afterAll } from "vitest"
import { missingMariaDb, startMariaDb } from "../utils/MariaDb.ts"
import { suite } from "./utils/FenceSuite.ts"
import * as MariaDbClient from "./utils/mariaDbClient.ts"
import { skipWhere } from "./utils/skip.ts"

if (!skipWhere(missingMariaDb())) {
  const server = await startMariaDb()
  afterAll(() => server[Symbol.asyncDispose]())
  const options = { socketPath: server.socketPath, user: "root", database: "app" }
  const connection = await createConnection({ ...options, database: "" })
  await connection.query("CREATE DATABASE app")
  await connection.end()
  suite("Fence on MariaDB", {
    dialect: "mysql",
    client: Layer.effect(SqlClient.SqlClient, MariaDbClient.make(options)).pipe(Layer.provide(Reactivity.layer)),
    sideBySide: true,
    blocker: /session \d+ of user .*, its transaction open for \ds\. Set idle_transaction_timeout/
  })
}
