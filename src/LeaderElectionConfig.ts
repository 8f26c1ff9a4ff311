/**
 * The settings of one election: their defaults, where they come from, and the
 * rules that they have to keep.
 *
 * Only `name` has to be given, and inside a cluster POD_NAME and POD_UID.
 * {@link layer} takes what the program names and reads the rest from the
 * environment; {@link layerFromEnv} reads everything from it. All settings are
 * checked together, so that one error names everything that is wrong.
 *
 * @since 0.1.0
 */
import * as Config from "effect/Config"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Result from "effect/Result"
import * as SchemaIssue from "effect/SchemaIssue"
import * as Os from "node:os"
import * as DurationText from "./internal/duration.ts"
import * as Log from "./internal/log.ts"
import * as EnvironmentVariables from "./internal/protocol/environmentVariables.ts"
import * as Rules from "./internal/protocol/settings.ts"
import { InvalidSettings, LeaderElectionError } from "./LeaderElectionError.ts"

/**
 * The settings of one election, complete and checked.
 *
 * @category models
 * @since 0.1.0
 */
export interface Settings {
  /** Namespace of the Lease. */
  readonly namespace: string
  /** Name of the Lease, the same for all candidates. */
  readonly name: string
  /** Stands in the Lease as its holder, without line breaks. No two live processes may share one. */
  readonly identity: string
  /**
   * The Pod that the Lease names as its owner, so that Kubernetes removes the
   * Lease with it. `undefined`: the Lease gets no owner, and a leader that dies
   * is replaced when the lease runs out.
   */
  readonly pod: { readonly name: string; readonly uid: string } | undefined
  /**
   * How long the others wait after the last sign of life they saw before they
   * take the Lease. Whole seconds, 2 or more (1 is the mark of a release); use
   * the same for all candidates.
   *
   * Default 15 seconds. A shorter one replaces a crashed leader sooner, and
   * loses a healthy one to shorter pauses.
   */
  readonly leaseDuration: Duration.Duration
  /**
   * A renewal starts this long after the start of the last one that succeeded.
   *
   * Default `leaseDuration` / 3.
   */
  readonly renewInterval: Duration.Duration
  /**
   * No renewal succeeded for this long, counted from the start of the last one
   * that did: leadership is lost. What is left of `leaseDuration` after it is
   * the time that the program has to end in.
   *
   * Default `leaseDuration` × 2/3.
   */
  readonly renewDeadline: Duration.Duration
  /**
   * A failed or hung attempt is followed by the next this long after its start.
   * Also the poll interval where watching is not possible.
   *
   * Default `leaseDuration` × 2/15, at most 10 seconds.
   */
  readonly retryPeriod: Duration.Duration
  /**
   * After this long without an answer the next attempt begins beside the first,
   * which stays open.
   *
   * Default `retryPeriod`.
   */
  readonly requestTimeout: Duration.Duration
  /**
   * What to do with a Lease that may be younger than `leaseDuration`, because
   * someone deleted it while a leader that cannot be reached still runs.
   *
   * - `"wait"` (default): hold it, and begin to lead when it is old enough. Two
   *   leaders are never possible.
   * - `"lead"`: begin at once. A deleted Pod is replaced within milliseconds,
   *   and a leader that was cut off from the API server may run beside its
   *   successor for up to `renewDeadline`.
   */
  readonly newLease: "wait" | "lead"
  /**
   * Whether followers watch the Lease (default) or poll it every `retryPeriod`.
   */
  readonly watch: boolean
  /**
   * What this process publishes in the Lease while it holds it, for everybody
   * that may read Leases: its address or version, for example. At most 4096
   * bytes, without line breaks.
   */
  readonly note?: string | undefined
  /**
   * About how many candidates share the Lease, the same for all of them: for
   * crowds, such as a DaemonSet. Of more than 8 a handful, drawn by lot each
   * time, take a Lease that has become free at once. The others wait for
   * `retryPeriod` / 8 and a random part of 10 ms for each candidate, in all
   * `retryPeriod` at most, so that they see the winner first.
   *
   * Default: nobody waits, as with 8 or fewer, or without a watch.
   */
  readonly candidates?: number | undefined
}

