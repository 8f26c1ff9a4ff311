import { PgClient } from "@effect/sql-pg"
import { Layer } from "effect"
import { afterAll } from "vitest"
import { missingPostgres, startPostgres } from "../utils/Postgres.ts"
import { suite } from "./utils/FenceSuite.ts"
import { skipWhere } from "./utils/skip.ts"

if (!skipWhere(missingPostgres())) {
  const server = await startPostgres()
  afterAll(() => server[Symbol.asyncDispose]())
  suite("Fence on PostgreSQL", {
    dialect: "pg",
    client: Layer.orDie(PgClient.layer({
      host: server.directory,
      username: "postgres",
      database: "postgres",
      applicationName: "closing"
    })),
    sideBySide: true,
    blocker:
      /session \d+ of user postgres, application closing, idle in transaction, its transaction open for \ds\. Set idle_in_transaction_session_timeout/
  })
}
