/**
 * Several elections in one process: each tenant is served by exactly one
 * replica, and every replica stands by for all tenants.
 *
 * It shows
 *
 * - `LeaderElections`: one Lease for each tenant, one connection pool and one
 *   watch for all;
 * - that they are independent: a tenant whose work fails, or whose Lease is
 *   lost, disturbs no other;
 * - the end in good order: all Leases are released together.
 *
 * The first replica that starts gets every tenant, and keeps it for life: after
 * a rollout one replica may serve them all (tenants.ts shares them fairly). To move one, ask its leader to step down:
 * `npx effect-kubernetes-leader-election step-down tenant-red`.
 *
 * Start it in two terminals, and stop one. The Role (or your kubeconfig) needs
 * the verbs create, get, patch and watch on all Leases of the namespace.
 *
 *     TENANTS=red,green,blue node many-elections.ts
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Effect, Layer, Schedule } from "effect"
import {
  KubernetesClient,
  KubernetesLeaderElections,
  LeaderElections,
  Leadership
} from "effect-kubernetes-leader-election"

const serve = Effect.fnUntraced(function*(tenant: string) {
  const leadership = yield* Leadership
  yield* Effect.log(`Serves ${tenant} in term ${leadership.fencingToken}`)
  yield* Effect.addFinalizer(() => Effect.log(`Leaves ${tenant}`))
  // Here: what has to be done for the tenant, with `ensure` and the token as in effect-worker.ts.
  return yield* Effect.never
})

const program = Effect.gen(function*() {
  const tenants = yield* Config.String("TENANTS").pipe(Config.withDefault("red,green,blue"))
  const elections = yield* LeaderElections.LeaderElections
  yield* Effect.forEach(
    tenants.split(","),
    (tenant) =>
      // What fails here is tried again, by another replica or by this one, and only this tenant waits for it.
      elections.whileLeadingForever(`tenant-${tenant}`, serve(tenant)).pipe(
        Effect.tapError((error) => Effect.logError(`${tenant}: ${error.message}`)),
        Effect.retry(Schedule.spaced("10 seconds"))
      ),
    { concurrency: "unbounded", discard: true }
  )
})

const ElectionsLive = KubernetesLeaderElections.layer().pipe(Layer.provide(KubernetesClient.layer))

NodeRuntime.runMain(program.pipe(Effect.provide(ElectionsLive)))
