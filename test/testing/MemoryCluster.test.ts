import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Stream } from "effect"
import { TestClock } from "effect/testing"
import { MemoryCluster, MemoryLeaseStore } from "../../src/testing/index.ts"

const key = { namespace: "default", name: "x" }

it.effect("renews, is watched and is collected with its owner", () =>
  Effect.gen(function*() {
    const cluster = yield* MemoryCluster.make()
    const store = yield* MemoryLeaseStore.make(cluster)
    const pod = yield* cluster.createPod({ namespace: "default", name: "p" })
    const seen: Array<string> = []
    const gone = yield* Deferred.make<void>()
    yield* store.changes(key, undefined).pipe(
      Stream.runForEach((change) =>
        Effect.gen(function*() {
          seen.push("lease" in change ? `${change._tag} ${change.lease.resourceVersion}` : change._tag)
          if (change._tag === "Deleted") yield* Deferred.succeed(gone, undefined)
        })
      ),
      Effect.forkChild
    )
    yield* Effect.yieldNow
    const made = yield* store.create(key, {
      holderIdentity: "a",
      leaseDurationSeconds: 15,
      ownerReferences: [MemoryCluster.ownerReference(pod)]
    })
    const again = yield* store.patch(key, made.lease.resourceVersion, { renewTime: 5n })
    assert.strictEqual(again.lease.renewTime, 5n)
    const stale = yield* Effect.flip(store.patch(key, made.lease.resourceVersion, { renewTime: 6n }))
    assert.strictEqual(stale.reason._tag, "LeaseConflict")
    yield* cluster.deletePod({ namespace: "default", name: "p" })
    assert.isDefined(yield* cluster.lease(key))
    yield* TestClock.adjust("5 millis")
    assert.isDefined(yield* cluster.lease(key))
    yield* TestClock.adjust("1 millis")
    assert.isUndefined(yield* cluster.lease(key))
    yield* Deferred.await(gone)
    assert.deepStrictEqual(seen, ["Opened", "Applied 98", "Applied 99", "Deleted 101"])
  }))
