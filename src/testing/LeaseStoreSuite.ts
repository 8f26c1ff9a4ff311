/**
 * What the election relies on, asserted of any {@link LeaseStore}: for stores that keep Leases somewhere else than the
 * Kubernetes API.
 *
 * The cases are named effects without any test framework: run each in a test of your own.
 *
 * **Example** (Every case as a test of vitest)
 *
 * ```ts
 * import { it } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { LeaseStore } from "effect-kubernetes-leader-election"
 * import { LeaseStoreSuite } from "effect-kubernetes-leader-election/testing"
 *
 * const makeTarget = Effect.map(LeaseStore.makeMemory, (store) => ({ connect: Effect.succeed(store) }))
 *
 * for (const { effect, name } of LeaseStoreSuite.cases) {
 *   it.live(name, () => Effect.flatMap(makeTarget, effect))
 * }
 * ```
 *
 * @since 0.2.0
 */
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Assert from "node:assert/strict"
import type { LeaseError, LeaseErrorReason } from "../LeaseError.ts"
import {
  type LeaseKey,
  type LeaseRecord,
  type LeaseWrite,
  maxLeaseTransitions,
  type OwnerReference
} from "../LeaseRecord.ts"
import type { LeaseChange, LeaseStore } from "../LeaseStore.ts"

/**
 * What the cases are run on.
 *
 * @category models
 * @since 0.2.0
 */
export interface Target {
  /** A client's connection of its own, to the same Leases as every other. */
  readonly connect: Effect.Effect<LeaseStore["Service"], never, Scope.Scope>
  /** Where the cases make their Leases, whose names are random. By default `default`. */
  readonly namespace?: string | undefined
  /** Deletes a Lease, as an administrator does. Without it the cases that need a deletion are left out. */
  readonly remove?: ((key: LeaseKey) => Effect.Effect<void>) | undefined
  /** How long a watch may take to report a change. By default 10 seconds. */
  readonly patience?: Duration.Input | undefined
}

/**
 * One thing that a store has to do.
 *
 * @category models
 * @since 0.2.0
 */
export interface Case {
  /** What it does, as a sentence: `patch conflicts at any version but the current one`. */
  readonly name: string
  /** Whether it can only be tried where Leases can be deleted. */
  readonly needsRemove: boolean
  /** Succeeds where the store does it, or where it cannot be tried. Uses the live clock. */
  readonly effect: (target: Target) => Effect.Effect<void, CaseFailed>
}

/**
 * The store does not do what the case says.
 *
 * @category errors
 * @since 0.2.0
 */
export class CaseFailed
  extends Schema.Error<CaseFailed>("effect-kubernetes-leader-election/testing/LeaseStoreSuite/CaseFailed")({
    _tag: Schema.tag("CaseFailed"),
    name: Schema.String,
    cause: Schema.Defect()
  })
{
  override get message(): string {
    return `${this.name}: ${this.cause instanceof Error ? this.cause.message : String(this.cause)}`
  }
}

// --- support ----------------------------------------------------------------------------------------------------

class Running extends Context.Service<Running, {
  readonly key: LeaseKey
  readonly store: LeaseStore["Service"]
  readonly connect: Effect.Effect<LeaseStore["Service"], never, Scope.Scope>
  readonly remove: Effect.Effect<void>
  readonly patience: Duration.Duration
}>()("effect-kubernetes-leader-election/testing/LeaseStoreSuite/Running") {}

const toCase = (
  name: string,
  body: Effect.Effect<void, LeaseError, Running | Scope.Scope>,
  needsRemove: boolean
): Case => ({
  name,
  needsRemove,
  effect: ({ connect, namespace = "default", patience = "10 seconds", remove }) =>
    remove === undefined && needsRemove
      ? Effect.void
      : Effect.gen(function*() {
        const key = { namespace, name: `suite-${(yield* Random.nextIntBetween(0, 2 ** 40)).toString(36)}` }
        const running = Running.of({
          key,
          connect,
          store: yield* connect,
          remove: remove?.(key) ?? Effect.void,
          patience: Duration.fromInputUnsafe(patience)
        })
        yield* Effect.provideService(body, Running, running)
      }).pipe(
        Effect.scoped,
        Effect.catchCause((cause) => Effect.fail(new CaseFailed({ name, cause: Cause.squash(cause) })))
      )
})

