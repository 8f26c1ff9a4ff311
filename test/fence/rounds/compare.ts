/**
 * The same rounds with a fence, and with nothing but a check.
 */
import { Effect, Layer, Schedule } from "effect"
import { SqlClient } from "effect/sql"
import * as Fence from "../../../src/Fence.ts"
import { Leadership } from "../../../src/Leadership.ts"
import { clear, type Database } from "./databases.ts"
import * as HandedOut from "./handedOut.ts"
import { judge, type Verdict } from "./history.ts"

export interface Result extends Verdict, HandedOut.Count {
  readonly seconds: number
}

type Transaction = HandedOut.Options["transaction"]

/** Checks, and begins a transaction. */
const naive: Transaction = (effect) =>
  Effect.gen(function*() {
    const leadership = yield* Leadership
    yield* leadership.ensure
    const sql = yield* SqlClient.SqlClient
    return yield* busy(sql.withTransaction(effect))
  })

/** SQLite reports a lock that it would have to wait for: another leader's transaction, which will end. */
const busy = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.retry(effect, {
    while: (error) => String(error).includes("LockTimeout"),
    schedule: Schedule.spaced("2 millis")
  })

const fenced: Transaction = (effect) => busy(Fence.transaction(effect))

export const rounds = async (
  database: Database,
  options: { readonly rounds: number; readonly workers: number; readonly fenced: boolean }
): Promise<Result> => {
  await clear(database)
  const started = performance.now()
  const count = await Effect.runPromise(Effect.scoped(HandedOut.run({
    client: database.client,
    transaction: options.fenced ? fenced : naive,
    checks: options.fenced ? 2 : 1,
    rounds: options.rounds,
    workers: options.workers
  })))
  const seconds = (performance.now() - started) / 1000
  const verdict = await Effect.runPromise(Effect.provide(judge, Layer.fresh(database.client)))
  return { ...count, ...verdict, seconds }
}
