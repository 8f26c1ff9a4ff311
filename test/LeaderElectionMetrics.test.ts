import { assert, it } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Logger, Metric, Scope } from "effect"
import { LeaderElection, LeaderElectionConfig, Leadership, LeaseStore } from "effect-kubernetes-leader-election"
import { Fault, MemoryCluster } from "effect-kubernetes-leader-election/testing"
import { TestClock } from "effect/testing"
import { attributes, candidate, lease } from "./utils/observed.ts"

const warnings = (lines: ReadonlyArray<{ readonly level: string }>) =>
  lines.filter(({ level }) => level === "Warn" || level === "Error")

it.effect(
  "a day of healthy leading gives the documented counts, a handful of lines and no warning",
  () =>
    Effect.gen(function*() {
      const cluster = yield* MemoryCluster.make()
      // Slower than the default settings, with which everything comes twenty times as often, and so does the test's work.
      const settings = {
        leaseDuration: Duration.seconds(300),
        renewInterval: Duration.seconds(100),
        renewDeadline: Duration.seconds(200),
        retryPeriod: Duration.seconds(10),
        requestTimeout: Duration.seconds(10)
      }
      const a = yield* candidate(cluster, "a", settings)
      const b = yield* candidate(cluster, "b", settings)
      const leading = yield* Effect.forkChild(a.run(a.election.whileLeading(Effect.never)))
      yield* TestClock.adjust("1 second")
      const following = yield* Effect.forkChild(b.run(b.election.whileLeading(Effect.never)))
      // A new Lease is held for leaseDuration before the term begins.
      yield* TestClock.adjust("299 seconds")
      assert.strictEqual(a.observed.value("leader_running", attributes()), 1)
      yield* TestClock.adjust("1 day")

      const perDay = (24 * 60 * 60) / 100
      assert.deepStrictEqual(a.observed.nonZero(), {
        "leader_election_leader{identity=a,lease=default/demo}": 1,
        "leader_running{lease=default/demo}": 1 + perDay,
        "leader_election_terms_total{lease=default/demo}": 1,
        "leader_election_takeovers_total{cause=created,lease=default/demo}": 1,
        // Two before the term, and the one that began it.
        "leader_election_renewal_duration_seconds{lease=default/demo}": 3 + perDay,
        "leader_election_validity_left_seconds{lease=default/demo}": 100
      })
      assert.deepStrictEqual(b.observed.nonZero(), {})
      // Shown all the same: a counter that appears with its first increment has never grown.
      assert.strictEqual(b.observed.value("leader_election_leader", attributes({ identity: "b" })), 0)
      assert.strictEqual(
        b.observed.value("leader_election_losses_total", attributes({ reason: "RenewDeadlineExceeded" })),
        0
      )
      assert.strictEqual(b.observed.value("leader_election_takeovers_total", attributes({ cause: "expired" })), 0)

      assert.deepStrictEqual(warnings([...a.observed.lines, ...b.observed.lines]), [])
      assert.strictEqual(a.observed.lines.length, 2)
      assert.deepStrictEqual(b.observed.lines.map(({ text }) => text), ["Following a"])
      yield* Fiber.interrupt(leading)
      yield* Fiber.interrupt(following)
    }),
  60_000
)

it.effect("logs each change of state once, with lease, identity and term", () =>
  Effect.gen(function*() {
    const cluster = yield* MemoryCluster.make()
    const a = yield* candidate(cluster, "a", { newLease: "lead" })
    const b = yield* candidate(cluster, "b")
    const leading = yield* Effect.forkChild(a.run(a.election.whileLeading(Effect.never)))
    yield* TestClock.adjust("20 seconds")
    const term = String((yield* cluster.commits)[0]?.lease.resourceVersion)
    const following = yield* Effect.forkChild(b.run(b.election.whileLeading(Effect.never)))
    // So that the Lease is old enough for a term to begin at once.
    yield* TestClock.adjust("1 minute")
    yield* Fiber.interrupt(leading)
    yield* TestClock.adjust("1 second")
    yield* Fiber.interrupt(following)
    assert.deepStrictEqual(a.observed.lines, [
      { level: "Info", text: "Became leader (created)", annotations: { lease: "default/demo", identity: "a", term } },
      {
        level: "Info",
        text: "Stopped leading: its program has ended",
        annotations: { lease: "default/demo", identity: "a", term }
      },
      { level: "Info", text: "Released the Lease", annotations: { lease: "default/demo", identity: "a" } }
    ])
    assert.deepStrictEqual(b.observed.lines.map(({ text }) => text), [
      "Following a",
      "Became leader (released)",
      "Stopped leading: its program has ended",
      "Released the Lease"
    ])
  }))

