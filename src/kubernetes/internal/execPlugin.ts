/**
 * Exec plugins: programs that a kubeconfig names to get credentials from, by the rules of client-go.
 *
 * What a plugin prints on stderr goes to this process's own, as it comes: it may say where to log in. What it prints on
 * stdout is credentials, and stands in no message.
 *
 * @internal
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { type ChildProcess, spawn } from "node:child_process"
import { isatty } from "node:tty"
import { format } from "../../internal/duration.ts"
import { KubernetesCredentialsError } from "../KubernetesError.ts"
import type { Exec } from "./kubeconfigFile.ts"

/** The cluster, for plugins that ask for it with `provideClusterInfo`. */
export interface ClusterInfo {
  readonly server: string
  readonly tlsServerName: string
  readonly insecure: boolean
  /** PEM. */
  readonly ca: string
  readonly proxyUrl: string
  readonly disableCompression: boolean
  readonly config: unknown
}

/** What a plugin gave. */
export interface PluginCredentials {
  readonly token: string | undefined
  readonly cert: string | undefined
  readonly key: string | undefined
  /** When they expire: Unix milliseconds. */
  readonly expiry: number | undefined
}

/** How long a plugin may take: longer where somebody may have to log in. */
const limits = { alone: Duration.seconds(60), interactive: Duration.minutes(5) }

const maxOutput = 1024 * 1024

/** Whether the plugin gets this process's standard input. Fails where it must have a terminal, and there is none. */
export const isInteractive = (
  exec: Exec,
  hasTerminal: boolean
): Result.Result<boolean, string> =>
  exec.interactiveMode === "Always" && !hasTerminal
    ? Result.fail("needs a terminal (interactiveMode is Always), and standard input is not one")
    : Result.succeed(exec.interactiveMode !== "Never" && hasTerminal)

/** What stands in KUBERNETES_EXEC_INFO. */
export const execInfo = (exec: Exec, interactive: boolean, cluster: ClusterInfo): string =>
  JSON.stringify({
    kind: "ExecCredential",
    apiVersion: exec.apiVersion,
    spec: {
      ...(exec.provideClusterInfo && {
        cluster: {
          server: cluster.server,
          ...(cluster.tlsServerName !== "" && { "tls-server-name": cluster.tlsServerName }),
          ...(cluster.insecure && { "insecure-skip-tls-verify": true }),
          ...(cluster.ca !== "" && { "certificate-authority-data": Buffer.from(cluster.ca).toString("base64") }),
          ...(cluster.proxyUrl !== "" && { "proxy-url": cluster.proxyUrl }),
          ...(cluster.disableCompression && { "disable-compression": true }),
          ...(cluster.config !== undefined && cluster.config !== null && { config: cluster.config })
        }
      }),
      interactive
    }
  })

/** Runs the plugin. It is ended, with everything that it started, where it takes too long and when this is interrupted. */
export const run = Effect.fnUntraced(function*(
  exec: Exec,
  cluster: ClusterInfo
): Effect.fn.Return<PluginCredentials, KubernetesCredentialsError> {
  const interactive = isInteractive(exec, isatty(0))
  if (Result.isFailure(interactive)) {
    return yield* failed(exec, interactive.failure)
  }
  const limit = interactive.success ? limits.interactive : limits.alone
  const output = yield* start(exec, cluster, interactive.success).pipe(
    Effect.timeoutOrElse({
      duration: limit,
      orElse: () => failed(exec, `did not end within ${format(limit)}, and was killed`)
    })
  )
  const answer = read(exec, output)
  return Result.isFailure(answer) ? yield* failed(exec, answer.failure) : answer.success
})

const failed = (exec: Exec, what: string): KubernetesCredentialsError =>
  new KubernetesCredentialsError({ message: `the kubeconfig's exec plugin ${exec.command} ${what}` })

