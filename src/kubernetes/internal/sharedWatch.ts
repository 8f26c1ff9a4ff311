/**
 * One watch for many Leases: its changes, handed to the listeners of each.
 *
 * @internal
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberHandle from "effect/FiberHandle"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { LeaseError, LeaseExpired } from "../../LeaseError.ts"
import type { LeaseKey, LeaseRecord } from "../../LeaseRecord.ts"
import type { LeaseChange } from "../../LeaseStore.ts"

type Listener = Queue.Queue<LeaseChange, LeaseError | Cause.Done>

/** The changes of one Lease, or with an empty name of all: as `LeaseStore.changes`, for one namespace. */
export type SharedWatch = (key: LeaseKey, since: bigint | undefined) => Stream.Stream<LeaseChange, LeaseError>

/**
 * Shares the changes of a namespace.
 *
 * The connection is opened for the first listener and closed after the last.
 * When the server closes it in good order it is resumed here, and nobody
 * notices; when it breaks, all listeners are notified, and the first to come back
 * opens it anew, from the present: where etcd was restored meanwhile, a watch
 * from a version yet to come would receive nothing.
 */
export const make = ( // oxlint-disable-line max-lines-per-function -- one watch and its listeners
  connect: (since: bigint | undefined) => Stream.Stream<LeaseChange, LeaseError>
): Effect.Effect<SharedWatch, never, Scope.Scope> =>
  // oxlint-disable-next-line max-lines-per-function -- one watch and its listeners
  Effect.gen(function*() {
    const connection = yield* FiberHandle.make()
    const listeners = new Map<string, Set<Listener>>()
    // What the open connection has shown.
    const leases = new Map<string, LeaseRecord>()
    let running = false
    let opened = false
    let newest: bigint | undefined

    // Those that listen for all, under the empty name, come first. Listeners run at once, and some leave and come back:
    // only those that are there now are meant.
    const deliver = (name: string, change: LeaseChange) => {
      for (const audience of ["", name]) {
        for (const queue of Array.from(listeners.get(audience) ?? [])) {
          Queue.offerUnsafe(queue, change)
        }
      }
    }

    const onChange = (change: LeaseChange) => {
      switch (change._tag) {
        case "Opened": {
          if (!opened) {
            opened = true
            for (const queue of Array.from(listeners.values()).flatMap((queues) => Array.from(queues))) {
              Queue.offerUnsafe(queue, change)
            }
          }
          return
        }
        case "Bookmark": {
          newest = change.resourceVersion
          return
        }
        case "Applied": {
          newest = change.lease.resourceVersion
          leases.set(change.lease.name, change.lease)
          return deliver(change.lease.name, change)
        }
        case "Deleted": {
          newest = change.lease.resourceVersion
          leases.delete(change.lease.name)
          return deliver(change.lease.name, change)
        }
      }
    }

    const forget = () => {
      opened = false
      newest = undefined
      leases.clear()
    }

    const run: Effect.Effect<void> = Effect.gen(function*() {
      while (true) {
        let received = false
        const exit = yield* Effect.exit(
          Stream.runForEach(Stream.suspend(() => connect(newest)), (change) =>
            Effect.sync(() => {
              received ||= change._tag !== "Opened"
              onChange(change)
            }))
        )
        // Only one that was of use is resumed: never at full speed.
        if (Exit.isSuccess(exit) && received && newest !== undefined) {
          continue
        }
        running = false
        forget()
        const present = [...listeners].flatMap(([name, queues]) => [...queues].map((queue) => ({ name, queue })))
        for (const { name, queue } of present) {
          if (Exit.isSuccess(exit)) {
            Queue.endUnsafe(queue)
          } else {
            Queue.failCauseUnsafe(queue, Cause.map(exit.cause, (error) => ofLease(error, name)))
          }
        }
        return
      }
    })

    const open: Effect.Effect<void> = Effect.suspend(() => {
      if (running || listeners.size === 0) {
        return Effect.void
      }
      running = true
      return Effect.asVoid(FiberHandle.run(connection, run))
    })

    const leave = (key: LeaseKey, queue: Listener) =>
      Effect.suspend(() => {
        const queues = listeners.get(key.name)
        queues?.delete(queue)
        if (queues?.size === 0) {
          listeners.delete(key.name)
        }
        if (listeners.size > 0 || !running) {
          return Effect.void
        }
        // Nobody may rely on it any more.
        forget()
        return FiberHandle.clear(connection).pipe(
          Effect.andThen(Effect.sync(() => {
            running = false
            forget()
          })),
          // For a listener that came while it was being closed.
          Effect.andThen(open)
        )
      })

    const listen = (key: LeaseKey, since: bigint | undefined, queue: Listener) =>
      Effect.gen(function*() {
        yield* Effect.acquireRelease(
          Effect.sync(() => {
            const queues = listeners.get(key.name) ?? new Set()
            listeners.set(key.name, queues.add(queue))
          }),
          () => leave(key, queue)
        )
        const lease = opened ? leases.get(key.name) : undefined
        if (since !== undefined && (lease === undefined || lease.resourceVersion < since)) {
          // Whether it was deleted before this connection began is not known: begin anew, and read.
          Queue.failCauseUnsafe(queue, Cause.fail(expired(key)))
        } else if (!opened) {
          yield* open
        } else {
          Queue.offerUnsafe(queue, { _tag: "Opened" })
          if (key.name === "") {
            leases.forEach((lease) => Queue.offerUnsafe(queue, { _tag: "Applied", lease }))
          }
          if (lease !== undefined && lease.resourceVersion !== since) {
            Queue.offerUnsafe(queue, { _tag: "Applied", lease })
          }
        }
      })

    return (key, since) => Stream.callback<LeaseChange, LeaseError>((queue) => listen(key, since, queue))
  })

const ofLease = (error: LeaseError, name: string): LeaseError =>
  new LeaseError({ verb: error.verb, namespace: error.namespace, name, reason: error.reason })

const expired = (key: LeaseKey): LeaseError =>
  new LeaseError({
    verb: "watch",
    ...key,
    reason: new LeaseExpired({ message: "the shared watch began after this version" })
  })
