import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"
import { type LeaseChange, LeaseStore } from "../../src/LeaseStore.ts"
import { MemoryCluster, MemoryLeaseStore } from "../../src/testing/index.ts"

const key = { namespace: "default", name: "x" }
const podKey = { namespace: "default", name: "pod" }

const settle = Effect.repeat(Effect.yieldNow, { times: 10 })

const make = Effect.fnUntraced(function*(options?: MemoryCluster.Options) {
  const cluster = yield* MemoryCluster.make(options)
  const store = yield* MemoryLeaseStore.make(cluster)
  const heard: Array<string> = []
  const follow = (since?: bigint) =>
    store.changes(key, since).pipe(
      Stream.runForEach((change: LeaseChange) =>
        Effect.sync(() => {
          heard.push("lease" in change ? `${change._tag} ${change.lease.holderIdentity}` : change._tag)
        })
      ),
      Effect.matchEffect({
        onFailure: (error) => Effect.sync(() => heard.push(error.reason._tag)),
        onSuccess: () => Effect.sync(() => heard.push("End"))
      }),
      Effect.forkChild({ startImmediately: true }),
      Effect.andThen(settle)
    )
  return { cluster, store, heard, follow }
})

/** A Lease whose owner is a Pod. */
const owned = Effect.fnUntraced(function*(options?: MemoryCluster.Options) {
  const made = yield* make(options)
  const pod = yield* made.cluster.createPod(podKey)
  const { lease } = yield* made.store.create(key, {
    holderIdentity: "a",
    leaseDurationSeconds: 15,
    ownerReferences: [MemoryCluster.ownerReference(pod)]
  })
  return { ...made, pod, lease }
})

