/**
 * One watch for many Leases: which of them receives what, and when the connection is opened and closed.
 */
import { assert, it } from "@effect/vitest"
import { type Cause, Deferred, Effect, Exit, Fiber, Queue, Scope, Stream } from "effect"
import * as SharedWatch from "../../../src/kubernetes/internal/sharedWatch.ts"
import { LeaseError, LeaseExpired, LeaseForbidden, LeaseUnavailable } from "../../../src/LeaseError.ts"
import type { LeaseRecord } from "../../../src/LeaseRecord.ts"
import type { LeaseChange } from "../../../src/LeaseStore.ts"

const namespace = "default"

const lease = (name: string, resourceVersion: bigint): LeaseRecord => ({
  namespace,
  name,
  uid: `uid-${name}`,
  resourceVersion,
  deletionTimestamp: undefined,
  labels: {},
  annotations: {},
  holderIdentity: "somebody",
  leaseDurationSeconds: 15,
  acquireTime: undefined,
  renewTime: undefined,
  leaseTransitions: 0,
  ownerReferences: [],
  strategy: undefined,
  preferredHolder: undefined
})

const opened: LeaseChange = { _tag: "Opened" }
const applied = (name: string, version: bigint): LeaseChange => ({ _tag: "Applied", lease: lease(name, version) })
const deleted = (name: string, version: bigint): LeaseChange => ({ _tag: "Deleted", lease: lease(name, version) })
const bookmark = (resourceVersion: bigint): LeaseChange => ({ _tag: "Bookmark", resourceVersion })

const error = (reason: LeaseError["reason"]) => new LeaseError({ verb: "watch", namespace, name: "", reason })
const broken = error(new LeaseUnavailable({ message: "the connection broke", outcomeUnknown: false }))
const gone = error(new LeaseExpired({ message: "too old" }))

/** One connection to the server, as the test plays the server. */
interface Connection {
  readonly since: bigint | undefined
  readonly queue: Queue.Queue<LeaseChange, LeaseError | Cause.Done>
  readonly isClosed: () => boolean
}

const text = (change: LeaseChange): string =>
  change._tag === "Opened"
    ? "opened"
    : change._tag === "Bookmark"
    ? `bookmark ${change.resourceVersion}`
    : `${change._tag} ${change.lease.name} ${change.lease.resourceVersion}`

const setup = Effect.fnUntraced(function*(closing: Effect.Effect<void> = Effect.void) {
  const connections: Array<Connection> = []
  const watch = yield* SharedWatch.make((since) =>
    Stream.unwrap(Effect.gen(function*() {
      const queue = yield* Queue.make<LeaseChange, LeaseError | Cause.Done>()
      let closed = false
      connections.push({ since, queue, isClosed: () => closed })
      yield* Effect.addFinalizer(() =>
        Effect.andThen(
          closing,
          Effect.sync(() => {
            closed = true
          })
        )
      )
      return Stream.fromQueue(queue)
    }))
  )

  const listen = Effect.fnUntraced(function*(name: string, since?: bigint) {
    const received: Array<string> = []
    const scope = yield* Scope.make()
    const fiber = yield* Effect.forkIn(
      Stream.runForEach(watch({ namespace, name }, since), (change) => Effect.sync(() => received.push(text(change))))
        .pipe(
          Effect.onExit((exit) =>
            Effect.sync(() => {
              received.push(Exit.isSuccess(exit) ? "end" : "failure")
            })
          )
        ),
      scope
    )
    yield* settle
    return { received, fiber, leave: Fiber.interrupt(fiber) }
  })
  return { connections, listen }
})

const settle = Effect.forEach(Array.from({ length: 20 }), () => Effect.yieldNow, { discard: true })

const say = (connection: Connection | undefined, ...changes: ReadonlyArray<LeaseChange>) =>
  Effect.gen(function*() {
    assert.isDefined(connection)
    yield* Queue.offerAll(connection!.queue, changes)
    yield* settle
  })

