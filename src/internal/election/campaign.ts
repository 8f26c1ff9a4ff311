/**
 * Campaigning: from the first read until this process holds the Lease and its
 * term has begun.
 *
 * One loop looks at what is known, and does the one thing that follows from it.
 * It never waits for an answer: answers change what is known, and what is known
 * wakes it.
 *
 * @internal
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as Random from "effect/Random"
import * as Result from "effect/Result"
import { DuplicateIdentity, LeaderElectionError } from "../../LeaderElectionError.ts"
import type { TakeoverCause, Term } from "../../LeaderElectionStatus.ts"
import type { LeaseError, LeaseVerb } from "../../LeaseError.ts"
import type { LeaseRecord } from "../../LeaseRecord.ts"
import * as Attempts from "../protocol/attempts.ts"
import { decide, type Decision } from "../protocol/decision.ts"
import * as Instance from "../protocol/instance.ts"
import { meaningOf } from "../protocol/refusal.ts"
import * as Renewal from "../protocol/renewal.ts"
import { isFarFrom, type Moment, remaining } from "../protocol/timing.ts"
import * as Writes from "../protocol/writes.ts"
import * as YoungLease from "../protocol/youngLease.ts"
import { jitter, monotonic, waitUntil, wallMicros } from "./clock.ts"
import * as Deference from "./deference.ts"
import { release } from "./release.ts"
import { step } from "./renewal.ts"
import {
  abort,
  afterFailure,
  type Answer,
  countRefusal,
  observeAnswer,
  lookDueAt,
  read,
  report,
  type Requests,
  retriesAt,
  send
} from "./requests.ts"
import { advance, claimed, type Election, leaseName, nextRenewTime, nextRequest, publish } from "./state.ts"
import * as Telemetry from "./telemetry.ts"
import type { Watch } from "./watch.ts"

/** What one campaign works with. */
export interface Campaign {
  readonly election: Election
  readonly requests: Requests
  readonly watch: Watch
  /** Under which this campaign writes: a new instance after each holding that was lost. */
  candidate: Writes.Candidate
  nextPoll: bigint
  /** The revision at which a read that doubted the watch was last answered: once is enough. */
  probed: number
  /** A read that doubts the watch is under way, and what was known when it began. */
  doubting: { readonly revision: number; readonly reportedAt: bigint } | undefined
  reportedDuplicate: boolean
}

export const make = (election: Election, requests: Requests, watch: Watch): Effect.Effect<Campaign> =>
  Effect.map(makeCandidate(election), (candidate) => ({
    election,
    requests,
    watch,
    candidate,
    nextPoll: 0n,
    probed: -1,
    doubting: undefined,
    reportedDuplicate: false
  }))

const makeCandidate = Effect.fnUntraced(function*(election: Election) {
  const { settings, timing } = election
  const wallClock = yield* wallMicros
  election.lastInstance = wallClock > election.lastInstance ? wallClock : election.lastInstance + 1n
  const random = yield* Random.nextIntBetween(0, 2 ** 31)
  const origin = Instance.originOf(settings.identity, settings.pod?.uid)
  return {
    identity: settings.identity,
    instance: Instance.format(election.lastInstance, origin, random.toString(36)),
    leaseDuration: timing.leaseDuration,
    leaseDurationSeconds: Number(timing.leaseDuration / 1_000_000_000n),
    pod: settings.pod,
    note: settings.note
  } satisfies Writes.Candidate
})

/** Campaigns until a term has begun. */
export const run = Effect.fnUntraced(function*(campaign: Campaign) {
  const { election } = campaign
  while (true) {
    yield* takeLease(campaign)
    const term = yield* waitUntilOldEnough(campaign)
    if (term !== undefined) {
      return term
    }
    yield* endHolding(campaign)
    // What a lost holding wrote may be put back, and is not this campaign's then.
    campaign.candidate = yield* makeCandidate(election)
    const now = yield* election.now
    advance(election, (state) => ({ ...state, role: "candidate", claim: undefined }), now)
    yield* publish(election)
  }
})

