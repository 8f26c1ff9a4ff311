/**
 * The clocks of one election, and waiting by them.
 *
 * @internal
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Latch from "effect/Latch"
import * as Random from "effect/Random"
import type { Moment } from "../protocol/timing.ts"

/** The monotonic clock, now. */
export const monotonic: Effect.Effect<bigint> = Effect.clockWith((clock) => clock.monotonicTimeNanos)

/** The wall clock in Unix microseconds: written into the record, and never compared with anything in it. */
export const wallMicros: Effect.Effect<bigint> = Effect.clockWith((clock) =>
  Effect.map(clock.currentTimeNanos, (now) => now / 1000n)
)

/** All clocks, now, by which one's own validity is judged. */
export const makeMoment = (witness: (() => bigint) | undefined): Effect.Effect<Moment> =>
  Effect.clockWith((clock) =>
    Effect.sync(() => ({
      monotonic: clock.monotonicTimeNanosUnsafe(),
      witness: witness?.() ?? 0n,
      wall: clock.currentTimeNanosUnsafe()
    }))
  )

// About 68 years: no wait, and nothing that a server asks for, is longer.
const longest = Duration.days(25_000)

/** A duration in nanoseconds, cut to what can be waited for. */
export const nanos = (duration: Duration.Duration): bigint =>
  Duration.toNanosUnsafe(Duration.isLessThan(duration, longest) ? duration : longest)

/** Nanoseconds as seconds, for metrics. */
export const seconds = (duration: bigint): number => Number(duration) / 1e9

/**
 * Sleeps until a monotonic time, in whole milliseconds rounded up. It may still
 * wake early (timers and the clock are not one thing): look at the clock again.
 */
export const sleepUntil = (until: bigint): Effect.Effect<void> =>
  Effect.flatMap(
    monotonic,
    (now) => until <= now ? Effect.void : Effect.sleep(Duration.millis(Number((until - now + 999_999n) / 1_000_000n)))
  )

// A timer that fires this late means that the process was stalled.
const stalled = 50_000_000n

/**
 * Waits until a monotonic time, or until the latch opens. After a stall, one
 * more turn of the event loop: what has arrived meanwhile is to be handled
 * before expiry is decided on.
 */
export const waitUntil = (until: bigint, latch: Latch.Latch): Effect.Effect<void> =>
  Effect.gen(function*() {
    yield* Effect.raceFirst(latch.await, sleepUntil(until))
    const now = yield* monotonic
    if (now - until > stalled) {
      yield* Effect.sleep(Duration.millis(1))
    }
  })

/** Between 0.8 and 1 of a duration, so that many candidates do not ask at once. */
export const jitter = (duration: bigint): Effect.Effect<bigint> =>
  Effect.map(Random.next, (random) => duration - BigInt(Math.floor(random * 0.2 * Number(duration))))
