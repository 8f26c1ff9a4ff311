import { assert, it, vi } from "@effect/vitest"
import { Cause, ConfigProvider, Effect, Exit, Fiber, Schedule, Stream, SubscriptionRef } from "effect"
import { LeaderShards } from "effect-kubernetes-leader-election"
import { Fault, type LeaseFaults, MemoryCluster, MemoryLeaseStore } from "effect-kubernetes-leader-election/testing"
import { TestClock } from "effect/testing"
import { Group } from "../src/internal/shards/group.ts"
import { layerMemory, LeaseStore } from "../src/LeaseStore.ts"
import { failures, makeWorld, names, withMetrics } from "./utils/shards.ts"

it.effect("members that start together share the shards, and then nothing moves", () =>
  Effect.gen(function*() {
    const { counts, replica, starts } = yield* makeWorld()
    for (const name of ["a", "b", "c"]) {
      yield* replica(name, names(10))
    }
    yield* TestClock.adjust("20 seconds")
    assert.deepStrictEqual(counts().toSorted(), [3, 3, 4])
    assert.strictEqual(starts.length, 10)
    yield* TestClock.adjust("2 minutes")
    assert.strictEqual(starts.length, 10)
  }).pipe(withMetrics))

it.effect("members that start together while the server is slow share the shards nevertheless", () =>
  Effect.gen(function*() {
    const { cluster, counts, replica, starts } = yield* makeWorld()
    for (const name of ["a", "b", "c"]) {
      const { faults } = yield* replica(name, names(10))
      yield* faults.decide(({ key, verb }) =>
        verb === "create" && key.name.includes("member") ? Fault.delayRequest("3 seconds") : undefined
      )
    }
    yield* TestClock.adjust("24 seconds")
    assert.deepStrictEqual(counts().toSorted(), [3, 3, 4])
    assert.strictEqual(starts.length, 10)
    // None was taken by one, and given up to another.
    assert.isTrue((yield* cluster.leases()).every(({ leaseTransitions }) => leaseTransitions === 0))
  }).pipe(withMetrics))

it.effect("a member that joins brings the least number of moves", () =>
  Effect.gen(function*() {
    const { counts, replica, starts } = yield* makeWorld()
    yield* replica("a", names(10))
    yield* replica("b", names(10))
    yield* TestClock.adjust("30 seconds")
    assert.deepStrictEqual(counts(), [5, 5])
    yield* replica("c", names(10))
    yield* TestClock.adjust("4 seconds")
    assert.strictEqual(starts.length, 10)
    yield* TestClock.adjust("10 seconds")
    assert.deepStrictEqual(counts().toSorted(), [3, 3, 4])
    assert.strictEqual(starts.length, 13)
  }).pipe(withMetrics))

it.effect("a member that ends hands over at once; one that crashes, at its Leases' end", () =>
  Effect.gen(function*() {
    const { counts, led, replica, starts } = yield* makeWorld()
    const members = yield* Effect.forEach(["a", "b", "c"], (name) => replica(name, names(12)))
    yield* TestClock.adjust("30 seconds")
    assert.deepStrictEqual(counts(), [4, 4, 4])
    yield* members[0]!.end
    led.delete("a")
    yield* TestClock.adjust("10 millis")
    assert.deepStrictEqual(counts(), [6, 6])
    assert.strictEqual(starts.length, 16)
    yield* TestClock.adjust("1 minute")
    // Its process is gone: nothing that it does reaches anybody.
    yield* members[1]!.faults.stall
    yield* TestClock.adjust("15 seconds")
    led.delete("b")
    yield* TestClock.adjust("2 seconds")
    assert.deepStrictEqual(counts(), [12])
    // What ends because its replica ends, or has lost its leadership, has not failed.
    assert.strictEqual(yield* failures, 0)
  }).pipe(withMetrics))