it.effect("leader, terms and leader_running follow the terms of this process", () =>
  Effect.gen(function*() {
    const cluster = yield* MemoryCluster.make()
    const { election, observed, run } = yield* candidate(cluster, "a", { newLease: "lead" })
    const leader = () => observed.value("leader_election_leader", attributes({ identity: "a" }))
    const counts = () =>
      ["leader_running", "leader_election_terms_total"].map((name) => observed.value(name, attributes()))
    assert.strictEqual(leader(), 0)
    assert.deepStrictEqual(counts(), [0, 0])

    const seen: Array<number | undefined> = []
    const program = Effect.andThen(
      Effect.addFinalizer(() => Effect.sync(() => seen.push(leader()))),
      Effect.sleep("12 seconds")
    )
    const first = yield* Effect.forkChild(run(election.whileLeading(program)))
    yield* TestClock.adjust("11 seconds")
    assert.strictEqual(leader(), 1)
    // At 0, 5 and 10 seconds.
    assert.deepStrictEqual(counts(), [3, 1])
    yield* TestClock.adjust("1 second")
    yield* Fiber.join(first)
    assert.strictEqual(leader(), 0)
    // The finalizers run after the end of the leadership.
    assert.deepStrictEqual(seen, [0])
    yield* TestClock.adjust("1 minute")
    assert.deepStrictEqual(counts(), [3, 1])

    const second = yield* Effect.forkChild(run(election.whileLeading(program)))
    yield* TestClock.adjust("1 second")
    assert.deepStrictEqual(counts(), [4, 2])
    yield* Fiber.interrupt(second)
  }))

it.effect("takeovers are counted by cause", () =>
  Effect.gen(function*() {
    const cluster = yield* MemoryCluster.make()
    const a = yield* candidate(cluster, "a", { newLease: "lead" })
    const b = yield* candidate(cluster, "b", { newLease: "lead" })
    const takeovers = ({ observed }: typeof a) =>
      ["created", "released", "expired", "resumed"].map((cause) =>
        observed.value("leader_election_takeovers_total", attributes({ cause }))
      )
    const first = yield* Effect.forkChild(a.run(a.election.whileLeading(Effect.never)))
    yield* TestClock.adjust("1 second")
    assert.deepStrictEqual(takeovers(a), [1, 0, 0, 0])
    yield* Fiber.interrupt(first)
    const second = yield* Effect.forkChild(b.run(b.election.whileLeading(Effect.never)))
    yield* TestClock.adjust("1 second")
    assert.deepStrictEqual(takeovers(b), [0, 1, 0, 0])
    // Cut off, so that it can neither renew nor release.
    const third = yield* Effect.forkChild(a.run(a.election.whileLeading(Effect.never)))
    yield* b.faults.stall
    yield* TestClock.adjust("16 seconds")
    assert.deepStrictEqual(takeovers(a), [1, 0, 1, 0])
    yield* Fiber.interrupt(third)
    yield* Effect.forkChild(Fiber.interrupt(second))
    yield* TestClock.adjust("1 minute")

    // A new process of the same identity, whose predecessor was killed.
    const killed = yield* Effect.forkChild(a.run(a.election.whileLeading(Effect.never)))
    yield* TestClock.adjust("1 second")
    yield* a.faults.stall
    const restarted = yield* candidate(cluster, "a", { newLease: "lead" })
    const fourth = yield* Effect.forkChild(restarted.run(restarted.election.whileLeading(Effect.never)))
    yield* TestClock.adjust("1 second")
    assert.deepStrictEqual(takeovers(restarted), [0, 0, 0, 1])
    yield* Fiber.interrupt(fourth)
    yield* Effect.forkChild(Fiber.interrupt(killed))
    yield* TestClock.adjust("1 minute")
  }))

