import { assert, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { MemoryCluster, MemoryLeaseStore } from "../../src/testing/index.ts"
import * as LeaseStoreSuite from "../utils/LeaseStoreSuite.ts"

const environment = Layer.effect(
  LeaseStoreSuite.Environment,
  Effect.gen(function*() {
    const namespace = "suite"
    const cluster = yield* MemoryCluster.make({
      namespaces: [namespace],
      bookmarkInterval: "50 millis",
      history: 100_000
    })
    const at = (name: string) => ({ namespace, name })
    // Older than the cluster's first write.
    yield* cluster.compact
    return LeaseStoreSuite.Environment.of({
      namespace,
      missingNamespace: "missing",
      connect: MemoryLeaseStore.make(cluster),
      admin: {
        editLease: (name, patch) => cluster.editLease(at(name), patch).pipe(Effect.orDie, Effect.asVoid),
        deleteLease: (name) => cluster.deleteLease(at(name)).pipe(Effect.orDie, Effect.asVoid),
        createPod: (name) => Effect.orDie(cluster.createPod(at(name))),
        deletePod: (name, gracePeriodSeconds) => Effect.asVoid(cluster.deletePod(at(name), { gracePeriodSeconds }))
      },
      tooOld: Effect.succeed(1n),
      garbageCollector: true
    })
  })
)

LeaseStoreSuite.suite("in memory", environment)

it.effect("no two connections have one name, in one cluster or in two", () =>
  Effect.gen(function*() {
    const servers: Array<string> = []
    for (const cluster of [yield* MemoryCluster.make(), yield* MemoryCluster.make()]) {
      for (const name of ["a", "a", undefined]) {
        servers.push((yield* MemoryLeaseStore.make(cluster, { name })).server)
      }
    }
    assert.strictEqual(new Set(servers).size, servers.length)
  }))
