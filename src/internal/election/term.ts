/**
 * A term: everything that goes on while a program leads, and until it has
 * ended.
 *
 * @internal
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import type { LeaderElectionError, LossReason } from "../../LeaderElectionError.ts"
import type { Term } from "../../LeaderElectionStatus.ts"
import { Leadership } from "../../Leadership.ts"
import * as Renewal from "../protocol/renewal.ts"
import { type Moment, remaining } from "../protocol/timing.ts"
import { ActiveTerms, moved } from "./activeTerms.ts"
import type { Campaign } from "./campaign.ts"
import { onGone } from "./campaign.ts"
import { sleepUntil } from "./clock.ts"
import * as Renewing from "./renewal.ts"
import { advance, claimed, type Election, endOf, leaseName, lostError, publish } from "./state.ts"
import * as Telemetry from "./telemetry.ts"

/** What is left of the validity of this term. */
const validity = ({ state: { claim }, timing }: Election, now: Moment): bigint =>
  claim === undefined ? 0n : Renewal.validity(claim, now, timing.renewDeadline)

/** Whether the program has ended by its own side, or is about to. */
const hasEnded = ({ state: { claim } }: Election): boolean => claim === undefined || claim.over

/** Ends the term at once. The first reason stands. */
const lose = (election: Election, reason: LossReason, now: Moment): void => {
  advance(election, claimed((claim) => claim.over ? claim : Renewal.lose(claim, reason)), now)
}

/** Starts everything that goes on during a term, in the scope in which the Lease is held. */
export const begin = Effect.fnUntraced(function*(
  campaign: Campaign,
  term: Term,
  witness: (() => bigint) | undefined
) {
  const { election, requests, watch } = campaign
  const { metrics, settings } = election
  yield* publish(election)
  yield* Metric.update(metrics.terms, 1)
  yield* Metric.update(metrics.leader, 1)
  const inTerm = Effect.annotateLogs({ term: String(term.fencingToken) })
  yield* inTerm(Telemetry.info(`Became leader (${term.cause})`))
  const span = yield* Effect.makeSpanScoped("LeaderElection.term", {
    attributes: {
      lease: leaseName(election),
      identity: settings.identity,
      fencingToken: String(term.fencingToken),
      cause: term.cause
    }
  })
  const renewalSpan = Effect.withSpan("LeaderElection.renew", {
    root: true,
    attributes: { lease: leaseName(election) },
    links: [{ span, attributes: {} }]
  })
  const background = (fiber: string, effect: Effect.Effect<unknown>) =>
    Effect.forkScoped(
      inTerm(Effect.annotateLogs(endsWithTerm(election, effect), { module: "LeaderElection", fiber })),
      { startImmediately: true }
    )
  yield* background("renewal", Renewing.run(election, requests, watch, renewalSpan))
  yield* background("deadline", watchDeadline(election, witness !== undefined))
  yield* background("leader running", countRunning(election))
  yield* background("defects", Deferred.await(election.defect))
  yield* background(
    "loss",
    Effect.flatMap(
      Deferred.await(election.loss),
      (reason) => Effect.andThen(onLoss(election, reason), hasEnded(election) ? Effect.void : watchOverrun(election))
    )
  )
  yield* register(election, witness)
  // Registered last, so that it runs first: leadership ends before the renewal does.
  yield* Effect.addFinalizer(() => end(election))
  return makeLeadership(election, term)
})

/** A defect in anything that a term depends on ends it at once: a program must not go on unrenewed, or unwatched. */
const endsWithTerm = (election: Election, effect: Effect.Effect<unknown>): Effect.Effect<void> =>
  Effect.onExit(Effect.asVoid(effect), (exit) =>
    Exit.isSuccess(exit) || Cause.hasInterruptsOnly(exit.cause)
      ? Effect.void
      : Effect.gen(function*() {
        lose(election, "Defect", yield* election.now)
        yield* Telemetry.error("A defect in the election ends the term", exit.cause)
      })).pipe(Effect.catchCause(() => Effect.void))