const failsWith = <A>(tag: LeaseErrorReason["_tag"], effect: Effect.Effect<A, LeaseError>): Effect.Effect<void> =>
  Effect.match(effect, {
    onSuccess: () => Assert.fail(`should have failed with ${tag}`),
    onFailure: ({ reason }) => Assert.equal(reason._tag, tag)
  })

/** The holder after each attempt, or how it failed. */
const outcome = (effect: ReturnType<LeaseStore["Service"]["get"]>): Effect.Effect<string> =>
  Effect.match(effect, {
    onSuccess: ({ lease }) => lease.holderIdentity,
    onFailure: ({ reason }) => reason._tag
  })

const patchAs = (
  lease: LeaseRecord,
  write: Omit<LeaseWrite, "annotations">
): Effect.Effect<LeaseRecord, LeaseError, Running> =>
  Effect.gen(function*() {
    const { key, store } = yield* Running
    return (yield* store.patch(key, lease.resourceVersion, write)).lease
  })

const stored = Effect.gen(function*() {
  const { key, store } = yield* Running
  return (yield* store.get(key)).lease
})

const created = (write: LeaseWrite = full) =>
  Effect.gen(function*() {
    const { key, store } = yield* Running
    return (yield* store.create(key, write)).lease
  })

const full: LeaseWrite = {
  holderIdentity: "web-0_1",
  leaseDurationSeconds: 15,
  acquireTime: 1_700_000_000_123_456n,
  renewTime: 1_700_000_001_000_001n,
  leaseTransitions: 3,
  annotations: { "example.com/mine": "1" }
}

const owner = (name: string): OwnerReference => ({
  apiVersion: "example.com/v1",
  kind: "Thing",
  name,
  uid: `uid-of-${name}`
})

/** A watch that has opened. `applied` and `deleted` are its next change, bookmarks left out. */
const follow = Effect.fnUntraced(function*(since: bigint | undefined) {
  const { connect, key, patience } = yield* Running
  const store = yield* connect
  const changes = yield* Queue.unbounded<Exclude<LeaseChange, { readonly _tag: "Bookmark" }>>()
  const opened = yield* Deferred.make<void, LeaseError>()
  let elements = 0
  const fiber = yield* store.changes(key, since).pipe(
    Stream.runForEach((change) => {
      elements += 1
      if (elements === 1) {
        Assert.equal(change._tag, "Opened", "the first element of a watch")
      }
      return change._tag === "Opened"
        ? Deferred.succeed(opened, undefined)
        : change._tag === "Bookmark"
        ? Effect.void
        : Queue.offer(changes, change)
    }),
    Effect.onExit((exit) => Exit.isFailure(exit) ? Deferred.failCause(opened, exit.cause) : Effect.void),
    Effect.forkScoped({ startImmediately: true })
  )
  const within = <A, E>(effect: Effect.Effect<A, E>, what: string) =>
    Effect.timeoutOrElse(effect, {
      duration: patience,
      orElse: () => Effect.die(new Error(`${what} within ${Duration.format(patience)}`))
    })
  yield* within(Deferred.await(opened), "the watch did not open")
  const next = (tag: "Applied" | "Deleted") =>
    Effect.map(within(Queue.take(changes), `the watch did not report a change (${tag})`), (change) => {
      Assert.equal(change._tag, tag)
      return "lease" in change ? change.lease : Assert.fail()
    })
  return { fiber, within, applied: next("Applied"), deleted: next("Deleted") }
})

// --- create and get ---------------------------------------------------------------------------------------------