it.effect("losses are counted by reason, and the ends of programs are none", () =>
  Effect.gen(function*() {
    const cluster = yield* MemoryCluster.make()
    const { election, faults, observed, run } = yield* candidate(cluster, "a", { newLease: "lead" })
    const losses = () =>
      Object.fromEntries(
        ["RenewDeadlineExceeded", "LeaseDeleted", "LeaseTaken", "DuplicateIdentity", "SteppedDown"].flatMap(
          (reason) => {
            const value = observed.value("leader_election_losses_total", attributes({ reason }))
            return value === 0 ? [] : [[reason, value]]
          }
        )
      )
    const lead = Effect.fnUntraced(function*(until: Effect.Effect<unknown, unknown>) {
      const fiber = yield* Effect.forkChild(Effect.exit(run(election.whileLeading(Effect.never))))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* election.status)._tag, "Leading")
      yield* until
      yield* TestClock.adjust("1 minute")
      yield* Fiber.interrupt(fiber)
    })
    yield* lead(Effect.void)
    assert.deepStrictEqual(losses(), {})
    yield* lead(cluster.deleteLease(lease))
    assert.deepStrictEqual(losses(), { LeaseDeleted: 1 })
    yield* lead(cluster.emptyLease(lease))
    assert.deepStrictEqual(losses(), { LeaseDeleted: 1, LeaseTaken: 1 })
    yield* lead(faults.stall)
    assert.deepStrictEqual(losses(), { LeaseDeleted: 1, LeaseTaken: 1, RenewDeadlineExceeded: 1 })
    assert.strictEqual(observed.value("leader_election_validity_left_seconds", attributes()), 0)
    assert.strictEqual(observed.value("leader_election_leader", attributes({ identity: "a" })), 0)
    yield* faults.restore
    yield* lead(Effect.gen(function*() {
      const { annotations } = (yield* cluster.lease(lease))!
      const instance = Object.entries(annotations).find(([key]) => key.endsWith("/instance"))!
      yield* cluster.editLease(lease, {
        metadata: { annotations: { [instance[0].replace("/instance", "/step-down")]: instance[1] } }
      })
    }))
    assert.deepStrictEqual(losses(), { LeaseDeleted: 1, LeaseTaken: 1, RenewDeadlineExceeded: 1, SteppedDown: 1 })
    yield* lead(Effect.gen(function*() {
      const { annotations } = (yield* cluster.lease(lease))!
      const instance = Object.keys(annotations).find((key) => key.endsWith("/instance"))!
      yield* cluster.editLease(lease, { metadata: { annotations: { [instance]: "9999999999999999-x" } } })
    }))
    assert.deepStrictEqual(losses(), {
      LeaseDeleted: 1,
      LeaseTaken: 1,
      RenewDeadlineExceeded: 1,
      SteppedDown: 1,
      DuplicateIdentity: 1
    })
  }))

