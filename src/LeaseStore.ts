/**
 * The seam between the election and where Leases are kept.
 *
 * `KubernetesLeaseStore` keeps them on the API server, {@link makeMemory} in this
 * process; the `./testing` entry has a cluster in memory, a layer that injects
 * faults in front of any store, and the suite that every store has to pass.
 * The election asks a store for four things only: read, create by absence,
 * patch guarded by a version, and the changes of one Lease. It never deletes.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import * as LeaderElectionConfig from "./LeaderElectionConfig.ts"
import { LeaseConflict, LeaseError, type LeaseErrorReason, LeaseExpired, LeaseNotFound } from "./LeaseError.ts"
import { formatKey, type LeaseKey, type LeaseRecord, type LeaseWrite } from "./LeaseRecord.ts"

/**
 * The answer to a read or a write: the Lease as it is stored. It carries no
 * time: nothing is ever decided by a server's clock.
 *
 * @category models
 * @since 0.1.0
 */
export interface LeaseResponse {
  readonly lease: LeaseRecord
}

/**
 * One element of {@link LeaseStore.changes}.
 *
 * - `Opened`: the store has begun to listen; first element of every stream.
 * - `Applied`: the Lease was created or changed, or (no `since`) is as it is now.
 * - `Deleted`: the Lease is gone; `lease` is its last state with the version of
 *   the deletion.
 * - `Bookmark`: a version to resume from, and a sign that the connection lives.
 *
 * @category models
 * @since 0.1.0
 */
export type LeaseChange =
  | { readonly _tag: "Opened" }
  | { readonly _tag: "Applied"; readonly lease: LeaseRecord }
  | { readonly _tag: "Deleted"; readonly lease: LeaseRecord }
  | { readonly _tag: "Bookmark"; readonly resourceVersion: bigint }

/**
 * Reads and writes Leases.
 *
 * **Details**
 *
 * Every effect must be interruptible and must end soon after its interruption;
 * the election puts a time limit of its own on each. A store never retries a
 * write by itself, except once after a 401 with credentials read again: the
 * election has to know which attempts were made, and when they began.
 *
 * @category services
 * @since 0.1.0
 */
export class LeaseStore extends Context.Service<LeaseStore, {
  /**
   * Where the Leases are, for messages and to distinguish two stores: the URL of
   * the API server, or a name that no other store in this process has.
   */
  readonly server: string

  /**
   * Reads the Lease as it is now, never from a cache. Fails with
   * `LeaseNotFound` where there is none.
   */
  readonly get: (key: LeaseKey) => Effect.Effect<LeaseResponse, LeaseError>

  /**
   * Creates the Lease if there is none. Fails with `LeaseConflict` where there
   * is one, `LeaseNotFound` where the namespace does not exist.
   */
  readonly create: (key: LeaseKey, write: LeaseWrite) => Effect.Effect<LeaseResponse, LeaseError>

  /**
   * Changes the Lease if it is still at `resourceVersion`. Fails with
   * `LeaseConflict` where it is not, `LeaseNotFound` where it is gone. Never
   * creates.
   */
  readonly patch: (
    key: LeaseKey,
    resourceVersion: bigint,
    write: LeaseWrite
  ) => Effect.Effect<LeaseResponse, LeaseError>

  /**
   * One connection's worth of changes of one Lease: those after version
   * `since`, or, without it, the Lease as it is now (if there is one) and then
   * its changes. Begins with `Opened`. Ends when the server closes it in good
   * order; fails with `LeaseExpired` where `since` is too old, `LeaseForbidden`
   * where watching is not allowed, `LeaseUnavailable` where the connection
   * broke or has been silent for too long. The election opens it again.
   *
   * With an empty name: the changes of all Leases of the namespace.
   */
  readonly changes: (
    key: LeaseKey,
    since: bigint | undefined
  ) => Stream.Stream<LeaseChange, LeaseError>
}>()("effect-kubernetes-leader-election/LeaseStore") {}

/**
 * Which connections a request may use: those that have answered within this
 * time, or new ones. `Duration.infinity` by default, which is any; zero is only
 * new ones. For an attempt that begins while an earlier one still awaits its
 * answer the election sets the time since that one began: on a dead keep-alive
 * connection (a load balancer that failed over) all of them would wait in vain,
 * while behind a server that is merely slow a new connection for each would make
 * it slower. A store without connections ignores it.
 *
 * @category references
 * @since 0.2.0
 */
export const AnsweredWithin: Context.Reference<Duration.Duration> = Context.Reference<Duration.Duration>(
  "effect-kubernetes-leader-election/LeaseStore/AnsweredWithin",
  { defaultValue: () => Duration.infinity }
)

// -----------------------------------------------------------------------------
// In memory
// -----------------------------------------------------------------------------