/**
 * A duration in code: as Effect writes it (`"15 seconds"`, `Duration.seconds(15)`,
 * milliseconds), or as variables and options do (`"15s"`, `"1m30s"`).
 *
 * @category models
 * @since 0.2.0
 */
export type DurationInput = Duration.Input | string

/**
 * Settings as a program gives them. What is left out comes from the
 * environment, and then from the defaults.
 *
 * @category models
 * @since 0.1.0
 */
export interface Input {
  readonly namespace?: string | undefined
  readonly name?: string | undefined
  readonly identity?: string | undefined
  readonly pod?: { readonly name: string; readonly uid: string } | undefined
  readonly leaseDuration?: DurationInput | undefined
  readonly renewInterval?: DurationInput | undefined
  readonly renewDeadline?: DurationInput | undefined
  readonly retryPeriod?: DurationInput | undefined
  readonly requestTimeout?: DurationInput | undefined
  readonly newLease?: "wait" | "lead" | undefined
  readonly watch?: boolean | undefined
  readonly note?: string | undefined
  readonly candidates?: number | undefined
}

/**
 * The settings of one election, complete and checked.
 *
 * **Gotchas**
 *
 * The layers of this module check what they provide. A value provided in
 * another way (`Layer.succeed`) is used as it is.
 *
 * @category services
 * @since 0.1.0
 */
export class LeaderElectionConfig extends Context.Service<LeaderElectionConfig, Settings>()(
  "effect-kubernetes-leader-election/LeaderElectionConfig"
) {}

/**
 * Where the credentials come from, which decides two things: whether their
 * namespace goes before POD_NAMESPACE, and whether the Lease may name this Pod
 * as its owner. Provided by the layers that connect to Kubernetes.
 *
 * - `"pod"`: the service account of this Pod. Only then is the Lease in the
 *   Pod's own cluster for certain, and may name the Pod: in another cluster
 *   Kubernetes would find no such Pod, and delete the Lease.
 * - `"given"`: a kubeconfig that somebody asked for (an option, KUBECONFIG), or
 *   a server that the program names. Its namespace goes before POD_NAMESPACE.
 * - `"found"`: the kubeconfig in the home directory, where nothing else was found.
 *
 * @category references
 * @since 0.2.0
 */
export const CredentialsOrigin: Context.Reference<"pod" | "given" | "found"> = Context.Reference<
  "pod" | "given" | "found"
>(
  "effect-kubernetes-leader-election/LeaderElectionConfig/CredentialsOrigin",
  { defaultValue: () => "pod" }
)

/**
 * The namespace that the credentials belong to: the service account's inside a
 * cluster, the kubeconfig context's outside. It is used where no namespace is
 * given. Provided by the layers that connect to Kubernetes.
 *
 * @category references
 * @since 0.1.0
 */
export const CredentialsNamespace: Context.Reference<string | undefined> = Context.Reference<string | undefined>(
  "effect-kubernetes-leader-election/LeaderElectionConfig/CredentialsNamespace",
  { defaultValue: () => undefined }
)

/**
 * Whether what a program does not give is read from the environment. The stores
 * in memory provide `false`: neither a shell's variables nor a Pod around a
 * test change what it does.
 *
 * @category references
 * @since 0.2.0
 */
export const ReadsEnvironment: Context.Reference<boolean> = Context.Reference<boolean>(
  "effect-kubernetes-leader-election/LeaderElectionConfig/ReadsEnvironment",
  { defaultValue: () => true }
)

/**
 * What distinguishes this process from others where it runs in no Pod: the identity is
 * made from it there.
 *
 * @category references
 * @since 0.1.0
 */
export const CurrentProcess: Context.Reference<{ readonly hostName: string; readonly processId: number }> = Context
  .Reference<{ readonly hostName: string; readonly processId: number }>(
    "effect-kubernetes-leader-election/LeaderElectionConfig/CurrentProcess",
    { defaultValue: () => ({ hostName: Os.hostname(), processId: process.pid }) }
  )