it.effect("renewals are timed, and the worst moment of the term is kept", () =>
  Effect.gen(function*() {
    const cluster = yield* MemoryCluster.make()
    const { election, faults, observed, run } = yield* candidate(cluster, "a", { newLease: "lead", watch: false })
    const left = () => observed.value("leader_election_validity_left_seconds", attributes())
    const renewals = () => observed.value("leader_election_renewal_duration_seconds", attributes())
    const fiber = yield* Effect.forkChild(run(election.whileLeading(Effect.never)))
    yield* TestClock.adjust("1 second")
    assert.isUndefined(left())
    assert.isUndefined(renewals())
    yield* faults.next("patch", Fault.delayAnswer("1500 millis"))
    yield* TestClock.adjust("6 seconds")
    // Began at 5 s, answered at 6.5 s, due at 10 s.
    assert.strictEqual(left(), 3.5)
    assert.strictEqual(renewals(), 1)
    // The next one begins at 10 s and hangs, the one at 12 s succeeds: 13 s and a half would have been the end.
    yield* faults.next("patch", Fault.hang)
    yield* TestClock.adjust("5 seconds")
    assert.strictEqual(left(), 3)
    assert.strictEqual(renewals(), 2)
    yield* TestClock.adjust("1 minute")
    assert.strictEqual(left(), 3)
    yield* Fiber.interrupt(fiber)
    const next = yield* Effect.forkChild(run(election.whileLeading(Effect.never)))
    yield* TestClock.adjust("6 seconds")
    // Another term: another worst moment.
    assert.strictEqual(left(), 5)
    yield* Fiber.interrupt(next)
  }))

it.effect("failed attempts are counted by verb and reason", () =>
  Effect.gen(function*() {
    const cluster = yield* MemoryCluster.make()
    const { election, faults, observed, run } = yield* candidate(cluster, "a", { newLease: "lead" })
    const failures = (verb: string, reason: string) =>
      observed.value("leader_election_failed_attempts_total", attributes({ verb, reason }))
    const fiber = yield* Effect.forkChild(run(election.whileLeading(Effect.never)))
    yield* TestClock.adjust("1 second")
    // That the first read finds no Lease is no failure.
    assert.isUndefined(failures("get", "LeaseNotFound"))
    assert.isUndefined(failures("patch", "LeaseUnavailable"))
    yield* faults.next("patch", Fault.serverError())
    yield* faults.next("patch", Fault.hang)
    yield* TestClock.adjust("12 seconds")
    assert.strictEqual(failures("patch", "LeaseUnavailable"), 2)
    yield* cluster.editLease(lease, { metadata: { labels: { edited: "yes" } } })
    yield* faults.next("patch", Fault.conflict)
    yield* TestClock.adjust("12 seconds")
    assert.strictEqual(failures("patch", "LeaseConflict"), 1)
    assert.strictEqual((yield* election.status)._tag, "Leading")
    yield* Fiber.interrupt(fiber)
  }))

it.effect("leaderless time is added when a holder is seen again", () =>
  Effect.gen(function*() {
    const cluster = yield* MemoryCluster.make()
    const a = yield* candidate(cluster, "a", { newLease: "lead" })
    const b = yield* candidate(cluster, "b")
    const leaderless = () => b.observed.value("leader_election_leaderless_seconds_total", attributes())
    const leading = yield* Effect.forkChild(a.run(a.election.whileLeading(Effect.never)))
    yield* TestClock.adjust("1 second")
    const following = yield* Effect.forkChild(b.run(b.election.whileLeading(Effect.never)))
    yield* TestClock.adjust("1 minute")
    assert.strictEqual(leaderless(), 0)
    // Nobody can write: the leader's Lease runs out 15 s after its last renewal, at 60 s, and 20 s pass.
    yield* a.faults.set({ patch: Fault.serverError() })
    yield* b.faults.set({ patch: Fault.serverError() })
    yield* TestClock.adjust("34 seconds")
    assert.strictEqual((yield* b.election.status)._tag, "Following")
    assert.strictEqual(leaderless(), 0)
    yield* b.faults.clear
    yield* TestClock.adjust("3 seconds")
    assert.strictEqual((yield* b.election.status)._tag, "Leading")
    assert.isAbove(leaderless()!, 18)
    assert.isBelow(leaderless()!, 24)
    yield* Fiber.interrupt(following)
    yield* Fiber.interrupt(leading)
  }))

