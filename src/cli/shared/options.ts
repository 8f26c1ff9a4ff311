/**
 * The options that several commands share: the settings of an election, each by
 * its own name, and where the cluster is. What is not given comes from the
 * environment.
 *
 * @internal
 */
import * as Argument from "effect/cli/Argument"
import * as Flag from "effect/cli/Flag"
import * as GlobalFlag from "effect/cli/GlobalFlag"
import * as Config from "effect/Config"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import { isIPv6 } from "node:net"
import { examples, parse } from "../../DurationText.ts"
import * as KubernetesClient from "../../kubernetes/KubernetesClient.ts"
import type { KubernetesConfigError } from "../../kubernetes/KubernetesError.ts"
import * as KubernetesLeaderElection from "../../kubernetes/KubernetesLeaderElection.ts"
import { OptionalPackages } from "../../kubernetes/OptionalPackages.ts"
import * as LeaderElection from "../../LeaderElection.ts"
import * as LeaderElectionConfig from "../../LeaderElectionConfig.ts"
import type { LeaderElectionError } from "../../LeaderElectionError.ts"
import { exitCodes } from "./exitCodes.ts"
import { CommandFailure } from "./failure.ts"
import { flagsOf, rename } from "./givenAs.ts"
import type { Format } from "./log.ts"
import { load } from "./optionalPackages.ts"

const optional = <A>(flag: Flag.Flag<A>): Flag.Flag<A | undefined> =>
  Flag.map(Flag.optional(flag), Option.getOrUndefined)

/** A text. An empty one is refused: it comes from a variable that is not set, and nothing else has asked for it. */
export const filled = (name: string, metavar: string, description: string): Flag.Flag<string> =>
  Flag.String(name).pipe(
    Flag.withMetavar(metavar),
    Flag.withDescription(description),
    Flag.filter((given) => given !== "", () => `${metavar}, or leave the option out`)
  )

/** An optional text. */
export const text = (name: string, metavar: string, description: string): Flag.Flag<string | undefined> =>
  optional(filled(name, metavar, description))

/** An optional duration: `15s`, `1m30s`, `15 seconds`, or plain seconds. */
export const duration = (name: string, description: string): Flag.Flag<Duration.Duration | undefined> =>
  optional(
    Flag.String(name).pipe(
      Flag.withMetavar("DURATION"),
      Flag.withDescription(description),
      Flag.filterMap(
        (given) => Option.fromNullishOr(parse(given)),
        () => `a duration, such as ${examples}`
      )
    )
  )

/** A whole number from `least` to `most`, where there is one. */
export const whole = (
  name: string,
  metavar: string,
  { least, most, noun }: { readonly least: number; readonly most?: number; readonly noun: string }
): Flag.Flag<number> =>
  Flag.String(name).pipe(
    Flag.withMetavar(metavar),
    Flag.filterMap(
      (given) =>
        /^\d+$/.test(given) && Number(given) >= least && Number(given) <= (most ?? Number.MAX_SAFE_INTEGER)
          ? Option.some(Number(given))
          : Option.none(),
      () => most === undefined ? `${noun}, ${least} or more` : `${noun}, from ${least} to ${most}`
    )
  )

/** A TCP port to listen on; 0 is a free one. */
export const port = (name: string): Flag.Flag<number> => whole(name, "PORT", { least: 0, most: 65535, noun: "a port" })

/** The Lease that a command is about: its argument, or the variable of the candidates. */
export const leaseName = Argument.String("NAME").pipe(
  Argument.withDescription("Name of the Lease (else LEADER_ELECTION_NAME)"),
  Argument.filter((given) => given !== "", () => "the name of a Lease"),
  Argument.optional
)

const usage = (message: string): CommandFailure => new CommandFailure({ message, exitCode: exitCodes.usage })

