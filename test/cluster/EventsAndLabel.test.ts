/**
 * Events on the Lease and the label on the leader's Pod, on a real API server.
 */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Layer, Redacted, Scope } from "effect"
import {
  KubernetesClient,
  KubernetesEvents,
  KubernetesLeaseStore,
  LeaderElection,
  LeaderElectionConfig,
  PodLabel
} from "effect-kubernetes-leader-election"
import { spawnSync } from "node:child_process"
import { observe } from "../utils/observed.ts"
import { leaseRules, type Pod, type Rule } from "./utils/ApiClient.ts"
import type { KubeCluster } from "./utils/KubeCluster.ts"
import { eventually, scoped, sharedCluster } from "./utils/Testing.ts"

const events: Rule = { apiGroups: ["events.k8s.io"], resources: ["events"], verbs: ["create"] }
const pods: Rule = { apiGroups: [""], resources: ["pods"], verbs: ["patch"] }
const label = "leads"

const setup = Effect.fnUntraced(function*(rules: ReadonlyArray<Rule>) {
  const cluster = yield* scoped(sharedCluster)
  const namespace = yield* Effect.promise(() => cluster.admin.createNamespace())
  const token = yield* Effect.promise(() => cluster.admin.createCandidateAccount(namespace, "demo"))
  yield* Effect.promise(() => cluster.admin.putRole(namespace, "candidate", [...leaseRules("demo"), ...rules]))
  // A Role takes effect some time after it was written.
  if (rules.includes(events)) {
    yield* Effect.promise(() =>
      eventually("the rights", async () => {
        const path = `/apis/events.k8s.io/v1/namespaces/${namespace}/events?dryRun=All`
        return (await cluster.admin.request("POST", path, {}, { token })).status !== 403
      })
    )
  }
  return { cluster, namespace, token, pod: yield* Effect.promise(() => cluster.admin.createPod(namespace, "web-0")) }
})

/** A process with both layers, until its scope is closed. */
const replica = Effect.fnUntraced(function*(
  { cluster, namespace, pod, token }: {
    readonly cluster: KubeCluster
    readonly namespace: string
    readonly token: string
    readonly pod: Pod
  }
) {
  const observed = observe()
  const scope = yield* Scope.fork(yield* Scope.Scope)
  const { name, uid } = pod.metadata
  const settings: LeaderElectionConfig.Settings = {
    ...LeaderElectionConfig.defaults,
    namespace,
    name: "demo",
    identity: `${name}_${uid}`,
    pod: { name, uid },
    newLease: "lead"
  }
  const layer = Layer.mergeAll(KubernetesEvents.layer, PodLabel.layer({ label })).pipe(
    Layer.provideMerge(Layer.effect(LeaderElection.LeaderElection, LeaderElection.make)),
    Layer.provide(Layer.succeed(LeaderElectionConfig.LeaderElectionConfig, settings)),
    Layer.provide(KubernetesLeaseStore.layer),
    Layer.provide(
      KubernetesClient.layerServer({ server: cluster.url, token: Redacted.make(token), ca: cluster.ca! })
    )
  )
  const context = yield* Layer.buildWithScope(layer, scope).pipe(Effect.provideContext(observed.context))
  const election = Context.get(context, LeaderElection.LeaderElection)
  return { observed, election, run: Effect.provideContext(observed.context), stop: Scope.close(scope, Exit.void) }
})

const labels = (cluster: KubeCluster, namespace: string) =>
  cluster.admin.request("GET", `/api/v1/namespaces/${namespace}/pods/web-0`).then(({ body }) => body.metadata.labels)

const listEvents = (cluster: KubeCluster, namespace: string): Promise<Array<any>> =>
  cluster.admin.request("GET", `/apis/events.k8s.io/v1/namespaces/${namespace}/events`).then(({ body }) =>
    body.items.toSorted((a: any, b: any) => a.eventTime < b.eventTime ? -1 : 1)
  )

