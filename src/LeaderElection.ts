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
import * as Clock from "effect/Clock"
import type * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import { ActiveTerms, moved } from "./internal/election/activeTerms.ts"
import * as Campaign from "./internal/election/campaign.ts"
import * as Environment from "./internal/election/environment.ts"
import * as Observer from "./internal/election/observer.ts"
import * as Release from "./internal/election/release.ts"
import * as Tenure from "./internal/election/term.ts"
import { elapsed } from "./internal/protocol/timing.ts"
import * as LeaderElectionConfig from "./LeaderElectionConfig.ts"
import {
  AlreadyCampaigning,
  DuplicateIdentity,
  LeaderElectionError,
  type LeadershipLost,
  type LossCause
} from "./LeaderElectionError.ts"
import type { LeaderElectionStatus, TakeoverCause, Term } from "./LeaderElectionStatus.ts"
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

  /** Where the election stands. */
  readonly status: Effect.Effect<LeaderElectionStatus>

  /** Where the election stands, and each change of it. Never ends. */
  readonly changes: Stream.Stream<LeaderElectionStatus>

  /** Who holds the Lease, as last seen here. */
  readonly leader: Effect.Effect<Option.Option<string>>

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
 * Builds an election from its settings and a store.
 *
 * **Details**
 *
 * Building it makes no request; the first campaign does. Fails with
 * `AlreadyCampaigning` where this process has another election on the same
 * Lease under the same identity. Its parts are released with the scope.
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
  const environment = Environment.make(settings, store, witness, yield* Environment.RenewalPhase)
  const lease = formatKey(environment.key)
  const logged = Effect.annotateLogs({ lease, identity: settings.identity })

  const elections = yield* ProcessElections
  const registered = `${store.server} ${lease} ${settings.identity}`
  if (elections.has(registered)) {
    return yield* new LeaderElectionError({ reason: new AlreadyCampaigning({ lease }) })
  }
  yield* Effect.acquireRelease(
    Effect.sync(() => elections.add(registered)),
    () => Effect.sync(() => elections.delete(registered))
  )
  yield* Environment.showMetrics(environment)

  // --- Status ---

  type Phase =
    | { readonly _tag: "Idle" | "Following" }
    | { readonly _tag: "Holding"; readonly cause: TakeoverCause }
    | { readonly _tag: "Holder"; readonly tenure: Tenure.Tenure }
  let phase: Phase = { _tag: "Idle" }

  const currentLeader = (): Option.Option<string> => {
    const { lease } = observer.observation()
    return typeof lease === "string" || lease.holderIdentity === "" ? Option.none() : Option.some(lease.holderIdentity)
  }

  const currentStatus = (): LeaderElectionStatus => {
    const leader = currentLeader()
    if (phase._tag === "Holding") {
      return { ...phase, leader }
    }
    if (phase._tag !== "Holder" || phase.tenure.term === undefined) {
      return { _tag: phase._tag === "Idle" ? "Idle" : "Following", leader }
    }
    const { lost, over, term } = phase.tenure
    return lost === undefined && !over
      ? { _tag: "Leading", leader, term }
      : { _tag: "Ending", leader, term, cause: lost }
  }

  const statuses = yield* SubscriptionRef.make<LeaderElectionStatus>({ _tag: "Idle", leader: Option.none() })
  // Own terms are logged where they begin and end.
  let followed: string | undefined
  const announce = Effect.suspend(() => {
    if (phase._tag !== "Following") {
      followed = phase._tag === "Holder" ? undefined : followed
      return Effect.void
    }
    const holder = Option.getOrUndefined(currentLeader())
    if (holder === undefined || holder === followed || holder === settings.identity) {
      return Effect.void
    }
    followed = holder
    return logged(Effect.logInfo(`Follows ${holder}`))
  })

  const publish = Effect.suspend(() => {
    const next = currentStatus()
    return Equal.equals(SubscriptionRef.getUnsafe(statuses), next)
      ? Effect.void
      : Effect.andThen(SubscriptionRef.set(statuses, next), announce)
  })
  const enter = (next: Phase) =>
    Effect.suspend(() => {
      phase = next
      return publish
    })

  const observer = Observer.make(environment, publish)
  const memory = Campaign.makeMemory()
  const { leaseDuration, renewDeadline } = environment.timing

  // --- A term ---

  const makeLeadership = (tenure: Tenure.Tenure, term: Term): Leadership["Service"] => {
    const left = Effect.map(environment.moment, (now) => Tenure.validity(tenure, now, renewDeadline))
    // Whoever asks after the deadline, but before its timer could run, ends the term.
    const ensure = Effect.flatMap(left, (left) => {
      if (left > 0n) {
        return Effect.void
      }
      if (!tenure.over) {
        Tenure.lose(tenure, "RenewDeadlineExceeded")
      }
      return Effect.fail(Tenure.lostError(tenure.lost ?? "RenewDeadlineExceeded"))
    })
    return Leadership.of({
      lease: environment.key,
      identity: settings.identity,
      fencingToken: term.fencingToken,
      transitions: term.transitions,
      isValid: Effect.map(left, (left) => left > 0n),
      remaining: Effect.map(left, Duration.nanos),
      ensure,
      confirm: Effect.andThen(ensure, Tenure.confirm(environment, observer, tenure)),
      lost: Deferred.await(tenure.loss)
    })
  }

  /** Ends the term from the program's side: leadership reads as invalid before any finalizer of the program runs. */
  const endTerm = (tenure: Tenure.Tenure) =>
    Effect.suspend(() => {
      if (tenure.over || tenure.lost !== undefined) {
        return Effect.void
      }
      tenure.over = true
      tenure.onMove()
      return Effect.all([
        Metric.update(environment.metrics.leader, 0),
        publish,
        Effect.logInfo("Stops leading: its program ends").pipe(
          Effect.annotateLogs({ lease, identity: settings.identity, term: String(tenure.term?.fencingToken) })
        )
      ], { discard: true })
    })

  const onLoss = Effect.fnUntraced(function*(campaign: Campaign.Campaign, tenure: Tenure.Tenure, cause: LossCause) {
    if (tenure.over) {
      // The program was ending by itself: what happens to the Lease now is no loss.
      return
    }
    yield* publish
    yield* Metric.update(environment.metrics.leader, 0)
    yield* Metric.update(environment.metrics.losses(cause), 1)
    if (cause === "RenewDeadlineExceeded") {
      yield* Metric.update(environment.metrics.validityLeft, 0)
    }
    yield* cause === "SteppedDown"
      ? Effect.logInfo("Stops leading: asked to step down")
      : Effect.logWarning(`Stops leading: ${Tenure.lostError(cause).message}`)
    if (cause === "SteppedDown") {
      memory.standBackUntil = (yield* environment.monotonic) + leaseDuration
    }
    if (tenure.gone !== undefined) {
      yield* Campaign.onGone(campaign, tenure)
    }
  })

  // An overrun is told when it happens: of a program that never ends nothing would be heard otherwise.
  const watchOverrun = Effect.fnUntraced(function*(tenure: Tenure.Tenure) {
    while (true) {
      const now = yield* environment.moment
      if (Tenure.hasOverrun(environment, tenure, now)) {
        break
      }
      yield* Environment.sleepUntil(environment, Tenure.overrunAt(environment, tenure, now))
    }
    yield* Metric.update(environment.metrics.overruns, 1)
    yield* Effect.logError(
      "The program is still running although its term is over: another candidate may lead now. " +
        "Make what it does interruptible, and its finalizers short"
    )
  })

  // The Ruby gem's counter: one for each interval in which this process leads.
  const countRunning = Effect.fnUntraced(function*(tenure: Tenure.Tenure) {
    let next = yield* environment.monotonic
    while (Tenure.validity(tenure, yield* environment.moment, renewDeadline) > 0n) {
      yield* Metric.update(environment.metrics.leaderRunning, 1)
      next += environment.timing.renewInterval
      yield* Environment.sleepUntil(environment, next)
    }
  })

  /** Starts everything that goes on during a term, in the scope in which the Lease is held. */
  const lead = Effect.fnUntraced(function*(campaign: Campaign.Campaign, tenure: Tenure.Tenure, term: Term) {
    yield* enter({ _tag: "Holder", tenure })
    yield* Metric.update(environment.metrics.terms, 1)
    yield* Metric.update(environment.metrics.leader, 1)
    const inTerm = Effect.annotateLogs({ term: String(term.fencingToken) })
    yield* inTerm(Effect.logInfo(`Leads (${tenure.cause})`))
    const unlisten = yield* observer.onChange(() => Tenure.reconcile(tenure, observer))
    yield* Effect.addFinalizer(() => Effect.sync(unlisten))
    // What was seen between the begin of the term and now.
    Tenure.reconcile(tenure, observer)
    const span = yield* Effect.makeSpanScoped("LeaderElection.term", {
      attributes: { lease, identity: settings.identity, fencingToken: String(term.fencingToken), cause: tenure.cause }
    })
    const renewalSpan = Effect.withSpan("LeaderElection.renew", {
      root: true,
      attributes: { lease },
      links: [{ span, attributes: {} }]
    })
    const background = <A>(effect: Effect.Effect<A>) => Effect.forkScoped(inTerm(effect), { startImmediately: true })
    yield* background(Tenure.renewing(environment, observer, memory, tenure, renewalSpan))
    yield* background(Tenure.watchDeadline(environment, tenure, witness !== undefined))
    yield* background(countRunning(tenure))
    yield* background(
      Effect.flatMap(
        Deferred.await(tenure.loss),
        (cause) => Effect.andThen(onLoss(campaign, tenure, cause), watchOverrun(tenure))
      )
    )
    // For what may be the first to run after a stall, and for a guard that cannot wait for this thread.
    const clock = yield* Clock.Clock
    const active = yield* ActiveTerms
    const now = () => ({ monotonic: clock.monotonicTimeNanosUnsafe(), witness: witness?.() ?? 0n })
    const activeTerm = {
      lease,
      endIfOver: () => {
        if (!tenure.over && Tenure.validity(tenure, now(), renewDeadline) === 0n) {
          Tenure.lose(tenure, "RenewDeadlineExceeded")
        }
      },
      left: () => {
        const isOver = tenure.over || tenure.lost !== undefined
        const at = now()
        return {
          isOver,
          nanos: isOver
            ? Tenure.overrunAt(environment, tenure, at) - at.monotonic
            : Tenure.validity(tenure, at, renewDeadline)
        }
      }
    }
    yield* Effect.acquireRelease(
      Effect.sync(() => {
        active.terms.add(activeTerm)
        tenure.onMove = () => moved(active)
        moved(active)
      }),
      () =>
        Effect.sync(() => {
          active.terms.delete(activeTerm)
          moved(active)
        })
    )
    // Registered last, so that it runs first: leadership ends before the renewal does.
    yield* Effect.addFinalizer(() => endTerm(tenure))
    return makeLeadership(tenure, term)
  })

  // --- A campaign ---

  let campaigning = false

  // One at a time, and none while the program of the last term still runs: its scope is open until then.
  const campaignOnce = Effect.acquireRelease(
    Effect.suspend(() => {
      if (campaigning) {
        return Effect.fail(new LeaderElectionError({ reason: new AlreadyCampaigning({ lease }) }))
      }
      campaigning = true
      return enter({ _tag: "Following" })
    }),
    () =>
      Effect.suspend(() => {
        campaigning = false
        return enter({ _tag: "Idle" })
      })
  )

  const onHolding = (cause: TakeoverCause | undefined) =>
    cause === undefined
      ? Effect.andThen(enter({ _tag: "Following" }), Effect.logInfo("Holds the Lease no longer"))
      : Effect.andThen(
        enter({ _tag: "Holding", cause }),
        Effect.logInfo(
          `Holds the Lease (${cause}) and waits: it may be younger than leaseDuration, ` +
            `so that the leader of an earlier Lease may still be at work`
        )
      )

  const acquireTenure = Effect.gen(function*() {
    yield* campaignOnce
    const holding: Campaign.Holding = { author: undefined, tenure: undefined, uncertain: undefined }
    const campaign: Campaign.Campaign = { environment, observer, memory, holding, onHolding }
    yield* Effect.forkScoped(observer.watch, { startImmediately: true })
    // Runs when everything that is registered after it, the renewal among it, has ended.
    yield* Effect.addFinalizer(() =>
      Release.release(campaign).pipe(Effect.withSpan("LeaderElection.release", { attributes: { lease } }), logged)
    )
    const { tenure, term } = yield* Campaign.run(campaign).pipe(
      Effect.withSpan("LeaderElection.acquire", { attributes: { lease, identity: settings.identity } })
    )
    return { tenure, leadership: yield* lead(campaign, tenure, term) }
  }).pipe(logged)

  /** Runs a program in a term, and is over when the program and its finalizers are. */
  const runInTerm = <A, E, R>(
    program: Effect.Effect<A, E, R>,
    tenure: Tenure.Tenure,
    leadership: Leadership["Service"]
  ) =>
    Effect.uninterruptibleMask(Effect.fnUntraced(function*(restore) {
      // Lost before the program could begin: then it takes no step.
      yield* leadership.ensure
      // A program that ends by itself: leadership is over before its finalizers run, as where it is stopped.
      const fiber = yield* Effect.scopedWith((scope) =>
        Effect.provideContext(program, Context.make(Leadership, leadership).pipe(Context.add(Scope.Scope, scope))).pipe(
          Effect.ensuring(endTerm(tenure))
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
      yield* endTerm(tenure)
      if (Exit.isSuccess(settled) && Option.isSome(settled.value)) {
        return yield* settled.value.value
      }
      yield* Fiber.interrupt(fiber)
      if (Exit.isFailure(settled)) {
        return yield* Effect.failCause(settled.cause)
      }
      const exit = yield* Fiber.await(fiber)
      if (Exit.isFailure(exit) && !Cause.hasInterruptsOnly(exit.cause)) {
        yield* logged(Effect.logError("The program failed while it was being stopped", exit.cause))
      }
      return yield* Tenure.lostError(tenure.lost ?? "RenewDeadlineExceeded")
    }))

  return LeaderElection.of({
    settings,
    acquire: Effect.map(acquireTenure, ({ leadership }) => leadership),
    whileLeading: (program) =>
      Effect.scopedWith((scope) =>
        Effect.flatMap(
          Scope.provide(acquireTenure, scope),
          ({ leadership, tenure }) => runInTerm(program, tenure, leadership)
        )
      ),
    status: Effect.sync(currentStatus),
    changes: SubscriptionRef.changes(statuses),
    leader: Effect.sync(currentLeader),
    sinceRenewal: Effect.map(
      environment.moment,
      (now) =>
        phase._tag === "Holder" ? Option.some(Duration.nanos(elapsed(phase.tenure.validFrom, now))) : Option.none()
    )
  })
})

