/**
 * Leader election on a Kubernetes Lease: of all replicas that run a program
 * under one Lease, exactly one runs it at a time.
 *
 * {@link whileLeading} waits for leadership and runs a program in it;
 * {@link whileLeadingForever} campaigns again after each loss; {@link acquire}
 * is the scoped effect beneath both. The election is a service: build its layer
 * from the environment with {@link LeaderElectionLive}, from settings with
 * {@link layer}, or for development without any cluster with
 * `LocalLeaderElection.layer`.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import type * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import * as Tracer from "effect/Tracer"
import * as Campaign from "./internal/election/campaign.ts"
import { makeMoment } from "./internal/election/clock.ts"
import * as Release from "./internal/election/release.ts"
import * as Requests from "./internal/election/requests.ts"
import * as State from "./internal/election/state.ts"
import { hideMetrics, error as logError, showMetrics } from "./internal/election/telemetry.ts"
import * as Terms from "./internal/election/term.ts"
import { shield as shieldTracer } from "./internal/election/tracer.ts"
import * as Watch from "./internal/election/watch.ts"
import * as Attempts from "./internal/protocol/attempts.ts"
import { elapsed } from "./internal/protocol/timing.ts"
import * as LeaderElectionConfig from "./LeaderElectionConfig.ts"
import {
  AlreadyCampaigning,
  DuplicateIdentity,
  LeaderElectionError,
  isLeaderElectionError,
  type LeadershipLost
} from "./LeaderElectionError.ts"
import type { LeaderElectionStatus } from "./LeaderElectionStatus.ts"
import { Leadership } from "./Leadership.ts"
import { formatKey } from "./LeaseRecord.ts"
import { LeaseStore } from "./LeaseStore.ts"
import * as SuspendWitness from "./SuspendWitness.ts"

/**
 * One election: the candidacy of this process for one Lease.
 *
 * @category services
 * @since 0.1.0
 */
export class LeaderElection extends Context.Service<LeaderElection, {
  /** The settings, complete and checked. */
  readonly settings: LeaderElectionConfig.Settings

  /** Waits until this process leads; see the module's {@link acquire}. */
  readonly acquire: Effect.Effect<Leadership["Service"], LeaderElectionError, Scope.Scope>

