/**
 * Leader election for Node programs without Effect: promises, an `AbortSignal`,
 * and plain types.
 *
 * **Example** (Running a job as leader)
 *
 * ```ts
 * import { runAsLeader } from "effect-kubernetes-leader-election/promise"
 *
 * declare const sendInvoices: (options: { readonly token: bigint; readonly signal: AbortSignal }) => Promise<void>
 *
 * await runAsLeader({ name: "invoices", again: true }, async (leadership, signal) => {
 *   while (!signal.aborted) {
 *     leadership.ensure()
 *     await sendInvoices({ token: leadership.fencingToken, signal })
 *   }
 * })
 * ```
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Option from "effect/Option"
import * as References from "effect/References"
import * as Stream from "effect/Stream"
import * as TermHealth from "./internal/termHealth.ts"
import * as KubernetesClient from "./kubernetes/KubernetesClient.ts"
import type { KubernetesConfigError } from "./kubernetes/KubernetesError.ts"
import * as KubernetesLeaderElection from "./kubernetes/KubernetesLeaderElection.ts"
import * as KubernetesLeaderElections from "./kubernetes/KubernetesLeaderElections.ts"
import * as KubernetesLeaderShards from "./kubernetes/KubernetesLeaderShards.ts"
import * as LeaderElection from "./LeaderElection.ts"
import { InvalidSettings, LeaderElectionError, LeadershipLost } from "./LeaderElectionError.ts"
import * as LeaderElections from "./LeaderElections.ts"
import type { LeaderElectionStatus } from "./LeaderElectionStatus.ts"
import * as LeaderHealth from "./LeaderHealth.ts"
import * as LeaderShards from "./LeaderShards.ts"
import * as Leadership from "./Leadership.ts"
import { formatKey } from "./LeaseRecord.ts"

/**
 * The settings, with durations in milliseconds or as text (`"15 seconds"`).
 * What is left out is read from the environment, as the README's table of
 * settings says.
 *
 * @category models
 * @since 0.1.0
 */
export interface RunAsLeaderOptions {
  /** Name of the Lease. */
  readonly name?: string | undefined
  readonly namespace?: string | undefined
  readonly identity?: string | undefined
  readonly leaseDuration?: DurationInput | undefined
  readonly renewInterval?: DurationInput | undefined
  readonly renewDeadline?: DurationInput | undefined
  readonly retryPeriod?: DurationInput | undefined
  readonly requestTimeout?: DurationInput | undefined
  readonly newLease?: "wait" | "lead" | undefined
  readonly watch?: boolean | undefined
  /** About how many candidates share the Lease, where they are a crowd: more than 8. */
  readonly candidates?: number | undefined
  /** A kubeconfig file. By default the Pod's service account; outside a cluster KUBECONFIG or `~/.kube/config`. */
  readonly kubeconfig?: string | undefined
  /** The kubeconfig's context. By default the one that it says is current. */
  readonly context?: string | undefined
  /** Campaign again after each loss, instead of failing with it. By default false. */
  readonly again?: boolean | undefined
  /** Ends it all in good order: the program is stopped, and the Lease released. */
  readonly signal?: AbortSignal | undefined
  /** Called with where the election stands, at first and after each change. What it throws is ignored. */
  readonly onStatus?: ((status: Status) => void) | undefined
  /** Receives what the election logs. By default one line each on standard error. What it throws is ignored. */
  readonly onLog?: ((entry: LogEntry) => void) | undefined
}

/**
 * Milliseconds, or text such as `"15s"`, `"1m30s"` or `"15 seconds"`.
 *
 * @category models
 * @since 0.1.0
 */
export type DurationInput = number | string

/**
 * Where the election stands: `following` another leader (or none), `pending`
 * while it holds a Lease that is too young to lead on, `leading`, `ending` a term while the
 * program stops, `idle` in between.
 *
 * @category models
 * @since 0.1.0
 */
