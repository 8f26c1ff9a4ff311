/**
 * The seam between the election and where Leases are kept.
 *
 * {@link KubernetesLeaseStore} keeps them on the API server; the `./testing`
 * entry has one in memory, and a layer that injects faults in front of either.
 * The election asks a store for four things only: read, create by absence,
 * patch guarded by a version, and the changes of one Lease. It never deletes.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Stream from "effect/Stream"
import type { LeaseError } from "./LeaseError.ts"
import type { LeaseKey, LeaseRecord, LeaseWrite } from "./LeaseRecord.ts"

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
   * Where the Leases are, for messages and to tell two stores apart: the URL of
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
   */
  readonly changes: (
    key: LeaseKey,
    since: bigint | undefined
  ) => Stream.Stream<LeaseChange, LeaseError>
}>()("effect-kubernetes-leader-election/LeaseStore") {}

/**
 * Whether a request must open a new connection instead of using an idle one.
 * `false` by default; the election sets it for an attempt that begins while an
 * earlier one still awaits its answer. On a dead keep-alive connection (a load
 * balancer that failed over) all of them would wait in vain. A store without
 * connections ignores it.
 *
 * @category references
 * @since 0.2.0
 */
export const NewConnection: Context.Reference<boolean> = Context.Reference<boolean>(
  "effect-kubernetes-leader-election/LeaseStore/NewConnection",
  { defaultValue: () => false }
)