const creating: Readonly<Record<string, Effect.Effect<void, LeaseError, Running | Scope.Scope>>> = {
  "get fails with LeaseNotFound where there is none": Effect.gen(function*() {
    const { key, store } = yield* Running
    yield* failsWith("LeaseNotFound", store.get(key))
  }),

  "create makes the Lease, and get reads what was written": Effect.gen(function*() {
    const { connect, key } = yield* Running
    const lease = yield* created()
    const { annotations, ...fields } = full
    Assert.deepEqual({ ...lease, ...key, ...fields, annotations }, lease)
    Assert.deepEqual([lease.labels, lease.ownerReferences], [{}, []])
    Assert.ok(lease.resourceVersion > 0n, "a version greater than 0")
    Assert.notEqual(lease.uid, "")
    Assert.deepEqual((yield* (yield* connect).get(key)).lease, lease)
  }),

  "create conflicts with a Lease that exists, and leaves it alone": Effect.gen(function*() {
    const { connect, key } = yield* Running
    const lease = yield* created()
    yield* failsWith("LeaseConflict", (yield* connect).create(key, { holderIdentity: "other" }))
    Assert.deepEqual(yield* stored, lease)
  }),

  "create succeeds for one of four that try at once": Effect.gen(function*() {
    const { connect, key } = yield* Running
    const stores = yield* Effect.all([connect, connect, connect, connect])
    const outcomes = yield* Effect.forEach(
      stores,
      (store, index) => outcome(store.create(key, { holderIdentity: `candidate-${index}` })),
      { concurrency: "unbounded" }
    )
    Assert.equal(outcomes.filter((outcome) => outcome === "LeaseConflict").length, 3, "three of four conflict")
    Assert.ok(outcomes.includes((yield* stored).holderIdentity), "the one that succeeded holds it")
  }),

  "get reads a Lease without a holder as such": Effect.gen(function*() {
    const lease = yield* created({})
    Assert.deepEqual({
      ...lease,
      holderIdentity: "",
      leaseDurationSeconds: undefined,
      acquireTime: undefined,
      renewTime: undefined,
      leaseTransitions: 0
    }, lease)
    const taken = yield* patchAs(lease, { holderIdentity: "a" })
    const released = yield* patchAs(taken, { holderIdentity: "" })
    Assert.equal(released.holderIdentity, "")
    Assert.ok(released.resourceVersion > taken.resourceVersion, "the version grows")
  })
}

// --- patch ------------------------------------------------------------------------------------------------------

