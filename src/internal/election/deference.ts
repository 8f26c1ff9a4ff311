/**
 * How long a candidate leaves a free Lease to others.
 *
 * @internal
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import type { LeaseRecord } from "../../LeaseRecord.ts"
import * as Crowd from "../protocol/crowd.ts"

/**
 * How long after it became free here (`since`) this candidate takes a Lease, as
 * seen at a later moment (`now`); in nanoseconds of the monotonic clock, at most
 * retryPeriod (more is cut).
 */
export type Deference = (since: bigint, now: bigint) => bigint

/**
 * Asked for once for each Lease that becomes free, with the record that is free;
 * `undefined` where there is none. What it gives is called at each look at it. It
 * only ever postpones, so that safety never depends on it; a candidate that
 * resumes does not ask.
 */
export const Deference = Context.Reference<(free: LeaseRecord | undefined) => Deference>(
  "effect-kubernetes-leader-election/internal/Deference",
  { defaultValue: () => () => () => 0n }
)

/** What is asked for, and what a candidate of a crowd draws: no number where there is no crowd. */
export const draw = Effect.fnUntraced(function*(
  free: LeaseRecord | undefined,
  candidates: number | undefined,
  retryPeriod: bigint
) {
  const asked = (yield* Deference)(free)
  if (!Crowd.isCrowd(candidates)) {
    return asked
  }
  const drawn = Crowd.delay(candidates, retryPeriod, yield* Random.next)
  return (since: bigint, now: bigint): bigint => asked(since, now) + drawn
})
