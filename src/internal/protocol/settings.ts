/**
 * The rules of the settings: what they default to, what each of them may be,
 * and what they must keep among each other.
 *
 * All of them are checked together, so that one error lists everything that is
 * wrong; each problem names the setting, its variable, the value and the
 * remedy.
 *
 * @internal
 */
import * as Duration from "effect/Duration"
import * as Result from "effect/Result"
import type { Input, Settings } from "../../LeaderElectionConfig.ts"
import * as DurationText from "../duration.ts"
import { variables } from "./environmentVariables.ts"

type Setting = keyof typeof variables
type DurationSetting = "leaseDuration" | "renewInterval" | "renewDeadline" | "retryPeriod" | "requestTimeout"
type Pod = NonNullable<Settings["pod"]>

/** What {@link resolve} takes from outside of the program. */
export interface Environment {
  /** As they are set; `""` where a variable is set, but empty. */
  readonly variables: Readonly<Record<string, string | undefined>>
  readonly credentialsNamespace: string | undefined
  /** Where the credentials come from: `CredentialsOrigin` of the public module. */
  readonly credentialsOrigin: "pod" | "given" | "found"
  readonly process: { readonly hostName: string; readonly processId: number }
  /** Differs between any two processes. */
  readonly random: string
}

/** Settings that keep all rules, with what is allowed but unwise. */
export interface Resolved {
  readonly settings: Settings
  readonly warnings: ReadonlyArray<string>
  /** What is as it should be, but may surprise. */
  readonly notices: ReadonlyArray<string>
}

// --- Defaults --------------------------------------------------------------------------------------

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

/** The settings that follow from a leaseDuration, in nanoseconds, with the other defaults. */
export const defaultsFor = (leaseDuration: bigint): Omit<Settings, "namespace" | "name" | "identity" | "pod"> => {
  const retryPeriod = DurationText.fromNanos(derived.retryPeriod(leaseDuration))
  return {
    leaseDuration: DurationText.fromNanos(leaseDuration),
    renewInterval: DurationText.fromNanos(derived.renewInterval(leaseDuration)),
    renewDeadline: DurationText.fromNanos(derived.renewDeadline(leaseDuration)),
    retryPeriod,
    requestTimeout: retryPeriod,
    newLease: "wait",
    watch: true
  }
}

/** Those of a Lease for which nothing is given. */
export const defaults = defaultsFor(15n * second)

// --- What each setting may be ----------------------------------------------------------------------

const label = /^[a-z0-9](?:[-a-z0-9]*[a-z0-9])?$/
const uid = /^[-A-Za-z0-9._:]{1,253}$/
const maxIdentity = 1024
// Control characters, and halves of a pair: they break log lines and terminals, and not every store keeps them.
const unprintable = /[\p{Cc}\p{Cs}]/gu

