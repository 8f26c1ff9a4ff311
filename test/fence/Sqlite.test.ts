import { Layer } from "effect"
import { Reactivity } from "effect/reactivity"
import { SqlClient } from "effect/sql"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll } from "vitest"
import { suite } from "./utils/FenceSuite.ts"
import * as SqliteClient from "./utils/sqliteClient.ts"

const directory = mkdtempSync(join(tmpdir(), "fence-"))
afterAll(() => rmSync(directory, { recursive: true }))

suite("Fence on SQLite", {
  dialect: "sqlite",
  client: Layer.effect(SqlClient.SqlClient, SqliteClient.make(join(directory, "fences.db"))).pipe(
    Layer.provide(Reactivity.layer)
  ),
  sideBySide: false,
  blocker: /end the process that was stopped/
})
