/**
 * What one election knows and does: the one cell, and the only place in which
 * it changes.
 *
 * `advance` is synchronous. A term learns of everything before anybody else
 * does: its loss is final when `advance` returns, whatever else is to be done
 * about what was seen.
 *
 * @internal
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import * as Latch from "effect/Latch"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import * as SubscriptionRef from "effect/SubscriptionRef"
import type { Settings } from "../../LeaderElectionConfig.ts"
import {
  LeaderElectionError,
  LeadershipLost,
  LeaseRefused,
  type LossReason,
  RenewalFailed
} from "../../LeaderElectionError.ts"
import type { LeaderElectionStatus } from "../../LeaderElectionStatus.ts"
import type { LeaseError, LeaseVerb } from "../../LeaseError.ts"
import { formatKey, type LeaseKey, noteAnnotation } from "../../LeaseRecord.ts"
import type { LeaseStore } from "../../LeaseStore.ts"
import * as Attempts from "../protocol/attempts.ts"
import * as Observation from "../protocol/observation.ts"
import type { Role, Streak } from "../protocol/refusal.ts"
import * as Renewal from "../protocol/renewal.ts"
import { expiresAt, type Moment, remaining, type Timing } from "../protocol/timing.ts"
import * as Writes from "../protocol/writes.ts"
import { nanos, seconds, wallMicros } from "./clock.ts"
import type { Deference } from "./deference.ts"
import * as Telemetry from "./telemetry.ts"

/**
 * Whether the first renewal of a claim comes a random part of renewInterval early (`spread`): for many elections in one
 * process, which would otherwise renew together ever after.
 */
export const RenewalPhase = Context.Reference<"exact" | "spread">(
  "effect-kubernetes-leader-election/internal/RenewalPhase",
  { defaultValue: () => "exact" }
)

/** Everything that changes. */
export interface State {
  readonly observation: Observation.Observation
  readonly role: Role | "idle"
  /** The creates and takes of this campaign. */
  readonly takes: Attempts.Series<Attempts.Attempt>
  readonly reads: Attempts.Series<Attempts.Request>
  /** What is known must be asked for: after a conflict that nothing explains, or a watch that began without its past. */
  readonly mustRead: boolean
  readonly claim: Renewal.Claim | undefined
}

interface Confirmation {
  /** The number of the last request before it was asked for. */
  readonly after: number
  readonly result: Deferred.Deferred<void, LeaderElectionError>
}

/** One election: its settings and tools, and its cell. */
export interface Election {
  readonly settings: Settings
  readonly key: LeaseKey
  readonly timing: Timing
  readonly store: LeaseStore["Service"]
  /** How the first renewal of a claim is spread. */
  readonly phase: "exact" | "spread"
  readonly now: Effect.Effect<Moment>
  readonly metrics: Telemetry.ElectionMetrics
  readonly failures: Telemetry.Failures
  readonly statuses: SubscriptionRef.SubscriptionRef<LeaderElectionStatus>
  /** Opens whenever something is new. What waits on it closes it before it looks. */
  readonly news: Latch.Latch
  /** Opens when anything is known of the Lease. */
  readonly known: Latch.Latch
  /** What the protocol knows, and what is shown of it: the cell, changed by {@link advance} alone. */
  readonly state: State

  // --- Beside the cell. Nothing that is shown follows from these, so that a change of one wakes nobody.

  // Signals: a Deferred is completed once, so that each claim, and each campaign, gets a new one.
  /** Completed when the claim that is held is lost. */
  loss: Deferred.Deferred<LossReason>
  /** Fails with a defect of any fiber that works for this campaign. */
  defect: Deferred.Deferred<never>
  /** Why this campaign cannot succeed, where refusals have lasted too long. */
  refused: LeaderElectionError | undefined
  /** Versions have stepped back (etcd was restored): a note to the watch, which takes it. */
  rewound: boolean
  /** Called at once when the validity of a term was prolonged or is over: registered by what supervises the term. */
  onMove: () => void
  readonly confirmations: Set<Confirmation>
  /** The refusals that follow one another, by verb. */
  readonly streaks: Map<LeaseVerb, Streak>

  // Counters: what they have given out is never given out again, whatever becomes of a campaign or a claim.
  /** The last renewTime that was written, and the last instance id that was made: the next are later. */
  lastWritten: bigint
  lastInstance: bigint
  lastRequest: number
  /** When the last read began; one that was answered is no longer in its series. */
  lastRead: bigint

  // What outlives a campaign, because it was found out about this process and not about the Lease.
  /** An admission plugin does not let this process change the owner: write without. */
  ownerRefused: boolean
  /** Our Pod does not exist: a Lease created in its name lives for milliseconds. */
  createNotBefore: bigint
  /** After stepping down: until then, or until another leads. */
  standBackUntil: bigint | undefined
  /** The free Lease that is to be taken, and how long it is left to others: drawn once, by a program of the user's. */
  free: { readonly since: bigint; readonly deference: Deference; readonly sign: string } | undefined

