/**
 * Rounds in which the test hands out the terms: a leader is paused at the worst moment, its successor leads and writes,
 * and the first goes on where it was. Every leader checks its leadership before each transaction; with or without a
 * fence.
 */
import { Deferred, Effect, Exit, Fiber, Layer } from "effect"
import type { SqlClient } from "effect/sql"
import * as Fence from "../../../src/Fence.ts"
import type { Leadership } from "../../../src/Leadership.ts"
import { inTerm, term } from "../utils/terms.ts"
import { write } from "./history.ts"

/** Where the first leader is paused. */
export const places = ["between ensure and the write", "inside the transaction", "after the commit"] as const

export interface Options {
  /** The connections of one process; each of the two in a round has its own. */
  readonly client: Layer.Layer<SqlClient.SqlClient>
  /** How a leader that has checked its leadership runs a transaction. */
  readonly transaction: <A, E, R>(
    effect: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, unknown, R | Fence.Fence | Leadership | SqlClient.SqlClient>
  /** How often that asks `ensure`. */
  readonly checks: number
  readonly rounds: number
  /** Rounds at the same time, each on a row of its own. */
  readonly workers: number
}

export interface Count {
  readonly rounds: number
  /** Transactions of the paused leader that failed because its term was over. */
  refused: number
  /** Failures of any other kind, of any leader. */
  readonly failures: Array<string>
}

const table = "leader_fences"

export const run = Effect.fnUntraced(function*(options: Options) {
  const count: Count = { rounds: options.rounds, refused: 0, failures: [] }
  const process = Layer.build(
    Layer.fresh(Layer.provideMerge(Fence.layer({ table, limit: "30 seconds" }), Layer.fresh(options.client)))
  )
  const { transaction } = options

  const note = (exit: Exit.Exit<unknown, unknown>) => {
    if (Exit.isFailure(exit)) {
      const text = String(exit.cause)
      if (text.includes("leadership lost")) {
        count.refused++
      } else {
        count.failures.push(text)
      }
    }
  }

  const round = Effect.fnUntraced(function*(
    name: string,
    index: number,
    first: <A, E, R>(
      effect: Effect.Effect<A, E, R>
    ) => Effect.Effect<A, E, Exclude<R, Fence.Fence | SqlClient.SqlClient>>,
    second: typeof first
  ) {
    const place = places[index % places.length]!
    const token = BigInt(2 * index + 1)
    const paused = yield* Deferred.make<void>()
    const resume = yield* Deferred.make<void>()
    const pause = Effect.andThen(Deferred.succeed(paused, undefined), Deferred.await(resume))
    // In every other round of a kind the check is wrong: a clock that stood still does not show what was missed.
    const notices = Math.floor(index / places.length) % 2 === 0
    let isValid = true
    let isReplaced = false
    // The check after which it pauses: the last before its transaction begins.
    let checksLeft = 0
    const earlier = term(token, {
      name,
      isValid: () => isValid,
      isReplaced: () => isReplaced,
      afterEnsure: Effect.suspend(() => checksLeft-- === 1 ? pause : Effect.void)
    })
    const later = term(token + 1n, { name })
    const writes = Effect.andThen(write(name, token), write(name, token))

    const program = Effect.gen(function*() {
      yield* transaction(write(name, token))
      switch (place) {
        case "between ensure and the write": {
          checksLeft = options.checks
          return yield* transaction(writes)
        }
        case "inside the transaction":
          return yield* transaction(Effect.andThen(write(name, token), Effect.andThen(pause, write(name, token))))
        case "after the commit": {
          yield* transaction(writes)
          yield* pause
          return yield* transaction(writes)
        }
      }
    })
    const one = yield* Effect.forkChild(Effect.exit(first(inTerm(earlier)(program))), { startImmediately: true })
    yield* Effect.raceFirst(Deferred.await(paused), Fiber.await(one))
    // What its check answers from now on comes too late for the one that was made.
    isValid = !notices
    isReplaced = true
    const begun = yield* Deferred.make<void>()
    const successor = Effect.andThen(
      transaction(write(name, token + 1n)),
      Effect.andThen(Deferred.succeed(begun, undefined), transaction(write(name, token + 1n)))
    )
    const two = yield* Effect.forkChild(Effect.exit(second(inTerm(later)(successor))), { startImmediately: true })
    // A successor that waits for the open transaction cannot begin before it has ended.
    yield* Effect.timeoutOption(Deferred.await(begun), place === "inside the transaction" ? "10 millis" : "10 seconds")
    yield* Deferred.succeed(resume, undefined)
    note(yield* Fiber.join(one))
    note(yield* Fiber.join(two))
  })

  const processes = yield* Effect.all([process, process])
  const [first, second] = processes.map((context) => <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    Effect.provideContext(effect, context)
  ) as [Parameters<typeof round>[2], Parameters<typeof round>[2]]
  yield* Effect.forEach(
    Array.from({ length: options.workers }, (_, worker) => worker),
    (worker) =>
      Effect.forEach(
        Array.from({ length: Math.ceil((options.rounds - worker) / options.workers) }, (_, index) => index),
        (index) => round(`lease-${worker}`, index, first, second),
        { discard: true }
      ),
    { concurrency: "unbounded", discard: true }
  )
  return count
})
