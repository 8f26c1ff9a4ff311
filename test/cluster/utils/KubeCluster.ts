/**
 * A Kubernetes API server for tests, benchmarks and fault injection: etcd, kube-apiserver and the garbage collector as
 * child processes on free ports of the loopback address; or a cluster that already runs, where the environment says
 * `TEST_CLUSTER=existing`.
 */
import type { ChildProcess } from "node:child_process"
import { generateKeyPairSync, randomBytes } from "node:crypto"
import { closeSync, openSync } from "node:fs"
import { mkdir, readFile, writeFile } from "node:fs/promises"
import type { RequestOptions as TlsOptions } from "node:https"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { candidateProgram, clusterPrograms } from "../../../scripts/build-cluster.ts"
import { ApiClient } from "./ApiClient.ts"
import { freePort } from "./ports.ts"
import { killGroup, spawnGuarded, temporaryDirectory } from "./Watchdog.ts"

/** What another process needs to use a cluster that this one has started: plain data. */
export interface ClusterDescriptor {
  readonly kind: "local" | "existing"
  /** Marks what this run makes, so that it can be found and removed. */
  readonly run: string
  readonly url: string
  readonly features: ReadonlyArray<Feature>
  readonly candidateProgram: string | undefined
  readonly local?: {
    readonly adminToken: string
    readonly caPath: string
    readonly auditLogPath: string
    readonly etcdPid: number
  }
}

/**
 * What not every cluster offers:
 * - `garbageCollector`: deletes objects whose owner is gone
 * - `audit`: a record of all requests
 * - `freeze`: etcd can be stopped and continued
 * - `restart`: the API server can be stopped and started; only by the process that has started it
 * - `clientGo`: the candidate of client-go could be built
 */
export type Feature = "garbageCollector" | "audit" | "freeze" | "restart" | "clientGo"

export interface ClusterOptions {
  /** Further flags; one given twice counts as given last. */
  readonly apiServerArgs?: ReadonlyArray<string>
  readonly controllerManagerArgs?: ReadonlyArray<string>
  /** Without it the start takes about a second less. */
  readonly garbageCollector?: boolean
}

export interface AuditEntry {
  readonly stage: "RequestReceived" | "ResponseStarted" | "ResponseComplete" | "Panic"
  readonly verb: string
  readonly requestURI: string
  readonly user: { readonly username: string }
  readonly userAgent?: string
  readonly objectRef?: { readonly resource: string; readonly namespace?: string; readonly name?: string }
  readonly responseStatus?: { readonly code: number; readonly reason?: string }
  readonly requestReceivedTimestamp: string
  readonly stageTimestamp: string
}

export interface KubeconfigOptions {
  readonly token: string
  readonly namespace?: string
  /** Another address than the API server's: a proxy's. */
  readonly server?: string | undefined
  /** The certificate authority of that address, where it is another one. */
  readonly ca?: string | undefined
}

export interface KubeCluster extends AsyncDisposable {
  readonly descriptor: ClusterDescriptor
  readonly admin: ApiClient
  /** The API server's address, without a slash at the end. */
  readonly url: string
  readonly host: string
  readonly port: number
  /** The certificate authority to trust, as PEM; undefined where an existing cluster relies on the system's. */
  readonly ca: string | undefined
  /** The path of the client-go candidate; undefined without the feature `clientGo`. */
  readonly candidateProgram: string | undefined
  /** Why a feature is missing; undefined where it is there. */
  readonly missing: (feature: Feature) => string | undefined

  /** Stops the API server at once, or with another signal and waits until it has ended (SIGTERM: up to a minute). */
  readonly stopApiServer: (options?: { readonly signal?: NodeJS.Signals }) => Promise<void>
  /** Starts it again on the same port and data. */
  readonly startApiServer: () => Promise<void>
  /** One more API server on the same etcd, with the same certificate; gives its address. */
  readonly addApiServer: (args?: ReadonlyArray<string>) => Promise<{
    readonly url: string
    readonly port: number
    readonly stop: (options?: { readonly signal?: NodeJS.Signals }) => Promise<void>
  }>
  /** From now on requests hang: etcd answers nothing. */
  readonly freezeEtcd: () => void
  readonly thawEtcd: () => void
  /** The requests that were received after `since` (wall-clock milliseconds), oldest first. */
  readonly auditLog: (options?: { readonly since?: number; readonly user?: string }) => Promise<Array<AuditEntry>>

