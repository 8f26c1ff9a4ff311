import { assert, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { MemoryCluster, MemoryLeaseStore } from "effect-kubernetes-leader-election/testing"
import { readFile } from "node:fs/promises"
import { fileURLToPath } from "node:url"
import { eventually } from "../cluster/utils/Testing.ts"
import { prometheus, run, skipWithout } from "./support/daemons.ts"
import { replica } from "./support/replica.ts"

const alerts = (name: string) => fileURLToPath(new URL(`../../docs/alerts/${name}`, import.meta.url))

it("promtool accepts the rules, and their unit tests pass", (context) => {
  skipWithout(context, "promtool")
  assert.include(run("promtool", ["check", "rules", alerts("prometheus-rules.yaml")]), "SUCCESS: 9 rules found")
  assert.include(run("promtool", ["test", "rules", alerts("prometheus-rules.test.yaml")]), "SUCCESS")
})

/** Two replicas; one leads, the other has taken over from it. */
const twoReplicas = Effect.gen(function*() {
  const cluster = yield* MemoryCluster.make()
  const start = Effect.fnUntraced(function*(identity: string) {
    const store = yield* MemoryLeaseStore.make(cluster, { name: identity })
    const made = yield* replica(store, { identity })
    const fiber = yield* Effect.forkChild(made.run(made.election.whileLeading(Effect.never)))
    yield* Effect.promise(() =>
      eventually("it takes part", async () => (await Effect.runPromise(made.election.status))._tag !== "Idle")
    )
    return { ...made, fiber }
  })
  return [yield* start("a"), yield* start("b")] as const
})

it.live("promtool finds nothing to say against the metrics", (context) =>
  Effect.gen(function*() {
    skipWithout(context, "promtool")
    const [a] = yield* twoReplicas
    // Renewals, a failure and a term's end as well, so that all series are there.
    yield* Effect.sleep("5500 millis")
    yield* Fiber.interrupt(a.fiber)
    const text = yield* a.text
    assert.include(text, "leader_running_total{")
    assert.include(text, "leader_election_renewal_duration_seconds_bucket{")
    assert.strictEqual(run("promtool", ["check", "metrics"], text), "")
  }))

it.live(
  "Prometheus scrapes them; each query of the dashboard and of the rules finds what it is about",
  (context) =>
    Effect.gen(function*() {
      skipWithout(context, "prometheus")
      const [a, b] = yield* twoReplicas
      const { query } = yield* prometheus({ a: a.port, b: b.port })
      yield* Effect.promise(() =>
        eventually("both are scraped", async () => {
          const found = await query("leader_election_leader")
          return found.length === 2 && found.find(({ labels }) => labels["instance"] === "a")?.value === 1
        }, 20_000)
      )
      // Two renewals, then a handover while it is scraped.
      yield* Effect.sleep("11 seconds")
      yield* Fiber.interrupt(a.fiber)
      yield* Effect.sleep("6 seconds")

      yield* Effect.promise(async () => {
        const value = async (expression: string) => (await query(expression))[0]?.value
        assert.strictEqual(await value("sum(leader_election_leader)"), 1)
        assert.strictEqual(await value("sum(leader_election_terms_total)"), 2)
        assert.strictEqual(await value(`sum(leader_election_takeovers_total{cause="released"})`), 1)
        assert.isAtLeast((await value("sum(leader_running_total)"))!, 4)

        const dashboard = JSON.parse(await readFile(alerts("grafana-dashboard.json"), "utf8"))
        const expressions: Array<string> = dashboard.panels.flatMap(({ targets }: any) =>
          targets.map(({ expr }: any) => expr)
        )
        assert.isAbove(expressions.length, 12)
        for (const expression of expressions) {
          const found = await query(
            expression.replaceAll("$lease", "default/demo").replaceAll("$__rate_interval", "30s")
          )
          // Of these there is nothing to show while all is well, without a network, and without shards.
          const empty = /failed_attempts|requests_total|leader_shards/.test(expression)
          assert.strictEqual(found.length > 0, !empty, expression)
        }
      })
    }),
  60_000
)
