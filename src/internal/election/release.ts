/**
 * Giving the Lease up, so that another candidate can take it at once.
 *
 * @internal
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type { LeaseRecord } from "../../LeaseRecord.ts"
import * as Attempts from "../protocol/attempts.ts"
import { isHeldBy } from "../protocol/decision.ts"
import type * as Observation from "../protocol/observation.ts"
import { meaningOf } from "../protocol/refusal.ts"
import * as Renewal from "../protocol/renewal.ts"
import { remaining } from "../protocol/timing.ts"
import * as Writes from "../protocol/writes.ts"
import type { Campaign } from "./campaign.ts"
import { jitter, waitUntil } from "./clock.ts"
import { afterFailure, type Answer, observeAnswer, read, type Requests, retriesAt, send } from "./requests.ts"
import { advance, type Election, nextRenewTime, nextRequest, publish } from "./state.ts"
import * as Telemetry from "./telemetry.ts"

/** What one release works with, and how far it has come. */
interface Release {
  readonly election: Election
  readonly requests: Requests
  readonly candidate: Writes.Candidate
  readonly claim: Renewal.Claim | undefined
  /** Creates and takes of unknown outcome: any of them may be committed yet. */
  readonly takes: ReadonlyArray<Attempts.Attempt>
  /** The renewTimes that this campaign may have written. */
  readonly written: ReadonlySet<bigint>
  attempts: Attempts.Series<Attempts.Attempt>
  /** The API server does answer, but takes longer than requestTimeout. */
  slow: boolean
  released: boolean
}

/**
 * Releases whatever the campaign holds. Called when the program and its
 * finalizers have ended and renewal has stopped; all pending attempts are
 * forgotten with it, so that one that turns up later starts nothing.
 *
 * Takes at most the time of three attempts, or of six where the API server
 * is slow to answer, and never fails: what could not be released runs out.
 */
export const release = Effect.fnUntraced(function*(campaign: Campaign) {
  const { candidate, election, requests } = campaign
  const { state, timing } = election
  const { claim, takes } = state
  const now = yield* election.now
  advance(election, (state) => ({
    ...state,
    role: "releasing",
    mustRead: false,
    // A program that has ended by itself is no reason for a pause before the next campaign.
    takes: claim?.over === true ? Attempts.none : { ...Attempts.none, starts: takes.starts }
  }), now)
  const uncertain = claim === undefined
    ? Attempts.recognised(Attempts.expired(takes, now.monotonic, timing.leaseDuration))
    : []
  if (claim === undefined ? uncertain.length === 0 : claim.gone !== undefined) {
    return
  }
  if (claim !== undefined && Renewal.hasOverrun(claim, now, timing.leaseDuration)) {
    yield* Telemetry.warn("Not released: others may have taken the Lease while the program was ending")
    return
  }
  const running: Release = {
    election,
    requests,
    candidate: claim?.candidate ?? candidate,
    claim,
    takes: uncertain,
    written: new Set([
      ...uncertain.map(({ renewTime }) => renewTime),
      ...Attempts.recognised(claim?.renewals ?? Attempts.none).map(({ renewTime }) => renewTime),
      ...claim?.lease.renewTime === undefined ? [] : [claim.lease.renewTime]
    ]),
    attempts: Attempts.none,
    slow: false,
    released: false
  }
  const result = yield* attempt(running)
  if (result === "failed") {
    yield* Telemetry.warn("The Lease could not be released: it runs out by itself")
  } else if (result === "released" && claim !== undefined) {
    yield* Telemetry.info("Released the Lease")
  }
})

/** What is to be released, as far as is known: `undefined` where nothing is. */
const target = ({ candidate, claim, takes, written, attempts }: Release, observation: Observation.Observation) => {
  const { lease } = observation
  if (typeof lease === "string") {
    return takes.some(({ guard }) => guard === "absent") ? "mayComeLate" as const : undefined
  }
  if (claim !== undefined && lease.uid !== claim.uid) {
    return undefined
  }
  if (Attempts.shownBy(Attempts.recognised(attempts), lease) !== undefined) {
    return "released" as const
  }
  // Our name and instance do not make a record ours: somebody may have edited another's, or put an older one back. It is
  // the one that was held when the release began, or one that an attempt of ours wrote.
  if (
    isHeldBy(lease, candidate) &&
    (lease.resourceVersion === claim?.lease.resourceVersion ||
      (lease.renewTime !== undefined && written.has(lease.renewTime)))
  ) {
    return lease
  }
  // A take that may still be committed is guarded by this very version: whichever lands first makes the other conflict.
  return takes.some(({ guard }) => guard === lease.resourceVersion) ? lease : undefined
}