  /** A client with another user's token, also through a proxy, to be closed. */
  readonly clientAs: (options: Omit<KubeconfigOptions, "namespace">) => ApiClient
  /** Writes a kubeconfig and gives its path. */
  readonly writeKubeconfig: (options: KubeconfigOptions) => Promise<string>
  /** Writes what a Pod finds in /var/run/secrets/kubernetes.io/serviceaccount and gives the directory. */
  readonly writeServiceAccountFiles: (options: {
    readonly token: string
    readonly namespace: string
    readonly ca?: string
  }) => Promise<string>
  /** For any other files of a test; removed with the cluster. */
  readonly directory: string
  readonly close: () => Promise<void>
}

/**
 * Starts a cluster of one's own, with every feature that this machine has; or, with `TEST_CLUSTER=existing`, connects to
 * the one that KUBECONFIG names.
 */
export const startCluster = async (options: ClusterOptions = {}): Promise<KubeCluster> =>
  process.env["TEST_CLUSTER"] === "existing" ? await useExisting() : await startLocal(options)

/** Uses a cluster that another process owns. */
export const connectCluster = async (descriptor: ClusterDescriptor): Promise<KubeCluster> => {
  const directory = await temporaryDirectory("leader-election-test")
  if (descriptor.local === undefined) {
    const { tls, ca } = await existingCredentials()
    return makeCluster({ descriptor, directory, tls, ca })
  }
  const ca = await readFile(descriptor.local.caPath, "utf8")
  return makeCluster({ descriptor, directory, tls: { ca }, ca, token: descriptor.local.adminToken })
}

// --- A cluster that already runs ---

const runLabel = "effect-kubernetes-leader-election/test-run"

const existingCredentials = async () => {
  // Half a second that only this case has to pay.
  const { KubeConfig } = await import("@kubernetes/client-node")
  const config = new KubeConfig()
  config.loadFromDefault()
  const cluster = config.getCurrentCluster()
  if (cluster === null) throw new Error("TEST_CLUSTER=existing, but there is no current context; set KUBECONFIG")
  const tls: TlsOptions = {}
  await config.applyToHTTPSOptions(tls)
  // The agent of client-node is for its own requests.
  delete tls.agent
  const ca = cluster.caData !== undefined
    ? Buffer.from(cluster.caData, "base64").toString()
    : cluster.caFile === undefined
    ? undefined
    : await readFile(cluster.caFile, "utf8")
  return { tls, ca, url: cluster.server.replace(/\/+$/, "") }
}

const useExisting = async (): Promise<KubeCluster> => {
  const { tls, ca, url } = await existingCredentials()
  const candidate = await candidateProgram()
  const descriptor: ClusterDescriptor = {
    kind: "existing",
    run: randomBytes(4).toString("hex"),
    url,
    features: ["garbageCollector", ...(candidate === undefined ? [] : ["clientGo" as const])],
    candidateProgram: candidate
  }
  const cluster = makeCluster({
    descriptor,
    directory: await temporaryDirectory("leader-election-test"),
    tls,
    ca,
    onClose: async () => {
      const path = `/api/v1/namespaces?labelSelector=${encodeURIComponent(`${runLabel}=${descriptor.run}`)}`
      for (const { metadata } of (await cluster.admin.ok("GET", path)).items) {
        await cluster.admin.deleteNamespace(metadata.name)
      }
    }
  })
  await cluster.admin.ok("GET", "/version")
  return cluster
}

// --- A cluster of our own ---

const auditPolicy = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: None
    users: ["system:apiserver"]
  - level: None
    nonResourceURLs: ["/healthz*", "/readyz*", "/livez*", "/version", "/openapi*", "/api", "/api/*", "/apis", "/apis/*"]
  - level: Metadata