describe.concurrent("Events and label", () => {
  it.live("tell of each term, and kubectl shows it", () =>
    Effect.gen(function*() {
      const world = yield* setup([events, pods])
      const { cluster, namespace } = world
      const { election, run, stop } = yield* replica(world)
      const fiber = yield* Effect.forkChild(run(election.whileLeading(Effect.never)))
      yield* Effect.promise(() =>
        eventually("the label", async () => (await labels(cluster, namespace))?.[label] === "true")
      )
      yield* Fiber.interrupt(fiber)
      yield* stop
      yield* Effect.promise(async () => {
        // Both were waited for at the end.
        assert.isUndefined((await labels(cluster, namespace))?.[label])
        const found = await listEvents(cluster, namespace)
        const { metadata: { uid } } = (await cluster.admin.getLease(namespace, "demo"))!
        assert.deepStrictEqual(found.map(({ reason, regarding, type }) => [reason, type, regarding.uid]), [
          ["BecameLeader", "Normal", uid],
          ["StoppedLeading", "Normal", uid]
        ])
        assert.match(found[0].note, /^web-0_.* became leader: there was no Lease \(fencing token \d+\)$/)
        const kubeconfig = await cluster.writeKubeconfig({
          token: await cluster.admin.createToken(namespace, "candidate"),
          namespace
        })
        await cluster.admin.putRole(namespace, "candidate", [{
          apiGroups: ["", "coordination.k8s.io", "events.k8s.io"],
          resources: ["leases", "events"],
          verbs: ["get", "list"]
        }])
        const described = await eventually("what kubectl says", async () => {
          const { stdout } = spawnSync("kubectl", ["--kubeconfig", kubeconfig, "describe", "lease", "demo"], {
            encoding: "utf8"
          })
          return stdout?.includes("StoppedLeading") && stdout
        })
        assert.include(described, "BecameLeader")
      })
    }))

  it.live("a label that a crash has left behind is removed at the start", () =>
    Effect.gen(function*() {
      const world = yield* setup([events, pods])
      const { cluster, namespace } = world
      yield* Effect.promise(() =>
        cluster.admin.request("PATCH", `/api/v1/namespaces/${namespace}/pods/web-0`, {
          metadata: { labels: { [label]: "true", other: "stays" } }
        })
      )
      const { observed, stop } = yield* replica(world)
      yield* Effect.promise(() =>
        eventually("no label", async () => (await labels(cluster, namespace))?.[label] === undefined)
      )
      assert.deepStrictEqual(yield* Effect.promise(() => labels(cluster, namespace)), { other: "stays" })
      yield* stop
      assert.deepStrictEqual(observed.lines, [])
    }))

  it.live("a Pod of the same name that came later is not touched", () =>
    Effect.gen(function*() {
      const world = yield* setup([events, pods])
      const { cluster, namespace } = world
      yield* Effect.promise(async () => {
        await cluster.admin.deletePod(namespace, "web-0")
        await cluster.admin.createPod(namespace, "web-0")
        await cluster.admin.request("PATCH", `/api/v1/namespaces/${namespace}/pods/web-0`, {
          metadata: { labels: { [label]: "true" } }
        })
      })
      const { observed, stop } = yield* replica(world)
      // It waits for the removal that was begun at the start, and was refused.
      yield* stop
      assert.deepStrictEqual(yield* Effect.promise(() => labels(cluster, namespace)), { [label]: "true" })
      assert.deepStrictEqual(observed.lines, [])
      assert.strictEqual(observed.value("leader_election_requests_total", { verb: "patch", code: "422" }), 1)
    }))

  it.live("without the rights the election is untouched, and each is warned of once", () =>
    Effect.gen(function*() {
      const world = yield* setup([])
      const { election, observed, run, stop } = yield* replica(world)
      yield* Effect.forEach([1, 2], () =>
        Effect.gen(function*() {
          const fiber = yield* Effect.forkChild(run(election.whileLeading(Effect.sleep("1500 millis"))))
          yield* Fiber.join(fiber)
        }))
      // The series of an election end with it.
      const terms = observed.value("leader_election_terms_total", { lease: `${world.namespace}/demo` })
      yield* stop
      const warnings = observed.lines.filter(({ level }) => level === "Warn").map(({ text }) => text)
      assert.strictEqual(warnings.length, 2, warnings.join("\n"))
      assert.include(
        warnings.join(),
        `- apiGroups: ["events.k8s.io"]\n    resources: ["events"]\n    verbs: ["create"]`
      )
      assert.include(warnings.join(), `- apiGroups: [""]\n    resources: ["pods"]\n    verbs: ["patch"]`)
      assert.deepStrictEqual(observed.lines.filter(({ level }) => level === "Error"), [])
      assert.strictEqual(terms, 2)
    }))
})
