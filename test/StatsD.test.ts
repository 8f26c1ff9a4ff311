import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Deferred, Effect, Exit, Fiber, Layer, Logger, Metric, Queue, References, Scope } from "effect"
import { LeaderElection, LeaderElections, LocalLeaderElection, StatsD } from "effect-kubernetes-leader-election"
import { MemoryLeaseStore } from "effect-kubernetes-leader-election/testing"
import { TestClock } from "effect/testing"
import * as Dgram from "node:dgram"
import * as RemovedSeries from "../src/internal/removedSeries.ts"
import * as Statsd from "../src/internal/statsd.ts"

const defaults: Statsd.Options = {
  dialect: "statsd",
  prefix: "",
  tags: {},
  omitAttributes: ["lease"],
  maxPacketSize: 1432
}

/** Renders what the metrics are after each step. */
const lines = (options: Partial<Statsd.Options>, ...steps: ReadonlyArray<Effect.Effect<void>>) =>
  Effect.gen(function*() {
    const { render } = Statsd.make({ ...defaults, ...options })
    const all: Array<Array<string>> = []
    for (const step of steps) {
      yield* step
      const { commit, packets } = render(yield* Metric.snapshot)
      commit()
      all.push(packets.flatMap((packet) => packet.split("\n")))
    }
    return all
  }).pipe(Effect.provideService(Metric.MetricRegistry, new Map()))

const counter = Metric.counter("losses_total").pipe(
  Metric.withAttributes({ reason: "LeaseTaken", lease: "default/demo" })
)
const gauge = Metric.gauge("leader").pipe(Metric.withAttributes({ identity: "web-1.a", lease: "default/demo" }))

describe("variables", () => {
  const build = (options: StatsD.Options, variables: Record<string, string>) =>
    Layer.build(StatsD.layer({ interval: "1 hour", ...options })).pipe(
      Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromUnknown(variables)),
      Effect.exit
    )

  it.effect("are read only where the option is missing; a link to a Service is no port", () =>
    Effect.gen(function*() {
      const link = { STATSD_PORT: "tcp://10.0.0.1:8125" }
      assert.isTrue(Exit.isSuccess(yield* build({}, link)))
      assert.isTrue(Exit.isSuccess(yield* build({ port: 1 }, { STATSD_PORT: "nonsense" })))
      assert.isTrue(Exit.isSuccess(yield* build({ dialect: "statsd" }, { STATSD_DIALECT: "nonsense" })))
      assert.isTrue(Exit.isFailure(yield* build({}, { STATSD_PORT: "nonsense" })))
      assert.isTrue(Exit.isFailure(yield* build({}, { STATSD_DIALECT: "nonsense" })))
    }))
})

