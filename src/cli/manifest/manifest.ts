/**
 * `effect-kubernetes-leader-election manifest`: what a service that elects its leader needs in
 * its cluster.
 *
 * @internal
 */
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Console from "effect/Console"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as LeaderElectionConfig from "../../LeaderElectionConfig.ts"
import { InvalidSettings, LeaderElectionError } from "../../LeaderElectionError.ts"
import { flagsOf, rename } from "../shared/givenAs.ts"
import * as Options from "../shared/options.ts"
import { manifest, type Names, sidecarPorts } from "./documents.ts"

const quote = (text: string): string => JSON.stringify(text)

const label = /^[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?$/

/** Pairs of options that exclude each other. */
const conflicts = ({ events, many, shards, sidecar, watch }: Names) => {
  const isSidecar = sidecar !== undefined
  return [
    ["--events and --sidecar", events && isSidecar, "Events are made by programs that use the library, not by serve"],
    ["--many and --sidecar", many && isSidecar, "serve takes part in one election"],
    ["--shards and --sidecar", shards && isSidecar, "serve takes part in one election"],
    ["--shards and --many", shards && many, "a group has Leases of any name already, and its members need its name"],
    ["--shards and --no-watch", shards && !watch, "the members of a group see each other by watching"]
  ] as const
}

/** What cannot work beside what is wrong with the settings of the election. The name is the Deployment's and a label too. */
const problemsOf = (names: Names): ReadonlyArray<string> => [
  ...([["name", names.name], ["service-account", names.serviceAccount]] as const)
    .filter(([flag, value]) => !label.test(value) && (flag === "name" || value !== names.name))
    .map(([flag, value]) =>
      `--${flag} is ${quote(value)}: give at most 63 small letters, digits and "-", such as my-service`
    ),
  ...([["image", names.image], ["sidecar", names.sidecar]] as const)
    .filter(([, value]) => value !== undefined && !/^\S+$/.test(value))
    .map(([flag, value]) =>
      `--${flag} is ${
        quote(value ?? "")
      }: give an image, without white space, such as registry.example.com/my-service:1`
    ),
  ...(names.sidecar !== undefined && sidecarPorts.some((port) => port === names.probePort)
    ? [
      `--probe-port is ${names.probePort}, a port of the sidecar's in the same Pod (${sidecarPorts.join(", ")}): ` +
      "let the program listen on another"
    ]
    : []),
  ...conflicts(names)
    .filter(([, isGiven]) => isGiven)
    .map(([both, , why]) => `${both} do not go together: ${why}`)
]

/** Fails with everything that is wrong. */
const check = (names: Names): Effect.Effect<void, LeaderElectionError> =>
  Effect.gen(function*() {
    const { leaseDuration, namespace } = names
    // The name is checked above, by a stricter rule.
    const settings = yield* LeaderElectionConfig.make({ name: "name", namespace, leaseDuration }).pipe(
      Effect.provideService(LeaderElectionConfig.ReadsEnvironment, false),
      Effect.mapError(rename(flagsOf({ namespace, leaseDuration }))),
      Effect.result
    )
    const problems = [
      ...problemsOf(names),
      ...(Result.isFailure(settings) && settings.failure.reason._tag === "InvalidSettings"
        ? settings.failure.reason.problems
        : [])
    ]
    if (problems.length > 0) {
      return yield* new LeaderElectionError({ reason: new InvalidSettings({ problems }) })
    }
  })

const required = (name: string, metavar: string, description: string) =>
  Flag.String(name).pipe(Flag.withMetavar(metavar), Flag.withDescription(description))

export const command = Command.make(
  "manifest",
  {
    name: required("name", "NAME", "Name of the Lease, the Deployment and its label"),
    image: required("image", "IMAGE", "Image of the container"),
    namespace: required("namespace", "NAMESPACE", "Namespace of everything").pipe(
      Flag.withAlias("n"),
      Flag.withDefault("default")
    ),
    serviceAccount: Options.text("service-account", "NAME", "Name of the ServiceAccount (default: the NAME)"),
    replicas: Options.whole("replicas", "NUMBER", { least: 1, most: 10_000, noun: "a number of Pods" }).pipe(
      Flag.withDescription("How many Pods: one leads, the others wait"),
      Flag.withDefault(2)
    ),
    leaseDuration: Options.duration(
      "lease-duration",
      "How long the others wait for a leader that is silent (default 15s)"
    ),
    ending: Options.duration("ending", "How long the program needs to end when it is asked to (default 20s)"),
    probePort: Options.whole("probe-port", "PORT", { least: 1, most: 65535, noun: "a port" }).pipe(
      Flag.withDescription("Where the program answers /livez and /readyz"),
      Flag.optional,
      Flag.map(Option.getOrUndefined)
    ),
    sidecar: Options.text("sidecar", "IMAGE", "Run serve beside the program, from this image of the command"),
    statsd: Options.statsd,
    events: Flag.Boolean("events").pipe(
      Flag.withDefault(false),
      Flag.withDescription("Grant the right to create Events (KubernetesEvents)")
    ),
    many: Flag.Boolean("many").pipe(
      Flag.withDefault(false),
      Flag.withDescription("Leases of any name, for many elections in one process; with a FlowSchema")
    ),
    shards: Flag.Boolean("shards").pipe(
      Flag.withDefault(false),
      Flag.withDescription("For a group of shards (LeaderShards): NAME is the group, and all Pods lead their part")
    ),
    watch: Flag.Boolean("watch").pipe(
      Flag.withDescription("Grant the right to watch (default); with --no-watch candidates poll"),
      Flag.optional
    )
  },
  Effect.fnUntraced(function*(options) {
    const names: Names = {
      ...options,
      serviceAccount: options.serviceAccount ?? options.name,
      ending: options.ending ?? Duration.seconds(20),
      watch: Option.getOrElse(options.watch, () => true)
    }
    yield* check(names)
    yield* Console.log(manifest(names).trimEnd())
  })
).pipe(
  Command.withShortDescription("Print ServiceAccount, Role, RoleBinding, PodDisruptionBudget and Deployment"),
  Command.withDescription(
    "Print what a service that elects its leader needs, to be applied as it stands: ServiceAccount, Role, RoleBinding,\n" +
      "PodDisruptionBudget and Deployment. The Role grants what an election needs and no more; the Pods pass PodSecurity\n" +
      "restricted and a quota; the Pod's time to end covers the program's end and the release of the Lease after it.\n\n" +
      "Resources and runAsUser are there to be adapted. --statsd sets STATSD_HOST and STATSD_PORT for programs that use\n" +
      "StatsD.layer, or the option of serve."
  ),
  Command.withExamples([
    {
      command:
        "effect-kubernetes-leader-election manifest --name invoices --image registry.example.com/invoices:1 | kubectl apply -f -",
      description: "Into the namespace default"
    },
    {
      command:
        "effect-kubernetes-leader-election manifest --name invoices --image invoices:1 --namespace billing --replicas 3 --no-watch",
      description: "Without the right to watch"
    },
    {
      command:
        "effect-kubernetes-leader-election manifest --name invoices --image invoices:1 --sidecar registry.example.com/leader-election:1",
      description: "For a program in any language that asks a sidecar"
    }
  ])
)
