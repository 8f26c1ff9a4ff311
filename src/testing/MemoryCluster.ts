/**
 * A Kubernetes API server's storage in memory, for tests: Leases, the Pods that own them, one version counter for all
 * of them, guarded writes, watches, and the garbage collector.
 *
 * Two things stand on it: {@link MemoryLeaseStore}, which the election runs on under `TestClock`, and
 * {@link LeaseApiServer}, which speaks HTTP. Both answer as kube-apiserver 1.37 was measured to answer; one suite holds
 * them and a real API server to the same assertions.
 *
 * What this module offers beside them is what *others* do to a cluster: delete a Lease, edit it, empty it in place,
 * delete a Pod, restore etcd from a backup.
 *
 * @since 0.1.0
 */
import type * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as LeaseRecord from "../LeaseRecord.ts"
import { ApiError } from "./ApiError.ts"
import type { ApiObject } from "./internal/apiObject.ts"
import { attach, type ClusterApi, type WatchElement } from "./internal/clusterApi.ts"
import * as GarbageCollector from "./internal/garbageCollector.ts"
import * as Objects from "./internal/objects.ts"
import * as Resources from "./internal/resources.ts"

/**
 * An API call of the garbage collector. `Read` and `ReadAgain` get the Lease (and look its owners up); `Delete` is by
 * uid and version, `DeleteByUid` by uid alone.
 *
 * @category models
 * @since 0.1.0
 */
export type CollectorCall = "Read" | "Delete" | "ReadAgain" | "DeleteByUid" | "RemoveReferences" | "RemoveFinalizer"

/**
 * What a call came to. `Continues`: another call follows. Else the work is over: there was nothing to do (`Kept`), the
 * object was deleted or changed, or it had gone before (`Gone`).
 *
 * @category models
 * @since 0.1.0
 */
export type CollectorOutcome = "Continues" | "Kept" | "Deleted" | "Changed" | "Gone"

/**
 * A request that the cluster refused, as the API server would: the status code, and the `reason`, `message` and
 * `details` of the body.
 *
 * @category errors
 * @since 0.1.0
 */
export { ApiError }

/**
 * A Pod, as far as ownership is concerned.
 *
 * @category models
 * @since 0.1.0
 */
export interface Pod {
  readonly namespace: string
  readonly name: string
  readonly uid: string
  readonly labels: Readonly<Record<string, string>>
  /** True while a grace period, or a finalizer, holds up its deletion. */
  readonly terminating: boolean
}

/**
 * A Pod as an entry of a Lease's `ownerReferences`.
 *
 * @category models
 * @since 0.1.0
 */
export const ownerReference = (pod: Pick<Pod, "name" | "uid">): LeaseRecord.OwnerReference => ({
  apiVersion: "v1",
  kind: "Pod",
  name: pod.name,
  uid: pod.uid
})

/**
 * What a person or a tool writes into a Lease, in the API's own form.
 *
 * @category models
 * @since 0.1.0
 */
export interface LeaseBody {
  readonly metadata?: {
    readonly labels?: Readonly<Record<string, string | null>> | null
    readonly annotations?: Readonly<Record<string, string | null>> | null
    readonly ownerReferences?: ReadonlyArray<LeaseRecord.OwnerReference> | null
    readonly finalizers?: ReadonlyArray<string> | null
    readonly [field: string]: unknown
  }
  readonly spec?: { readonly [field: string]: unknown } | null
}

/**
 * One change that the cluster has made to a Lease.
 *
 * @category models
 * @since 0.1.0
 */
export interface Commit {
  readonly type: "Created" | "Changed" | "Deleted"
  /** The server's wall clock, Unix milliseconds. */
  readonly at: number
  readonly lease: LeaseRecord.LeaseRecord
}

/**
 * How the garbage collector runs.
 *
 * **Details**
 *
 * - `automatic`: it reads `delay` (5 ms) after something has changed, and each of its further API calls follows
 *   `stepDelay` (1 ms) later.
 * - `manual`: it waits for `collector.step`.
 * - `off`: nothing is ever collected.
 *
 * @category models
 * @since 0.1.0
 */
export type CollectorMode =
  | {
    readonly _tag: "automatic"
    readonly delay?: Duration.Input | undefined
    readonly stepDelay?: Duration.Input | undefined
  }
  | { readonly _tag: "manual" }
  | { readonly _tag: "off" }

/**
 * An object that the garbage collector is at work on. `next` is the API call that it makes next.
 *
 * @category models
 * @since 0.1.0
 */
