/**
 * One watch on the Lease, opened again whenever it ends.
 *
 * Takeover at a lease's end never depends on it: that comes from a timer.
 *
 * @internal
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Latch from "effect/Latch"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import { LeaseError, LeaseUnavailable, retryAfter } from "../../LeaseError.ts"
import type { LeaseRecord } from "../../LeaseRecord.ts"
import type { LeaseChange } from "../../LeaseStore.ts"
import * as Observation from "../protocol/observation.ts"
import { meaningOf } from "../protocol/refusal.ts"
import { jitter, monotonic, nanos, sleepUntil } from "./clock.ts"
import { advance, type Election, publish, observe, type State } from "./state.ts"
import * as Telemetry from "./telemetry.ts"

export interface Watch {
  /** Whether changes arrive by themselves, so that nothing needs to be polled. */
  readonly isReliable: () => boolean
  /** The revision of what is known after its last event. */
  readonly delivered: () => number
  /**
   * A read knew what the watch had not delivered: it is opened again, and the
   * Lease is polled until a change has arrived through it.
   */
  readonly distrust: Effect.Effect<void>
  /** Watches for ever. */
  readonly run: Effect.Effect<never>
}

// How long to leave a watch alone that is not granted: rights change seldom.
const refusedPause = 60_000_000_000n

/** Where a watch stands. */
interface Position {
  open: boolean
  distrusted: boolean
  delivered: number
  warned: boolean
  /** Where it can go on: the newest version that it, or anything else, has shown. */
  since: bigint | undefined
}

export const make = (election: Election): Watch => {
  const broken = Latch.makeUnsafe(false)
  const position: Position = { open: false, distrusted: false, delivered: -1, warned: false, since: undefined }
  return {
    isReliable: () => position.open && !position.distrusted,
    delivered: () => position.delivered,
    distrust: Effect.suspend(() => {
      position.distrusted = true
      broken.openUnsafe()
      if (position.warned) {
        return Effect.void
      }
      position.warned = true
      return Telemetry.warn(
        "The watch did not deliver a change that a read has found: its connection may be dead, or a proxy may buffer " +
          "what the API server sends. Polling until the watch delivers again"
      )
    }),
    run: election.settings.watch ? run(election, position, broken) : Effect.never
  }
}

const run = (election: Election, position: Position, broken: Latch.Latch): Effect.Effect<never> =>
  Effect.gen(function*() {
    // What is known by then decides where to begin.
    yield* election.known.await
    position.since = versionOf(election.state)
    while (true) {
      yield* sleepUntil(yield* watchOnce(election, position, broken))
    }
  })

const versionOf = ({ observation: { lease } }: State): bigint | undefined =>
  typeof lease === "string" ? undefined : lease.resourceVersion

/** Watches until the watch ends; the result is when to open it again. */
const watchOnce = Effect.fnUntraced(function*(election: Election, position: Position, broken: Latch.Latch) {
  broken.closeUnsafe()
  const began = yield* monotonic
  // Versions step back when etcd was restored: a watch from a version yet to come receives nothing.
  if (election.rewound) {
    election.rewound = false
    position.since = undefined
  }
  const resumed = position.since !== undefined
  let opened = false
  const exit = yield* Stream.runForEach(
    Stream.suspend(() => election.store.changes(election.key, position.since)),
    (change) => {
      opened = true
      // A defect of the store is a watch that broke; one in what is done about an event ends the campaign, or the term.
      return Effect.onExit(onChange(election, position, change), (exit) =>
        Effect.sync(() => {
          if (Exit.isFailure(exit) && !Cause.hasInterruptsOnly(exit.cause)) {
            Deferred.doneUnsafe(election.defect, Exit.failCause(exit.cause))
          }
        }))
    }
  ).pipe(
    Effect.raceFirst(broken.await),
    Effect.exit,
    Effect.ensuring(Effect.sync(() => {
      position.open = false
    }))
  )
  election.news.openUnsafe()
  if (opened) {
    yield* Metric.update(election.metrics.watchReconnects, 1)
  }
  const now = yield* monotonic
  const jittered = yield* jitter(election.timing.retryPeriod)
  return Exit.isSuccess(exit)
    // Closed in good order, as every watch is after some minutes; but never open it again at full speed.
    ? now - began < election.timing.retryPeriod ? now + jittered : now
    : yield* onFailure(election, position, toError(election, exit.cause), {
      resumed,
      lasted: opened && now - began >= election.timing.retryPeriod,
      now,
      jittered
    })
})

const toError = ({ key }: Election, cause: Cause.Cause<LeaseError>): LeaseError =>
  Option.getOrElse(Cause.findErrorOption(cause), () =>
    new LeaseError({
      verb: "watch",
      ...key,
      reason: new LeaseUnavailable({
        message: "the store failed unexpectedly",
        outcomeUnknown: false,
        cause: Cause.squash(cause)
      })
    }))

const onFailure = Effect.fnUntraced(function*(
  { failures, timing }: Election,
  position: Position,
  error: LeaseError,
  at: { readonly resumed: boolean; readonly lasted: boolean; readonly now: bigint; readonly jittered: bigint }
) {
  const { jittered, lasted, now, resumed } = at
  const meaning = meaningOf("watching", error.verb, error.reason)
  if (meaning === "StartOver") {
    position.since = undefined
    // One that began without a version cannot be helped by leaving it out, whatever it has delivered.
    return resumed || lasted ? now : now + jittered
  }
  // A load balancer cuts what is idle, and the metric counts it. That it cannot be opened again would be said then.
  if (lasted && meaning === "Retry") {
    yield* Telemetry.debug(`The watch ended and is opened again: ${error.message}`)
    return now
  }
  yield* failures.onFailure(error)
  if (meaning === "Poll") {
    return now + (timing.leaseDuration > refusedPause ? timing.leaseDuration : refusedPause)
  }
  const asked = retryAfter(error)
  const wait = asked === undefined ? jittered : nanos(asked)
  return now + (wait < jittered ? jittered : wait > timing.leaseDuration ? timing.leaseDuration : wait)
})

const onChange = Effect.fnUntraced(function*(election: Election, position: Position, change: LeaseChange) {
  const now = yield* election.now
  switch (change._tag) {
    case "Opened": {
      position.open = true
      // Begun anew without its past: the Lease may have been deleted meanwhile, which no event will say.
      if (position.since === undefined && typeof election.state.observation.lease !== "string") {
        advance(election, (state) => ({ ...state, mustRead: true }), now)
      }
      election.news.openUnsafe()
      return yield* election.failures.onSuccess("watch")
    }
    case "Bookmark": {
      position.since = change.resourceVersion
      return
    }
    case "Applied":
    case "Deleted": {
      if (!isOurs(election, change.lease)) {
        return yield* Telemetry.debug(`The watch delivered an event of another Lease: ${change.lease.name}`)
      }
      position.since = change.lease.resourceVersion
      const take = change._tag === "Applied" ? Observation.onApplied : Observation.onDeleted
      const before = election.state.observation.revision
      advance(election, (state) => observe(state, take(state.observation, change.lease, now.monotonic)), now)
      position.delivered = election.state.observation.revision
      if (election.state.observation.revision !== before) {
        position.distrusted = false
      }
      return yield* publish(election)
    }
  }
})

/** A proxy that drops the field selector delivers the events of every Lease. */
const isOurs = ({ key }: Election, lease: LeaseRecord): boolean =>
  lease.name === key.name && lease.namespace === key.namespace
