/**
 * How long a candidate leaves a free Lease to others.
 *
 * @internal
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"

/**
 * Asked once for each Lease that becomes free: how long after that this
 * candidate takes it, at most retryPeriod (more is cut). It only ever
 * postpones, so that safety never depends on it; a candidate that resumes does
 * not ask.
 */
export const Deference = Context.Reference<Effect.Effect<Duration.Duration>>(
  "effect-kubernetes-leader-election/internal/Deference",
  { defaultValue: () => Effect.succeed(Duration.zero) }
)
