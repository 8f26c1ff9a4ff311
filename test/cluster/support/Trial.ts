/**
 * The stage of one test: a namespace with one Lease, a witness of its changes, the candidates' rights, and candidates
 * as processes.
 */
import { assert } from "@effect/vitest"
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import type { CandidateEvent } from "../../../src/cli/run/candidateEvent.ts"
import { ageMarkAnnotation } from "../../../src/LeaseRecord.ts"
import type { ApiClient, Lease, LeaseEvent, LeaseObserver, Pod } from "../utils/ApiClient.ts"
import type { KubeCluster } from "../utils/KubeCluster.ts"
import { cleanEnvironment, type Exit, JsonLinesProcess } from "../utils/Processes.ts"
import { bundle } from "./programs.ts"
import { monotonicNow, problemsOf, problemsOfJournal, type Term, termsOf } from "./Terms.ts"

/** The name of the Lease in every trial. */
export const leaseName = "invoices"

/** Seconds: short, and long enough for a machine whose two cores have other work too. */
export const leaseDuration = 5

export const milliseconds = {
  duration: leaseDuration * 1_000,
  renewDeadline: leaseDuration * 1_000 * 2 / 3,
  /** What a machine that is busy with the other trials may take longer. */
  slack: 1_000
}

/** Fails with the value, unlike an assertion on a comparison. */
export const assertBetween = (what: string, value: number, low: number, high: number): void => {
  assert.isTrue(value >= low && value <= high, `${what}: ${value.toFixed(1)} ms, not between ${low} and ${high}`)
}

const program = bundle("candidate")

export interface TrialOptions {
  /** The Lease that is there when the trial begins; by default there is none. */
  readonly lease?: Lease["spec"]
  /** Who may do with the Lease what `leaseRules` grants; without `watch`, or without any right, where it says so. */
  readonly role?: "watch" | "noWatch" | "none"
}

/** As client-go leaves it behind. */
export const releasedLease: Lease["spec"] = {
  holderIdentity: "",
  leaseDurationSeconds: 1,
  leaseTransitions: 7,
  acquireTime: "2020-01-01T00:00:00.000000Z",
  renewTime: "2020-01-01T00:00:00.000000Z"
}

export interface CandidateOptions {
  /** Of its Pod, which is created. */
  readonly name?: string
  /** The Pod, where it exists already. */
  readonly pod?: Pod
  /** Whatever else POD_UID is to say. */
  readonly podUid?: string
  /** By default as a Pod, whose Lease names it as owner; else by a kubeconfig. */
  readonly connection?: "inCluster" | "kubeconfig"
  /** A proxy in front of the API server. */
  readonly through?: { readonly url: string; readonly ca?: string }
  readonly token?: string
  /** Seconds. */
  readonly leaseDuration?: number
  readonly env?: Record<string, string | undefined>
}

export class Trial implements AsyncDisposable {
  readonly cluster: KubeCluster
  readonly admin: ApiClient
  readonly namespace: string
  readonly observer: LeaseObserver
  readonly token: string
  /** All candidates write into it. */
  readonly journal: string
  readonly candidates: Array<Candidate> = []
  private pods = 0

  static async start(cluster: KubeCluster, options: TrialOptions = {}): Promise<Trial> {
    const { admin } = cluster
    const namespace = await admin.createNamespace()
    const role = options.role ?? "watch"
    const account = admin.createCandidateAccount(namespace, leaseName, { watch: role !== "noWatch" })
    if (role === "none") {
      await account
      await admin.putRole(namespace, "candidate", [])
    }
    if (options.lease !== undefined) await admin.createLease(namespace, leaseName, options.lease)
    return new Trial(cluster, namespace, await admin.observeLease(namespace, leaseName), await account)
  }

  private constructor(cluster: KubeCluster, namespace: string, observer: LeaseObserver, token: string) {
    this.cluster = cluster
    this.admin = cluster.admin
    this.namespace = namespace
    this.observer = observer
    this.token = token
    this.journal = join(cluster.directory, `journal-${namespace}`)
  }

  /** Marks the Lease as old, as one who has known it for leaseDuration does: a candidate may lead on it at once. */
  async aged(): Promise<void> {
    const { metadata: { uid } } = await this.lease()
    await this.admin.patchLease(this.namespace, leaseName, {
      metadata: { annotations: { [ageMarkAnnotation]: uid } }
    })
  }

  async lease(): Promise<Lease> {
    const lease = await this.admin.getLease(this.namespace, leaseName)
    assert.isDefined(lease)
    return lease
  }

  /** Starts a candidate, and gives it as soon as it has begun to campaign. */
  async candidate(options: CandidateOptions = {}): Promise<Candidate> {
    const candidate = await this.launch(options)
    await candidate.process.waitFor(({ event }) => event === "following", 20_000)
    return candidate
  }

  /** A leader, and a follower who has seen it lead. */
  async pair(
    forLeader: CandidateOptions = {},
    forFollower: CandidateOptions = {}
  ): Promise<{ readonly leader: Candidate; readonly follower: Candidate }> {
    const leader = await this.candidate(forLeader)
    await leader.first("leading", 40_000)
    const follower = await this.candidate(forFollower)
    await follower.process.waitFor((value) => value.leader === leader.identity)
    return { leader, follower }
  }

