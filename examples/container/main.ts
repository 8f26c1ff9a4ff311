/**
 * The program of the image: sends invoices while it leads, and answers the
 * probes of Kubernetes whether it leads or not.
 *
 * It shows
 *
 * - the election with everything from the Pod's environment (deployment.yaml);
 * - liveness that fails only where the program runs on although its term has
 *   been over for long, and readiness that does not depend on leading.
 *
 * See Dockerfile for how to build and deploy it; outside a cluster, with a
 * kubeconfig:
 *
 *     LEADER_ELECTION_NAME=invoices node main.ts
 */
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { Config, Effect, Layer, Logger, Schedule } from "effect"
import {
  EventLoopMonitor,
  LeaderElection,
  LeaderElectionLive,
  LeaderHealth,
  Leadership
} from "effect-kubernetes-leader-election"
import { HttpRouter } from "effect/http"
import { createServer } from "node:http"

const sendInvoices = Effect.gen(function*() {
  const leadership = yield* Leadership
  yield* leadership.ensure
  // Here: the work, with the token where the resource can compare it; see ../effect-worker.ts.
  yield* Effect.log(`Sends invoices with token ${leadership.fencingToken}`)
}).pipe(Effect.repeat(Schedule.spaced("1 second")))

const ProbesLive = HttpRouter.serve(LeaderHealth.layerRoutes()).pipe(
  Layer.provide(NodeHttpServer.layerConfig(createServer, {
    port: Config.Port("PORT").pipe(Config.withDefault(8080))
  }))
)

// One election for the program and the probes. The probes go last: they answer until the Lease is released.
const MainLive = Layer.mergeAll(ProbesLive, EventLoopMonitor.layer()).pipe(
  Layer.provideMerge(LeaderElectionLive),
  Layer.provideMerge(Logger.layer([Logger.consoleJson]))
)

NodeRuntime.runMain(LeaderElection.whileLeadingForever(sendInvoices).pipe(Effect.provide(MainLive)))
