/**
 * When things are due, in nanoseconds of the monotonic clock.
 *
 * Everything counts from the *start* of requests. The API server stamps a write
 * some time after its request began, and followers see it later still; so a
 * leader that counts from the start gives up before any follower may take over.
 * Counting from the answer, as client-go does, leaves a window with two leaders.
 *
 * @internal
 */

/**
 * A point in this process's time on its two clocks: the monotonic one, and the
 * suspend witness, which goes on while the machine is suspended (0n where there
 * is none).
 */
export interface Moment {
  readonly monotonic: bigint
  readonly witness: bigint
}

/**
 * Time that has passed for one's *own* validity: the longer of the two clocks
 * counts. The expiry of others is judged by the monotonic clock alone, because
 * a witness that jumps would end a live lease early.
 */
export const elapsed = (since: Moment, now: Moment): bigint => {
  const monotonic = now.monotonic - since.monotonic
  const witness = now.witness - since.witness
  return witness > monotonic ? witness : monotonic
}

/** What is left of the validity that a request begun at `start` gave; 0n when it is over. */
export const remaining = (start: Moment, now: Moment, renewDeadline: bigint): bigint => {
  const left = renewDeadline - elapsed(start, now)
  return left > 0n ? left : 0n
}

/** The part of leaseDuration by which a program that lost its term must have ended. */
export const programDeadline = (leaseDuration: bigint): bigint => (leaseDuration * 95n) / 100n

/** What is known of the attempts of one tenure when the next one is to be scheduled. */
export interface Attempts {
  /** Start of the last request that succeeded. */
  readonly succeeded: bigint
  /** The last attempt that failed after that. */
  readonly failed: {
    readonly start: bigint
    readonly end: bigint
    /** What the server asked to wait, counted from the end. */
    readonly retryAfter: bigint | undefined
  } | undefined
}

export interface RenewalTiming {
  readonly renewInterval: bigint
  readonly renewDeadline: bigint
  readonly retryPeriod: bigint
  readonly requestTimeout: bigint
}

/**
 * The start of the next renewal: renewInterval after the start of the last
 * success; after a failure retryPeriod after *its* start, or what the server
 * asked for, cut so that one whole requestTimeout remains before the deadline.
 * A result in the past means at once.
 */
export const nextRenewal = (attempts: Attempts, timing: RenewalTiming): bigint => {
  if (attempts.failed === undefined) {
    return attempts.succeeded + timing.renewInterval
  }
  const retry = attempts.failed.start + timing.retryPeriod
  if (attempts.failed.retryAfter === undefined) {
    return retry
  }
  const asked = attempts.failed.end + attempts.failed.retryAfter
  const latest = attempts.succeeded + timing.renewDeadline - timing.requestTimeout
  const honoured = asked < latest ? asked : latest
  return honoured > retry ? honoured : retry
}

/** The start of a candidate's next request after a failed one: as for renewals, but with leaseDuration as the limit. */
export const nextAttempt = (
  failed: { readonly start: bigint; readonly end: bigint; readonly retryAfter: bigint | undefined },
  timing: { readonly retryPeriod: bigint; readonly leaseDuration: bigint }
): bigint => {
  const retry = failed.start + timing.retryPeriod
  const wait = failed.retryAfter ?? 0n
  const asked = failed.end + (wait < timing.leaseDuration ? wait : timing.leaseDuration)
  return asked > retry ? asked : retry
}