// Some control characters JSON leaves as they are.
const quote = (value: string): string =>
  JSON.stringify(value.length <= 300 ? value : `${value.slice(0, 300)}…`).replace(
    unprintable,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`
  )

/** A program in plain JavaScript gives what it likes. */
const showAny = (value: unknown): string =>
  typeof value === "string"
    ? quote(value)
    : Array.isArray(value)
    ? "a list"
    : typeof value === "object"
    ? "an object"
    : String(value)

// The rules of each kind of text: what is wrong with it, or undefined.
const labelProblem = (text: string): string | undefined =>
  text.length <= 63 && label.test(text) ? undefined : `is ${quote(text)}`
const subdomainProblem = (text: string): string | undefined =>
  text.length <= 253 && text.split(".").every((part) => label.test(part)) ? undefined : `is ${quote(text)}`
const uidProblem = (text: string): string | undefined => uid.test(text) ? undefined : `is ${quote(text)}`
const maxNoteBytes = 4096
const noteProblem = (text: string): string | undefined => {
  const { length } = new TextEncoder().encode(text)
  return length <= maxNoteBytes ? unprintableProblem(text) : `has ${length} bytes`
}
const identityProblem = (text: string): string | undefined =>
  text.length <= maxIdentity
    ? unprintableProblem(text)
    : `has ${text.length} characters, and at most ${maxIdentity} are allowed`
const unprintableProblem = (text: string): string | undefined =>
  text.search(unprintable) === -1
    ? undefined
    : `is ${quote(text)}, with a line break or another character that cannot be printed`

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
const pickNamespace = (
  given: string | undefined,
  environment: Environment
): readonly [string | undefined, string] => {
  const { credentialsNamespace, credentialsOrigin, variables: env } = environment
  return given != null || env[variables.namespace] !== undefined
    ? [given ?? env[variables.namespace], called("namespace")]
    : credentialsNamespace && credentialsOrigin === "given"
    ? [credentialsNamespace, "namespace (of the credentials)"]
    : env["POD_NAMESPACE"] !== undefined
    ? [env["POD_NAMESPACE"], "namespace (POD_NAMESPACE)"]
    : [credentialsNamespace || undefined, "namespace (of the credentials)"]
}

// --- All of them together --------------------------------------------------------------------------

/** What has been found so far: every rule adds to it, and none stops at the first problem. */
interface Findings {
  readonly problems: Array<string>
  readonly warnings: Array<string>
  readonly notices: Array<string>
}

const readText = (
  { problems }: Findings,
  value: string,
  what: string,
  remedy: string,
  rule: (text: string) => string | undefined
): string | undefined => {
  const problem = typeof value === "string"
    ? textProblem(value) ?? rule(value)
    : `is ${showAny(value)}, and not text`
  if (problem === undefined) {
    return value
  }
  problems.push(`${what} ${problem}: ${remedy}`)
  return undefined
}

const missing = ({ problems }: Findings, what: string, remedy: string): undefined => {
  problems.push(`${what} is not set: ${remedy}`)
}

const isInside = ({ variables: env }: Environment): boolean => (env["KUBERNETES_SERVICE_HOST"] ?? "") !== ""
const isOwnCluster = ({ credentialsOrigin }: Environment): boolean => credentialsOrigin === "pod"

const readName = (findings: Findings, input: Input, { variables: env }: Environment): string | undefined => {
  const remedy = "give the name of the Lease, the same for all replicas: at most 253 small letters, digits, " +
    `"-" and ".", such as ${variables.name}=my-service`
  const given = input.name ?? env[variables.name]
  return given === undefined
    ? missing(findings, called("name"), remedy)
    : readText(findings, given, called("name"), remedy, subdomainProblem)
}

const readNamespace = (findings: Findings, input: Input, environment: Environment): string | undefined => {
  const remedy = isInside(environment)
    ? "give the namespace of the Lease, or add to the container's env: " +
      fieldRef("POD_NAMESPACE", "metadata.namespace")
    : `give the namespace of the Lease: at most 63 small letters, digits and "-", such as ${variables.namespace}=default`
  const [given, source] = pickNamespace(input.namespace, environment)
  return given === undefined
    ? missing(findings, called("namespace"), remedy)
    : readText(findings, given, source, remedy, labelProblem)
}

/** The namespace alone; `undefined` where there is none. */
export const resolveNamespace = (
  given: string | undefined,
  environment: Environment
): Result.Result<string | undefined, ReadonlyArray<string>> => {
  const findings: Findings = { problems: [], warnings: [], notices: [] }
  if (pickNamespace(given, environment)[0] === undefined) {
    return Result.succeed(undefined)
  }
  const namespace = readNamespace(findings, { namespace: given }, environment)
  return findings.problems.length > 0 ? Result.fail(findings.problems) : Result.succeed(namespace)
}

/** This process's Pod, where it is known. */
const readPod = (findings: Findings, input: Input, environment: Environment): Pod | undefined => {
  const env = environment.variables
  const inside = isInside(environment)
  const isNeeded = isOwnCluster(environment) &&
    (inside || input.pod != null || env["POD_NAME"] !== undefined || env["POD_UID"] !== undefined)
  const part = (
    part: "name" | "uid",
    variable: "POD_NAME" | "POD_UID",
    rule: (text: string) => string | undefined
  ): string | undefined => {
    const what = `pod.${part} (${variable})`
    const remedy = `add to the container's env: ${fieldRef(variable, `metadata.${part}`)}`
    const given = input.pod?.[part] ?? env[variable]
    return given !== undefined
      ? readText(findings, given, what, remedy, rule)
      : !isNeeded
      ? undefined
      : inside
      ? missing(findings, what, `in a cluster the Lease names its leader's Pod; ${remedy}`)
      : missing(findings, what, "of POD_NAME and POD_UID give both, or neither")
  }
  const name = part("name", "POD_NAME", subdomainProblem)
  const uid = part("uid", "POD_UID", uidProblem)
  return name === undefined || uid === undefined ? undefined : { name, uid }
}

/**
 * The Pod that the Lease names as its owner. An owner has to be in the cluster
 * and the namespace of what it owns: elsewhere the garbage collector would find
 * no such Pod, and delete the Lease at once.
 */