/** No term begins on what is held: it was lost, or is to be left to others. */
const endHolding = Effect.fnUntraced(function*(campaign: Campaign) {
  const { election } = campaign
  if (election.state.claim?.lost !== "SteppedDown") {
    return yield* Telemetry.info("Lost the Lease before the term began")
  }
  election.standBackUntil = (yield* monotonic) + election.timing.leaseDuration
  yield* Telemetry.info("Asked to step down before the term began")
  yield* release(campaign)
})

// --- A candidate -----------------------------------------------------------------------------------

/** Waits until the Lease is free, and takes it. */
const takeLease = Effect.fnUntraced(function*(campaign: Campaign) {
  while (campaign.election.state.claim === undefined) {
    yield* turn(campaign)
  }
})

/** Looks once at what is known, and does the one thing that follows from it. */
const turn = Effect.fnUntraced(function*(campaign: Campaign) {
  const { candidate, election } = campaign
  const { news, timing } = election
  news.closeUnsafe()
  if (election.refused !== undefined) {
    return yield* election.refused
  }
  const moment = yield* election.now
  const now = moment.monotonic
  advance(election, (state) => {
    const takes = Attempts.expired(state.takes, now, timing.leaseDuration)
    const reads = Attempts.expired(state.reads, now, timing.leaseDuration)
    return takes === state.takes && reads === state.reads ? state : { ...state, takes, reads }
  }, moment)
  const { observation, takes } = election.state
  yield* noteRead(campaign)
  const decision = decide(observation, Attempts.recognised(takes), candidate, now)
  switch (decision._tag) {
    case "Read": {
      return yield* readOrWait(campaign, now)
    }
    case "Adopt": {
      return yield* adopt(campaign, decision.lease, decision.attempt)
    }
    case "Wait": {
      yield* noteHolder(campaign, decision, moment)
      return yield* listen(campaign, decision.until, now)
    }
    default: {
      const free = yield* freeFrom(campaign, decision, now)
      if (now < free) {
        // A short wait is no reason to doubt the watch: hundreds that defer would read.
        return yield* free - now <= timing.retryPeriod ? waitUntil(free, news) : listen(campaign, free, now)
      }
      const due = Attempts.dueAt(takes, timing)
      const look = lookDueAt(election, takes, campaign.watch.isReliable())
      if (look !== undefined && look <= now) {
        return yield* readOrWait(campaign, now)
      }
      if (now < due) {
        return yield* waitUntil(look !== undefined && look < due ? look : due, news)
      }
      return election.state.mustRead ? yield* readOrWait(campaign, now) : yield* write(campaign, decision)
    }
  }
})

/** The Lease is held by another: what there is to say about that. */
const noteHolder = Effect.fnUntraced(function*(
  campaign: Campaign,
  { duplicate, lease }: Extract<Decision, { _tag: "Wait" }>,
  now: Moment
) {
  const { candidate, election } = campaign
  const { timing } = election
  if (lease.holderIdentity !== "" && lease.holderIdentity !== candidate.identity) {
    election.standBackUntil = undefined
    advance(election, (state) => {
      const takes = Attempts.uncontested(state.takes)
      return takes === state.takes ? state : { ...state, takes }
    }, now)
  }
  if (duplicate && !campaign.reportedDuplicate) {
    campaign.reportedDuplicate = true
    yield* Telemetry.error(
      `The Lease is held by a process that was started later under this same identity ` +
        `("${candidate.identity}"): give each process its own. Waiting as for any other holder`
    )
  }
  if (
    !election.warnedOfDuration && lease.holderIdentity !== "" &&
    isFarFrom(lease.leaseDurationSeconds, timing.leaseDuration)
  ) {
    election.warnedOfDuration = true
    yield* Telemetry.warn(
      `The Lease says leaseDurationSeconds ${lease.leaseDurationSeconds}, and this candidate's leaseDuration is ` +
        `${candidate.leaseDurationSeconds} s: give all candidates the same. While it is changed, the smallest in use must ` +
        "be greater than the largest renewDeadline in use"
    )
  }
})

/**
 * The moment before which a free Lease is left alone: that at which it became
 * free here, and this candidate's deference, drawn once for each Lease that
 * becomes free. What stepped down stands back, until another leads or
 * leaseDuration has passed.
 */