const patching: Readonly<Record<string, Effect.Effect<void, LeaseError, Running | Scope.Scope>>> = {
  "patch changes what it names and keeps everything else": Effect.gen(function*() {
    const { key, store } = yield* Running
    const before = yield* created({ ...full, ownerReferences: [owner("a")] })
    const { lease } = yield* store.patch(key, before.resourceVersion, {
      renewTime: 1_700_000_002_000_000n,
      annotations: { "example.com/new": "3" }
    })
    Assert.deepEqual(lease, {
      ...before,
      renewTime: 1_700_000_002_000_000n,
      annotations: { "example.com/mine": "1", "example.com/new": "3" },
      resourceVersion: lease.resourceVersion
    })
    Assert.ok(lease.resourceVersion > before.resourceVersion, "the version grows")
    Assert.deepEqual(yield* stored, lease)
  }),

  "patch removes an annotation by null": Effect.gen(function*() {
    const { key, store } = yield* Running
    const { resourceVersion } = yield* created()
    const { lease } = yield* store.patch(key, resourceVersion, { annotations: { "example.com/mine": null } })
    Assert.deepEqual(lease.annotations, {})
    Assert.deepEqual((yield* stored).annotations, {})
  }),

  "patch replaces the list of owners": Effect.gen(function*() {
    const first = yield* created({ ...full, ownerReferences: [owner("a"), owner("b")] })
    const second = yield* patchAs(first, { renewTime: 5n })
    Assert.deepEqual(second.ownerReferences, [owner("a"), owner("b")])
    const third = yield* patchAs(second, { ownerReferences: [owner("c")] })
    Assert.deepEqual(third.ownerReferences, [owner("c")])
    Assert.deepEqual((yield* patchAs(third, { ownerReferences: [] })).ownerReferences, [])
  }),

  "patch conflicts at any version but the current one": Effect.gen(function*() {
    const { key, store } = yield* Running
    const first = yield* created()
    const second = yield* patchAs(first, { renewTime: 2n })
    for (const version of [first.resourceVersion, second.resourceVersion - 1n, second.resourceVersion + 1n]) {
      yield* failsWith("LeaseConflict", store.patch(key, version, { renewTime: 3n }))
    }
    Assert.deepEqual(yield* stored, second)
  }),

  "patch succeeds for one of four that try at one version, again and again": Effect.gen(function*() {
    const { connect, key } = yield* Running
    const stores = yield* Effect.all([connect, connect, connect, connect])
    let version = (yield* created()).resourceVersion
    for (let round = 0; round < 10; round++) {
      const outcomes = yield* Effect.forEach(
        stores,
        (store, index) => outcome(store.patch(key, version, { holderIdentity: `candidate-${index}-${round}` })),
        { concurrency: "unbounded" }
      )
      Assert.equal(outcomes.filter((outcome) => outcome === "LeaseConflict").length, 3, "three of four conflict")
      const lease = yield* stored
      Assert.ok(outcomes.includes(lease.holderIdentity), "the one that succeeded holds it")
      version = lease.resourceVersion
    }
  }),

  "patch never creates": Effect.gen(function*() {
    const { key, store } = yield* Running
    yield* failsWith("LeaseNotFound", store.patch(key, 1n, full))
    yield* failsWith("LeaseNotFound", store.get(key))
  }),

  "a read that begins after a write was answered sees it, on every connection": Effect.gen(function*() {
    const { connect, key } = yield* Running
    const other = yield* connect
    let lease = yield* created()
    for (let round = 1n; round <= 10n; round++) {
      yield* other.get(key)
      lease = yield* patchAs(lease, { renewTime: round })
      Assert.deepEqual((yield* other.get(key)).lease, lease)
    }
  })
}

// --- what has to come back as it was written ----------------------------------------------------------------------

const values: ReadonlyArray<readonly [string, Omit<LeaseWrite, "annotations">]> = [
  ["the shortest duration", { leaseDurationSeconds: 1 }],
  ["the longest duration", { leaseDurationSeconds: 2 ** 31 - 1 }],
  ["the most transitions", { leaseTransitions: maxLeaseTransitions }],
  ["transitions that go back", { leaseTransitions: 0 }],
  ["every microsecond", { acquireTime: 1_700_000_000_000_001n, renewTime: 1_700_000_000_999_999n }],
  ["renewal before acquisition", { acquireTime: 1_700_000_000_000_000n, renewTime: 1n }],
  ["any text as holder", { holderIdentity: "a b\n\u{1f600}\"é" }]
]

const keeping = Object.fromEntries(values.map(([what, write]) => [
  `patch keeps ${what} as it is`,
  Effect.gen(function*() {
    const lease = yield* created()
    const patched = yield* patchAs(lease, write)
    Assert.deepEqual(patched, { ...lease, ...write, resourceVersion: patched.resourceVersion })
    Assert.deepEqual(yield* stored, patched)
  })
]))

// --- changes ------------------------------------------------------------------------------------------------------

