import { assert, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Metric, Scope } from "effect"
import { StatsD } from "effect-kubernetes-leader-election"
import { MemoryCluster } from "effect-kubernetes-leader-election/testing"
import { eventually } from "../cluster/utils/Testing.ts"
import { candidate } from "../utils/observed.ts"
import { statsd } from "./support/daemons.ts"

const lead = Effect.fnUntraced(function*(options: StatsD.Options) {
  const daemon = yield* statsd
  const cluster = yield* MemoryCluster.make()
  const { election, observed, run } = yield* candidate(cluster, "web-1", { newLease: "lead" })
  const scope = yield* Scope.make()
  yield* Layer.buildWithScope(
    StatsD.layer({ host: "127.0.0.1", port: daemon.port, interval: "100 millis", maxPacketSize: 200, ...options }),
    scope
  ).pipe(Effect.provideContext(observed.context))
  const fiber = yield* Effect.forkChild(run(election.whileLeading(Effect.never)))
  return { daemon, observed, run, stop: Effect.andThen(Fiber.interrupt(fiber), Scope.close(scope, Exit.void)) }
})

it.live("npm's daemon gets counters as counts and gauges as gauges", () =>
  Effect.gen(function*() {
    const { daemon, observed, run, stop } = yield* lead({ prefix: "app." })
    yield* Effect.promise(() =>
      eventually("the first batch", async () => daemon.gauge("app.leader_election_leader.web-1") === 1)
    )
    const negative = Metric.gauge("temperature")
    yield* run(Metric.update(negative, -7.5))
    yield* run(Metric.update(Metric.counter("leader_election_terms_total"), 41))
    yield* Effect.promise(() => eventually("the second", async () => daemon.gauge("app.temperature") === -7.5))
    yield* stop
    // The last batch: the leader has stepped back, and what was counted up to then.
    yield* Effect.promise(() =>
      eventually("the last", async () => daemon.gauge("app.leader_election_leader.web-1") === 0)
    )
    assert.strictEqual(daemon.count("app.leader_running"), observed.value("leader_running", { lease: "default/demo" }))
    assert.strictEqual(daemon.count("app.leader_election_terms_total"), 42)
    assert.strictEqual(daemon.count("app.leader_election_takeovers_total.created"), 1)
    assert.strictEqual(daemon.count("statsd.bad_lines_seen"), 0)
  }))

it.live("DogStatsD's tags are accepted", () =>
  Effect.gen(function*() {
    const { daemon, stop } = yield* lead({ dialect: "dogstatsd", tags: { env: "test" } })
    // As npm's daemon passes tags on, in Graphite's form.
    const name = "leader_election_terms_total;env=test;lease=default-demo"
    yield* Effect.promise(() => eventually("a batch", async () => daemon.count(name) === 1))
    yield* stop
    assert.strictEqual(daemon.count("statsd.bad_lines_seen"), 0)
  }))