export interface Status {
  readonly state: "idle" | "following" | "pending" | "leading" | "ending"
  /** The identity of the holder, as last seen here. */
  readonly leader: string | undefined
  /** While `leading` and `ending`. */
  readonly fencingToken: bigint | undefined
  /** Why the term was lost, while `ending`. */
  readonly reason: LossReason | undefined
}

/**
 * Why a term was lost. `ProgramEnded` is no loss: `ensure` and `confirm` say it
 * of a term whose program has ended.
 *
 * @category models
 * @since 0.1.0
 */
export type LossReason =
  | "RenewDeadlineExceeded"
  | "LeaseDeleted"
  | "LeaseTaken"
  | "DuplicateIdentity"
  | "SteppedDown"
  | "Defect"
  | "ProgramEnded"

/**
 * One message of the election's log.
 *
 * @category models
 * @since 0.1.0
 */
export interface LogEntry {
  readonly level: "trace" | "debug" | "info" | "warn" | "error" | "fatal"
  readonly message: string
  /** `lease`, `identity` and, in a term, `term` (its fencing token). */
  readonly annotations: Readonly<Record<string, unknown>>
  readonly time: Date
}

/**
 * One term, as the program sees it.
 *
 * @category models
 * @since 0.1.0
 */
export interface LeadershipHandle {
  readonly identity: string
  /** Greater than that of every earlier term: let the resource refuse a smaller one than it has seen. */
  readonly fencingToken: bigint
  /** How often the Lease changed hands: for people. */
  readonly transitions: number
  /** Whether this process leads at this moment. */
  readonly isValid: boolean
  /** Milliseconds for which the leadership remains valid without another renewal; 0 once it is over. */
  readonly remaining: number
  /** Throws `LeaderElectionFailure` unless this process leads at this moment. Makes no request. */
  readonly ensure: () => void
  /** Renews now, and resolves only if that was committed. */
  readonly confirm: () => Promise<void>
}

/**
 * Why an election ended.
 *
 * - `LeadershipLost`: the term ended before the program did; `reason` says why.
 * - `InvalidSettings`, `LeaseRefused`, `DuplicateIdentity`,
 *   `AlreadyCampaigning`, `Credentials`: need a person; the message says what
 *   to do.
 * - `RenewalFailed`: from `confirm` only.
 * - `Closed`: the elections of {@link makeElections} were closed.
 *
 * @category errors
 * @since 0.1.0
 */
export class LeaderElectionFailure extends Error {
  override readonly name = "LeaderElectionFailure"
  readonly code:
    | "LeadershipLost"
    | "InvalidSettings"
    | "LeaseRefused"
    | "DuplicateIdentity"
    | "AlreadyCampaigning"
    | "RenewalFailed"
    | "Credentials"
    | "Closed"
  /** Why the term was lost, where `code` is `LeadershipLost`. */
  readonly reason: LossReason | undefined
  constructor(
    message: string,
    options: {
      readonly code: LeaderElectionFailure["code"]
      readonly reason?: LossReason | undefined
      readonly cause?: unknown
    }
  ) {
    super(message, { cause: options.cause })
    this.code = options.code
    this.reason = options.reason
  }
}

const toFailure = (error: LeaderElectionError | KubernetesConfigError): LeaderElectionFailure =>
  error._tag === "LeaderElectionError"
    ? new LeaderElectionFailure(error.message, {
      code: error.reason._tag,
      reason: error.reason._tag === "LeadershipLost" ? error.reason.reason : undefined,
      cause: error
    })
    : new LeaderElectionFailure(error.message, { code: "Credentials", cause: error })