describe("the garbage collector", () => {
  it.effect("deletes a Lease some milliseconds after its owner", () =>
    Effect.gen(function*() {
      const { cluster } = yield* owned()
      yield* cluster.deletePod(podKey)
      yield* TestClock.adjust("5 millis")
      assert.isDefined(yield* cluster.lease(key))
      yield* TestClock.adjust("1 millis")
      assert.isUndefined(yield* cluster.lease(key))
      assert.deepStrictEqual(yield* cluster.collector.pending, [])
    }))

  it.effect("takes the time that it is told to", () =>
    Effect.gen(function*() {
      const { cluster } = yield* owned({
        collector: { _tag: "automatic", delay: "3 seconds", stepDelay: "2 seconds" }
      })
      yield* cluster.deletePod(podKey)
      yield* TestClock.adjust("4999 millis")
      assert.isDefined(yield* cluster.lease(key))
      yield* TestClock.adjust("1 millis")
      assert.isUndefined(yield* cluster.lease(key))
    }))

  it.effect("deletes by uid and version, reads again after a conflict, then deletes by uid alone", () =>
    Effect.gen(function*() {
      const { cluster, lease, store } = yield* owned({ collector: { _tag: "manual" } })
      yield* cluster.deletePod(podKey)
      const step = Effect.map(cluster.collector.step(), (done) => [done?.step, done?.outcome])
      assert.deepStrictEqual(yield* step, ["Read", "Continues"])
      // A renewal: the owner is the same as before.
      const renewed = (yield* store.patch(key, lease.resourceVersion, { renewTime: 1n })).lease
      assert.deepStrictEqual(yield* step, ["Delete", "Continues"])
      assert.deepStrictEqual(yield* step, ["ReadAgain", "Continues"])
      // A takeover between its read and its deletion is lost.
      const pod = yield* cluster.createPod({ ...podKey, name: "other" })
      yield* store.patch(key, renewed.resourceVersion, {
        holderIdentity: "b",
        ownerReferences: [MemoryCluster.ownerReference(pod)]
      })
      assert.deepStrictEqual(yield* step, ["DeleteByUid", "Deleted"])
      assert.isUndefined(yield* cluster.lease(key))
      assert.deepStrictEqual(yield* step, [undefined, undefined])
    }))

  it.effect("begins anew where it finds another owner after a conflict", () =>
    Effect.gen(function*() {
      const { cluster, lease, store } = yield* owned({ collector: { _tag: "manual" } })
      const pod = yield* cluster.createPod({ ...podKey, name: "other" })
      yield* cluster.deletePod(podKey)
      yield* cluster.collector.step()
      yield* store.patch(key, lease.resourceVersion, { ownerReferences: [MemoryCluster.ownerReference(pod)] })
      const steps: Array<string> = []
      for (let done = yield* cluster.collector.step(); done !== undefined; done = yield* cluster.collector.step()) {
        steps.push(`${done.step} ${done.outcome}`)
      }
      assert.deepStrictEqual(steps, ["Delete Continues", "ReadAgain Continues", "Read Kept"])
      assert.isDefined(yield* cluster.lease(key))
    }))

  it.effect("does not touch the successor of the same name", () =>
    Effect.gen(function*() {
      const { cluster, store } = yield* owned({ collector: { _tag: "manual" } })
      yield* cluster.deletePod(podKey)
      yield* cluster.collector.step()
      yield* cluster.deleteLease(key)
      yield* store.create(key, { holderIdentity: "b" })
      assert.strictEqual((yield* cluster.collector.step())?.outcome, "Continues")
      assert.strictEqual((yield* cluster.collector.step())?.outcome, "Gone")
      assert.strictEqual((yield* cluster.lease(key))?.holderIdentity, "b")
    }))

  it.effect("works on many at once, in any order", () =>
    Effect.gen(function*() {
      const { cluster } = yield* owned({ collector: { _tag: "manual" } })
      const other = { ...key, name: "y" }
      const gone = MemoryCluster.ownerReference({ name: "none", uid: "none" })
      const { uid } = yield* cluster.createLease(other, { metadata: { ownerReferences: [gone] } })
      yield* cluster.deletePod(podKey)
      const pending = yield* cluster.collector.pending
      assert.deepStrictEqual(pending.map(({ kind, name, next }) => [kind, name, next]), [
        ["Lease", "y", "Read"],
        ["Lease", "x", "Read"]
      ])
      const second = pending[1]!.id
      yield* cluster.collector.step(second)
      yield* cluster.collector.step(second)
      assert.isUndefined(yield* cluster.lease(key))
      assert.deepStrictEqual((yield* cluster.collector.pending).map((job) => job.uid), [uid])
    }))

  it.effect("leaves kinds alone that it cannot look up", () =>
    Effect.gen(function*() {
      const { cluster } = yield* make()
      yield* cluster.createLease(key, {
        metadata: { ownerReferences: [{ apiVersion: "apps/v1", kind: "Deployment", name: "web", uid: "1" }] }
      })
      assert.deepStrictEqual(yield* cluster.collector.pending, [])
    }))

  it.effect("that is off sees nothing, and everything when it is on again", () =>
    Effect.gen(function*() {
      const { cluster } = yield* owned({ collector: { _tag: "off" } })
      yield* cluster.deletePod(podKey)
      yield* TestClock.adjust("1 hour")
      assert.isDefined(yield* cluster.lease(key))
      yield* cluster.collector.setMode({ _tag: "automatic" })
      yield* TestClock.adjust("6 millis")
      assert.isUndefined(yield* cluster.lease(key))
    }))

  it.effect("deletes what a Pod owns while the Pod still terminates, in the foreground only", () =>
    Effect.gen(function*() {
      const { cluster } = yield* owned()
      yield* cluster.deletePod(podKey, { gracePeriodSeconds: 30 })
      yield* TestClock.adjust("1 minute")
      assert.isTrue((yield* cluster.pod(podKey))?.terminating)
      assert.isDefined(yield* cluster.lease(key))
      yield* cluster.deletePod(podKey, { foreground: true })
      yield* TestClock.adjust("1 minute")
      assert.isUndefined(yield* cluster.lease(key))
      assert.isTrue((yield* cluster.pod(podKey))?.terminating)
      yield* cluster.deletePod(podKey)
      assert.isUndefined(yield* cluster.pod(podKey))
    }))

  it.effect("ends the deletion of a Lease in the foreground", () =>
    Effect.gen(function*() {
      const { cluster, store } = yield* make()
      yield* store.create(key, {})
      yield* cluster.deleteLease(key, { foreground: true })
      assert.isNumber((yield* cluster.lease(key))?.deletionTimestamp)
      yield* TestClock.adjust("6 millis")
      assert.isUndefined(yield* cluster.lease(key))
    }))
})

