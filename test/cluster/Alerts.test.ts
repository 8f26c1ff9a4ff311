/**
 * The alerts of docs/alerts, with replicas on a real API server and a real Prometheus: each fires when its cause is
 * there and clears when it has gone. Time in the rules passes 40 times as fast.
 */
import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Redacted, type Scope } from "effect"
import {
  KubernetesClient,
  KubernetesLeaseStore,
  LeaderElection,
  type LeaseStore
} from "effect-kubernetes-leader-election"
import { Fault, LeaseFaults, MemoryCluster, MemoryLeaseStore } from "effect-kubernetes-leader-election/testing"
import { readFile } from "node:fs/promises"
import { fileURLToPath } from "node:url"
import { prometheus, skipWithout } from "../observability/support/daemons.ts"
import { replica } from "../observability/support/replica.ts"
import { eventually, scoped, sharedCluster } from "./utils/Testing.ts"

/** `for: 1m` becomes `for: 1500ms`, `[15m]` becomes `[22500ms]`. */
const faster = (rules: string): string =>
  rules.replaceAll(/(?<=for: |\[)(\d+)m\b/g, (_, minutes) => `${Number(minutes) * 1_500}ms`)

// What campaigns ends before everything else, so that what is held can still be released.
it.live("each alert fires and clears", (context) =>
  Effect.scopedWith((campaigns) =>
    Effect.gen(function*() {
      skipWithout(context, "prometheus")
      const cluster = yield* scoped(sharedCluster)
      const namespace = yield* Effect.promise(() => cluster.admin.createNamespace())
      const token = yield* Effect.promise(async () => {
        const token = await cluster.admin.createCandidateAccount(namespace, "any")
        await cluster.admin.putRole(namespace, "candidate", [
          { apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["create", "get", "patch", "watch"] }
        ])
        return token
      })
      const client = yield* Layer.build(
        KubernetesClient.layerServer({ server: cluster.url, token: Redacted.make(token), ca: cluster.ca! })
      )
      const ports: Record<string, number> = {}
      const campaign = <A, E>(effect: Effect.Effect<A, E>) => Effect.forkIn(effect, campaigns)

      /** A replica, not campaigning yet. */
      const start = Effect.fnUntraced(function*(
        name: string,
        identity: string,
        store: Effect.Effect<LeaseStore.LeaseStore["Service"], never, Scope.Scope> = Effect.provideContext(
          KubernetesLeaseStore.make,
          client
        )
      ) {
        const base = yield* store
        // Elections on one Lease in one process must be on different servers: here each stands for a process.
        const faults = yield* LeaseFaults.make({ ...base, server: `${base.server}#${identity}` })
        const made = yield* replica(faults.store, { namespace, name, identity })
        ports[`${name}-${identity}`] = made.port
        const lead = <A, E>(program: Effect.Effect<A, E>) =>
          made.run(LeaderElection.whileLeadingForever(program)).pipe(
            Effect.provideService(LeaderElection.LeaderElection, made.election)
          )
        return { ...made, faults, lead }
      })

      /** Two replicas, the first of which leads. */
      const pair = Effect.fnUntraced(function*(name: string) {
        const a = yield* start(name, "a")
        const b = yield* start(name, "b")
        const leading = yield* campaign(a.lead(Effect.never))
        yield* Effect.promise(() =>
          eventually(
            `a leads on ${name}`,
            async () => (await Effect.runPromise(a.election.status))._tag === "Leading",
            20_000
          )
        )
        yield* campaign(b.lead(Effect.never))
        return { a, b, leading }
      })

      const healthy = yield* pair("healthy")
      const cut = yield* pair("cut")
      const slow = yield* pair("slow")
      yield* pair("twice")
      const gone = yield* pair("gone")
      const flapping = yield* start("flapping", "a")
      const overrun = yield* start("overrun", "a")
      yield* campaign(Effect.exit(overrun.lead(Effect.uninterruptible(Effect.sleep("20 seconds")))))
      const elsewhere = yield* start(
        "twice",
        "c",
        Effect.flatMap(MemoryCluster.make(), (cluster) => MemoryLeaseStore.make(cluster))
      )

      const rules = yield* Effect.promise(() =>
        readFile(fileURLToPath(new URL("../../docs/alerts/prometheus-rules.yaml", import.meta.url)), "utf8")
      )
      const { firing } = yield* prometheus(ports, { rules: faster(rules) })
      const seen = new Set<string>()
      const until = (alert: string, fires: boolean, timeout = 90_000) =>
        Effect.promise(() =>
          eventually(`${alert} ${fires ? "fires" : "clears"}`, async () => {
            const now = await firing()
            for (const one of now) seen.add(one)
            return now.includes(alert) === fires
          }, timeout)
        )
      const firesAndClears = Effect.fnUntraced(function*(alert: string, repair: Effect.Effect<unknown>) {
        yield* until(alert, true)
        yield* repair
        yield* until(alert, false)
      })

      // Nothing fires where a leader has led for a while. That nobody campaigns for one Lease is no quiet matter.
      yield* Effect.sleep("8 seconds")
      yield* until("LeaderElectionNoLeader flapping", true)
      assert.deepStrictEqual(yield* Effect.promise(firing), ["LeaderElectionNoLeader flapping"])

      yield* Effect.all([
        // Neither replica reaches the API server: the term is lost, and nobody takes over.
        Effect.gen(function*() {
          yield* cut.a.faults.refuse
          yield* cut.b.faults.refuse
          yield* firesAndClears(
            "LeaderElectionNoLeader cut",
            Effect.andThen(cut.a.faults.restore, cut.b.faults.restore)
          )
        }),
        firesAndClears("LeaderElectionLosses cut", Effect.void),
        Effect.gen(function*() {
          yield* slow.a.faults.set({ patch: Fault.delayAnswer("1300 millis") })
          yield* firesAndClears("LeaderElectionRenewalsSlow slow", slow.a.faults.clear)
        }),
        // A process that talks to another cluster has the same Lease there.
        Effect.gen(function*() {
          const fiber = yield* campaign(elsewhere.lead(Effect.never))
          yield* firesAndClears("LeaderElectionTwoLeaders twice", Fiber.interrupt(fiber))
        }),
        Effect.gen(function*() {
          yield* gone.a.stopServing
          yield* gone.b.stopServing
          yield* firesAndClears("LeaderElectionNoReplicas gone", Effect.void)
        }),
        Effect.gen(function*() {
          const fiber = yield* campaign(Effect.forever(flapping.lead(Effect.sleep("500 millis"))))
          yield* firesAndClears("LeaderElectionFlapping flapping", Fiber.interrupt(fiber))
        }),
        Effect.gen(function*() {
          yield* overrun.faults.refuse
          yield* firesAndClears("LeaderElectionOverrun overrun", overrun.faults.restore)
        })
      ], { concurrency: "unbounded", discard: true })

      yield* Effect.promise(() => eventually("all clear", async () => (await firing()).length <= 1, 60_000))
      assert.strictEqual((yield* healthy.a.election.status)._tag, "Leading")
      // What follows from the same causes, and nothing else. A Lease that nobody campaigns for has no leader.
      const expected = new Set([
        "LeaderElectionFlapping flapping",
        "LeaderElectionLosses cut",
        "LeaderElectionLosses overrun",
        "LeaderElectionNoLeader cut",
        "LeaderElectionNoLeader flapping",
        "LeaderElectionNoLeader overrun",
        "LeaderElectionNoReplicas gone",
        "LeaderElectionOverrun overrun",
        "LeaderElectionRenewalsSlow slow",
        "LeaderElectionTwoLeaders twice"
      ])
      assert.deepStrictEqual([...seen].filter((alert) => !expected.has(alert)), [])
    })
  ), 240_000)
