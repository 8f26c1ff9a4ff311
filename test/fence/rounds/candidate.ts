/**
 * A candidate of a real election whose leader program writes twice in each transaction, with a pause between: with a
 * fence or, with TRANSACTION=naive, after a check alone. One JSON line for each event on stdout.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as PgClient from "@effect/sql-pg/PgClient"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as SqlClient from "effect/sql/SqlClient"
import { writeSync } from "node:fs"
import { logger } from "../../../src/cli/shared/log.ts"
import * as Fence from "../../../src/Fence.ts"
import * as KubernetesClient from "../../../src/kubernetes/KubernetesClient.ts"
import * as KubernetesLeaderElection from "../../../src/kubernetes/KubernetesLeaderElection.ts"
import { LeaderElection, whileLeadingForever } from "../../../src/LeaderElection.ts"
import { Leadership } from "../../../src/Leadership.ts"
import { table } from "./databases.ts"
import { write } from "./history.ts"

const emit = (event: string, fields: object = {}) =>
  Effect.map(Clock.monotonicTimeNanos, (now) => {
    writeSync(1, `${JSON.stringify({ event, mono: Number(now) / 1e6, ...fields })}\n`)
  })

/** With a fence, or after a check alone. */
const transaction = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    if (!isNaive) {
      return yield* Fence.transaction(effect)
    }
    const leadership = yield* Leadership
    yield* leadership.ensure
    const sql = yield* SqlClient.SqlClient
    return yield* sql.withTransaction(effect)
  })

const program = Effect.gen(function*() {
  const { name } = (yield* LeaderElection).settings
  const leadership = yield* Leadership
  const token = leadership.fencingToken
  yield* emit("leading", { token: String(token) })
  yield* Effect.addFinalizer(() => emit("ended", { token: String(token) }))
  const twice = Effect.andThen(write(name, token), Effect.andThen(Effect.sleep("15 millis"), write(name, token)))
  // As a chain of promises does: once begun, it goes on, whatever became of the leadership.
  return yield* Effect.uninterruptible(transaction(twice)).pipe(
    // The server has ended the session of a process that was stopped: the next transaction has another.
    Effect.catchTag("SqlError", () => emit("broken")),
    Effect.andThen(Effect.sleep("2 millis")),
    Effect.forever
  )
})

const isNaive = process.env["TRANSACTION"] === "naive"

const Database = Layer.orDie(PgClient.layer({
  host: process.env["WITNESS"]!,
  username: "postgres",
  database: "postgres",
  maxConnections: 3,
  // Part of the fence: it ends the transaction of a process that was stopped inside it, which would hold up its successor.
  startupParameters: { idle_in_transaction_session_timeout: isNaive ? "0" : "1500" }
}))

const main = whileLeadingForever(program).pipe(
  Effect.tapError((error) => emit("error", { message: String(error) })),
  Effect.provide(Layer.mergeAll(
    KubernetesLeaderElection.layer({}).pipe(
      Layer.provide(KubernetesClient.layerInCluster({ directory: process.env["SERVICE_ACCOUNT_DIRECTORY"]! }))
    ),
    Layer.provideMerge(Fence.layer({ table }), Database),
    Logger.layer([logger("text")])
  ))
)

NodeRuntime.runMain(main, { disableErrorReporting: true })