/** Gives what it printed. */
const start = (
  exec: Exec,
  cluster: ClusterInfo,
  interactive: boolean
): Effect.Effect<string, KubernetesCredentialsError> =>
  Effect.callback((resume) => {
    const child = spawn(exec.command, [...exec.args], {
      stdio: [interactive ? "inherit" : "ignore", "pipe", "inherit"],
      env: {
        ...process.env,
        ...Object.fromEntries(exec.env.map(({ name, value }) => [name, value])),
        KUBERNETES_EXEC_INFO: execInfo(exec, interactive, cluster)
      },
      // A group of its own, so that all of it can be ended. One that talks to somebody stays in the terminal's.
      detached: !interactive
    })
    const end = () => kill(child, interactive)
    process.once("exit", end)
    const chunks: Array<Buffer> = []
    let size = 0
    child.stdout?.on("data", (chunk: Buffer) => {
      size += chunk.length
      if (size > maxOutput) {
        end()
      } else {
        chunks.push(chunk)
      }
    })
    child.once("error", (cause: NodeJS.ErrnoException) => {
      process.off("exit", end)
      resume(failed(
        exec,
        (cause.code === "ENOENT" ? "was not found" : `cannot be run (${cause.code ?? "unknown error"})`) +
          (exec.installHint === "" ? "" : `:\n${printable(exec.installHint)}`)
      ))
    })
    child.once("close", (code, signal) => {
      process.off("exit", end)
      resume(
        size > maxOutput
          ? failed(exec, "printed more than 1 MiB")
          : code === 0
          ? Effect.succeed(Buffer.concat(chunks).toString("utf8"))
          : failed(
            exec,
            `ended with ${
              signal === null ? `exit code ${code}` : signal
            }; what it said about it stands above, on stderr`
          )
      )
    })
    return Effect.sync(() => {
      process.off("exit", end)
      end()
    })
  })

const kill = (child: ChildProcess, alone: boolean): void => {
  if (child.pid === undefined) {
    return
  }
  try {
    process.kill(alone ? child.pid : -child.pid, "SIGKILL")
  } catch {
    // It has ended.
  }
}

// A hint may hold anything, and goes to a terminal.
const printable = (text: string): string => text.replaceAll(/[^\P{C}\t\n]/gu, "")

const Answer = Schema.fromJsonString(Schema.Struct({
  apiVersion: Schema.String,
  kind: Schema.String,
  status: Schema.optional(Schema.NullOr(Schema.Struct({
    token: Schema.optional(Schema.NullOr(Schema.String)),
    clientCertificateData: Schema.optional(Schema.NullOr(Schema.String)),
    clientKeyData: Schema.optional(Schema.NullOr(Schema.String)),
    expirationTimestamp: Schema.optional(Schema.NullOr(Schema.String))
  })))
}))

const decode = Schema.decodeUnknownResult(Answer)

/** What the plugin's output says, or what is wrong with it, in words of our own. */
export const read = (exec: Exec, output: string): Result.Result<PluginCredentials, string> => {
  const decoded = decode(output)
  if (Result.isFailure(decoded) || decoded.success.kind !== "ExecCredential") {
    return Result.fail("did not print an ExecCredential")
  }
  const { apiVersion, status } = decoded.success
  if (apiVersion !== exec.apiVersion) {
    return Result.fail(`did not print an ExecCredential of ${exec.apiVersion}, as the kubeconfig says`)
  }
  const token = status?.token || undefined
  const cert = status?.clientCertificateData || undefined
  const key = status?.clientKeyData || undefined
  if (token === undefined && cert === undefined && key === undefined) {
    return Result.fail("printed neither a token nor a certificate")
  }
  if ((cert === undefined) !== (key === undefined)) {
    return Result.fail("printed a certificate without its key, or a key without its certificate")
  }
  const expiry = status?.expirationTimestamp ? Date.parse(status.expirationTimestamp) : undefined
  if (expiry !== undefined && Number.isNaN(expiry)) {
    return Result.fail("printed an expirationTimestamp that is not a valid time")
  }
  return Result.succeed({ token, cert, key, expiry })
}
