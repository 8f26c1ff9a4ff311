/**
 * What `effect-kubernetes-leader-election doctor` looks at. Each check says what it has found,
 * and, where that is not in order, what to do.
 *
 * @internal
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as DurationText from "../../DurationText.ts"
import { KubernetesClient } from "../../kubernetes/KubernetesClient.ts"
import { describe, type KubernetesError, status as statusOf } from "../../kubernetes/KubernetesError.ts"
import type { Settings } from "../../LeaderElectionConfig.ts"
import { decode, formatKey, type LeaseRecord } from "../../LeaseRecord.ts"
import { line } from "../shared/printable.ts"
import { measured } from "../shared/timeline.ts"
import { toStatus } from "../status/lease.ts"

/**
 * - `passed`, `failed`: as they say; one that failed makes the exit code 1.
 * - `warning`: works, but not as well as it could, or not under all circumstances.
 * - `unknown`: could not be found out.
 */
export interface Check {
  readonly name: string
  readonly outcome: "passed" | "failed" | "warning" | "unknown"
  readonly found: string
  readonly remedy?: string | undefined
}

type Checks = Effect.Effect<ReadonlyArray<Check>, never, KubernetesClient>

const check = (name: string) => (outcome: Check["outcome"], found: string, remedy?: string): Check => ({
  name,
  outcome,
  found,
  remedy
})

const because = (error: KubernetesError): string => describe(error.reason)

const leases = (namespace: string): string =>
  `/apis/coordination.k8s.io/v1/namespaces/${encodeURIComponent(namespace)}/leases`

// --- The server ---

const Version = Schema.Struct({ gitVersion: Schema.String })

/** Reachability, latency and the clock; `reachable` is false where nothing else can be asked. */
export const server = Effect.fnUntraced(function*(requestTimeoutMillis: number | undefined) {
  const client = yield* KubernetesClient
  const reach = check("API server")
  const clock = yield* Clock.Clock
  const now = () => Number(clock.monotonicTimeNanosUnsafe()) / 1e6
  const took: Array<number> = []
  let earliest = -Infinity
  let latest = Infinity
  let version: string | undefined
  // The first request opens the connection; a renewal finds it open, as the others here do.
  for (let attempt = 0; attempt < 6; attempt++) {
    const start = now()
    const wallBefore = clock.currentTimeMillisUnsafe()
    const result = yield* Effect.result(client.request({ method: "GET", path: "/version" }))
    if (Result.isFailure(result)) {
      const code = statusOf(result.failure)
      if (code === undefined || code >= 500) {
        return {
          reachable: false,
          checks: [reach(
            "failed",
            `${client.server} ${code === undefined ? "cannot be reached" : "is not well"}: ${because(result.failure)}`,
            "Check the address, the network between here and there (NetworkPolicy, firewall), and the CA."
          )]
        }
      }
      // Any answer shows that it is there; what is refused, the next checks say.
      return { reachable: true, checks: [reach("passed", `${client.server} answers (${code} to GET /version)`)] }
    }
    took.push(now() - start)
    version ??= Option.getOrUndefined(Schema.decodeUnknownOption(Version)(result.success.body))?.gitVersion
    const { serverTime } = result.success
    if (serverTime !== undefined) {
      // The Date is a whole second: it was made between these two times, at any moment of that second.
      earliest = Math.max(earliest, serverTime - clock.currentTimeMillisUnsafe())
      latest = Math.min(latest, serverTime + 1000 - wallBefore)
    }
  }
  const [first = 0, ...others] = took
  const sorted = others.toSorted((a, b) => a - b)
  const median = sorted[Math.floor(sorted.length / 2)] ?? 0
  const slowest = sorted.at(-1) ?? 0
  const latency = `first answer after ${measured(first)}, then ${measured(median)} (median), ${
    measured(slowest)
  } (slowest)`
  const slow = requestTimeoutMillis !== undefined && slowest > requestTimeoutMillis / 4
  return {
    reachable: true,
    checks: [
      reach("passed", `${client.server} answers${version === undefined ? "" : `, Kubernetes ${version}`}`),
      check("latency")(
        slow ? "warning" : "passed",
        latency,
        slow
          ? `More than a quarter of requestTimeout (${measured(requestTimeoutMillis)}): raise leaseDuration, ` +
            "so that a slow moment does not cost a healthy leader its term."
          : undefined
      ),
      clockOffset(earliest, latest)
    ]
  }
})

