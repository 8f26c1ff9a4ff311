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
import * as Os from "node:os"
import * as DurationText from "./internal/duration.ts"
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
  /** Stands in the Lease as its holder. No two live processes may share one. */
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
   * bytes.
   */
  readonly note?: string | undefined
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
 * - `"found"`: the kubeconfig in the home directory, for want of anything else.
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
 * What tells this process from others where it runs in no Pod: the identity is
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
export const variables = {
  namespace: "LEADER_ELECTION_NAMESPACE",
  name: "LEADER_ELECTION_NAME",
  identity: "LEADER_ELECTION_IDENTITY",
  leaseDuration: "LEADER_ELECTION_LEASE_DURATION",
  renewInterval: "LEADER_ELECTION_RENEW_INTERVAL",
  renewDeadline: "LEADER_ELECTION_RENEW_DEADLINE",
  retryPeriod: "LEADER_ELECTION_RETRY_PERIOD",
  requestTimeout: "LEADER_ELECTION_REQUEST_TIMEOUT",
  newLease: "LEADER_ELECTION_NEW_LEASE",
  watch: "LEADER_ELECTION_WATCH",
  note: "LEADER_ELECTION_NOTE"
} as const

// -----------------------------------------------------------------------------
// Defaults
// -----------------------------------------------------------------------------

const second = 1_000_000_000n
const maxRetryPeriod = 10n * second
// `leaseDurationSeconds` is an int32.
const maxLeaseDuration = 2_147_483_647n * second
const shortLeaseDuration = 5n * second
// One second is the mark of a release: a live Lease of one second whose holder somebody removes would look released.
const minLeaseDuration = 2n * second
// What is shorter was meant in seconds.
const minPeriod = 50_000_000n

const derived = {
  renewInterval: (leaseDuration: bigint) => leaseDuration / 3n,
  renewDeadline: (leaseDuration: bigint) => leaseDuration * 2n / 3n,
  retryPeriod: (leaseDuration: bigint) => {
    const period = leaseDuration * 2n / 15n
    return period < maxRetryPeriod ? period : maxRetryPeriod
  }
}

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
  leaseDuration: Duration.Input
): Omit<Settings, "namespace" | "name" | "identity" | "pod"> => {
  const nanos = Duration.toNanosUnsafe(leaseDuration)
  const retryPeriod = DurationText.fromNanos(derived.retryPeriod(nanos))
  return {
    leaseDuration: DurationText.fromNanos(nanos),
    renewInterval: DurationText.fromNanos(derived.renewInterval(nanos)),
    renewDeadline: DurationText.fromNanos(derived.renewDeadline(nanos)),
    retryPeriod,
    requestTimeout: retryPeriod,
    newLease: "wait",
    watch: true
  }
}

/**
 * The settings of an election for which nothing but its name is given:
 * `leaseDuration` 15 s, `renewInterval` 5 s, `renewDeadline` 10 s,
 * `retryPeriod` and `requestTimeout` 2 s.
 *
 * @category defaults
 * @since 0.1.0
 */
export const defaults: Omit<Settings, "namespace" | "name" | "identity" | "pod"> = defaultsFor(Duration.seconds(15))

// -----------------------------------------------------------------------------
// Rules
// -----------------------------------------------------------------------------

type Setting = keyof typeof variables
type DurationSetting = "leaseDuration" | "renewInterval" | "renewDeadline" | "retryPeriod" | "requestTimeout"

const podVariables = ["POD_NAME", "POD_UID", "POD_NAMESPACE"] as const

/**
 * Everything that {@link resolve} has to know of its surroundings.
 *
 * @internal
 */
export interface Environment {
  /** As they are set; `""` where a variable is set, but empty. */
  readonly variables: Readonly<Record<string, string | undefined>>
  readonly credentialsNamespace: string | undefined
  /** See {@link CredentialsOrigin}. */
  readonly credentialsOrigin: "pod" | "given" | "found"
  readonly process: { readonly hostName: string; readonly processId: number }
  /** Differs between any two processes. */
  readonly random: string
}

/**
 * Settings that keep all rules, with what is allowed but unwise.
 *
 * @internal
 */
export interface Resolved {
  readonly settings: Settings
  readonly warnings: ReadonlyArray<string>
  /** What is as it should be, but may surprise. */
  readonly notices: ReadonlyArray<string>
}

const label = /^[a-z0-9](?:[-a-z0-9]*[a-z0-9])?$/
const uid = /^[-A-Za-z0-9._:]{1,253}$/
const maxIdentity = 1024

