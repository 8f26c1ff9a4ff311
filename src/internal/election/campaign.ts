/**
 * Campaigning: from the first read until this process holds the Lease and its
 * term has begun.
 *
 * @internal
 */
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Result from "effect/Result"
import { DuplicateIdentity, LeaderElectionError, LeaseRefused } from "../../LeaderElectionError.ts"
import type { TakeoverCause, Term } from "../../LeaderElectionStatus.ts"
import { isOutcomeUnknown, type LeaseError, type LeaseVerb, retryAfter } from "../../LeaseError.ts"
import { formatKey, type LeaseRecord } from "../../LeaseRecord.ts"
import * as Attempts from "../protocol/attempts.ts"
import { decide, type Decision } from "../protocol/decision.ts"
import * as Instance from "../protocol/instance.ts"
import { needsMark, oldEnoughAt } from "../protocol/observation.ts"
import { type Moment, nextAttempt, remaining } from "../protocol/timing.ts"
import * as Writes from "../protocol/writes.ts"
import { type Environment, nanos, waitUntil } from "./environment.ts"
import { type Attempt, jitter, type Observer } from "./observer.ts"
import * as Tenure from "./term.ts"

/** What one election remembers from campaign to campaign. */
export interface Memory extends Tenure.Pen {
  /** Start of the newest instance id: the next one is later. */
  lastInstance: bigint
  /** An admission plugin does not let this process change the owner: take without. */
  ownerRefused: boolean
  /** Our Pod does not exist: a Lease created in its name lives for milliseconds. */
  createNotBefore: bigint
  /** After stepping down: until then, or until another leads. */
  standBackUntil: bigint | undefined
}

export const makeMemory = (): Memory => ({
  lastWritten: 0n,
  lastInstance: 0n,
  ownerRefused: false,
  createNotBefore: 0n,
  standBackUntil: undefined
})

/** What the campaign leaves to be released: whatever of its writes may turn out to have been applied. */
export interface Holding {
  author: Writes.Author | undefined
  tenure: Tenure.Tenure | undefined
  /** A create or take of unknown outcome. It may be applied as long as the Lease stays what it was decided on. */
  uncertain: { readonly decidedOn: LeaseRecord | "absent" } | undefined
}

export interface Campaign {
  readonly environment: Environment
  readonly observer: Observer
  readonly memory: Memory
  readonly holding: Holding
  /** Called when the Lease is held, and again when its wait ends without a term. */
  readonly onHolding: (cause: TakeoverCause | undefined) => Effect.Effect<void>
}

const makeAuthor = Effect.fnUntraced(function*({ environment, memory }: Campaign) {
  const { settings, timing } = environment
  const wallClock = yield* environment.wallClock
  memory.lastInstance = wallClock > memory.lastInstance ? wallClock : memory.lastInstance + 1n
  const random = yield* Random.nextIntBetween(0, 2 ** 31)
  return {
    identity: settings.identity,
    instance: Instance.format(
      memory.lastInstance,
      Instance.originOf(settings.identity, settings.pod?.uid),
      random.toString(36)
    ),
    leaseDuration: timing.leaseDuration,
    leaseDurationSeconds: Number(timing.leaseDuration / 1_000_000_000n),
    pod: settings.pod
  } satisfies Writes.Author
})

/** Campaigns until a term has begun. */
export const run = Effect.fnUntraced(function*(campaign: Campaign) {
  yield* campaign.observer.begin
  while (true) {
    // A new instance after each holding that was lost: what it wrote may be put back, and is not this campaign's then.
    const author = yield* makeAuthor(campaign)
    campaign.holding.author = author
    const candidate = new Candidate(campaign, author)
    const tenure = yield* candidate.take()
    campaign.holding.tenure = tenure
    const term = yield* comeOfAge(campaign, tenure)
    if (term !== undefined) {
      return { tenure, term }
    }
    campaign.holding.tenure = undefined
    campaign.holding.uncertain = tenure.gone === undefined ? { decidedOn: tenure.lease } : undefined
    yield* campaign.onHolding(undefined)
  }
})