/** Ends the term from the program's side: leadership reads as invalid before any finalizer of the program runs. */
export const end = Effect.fnUntraced(function*(election: Election, failure?: Cause.Cause<unknown>) {
  const { claim } = election.state
  if (claim === undefined || claim.over || claim.lost !== undefined) {
    return
  }
  advance(election, claimed(Renewal.end), yield* election.now)
  yield* Metric.update(election.metrics.leader, 0)
  yield* publish(election)
  yield* Effect.annotateLogs(
    failure === undefined || Cause.hasInterruptsOnly(failure)
      ? Telemetry.info("Stopped leading: its program has ended")
      : Telemetry.error("Stopped leading: its program has failed", failure),
    { term: String(claim.term?.fencingToken) }
  )
})

const onLoss = Effect.fnUntraced(function*(election: Election, reason: LossReason) {
  const { claim } = election.state
  if (claim === undefined || claim.over) {
    // The program was ending by itself: what happens to the Lease now is not a loss.
    return
  }
  yield* publish(election)
  yield* Metric.update(election.metrics.leader, 0)
  yield* Metric.update(election.metrics.losses(reason), 1)
  if (reason === "RenewDeadlineExceeded") {
    yield* Metric.update(election.metrics.validityLeft, 0)
  }
  if (reason === "SteppedDown") {
    const now = yield* election.now
    election.standBackUntil = now.monotonic + election.timing.leaseDuration
    yield* Telemetry.info("Stopped leading: asked to step down")
  } else {
    yield* Telemetry.warn(`Stopped leading: ${lostError(reason).message}`)
  }
  yield* onGone(election)
})

/**
 * Ends the term when its validity does. A timer of its own, which no request
 * can hold up: where the deadline is looked at only between requests, a program
 * leads for as long as a request hangs.
 */
const watchDeadline = Effect.fnUntraced(function*(election: Election, sliced: boolean) {
  const { renewDeadline, retryPeriod } = election.timing
  while (true) {
    const { claim } = election.state
    if (claim?.over === true) {
      // Nothing is left to lose; but a program that is long about its end may outlive what is renewed for it.
      return yield* watchOverrun(election)
    }
    if (claim === undefined || claim.lost !== undefined) {
      return
    }
    const now = yield* election.now
    const left = remaining(claim.validFrom, now, renewDeadline)
    if (left === 0n) {
      return lose(election, "RenewDeadlineExceeded", now)
    }
    // Timers stop with a suspended machine, and the witness does not: look at it in between.
    const slice = sliced && retryPeriod < left ? retryPeriod : left
    yield* Effect.sleep(Number((slice + 999_999n) / 1_000_000n))
  }
})

// An overrun is reported when it happens: nothing would be seen of a program that never ends.
const watchOverrun = Effect.fnUntraced(function*(election: Election) {
  const { leaseDuration } = election.timing
  while (true) {
    const { claim } = election.state
    const now = yield* election.now
    if (claim === undefined || Renewal.hasOverrun(claim, now, leaseDuration)) {
      break
    }
    yield* sleepUntil(now.monotonic + Renewal.untilOverrun(claim, now, leaseDuration))
  }
  yield* Metric.update(election.metrics.overruns, 1)
  yield* Telemetry.error(
    "The program is still running although its term is over: another candidate may lead now. " +
      "Make what it does interruptible, and its finalizers short"
  )
})

// The Ruby gem's counter: one for each interval in which this process leads.
const countRunning = Effect.fnUntraced(function*(election: Election) {
  let now = yield* election.now
  let next = now.monotonic
  while (validity(election, now) > 0n) {
    yield* Metric.update(election.metrics.leaderRunning, 1)
    next += election.timing.renewInterval
    yield* sleepUntil(next)
    now = yield* election.now
  }
})