/**
 * Waits until this process leads, runs the program, and stops it if leadership
 * goes.
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
 * - The program is told before another candidate can lead.
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
 * As {@link whileLeading}, but campaigns again after each loss. Ends with the
 * program's success or failure, or with an error that needs a person.
 *
 * @category running
 * @since 0.1.0
 */
export const whileLeadingForever = <A, E, R>(
  program: Effect.Effect<A, E, R>
): Effect.Effect<A, E | LeaderElectionError, LeaderElection | Exclude<R, Leadership | Scope.Scope>> =>
  LeaderElection.use((election) => whileLeadingForeverWith(election, program))

/** @internal */
export const whileLeadingForeverWith = <A, E, R>(
  election: LeaderElection["Service"],
  program: Effect.Effect<A, E, R>
): Effect.Effect<A, E | LeaderElectionError, Exclude<R, Leadership | Scope.Scope>> =>
  Effect.catchIf(election.whileLeading(program), isLoss, (error) =>
    error.reason.cause === "DuplicateIdentity"
      ? Effect.fail(
        new LeaderElectionError({
          reason: new DuplicateIdentity({ identity: election.settings.identity, lease: formatKey(election.settings) })
        })
      )
      : whileLeadingForeverWith(election, program))

const isLoss = (error: unknown): error is LeaderElectionError & { readonly reason: LeadershipLost } =>
  error instanceof LeaderElectionError && error.reason._tag === "LeadershipLost"

/**
 * Waits until this process leads; the term lasts as long as the scope. When the
 * scope closes, the Lease is released after the finalizers that were added
 * later.
 *
 * **Gotchas**
 *
 * Nothing interrupts your program when the term is lost: watch
 * `leadership.lost`, or use {@link whileLeading}, which does. Interruptible
 * while it waits.
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
 * Who holds the Lease, as last seen here, this process included. `None` where
 * it has no holder, and before the first campaign.
 *
 * @category accessors
 * @since 0.1.0
 */
export const leader: Effect.Effect<Option.Option<string>, never, LeaderElection> = LeaderElection.use((election) =>
  election.leader
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
