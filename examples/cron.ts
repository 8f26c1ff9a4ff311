/**
 * A job that runs by the calendar, on the leader only, and once for each time of
 * the calendar, also across handovers.
 *
 * It shows
 *
 * - `Schedule.cron` within a term: followers have no schedule at all;
 * - why leading is not enough: around a handover the old leader may have done
 *   the job for 03:00, and the new one finds that it is 03:00. So the leader
 *   claims that time first, in one statement, which the fencing token guards
 *   as well;
 * - a time that came while nobody led: the new leader makes up for the last one.
 *
 * Claimed is done at most once: a leader that crashes in the middle of the job
 * leaves it undone. Where it has to be done for sure, put the claim and the
 * job's own writes into one transaction.
 *
 * Start it in two terminals (here the times are 10 seconds apart), and stop the
 * one that runs the job:
 *
 *     LEADER_ELECTION_NAME=cron CRON='0,10,20,30,40,50 * * * * *' node cron.ts
 */
import { NodeRuntime } from "@effect/platform-node"
import { Clock, Config, Context, Cron, Effect, Layer, Schedule } from "effect"
import { LeaderElection, LeaderElectionLive, Leadership } from "effect-kubernetes-leader-election"
import { DatabaseSync } from "node:sqlite"

/** Who did the job, for which time. SQLite stands in for the database of your service. */
class Claims extends Context.Service<Claims, {
  /** True for the first that asks for a time, unless a later time, or a later leader, came before. */
  readonly claim: (job: string, time: Date, token: bigint) => Effect.Effect<boolean>
}>()("examples/Claims") {
  static readonly layer = Layer.effect(
    Claims,
    Effect.gen(function*() {
      const file = yield* Config.String("CLAIMS").pipe(Config.withDefault("claims.sqlite"))
      const database = yield* Effect.acquireRelease(
        Effect.sync(() => new DatabaseSync(file, { timeout: 5_000 })),
        (database) => Effect.sync(() => database.close())
      )
      database.exec("CREATE TABLE IF NOT EXISTS claims (job TEXT PRIMARY KEY, time INTEGER, token INTEGER)")
      const claim = database.prepare(`
        INSERT INTO claims VALUES (:job, :time, :token)
        ON CONFLICT (job) DO UPDATE SET time = :time, token = :token
        WHERE claims.time < :time AND claims.token <= :token
      `)
      return Claims.of({
        claim: (job, time, token) => Effect.sync(() => claim.run({ job, time: time.getTime(), token }).changes === 1)
      })
    })
  )
}

const closeBooks = (time: Date) => Effect.log(`Closes the books for ${time.toISOString()}`)

/** Runs the job for the newest time of the calendar, if nobody has. */
const runIfDue = Effect.fnUntraced(function*(cron: Cron.Cron) {
  const leadership = yield* Leadership
  const claims = yield* Claims
  // The newest time up to now; `prev` alone would leave out this second.
  const time = Cron.prev(cron, (yield* Clock.currentTimeMillis) + 1000)
  yield* leadership.ensure
  if (yield* claims.claim("close-books", time, leadership.fencingToken)) {
    yield* closeBooks(time)
  }
})

const program = Effect.gen(function*() {
  const text = yield* Config.String("CRON").pipe(Config.withDefault("0 3 * * *"))
  const cron = yield* Effect.fromResult(Cron.parse(text, "UTC"))
  // At once, for a time that nobody took, and then by the calendar.
  yield* LeaderElection.whileLeadingForever(Effect.repeat(runIfDue(cron), Schedule.cron(cron)))
})

NodeRuntime.runMain(program.pipe(Effect.provide(Layer.mergeAll(LeaderElectionLive, Claims.layer))))