/** How far the server's clock is ahead of ours, as an interval in milliseconds. */
export const clockOffset = (earliest: number, latest: number): Check => {
  const clock = check("clock")
  if (!Number.isFinite(earliest) || !Number.isFinite(latest)) {
    return clock("unknown", "the API server does not say its time")
  }
  const least = earliest > 0 ? earliest : latest < 0 ? -latest : 0
  return least <= 1000
    ? clock("passed", `agrees with the API server's, as far as its whole seconds show`)
    : clock(
      "warning",
      `is ${measured(least)} ${earliest > 0 ? "behind" : "ahead of"} the API server's`,
      "The election does not depend on it, but certificates, tokens, logs and other implementations do: check NTP."
    )
}

// --- Credentials ---

const SelfReview = Schema.Struct({
  status: Schema.Struct({
    userInfo: Schema.Struct({
      username: Schema.String,
      extra: Schema.optional(Schema.Record(Schema.String, Schema.Array(Schema.String)))
    })
  })
})

/** Who the API server takes us for, and what the token says of the Pod. */
export const credentials = Effect.gen(function*() {
  const client = yield* KubernetesClient
  const credentials = check("credentials")
  const result = yield* Effect.result(client.request({
    method: "POST",
    path: "/apis/authentication.k8s.io/v1/selfsubjectreviews",
    body: { apiVersion: "authentication.k8s.io/v1", kind: "SelfSubjectReview" }
  }))
  if (Result.isSuccess(result)) {
    const review = Schema.decodeUnknownOption(SelfReview)(result.success.body)
    const userInfo = Option.getOrUndefined(review)?.status.userInfo
    const extra = (name: string) => userInfo?.extra?.[`authentication.kubernetes.io/${name}`]?.[0]
    return {
      checks: [
        userInfo === undefined
          ? credentials("unknown", "the API server accepts them, and does not say as whose")
          : credentials("passed", `accepted as ${userInfo.username}`)
      ],
      tokenPod: { name: extra("pod-name"), uid: extra("pod-uid") }
    }
  }
  const error = result.failure
  const failed = (() => {
    switch (statusOf(error)) {
      case 401:
        return credentials(
          "failed",
          `refused: ${because(error)}`,
          "Is the token expired, of another cluster, or of a service account that is deleted?"
        )
      case 403:
        return because(error).includes(`"system:anonymous"`)
          ? credentials(
            "failed",
            "no credentials arrive: the API server sees system:anonymous",
            "Mount the service account's token (automountServiceAccountToken), or give the kubeconfig's user credentials."
          )
          : credentials("unknown", `who they are cannot be asked: ${because(error)}`)
      case 404:
        return credentials("unknown", "this API server cannot be asked who they are (Kubernetes before 1.28)")
      default:
        return credentials("unknown", `who they are cannot be asked: ${because(error)}`)
    }
  })()
  return { checks: [failed], tokenPod: { name: undefined, uid: undefined } }
})

// --- Rights ---

const AccessReview = Schema.Struct({ status: Schema.Struct({ allowed: Schema.Boolean }) })

const rule = ({ name, namespace }: Settings, verb: string): string =>
  [
    `Add to a Role in namespace ${namespace} (effect-kubernetes-leader-election manifest prints all of it):`,
    `  - apiGroups: ["coordination.k8s.io"]`,
    `    resources: ["leases"]`,
    `    verbs: ["${verb}"]`,
    // The authoriser does not know the name of what is not there yet.
    ...(verb === "create" ? [] : [`    resourceNames: ["${name}"]`])
  ].join("\n")