it.effect("a crowd's number of candidates postpones nothing: who takes a shard follows from the members", () =>
  Effect.gen(function*() {
    const { counts, led, replica } = yield* makeWorld()
    const members = yield* Effect.forEach(["a", "b"], (name) => replica(name, names(12)))
    yield* TestClock.adjust("30 seconds")
    yield* members[0]!.end
    led.delete("a")
    yield* TestClock.adjust("10 millis")
    assert.deepStrictEqual(counts(), [12])
  }).pipe(
    withMetrics,
    Effect.provideService(
      ConfigProvider.ConfigProvider,
      ConfigProvider.fromEnv({ env: { LEADER_ELECTION_CANDIDATES: "1000" } })
    )
  ))

it.effect("what a dead member left behind is no member to one that starts later", () =>
  Effect.gen(function*() {
    const { counts, led, replica, starts } = yield* makeWorld()
    const [first, dead] = yield* Effect.forEach(["a", "b"], (name) => replica(name, names(8)))
    yield* TestClock.adjust("30 seconds")
    assert.deepStrictEqual(counts(), [4, 4])
    yield* dead!.faults.stall
    yield* TestClock.adjust("15 seconds")
    led.delete("b")
    yield* TestClock.adjust("15 seconds")
    assert.deepStrictEqual(counts(), [8])
    const added = yield* replica("c", names(8), { generation: "v2" })
    yield* TestClock.adjust("3 seconds")
    assert.isTrue(yield* added.ready)
    assert.deepStrictEqual((yield* added.status).members.map(({ identity }) => identity), ["a", "c"])
    const before = starts.length
    yield* first!.end
    led.delete("a")
    yield* TestClock.adjust("10 millis")
    assert.deepStrictEqual(counts(), [8])
    assert.strictEqual(starts.length, before + 8)
  }).pipe(withMetrics))

it.effect("a rolling update moves each shard once", () =>
  Effect.gen(function*() {
    const { counts, led, replica, starts } = yield* makeWorld()
    const shards = names(17)
    const old = yield* Effect.forEach(["a", "b", "c", "d"], (name) => replica(name, shards))
    yield* TestClock.adjust("30 seconds")
    assert.strictEqual(starts.length, 17)
    for (const [index, member] of old.entries()) {
      const added = yield* replica(`n${index}`, shards, { generation: "v2" })
      assert.isFalse(yield* added.ready)
      yield* TestClock.adjust("3 seconds")
      assert.isTrue(yield* added.ready)
      yield* member.end
      led.delete(member.identity)
      yield* TestClock.adjust("5 seconds")
    }
    yield* TestClock.adjust("2 minutes")
    assert.deepStrictEqual(counts().toSorted(), [4, 4, 4, 5])
    assert.strictEqual(starts.length, 34)
    assert.strictEqual(new Set(starts).size, 34)
  }).pipe(withMetrics))

it.effect("a replica that is drained gives up everything, and takes nothing while another stays", () =>
  Effect.gen(function*() {
    const { counts, replica, starts } = yield* makeWorld()
    const [first] = yield* Effect.forEach(["a", "b"], (name) => replica(name, names(8)))
    yield* TestClock.adjust("30 seconds")
    assert.deepStrictEqual(counts(), [4, 4])
    const drained = yield* Effect.forkChild(first!.drain)
    yield* TestClock.adjust("3 seconds")
    yield* Fiber.join(drained)
    assert.deepStrictEqual(counts(), [0, 8])
    yield* TestClock.adjust("2 minutes")
    assert.deepStrictEqual(counts(), [0, 8])
    assert.strictEqual(starts.length, 12)
    assert.deepStrictEqual((yield* first!.status).members, [
      { identity: "a", generation: "v1", leaving: true, leads: 0 },
      { identity: "b", generation: "v1", leaving: false, leads: 8 }
    ])
  }).pipe(withMetrics))