/**
 * The environment variable of each setting.
 *
 * Durations are written as `15s`, `500ms`, `1m30s`, `15 seconds` or plain
 * seconds (`15`, `2.5`). Beside these, POD_NAME, POD_UID and POD_NAMESPACE are
 * read, and KUBERNETES_SERVICE_HOST shows that the process runs in a cluster.
 *
 * @category configuration
 * @since 0.1.0
 */
export const variables = EnvironmentVariables.variables

// -----------------------------------------------------------------------------
// Defaults
// -----------------------------------------------------------------------------

/**
 * Reads a duration as it is written in variables and options: `15s`, `500ms`,
 * `1m30s`, `15 seconds` or plain seconds. `None` where the text is none of these.
 *
 * @category durations
 * @since 0.2.0
 */
export const parseDuration = (text: string): Option.Option<Duration.Duration> =>
  Option.fromUndefinedOr(DurationText.parse(text))

/**
 * Writes a duration as {@link parseDuration} reads it: seconds, or milliseconds
 * below one second.
 *
 * @category durations
 * @since 0.2.0
 */
export const formatDuration = (duration: Duration.Duration): string => DurationText.format(duration)

/**
 * The settings that follow from a `leaseDuration`, with the other defaults.
 * Throws where it cannot be one.
 *
 * **Example** (Deriving the settings of a lease of one minute)
 *
 * ```ts
 * import { LeaderElectionConfig } from "effect-kubernetes-leader-election"
 *
 * LeaderElectionConfig.defaultsFor("1 minute") // renewInterval 20 s, renewDeadline 40 s, retryPeriod and requestTimeout 8 s
 * ```
 *
 * @category defaults
 * @since 0.1.0
 */
export const defaultsFor = (
  leaseDuration: DurationInput
): Omit<Settings, "namespace" | "name" | "identity" | "pod"> => {
  const problem = Rules.durationProblem("leaseDuration", leaseDuration)
  if (problem !== undefined) {
    throw invalid([`leaseDuration ${problem}`])
  }
  return Rules.defaultsFor(Duration.toNanosUnsafe(DurationText.read(leaseDuration)!))
}

/**
 * The settings of an election for which nothing but its name is given:
 * `leaseDuration` 15 s, `renewInterval` 5 s, `renewDeadline` 10 s,
 * `retryPeriod` and `requestTimeout` 2 s.
 *
 * @category defaults
 * @since 0.1.0
 */
export const defaults: Omit<Settings, "namespace" | "name" | "identity" | "pod"> = Rules.defaults

// -----------------------------------------------------------------------------
// Constructors
// -----------------------------------------------------------------------------

const invalid = (problems: ReadonlyArray<string>): LeaderElectionError =>
  new LeaderElectionError({ reason: new InvalidSettings({ problems }) })

/** Reads one variable; `""` where it is set, but empty. */
const readVariable = Effect.fnUntraced(function*(variable: string) {
  const value = yield* Config.option(Config.String(variable))
  if (Option.isSome(value)) {
    return value.value
  }
  const provider = yield* ConfigProvider.ConfigProvider
  const node = yield* provider.load([variable])
  if (node?._tag === "Record" || node?._tag === "Array") {
    return yield* new ConfigProvider.SourceError({
      message: `it is ${node._tag === "Array" ? "a list" : "a record"}: give text`
    })
  }
  // Effect's own providers hide variables that are set, but empty. Their names
  // still appear: among the children of their prefix, or of the whole.
  for (const path of [[variable], variable.split("_")]) {
    const parent = yield* provider.load(path.slice(0, -1))
    const isListed = parent?._tag === "Record" && parent.keys.has(path.at(-1) ?? "")
    if (isListed && (yield* provider.load(path)) === undefined) {
      return ""
    }
  }
  return undefined
})

const describeError = (error: Config.ConfigError | ConfigProvider.SourceError): string =>
  error._tag === "ConfigError" ? error.cause.message : error.message

