/**
 * What the election relies on, asserted of our stores: the one in memory, and the API server's over HTTP, be it the
 * local one or a real kube-apiserver. The local server is as good as this suite is. The cases that hold for any store
 * are those of the `./testing` entry; here is what only the Kubernetes API does.
 */
import { assert, describe, layer, type Vitest } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, type Layer, Queue, type Scope, Stream } from "effect"
import type { LeaseErrorReason } from "../../src/LeaseError.ts"
import { LeaseError } from "../../src/LeaseError.ts"
import { type LeaseRecord, type LeaseWrite, maxLeaseTransitions, type OwnerReference } from "../../src/LeaseRecord.ts"
import type { LeaseChange, LeaseStore } from "../../src/LeaseStore.ts"
import { LeaseStoreSuite } from "../../src/testing/index.ts"

/** What others do to the Leases and Pods of the suite's namespace. */
export interface Admin {
  /** An unguarded merge patch. */
  readonly editLease: (name: string, patch: object) => Effect.Effect<void>
  readonly deleteLease: (name: string) => Effect.Effect<void>
  readonly createPod: (name: string) => Effect.Effect<{ readonly name: string; readonly uid: string }>
  readonly deletePod: (name: string, gracePeriodSeconds: number) => Effect.Effect<void>
}

/** Where the suite runs. Names of objects are its own: several runs may share a namespace. */
export class Environment extends Context.Service<Environment, {
  readonly namespace: string
  readonly missingNamespace: string
  /** A connection of one's own. */
  readonly connect: Effect.Effect<LeaseStore["Service"], never, Scope.Scope>
  readonly admin: Admin
  /** A version too old to watch from. */
  readonly tooOld: Effect.Effect<bigint>
  readonly garbageCollector: boolean
}>()("test/LeaseStoreSuite/Environment") {}

let names = 0

// One test's Lease, and connections to it.
const setup = Effect.gen(function*() {
  const environment = yield* Environment
  names += 1
  const suffix = `${names}-${Math.random().toString(36).slice(2, 8)}`
  const key = { namespace: environment.namespace, name: `lease-${suffix}` }
  return { ...environment, store: yield* environment.connect, key, suffix }
})

const failure = <A>(effect: Effect.Effect<A, LeaseError>): Effect.Effect<LeaseErrorReason> =>
  Effect.match(effect, {
    onSuccess: () => assert.fail("it should have failed"),
    onFailure: (error) => {
      assert.instanceOf(error, LeaseError)
      return error.reason
    }
  })

const failsWith = <A>(tag: LeaseErrorReason["_tag"], effect: Effect.Effect<A, LeaseError>): Effect.Effect<void> =>
  Effect.map(failure(effect), (reason) => assert.strictEqual(reason._tag, tag))

/** A watch that has opened. `next` is its next change, bookmarks left out. */
const follow = Effect.fnUntraced(function*(
  store: LeaseStore["Service"],
  key: { readonly namespace: string; readonly name: string },
  since: bigint | undefined
) {
  const changes = yield* Queue.unbounded<Exclude<LeaseChange, { _tag: "Bookmark" }>>()
  const bookmark = yield* Deferred.make<bigint>()
  const opened = yield* Deferred.make<void, LeaseError>()
  let elements = 0
  const fiber = yield* store.changes(key, since).pipe(
    Stream.runForEach((change) => {
      elements += 1
      if (elements === 1) assert.strictEqual(change._tag, "Opened", "the first element of a watch")
      return change._tag === "Opened"
        ? Deferred.succeed(opened, undefined)
        : change._tag === "Bookmark"
        ? Deferred.succeed(bookmark, change.resourceVersion)
        : Queue.offer(changes, change)
    }),
    Effect.onExit((exit) => Exit.isFailure(exit) ? Deferred.failCause(opened, exit.cause) : Effect.void),
    Effect.forkScoped
  )
  yield* Effect.orDie(Deferred.await(opened))
  const next = Queue.take(changes).pipe(Effect.timeout("10 seconds"), Effect.orDie)
  return {
    fiber,
    bookmark: Deferred.await(bookmark),
    applied: Effect.map(next, (change) => {
      assert.strictEqual(change._tag, "Applied")
      return change._tag === "Applied" ? change.lease : assert.fail()
    }),
    deleted: Effect.map(next, (change) => {
      assert.strictEqual(change._tag, "Deleted")
      return change._tag === "Deleted" ? change.lease : assert.fail()
    })
  }
})