describe("what others do", () => {
  it.effect("creates, replaces, edits, empties and deletes", () =>
    Effect.gen(function*() {
      const { cluster } = yield* make()
      const made = yield* cluster.createLease(key, { metadata: { labels: { a: "1" } }, spec: { holderIdentity: "a" } })
      assert.deepInclude(made, { holderIdentity: "a", labels: { a: "1" } })
      assert.strictEqual((yield* Effect.flip(cluster.createLease(key))).code, 409)
      const put = yield* cluster.putLease(key, { spec: { leaseDurationSeconds: 5 } })
      assert.deepInclude(put, { holderIdentity: "", leaseDurationSeconds: 5, labels: {}, uid: made.uid })
      const edited = yield* cluster.editLease(key, { metadata: { annotations: { b: "2" } } })
      assert.deepInclude(edited, { leaseDurationSeconds: 5, annotations: { b: "2" } })
      const emptied = yield* cluster.emptyLease(key)
      assert.deepInclude(emptied, { leaseDurationSeconds: undefined, annotations: { b: "2" }, uid: made.uid })
      assert.strictEqual((yield* Effect.flip(cluster.deleteLease(key, { uid: "other" }))).code, 409)
      assert.strictEqual((yield* Effect.flip(cluster.deleteLease(key, { resourceVersion: 1n }))).code, 409)
      assert.isTrue(yield* cluster.deleteLease(key, { uid: made.uid, resourceVersion: emptied.resourceVersion }))
      assert.isFalse(yield* cluster.deleteLease(key))
      const again = yield* cluster.putLease(key, { spec: { holderIdentity: "b" } })
      assert.notStrictEqual(again.uid, made.uid)
      assert.deepStrictEqual(
        (yield* cluster.commits).map(({ lease, type }) => [type, lease.resourceVersion]),
        [
          ["Created", 97n],
          ["Changed", 98n],
          ["Changed", 99n],
          ["Changed", 100n],
          ["Deleted", 101n],
          ["Created", 102n]
        ]
      )
    }))

  it.effect("lists Leases of one namespace, and of all", () =>
    Effect.gen(function*() {
      const { cluster } = yield* make()
      for (const [namespace, name] of [["b", "z"], ["a", "y"], ["a", "x"]] as const) {
        yield* cluster.createLease({ namespace, name })
      }
      const names = (namespace?: string) =>
        Effect.map(cluster.leases(namespace), (leases) => leases.map((lease) => `${lease.namespace}/${lease.name}`))
      assert.deepStrictEqual(yield* names(), ["a/x", "a/y", "b/z"])
      assert.deepStrictEqual(yield* names("b"), ["b/z"])
    }))

  it.effect("every namespace exists, unless they are named", () =>
    Effect.gen(function*() {
      const { cluster } = yield* make({ namespaces: ["a"] })
      yield* cluster.createLease({ ...key, namespace: "a" })
      assert.strictEqual((yield* Effect.flip(cluster.createLease(key))).message, "namespaces \"default\" not found")
      yield* cluster.createNamespace("default")
      yield* cluster.createNamespace("default")
      yield* cluster.createLease(key)
    }))

  it.effect("strategy and preferredHolder are kept where Kubernetes keeps them", () =>
    Effect.gen(function*() {
      for (const coordinatedLeaderElection of [false, true]) {
        const { cluster, store } = yield* make({ coordinatedLeaderElection })
        yield* cluster.createLease(key, { spec: { strategy: "OldestEmulationVersion", preferredHolder: "b" } })
        const { lease } = yield* store.get(key)
        const patched = (yield* store.patch(key, lease.resourceVersion, { holderIdentity: "a" })).lease
        assert.deepStrictEqual(
          [patched.strategy, patched.preferredHolder],
          coordinatedLeaderElection ? ["OldestEmulationVersion", "b"] : [undefined, undefined]
        )
      }
    }))
})