const readEnvironment: Effect.Effect<Rules.Environment, LeaderElectionError> = Effect.gen(function*() {
  const read: Record<string, string | undefined> = {}
  const problems: Array<string> = []
  const names = (yield* ReadsEnvironment)
    ? [...Object.values(variables), ...EnvironmentVariables.podVariables]
    : []
  for (const variable of names) {
    const result = yield* Effect.result(readVariable(variable))
    if (Result.isSuccess(result)) {
      read[variable] = result.success
    } else {
      problems.push(`${variable} cannot be read: ${describeError(result.failure)}`)
    }
  }
  if (problems.length > 0) {
    return yield* invalid(problems)
  }
  const random = yield* Random.nextIntBetween(0, 2 ** 40 - 1)
  return {
    variables: read,
    credentialsNamespace: yield* CredentialsNamespace,
    credentialsOrigin: yield* CredentialsOrigin,
    process: yield* CurrentProcess,
    random: random.toString(16).padStart(10, "0")
  }
})

/**
 * Makes settings of `input`, for what it names, the environment for the rest,
 * and the defaults. Logs a warning for what is allowed, but unwise.
 *
 * **Details**
 *
 * - `namespace`: else LEADER_ELECTION_NAMESPACE, that of a kubeconfig that was
 *   asked for ({@link CredentialsOrigin}), POD_NAMESPACE, or that of the other
 *   credentials ({@link CredentialsNamespace}).
 * - `pod`: else POD_NAME and POD_UID, which have to be set inside a cluster
 *   (KUBERNETES_SERVICE_HOST is set), whatever the identity. It is left out, and
 *   need not be set, where the credentials are not those of the Pod's own
 *   service account; and, with a warning, in another namespace than the Lease's.
 * - `identity`: else `<pod name>_<pod uid>`; where there is no Pod, host name,
 *   process id and a random part.
 *
 * **Gotchas**
 *
 * A variable that is set but empty is an error, not one that is not set; in a
 * `ConfigProvider` of an object so is one that is `null` or `undefined`. Where
 * {@link ReadsEnvironment} is `false` no variable is read, and no Pod is asked
 * for.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: (input?: Input) => Effect.Effect<Settings, LeaderElectionError> = Effect.fnUntraced(
  function*(input: Input = {}) {
    const environment = yield* readEnvironment
    const resolved = Rules.resolve(input, environment)
    if (Result.isFailure(resolved)) {
      return yield* invalid(resolved.failure)
    }
    const { notices, settings, warnings } = resolved.success
    for (const notice of notices) {
      yield* Log.info(notice)
    }
    for (const warning of warnings) {
      yield* Log.warn(warning)
    }
    return settings
  }
)

/**
 * The namespace of the Lease, as {@link make} finds and checks it; `undefined`
 * where there is none. For tools that look at Leases and take part in no
 * election.
 *
 * @category accessors
 * @since 0.2.0
 */
export const namespace = (given?: string | undefined): Effect.Effect<string | undefined, LeaderElectionError> =>
  Effect.flatMap(readEnvironment, (environment) => {
    const resolved = Rules.resolveNamespace(given, environment)
    return Result.isFailure(resolved) ? Effect.fail(invalid(resolved.failure)) : Effect.succeed(resolved.success)
  })

// -----------------------------------------------------------------------------
// Layers
// -----------------------------------------------------------------------------

/**
 * The settings that the program names, the rest from the environment.
 *
 * **Example** (Naming the Lease, with a crashed leader replaced sooner)
 *
 * ```ts
 * import { LeaderElectionConfig } from "effect-kubernetes-leader-election"
 *
 * export const ConfigLive = LeaderElectionConfig.layer({ name: "invoices", leaseDuration: "10 seconds" })
 * ```
 *
 * @see {@link make} for where each setting comes from
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (input?: Input): Layer.Layer<LeaderElectionConfig, LeaderElectionError> =>
  Layer.effect(LeaderElectionConfig, make(input))

/**
 * All settings from the environment.
 *
 * @see {@link variables} for the names of the variables
 *
 * @category layers
 * @since 0.1.0
 */
export const layerFromEnv: Layer.Layer<LeaderElectionConfig, LeaderElectionError> = layer()