/** Each right by itself, as the API server would judge it. */
export const rights = (settings: Settings): Checks =>
  Effect.forEach(["create", "get", "patch", "watch"] as const, (verb) =>
    Effect.gen(function*() {
      const client = yield* KubernetesClient
      const right = check(`right to ${verb}`)
      const what = verb === "create" ? `leases in ${settings.namespace}` : `the Lease ${formatKey(settings)}`
      const result = yield* Effect.result(client.request({
        method: "POST",
        path: "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        body: {
          apiVersion: "authorization.k8s.io/v1",
          kind: "SelfSubjectAccessReview",
          spec: {
            resourceAttributes: {
              group: "coordination.k8s.io",
              resource: "leases",
              namespace: settings.namespace,
              verb,
              ...(verb !== "create" && { name: settings.name })
            }
          }
        }
      }))
      const allowed = Result.isSuccess(result)
        ? Option.getOrUndefined(Schema.decodeUnknownOption(AccessReview)(result.success.body))?.status.allowed
        : undefined
      if (allowed === undefined) {
        return right(
          "unknown",
          Result.isFailure(result) ? `cannot be asked: ${because(result.failure)}` : "cannot be asked"
        )
      }
      if (allowed) {
        return right("passed", `granted: ${verb} ${what}`)
      }
      return verb !== "watch"
        ? right("failed", `missing: ${verb} ${what}`, rule(settings, verb))
        : settings.watch
        ? right("warning", `missing: watch ${what}; candidates poll instead`, rule(settings, verb))
        : right("passed", `not granted, and not needed: watch is false`)
    }))

// --- Namespace and Lease ---

/**
 * Whether the namespace exists: it is asked to create a Lease that can never be
 * valid, without storing it. A namespace that is missing is noticed first.
 */
const namespaceExists = Effect.fnUntraced(function*({ name, namespace }: Settings) {
  const client = yield* KubernetesClient
  const result = yield* Effect.result(client.request({
    method: "POST",
    path: leases(namespace),
    query: { dryRun: "All" },
    body: {
      apiVersion: "coordination.k8s.io/v1",
      kind: "Lease",
      metadata: { namespace, name },
      spec: { leaseDurationSeconds: 0 }
    }
  }))
  const code = Result.isFailure(result) ? statusOf(result.failure) : undefined
  return code === 404 ? false : code === 422 || code === 409 ? true : undefined
})

export const lease = Effect.fnUntraced(function*(settings: Settings) {
  const client = yield* KubernetesClient
  const lease = check("Lease")
  const key = formatKey(settings)
  const path = `${leases(settings.namespace)}/${encodeURIComponent(settings.name)}`
  const result = yield* Effect.result(client.request({ method: "GET", path }))
  if (Result.isFailure(result)) {
    if (statusOf(result.failure) !== 404) {
      return { checks: [lease("unknown", `cannot be read: ${because(result.failure)}`)], record: undefined }
    }
    const exists = yield* namespaceExists(settings)
    return {
      checks: [
        exists === false
          ? lease(
            "failed",
            `there is no namespace ${settings.namespace}`,
            "Create it, or give the namespace of the Lease."
          )
          : lease(
            "passed",
            `${key} does not exist yet: the first candidate creates it, and leads one leaseDuration later`
          )
      ],
      record: undefined
    }
  }
  const decoded = yield* Effect.result(decode(result.success.body))
  if (Result.isFailure(decoded)) {
    return { checks: [lease("failed", `${key} is not a valid Lease: ${decoded.failure.message}`)], record: undefined }
  }
  const record = decoded.success
  const now = result.success.serverTime ?? (yield* Clock.currentTimeMillis)
  return { checks: [holder(settings, record, now), ...suspicious(settings, record)], record }
})

/** Who holds it, by the clock of the API server. */
export const holder = (settings: Settings, record: LeaseRecord, now: number): Check => {
  const lease = check("Lease")
  const key = formatKey(settings)
  const holder = line(record.holderIdentity)
  const { ageSeconds, leaseDurationSeconds, state } = toStatus(record, { millis: now, clock: "server" })
  return state === "expired"
    ? lease(
      "warning",
      `${key} exists, and has expired: ${holder} renewed it ${ageSeconds}s ago, for ${leaseDurationSeconds}s`,
      "Nobody leads. A candidate takes it one leaseDuration after it has first seen it: where one runs, see its log."
    )
    : lease("passed", `${key} exists; ${holder === "" ? "nobody holds it" : `held by ${holder}`}`)
}

