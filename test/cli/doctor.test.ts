import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Console, Effect, Layer, Logger, Redacted } from "effect"
import { KubernetesClient, LeaderElectionConfig, LeaseRecord } from "effect-kubernetes-leader-election"
import { LeaseApiServer } from "effect-kubernetes-leader-election/testing"
import { clockOffset, suspicious } from "../../src/cli/doctor/checks.ts"
import { doctor } from "../../src/cli/doctor/doctor.ts"
import { type Front, httpFront } from "../utils/httpFront.ts"

/** Runs it against a server of its own, after `setUp`; gives what was printed, without the paddings. */
const run = (
  input: LeaderElectionConfig.Input = {},
  setUp: (server: LeaseApiServer.LeaseApiServer["Service"]) => Effect.Effect<unknown, unknown> = () => Effect.void,
  token?: string,
  through?: Front["buffering"]
) =>
  Effect.gen(function*() {
    const server = yield* LeaseApiServer.make()
    yield* Effect.orDie(setUp(server))
    const url = through === undefined ? server.url : yield* httpFront(server.url, { buffering: through })
    // As if it were that of the Pod's own service account.
    const client = Layer.effect(
      KubernetesClient.KubernetesClient,
      KubernetesClient.KubernetesClient.useSync((client) => ({ ...client, origin: "pod" as const }))
    ).pipe(Layer.provide(KubernetesClient.layerServer({
      server: url,
      namespace: "default",
      token: Redacted.make(token ?? server.token)
    })))
    const lines: Array<string> = []
    const result = yield* doctor(client, { name: "x", identity: "a", ...input }).pipe(
      Effect.provideService(
        Console.Console,
        Object.assign(Object.create(console), { log: (text: string) => lines.push(text.replaceAll(/ {2,}/g, " ")) })
      ),
      Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromUnknown({})),
      Effect.result
    )
    return {
      text: lines.join("\n"),
      outcomes: lines.map((line) =>
        /^(\w+) (right to \w+|own Pod|owner of the Lease|API server|\S+)/.exec(line)!.slice(1).join(" ")
      ),
      message: result._tag === "Failure" ? result.failure.message : undefined
    }
  }).pipe(Effect.provide(Layer.merge(NodeServices.layer, Logger.layer([]))))

const key = { namespace: "default", name: "x" }

