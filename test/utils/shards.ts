/** Replicas of a group of shards. */
import { assert } from "@effect/vitest"
import { Effect, Exit, Fiber, Metric, type Schedule, Scope } from "effect"
import { LeaderShards, LeaderShardsMetrics, Leadership } from "effect-kubernetes-leader-election"
import { type Fault, LeaseFaults, MemoryCluster, MemoryLeaseStore } from "effect-kubernetes-leader-election/testing"
import { LeaseStore } from "../../src/LeaseStore.ts"

/** Names of shards. */
export const names = (count: number) => Array.from({ length: count }, (_, index) => `t${index}`)

/** The programs of shards that have failed. */
export const failures = Effect.map(
  Metric.value(Metric.withAttributes(LeaderShardsMetrics.failures, { group: "default/tenants" })),
  ({ count }) => count
)

/** With metrics of its own. */
export const withMetrics = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => Effect.provideService(effect, Metric.MetricRegistry, new Map()))

/** Replicas on one cluster, and what each leads. */
export const makeWorld = Effect.fnUntraced(function*() {
  const cluster = yield* MemoryCluster.make()
  const led = new Map<string, Set<string>>()
  /** Each start of a program, as `shard replica`. */
  const starts: Array<string> = []

  const replica = Effect.fnUntraced(function*(
    name: string,
    shards: LeaderShards.Options<never, never>["shards"],
    options: {
      readonly generation?: string
      readonly lead?: (shard: string) => Effect.Effect<unknown, unknown>
      readonly pod?: { readonly name: string; readonly uid: string }
      readonly decide?: (request: LeaseFaults.Request) => Fault.Fault | undefined
      readonly retry?: Schedule.Schedule<unknown>
    } = {}
  ) {
    const faults = yield* LeaseFaults.make(yield* MemoryLeaseStore.make(cluster, { name }))
    yield* faults.decide(options.decide ?? (() => undefined))
    const scope = yield* Scope.make()
    const own = new Set<string>()
    led.set(name, own)
    const service = yield* LeaderShards.make({
      group: "tenants",
      namespace: "default",
      identity: name,
      generation: options.generation ?? "v1",
      pod: options.pod
    }).pipe(Effect.provideService(LeaseStore, faults.store), Scope.provide(scope))
    const run = (shards: LeaderShards.Options<never, never>["shards"]) =>
      service.run({
        shards,
        retry: options.retry,
        lead: (shard) => {
          const program = options.lead?.(shard) ?? Effect.never
          return Effect.gen(function*() {
            const leadership = yield* Leadership
            yield* leadership.ensure
            for (const [other, shards] of led) {
              assert.isFalse(shards.has(shard), `${shard} is led by ${other} and ${name}`)
            }
            own.add(shard)
            starts.push(`${shard} ${name}`)
            yield* Effect.addFinalizer(() => Effect.sync(() => own.delete(shard)))
            return yield* program
          })
        }
      })
    const fiber = yield* Effect.forkChild(run(shards))
    // Whatever needs no time.
    yield* Effect.repeat(Effect.yieldNow, { times: 100 })
    const end = Effect.andThen(Fiber.interrupt(fiber), Scope.close(scope, Exit.void))
    return { ...service, faults, end, fiber, run }
  })
  const counts = () => [...led.values()].map(({ size }) => size)
  return { cluster, counts, led, replica, starts }
})
