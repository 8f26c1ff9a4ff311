import { assert, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Logger, Metric, Option } from "effect"
import { KubernetesEvents, LeaderElection, LeaderElections, Leadership } from "effect-kubernetes-leader-election"
import { Fault, LeaseFaults, MemoryCluster, MemoryLeaseStore } from "effect-kubernetes-leader-election/testing"
import { TestClock } from "effect/testing"
import { makeClient } from "./utils/fakeClient.ts"

const input = { namespace: "default", identity: "one" }

const names = Array.from({ length: 20 }, (_, index) => `shard-${index}`)

it.effect("runs a program for each Lease, and releases them all", () =>
  Effect.gen(function*() {
    const elections = yield* LeaderElections.LeaderElections
    const cluster = yield* MemoryCluster.MemoryCluster
    const led: Array<string> = []
    const program = Effect.gen(function*() {
      led.push((yield* Leadership).lease.name)
      return yield* Effect.never
    })
    const fiber = yield* Effect.forkChild(
      Effect.forEach(names, (name) => elections.whileLeadingForever(name, program), { concurrency: "unbounded" })
    )
    yield* TestClock.adjust("15 seconds")
    assert.deepStrictEqual(led.toSorted(), names.toSorted())
    const holders = Effect.map(cluster.leases(), (leases) => new Set(leases.map((lease) => lease.holderIdentity)))
    assert.deepStrictEqual(yield* holders, new Set(["one"]))
    yield* Fiber.interrupt(fiber)
    assert.deepStrictEqual(yield* holders, new Set([""]))
  }).pipe(
    Effect.provide(LeaderElections.layer(input)),
    Effect.provide(MemoryLeaseStore.layerMemory())
  ))

it.effect("spreads the renewals of elections that begin together", () =>
  Effect.gen(function*() {
    const elections = yield* LeaderElections.LeaderElections
    const faults = yield* LeaseFaults.LeaseFaults
    const fiber = yield* Effect.forkChild(
      Effect.forEach(names, (name) => elections.whileLeading(name, Effect.never), { concurrency: "unbounded" })
    )
    yield* TestClock.adjust("40 seconds")
    const from = (yield* faults.log).length
    yield* TestClock.adjust("5 seconds")
    const renewals = (yield* faults.log).slice(from)
    assert.strictEqual(renewals.length, names.length)
    assert.isTrue(renewals.every((request) => request.verb === "patch"))
    // Without the spread all of them are in one and the same millisecond.
    assert.isAbove(new Set(renewals.map((request) => Math.floor(request.began / 500))).size, 4)
    yield* Fiber.interrupt(fiber)
  }).pipe(
    Effect.provide(LeaderElections.layer(input)),
    Effect.provide(LeaseFaults.layer.pipe(Layer.provideMerge(MemoryLeaseStore.layerMemory())))
  ))

it.effect("what is attached to one by its name sees the terms of that one", () =>
  Effect.gen(function*() {
    const elections = yield* LeaderElections.LeaderElections
    const client = makeClient()
    yield* KubernetesEvents.layer.pipe(
      Layer.provide(Layer.effect(LeaderElection.LeaderElection, elections.get("shard-1"))),
      Layer.provide(client.layer),
      Layer.build
    )
    yield* Effect.forkChild(
      Effect.forEach(names, (name) => elections.whileLeading(name, Effect.never), { concurrency: "unbounded" })
    )
    yield* TestClock.adjust("16 seconds")
    assert.deepStrictEqual(
      client.requests.map(({ body }) => [body.reason, body.regarding.name]),
      [["BecameLeader", "shard-1"]]
    )
  }).pipe(
    Effect.provide(LeaderElections.layer(input)),
    Effect.provide(MemoryLeaseStore.layerMemory())
  ))

it.effect("has one election for each name, for as long as it is used", () =>
  Effect.gen(function*() {
    const elections = yield* LeaderElections.LeaderElections
    const first = yield* Effect.scoped(Effect.gen(function*() {
      const election = yield* elections.get("a")
      assert.strictEqual(election, yield* elections.get("a"))
      assert.notStrictEqual(election, yield* elections.get("b"))
      return election
    }))
    const second = yield* elections.get("a")
    assert.notStrictEqual(first, second)
    assert.deepStrictEqual(yield* second.leader, Option.none())
  }).pipe(
    Effect.provide(LeaderElections.layer(input)),
    Effect.provide(MemoryLeaseStore.layerMemory())
  ))

it.effect("B11 the metric series of one end with it, also where answers come later", () =>
  Effect.gen(function*() {
    const elections = yield* LeaderElections.LeaderElections
    const faults = yield* LeaseFaults.LeaseFaults
    const series = Effect.map(Metric.snapshot, (metrics) =>
      metrics.filter(({ attributes }) => attributes?.["lease"] !== undefined))
    for (let tenant = 0; tenant < 20; tenant++) {
      const fiber = yield* Effect.forkChild(elections.whileLeading(`tenant-${tenant}`, Effect.never))
      yield* TestClock.adjust("16 seconds")
      yield* faults.next("patch", Fault.serverError())
      yield* faults.next("watch", Fault.serverError())
      yield* faults.cutWatches
      yield* TestClock.adjust("11 seconds")
      assert.isAtLeast((yield* series).length, 15)
      if (tenant % 2 === 0) {
        yield* faults.set({ patch: Fault.delayAnswer("3 seconds"), get: Fault.delayAnswer("3 seconds") })
      }
      yield* Effect.forkChild(Fiber.interrupt(fiber))
      yield* TestClock.adjust("1 minute")
      yield* faults.clear
      assert.deepStrictEqual(yield* series, [])
    }
  }).pipe(
    Effect.provide(LeaderElections.layer(input)),
    Effect.provide(LeaseFaults.layer.pipe(Layer.provideMerge(MemoryLeaseStore.layerMemory()))),
    Effect.provideService(Metric.MetricRegistry, new Map()),
    Effect.provide(Logger.layer([]))
  ))

it.effect("says which name is none", () =>
  Effect.gen(function*() {
    const elections = yield* LeaderElections.LeaderElections
    const error = yield* Effect.flip(elections.whileLeading("No Name", Effect.void))
    assert.strictEqual(error.reason._tag, "InvalidSettings")
    assert.include(error.message, "No Name")
  }).pipe(
    Effect.provide(LeaderElections.layer(input)),
    Effect.provide(MemoryLeaseStore.layerMemory())
  ))

it.effect("says that it is used after its layer was closed", () =>
  Effect.gen(function*() {
    const elections = yield* Effect.scoped(
      Layer.build(Layer.provide(LeaderElections.layer(input), MemoryLeaseStore.layerMemory())).pipe(
        Effect.map((context) => Context.get(context, LeaderElections.LeaderElections))
      )
    )
    const exit = yield* Effect.exit(elections.whileLeading("red", Effect.void))
    assert.include(String(exit), "LeaderElections was asked for \"red\" after its layer was closed")
  }))