/**
 * Leases in the memory of this process, for as long as it lives.
 *
 * **Details**
 *
 * Every election that is built on the same value takes part in the same
 * elections. There is no cluster around it: nothing is ever deleted, and no
 * owner is looked up. `MemoryLeaseStore` of the `./testing` entry has both.
 *
 * @category constructors
 * @since 0.2.0
 */
export const makeMemory: Effect.Effect<LeaseStore["Service"]> = Effect.sync(() => {
  const server = `memory-${stores += 1}`
  const leases = new Map<string, LeaseRecord>()
  // The newest changes of all Leases, oldest first: what a watch can resume in.
  const history: Array<LeaseRecord> = []
  const watches = new Map<Queue.Queue<LeaseChange>, (lease: LeaseRecord) => boolean>()
  let version = 0n

  const request = <A>(verb: LeaseError["verb"], key: LeaseKey, f: () => A | LeaseErrorReason) =>
    Effect.suspend((): Effect.Effect<A, LeaseError> => {
      const result = f()
      return isReason(result) ? Effect.fail(new LeaseError({ verb, ...key, reason: result })) : Effect.succeed(result)
    })

  const store = (lease: LeaseRecord): LeaseResponse => {
    leases.set(formatKey(lease), lease)
    history.push(lease)
    if (history.length > maxHistory) {
      history.shift()
    }
    for (const [queue, isAbout] of watches) {
      if (isAbout(lease)) {
        Queue.offerUnsafe(queue, { _tag: "Applied", lease })
      }
    }
    return { lease }
  }

  return LeaseStore.of({
    server,
    get: (key) =>
      request("get", key, () => {
        const lease = leases.get(formatKey(key))
        return lease === undefined ? notFound : { lease }
      }),
    create: (key, write) =>
      request("create", key, () =>
        leases.has(formatKey(key))
          ? new LeaseConflict({ message: "it exists already" })
          : store(apply({ ...emptyLease, ...key, uid: `${server}-${version + 1n}` }, write, version += 1n))),
    patch: (key, resourceVersion, write) =>
      request("patch", key, () => {
        const lease = leases.get(formatKey(key))
        return lease === undefined
          ? notFound
          : lease.resourceVersion === resourceVersion
          ? store(apply(lease, write, version += 1n))
          : new LeaseConflict({ message: `it is at version ${lease.resourceVersion}, not ${resourceVersion}` })
      }),
    changes: (key, since) =>
      Stream.unwrap(Effect.gen(function*() {
        const isAbout = (lease: LeaseRecord) =>
          lease.namespace === key.namespace && (key.name === "" || lease.name === key.name)
        const queue = yield* Effect.acquireRelease(
          Queue.unbounded<LeaseChange>(),
          (queue) => Effect.sync(() => watches.delete(queue))
        )
        const oldest = history[0]?.resourceVersion ?? version + 1n
        if (since !== undefined && since + 1n < oldest) {
          return Stream.fail(
            new LeaseError({ verb: "watch", ...key, reason: new LeaseExpired({ message: "the version is too old" }) })
          )
        }
        const past = since === undefined
          ? [...leases.values()]
          : history.filter((lease) => lease.resourceVersion > since)
        const missed = past.filter(isAbout).map((lease): LeaseChange => ({ _tag: "Applied", lease }))
        Queue.offerAllUnsafe(queue, [{ _tag: "Opened" }, ...missed])
        watches.set(queue, isAbout)
        return Stream.fromQueue(queue)
      }))
  })
})

/**
 * Leases in the memory of this process; see {@link makeMemory}. Elections that
 * are built on it read no environment.
 *
 * @category layers
 * @since 0.2.0
 */
export const layerMemory: Layer.Layer<LeaseStore> = Layer.effectContext(
  Effect.map(
    makeMemory,
    (store) => Context.make(LeaseStore, store).pipe(Context.add(LeaderElectionConfig.ReadsEnvironment, false))
  )
)

const maxHistory = 1000

let stores = 0

const notFound = new LeaseNotFound({ message: "there is none" })

const isReason = (result: unknown): result is LeaseErrorReason =>
  result instanceof LeaseConflict || result instanceof LeaseNotFound

const emptyLease: Omit<LeaseRecord, "namespace" | "name" | "uid" | "resourceVersion"> = {
  deletionTimestamp: undefined,
  labels: {},
  annotations: {},
  ownerReferences: [],
  holderIdentity: "",
  leaseDurationSeconds: undefined,
  acquireTime: undefined,
  renewTime: undefined,
  leaseTransitions: 0,
  strategy: undefined,
  preferredHolder: undefined
}

const apply = (
  lease: Omit<LeaseRecord, "resourceVersion">,
  { annotations, labels, ...write }: LeaseWrite,
  resourceVersion: bigint
): LeaseRecord => ({
  ...lease,
  ...write,
  labels: { ...lease.labels, ...labels },
  annotations: Object.fromEntries(
    Object.entries({ ...lease.annotations, ...annotations }).filter((entry): entry is [string, string] =>
      entry[1] !== null
    )
  ),
  resourceVersion
})