describe("doctor", () => {
  it.live("passes where all is well", () =>
    Effect.gen(function*() {
      const { message, outcomes } = yield* run()
      assert.isUndefined(message)
      assert.deepStrictEqual(outcomes, [
        "ok settings",
        "ok API server",
        "ok latency",
        "ok clock",
        "ok credentials",
        "ok right to create",
        "ok right to get",
        "ok right to patch",
        "ok right to watch",
        "ok Lease",
        "ok watch",
        "ok own Pod"
      ])
    }))

  it.live("names the missing rights, and the rule that grants them", () =>
    Effect.gen(function*() {
      const { message, outcomes, text } = yield* run({}, (server) => server.forbid({}, ["patch", "watch"]))
      assert.include(outcomes, "FAILED right to patch")
      assert.include(outcomes, "warning right to watch")
      assert.include(text, `verbs: ["patch"]\n resourceNames: ["x"]`)
      assert.strictEqual(message, "1 of 11 checks failed")
    }))

  it.live("sees an event of a Lease that is there", () =>
    Effect.gen(function*() {
      const { text } = yield* run({}, (server) => server.cluster.createLease(key))
      assert.match(text, /ok watch opens, and its first event arrived after \d+ms/)
    }))

  it.live.each(["body", "everything"] as const)(
    "D20 finds a proxy that holds events back (%s)",
    (buffering) =>
      Effect.gen(function*() {
        const { message, outcomes, text } = yield* run(
          {},
          (server) => server.cluster.createLease(key),
          undefined,
          buffering
        )
        assert.include(outcomes, "warning watch")
        assert.include(text, "proxy_buffering off")
        assert.isUndefined(message)
      })
  )

  it.live("does not miss the right to watch where it is not used", () =>
    Effect.gen(function*() {
      const { outcomes, text } = yield* run({ watch: false }, (server) => server.forbid({}, ["watch"]))
      assert.include(outcomes, "ok right to watch")
      assert.include(text, "ok watch not used: candidates poll every 2s")
    }))

  it.live("stops at credentials that are refused", () =>
    Effect.gen(function*() {
      const { message, outcomes } = yield* run({}, () => Effect.void, "wrong")
      assert.deepStrictEqual(outcomes.at(-1), "FAILED credentials")
      assert.isDefined(message)
    }))

  it.live("tells a Pod that is there from one that is not, or is another", () =>
    Effect.gen(function*() {
      let uid = ""
      const withPod = (server: LeaseApiServer.LeaseApiServer["Service"]) =>
        Effect.map(server.cluster.createPod({ namespace: "default", name: "a" }), (pod) => {
          uid = pod.uid
        })
      const missing = yield* run({ pod: { name: "b", uid: "u" } }, withPod)
      assert.include(missing.text, "there is no Pod b in namespace default")
      const other = yield* run({ pod: { name: "a", uid: "u" } }, withPod)
      assert.include(other.text, `the Pod a has the uid ${uid}, not u`)
      assert.include(other.outcomes, "FAILED own Pod")
    }))

  it.live("says when nothing answers", () =>
    Effect.gen(function*() {
      const { outcomes, text } = yield* run({}, (server) => server.refuse())
      assert.deepStrictEqual(outcomes, ["ok settings", "FAILED API server"])
      assert.include(text, "cannot be reached")
    }))

  it.live("gives every problem of the settings", () =>
    Effect.gen(function*() {
      const { outcomes } = yield* run({ name: "X", leaseDuration: "1500 millis" })
      assert.strictEqual(outcomes.filter((outcome) => outcome === "FAILED settings").length, 2)
    }))

  it.live("looks at the Lease that is there", () =>
    Effect.gen(function*() {
      const { text } = yield* run({}, (server) =>
        server.cluster.createLease(key, { spec: { holderIdentity: "b", leaseDurationSeconds: 60 } }))
      assert.include(text, "default/x exists; held by b")
      assert.include(text, "its holder uses a leaseDuration of 60s, and here it is 15s")
    }))

  it.live("says that a Lease has expired, as status does", () =>
    Effect.gen(function*() {
      const { outcomes, text } = yield* run({}, (server) =>
        server.cluster.createLease(key, {
          spec: { holderIdentity: "b", leaseDurationSeconds: 15, renewTime: "2026-01-01T00:00:00.000000Z" }
        }))
      assert.include(outcomes, "warning Lease")
      assert.match(text, /default\/x exists, and has expired: b renewed it \d+(\.\d)?s ago, for 15s\n.*Nobody leads/)
    }))

  it.effect("warns of a record that Kubernetes elects on too, or that is being deleted", () =>
    Effect.gen(function*() {
      const record = yield* LeaseRecord.decode({
        metadata: { ...key, uid: "u", resourceVersion: "1", deletionTimestamp: "2026-11-22T12:00:00Z" },
        spec: { holderIdentity: "b", leaseDurationSeconds: 15, strategy: "OldestEmulationVersion" }
      })
      const settings = { ...LeaderElectionConfig.defaults, ...key, identity: "a", pod: undefined }
      assert.strictEqual(suspicious(settings, record).length, 2)
    }))

  const clocks: ReadonlyArray<readonly [earliest: number, latest: number, outcome: string, found: RegExp]> = [
    [-900, 100, "passed", /agrees/],
    [-5000, -4200, "warning", /is 4\.20 s ahead of the API server's/],
    [4100, 5000, "warning", /is 4\.10 s behind the API server's/],
    [-Infinity, Infinity, "unknown", /does not say/]
  ]
  it.each(clocks)("a clock between %d and %d ms behind", (earliest, latest, outcome, found) => {
    const check = clockOffset(earliest, latest)
    assert.strictEqual(check.outcome, outcome)
    assert.match(check.found, found)
  })
})
