import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Duration, Effect, Layer, Logger } from "effect"
import { LeaderElection, Leadership, LocalLeaderElection } from "effect-kubernetes-leader-election"
import { LeaseFaults, MemoryLeaseStore } from "effect-kubernetes-leader-election/testing"

it.effect("leads at once, and says that it is local", () =>
  Effect.gen(function*() {
    const lines: Array<string> = []
    const logger = Logger.make(({ logLevel, message }) => {
      lines.push(`${logLevel}: ${message}`)
    })
    const lead = Effect.flatMap(Leadership, ({ ensure, lease }) => Effect.as(ensure, lease))
    const lease = yield* LeaderElection.whileLeading(lead).pipe(
      Effect.provide(LocalLeaderElection.layer()),
      Effect.provide(Logger.layer([logger]))
    )
    assert.deepStrictEqual(lease, { namespace: "local", name: "local" })
    assert.isTrue(lines.some((line) => line.startsWith("Warn: This election is local")))
  }))

it.effect("what is undefined has its default", () =>
  Effect.gen(function*() {
    const { settings } = yield* LeaderElection.LeaderElection
    assert.deepStrictEqual([settings.name, settings.namespace, settings.newLease], ["local", "local", "lead"])
  }).pipe(
    Effect.provide(LocalLeaderElection.layer({ name: undefined, namespace: undefined, newLease: undefined }))
  ))

describe("an election in memory reads no environment, in a Pod without POD_NAME and with variables in the shell", () => {
  const environment = ConfigProvider.layer(ConfigProvider.fromEnv({
    env: {
      KUBERNETES_SERVICE_HOST: "10.0.0.1",
      POD_NAMESPACE: "ci",
      LEADER_ELECTION_NAME: "other",
      LEADER_ELECTION_IDENTITY: "other",
      LEADER_ELECTION_LEASE_DURATION: "1h",
      LEADER_ELECTION_WATCH: "perhaps"
    }
  }))
  const memory = LeaderElection.layer({ namespace: "default", name: "x", identity: "a", newLease: "lead" })
  const layers = {
    "LocalLeaderElection": LocalLeaderElection.layer({ identity: "a" }),
    "the store of the testing entry": Layer.provide(memory, MemoryLeaseStore.layerMemory()),
    "the fault layer, below": memory.pipe(
      Layer.provide(LeaseFaults.layer),
      Layer.provide(MemoryLeaseStore.layerMemory())
    ),
    "the fault layer, composed first": memory.pipe(
      Layer.provide(Layer.provide(LeaseFaults.layer, MemoryLeaseStore.layerMemory()))
    )
  }
  for (const [title, layer] of Object.entries(layers)) {
    it.effect(title, () =>
      Effect.gen(function*() {
        const { settings } = yield* LeaderElection.LeaderElection
        assert.strictEqual(Duration.toSeconds(settings.leaseDuration), 15)
        assert.isUndefined(settings.pod)
        assert.strictEqual(yield* LeaderElection.whileLeading(Effect.map(Leadership, ({ identity }) => identity)), "a")
      }).pipe(
        Effect.provide(layer),
        Effect.provide(environment)
      ))
  }
})
