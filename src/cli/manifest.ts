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
import * as DurationText from "../internal/duration.ts"
import { defaults, defaultsFor, resolve } from "../LeaderElectionConfig.ts"
import { InvalidSettings, LeaderElectionError } from "../LeaderElectionError.ts"
import { exitCodes } from "./shared/exitCodes.ts"
import { CommandFailure } from "./shared/failure.ts"
import * as Options from "./shared/options.ts"

export interface Names {
  readonly name: string
  readonly namespace: string
  readonly serviceAccount: string
  readonly image: string
  readonly replicas: number
  /** `undefined`: the default, which is not written down. */
  readonly leaseDuration: Duration.Duration | undefined
  readonly watch: boolean
  /** How long the program needs to end. */
  readonly ending: Duration.Duration
  /** A group of shards instead of one Lease. */
  readonly shards?: boolean | undefined
}

// Names of shards are not known here, and those of member Leases are made up: no resourceNames.
const rulesOfShards = `  # One Lease for each shard and each member.
  - apiGroups: ["coordination.k8s.io"]
    resources: ["leases"]
    verbs: ["create", "get", "patch", "watch"]
`

const strategyOfShards =
  `  # An old Pod ends when a new one is ready, and it is ready when the others have seen it: so each shard moves once.
  strategy:
    type: RollingUpdate
    rollingUpdate: { maxSurge: 1, maxUnavailable: 0 }
`

const containerOfShards = `            # The Pods of one rollout: older ones take no shards while newer ones are there.
            - name: LEADER_ELECTION_GENERATION
              valueFrom: { fieldRef: { fieldPath: "metadata.labels['pod-template-hash']" } }
          # LeaderShards.layerReadiness, on the port of your HTTP server.
          readinessProbe:
            httpGet: { path: /readyz, port: 8080 }
            periodSeconds: 1
`

/** For the signal to arrive, and for the process to go when all is done. */
const margin = Duration.seconds(4)

/** What the Pod is given to end in: the program's end, and then the release with all its attempts. */
export const gracePeriod = (ending: Duration.Duration, leaseDuration: Duration.Duration): number => {
  const { requestTimeout, retryPeriod } = defaultsFor(leaseDuration)
  const release = Duration.sum(Duration.times(retryPeriod, 2), requestTimeout)
  return Math.ceil(Duration.toSeconds(Duration.sum(Duration.sum(ending, release), margin)))
}

// JSON is YAML, and quotes what YAML would read as something else.
const quote = (text: string): string => JSON.stringify(text)

const rulesOfOne = (name: string, verbs: string) =>
  `  # Cannot be limited by resourceNames: the authoriser does not know the name of what is not there yet.
  - apiGroups: ["coordination.k8s.io"]
    resources: ["leases"]
    verbs: ["create"]
  - apiGroups: ["coordination.k8s.io"]
    resources: ["leases"]
    verbs: [${verbs}]
    resourceNames: [${quote(name)}]
`

/** ServiceAccount, Role, RoleBinding and Deployment, as YAML. */
export const manifest = (names: Names): string => {
  const { image, leaseDuration, name, namespace, replicas, serviceAccount, watch } = names
  const verbs = ["get", "patch", ...(watch ? ["watch"] : [])].map(quote).join(", ")
  const labels = `{ app: ${quote(name)} }`
  const variables = [
    ["LEADER_ELECTION_NAME", name],
    ...(leaseDuration === undefined ? [] : [["LEADER_ELECTION_LEASE_DURATION", DurationText.format(leaseDuration)]]),
    ...(watch ? [] : [["LEADER_ELECTION_WATCH", "false"]])
  ] as const
  return `apiVersion: v1
kind: ServiceAccount
metadata:
  name: ${quote(serviceAccount)}
  namespace: ${quote(namespace)}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: ${quote(`${name}-leader-election`)}
  namespace: ${quote(namespace)}
rules:
${names.shards === true ? rulesOfShards : rulesOfOne(name, verbs)}---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: ${quote(`${name}-leader-election`)}
  namespace: ${quote(namespace)}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: ${quote(`${name}-leader-election`)}
subjects:
  - kind: ServiceAccount
    name: ${quote(serviceAccount)}
    namespace: ${quote(namespace)}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: ${quote(name)}
  namespace: ${quote(namespace)}
spec:
  replicas: ${replicas}
${names.shards === true ? strategyOfShards : ""}  selector:
    matchLabels: ${labels}
  template:
    metadata:
      labels: ${labels}
    spec:
      serviceAccountName: ${quote(serviceAccount)}
      # The program ends (${
    DurationText.format(names.ending)
  }), then the Lease is released: killed before that, the others
      # wait for the lease's end.
      terminationGracePeriodSeconds: ${gracePeriod(names.ending, leaseDuration ?? defaults.leaseDuration)}
      # A node that goes should not take all candidates with it.
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels: ${labels}
      containers:
        - name: main
          image: ${quote(image)}
          env:
${
    variables.map(([variable, value]) => `            - name: ${variable}\n              value: ${quote(value)}`).join(
      "\n"
    )
  }
            # The identity, and the owner of the Lease: Kubernetes removes it with the leader's Pod.
            - name: POD_NAME
              valueFrom: { fieldRef: { fieldPath: metadata.name } }
            - name: POD_UID
              valueFrom: { fieldRef: { fieldPath: metadata.uid } }
            - name: POD_NAMESPACE
              valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
${names.shards === true ? containerOfShards : ""}`
}

const label = /^[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?$/

const usage = (message: string): CommandFailure => new CommandFailure({ exitCode: exitCodes.usage, message })

/** The names and the duration, checked as those of an election are; the name is the Deployment's and a label too. */
const check = (names: Names): Effect.Effect<void, LeaderElectionError | CommandFailure> => {
  const { leaseDuration, name, namespace, serviceAccount } = names
  for (const [flag, value] of [["name", name], ["service-account", serviceAccount]] as const) {
    if (!label.test(value)) {
      return Effect.fail(
        usage(`--${flag} is ${quote(value)}: give at most 63 small letters, digits and "-", such as my-service`)
      )
    }
  }
  const resolved = resolve({ name, namespace, leaseDuration }, {
    variables: {},
    credentialsNamespace: undefined,
    credentialsOrigin: "pod",
    process: { hostName: "", processId: 0 },
    random: ""
  })
  return Result.isFailure(resolved)
    ? Effect.fail(new LeaderElectionError({ reason: new InvalidSettings({ problems: resolved.failure }) }))
    : Effect.void
}

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
    if (names.shards === true && !names.watch) {
      return yield* usage("--shards needs the right to watch: leave out --no-watch")
    }
    yield* check(names)
    yield* Console.log(manifest(names).trimEnd())
  })
).pipe(
  Command.withShortDescription("Print ServiceAccount, Role, RoleBinding and Deployment"),
  Command.withDescription(
    "Print ServiceAccount, Role, RoleBinding and Deployment of a service that elects its leader, to be applied as they\n" +
      "stand. The Role grants what an election needs and no more; the Pod's time to end covers the program's end and\n" +
      "the release of the Lease after it."
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
    }
  ])
)
