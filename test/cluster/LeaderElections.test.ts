/**
 * Many elections in one process on a real API server: one watch for all of them where the Role allows it.
 */
import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Redacted } from "effect"
import {
  KubernetesClient,
  KubernetesLeaderElections,
  LeaderElections,
  Leadership
} from "effect-kubernetes-leader-election"
import type { Rule } from "./utils/ApiClient.ts"
import { eventually, scoped, sharedCluster, skipWithout } from "./utils/Testing.ts"

const names = Array.from({ length: 50 }, (_, index) => `shard-${index}`)
const leases = { apiGroups: ["coordination.k8s.io"], resources: ["leases"] }

const setup = Effect.fnUntraced(function*(rules: ReadonlyArray<Rule>) {
  const cluster = yield* scoped(sharedCluster)
  const namespace = yield* Effect.promise(() => cluster.admin.createNamespace("many"))
  const token = yield* Effect.promise(async () => {
    await cluster.admin.createServiceAccount(namespace, "many")
    await cluster.admin.putRole(namespace, "many", rules)
    await cluster.admin.putRoleBinding(namespace, "many", "many")
    return cluster.admin.createToken(namespace, "many")
  })
  const layer = Layer.provide(
    KubernetesLeaderElections.layer({ namespace, identity: "one", newLease: "lead" }),
    KubernetesClient.layerServer({ server: cluster.url, ca: cluster.ca, token: Redacted.make(token) })
  )
  const led = new Set<string>()
  const lead = LeaderElections.LeaderElections.use((elections) =>
    Effect.forEach(names, (name) =>
      elections.whileLeadingForever(
        name,
        Effect.gen(function*() {
          led.add((yield* Leadership).lease.name)
          return yield* Effect.never
        })
      ), { concurrency: "unbounded", discard: true })
  ).pipe(Effect.provide(layer))
  const allLead = Effect.promise(() => eventually("all lead", async () => led.size === names.length, 60_000))
  const user = `system:serviceaccount:${namespace}:many`
  const watches = async () =>
    (await cluster.auditLog({ user })).filter(({ responseStatus, stage, verb }) =>
      verb === "watch" && stage === "ResponseStarted" && responseStatus?.code === 200
    )
  return { cluster, namespace, lead, allLead, watches }
})

it.live("fifty elections have one watch, and release all their Leases", (context) =>
  Effect.gen(function*() {
    const { allLead, cluster, lead, namespace, watches } = yield* setup([
      { ...leases, verbs: ["create", "get", "patch", "watch"] }
    ])
    skipWithout(context, cluster, "audit")
    const fiber = yield* Effect.forkChild(lead)
    yield* allLead
    const made = yield* Effect.promise(() =>
      eventually("the watch is in the audit log", async () => {
        const made = await watches()
        return made.length > 0 && made
      })
    )
    assert.deepStrictEqual(made.map(({ objectRef }) => objectRef?.name), [undefined])
    yield* Fiber.interrupt(fiber)
    const holders = (yield* Effect.promise(() => cluster.admin.listLeases(namespace))).map(({ spec }) =>
      spec.holderIdentity ?? ""
    )
    assert.deepStrictEqual(holders, names.map(() => ""))
  }), 120_000)

it.live("where the namespace may not be watched, each Lease is watched by itself", (context) =>
  Effect.gen(function*() {
    const { allLead, cluster, lead, watches } = yield* setup([
      { ...leases, verbs: ["create"] },
      { ...leases, verbs: ["get", "patch", "watch"], resourceNames: names }
    ])
    skipWithout(context, cluster, "audit")
    const fiber = yield* Effect.forkChild(lead)
    yield* allLead
    yield* Effect.promise(() =>
      eventually("each has its watch", async () => (await watches()).length >= names.length, 60_000)
    )
    const watched = (yield* Effect.promise(watches)).map(({ objectRef }) => objectRef?.name)
    assert.deepStrictEqual(new Set(watched), new Set(names))
    yield* Fiber.interrupt(fiber)
  }), 120_000)