describe("lines", () => {
  it.effect("counters are sent as what they grew by, and not at all where they stand still", () =>
    Effect.gen(function*() {
      const steps = [Metric.update(counter, 3), Metric.update(counter, 2), Effect.void]
      assert.deepStrictEqual(yield* lines({}, ...steps), [
        ["losses_total.LeaseTaken:3|c"],
        ["losses_total.LeaseTaken:2|c"],
        []
      ])
      assert.deepStrictEqual(yield* lines({ dialect: "dogstatsd", prefix: "app.", tags: { env: "a,b" } }, ...steps), [
        ["app.losses_total:3|c|#env:a_b,lease:default/demo,reason:LeaseTaken"],
        ["app.losses_total:2|c|#env:a_b,lease:default/demo,reason:LeaseTaken"],
        []
      ])
    }))

  it.effect("two series that share a name in plain StatsD keep their own counts", () =>
    Effect.gen(function*() {
      const of = (lease: string) => Metric.counter("leader_running").pipe(Metric.withAttributes({ lease }))
      assert.deepStrictEqual(
        yield* lines({}, Metric.update(of("a"), 1), Metric.update(of("b"), 5), Metric.update(of("a"), 2)),
        [["leader_running:1|c"], ["leader_running:5|c"], ["leader_running:2|c"]]
      )
      assert.deepStrictEqual(yield* lines({ omitAttributes: [] }, Metric.update(of("ns/a"), 1)), [
        ["leader_running.ns_a:1|c"]
      ])
    }))

  it.effect("gauges are sent as gauges each time; a negative one as a change from 0", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* lines({}, Metric.update(gauge, 1), Effect.void, Metric.update(gauge, -0.25)), [
        ["leader.web-1_a:1|g"],
        ["leader.web-1_a:1|g"],
        ["leader.web-1_a:0|g", "leader.web-1_a:-0.250000|g"]
      ])
      assert.deepStrictEqual(yield* lines({ dialect: "dogstatsd" }, Metric.update(gauge, -2)), [
        ["leader:-2|g|#identity:web-1.a,lease:default/demo"]
      ])
      assert.deepStrictEqual(yield* lines({}, Metric.update(gauge, Infinity)), [[]])
    }))

  it.effect("histograms are counts, sums and buckets", () =>
    Effect.gen(function*() {
      const histogram = Metric.histogram("seconds", { boundaries: [0.05, 1] })
      assert.deepStrictEqual(
        yield* lines({}, Metric.update(histogram, 0.5), Metric.update(histogram, 0.01)),
        [
          ["seconds.count:1|c", "seconds.sum:0.500000|c", "seconds.bucket.1:1|c"],
          ["seconds.count:1|c", "seconds.sum:0.010000|c", "seconds.bucket.0_05:1|c", "seconds.bucket.1:1|c"]
        ]
      )
      assert.deepStrictEqual(yield* lines({ dialect: "dogstatsd" }, Metric.update(histogram, 0.5)), [
        ["seconds.count:1|c", "seconds.sum:0.500000|c", "seconds.bucket:1|c|#le:1"]
      ])
    }))

  it.effect("counts that could not be sent go with the next batch", () =>
    Effect.gen(function*() {
      const { render } = Statsd.make(defaults)
      yield* Metric.update(counter, 1)
      render(yield* Metric.snapshot)
      yield* Metric.update(counter, 1)
      assert.deepStrictEqual(render(yield* Metric.snapshot).packets, ["losses_total.LeaseTaken:2|c"])
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map())))

  it.effect("packets are filled up to their size, in bytes", () =>
    Effect.gen(function*() {
      const { render } = Statsd.make({ ...defaults, dialect: "dogstatsd", maxPacketSize: 40 })
      for (const key of ["ä", "ö", "ü", "a".repeat(60)]) {
        yield* Metric.update(Metric.counter("n").pipe(Metric.withAttributes({ key })), 1)
      }
      const { packets } = render(yield* Metric.snapshot)
      // Two lines of 13 bytes and a line feed are 27, three are 41.
      assert.deepStrictEqual(packets, ["n:1|c|#key:ä\nn:1|c|#key:ö", "n:1|c|#key:ü", `n:1|c|#key:${"a".repeat(60)}`])
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map())))
})