const freeFrom = Effect.fnUntraced(function*(
  { election }: Campaign,
  decision: Extract<Decision, { _tag: "Create" | "Take" }>,
  now: bigint
) {
  if (decision._tag === "Take" && decision.cause === "resumed") {
    return 0n
  }
  const { observation } = election.state
  const free = decision._tag === "Create" ? undefined : decision.lease
  const sign = free === undefined ? `absent ${observation.revision}` : `${free.uid} ${observation.signOfLifeAt}`
  if (election.free?.sign !== sign) {
    const { settings: { candidates, watch }, timing: { retryPeriod } } = election
    // Those that poll see it at different times anyway, and would not see the winner while they wait.
    const deference = yield* Deference.draw(free, watch ? candidates : undefined, retryPeriod)
    election.free = { sign, since: now, deference }
  }
  const { since } = election.free
  const { retryPeriod } = election.timing
  const asked = election.free.deference(since, now)
  const deference = asked < retryPeriod ? asked : retryPeriod
  const standBack = election.standBackUntil ?? 0n
  const create = decision._tag === "Create" ? election.createNotBefore : 0n
  return [since + deference, standBack, create].reduce((latest, at) => at > latest ? at : latest)
})

/** Reads, or waits for the time at which the next read may begin. */
const readOrWait = Effect.fnUntraced(function*(campaign: Campaign, now: bigint) {
  const { election, requests } = campaign
  const due = Attempts.dueAt(election.state.reads, election.timing)
  if (now < due) {
    return yield* waitUntil(due, election.news)
  }
  campaign.nextPoll = now + (yield* jitter(election.timing.retryPeriod))
  return yield* read(election, requests)
})

/**
 * Waits for an event or until a time. Reads in between where the watch cannot
 * be relied on: every retryPeriod while it is not open; once after half the
 * holder's duration without any event (a healthy leader renews every third).
 */
const listen = Effect.fnUntraced(function*(campaign: Campaign, until: bigint, now: bigint) {
  const { election, requests, watch } = campaign
  const { mustRead, observation: { reportedAt, revision }, reads } = election.state
  const watching = watch.isReliable()
  const probe = revision === campaign.probed ? until : reportedAt + (until - reportedAt) / 2n
  const wanted = mustRead ? now : watching ? probe : campaign.nextPoll
  const spaced = Attempts.dueAt(reads, election.timing)
  const due = wanted > spaced ? wanted : spaced
  if (due > now) {
    return yield* waitUntil(due < until ? due : until, election.news)
  }
  campaign.nextPoll = now + (yield* jitter(election.timing.retryPeriod))
  campaign.doubting = watching && !mustRead ? { reportedAt, revision } : undefined
  // Not traced: nothing happens here but that time passes, every retryPeriod in every follower that polls.
  return yield* Effect.withTracerEnabled(read(election, requests), false)
})

/**
 * The read that doubted the watch is answered: whether it knew of something that the watch had not delivered. One that
 * hangs or fails has answered nothing: the watch may be silent because the path is dead, and the read is due again.
 */
const noteRead = (campaign: Campaign): Effect.Effect<void> => {
  const { doubting, election: { state }, watch } = campaign
  if (doubting === undefined || state.observation.reportedAt === doubting.reportedAt) {
    return Effect.void
  }
  campaign.doubting = undefined
  campaign.probed = doubting.revision
  const { revision } = state.observation
  return revision !== doubting.revision && watch.delivered() !== revision && watch.isReliable()
    ? watch.distrust
    : Effect.void
}

// --- Taking ----------------------------------------------------------------------------------------

/** Begins a create or a take, beside those under way. */
const write = Effect.fnUntraced(function*(
  { candidate, election, requests }: Campaign,
  decision: Extract<Decision, { _tag: "Create" | "Take" }>
) {
  const { key, store, timing } = election
  const start = yield* election.now
  const lease = decision._tag === "Take" ? decision.lease : undefined
  const renewTime = yield* nextRenewTime(election, lease?.renewTime)
  const attempt: Attempts.Attempt = {
    id: nextRequest(election),
    start,
    open: true,
    guard: lease?.resourceVersion ?? "absent",
    renewTime,
    cause: decision._tag === "Take" ? decision.cause : "created"
  }
  const { observation, takes } = election.state
  advance(election, (state) => ({ ...state, takes: Attempts.begun(state.takes, attempt) }), start)
  const mark = YoungLease.needsMark(observation, start.monotonic, timing.leaseDuration)
  const verb: LeaseVerb = lease === undefined ? "create" : "patch"
  yield* send(election, requests, {
    id: attempt.id,
    verb,
    start,
    limit: timing.leaseDuration,
    earlier: takes,
    request: lease === undefined
      ? store.create(key, Writes.create(candidate, renewTime))
      : store.patch(
        key,
        lease.resourceVersion,
        Writes.take(candidate, lease, renewTime, { owner: !election.ownerRefused, mark })
      ),
    onAnswer: (answer) => onTaken(election, candidate, attempt, answer)
  })
})

