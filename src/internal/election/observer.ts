/**
 * Keeps the observation up to date: one watch, reads on demand, and the answers
 * to our own writes.
 *
 * @internal
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import { LeaseError, LeaseUnavailable, type LeaseVerb, retryAfter } from "../../LeaseError.ts"
import type { LeaseRecord } from "../../LeaseRecord.ts"
import type { LeaseChange, LeaseResponse } from "../../LeaseStore.ts"
import { expiresAt } from "../protocol/decision.ts"
import * as Observation from "../protocol/observation.ts"
import type { Moment } from "../protocol/timing.ts"
import { type Environment, nanos, seconds, sleepUntil } from "./environment.ts"

/** One request with its time limit, and what it began from. */
export interface Attempt {
  /** Read before anything else: the request queued, a token fetched, a connection opened. */
  readonly start: Moment
  readonly end: Moment
  /** The observation's revision when the request began. */
  readonly begun: number
  readonly result: Result.Result<LeaseResponse, LeaseError>
}

export interface Observer {
  /** Begins a campaign: what was seen before it says nothing about the time between. */
  readonly begin: Effect.Effect<void>
  /** What is known now. */
  readonly observation: () => Observation.Observation
  /** Opens whenever something was heard. Who waits on it closes it before it looks. */
  readonly heard: Latch.Latch
  /** Whether the watch is open, so that nothing needs to be polled. */
  readonly isWatching: () => boolean
  /** Set where the watch began anew without its past, so that a deletion may have been missed. */
  readonly needsRead: () => boolean
  /** Called at once with everything that changes what is known, before anybody else learns of it. */
  readonly onChange: (listener: (now: bigint) => void) => Effect.Effect<() => void>
  /** Makes one request within requestTimeout. Never fails: a defect of a store must not end a renewal. */
  readonly attempt: (
    verb: LeaseVerb,
    start: Moment,
    request: Effect.Effect<LeaseResponse, LeaseError>
  ) => Effect.Effect<Attempt>
  /** Reads the Lease and takes it in. */
  readonly read: Effect.Effect<Attempt>
  /** Takes in what the answer to a write of ours says about the Lease. */
  readonly learn: (attempt: Attempt) => Effect.Effect<void>
  /** Closes the watch and opens it again: it has missed something. */
  readonly reopen: Effect.Effect<void>
  /** Watches for ever. */
  readonly watch: Effect.Effect<never>
}

// How long to leave a watch alone that is not granted: rights change seldom.
const refusedPause = 60_000_000_000n