`

interface Server {
  readonly process: ChildProcess
  readonly pid: number
  readonly exited: Promise<void>
}

const startLocal = async (options: ClusterOptions): Promise<KubeCluster> => {
  const programs = await clusterPrograms()
  const directory = await temporaryDirectory("leader-election-cluster")
  const inDirectory = (name: string) => join(directory.path, name)
  const running = new Set<Server>()

  const launch = (name: string, program: string, args: ReadonlyArray<string>): Server => {
    const log = openSync(inDirectory(`${name}.log`), "a")
    const child = spawnGuarded(program, args, { cwd: directory.path, stdio: ["ignore", log, log] })
    closeSync(log)
    // A program that ends without having closed its cluster must not wait for the servers: they end with it.
    child.unref()
    const server: Server = {
      process: child,
      pid: child.pid ?? -1,
      exited: new Promise((resolve) => {
        child.once("error", () => resolve())
        child.once("exit", () => resolve())
      })
    }
    running.add(server)
    void server.exited.then(() => running.delete(server))
    return server
  }

  const until = async (name: string, server: Server, ready: () => Promise<boolean>): Promise<void> => {
    const deadline = performance.now() + 60_000
    while (!(await ready().catch(() => false))) {
      const late = performance.now() > deadline
      if (late || !running.has(server)) {
        const log = await readFile(inDirectory(`${name}.log`), "utf8")
        const what = late ? "was not ready after 60 s" : "ended while it was starting"
        throw new Error(`${name} ${what}; its last lines:\n${log.split("\n").slice(-15).join("\n")}`)
      }
      await sleep(25)
    }
  }

  const closeAll = async () => {
    await Promise.all([...running].map((server) => killGroup(server.process)))
    await directory.remove()
  }

  try {
    const [etcdPort, etcdPeerPort, apiPort, controllerPort] = await Promise.all([
      freePort(),
      freePort(),
      freePort(),
      freePort()
    ])
    const adminToken = randomBytes(16).toString("hex")
    const { privateKey, publicKey } = generateKeyPairSync("rsa", {
      modulusLength: 2048,
      privateKeyEncoding: { type: "pkcs1", format: "pem" },
      publicKeyEncoding: { type: "spki", format: "pem" }
    })
    await Promise.all([
      mkdir(inDirectory("files")),
      writeFile(inDirectory("tokens.csv"), `${adminToken},admin,admin,"system:masters"\n`, { mode: 0o600 }),
      writeFile(inDirectory("service-accounts.key"), privateKey, { mode: 0o600 }),
      writeFile(inDirectory("service-accounts.pub"), publicKey),
      writeFile(inDirectory("audit-policy.yaml"), auditPolicy)
    ])

    const etcdUrl = `http://127.0.0.1:${etcdPort}`
    const etcdPeerUrl = `http://127.0.0.1:${etcdPeerPort}`
    const etcd = launch("etcd", programs.etcd, [
      `--data-dir=${inDirectory("etcd")}`,
      `--listen-client-urls=${etcdUrl}`,
      `--advertise-client-urls=${etcdUrl}`,
      `--listen-peer-urls=${etcdPeerUrl}`,
      `--initial-advertise-peer-urls=${etcdPeerUrl}`,
      `--initial-cluster=default=${etcdPeerUrl}`,
      "--unsafe-no-fsync",
      "--log-level=warn"
    ])

    const certificates = inDirectory("certificates")
    const caPath = join(certificates, "apiserver.crt")
    const auditLogPath = inDirectory("audit.log")
    const launchApiServer = async (name: string, port: number, args: ReadonlyArray<string>): Promise<Server> => {
      const server = launch(name, programs.apiServer, [
        `--etcd-servers=${etcdUrl}`,
        "--bind-address=127.0.0.1",
        `--secure-port=${port}`,
        // It refuses to announce a loopback address as the cluster's service.
        "--endpoint-reconciler-type=none",
        // It makes a certificate of its own there; a second server or a second start uses the same.
        `--cert-dir=${certificates}`,
        `--token-auth-file=${inDirectory("tokens.csv")}`,
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        `--service-account-key-file=${inDirectory("service-accounts.pub")}`,
        `--service-account-signing-key-file=${inDirectory("service-accounts.key")}`,
        "--service-cluster-ip-range=10.0.0.0/24",
        // Pods would need a service account that a controller makes, which does not run here.
        "--disable-admission-plugins=ServiceAccount",
        `--audit-policy-file=${inDirectory("audit-policy.yaml")}`,
        `--audit-log-path=${name === "kube-apiserver" ? auditLogPath : inDirectory(`${name}-audit.log`)}`,
        // Never rotated: the benchmarks count its lines.
        "--audit-log-maxsize=100000",
        ...args
      ])
      await until(name, server, async () => {
        const ca = await readFile(caPath, "utf8")
        const probe = new ApiClient({ url: `https://127.0.0.1:${port}`, tls: { ca }, token: adminToken })
        try {
          return (await probe.request("GET", "/readyz", undefined, { timeout: 2_000 })).status === 200
        } finally {
          probe.close()
        }
      })
      return server
    }
    const stop = async (server: Server, signal: NodeJS.Signals = "SIGKILL") => {
      server.process.ref()
      if (running.has(server)) server.process.kill(signal)
      await server.exited
    }

    const startFirst = () => launchApiServer("kube-apiserver", apiPort, options.apiServerArgs ?? [])
    let apiServer = await startFirst()
    const ca = await readFile(caPath, "utf8")

    const hasGarbageCollector = programs.controllerManager !== undefined && options.garbageCollector !== false
    const descriptor: ClusterDescriptor = {
      kind: "local",
      run: randomBytes(4).toString("hex"),
      url: `https://127.0.0.1:${apiPort}`,
      features: [
        "audit",
        "freeze",
        "restart",
        ...(hasGarbageCollector ? ["garbageCollector" as const] : []),
        ...(programs.candidate === undefined ? [] : ["clientGo" as const])
      ],
      candidateProgram: programs.candidate,
      local: { adminToken, caPath, auditLogPath, etcdPid: etcd.pid }
    }
    let added = 0
    const cluster = makeCluster({
      descriptor,
      directory: { path: inDirectory("files"), remove: closeAll },
      tls: { ca },
      ca,
      token: adminToken,
      control: {
        stopApiServer: (options) => stop(apiServer, options?.signal),
        startApiServer: async () => {
          if (running.has(apiServer)) throw new Error("The API server runs, or has not ended yet")
          apiServer = await startFirst()
        },
        addApiServer: async (args = []) => {
          const port = await freePort()
          const server = await launchApiServer(`kube-apiserver-${++added}`, port, args)
          return { url: `https://127.0.0.1:${port}`, port, stop: (options) => stop(server, options?.signal) }
        }
      }
    })

    if (hasGarbageCollector) {
      const kubeconfig = await cluster.writeKubeconfig({ token: adminToken })
      const controllers = launch("kube-controller-manager", programs.controllerManager, [
        `--kubeconfig=${kubeconfig}`,
        // The second one only ends the deletion of namespaces.
        "--controllers=garbage-collector-controller,namespace-controller",
        "--leader-elect=false",
        "--use-service-account-credentials=false",
        "--bind-address=127.0.0.1",
        `--secure-port=${controllerPort}`,
        `--cert-dir=${inDirectory("controller-certificates")}`,
        ...(options.controllerManagerArgs ?? [])
      ])
      await until("kube-controller-manager", controllers, () => collectsGarbage(cluster.admin))
    }
    return cluster
  } catch (error) {
    await closeAll()
    throw error
  }
}

