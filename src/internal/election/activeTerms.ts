/**
 * The terms under way in this process, for whoever notices that time has
 * passed before their own timers do.
 *
 * @internal
 */
import * as Context from "effect/Context"

/** Each ends its term if its validity is over. */
export const ActiveTerms = Context.Reference<Set<() => void>>(
  "effect-kubernetes-leader-election/internal/ActiveTerms",
  { defaultValue: () => new Set() }
)
