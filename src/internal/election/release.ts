/**
 * Giving the Lease up, so that another candidate can take it at once.
 *
 * @internal
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { isOutcomeUnknown, retryAfter } from "../../LeaseError.ts"
import { isHeldBy } from "../protocol/decision.ts"
import type { Observation } from "../protocol/observation.ts"
import * as Writes from "../protocol/writes.ts"
import type { Campaign, Holding } from "./campaign.ts"
import { nanos, sleepUntil, waitUntil } from "./environment.ts"
import * as Tenure from "./term.ts"

/**
 * Releases whatever the campaign holds. Called when the program and its
 * finalizers have ended and renewal has stopped; all pending attempts are
 * forgotten with it, so that one that turns up later starts nothing.
 *
 * Takes at most the time of three attempts, and never fails: what could not be
 * released runs out.
 */
export const release = Effect.fnUntraced(function*(campaign: Campaign) {
  const { environment, holding } = campaign
  const { author, tenure } = holding
  if (author === undefined || tenure?.gone !== undefined || (tenure === undefined && holding.uncertain === undefined)) {
    return
  }
  if (tenure !== undefined && Tenure.hasOverrun(environment, tenure, yield* environment.moment)) {
    yield* Effect.logWarning("Not released: others may have taken the Lease while the program was ending")
    return
  }
  const released = yield* attempts(campaign, author, tenure)
  if (released === "failed") {
    yield* Effect.logWarning("The Lease could not be released: it runs out by itself")
  } else if (released === "released") {
    yield* Effect.logInfo("Released the Lease")
  }
})

const attempts = Effect.fnUntraced(function*(
  campaign: Campaign,
  author: Writes.Author,
  tenure: Tenure.Tenure | undefined
) {
  const { environment, holding, memory, observer } = campaign
  const { requestTimeout, retryPeriod } = environment.timing
  const limit = (yield* environment.monotonic) + 2n * retryPeriod + requestTimeout
  // A take whose answer never came: only a read tells whether there is anything to release.
  let read = tenure === undefined
  let conflicts = 0
  while (true) {
    const start = yield* environment.moment
    if (start.monotonic >= limit) {
      return "failed"
    }
    const made = read ? yield* observer.read : undefined
    let failure = made !== undefined && Result.isFailure(made.result) ? made.result.failure : undefined
    if (failure === undefined || failure.reason._tag === "LeaseNotFound") {
      const { lease } = observer.observation()
      if (typeof lease === "string" || (tenure !== undefined && lease.uid !== tenure.uid) || !isHeldBy(lease, author)) {
        const again = start.monotonic + retryPeriod
        if (!mayComeLate(holding, lease) || again >= limit) {
          return "gone"
        }
        // The read itself was heard.
        observer.heard.closeUnsafe()
        yield* waitUntil(environment, again, observer.heard)
        continue
      }
      const renewTime = yield* Tenure.nextRenewTime(environment, memory, lease.renewTime)
      const write = Writes.release(lease, renewTime, { owner: !memory.ownerRefused })
      const written = yield* observer.attempt(
        "patch",
        start,
        environment.store.patch(environment.key, lease.resourceVersion, write)
      )
      yield* observer.learn(written)
      if (Result.isSuccess(written.result)) {
        return "released"
      }
      failure = written.result.failure
      if (failure.reason._tag === "LeaseNotFound") {
        return "gone"
      }
      if (failure.reason._tag === "LeaseForbidden" && failure.reason.ownerReferences && !memory.ownerRefused) {
        memory.ownerRefused = true
        continue
      }
      // A conflict tells that the Lease has changed, not whether it is still ours. An attempt of
      // unknown outcome is sent again on the same version: the guard makes that harmless.
      read = !isOutcomeUnknown(failure)
      // From the second conflict on somebody else keeps writing: not at full speed against it.
      if (failure.reason._tag === "LeaseConflict" && conflicts++ === 0) {
        continue
      }
    }
    const asked = retryAfter(failure)
    const again = start.monotonic + (asked !== undefined && nanos(asked) > retryPeriod ? nanos(asked) : retryPeriod)
    if (again >= limit) {
      return "failed"
    }
    yield* sleepUntil(environment, again)
  }
})

/** Whether a take that was never answered may still be applied: while the Lease is what it was decided on, its guard holds. */
const mayComeLate = ({ tenure, uncertain }: Holding, lease: Observation["lease"]): boolean =>
  tenure === undefined && uncertain !== undefined &&
  (typeof lease === "string" || typeof uncertain.decidedOn === "string"
    ? lease === uncertain.decidedOn
    : lease.resourceVersion === uncertain.decidedOn.resourceVersion)
