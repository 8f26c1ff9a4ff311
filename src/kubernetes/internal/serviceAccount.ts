/**
 * The service account of the Pod that this process runs in.
 *
 * @internal
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { readFileSync } from "node:fs"
import { readFile } from "node:fs/promises"
import { isIPv6 } from "node:net"
import { join } from "node:path"
import { KubernetesConfigError, KubernetesCredentialsError } from "../KubernetesError.ts"
import * as Credentials from "./credentials.ts"
import type { Tunnel } from "./dial.ts"

/** The place at which Kubernetes mounts them. */
export const defaultDirectory = "/var/run/secrets/kubernetes.io/serviceaccount"

/** How long a token and a CA are used before their files are read again; the kubelet replaces both in place. */
export const maxAge = Duration.seconds(10)

export interface Target {
  readonly server: string
  readonly namespace: string | undefined
  readonly credentials: Credentials.CredentialSource
  /** Where the server is reached through a proxy. */
  readonly tunnel?: Tunnel | undefined
}

export const make: (options: {
  readonly host: string
  readonly port: string | undefined
  readonly directory: string
}) => Effect.Effect<Target, KubernetesConfigError, Scope.Scope> = Effect.fnUntraced(function*(options) {
  const port = Number(options.port)
  if (options.port === undefined || !Number.isInteger(port) || port < 1 || port > 65_535) {
    return yield* new KubernetesConfigError({
      message: `KUBERNETES_SERVICE_HOST is set (${options.host}), but KUBERNETES_SERVICE_PORT ${
        options.port === undefined ? "is not" : `is not a valid port: ${options.port}`
      }; Kubernetes sets both in every Pod, so do not unset or overwrite them`
    })
  }
  const caFile = join(options.directory, "ca.crt")
  const credentials = yield* Credentials.make({
    load: () =>
      Effect.map(
        Effect.all([readMounted(join(options.directory, "token")), readMounted(caFile)]),
        ([token, ca]): Credentials.Credentials => ({
          headers: { authorization: `Bearer ${token}` },
          tls: { ca, trust: `the CA in ${caFile}` }
        })
      ),
    maxAge,
    timeLimit: Duration.seconds(10)
  })
  // Fails where this Pod has no service account, now and not with the first request.
  yield* Effect.mapError(credentials.get, (error) =>
    new KubernetesConfigError({
      message: `${error.message}; a Pod has this file unless automountServiceAccountToken is false in the Pod or its ` +
        "service account: set it to true, or mount a token there",
      cause: error
    }))
  const namespace = yield* Effect.orElseSucceed(readMounted(join(options.directory, "namespace")), () => undefined)
  const host = isIPv6(options.host) ? `[${options.host}]` : options.host
  return { server: `https://${host}:${port}`, namespace, credentials }
})

/** A file's text without white space around it, which must not be empty. */
export const readText = (path: string): Effect.Effect<string, KubernetesCredentialsError> =>
  nonEmpty(
    path,
    Effect.tryPromise({ try: (signal) => readFile(path, { encoding: "utf8", signal }), catch: unreadable(path) })
  )

// At once: Kubernetes mounts these files from memory, and a takeover waits for them. By way of the thread pool, whose
// threads have slept since the last one, it takes milliseconds.
const readMounted = (path: string): Effect.Effect<string, KubernetesCredentialsError> =>
  nonEmpty(path, Effect.try({ try: () => readFileSync(path, "utf8"), catch: unreadable(path) }))

const unreadable = (path: string) => (cause: unknown) =>
  new KubernetesCredentialsError({
    message: `${path} cannot be read (${cause instanceof Error ? cause.message : String(cause)})`,
    cause
  })

const nonEmpty = (path: string, text: Effect.Effect<string, KubernetesCredentialsError>) =>
  Effect.map(text, (text) => text.trim()).pipe(
    Effect.filterOrFail(
      (text) => text !== "",
      () => new KubernetesCredentialsError({ message: `${path} is empty` })
    )
  )