/** Fails where `name` cannot be the name of a Lease; `calledAs` is how it was given, where no variable gave it. */
export const checkName = (name: string, calledAs?: string): Effect.Effect<string, LeaderElectionError> =>
  LeaderElectionConfig.make({ name, namespace: "default" }).pipe(
    Effect.provideService(LeaderElectionConfig.ReadsEnvironment, false),
    Effect.mapError(rename({ name: calledAs })),
    Effect.as(name)
  )

/** What {@link leaseName} names. */
export const resolveName = (
  given: Option.Option<string>
): Effect.Effect<string, CommandFailure | LeaderElectionError> =>
  Option.isSome(given)
    ? checkName(given.value, "NAME")
    : Effect.flatMap(
      Effect.orElseSucceed(Config.option(Config.String(LeaderElectionConfig.variables.name)), Option.none<string>),
      (variable): Effect.Effect<string, CommandFailure | LeaderElectionError> =>
        Option.isSome(variable) && variable.value !== ""
          ? checkName(variable.value)
          : Effect.fail(usage(`no Lease is named: give NAME, or set ${LeaderElectionConfig.variables.name}`))
    )

const groupName = /^[a-z0-9](?:[-a-z0-9.]{0,61}[a-z0-9])?$/

/** A group of shards, whose name is a label. */
export const group = (description: string): Flag.Flag<string | undefined> =>
  optional(
    Flag.String("group").pipe(
      Flag.withMetavar("GROUP"),
      Flag.withDescription(description),
      Flag.filter(
        (given) => groupName.test(given),
        () => `the name of a group, at most 63 small letters, digits, "-" and ".", such as tenants`
      )
    )
  )

/** The namespace, for commands that look at Leases without taking part. */
export const namespace = text(
  "namespace",
  "NAMESPACE",
  "Namespace of the Lease (LEADER_ELECTION_NAMESPACE, --kubeconfig's or KUBECONFIG's, POD_NAMESPACE, or the credentials')"
).pipe(Flag.withAlias("n"))

/** Where the cluster is: for every command that makes requests. */
export const connection = {
  kubeconfig: text("kubeconfig", "FILE", "Kubeconfig (else KUBECONFIG, the Pod's service account, or ~/.kube/config)"),
  context: text("context", "NAME", "Context of the kubeconfig (else its current one)")
}

/** What {@link connection} gives. */
export interface Connection {
  readonly kubeconfig: string | undefined
  readonly context: string | undefined
}

/** The settings of an election: for every command that takes part. Named as the settings are, so that they are an input. */
export const settings = {
  name: text("name", "LEASE", "Name of the Lease, the same for all replicas (LEADER_ELECTION_NAME)"),
  namespace,
  identity: text("identity", "TEXT", "Stands in the Lease as its holder (LEADER_ELECTION_IDENTITY, or <Pod>_<uid>)"),
  leaseDuration: duration("lease-duration", "How long the others wait for a leader that is silent (default 15s)"),
  renewInterval: duration("renew-interval", "From one renewal to the next (default leaseDuration / 3)"),
  renewDeadline: duration("renew-deadline", "Without renewal for this long, leadership is lost (default ⅔)"),
  retryPeriod: duration(
    "retry-period",
    "From a failed attempt to the next (default leaseDuration × 2/15, at most 10s)"
  ),
  requestTimeout: duration(
    "request-timeout",
    "Without an answer for this long, the next attempt begins (default retryPeriod)"
  ),
  newLease: optional(
    Flag.Literals("new-lease", ["wait", "lead"]).pipe(
      Flag.withDescription("Lead on a Lease younger than leaseDuration: wait (safe, default), or lead at once")
    )
  ),
  watch: optional(
    Flag.Boolean("watch").pipe(
      Flag.withDescription("Watch the Lease (default); --no-watch polls it every retryPeriod")
    )
  ),
  candidates: optional(
    whole("candidates", "NUMBER", { least: 1, noun: "a number of candidates" }).pipe(
      Flag.withDescription("About how many share the Lease, where that is a crowd (LEADER_ELECTION_CANDIDATES)")
    )
  )
}

