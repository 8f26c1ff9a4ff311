/**
 * What a service that elects its leader needs in its cluster, as YAML with
 * comments. Pure.
 *
 * The Pods pass PodSecurity `restricted`, and a quota of requests and memory.
 *
 * @internal
 */
import * as Duration from "effect/Duration"
import * as DurationText from "../../DurationText.ts"
import { defaultsFor } from "../../LeaderElectionConfig.ts"

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
  /** Where the program answers `/livez` and `/readyz`; `undefined`: it does not. */
  readonly probePort: number | undefined
  /** The image of the command, which runs as `serve` beside the program. */
  readonly sidecar: string | undefined
  readonly statsd: { readonly host: string; readonly port: number | undefined } | undefined
  readonly events: boolean
  /** One process takes part in many elections, whose names are not known here. */
  readonly many: boolean
  /** A group of shards instead of one Lease: the name is the group's. */
  readonly shards: boolean
}

// JSON is YAML, and quotes what YAML would read as something else.
const quote = (text: string): string => JSON.stringify(text)

const list = (texts: ReadonlyArray<string>): string => `[${texts.map(quote).join(", ")}]`

const indent = (text: string, by: number): string => text.replaceAll(/^(?=.)/gm, " ".repeat(by))

// --- Ports, names and times ---

/** Where `serve` listens by default, for its own Pod. */
const servePort = 4040

const metricsPort = 9090

/** Those that are taken in a Pod with a sidecar. */
export const sidecarPorts = [servePort, metricsPort] as const

/** For the signal to arrive, and for the process to go when all is done. */
const margin = Duration.seconds(4)

const defaultDuration = Duration.seconds(15)

/**
 * What the Pod is given to end in: the program's end, the validity that `serve`
 * has given out to it, and then the release with all its attempts.
 */
export const gracePeriod = (ending: Duration.Duration, leaseDuration: Duration.Duration, sidecar = false): number => {
  const { renewDeadline, requestTimeout, retryPeriod } = defaultsFor(leaseDuration)
  const release = Duration.sum(Duration.times(retryPeriod, 2), requestTimeout)
  const validity = sidecar ? renewDeadline : Duration.zero
  return Math.ceil(
    [ending, validity, release, margin].reduce((sum, duration) => sum + Duration.toSeconds(duration), 0)
  )
}

// --- Rights ---

const account = ({ namespace, serviceAccount }: Names): string =>
  `apiVersion: v1
kind: ServiceAccount
metadata:
  name: ${quote(serviceAccount)}
  namespace: ${quote(namespace)}
`

const leaseRules = ({ many, name, shards, watch }: Names): string => {
  const verbs = ["get", "patch", ...(watch ? ["watch"] : [])]
  return many || shards
    ? `# Leases of any name: ${shards ? "one for each shard and each member" : "the elections are not known here"}.
- apiGroups: ["coordination.k8s.io"]
  resources: ["leases"]
  verbs: ${list(["create", ...verbs])}
`
    : `# Cannot be limited by resourceNames: the authoriser does not know the name of what is not there yet.
- apiGroups: ["coordination.k8s.io"]
  resources: ["leases"]
  verbs: ["create"]
- apiGroups: ["coordination.k8s.io"]
  resources: ["leases"]
  verbs: ${list(verbs)}
  resourceNames: [${quote(name)}]
`
}

const eventRules = `# KubernetesEvents: who became leader, who stopped leading, and why.
- apiGroups: ["events.k8s.io"]
  resources: ["events"]
  verbs: ["create"]
`

const role = (names: Names): string =>
  `apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: ${quote(`${names.name}-leader-election`)}
  namespace: ${quote(names.namespace)}
rules:
${indent(leaseRules(names) + (names.events ? eventRules : ""), 2)}`

const binding = ({ name, namespace, serviceAccount }: Names): string =>
  `apiVersion: rbac.authorization.k8s.io/v1
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
`

const flowSchema = ({ name, namespace, serviceAccount }: Names): string =>
  `# Hundreds of Leases are many small writes: without this they queue with the requests of all other service accounts.
# A FlowSchema belongs to no namespace, and is created by an administrator of the cluster.
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
metadata:
  name: ${quote(`${namespace}-${name}-leader-election`)}
spec:
  priorityLevelConfiguration: { name: leader-election }
  matchingPrecedence: 1000
  distinguisherMethod: { type: ByUser }
  rules:
    - subjects:
        - kind: ServiceAccount
          serviceAccount: { name: ${quote(serviceAccount)}, namespace: ${quote(namespace)} }
      resourceRules:
        - apiGroups: ["coordination.k8s.io"]
          resources: ["leases"]
          verbs: ["create", "get", "patch", "watch"]
          namespaces: [${quote(namespace)}]
`

// --- Pods ---

const disruptionBudget = ({ name, namespace }: Names): string =>
  `# Nodes are drained one Pod at a time: another is there to take over.
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: ${quote(name)}
  namespace: ${quote(namespace)}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: { app: ${quote(name)} }
`

const restricted = `securityContext:
  allowPrivilegeEscalation: false
  capabilities: { drop: [ALL] }
`

/** Of the container that takes part in the election. */
const variables = ({ leaseDuration, many, name, replicas, shards, watch }: Names): string => {
  const values = [
    ...(many ? [] : [["LEADER_ELECTION_NAME", name]]),
    ...(leaseDuration === undefined ? [] : [["LEADER_ELECTION_LEASE_DURATION", DurationText.format(leaseDuration)]]),
    ...(watch ? [] : [["LEADER_ELECTION_WATCH", "false"]]),
    // So few would not draw anything.
    ...(replicas <= 8 || shards ? [] : [["LEADER_ELECTION_CANDIDATES", String(replicas)]])
  ]
  return `${values.map(([variable, value]) => `- name: ${variable}\n  value: ${quote(value ?? "")}\n`).join("")}\
# The identity, and the owner of the Lease: Kubernetes removes it with the leader's Pod.
- name: POD_NAME
  valueFrom: { fieldRef: { fieldPath: metadata.name } }
- name: POD_UID
  valueFrom: { fieldRef: { fieldPath: metadata.uid } }
- name: POD_NAMESPACE
  valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
${shards ? generation : ""}`
}