  // For the metrics and the log alone.
  readonly leaderless: Leaderless
  /** The least validity that was left at a renewal of this claim. */
  worst: bigint
  warnedOfDuration: boolean
}

interface Leaderless {
  counting: boolean
  since: bigint | undefined
  total: bigint
}

export const make = Effect.fnUntraced(function*(
  settings: Settings,
  store: LeaseStore["Service"],
  phase: "exact" | "spread",
  now: Effect.Effect<Moment>
) {
  const metrics = Telemetry.makeMetrics(settings)
  const timing: Timing = {
    leaseDuration: nanos(settings.leaseDuration),
    renewInterval: nanos(settings.renewInterval),
    renewDeadline: nanos(settings.renewDeadline),
    retryPeriod: nanos(settings.retryPeriod),
    requestTimeout: nanos(settings.requestTimeout)
  }
  const statuses = yield* SubscriptionRef.make<LeaderElectionStatus>({ _tag: "Idle", leader: Option.none() })
  return {
    settings,
    key: { namespace: settings.namespace, name: settings.name },
    timing,
    store,
    phase,
    now,
    metrics,
    failures: Telemetry.makeFailures(metrics, timing.leaseDuration),
    statuses,
    news: Latch.makeUnsafe(false),
    known: Latch.makeUnsafe(false),
    rewound: false,
    loss: Deferred.makeUnsafe(),
    defect: Deferred.makeUnsafe(),
    state: {
      observation: Observation.initial,
      role: "idle",
      takes: Attempts.none,
      reads: Attempts.none,
      mustRead: false,
      claim: undefined
    },
    refused: undefined,
    streaks: new Map(),
    confirmations: new Set(),
    leaderless: { counting: false, since: undefined, total: 0n },
    lastWritten: 0n,
    lastInstance: 0n,
    lastRequest: 0,
    lastRead: 0n,
    ownerRefused: false,
    createNotBefore: 0n,
    standBackUntil: undefined,
    free: undefined,
    worst: timing.renewDeadline,
    warnedOfDuration: false,
    onMove: () => {}
  } satisfies Election as Election
})

// --- Status ---

/** The identity of the holder, as last seen. */
export const leaderOf = ({ observation: { lease } }: State): Option.Option<string> =>
  typeof lease === "string" || lease.holderIdentity === "" ? Option.none() : Option.some(lease.holderIdentity)

/** What the holder publishes. */
export const noteOf = ({ observation: { lease } }: State): Option.Option<string> =>
  typeof lease === "string" || lease.holderIdentity === ""
    ? Option.none()
    : Option.fromUndefinedOr(lease.annotations[noteAnnotation])

/** What the election shows of its state. */
export const statusOf = (state: State): LeaderElectionStatus => {
  const leader = leaderOf(state)
  const { claim } = state
  if (claim === undefined) {
    return { _tag: state.role === "idle" ? "Idle" : "Following", leader }
  }
  const { cause, lost, over, term } = claim
  if (term === undefined) {
    return { _tag: "Pending", leader, cause }
  }
  return lost === undefined && !over
    ? { _tag: "Leading", leader, term }
    : { _tag: "Ending", leader, term, reason: lost }
}

/** Whether the term was lost before its program had ended: what happens to the Lease afterwards is not a loss. */
export const wasLost = ({ state: { claim } }: Election): boolean => claim?.lost !== undefined && !claim.over

// --- Change ---

/** The one way in which anything changes. Returns whether it did. */
export const advance = (election: Election, f: (state: State) => State, now: Moment): boolean => {
  const before = election.state
  const after = f(before)
  if (after === before) {
    return false
  }
  const cell: { state: State } = election
  cell.state = after
  const { claim } = after
  if (claim !== undefined && before.claim !== claim) {
    onClaim(election, before.claim, claim, now)
  }
  if (before.observation !== after.observation) {
    countLeaderless(election, before.observation, after.observation, now.monotonic)
    election.rewound ||= after.observation.version < before.observation.version
    if (after.observation.lease !== "unknown") {
      election.known.openUnsafe()
    }
  }
  election.news.openUnsafe()
  return true
}

const onClaim = (
  election: Election,
  before: Renewal.Claim | undefined,
  claim: Renewal.Claim,
  now: Moment
): void => {
  if (before !== undefined && before.validFrom !== claim.validFrom) {
    const left = remaining(before.validFrom, now, election.timing.renewDeadline)
    election.worst = left < election.worst ? left : election.worst
  }
  if (claim.lost !== undefined && !claim.over) {
    Deferred.doneUnsafe(election.loss, Effect.succeed(claim.lost))
  }
  answerConfirmations(election, claim)
  election.onMove()
}

