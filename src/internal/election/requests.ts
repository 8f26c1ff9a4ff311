/**
 * Sending requests: each in a fiber of its own, so that no answer holds up
 * anything, with the time at which it began and the state that it began from.
 *
 * At most three reads and three writes of one election are open at a time, and
 * one watch; as many again may wait for an answer that nothing depends on any
 * more, because a newer version has killed them.
 *
 * @internal
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import { isOutcomeUnknown, LeaseError, LeaseUnavailable, type LeaseVerb, retryAfter } from "../../LeaseError.ts"
import { AnsweredWithin, type LeaseResponse } from "../../LeaseStore.ts"
import * as Attempts from "../protocol/attempts.ts"
import * as Observation from "../protocol/observation.ts"
import { endsCandidate, meaningOf, refused } from "../protocol/refusal.ts"
import { candidateRetriesAt, type Failure, holderRetriesAt, type Moment } from "../protocol/timing.ts"
import { nanos } from "./clock.ts"
import { advance, type Election, nextRequest, publish, refusedError, observe, type State } from "./state.ts"

/** A request with its answer. */
export interface Answer {
  readonly start: Moment
  readonly end: Moment
  /** The observation's revision when the request began. */
  readonly begun: number
  readonly result: Result.Result<LeaseResponse, LeaseError>
}

interface Running {
  readonly kind: "read" | "write"
  aborted: boolean
  worker: Fiber.Fiber<LeaseResponse, LeaseError> | undefined
  /** Reported once as late. */
  late: boolean
}

/** The requests under way, by their numbers. */
export type Requests = Map<number, Running>

/** Twice as many as count: the dead among them are ended before there are more. */
const maxRunning = 2 * Attempts.maxOpen

const unavailable = (election: Election, verb: LeaseVerb, message: string, cause?: unknown) =>
  new LeaseError({
    verb,
    ...election.key,
    reason: new LeaseUnavailable({ message, outcomeUnknown: true, ...(cause !== undefined && { cause }) })
  })

/** Gives a request up: its connection is closed, and no answer of it arrives here any more. */
export const abort = (requests: Requests, id: number): void => {
  const running = requests.get(id)
  if (running !== undefined) {
    running.aborted = true
    requests.delete(id)
    running.worker?.interruptUnsafe()
  }
}

/** Gives up everything that is under way. */
export const abortAll = (requests: Requests): void => {
  for (const id of requests.keys()) {
    abort(requests, id)
  }
}

export interface Sending {
  readonly id: number
  readonly verb: LeaseVerb
  readonly start: Moment
  /** Nanoseconds from its start after which no answer is awaited any more. */
  readonly limit: bigint
  /** Those before it: the newest is given up where too many await their answers, and it begins beside the others. */
  readonly earlier: Attempts.Series<Attempts.Request>
  readonly request: Effect.Effect<LeaseResponse, LeaseError>
  readonly onAnswer: (answer: Answer) => Effect.Effect<void>
  /** A span of its own. */
  readonly span?: (request: Effect.Effect<void>) => Effect.Effect<void>
}

/**
 * Sends a request, and returns at once. A defect of the store is a failed
 * attempt; one in what is done about the answer ends the campaign.
 */
