/**
 * The program of `effect-kubernetes-leader-election candidate` in a Pod that is none: the service account's files are where
 * SERVICE_ACCOUNT_DIRECTORY says. Without it, the credentials are those of the kubeconfig.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Config from "effect/Config"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import { candidate } from "../../../src/cli/run/candidate.ts"
import { logger } from "../../../src/cli/shared/log.ts"
import * as DurationText from "../../../src/internal/duration.ts"
import * as KubernetesClient from "../../../src/kubernetes/KubernetesClient.ts"
import * as KubernetesLeaderElection from "../../../src/kubernetes/KubernetesLeaderElection.ts"
import * as KubernetesLeaseStore from "../../../src/kubernetes/KubernetesLeaseStore.ts"
import * as LeaderElection from "../../../src/LeaderElection.ts"
import * as SuspendWitness from "../../../src/SuspendWitness.ts"

const duration = (name: string, fallback: Duration.Duration) =>
  Effect.map(Config.option(Config.String(name)), (value) =>
    Option.match(value, {
      onNone: () => fallback,
      onSome: (text) => DurationText.parse(text) ?? fallback
    }))

const main = Effect.gen(function*() {
  const directory = Option.getOrUndefined(yield* Config.option(Config.String("SERVICE_ACCOUNT_DIRECTORY")))
  const client = directory === undefined
    ? KubernetesClient.layer
    : KubernetesClient.layerInCluster({ directory })
  const election = LeaderElection.layer().pipe(
    Layer.provide(KubernetesLeaseStore.layer),
    Layer.provide(KubernetesLeaderElection.layerCredentials),
    Layer.provide(client),
    Layer.provide(SuspendWitness.layerNode)
  )
  return yield* candidate({
    step: yield* duration("STEP", Duration.millis(50)),
    journal: Option.getOrUndefined(yield* Config.option(Config.String("JOURNAL"))),
    ending: yield* duration("ENDING", Duration.zero),
    block: yield* duration("BLOCK", Duration.zero)
  }).pipe(Effect.provide(election))
})

NodeRuntime.runMain(
  main.pipe(
    Effect.tapError((error) => Effect.logError(error.message)),
    // Lines on stdout are events and nothing else.
    Effect.provide(Logger.layer([logger("text")]))
  ),
  { disableErrorReporting: true }
)
