/**
 * Notices that the event loop was blocked: by long synchronous work, a garbage
 * collection, too little CPU, a stopped process.
 *
 * While it is blocked nothing of this process runs: no renewal, and no timer
 * that would end a term. {@link Leadership} is safe to ask all the same, since
 * its validity is compared with the clock at the moment of the call. What is left
 * is code that does not ask. The monitor's own timer comes often, so that after
 * a stall it is among the first to run; where a term's validity is over by then,
 * it ends the term, and the program is interrupted, before timers that came due
 * later.
 *
 * **Gotchas**
 *
 * Some code runs before any timer can, and does not notice: the rest of what
 * blocked the loop, the promises that it resolved, events of sockets and files
 * and `setImmediate` callbacks of the same turn, and timers that were due before
 * the monitor's. Fibers of Effect that were ready to run are of this kind. Only
 * asking (`ensure`) right before the deed, and the fencing token, cover them.
 *
 * A machine that is suspended is none of this: `SuspendWitness` covers it.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import { format } from "./internal/duration.ts"
import { ActiveTerms } from "./internal/election/activeTerms.ts"
import * as Log from "./internal/log.ts"
import { duration } from "./internal/options.ts"
import type { DurationInput } from "./LeaderElectionConfig.ts"
import { eventLoopStalls } from "./LeaderElectionMetrics.ts"

/**
 * Watches the event loop of this process while the layer lives.
 *
 * **Details**
 *
 * A timer of `interval` looks at the monotonic clock. One that comes late by
 * `limit` or more is counted in `leader_election_event_loop_stalls_total` and
 * warned of, with how long; never more often than once a minute, since a process
 * with too little CPU stalls all the time. One layer serves all elections of the
 * process.
 *
 * **Example** (Monitoring the event loop)
 *
 * ```ts
 * import { Layer } from "effect"
 * import { EventLoopMonitor, LeaderElectionLive } from "effect-kubernetes-leader-election"
 *
 * export const MainLive = Layer.mergeAll(LeaderElectionLive, EventLoopMonitor.layer())
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  options?: {
    /** How late is a stall; 500 milliseconds by default. */
    readonly limit?: DurationInput | undefined
    /** How often to look; 100 milliseconds by default. */
    readonly interval?: DurationInput | undefined
  }
): Layer.Layer<never> =>
  Layer.effectDiscard(Effect.gen(function*() {
    const least = Duration.millis(10)
    const limit = Duration.toNanosUnsafe(duration("EventLoopMonitor: limit", options?.limit ?? "500 millis", least))
    const interval = duration("EventLoopMonitor: interval", options?.interval ?? "100 millis", least)
    const { terms } = yield* ActiveTerms
    const now = Effect.clockWith((clock) => clock.monotonicTimeNanos)
    let warnedAt: bigint | undefined
    // Those that were not warned of, since the last warning.
    let unspoken = 0
    yield* Metric.update(eventLoopStalls, 0)

    yield* Effect.gen(function*() {
      const before = yield* now
      yield* Effect.sleep(interval)
      // First of all, and without a step in between.
      for (const { endIfOver } of terms) {
        endIfOver()
      }
      const after = yield* now
      const late = after - before - Duration.toNanosUnsafe(interval)
      if (late < limit) {
        return
      }
      yield* Metric.update(eventLoopStalls, 1)
      if (warnedAt !== undefined && after - warnedAt < 60_000_000_000n) {
        unspoken++
        return
      }
      yield* Log.warn(
        `Event loop blocked for ${format(Duration.millis(Number(late / 1_000_000n)))}` +
          (unspoken === 0 ? "" : ` (and ${unspoken} times more since the last such warning)`)
      )
      warnedAt = after
      unspoken = 0
      // Without a yield, in which the loop may be blocked while no timer is set.
    }).pipe(Effect.forever({ disableYield: true }), Effect.forkScoped({ startImmediately: true }))
  }))