/**
 * Waits until this process leads, runs the program, and aborts its signal when
 * leadership is lost.
 *
 * **Details**
 *
 * When leadership is lost, or `options.signal` is aborted, the program's signal
 * is aborted; the Lease is released when the program's promise has settled.
 * `signal.reason` is the `LeaderElectionFailure` with the reason of the loss, or
 * the reason of `options.signal`. So end
 * soon after it: within leaseDuration × 0.95 - renewDeadline (4.25 s by
 * default) others cannot take over yet. Resolves with the program's value;
 * rejects with what it throws, with `LeaderElectionFailure`, or with the reason
 * of `options.signal`.
 *
 * **Gotchas**
 *
 * Nothing can stop a program that ignores its signal: call `ensure` before what
 * only a leader may do, and use the fencing token where the resource can check
 * it.
 *
 * @category running
 * @since 0.1.0
 */
export const runAsLeader = async <A>(
  options: RunAsLeaderOptions,
  program: Program<A>
): Promise<A> => {
  const { again, context, kubeconfig, onLog, onStatus, signal, ...settings } = options
  checkArguments({ program }, { onLog, onStatus }, signal)
  return toPromise(
    Effect.flatMap(
      LeaderElection.LeaderElection,
      (election) => campaign(election, { again, onStatus, signal }, program)
    ).pipe(
      Effect.provide(Layer.provide(KubernetesLeaderElection.layer(settings), layerClient({ kubeconfig, context }))),
      Effect.provide(layerLogging(onLog))
    ),
    Effect.runPromiseExit,
    signal
  )
}

/**
 * The program of a term.
 *
 * @category models
 * @since 0.2.0
 */
export type Program<A> = (leadership: LeadershipHandle, signal: AbortSignal) => A | PromiseLike<A>

// -----------------------------------------------------------------------------
// Many elections
// -----------------------------------------------------------------------------

/**
 * What all elections of {@link makeElections} share.
 *
 * @category models
 * @since 0.2.0
 */
export type ElectionsOptions = Omit<RunAsLeaderOptions, "name" | "again" | "signal" | "onStatus">

/**
 * Elections on many Leases, over one connection pool and one watch.
 *
 * @category models
 * @since 0.2.0
 */
export interface Elections {
  /** As the function of the same name, on the Lease with this name. */
  readonly runAsLeader: <A>(
    options: { readonly name: string } & Pick<RunAsLeaderOptions, "again" | "signal" | "onStatus">,
    program: Program<A>
  ) => Promise<A>
  /**
   * Aborts the signals of the programs that still run, waits for them, and closes the connections. What is waited for,
   * and what is run after it, rejects with the code `Closed`.
   */
  readonly close: () => Promise<void>
}

/**
 * Makes elections on many Leases in one process: one connection pool, one watch,
 * renewals that are spread in time.
 *
 * **Example** (A leader for each tenant)
 *
 * ```ts
 * import { makeElections } from "effect-kubernetes-leader-election/promise"
 *
 * declare const serve: (tenant: string, signal: AbortSignal) => Promise<void>
 *
 * const elections = makeElections({ namespace: "default" })
 * await Promise.all(["red", "green"].map((tenant) =>
 *   elections.runAsLeader({ name: `tenant-${tenant}`, again: true }, (_, signal) => serve(tenant, signal))
 * ))
 * ```
 *
 * @category running
 * @since 0.2.0
 */