const reasonOf = (fiber: Fiber.Fiber<void, LeaseError>) => Effect.flip(Fiber.join(fiber))

it.effect("tells each listener of its own Lease, over one connection", () =>
  Effect.gen(function*() {
    const { connections, listen } = yield* setup()
    const a = yield* listen("a")
    const b = yield* listen("b")
    assert.strictEqual(connections.length, 1)
    assert.deepStrictEqual(a.received, [])
    yield* say(connections[0], opened, applied("a", 1n), applied("c", 2n), applied("b", 3n), deleted("a", 4n))
    assert.deepStrictEqual(a.received, ["opened", "Applied a 1", "Deleted a 4"])
    assert.deepStrictEqual(b.received, ["opened", "Applied b 3"])
    yield* a.leave
    assert.isFalse(connections[0]!.isClosed())
    yield* b.leave
    assert.isTrue(connections[0]!.isClosed())
    assert.strictEqual(connections.length, 1)
  }))

it.effect("tells two listeners of one Lease", () =>
  Effect.gen(function*() {
    const { connections, listen } = yield* setup()
    const one = yield* listen("a")
    const two = yield* listen("a")
    yield* say(connections[0], opened, applied("a", 1n))
    yield* one.leave
    yield* say(connections[0], applied("a", 2n))
    assert.deepStrictEqual(one.received, ["opened", "Applied a 1", "failure"])
    assert.deepStrictEqual(two.received, ["opened", "Applied a 1", "Applied a 2"])
  }))

it.effect("tells who comes later what the connection has shown so far", () =>
  Effect.gen(function*() {
    const { connections, listen } = yield* setup()
    yield* listen("a")
    yield* say(connections[0], opened, applied("b", 3n), applied("gone", 4n), deleted("gone", 5n))
    assert.deepStrictEqual((yield* listen("b")).received, ["opened", "Applied b 3"])
    assert.deepStrictEqual((yield* listen("b", 2n)).received, ["opened", "Applied b 3"])
    assert.deepStrictEqual((yield* listen("b", 3n)).received, ["opened"])
    assert.deepStrictEqual((yield* listen("gone")).received, ["opened"])
    assert.deepStrictEqual((yield* listen("new")).received, ["opened"])
    assert.strictEqual(connections.length, 1)
  }))

it.effect("does not go on from a version that the connection knows nothing about", () =>
  Effect.gen(function*() {
    const { connections, listen } = yield* setup()
    const first = yield* listen("a", 7n)
    assert.strictEqual((yield* reasonOf(first.fiber)).reason._tag, "LeaseExpired")
    assert.strictEqual(connections.length, 0)

    yield* listen("b")
    yield* say(connections[0], opened, applied("a", 6n), applied("gone", 7n), deleted("gone", 8n))
    for (const [name, since] of [["a", 7n], ["gone", 7n], ["new", 1n]] as const) {
      const error = yield* reasonOf((yield* listen(name, since)).fiber)
      assert.strictEqual(error.reason._tag, "LeaseExpired")
      assert.strictEqual(error.name, name)
    }
  }))

it.effect("is resumed, unnoticed, where the server ends the connection in good order", () =>
  Effect.gen(function*() {
    const { connections, listen } = yield* setup()
    const a = yield* listen("a")
    yield* say(connections[0], opened, applied("a", 1n), applied("b", 2n), bookmark(9n))
    yield* Queue.end(connections[0]!.queue)
    yield* settle
    assert.deepStrictEqual(connections.map(({ since }) => since), [undefined, 9n])
    // What was known is still known before the new connection is open, and after.
    assert.deepStrictEqual((yield* listen("b", 2n)).received, ["opened"])
    yield* say(connections[1], opened, applied("a", 10n))
    assert.deepStrictEqual(a.received, ["opened", "Applied a 1", "Applied a 10"])
    assert.deepStrictEqual((yield* listen("b")).received, ["opened", "Applied b 2"])

    // Ended by a change, not by a bookmark.
    yield* Queue.end(connections[1]!.queue)
    yield* settle
    assert.strictEqual(connections[2]?.since, 10n)
  }))

