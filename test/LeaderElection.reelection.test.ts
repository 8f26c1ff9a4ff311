import { assert, it } from "@effect/vitest"
import { Effect, Logger, Metric } from "effect"
import { TestClock } from "effect/testing"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import * as LeaderElection from "../src/LeaderElection.ts"
import * as LeaderElectionConfig from "../src/LeaderElectionConfig.ts"
import { LeaseStore } from "../src/LeaseStore.ts"
import { MemoryCluster, MemoryLeaseStore } from "../src/testing/index.ts"
import { key } from "./utils/Elections.ts"

// In a file of its own: other tests would use the same heap meanwhile.
setFlagsFromString("--expose-gc")
const collect: () => void = runInNewContext("gc")

it.effect(
  "T18 loss and re-election 1000 times: one program at a time, and without growth of fibers or memory",
  () =>
    Effect.gen(function*() {
      const cluster = yield* MemoryCluster.make({ history: 10, bookmarkInterval: null })
      const base = yield* MemoryLeaseStore.make(cluster)
      let cutOff = false
      const store = LeaseStore.of({
        ...base,
        patch: (key, version, write) => Effect.suspend(() => cutOff ? Effect.never : base.patch(key, version, write))
      })
      let terms = 0
      let running = 0
      let most = 0
      const program = Effect.acquireRelease(
        Effect.sync(() => {
          terms += 1
          running += 1
          most = Math.max(most, running)
        }),
        () =>
          Effect.sync(() => {
            running -= 1
          })
      ).pipe(Effect.andThen(Effect.never))
      const election = yield* LeaderElection.make.pipe(
        Effect.provideService(LeaseStore, store),
        Effect.provideService(LeaderElectionConfig.LeaderElectionConfig, {
          ...LeaderElectionConfig.defaults,
          ...key,
          identity: "a",
          pod: undefined,
          newLease: "lead"
        })
      )
      yield* LeaderElection.whileLeadingForever(program).pipe(
        Effect.provideService(LeaderElection.LeaderElection, election),
        Effect.forkDetach({ startImmediately: true }),
        Effect.tap((fiber) => Effect.addFinalizer(() => Effect.sync(() => fiber.interruptUnsafe())))
      )
      const settle = TestClock.adjust("10 seconds")
      yield* settle

      const lose = Effect.fnUntraced(function*(round: number) {
        switch (round % 3) {
          case 0: {
            yield* cluster.deleteLease(key)
            break
          }
          case 1: {
            yield* cluster.editLease(key, { spec: { holderIdentity: "thief" } })
            yield* TestClock.adjust("1 second")
            yield* cluster.editLease(key, { spec: { holderIdentity: "", leaseDurationSeconds: 1 } })
            break
          }
          default: {
            cutOff = true
            yield* TestClock.adjust("20 seconds")
            cutOff = false
          }
        }
        yield* settle
      })
      const fibers = Effect.map(Metric.snapshot, (metrics) =>
        metrics.flatMap(({ id, state }) =>
          id === "child_fibers_active" && "value" in state ? [Number(state.value)] : []
        ))
      const measure = Effect.gen(function*() {
        yield* Effect.promise(() =>
          new Promise((resolve) =>
            setImmediate(resolve)
          )
        )
        collect()
        return { fibers: yield* fibers, heap: process.memoryUsage().heapUsed }
      })

      let before = yield* measure
      for (let round = 0; round < 1000; round++) {
        if (round === 500) {
          before = yield* measure
        }
        yield* lose(round)
        assert.strictEqual(terms, round + 2)
        assert.strictEqual(running, 1)
      }
      const after = yield* measure
      assert.strictEqual(most, 1)
      assert.strictEqual(before.fibers.length, 1)
      assert.deepStrictEqual(after.fibers, before.fibers)
      // Compiled code still grows a little; a term that is kept takes some kilobytes.
      const growth = (after.heap - before.heap) / 500
      assert.isTrue(growth < 1000, `${Math.round(growth)} bytes with each term`)
    }).pipe(
      Metric.enableRuntimeMetrics,
      Effect.provideService(Metric.MetricRegistry, new Map()),
      Effect.provide(Logger.layer([]))
    ),
  60_000
)