const hostAndPort = /^(?:\[([^\]\s]+)\]|([^:\s]+))(?::(\d{1,5}))?$/

/** Reads `host`, `host:port`, `[address]:port`, or an IPv6 address as it is: with two colons or more there is no port. */
export const parseHostAndPort = (
  given: string
): { readonly host: string; readonly port: number | undefined } | undefined => {
  if (isIPv6(given)) {
    return { host: given, port: undefined }
  }
  const [, inBrackets, plain, port] = hostAndPort.exec(given) ?? []
  const host = inBrackets ?? plain
  const number = port === undefined ? undefined : Number(port)
  return host === undefined || (number !== undefined && (number < 1 || number > 65535))
    ? undefined
    : { host, port: number }
}

/** Where metrics go: for every command that takes part. */
export const statsd = optional(
  Flag.String("statsd").pipe(
    Flag.withMetavar("HOST[:PORT]"),
    Flag.withDescription("Send the metrics to a StatsD server (default port 8125; STATSD_DIALECT=dogstatsd)"),
    Flag.filterMap(
      (given) => Option.fromNullishOr(parseHostAndPort(given)),
      () => "a host, with or without a port, such as statsd.monitoring:8125, or [fd00::1]:8125"
    )
  )
)

/** The StatsD server that {@link statsd} names. */
export const layerStatsD = (
  server: { readonly host: string; readonly port: number | undefined } | undefined
): Layer.Layer<never, CommandFailure> =>
  server === undefined
    ? Layer.empty
    : Layer.unwrap(
      Effect.promise(() => import("../../StatsD.ts")).pipe(
        Effect.map((StatsD) => StatsD.layer(server))
      )
    ).pipe(
      Layer.catchTag("ConfigError", (error) =>
        Layer.effectDiscard(
          Effect.fail(usage(error.cause.message))
        ))
    )

/** The log's format, for all commands. */
export const LogFormat = GlobalFlag.Setting("log")<Format>({
  flag: Flag.Literals("log", ["text", "json"]).pipe(
    Flag.withDefault("text"),
    Flag.withDescription("Format of the log on stderr: text, or one JSON object a line")
  )
})

/** The connection that the options name. */
export const layerClient = (
  options: Connection
): Layer.Layer<KubernetesClient.KubernetesClient, KubernetesConfigError> =>
  (options.kubeconfig === undefined && options.context === undefined
    ? KubernetesClient.layer
    : KubernetesClient.layerKubeconfig({ file: options.kubeconfig, context: options.context })).pipe(
      Layer.provide(Layer.succeed(OptionalPackages, load))
    )

/** The namespace that a command looks at: as {@link LeaderElectionConfig.make} has it. */
export const resolveNamespace = (
  given: string | undefined
): Effect.Effect<string, CommandFailure | LeaderElectionError, KubernetesClient.KubernetesClient> =>
  LeaderElectionConfig.namespace(given).pipe(
    Effect.provide(KubernetesLeaderElection.layerCredentials),
    Effect.mapError(rename(flagsOf({ namespace: given }))),
    Effect.filterOrFail(
      (namespace) => namespace !== undefined,
      () => usage("no namespace is given, and the credentials have none: say --namespace")
    )
  )

/** The election that the options name. */
export const layerElection = (
  options: Connection & LeaderElectionConfig.Input
): Layer.Layer<LeaderElection.LeaderElection, LeaderElectionError | KubernetesConfigError> =>
  KubernetesLeaderElection.layer(options).pipe(
    Layer.catchTag(
      "LeaderElectionError",
      (error) => Layer.effect(LeaderElection.LeaderElection, Effect.fail(rename(flagsOf(options))(error)))
    ),
    Layer.provide(layerClient(options))
  )
