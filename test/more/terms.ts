/**
 * Ten thousand terms of one process: `node test/more/terms.ts [--terms N]`. Its memory must not grow with them.
 *
 * They end as terms end: by themselves, by a failure, by another one's name in the Lease, by an older record.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as References from "effect/References"
import { parseArgs } from "node:util"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import * as LeaderElection from "../../src/LeaderElection.ts"
import { Leadership } from "../../src/Leadership.ts"
import { ageMarkAnnotation, instanceAnnotation } from "../../src/LeaseRecord.ts"
import { MemoryCluster, MemoryLeaseStore } from "../../src/testing/index.ts"

const { values } = parseArgs({ options: { terms: { type: "string", default: "10000" } } })
const terms = Number(values.terms)

setFlagsFromString("--expose-gc")
const collectGarbage: () => void = runInNewContext("gc")

/** Bytes that are in use when all garbage is gone. */
const inUse = Effect.gen(function*() {
  // What has just ended lets go of its last things in the next turns of the event loop.
  for (let turn = 0; turn < 5; turn++) {
    yield* Effect.sleep(1)
    collectGarbage()
  }
  return process.memoryUsage().heapUsed
})

const key = { namespace: "default", name: "demo" }

const free = { holderIdentity: "", leaseDurationSeconds: 1 }

/** Ends its term in one of the ways in which terms end. */
const program = (term: number) =>
  Effect.gen(function*() {
    const cluster = yield* MemoryCluster.MemoryCluster
    const leadership = yield* Leadership
    switch (term % 5) {
      case 0: {
        return yield* Effect.fail("a failure of the program")
      }
      case 1: {
        yield* cluster.editLease(key, { spec: { holderIdentity: `another-${term}` } })
        return yield* Effect.never
      }
      case 2: {
        yield* cluster.editLease(key, { metadata: { annotations: { [instanceAnnotation]: "1-of-before" } } })
        return yield* Effect.never
      }
      case 3: {
        return yield* leadership.confirm
      }
      default: {
        return yield* leadership.ensure
      }
    }
  })

const main = Effect.gen(function*() {
  const cluster = yield* MemoryCluster.MemoryCluster
  const { uid } = yield* cluster.createLease(key, { spec: free })
  yield* cluster.editLease(key, { metadata: { annotations: { [ageMarkAnnotation]: uid } } })
  const began = performance.now()
  const sizes: Array<number> = []
  for (let term = 1; term <= terms; term++) {
    const led = yield* Deferred.make<void>()
    yield* Effect.exit(LeaderElection.whileLeading(Effect.andThen(Deferred.succeed(led, undefined), program(term))))
    if (!(yield* Deferred.isDone(led))) {
      return yield* Effect.die(new Error(`term ${term} never began`))
    }
    // Free for the next one, however it ended.
    yield* cluster.editLease(key, { spec: free })
    if (term % (terms / 10) === 0) {
      sizes.push(yield* inUse)
    }
  }
  const seconds = (performance.now() - began) / 1000
  console.log(`${terms} terms in ${seconds.toFixed(0)} s; heap in use, in MB, after each tenth of them:`)
  console.log(sizes.map((bytes) => (bytes / 1e6).toFixed(2)).join(" "))
  // The first half fills caches, and the cluster's history.
  const perTerm = (sizes.at(-1)! - sizes[4]!) / (terms * 0.5)
  console.log(`growth: ${perTerm.toFixed(1)} bytes a term`)
  return perTerm
})

const cluster = MemoryCluster.layer({ collector: { _tag: "off" }, bookmarkInterval: null, history: 100 })
const election = LeaderElection.layer({
  name: key.name,
  namespace: key.namespace,
  identity: "one",
  pod: undefined,
  // A Lease that is lost as soon as it is taken is taken three times in a retryPeriod at most.
  retryPeriod: "50 millis",
  requestTimeout: "50 millis"
})

const perTerm = await Effect.runPromise(
  main.pipe(
    Effect.provide(Layer.provideMerge(election, Layer.provideMerge(MemoryLeaseStore.layer, cluster))),
    Effect.provideService(References.MinimumLogLevel, "None")
  )
)
process.exitCode = perTerm > 50 ? 1 : 0