const quote = (value: string): string => JSON.stringify(value.length <= 300 ? value : `${value.slice(0, 300)}…`)

// The rules of each kind of text: what is wrong with it, or undefined.
const labelProblem = (text: string): string | undefined =>
  text.length <= 63 && label.test(text) ? undefined : `is ${quote(text)}`
const subdomainProblem = (text: string): string | undefined =>
  text.length <= 253 && text.split(".").every((part) => label.test(part)) ? undefined : `is ${quote(text)}`
const uidProblem = (text: string): string | undefined => uid.test(text) ? undefined : `is ${quote(text)}`
const maxNoteBytes = 4096
const noteProblem = (text: string): string | undefined => {
  const { length } = new TextEncoder().encode(text)
  return length <= maxNoteBytes ? undefined : `has ${length} bytes`
}
const lengthProblem = (text: string): string | undefined =>
  text.length <= maxIdentity ? undefined : `has ${text.length} characters, and at most ${maxIdentity} are allowed`

/** `leaseDuration (LEADER_ELECTION_LEASE_DURATION)`. */
const called = (setting: Setting): string => `${setting} (${variables[setting]})`

const fieldRef = (variable: string, path: string): string =>
  `{ name: ${variable}, valueFrom: { fieldRef: { fieldPath: ${path} } } }`

// Kubernetes leaves `$(X)` as it is where X is not defined, or only further down; `${X}` it never expands.
const unexpanded = /\$\([^)]*\)|\$\{[^}]*\}/

/** What a template makes of a value that is not there: `undefined`, `undefined_undefined`, `null`. */
const isInterpolatedNothing = (text: string): boolean => {
  const words = text.split(/[^\p{L}\p{N}]+/u).filter((word) => word !== "")
  return words.length > 0 && words.every((word) => word === "undefined" || word === "null")
}

/** What is wrong with a text before its own rules are asked; `undefined` where nothing is. */
const textProblem = (text: string): string | undefined =>
  text === ""
    ? "is set, but empty"
    : text.trim() === ""
    ? `is ${quote(text)}, only white space`
    : isInterpolatedNothing(text)
    ? `is ${quote(text)}: a value that it was made from is missing`
    : unexpanded.test(text)
    ? `is ${quote(text)}: the variable in it was not replaced (define it above this one, and write $(VARIABLE))`
    : undefined

const booleans: ReadonlyMap<string, boolean> = new Map([
  ["true", true],
  ["yes", true],
  ["on", true],
  ["1", true],
  ["y", true],
  ["false", false],
  ["no", false],
  ["off", false],
  ["0", false],
  ["n", false]
])

const readDuration = (given: Duration.Input | string): Duration.Duration | undefined => {
  if (typeof given === "string") {
    return DurationText.parse(given)
  }
  // Effect takes NaN for zero.
  return Number.isNaN(given) ? undefined : Option.getOrUndefined(Duration.fromInput(given))
}

/** The value as it was given: a bare number has to show its unit, or the mistake stays hidden. */
const showDuration = (given: Duration.Input | string): string => {
  switch (typeof given) {
    case "string":
      return quote(given)
    case "number":
      return `${given} (a number in code is milliseconds)`
    case "bigint":
      return `${given} (a bigint in code is nanoseconds)`
    default: {
      const duration = readDuration(given)
      return duration === undefined ? "no duration" : DurationText.format(duration)
    }
  }
}

const show = (nanos: bigint): string => DurationText.format(DurationText.fromNanos(nanos))

const leaseDurationProblem = (nanos: bigint, shown: string): string | undefined => {
  if (nanos > maxLeaseDuration) {
    return `is ${shown}: a Lease holds at most ${show(maxLeaseDuration)}`
  }
  if (nanos % second === 0n && nanos >= minLeaseDuration) {
    return undefined
  }
  const below = nanos - nanos % second
  return `is ${shown}: a Lease holds whole seconds, and less than 2 is the mark of a release; give ` +
    (below < minLeaseDuration ? show(minLeaseDuration) : `${show(below)} or ${show(below + second)}`)
}

// An empty one of the credentials means none.
const pickNamespace = (given: string | undefined, environment: Environment): readonly [string | undefined, string] => {
  const { credentialsNamespace, credentialsOrigin, variables: env } = environment
  return given != null || env[variables.namespace] !== undefined
    ? [given ?? env[variables.namespace], called("namespace")]
    : credentialsNamespace && credentialsOrigin === "given"
    ? [credentialsNamespace, "namespace (of the credentials)"]
    : env["POD_NAMESPACE"] !== undefined
    ? [env["POD_NAMESPACE"], "namespace (POD_NAMESPACE)"]
    : [credentialsNamespace || undefined, "namespace (of the credentials)"]
}