const full: LeaseWrite = {
  holderIdentity: "web-0_1",
  leaseDurationSeconds: 15,
  acquireTime: 1_700_000_000_123_456n,
  renewTime: 1_700_000_001_000_001n,
  leaseTransitions: 3,
  annotations: { "example.com/mine": "1" }
}

// An owner that the garbage collector cannot look up, and therefore leaves alone.
const foreignOwner = (name: string): OwnerReference => ({
  apiVersion: "example.com/v1",
  kind: "Thing",
  name,
  uid: `uid-of-${name}`
})

const podOwner = (pod: { readonly name: string; readonly uid: string }): OwnerReference => ({
  apiVersion: "v1",
  kind: "Pod",
  name: pod.name,
  uid: pod.uid
})

/** The tests, to be called with an `it` that has an environment and the live clock. */
export const tests = (it: Vitest.MethodsNonLive<Environment>): void => {
  describe("what every store does", () => {
    for (const { effect, name } of LeaseStoreSuite.cases) {
      it.effect(
        name,
        () =>
          Effect.flatMap(Environment, ({ admin, connect, namespace }) =>
            effect({
              connect,
              namespace,
              remove: ({ name }) => admin.deleteLease(name)
            })),
        20_000
      )
    }
  })

  const test = <A, E>(title: string, effect: Effect.Effect<A, E, Environment | Scope.Scope>) =>
    it.effect(title, () => effect, 20_000)

  describe("create", () => {
    test(
      "makes the Lease, and get reads what was written",
      Effect.gen(function*() {
        const { key, store } = yield* setup
        const { lease } = yield* store.create(key, full)
        const { annotations, ...fields } = full
        assert.deepInclude(lease, { ...key, ...fields })
        assert.deepStrictEqual(lease.annotations, annotations)
        assert.deepStrictEqual([lease.labels, lease.ownerReferences], [{}, []])
        assert.isAbove(Number(lease.resourceVersion), 0)
        assert.match(lease.uid, /^[0-9a-f-]{36}$/)
        assert.deepStrictEqual((yield* store.get(key)).lease, lease)
      })
    )

    test(
      "fails with LeaseNotFound where the namespace is missing, and names it",
      Effect.gen(function*() {
        const { key, missingNamespace, store } = yield* setup
        const reason = yield* failure(store.create({ ...key, namespace: missingNamespace }, full))
        assert.strictEqual(reason._tag, "LeaseNotFound")
        assert.include(reason.message, `namespaces "${missingNamespace}" not found`)
        yield* failsWith("LeaseNotFound", store.get({ ...key, namespace: missingNamespace }))
      })
    )

    test(
      "gives a re-created Lease another uid, and versions only grow",
      Effect.gen(function*() {
        const { admin, key, store } = yield* setup
        const first = (yield* store.create(key, full)).lease
        const second = (yield* store.patch(key, first.resourceVersion, { renewTime: 1n })).lease
        yield* admin.deleteLease(key.name)
        yield* failsWith("LeaseNotFound", store.get(key))
        const third = (yield* store.create(key, full)).lease
        assert.isTrue(first.resourceVersion < second.resourceVersion)
        // One more for the deletion itself.
        assert.isTrue(second.resourceVersion + 1n < third.resourceVersion)
        assert.strictEqual(first.uid, second.uid)
        assert.notStrictEqual(first.uid, third.uid)
      })
    )

    test(
      "conflicts while a deletion is held up, and the Lease can be written until it is gone",
      Effect.gen(function*() {
        const { admin, key, store } = yield* setup
        const { lease } = yield* store.create(key, full)
        yield* admin.editLease(key.name, { metadata: { finalizers: ["example.com/hold"] } })
        yield* admin.deleteLease(key.name)
        const terminating = (yield* store.get(key)).lease
        assert.isNumber(terminating.deletionTimestamp)
        assert.strictEqual(terminating.uid, lease.uid)
        yield* failsWith("LeaseConflict", store.create(key, full))
        const watch = yield* follow(store, key, terminating.resourceVersion)
        const renewed = yield* store.patch(key, terminating.resourceVersion, { holderIdentity: "other" })
        assert.strictEqual(renewed.lease.holderIdentity, "other")
        assert.deepStrictEqual(yield* watch.applied, renewed.lease)
        yield* admin.editLease(key.name, { metadata: { finalizers: [] } })
        assert.strictEqual((yield* watch.deleted).holderIdentity, "other")
        yield* failsWith("LeaseNotFound", store.get(key))
      })
    )
  })

  describe("get", () => {
    test(
      "fails with LeaseNotFound where there is none",
      Effect.gen(function*() {
        const { key, store } = yield* setup
        const error = yield* Effect.flip(store.get(key))
        assert.strictEqual(error.reason._tag, "LeaseNotFound")
        assert.include(error.message, `get lease ${key.namespace}/${key.name}`)
      })
    )

    test(
      "reads a holder that is empty, null or missing as none",
      Effect.gen(function*() {
        const { admin, key, store } = yield* setup
        const { lease } = yield* store.create(key, {})
        assert.deepInclude(lease, {
          holderIdentity: "",
          leaseDurationSeconds: undefined,
          acquireTime: undefined,
          renewTime: undefined,
          leaseTransitions: 0
        })
        const taken = (yield* store.patch(key, lease.resourceVersion, { holderIdentity: "a" })).lease
        const cleared = (yield* store.patch(key, taken.resourceVersion, { holderIdentity: "" })).lease
        assert.strictEqual(cleared.holderIdentity, "")
        assert.isTrue(cleared.resourceVersion > taken.resourceVersion)
        yield* store.patch(key, cleared.resourceVersion, { holderIdentity: "a" })
        yield* admin.editLease(key.name, { spec: { holderIdentity: null } })
        assert.strictEqual((yield* store.get(key)).lease.holderIdentity, "")
      })
    )

    test(
      "reads a Lease that was emptied in place",
      Effect.gen(function*() {
        const { admin, key, store } = yield* setup
        const { lease } = yield* store.create(key, full)
        yield* admin.editLease(key.name, { spec: null })
        const emptied = (yield* store.get(key)).lease
        assert.deepInclude(emptied, { uid: lease.uid, holderIdentity: "", leaseDurationSeconds: undefined })
        assert.deepStrictEqual(emptied.annotations, lease.annotations)
      })
    )
  })

  describe("patch", () => {
    test(
      "changes what it names and keeps everything else",
      Effect.gen(function*() {
        const { admin, key, store } = yield* setup
        yield* store.create(key, full)
        yield* admin.editLease(key.name, {
          metadata: { labels: { team: "blue" }, annotations: { "example.com/theirs": "2" } }
        })
        const before = (yield* store.get(key)).lease
        const { lease } = yield* store.patch(key, before.resourceVersion, {
          holderIdentity: "web-1_2",
          renewTime: 1_700_000_002_000_000n,
          annotations: { "example.com/mine": null, "example.com/new": "3" }
        })
        const { resourceVersion, ...rest } = lease
        assert.isTrue(resourceVersion > before.resourceVersion)
        const { resourceVersion: _, ...expected } = {
          ...before,
          holderIdentity: "web-1_2",
          renewTime: 1_700_000_002_000_000n,
          annotations: { "example.com/theirs": "2", "example.com/new": "3" }
        }
        assert.deepStrictEqual(rest, expected)
        assert.deepStrictEqual((yield* store.get(key)).lease, lease)
      })
    )

    test(
      "conflicts at any version but the current one, also where it would change nothing",
      Effect.gen(function*() {
        const { key, store } = yield* setup
        const first = (yield* store.create(key, full)).lease
        const second = (yield* store.patch(key, first.resourceVersion, { renewTime: 2n })).lease
        for (const version of [first.resourceVersion, second.resourceVersion + 1_000_000n]) {
          yield* failsWith("LeaseConflict", store.patch(key, version, { renewTime: 3n }))
          yield* failsWith("LeaseConflict", store.patch(key, version, { renewTime: 2n }))
        }
        assert.deepStrictEqual((yield* store.get(key)).lease, second)
      })
    )

    test(
      "conflicts after another's edit of a label",
      Effect.gen(function*() {
        const { admin, key, store } = yield* setup
        const { lease } = yield* store.create(key, full)
        yield* admin.editLease(key.name, { metadata: { labels: { team: "blue" } } })
        yield* failsWith("LeaseConflict", store.patch(key, lease.resourceVersion, { renewTime: 2n }))
      })
    )

    test(
      "that changes nothing keeps the version and makes no event",
      Effect.gen(function*() {
        const { key, store } = yield* setup
        const { lease } = yield* store.create(key, full)
        const watch = yield* follow(store, key, lease.resourceVersion)
        assert.deepStrictEqual((yield* store.patch(key, lease.resourceVersion, full)).lease, lease)
        // The one after it is the first that the watch hears of.
        const changed = (yield* store.patch(key, lease.resourceVersion, { renewTime: 5n })).lease
        assert.deepStrictEqual(yield* watch.applied, changed)
      })
    )
  })

  describe("validation", () => {
    const refused: ReadonlyArray<readonly [string, LeaseWrite]> = [
      ["a duration of 0", { leaseDurationSeconds: 0 }],
      ["a negative duration", { leaseDurationSeconds: -1 }],
      ["half a second", { leaseDurationSeconds: 1.5 }],
      ["a duration beyond 32 bits", { leaseDurationSeconds: 2 ** 31 }],
      ["negative transitions", { leaseTransitions: -1 }],
      ["transitions beyond 32 bits", { leaseTransitions: maxLeaseTransitions + 1 }],
      ["an owner without a name", { ownerReferences: [{ ...foreignOwner("a"), name: "" }] }],
      ["an owner without a uid", { ownerReferences: [{ ...foreignOwner("a"), uid: "" }] }]
    ]
    for (const [what, write] of refused) {
      test(
        `refuses ${what}`,
        Effect.gen(function*() {
          const { key, store } = yield* setup
          yield* failsWith("LeaseInvalid", store.create(key, write))
          yield* failsWith("LeaseNotFound", store.get(key))
          const { lease } = yield* store.create(key, full)
          yield* failsWith("LeaseInvalid", store.patch(key, lease.resourceVersion, write))
          assert.deepStrictEqual((yield* store.get(key)).lease, lease)
        })
      )
    }

    const accepted: ReadonlyArray<readonly [string, Omit<LeaseWrite, "annotations">]> = [
      ["the shortest duration", { leaseDurationSeconds: 1 }],
      ["the longest duration", { leaseDurationSeconds: 2 ** 31 - 1 }],
      ["the most transitions", { leaseTransitions: maxLeaseTransitions }],
      ["transitions that go back", { leaseTransitions: 0 }],
      ["a whole second", { renewTime: 1_700_000_000_000_000n }],
      ["the last microsecond of a second", { renewTime: 1_700_000_000_999_999n }],
      ["times before 1970", { acquireTime: -1n, renewTime: -1_000_001n }],
      ["renewal before acquisition", { acquireTime: 1_700_000_000_000_000n, renewTime: 1n }],
      ["the year 9999", { renewTime: BigInt(Date.parse("9999-12-31T23:59:59Z")) * 1000n + 999_999n }],
      ["any text as holder", { holderIdentity: "a b\n\u{1f600}\u0000\"é" }]
    ]
    for (const [what, write] of accepted) {
      test(
        `keeps ${what} as it is`,
        Effect.gen(function*() {
          const { key, store } = yield* setup
          const { lease } = yield* store.create(key, full)
          const patched = (yield* store.patch(key, lease.resourceVersion, write)).lease
          assert.deepStrictEqual(patched, { ...lease, ...write, resourceVersion: patched.resourceVersion })
          assert.deepStrictEqual((yield* store.get(key)).lease, patched)
        })
      )
    }
  })

  describe("changes", () => {
    test(
      "begins with the Lease as it is, where no version is given",
      Effect.gen(function*() {
        const { key, store } = yield* setup
        yield* store.create(key, full)
        const { lease } = yield* store.get(key)
        const watch = yield* follow(store, key, undefined)
        assert.deepStrictEqual(yield* watch.applied, lease)
        const next = (yield* store.patch(key, lease.resourceVersion, { renewTime: 5n })).lease
        assert.deepStrictEqual(yield* watch.applied, next)
      })
    )

    test(
      "hears of a Lease that did not exist when it began",
      Effect.gen(function*() {
        const { key, store } = yield* setup
        const watch = yield* follow(store, key, undefined)
        const { lease } = yield* store.create(key, full)
        assert.deepStrictEqual(yield* watch.applied, lease)
      })
    )

    test(
      "tells all that came after a version, in order, and nothing else",
      Effect.gen(function*() {
        const { connect, key, store } = yield* setup
        const leases: Array<LeaseRecord> = [(yield* store.create(key, full)).lease]
        const write = (renewTime: bigint) =>
          Effect.map(store.patch(key, leases.at(-1)!.resourceVersion, { renewTime }), ({ lease }) => {
            leases.push(lease)
          })
        yield* write(11n)
        yield* write(12n)
        const watch = yield* follow(yield* connect, key, leases[0]!.resourceVersion)
        yield* write(13n)
        // Another Lease is none of its business.
        yield* store.create({ ...key, name: `${key.name}-other` }, full)
        yield* write(14n)
        for (const lease of leases.slice(1)) {
          assert.deepStrictEqual(yield* watch.applied, lease)
        }
      })
    )

    test(
      "resumes at the version of a deletion",
      Effect.gen(function*() {
        const { admin, key, store } = yield* setup
        const { lease } = yield* store.create(key, full)
        const watch = yield* follow(store, key, lease.resourceVersion)
        yield* admin.deleteLease(key.name)
        const resumed = yield* follow(store, key, (yield* watch.deleted).resourceVersion)
        const successor = (yield* store.create(key, full)).lease
        assert.deepStrictEqual(yield* resumed.applied, successor)
      })
    )

    test(
      "hears of writes of others, and of edits that are no writes of a candidate",
      Effect.gen(function*() {
        const { admin, connect, key, store } = yield* setup
        const { lease } = yield* store.create(key, full)
        const watches = [
          yield* follow(yield* connect, key, lease.resourceVersion),
          yield* follow(yield* connect, key, lease.resourceVersion)
        ]
        yield* admin.editLease(key.name, { metadata: { labels: { team: "blue" } } })
        yield* admin.editLease(key.name, { spec: null })
        for (const watch of watches) {
          const labelled = yield* watch.applied
          assert.deepStrictEqual(labelled.labels, { team: "blue" })
          assert.strictEqual(labelled.holderIdentity, full.holderIdentity)
          const emptied = yield* watch.applied
          assert.strictEqual(emptied.holderIdentity, "")
          assert.isTrue(emptied.resourceVersion > labelled.resourceVersion)
        }
      })
    )

    test(
      "fails with LeaseExpired where the version is too old",
      Effect.gen(function*() {
        const { key, store, tooOld } = yield* setup
        yield* store.create(key, full)
        const since = yield* tooOld
        const error = yield* store.changes(key, since).pipe(
          Stream.runDrain,
          Effect.timeout("10 seconds"),
          Effect.catchTag("TimeoutError", () => Effect.die("the watch went on")),
          Effect.flip
        )
        assert.strictEqual(error.reason._tag, "LeaseExpired")
        assert.strictEqual(error.verb, "watch")
      })
    )
  })

  describe("owners", () => {
    const collected = <A, E>(title: string, effect: Effect.Effect<A, E, Environment | Scope.Scope>) =>
      it.effect(title, (context) =>
        Effect.gen(function*() {
          const { garbageCollector } = yield* Environment
          if (!garbageCollector) return context.skip("there is no garbage collector")
          return yield* effect
        }), 20_000)

    collected(
      "take the Lease with them, and not before they are gone",
      Effect.gen(function*() {
        const { admin, key, store, suffix } = yield* setup
        const pod = yield* admin.createPod(`pod-${suffix}`)
        const { lease } = yield* store.create(key, { ...full, ownerReferences: [podOwner(pod)] })
        const watch = yield* follow(store, key, lease.resourceVersion)
        yield* admin.deletePod(pod.name, 30)
        const renewed = (yield* store.patch(key, lease.resourceVersion, { renewTime: 5n })).lease
        assert.deepStrictEqual(yield* watch.applied, renewed)
        yield* admin.deletePod(pod.name, 0)
        const deleted = yield* watch.deleted
        assert.deepStrictEqual({ ...deleted, resourceVersion: 0n }, { ...renewed, resourceVersion: 0n })
      })
    )

    collected(
      "that do not exist cost the Lease at once",
      Effect.gen(function*() {
        const { admin, key, store, suffix } = yield* setup
        const pod = yield* admin.createPod(`pod-${suffix}`)
        const wrong: ReadonlyArray<OwnerReference> = [
          { ...podOwner(pod), uid: "11111111-1111-4111-8111-111111111111" },
          { ...podOwner(pod), name: `${pod.name}-other` }
        ]
        for (const owner of wrong) {
          const { lease } = yield* store.create(key, { ...full, ownerReferences: [owner] })
          const watch = yield* follow(store, key, lease.resourceVersion)
          yield* watch.deleted
        }
        const { lease } = yield* store.create(key, { ...full, ownerReferences: [podOwner(pod)] })
        const watch = yield* follow(store, key, lease.resourceVersion)
        yield* store.patch(key, lease.resourceVersion, { ownerReferences: [wrong[0]!] })
        yield* watch.applied
        yield* watch.deleted
      })
    )

    collected(
      "that do not exist are removed where another one does",
      Effect.gen(function*() {
        const { admin, key, store, suffix } = yield* setup
        const pod = yield* admin.createPod(`pod-${suffix}`)
        const gone = { ...podOwner(pod), uid: "11111111-1111-4111-8111-111111111111" }
        const { lease } = yield* store.create(key, { ...full, ownerReferences: [gone, podOwner(pod)] })
        const watch = yield* follow(store, key, lease.resourceVersion)
        const patched = yield* watch.applied
        assert.deepStrictEqual(patched.ownerReferences, [podOwner(pod)])
        yield* failsWith("LeaseConflict", store.patch(key, lease.resourceVersion, { renewTime: 5n }))
      })
    )

    collected(
      "no longer named do not take the Lease with them",
      Effect.gen(function*() {
        const { admin, key, store, suffix } = yield* setup
        const [first, second] = [yield* admin.createPod(`a-${suffix}`), yield* admin.createPod(`b-${suffix}`)]
        const { lease } = yield* store.create(key, { ...full, ownerReferences: [podOwner(first)] })
        const taken = (yield* store.patch(key, lease.resourceVersion, { ownerReferences: [podOwner(second)] })).lease
        const watch = yield* follow(store, key, taken.resourceVersion)
        yield* admin.deletePod(first.name, 0)
        // The collector is quicker with the second than it would have been late with the first.
        const released = (yield* store.patch(key, taken.resourceVersion, { holderIdentity: "" })).lease
        assert.deepStrictEqual(yield* watch.applied, released)
        yield* admin.deletePod(second.name, 0)
        assert.strictEqual((yield* watch.deleted).holderIdentity, "")
      })
    )
  })
}

/** A test of bookmarks, for environments in which a watch gets one within some seconds, not once a minute. */
export const bookmarks = (it: Vitest.MethodsNonLive<Environment>): void =>
  it.effect("changes tells of versions to resume from", () =>
    Effect.gen(function*() {
      const { key, store } = yield* setup
      const { lease } = yield* store.create(key, full)
      const { bookmark } = yield* follow(store, key, lease.resourceVersion)
      yield* store.create({ ...key, name: `${key.name}-other` }, full)
      assert.isTrue((yield* Effect.timeout(bookmark, "5 seconds")) > lease.resourceVersion)
    }))

/** Runs the tests in an environment. */
export const suite = <E>(name: string, environment: Layer.Layer<Environment, E>): void =>
  layer(environment, { excludeTestServices: true, timeout: "2 minutes" })(`LeaseStore: ${name}`, (it) => {
    tests(it)
    bookmarks(it)
  })
