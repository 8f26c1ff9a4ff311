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
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import * as References from "effect/References"
import * as Stream from "effect/Stream"
import * as KubernetesClient from "./kubernetes/KubernetesClient.ts"
import type { KubernetesConfigError } from "./kubernetes/KubernetesError.ts"
import * as KubernetesLeaderElection from "./kubernetes/KubernetesLeaderElection.ts"
import * as LeaderElection from "./LeaderElection.ts"
import type { LeaderElectionError } from "./LeaderElectionError.ts"
import type { LeaderElectionStatus } from "./LeaderElectionStatus.ts"
import * as Leadership from "./Leadership.ts"

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
  /** Receives what the election logs. By default one line each on standard error. */
  readonly onLog?: ((entry: LogEntry) => void) | undefined
}

/**
 * Milliseconds, or text such as `"15 seconds"`.
 *
 * @category models
 * @since 0.1.0
 */
export type DurationInput =
  | number
  | `${number} ${"milli" | "millis" | "second" | "seconds" | "minute" | "minutes" | "hour" | "hours"}`

/**
 * Where the election stands: `following` another leader (or none), `holding` a
 * Lease that is too young to lead on, `leading`, `ending` a term while the
 * program stops, `idle` in between.
 *
 * @category models
 * @since 0.1.0
 */
export interface Status {
  readonly state: "idle" | "following" | "holding" | "leading" | "ending"
  /** The identity of who holds the Lease, as last seen here. */
  readonly leader: string | undefined
  /** While `leading` and `ending`. */
  readonly fencingToken: bigint | undefined
  /** Why the term was lost, while `ending`. */
  readonly cause: LossCause | undefined
}

/**
 * Why a term was lost.
 *
 * @category models
 * @since 0.1.0
 */
export type LossCause =
  | "RenewDeadlineExceeded"
  | "LeaseDeleted"
  | "LeaseTaken"
  | "DuplicateIdentity"
  | "SteppedDown"
  | "Defect"

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
 * - `LeadershipLost`: the term ended before the program did; `lossCause` says
 *   why.
 * - `InvalidSettings`, `LeaseRefused`, `DuplicateIdentity`,
 *   `AlreadyCampaigning`, `Credentials`: need a person; the message says what
 *   to do.
 * - `RenewalFailed`: from `confirm` only.
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
  /** Why the term was lost, where `code` is `LeadershipLost`. */
  readonly lossCause: LossCause | undefined
  constructor(
    message: string,
    options: {
      readonly code: LeaderElectionFailure["code"]
      readonly lossCause?: LossCause | undefined
      readonly cause?: unknown
    }
  ) {
    super(message, { cause: options.cause })
    this.code = options.code
    this.lossCause = options.lossCause
  }
}

const toFailure = (error: LeaderElectionError | KubernetesConfigError): LeaderElectionFailure =>
  error._tag === "LeaderElectionError"
    ? new LeaderElectionFailure(error.message, {
      code: error.reason._tag,
      lossCause: error.reason._tag === "LeadershipLost" ? error.reason.reason : undefined,
      cause: error
    })
    : new LeaderElectionFailure(error.message, { code: "Credentials", cause: error })

/**
 * Waits until this process leads, runs the program, and aborts its signal if
 * leadership goes.
 *
 * **Details**
 *
 * When leadership goes, or `options.signal` is aborted, the program's signal is
 * aborted; the Lease is released when the program's promise has settled. So end
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
  program: (leadership: LeadershipHandle, signal: AbortSignal) => A | PromiseLike<A>
): Promise<A> => {
  const { again, context, kubeconfig, onLog, onStatus, signal, ...settings } = options
  signal?.throwIfAborted()
  const client = kubeconfig === undefined && context === undefined
    ? KubernetesClient.layer
    : KubernetesClient.layerKubeconfig({ file: kubeconfig, context })
  const whileLeading = again === true ? LeaderElection.whileLeadingForever : LeaderElection.whileLeading
  const exit = await Effect.runPromiseExit(
    Effect.gen(function*() {
      if (onStatus !== undefined) {
        yield* LeaderElection.changes.pipe(
          Stream.runForEach((status) => Effect.ignore(Effect.try(() => onStatus(toStatus(status))))),
          Effect.forkScoped({ startImmediately: true })
        )
      }
      return yield* whileLeading(Effect.flatMap(Leadership.Leadership, (leadership) => run(leadership, program)))
    }).pipe(
      Effect.scoped,
      Effect.provide(Layer.provide(KubernetesLeaderElection.layer(settings), client)),
      Effect.provide(layerLogger(onLog ?? writeLine)),
      Effect.provideService(References.MinimumLogLevel, "Info")
    ),
    { signal }
  )
  if (Exit.isSuccess(exit)) {
    return exit.value
  }
  const failure = Cause.findErrorOption(exit.cause)
  if (Option.isSome(failure)) {
    throw failure.value instanceof ProgramError
      ? failure.value.error
      : toFailure(failure.value)
  }
  throw signal?.aborted === true && Cause.hasInterruptsOnly(exit.cause) ? signal.reason : Cause.squash(exit.cause)
}

// Tells the program's own errors from the election's, whatever the program throws.
class ProgramError {
  readonly error: unknown
  constructor(error: unknown) {
    this.error = error
  }
}

const run = <A>(
  leadership: Leadership.Leadership["Service"],
  program: (leadership: LeadershipHandle, signal: AbortSignal) => A | PromiseLike<A>
): Effect.Effect<A, ProgramError> =>
  Effect.suspend(() => {
    const controller = new AbortController()
    const settled = Promise.resolve().then(() => program(toHandle(leadership), controller.signal)).then(
      Exit.succeed,
      (error: unknown) => Exit.fail(new ProgramError(error))
    )
    return Effect.flatten(Effect.promise(() => settled)).pipe(
      // The Lease is not released before the program has ended.
      Effect.onInterrupt(() => {
        controller.abort()
        return Effect.promise(() => settled)
      })
    )
  })

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
  Pending: "holding",
  Leading: "leading",
  Ending: "ending"
} as const

const toStatus = (status: LeaderElectionStatus): Status => ({
  state: states[status._tag],
  leader: Option.getOrUndefined(status.leader),
  fencingToken: status._tag === "Leading" || status._tag === "Ending" ? status.term.fencingToken : undefined,
  cause: status._tag === "Ending" ? status.reason : undefined
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
      onLog({
        level: levels[logLevel],
        message: [...parts, ...causes].join(" "),
        annotations: fiber.getRef(References.CurrentLogAnnotations),
        time: date
      })
    })
  ])

const writeLine = ({ annotations, level, message, time }: LogEntry): void => {
  const lease = annotations["lease"] === undefined ? "" : ` ${annotations["lease"]}`
  process.stderr.write(`${time.toISOString()} ${level.toUpperCase()}${lease}: ${message}\n`)
}