it.effect("follows a stream of lists: the program of a shard that is removed is ended, and its Lease released", () =>
  Effect.gen(function*() {
    const { cluster, counts, led, replica } = yield* makeWorld()
    const list = yield* SubscriptionRef.make<ReadonlyArray<string>>(["x", "y"])
    yield* Effect.forEach(["a", "b"], (name) => replica(name, SubscriptionRef.changes(list)))
    yield* TestClock.adjust("30 seconds")
    assert.deepStrictEqual(counts(), [1, 1])
    yield* SubscriptionRef.set(list, ["x", "z"])
    yield* TestClock.adjust("30 seconds")
    assert.deepStrictEqual(Array.from(led.values(), (own) => Array.from(own)).flat().toSorted(), ["x", "z"])
    const { holderIdentity, labels } = (yield* cluster.lease({ namespace: "default", name: "tenants-y" }))!
    assert.strictEqual(holderIdentity, "")
    assert.deepStrictEqual(labels, {
      "effect-kubernetes-leader-election/group": "tenants",
      "effect-kubernetes-leader-election/role": "shard"
    })
  }).pipe(withMetrics))

it.effect("while lists differ everything is led, and nobody gives", () =>
  Effect.gen(function*() {
    const { counts, replica, starts } = yield* makeWorld()
    yield* replica("a", names(4))
    yield* replica("b", names(12))
    yield* TestClock.adjust("30 seconds")
    const sum = () => counts().reduce((sum, count) => sum + count, 0)
    assert.strictEqual(sum(), 12)
    const begun = starts.length
    yield* TestClock.adjust("3 minutes")
    assert.strictEqual(starts.length, begun)
    assert.strictEqual(sum(), 12)
  }).pipe(withMetrics))

it.effect("a program that fails is that shard's failure: it is run again where it is, and nothing else moves", () =>
  Effect.gen(function*() {
    const { counts, replica, starts } = yield* makeWorld()
    const lead = (shard: string) =>
      shard === "t1" ? Effect.andThen(Effect.sleep("1 second"), Effect.fail("broken")) : Effect.never
    yield* Effect.forEach(["a", "b"], (name) => replica(name, names(4), { lead }))
    yield* TestClock.adjust("5 minutes")
    const [failing, others] = [true, false].map((of) => starts.filter((start) => start.startsWith("t1 ") === of))
    assert.strictEqual(others!.length, 3)
    // After 1, 2, 4, ... seconds, and then each minute.
    assert.isAbove(failing!.length, 7)
    assert.isBelow(failing!.length, 20)
    assert.strictEqual(new Set(failing).size, 1)
    assert.isAtLeast(counts().reduce((sum, count) => sum + count, 0), 3)
  }).pipe(withMetrics))

it.effect("a program that sets something up and returns keeps its scope", () =>
  Effect.gen(function*() {
    const { cluster, counts, replica } = yield* makeWorld()
    const { end } = yield* replica("a", names(2), { lead: () => Effect.void })
    yield* TestClock.adjust("1 minute")
    assert.deepStrictEqual(counts(), [2])
    yield* end
    assert.deepStrictEqual(counts(), [0])
    assert.isTrue((yield* cluster.leases()).every(({ holderIdentity }) => holderIdentity === ""))
  }).pipe(withMetrics))

it.effect("without the right to watch it fails with the missing rule", () =>
  Effect.gen(function*() {
    const { replica } = yield* makeWorld()
    const { fiber } = yield* replica("a", names(2), {
      decide: ({ verb }) => verb === "watch" ? Fault.forbidden : undefined
    })
    yield* TestClock.adjust("5 seconds")
    const error = yield* Effect.flip(Fiber.join(fiber))
    assert.strictEqual(error.reason._tag, "LeaseRefused")
  }).pipe(withMetrics))

