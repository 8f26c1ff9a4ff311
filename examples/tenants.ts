/**
 * A worker for each tenant, shared fairly by all replicas.
 *
 * It shows
 *
 * - `LeaderShards`: each tenant is served by exactly one replica, and every
 *   replica serves about as many;
 * - the list as a stream: tenants that come are served, and those that go are
 *   let go, without a restart;
 * - readiness for rolling updates: a replica is ready when the others have seen
 *   it, so that with `maxUnavailable: 0` each tenant moves once.
 *
 * Start it in two terminals, and stop one; then change the file. The Role (or
 * your kubeconfig) needs the verbs create, get, patch and watch on all Leases of
 * the namespace (`npx effect-kubernetes-leader-election manifest --shards`).
 *
 *     echo 'red green blue yellow' > tenants.txt
 *     LEADER_ELECTION_NAME=tenants PORT=8080 node tenants.ts
 *     LEADER_ELECTION_NAME=tenants PORT=8081 node tenants.ts
 */
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { Config, Effect, Layer, Schedule, Stream } from "effect"
import { KubernetesClient, KubernetesLeaderShards, LeaderShards, Leadership } from "effect-kubernetes-leader-election"
import { HttpRouter } from "effect/http"
import { readFile } from "node:fs/promises"
import { createServer } from "node:http"

const serve = Effect.fnUntraced(function*(tenant: string) {
  const leadership = yield* Leadership
  yield* Effect.log(`Serves ${tenant} in term ${leadership.fencingToken}`)
  yield* Effect.addFinalizer(() => Effect.log(`Leaves ${tenant}`))
  // Here: what has to be done for the tenant, with `ensure` and the token as in effect-worker.ts.
  return yield* Effect.never
})

/** The names in the file, each second; a list that cannot be read is not a list without names. */
const tenants = (file: string) =>
  Stream.fromEffectSchedule(
    Effect.option(Effect.tryPromise(() => readFile(file, "utf8"))),
    Schedule.spaced("1 second")
  ).pipe(
    Stream.flatMap((text) =>
      text._tag === "Some" ? Stream.succeed(text.value.split(/\s+/).filter(Boolean)) : Stream.empty
    ),
    Stream.changesWith((a, b) => a.join() === b.join())
  )

const program = Effect.gen(function*() {
  const file = yield* Config.String("TENANTS_FILE").pipe(Config.withDefault("tenants.txt"))
  return yield* LeaderShards.run({ shards: tenants(file), lead: serve })
})

const ShardsLive = KubernetesLeaderShards.layer().pipe(Layer.provide(KubernetesClient.layer))

const ProbesLive = Layer.unwrap(Effect.gen(function*() {
  const port = yield* Config.Int("PORT").pipe(Config.withDefault(8080))
  return HttpRouter.serve(LeaderShards.layerReadiness(), { disableLogger: true, disableListenLog: true }).pipe(
    Layer.provide(NodeHttpServer.layer(createServer, { port }))
  )
}))

NodeRuntime.runMain(program.pipe(Effect.provide(ProbesLive), Effect.provide(ShardsLive)))