export interface CollectorJob {
  readonly id: string
  readonly kind: "Lease" | "Pod"
  readonly namespace: string
  readonly name: string
  readonly uid: string
  readonly next: CollectorCall
}

/**
 * What one API call of the garbage collector came to.
 *
 * @category models
 * @since 0.1.0
 */
export interface CollectorStep {
  readonly job: CollectorJob
  readonly step: CollectorCall
  readonly outcome: CollectorOutcome
}

/**
 * The garbage collector of a {@link MemoryCluster}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Collector {
  readonly setMode: (mode: CollectorMode) => Effect.Effect<void>
  /** What it is at work on, oldest first. */
  readonly pending: Effect.Effect<ReadonlyArray<CollectorJob>>
  /**
   * Makes the next API call of a job: the one with this id, or else the oldest. `undefined` where there is none.
   */
  readonly step: (id?: string) => Effect.Effect<CollectorStep | undefined>
}

/**
 * Everything that a {@link MemoryCluster} holds at one moment: a backup of etcd.
 *
 * @category models
 * @since 0.1.0
 */
export interface Snapshot {
  /** That of the newest write in it. */
  readonly version: bigint
}

/**
 * A Kubernetes cluster in memory.
 *
 * @category services
 * @since 0.1.0
 */
export class MemoryCluster extends Context.Service<MemoryCluster, {
  /** Unlike that of every other cluster in this process. */
  readonly name: string

  /** The version of the newest write. */
  readonly version: Effect.Effect<bigint>

  /** The Lease as it is stored, or `undefined`. */
  readonly lease: (key: LeaseRecord.LeaseKey) => Effect.Effect<LeaseRecord.LeaseRecord | undefined>

  /** All Leases, of one namespace or of all. */
  readonly leases: (namespace?: string) => Effect.Effect<ReadonlyArray<LeaseRecord.LeaseRecord>>

  /** What has happened to Leases so far, oldest first, as far as the history goes back. */
  readonly commits: Effect.Effect<ReadonlyArray<Commit>>

  /** Creates a Lease, as `kubectl create` does. */
  readonly createLease: (
    key: LeaseRecord.LeaseKey,
    body?: LeaseBody
  ) => Effect.Effect<LeaseRecord.LeaseRecord, ApiError>

  /**
   * Replaces the whole Lease, guarded only if `body` carries a resourceVersion, as `kubectl replace` does: what the
   * body lacks is dropped. Creates it where there is none.
   */
  readonly putLease: (
    key: LeaseRecord.LeaseKey,
    body: LeaseBody
  ) => Effect.Effect<LeaseRecord.LeaseRecord, ApiError>

  /** Changes some fields whatever the version is, as `kubectl patch --type=merge`, `label` and `annotate` do. */
  readonly editLease: (
    key: LeaseRecord.LeaseKey,
    patch: LeaseBody
  ) => Effect.Effect<LeaseRecord.LeaseRecord, ApiError>

  /** Empties the `spec` in place, as a deployment tool does that has the Lease as a manifest without one. */
  readonly emptyLease: (key: LeaseRecord.LeaseKey) => Effect.Effect<LeaseRecord.LeaseRecord, ApiError>

  /** Deletes the Lease; false where there is none. Fails only where a precondition does not hold. */
  readonly deleteLease: (
    key: LeaseRecord.LeaseKey,
    options?: {
      readonly uid?: string | undefined
      readonly resourceVersion?: bigint | undefined
      /** Leaves it to the garbage collector, which removes the finalizer. */
      readonly foreground?: boolean | undefined
    }
  ) => Effect.Effect<boolean, ApiError>

  /** Creates a Pod, scheduled on a node unless said otherwise. */
  readonly createPod: (
    key: LeaseRecord.LeaseKey,
    options?: {
      readonly labels?: Readonly<Record<string, string>> | undefined
      readonly scheduled?: boolean | undefined
    }
  ) => Effect.Effect<Pod, ApiError>

  /** The Pod, or `undefined`. */
  readonly pod: (key: LeaseRecord.LeaseKey) => Effect.Effect<Pod | undefined>

  /**
   * Deletes the Pod at once, whatever still runs there; false where there is none. `gracePeriodSeconds` above 0 only
   * marks it as terminating: no kubelet is here to finish it, so call this again.
   */
  readonly deletePod: (
    key: LeaseRecord.LeaseKey,
    options?: {
      readonly gracePeriodSeconds?: number | undefined
      /** `--cascade=foreground`: what it owns is deleted while it still terminates. */
      readonly foreground?: boolean | undefined
    }
  ) => Effect.Effect<boolean>