// --- A candidate -----------------------------------------------------------------------------------

class Candidate {
  readonly campaign: Campaign
  readonly author: Writes.Author
  /** No request before this time (monotonic): a failed one is followed by a pause. */
  notBefore = 0n
  conflicts = 0
  /** Since when each verb has been forbidden without a break. */
  readonly forbiddenSince = new Map<LeaseVerb, { readonly since: bigint; readonly last: bigint }>()
  nextPoll = 0n
  /** The revision at which the watch was last doubted: once is enough. */
  probed = -1
  reportedDuplicate = false
  attempts: Attempts.Attempts = []
  ids = 0
  lastCause: TakeoverCause = "created"

  constructor(campaign: Campaign, author: Writes.Author) {
    this.campaign = campaign
    this.author = author
  }

  /** Waits until the Lease is free, and takes it. */
  take(): Effect.Effect<Tenure.Tenure, LeaderElectionError> {
    return Effect.gen({ self: this }, function*() {
      while (true) {
        const taken = yield* this.turn()
        if (Option.isSome(taken)) {
          return taken.value
        }
      }
    })
  }

  /** Looks once at what is known, and does the one thing that follows from it. */
  turn(): Effect.Effect<Option.Option<Tenure.Tenure>, LeaderElectionError> {
    return Effect.gen({ self: this }, function*() {
      const { environment, memory, observer } = this.campaign
      observer.heard.closeUnsafe()
      const now = yield* environment.monotonic
      if (now < this.notBefore) {
        yield* waitUntil(environment, this.notBefore, observer.heard)
        return Option.none()
      }
      this.attempts = Attempts.living(
        Attempts.expired(this.attempts, now, environment.timing.leaseDuration),
        observer.observation().lease
      )
      const decision = decide(observer.observation(), this.attempts, this.author, now)
      if (decision._tag !== "Read" && this.mustStandBack(decision, now)) {
        yield* waitUntil(environment, memory.standBackUntil!, observer.heard)
        return Option.none()
      }
      switch (decision._tag) {
        case "Read": {
          yield* this.read()
          return Option.none()
        }
        case "Create": {
          if (now < memory.createNotBefore) {
            yield* this.listen(memory.createNotBefore, now)
            return Option.none()
          }
          return yield* this.create()
        }
        case "Take": {
          return yield* this.takeOver(decision)
        }
        case "Adopt": {
          const { lease, start } = decision
          const cause = this.lastCause
          return Option.some(Tenure.make({ author: this.author, cause, lease, start, firstDue: undefined }))
        }
        case "Wait": {
          if (decision.duplicate && !this.reportedDuplicate) {
            this.reportedDuplicate = true
            yield* Effect.logError(
              `The Lease is held by a process that was started later under this same identity ` +
                `("${this.author.identity}"): give each process its own. Waiting as for any other holder`
            )
          }
          yield* this.listen(decision.until, now)
          return Option.none()
        }
      }
    })
  }

  /** Who stepped down leaves the Lease to others, until another leads or leaseDuration has passed. */
  mustStandBack(decision: Decision, now: bigint): boolean {
    const { memory } = this.campaign
    if (memory.standBackUntil === undefined) {
      return false
    }
    const another = decision._tag === "Wait" && decision.lease.holderIdentity !== "" &&
      decision.lease.holderIdentity !== this.author.identity
    if (another || now >= memory.standBackUntil) {
      memory.standBackUntil = undefined
      return false
    }
    return true
  }

