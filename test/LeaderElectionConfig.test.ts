import { assert, describe, it } from "@effect/vitest"
import { Config, ConfigProvider, Context, Duration, Effect, Exit, Layer, Logger, Option, Random } from "effect"
import * as LeaderElectionConfig from "../src/LeaderElectionConfig.ts"
import { LeaderElectionError } from "../src/LeaderElectionError.ts"

type Variables = Readonly<Record<string, string>>

const inCluster: Variables = {
  KUBERNETES_SERVICE_HOST: "10.96.0.1",
  POD_NAME: "web-7d4b9-abcde",
  POD_UID: "0b5e7a3c-6c1f-4a56-9d7e-0a8f3c2b1d00",
  POD_NAMESPACE: "shop"
}

describe("LeaderElectionConfig", () => {
  it.effect("namespace finds that of the election, for tools", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* LeaderElectionConfig.namespace(), "theirs")
      assert.strictEqual(yield* LeaderElectionConfig.namespace("option"), "option")
      // By the rules of an election's.
      for (const given of ["", "UP"]) {
        const error = yield* Effect.flip(LeaderElectionConfig.namespace(given))
        assert.strictEqual(error.reason._tag, "InvalidSettings")
      }
    }).pipe(
      Effect.provideService(LeaderElectionConfig.CredentialsOrigin, "given"),
      Effect.provideService(LeaderElectionConfig.CredentialsNamespace, "theirs"),
      Effect.provideService(
        ConfigProvider.ConfigProvider,
        ConfigProvider.fromUnknown({ POD_NAMESPACE: "pod" })
      )
    ))

  it.effect("logs in one line why a Lease gets no owner", () =>
    Effect.gen(function*() {
      const lines: Array<string> = []
      yield* LeaderElectionConfig.make({ name: "jobs" }).pipe(
        Effect.provideService(LeaderElectionConfig.CredentialsOrigin, "given"),
        Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromUnknown(inCluster)),
        Effect.provide(Logger.layer([Logger.make(({ logLevel, message }) => {
          lines.push(`${logLevel} ${message}`)
        })]))
      )
      assert.strictEqual(lines.length, 1)
      assert.match(lines[0]!, /^Info The Lease does not name this Pod as its owner, because/)
    }))

  describe("durations in code", () => {
    const given: ReadonlyArray<LeaderElectionConfig.DurationInput> = [
      "30s",
      "0.5m",
      "30",
      "30 seconds",
      30_000,
      Duration.seconds(30)
    ]
    it.effect.each(given)(
      "are read as in the environment and as Effect's: %s",
      (leaseDuration) =>
        Effect.gen(function*() {
          const settings = yield* LeaderElectionConfig.make({ namespace: "a", name: "b", leaseDuration })
          assert.strictEqual(LeaderElectionConfig.formatDuration(settings.leaseDuration), "30s")
          assert.strictEqual(LeaderElectionConfig.formatDuration(settings.renewInterval), "10s")
        }).pipe(Effect.provideService(LeaderElectionConfig.ReadsEnvironment, false))
    )

    it("parseDuration gives nothing for other text", () => {
      assert.deepStrictEqual(LeaderElectionConfig.parseDuration("1m30s"), Option.some(Duration.seconds(90)))
      assert.deepStrictEqual(LeaderElectionConfig.parseDuration("soon"), Option.none())
    })
  })

  it("the note and the number of candidates are handed on to another process, where there are any", () => {
    const settings = { ...LeaderElectionConfig.defaults, namespace: "a", name: "b", identity: "c", pod: undefined }
    const environment = LeaderElectionConfig.toEnvironment({ ...settings, note: "10.0.0.7", candidates: 200 })
    assert.strictEqual(environment.LEADER_ELECTION_NOTE, "10.0.0.7")
    assert.strictEqual(environment.LEADER_ELECTION_CANDIDATES, "200")
    assert.doesNotHaveAnyKeys(LeaderElectionConfig.toEnvironment(settings), [
      "LEADER_ELECTION_NOTE",
      "LEADER_ELECTION_CANDIDATES"
    ])
  })

  describe("layers", () => {
    const build = <E>(
      layer: Layer.Layer<LeaderElectionConfig.LeaderElectionConfig, E>,
      variables: Variables
    ) =>
      Layer.build(layer).pipe(
        Effect.map(Context.get(LeaderElectionConfig.LeaderElectionConfig)),
        Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromEnv({ env: variables }))
      )

    it.effect("layer names some settings, the environment has the rest", () =>
      Effect.gen(function*() {
        const config = yield* build(
          LeaderElectionConfig.layer({ name: "jobs", leaseDuration: "30 seconds" }),
          { ...inCluster, LEADER_ELECTION_NAME: "env", LEADER_ELECTION_NEW_LEASE: "lead" }
        )
        assert.strictEqual(config.name, "jobs")
        assert.strictEqual(config.newLease, "lead")
        assert.deepStrictEqual(config.renewDeadline, Duration.seconds(20))
      }))

    it.effect("layerFromEnv fails with every problem at once", () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(build(LeaderElectionConfig.layerFromEnv, {
          KUBERNETES_SERVICE_HOST: "10.96.0.1",
          LEADER_ELECTION_NAME: "Jobs"
        }))
        assert(error instanceof LeaderElectionError && error.reason._tag === "InvalidSettings")
        assert.strictEqual(error.reason.problems.length, 4)
      }))

    it.effect("see that a variable is set but empty, which Effect's provider hides", () =>
      Effect.gen(function*() {
        const variables = [...Object.values(LeaderElectionConfig.variables), "POD_NAME", "POD_UID"]
        const error = yield* Effect.flip(build(
          LeaderElectionConfig.layerFromEnv,
          Object.fromEntries(variables.map((variable) => [variable, ""]))
        ))
        assert(error.reason._tag === "InvalidSettings")
        assert.strictEqual(error.reason.problems.length, variables.length, error.message)
        for (const variable of variables) {
          assert.include(error.message, `(${variable}) is `)
        }
      }))

    it.effect("take an empty KUBERNETES_SERVICE_HOST for none, and no variable for another's prefix", () =>
      Effect.gen(function*() {
        const config = yield* build(LeaderElectionConfig.layer({ namespace: "dev" }), {
          KUBERNETES_SERVICE_HOST: "",
          LEADER_ELECTION_NAME: "jobs",
          LEADER_ELECTION_NAME_OVERRIDE: "x",
          LEADER_ELECTION_WATCH_SINCE: "x",
          POD_NAME_PREFIX: "x"
        })
        assert.strictEqual(config.name, "jobs")
        assert.strictEqual(config.pod, undefined)
      }))

    it.effect("read any provider", () =>
      Effect.gen(function*() {
        const config = yield* LeaderElectionConfig.make().pipe(
          Effect.provideService(
            ConfigProvider.ConfigProvider,
            ConfigProvider.fromUnknown({
              ...inCluster,
              LEADER_ELECTION_NAME: "jobs",
              LEADER_ELECTION_LEASE_DURATION: 30
            })
          )
        )
        assert.deepStrictEqual(config.leaseDuration, Duration.seconds(30))
      }))

    it.effect("see in a provider of an object what is empty, or no text", () =>
      Effect.gen(function*() {
        const inObject = (variables: Record<string, unknown>) =>
          LeaderElectionConfig.make().pipe(
            Effect.provideService(
              ConfigProvider.ConfigProvider,
              ConfigProvider.fromUnknown({ ...inCluster, LEADER_ELECTION_NAME: "jobs", ...variables })
            ),
            Effect.flip,
            Effect.map(({ reason }) => reason._tag === "InvalidSettings" ? reason.problems.join("\n") : reason._tag)
          )
        assert.include(
          yield* inObject({ LEADER_ELECTION_LEASE_DURATION: "" }),
          "leaseDuration (LEADER_ELECTION_LEASE_DURATION) is set, but empty"
        )
        assert.strictEqual(
          yield* inObject({ LEADER_ELECTION_NOTE: ["a"], LEADER_ELECTION_IDENTITY: { of: "a" } }),
          "LEADER_ELECTION_IDENTITY cannot be read: it is a record: give text\n" +
            "LEADER_ELECTION_NOTE cannot be read: it is a list: give text"
        )
      }))

    it.effect("say which variables a provider could not read", () =>
      Effect.gen(function*() {
        const broken = ConfigProvider.make((path) =>
          path[0] === "POD_NAME" || path[0] === "LEADER_ELECTION_NAME"
            ? Effect.fail(new ConfigProvider.SourceError({ message: "disk on fire" }))
            : Effect.succeed(undefined)
        )
        const error = yield* Effect.flip(
          LeaderElectionConfig.make({ name: "jobs", namespace: "dev" }).pipe(
            Effect.provideService(ConfigProvider.ConfigProvider, broken)
          )
        )
        assert(error.reason._tag === "InvalidSettings")
        assert.strictEqual(error.reason.problems.length, 2)
        assert.include(error.reason.problems[0], "LEADER_ELECTION_NAME cannot be read: ")
        assert.include(error.reason.problems[0], "disk on fire")
      }))

    it.effect("use the credentials' namespace and this process's facts", () =>
      Effect.gen(function*() {
        const config = yield* build(
          LeaderElectionConfig.layer({ name: "jobs" }).pipe(
            Layer.provide(Layer.succeed(LeaderElectionConfig.CredentialsNamespace, "dev")),
            Layer.provide(Layer.succeed(LeaderElectionConfig.CurrentProcess, { hostName: "laptop", processId: 42 }))
          ),
          {}
        )
        assert.strictEqual(config.namespace, "dev")
        assert.match(config.identity, /^laptop_42_[0-9a-f]{10}$/)
      }))

    it.effect("make another identity for each process", () =>
      Effect.gen(function*() {
        const identity = (seed: string) =>
          build(LeaderElectionConfig.layer({ name: "jobs", namespace: "dev" }), {}).pipe(
            Effect.map((config) => config.identity),
            Random.withSeed(seed)
          )
        assert.strictEqual(yield* identity("a"), yield* identity("a"))
        assert.notStrictEqual(yield* identity("a"), yield* identity("b"))
        assert.match(yield* identity("a"), new RegExp(`_${process.pid}_[0-9a-f]{10}$`))
      }))

    it.effect("log the warnings", () =>
      Effect.gen(function*() {
        const lines: Array<string> = []
        yield* build(LeaderElectionConfig.layer({ name: "jobs", leaseDuration: "2 seconds" }), inCluster).pipe(
          Effect.provide(Logger.layer([
            Logger.make((options) => {
              lines.push(`${options.logLevel} ${options.message}`)
            })
          ]))
        )
        assert.strictEqual(lines.length, 1)
        assert.match(lines[0] ?? "", /^Warn leaseDuration \(LEADER_ELECTION_LEASE_DURATION\) is 2s/)
      }))

    it.effect("layerConfig reads a program's own configs", () =>
      Effect.gen(function*() {
        const layer = LeaderElectionConfig.layerConfig({
          name: Config.String("APP_LEASE"),
          leaseDuration: Config.Duration("APP_LEASE_DURATION").pipe(Config.withDefault(Duration.seconds(20))),
          pod: { name: Config.String("APP_POD"), uid: Config.succeed("1") }
        })
        const config = yield* build(layer, { ...inCluster, APP_LEASE: "app", APP_POD: "a" })
        assert.strictEqual(config.name, "app")
        assert.deepStrictEqual(config.leaseDuration, Duration.seconds(20))
        assert.strictEqual(config.identity, "a_1")

        const error = yield* Effect.flip(build(layer, inCluster))
        assert(error instanceof LeaderElectionError && error.reason._tag === "InvalidSettings")
        assert.include(error.message, "APP_LEASE")
      }))

    it.effect("layerConfig names everything that it cannot read, and the remedies", () =>
      Effect.gen(function*() {
        const layer = LeaderElectionConfig.layerConfig({
          name: Config.String("APP_LEASE"),
          identity: undefined as never,
          leaseDuration: Config.Duration("APP_LEASE_DURATION"),
          candidates: Config.Int("APP_CANDIDATES"),
          pod: { name: Config.String("APP_POD"), uid: Config.succeed("1") },
          note: "a note" as never
        })
        const error = yield* Effect.flip(build(layer, { APP_LEASE_DURATION: "15s", APP_CANDIDATES: "many" }))
        assert(error.reason._tag === "InvalidSettings")
        assert.deepStrictEqual(error.reason.problems, [
          "name (APP_LEASE) is not set: set it, or give its Config a default",
          "leaseDuration (APP_LEASE_DURATION) is \"15s\": expected a valid Duration string, such as \"15 seconds\"; " +
          "Config.String takes 15s, 500ms, 1m30s, 15 seconds, or plain seconds such as 15 or 2.5",
          "candidates (APP_CANDIDATES) is \"many\": expected a string representing a finite number",
          "pod.name (APP_POD) is not set: set it, or give its Config a default",
          "note is not a Config: wrap the value in Config.succeed"
        ])
        assert.isTrue(Exit.isSuccess(
          yield* Effect.exit(build(
            LeaderElectionConfig.layerConfig({ name: Config.succeed("a"), pod: undefined as never }),
            inCluster
          ))
        ))
      }))

    it.effect("fail while they are built, not later", () =>
      Effect.gen(function*() {
        const exit = yield* Effect.exit(build(LeaderElectionConfig.layerFromEnv, {}))
        assert(Exit.isFailure(exit))
      }))
  })
})
