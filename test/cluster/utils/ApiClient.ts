/**
 * A client of the Kubernetes API for tests: the administrator's view, or that of anyone whose token it has. It is not
 * built on the library, which is what is being tested.
 */
import type * as Http from "node:http"
import * as Https from "node:https"
import { setTimeout as sleep } from "node:timers/promises"
import { parseAllDocuments } from "yaml"

export interface Metadata {
  readonly name: string
  readonly namespace?: string
  readonly uid: string
  readonly resourceVersion: string
  readonly creationTimestamp: string
  readonly deletionTimestamp?: string
  readonly labels?: Record<string, string>
  readonly annotations?: Record<string, string>
  readonly ownerReferences?: Array<OwnerReference>
}

export interface OwnerReference {
  readonly apiVersion: string
  readonly kind: string
  readonly name: string
  readonly uid: string
}

export interface Lease {
  readonly metadata: Metadata
  readonly spec: {
    readonly holderIdentity?: string | null
    readonly leaseDurationSeconds?: number | null
    readonly acquireTime?: string | null
    readonly renewTime?: string | null
    readonly leaseTransitions?: number | null
  }
}

export interface Pod {
  readonly metadata: Metadata
  readonly spec: { readonly nodeName?: string }
}

export interface Rule {
  readonly apiGroups: ReadonlyArray<string>
  readonly resources: ReadonlyArray<string>
  readonly verbs: ReadonlyArray<string>
  readonly resourceNames?: ReadonlyArray<string>
}

export interface RequestOptions {
  /** For PATCH it is a merge patch unless said otherwise. */
  readonly contentType?: string
  /** Another user's token; "" for none at all. */
  readonly token?: string
  /** Milliseconds until the request is given up; 30 seconds unless said otherwise. */
  readonly timeout?: number
}

export interface Answer<A = any> {
  readonly status: number
  readonly headers: Http.IncomingHttpHeaders
  /** The parsed JSON; undefined where the body is something else. */
  readonly body: A
  readonly text: string
}

/** An answer that a helper did not expect. */
export class UnexpectedAnswer extends Error {
  readonly answer: Answer
  constructor(method: string, path: string, answer: Answer) {
    super(`${method} ${path}: ${answer.status} ${answer.text.trim()}`)
    this.answer = answer
  }
}

export interface LeaseEvent {
  /** Wall-clock milliseconds at which the event was received, fractional as `performance` has them. */
  readonly at: number
  readonly type: "ADDED" | "MODIFIED" | "DELETED"
  readonly lease: Lease
}

/** The rights of a candidate: what the README's Role grants. */
export const leaseRules = (leaseName: string, options: { readonly watch?: boolean } = {}): Array<Rule> => {
  const leases = { apiGroups: ["coordination.k8s.io"], resources: ["leases"] }
  return [
    // A name that does not exist yet cannot be granted.
    { ...leases, verbs: ["create"] },
    {
      ...leases,
      verbs: ["get", "patch", ...(options.watch === false ? [] : ["watch"])],
      resourceNames: [leaseName]
    }
  ]
}

const leasesPath = (namespace: string) => `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases`
const now = () => performance.timeOrigin + performance.now()

// The path of a kind in a manifest; enough for what deployments of an elector consist of.
const collections: Record<string, { readonly path: string; readonly clusterWide?: boolean }> = {
  "v1/Namespace": { path: "namespaces", clusterWide: true },
  "v1/ServiceAccount": { path: "serviceaccounts" },
  "v1/ConfigMap": { path: "configmaps" },
  "v1/Pod": { path: "pods" },
  "v1/Service": { path: "services" },
  "apps/v1/Deployment": { path: "deployments" },
  "policy/v1/PodDisruptionBudget": { path: "poddisruptionbudgets" },
  "rbac.authorization.k8s.io/v1/Role": { path: "roles" },
  "rbac.authorization.k8s.io/v1/RoleBinding": { path: "rolebindings" },
  "rbac.authorization.k8s.io/v1/ClusterRole": { path: "clusterroles", clusterWide: true },
  "rbac.authorization.k8s.io/v1/ClusterRoleBinding": { path: "clusterrolebindings", clusterWide: true },
  "coordination.k8s.io/v1/Lease": { path: "leases" },
  "flowcontrol.apiserver.k8s.io/v1/FlowSchema": { path: "flowschemas", clusterWide: true }
}

const objectPath = (object: any, namespace: string | undefined): { collection: string; item: string } => {
  const key = `${object.apiVersion}/${object.kind}`
  const known = collections[key]
  if (known === undefined) throw new Error(`apply does not know the path of ${key}`)
  const group = object.apiVersion === "v1" ? "/api/v1" : `/apis/${object.apiVersion}`
  const within = object.metadata.namespace ?? namespace
  if (known.clusterWide !== true && within === undefined) throw new Error(`${key} needs a namespace`)
  const collection = known.clusterWide === true
    ? `${group}/${known.path}`
    : `${group}/namespaces/${within}/${known.path}`
  return { collection, item: `${collection}/${object.metadata.name}` }
}

