/**
 * Renewing the Lease while it is held: before its term, in it, and until the
 * program of a lost one has ended.
 *
 * @internal
 */
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as Result from "effect/Result"
import type { LeaseRecord, LeaseWrite } from "../../LeaseRecord.ts"
import * as Attempts from "../protocol/attempts.ts"
import { meaningOf } from "../protocol/refusal.ts"
import * as Renewal from "../protocol/renewal.ts"
import { later, remaining } from "../protocol/timing.ts"
import * as Writes from "../protocol/writes.ts"
import * as YoungLease from "../protocol/youngLease.ts"
import { jitter, seconds, waitUntil } from "./clock.ts"
import {
  afterFailure,
  type Answer,
  observeAnswer,
  lookDueAt,
  read,
  report,
  type Requests,
  retriesAt,
  send
} from "./requests.ts"
import { advance, claimed, type Election, failConfirmations, nextRenewTime, nextRequest, publish } from "./state.ts"
import type { Watch } from "./watch.ts"

export interface Options {
  /** Before the term: when the write that begins it is due. */
  readonly oldEnoughAt?: bigint
  /** Waits no longer than this. */
  readonly until?: bigint
  readonly span?: (renewal: Effect.Effect<void>) => Effect.Effect<void>
}

/** Renews until the Lease is no longer ours; interrupted when there is nothing left to renew for. */
export const run = Effect.fnUntraced(function*(
  election: Election,
  requests: Requests,
  watch: Watch,
  span: (renewal: Effect.Effect<void>) => Effect.Effect<void>
) {
  while (election.state.claim !== undefined && election.state.claim.gone === undefined) {
    yield* step(election, requests, watch, { span })
  }
})

/** Does the one thing that is due: waits, reads, or begins a renewal beside those under way. */
export const step = Effect.fnUntraced(function*(
  election: Election,
  requests: Requests,
  watch: Watch,
  options: Options
) {
  const { news, timing } = election
  news.closeUnsafe()
  const moment = yield* election.now
  const now = moment.monotonic
  advance(
    election,
    claimed((claim) => {
      const renewals = Attempts.expired(claim.renewals, now, timing.renewDeadline)
      return renewals === claim.renewals ? claim : { ...claim, renewals }
    }),
    moment
  )
  const { claim, reads } = election.state
  if (claim === undefined) {
    return
  }
  const due = Renewal.dueAt(claim, timing, options.oldEnoughAt)
  const mustRead = claim.mustRead || election.state.mustRead ||
    // Whatever keeps writing has written again during the pause, and no watch said what: a write would only conflict.
    (claim.renewals.conflicts > 1 && !watch.isReliable() && election.state.observation.reportedAt < due)
  const look = lookDueAt(election, claim.renewals, watch.isReliable())
  if (look !== undefined && look <= now && Attempts.dueAt(reads, timing) <= now) {
    return yield* read(election, requests)
  }
  const next = mustRead ? later(election.state.mustRead ? now : due, Attempts.dueAt(reads, timing)) : due
  if (next > now) {
    const until = look !== undefined && look > now && look < next ? look : next
    return yield* waitUntil(options.until !== undefined && options.until < until ? options.until : until, news)
  }
  yield* mustRead ? read(election, requests) : renew(election, requests, claim, options)
})

const renew = Effect.fnUntraced(function*(
  election: Election,
  requests: Requests,
  claim: Renewal.Claim,
  { oldEnoughAt, span }: Options
) {
  const { key, store, timing } = election
  const start = yield* election.now
  // After a suspension, before any timer has noticed: what begins now may save the finalizers, never the term.
  if (claim.term !== undefined && !claim.over && remaining(claim.validFrom, start, timing.renewDeadline) === 0n) {
    advance(election, claimed((claim) => Renewal.lose(claim, "RenewDeadlineExceeded")), start)
  }
  const guard: LeaseRecord = claim.lease
  const renewTime = yield* nextRenewTime(election, guard.renewTime)
  const attempt: Attempts.Attempt = {
    id: nextRequest(election),
    start,
    open: true,
    guard: guard.resourceVersion,
    renewTime,
    cause: "renewal"
  }
  const mark = YoungLease.needsMark(election.state.observation, start.monotonic, timing.leaseDuration)
  const beginning = oldEnoughAt !== undefined && start.monotonic >= oldEnoughAt
  const change: LeaseWrite = (beginning ? Writes.begin : Writes.renew)(claim.candidate, guard, renewTime, { mark })
  advance(election, claimed((claim) => Renewal.attempted(claim, attempt)), start)
  yield* send(election, requests, {
    id: attempt.id,
    verb: "patch",
    start,
    limit: timing.renewDeadline,
    earlier: claim.renewals,
    request: store.patch(key, guard.resourceVersion, change),
    onAnswer: (answer) => onRenewed(election, claim, attempt, answer),
    ...(span !== undefined && { span })
  })
})

const onRenewed = Effect.fnUntraced(function*(
  election: Election,
  { candidate: { instance }, validFrom }: Renewal.Claim,
  attempt: Attempts.Attempt,
  answer: Answer
) {
  const pause = attempt.start.monotonic + (yield* jitter(election.timing.retryPeriod))
  // A release, or another campaign, has forgotten it: then its answer is a snapshot and nothing else.
  const isHeld = () => election.state.role === "holder" && election.state.claim?.candidate.instance === instance
  const held = isHeld()
  const alive = held && Attempts.isAlive(election.state.claim!.renewals, attempt.id)
  advance(election, (state) => observeAnswer(state, answer), answer.end)
  yield* Effect.annotateCurrentSpan(
    Result.match(answer.result, {
      onSuccess: () => ({
        outcome: "committed",
        secondsLeft: seconds(remaining(validFrom, answer.end, election.timing.renewDeadline))
      }),
      onFailure: (error) => ({ outcome: error.reason._tag })
    })
  )
  if (held && Result.isSuccess(answer.result)) {
    const { lease } = answer.result.success
    advance(election, claimed((claim) => Renewal.committed(claim, attempt, lease)), answer.end)
    yield* Metric.update(
      election.metrics.renewalDuration,
      seconds(answer.end.monotonic - answer.start.monotonic)
    )
    if (election.worst < election.timing.renewDeadline) {
      yield* Metric.update(election.metrics.validityLeft, seconds(election.worst))
    }
  } else if (alive && Result.isFailure(answer.result)) {
    onFailed(election, attempt, answer, answer.result.failure, pause)
  }
  if (held && (alive || Result.isSuccess(answer.result))) {
    yield* report(election, "patch", answer)
  }
  yield* publish(election)
})

const onFailed = (
  election: Election,
  attempt: Attempts.Attempt,
  answer: Answer,
  error: Extract<Answer["result"], { _tag: "Failure" }>["failure"],
  pause: bigint
): void => {
  const { claim } = election.state
  if (meaningOf("holder", error.verb, error.reason) === "Read") {
    const first = claim?.renewals.conflicts === 0
    advance(election, claimed((claim) => Renewal.conflicted(claim, attempt, pause)), answer.end)
    // A first conflict is followed by another attempt.
    if (!first) {
      failConfirmations(election, attempt.id, error)
    }
  } else {
    const again = retriesAt(election, answer, error)
    advance(
      election,
      claimed((claim) => ({ ...claim, renewals: afterFailure(claim.renewals, attempt.id, error, again) })),
      answer.end
    )
    failConfirmations(election, attempt.id, error)
  }
  if (election.confirmations.size === 0) {
    advance(election, claimed((claim) => ({ ...claim, confirmAfter: undefined })), answer.end)
  }
}
