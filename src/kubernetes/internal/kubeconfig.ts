/**
 * Kubeconfig files, and all the ways of logging in that they know.
 *
 * `@kubernetes/client-node` costs half a second and 60 MB, so it is loaded here
 * and only when a kubeconfig is used.
 *
 * @internal
 */
import type * as Client from "@kubernetes/client-node"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { readFile } from "node:fs/promises"
import type { RequestOptions } from "node:https"
import { dirname, resolve } from "node:path"
import { ClientNode } from "../ClientNode.ts"
import { KubernetesConfigError, KubernetesCredentialsError } from "../KubernetesError.ts"
import * as Credentials from "./credentials.ts"
import { readText, type Target } from "./serviceAccount.ts"

type ClientLibrary = typeof Client

/** How long credentials are used before files are read and expiries looked at again. */
const maxAge = Duration.seconds(60)

// What KubeConfig drops when it reads a file.
const RawConfig = Schema.Struct({
  users: Schema.optional(Schema.NullOr(Schema.Array(Schema.Struct({
    name: Schema.String,
    user: Schema.optional(Schema.NullOr(Schema.Struct({
      tokenFile: Schema.optional(Schema.NullOr(Schema.String)),
      exec: Schema.optional(Schema.NullOr(Schema.Struct({
        command: Schema.optional(Schema.NullOr(Schema.String)),
        installHint: Schema.optional(Schema.NullOr(Schema.String))
      })))
    })))
  }))))
})

interface Selected {
  /** Has the selected cluster and user only. */
  readonly config: Client.KubeConfig
  readonly context: string
  readonly cluster: Client.Cluster
  readonly user: Client.User
  readonly namespace: string
  readonly tokenFile: string | undefined
  readonly plugin: { readonly command: string; readonly installHint: string | undefined } | undefined
}

export const make: (options: {
  /** As in KUBECONFIG: of several files, the first that says something wins. */
  readonly files: ReadonlyArray<string>
  /** Where the files are from, for messages: `KUBECONFIG`. */
  readonly source: string
  readonly context: string | undefined
  /** @default as the reference of the same name says */
  readonly load?: (() => Promise<ClientLibrary>) | undefined
}) => Effect.Effect<Target, KubernetesConfigError, Scope.Scope> = Effect.fnUntraced(function*(options) {
  // Before the package is loaded: who has no kubeconfig does not need it either.
  const texts = yield* readFiles(options)
  const load = yield* ClientNode
  const client = yield* Effect.tryPromise({
    try: options.load ?? (() => load() as Promise<ClientLibrary>),
    catch: (cause) =>
      new KubernetesConfigError({
        message: "a kubeconfig is read with the package @kubernetes/client-node, which " +
          (Predicate.hasProperty(cause, "code") && cause.code === "ERR_MODULE_NOT_FOUND"
            ? "is not installed: npm install @kubernetes/client-node@2"
            : `could not be loaded: ${errorText(cause)}`),
        cause
      })
  })
  let selected = yield* select(client, options, texts)
  const { cluster, namespace } = selected
  const url = yield* Effect.try({
    try: () => new URL(cluster.server),
    catch: (cause) =>
      new KubernetesConfigError({
        message: `${options.source}: the server of cluster ${cluster.name} is no URL: ${cluster.server}`,
        cause
      })
  })
  if (url.protocol !== "https:" && url.protocol !== "http:") {
    return yield* new KubernetesConfigError({
      message: `${options.source}: the server of cluster ${cluster.name} is neither https nor http: ${cluster.server}`
    })
  }
  if (cluster.proxyUrl) {
    return yield* new KubernetesConfigError({
      message: `${options.source}: cluster ${cluster.name} has the proxy-url ${cluster.proxyUrl}, which is not ` +
        "supported; use a server that can be reached directly"
    })
  }
  if (cluster.skipTLSVerify && url.protocol === "https:") {
    yield* Effect.logWarning(
      `The certificate of ${cluster.server} is not verified, because the kubeconfig says insecure-skip-tls-verify`
    )
  }
  const credentials = yield* Credentials.make({
    load: Effect.fnUntraced(function*(fresh) {
      // Reads the files again too: whoever has logged in since has left new credentials there. Plugins keep what they
      // fetched in the object that was read, so that only a new one asks them again.
      if (fresh) {
        // The same context as before, whatever is the current one by now: its credentials must not go to another server.
        const again = yield* readFiles(options).pipe(
          Effect.flatMap((texts) => select(client, { ...options, context: selected.context }, texts)),
          Effect.mapError((error) => new KubernetesCredentialsError({ message: error.message, cause: error }))
        )
        if (again.cluster.server !== cluster.server) {
          return yield* new KubernetesCredentialsError({
            message: `the kubeconfig's server has changed from ${cluster.server} to ${again.cluster.server}; start anew`
          })
        }
        selected = again
      }
      return yield* logIn(selected, url)
    }),
    maxAge,
    timeLimit: Duration.seconds(60)
  })
  return { server: cluster.server, namespace, credentials }
})

