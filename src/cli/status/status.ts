/**
 * `effect-kubernetes-leader-election status`: Leases as they are now.
 *
 * @internal
 */
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Clock from "effect/Clock"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { KubernetesClient, type KubernetesResponse } from "../../kubernetes/KubernetesClient.ts"
import { describe, type KubernetesError, status as statusCode } from "../../kubernetes/KubernetesError.ts"
import * as LeaderShards from "../../LeaderShards.ts"
import { decode, type LeaseRecord } from "../../LeaseRecord.ts"
import { exitCodes } from "../shared/exitCodes.ts"
import { CommandFailure } from "../shared/failure.ts"
import * as Options from "../shared/options.ts"
import { json } from "../shared/printable.ts"
import * as Group from "./group.ts"
import { type Status, toStatus, toTable } from "./lease.ts"

const group = "/apis/coordination.k8s.io/v1"

const inNamespace = (namespace: string): string => `${group}/namespaces/${encodeURIComponent(namespace)}/leases`

const List = Schema.Struct({
  metadata: Schema.optional(Schema.Struct({ continue: Schema.optional(Schema.String) })),
  items: Schema.Array(Schema.Unknown)
})

const unreadable = (path: string) => (error: Schema.SchemaError) =>
  new CommandFailure({
    exitCode: exitCodes.unavailable,
    message: `the answer to GET ${path} is not a valid Lease: ${error.message}`
  })

const nowOf = (response: KubernetesResponse) =>
  response.serverTime === undefined
    ? Effect.map(Clock.currentTimeMillis, (millis) => ({ millis, clock: "local" as const }))
    : Effect.succeed({ millis: response.serverTime, clock: "server" as const })

/** All Leases of a namespace, or of all namespaces; those with a label. */
const listRecords = Effect.fnUntraced(function*(namespace: string | undefined, labelSelector?: string) {
  const client = yield* KubernetesClient
  const path = namespace === undefined ? `${group}/leases` : inNamespace(namespace)
  const found: Array<{ readonly lease: LeaseRecord; readonly now: Parameters<typeof toStatus>[1] }> = []
  let after: string | undefined
  do {
    const response = yield* client.request({
      method: "GET",
      path,
      query: { limit: "500", continue: after, labelSelector },
      verb: "list"
    })
      .pipe(Effect.catchIf((error) => statusCode(error) === 403, (error) => Effect.fail(listRefused(error, namespace))))
    const now = yield* nowOf(response)
    const { items, metadata } = yield* Effect.mapError(
      Schema.decodeUnknownEffect(List)(response.body),
      unreadable(path)
    )
    for (const item of items) {
      found.push({ lease: yield* Effect.mapError(decode(item), unreadable(path)), now })
    }
    after = metadata?.continue || undefined
  } while (after !== undefined)
  return found
})

const list = (namespace: string | undefined) =>
  Effect.map(listRecords(namespace), (found) => found.map(({ lease, now }) => toStatus(lease, now)))

const statusOfGroup = Effect.fnUntraced(function*(group: string, namespace: string, output: "table" | "json") {
  const found = yield* listRecords(namespace, `${LeaderShards.labels.group}=${group}`)
  if (found.length === 0) {
    return yield* new CommandFailure({
      exitCode: exitCodes.failure,
      message:
        `there is no group ${group} in ${namespace}: no Lease has the label ${LeaderShards.labels.group}=${group}`
    })
  }
  const report = Group.toGroup(group, namespace, found.map(({ lease }) => lease), found.at(-1)!.now)
  yield* Console.log(output === "json" ? json(report, 2) : Group.toLines(report).join("\n"))
})

const listRefused = (error: KubernetesError, namespace: string | undefined): CommandFailure =>
  new CommandFailure({
    exitCode: exitCodes.refused,
    message: `${describe(error.reason)}; the verb list on leases is needed ` +
      (namespace === undefined
        ? "in all namespaces (a ClusterRole); without it, leave out -A"
        : `in namespace ${namespace}; without it, name the Leases: effect-kubernetes-leader-election status NAME`)
  })

