import { assert, describe, it } from "@effect/vitest"
import { Clock, Console, Duration, Effect, Fiber, Layer, Logger, Option } from "effect"
import { LeaderElection, LeaderElectionConfig, SuspendWitness } from "effect-kubernetes-leader-election"
import { MemoryCluster, MemoryLeaseStore } from "effect-kubernetes-leader-election/testing"
import { TestClock } from "effect/testing"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Candidate from "../../src/cli/run/candidate.ts"
import { type CandidateEvent, decodeLine } from "../../src/cli/run/candidateEvent.ts"

const options: Candidate.Behaviour = {
  step: undefined,
  journal: undefined,
  ending: Duration.zero,
  block: Duration.millis(1)
}

const start = Effect.fnUntraced(function*(identity: string, given?: Partial<Candidate.Behaviour>) {
  const lines: Array<string> = []
  const election = yield* LeaderElection.make.pipe(
    Effect.provideService(LeaderElectionConfig.LeaderElectionConfig, {
      ...LeaderElectionConfig.defaults,
      namespace: "default",
      name: "demo",
      identity,
      pod: undefined
    })
  )
  const fiber = yield* Effect.forkChild(
    Candidate.candidate({ ...options, ...given }).pipe(
      Effect.provideService(LeaderElection.LeaderElection, election),
      Effect.provideService(
        Console.Console,
        Object.assign(Object.create(console), { log: (line: string) => lines.push(line) })
      )
    ),
    { startImmediately: true }
  )
  const events = () =>
    lines.map((line): CandidateEvent => Option.getOrThrow(decodeLine(line))).map(({ cause, event, leader, reason }) =>
      [event, leader, cause, reason].filter((part) => part != null).join(" ")
    )
  return { lines, events, fiber }
})

// On stdout are the lines of the candidate alone.
const layer = Layer.merge(MemoryLeaseStore.layerMemory(), Logger.layer([]))

const key = { namespace: "default", name: "demo" }

const temporaryDirectory = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "candidate-"))),
  (directory) => Effect.sync(() => rmSync(directory, { recursive: true }))
)

describe("candidate", () => {
  it.effect("tells its way from the first campaign to the end in good order", () =>
    Effect.gen(function*() {
      const a = yield* start("a", { ending: Duration.millis(500) })
      yield* TestClock.adjust("1 millis")
      const b = yield* start("b")
      yield* TestClock.adjust("16 seconds")
      yield* Effect.forkChild(Fiber.interrupt(a.fiber))
      yield* TestClock.adjust("499 millis")
      assert.deepStrictEqual(b.events(), ["started", "idle", "following", "following a"])
      yield* TestClock.adjust("1 millis")
      assert.deepStrictEqual(a.events(), [
        "started",
        "idle",
        "following",
        "following a",
        "pending a created",
        "leading a created",
        "ending a",
        "ended a",
        "idle",
        "exit"
      ])
      assert.deepStrictEqual(b.events().slice(4), ["following b", "leading b released"])
      yield* Fiber.interrupt(b.fiber)
      const tokens = [a, b].map(({ lines }) =>
        lines.map((line) => Option.getOrThrow(decodeLine(line)).fencingToken).findLast((token) => token !== undefined)
      )
      assert.isTrue(BigInt(tokens[0]!) < BigInt(tokens[1]!))
    }).pipe(Effect.provide(layer)))

  it.effect("says why a term was lost, and campaigns again", () =>
    Effect.gen(function*() {
      const cluster = yield* MemoryCluster.MemoryCluster
      const a = yield* start("a")
      yield* TestClock.adjust("16 seconds")
      yield* cluster.deleteLease(key)
      yield* TestClock.adjust("15 seconds")
      assert.deepStrictEqual(a.events().slice(5), [
        "leading a created",
        "lost LeaseDeleted",
        "ended",
        "idle",
        "following",
        "following a",
        "pending a created",
        "leading a created"
      ])
      yield* Fiber.interrupt(a.fiber)
    }).pipe(Effect.provide(layer)))

  it.effect("journals each step of a term, and none after it", () =>
    Effect.gen(function*() {
      const cluster = yield* MemoryCluster.MemoryCluster
      const journal = join(yield* temporaryDirectory, "journal")
      const a = yield* start("a", { step: Duration.seconds(1), journal })
      yield* TestClock.adjust("18 seconds")
      yield* cluster.deleteLease(key)
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.interrupt(a.fiber)
      const lines = readFileSync(journal, "utf8").trimEnd().split("\n").map((line) =>
        Option.getOrThrow(decodeLine(line))
      )
      assert.deepStrictEqual(lines.map(({ event }) => event), ["leading", "step", "step", "step", "lost", "ended"])
      assert.strictEqual(new Set(lines.map(({ fencingToken }) => fencingToken)).size, 1)
      assert.strictEqual(lines[1]!.mono - lines[0]!.mono, 1000)
    }).pipe(Effect.provide(layer)))

  it.effect("takes no step after a stall that outlived its term", () =>
    Effect.gen(function*() {
      let suspended = 0n
      const clock = yield* Clock.Clock
      // A machine that was suspended: both clocks that went on have gone on by as much.
      const currentTimeNanosUnsafe = () => clock.currentTimeNanosUnsafe() + suspended
      const a = yield* start("a", { step: Duration.millis(10) }).pipe(
        Effect.provideService(SuspendWitness.SuspendWitness, () => clock.monotonicTimeNanosUnsafe() + suspended),
        Effect.provideService(
          Clock.Clock,
          Object.assign(Object.create(clock), {
            currentTimeNanosUnsafe,
            currentTimeNanos: Effect.sync(currentTimeNanosUnsafe)
          })
        )
      )
      yield* TestClock.adjust("15 seconds")
      yield* TestClock.adjust("50 millis")
      const before = a.lines.length
      suspended = 11_000_000_000n
      yield* TestClock.adjust("10 millis")
      assert.deepStrictEqual(a.events().slice(before, before + 2), ["lost a RenewDeadlineExceeded", "ended a"])
      yield* Fiber.interrupt(a.fiber)
    }).pipe(Effect.provide(layer)))
})