const ownerOf = (
  { notices, warnings }: Findings,
  pod: Pod | undefined,
  namespace: string | undefined,
  environment: Environment
): Pod | undefined => {
  const inside = isInside(environment)
  if (!isOwnCluster(environment)) {
    if (inside || pod !== undefined) {
      notices.push(
        "The Lease does not name this Pod as its owner, because the credentials are not those of the Pod's own " +
          "service account: in another cluster Kubernetes would find no such Pod, and delete the Lease"
      )
    }
    return undefined
  }
  const podNamespace = environment.variables["POD_NAMESPACE"] ||
    (inside ? environment.credentialsNamespace || undefined : undefined)
  if (pod === undefined || namespace === undefined || podNamespace === undefined || podNamespace === namespace) {
    return pod
  }
  warnings.push(
    `${called("namespace")} is ${quote(namespace)}, but this Pod is in ${quote(podNamespace)}: a Lease cannot name ` +
      "a Pod of another namespace as its owner, so Kubernetes will not remove it with the Pod, and a leader that " +
      "dies is replaced when its lease runs out"
  )
  return undefined
}

const readIdentity = (
  findings: Findings,
  input: Input,
  pod: Pod | undefined,
  { process: { hostName, processId }, random, variables: env }: Environment
): string | undefined => {
  const given = input.identity ?? env[variables.identity]
  return given !== undefined
    ? readText(
      findings,
      given,
      called("identity"),
      "give every process its own, or none: it is then made from POD_NAME and POD_UID",
      identityProblem
    )
    : pod !== undefined
    ? `${pod.name}_${pod.uid}`
    : `${hostName}_${processId}_${random}`
}

/** What is wrong with a duration by itself; `undefined` where nothing is. */
export const durationProblem = (setting: DurationSetting, given: DurationText.Input): string | undefined => {
  const value = DurationText.read(given)
  return given === ""
    ? `is set, but empty: write it as ${DurationText.examples}`
    : value === undefined
    ? `is ${DurationText.show(given)}: write it as ${DurationText.examples}`
    : !Duration.isFinite(value) || !Duration.isPositive(value)
    ? `is ${DurationText.show(given)}: it must be more than 0, and finite`
    : setting === "leaseDuration"
    ? leaseDurationProblem(Duration.toNanosUnsafe(value), DurationText.show(given))
    : Duration.toNanosUnsafe(value) < minPeriod
    ? `is ${DurationText.show(given)}: give ${
      show(minPeriod)
    } or more (a bare number in a variable is seconds, and in ` +
      "code milliseconds)"
    : undefined
}

/** In nanoseconds; `undefined` where one is wrong, or follows from one that is. */
type Durations = Readonly<Record<DurationSetting, bigint | undefined>>

/** The durations, with the names of those that nobody gave. */
const readDurations = (
  { problems }: Findings,
  input: Input,
  { variables: env }: Environment
): readonly [Durations, notGiven: ReadonlyArray<DurationSetting>] => {
  const notGiven: Array<DurationSetting> = []
  const read = (setting: DurationSetting, fallback: bigint | undefined): bigint | undefined => {
    const given = input[setting] ?? env[variables[setting]]
    if (given === undefined) {
      notGiven.push(setting)
      return fallback
    }
    const problem = durationProblem(setting, given)
    if (problem === undefined) {
      return Duration.toNanosUnsafe(DurationText.read(given)!)
    }
    problems.push(`${called(setting)} ${problem}`)
    return undefined
  }
  // Without a leaseDuration nothing can be derived, and what is given is still checked.
  const derive = (rule: (from: bigint) => bigint) => leaseDuration === undefined ? undefined : rule(leaseDuration)
  const leaseDuration = read("leaseDuration", Duration.toNanosUnsafe(defaults.leaseDuration))
  const renewInterval = read("renewInterval", derive(derived.renewInterval))
  const renewDeadline = read("renewDeadline", derive(derived.renewDeadline))
  const retryPeriod = read("retryPeriod", derive(derived.retryPeriod))
  const requestTimeout = read("requestTimeout", retryPeriod)
  return [{ leaseDuration, renewInterval, renewDeadline, retryPeriod, requestTimeout }, notGiven]
}

