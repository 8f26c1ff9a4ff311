/**
 * What one election shows of itself: log lines and metrics.
 *
 * @internal
 */
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import type { Settings } from "../../LeaderElectionConfig.ts"
import { LossReason } from "../../LeaderElectionError.ts"
import * as Metrics from "../../LeaderElectionMetrics.ts"
import type { TakeoverCause } from "../../LeaderElectionStatus.ts"
import type { LeaseError, LeaseVerb } from "../../LeaseError.ts"
import { formatKey } from "../../LeaseRecord.ts"
import { debug, info, warn } from "../log.ts"
import * as RemovedSeries from "../removedSeries.ts"
import { monotonic } from "./clock.ts"

export { debug, error, info, warn } from "../log.ts"

export type ElectionMetrics = ReturnType<typeof makeMetrics>

export const makeMetrics = (settings: Settings) => {
  const lease = formatKey(settings)
  const failed = new Map<string, typeof Metrics.failedAttempts>()
  return {
    leaderRunning: Metric.withAttributes(Metrics.leaderRunning, { lease }),
    leader: Metric.withAttributes(Metrics.leader, { lease, identity: settings.identity }),
    terms: Metric.withAttributes(Metrics.terms, { lease }),
    losses: (reason: LossReason) => Metric.withAttributes(Metrics.losses, { lease, reason }),
    takeovers: (cause: TakeoverCause) => Metric.withAttributes(Metrics.takeovers, { lease, cause }),
    failedAttempts: (verb: LeaseVerb, reason: string) => {
      const key = `${verb} ${reason}`
      const counter = failed.get(key) ?? Metric.withAttributes(Metrics.failedAttempts, { lease, verb, reason })
      failed.set(key, counter)
      return counter
    },
    failed: () => [...failed.values()],
    renewalDuration: Metric.withAttributes(Metrics.renewalDuration, { lease }),
    leaderlessSeconds: Metric.withAttributes(Metrics.leaderlessSeconds, { lease }),
    validityLeft: Metric.withAttributes(Metrics.validityLeft, { lease }),
    overruns: Metric.withAttributes(Metrics.overruns, { lease }),
    watchReconnects: Metric.withAttributes(Metrics.watchReconnects, { lease })
  }
}

const takeoverCauses: ReadonlyArray<TakeoverCause> = ["created", "released", "expired", "resumed"]

const counters = (metrics: ElectionMetrics) => [
  metrics.leaderRunning,
  metrics.terms,
  metrics.leaderlessSeconds,
  metrics.overruns,
  metrics.watchReconnects,
  // The end of its program is none.
  ...LossReason.literals.filter((reason) => reason !== "ProgramEnded").map(metrics.losses),
  ...takeoverCauses.map(metrics.takeovers)
]

/**
 * Shows every series whose attributes are known at 0: a counter that appears
 * with its first increment has, for Prometheus, never grown, and a follower
 * that exports no gauge cannot be distinguished from one that is not scraped.
 */
export const showMetrics = (metrics: ElectionMetrics): Effect.Effect<void> =>
  Effect.all([
    Metric.update(metrics.leader, 0),
    ...counters(metrics).map((counter) => Metric.update(counter, 0))
  ], { discard: true })

/** A failure that repeats is logged again after this long, where it may last for hours. */
const quiet = 60_000_000_000n

export interface Failures {
  /** Counts a failed request, and logs it unless the same was logged already. */
  readonly onFailure: (error: LeaseError) => Effect.Effect<void>
  /** Ends a run of failures of this verb. */
  readonly onSuccess: (verb: LeaseVerb) => Effect.Effect<void>
}

/**
 * One line for each verb and kind of failure: refusals are remembered until the
 * verb succeeds; what may last for hours is said again after a while.
 */
export const makeFailures = (metrics: ElectionMetrics, leaseDuration: bigint): Failures => {
  const logged = new Map<string, { readonly verb: LeaseVerb; readonly at: bigint }>()
  const pause = leaseDuration > quiet ? leaseDuration : quiet
  return {
    onFailure: Effect.fnUntraced(function*(error) {
      const { _tag } = error.reason
      // An absent Lease is an answer: every first start gets it.
      if (error.verb === "get" && _tag === "LeaseNotFound") {
        return
      }
      yield* Metric.update(metrics.failedAttempts(error.verb, _tag), 1)
      // Losing a race for a free Lease is how elections go.
      if (_tag === "LeaseConflict") {
        return
      }
      const now = yield* monotonic
      const key = `${error.verb} ${_tag}`
      const before = logged.get(key)
      const lasting = _tag === "LeaseForbidden" || _tag === "LeaseInvalid"
      if (before !== undefined && (lasting || now - before.at < pause)) {
        return yield* debug(`Request failed: ${error.message}`)
      }
      logged.set(key, { verb: error.verb, at: now })
      yield* warn(`Request failed: ${error.message}`)
    }),
    onSuccess: (verb) =>
      Effect.suspend(() => {
        let found = false
        for (const [key, entry] of logged) {
          if (entry.verb === verb) {
            logged.delete(key)
            found = true
          }
        }
        return !found ? Effect.void : info(`Requests succeed again: ${verb}`)
      })
  }
}

/** Removes every series of an election that is over. */
export const hideMetrics = (metrics: ElectionMetrics): Effect.Effect<void> =>
  RemovedSeries.remove([
    metrics.leader,
    metrics.validityLeft,
    metrics.renewalDuration,
    ...counters(metrics),
    ...metrics.failed()
  ])