/** What in a record speaks of trouble. */
export const suspicious = (settings: Settings, record: LeaseRecord): ReadonlyArray<Check> => {
  const lease = check("Lease")
  const mine = DurationText.format(settings.leaseDuration)
  const theirs = record.leaseDurationSeconds === undefined ? undefined : `${record.leaseDurationSeconds}s`
  return [
    ...(record.holderIdentity !== "" && theirs !== undefined && theirs !== mine
      ? [lease(
        "warning",
        `its holder uses a leaseDuration of ${theirs}, and here it is ${mine}`,
        "Give all candidates the same, at least none smaller than another's renewDeadline."
      )]
      : []),
    ...(record.strategy !== undefined
      ? [lease(
        "warning",
        `Kubernetes elects its holder too (coordinated leader election, ${line(record.strategy)})`,
        "Find the LeaseCandidate that names this Lease, and use another name for one of the two."
      )]
      : []),
    ...(record.deletionTimestamp !== undefined
      ? [lease("warning", "it is being deleted, and a finalizer holds that up", "Find out what has put it there.")]
      : [])
  ]
}

// --- Pods ---

const Pod = Schema.Struct({ metadata: Schema.Struct({ uid: Schema.String }) })

const podRemedy =
  "Set POD_NAME, POD_UID and POD_NAMESPACE from the downward API (effect-kubernetes-leader-election manifest prints how): " +
  "Kubernetes deletes a Lease whose owner does not exist within milliseconds."

/** Whether there is a Pod of this name with this uid. */
const pod = Effect.fnUntraced(function*(
  name: string,
  namespace: string,
  wanted: { readonly name: string; readonly uid: string },
  token: { readonly name: string | undefined; readonly uid: string | undefined } | undefined
) {
  const client = yield* KubernetesClient
  const pod = check(name)
  const called = `${line(wanted.name)} with uid ${line(wanted.uid)}`
  const result = yield* Effect.result(client.request({
    method: "GET",
    path: `/api/v1/namespaces/${encodeURIComponent(namespace)}/pods/${encodeURIComponent(wanted.name)}`
  }))
  if (Result.isSuccess(result)) {
    const uid = Option.getOrUndefined(Schema.decodeUnknownOption(Pod)(result.success.body))?.metadata.uid
    return uid === wanted.uid
      ? pod("passed", `there is a Pod ${called}`)
      : pod("failed", `the Pod ${wanted.name} has the uid ${uid}, not ${wanted.uid}`, podRemedy)
  }
  if (statusOf(result.failure) === 404) {
    return pod("failed", `there is no Pod ${wanted.name} in namespace ${namespace}`, podRemedy)
  }
  // A token that was made for a Pod names it.
  if (token?.uid !== undefined) {
    return token.uid === wanted.uid && token.name === wanted.name
      ? pod("passed", `the token is that of the Pod ${called}`)
      : pod("failed", `the token is that of the Pod ${token.name} with uid ${token.uid}, not of ${called}`, podRemedy)
  }
  return pod(
    "unknown",
    `whether there is a Pod ${called} could not be found out: ${because(result.failure)}`,
    statusOf(result.failure) === 403
      ? "To have this checked, grant the verb get on pods. The election does not need it."
      : undefined
  )
})

export const pods = Effect.fnUntraced(function*(
  settings: Settings,
  record: LeaseRecord | undefined,
  token: { readonly name: string | undefined; readonly uid: string | undefined }
) {
  const owner = record?.ownerReferences.find(({ kind }) => kind === "Pod")
  return [
    ...(settings.pod === undefined
      ? [
        check("own Pod")(
          "passed",
          "none is given: the Lease gets no owner, and a leader that dies is replaced when the lease runs out"
        )
      ]
      : [yield* pod("own Pod", settings.namespace, settings.pod, token)]),
    ...(owner === undefined || owner.uid === settings.pod?.uid
      ? []
      : [yield* pod("owner of the Lease", settings.namespace, owner, undefined)])
  ]
})
