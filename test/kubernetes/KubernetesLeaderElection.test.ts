/**
 * Elections on an API server with something in front of it that is not as it should be: over real sockets, in real time.
 */
import { assert, it } from "@effect/vitest"
import { Context, Deferred, Effect, Fiber, Layer, Logger, Redacted } from "effect"
import {
  KubernetesClient,
  KubernetesLeaseStore,
  LeaderElection,
  type LeaderElectionConfig,
  Leadership
} from "effect-kubernetes-leader-election"
import { LeaseApiServer } from "effect-kubernetes-leader-election/testing"
import { httpFront } from "../utils/httpFront.ts"

const key = { namespace: "default", name: "x" }

/** An election of this identity, by its own token, on what answers at this URL. */
const electionOf = Effect.fnUntraced(function*(
  identity: string,
  server: LeaseApiServer.LeaseApiServer["Service"],
  input: LeaderElectionConfig.Input,
  url = server.url
) {
  yield* server.addToken(identity, identity)
  const context = yield* Layer.build(
    Layer.fresh(LeaderElection.layer({ ...key, identity, ...input })).pipe(
      Layer.provide(Layer.fresh(KubernetesLeaseStore.layer)),
      Layer.provide(Layer.fresh(KubernetesClient.layerServer({ server: url, token: Redacted.make(identity) })))
    )
  )
  return Context.get(context, LeaderElection.LeaderElection)
})

/** Leads in the background; the term when it has begun. */
const lead = Effect.fnUntraced(function*(election: LeaderElection.LeaderElection["Service"]) {
  const begun = yield* Deferred.make<Leadership["Service"]>()
  const fiber = yield* Effect.forkScoped(
    election.whileLeading(Effect.andThen(Leadership.use((term) => Deferred.succeed(begun, term)), Effect.never))
  )
  return { fiber, begun: Effect.raceFirst(Deferred.await(begun), Fiber.join(fiber)) }
})

const quiet = Effect.provide(Logger.layer([]))

for (const [what, step] of [["ahead", 25], ["an hour ahead, and back, in turn", 3600]] as const) {
  it.live(`A3 a Lease deleted under a leader that is cut off, while \`Date\` is ${what}`, () =>
    Effect.gen(function*() {
      const server = yield* LeaseApiServer.make()
      const leaseDuration = "2 seconds"
      const a = yield* lead(yield* electionOf("a", server, { leaseDuration, newLease: "lead" }))
      const first = yield* a.begun
      let answers = 0
      const url = yield* httpFront(server.url, {
        headers: () => ({
          date: new Date(Date.now() + (step === 25 || answers++ % 2 === 0 ? step * 1000 : 0)).toUTCString()
        })
      })
      const b = yield* electionOf("b", server, { leaseDuration }, url)
      yield* server.stall({ token: "a" })
      yield* server.cluster.deleteLease(key)
      const deletedAt = performance.now()
      yield* (yield* lead(b)).begun
      assert.isAtLeast(performance.now() - deletedAt, 1990)
      assert.isFalse(yield* first.isValid)
      yield* server.restore()
    }).pipe(quiet))
}

it.live("D20 a proxy that holds events back is warned of once, and polled through", () => {
  const warnings: Array<string> = []
  return Effect.gen(function*() {
    const server = yield* LeaseApiServer.make()
    const leaseDuration = "6 seconds"
    const url = yield* httpFront(server.url, { buffering: "body" })
    const a = yield* lead(yield* electionOf("a", server, { leaseDuration, newLease: "lead" }))
    yield* a.begun
    const b = yield* lead(yield* electionOf("b", server, { leaseDuration }, url))
    // Half of leaseDuration without an event; by then b has seen the Lease for long enough to lead at once.
    yield* Effect.sleep("8 seconds")
    const told = () => warnings.filter((line) => line.includes("did not deliver a change that a read has found"))
    assert.strictEqual(told().length, 1, warnings.join("\n"))
    assert.include(told()[0], "a proxy may buffer what the API server sends")
    const reads = Effect.map(
      server.requests,
      (all) => all.filter(({ user, verb }) => user === "b" && verb === "get").length
    )
    const before = yield* reads
    yield* Effect.sleep("4 seconds")
    const polls = (yield* reads) - before
    // Each retryPeriod, 0.8 s, less up to a fifth; one in 3 s where the watch is believed again.
    assert.isAtLeast(polls, 4)
    assert.isAtMost(polls, 8)
    yield* Fiber.interrupt(a.fiber)
    const releasedAt = performance.now()
    yield* b.begun
    // Half a lease would be 3 s.
    assert.isBelow(performance.now() - releasedAt, 2500)
    assert.strictEqual(told().length, 1)
  }).pipe(Effect.provide(Logger.layer([
    Logger.make(({ logLevel, message }) => {
      if (logLevel === "Warn") {
        warnings.push(String(message))
      }
    })
  ])))
})