/** The take that the Lease shows: others may take the Lease leaseDuration after *its* start. Else the newest. */
const takenBy = (takes: Release["takes"], { lease }: Observation.Observation): Attempts.Attempt =>
  (typeof lease === "string" ? undefined : Attempts.shownBy(takes, lease)) ?? takes.at(-1)!

/** Sends releases, beside each other where answers are late, until one has come to something or time is up. */
const attempt = Effect.fnUntraced(function*(release: Release) {
  const { claim, election, requests, takes } = release
  const { news, timing } = election
  const began = (yield* election.now).monotonic
  const patience = 2n * timing.retryPeriod + timing.requestTimeout
  let nextLook = began
  while (true) {
    news.closeUnsafe()
    const moment = yield* election.now
    const now = moment.monotonic
    const { mustRead, observation, reads } = election.state
    const since = claim?.validFrom ?? takenBy(takes, observation).start
    // Later the Lease may be another's: by the clock that goes on while the machine is suspended, too.
    const latest = now + remaining(since, moment, timing.leaseDuration)
    // A server that takes seconds for each write, and had a renewal of ours to do first, gets its time.
    const limit = began + (release.slow ? 2n * patience : patience)
    const stop = limit < latest ? limit : latest
    const found = target(release, observation)
    if (release.released || found === "released") {
      return "released"
    }
    release.attempts = Attempts.living(release.attempts, observation.lease)
    if (found === undefined && !mustRead) {
      return "gone"
    }
    if (now >= stop) {
      return claim === undefined ? "gone" : "failed"
    }
    const isLate = found === "mayComeLate"
    const due = mustRead
      ? Attempts.dueAt(reads, timing)
      : isLate
      ? nextLook
      : Attempts.dueAt(release.attempts, timing)
    if (due > now) {
      // Nothing can be sent any more, and no answer can come.
      if (due >= stop && requests.size === 0) {
        return claim === undefined ? "gone" : "failed"
      }
      yield* waitUntil(due < stop ? due : stop, news)
    } else if (mustRead || found === undefined || isLate) {
      nextLook = now + timing.retryPeriod
      yield* read(election, requests)
    } else {
      yield* giveUp(release, found)
    }
  }
})

/** Begins one release. */
const giveUp = Effect.fnUntraced(function*(release: Release, lease: LeaseRecord) {
  const { election, requests } = release
  const { key, store, timing } = election
  const start = yield* election.now
  const renewTime = yield* nextRenewTime(election, lease.renewTime)
  const one: Attempts.Attempt = {
    id: nextRequest(election),
    start,
    open: true,
    guard: lease.resourceVersion,
    renewTime,
    cause: "release"
  }
  const earlier = release.attempts
  release.attempts = Attempts.begun(earlier, one)
  yield* send(election, requests, {
    id: one.id,
    verb: "patch",
    start,
    limit: timing.leaseDuration,
    earlier,
    request: store.patch(
      key,
      lease.resourceVersion,
      Writes.release(lease, renewTime, { owner: !election.ownerRefused })
    ),
    onAnswer: (answer) => onReleased(release, one, answer)
  })
})

const onReleased = Effect.fnUntraced(function*(
  release: Release,
  one: Attempts.Attempt,
  answer: Answer
) {
  const { election } = release
  const pause = one.start.monotonic + (yield* jitter(election.timing.retryPeriod))
  const { version } = election.state.observation
  advance(election, (state) => observeAnswer(state, answer), answer.end)
  if (Result.isSuccess(answer.result)) {
    release.released = true
  } else {
    const error = answer.result.failure
    yield* election.failures.onFailure(error)
    const meaning = meaningOf("releasing", error.verb, error.reason)
    if (meaning === "Read") {
      release.slow ||= answer.end.monotonic - one.start.monotonic > election.timing.requestTimeout
      release.attempts = Attempts.conflicted(release.attempts, one.id, pause)
      if (election.state.observation.version === version) {
        advance(election, (state) => ({ ...state, mustRead: true }), answer.end)
      }
    } else if (meaning === "WithoutOwner") {
      election.ownerRefused = true
      release.attempts = Attempts.refused(release.attempts, one.id, 0n)
    } else {
      release.attempts = afterFailure(release.attempts, one.id, error, retriesAt(election, answer, error))
    }
  }
  election.news.openUnsafe()
  yield* publish(election)
})
