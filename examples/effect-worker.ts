/**
 * A worker written with Effect: of all replicas the leader alone sends the
 * invoices, in order, and no number twice.
 *
 * It shows
 *
 * - services and layers beside the election, and where the term is found;
 * - `whileLeadingForever`, which campaigns again after each loss;
 * - the fencing token at the resource, which has the last word: a replica that
 *   was stalled and does not know yet that others lead cannot write any more;
 * - the end in good order: on SIGTERM the invoice that was begun is finished,
 *   then the Lease is released, and another replica goes on within
 *   milliseconds.
 *
 * Start it in two terminals, with a kubeconfig that may create, get, patch and
 * watch Leases, and stop the one that sends:
 *
 *     LEADER_ELECTION_NAME=invoices node effect-worker.ts
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Context, Effect, Layer, Schedule, Schema } from "effect"
import { EventLoopMonitor, LeaderElection, LeaderElectionLive, Leadership } from "effect-kubernetes-leader-election"
import { DatabaseSync } from "node:sqlite"

class StaleLeader extends Schema.Error<StaleLeader>("examples/StaleLeader")({
  _tag: Schema.tag("StaleLeader"),
  token: Schema.BigInt
}) {
  override get message() {
    return `A later leader than that of term ${this.token} has written already`
  }
}

/** What only a leader may change. SQLite stands in for the database of your service; the statement is the same there. */
class Ledger extends Context.Service<Ledger, {
  /** Takes the next number, unless a leader of a later term has done so before. */
  readonly next: (token: bigint) => Effect.Effect<number, StaleLeader>
}>()("examples/Ledger") {
  static readonly layer = Layer.effect(
    Ledger,
    Effect.gen(function*() {
      const file = yield* Config.String("LEDGER").pipe(Config.withDefault("ledger.sqlite"))
      const database = yield* Effect.acquireRelease(
        Effect.sync(() => new DatabaseSync(file, { timeout: 5_000 })),
        (database) => Effect.sync(() => database.close())
      )
      database.exec(`
        CREATE TABLE IF NOT EXISTS ledger (id INTEGER PRIMARY KEY CHECK (id = 1), number INTEGER, token INTEGER);
        INSERT OR IGNORE INTO ledger VALUES (1, 0, 0);
      `)
      // Comparing and writing are one statement: nobody can come in between.
      const take = database.prepare(
        "UPDATE ledger SET number = number + 1, token = :token WHERE token <= :token RETURNING number"
      )
      return Ledger.of({
        next: (token) =>
          Effect.suspend(() => {
            const row = take.get({ token })
            return row === undefined ? Effect.fail(new StaleLeader({ token })) : Effect.succeed(Number(row["number"]))
          })
      })
    })
  )
}

// Begun is finished, even when the term ends meanwhile: so it must not take longer than the others wait (4.25 s).
const sendNext = Effect.uninterruptible(Effect.gen(function*() {
  const leadership = yield* Leadership
  const ledger = yield* Ledger
  yield* leadership.ensure
  const number = yield* ledger.next(leadership.fencingToken)
  yield* Effect.log(`Sends invoice ${number} in term ${leadership.fencingToken}`)
}))

const worker = Effect.gen(function*() {
  const interval = yield* Config.Duration("INTERVAL").pipe(Config.withDefault("1 second"))
  // Finalizers run while the Lease is still renewed: nobody else sends before this one has ended.
  yield* Effect.addFinalizer(() => Effect.log("Has sent its last invoice"))
  yield* Effect.repeat(sendNext, Schedule.spaced(interval))
})

const MainLive = Layer.mergeAll(LeaderElectionLive, Ledger.layer, EventLoopMonitor.layer())

NodeRuntime.runMain(LeaderElection.whileLeadingForever(worker).pipe(Effect.provide(MainLive)))