export const make = (environment: Environment, publish: Effect.Effect<void>): Observer => {
  const { key, settings, store, timing } = environment
  const heard = Latch.makeUnsafe(false)
  const known = Latch.makeUnsafe(false)
  const broken = Latch.makeUnsafe(false)
  const listeners = new Set<(now: bigint) => void>()
  let observation = Observation.initial
  let watching = false
  let needsRead = false
  // Where a watch can go on: the newest version that it, or anything else, has shown.
  let resumeFrom: bigint | undefined
  let counting = false
  let leaderlessSince: bigint | undefined
  let leaderless = 0n

  const feed = (next: Observation.Observation, now: bigint) => {
    if (next === observation) {
      return
    }
    countLeaderless(next, now)
    observation = next
    for (const listener of listeners) {
      listener(now)
    }
    known.openUnsafe()
    heard.openUnsafe()
  }

  // A holder that is seen to live ends the time without one; it began when the last one's lease ran out.
  const countLeaderless = (next: Observation.Observation, now: bigint) => {
    if (!counting) {
      counting = true
      return
    }
    if (hasHolder(observation.lease)) {
      const until = expiresAt(observation, observation.lease, timing.leaseDuration)
      leaderlessSince ??= until < now ? until : undefined
    }
    if (!hasHolder(next.lease) || expiresAt(next, next.lease, timing.leaseDuration) <= now) {
      leaderlessSince ??= now
    } else if (leaderlessSince !== undefined) {
      leaderless += now - leaderlessSince
      leaderlessSince = undefined
    }
  }

  const settle = Effect.suspend(() => {
    const counted = leaderless
    leaderless = 0n
    return counted > 0n
      ? Effect.andThen(Metric.update(environment.metrics.leaderlessSeconds, seconds(counted)), publish)
      : publish
  })

  const attempt: Observer["attempt"] = Effect.fnUntraced(function*(verb, start, request) {
    const begun = observation.revision
    // Forked, so that a store that is slow to let itself be interrupted cannot hold up the election.
    const fiber = yield* Effect.forkDetach(request, { startImmediately: true })
    const exit = yield* Fiber.await(fiber).pipe(
      Effect.timeoutOption(settings.requestTimeout),
      Effect.onInterrupt(() => Effect.sync(() => fiber.interruptUnsafe()))
    )
    if (Option.isNone(exit)) {
      fiber.interruptUnsafe()
    }
    const end = yield* environment.moment
    const result = Option.match(exit, {
      onNone: () => Result.fail(unavailable(verb, "no answer within requestTimeout")),
      onSome: (exit) =>
        Exit.match(exit, {
          onSuccess: Result.succeed,
          onFailure: (cause) =>
            Option.match(Cause.findErrorOption(cause), {
              onNone: () => Result.fail(unavailable(verb, "the store failed unexpectedly", Cause.squash(cause))),
              onSome: (error) => Result.fail(error)
            })
        })
    })
    yield* Result.isFailure(result) ? environment.onFailure(result.failure) : environment.onSuccess
    return { start, end, begun, result }
  })

  const unavailable = (verb: LeaseVerb, message: string, cause?: unknown) =>
    new LeaseError({
      verb,
      ...key,
      reason: new LeaseUnavailable({ message, outcomeUnknown: true, ...(cause !== undefined && { cause }) })
    })

  const read: Observer["read"] = Effect.gen(function*() {
    needsRead = false
    const before = observation
    const made = yield* attempt("get", yield* environment.moment, store.get(key))
    const now = made.end.monotonic
    if (Result.isSuccess(made.result)) {
      const { lease } = made.result.success
      feed(Observation.onRead(observation, made.begun, lease, now) ?? observation, now)
    } else if (made.result.failure.reason._tag === "LeaseNotFound") {
      feed(Observation.onRead(observation, made.begun, "absent", now) ?? observation, now)
    }
    if (observation.version < before.version) {
      // Versions step back when etcd was restored: a watch from a version yet to come hears nothing.
      resumeFrom = undefined
    }
    yield* settle
    return made
  })

  const learn: Observer["learn"] = (made) => {
    const now = made.end.monotonic
    if (Result.isSuccess(made.result)) {
      const { lease } = made.result.success
      feed(Observation.onWritten(observation, made.begun, lease, now), now)
    } else if (made.result.failure.verb === "patch" && made.result.failure.reason._tag === "LeaseNotFound") {
      feed(Observation.onRead(observation, made.begun, "absent", now) ?? observation, now)
    }
    return settle
  }

  const onEvent = (change: LeaseChange) =>
    Effect.flatMap(environment.monotonic, (now) => {
      switch (change._tag) {
        case "Opened": {
          watching = true
          needsRead = resumeFrom === undefined && typeof observation.lease !== "string"
          heard.openUnsafe()
          return Effect.void
        }
        case "Bookmark": {
          resumeFrom = change.resourceVersion
          return Effect.void
        }
        case "Applied": {
          resumeFrom = change.lease.resourceVersion
          feed(Observation.onApplied(observation, change.lease, now), now)
          return settle
        }
        case "Deleted": {
          resumeFrom = change.lease.resourceVersion
          feed(Observation.onDeleted(observation, change.lease, now), now)
          return settle
        }
      }
    })

  const watchOnce = Effect.gen(function*() {
    broken.closeUnsafe()
    const began = yield* environment.monotonic
    let opened = false
    const exit = yield* Stream.runForEach(
      Stream.suspend(() => store.changes(key, resumeFrom)),
      (change) => {
        opened = true
        return onEvent(change)
      }
    ).pipe(
      Effect.raceFirst(broken.await),
      Effect.exit,
      Effect.ensuring(Effect.sync(() => {
        watching = false
      }))
    )
    heard.openUnsafe()
    if (opened) {
      yield* Metric.update(environment.metrics.watchReconnects, 1)
    }
    const now = yield* environment.monotonic
    const jittered = yield* jitter(timing.retryPeriod)
    if (Exit.isSuccess(exit)) {
      // Closed in good order, as every watch is after some minutes; but never open it again at full speed.
      return now - began < timing.retryPeriod ? now + jittered : now
    }
    const error = Option.getOrElse(
      Cause.findErrorOption(exit.cause),
      () => unavailable("watch", "the store failed unexpectedly", Cause.squash(exit.cause))
    )
    switch (error.reason._tag) {
      case "LeaseExpired": {
        const resumed = resumeFrom !== undefined
        resumeFrom = undefined
        return resumed ? now : now + jittered
      }
      case "LeaseForbidden": {
        yield* environment.onFailure(error)
        return now + (timing.leaseDuration > refusedPause ? timing.leaseDuration : refusedPause)
      }
      default: {
        // A load balancer cuts what is idle, and the metric counts it. That it cannot be opened again would be said then.
        if (opened && now - began >= timing.retryPeriod) {
          yield* Effect.logDebug(`The watch ended and is opened again: ${error.message}`)
          return now
        }
        yield* environment.onFailure(error)
        const asked = retryAfter(error)
        const wait = asked === undefined ? jittered : nanos(asked)
        return now + (wait < jittered ? jittered : wait > timing.leaseDuration ? timing.leaseDuration : wait)
      }
    }
  })

  const watch: Observer["watch"] = Effect.gen(function*() {
    yield* known.await
    resumeFrom ??= typeof observation.lease === "string" ? undefined : observation.lease.resourceVersion
    while (true) {
      const again = yield* watchOnce
      yield* sleepUntil(environment, again)
    }
  })

  return {
    begin: Effect.sync(() => {
      counting = false
      leaderlessSince = undefined
    }),
    observation: () => observation,
    heard,
    isWatching: () => watching,
    needsRead: () => needsRead,
    onChange: (listener) =>
      Effect.sync(() => {
        listeners.add(listener)
        return () => listeners.delete(listener)
      }),
    attempt,
    read,
    learn,
    reopen: Effect.sync(() => broken.openUnsafe()),
    watch: settings.watch ? watch : Effect.never
  }
}

const hasHolder = (lease: LeaseRecord | "absent" | "unknown"): lease is LeaseRecord =>
  typeof lease !== "string" && lease.holderIdentity !== ""

/** Between 0.8 and 1 of a duration, so that many candidates do not ask at once. */
export const jitter = (duration: bigint): Effect.Effect<bigint> =>
  Effect.map(Random.next, (random) => duration - BigInt(Math.floor(random * 0.2 * Number(duration))))