describe("series that end", () => {
  const at = (value: number) => Metric.update(counter, value)

  it.effect("a counter that is gone and comes back has started again", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* lines({}, at(13), Metric.remove(counter), at(3), at(2)), [
        ["losses_total.LeaseTaken:13|c"],
        [],
        ["losses_total.LeaseTaken:3|c"],
        ["losses_total.LeaseTaken:2|c"]
      ])
    }))

  it.effect("a count below the last one has started again, unless its counter may fall", () =>
    Effect.gen(function*() {
      const again = (metric: Metric.Counter<number>) =>
        lines({}, Metric.update(metric, 13), Effect.andThen(Metric.remove(metric), Metric.update(metric, 3)))
      assert.deepStrictEqual(yield* again(Metric.counter("n", { incremental: true })), [["n:13|c"], ["n:3|c"]])
      assert.deepStrictEqual(yield* again(Metric.counter("n")), [["n:13|c"], ["n:-10|c"]])
      const histogram = Metric.histogram("s", { boundaries: [1] })
      assert.deepStrictEqual(
        yield* lines(
          {},
          Effect.andThen(Metric.update(histogram, 4), Metric.update(histogram, 5)),
          Effect.andThen(Metric.remove(histogram), Metric.update(histogram, 0.5))
        ),
        [["s.count:2|c", "s.sum:9|c"], ["s.count:1|c", "s.sum:0.500000|c", "s.bucket.1:1|c"]]
      )
    }))

  it.effect("a gauge that is gone is sent as 0, once", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* lines({}, Metric.update(gauge, 1), Metric.remove(gauge), Effect.void), [
        ["leader.web-1_a:1|g"],
        ["leader.web-1_a:0|g"],
        []
      ])
    }))

  it.effect("what an election that ended came to goes with the next batch that is sent, and the next term counts anew", () =>
    Effect.gen(function*() {
      const elections = yield* LeaderElections.LeaderElections
      const { removed, render } = Statsd.make({ ...defaults, dialect: "dogstatsd", maxPacketSize: 60_000 })
      yield* RemovedSeries.observe(removed)
      const batch = Effect.map(Metric.snapshot, (snapshots) => {
        const { commit, packets } = render(snapshots)
        const seen = packets.flatMap((packet) => packet.split("\n")).flatMap((line) =>
          /^(leader_running|leader_election_leader):(-?\d+)/.exec(line)?.slice(1, 3).join(" ") ?? []
        )
        return { commit, seen: seen.sort() }
      })
      const lead = Effect.forkChild(elections.whileLeading("red", Effect.sleep("65 seconds")))
      const tenant = yield* lead
      yield* TestClock.adjust("60 seconds")
      const first = yield* batch
      assert.deepStrictEqual(first.seen, ["leader_election_leader 1", "leader_running 13"])
      first.commit()
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.join(tenant)
      // Not sent: it goes with the next one.
      yield* batch
      const second = yield* batch
      assert.deepStrictEqual(second.seen, ["leader_election_leader 0"])
      const back = yield* lead
      yield* TestClock.adjust("12 seconds")
      // It came back while that was being sent.
      second.commit()
      const third = yield* batch
      assert.deepStrictEqual(third.seen, ["leader_election_leader 1", "leader_running 3"])
      third.commit()
      assert.deepStrictEqual((yield* batch).seen, ["leader_election_leader 1"])
      yield* TestClock.adjust("53 seconds")
      yield* Fiber.join(back)
      const last = yield* batch
      assert.deepStrictEqual(last.seen, ["leader_election_leader 0", "leader_running 10"])
      last.commit()
      assert.deepStrictEqual((yield* batch).seen, [])
    }).pipe(
      Effect.provide(LeaderElections.layer({ namespace: "default", newLease: "lead" })),
      Effect.provide(MemoryLeaseStore.layerMemory()),
      Effect.provideService(Metric.MetricRegistry, new Map())
    ))
})

/** A UDP server on a free port of the loopback address. */
const server = Effect.gen(function*() {
  const received = yield* Queue.unbounded<string>()
  const socket = Dgram.createSocket("udp4", (message) => Queue.offerUnsafe(received, message.toString()))
  const bound = yield* Deferred.make<number>()
  socket.bind(0, "127.0.0.1", () => Deferred.doneUnsafe(bound, Effect.succeed(socket.address().port)))
  yield* Effect.addFinalizer(() => Effect.sync(() => socket.close()))
  return { port: yield* Deferred.await(bound), received }
})

const environment = (variables: Record<string, string>) =>
  ConfigProvider.layer(ConfigProvider.fromEnv({ env: variables }))

