/**
 * What docs/scaling.md says of requests, held to the election itself on simulated time.
 */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Fiber } from "effect"
import { LeaderElections, LeaseStore } from "effect-kubernetes-leader-election"
import { Fault, LeaseFaults, MemoryCluster, MemoryLeaseStore } from "effect-kubernetes-leader-election/testing"
import { TestClock } from "effect/testing"

const leases = Array.from({ length: 8 }, (_, index) => `shard-${index}`)

/** A process with elections on a connection of its own, and what it has asked for. */
const makeProcess = Effect.fnUntraced(function*(
  cluster: MemoryCluster.MemoryCluster["Service"],
  identity: string,
  input: LeaderElections.Input = {}
) {
  const faults = yield* LeaseFaults.make(yield* MemoryLeaseStore.make(cluster, { name: identity }))
  const elections = yield* LeaderElections.make({ namespace: "default", identity, newLease: "lead", ...input }).pipe(
    Effect.provideService(LeaseStore.LeaseStore, faults.store)
  )
  /** Ends with the test, in good order: what it waits for then is simulated time too, also where the test has failed. */
  const campaign = (names: ReadonlyArray<string>) =>
    Effect.acquireRelease(
      Effect.forkDetach(
        Effect.forEach(names, (name) => elections.whileLeadingForever(name, Effect.never), {
          concurrency: "unbounded",
          discard: true
        })
      ),
      Effect.fnUntraced(function*(fiber) {
        const ending = yield* Effect.forkChild(Fiber.interrupt(fiber))
        yield* TestClock.adjust("1 minute")
        yield* Fiber.join(ending)
      })
    )
  /** The requests that were begun while this time passed. */
  const during = Effect.fnUntraced(function*(time: Duration.Input) {
    const from = (yield* faults.log).length
    yield* TestClock.adjust(time)
    return (yield* faults.log).slice(from)
  })
  return { faults, campaign, during }
})

const count = (requests: ReadonlyArray<LeaseFaults.Request>, verb: LeaseFaults.Verb) =>
  requests.filter((request) => request.verb === verb).length

const answered = (requests: ReadonlyArray<LeaseFaults.Request>) =>
  requests.filter(({ outcome }) => outcome?._tag === "Answered").length

describe("at rest", () => {
  it.effect.each([15, 30, 60])(
    "leaders write once per renewInterval, followers ask for nothing: %d s",
    (seconds) =>
      Effect.gen(function*() {
        const cluster = yield* MemoryCluster.make()
        const input = { leaseDuration: Duration.seconds(seconds) }
        const one = yield* makeProcess(cluster, "one", input)
        yield* one.campaign(leases)
        yield* TestClock.adjust(Duration.seconds(seconds))
        const two = yield* makeProcess(cluster, "two", input)
        yield* two.campaign(leases)
        yield* TestClock.adjust(Duration.seconds(seconds))
        const before = (yield* two.faults.log).length
        const intervals = 3
        const requests = yield* one.during(Duration.seconds(intervals * seconds / 3))
        assert.strictEqual(requests.length, intervals * leases.length)
        assert.strictEqual(count(requests, "patch"), requests.length)
        assert.strictEqual((yield* two.faults.log).length, before)
      })
  )

  it.effect("a follower without the right to watch reads once per retryPeriod, less up to a fifth", () =>
    Effect.gen(function*() {
      const cluster = yield* MemoryCluster.make()
      const one = yield* makeProcess(cluster, "one")
      yield* one.campaign(["job"])
      yield* TestClock.adjust("15 seconds")
      const two = yield* makeProcess(cluster, "two", { watch: false })
      yield* two.campaign(["job"])
      yield* TestClock.adjust("15 seconds")
      const requests = yield* two.during("1 minute")
      assert.strictEqual(count(requests, "get"), requests.length)
      assert.isAtLeast(requests.length, 60 / 2)
      assert.isAtMost(requests.length, 60 / 1.6 + 1)
    }))
})

it.effect("a handover costs one write for each follower at most, and one of them takes the Lease", () =>
  Effect.gen(function*() {
    const cluster = yield* MemoryCluster.make()
    const leader = yield* makeProcess(cluster, "leader")
    const leading = yield* leader.campaign(["job"])
    yield* TestClock.adjust("1 second")
    const followers = yield* Effect.forEach(leases, (name) => makeProcess(cluster, name))
    yield* Effect.forEach(followers, (follower) =>
      // All have written before any of them has its answer.
      Effect.andThen(follower.faults.set({ patch: Fault.delayRequest("5 millis") }), follower.campaign(["job"])))
    yield* TestClock.adjust("16 seconds")
    yield* Fiber.interrupt(leading)
    yield* TestClock.adjust("1 second")
    const writes = (yield* Effect.forEach(followers, ({ faults }) => faults.log))
      .map((log) => log.filter(({ verb }) => verb === "patch"))
    // The one that has taken the Lease may have renewed it by now.
    const [taken, ...others] = writes.toSorted((one, other) => answered(other) - answered(one))
    assert.strictEqual(taken?.[0]?.outcome?._tag, "Answered")
    assert.strictEqual(others.filter((requests) => answered(requests) > 0).length, 0)
    assert.isAtLeast(others.filter((requests) => requests.length > 0).length, 1)
    assert.isAtMost(Math.max(...others.map((requests) => requests.length)), 1)
  }))

it.effect("after an API server that was away, two requests for each Lease at most, and no term is lost", () =>
  Effect.gen(function*() {
    const cluster = yield* MemoryCluster.make()
    const one = yield* makeProcess(cluster, "one")
    yield* one.campaign(leases)
    yield* TestClock.adjust("30 seconds")
    const held = Effect.map(
      cluster.leases(),
      (all) => all.map(({ leaseTransitions, name }) => [name, leaseTransitions])
    )
    const before = yield* held
    yield* one.faults.set({ get: Fault.refused, patch: Fault.refused, watch: Fault.refused })
    yield* one.faults.endWatches
    yield* TestClock.adjust("4 seconds")
    yield* one.faults.set({})
    const requests = yield* one.during("2 seconds")
    assert.isAtMost(requests.length - count(requests, "watch"), 2 * leases.length)
    yield* TestClock.adjust("30 seconds")
    assert.deepStrictEqual(yield* held, before)
  }))