/**
 * Makes settings of what the program gives, the environment and the defaults.
 * Fails with one sentence for everything that is wrong, each naming the
 * setting, its variable, the value and the remedy.
 *
 * @internal
 */
export const resolve = (input: Input, environment: Environment): Result.Result<Resolved, ReadonlyArray<string>> => { // oxlint-disable-line max-lines-per-function -- one pass over all settings, so that every mistake is reported together
  const problems: Array<string> = []
  const warnings: Array<string> = []
  const notices: Array<string> = []
  const env = environment.variables
  const inside = (env["KUBERNETES_SERVICE_HOST"] ?? "") !== ""
  const isOwnCluster = environment.credentialsOrigin === "pod"

  const text = (
    value: string,
    what: string,
    remedy: string,
    rule: (text: string) => string | undefined
  ): string | undefined => {
    const problem = textProblem(value) ?? rule(value)
    if (problem === undefined) {
      return value
    }
    problems.push(`${what} ${problem}: ${remedy}`)
    return undefined
  }
  const missing = (what: string, remedy: string): undefined => {
    problems.push(`${what} is not set: ${remedy}`)
  }

  // --- Lease ---

  const nameRemedy = "give the name of the Lease, the same for all replicas: at most 253 small letters, digits, " +
    `"-" and ".", such as ${variables.name}=my-service`
  const givenName = input.name ?? env[variables.name]
  const name = givenName === undefined
    ? missing(called("name"), nameRemedy)
    : text(givenName, called("name"), nameRemedy, subdomainProblem)

  const namespaceRemedy = inside
    ? "give the namespace of the Lease, or add to the container's env: " +
      fieldRef("POD_NAMESPACE", "metadata.namespace")
    : `give the namespace of the Lease: at most 63 small letters, digits and "-", such as ${variables.namespace}=default`
  const [givenNamespace, namespaceSource] = pickNamespace(input.namespace, environment)
  const namespace = givenNamespace === undefined
    ? missing(called("namespace"), namespaceRemedy)
    : text(givenNamespace, namespaceSource, namespaceRemedy, labelProblem)

  // --- Pod ---

  const needsPod = isOwnCluster &&
    (inside || input.pod != null || env["POD_NAME"] !== undefined || env["POD_UID"] !== undefined)
  const podPart = (
    part: "name" | "uid",
    variable: "POD_NAME" | "POD_UID",
    rule: (text: string) => string | undefined
  ): string | undefined => {
    const what = `pod.${part} (${variable})`
    const remedy = `add to the container's env: ${fieldRef(variable, `metadata.${part}`)}`
    const given = input.pod?.[part] ?? env[variable]
    return given !== undefined
      ? text(given, what, remedy, rule)
      : !needsPod
      ? undefined
      : inside
      ? missing(what, `in a cluster the Lease names its leader's Pod; ${remedy}`)
      : missing(what, "of POD_NAME and POD_UID give both, or neither")
  }
  const podName = podPart("name", "POD_NAME", subdomainProblem)
  const podUid = podPart("uid", "POD_UID", uidProblem)
  const self = podName === undefined || podUid === undefined ? undefined : { name: podName, uid: podUid }

  if (!isOwnCluster && (inside || self !== undefined)) {
    notices.push(
      "The Lease does not name this Pod as its owner, because the credentials are not those of the Pod's own service " +
        "account: in another cluster Kubernetes would find no such Pod, and delete the Lease"
    )
  }
  // An owner has to be in the namespace of what it owns: the garbage collector
  // would find no such Pod beside the Lease, and delete the Lease at once.
  const podNamespace = env["POD_NAMESPACE"] || (inside ? environment.credentialsNamespace || undefined : undefined)
  const isElsewhere = isOwnCluster && namespace !== undefined && podNamespace !== undefined &&
    podNamespace !== namespace
  if (isElsewhere && self !== undefined) {
    warnings.push(
      `${called("namespace")} is ${quote(namespace)}, but this Pod is in ${quote(podNamespace)}: a Lease cannot name ` +
        "a Pod of another namespace as its owner, so Kubernetes will not remove it with the Pod, and a leader that " +
        "dies is replaced when its lease runs out"
    )
  }

  // --- Identity ---

  const givenIdentity = input.identity ?? env[variables.identity]
  const { hostName, processId } = environment.process
  const identity = givenIdentity !== undefined
    ? text(
      givenIdentity,
      called("identity"),
      "give every process its own, or none: it is then made from POD_NAME and POD_UID",
      lengthProblem
    )
    : self !== undefined
    ? `${self.name}_${self.uid}`
    : `${hostName}_${processId}_${environment.random}`

  // --- Durations, in nanoseconds ---

  const notGiven: Array<string> = []
  const duration = (setting: DurationSetting, fallback: bigint | undefined): bigint | undefined => {
    const given = input[setting] ?? env[variables[setting]]
    if (given === undefined) {
      notGiven.push(setting)
      return fallback
    }
    const value = readDuration(given)
    const problem = given === ""
      ? `is set, but empty: write it as ${DurationText.examples}`
      : value === undefined
      ? `is ${showDuration(given)}: write it as ${DurationText.examples}`
      : !Duration.isFinite(value) || !Duration.isPositive(value)
      ? `is ${showDuration(given)}: it must be more than 0, and finite`
      : setting === "leaseDuration"
      ? leaseDurationProblem(Duration.toNanosUnsafe(value), showDuration(given))
      : Duration.toNanosUnsafe(value) < minPeriod
      ? `is ${showDuration(given)}: give ${show(minPeriod)} or more (a bare number in a variable is seconds, and in ` +
        "code milliseconds)"
      : undefined
    if (problem === undefined && value !== undefined) {
      return Duration.toNanosUnsafe(value)
    }
    problems.push(`${called(setting)} ${problem}`)
    return undefined
  }
  // Without a leaseDuration nothing can be derived, and what is given is still checked.
  const derive = (from: bigint | undefined, rule: (from: bigint) => bigint) => from === undefined ? from : rule(from)

  const leaseDuration = duration("leaseDuration", Duration.toNanosUnsafe(defaults.leaseDuration))
  const renewInterval = duration("renewInterval", derive(leaseDuration, derived.renewInterval))
  const renewDeadline = duration("renewDeadline", derive(leaseDuration, derived.renewDeadline))
  const retryPeriod = duration("retryPeriod", derive(leaseDuration, derived.retryPeriod))
  const requestTimeout = duration("requestTimeout", retryPeriod)

  const hint = (...settings: ReadonlyArray<DurationSetting>): string => {
    const those = settings.filter((setting) => notGiven.includes(setting))
    return those.length === 0 ? "" : ` (not given: ${those.join(", ")})`
  }
  if (renewDeadline !== undefined && leaseDuration !== undefined) {
    if (renewDeadline * 100n > leaseDuration * 95n) {
      problems.push(
        `renewDeadline must be at most 0.95 × leaseDuration, but ${show(renewDeadline)} > 0.95 × ${
          show(leaseDuration)
        }` +
          `${hint("renewDeadline", "leaseDuration")}: no time would remain for a program to end before another ` +
          `candidate may lead; lower ${called("renewDeadline")} or raise ${called("leaseDuration")}`
      )
    } else if (renewDeadline * 100n > leaseDuration * 90n) {
      warnings.push(
        `${called("renewDeadline")} is ${show(renewDeadline)} of ${
          show(leaseDuration)
        }: a program that loses its term ` +
          `has only ${show(leaseDuration * 95n / 100n - renewDeadline)} to end in before that is an overrun`
      )
    }
  }
  if (renewInterval !== undefined && requestTimeout !== undefined && renewDeadline !== undefined) {
    // A renewal that hangs, the next one beside it, and the time that one may take.
    const [longer, name] = retryPeriod !== undefined && retryPeriod > requestTimeout
      ? [retryPeriod, "retryPeriod"]
      : [requestTimeout, "requestTimeout"]
    const needed = renewInterval + longer + requestTimeout
    if (needed > renewDeadline) {
      problems.push(
        "renewInterval + the longer of retryPeriod and requestTimeout + requestTimeout must be at most renewDeadline, " +
          `or one hung request costs the term, but ${show(renewInterval)} + ${show(longer)} (${name}) + ` +
          `${show(requestTimeout)} = ${show(needed)} > ${show(renewDeadline)}` +
          `${hint("renewInterval", "retryPeriod", "requestTimeout", "renewDeadline")}: lower ` +
          `${called("renewInterval")}, ${called("retryPeriod")} or ${called("requestTimeout")}, or raise ` +
          called("renewDeadline")
      )
    }
  }
  if (leaseDuration !== undefined && leaseDuration < shortLeaseDuration) {
    warnings.push(
      `${called("leaseDuration")} is ${show(leaseDuration)}: below ${show(shortLeaseDuration)} an ordinary pause ` +
        "(garbage collection, a slow answer of the API server) may cost a healthy leader its term"
    )
  }

  // --- Choices ---

  const givenNewLease: string = input.newLease ?? env[variables.newLease] ?? defaults.newLease
  const newLease = givenNewLease === "wait" || givenNewLease === "lead" ? givenNewLease : undefined
  if (newLease === undefined) {
    problems.push(`${called("newLease")} is ${quote(givenNewLease)}: give "wait" or "lead"`)
  }
  const givenWatch = input.watch ?? env[variables.watch] ?? defaults.watch
  const watch = typeof givenWatch === "string" ? booleans.get(givenWatch) : givenWatch
  if (watch === undefined) {
    problems.push(`${called("watch")} is ${quote(String(givenWatch))}: give "true" or "false"`)
  }

  const givenNote = input.note ?? env[variables.note]
  const note = givenNote === undefined
    ? undefined
    : text(givenNote, called("note"), "give at most 4096 bytes of text, or none", noteProblem)

  return problems.length > 0 ||
      name === undefined || namespace === undefined || identity === undefined ||
      leaseDuration === undefined || renewInterval === undefined || renewDeadline === undefined ||
      retryPeriod === undefined || requestTimeout === undefined ||
      newLease === undefined || watch === undefined
    ? Result.fail(problems)
    : Result.succeed({
      settings: {
        namespace,
        name,
        identity,
        pod: isElsewhere || !isOwnCluster ? undefined : self,
        leaseDuration: DurationText.fromNanos(leaseDuration),
        renewInterval: DurationText.fromNanos(renewInterval),
        renewDeadline: DurationText.fromNanos(renewDeadline),
        retryPeriod: DurationText.fromNanos(retryPeriod),
        requestTimeout: DurationText.fromNanos(requestTimeout),
        newLease,
        watch,
        ...(note !== undefined && { note })
      },
      warnings,
      notices
    })
}

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
  // Effect's own provider hides variables that are set, but empty. Their names
  // still appear among the children of their prefix.
  const provider = yield* ConfigProvider.ConfigProvider
  const path = variable.split("_")
  const parent = yield* provider.load(path.slice(0, -1))
  const isListed = parent?._tag === "Record" && parent.keys.has(path.at(-1) ?? "")
  return isListed && (yield* provider.load(path)) === undefined ? "" : undefined
})