it.effect("a member without a Pod takes over a member Lease that another has left", () =>
  Effect.gen(function*() {
    const { cluster, led, replica } = yield* makeWorld()
    const members = Effect.map(cluster.leases(), (leases) =>
      leases.filter(({ labels }) => labels["effect-kubernetes-leader-election/role"] === "member"))
    for (const name of ["a", "b", "c"]) {
      const { end } = yield* replica(name, names(2))
      yield* TestClock.adjust("20 seconds")
      const [lease] = yield* members
      assert.strictEqual(lease!.holderIdentity, name)
      assert.isDefined(lease!.annotations["effect-kubernetes-leader-election/joined"])
      yield* end
      led.delete(name)
      yield* TestClock.adjust("1 second")
    }
    assert.strictEqual((yield* members).length, 1)
  }).pipe(withMetrics))

const joinedOf = Effect.fnUntraced(function*(cluster: MemoryCluster.MemoryCluster["Service"], identity: string) {
  const leases = yield* cluster.leases()
  return leases.find(({ holderIdentity, labels: of }) =>
    holderIdentity === identity && of[LeaderShards.labels.role] === "member"
  )?.annotations[LeaderShards.annotations.joined]
})

/** The container of `a` is killed and restarted: its Pod, its identity and its Leases stay. */
const restart = Effect.fnUntraced(function*(
  { cluster, replica }: Effect.Success<ReturnType<typeof makeWorld>>,
  options: {
    readonly decide?: (request: LeaseFaults.Request) => Fault.Fault | undefined
    readonly meanwhile?: Effect.Effect<unknown>
  } = {}
) {
  const { uid } = yield* Effect.orDie(cluster.createPod({ namespace: "default", name: "a" }))
  const pod = { name: "a", uid }
  const killed = yield* replica("a", names(4), { generation: "old", pod })
  yield* TestClock.adjust("5 seconds")
  yield* replica("b", names(4), { generation: "new" })
  yield* TestClock.adjust("30 seconds")
  const before = yield* joinedOf(cluster, "a")
  yield* killed.faults.stall
  yield* Fiber.interrupt(killed.fiber).pipe(Effect.forkChild)
  yield* TestClock.adjust("1 second")
  yield* options.meanwhile ?? Effect.void
  const added = yield* replica("a", names(4), {
    generation: "old",
    pod,
    ...(options.decide !== undefined && { decide: options.decide })
  })
  return { added, before }
})

it.effect("a container that restarts is at once the member that it was: it writes nothing beside what takes its Lease", () =>
  Effect.gen(function*() {
    const world = yield* makeWorld()
    const { added, before } = yield* restart(world, {
      decide: ({ verb, write }) =>
        verb === "patch" && write?.acquireTime !== undefined ? Fault.delayRequest("300 millis") : undefined
    })
    yield* TestClock.adjust("3 seconds")
    assert.isDefined(before)
    assert.strictEqual(yield* joinedOf(world.cluster, "a"), before)
    const writes = (yield* added.faults.log).filter(({ key, verb }) => key.name.includes("member") && verb === "patch")
    assert.strictEqual(writes[0]!.outcome?._tag, "Answered")
    assert.isTrue(writes.slice(1).every(({ began }) => began >= writes[0]!.ended!))
    assert.isTrue(yield* added.ready)
  }).pipe(withMetrics))

it.effect("a replica that keeps its name under a new generation is a new member, as in a StatefulSet", () =>
  Effect.gen(function*() {
    const { cluster, replica } = yield* makeWorld()
    const killed = yield* replica("a", names(4), { generation: "old" })
    yield* TestClock.adjust("5 seconds")
    const other = yield* replica("b", names(4), { generation: "old" })
    yield* TestClock.adjust("30 seconds")
    const before = yield* joinedOf(cluster, "a")
    yield* killed.faults.stall
    yield* Fiber.interrupt(killed.fiber).pipe(Effect.forkChild)
    yield* TestClock.adjust("1 second")
    yield* replica("a", names(4), { generation: "new" })
    yield* TestClock.adjust("5 seconds")
    assert.isAbove(Number(yield* joinedOf(cluster, "a")), Number(before))
    const leads = async () => (await Effect.runPromise(other.status)).members.map(({ leads }) => leads)
    // The newest generation takes, and the old one only gives up what it leads when it ends.
    assert.deepStrictEqual(yield* Effect.promise(leads), [2, 2])
    yield* other.end
    yield* TestClock.adjust("10 seconds")
  }).pipe(withMetrics))