  /**
   * Waits for an event or until a time. Reads in between where the watch cannot
   * be relied on: every retryPeriod while it is not open; once after half the
   * holder's duration without any event (a healthy leader renews every third).
   */
  listen(until: bigint, now: bigint): Effect.Effect<void, LeaderElectionError> {
    return Effect.gen({ self: this }, function*() {
      const { environment, observer } = this.campaign
      const { heardAt, revision } = observer.observation()
      const watching = observer.isWatching()
      const probe = revision === this.probed ? until : heardAt + (until - heardAt) / 2n
      const due = observer.needsRead() ? now : watching ? probe : this.nextPoll
      if (due > now) {
        yield* waitUntil(environment, due < until ? due : until, observer.heard)
        return
      }
      this.probed = revision
      // Not traced: nothing happens here but that time passes, every retryPeriod in every follower that polls.
      yield* Effect.withTracerEnabled(this.read(), false)
      if (watching && observer.observation().revision !== revision) {
        // The read knew of something that the watch had not told.
        yield* observer.reopen
      }
    })
  }

  read(): Effect.Effect<void, LeaderElectionError> {
    return Effect.gen({ self: this }, function*() {
      const { environment, observer } = this.campaign
      const made = yield* observer.read
      this.nextPoll = made.start.monotonic + (yield* jitter(environment.timing.retryPeriod))
      if (Result.isFailure(made.result) && made.result.failure.reason._tag !== "LeaseNotFound") {
        yield* this.onFailure(made, made.result.failure)
      } else {
        this.forbiddenSince.delete("get")
      }
    })
  }

  create(): Effect.Effect<Option.Option<Tenure.Tenure>, LeaderElectionError> {
    return Effect.gen({ self: this }, function*() {
      const { environment, memory } = this.campaign
      const start = yield* environment.moment
      const renewTime = yield* Tenure.nextRenewTime(environment, memory, undefined)
      const request = environment.store.create(environment.key, Writes.create(this.author, renewTime))
      return yield* this.write("create", "created", start, renewTime, request)
    })
  }

  takeOver(
    decision: Extract<Decision, { _tag: "Take" }>
  ): Effect.Effect<Option.Option<Tenure.Tenure>, LeaderElectionError> {
    return Effect.gen({ self: this }, function*() {
      const { environment, memory, observer } = this.campaign
      const { lease } = decision
      const start = yield* environment.moment
      const renewTime = yield* Tenure.nextRenewTime(environment, memory, lease.renewTime)
      const mark = needsMark(observer.observation(), start.monotonic, environment.timing.leaseDuration)
      const write = Writes.take(this.author, lease, renewTime, { owner: !memory.ownerRefused, mark })
      const request = environment.store.patch(environment.key, lease.resourceVersion, write)
      return yield* this.write("patch", decision.cause, start, renewTime, request)
    })
  }

  write(
    verb: LeaseVerb,
    cause: TakeoverCause,
    start: Moment,
    renewTime: bigint,
    request: Parameters<Observer["attempt"]>[2]
  ): Effect.Effect<Option.Option<Tenure.Tenure>, LeaderElectionError> {
    return Effect.gen({ self: this }, function*() {
      const { holding, observer } = this.campaign
      const { lease: decidedOn, version } = observer.observation()
      const uncertain = holding.uncertain
      // Also where this is interrupted before the answer.
      holding.uncertain = { decidedOn: decidedOn === "unknown" ? "absent" : decidedOn }
      this.lastCause = cause
      const id = this.ids++
      const guard = typeof decidedOn === "string" ? "absent" as const : decidedOn.resourceVersion
      this.attempts = Attempts.begun(this.attempts, { id, start, open: true, guard, renewTime })
      const made = yield* observer.attempt(verb, start, request)
      this.attempts = Result.isFailure(made.result) && isOutcomeUnknown(made.result.failure)
        ? Attempts.unanswered(this.attempts, id)
        : Attempts.settled(this.attempts, id)
      yield* observer.learn(made)
      if (Result.isSuccess(made.result)) {
        this.conflicts = 0
        this.forbiddenSince.delete(verb)
        const { lease } = made.result.success
        const firstDue = yield* spread(this.campaign.environment, start)
        return Option.some(Tenure.make({ author: this.author, cause, lease, start, firstDue }))
      }
      const error = made.result.failure
      if (!isOutcomeUnknown(error)) {
        holding.uncertain = uncertain
      }
      switch (error.reason._tag) {
        case "LeaseConflict": {
          this.conflicts++
          if (this.conflicts > 1) {
            this.notBefore = start.monotonic + (yield* jitter(this.campaign.environment.timing.retryPeriod))
          }
          // What explains the conflict may have arrived already, through the watch.
          if (observer.observation().version === version) {
            yield* this.read()
          }
          return Option.none()
        }
        case "LeaseNotFound": {
          if (verb === "create") {
            return yield* refused(error)
          }
          return Option.none()
        }
        default: {
          yield* this.onFailure(made, error)
          return Option.none()
        }
      }
    })
  }