it.effect("ends for all where a connection was of no use, so that nobody opens it at full speed", () =>
  Effect.gen(function*() {
    const { connections, listen } = yield* setup()
    const a = yield* listen("a")
    const b = yield* listen("b")
    yield* say(connections[0], opened)
    yield* Queue.end(connections[0]!.queue)
    yield* settle
    assert.deepStrictEqual([a.received, b.received], [["opened", "end"], ["opened", "end"]])
    assert.strictEqual(connections.length, 1)
  }))

it.effect("tells all when the connection breaks, each of its own Lease; the first to come back opens it anew", () =>
  Effect.gen(function*() {
    const { connections, listen } = yield* setup()
    const a = yield* listen("a")
    const b = yield* listen("b")
    yield* say(connections[0], opened, applied("a", 5n))
    yield* Queue.fail(connections[0]!.queue, broken)
    yield* settle
    for (const [listener, name] of [[a, "a"], [b, "b"]] as const) {
      const error = yield* reasonOf(listener.fiber)
      assert.strictEqual(error.reason._tag, "LeaseUnavailable")
      assert.strictEqual(error.name, name)
    }
    // Nothing of before: it may have been deleted meanwhile.
    assert.strictEqual((yield* reasonOf((yield* listen("a", 5n)).fiber)).reason._tag, "LeaseExpired")
    assert.strictEqual(connections.length, 1)
    const again = yield* listen("a")
    const other = yield* listen("b")
    assert.deepStrictEqual(connections.map(({ since }) => since), [undefined, undefined])
    yield* say(connections[1], opened, applied("a", 6n))
    assert.deepStrictEqual(again.received, ["opened", "Applied a 6"])
    assert.deepStrictEqual(other.received, ["opened"])
  }))

it.effect("begins anew where the version to resume from has become too old", () =>
  Effect.gen(function*() {
    const { connections, listen } = yield* setup()
    const a = yield* listen("a")
    yield* say(connections[0], opened, applied("a", 5n))
    yield* Queue.end(connections[0]!.queue)
    yield* settle
    yield* Queue.fail(connections[1]!.queue, gone)
    yield* settle
    assert.strictEqual((yield* reasonOf(a.fiber)).reason._tag, "LeaseExpired")
    yield* listen("a")
    assert.deepStrictEqual(connections.map(({ since }) => since), [undefined, 5n, undefined])
  }))

it.effect("tells a refusal to all", () =>
  Effect.gen(function*() {
    const { connections, listen } = yield* setup()
    const a = yield* listen("a")
    const b = yield* listen("b")
    yield* Queue.fail(
      connections[0]!.queue,
      error(new LeaseForbidden({ message: "forbidden", anonymous: false, ownerReferences: false }))
    )
    yield* settle
    for (const listener of [a, b]) {
      assert.strictEqual((yield* reasonOf(listener.fiber)).reason._tag, "LeaseForbidden")
    }
  }))

it.effect("is opened for who comes while the connection is being closed", () =>
  Effect.gen(function*() {
    const mayClose = yield* Deferred.make<void>()
    const { connections, listen } = yield* setup(Deferred.await(mayClose))
    const a = yield* listen("a")
    yield* say(connections[0], opened, applied("b", 1n))
    const leaving = yield* Effect.forkChild(a.leave)
    yield* settle
    const b = yield* listen("b")
    yield* Deferred.succeed(mayClose, undefined)
    yield* Fiber.join(leaving)
    yield* settle
    assert.strictEqual(connections.length, 2)
    yield* say(connections[1], opened, applied("b", 2n))
    assert.strictEqual(b.received.at(-1), "Applied b 2")
  }))