/** One Lease by its name; `undefined` where there is none. */
const get = Effect.fnUntraced(function*(namespace: string, name: string) {
  const client = yield* KubernetesClient
  const path = `${inNamespace(namespace)}/${encodeURIComponent(name)}`
  const response = yield* client.request({ method: "GET", path }).pipe(
    Effect.catchIf((error) => statusCode(error) === 404, () => Effect.undefined)
  )
  return response === undefined
    ? undefined
    : toStatus(yield* Effect.mapError(decode(response.body), unreadable(path)), yield* nowOf(response))
})

export const status = Effect.fnUntraced(function*(options: {
  readonly names: ReadonlyArray<string>
  readonly namespace: string | undefined
  readonly allNamespaces: boolean
  readonly output: "table" | "json"
  readonly group?: string | undefined
}) {
  if (options.group !== undefined) {
    if (options.allNamespaces || options.names.length > 0) {
      return yield* new CommandFailure({
        exitCode: exitCodes.usage,
        message: "--group shows one group of shards: give it without names and without --all-namespaces"
      })
    }
    return yield* statusOfGroup(options.group, yield* Options.resolveNamespace(options.namespace), options.output)
  }
  if (options.allNamespaces && options.names.length > 0) {
    return yield* new CommandFailure({
      exitCode: exitCodes.usage,
      message: "--all-namespaces shows all Leases: give it, or names, not both"
    })
  }
  yield* Effect.forEach(options.names, (name) => Options.checkName(name, "NAME"), { discard: true })
  const namespace = options.allNamespaces ? undefined : yield* Options.resolveNamespace(options.namespace)
  const missing: Array<string> = []
  const found: Array<Status> = []
  if (namespace === undefined || options.names.length === 0) {
    found.push(...yield* list(namespace))
  } else {
    for (const name of options.names) {
      const status = yield* get(namespace, name)
      if (status === undefined) {
        missing.push(`there is no Lease ${namespace}/${name}`)
      } else {
        found.push(status)
      }
    }
  }
  if (options.output === "json") {
    yield* Console.log(json(found, 2))
  } else if (found.length > 0) {
    yield* Console.log(toTable(found, { namespaces: namespace === undefined }).join("\n"))
  } else if (missing.length === 0) {
    yield* Effect.logInfo(namespace === undefined ? "There are no Leases" : `There are no Leases in ${namespace}`)
  }
  if (missing.length > 0) {
    return yield* new CommandFailure({ exitCode: exitCodes.failure, message: missing.join("\n") })
  }
})

export const command = Command.make(
  "status",
  {
    names: Argument.String("NAME").pipe(
      Argument.withDescription("Names of Leases; without one, all in the namespace"),
      Argument.filter((given) => given !== "", () => "the name of a Lease"),
      Argument.variadic()
    ),
    namespace: Options.namespace,
    allNamespaces: Flag.Boolean("all-namespaces").pipe(
      Flag.withAlias("A"),
      Flag.withDefault(false),
      Flag.withDescription("Leases of all namespaces")
    ),
    group: Options.group("A group of shards: its members, and how many each leads"),
    output: Flag.Literals("output", ["table", "json"]).pipe(
      Flag.withAlias("o"),
      Flag.withDefault("table"),
      Flag.withDescription("Format")
    ),
    ...Options.connection
  },
  ({ context, kubeconfig, ...options }) =>
    status(options).pipe(Effect.provide(Options.layerClient({ context, kubeconfig })))
).pipe(
  Command.withShortDescription("Show who holds which Lease"),
  Command.withDescription(
    "Show who holds which Lease, and for how long still.\n\n" +
      "RENEWED is the API server's clock (the Date of its answer, whole seconds) minus the renewTime that the holder\n" +
      "wrote by its own clock: it is as right as the two clocks agree. LEFT is what remains of the lease's duration by\n" +
      "that age. Candidates do not go by it: they count from when they see a renewal.\n\n" +
      "STATE is held, young (one of ours holds a new Lease, and waits before it leads), expired, released or free.\n" +
      "KIND is whose record it is: ours, client-go (and all that write as it does), gem (the Ruby gem), coordinated\n" +
      "(KEP-4355), node and apiserver (signs of life, no elections). Needs the right to get the named Leases, or to\n" +
      "list them."
  ),
  Command.withExamples([
    { command: "effect-kubernetes-leader-election status", description: "All Leases of the namespace" },
    { command: "effect-kubernetes-leader-election status my-service -o json", description: "One Lease, for a program" },
    { command: "effect-kubernetes-leader-election status -A --context staging", description: "All Leases of a cluster" }
  ])
)
