/**
 * A candidate whose leader program writes into PostgreSQL: each write carries the fencing token, and a condition in the
 * database lets it in or refuses it. One JSON line for each event on stdout.
 *
 * Settings come from the environment, credentials from SERVICE_ACCOUNT_DIRECTORY, the witness from WITNESS (its socket
 * directory). SIGUSR2 blocks the event loop for BLOCK milliseconds. With GUARD a TermGuard runs; with FENCE nothing but
 * a Fence refuses a write.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as PgClient from "@effect/sql-pg/PgClient"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Schedule from "effect/Schedule"
import * as SqlClient from "effect/sql/SqlClient"
import { writeSync } from "node:fs"
import { Client } from "pg"
import { logger } from "../../src/cli/shared/log.ts"
import * as Fence from "../../src/Fence.ts"
import * as KubernetesClient from "../../src/kubernetes/KubernetesClient.ts"
import * as KubernetesLeaderElection from "../../src/kubernetes/KubernetesLeaderElection.ts"
import { LeaderElection, whileLeadingForever } from "../../src/LeaderElection.ts"
import { Leadership } from "../../src/Leadership.ts"
import * as TermGuard from "../../src/TermGuard.ts"
import { clientOptions } from "../utils/Postgres.ts"
import { record, type Write } from "./witness.ts"

const environment = (name: string): string => {
  const value = process.env[name]
  if (value === undefined) {
    throw new Error(`${name} is not set`)
  }
  return value
}

const emit = (event: string, fields: object = {}) =>
  Effect.map(Clock.monotonicTimeNanos, (now) => {
    // Written at once: what a killed process had to say is not lost in a pipe's buffer.
    writeSync(1, `${JSON.stringify({ event, mono: Number(now) / 1e6, pid: process.pid, ...fields })}\n`)
  })

const connect = Effect.acquireRelease(
  Effect.tryPromise(async () => {
    const client = new Client(clientOptions(environment("WITNESS")))
    // A connection that breaks shows in the next query.
    client.on("error", () => {})
    await client.connect()
    return client
  }),
  (client) => Effect.promise(() => client.end())
)

/** In a fenced transaction, and without a condition: whatever gets that far is let in. */
const recordFenced = ({ identity, kind, mono, name, token }: Write) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    yield* Fence.transaction(sql`
      INSERT INTO writes (name, token, identity, kind, mono, accepted)
      VALUES (${name}, CAST(${token}::text AS numeric), ${identity}, ${kind}, ${mono}, true)`)
    return true
  }).pipe(
    // The session of a process that was stopped has been ended: it has written nothing.
    Effect.catchTag("SqlError", () => Effect.succeed(false))
  )

/** That of the newest term. */
let newest: Leadership["Service"] | undefined

const program = Effect.gen(function*() {
  const election = yield* LeaderElection
  const leadership = yield* Leadership
  newest = leadership
  const database = yield* connect
  const { name } = election.settings
  const token = String(leadership.fencingToken)

  const write = (kind: "begin" | "step") =>
    Effect.gen(function*() {
      yield* leadership.ensure
      const mono = Number(yield* Clock.monotonicTimeNanos) / 1e6
      const left = Duration.toMillis(yield* leadership.remaining)
      const row = { name, token, identity: leadership.identity, kind, mono }
      const accepted = yield* process.env["FENCE"] === undefined
        ? Effect.tryPromise(() => record(database, row))
        : recordFenced(row)
      yield* accepted ? Effect.void : emit("refused", { token })
      return mono + left
    })

  let validUntil = yield* write("begin")
  yield* emit("leading", { token, identity: leadership.identity })
  yield* Effect.addFinalizer(() => Effect.suspend(() => emit("ended", { token, validUntil })))
  return yield* write("step").pipe(
    Effect.tap((until) => Effect.sync(() => (validUntil = Math.max(validUntil, until)))),
    Effect.repeat(Schedule.spaced("25 millis"))
  )
})

process.on("SIGUSR2", () => {
  const left = newest === undefined ? 0 : Duration.toMillis(Effect.runSync(newest.remaining))
  Effect.runSync(emit("blocking", { validUntil: Number(process.hrtime.bigint()) / 1e6 + left }))
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, Number(environment("BLOCK")))
})

const client = KubernetesClient.layerInCluster({ directory: environment("SERVICE_ACCOUNT_DIRECTORY") })

const main = Effect.gen(function*() {
  yield* emit("started")
  return yield* whileLeadingForever(program)
}).pipe(
  Effect.tapError((error) => emit("error", { message: String(error) })),
  Effect.provide(Layer.provide(KubernetesLeaderElection.layer(), client)),
  Effect.provide(Layer.mergeAll(
    Logger.layer([logger("text")]),
    process.env["GUARD"] === undefined ? Layer.empty : TermGuard.layer,
    Layer.provideMerge(
      Fence.layer({ table: "leader_fences" }),
      Layer.orDie(PgClient.layer({
        host: environment("WITNESS"),
        username: "postgres",
        database: "postgres",
        startupParameters: { idle_in_transaction_session_timeout: "1500" }
      }))
    )
  ))
)

NodeRuntime.runMain(main, { disableErrorReporting: true })