const generation = `# The Pods of one rollout: older ones take no shards while newer ones are there.
- name: LEADER_ELECTION_GENERATION
  valueFrom: { fieldRef: { fieldPath: "metadata.labels['pod-template-hash']" } }
`

const statsdVariables = ({ statsd }: Names): string =>
  statsd === undefined ? "" : `- name: STATSD_HOST
  value: ${quote(statsd.host)}
${statsd.port === undefined ? "" : `- name: STATSD_PORT\n  value: ${quote(String(statsd.port))}\n`}`

const probes = (port: number | string): string =>
  `# Ready whatever its part is: a rollout waits for new Pods to be ready, and they cannot lead while the old ones do.
readinessProbe:
  httpGet: { path: /readyz, port: ${port} }
# Fails where a program runs on although its term has been over for long.
livenessProbe:
  httpGet: { path: /livez, port: ${port} }
  timeoutSeconds: 5
`

/** Of the program: how much it needs is not known here, but a quota asks for it. */
const resources = `resources:
  requests: { cpu: 50m, memory: 128Mi }
  # No limit of CPU: a leader that is throttled cannot renew in time.
  limits: { memory: 256Mi }
`

/** The members of a group see a new one when it is ready, and leave their shards to it. */
const probesOfShards = (port: number): string =>
  `# LeaderShards.layerReadiness, on the port of your HTTP server.
readinessProbe:
  httpGet: { path: /readyz, port: ${port} }
  periodSeconds: 1
`

const program = (names: Names): string => {
  const environment = names.sidecar === undefined
    ? variables(names) + statsdVariables(names)
    : `# Who leads, from the sidecar: GET /leader, GET /changes, POST /release.
- name: LEADER_ELECTION_URL
  value: http://127.0.0.1:${servePort}
`
  const own = names.shards
    ? probesOfShards(names.probePort ?? 8080)
    : names.probePort === undefined
    ? "# With --probe-port PORT: where the program answers /livez and /readyz (LeaderHealth).\n"
    : probes(names.probePort)
  return `- name: main
  image: ${quote(names.image)}
  env:
${indent(environment, 4)}${indent(names.sidecar === undefined || names.probePort !== undefined ? own : "", 2)}\
${indent(resources + restricted, 2)}`
}

const sidecar = (names: Names): string => {
  const statsd = names.statsd === undefined ? [] : [
    "--statsd",
    names.statsd.port === undefined
      ? names.statsd.host
      : `${names.statsd.host.includes(":") ? `[${names.statsd.host}]` : names.statsd.host}:${names.statsd.port}`
  ]
  return `# Starts before the program and ends after it: a native sidecar, which needs Kubernetes 1.29. Before that, and where
# the Pod stays in Init (a webhook that drops restartPolicy), list it under containers, without restartPolicy.
- name: leader-election
  image: ${quote(names.sidecar ?? "")}
  restartPolicy: Always
  args: ${list(["serve", "--metrics-port", String(metricsPort), ...statsd])}
  env:
${indent(variables(names), 4)}\
  ports:
    - { name: election, containerPort: ${metricsPort} }
${indent(probes("election"), 2)}\
  resources:
    requests: { cpu: 20m, memory: 128Mi }
    # No limit of CPU: a leader that is throttled cannot renew in time.
    limits: { memory: 256Mi }
  securityContext:
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities: { drop: [ALL] }
`
}

const strategyOfShards =
  `  # An old Pod ends when a new one is ready, and it is ready when the others have seen it: so each shard moves once.
  strategy:
    type: RollingUpdate
    rollingUpdate: { maxSurge: 1, maxUnavailable: 0 }
`

const deployment = (names: Names): string => {
  const { ending, leaseDuration, name, namespace, replicas, serviceAccount } = names
  const labels = `{ app: ${quote(name)} }`
  const isSidecar = names.sidecar !== undefined
  return `apiVersion: apps/v1
kind: Deployment
metadata:
  name: ${quote(name)}
  namespace: ${quote(namespace)}
spec:
  replicas: ${replicas}
${names.shards ? strategyOfShards : ""}  selector:
    matchLabels: ${labels}
  template:
    metadata:
      labels: ${labels}
    spec:
      serviceAccountName: ${quote(serviceAccount)}
      # The program ends (${DurationText.format(ending)}), then the Lease is released: killed before that, the others
      # wait for the lease's end.
      terminationGracePeriodSeconds: ${gracePeriod(ending, leaseDuration ?? defaultDuration, isSidecar)}
      # A node that fails should not take all candidates with it.
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels: ${labels}
      securityContext:
        runAsNonRoot: true
        # A number, for images that name their user, or none.
        runAsUser: 1000
        seccompProfile: { type: RuntimeDefault }
${isSidecar ? `      initContainers:\n${indent(sidecar(names), 8)}` : ""}\
      containers:
${indent(program(names), 8)}`
}

/** All documents, to be applied as they stand. */
export const manifest = (names: Names): string =>
  [
    account(names),
    role(names),
    binding(names),
    ...(names.many ? [flowSchema(names)] : []),
    ...(names.replicas > 1 ? [disruptionBudget(names)] : []),
    deployment(names)
  ].join("---\n")