const readEnvironment: Effect.Effect<Environment, LeaderElectionError> = Effect.gen(function*() {
  const read: Record<string, string | undefined> = {}
  const problems: Array<string> = []
  const names = (yield* ReadsEnvironment)
    ? [...Object.values(variables), ...podVariables, "KUBERNETES_SERVICE_HOST"]
    : []
  for (const variable of names) {
    const result = yield* Effect.result(readVariable(variable))
    if (Result.isSuccess(result)) {
      read[variable] = result.success
    } else {
      problems.push(`${variable} cannot be read: ${result.failure.message}`)
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
 * A variable that is set but empty is an error, not one that is not set. Where
 * {@link ReadsEnvironment} is `false` no variable is read, and no Pod is asked
 * for.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: (input?: Input) => Effect.Effect<Settings, LeaderElectionError> = Effect.fnUntraced(
  function*(input: Input = {}) {
    const environment = yield* readEnvironment
    const resolved = resolve(input, environment)
    if (Result.isFailure(resolved)) {
      return yield* invalid(resolved.failure)
    }
    const { notices, settings, warnings } = resolved.success
    for (const notice of notices) {
      yield* Effect.logInfo(notice)
    }
    for (const warning of warnings) {
      yield* Effect.logWarning(warning)
    }
    return settings
  }
)

/**
 * The namespace of the Lease, as {@link make} finds it; `undefined` where there
 * is none. For tools that look at Leases and take part in no election.
 *
 * @category accessors
 * @since 0.2.0
 */
export const namespace = (given?: string | undefined): Effect.Effect<string | undefined, LeaderElectionError> =>
  Effect.map(readEnvironment, (environment) => pickNamespace(given, environment)[0] || undefined)

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
 * the environment.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (config: Config.Wrap<Input>): Layer.Layer<LeaderElectionConfig, LeaderElectionError> =>
  Layer.effect(
    LeaderElectionConfig,
    Config.unwrap(config).pipe(
      Effect.mapError((error) => invalid([error.message])),
      Effect.flatMap(make)
    )
  )

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
  & Readonly<Record<(typeof variables)[Exclude<Setting, "note">], string>>
  & { readonly LEADER_ELECTION_NOTE?: string }

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
  ...(settings.note !== undefined && { LEADER_ELECTION_NOTE: settings.note })
})