export const makeElections = (options: ElectionsOptions = {}): Elections => {
  const { context, kubeconfig, onLog, ...settings } = options
  const make = () =>
    ManagedRuntime.make(
      Layer.merge(
        Layer.provide(KubernetesLeaderElections.layer(settings), layerClient({ kubeconfig, context })),
        layerLogging(onLog)
      )
    )
  let current = make()
  // Aborted when they are closed.
  const closing = new AbortController()
  const runExit = async <A, E>(
    effect: Effect.Effect<A, E, LeaderElections.LeaderElections>,
    options: { readonly signal?: AbortSignal | undefined }
  ) => {
    const runtime = current
    const exit = await runtime.runPromiseExit(effect, options)
    const isBuilt = runtime.cachedContext !== undefined
    if (Exit.isFailure(exit) && !isBuilt && !Cause.hasInterruptsOnly(exit.cause) && runtime === current) {
      // A runtime that could not be built stays so: a kubeconfig that was repaired is read by another.
      current = make()
      await runtime.dispose()
    }
    return exit
  }
  return {
    runAsLeader: async ({ name, ...each }, program) => {
      checkArguments({ program }, { onLog, onStatus: each.onStatus }, each.signal)
      const signal = each.signal === undefined ? closing.signal : AbortSignal.any([each.signal, closing.signal])
      return toPromise(
        Effect.scoped(Effect.flatMap(
          Effect.flatMap(LeaderElections.LeaderElections, (elections) => elections.get(name)),
          (election) => campaign(election, { ...each, signal }, program)
        )),
        runExit,
        signal
      )
    },
    close: () => {
      closing.abort(
        new LeaderElectionFailure("these elections are closed: make others with makeElections", { code: "Closed" })
      )
      return current.dispose()
    }
  }
}

// -----------------------------------------------------------------------------
// Shards
// -----------------------------------------------------------------------------

/**
 * What {@link runShards} leads, and the settings of its Leases. What is left out
 * is read from the environment; the group is LEADER_ELECTION_NAME.
 *
 * @category models
 * @since 0.2.0
 */
export interface RunShardsOptions
  extends Omit<RunAsLeaderOptions, "name" | "again" | "onStatus" | "watch" | "candidates">
{
  /** The name of the group, the same for all replicas. */
  readonly group?: string | undefined
  /** What the replicas of one rollout have in common; LEADER_ELECTION_GENERATION by default. */
  readonly generation?: string | undefined
  /** The names of the shards: a list, or lists as they change. */
  readonly shards: Iterable<string> | AsyncIterable<Iterable<string>>
  /** Given this replica's view once it takes part: for readiness, and for people. What it throws ends the run. */
  readonly onStart?: ((group: ShardsHandle) => void) | undefined
}

/**
 * This replica as a member of a group of shards.
 *
 * @category models
 * @since 0.2.0
 */
export interface ShardsHandle {
  /** The shards whose programs run here. */
  readonly leads: ReadonlyArray<string>
  /** Whether the others have seen this replica: the readiness of its Pod. */
  readonly ready: boolean
  /** Gives up everything in good order, and takes nothing while another replica stays. */
  readonly drain: () => Promise<void>
}

/**
 * Leads this replica's part of the shards until `signal` is aborted, and then
 * releases them: each shard has one leader, and every replica leads about as
 * many. A program that throws is run again after a second, doubled each time to
 * a minute; it ends no other.
 *
 * **Example** (A worker for each tenant)
 *
 * ```ts
 * import { runShards } from "effect-kubernetes-leader-election/promise"
 *
 * declare const serve: (tenant: string, signal: AbortSignal) => Promise<void>
 *
 * await runShards(
 *   { group: "tenants", shards: ["red", "green", "blue"] },
 *   (tenant, _, signal) => serve(tenant, signal)
 * )
 * ```
 *
 * @category running
 * @since 0.2.0
 */
export const runShards = async (
  options: RunShardsOptions,
  lead: (shard: string, leadership: LeadershipHandle, signal: AbortSignal) => unknown
): Promise<never> => {
  const { context, kubeconfig, onLog, onStart, shards, signal, ...settings } = options
  checkArguments({ lead }, { onLog, onStart }, signal)
  return toPromise(
    Effect.gen(function*() {
      const group = yield* LeaderShards.LeaderShards
      // One that is asynchronous fails as one that throws, and is not waited for.
      const started: unknown = onStart?.({
        get leads() {
          return Array.from(Effect.runSync(group.status).leads)
        },
        get ready() {
          return Effect.runSync(group.ready)
        },
        drain: () => Effect.runPromise(group.drain)
      })
      const run = group.run({
        shards: typeof shards === "object" && Symbol.asyncIterator in shards
          ? Stream.orDie(Stream.fromAsyncIterable(shards, (error) => error))
          : shards,
        lead: (shard) =>
          Effect.flatMap(
            Leadership.Leadership,
            (leadership) =>
              Effect.scoped(runShard(leadership, (handle, aborted) => lead(shard, handle, aborted), signal))
          )
      })
      return yield* Effect.raceFirst(
        run,
        Effect.andThen(Effect.promise(() => Promise.resolve(started)), Effect.never)
      )
    }).pipe(
      Effect.provide(Layer.provide(KubernetesLeaderShards.layer(settings), layerClient({ kubeconfig, context }))),
      Effect.provide(layerLogging(onLog))
    ),
    Effect.runPromiseExit,
    signal
  )
}

