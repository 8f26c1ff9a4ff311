/**
 * Log lines of the library.
 *
 * Loggers are code of the program that uses it. One that throws must hurt
 * nothing here, neither a fiber that renews, watches or looks after something,
 * nor what stands behind the line: its defect is swallowed, and reported once.
 *
 * @internal
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"

let reported = false

const shielded = (effect: Effect.Effect<void>): Effect.Effect<void> =>
  Effect.catchCause(effect, (cause) =>
    Effect.sync(() => {
      if (!reported && !Cause.hasInterruptsOnly(cause)) {
        reported = true
        process.emitWarning(`A logger failed, and its lines are lost: ${String(Cause.squash(cause))}`)
      }
    }))

export const debug = (message: string): Effect.Effect<void> => shielded(Effect.logDebug(message))
export const info = (message: string): Effect.Effect<void> => shielded(Effect.logInfo(message))
export const warn = (message: string, cause?: Cause.Cause<unknown>): Effect.Effect<void> =>
  shielded(cause === undefined ? Effect.logWarning(message) : Effect.logWarning(message, cause))
export const error = (message: string, cause?: Cause.Cause<unknown>): Effect.Effect<void> =>
  shielded(cause === undefined ? Effect.logError(message) : Effect.logError(message, cause))