  /** Creates a namespace; nothing happens where it exists. */
  readonly createNamespace: (name: string) => Effect.Effect<void>

  /** The garbage collector. */
  readonly collector: Collector

  /** Takes versions, as writes to other objects of the cluster do. */
  readonly skipVersions: (count: number) => Effect.Effect<void>

  /** Forgets the history: a watch that would begin before now fails with 410. */
  readonly compact: Effect.Effect<void>

  /** How many watches are open. */
  readonly openWatches: Effect.Effect<number>

  /** Ends all watches in good order, as an API server does that shuts down. */
  readonly closeWatches: Effect.Effect<void>

  /** A backup of etcd. */
  readonly snapshot: Effect.Effect<Snapshot>

  /** Restores a backup of etcd: objects and versions step back, and all watches end. */
  readonly restore: (snapshot: Snapshot) => Effect.Effect<void>
}>()("effect-kubernetes-leader-election/testing/MemoryCluster") {}

/**
 * Settings of a {@link MemoryCluster}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** Part of the name; "memory" by default. */
  readonly name?: string | undefined
  /** The namespaces that exist; `"any"`, the default, makes every namespace exist. */
  readonly namespaces?: ReadonlyArray<string> | "any" | undefined
  /** How the garbage collector runs; by default by itself, some milliseconds after a change. */
  readonly collector?: CollectorMode | undefined
  /** How often a watch gets a bookmark, if anything was written since; `null` for never. 1 minute by default. */
  readonly bookmarkInterval?: Duration.Input | null | undefined
  /** How many changes a watch can go back; 1000 by default. */
  readonly history?: number | undefined
  /**
   * Whether the fields `strategy` and `preferredHolder` of KEP-4355 are kept. Off by default, as in Kubernetes: they
   * are dropped without a word.
   */
  readonly coordinatedLeaderElection?: boolean | undefined
}

let clusters = 0

