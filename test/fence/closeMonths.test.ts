/**
 * The example that closes months, in two replicas on a local API server and a PostgreSQL.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import { LeaseApiServer } from "effect-kubernetes-leader-election/testing"
import { mkdirSync, mkdtempSync, rmSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { Client } from "pg"
import { Running } from "../cli/Executable.ts"
import { bundlePrograms } from "../utils/bundle.ts"
import { clientOptions, missingPostgres, startPostgres } from "../utils/Postgres.ts"
import { skipWhere } from "./utils/skip.ts"

const root = fileURLToPath(new URL("../..", import.meta.url))
const months = Array.from(
  { length: 36 },
  (_, index) => `${2024 + Math.floor(index / 12)}-${String(index % 12 + 1).padStart(2, "0")}`
)

const closes = (times: number) => ({ stdout }: { readonly stdout: string }) => stdout.split("Closed 20").length > times

describe("close-months.ts", () => {
  if (skipWhere(missingPostgres())) {
    return
  }

  it("closes each month once, in the order of terms, also when the leader was stopped", async () => {
    const cache = join(root, "node_modules/.cache")
    mkdirSync(cache, { recursive: true })
    const directory = mkdtempSync(join(cache, "close-months-"))
    await bundlePrograms([join(root, "examples/close-months.ts")], directory)
    await using postgres = await startPostgres()
    const client = new Client(clientOptions(postgres.directory))
    await client.connect()
    await client.query("CREATE TABLE bookings (month text NOT NULL, amount numeric NOT NULL)")
    await client.query("INSERT INTO bookings SELECT unnest($1::text[]), 20.25", [months])
    const scope = Scope.makeUnsafe()
    const server = await Effect.runPromise(Scope.provide(LeaseApiServer.make(), scope))
    const kubeconfig = await Effect.runPromise(server.writeKubeconfig(join(directory, "kubeconfig")))
    const start = (identity: string) =>
      new Running(process.execPath, [join(directory, "close-months.mjs")], {
        NO_COLOR: "1",
        KUBECONFIG: kubeconfig,
        PGHOST: postgres.directory,
        INTERVAL: "50 millis",
        LEADER_ELECTION_IDENTITY: identity,
        LEADER_ELECTION_NAME: "closing",
        LEADER_ELECTION_LEASE_DURATION: "2s",
        LEADER_ELECTION_NEW_LEASE: "lead"
      })
    try {
      await using one = start("one")
      await one.until(closes(1))
      await using two = start("two")
      await two.until(({ stdout }) => stdout.includes("Follow"))
      one.signal("SIGSTOP")
      await two.until(closes(3))
      one.signal("SIGCONT")
      await one.until(({ stdout }) => stdout.includes("eadership lost") || stdout.includes("Follow"))
      two.signal("SIGTERM")
      await two.exit
      await one.until(({ stdout }) => stdout.includes(`Closed ${months.at(-1)}`))
      one.signal("SIGTERM")
      await one.exit
      const { rows } = await client.query<{ month: string; total: string; term: string }>(
        "SELECT month, total, term FROM closed_months ORDER BY id"
      )
      assert.deepStrictEqual(rows.map(({ month }) => month), months)
      assert.isTrue(rows.every(({ total }) => total === "20.25"))
      const terms = rows.map(({ term }) => BigInt(term))
      assert.deepStrictEqual(terms, terms.toSorted((a, b) => Number(a - b)))
      assert.isAtLeast(new Set(terms).size, 3)
    } finally {
      await client.end()
      await Effect.runPromise(Scope.close(scope, Exit.void))
      rmSync(directory, { recursive: true, force: true })
    }
  })
})