/** What the durations must keep among each other. */
const checkDurations = (
  { problems, warnings }: Findings,
  { leaseDuration, renewDeadline, renewInterval, requestTimeout, retryPeriod }: Durations,
  notGiven: ReadonlyArray<DurationSetting>
): void => {
  const hint = (...settings: ReadonlyArray<DurationSetting>): string => {
    const those = settings.filter((setting) => notGiven.includes(setting))
    return those.length === 0 ? "" : ` (not given: ${those.join(", ")})`
  }
  if (renewDeadline !== undefined && leaseDuration !== undefined) {
    if (renewDeadline * 100n > leaseDuration * 95n) {
      problems.push(
        `renewDeadline must be at most 0.95 × leaseDuration, but ${show(renewDeadline)} > 0.95 × ` +
          `${show(leaseDuration)}${hint("renewDeadline", "leaseDuration")}: no time would remain for a program to ` +
          `end before another candidate may lead; lower ${called("renewDeadline")} or raise ${called("leaseDuration")}`
      )
    } else if (renewDeadline * 100n > leaseDuration * 90n) {
      warnings.push(
        `${called("renewDeadline")} is ${show(renewDeadline)} of ${show(leaseDuration)}: a program that loses its ` +
          `term has only ${show(leaseDuration * 95n / 100n - renewDeadline)} to end in before that is an overrun`
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
}

const readNewLease = ({ problems }: Findings, input: Input, { variables: env }: Environment) => {
  const given: unknown = input.newLease ?? env[variables.newLease] ?? defaults.newLease
  if (given === "wait" || given === "lead") {
    return given
  }
  problems.push(`${called("newLease")} is ${showAny(given)}: give "wait" or "lead"`)
  return undefined
}

const readWatch = ({ problems }: Findings, input: Input, { variables: env }: Environment): boolean | undefined => {
  const given = input.watch ?? env[variables.watch] ?? defaults.watch
  const watch: unknown = typeof given === "string" ? booleans.get(given.toLowerCase()) : given
  if (typeof watch === "boolean") {
    return watch
  }
  problems.push(`${called("watch")} is ${showAny(given)}: give "true" or "false" (or yes, no, on, off, 1, 0)`)
  return undefined
}

const readNote = (findings: Findings, input: Input, { variables: env }: Environment): string | undefined => {
  const given = input.note ?? env[variables.note]
  return given === undefined
    ? undefined
    : readText(findings, given, called("note"), "give at most 4096 bytes of text, or none", noteProblem)
}

const readCandidates = ({ problems }: Findings, input: Input, { variables: env }: Environment): number | undefined => {
  const given = input.candidates ?? env[variables.candidates]
  const candidates = typeof given === "string" ? (/^\d+$/.test(given) ? Number(given) : Number.NaN) : given
  if (candidates === undefined || (Number.isSafeInteger(candidates) && candidates > 0)) {
    return candidates
  }
  problems.push(
    `${called("candidates")} is ${showAny(given)}: give about how many share the Lease, a whole number, 1 or ` +
      "more, or none"
  )
  return undefined
}

/**
 * Makes settings of what the program gives, the environment and the defaults.
 * Fails with one sentence for everything that is wrong.
 */
export const resolve = (input: Input, environment: Environment): Result.Result<Resolved, ReadonlyArray<string>> => {
  const findings: Findings = { problems: [], warnings: [], notices: [] }
  const name = readName(findings, input, environment)
  const namespace = readNamespace(findings, input, environment)
  const pod = readPod(findings, input, environment)
  const owner = ownerOf(findings, pod, namespace, environment)
  const identity = readIdentity(findings, input, pod, environment)
  const [durations, notGiven] = readDurations(findings, input, environment)
  checkDurations(findings, durations, notGiven)
  const newLease = readNewLease(findings, input, environment)
  const watch = readWatch(findings, input, environment)
  const note = readNote(findings, input, environment)
  const candidates = readCandidates(findings, input, environment)
  const { notices, problems, warnings } = findings
  if (problems.length > 0) {
    return Result.fail(problems)
  }
  // What is undefined has left a problem, but for the Pod, the note and the candidates.
  const duration = (setting: DurationSetting) => DurationText.fromNanos(durations[setting]!)
  return Result.succeed({
    settings: {
      namespace: namespace!,
      name: name!,
      identity: identity!,
      pod: owner,
      leaseDuration: duration("leaseDuration"),
      renewInterval: duration("renewInterval"),
      renewDeadline: duration("renewDeadline"),
      retryPeriod: duration("retryPeriod"),
      requestTimeout: duration("requestTimeout"),
      newLease: newLease!,
      watch: watch!,
      ...(note !== undefined && { note }),
      ...(candidates !== undefined && { candidates })
    },
    warnings,
    notices
  })
}
