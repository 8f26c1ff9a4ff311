/**
 * Closes the months of a ledger in PostgreSQL: each once, in order, by the
 * leader alone, and by no former leader however late it wakes up.
 *
 * It shows
 *
 * - `Fence.transaction`: whatever a leader writes is committed before its
 *   successor's first act, or not at all;
 * - `Fence.raise` at the start of a term, so that what is read then is not
 *   changed by an earlier leader any more;
 * - `idle_in_transaction_session_timeout`, without which a process that was
 *   stopped inside a transaction would hold up its successor;
 * - `TermGuard`, which ends this process if it blocks when its term is over.
 *
 * Start it in two terminals, with a kubeconfig and a PostgreSQL, and stop
 * (Ctrl+Z) or end the one that closes:
 *
 *     PGHOST=localhost LEADER_ELECTION_NAME=closing node close-months.ts
 */
import { NodeRuntime } from "@effect/platform-node"
import { PgClient } from "@effect/sql-pg"
import { Config, Effect, Layer, Schedule } from "effect"
import { Fence, LeaderElection, LeaderElectionLive, Leadership, TermGuard } from "effect-kubernetes-leader-election"
import { SqlClient } from "effect/sql"

/** Safe to be run by every replica at the same time. */
const migrate = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  yield* sql.withTransaction(Effect.gen(function*() {
    yield* sql`SELECT pg_advisory_xact_lock(20261125)`
    yield* sql.unsafe(Fence.createTable("leader_fences", "pg"))
    yield* sql`CREATE TABLE IF NOT EXISTS bookings (month text NOT NULL, amount numeric NOT NULL)`
    yield* sql`
      CREATE TABLE IF NOT EXISTS closed_months (
        id bigserial, month text PRIMARY KEY, total numeric NOT NULL, term text NOT NULL
      )`
  }))
})

/** Closes the oldest month that is open; fails with the loss of leadership where another leads by now. */
const closeNext = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  const { fencingToken } = yield* Leadership
  const [closed] = yield* Fence.transaction(sql<{ readonly month: string; readonly total: string }>`
    INSERT INTO closed_months (month, total, term)
    SELECT month, sum(amount), ${String(fencingToken)} FROM bookings
    WHERE month NOT IN (SELECT month FROM closed_months)
    GROUP BY month ORDER BY month LIMIT 1
    RETURNING month, CAST(total AS text) AS total`)
  if (closed !== undefined) {
    yield* Effect.log(`Closed ${closed.month} with ${closed.total} in term ${fencingToken}`)
  }
})

const closing = Effect.gen(function*() {
  const interval = yield* Config.Duration("INTERVAL").pipe(Config.withDefault("1 second"))
  yield* Fence.raise
  // A session that the server has ended, because this process was stopped in it, is worth another attempt.
  yield* closeNext.pipe(
    Effect.catchTag("SqlError", (error) => Effect.logWarning(`Nothing was closed: ${error.message}`)),
    Effect.repeat(Schedule.spaced(interval))
  )
})

const Database = PgClient.layerConfig({
  host: Config.String("PGHOST"),
  username: Config.String("PGUSER").pipe(Config.withDefault("postgres")),
  database: Config.String("PGDATABASE").pipe(Config.withDefault("postgres")),
  startupParameters: Config.succeed({ idle_in_transaction_session_timeout: "5s" })
})

const MainLive = Layer.mergeAll(
  LeaderElectionLive,
  TermGuard.layer,
  Layer.provideMerge(Fence.layer({ table: "leader_fences" }), Database)
)

NodeRuntime.runMain(
  Effect.andThen(migrate, LeaderElection.whileLeadingForever(closing)).pipe(Effect.provide(MainLive))
)