it.effect("an overrun is counted when it happens", () =>
  Effect.gen(function*() {
    const cluster = yield* MemoryCluster.make()
    const { election, faults, observed, run } = yield* candidate(cluster, "a", { newLease: "lead" })
    const overruns = () => observed.value("leader_election_overruns_total", attributes())
    const stubborn = Effect.uninterruptible(Effect.sleep("5 minutes"))
    const fiber = yield* Effect.forkChild(run(election.whileLeading(stubborn)))
    yield* TestClock.adjust("1 second")
    yield* faults.stall
    // The last renewal that succeeded began at 0 s; 95 % of leaseDuration after it is 14.25 s.
    yield* TestClock.adjust("13200 millis")
    assert.strictEqual(overruns(), 0)
    yield* TestClock.adjust("100 millis")
    assert.strictEqual(overruns(), 1)
    yield* TestClock.adjust("10 minutes")
    assert.strictEqual(overruns(), 1)
    yield* Fiber.await(fiber)
  }))

it.effect("B10 watches that end or break are counted when they had been open", () =>
  Effect.gen(function*() {
    const cluster = yield* MemoryCluster.make()
    const { election, faults, observed, run } = yield* candidate(cluster, "a", { newLease: "lead" })
    const reconnects = () => observed.value("leader_election_watch_reconnects_total", attributes())
    const fiber = yield* Effect.forkChild(run(election.whileLeading(Effect.never)))
    yield* TestClock.adjust("1 minute")
    assert.strictEqual(reconnects(), 0)
    yield* faults.endWatches
    yield* TestClock.adjust("10 seconds")
    assert.strictEqual(reconnects(), 1)
    yield* faults.next("watch", Fault.serverError(), 3)
    yield* faults.cutWatches
    yield* TestClock.adjust("1 minute")
    assert.strictEqual(reconnects(), 2)
    assert.strictEqual(
      observed.value("leader_election_failed_attempts_total", {
        ...attributes(),
        verb: "watch",
        reason: "LeaseUnavailable"
      }),
      // What was open and was cut is no failed attempt.
      3
    )
    yield* Fiber.interrupt(fiber)
  }))

it.effect("series are shown for as long as anything of their election lives, and no longer", () =>
  Effect.gen(function*() {
    const scope = yield* Scope.make()
    const election = yield* Scope.provide(
      LeaderElection.make.pipe(
        Effect.provideService(LeaderElectionConfig.LeaderElectionConfig, {
          ...LeaderElectionConfig.defaults,
          ...lease,
          identity: "a",
          pod: undefined,
          newLease: "lead"
        }),
        Effect.provideService(LeaseStore.LeaseStore, yield* LeaseStore.makeMemory)
      ),
      scope
    )
    const series = Effect.map(
      Metric.snapshot,
      (metrics) => new Set(metrics.map(({ id }) => id).filter((id) => id.startsWith("leader")))
    )
    assert.isTrue((yield* series).has("leader_election_terms_total"))
    const fiber = yield* Effect.forkChild(election.whileLeading(Effect.sleep("1 minute")))
    yield* TestClock.adjust("1 second")
    // Its program still leads.
    yield* Scope.close(scope, Exit.void)
    yield* TestClock.adjust("30 seconds")
    assert.isTrue((yield* series).has("leader_election_losses_total"))
    yield* TestClock.adjust("2 minutes")
    yield* Fiber.join(fiber)
    assert.deepStrictEqual([...(yield* series)], [])
  }).pipe(Effect.provideService(Metric.MetricRegistry, new Map()), Effect.provide(Logger.layer([]))))

it.effect("the program sees its own metrics", () =>
  Effect.gen(function*() {
    const cluster = yield* MemoryCluster.make()
    const { election, observed, run } = yield* candidate(cluster, "a", { newLease: "lead" })
    const program = Effect.gen(function*() {
      const leadership = yield* Leadership
      yield* leadership.confirm
      // The watch may tell of the renewal before its answer comes.
      yield* Effect.sleep(1)
      return observed.value("leader_election_renewal_duration_seconds", attributes())
    })
    const fiber = yield* Effect.forkChild(run(election.whileLeading(program)))
    yield* TestClock.adjust("1 second")
    assert.strictEqual(yield* Fiber.join(fiber), 1)
  }))
