/**
 * The terms under way in this process, for what notices before their own timers
 * can that time has passed.
 *
 * @internal
 */
import * as Context from "effect/Context"

/** One term, from when its program may run until it has ended. */
export interface ActiveTerm {
  /** The Lease, for messages. */
  readonly lease: string
  /** Ends the term if its validity is over. */
  readonly endIfOver: () => void
  /**
   * How long the program may go on from now without anything being done about
   * it, in nanoseconds: in its term until the validity ends, and after it
   * (`isOver`) until others may have taken the Lease.
   */
  readonly left: () => { readonly nanos: bigint; readonly isOver: boolean }
}

export interface ActiveTerms {
  readonly terms: Set<ActiveTerm>
  /** Called at once when a term has begun, was prolonged, is over, or its program has ended. */
  readonly listeners: Set<() => void>
}

export const ActiveTerms = Context.Reference<ActiveTerms>(
  "effect-kubernetes-leader-election/internal/ActiveTerms",
  { defaultValue: () => makeUnsafe() }
)

/** Those of a process that has none yet. */
export const makeUnsafe = (): ActiveTerms => ({ terms: new Set(), listeners: new Set() })

/** Reports to every listener. */
export const moved = (active: ActiveTerms): void => {
  for (const listener of active.listeners) {
    listener()
  }
}