/** True once the garbage collector has deleted something: it first fills its caches for a while. */
const collectsGarbage = async (admin: ApiClient): Promise<boolean> => {
  const name = "garbage-collector-probe"
  if ((await admin.getLease("default", name)) !== undefined) return false
  const owner = { apiVersion: "v1", kind: "Pod", name, uid: "00000000-0000-0000-0000-000000000000" }
  await admin.createLease("default", name, {}, { ownerReferences: [owner] })
  await admin.waitForLease("default", name, (lease) => lease === undefined, 60_000)
  return true
}

// --- What both have in common ---

const makeCluster = (parts: {
  readonly descriptor: ClusterDescriptor
  readonly directory: { readonly path: string; readonly remove: () => Promise<void> }
  readonly tls: TlsOptions
  readonly ca: string | undefined
  readonly token?: string
  readonly control?: Pick<KubeCluster, "stopApiServer" | "startApiServer" | "addApiServer">
  readonly onClose?: () => Promise<void>
}): KubeCluster => {
  const { ca, control, descriptor, directory } = parts
  const url = new URL(descriptor.url)
  const admin = new ApiClient({
    url: descriptor.url,
    tls: parts.tls,
    token: parts.token,
    labels: { [runLabel]: descriptor.run },
    // On a cluster with nodes a made-up one would soon be noticed; there the Pod waits for a node for ever.
    ...(descriptor.kind === "existing" ? { podSpec: { nodeSelector: { [runLabel]: "no-such-node" } } } : {})
  })

  const missing = (feature: Feature): string | undefined => {
    if (feature === "restart" && control === undefined) {
      return descriptor.kind === "existing"
        ? "an existing cluster's API server is not stopped by tests"
        : "only the process that has started the API server can stop it: use startCluster()"
    }
    return descriptor.features.includes(feature)
      ? undefined
      : `the feature ${feature} is not available on this ${descriptor.kind} cluster`
  }
  const requireFeature = (feature: Feature): void => {
    const reason = missing(feature)
    if (reason !== undefined) throw new Error(reason)
  }
  const restartable = (): NonNullable<typeof control> => {
    requireFeature("restart")
    return control!
  }
  const signalEtcd = (signal: NodeJS.Signals): void => {
    requireFeature("freeze")
    process.kill(descriptor.local!.etcdPid, signal)
  }

  // A TCP proxy in front of an existing cluster shows that cluster's certificate, which does not name the proxy. The one
  // of a local cluster is valid for any port.
  const serverName = (server: string) =>
    descriptor.kind === "existing" && new URL(server).hostname !== url.hostname ? url.hostname : undefined

  let files = 0
  let closed: Promise<void> | undefined
  const close = () =>
    closed ??= (async () => {
      try {
        await parts.onClose?.()
      } finally {
        admin.close()
        await directory.remove()
      }
    })()

  return {
    descriptor,
    admin,
    url: descriptor.url,
    host: url.hostname.replace(/^\[|\]$/g, ""),
    port: Number(url.port || 443),
    ca,
    candidateProgram: descriptor.candidateProgram,
    directory: directory.path,
    missing,

    stopApiServer: async (options) => restartable().stopApiServer(options),
    startApiServer: async () => restartable().startApiServer(),
    addApiServer: async (args) => restartable().addApiServer(args),
    freezeEtcd: () => signalEtcd("SIGSTOP"),
    thawEtcd: () => signalEtcd("SIGCONT"),

    auditLog: async ({ since = 0, user } = {}) => {
      requireFeature("audit")
      const text = await readFile(descriptor.local!.auditLogPath, "utf8")
      // The last line may be only half written.
      return text.slice(0, text.lastIndexOf("\n") + 1).split("\n")
        .filter((line) => line !== "")
        .map((line): AuditEntry => JSON.parse(line))
        .filter((entry) =>
          Date.parse(entry.requestReceivedTimestamp) >= since && (user === undefined || entry.user.username === user)
        )
    },

    clientAs: ({ server = descriptor.url, ...options }) =>
      new ApiClient({
        url: server,
        token: options.token,
        tls: { ca: options.ca ?? ca, servername: options.ca === undefined ? serverName(server) : undefined }
      }),

    writeKubeconfig: async (options) => {
      const path = join(directory.path, `kubeconfig-${++files}.json`)
      const authority = options.ca ?? ca
      const server = options.server ?? descriptor.url
      const config = {
        apiVersion: "v1",
        kind: "Config",
        clusters: [{
          name: "test",
          cluster: {
            server,
            ...(authority === undefined
              ? {}
              : { "certificate-authority-data": Buffer.from(authority).toString("base64") }),
            "tls-server-name": options.ca === undefined ? serverName(server) : undefined
          }
        }],
        users: [{ name: "test", user: { token: options.token } }],
        contexts: [{
          name: "test",
          context: {
            cluster: "test",
            user: "test",
            ...(options.namespace === undefined ? {} : { namespace: options.namespace })
          }
        }],
        "current-context": "test"
      }
      await writeFile(path, JSON.stringify(config, undefined, 2), { mode: 0o600 })
      return path
    },

    writeServiceAccountFiles: async (options) => {
      const path = join(directory.path, `serviceaccount-${++files}`)
      await mkdir(path)
      await Promise.all([
        writeFile(join(path, "token"), options.token, { mode: 0o600 }),
        writeFile(join(path, "namespace"), options.namespace),
        writeFile(join(path, "ca.crt"), options.ca ?? ca ?? "")
      ])
      return path
    },

    close,
    [Symbol.asyncDispose]: close
  }
}