/**
 * The settings that the program reads with configs of its own, the rest from
 * the environment. One error names all that cannot be read.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (config: Config.Wrap<Input>): Layer.Layer<LeaderElectionConfig, LeaderElectionError> =>
  Layer.effect(
    LeaderElectionConfig,
    Effect.gen(function*() {
      const problems: Array<string> = []
      const input = yield* readWrapped(config, [], problems)
      return problems.length > 0 ? yield* invalid(problems) : yield* make(input as Input)
    })
  )

/** What the configs give; what they cannot read is added to `problems`. */
const readWrapped = (
  config: unknown,
  setting: ReadonlyArray<string>,
  problems: Array<string>
): Effect.Effect<unknown> =>
  Effect.gen(function*() {
    if (config === undefined) {
      return undefined
    }
    if (Config.isConfig(config)) {
      const result = yield* Effect.result(config)
      if (Result.isFailure(result)) {
        problems.push(...(yield* configProblems(result.failure, setting.join("."))))
        return undefined
      }
      return result.success
    }
    if (typeof config !== "object" || config === null) {
      problems.push(`${setting.join(".")} is not a Config: wrap the value in Config.succeed`)
      return undefined
    }
    const read: Record<string, unknown> = {}
    for (const [name, wrapped] of Object.entries(config)) {
      read[name] = yield* readWrapped(wrapped, [...setting, name], problems)
    }
    return read
  })

const configProblems = Effect.fnUntraced(function*({ cause }: Config.ConfigError, setting: string) {
  const provider = yield* ConfigProvider.ConfigProvider
  if (cause._tag === "SourceError") {
    return [`${setting} cannot be read: ${cause.message}`]
  }
  const problems: Array<string> = []
  for (const { message, path = [] } of SchemaIssue.makeFormatterStandardSchemaV1()(cause.issue).issues) {
    const keys = path.map((key) => typeof key === "object" ? String(key.key) : String(key))
    const variable = keys.join("_")
    const what = setting === "" ? variable : `${setting} (${variable})`
    const node = yield* Effect.orElseSucceed(provider.load(keys), () => undefined)
    problems.push(
      node === undefined
        ? `${what} is not set: set it, or give its Config a default`
        : `${what} is ${node._tag === "Value" ? JSON.stringify(node.value) : "not text"}: ` +
          message.replace(/^E/, "e") +
          (message.includes("Duration") ? `, such as "15 seconds"; Config.String takes ${DurationText.examples}` : "")
    )
  }
  return problems
})

// -----------------------------------------------------------------------------
// Converting
// -----------------------------------------------------------------------------

/**
 * What {@link toEnvironment} gives.
 *
 * @category models
 * @since 0.2.0
 */
export type EnvironmentOf =
  & Readonly<Record<(typeof variables)[Exclude<keyof typeof variables, "note" | "candidates">], string>>
  & { readonly LEADER_ELECTION_NOTE?: string; readonly LEADER_ELECTION_CANDIDATES?: string }

/**
 * The settings as variables, for another process that reads them with
 * {@link layerFromEnv}. It reads the same settings from them where its
 * POD_NAME, POD_UID and POD_NAMESPACE are the same, which a child inherits.
 *
 * @category converting
 * @since 0.1.0
 */
export const toEnvironment = (settings: Settings): EnvironmentOf => ({
  LEADER_ELECTION_NAMESPACE: settings.namespace,
  LEADER_ELECTION_NAME: settings.name,
  LEADER_ELECTION_IDENTITY: settings.identity,
  LEADER_ELECTION_LEASE_DURATION: DurationText.format(settings.leaseDuration),
  LEADER_ELECTION_RENEW_INTERVAL: DurationText.format(settings.renewInterval),
  LEADER_ELECTION_RENEW_DEADLINE: DurationText.format(settings.renewDeadline),
  LEADER_ELECTION_RETRY_PERIOD: DurationText.format(settings.retryPeriod),
  LEADER_ELECTION_REQUEST_TIMEOUT: DurationText.format(settings.requestTimeout),
  LEADER_ELECTION_NEW_LEASE: settings.newLease,
  LEADER_ELECTION_WATCH: String(settings.watch),
  ...(settings.note !== undefined && { LEADER_ELECTION_NOTE: settings.note }),
  ...(settings.candidates !== undefined && { LEADER_ELECTION_CANDIDATES: String(settings.candidates) })
})