describe("layer", () => {
  it.live("sends each interval, and once more at the end", () =>
    Effect.gen(function*() {
      const { port, received } = yield* server
      yield* Metric.update(counter, 1)
      const scope = yield* Scope.make()
      yield* Layer.buildWithScope(
        Layer.provide(
          StatsD.layer({ interval: "20 millis" }),
          environment({ STATSD_HOST: "localhost", STATSD_PORT: `${port}`, STATSD_PREFIX: "app." })
        ),
        scope
      )
      assert.strictEqual(yield* Queue.take(received), "app.losses_total.LeaseTaken:1|c")
      yield* Metric.update(counter, 4)
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(yield* Queue.take(received), "app.losses_total.LeaseTaken:4|c")
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map())))

  const layers = (port: number) => ({
    election: LocalLeaderElection.layer({ identity: "me" }),
    statsd: StatsD.layer({ host: "127.0.0.1", port, interval: "1 hour" })
  })
  for (const order of ["election first", "StatsD first"]) {
    it.live(`the last batch has what an election came to: ${order}`, () =>
      Effect.gen(function*() {
        const { port, received } = yield* server
        const { election, statsd } = layers(port)
        yield* LeaderElection.whileLeading(Effect.void).pipe(
          Effect.provide(
            order === "election first" ? Layer.mergeAll(election, statsd) : Layer.mergeAll(statsd, election)
          )
        )
        const last = (yield* Queue.take(received)).split("\n")
        assert.include(last, "leader_election_terms_total:1|c")
        assert.include(last, "leader_election_leader.me:0|g")
      }).pipe(Effect.provideService(Metric.MetricRegistry, new Map())))
  }

  it.live("attributes that are no text are sent as text", () =>
    Effect.gen(function*() {
      const { port, received } = yield* server
      const attributes = { region: undefined, shard: 3, odd: Object.create(null) } as unknown as Record<string, string>
      yield* Metric.update(Metric.gauge("mine").pipe(Metric.withAttributes(attributes)), 1)
      yield* Effect.void.pipe(
        Effect.provide(StatsD.layer({ host: "127.0.0.1", port, dialect: "dogstatsd", interval: "1 hour" }))
      )
      assert.strictEqual(yield* Queue.take(received), "mine:1|g|#odd:unprintable,region:undefined,shard:3")
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map())))

  it.live("a metric that cannot be read costs one warning, and not the program", () =>
    Effect.gen(function*() {
      const warnings: Array<unknown> = []
      const logger = Logger.make(({ logLevel, message }) => logLevel === "Warn" && warnings.push(message))
      const broken = new Map([["broken", {
        id: "broken",
        type: "Gauge",
        hooks: {
          get: () => {
            throw new Error("this gauge is broken")
          }
        }
      }]])
      const value = yield* Effect.as(Effect.sleep("100 millis"), "its value").pipe(
        Effect.provide(StatsD.layer({ interval: "10 millis" })),
        Effect.provide(environment({})),
        Effect.provideService(Metric.MetricRegistry, broken as unknown as Metric.MetricRegistry),
        Effect.provide(Logger.layer([logger]))
      )
      assert.strictEqual(value, "its value")
      assert.strictEqual(warnings.length, 1)
    }))

  it.live("where nobody listens, nothing is noticed; what cannot be sent is warned of once", () =>
    Effect.gen(function*() {
      const warnings: Array<unknown> = []
      const logger = Logger.make(({ logLevel, message }) => logLevel === "Warn" && warnings.push(message))
      const build = (options: StatsD.Options) =>
        Effect.gen(function*() {
          yield* Layer.build(Layer.provide(StatsD.layer(options), environment({})))
          yield* Metric.update(gauge, 1)
          yield* Effect.sleep("200 millis")
        }).pipe(Effect.scoped, Effect.provide(Logger.layer([logger])))
      const closed = yield* Effect.scoped(server)
      yield* build({ host: "127.0.0.1", port: closed.port, interval: "10 millis" })
      assert.deepStrictEqual(warnings, [])
      yield* build({ host: "no-such-host.invalid", interval: "10 millis" })
      assert.strictEqual(warnings.length, 1)
      assert.include(String(warnings), "no-such-host.invalid:8125")
    }).pipe(
      Effect.provideService(Metric.MetricRegistry, new Map()),
      Effect.provideService(References.MinimumLogLevel, "Info")
    ))

  it.effect("names every option that is wrong, with its value", () =>
    Effect.gen(function*() {
      const options = {
        port: 70_000,
        dialect: "datadog",
        interval: 0,
        tags: { version: undefined },
        host: "",
        maxPacketSize: Number.NaN
      } as unknown as StatsD.Options
      const { message } = yield* Effect.flip(Layer.build(Layer.provide(StatsD.layer(options), environment({}))))
      for (
        const problem of [
          "host is \"\": ",
          "port is 70000: give a port, from 1 to 65535",
          "dialect is \"datadog\": give statsd or dogstatsd",
          "tags.version is undefined: ",
          "maxPacketSize is NaN: ",
          "interval is 0 (a number in code is milliseconds): give 10ms or more"
        ]
      ) {
        assert.include(message, problem)
      }
      for (const interval of [Number.NaN, -5, Number.POSITIVE_INFINITY, "soon", {}] as const) {
        const options = { interval } as StatsD.Options
        const error = yield* Effect.flip(Layer.build(Layer.provide(StatsD.layer(options), environment({}))))
        assert.include(error.message, "interval is ")
      }
      yield* Layer.build(Layer.provide(StatsD.layer({ interval: "10s" }), environment({})))
    }))

  it.effect("names the variable that cannot be read", () =>
    Effect.gen(function*() {
      const message = (variables: Record<string, string>) =>
        Layer.build(Layer.provide(StatsD.layer(), environment(variables))).pipe(
          Effect.flip,
          Effect.map((error) => error.message)
        )
      assert.include(yield* message({ STATSD_PORT: "udp" }), "STATSD_PORT")
      assert.include(yield* message({ STATSD_DIALECT: "datadog" }), "STATSD_DIALECT")
      yield* TestClock.adjust("1 minute")
    }))
})