const watching: Readonly<Record<string, Effect.Effect<void, LeaseError, Running | Scope.Scope>>> = {
  "changes begins with the Lease as it is, where no version is given": Effect.gen(function*() {
    const lease = yield* created()
    const watch = yield* follow(undefined)
    Assert.deepEqual(yield* watch.applied, lease)
    const renewed = yield* patchAs(lease, { renewTime: 5n })
    Assert.deepEqual(yield* watch.applied, renewed)
  }),

  "changes waits for a Lease that is not there yet": Effect.gen(function*() {
    const watch = yield* follow(undefined)
    const lease = yield* created()
    Assert.deepEqual(yield* watch.applied, lease)
  }),

  "changes reports every change after a version, and none before it": Effect.gen(function*() {
    const { key, store } = yield* Running
    const first = yield* created()
    const second = yield* patchAs(first, { renewTime: 1n })
    const third = yield* patchAs(second, { renewTime: 2n })
    const watch = yield* follow(first.resourceVersion)
    // Changes of another Lease are not reported.
    yield* store.create({ ...key, name: `${key.name}-other` }, full)
    const fourth = yield* patchAs(third, { renewTime: 3n })
    for (const lease of [second, third, fourth]) {
      Assert.deepEqual(yield* watch.applied, lease)
    }
  }),

  "changes reports writes to every watch": Effect.gen(function*() {
    const lease = yield* created()
    const watches = [yield* follow(lease.resourceVersion), yield* follow(lease.resourceVersion)]
    const renewed = yield* patchAs(lease, { renewTime: 5n })
    for (const { applied } of watches) {
      Assert.deepEqual(yield* applied, renewed)
    }
  }),

  "changes ends with its reader": Effect.gen(function*() {
    const { fiber, within } = yield* follow((yield* created()).resourceVersion)
    yield* within(Fiber.interrupt(fiber), "the watch did not end")
  })
}

// --- deletion -----------------------------------------------------------------------------------------------------

const deleting: Readonly<Record<string, Effect.Effect<void, LeaseError, Running | Scope.Scope>>> = {
  "a re-created Lease has another uid, and versions only grow": Effect.gen(function*() {
    const { key, remove, store } = yield* Running
    const first = yield* patchAs(yield* created(), { renewTime: 1n })
    yield* remove
    yield* failsWith("LeaseNotFound", store.get(key))
    const second = yield* created()
    Assert.ok(first.resourceVersion < second.resourceVersion, "the version grows")
    Assert.notEqual(first.uid, second.uid)
  }),

  "patch does not touch a successor of the same name": Effect.gen(function*() {
    const { key, remove, store } = yield* Running
    const lease = yield* created()
    yield* remove
    yield* failsWith("LeaseNotFound", store.patch(key, lease.resourceVersion, { renewTime: 2n }))
    const successor = yield* created()
    yield* failsWith("LeaseConflict", store.patch(key, lease.resourceVersion, { renewTime: 2n }))
    Assert.deepEqual(yield* stored, successor)
  }),

  "changes reports a deletion with a new version, and the successor with another uid": Effect.gen(function*() {
    const { remove } = yield* Running
    const lease = yield* created()
    const watch = yield* follow(lease.resourceVersion)
    yield* remove
    const deleted = yield* watch.deleted
    Assert.ok(deleted.resourceVersion > lease.resourceVersion, "the deletion has a version of its own")
    Assert.deepEqual({ ...deleted, resourceVersion: lease.resourceVersion }, lease)
    const successor = yield* created()
    Assert.ok(successor.resourceVersion > deleted.resourceVersion, "the version grows")
    Assert.deepEqual(yield* watch.applied, successor)
  })
}

/**
 * Every case, in an order that is worth reading. No two share a Lease, so that they can run at the same time.
 *
 * @category cases
 * @since 0.2.0
 */
export const cases: ReadonlyArray<Case> = [
  ...Object.entries({ ...creating, ...patching, ...keeping, ...watching }).map(([name, body]) =>
    toCase(name, body, false)
  ),
  ...Object.entries(deleting).map(([name, body]) => toCase(name, body, true))
]

/**
 * Runs every case; gives those that failed. For a store that is tried without a test framework.
 *
 * @category running
 * @since 0.2.0
 */
export const failures = (target: Target): Effect.Effect<ReadonlyArray<CaseFailed>> =>
  Effect.map(
    Effect.forEach(cases, ({ effect }) => Effect.option(Effect.flip(effect(target))), { concurrency: 8 }),
    Arr.getSomes
  )