  onFailure(made: Attempt, error: LeaseError): Effect.Effect<void, LeaderElectionError> {
    return Effect.gen({ self: this }, function*() {
      const { environment, memory } = this.campaign
      const asked = retryAfter(error)
      this.notBefore = nextAttempt({
        start: made.start.monotonic,
        end: made.end.monotonic,
        retryAfter: asked === undefined ? undefined : nanos(asked)
      }, environment.timing)
      switch (error.reason._tag) {
        case "LeaseInvalid": {
          return yield* refused(error)
        }
        case "LeaseForbidden": {
          if (error.reason.ownerReferences && !memory.ownerRefused) {
            memory.ownerRefused = true
            this.notBefore = 0n
            yield* Effect.logWarning(
              "This process may not change the Lease's owner, so its Pod's end will not remove the Lease. " +
                "The admission plugin OwnerReferencesPermissionEnforcement asks for the verb delete on it"
            )
            return
          }
          // A Role being replaced is no reason to die.
          // Only attempts that follow each other are one row: nobody knows what was allowed between others.
          const row = this.forbiddenSince.get(error.verb)
          const { requestTimeout, retryPeriod } = environment.timing
          const since = row !== undefined && made.start.monotonic - row.last <= 2n * retryPeriod + requestTimeout
            ? row.since
            : made.start.monotonic
          this.forbiddenSince.set(error.verb, { since, last: made.end.monotonic })
          if (made.end.monotonic - since >= environment.timing.leaseDuration) {
            return yield* refused(error)
          }
          return
        }
        default: {
          this.forbiddenSince.delete(error.verb)
        }
      }
    })
  }
}

/** A random part of the interval after a write that many elections may have made together. */
const spread = ({ phase, timing }: Environment, start: Moment): Effect.Effect<bigint | undefined> =>
  phase === "exact"
    ? Effect.undefined
    : Effect.map(Random.next, (random) => start.monotonic + BigInt(Math.floor(random * Number(timing.renewInterval))))

const refused = (error: LeaseError) => new LeaderElectionError({ reason: new LeaseRefused({ error }) })

// --- A young Lease ---------------------------------------------------------------------------------

/**
 * Holds the Lease until it is certainly older than leaseDuration, and begins
 * the term: nothing where it was lost meanwhile.
 *
 * An absent Lease is no proof that nobody leads. Whoever led on the one before
 * is valid for up to renewDeadline more, and has given up by the time that this
 * one is old enough. So the term begins with a guarded write that *starts*
 * then; on an old Lease that is the take itself. `newLease: "lead"` gives this
 * up.
 */