  /** Runs a program while this process leads; see the module's {@link whileLeading}. */
  readonly whileLeading: <A, E, R>(
    program: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E | LeaderElectionError, Exclude<R, Leadership | Scope.Scope>>

  /** The same, again after each loss; see the module's {@link whileLeadingForever}. */
  readonly whileLeadingForever: <A, E, R>(
    program: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E | LeaderElectionError, Exclude<R, Leadership | Scope.Scope>>

  /** Where the election stands. */
  readonly status: Effect.Effect<LeaderElectionStatus>

  /** Where the election stands, and each change of it. Never ends. */
  readonly changes: Stream.Stream<LeaderElectionStatus>

  /** The identity of the holder, as last seen here. */
  readonly leader: Effect.Effect<Option.Option<string>>

  /** What the holder publishes with its term, as last seen here; see the module's {@link leaderNote}. */
  readonly leaderNote: Effect.Effect<Option.Option<string>>

  /**
   * Time since the start of the last renewal that succeeded, while a program of
   * this election runs; `None` while none does.
   */
  readonly sinceRenewal: Effect.Effect<Option.Option<Duration.Duration>>
}>()("effect-kubernetes-leader-election/LeaderElection") {}

/**
 * The elections of this process, by server, Lease and identity. Two of the same
 * would take each other for an earlier process of theirs.
 *
 * @internal
 */
export const ProcessElections = Context.Reference<Set<string>>(
  "effect-kubernetes-leader-election/LeaderElection/ProcessElections",
  { defaultValue: () => new Set() }
)

/**
 * Keeps the name of an election, and shows its metrics, for as long as anything
 * of it lives: its scope, a campaign, or a program that still runs in a scope of
 * its own.
 */
const register = Effect.fnUntraced(function*(election: State.Election) {
  const elections = yield* ProcessElections
  const lease = State.leaseName(election)
  const name = `${election.store.server} ${lease} ${election.settings.identity}`
  let users = 0
  const hold: Effect.Effect<void, never, Scope.Scope> = Effect.asVoid(Effect.acquireRelease(
    Effect.suspend(() => {
      users++
      elections.add(name)
      return users === 1 ? showMetrics(election.metrics) : Effect.void
    }),
    () =>
      Effect.suspend(() => {
        users--
        if (users > 0) {
          return Effect.void
        }
        elections.delete(name)
        return hideMetrics(election.metrics)
      })
  ))
  if (elections.has(name)) {
    return yield* new LeaderElectionError({ reason: new AlreadyCampaigning({ lease }) })
  }
  yield* hold
  return hold
})

/**
 * Builds an election from its settings and a store.
 *
 * **Details**
 *
 * Building it makes no request; the first campaign does. Fails with
 * `AlreadyCampaigning` where this process has another election on the same
 * Lease under the same identity. Its parts are released with the scope, or with
 * the last of its campaigns and programs where one lives longer.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: Effect.Effect<
  LeaderElection["Service"],
  LeaderElectionError,
  LeaderElectionConfig.LeaderElectionConfig | LeaseStore | Scope.Scope
> = Effect.gen(function*() {
  const settings = yield* LeaderElectionConfig.LeaderElectionConfig
  const store = yield* LeaseStore
  const witness = yield* SuspendWitness.SuspendWitness
  const now = makeMoment(witness)
  const election = yield* State.make(settings, store, yield* State.RenewalPhase, now)
  const lease = State.leaseName(election)
  const hold = yield* register(election)

  // One campaign at a time, and none while the program of the last term still runs: its scope is open until then.
  const campaignOnce = Effect.acquireRelease(
    Effect.gen(function*() {
      if (election.state.role !== "idle") {
        return yield* new LeaderElectionError({ reason: new AlreadyCampaigning({ lease }) })
      }
      election.refused = undefined
      election.streaks.clear()
      election.defect = Deferred.makeUnsafe()
      election.leaderless.counting = false
      election.leaderless.since = undefined
      State.advance(election, (state) => ({ ...state, role: "candidate", mustRead: false }), yield* now)
      yield* State.publish(election)
    }),
    () =>
      Effect.gen(function*() {
        State.advance(
          election,
          (state) => ({ ...state, role: "idle", claim: undefined, reads: Attempts.none }),
          yield* now
        )
        yield* State.publish(election)
      })
  )

  const acquireTerm = Effect.gen(function*() {
    yield* hold
    yield* campaignOnce
    const requests: Requests.Requests = new Map()
    yield* Effect.addFinalizer(() => Effect.sync(() => Requests.abortAll(requests)))
    const watch = Watch.make(election)
    const campaign = yield* Campaign.make(election, requests, watch)
    yield* Effect.forkScoped(
      Effect.annotateLogs(
        Effect.onExit(watch.run, (exit) =>
          Effect.sync(() => {
            if (Exit.isFailure(exit) && !Cause.hasInterruptsOnly(exit.cause)) {
              Deferred.doneUnsafe(election.defect, exit)
            }
          })),
        { module: "LeaderElection", fiber: "watch" }
      ),
      { startImmediately: true }
    )
    // Runs when everything that is registered after it, the renewal among it, has ended.
    yield* Effect.addFinalizer(() =>
      Effect.withSpan(Release.release(campaign), "LeaderElection.release", { attributes: { lease } })
    )
    const term = yield* Effect.raceFirst(Campaign.run(campaign), Deferred.await(election.defect)).pipe(
      Effect.withSpan("LeaderElection.acquire", { attributes: { lease, identity: settings.identity } })
    )
    return yield* Terms.begin(campaign, term, witness)
  }).pipe(
    Effect.annotateLogs({ lease, identity: settings.identity }),
    Effect.updateService(Tracer.Tracer, shieldTracer)
  )

  const service: LeaderElection["Service"] = LeaderElection.of({
    settings,
    acquire: untilClosed(acquireTerm),
    whileLeading: (program) =>
      Effect.scopedWith((scope) =>
        Effect.flatMap(
          Scope.provide(acquireTerm, scope),
          (leadership) => runInTerm(election, leadership, program)
        )
      ),
    whileLeadingForever: (program) => again(service, program),
    status: Effect.sync(() => State.statusOf(election.state)),
    changes: SubscriptionRef.changes(election.statuses),
    leader: Effect.sync(() => State.leaderOf(election.state)),
    leaderNote: Effect.sync(() => State.noteOf(election.state)),
    sinceRenewal: Effect.map(now, (now) => {
      const { claim } = election.state
      return claim?.term === undefined ? Option.none() : Option.some(Duration.nanos(elapsed(claim.validFrom, now)))
    })
  })
  return service
})

/**
 * Runs what waits in a scope of its own, which closes with the caller's, but only when the waiting has ended: a campaign
 * goes on to add finalizers, and those of a closed scope run at once.
 */
const untilClosed = <A, E>(waiting: Effect.Effect<A, E, Scope.Scope>): Effect.Effect<A, E, Scope.Scope> =>
  Effect.uninterruptibleMask(Effect.fnUntraced(function*(restore) {
    const outer = yield* Effect.scope
    if (outer.state._tag === "Closed") {
      return yield* Effect.interrupt
    }
    const inner = yield* Scope.make()
    const fiber = yield* Effect.forkChild(Effect.interruptible(Scope.provide(waiting, inner)), {
      startImmediately: true
    })
    yield* Scope.addFinalizerExit(outer, (exit) => Effect.andThen(Fiber.interrupt(fiber), Scope.close(inner, exit)))
    return yield* Effect.onInterrupt(restore(Fiber.join(fiber)), () => Fiber.interrupt(fiber))
  }))

/** Runs a program in a term, and is over when the program and its finalizers are. */
const runInTerm = <A, E, R>(
  election: State.Election,
  leadership: Leadership["Service"],
  program: Effect.Effect<A, E, R>
): Effect.Effect<A, E | LeaderElectionError, Exclude<R, Leadership | Scope.Scope>> =>
  Effect.uninterruptibleMask(Effect.fnUntraced(function*(restore) {
    // Lost before the program could begin: then it takes no step.
    yield* Effect.mapError(leadership.ensure, (error) => markLoss(error, election))
    const endTerm = (exit: Exit.Exit<unknown, unknown>) =>
      Effect.annotateLogs(
        Terms.end(election, Exit.isFailure(exit) ? exit.cause : undefined),
        { lease: State.leaseName(election), identity: election.settings.identity }
      )
    // A program that ends by itself: leadership is over before its finalizers run, as where it is stopped.
    const fiber = yield* Effect.scopedWith((scope) =>
      Effect.provideContext(program, Context.make(Leadership, leadership).pipe(Context.add(Scope.Scope, scope))).pipe(
        Effect.onExit((exit) => endTerm(exit))
      )
    ).pipe(
      Effect.interruptible,
      Effect.forkChild({ startImmediately: true })
    )
    // The loss does not wait for anything but this: no request, and no finalizer of ours.
    const settled = yield* Effect.exit(restore(Effect.raceFirst(
      Effect.map(Fiber.await(fiber), Option.some),
      Effect.as(leadership.lost, Option.none<Exit.Exit<A, E>>())
    )))
    yield* endTerm(settled)
    // What ended within its term. One that had lost it may have ended before the loss could be heard of here.
    if (Exit.isSuccess(settled) && Option.isSome(settled.value) && !State.wasLost(election)) {
      return yield* settled.value.value
    }
    yield* Fiber.interrupt(fiber)
    const exit = yield* Fiber.await(fiber)
    if (Exit.isFailure(exit) && !Cause.hasInterruptsOnly(exit.cause) && !isReportedLoss(exit.cause)) {
      yield* logError("The program failed while it was being stopped", exit.cause)
    }
    if (Exit.isFailure(settled)) {
      return yield* Effect.failCause(settled.cause)
    }
    return yield* markLoss(State.lostError(election.state.claim?.lost ?? "RenewDeadlineExceeded"), election)
  }))

/** Whether a program failed with nothing but what `ensure` failed with. */
const isReportedLoss = (cause: Cause.Cause<unknown>): boolean =>
  cause.reasons.every((reason) =>
    Cause.isFailReason(reason) && isLeaderElectionError(reason.error) && reason.error.reason._tag === "LeadershipLost"
  )

/**
 * Waits until this process leads, runs the program, and stops it when
 * leadership is lost.
 *
 * **Expected flow**
 *
 * 1. The process campaigns until it holds the Lease and its term has begun. A
 *    Lease that may be younger than leaseDuration is held and waited for first.
 * 2. The program runs with {@link Leadership} as a service, and a `Scope` of
 *    its own, while the Lease is renewed.
 * 3. When the program ends, by success, failure or interruption: leadership
 *    reads as invalid, the program's finalizers run, the renewal stops, and the
 *    Lease is released, so that another candidate leads within milliseconds.
 * 4. When the term is lost, the program is interrupted at once; when its
 *    finalizers have ended, this fails with `LeadershipLost`.
 *
 * **Guarantees**
 *
 * - Of all candidates on one Lease at most one finds its leadership valid at any
 *   moment, as long as their clocks' *rates* differ by less than
 *   leaseDuration / renewDeadline (1.5 by default) and no two of them use one
 *   identity. Wall clocks may differ and jump.
 * - The program is interrupted before another candidate can lead.
 *
 * **Assumptions**
 *
 * - The program ends within leaseDuration × 0.95 - renewDeadline (4.25 s by
 *   default) of its interruption. One that takes longer is reported.
 *
 * **Caveats**
 *
 * - Nothing can stop code that ignores its interruption or blocks the event
 *   loop: call `ensure` before what only a leader may do, and send the fencing
 *   token where the resource can check it.
 *
 * **Errors**
 *
 * - those of the program;
 * - `LeadershipLost`: the term ended before the program did;
 * - `LeaseRefused`, `DuplicateIdentity`: need a person;
 * - `AlreadyCampaigning`: this election is in use already.
 *
 * @category running
 * @since 0.1.0
 */
export const whileLeading = <A, E, R>(
  program: Effect.Effect<A, E, R>
): Effect.Effect<A, E | LeaderElectionError, LeaderElection | Exclude<R, Leadership | Scope.Scope>> =>
  LeaderElection.use((election) => election.whileLeading(program))

/**
 * As {@link whileLeading}, but campaigns again after each loss. Ends all the
 * same with the program's success or failure, or with an error that needs a
 * person.
 *
 * @category running
 * @since 0.1.0
 */
export const whileLeadingForever = <A, E, R>(
  program: Effect.Effect<A, E, R>
): Effect.Effect<A, E | LeaderElectionError, LeaderElection | Exclude<R, Leadership | Scope.Scope>> =>
  LeaderElection.use((election) => election.whileLeadingForever(program))

/** Campaigns again after each loss of this election, and of no other. */
const again = <A, E, R>(
  election: LeaderElection["Service"],
  program: Effect.Effect<A, E, R>
): Effect.Effect<A, E | LeaderElectionError, Exclude<R, Leadership | Scope.Scope>> =>
  Effect.catchIf(
    election.whileLeading(program),
    isLossOf(election),
    (error) =>
      error.reason.reason === "DuplicateIdentity"
        ? Effect.fail(
          new LeaderElectionError({
            reason: new DuplicateIdentity({ identity: election.settings.identity, lease: formatKey(election.settings) })
          })
        )
        : again(election, program)
  )

/**
 * The losses with which `whileLeading` has ended, and whose election's they are.
 * A program may fail with the same kind of error (another election's, or that
 * of a Leadership that it kept): such a failure is its own.
 */
const losses = new WeakMap<LeaderElectionError, LeaderElectionConfig.Settings>()

const markLoss = (error: LeaderElectionError, { settings }: State.Election): LeaderElectionError => {
  losses.set(error, settings)
  return error
}

const isLossOf =
  ({ settings }: LeaderElection["Service"]) =>
  (error: unknown): error is LeaderElectionError & { readonly reason: LeadershipLost } =>
    isLeaderElectionError(error) && error.reason._tag === "LeadershipLost" && losses.get(error) === settings

/**
 * Waits until this process leads; the term lasts as long as the scope. When the
 * scope closes, the Lease is released after the finalizers that were added
 * later.
 *
 * **Gotchas**
 *
 * Nothing interrupts your program when the term is lost: watch
 * `leadership.lost`, or use {@link whileLeading}, which does. Interruptible
 * while it waits, and interrupted where the scope is closed by then.
 *
 * @category running
 * @since 0.1.0
 */
export const acquire: Effect.Effect<Leadership["Service"], LeaderElectionError, LeaderElection | Scope.Scope> =
  LeaderElection.use((election) => election.acquire)

/**
 * Where the election stands.
 *
 * @category accessors
 * @since 0.1.0
 */
export const status: Effect.Effect<LeaderElectionStatus, never, LeaderElection> = LeaderElection.use((election) =>
  election.status
)

/**
 * Where the election stands, and each change of it. Never ends.
 *
 * @category accessors
 * @since 0.1.0
 */
export const changes: Stream.Stream<LeaderElectionStatus, never, LeaderElection> = Stream.unwrap(
  LeaderElection.useSync((election) => election.changes)
)

/**
 * The identity of the holder, as last seen here, this process included. `None` where
 * it has no holder, and before the first campaign.
 *
 * @category accessors
 * @since 0.1.0
 */
export const leader: Effect.Effect<Option.Option<string>, never, LeaderElection> = LeaderElection.use((election) =>
  election.leader
)

/**
 * What the holder of the Lease publishes with its term (its setting `note`), as
 * last seen here: its address or version, for example. `None` where there is no
 * holder, or it publishes nothing.
 *
 * **Gotchas**
 *
 * Whatever may write the Lease can write this text. Escape it where it is shown,
 * and prove leadership by other means.
 *
 * @category accessors
 * @since 0.2.0
 */
export const leaderNote: Effect.Effect<Option.Option<string>, never, LeaderElection> = LeaderElection.use((election) =>
  election.leaderNote
)

/**
 * An election with the given settings, on whatever store is provided. What is
 * not named is read from the environment.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  input?: LeaderElectionConfig.Input
): Layer.Layer<LeaderElection, LeaderElectionError, LeaseStore> =>
  Layer.provide(Layer.effect(LeaderElection, make), LeaderElectionConfig.layer(input))

/**
 * As {@link layer}, with each setting from a `Config`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  input: Config.Wrap<LeaderElectionConfig.Input>
): Layer.Layer<LeaderElection, LeaderElectionError, LeaseStore> =>
  Layer.provide(Layer.effect(LeaderElection, make), LeaderElectionConfig.layerConfig(input))
