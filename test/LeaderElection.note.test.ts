import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Option } from "effect"
import { LeaderElection } from "effect-kubernetes-leader-election"
import { MemoryCluster, MemoryLeaseStore } from "effect-kubernetes-leader-election/testing"
import { TestClock } from "effect/testing"

const key = { namespace: "default", name: "x" }

// Each on a connection of its own.
const candidate = (identity: string, note?: string) =>
  Effect.map(
    Layer.build(Layer.fresh(
      LeaderElection.layer({ ...key, identity, note, newLease: "lead" }).pipe(Layer.provide(MemoryLeaseStore.layer))
    )),
    (context) => ({
      lead: Effect.provideContext(LeaderElection.whileLeading(Effect.never), context),
      note: Effect.provideContext(LeaderElection.leaderNote, context)
    })
  )

it.effect("the leader's note is seen by every candidate, and goes with its term", () =>
  Effect.gen(function*() {
    const cluster = yield* MemoryCluster.MemoryCluster
    const a = yield* candidate("a", "10.0.0.7 v2")
    const b = yield* candidate("b")
    assert.deepStrictEqual(yield* a.note, Option.none())
    const leading = yield* Effect.forkChild(a.lead)
    yield* TestClock.adjust("1 second")
    yield* Effect.forkChild(b.lead)
    yield* TestClock.adjust("1 second")
    assert.deepStrictEqual([yield* a.note, yield* b.note], [Option.some("10.0.0.7 v2"), Option.some("10.0.0.7 v2")])

    // Somebody else's text is replaced with the next renewal.
    yield* cluster.editLease(key, { metadata: { annotations: { "effect-kubernetes-leader-election/note": "forged" } } })
    yield* TestClock.adjust("10 seconds")
    assert.deepStrictEqual(yield* b.note, Option.some("10.0.0.7 v2"))

    yield* Fiber.interrupt(leading)
    yield* TestClock.adjust("1 second")
    assert.strictEqual((yield* cluster.lease(key))?.holderIdentity, "b")
    assert.deepStrictEqual([yield* a.note, yield* b.note], [Option.none(), Option.none()])
  }).pipe(Effect.provide(MemoryCluster.layer({ collector: { _tag: "off" } }))))

it.effect("a note alone keeps no dead leader's lease", () =>
  Effect.gen(function*() {
    const cluster = yield* MemoryCluster.MemoryCluster
    const b = yield* candidate("b")
    const store = yield* MemoryLeaseStore.make(cluster)
    yield* store.create(key, { holderIdentity: "dead", leaseDurationSeconds: 15, renewTime: 1n })
    yield* Effect.forkChild(b.lead)
    for (let second = 0; second < 16; second++) {
      yield* cluster.editLease(key, {
        metadata: { annotations: { "effect-kubernetes-leader-election/note": `${second}` } }
      })
      yield* TestClock.adjust("1 second")
    }
    assert.strictEqual((yield* cluster.lease(key))?.holderIdentity, "b")
  }).pipe(Effect.provide(MemoryCluster.layer({ collector: { _tag: "off" } }))))
