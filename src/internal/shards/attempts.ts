/**
 * When the program of a shard is run again.
 *
 * @internal
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"

/** With which the program of a shard fails. */
export class ShardFailed extends Error {
  constructor(shard: string) {
    super(`the program of shard ${shard} is not run again here: its schedule has ended`)
    this.name = "ShardFailed"
  }
}

// After which a failure counts as the first: as long as a container has to run for its back-off to begin anew.
const runsWell = Duration.toNanosUnsafe("10 minutes")

const defaultRetry = Schedule.min([Schedule.exponential("1 second"), Schedule.spaced("1 minute")])

/**
 * Runs a shard's program, and again as the schedule says, which begins anew
 * after one that has run well.
 */
export const attempts = <R>(
  attempt: Effect.Effect<never, ShardFailed, R>,
  schedule: Schedule.Schedule<unknown> = defaultRetry,
  before?: ShardFailed
): Effect.Effect<never, ShardFailed, R> => {
  // The failure that another round has ended with is the first of this one.
  let failed = before
  let ranWell = false
  const next = Effect.suspend(() => {
    if (failed !== undefined) {
      const again = Effect.fail(failed)
      failed = undefined
      return again
    }
    return Effect.flatMap(
      Clock.monotonicTimeNanos,
      (began) =>
        Effect.tapError(attempt, () =>
          Effect.map(Clock.monotonicTimeNanos, (now) => {
            ranWell = now - began >= runsWell
          }))
    )
  })
  return Effect.retry(next, { schedule, while: () => !ranWell }).pipe(
    Effect.catch((error) => ranWell ? attempts(attempt, schedule, error) : Effect.fail(error))
  )
}
