/**
 * Terms that a test hands out, without any election.
 */
import { Deferred, Duration, Effect } from "effect"
import * as LeaderElectionError from "../../../src/LeaderElectionError.ts"
import { Leadership } from "../../../src/Leadership.ts"

export const lost = (cause: LeaderElectionError.LossReason) =>
  new LeaderElectionError.LeaderElectionError({ reason: new LeaderElectionError.LeadershipLost({ reason: cause }) })

/** The leadership of a term that is valid until `isValid` says otherwise. */
export const term = (
  fencingToken: bigint,
  options?: {
    readonly name?: string
    readonly isValid?: () => boolean
    /** Whether a later term has begun: a check may not know it yet, and a confirmation does. */
    readonly isReplaced?: () => boolean
    /** Runs between a check and what the program does because of it. */
    readonly afterEnsure?: Effect.Effect<void>
  }
): Leadership["Service"] => {
  const check = Effect.suspend(() =>
    options?.isValid?.() === false ? Effect.fail(lost("RenewDeadlineExceeded")) : Effect.void
  )
  return Leadership.of({
    lease: { namespace: "default", name: options?.name ?? "jobs" },
    identity: `candidate-${fencingToken}`,
    fencingToken,
    transitions: 0,
    isValid: Effect.sync(() => options?.isValid?.() !== false),
    remaining: Effect.sync(() => options?.isValid?.() === false ? Duration.zero : Duration.seconds(10)),
    untilOverrun: Effect.succeed(Duration.seconds(14)),
    stepDown: Effect.void,
    ensure: Effect.andThen(check, options?.afterEnsure ?? Effect.void),
    confirm: Effect.andThen(
      check,
      Effect.suspend(() => options?.isReplaced?.() === true ? Effect.fail(lost("LeaseTaken")) : Effect.void)
    ),
    lost: Deferred.await(Deferred.makeUnsafe())
  })
}

/** Runs an effect in a term. */
export const inTerm = (leadership: Leadership["Service"]) => <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.provideService(effect, Leadership, leadership)
