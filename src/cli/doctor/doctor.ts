/**
 * `effect-kubernetes-leader-election doctor`: whether an election can work here, and if not, why.
 *
 * @internal
 */
import * as Command from "effect/cli/Command"
import * as Console from "effect/Console"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Result from "effect/Result"
import { format } from "../../DurationText.ts"
import { KubernetesClient } from "../../kubernetes/KubernetesClient.ts"
import type { KubernetesConfigError } from "../../kubernetes/KubernetesError.ts"
import * as LeaderElectionConfig from "../../LeaderElectionConfig.ts"
import type { LeaderElectionError } from "../../LeaderElectionError.ts"
import { formatKey } from "../../LeaseRecord.ts"
import { exitCodes } from "../shared/exitCodes.ts"
import { CommandFailure } from "../shared/failure.ts"
import { flagsOf, rename } from "../shared/givenAs.ts"
import * as Options from "../shared/options.ts"
import { block } from "../shared/printable.ts"
import { paint } from "../shared/timeline.ts"
import * as Screen from "../shared/timelineScreen.ts"
import * as Checks from "./checks.ts"
import { watch } from "./watchCheck.ts"

const problemsOf = ({ message, reason }: LeaderElectionError): ReadonlyArray<string> =>
  reason._tag === "InvalidSettings" ? reason.problems : [message]

/** The settings, with what is wrong with them and what is unwise. */
const checkSettings = Effect.fnUntraced(function*(
  input: LeaderElectionConfig.Input,
  client: KubernetesClient["Service"] | undefined
) {
  const warnings: Array<string> = []
  const collect = Logger.layer([Logger.make(({ logLevel, message }) => {
    if (logLevel === "Warn") warnings.push(String(Array.isArray(message) ? message.join(" ") : message))
  })])
  const result = yield* LeaderElectionConfig.make(input).pipe(
    Effect.provideService(LeaderElectionConfig.CredentialsNamespace, client?.namespace),
    Effect.provideService(LeaderElectionConfig.CredentialsOrigin, client?.origin ?? "pod"),
    Effect.provide(collect),
    Effect.mapError(rename(flagsOf(input))),
    Effect.result
  )
  const checks: ReadonlyArray<Checks.Check> = Result.isFailure(result)
    ? problemsOf(result.failure).map((found): Checks.Check => ({ name: "settings", outcome: "failed", found }))
    : [
      {
        name: "settings",
        outcome: "passed",
        found: `Lease ${formatKey(result.success)} as ${result.success.identity}; ${durations(result.success)}`
      },
      ...warnings.map((found): Checks.Check => ({ name: "settings", outcome: "warning", found }))
    ]
  return { checks, settings: Result.isFailure(result) ? undefined : result.success }
})

const durations = (settings: LeaderElectionConfig.Settings): string =>
  (["leaseDuration", "renewInterval", "renewDeadline", "retryPeriod", "requestTimeout"] as const)
    .map((name) => `${name} ${format(settings[name])}`).join(", ")

/** Longer than any event takes where nothing holds it back. */
const watchLimit = Duration.seconds(5)

const signs: Record<Checks.Check["outcome"], { readonly text: string; readonly color: string }> = {
  passed: { text: "ok", color: "32" },
  failed: { text: "FAILED", color: "31" },
  warning: { text: "warning", color: "33" },
  unknown: { text: "unknown", color: "36" }
}

const show = ({ found, name, outcome, remedy }: Checks.Check, colors: boolean): string => {
  const { color, text } = signs[outcome]
  const indented = block([found, ...(remedy === undefined ? [] : [remedy])].join("\n")).replaceAll(
    "\n",
    `\n${" ".repeat(27)}`
  )
  return `${paint(text.padEnd(8), color, colors)} ${name.padEnd(17)} ${indented}`
}

export const doctor = Effect.fnUntraced(
  function*(
    layerClient: Layer.Layer<KubernetesClient, KubernetesConfigError>,
    input: LeaderElectionConfig.Input
  ) {
    const { colors } = yield* Screen.abilities
    const all: Array<Checks.Check> = []
    const print = (checks: ReadonlyArray<Checks.Check>) => {
      all.push(...checks)
      return Effect.forEach(checks, (check) => Console.log(show(check, colors)), { discard: true })
    }

    const built = yield* Effect.result(Layer.build(layerClient))
    const client = Result.isSuccess(built) ? Context.get(built.success, KubernetesClient) : undefined
    const { checks, settings } = yield* checkSettings(input, client)
    yield* print(checks)
    if (Result.isFailure(built)) {
      yield* print([{ name: "credentials", outcome: "failed", found: built.failure.message }])
    }

    if (client !== undefined) {
      yield* Effect.gen(function*() {
        const timeout = settings === undefined ? undefined : Duration.toMillis(settings.requestTimeout)
        const server = yield* Checks.server(timeout)
        yield* print(server.checks)
        if (!server.reachable) {
          return
        }
        const credentials = yield* Checks.credentials
        yield* print(credentials.checks)
        if (settings === undefined || credentials.checks.some(({ outcome }) => outcome === "failed")) {
          return
        }
        const rights = yield* Checks.rights(settings)
        yield* print(rights)
        const lease = yield* Checks.lease(settings)
        yield* print(lease.checks)
        const mayWatch = rights.some(({ name, outcome }) => name === "right to watch" && outcome === "passed")
        if (!settings.watch) {
          yield* print([{
            name: "watch",
            outcome: "passed",
            found: `not used: candidates poll every ${
              format(settings.retryPeriod)
            }, and notice a handover that much later`
          }])
        } else if (mayWatch) {
          yield* print([yield* watch(settings, lease.record !== undefined, watchLimit)])
        }
        yield* print(yield* Checks.pods(settings, lease.record, credentials.tokenPod))
      }).pipe(Effect.provideService(KubernetesClient, client))
    }

    const failed = all.filter(({ outcome }) => outcome === "failed").length
    if (failed > 0) {
      return yield* new CommandFailure({
        exitCode: exitCodes.failure,
        message: `${failed} of ${all.length} checks failed`
      })
    }
  },
  Effect.scoped
)

export const command = Command.make(
  "doctor",
  { ...Options.settings, ...Options.connection },
  (options) => doctor(Options.layerClient(options), options)
).pipe(
  Command.withShortDescription("Check whether an election can work here"),
  Command.withDescription(
    "Check whether an election can work here: settings, credentials, the API server and its latency, each right, the\n" +
      "clock, the Lease and its owner, and whether the events of a watch arrive. Run it where the candidates run, with\n" +
      "their environment, to check theirs. Changes nothing. Ends with 0 if nothing failed; warnings do not count."
  ),
  Command.withExamples([
    {
      command: "effect-kubernetes-leader-election doctor --name invoices",
      description: "From a workstation, with the current kubeconfig"
    },
    {
      command: "kubectl exec deploy/invoices -- effect-kubernetes-leader-election doctor",
      description: "With the rights and the environment of a Pod"
    }
  ])
)