// -----------------------------------------------------------------------------
// Health and metrics
// -----------------------------------------------------------------------------

const checks = new Set<() => LeaderHealth.Health>()

/**
 * The health of this process, for a liveness probe: unhealthy only while a
 * program outlives its term. Following, losing a term, and an API server that
 * cannot be reached are healthy: a restart cures none of them.
 *
 * @category operations
 * @since 0.2.0
 */
export const health = (): { readonly healthy: boolean; readonly message: string } => {
  const results = Array.from(checks, (check) => check())
  return results.find(({ healthy }) => !healthy) ?? results[0] ?? { healthy: true, message: "no election" }
}

/**
 * The metrics of this process in the text format of Prometheus: answer
 * `GET /metrics` with it, as `text/plain; version=0.0.4`.
 *
 * @category operations
 * @since 0.2.0
 */
export const metrics = async (): Promise<string> => {
  // It brings Effect's HTTP with it.
  const { format } = await import("effect/observability/PrometheusMetrics")
  return Effect.runPromise(
    format({ metricNameMapper: (name) => name === "leader_running" ? "leader_running_total" : name })
  )
}

// -----------------------------------------------------------------------------
// Tests
// -----------------------------------------------------------------------------

/**
 * A term whose loss a test decides.
 *
 * @category testing
 * @since 0.2.0
 */
export interface TestTerm {
  /** What the program is given. Valid until it is lost. */
  readonly leadership: LeadershipHandle
  readonly signal: AbortSignal
  /** Ends the term: `ensure` throws, and the signal is aborted, with the reason of the loss. */
  readonly lose: (reason?: LossReason) => void
}

/**
 * A term for unit tests of a program, without an election.
 *
 * **Example** (A program that must not send after its term)
 *
 * ```ts
 * import { makeTestTerm } from "effect-kubernetes-leader-election/promise"
 *
 * const term = makeTestTerm({ fencingToken: 7n })
 * term.leadership.ensure()
 * term.lose("SteppedDown")
 * term.signal.aborted // true, and `ensure` throws from here on
 * ```
 *
 * @category testing
 * @since 0.2.0
 */
export const makeTestTerm = (
  options: { readonly identity?: string; readonly fencingToken?: bigint; readonly transitions?: number } = {}
): TestTerm => {
  const controller = new AbortController()
  const ensure = () => controller.signal.throwIfAborted()
  return {
    leadership: {
      identity: options.identity ?? "test",
      fencingToken: options.fencingToken ?? 1n,
      transitions: options.transitions ?? 1,
      get isValid() {
        return !controller.signal.aborted
      },
      get remaining() {
        return controller.signal.aborted ? 0 : Number.POSITIVE_INFINITY
      },
      ensure,
      confirm: async () => ensure()
    },
    signal: controller.signal,
    lose: (reason = "RenewDeadlineExceeded") => controller.abort(lossOf(reason))
  }
}

// -----------------------------------------------------------------------------
// internal
// -----------------------------------------------------------------------------

const layerClient = ({ context, kubeconfig: file }: Pick<RunAsLeaderOptions, "context" | "kubeconfig">) =>
  file === undefined && context === undefined
    ? KubernetesClient.layer
    : KubernetesClient.layerKubeconfig({ file, context })