// --- Reading ---

interface Source {
  readonly files: ReadonlyArray<string>
  readonly source: string
  readonly context: string | undefined
}

const fail = (options: Source, message: string, cause?: unknown) =>
  new KubernetesConfigError({ message: `${options.source}: ${message}`, cause })

const readFiles = Effect.fnUntraced(function*(
  options: Source
): Effect.fn.Return<ReadonlyArray<{ readonly file: string; readonly text: string }>, KubernetesConfigError> {
  const texts: Array<{ readonly file: string; readonly text: string }> = []
  for (const file of options.files) {
    const text = yield* Effect.tryPromise({
      try: (signal) => readFile(file, { encoding: "utf8", signal }),
      catch: (cause) => cause
    }).pipe(
      // As kubectl does: of several files, some may be missing.
      Effect.catchIf(
        (cause) => Predicate.hasProperty(cause, "code") && cause.code === "ENOENT",
        () => Effect.undefined
      ),
      Effect.mapError((cause) => fail(options, `${file} cannot be read (${errorText(cause)})`, cause))
    )
    if (text !== undefined) {
      texts.push({ file, text })
    }
  }
  if (texts.length > 0) {
    return texts
  }
  return yield* options.files[0] === options.source
    ? fail(options, "this kubeconfig file does not exist; name one that does")
    : fail(options, `${options.files.join(", ")} does not exist; set KUBECONFIG to a kubeconfig file that does`)
})

const select = (
  client: ClientLibrary,
  options: Source,
  texts: ReadonlyArray<{ readonly file: string; readonly text: string }>
): Effect.Effect<Selected, KubernetesConfigError> =>
  Effect.gen(function*() {
    const config = new client.KubeConfig()
    const details = new Map<string, Pick<Selected, "tokenFile" | "plugin">>()
    for (const { file, text } of texts) {
      yield* Effect.try({
        try: () => {
          const next = new client.KubeConfig()
          next.loadFromString(text)
          next.makePathsAbsolute(dirname(file))
          merge(config, next)
          for (const { name, user } of Schema.decodeUnknownSync(RawConfig)(client.loadYaml(text)).users ?? []) {
            if (!details.has(name)) {
              details.set(name, {
                tokenFile: user?.tokenFile ? resolve(dirname(file), user.tokenFile) : undefined,
                plugin: user?.exec
                  ? { command: user.exec.command ?? "", installHint: user.exec.installHint ?? undefined }
                  : undefined
              })
            }
          }
        },
        catch: (cause) => fail(options, `${file} is not a valid kubeconfig: ${yamlProblem(cause)}`)
      })
    }
    const name = options.context ?? config.getCurrentContext()
    if (!name) {
      return yield* fail(options, "the kubeconfig has no current-context; set one (kubectl config use-context NAME)")
    }
    const context = config.getContextObject(name)
    if (context === null) {
      const names = config.getContexts().map((context) => context.name).join(", ")
      return yield* fail(options, `the kubeconfig has no context ${name}, only: ${names}`)
    }
    const cluster = config.getCluster(context.cluster)
    if (cluster === null) {
      return yield* fail(
        options,
        `context ${name} of the kubeconfig names the cluster ${context.cluster}, which it lacks`
      )
    }
    const user = context.user ? config.getUser(context.user) : { name: "" }
    if (user === null) {
      return yield* fail(options, `context ${name} of the kubeconfig names the user ${context.user}, which it lacks`)
    }
    const selected = new client.KubeConfig()
    selected.loadFromClusterAndUser(
      // It refuses plain http even on the loopback address, when it builds an agent that is not used here.
      cluster.server.startsWith("http:") ? { ...cluster, skipTLSVerify: true } : cluster,
      user
    )
    return {
      config: selected,
      context: name,
      cluster,
      user,
      // As kubectl has it.
      namespace: context.namespace || "default",
      tokenFile: details.get(context.user)?.tokenFile,
      plugin: details.get(context.user)?.plugin
    }
  })