it.effect("also where it sees the other Leases of the group only after it has taken its own", () =>
  Effect.gen(function*() {
    const world = yield* makeWorld()
    const { added, before } = yield* restart(world, {
      decide: ({ key, verb }) => verb === "watch" && key.name === "" ? Fault.delayAnswer("1 second") : undefined
    })
    yield* TestClock.adjust("10 seconds")
    assert.strictEqual(yield* joinedOf(world.cluster, "a"), before)
    const { members } = yield* added.status
    assert.deepStrictEqual(members.map(({ generation, identity }) => `${identity} ${generation}`), ["a old", "b new"])
  }).pipe(withMetrics))

it.effect("what is no version where its own should stand is ignored", () =>
  Effect.gen(function*() {
    const world = yield* makeWorld()
    const { cluster } = world
    const { added } = yield* restart(world, {
      meanwhile: Effect.gen(function*() {
        for (const { holderIdentity, labels: of, name, namespace } of yield* cluster.leases()) {
          if (holderIdentity === "a" && of[LeaderShards.labels.role] === "member") {
            yield* cluster.editLease({ namespace, name }, {
              metadata: { annotations: { [LeaderShards.annotations.joined]: "none of your business" } }
            })
          }
        }
      }).pipe(Effect.orDie)
    })
    yield* TestClock.adjust("3 seconds")
    assert.match((yield* joinedOf(cluster, "a")) ?? "", /^[0-9]+$/)
    assert.isTrue(yield* added.ready)
  }).pipe(withMetrics))

it.effect("a list that changes all the time does not keep a member from coming back after an outage", () =>
  Effect.gen(function*() {
    const { cluster, replica } = yield* makeWorld()
    const lists = Stream.fromSchedule(Schedule.spaced("1 second")).pipe(
      Stream.map((count) => ["x", `y${count % 2}`])
    )
    const { faults } = yield* replica("a", lists)
    yield* TestClock.adjust("30 seconds")
    yield* faults.refuse
    yield* TestClock.adjust("12 seconds")
    yield* faults.restore
    yield* TestClock.adjust("20 seconds")
    const before = (yield* cluster.leases()).find(({ name }) => name.includes("member"))
    yield* TestClock.adjust("10 seconds")
    const after = (yield* cluster.leases()).find(({ name }) => name.includes("member"))
    assert.isAbove(Number(after!.renewTime), Number(before!.renewTime))
  }).pipe(withMetrics))

it.effect("a defect in what works for all shards ends all, with its cause", () =>
  Effect.gen(function*() {
    const { led, replica } = yield* makeWorld()
    const lists = Stream.concat(
      Stream.make(["x"]),
      Stream.fromEffect(Effect.andThen(Effect.sleep("20 seconds"), Effect.die("no list")))
    )
    const { fiber } = yield* replica("a", lists)
    yield* TestClock.adjust("19 seconds")
    assert.strictEqual(led.get("a")!.size, 1)
    yield* TestClock.adjust("5 seconds")
    assert.strictEqual(led.get("a")!.size, 0)
    const exit = yield* Fiber.await(fiber)
    assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) === "no list")
  }).pipe(withMetrics))

it.effect("so does a schedule that throws, whatever the shard", () =>
  Effect.gen(function*() {
    const { replica } = yield* makeWorld()
    const { fiber } = yield* replica("a", ["x", "y"], {
      lead: () => Effect.fail("no queue"),
      retry: Schedule.addDelay(Schedule.forever, () => {
        throw new Error("no delay")
      })
    })
    yield* TestClock.adjust("20 seconds")
    const exit = yield* Fiber.await(fiber)
    assert.isTrue(Exit.isFailure(exit))
    assert.match(String(Exit.isFailure(exit) && Cause.squash(exit.cause)), /no delay/)
  }).pipe(withMetrics))