const layerLogging = (onLog: RunAsLeaderOptions["onLog"]) =>
  Layer.merge(layerLogger(onLog ?? writeLine), Layer.succeed(References.MinimumLogLevel, "Info"))

const lossOf = (reason: LossReason): LeaderElectionFailure =>
  toFailure(new LeaderElectionError({ reason: new LeadershipLost({ reason }) }))

/** What a program in plain JavaScript may have got wrong. */
const checkArguments = (
  needed: Readonly<Record<string, unknown>>,
  functions: Readonly<Record<string, unknown>>,
  signal: AbortSignal | undefined
): void => {
  const problems = Object.entries({ ...functions, ...needed })
    .filter(([name, value]) => typeof value !== "function" && (value !== undefined || name in needed))
    .map(([name, value]) => `${name} is ${String(value)}: give a function`)
  if (signal !== undefined && typeof signal.throwIfAborted !== "function") {
    problems.push("signal is no AbortSignal: give the signal of an AbortController")
  }
  if (problems.length > 0) {
    throw toFailure(new LeaderElectionError({ reason: new InvalidSettings({ problems }) }))
  }
}

/** What a callback gives: where that is a promise, nobody waits for it. */
const unheeded = (result: unknown): void => {
  Promise.resolve(result).catch(() => {})
}

/** Counts for {@link health} while the scope is open. */
const checked = (check: () => LeaderHealth.Health) =>
  Effect.acquireRelease(
    Effect.sync(() => checks.add(check)),
    () => Effect.sync(() => checks.delete(check))
  )

const runShard = Effect.fnUntraced(function*(
  leadership: Leadership.Leadership["Service"],
  program: Program<unknown>,
  signal: AbortSignal | undefined
) {
  const clock = yield* Clock.Clock
  const check = TermHealth.make(
    formatKey(leadership.lease),
    () => Duration.toMillis(Effect.runSync(leadership.untilOverrun)),
    () => Number(clock.monotonicTimeNanosUnsafe()) / 1e6
  )
  yield* checked(check)
  return yield* run(
    leadership,
    (handle, aborted) => {
      aborted.addEventListener("abort", check)
      return program(handle, aborted)
    },
    signal
  )
})

/** One campaign, or one after the other, with what the caller wants to see of it. */
const campaign = Effect.fnUntraced(function*<A>(
  election: LeaderElection.LeaderElection["Service"],
  { again, onStatus, signal }: Pick<RunAsLeaderOptions, "again" | "onStatus" | "signal">,
  program: Program<A>
) {
  if (onStatus !== undefined) {
    yield* election.changes.pipe(
      Stream.runForEach((status) => Effect.ignore(Effect.try(() => unheeded(onStatus(toStatus(status)))))),
      Effect.forkScoped({ startImmediately: true })
    )
  }
  yield* checked(yield* Effect.provideService(LeaderHealth.makeCheck(), LeaderElection.LeaderElection, election))
  const led = Effect.flatMap(Leadership.Leadership, (leadership) => run(leadership, program, signal))
  return yield* again === true ? election.whileLeadingForever(led) : election.whileLeading(led)
}, Effect.scoped)

const toPromise = async <A, E extends LeaderElectionError | KubernetesConfigError | ProgramError, R>(
  effect: Effect.Effect<A, E, R>,
  runExit: (
    effect: Effect.Effect<A, E, R>,
    options: { readonly signal?: AbortSignal | undefined }
  ) => Promise<Exit.Exit<A, E | KubernetesConfigError>>,
  signal: AbortSignal | undefined
): Promise<A> => {
  signal?.throwIfAborted()
  const exit = await runExit(effect, { signal })
  if (Exit.isSuccess(exit)) {
    return exit.value
  }
  const failure = Cause.findErrorOption(exit.cause)
  if (Option.isSome(failure)) {
    const error: LeaderElectionError | KubernetesConfigError | ProgramError = failure.value
    throw error instanceof ProgramError ? error.error : toFailure(error)
  }
  throw signal?.aborted === true && Cause.hasInterruptsOnly(exit.cause) ? signal.reason : Cause.squash(exit.cause)
}

