import { assert, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Metric, Scope } from "effect"
import { LeaderElection, LeaderElectionConfig } from "effect-kubernetes-leader-election"
import { MemoryLeaseStore } from "effect-kubernetes-leader-election/testing"
import { FetchHttpClient } from "effect/http"
import { Otlp } from "effect/observability"
import { eventually } from "../cluster/utils/Testing.ts"
import { collector, skipWithout } from "./support/daemons.ts"

it.live("a collector gets metrics, logs and spans from one layer of Effect's", (context) =>
  Effect.gen(function*() {
    skipWithout(context, "go")
    const { baseUrl, output } = yield* collector
    const scope = yield* Scope.make()
    const services = yield* Layer.buildWithScope(
      Otlp.layerJson({ baseUrl, resource: { serviceName: "invoices" }, metricsExportInterval: "500 millis" }).pipe(
        Layer.provide(FetchHttpClient.layer),
        Layer.provideMerge(Layer.succeed(Metric.MetricRegistry, new Map()))
      ),
      scope
    )
    const program = Effect.gen(function*() {
      const election = yield* LeaderElection.make
      const fiber = yield* Effect.forkChild(election.whileLeading(Effect.never))
      yield* Effect.sleep("5500 millis")
      yield* Fiber.interrupt(fiber)
    }).pipe(
      Effect.scoped,
      Effect.provide(MemoryLeaseStore.layerMemory()),
      Effect.provideService(LeaderElectionConfig.LeaderElectionConfig, {
        ...LeaderElectionConfig.defaults,
        namespace: "default",
        name: "demo",
        identity: "web-1",
        pod: undefined,
        newLease: "lead"
      })
    )
    yield* Effect.provideContext(program, services)
    yield* Scope.close(scope, Exit.void)
    const text = yield* Effect.promise(() =>
      eventually("the last spans", async () => output().includes("LeaderElection.release") && output())
    )
    assert.include(text, "service.name: Str(invoices)")
    for (
      const name of [
        "leader_running",
        "leader_election_leader",
        "leader_election_terms_total",
        "leader_election_renewal_duration_seconds"
      ]
    ) {
      assert.match(text, new RegExp(`-> Name: ${name}\\n`))
    }
    for (const span of ["acquire", "term", "renew", "release"]) {
      assert.match(text, new RegExp(`Name +: LeaderElection\\.${span}\\n`))
    }
    for (const line of ["Became leader (created)", "Stopped leading: its program has ended", "Released the Lease"]) {
      assert.include(text, `Body: Str(${line})`)
    }
    assert.include(text, "identity: Str(web-1)")
    // The renewal is linked to its term.
    assert.include(text, "SpanLink #0")
  }), 180_000)
