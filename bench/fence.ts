/**
 * What a fenced transaction costs beside a plain one, on a PostgreSQL of its own; and what the guard costs in memory and
 * time to start, as the median of processes of their own.
 *
 * `npm run bench:fence`
 */
import { PgClient } from "@effect/sql-pg"
import { Effect, Layer } from "effect"
import { SqlClient } from "effect/sql"
import { execFileSync } from "node:child_process"
import { cpus } from "node:os"
import { fileURLToPath } from "node:url"
import * as Fence from "../src/Fence.ts"
import { inTerm, term } from "../test/fence/utils/terms.ts"
import { startPostgres } from "../test/utils/Postgres.ts"

const median = (values: ReadonlyArray<number>): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!

const transactions = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  yield* sql.unsafe(Fence.createTable("leader_fences", "pg"))
  yield* sql`CREATE TABLE rows (id bigserial PRIMARY KEY, at timestamptz DEFAULT now())`
  const insert = sql`INSERT INTO rows DEFAULT VALUES`
  const kinds = {
    plain: sql.withTransaction(insert),
    fenced: inTerm(term(7n))(Fence.transaction(insert))
  }
  const run = (kind: keyof typeof kinds, count: number, concurrency: number) =>
    Effect.forEach(Array.from({ length: count }), () => kinds[kind], { concurrency, discard: true })
  for (const concurrency of [1, 8]) {
    const found: Record<string, Array<number>> = { plain: [], fenced: [] }
    // Turn by turn, so that what else the machine does hits both.
    for (let turn = 0; turn < 7; turn++) {
      for (const kind of ["plain", "fenced"] as const) {
        const started = performance.now()
        yield* run(kind, 500, concurrency)
        found[kind]!.push((performance.now() - started) / 500)
      }
    }
    const [plain, fenced] = [median(found["plain"]!), median(found["fenced"]!)]
    console.log(
      `${concurrency} at a time: plain ${plain.toFixed(3)} ms, fenced ${fenced.toFixed(3)} ms for each transaction ` +
        `(+${(fenced - plain).toFixed(3)} ms, ${((fenced / plain - 1) * 100).toFixed(0)} %)`
    )
  }
})

const guardProgram = `
import { Effect, Layer } from "effect"
import * as TermGuard from ${JSON.stringify(fileURLToPath(new URL("../src/TermGuard.ts", import.meta.url)))}
globalThis.gc()
const before = process.memoryUsage().rss
const started = performance.now()
await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
  yield* Layer.build(process.argv[1] === "guard" ? TermGuard.layer : Layer.empty)
  const millis = performance.now() - started
  yield* Effect.sleep("300 millis")
  globalThis.gc()
  console.log(JSON.stringify({ millis, bytes: process.memoryUsage().rss - before }))
})))
`

const guard = (what: "guard" | "nothing") => {
  const runs = Array.from({ length: 9 }, () =>
    JSON.parse(
      execFileSync(process.execPath, ["--expose-gc", "--input-type=module", "--eval", guardProgram, "--", what], {
        cwd: fileURLToPath(new URL("..", import.meta.url)),
        encoding: "utf8"
      })
    ) as { millis: number; bytes: number })
  return { millis: median(runs.map(({ millis }) => millis)), mib: median(runs.map(({ bytes }) => bytes)) / 2 ** 20 }
}

console.log(`Node ${process.version}, ${cpus().length} × ${cpus()[0]?.model}`)
await using server = await startPostgres()
const Database = Layer.orDie(PgClient.layer({ host: server.directory, username: "postgres", database: "postgres" }))
await Effect.runPromise(
  transactions.pipe(Effect.provide(Layer.provideMerge(Fence.layer({ table: "leader_fences" }), Database)))
)
const [nothing, guarded] = [guard("nothing"), guard("guard")]
console.log(
  `guard: ready after ${(guarded.millis - nothing.millis).toFixed(0)} ms, ${
    (guarded.mib - nothing.mib).toFixed(1)
  } MiB ` +
    "of memory more"
)