export const send = Effect.fnUntraced(function*(election: Election, requests: Requests, sending: Sending) {
  const { earlier, id, onAnswer, request, start, verb } = sending
  const old = Attempts.givenUp(earlier)
  if (old !== undefined) {
    abort(requests, old.id)
  }
  const beside = Attempts.beside(earlier)
  const running: Running = { kind: verb === "get" ? "read" : "write", aborted: false, worker: undefined, late: false }
  const begun = election.state.observation.revision
  const newest = beside.at(-1)
  yield* reportLate(election, requests, beside, verb)
  makeRoom(election.state, requests, running.kind)
  requests.set(id, running)
  const work = Effect.gen(function*() {
    // Forked, so that a store that is slow to let itself be interrupted cannot hold up the election.
    const worker = yield* Effect.forkDetach(
      newest === undefined
        ? request
        : Effect.provideService(request, AnsweredWithin, Duration.nanos(start.monotonic - newest.start.monotonic)),
      { startImmediately: true }
    )
    running.worker = worker
    if (running.aborted) {
      worker.interruptUnsafe()
      return
    }
    const exit = yield* Effect.timeoutOption(Fiber.await(worker), Number(sending.limit / 1_000_000n))
    requests.delete(id)
    if (Option.isNone(exit)) {
      worker.interruptUnsafe()
    }
    if (running.aborted) {
      return
    }
    const end = yield* election.now
    yield* onAnswer({ start, end, begun, result: toResult(election, verb, exit) })
  })
  const spanned = sending.span === undefined ? work : sending.span(work)
  yield* Effect.forkDetach(
    Effect.onExit(spanned, (exit) =>
      Effect.sync(() => {
        requests.delete(id)
        if (Exit.isFailure(exit) && !Cause.hasInterruptsOnly(exit.cause)) {
          Deferred.doneUnsafe(election.defect, Effect.failCause(exit.cause as Cause.Cause<never>))
        }
      })),
    { startImmediately: true }
  )
})

const toResult = (
  election: Election,
  verb: LeaseVerb,
  exit: Option.Option<Exit.Exit<LeaseResponse, LeaseError>>
): Result.Result<LeaseResponse, LeaseError> =>
  Option.match(exit, {
    onNone: () => Result.fail(unavailable(election, verb, "no answer in time")),
    onSome: (exit) =>
      Exit.match(exit, {
        onSuccess: Result.succeed,
        onFailure: (cause) =>
          Option.match(Cause.findErrorOption(cause), {
            onNone: () =>
              Result.fail(unavailable(election, verb, "the store failed unexpectedly", Cause.squash(cause))),
            onSome: (error) => Result.fail(error)
          })
      })
  })

// An attempt beside another says that the other has had no answer for requestTimeout.
const reportLate = (
  election: Election,
  requests: Requests,
  beside: ReadonlyArray<Attempts.Request>,
  verb: LeaseVerb
): Effect.Effect<void> =>
  Effect.forEach(beside, ({ id }) => {
    const running = requests.get(id)
    if (running === undefined || running.late) {
      return Effect.void
    }
    running.late = true
    return election.failures.onFailure(unavailable(election, verb, "no answer within requestTimeout"))
  }, { discard: true })

const makeRoom = (state: State, requests: Requests, kind: Running["kind"]): void => {
  const same = [...requests].filter(([, running]) => running.kind === kind)
  const alive = new Set(
    [...state.reads.requests, ...state.takes.requests, ...state.claim?.renewals.requests ?? []].map(({ id }) => id)
  )
  const oldest = same.find(([id]) => !alive.has(id))
  if (same.length >= maxRunning && oldest !== undefined) {
    abort(requests, oldest[0])
  }
}

// --- What a failure means ---

/** The failure of a request, for the rules of when the next one may begin. */
export const failureOf = ({ end, start }: Answer, error: LeaseError): Failure => {
  const asked = retryAfter(error)
  return {
    start: start.monotonic,
    end: end.monotonic,
    retryAfter: asked === undefined ? undefined : nanos(asked)
  }
}

/** When the next request may begin after this failure. */
export const retriesAt = (election: Election, answer: Answer, error: LeaseError): bigint => {
  const { state: { claim, role }, timing } = election
  const failure = failureOf(answer, error)
  return claim === undefined || role === "releasing"
    ? candidateRetriesAt(failure, timing)
    : holderRetriesAt(failure, claim.validFrom.monotonic, timing)
}

/** Moves a series on after a failure other than a conflict. */
export const afterFailure = <R extends Attempts.Request>(
  series: Attempts.Series<R>,
  id: number,
  error: LeaseError,
  again: bigint
): Attempts.Series<R> =>
  isOutcomeUnknown(error) ? Attempts.unanswered(series, id, again) : Attempts.refused(series, id, again)