it.effect("a program that interrupts itself has failed", () =>
  Effect.gen(function*() {
    const { replica, starts } = yield* makeWorld()
    const interrupted = yield* Effect.forkChild(Effect.interrupt)
    yield* replica("a", ["x"], { lead: () => Fiber.join(interrupted) })
    yield* TestClock.adjust("40 seconds")
    // After 16 s: 1, 2, 4 and 8 s later.
    assert.isAtLeast(starts.length, 4)
    assert.isAtMost(starts.length, 5)
    assert.strictEqual(yield* failures, starts.length)
  }).pipe(withMetrics))

it.effect("members see each other also after etcd was restored from a backup", () =>
  Effect.gen(function*() {
    const { cluster, counts, replica } = yield* makeWorld()
    const members = yield* Effect.forEach(["a", "b"], (name) => replica(name, names(4)))
    yield* TestClock.adjust("30 seconds")
    const backup = yield* cluster.snapshot
    yield* TestClock.adjust("2 minutes")
    yield* cluster.restore(backup)
    yield* TestClock.adjust("15 seconds")
    for (const { status } of members) {
      assert.deepStrictEqual((yield* status).members.map(({ identity }) => identity), ["a", "b"])
    }
    assert.deepStrictEqual(counts(), [2, 2])
  }).pipe(withMetrics))

it.effect("what is planned serves all shards that look at it in a moment", () =>
  Effect.gen(function*() {
    const { counts, led, replica } = yield* makeWorld()
    const [first] = yield* Effect.forEach(["a", "b", "c", "d"], (name) => replica(name, names(80)))
    yield* TestClock.adjust("30 seconds")
    const views = vi.spyOn(Group.prototype, "view")
    yield* first!.faults.stall
    yield* TestClock.adjust("15 seconds")
    led.delete("a")
    yield* TestClock.adjust("2 seconds")
    assert.deepStrictEqual(counts().toSorted(), [26, 27, 27])
    const { length } = views.mock.calls
    views.mockRestore()
    // Of all four, in 17 seconds: each of them looks at each of 20 shards several times.
    assert.isBelow(length, 500)
  }).pipe(withMetrics))

it.effect("works on Leases in memory", () =>
  Effect.gen(function*() {
    const counts = new Map<string, number>()
    for (const identity of ["a", "b"]) {
      const service = yield* LeaderShards.make({ group: "tenants", namespace: "default", identity })
      const count = (change: number) => Effect.sync(() => counts.set(identity, (counts.get(identity) ?? 0) + change))
      yield* Effect.forkChild(service.run({
        shards: names(6),
        lead: () => Effect.acquireRelease(count(1), () => count(-1))
      }))
    }
    yield* TestClock.adjust("30 seconds")
    assert.deepStrictEqual([...counts.values()], [3, 3])
  }).pipe(Effect.provide(layerMemory), withMetrics))

it.effect("bad names are one clear error", () =>
  Effect.gen(function*() {
    const store = yield* MemoryLeaseStore.make(yield* MemoryCluster.make())
    const failure = (input: LeaderShards.Input, shards: ReadonlyArray<string>) =>
      LeaderShards.make({ namespace: "default", identity: "a", ...input }).pipe(
        Effect.flatMap((service) => service.run({ shards, lead: () => Effect.never })),
        Effect.provideService(LeaseStore, store),
        Effect.flip,
        Effect.map(({ message }) => message)
      )
    assert.match(yield* failure({ group: "Tenants" }, []), /"Tenants"/)
    assert.match(
      yield* failure({ group: "t", generation: "v 1" }, []),
      /generation "v 1" \(LEADER_ELECTION_GENERATION\)/
    )
    for (const shard of ["Acme Corp", "", "-a", "member-1", "x".repeat(253)]) {
      assert.include(yield* failure({ group: "t" }, ["ok", shard]), `shard "${shard}"`)
    }
  }).pipe(withMetrics))
