/**
 * A process that takes part in an election and serves its metrics, as a user's program wires them: here, several in one
 * process, each with a registry of its own.
 */
import { NodeHttpServer } from "@effect/platform-node"
import { Context, Effect, Exit, Layer, Metric, Scope } from "effect"
import { EventLoopMonitor, LeaderElection, LeaderElectionConfig, LeaseStore } from "effect-kubernetes-leader-election"
import { HttpRouter, HttpServer } from "effect/http"
import { PrometheusMetrics } from "effect/observability"
import { createServer } from "node:http"

/** The gem's counter has no `_total`, which Prometheus wants of counters. */
export const metricNameMapper = (name: string) => name === "leader_running" ? "leader_running_total" : name

export const replica = Effect.fnUntraced(function*(
  store: LeaseStore.LeaseStore["Service"],
  input: Partial<LeaderElectionConfig.Settings> & { readonly identity: string }
) {
  const context = Context.make(Metric.MetricRegistry, new Map())
  const election = yield* LeaderElection.make.pipe(
    Effect.provideService(LeaderElectionConfig.LeaderElectionConfig, {
      ...LeaderElectionConfig.defaults,
      namespace: "default",
      name: "demo",
      pod: undefined,
      newLease: "lead",
      ...input
    }),
    Effect.provideService(LeaseStore.LeaseStore, store),
    Effect.provideContext(context)
  )
  // Like the process: when it goes, its metrics can no longer be scraped.
  const scope = yield* Scope.fork(yield* Scope.Scope)
  const served = yield* HttpRouter.serve(PrometheusMetrics.layerHttp({ path: "/metrics", metricNameMapper }), {
    disableListenLog: true,
    disableLogger: true
  }).pipe(
    Layer.merge(EventLoopMonitor.layer()),
    Layer.provideMerge(NodeHttpServer.layer(createServer, { port: 0, host: "127.0.0.1" })),
    Layer.buildWithScope(scope),
    Effect.provideContext(context)
  )
  const { address } = Context.get(served, HttpServer.HttpServer)
  return {
    election,
    port: address._tag === "UnixPathAddress" ? 0 : address.port,
    text: Effect.provideContext(PrometheusMetrics.format({ metricNameMapper }), context),
    run: Effect.provideContext(context),
    stopServing: Scope.close(scope, Exit.void)
  }
})