/** Counts refusals of a candidate: those that last are the end of its campaign. */
export const countRefusal = (election: Election, answer: Answer): void => {
  const { state: { role }, streaks, timing } = election
  if (Result.isSuccess(answer.result)) {
    streaks.clear()
    return
  }
  const { failure } = answer.result
  if (role !== "candidate") {
    return
  }
  if (meaningOf(role, failure.verb, failure.reason) !== "Refused") {
    streaks.delete(failure.verb)
    return
  }
  const streak = refused(
    streaks.get(failure.verb),
    { start: answer.start.monotonic, end: answer.end.monotonic },
    timing
  )
  streaks.set(failure.verb, streak)
  if (endsCandidate(streak, timing.leaseDuration)) {
    election.refused ??= refusedError(failure)
  }
}

/** Logs and counts what came of a request. */
export const report = (election: Election, verb: LeaseVerb, answer: Answer): Effect.Effect<void> =>
  Result.isFailure(answer.result)
    ? election.failures.onFailure(answer.result.failure)
    : election.failures.onSuccess(verb)

// --- Reading ---

/**
 * When the Lease must be looked at, because a write whose outcome is not known
 * may have been committed and no watch would say so: once in a retryPeriod.
 */
export const lookDueAt = (
  { lastRead, timing }: Election,
  writes: Attempts.Series<Attempts.Attempt>,
  isWatching: boolean
): bigint | undefined =>
  !isWatching && writes.requests.some(({ open }) => !open) ? lastRead + timing.retryPeriod : undefined

/** Begins a read, beside those under way. */
export const read = Effect.fnUntraced(function*(election: Election, requests: Requests) {
  const { key, store, timing } = election
  const start = yield* election.now
  election.lastRead = start.monotonic
  const request: Attempts.Request = { id: nextRequest(election), start, open: true }
  const earlier = election.state.reads
  advance(election, (state) => ({ ...state, reads: Attempts.begun(state.reads, request) }), start)
  yield* send(election, requests, {
    id: request.id,
    verb: "get",
    start,
    limit: timing.leaseDuration,
    earlier,
    request: store.get(key),
    onAnswer: (answer) => onRead(election, requests, request, answer)
  })
})

const onRead = Effect.fnUntraced(function*(
  election: Election,
  requests: Requests,
  request: Attempts.Request,
  answer: Answer
) {
  const absent = Result.isFailure(answer.result) && answer.result.failure.reason._tag === "LeaseNotFound"
  if (Result.isFailure(answer.result) && !absent) {
    const error = answer.result.failure
    const counts = Attempts.isAlive(election.state.reads, request.id)
    const again = retriesAt(election, answer, error)
    // A read that failed is due again: what it was to find out is still not known.
    advance(election, (state) => ({
      ...state,
      reads: Attempts.refused(state.reads, request.id, again)
    }), answer.end)
    if (counts) {
      countRefusal(election, answer)
      yield* report(election, "get", answer)
    }
    return
  }
  const lease = Result.isSuccess(answer.result) ? answer.result.success.lease : "absent" as const
  election.streaks.delete("get")
  // Reads are ordered by their starts: what began before this one is not worth waiting for.
  for (const { id } of election.state.reads.requests) {
    if (id < request.id) {
      abort(requests, id)
    }
  }
  advance(election, (state) => {
    const known = Observation.onRead(state.observation, answer.begun, lease, answer.end.monotonic)
    const next = known === undefined ? state : observe(state, known)
    return {
      ...next,
      mustRead: next.mustRead && known === undefined,
      reads: Attempts.succeeded(next.reads, request.start.monotonic),
      claim: next.claim === undefined || known === undefined ? next.claim : { ...next.claim, mustRead: false }
    }
  }, answer.end)
  yield* election.failures.onSuccess("get")
  yield* publish(election)
})

/** Takes in what the answer to a write of ours says about the Lease. */
export const observeAnswer = (state: State, answer: Answer): State => {
  const now = answer.end.monotonic
  if (Result.isSuccess(answer.result)) {
    return observe(state, Observation.onWritten(state.observation, answer.begun, answer.result.success.lease, now))
  }
  const { reason, verb } = answer.result.failure
  if (verb !== "patch" || reason._tag !== "LeaseNotFound") {
    return state
  }
  const known = Observation.onRead(state.observation, answer.begun, "absent", now)
  return known === undefined ? { ...state, mustRead: true } : observe(state, known)
}
