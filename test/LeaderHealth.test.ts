import { NodeHttpServer } from "@effect/platform-node"
import { assert, it } from "@effect/vitest"
import { Duration, Effect, Fiber, Layer, Option, References } from "effect"
import { LeaderElection, LeaderHealth } from "effect-kubernetes-leader-election"
import { MemoryCluster } from "effect-kubernetes-leader-election/testing"
import { HttpClient, HttpRouter } from "effect/http"
import { TestClock } from "effect/testing"
import { candidate } from "./utils/observed.ts"

const setup = Effect.gen(function*() {
  const cluster = yield* MemoryCluster.make()
  const made = yield* candidate(cluster, "a", { newLease: "lead" })
  const provide = Effect.provideService(LeaderElection.LeaderElection, made.election)
  return { ...made, provide, healthy: Effect.map(provide(LeaderHealth.check()), ({ healthy }) => healthy) }
})

it.effect("is healthy while idle, following, leading, and after a loss", () =>
  Effect.gen(function*() {
    const { election, faults, healthy, provide, run } = yield* setup
    assert.deepStrictEqual(yield* provide(LeaderHealth.check()), {
      healthy: true,
      message: "no program runs as leader on default/demo"
    })
    const fiber = yield* Effect.forkChild(provide(Effect.exit(run(LeaderElection.whileLeadingForever(Effect.never)))))
    yield* TestClock.adjust("12 seconds")
    assert.deepStrictEqual(yield* provide(LeaderHealth.check()), {
      healthy: true,
      message: "the program that runs as leader on default/demo was last renewed 2.0 s ago"
    })
    // Nobody can reach the API server: a restart would not help.
    yield* faults.stall
    yield* TestClock.adjust("1 minute")
    assert.strictEqual((yield* election.status)._tag, "Following")
    assert.isTrue(yield* healthy)
    yield* faults.restore
    // Takes whose answers never came are looked for before it ends.
    const stopping = yield* Effect.forkChild(Fiber.interrupt(fiber))
    yield* TestClock.adjust("1 minute")
    yield* Fiber.join(stopping)
  }))

it.effect("is unhealthy while a program outlives its term by more than the tolerance", () =>
  Effect.gen(function*() {
    const { election, faults, healthy, provide, run } = yield* setup
    const check = yield* provide(LeaderHealth.makeCheck({ tolerance: "1 second" }))
    const stubborn = Effect.uninterruptible(Effect.sleep("1 minute"))
    const fiber = yield* Effect.forkChild(Effect.exit(run(election.whileLeading(stubborn))))
    yield* TestClock.adjust("1 second")
    yield* faults.stall
    // The last renewal began at 0 s, leaseDuration is 15 s, the tolerance 1 s or 20 s.
    yield* TestClock.adjust("15 seconds")
    assert.isTrue(check().healthy)
    yield* TestClock.adjust("1 millis")
    assert.deepStrictEqual(check(), {
      healthy: false,
      message: "the program that runs as leader on default/demo was last renewed 16.0 s ago, longer than " +
        "leaseDuration and the tolerance (16s): its term is over, it was interrupted, and it has not ended"
    })
    yield* TestClock.adjust("18999 millis")
    assert.isTrue(yield* healthy)
    yield* TestClock.adjust("1 millis")
    assert.isFalse(yield* healthy)
    yield* TestClock.adjust("1 minute")
    assert.isTrue(yield* healthy)
    yield* Fiber.join(fiber)
  }))

it.effect("takes a tolerance as settings are written, and names one that is none", () =>
  Effect.gen(function*() {
    const { provide } = yield* setup
    assert.isTrue((yield* provide(LeaderHealth.check({ tolerance: "30s" }))).healthy)
    for (const tolerance of [-1, Number.NaN, "-100 seconds", "soon", Number.POSITIVE_INFINITY]) {
      for (
        const effect of [
          Effect.asVoid(LeaderHealth.check({ tolerance })),
          Effect.asVoid(LeaderHealth.makeCheck({ tolerance })),
          Effect.asVoid(Layer.build(Layer.provide(LeaderHealth.layerRoutes({ tolerance }), HttpRouter.layer)))
        ]
      ) {
        assert.include(String(yield* Effect.exit(provide(effect))), "LeaderHealth: tolerance is ")
      }
    }
  }))

it.live("answers probes: liveness by health, readiness whoever leads", () =>
  Effect.gen(function*() {
    const { election } = yield* setup
    let since = Option.none<Duration.Duration>()
    const status = (routes: Layer.Layer<never, never, LeaderElection.LeaderElection | HttpRouter.HttpRouter>) =>
      Effect.gen(function*() {
        const get = (path: string) => Effect.map(HttpClient.get(path), (response) => response.status)
        const found: Array<ReadonlyArray<number>> = []
        for (since of [Option.none(), Option.some(Duration.seconds(1)), Option.some(Duration.seconds(36))]) {
          found.push([yield* get("/livez"), yield* get("/readyz"), yield* get("/alive")])
        }
        return found
      }).pipe(
        Effect.provide(
          HttpRouter.serve(routes, { disableListenLog: true }).pipe(
            Layer.provideMerge(NodeHttpServer.layerTest),
            Layer.provide(Layer.succeed(LeaderElection.LeaderElection, {
              ...election,
              sinceRenewal: Effect.sync(() => since)
            }))
          )
        )
      )
    assert.deepStrictEqual(yield* status(LeaderHealth.layerRoutes()), [
      [200, 200, 404],
      [200, 200, 404],
      [503, 200, 404]
    ])
    assert.deepStrictEqual(yield* status(LeaderHealth.layerRoutes({ livenessPath: "/alive", readinessPath: false })), [
      [404, 404, 200],
      [404, 404, 200],
      [404, 404, 503]
    ])
    // Where there is no route, Effect's server says so in its log.
  }).pipe(Effect.provideService(References.MinimumLogLevel, "Warn")))