// Of a parser's error the reason and the position, and nothing else: its message and its `mark` hold the lines around the
// mistake, credentials included.
const yamlProblem = (cause: unknown): string => {
  if (!Predicate.hasProperty(cause, "reason") || !Predicate.isString(cause.reason)) {
    return "it is not a mapping with the clusters, users and contexts of a kubeconfig"
  }
  const reason = cause.reason.replace(/["<*!].*/, "…")
  const mark = Predicate.hasProperty(cause, "mark") ? cause.mark : undefined
  return Predicate.hasProperty(mark, "line") && Predicate.hasProperty(mark, "column")
    ? `${reason} (line ${Number(mark.line) + 1}, column ${Number(mark.column) + 1})`
    : reason
}

// KubeConfig's own merge fails where two files say the same, and lets the last one win.
const merge = (into: Client.KubeConfig, from: Client.KubeConfig): void => {
  if (!into.getCurrentContext() && from.getCurrentContext()) {
    into.setCurrentContext(from.getCurrentContext())
  }
  for (const cluster of from.getClusters()) {
    if (into.getCluster(cluster.name) === null) {
      into.addCluster(cluster)
    }
  }
  for (const user of from.getUsers()) {
    if (into.getUser(user.name) === null) {
      into.addUser(user)
    }
  }
  for (const context of from.getContexts()) {
    if (into.getContextObject(context.name) === null) {
      into.addContext(context)
    }
  }
}

// --- Logging in ---

const logIn = (selected: Selected, url: URL): Effect.Effect<Credentials.Credentials, KubernetesCredentialsError> =>
  Effect.gen(function*() {
    const { cluster, config, plugin, tokenFile, user } = selected
    const options: RequestOptions = {}
    yield* Effect.tryPromise({
      try: () => config.applyToHTTPSOptions(options),
      catch: (cause) =>
        new KubernetesCredentialsError({
          message: plugin === undefined
            ? `the kubeconfig's credentials cannot be used: ${errorText(cause)}`
            : `the kubeconfig's exec plugin ${plugin.command} ${pluginProblem(cause)}` +
              (plugin.installHint === undefined ? "" : `\n${plugin.installHint}`)
        })
    })
    const headers: Record<string, string> = {}
    for (const [name, value] of Object.entries(options.headers ?? {})) {
      if (value !== undefined) {
        headers[name.toLowerCase()] = String(value)
      }
    }
    if (user.username) {
      headers["authorization"] = `Basic ${Buffer.from(`${user.username}:${user.password ?? ""}`).toString("base64")}`
    }
    if (tokenFile !== undefined) {
      headers["authorization"] = `Bearer ${yield* readText(tokenFile)}`
    }
    const cert = pem(options.cert)
    if (plugin !== undefined && headers["authorization"] === undefined && cert === undefined) {
      return yield* new KubernetesCredentialsError({
        message: `the kubeconfig's exec plugin ${plugin.command} printed neither a token nor a certificate`
      })
    }
    if (
      url.protocol === "http:" && !isLoopback(url.hostname) &&
      (headers["authorization"] !== undefined || cert !== undefined)
    ) {
      return yield* new KubernetesCredentialsError({
        message: `the kubeconfig's credentials are not sent to ${url.origin}, which has no TLS; use https`
      })
    }
    return {
      headers,
      tls: {
        ca: pem(options.ca),
        cert,
        key: pem(options.key),
        servername: cluster.tlsServerName,
        insecure: cluster.skipTLSVerify,
        ...(options.ca !== undefined && { trust: "the kubeconfig's certificate-authority" })
      },
      lifetime: yield* pluginLifetime(config, user.name)
    }
  })

// The text of any other error quotes what the plugin printed, which may be a token.
const pluginProblem = (cause: unknown): string =>
  Predicate.hasProperty(cause, "syscall")
    ? `cannot be run: ${errorText(cause)}`
    : "failed, or did not print credentials"

/** Whether what is sent there stays on this machine. */
export const isLoopback = (hostname: string): boolean =>
  hostname === "localhost" || hostname === "[::1]" || /^127\.\d+\.\d+\.\d+$/.test(hostname)

const pem = (value: RequestOptions["ca"] | RequestOptions["key"]): string | undefined =>
  Predicate.isString(value) ? value : Buffer.isBuffer(value) ? value.toString("utf8") : undefined

// The client keeps a plugin's answer for itself, with the time at which it expires, and asks again only afterwards.
// Where it is not found there any more, an expired token costs one 401 instead.
const PluginCache = Schema.Struct({
  authenticators: Schema.Array(Schema.Struct({
    tokenCache: Schema.optional(Schema.Record(
      Schema.String,
      Schema.NullOr(Schema.Struct({
        status: Schema.Struct({ expirationTimestamp: Schema.optional(Schema.NullOr(Schema.String)) })
      }))
    ))
  }))
})

const pluginLifetime = (config: Client.KubeConfig, user: string): Effect.Effect<Duration.Duration | undefined> =>
  Effect.map(Clock.currentTimeMillis, (now) => {
    const cache = Option.getOrUndefined(Schema.decodeUnknownOption(PluginCache)(config))
    for (const { tokenCache } of cache?.authenticators ?? []) {
      const expiry = Date.parse(tokenCache?.[user]?.status.expirationTimestamp ?? "")
      if (!Number.isNaN(expiry)) {
        return Duration.millis(Math.max(0, expiry - now))
      }
    }
    return undefined
  })

const errorText = (cause: unknown): string =>
  cause instanceof Error && cause.message !== "" ? cause.message.trim() : String(cause)