export class ApiClient {
  /** The API server's address, without a slash at the end. */
  readonly url: string
  private readonly tls: Https.RequestOptions
  private readonly token: string | undefined
  private readonly labels: Record<string, string>
  private readonly agent: Https.Agent
  private readonly podSpec: object

  constructor(options: {
    readonly url: string
    /** CA, client certificate, headers, ... */
    readonly tls: Https.RequestOptions
    readonly token?: string | undefined
    /** Put on every namespace that is made. */
    readonly labels?: Record<string, string>
    /** What keeps a Pod from ever being run, and from being deleted at once. */
    readonly podSpec?: object
  }) {
    this.url = options.url
    this.tls = options.tls
    this.token = options.token
    this.labels = options.labels ?? {}
    this.podSpec = options.podSpec ?? { nodeName: "no-such-node" }
    const { ca, cert, key, passphrase, pfx, rejectUnauthorized, servername } = options.tls
    const tls = { ca, cert, key, passphrase, pfx, rejectUnauthorized, servername }
    this.agent = new Https.Agent({ ...tls, keepAlive: true } as Https.AgentOptions)
  }

  /** Sends a request and gives whatever is answered; fails only where no answer came. */
  request<A = any>(method: string, path: string, body?: unknown, options: RequestOptions = {}): Promise<Answer<A>> {
    const text = body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body)
    return new Promise((resolve, reject) => {
      const request = this.open(method, path, options, (response) => {
        const chunks: Array<Buffer> = []
        response.on("data", (chunk: Buffer) => chunks.push(chunk))
        response.once("error", reject)
        response.once("end", () => {
          const text = Buffer.concat(chunks).toString()
          resolve({ status: response.statusCode!, headers: response.headers, body: parse(text), text })
        })
      }, text)
      request.setTimeout(options.timeout ?? 30_000, () => {
        request.destroy(new Error(`${method} ${path}: no answer within ${options.timeout ?? 30_000} ms`))
      })
      request.once("error", reject)
      request.end(text)
    })
  }

  private open(
    method: string,
    path: string,
    options: RequestOptions,
    onResponse: (response: Http.IncomingMessage) => void,
    text?: string
  ): Http.ClientRequest {
    // Another user must not come with the administrator's client certificate, which would win over the token.
    const asAdmin = options.token === undefined
    const headers: Http.OutgoingHttpHeaders = { accept: "application/json" }
    if (asAdmin) Object.assign(headers, this.tls.headers)
    const token = options.token ?? this.token
    if (token !== undefined && token !== "") headers["authorization"] = `Bearer ${token}`
    if (text !== undefined) {
      headers["content-type"] = options.contentType ??
        (method === "PATCH" ? "application/merge-patch+json" : "application/json")
      headers["content-length"] = Buffer.byteLength(text)
    }
    const url = new URL(this.url + path)
    const { ca, rejectUnauthorized = true, servername } = this.tls
    return Https.request(
      url,
      asAdmin
        ? { method, headers, agent: this.agent }
        : { method, headers, ca, rejectUnauthorized, servername, agent: false },
      onResponse
    )
  }

  /** As `request`, for requests that must succeed; gives the body. */
  async ok<A = any>(method: string, path: string, body?: unknown, options?: RequestOptions): Promise<A> {
    const answer = await this.request<A>(method, path, body, options)
    if (answer.status >= 300) throw new UnexpectedAnswer(method, path, answer)
    return answer.body
  }

  private async okOrMissing<A>(method: string, path: string, body?: unknown): Promise<A | undefined> {
    const answer = await this.request<A>(method, path, body)
    if (answer.status === 404) return undefined
    if (answer.status >= 300) throw new UnexpectedAnswer(method, path, answer)
    return answer.body
  }

  // --- namespaces, users, rights ---

  /** Makes a namespace with a name of its own that begins with `prefix`. */
  async createNamespace(prefix = "test"): Promise<string> {
    const name = `${prefix}-${Math.random().toString(36).slice(2, 10)}`
    await this.ok("POST", "/api/v1/namespaces", { metadata: { name, labels: this.labels } })
    return name
  }

  /** Asks for its deletion; the namespace is gone some time later. */
  async deleteNamespace(namespace: string): Promise<void> {
    await this.okOrMissing("DELETE", `/api/v1/namespaces/${namespace}`)
  }

  async createServiceAccount(namespace: string, name: string): Promise<void> {
    await this.ok("POST", `/api/v1/namespaces/${namespace}/serviceaccounts`, { metadata: { name } })
  }

  async deleteServiceAccount(namespace: string, name: string): Promise<void> {
    await this.okOrMissing("DELETE", `/api/v1/namespaces/${namespace}/serviceaccounts/${name}`)
  }

  /** A token of a service account; 600 seconds are the least that the API allows. */
  async createToken(namespace: string, serviceAccount: string, expirationSeconds = 3600): Promise<string> {
    const path = `/api/v1/namespaces/${namespace}/serviceaccounts/${serviceAccount}/token`
    const answer = await this.ok("POST", path, { spec: { expirationSeconds } })
    return answer.status.token
  }

  /** Creates the Role or replaces its rules. */
  async putRole(namespace: string, name: string, rules: ReadonlyArray<Rule>): Promise<void> {
    await this.apply({ apiVersion: "rbac.authorization.k8s.io/v1", kind: "Role", metadata: { name }, rules }, namespace)
  }

  async putRoleBinding(namespace: string, role: string, serviceAccount: string): Promise<void> {
    await this.apply({
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "RoleBinding",
      metadata: { name: `${role}-${serviceAccount}` },
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name: role },
      subjects: [{ kind: "ServiceAccount", name: serviceAccount, namespace }]
    }, namespace)
  }

  async deleteRoleBinding(namespace: string, role: string, serviceAccount: string): Promise<void> {
    const path = `/apis/rbac.authorization.k8s.io/v1/namespaces/${namespace}/rolebindings/${role}-${serviceAccount}`
    await this.okOrMissing("DELETE", path)
  }

  /**
   * A service account that may do with one Lease what a candidate needs and nothing else; gives a token of it. The Role
   * has the account's name, so that `putRole` and `deleteRoleBinding(namespace, name, name)` change its rights.
   */
  async createCandidateAccount(
    namespace: string,
    leaseName: string,
    options: { readonly name?: string; readonly watch?: boolean; readonly expirationSeconds?: number } = {}
  ): Promise<string> {
    const name = options.name ?? "candidate"
    await this.createServiceAccount(namespace, name)
    await this.putRole(namespace, name, leaseRules(leaseName, options))
    await this.putRoleBinding(namespace, name, name)
    return this.createToken(namespace, name, options.expirationSeconds)
  }

  /**
   * Applies a manifest as a user would: YAML or JSON text of one or more documents, or an object. `namespace` is for
   * the objects that name none.
   */
  async apply(manifest: string | object, namespace?: string): Promise<Array<any>> {
    const objects = typeof manifest === "string"
      ? parseAllDocuments(manifest).map((document) => {
        if (document.errors.length > 0) throw document.errors[0]
        return document.toJS()
      }).filter((object) => object !== null && object !== undefined)
      : [manifest]
    const applied: Array<any> = []
    for (const object of objects as Array<any>) {
      const path = objectPath(object, namespace)
      const created = await this.request("POST", path.collection, object)
      if (created.status === 409) {
        const { metadata } = await this.ok("GET", path.item)
        const body = { ...object, metadata: { ...object.metadata, resourceVersion: metadata.resourceVersion } }
        applied.push(await this.ok("PUT", path.item, body))
      } else if (created.status >= 300) {
        throw new UnexpectedAnswer("POST", path.collection, created)
      } else {
        applied.push(created.body)
      }
    }
    return applied
  }

  // --- Pods ---

  /** A Pod that no node will ever run: it stays until it is deleted. */
  createPod(namespace: string, name: string, spec: object = {}): Promise<Pod> {
    return this.ok("POST", `/api/v1/namespaces/${namespace}/pods`, {
      metadata: { name },
      spec: { containers: [{ name: "main", image: "none" }], ...this.podSpec, ...spec }
    })
  }

  /** Deletes at once unless a grace period is given; then the Pod stays, terminating, since no kubelet ends it. */
  async deletePod(namespace: string, name: string, gracePeriodSeconds = 0): Promise<void> {
    await this.okOrMissing("DELETE", `/api/v1/namespaces/${namespace}/pods/${name}`, { gracePeriodSeconds })
  }

  // --- Leases ---

  getLease(namespace: string, name: string): Promise<Lease | undefined> {
    return this.okOrMissing("GET", `${leasesPath(namespace)}/${name}`)
  }

  async listLeases(namespace: string): Promise<Array<Lease>> {
    return (await this.ok("GET", leasesPath(namespace))).items
  }

  createLease(
    namespace: string,
    name: string,
    spec: Lease["spec"] = {},
    metadata: Partial<Metadata> = {}
  ): Promise<Lease> {
    return this.ok("POST", leasesPath(namespace), { metadata: { ...metadata, name }, spec })
  }

  /** A merge patch, without a version unless one is given in `patch.metadata`. */
  patchLease(
    namespace: string,
    name: string,
    patch: { readonly metadata?: object; readonly spec?: object | null }
  ): Promise<Lease> {
    return this.ok("PATCH", `${leasesPath(namespace)}/${name}`, patch)
  }

  putLease(
    namespace: string,
    lease: { readonly metadata: Partial<Metadata>; readonly spec?: Lease["spec"] }
  ): Promise<Lease> {
    return this.ok("PUT", `${leasesPath(namespace)}/${lease.metadata.name}`, lease)
  }

  /** False where there was none. */
  async deleteLease(namespace: string, name: string): Promise<boolean> {
    return (await this.okOrMissing("DELETE", `${leasesPath(namespace)}/${name}`)) !== undefined
  }

  /** Reads the Lease until it is as wanted; fails after `timeout` ms, showing what it was. */
  async waitForLease(
    namespace: string,
    name: string,
    predicate: (lease: Lease | undefined) => boolean,
    timeout = 10_000
  ): Promise<Lease | undefined> {
    const deadline = performance.now() + timeout
    for (;;) {
      const lease = await this.getLease(namespace, name)
      if (predicate(lease)) return lease
      if (performance.now() > deadline) {
        throw new Error(`The Lease is not as expected after ${timeout} ms: ${JSON.stringify(lease)}`)
      }
      await sleep(20)
    }
  }

  /** Records every change of a Lease from now on: an independent witness of what the candidates say of themselves. */
  async observeLease(namespace: string, name: string): Promise<LeaseObserver> {
    const observer = new LeaseObserver()
    const list = await this.ok("GET", `${leasesPath(namespace)}?fieldSelector=metadata.name%3D${name}`)
    let version: string = list.metadata.resourceVersion
    for (const lease of list.items as Array<Lease>) observer.add({ at: now(), type: "ADDED", lease })
    const watch = (): void => {
      if (observer.closed) return
      const since = version === "" ? "" : `&resourceVersion=${version}`
      const path = `${
        leasesPath(namespace)
      }?watch=1&fieldSelector=metadata.name%3D${name}&allowWatchBookmarks=true${since}`
      // A server that is stopped or frozen by a test ends the watch: it goes on where it was.
      const again = () => void setTimeout(watch, 50).unref()
      let answered = false
      const request = this.open("GET", path, {}, (response) => {
        answered = true
        if (response.statusCode !== 200) {
          response.resume()
          return again()
        }
        let rest = ""
        response.setEncoding("utf8")
        response.on("data", (chunk: string) => {
          const lines = (rest + chunk).split("\n")
          rest = lines.pop()!
          for (const line of lines) {
            const event = JSON.parse(line)
            if (event.type === "ERROR") {
              // A server that was started again does not know the past: then from what is there now.
              if (event.object.code === 410) version = ""
              else observer.fail(new Error(`The watch cannot go on: ${line}`))
              return
            }
            version = event.object.metadata.resourceVersion
            const known = observer.events.at(-1)?.lease.metadata.resourceVersion
            if (event.type !== "BOOKMARK" && version !== known) {
              observer.add({ at: now(), type: event.type, lease: event.object })
            }
          }
        })
        response.once("error", () => {})
        response.once("close", again)
      })
      request.once("error", () => {
        if (!answered) again()
      })
      observer.request = request
      request.end()
    }
    watch()
    return observer
  }

  close(): void {
    this.agent.destroy()
  }
}

