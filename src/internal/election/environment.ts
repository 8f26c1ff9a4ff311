/**
 * What all parts of one election share.
 *
 * @internal
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Latch from "effect/Latch"
import * as Metric from "effect/Metric"
import type { Settings } from "../../LeaderElectionConfig.ts"
import { LossCause } from "../../LeaderElectionError.ts"
import * as Metrics from "../../LeaderElectionMetrics.ts"
import type { TakeoverCause } from "../../LeaderElectionStatus.ts"
import type { LeaseError } from "../../LeaseError.ts"
import { formatKey, type LeaseKey } from "../../LeaseRecord.ts"
import type { LeaseStore } from "../../LeaseStore.ts"
import type { Moment, RenewalTiming } from "../protocol/timing.ts"

export interface Timing extends RenewalTiming {
  readonly leaseDuration: bigint
}

/**
 * Whether the first renewal of a tenure comes a random part of renewInterval early (`spread`): for many elections in
 * one process, which would otherwise renew together ever after.
 */
export const RenewalPhase = Context.Reference<"exact" | "spread">(
  "effect-kubernetes-leader-election/internal/RenewalPhase",
  { defaultValue: () => "exact" }
)

export interface Environment {
  readonly phase: "exact" | "spread"
  readonly settings: Settings
  readonly key: LeaseKey
  readonly timing: Timing
  readonly store: LeaseStore["Service"]
  /** Both clocks, now. */
  readonly moment: Effect.Effect<Moment>
  /** The monotonic clock, now. */
  readonly monotonic: Effect.Effect<bigint>
  /** The wall clock in Unix microseconds: written into the record, and never compared with anything in it. */
  readonly wallClock: Effect.Effect<bigint>
  readonly metrics: ElectionMetrics
  /** Counts a failed request, and logs it unless the same was logged lately. */
  readonly onFailure: (error: LeaseError) => Effect.Effect<void>
  /** Ends a row of failures. */
  readonly onSuccess: Effect.Effect<void>
}

export const nanos = (duration: Duration.Duration): bigint => Duration.toNanosUnsafe(duration)

export const make = (
  settings: Settings,
  store: LeaseStore["Service"],
  witness: (() => bigint) | undefined,
  phase: "exact" | "spread"
): Environment => {
  const key: LeaseKey = { namespace: settings.namespace, name: settings.name }
  const timing: Timing = {
    leaseDuration: nanos(settings.leaseDuration),
    renewInterval: nanos(settings.renewInterval),
    renewDeadline: nanos(settings.renewDeadline),
    retryPeriod: nanos(settings.retryPeriod),
    requestTimeout: nanos(settings.requestTimeout)
  }
  const monotonic = Effect.clockWith((clock) => clock.monotonicTimeNanos)
  let logged: { readonly tag: string; readonly at: bigint } | undefined
  return {
    phase,
    settings,
    key,
    timing,
    store,
    monotonic,
    moment: Effect.map(monotonic, (now) => ({ monotonic: now, witness: witness?.() ?? 0n })),
    wallClock: Effect.clockWith((clock) => Effect.map(clock.currentTimeNanos, (now) => now / 1000n)),
    metrics: makeMetrics(settings),
    onFailure: Effect.fnUntraced(function*(error) {
      // An absent Lease is an answer: every first start gets it.
      if (error.verb === "get" && error.reason._tag === "LeaseNotFound") {
        return
      }
      yield* Metric.update(
        Metric.withAttributes(Metrics.failedAttempts, {
          lease: formatKey(key),
          verb: error.verb,
          reason: error.reason._tag
        }),
        1
      )
      // Losing a race for a free Lease is how elections go.
      if (error.reason._tag === "LeaseConflict") {
        return
      }
      const now = yield* monotonic
      const repeated = logged !== undefined && logged.tag === error.reason._tag &&
        now - logged.at < timing.leaseDuration
      if (!repeated) {
        logged = { tag: error.reason._tag, at: now }
      }
      yield* (repeated ? Effect.logDebug : Effect.logWarning)(`Request failed: ${error.message}`)
    }),
    onSuccess: Effect.suspend(() => {
      if (logged === undefined) {
        return Effect.void
      }
      logged = undefined
      return Effect.logInfo("Requests succeed again")
    })
  }
}

export type ElectionMetrics = ReturnType<typeof makeMetrics>

const makeMetrics = (settings: Settings) => {
  const lease = formatKey(settings)
  return {
    leaderRunning: Metric.withAttributes(Metrics.leaderRunning, { lease }),
    leader: Metric.withAttributes(Metrics.leader, { lease, identity: settings.identity }),
    terms: Metric.withAttributes(Metrics.terms, { lease }),
    losses: (reason: LossCause) => Metric.withAttributes(Metrics.losses, { lease, reason }),
    takeovers: (cause: TakeoverCause) => Metric.withAttributes(Metrics.takeovers, { lease, cause }),
    renewalDuration: Metric.withAttributes(Metrics.renewalDuration, { lease }),
    leaderlessSeconds: Metric.withAttributes(Metrics.leaderlessSeconds, { lease }),
    validityLeft: Metric.withAttributes(Metrics.validityLeft, { lease }),
    overruns: Metric.withAttributes(Metrics.overruns, { lease }),
    watchReconnects: Metric.withAttributes(Metrics.watchReconnects, { lease })
  }
}

const takeoverCauses: ReadonlyArray<TakeoverCause> = ["created", "released", "expired", "resumed"]

/**
 * Shows every series whose attributes are known at 0: a counter that appears
 * with its first increment has, for Prometheus, never grown, and a follower
 * that exports no gauge cannot be told from one that is not scraped.
 */
export const showMetrics = ({ metrics }: Environment): Effect.Effect<void> =>
  Effect.all([
    Metric.update(metrics.leader, 0),
    ...[
      metrics.leaderRunning,
      metrics.terms,
      metrics.leaderlessSeconds,
      metrics.overruns,
      metrics.watchReconnects,
      ...LossCause.literals.map(metrics.losses),
      ...takeoverCauses.map(metrics.takeovers)
    ].map((counter) => Metric.update(counter, 0))
  ], { discard: true })

/** Nanoseconds as seconds, for metrics. */
export const seconds = (duration: bigint): number => Number(duration) / 1e9

/**
 * Sleeps until a monotonic time, in whole milliseconds rounded up. It may still
 * wake early (timers and the clock are not one thing): look at the clock again.
 */
export const sleepUntil = (environment: Environment, until: bigint): Effect.Effect<void> =>
  Effect.flatMap(
    environment.monotonic,
    (now) => until <= now ? Effect.void : Effect.sleep(Duration.millis(Number((until - now + 999_999n) / 1_000_000n)))
  )

// A timer that fires this late means that the process was stalled.
const stalled = 50_000_000n

/**
 * Waits until a monotonic time, or until the latch opens. After a stall, one
 * more turn of the event loop: what has arrived meanwhile is to be handled
 * before expiry is decided on.
 */
export const waitUntil = (environment: Environment, until: bigint, latch: Latch.Latch): Effect.Effect<void> =>
  Effect.gen(function*() {
    yield* Effect.raceFirst(latch.await, sleepUntil(environment, until))
    const now = yield* environment.monotonic
    if (now - until > stalled) {
      yield* Effect.sleep(Duration.millis(1))
    }
  })
