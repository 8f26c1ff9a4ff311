/**
 * The page on fencing in plain SQL, as it stands there.
 */
import { assert } from "@effect/vitest"
import { readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { Client } from "pg"
import { afterAll, describe, it } from "vitest"
import { clientOptions, missingPostgres, startPostgres } from "../utils/Postgres.ts"
import { skipWhere } from "./utils/skip.ts"

const page = readFileSync(fileURLToPath(new URL("../../docs/fencing-sql.md", import.meta.url)), "utf8")
const statements = [...page.matchAll(/```sql\n([\s\S]*?)```/g)].map((match) => match[1]!.trim())
const [create, beginRaise, limit, raise, commitRaise, begin, lock] = statements as [
  string,
  string,
  string,
  string,
  string,
  string,
  string
]

const name = "default/jobs"

/** Raises the row, as the page says; gives the token that the row shows then. */
const raiseWith = async (client: Client, token: bigint) => {
  await client.query(beginRaise)
  try {
    await client.query(limit.replace("10s", "300ms"))
    const { rows } = await client.query<{ token: string }>(raise, [name, String(token)])
    await client.query(commitRaise)
    return BigInt(rows[0]!.token)
  } catch (error) {
    await client.query("ROLLBACK")
    throw error
  }
}

/** Begins a transaction; whether it may go on. */
const lockWith = async (client: Client, token: bigint) => {
  await client.query(begin)
  const { rows } = await client.query(lock, [name, String(token)])
  if (rows.length === 0) {
    await client.query("ROLLBACK")
  }
  return rows.length === 1
}

if (!skipWhere(missingPostgres())) {
  const server = await startPostgres()
  afterAll(() => server[Symbol.asyncDispose]())
  const connect = async () => {
    const client = new Client(clientOptions(server.directory))
    await client.connect()
    return client
  }

  describe("fencing in plain SQL", () => {
    it("the page has the statements", () => {
      assert.strictEqual(statements.length, 7)
    })

    it("refuses an earlier term from the later one's first act, tells neighbouring tokens apart, and waits", async () => {
      const [one, two] = [await connect(), await connect()]
      const first = 2n ** 53n
      await one.query(create)
      assert.strictEqual(await raiseWith(one, first), first)
      assert.isTrue(await lockWith(one, first))
      // The transactions of one leader run side by side.
      assert.isTrue(await lockWith(two, first))
      await two.query("COMMIT")
      // Stopped inside: the successor's first act waits, and says so.
      const blocked = await raiseWith(two, first + 1n).then(() => undefined, (error: { code: string }) => error.code)
      assert.strictEqual(blocked, "55P03")
      await one.query("COMMIT")
      assert.strictEqual(await raiseWith(two, first + 1n), first + 1n)
      assert.isFalse(await lockWith(one, first))
      assert.isTrue(await lockWith(two, first + 1n))
      await two.query("COMMIT")
      // A stale leader that begins again raises nothing.
      assert.strictEqual(await raiseWith(one, first), first + 1n)
      await Promise.all([one.end(), two.end()])
    })

    it("a transaction that waited for the successor's first act is refused", async () => {
      const [one, two] = [await connect(), await connect()]
      await raiseWith(one, 2n ** 54n)
      await two.query(beginRaise)
      await two.query(raise, [name, String(2n ** 54n + 1n)])
      const waiting = lockWith(one, 2n ** 54n)
      await two.query(commitRaise)
      assert.isFalse(await waiting)
      await Promise.all([one.end(), two.end()])
    })
  })
}