  /** As `kubectl replace` does with a file that says nothing but the name: the object stays, all else goes. */
  async empty(): Promise<void> {
    for (;;) {
      const { metadata } = await this.lease()
      const replaced = await this.admin.putLease(this.namespace, {
        metadata: { name: leaseName, resourceVersion: metadata.resourceVersion },
        spec: {}
      }).then(() => true, (error) => error.answer?.status === 409 ? false : Promise.reject(error))
      if (replaced) return
    }
  }

  /** As `candidate`, without waiting for anything. */
  async launch(options: CandidateOptions = {}): Promise<Candidate> {
    const { cluster } = this
    const pod = options.pod ??
      await this.admin.createPod(this.namespace, options.name ?? `${leaseName}-${++this.pods}`)
    const name = pod.metadata.name
    const token = options.token ?? this.token
    const { connection = "inCluster", through } = options
    const directory = connection === "inCluster"
      ? await cluster.writeServiceAccountFiles({
        token,
        namespace: this.namespace,
        ...(through?.ca !== undefined && { ca: through.ca })
      })
      : undefined
    const server = through === undefined ? undefined : new URL(through.url)
    const uid = options.podUid ?? pod.metadata.uid
    const process = JsonLinesProcess.start<CandidateEvent>({
      name,
      command: globalThis.process.execPath,
      args: [await program],
      env: cleanEnvironment({
        ...(directory === undefined
          ? {
            KUBECONFIG: await cluster.writeKubeconfig({
              token,
              namespace: this.namespace,
              server: through?.url,
              ca: through?.ca
            })
          }
          : {
            SERVICE_ACCOUNT_DIRECTORY: directory,
            KUBERNETES_SERVICE_HOST: server?.hostname ?? cluster.host,
            KUBERNETES_SERVICE_PORT: server?.port ?? `${cluster.port}`
          }),
        POD_NAME: name,
        POD_UID: uid,
        POD_NAMESPACE: this.namespace,
        LEADER_ELECTION_NAME: leaseName,
        LEADER_ELECTION_LEASE_DURATION: `${options.leaseDuration ?? leaseDuration}s`,
        JOURNAL: this.journal,
        ...options.env
      })
    })
    const candidate = new Candidate(process, pod, `${name}_${uid}`, directory)
    this.candidates.push(candidate)
    return candidate
  }

  /** The next change of the Lease; where nothing else happens, a renewal, which followers see as well. */
  async change(): Promise<LeaseEvent> {
    const { events } = this.observer
    const from = events.length
    return this.observer.waitFor((event) => events.indexOf(event) >= from)
  }

  /** The last change of the Lease that was seen so far in which this candidate holds it. */
  lastRenewal(candidate: Candidate): LeaseEvent {
    const event = this.observer.events.findLast(({ lease, type }) =>
      type !== "DELETED" && lease.spec.holderIdentity === candidate.identity
    )
    assert.isDefined(event)
    return event
  }

  get terms(): Array<Term> {
    return this.candidates.flatMap((candidate) => candidate.terms)
  }

  /** Never two leaders, fencing tokens that grow, and nothing stale in the journal. */
  async verify(): Promise<void> {
    assert.deepStrictEqual(problemsOf(this.terms), [])
    assert.deepStrictEqual(await problemsOfJournal(this.journal), [])
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.candidates.map((candidate) => candidate.process.close()))
    await this.observer.close()
    await this.admin.deleteNamespace(this.namespace)
  }
}

/** A candidate's process, with what it has told so far. */
export class Candidate {
  readonly process: JsonLinesProcess<CandidateEvent>
  readonly pod: Pod
  readonly identity: string
  /** Of the service account's files. */
  readonly directory: string | undefined
  private killed = Infinity

  constructor(
    process: JsonLinesProcess<CandidateEvent>,
    pod: Pod,
    identity: string,
    directory: string | undefined
  ) {
    this.process = process
    this.pod = pod
    this.identity = identity
    this.directory = directory
    void process.exit.then(({ signal }) => {
      if (signal === "SIGKILL") this.killed = monotonicNow()
    })
  }

  /** The first such event, earlier ones included unless `from` is given: a number of lines to pass over. */
  async first(event: CandidateEvent["event"], timeout = 20_000, from = 0): Promise<CandidateEvent> {
    return (await this.process.waitFor((value) => value.event === event, timeout, from)).value
  }

  /** The monotonic time of the first such event, which has happened. */
  since(event: CandidateEvent["event"]): number {
    const found = this.process.values.find((value) => value.event === event)
    assert.isDefined(found)
    return found.mono
  }

  /** Asks it to end; gives the time of the signal, monotonic. */
  terminate(): number {
    const at = monotonicNow()
    this.process.signal("SIGTERM")
    return at
  }

  async kill(): Promise<void> {
    this.process.signal("SIGKILL")
    await this.process.exit
  }

  /** Waits until it has ended by itself. */
  exit(): Promise<Exit> {
    return this.process.exit
  }

  get terms(): Array<Term> {
    return termsOf(this.process.values, this.killed)
  }

  get events(): Array<string> {
    return this.process.values.map(({ event }) => event).filter((event) => event !== "step")
  }

  /** Writes another token where the kubelet would. */
  async rotateToken(token: string): Promise<void> {
    await writeFile(join(this.directory!, "token"), token)
  }
}