// Distinguishes the program's own errors from the election's, whatever the program throws.
class ProgramError {
  readonly error: unknown
  constructor(error: unknown) {
    this.error = error
  }
}

const run = <A>(
  leadership: Leadership.Leadership["Service"],
  program: Program<A>,
  outer: AbortSignal | undefined
): Effect.Effect<A, ProgramError> =>
  Effect.suspend(() => {
    const controller = new AbortController()
    const settled = Promise.resolve().then(() => program(toHandle(leadership), controller.signal)).then(
      Exit.succeed,
      (error: unknown) => Exit.fail(new ProgramError(error))
    )
    return Effect.flatten(Effect.promise(() => settled)).pipe(
      // The Lease is not released before the program has ended.
      Effect.onInterrupt(() =>
        Effect.flatMap(known(leadership.lost), (reason) => {
          controller.abort(
            Option.isSome(reason)
              ? lossOf(reason.value)
              : outer?.aborted === true
              ? outer.reason
              : undefined
          )
          return Effect.promise(() => settled)
        })
      )
    )
  })

/** What an effect gives, where it need not wait. */
const known = <A>(effect: Effect.Effect<A>): Effect.Effect<Option.Option<A>> =>
  Effect.raceFirst(Effect.map(effect, Option.some), Effect.succeedNone)

const toHandle = (leadership: Leadership.Leadership["Service"]): LeadershipHandle => ({
  identity: leadership.identity,
  fencingToken: leadership.fencingToken,
  transitions: leadership.transitions,
  get isValid() {
    return Effect.runSync(leadership.isValid)
  },
  get remaining() {
    return Duration.toMillis(Effect.runSync(leadership.remaining))
  },
  ensure: () => orThrow(Effect.runSyncExit(leadership.ensure)),
  confirm: async () => orThrow(await Effect.runPromiseExit(leadership.confirm))
})

const orThrow = (exit: Exit.Exit<void, LeaderElectionError>): void => {
  if (Exit.isFailure(exit)) {
    const error = Cause.findErrorOption(exit.cause)
    throw Option.isSome(error) ? toFailure(error.value) : Cause.squash(exit.cause)
  }
}

const states = {
  Idle: "idle",
  Following: "following",
  Pending: "pending",
  Leading: "leading",
  Ending: "ending"
} as const

const toStatus = (status: LeaderElectionStatus): Status => ({
  state: states[status._tag],
  leader: Option.getOrUndefined(status.leader),
  fencingToken: status._tag === "Leading" || status._tag === "Ending" ? status.term.fencingToken : undefined,
  reason: status._tag === "Ending" ? status.reason : undefined
})

const levels = { Trace: "trace", Debug: "debug", Info: "info", Warn: "warn", Error: "error", Fatal: "fatal" } as const

const layerLogger = (onLog: (entry: LogEntry) => void): Layer.Layer<never> =>
  Logger.layer([
    Logger.make(({ cause, date, fiber, logLevel, message }) => {
      if (logLevel === "All" || logLevel === "None") {
        return
      }
      const parts = (Array.isArray(message) ? message : [message]).map(String)
      const causes = cause.reasons.length === 0 ? [] : [Cause.pretty(cause)]
      unheeded(onLog({
        level: levels[logLevel],
        message: [...parts, ...causes].join(" "),
        annotations: fiber.getRef(References.CurrentLogAnnotations),
        time: date
      }))
    })
  ])

const writeLine = ({ annotations, level, message, time }: LogEntry): void => {
  const lease = annotations["lease"] === undefined ? "" : ` ${annotations["lease"]}`
  process.stderr.write(`${time.toISOString()} ${level.toUpperCase()}${lease}: ${message}\n`)
}