describe("versions", () => {
  it.effect("are one series for all kinds", () =>
    Effect.gen(function*() {
      const { cluster } = yield* make()
      const before = (yield* cluster.createLease(key)).resourceVersion
      yield* cluster.createPod(podKey)
      yield* cluster.deletePod(podKey)
      yield* cluster.skipVersions(10)
      const after = (yield* cluster.editLease(key, { spec: { leaseTransitions: 1 } })).resourceVersion
      assert.strictEqual(after, before + 13n)
      assert.strictEqual(yield* cluster.version, after)
    }))

  it.effect("step back with a backup, and the objects with them", () =>
    Effect.gen(function*() {
      const { cluster, follow, heard, store } = yield* make()
      const { lease } = yield* store.create(key, { holderIdentity: "a" })
      const backup = yield* cluster.snapshot
      const later = (yield* store.patch(key, lease.resourceVersion, { holderIdentity: "b" })).lease
      yield* cluster.createLease({ ...key, name: "y" })
      yield* follow(later.resourceVersion)
      yield* cluster.restore(backup)
      yield* settle
      assert.deepStrictEqual(heard.splice(0), ["Opened", "End"])
      assert.deepStrictEqual((yield* store.get(key)).lease, lease)
      assert.isUndefined(yield* cluster.lease({ ...key, name: "y" }))
      // The next write takes a version that was there before, with another content.
      const other = (yield* store.patch(key, lease.resourceVersion, { holderIdentity: "c" })).lease
      assert.strictEqual(other.resourceVersion, later.resourceVersion)
      // The backup is as it was, for a second time.
      yield* cluster.restore(backup)
      assert.deepStrictEqual((yield* store.get(key)).lease, lease)
      // A watch from a version that is yet to come hears nothing up to there.
      yield* follow(lease.resourceVersion + 2n)
      for (const holderIdentity of ["d", "e", "f"]) {
        yield* cluster.editLease(key, { spec: { holderIdentity } })
      }
      yield* settle
      assert.deepStrictEqual(heard, ["Opened", "Applied f"])
    }))

  it.effect("too old to watch from are those that the history has lost", () =>
    Effect.gen(function*() {
      const { cluster, follow, heard } = yield* make({ history: 2 })
      const versions: Array<bigint> = []
      versions.push((yield* cluster.createLease(key, { spec: { holderIdentity: "0" } })).resourceVersion)
      for (const holderIdentity of ["1", "2", "3"]) {
        versions.push((yield* cluster.editLease(key, { spec: { holderIdentity } })).resourceVersion)
      }
      yield* follow(versions[0])
      assert.deepStrictEqual(heard.splice(0), ["Opened", "LeaseExpired"])
      yield* follow(versions[1])
      assert.deepStrictEqual(heard.splice(0), ["Opened", "Applied 2", "Applied 3"])
      yield* cluster.compact
      yield* follow(versions[2])
      assert.deepStrictEqual(heard.splice(0), ["Opened", "LeaseExpired"])
      yield* follow(versions[3])
      assert.deepStrictEqual(heard, ["Opened"])
    }))
})

describe("time", () => {
  it.effect("a watch gets a bookmark each minute in which something was written", () =>
    Effect.gen(function*() {
      const { cluster, follow, heard } = yield* make()
      yield* cluster.createLease(key)
      yield* follow()
      yield* TestClock.adjust("61 seconds")
      assert.deepStrictEqual(heard, ["Opened", "Applied "])
      yield* cluster.createLease({ ...key, name: "y" })
      yield* TestClock.adjust("58 seconds")
      assert.deepStrictEqual(heard, ["Opened", "Applied "])
      yield* TestClock.adjust("1 seconds")
      yield* settle
      assert.deepStrictEqual(heard, ["Opened", "Applied ", "Bookmark"])
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(heard, ["Opened", "Applied ", "Bookmark"])
    }))
})

it.effect("watches end with their readers", () =>
  Effect.gen(function*() {
    const { cluster, store } = yield* make()
    const read = (count: number) =>
      Effect.forkChild(store.changes(key, undefined).pipe(Stream.take(count), Stream.runDrain))
    const [first, second] = [yield* read(2), yield* read(100)]
    yield* settle
    assert.strictEqual(yield* cluster.openWatches, 2)
    yield* store.create(key, {})
    yield* Fiber.join(first)
    assert.strictEqual(yield* cluster.openWatches, 1)
    yield* Fiber.interrupt(second)
    assert.strictEqual(yield* cluster.openWatches, 0)
  }))

it.effect("watches end in good order when the server closes them", () =>
  Effect.gen(function*() {
    const { cluster, follow, heard } = yield* make()
    yield* follow()
    yield* cluster.closeWatches
    yield* settle
    assert.deepStrictEqual(heard, ["Opened", "End"])
  }))

it.effect("the layer provides a store and the cluster that it stands on", () =>
  Effect.gen(function*() {
    const cluster = yield* MemoryCluster.MemoryCluster
    const store = yield* LeaseStore
    yield* store.create(key, { holderIdentity: "a" })
    assert.strictEqual((yield* cluster.lease(key))?.holderIdentity, "a")
    assert.isTrue(store.server.startsWith(`${cluster.name}/`))
  }).pipe(Effect.provide(MemoryLeaseStore.layerMemory({ name: "test" }))))