/**
 * The answer to a create or take. One that was committed is not believed for
 * itself, but because the newest state known is what it wrote: a late answer of
 * a dead attempt is a snapshot and nothing else.
 */
const onTaken = Effect.fnUntraced(function*(
  election: Election,
  candidate: Writes.Candidate,
  attempt: Attempts.Attempt,
  answer: Answer
) {
  const alive = Attempts.isAlive(election.state.takes, attempt.id)
  const pause = attempt.start.monotonic + (yield* jitter(election.timing.retryPeriod))
  advance(election, (state) => observeAnswer(state, answer), answer.end)
  if (Result.isSuccess(answer.result)) {
    const { lease } = election.state.observation
    if (lease === "absent" && alive) {
      // Deleted before it was answered, and known to be.
      advance(election, (state) => ({ ...state, takes: Attempts.refused(state.takes, attempt.id, 0n) }), answer.end)
      yield* onDeletedAtOnce(election, candidate, attempt)
    }
  } else if (alive) {
    const error = answer.result.failure
    yield* onRefused(election, attempt, answer, error, pause)
  }
  if (alive) {
    countRefusal(election, answer)
    yield* report(election, attempt.guard === "absent" ? "create" : "patch", answer)
  }
  yield* publish(election)
})

const onRefused = Effect.fnUntraced(function*(
  election: Election,
  attempt: Attempts.Attempt,
  answer: Answer,
  error: LeaseError,
  pause: bigint
) {
  const meaning = meaningOf("candidate", error.verb, error.reason)
  switch (meaning) {
    case "Read": {
      // What explains the conflict may have arrived already, through the watch.
      return advance(election, (state) => ({
        ...state,
        takes: Attempts.conflicted(state.takes, attempt.id, pause),
        mustRead: true
      }), answer.end)
    }
    case "WithoutOwner": {
      advance(election, (state) => ({ ...state, takes: Attempts.refused(state.takes, attempt.id, 0n) }), answer.end)
      if (!election.ownerRefused) {
        election.ownerRefused = true
        yield* Telemetry.warn(
          "This process may not change the Lease's owner, so its Pod's end will not remove the Lease. " +
            "The admission plugin OwnerReferencesPermissionEnforcement asks for the verb delete on it"
        )
      }
      return true
    }
    default: {
      const again = meaning === "Absent" ? 0n : retriesAt(election, answer, error)
      return advance(election, (state) => ({
        ...state,
        takes: afterFailure(state.takes, attempt.id, error, again)
      }), answer.end)
    }
  }
})

/** A write of this campaign was committed: the Lease is held from its start. */
const adopt = Effect.fnUntraced(function*(campaign: Campaign, lease: LeaseRecord, attempt: Attempts.Attempt) {
  const { candidate, election, requests } = campaign
  const cause = attempt.cause as TakeoverCause
  const firstDue = yield* spread(election, attempt.start.monotonic)
  const now = yield* election.now
  for (const other of election.state.takes.requests) {
    if (other.id !== attempt.id) {
      abort(requests, other.id)
    }
  }
  election.loss = Deferred.makeUnsafe()
  election.worst = election.timing.renewDeadline
  election.standBackUntil = undefined
  election.streaks.clear()
  advance(election, (state) => ({
    ...state,
    role: "holder",
    // Its start still counts: a Lease that is lost as soon as it is held is not taken again at full speed.
    takes: { ...Attempts.none, starts: state.takes.starts },
    mustRead: false,
    claim: Renewal.make(candidate, cause, lease, attempt, firstDue)
  }), now)
  yield* Metric.update(election.metrics.takeovers(cause), 1)
})