/** Shows the term to what may be the first to run after a stall, and to a guard that cannot wait for this thread. */
const register = Effect.fnUntraced(function*(election: Election, witness: (() => bigint) | undefined) {
  const clock = yield* Clock.Clock
  const active = yield* ActiveTerms
  const now = (): Moment => ({
    monotonic: clock.monotonicTimeNanosUnsafe(),
    witness: witness?.() ?? 0n,
    wall: clock.currentTimeNanosUnsafe()
  })
  const term = {
    lease: leaseName(election),
    endIfOver: () => {
      const at = now()
      if (validity(election, at) === 0n) {
        lose(election, "RenewDeadlineExceeded", at)
      }
    },
    left: () => {
      const { claim } = election.state
      const isOver = claim === undefined || claim.over || claim.lost !== undefined
      const at = now()
      return {
        isOver,
        nanos: claim === undefined
          ? 0n
          : isOver
          ? Renewal.untilOverrun(claim, at, election.timing.leaseDuration)
          : validity(election, at)
      }
    }
  }
  yield* Effect.acquireRelease(
    Effect.sync(() => {
      active.terms.add(term)
      election.onMove = () => moved(active)
      moved(active)
    }),
    () =>
      Effect.sync(() => {
        active.terms.delete(term)
        election.onMove = () => {}
        moved(active)
      })
  )
})

// --- Leadership ------------------------------------------------------------------------------------

const makeLeadership = (election: Election, term: Term): Leadership["Service"] => {
  const { key, loss, settings, timing } = election
  // A Leadership that is kept after its term says that it is over, whatever this election does by then.
  const claim = () => {
    const { claim } = election.state
    return claim?.term === term ? claim : undefined
  }
  const left = Effect.map(election.now, (now) => {
    const held = claim()
    return held === undefined ? 0n : Renewal.validity(held, now, timing.renewDeadline)
  })
  // What asks after the deadline, but before its timer could run, ends the term.
  const ensure = Effect.gen(function*() {
    if ((yield* left) > 0n) {
      return
    }
    if (claim() !== undefined) {
      lose(election, "RenewDeadlineExceeded", yield* election.now)
    }
    const held = claim()
    if (held !== undefined) {
      return yield* lostError(endOf(held))
    }
    const lost = yield* Deferred.poll(loss)
    return yield* lostError(Option.isSome(lost) ? yield* lost.value : "ProgramEnded")
  })
  return Leadership.of({
    lease: key,
    identity: settings.identity,
    fencingToken: term.fencingToken,
    transitions: term.transitions,
    isValid: Effect.map(left, (left) => left > 0n),
    remaining: Effect.map(left, Duration.nanos),
    untilOverrun: Effect.map(election.now, (now) => {
      const held = claim()
      return Duration.nanos(held === undefined ? 0n : Renewal.untilOverrun(held, now, timing.leaseDuration))
    }),
    ensure,
    confirm: Effect.andThen(ensure, confirm(election, loss)),
    stepDown: Effect.gen(function*() {
      if (claim() !== undefined) {
        lose(election, "SteppedDown", yield* election.now)
      }
    }),
    lost: Deferred.await(loss)
  })
}

/** Asks the renewal for an attempt that begins from now on, and waits for its outcome. */
const confirm = Effect.fnUntraced(function*(election: Election, loss: Deferred.Deferred<LossReason>) {
  const now = yield* election.now
  const confirmation = {
    after: election.lastRequest,
    result: Deferred.makeUnsafe<void, LeaderElectionError>()
  }
  election.confirmations.add(confirmation)
  // Those that ask at the same time share an attempt.
  yield* Effect.yieldNow
  advance(election, claimed((claim) => Renewal.asked(claim, confirmation.after)), now)
  return yield* Effect.raceFirst(
    Deferred.await(confirmation.result),
    Effect.flatMap(Deferred.await(loss), (reason) => Effect.fail(lostError(reason)))
  ).pipe(Effect.ensuring(Effect.sync(() => election.confirmations.delete(confirmation))))
})
