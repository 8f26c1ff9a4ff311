/**
 * A short run of the rounds; the long one, and those with real elections, are `npm run test:fence`.
 */
import { assert } from "@effect/vitest"
import { describe, it } from "vitest"
import { missingMariaDb } from "../utils/MariaDb.ts"
import { missingPostgres } from "../utils/Postgres.ts"
import { rounds } from "./rounds/compare.ts"
import * as Databases from "./rounds/databases.ts"
import { skipWhere } from "./utils/skip.ts"

const databases = [
  ["PostgreSQL", Databases.postgres, missingPostgres(), 300],
  ["MariaDB", Databases.mariadb, missingMariaDb(), 200],
  ["SQLite", Databases.sqlite, undefined, 60]
] as const

describe("a leader that was stopped", () => {
  for (const [name, start, missing, count] of databases) {
    if (!skipWhere(missing)) {
      it(`${name}: writes nothing after its successor's first act, which a check alone does not prevent`, async () => {
        await using database = await start()
        const workers = name === "SQLite" ? 1 : 4
        const fenced = await rounds(database, { rounds: count, workers, fenced: true })
        assert.deepStrictEqual(fenced.failures, [])
        assert.strictEqual(fenced.stale, 0)
        // The first of the paused leader, and its successor's two, at least.
        assert.isAtLeast(fenced.writes, 3 * count)
        assert.isAtLeast(fenced.refused, count / 3)
        const checked = await rounds(database, { rounds: count, workers, fenced: false })
        assert.isAbove(checked.stale, 0)
      })
    }
  }
})