/** A random part of the interval after a write that many elections may have made together. */
const spread = ({ phase, timing }: Election, start: bigint): Effect.Effect<bigint | undefined> =>
  phase === "exact"
    ? Effect.undefined
    : Effect.map(Random.next, (random) => start + BigInt(Math.floor(random * Number(timing.renewInterval))))

// --- A young Lease ---------------------------------------------------------------------------------

/**
 * Holds the Lease until it is known to be older than leaseDuration, and begins
 * the term: nothing where it was lost meanwhile.
 *
 * A deleted Lease is never taken as proof that nobody leads. The leader of the
 * one before is valid for up to renewDeadline more, and has given up by the
 * time that this one is leaseDuration old. Holding ends as a term does: without
 * success for renewDeadline this is a candidate again.
 */
const waitUntilOldEnough = Effect.fnUntraced(function*(campaign: Campaign) {
  const { election, requests } = campaign
  const { settings, timing } = election
  let waiting = false
  while (true) {
    const { claim, observation } = election.state
    if (claim === undefined || claim.gone !== undefined) {
      yield* onGone(election)
      return claim?.gone === "DuplicateIdentity" ? yield* duplicate(election) : undefined
    }
    const moment = yield* election.now
    if (claim.lost !== undefined) {
      return undefined
    }
    if (remaining(claim.validFrom, moment, timing.renewDeadline) === 0n) {
      return undefined
    }
    if (settings.newLease === "lead" || YoungLease.mayBegin(claim, observation, timing.leaseDuration)) {
      return yield* begin(election, claim)
    }
    if (!waiting) {
      waiting = true
      yield* publish(election)
      yield* Telemetry.info(
        `Holding a new Lease before leading (${claim.cause}): it may be younger than leaseDuration, and the leader of ` +
          "an earlier Lease may still be at work"
      )
    }
    yield* step(election, requests, campaign.watch, {
      oldEnoughAt: YoungLease.oldEnoughAt(observation, timing.leaseDuration),
      until: claim.validFrom.monotonic + timing.renewDeadline
    })
  }
})

export const duplicate = (election: Election): Effect.Effect<never, LeaderElectionError> =>
  Effect.fail(
    new LeaderElectionError({
      reason: new DuplicateIdentity({ identity: election.settings.identity, lease: leaseName(election) })
    })
  )

const begin = Effect.fnUntraced(function*(election: Election, claim: Renewal.Claim) {
  const wallClock = yield* wallMicros
  const term: Term = {
    fencingToken: claim.provenBy,
    transitions: claim.lease.leaseTransitions,
    leaseUid: claim.uid,
    cause: claim.cause,
    since: Number(wallClock / 1000n)
  }
  const firstDue = yield* spread(election, claim.validFrom.monotonic)
  election.worst = election.timing.renewDeadline
  advance(election, claimed((claim) => Renewal.begin(claim, term, firstDue)), yield* election.now)
  return term
})

/** What follows from the way in which a held Lease was lost. */
export const onGone = Effect.fnUntraced(function*(election: Election) {
  const { claim } = election.state
  const now = yield* monotonic
  if (
    claim?.gone === "LeaseDeleted" && claim.cause === "created" &&
    now - claim.validFrom.monotonic < election.timing.retryPeriod
  ) {
    yield* reportGhost(election, claim.candidate, now)
  }
})

const onDeletedAtOnce = Effect.fnUntraced(function*(
  election: Election,
  candidate: Writes.Candidate,
  attempt: Attempts.Attempt
) {
  if (attempt.guard === "absent") {
    yield* reportGhost(election, candidate, yield* monotonic)
  }
})

const reportGhost = Effect.fnUntraced(function*(election: Election, { pod }: Writes.Candidate, now: bigint) {
  if (pod === undefined) {
    return
  }
  election.createNotBefore = now + election.timing.leaseDuration
  yield* Telemetry.error(
    `The Lease was deleted as soon as this process had created it: there is no Pod "${pod.name}" with uid ${pod.uid} ` +
      `in namespace ${election.key.namespace}, so Kubernetes removes what it owns. Set POD_NAME, POD_UID and ` +
      `POD_NAMESPACE from the downward API. The next attempt follows in leaseDuration`
  )
})