/** What is known of the Lease changes: the claim learns of it, and dead attempts are forgotten. */
export const observe = (state: State, observation: Observation.Observation): State => {
  if (observation === state.observation) {
    return state
  }
  const changed = observation.revision !== state.observation.revision
  return {
    ...state,
    observation,
    mustRead: state.mustRead && !changed,
    takes: changed ? Attempts.living(state.takes, observation.lease) : state.takes,
    claim: state.claim === undefined ? undefined : Renewal.observed(state.claim, observation)
  }
}

/** Changes the claim, where there is one. */
export const claimed = (f: (claim: Renewal.Claim) => Renewal.Claim) => (state: State): State => {
  const claim = state.claim === undefined ? undefined : f(state.claim)
  return claim === state.claim ? state : { ...state, claim }
}

/** Shows what has changed: status and metrics. To be run after `advance`, in a fiber that may log. */
export const publish = (election: Election): Effect.Effect<void> =>
  Effect.suspend(() => {
    const { leaderless, metrics, statuses } = election
    const { total } = leaderless
    leaderless.total = 0n
    const next = statusOf(election.state)
    const before = SubscriptionRef.getUnsafe(statuses)
    return Effect.all([
      total > 0n ? Metric.update(metrics.leaderlessSeconds, seconds(total)) : Effect.void,
      Equal.equals(before, next)
        ? Effect.void
        : Effect.andThen(SubscriptionRef.set(statuses, next), logLeader(election, before, next))
    ], { discard: true })
  })

// Own terms are logged where they begin and end.
const logLeader = (
  { settings }: Election,
  before: LeaderElectionStatus,
  { _tag, leader }: LeaderElectionStatus
): Effect.Effect<void> => {
  const holder = Option.getOrUndefined(leader)
  return _tag !== "Following" || holder === undefined || holder === settings.identity ||
      (before._tag === "Following" && Option.getOrUndefined(before.leader) === holder)
    ? Effect.void
    : Telemetry.info(`Following ${holder}`)
}

// A holder that is seen to live ends the time without one; it began when the last one's lease ran out.
const countLeaderless = (
  { leaderless, settings: { identity }, timing: { leaseDuration } }: Election,
  before: Observation.Observation,
  after: Observation.Observation,
  now: bigint
): void => {
  const until = (observation: Observation.Observation): bigint | undefined =>
    typeof observation.lease === "string" || observation.lease.holderIdentity === ""
      ? undefined
      : expiresAt(observation, observation.lease, { identity, leaseDuration })
  if (!leaderless.counting) {
    leaderless.counting = true
    return
  }
  const ended = until(before)
  if (ended !== undefined && ended < now) {
    leaderless.since ??= ended
  }
  const next = until(after)
  if (next === undefined || next <= now) {
    leaderless.since ??= now
  } else if (leaderless.since !== undefined) {
    leaderless.total += now - leaderless.since
    leaderless.since = undefined
  }
}

// --- Confirmations ---

/** Why a term that is over is over: what happens to the Lease when its program has ended is no loss. */
export const endOf = ({ lost, over }: Renewal.Claim): LossReason => over || lost === undefined ? "ProgramEnded" : lost

export const lostError = (reason: LossReason): LeaderElectionError =>
  new LeaderElectionError({ reason: new LeadershipLost({ reason }) })

export const refusedError = (error: LeaseError): LeaderElectionError =>
  new LeaderElectionError({ reason: new LeaseRefused({ error }) })

const answerConfirmations = (election: Election, claim: Renewal.Claim): void => {
  for (const confirmation of election.confirmations) {
    // A term that is over answers what was asked of it, or a later term of this process would.
    const isOver = claim.lost !== undefined || claim.over
    if (isOver || claim.validBy > confirmation.after) {
      election.confirmations.delete(confirmation)
      Deferred.doneUnsafe(
        confirmation.result,
        isOver ? Effect.fail(lostError(endOf(claim))) : Effect.void
      )
    }
  }
}

/** The attempt with this number has failed: those that asked for one before it are answered. */
export const failConfirmations = (election: Election, id: number, error: LeaseError): void => {
  for (const confirmation of election.confirmations) {
    if (id > confirmation.after) {
      election.confirmations.delete(confirmation)
      Deferred.doneUnsafe(
        confirmation.result,
        Effect.fail(new LeaderElectionError({ reason: new RenewalFailed({ error }) }))
      )
    }
  }
}

// --- Tools ---

/** The number of the next request: they are ordered by it. */
export const nextRequest = (election: Election): number => {
  election.lastRequest++
  return election.lastRequest
}

/** A renewTime for the next write, found nowhere else. */
export const nextRenewTime = (election: Election, stored: bigint | undefined): Effect.Effect<bigint> =>
  Effect.map(wallMicros, (wallClock) => {
    election.lastWritten = Writes.uniqueRenewTime(wallClock, election.lastWritten, stored)
    return election.lastWritten
  })

/** The name of the Lease, for messages. */
export const leaseName = (election: Election): string => formatKey(election.key)