const comeOfAge = Effect.fnUntraced(function*(campaign: Campaign, tenure: Tenure.Tenure) {
  const { environment, memory, observer } = campaign
  const oldEnough = () =>
    environment.settings.newLease === "lead"
      ? 0n
      : oldEnoughAt(observer.observation(), environment.timing.leaseDuration)
  const taken = tenure.lease.resourceVersion
  const unlisten = yield* observer.onChange(() => Tenure.reconcile(tenure, observer))
  Tenure.reconcile(tenure, observer)
  yield* Metric.update(environment.metrics.takeovers(tenure.cause), 1)
  const begun = yield* Effect.gen(function*() {
    if (tenure.gone === undefined && tenure.validFrom.monotonic >= oldEnough()) {
      return yield* begin(campaign, tenure, taken)
    }
    yield* campaign.onHolding(tenure.cause)
    while (tenure.gone === undefined) {
      // Holding ends as a term does: a record of ours that is put back later is not believed.
      if (remaining(tenure.validFrom, yield* environment.moment, environment.timing.renewDeadline) === 0n) {
        return undefined
      }
      if (tenure.validFrom.monotonic >= oldEnough()) {
        // The answer was lost, and the write read back: it counts as it would have, and is not repeated.
        return yield* begin(campaign, tenure, tenure.lease.resourceVersion)
      }
      observer.heard.closeUnsafe()
      const now = yield* environment.monotonic
      const due = Tenure.dueAt(environment, tenure)
      // After a failed attempt the next one keeps its distance, also when the Lease has come of age.
      const ofAge = tenure.failed === undefined || oldEnough() > due ? oldEnough() : due
      if (now < due && now < ofAge) {
        const next = due < ofAge ? due : ofAge
        const deadline = tenure.validFrom.monotonic + environment.timing.renewDeadline
        yield* waitUntil(environment, next < deadline ? next : deadline, observer.heard)
        continue
      }
      const beginning = now >= oldEnough()
      const { committed, made } = yield* Tenure.writeOnce(
        environment,
        observer,
        memory,
        tenure,
        beginning ? Writes.begin : Writes.renew
      )
      if (committed !== undefined && made.start.monotonic >= oldEnough() && tenure.gone === undefined) {
        return yield* begin(campaign, tenure, committed.resourceVersion)
      }
    }
    return undefined
  }).pipe(Effect.onExit(() => Effect.sync(unlisten)))
  if (tenure.gone !== undefined) {
    yield* onGone(campaign, tenure)
  }
  if (tenure.gone === "DuplicateIdentity") {
    return yield* new LeaderElectionError({
      reason: new DuplicateIdentity({ identity: tenure.author.identity, lease: formatKey(environment.key) })
    })
  }
  return begun
})

const begin = Effect.fnUntraced(function*(campaign: Campaign, tenure: Tenure.Tenure, fencingToken: bigint) {
  const { environment } = campaign
  const wallClock = yield* environment.wallClock
  const term: Term = {
    fencingToken,
    transitions: tenure.lease.leaseTransitions,
    leaseUid: tenure.uid,
    cause: tenure.cause,
    since: Number(wallClock / 1000n)
  }
  tenure.term = term
  tenure.firstDue = yield* spread(environment, tenure.validFrom)
  const now = yield* environment.moment
  // The answer was handled so late that the validity it gives is over: campaign on, with another write.
  if (Tenure.validity(tenure, now, environment.timing.renewDeadline) === 0n) {
    tenure.term = undefined
    return undefined
  }
  return term
})

/** What follows from the way in which a held Lease went. */
export const onGone = Effect.fnUntraced(function*(campaign: Campaign, tenure: Tenure.Tenure) {
  const { environment, memory } = campaign
  const now = yield* environment.monotonic
  const young = now - tenure.validFrom.monotonic < environment.timing.retryPeriod
  if (tenure.gone === "LeaseDeleted" && tenure.cause === "created" && tenure.author.pod !== undefined && young) {
    memory.createNotBefore = now + environment.timing.leaseDuration
    const { name, uid } = tenure.author.pod
    yield* Effect.logError(
      `The Lease was deleted as soon as this process had created it: there is no Pod "${name}" with uid ${uid} ` +
        `in namespace ${environment.key.namespace}, so Kubernetes removes what it owns. Set POD_NAME, POD_UID and ` +
        `POD_NAMESPACE from the downward API. The next attempt follows in leaseDuration`
    )
  }
})