/**
 * Makes a cluster.
 *
 * **Details**
 *
 * The `Clock` in which this effect runs is the server's: it dates answers and objects, and times the garbage
 * collector and the bookmarks. To give the server a clock unlike the candidates', provide that clock here.
 *
 * Nothing is random, and every operation is one step: under `TestClock` the same test does the same each time.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function*( // oxlint-disable-line max-lines-per-function -- one cluster: its functions share its objects
  options: Options = {}
): Effect.fn.Return<MemoryCluster["Service"], never, Scope.Scope> {
  const clock = yield* Clock.Clock
  const scope = yield* Scope.Scope
  const leases = Resources.makeLeases({ coordinatedLeaderElection: options.coordinatedLeaderElection ?? false })
  const historyLimit = options.history ?? 1000
  clusters += 1
  const name = `${options.name ?? "memory"}-${clusters}`
  let connections = 0
  let mode: CollectorMode = options.collector ?? { _tag: "automatic" }

  // --- the storage and its collector ------------------------------------------------------------------------

  const commits: Array<{ readonly at: number; readonly event: Objects.WatchEvent }> = []
  const started: Array<GarbageCollector.Job> = []

  const collector = GarbageCollector.make({
    objects: () => objects,
    leases,
    onJob: (job) => {
      started.push(job)
    }
  })

  const objects: Objects.Objects = Objects.make({
    now: () => clock.currentTimeMillisUnsafe(),
    namespaces: options.namespaces ?? "any",
    history: historyLimit,
    onChange: (event, type) => {
      if (type === leases) {
        commits.push({ at: clock.currentTimeMillisUnsafe(), event })
        if (commits.length > historyLimit) {
          commits.shift()
        }
      }
      if (mode._tag !== "off") {
        collector.onChange(event, type)
      }
    }
  })

  const runJob: (job: GarbageCollector.Job) => Effect.Effect<void> = Effect.fnUntraced(function*(job) {
    const { delay, stepDelay } = mode._tag === "automatic" ? mode : {}
    yield* Effect.sleep(delay ?? "5 millis")
    // A change of mode leaves the job to the test that steps it.
    while (mode._tag === "automatic" && collector.pending().includes(job)) {
      collector.step(job.id)
      // What the collector does may make work for it: the finalizer of a Pod whose last Lease is gone.
      yield* startJobs
      yield* collector.pending().includes(job) ? Effect.sleep(stepDelay ?? "1 millis") : Effect.void
    }
  }, Effect.provideService(Clock.Clock, clock))

  // Started at once, so that its first sleep counts from the change itself.
  const startJobs: Effect.Effect<void> = Effect.suspend(() => {
    const jobs = started.splice(0)
    return mode._tag === "automatic"
      ? Effect.forEach(jobs, (job) => Effect.forkIn(runJob(job), scope, { startImmediately: true }), { discard: true })
      : Effect.void
  })

  const run: ClusterApi["run"] = (f) =>
    Effect.suspend(() => {
      const answer = f(objects)
      return started.length === 0
        ? Effect.fromResult(answer)
        : Effect.andThen(startJobs, Effect.fromResult(answer))
    })

  const snapshots = new WeakMap<Snapshot, Objects.State>()
  const decoded = new WeakMap<ApiObject, LeaseRecord.LeaseRecord>()

  const decode = (object: ApiObject): Effect.Effect<LeaseRecord.LeaseRecord> => {
    const known = decoded.get(object)
    return known !== undefined
      ? Effect.succeed(known)
      : LeaseRecord.decode(object).pipe(
        Effect.orDie,
        Effect.tap((lease) => Effect.sync(() => decoded.set(object, lease)))
      )
  }

  // --- watches ----------------------------------------------------------------------------------------------

  const bookmarkInterval = options.bookmarkInterval === null
    ? undefined
    : Duration.fromInputUnsafe(options.bookmarkInterval ?? "1 minute")

  const watch: ClusterApi["watch"] = (target, since) =>
    Stream.unwrap(Effect.gen(function*() {
      const queue = yield* Queue.unbounded<WatchElement, ApiError | Cause.Done>()
      // The answer begins in any case: what is wrong with `since` is reported inside it.
      Queue.offerUnsafe(queue, { _tag: "Opened" })
      let announced = since ?? objects.version()
      const subscribed = objects.watch(target, since, {
        onEvent: (event) => {
          announced = event.version > announced ? event.version : announced
          Queue.offerUnsafe(queue, { _tag: "Event", event })
        },
        onClose: () => {
          Queue.endUnsafe(queue)
        }
      })
      if (Result.isFailure(subscribed)) {
        yield* Queue.fail(queue, subscribed.failure)
        return Stream.fromQueue(queue)
      }
      yield* Effect.addFinalizer(() => Effect.sync(subscribed.success))
      if (bookmarkInterval !== undefined) {
        yield* Effect.sleep(bookmarkInterval).pipe(
          Effect.andThen(Effect.sync(() => {
            // Where nothing was written, there is nothing new to resume from, and the real server is silent too.
            if (objects.version() > announced) {
              announced = objects.version()
              Queue.offerUnsafe(queue, { _tag: "Bookmark", version: announced })
            }
          })),
          Effect.forever,
          Effect.provideService(Clock.Clock, clock),
          Effect.forkScoped({ startImmediately: true })
        )
      }
      return Stream.fromQueue(queue)
    }))

  // --- what others do ---------------------------------------------------------------------------------------

  const toPod = (object: ApiObject): Pod => ({
    namespace: object.metadata.namespace ?? "",
    name: object.metadata.name,
    uid: object.metadata.uid,
    labels: object.metadata.labels ?? {},
    terminating: object.metadata.deletionTimestamp !== undefined
  })

  const optional = <A>(effect: Effect.Effect<A, ApiError>): Effect.Effect<A | undefined> =>
    Effect.catch(effect, () => Effect.succeed(undefined))

  const remove = (
    type: Resources.ResourceType,
    key: LeaseRecord.LeaseKey,
    deleteOptions: Objects.DeleteOptions
  ): Effect.Effect<boolean, ApiError> =>
    run(() => objects.remove(type, key.namespace, key.name, deleteOptions)).pipe(
      Effect.as(true),
      Effect.catchIf((error) => error.code === 404, () => Effect.succeed(false))
    )

  const toJob = (job: GarbageCollector.Job): CollectorJob => ({
    id: job.id,
    kind: job.type === leases ? "Lease" : "Pod",
    namespace: job.namespace,
    name: job.name,
    uid: job.uid,
    next: job.next
  })

  const bodyOf = (key: LeaseRecord.LeaseKey, body: LeaseBody): unknown => ({
    ...body,
    metadata: { ...body.metadata, name: key.name, namespace: key.namespace }
  })

  const self = MemoryCluster.of({
    name,

    version: Effect.sync(() => objects.version()),

    lease: (key) =>
      optional(run(() => objects.get(leases, key.namespace, key.name))).pipe(
        Effect.flatMap((object) => object === undefined ? Effect.succeed(undefined) : decode(object))
      ),

    leases: (namespace) => Effect.suspend(() => Effect.forEach(objects.list({ type: leases, namespace }), decode)),

    commits: Effect.suspend(() =>
      Effect.forEach([...commits], ({ at, event }) =>
        Effect.map(decode(event.object), (lease): Commit => ({
          type: event.type === "ADDED" ? "Created" : event.type === "MODIFIED" ? "Changed" : "Deleted",
          at,
          lease
        })))
    ),

    createLease: (key, body = {}) =>
      Effect.flatMap(run(() => objects.create(leases, key.namespace, bodyOf(key, body))), decode),

    putLease: (key, body) =>
      run(() => {
        const current = Result.getOrUndefined(objects.get(leases, key.namespace, key.name))
        // The API server knows no replacing without a version: kubectl fills in the one it has read.
        const metadata = { resourceVersion: current?.metadata.resourceVersion, ...body.metadata }
        return objects.put(leases, key.namespace, key.name, bodyOf(key, { ...body, metadata }))
      }).pipe(Effect.flatMap(({ object }) => decode(object))),

    editLease: (key, patch) => Effect.flatMap(run(() => objects.patch(leases, key.namespace, key.name, patch)), decode),

    emptyLease: (key) =>
      run(() => objects.patch(leases, key.namespace, key.name, { spec: null })).pipe(Effect.flatMap(decode)),

    deleteLease: (key, deleteOptions = {}) =>
      remove(leases, key, {
        preconditions: {
          uid: deleteOptions.uid,
          resourceVersion: deleteOptions.resourceVersion?.toString()
        },
        propagationPolicy: deleteOptions.foreground === true ? "Foreground" : undefined
      }),

    createPod: (key, podOptions = {}) =>
      run(() =>
        objects.create(Resources.pods, key.namespace, {
          metadata: { name: key.name, ...(podOptions.labels !== undefined && { labels: podOptions.labels }) },
          spec: podOptions.scheduled === false ? {} : { nodeName: "node" }
        })
      ).pipe(Effect.map(toPod)),

    pod: (key) =>
      optional(run(() => objects.get(Resources.pods, key.namespace, key.name))).pipe(
        Effect.map((object) => object === undefined ? undefined : toPod(object))
      ),

    deletePod: (key, podOptions = {}) =>
      remove(Resources.pods, key, {
        gracePeriodSeconds: podOptions.gracePeriodSeconds ?? (podOptions.foreground === true ? undefined : 0),
        propagationPolicy: podOptions.foreground === true ? "Foreground" : undefined
      }).pipe(Effect.orDie),

    createNamespace: (namespace) =>
      run(() => objects.create(Resources.namespaces, "", { metadata: { name: namespace } })).pipe(
        Effect.catchIf((error) => error.code === 409, () => Effect.void),
        Effect.asVoid,
        Effect.orDie
      ),

    collector: {
      setMode: (next) =>
        Effect.suspend(() => {
          mode = next
          collector.forget()
          started.length = 0
          if (next._tag !== "off") {
            collector.rescan()
          }
          return startJobs
        }),
      pending: Effect.sync(() => collector.pending().map(toJob)),
      step: (id) =>
        Effect.suspend(() => {
          const job = collector.pending().find((candidate) => id === undefined || candidate.id === id)
          if (job === undefined) {
            return Effect.succeed(undefined)
          }
          const described = toJob(job)
          const done = collector.step(job.id)
          return Effect.as(startJobs, done === undefined ? undefined : { job: described, ...done })
        })
    },

    skipVersions: (count) => Effect.sync(() => objects.skipVersions(count)),

    compact: Effect.sync(() => objects.compact()),

    openWatches: Effect.sync(() => objects.openWatches()),

    closeWatches: Effect.sync(() => objects.closeWatches()),

    snapshot: Effect.sync(() => {
      const snapshot: Snapshot = { version: objects.version() }
      snapshots.set(snapshot, objects.state())
      return snapshot
    }),

    restore: (snapshot) =>
      Effect.suspend(() => {
        const state = snapshots.get(snapshot)
        if (state === undefined) {
          return Effect.die(new Error("This is not a snapshot of this cluster"))
        }
        objects.restore(state)
        return self.collector.setMode(mode)
      })
  })

  return attach(self, {
    types: {
      leases,
      pods: Resources.pods,
      namespaces: Resources.namespaces,
      events: Resources.events
    },
    clock,
    nextConnection: () => {
      connections += 1
      return connections
    },
    run,
    watch,
    decode
  })
})

/**
 * A {@link MemoryCluster} as a layer.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<MemoryCluster> => Layer.effect(MemoryCluster, make(options))