/** The changes of one Lease, in the order of the server. */
export class LeaseObserver implements AsyncDisposable {
  readonly events: Array<LeaseEvent> = []
  closed = false
  request: Http.ClientRequest | undefined
  private failure: Error | undefined
  private readonly listeners = new Set<() => void>()

  add(event: LeaseEvent): void {
    this.events.push(event)
    for (const listener of this.listeners) listener()
  }

  fail(error: Error): void {
    this.failure = error
    for (const listener of this.listeners) listener()
  }

  /** The first event, earlier ones included, that fits. */
  waitFor(predicate: (event: LeaseEvent) => boolean, timeout = 10_000): Promise<LeaseEvent> {
    return new Promise((resolve, reject) => {
      const settle = () => {
        const found = this.events.find(predicate)
        if (found === undefined && this.failure === undefined) return
        clearTimeout(timer)
        this.listeners.delete(settle)
        if (found === undefined) reject(this.failure!)
        else resolve(found)
      }
      const timer = setTimeout(() => {
        this.listeners.delete(settle)
        const last = this.events.slice(-3).map((event) => `${event.type} ${JSON.stringify(event.lease.spec)}`)
        reject(new Error(`No such change of the Lease within ${timeout} ms; the last were:\n${last.join("\n")}`))
      }, timeout)
      this.listeners.add(settle)
      settle()
    })
  }

  close(): Promise<void> {
    this.closed = true
    this.request?.destroy()
    return Promise.resolve()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

const parse = (text: string): any => {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
