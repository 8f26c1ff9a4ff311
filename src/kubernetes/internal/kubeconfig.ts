/**
 * The connection that a kubeconfig describes, and all the ways of logging in that it may name.
 *
 * Files are read, merged and checked by `kubeconfigFile`; this module reads what they refer to, and gives credentials. It
 * loads no client library: of packages it needs `yaml`, and for a proxy, or to refresh an OIDC login, one that is loaded
 * only then.
 *
 * @internal
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import { X509Certificate } from "node:crypto"
import { accessSync, constants } from "node:fs"
import { readFile } from "node:fs/promises"
import * as NodeTls from "node:tls"
import * as Log from "../../internal/log.ts"
import { KubernetesConfigError, KubernetesCredentialsError } from "../KubernetesError.ts"
import { OptionalPackages } from "../OptionalPackages.ts"
import * as Credentials from "./credentials.ts"
import type { Tls } from "./dial.ts"
import * as ExecPlugin from "./execPlugin.ts"
import * as File from "./kubeconfigFile.ts"
import { isLoopback } from "./loopback.ts"
import * as Oidc from "./oidc.ts"
import * as Proxy from "./proxy.ts"
import { readText, type Target } from "./serviceAccount.ts"

/** How long credentials are used before files are read and expiries looked at again. */
const maxAge = Duration.seconds(60)

/** A plugin that gives the same credentials again, or that were refused, is not started before this time has passed. */
const pluginFloor = Duration.seconds(10)

/** Beyond the limit of an exec plugin, which says more about it. */
const timeLimit = Duration.minutes(6)

export interface Source {
  /** As in KUBECONFIG: of several files, the first that says something wins. */
  readonly files: ReadonlyArray<string>
  /** Where the files are from, for messages: `KUBECONFIG`. */
  readonly source: string
  readonly context: string | undefined
  /** The variables that name proxies. */
  readonly proxies?: Proxy.Environment | undefined
}

export const make: (options: Source) => Effect.Effect<Target, KubernetesConfigError, Scope.Scope> = Effect.fnUntraced(
  function*(options) {
    const load = yield* OptionalPackages
    let selected = yield* read(options)
    const connection = yield* resolve(options, selected)
    const { server, url } = connection
    if (selected.cluster.insecure && url.protocol === "https:") {
      yield* Log.warn(
        `The certificate of ${server} is not verified, because the kubeconfig says insecure-skip-tls-verify`
      )
    }
    const tunnel = connection.proxy === undefined ? undefined : yield* Proxy.tunnel(connection.proxy, load)
    const session: Session = { oidc: Oidc.makeSession(load), plugin: undefined }
    const credentials = yield* Credentials.make({
      load: Effect.fnUntraced(function*(fresh) {
        // Reads the files again too: a login since then has left new credentials there.
        if (fresh) {
          // The same context as before, whatever is the current one by now: its credentials must not go to another server.
          const again = yield* read({ ...options, context: selected.context }).pipe(
            Effect.mapError((error) => new KubernetesCredentialsError({ message: error.message, cause: error }))
          )
          if (again.cluster.server !== selected.cluster.server) {
            return yield* new KubernetesCredentialsError({
              message: `the kubeconfig's server has changed from ${withoutLogin(selected.cluster.server)} to ${
                withoutLogin(again.cluster.server)
              }; start anew`
            })
          }
          selected = again
        }
        return yield* logIn(selected, connection, session, fresh)
      }),
      maxAge,
      floor: usesPlugin(selected.user) ? pluginFloor : Duration.zero,
      timeLimit
    })
    return { server, namespace: selected.namespace, credentials, tunnel }
  }
)

const fail = (options: Source, message: string, cause?: unknown) =>
  new KubernetesConfigError({ message: `${options.source}: ${message}`, cause })

// --- Reading ---

/** What the files say about the context. */
export const read = Effect.fnUntraced(function*(
  options: Source
): Effect.fn.Return<File.Selected, KubernetesConfigError> {
  const texts = yield* readFiles(options)
  // Only now: a program that has no kubeconfig needs no parser either.
  // `default` is all that a bundle which is split into files has of a CommonJS module.
  const { parseAllDocuments } = yield* Effect.promise(async () => (await import("yaml")).default)
  const configs: Array<File.Kubeconfig> = []
  for (const { file, text } of texts) {
    const parsed = File.parse(parseAllDocuments, file, text)
    if (Result.isFailure(parsed)) {
      return yield* fail(options, `${file} is not a valid kubeconfig: ${parsed.failure}`)
    }
    if (parsed.success !== undefined) {
      configs.push(parsed.success)
    }
  }
  const selected = File.select(File.merge(configs), options.context, isReadable)
  if (Result.isFailure(selected)) {
    return yield* fail(options, selected.failure)
  }
  const { authProvider } = selected.success.user
  const problem = authProvider === undefined
    ? undefined
    : authProvider.name === "oidc"
    ? Oidc.problem(authProvider.config)
    : `uses the auth-provider ${authProvider.name}, which kubectl does not know any more either: let its exec plugin log ` +
      "in (gke-gcloud-auth-plugin for gcp, kubelogin for azure)"
  return problem === undefined
    ? selected.success
    : yield* fail(options, `the user of context ${selected.success.context} ${problem}`)
})

const readFiles = Effect.fnUntraced(function*(
  options: Source
): Effect.fn.Return<ReadonlyArray<{ readonly file: string; readonly text: string }>, KubernetesConfigError> {
  const texts: Array<{ readonly file: string; readonly text: string }> = []
  for (const file of new Set(options.files)) {
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

const isReadable = (file: string): boolean => {
  try {
    accessSync(file, constants.R_OK)
    return true
  } catch {
    return false
  }
}

// --- The server ---

export interface Connection {
  /** Without a slash at its end. */
  readonly server: string
  readonly url: URL
  /** The login that stands in the server's URL, which neither `server` nor `url` has. */
  readonly login: string | undefined
  readonly proxy: URL | undefined
}

/** Where the requests go, and by which proxy. */
export const resolve = (
  options: Source,
  { cluster, context }: File.Selected
): Effect.Effect<Connection, KubernetesConfigError> => {
  const url = File.serverUrl(cluster.server)
  if (url === undefined) {
    return fail(
      options,
      `the server of context ${context} is not a URL with https or http: ${withoutLogin(cluster.server)}`
    )
  }
  const login = url.username === "" && url.password === ""
    ? undefined
    : `${decode(url.username)}:${decode(url.password)}`
  url.username = ""
  url.password = ""
  const connection = { server: url.href.replace(/\/+$/, ""), url, login }
  if (cluster.proxyUrl !== "") {
    const proxy = Proxy.parseProxyUrl(cluster.proxyUrl)
    return proxy === undefined
      ? fail(options, `the proxy-url of context ${context} is not a URL with http, https or socks5`)
      : Effect.succeed({ ...connection, proxy })
  }
  return Result.match(Proxy.fromEnvironment(url, options.proxies ?? {}), {
    onFailure: (problem) => fail(options, problem),
    onSuccess: (proxy) => Effect.succeed({ ...connection, proxy })
  })
}

const decode = (text: string): string => Option.getOrElse(Option.liftThrowable(decodeURIComponent)(text), () => text)

const withoutLogin = (server: string): string => server.replace(/\/\/[^/@]*@/, "//")

// --- Logging in ---

/** As in client-go, credentials of any other kind go before it. */
const usesPlugin = (
  { clientCertificate, clientCertificateData, exec, token, tokenFile, username }: File.User
) =>
  exec !== undefined && token === "" && tokenFile === "" && username === "" &&
  clientCertificate === "" && clientCertificateData === ""

/** What the files say of the way in, before anybody logs in. */
export interface Plan {
  readonly tls: Tls
  /** The plugin that gives the credentials, with what it may know of the cluster. */
  readonly plugin: { readonly exec: File.Exec; readonly cluster: ExecPlugin.ClusterInfo } | undefined
}

export const plan = Effect.fnUntraced(function*(
  { cluster, user }: File.Selected,
  { url }: Connection
): Effect.fn.Return<Plan, KubernetesCredentialsError> {
  const isSecure = url.protocol === "https:"
  const ca = cluster.certificateAuthorityData || (yield* readPem(cluster.certificateAuthority))
  if (isSecure && ca !== "" && !hasCertificate(ca)) {
    return yield* new KubernetesCredentialsError({
      message: "there is no certificate in the kubeconfig's certificate-authority; it must be PEM"
    })
  }
  const { exec } = user
  return {
    tls: {
      servername: cluster.tlsServerName || undefined,
      insecure: cluster.insecure,
      ...(ca !== ""
        ? { ca, trust: "the kubeconfig's certificate-authority" }
        : { ca: isSecure && !cluster.insecure ? systemCas() : undefined, trust: systemTrust })
    },
    plugin: exec === undefined || !usesPlugin(user) ? undefined : {
      exec,
      cluster: {
        // As client-go: only a URL with a path loses what follows it.
        server: url.pathname.length > 1 ? url.href : cluster.server,
        tlsServerName: cluster.tlsServerName,
        insecure: cluster.insecure,
        ca,
        proxyUrl: cluster.proxyUrl,
        disableCompression: cluster.disableCompression,
        config: cluster.execConfig
      }
    }
  }
})

export const logIn = Effect.fnUntraced(function*(
  selected: File.Selected,
  connection: Connection,
  session: Session,
  fresh: boolean
): Effect.fn.Return<Credentials.Credentials, KubernetesCredentialsError> {
  const { url } = connection
  const { plugin, tls } = yield* plan(selected, connection)
  let login: Login
  if (plugin === undefined) {
    login = yield* fromFile(selected, session.oidc, fresh)
  } else {
    if (fresh || session.plugin === undefined) {
      session.plugin = yield* ExecPlugin.run(plugin.exec, plugin.cluster)
    }
    login = fromPlugin(session.plugin, yield* Clock.currentTimeMillis)
  }
  const { cert, key, lifetime } = login
  const authorization = login.authorization ?? (connection.login === undefined ? undefined : basic(connection.login))
  if (url.protocol === "http:" && !isLoopback(url.hostname) && (authorization !== undefined || cert !== undefined)) {
    return yield* new KubernetesCredentialsError({
      message: `the kubeconfig's credentials are not sent to ${url.origin}, which has no TLS; use https`
    })
  }
  if (cert !== undefined) {
    yield* Effect.try({
      try: () => NodeTls.createSecureContext({ cert, key }),
      catch: () =>
        new KubernetesCredentialsError({
          message: "the client certificate and its key are not a pair in PEM; look at what the kubeconfig's user names"
        })
    })
  }
  return {
    headers: { ...(authorization !== undefined && { authorization }), ...impersonation(selected.user) },
    tls: { ...tls, cert, key },
    lifetime
  }
})

const hasCertificate = (pem: string): boolean =>
  (pem.match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? []).some((block) => {
    try {
      return new X509Certificate(block).raw.length > 0
    } catch {
      return false
    }
  })

/** What is kept from one login to the next. */
export interface Session {
  readonly oidc: Oidc.Session
  /** What the exec plugin gave: good until it expires, or is refused. */
  plugin: ExecPlugin.PluginCredentials | undefined
}

interface Login {
  readonly authorization?: string | undefined
  readonly cert?: string | undefined
  readonly key?: string | undefined
  readonly lifetime?: Duration.Duration | undefined
}

const fromPlugin = ({ cert, expiry, key, token }: ExecPlugin.PluginCredentials, now: number): Login => ({
  authorization: token === undefined ? undefined : `Bearer ${token}`,
  cert,
  key,
  lifetime: expiry === undefined ? undefined : Duration.millis(Math.max(0, expiry - now))
})

const fromFile = Effect.fnUntraced(function*(
  { context, user }: File.Selected,
  session: Oidc.Session,
  fresh: boolean
): Effect.fn.Return<Login, KubernetesCredentialsError> {
  const cert = user.clientCertificateData || (yield* readPem(user.clientCertificate)) || undefined
  const certificate = cert === undefined ? {} : { cert, key: user.clientKeyData || (yield* readPem(user.clientKey)) }
  if (user.username !== "") {
    return { ...certificate, authorization: basic(`${user.username}:${user.password}`) }
  }
  if (user.tokenFile !== "") {
    const token = readText(user.tokenFile)
    // The token beside it is what kubectl falls back to.
    return {
      ...certificate,
      authorization: `Bearer ${yield* user.token === "" ? token : Effect.orElseSucceed(token, () => user.token)}`
    }
  }
  if (user.token !== "") {
    return { ...certificate, authorization: `Bearer ${user.token}` }
  }
  if (user.authProvider !== undefined) {
    const { lifetime, token } = yield* Oidc.token(context, user.authProvider.config, session, fresh)
    return { ...certificate, authorization: `Bearer ${token}`, lifetime }
  }
  return certificate
})

const basic = (login: string): string => `Basic ${Buffer.from(login).toString("base64")}`

const readPem = (file: string): Effect.Effect<string, KubernetesCredentialsError> =>
  file === ""
    ? Effect.succeed("")
    : Effect.tryPromise({
      try: (signal) => readFile(file, { encoding: "utf8", signal }),
      catch: (cause) =>
        new KubernetesCredentialsError({ message: `${file} cannot be read (${errorText(cause)})`, cause })
    })

/** The headers that ask for another identity; values as the bytes of UTF-8, which is what Go sends. */
export const impersonation = (user: File.User): Record<string, string | Array<string>> => {
  if (user.impersonate === "") {
    return {}
  }
  return {
    "impersonate-user": bytesOf(user.impersonate),
    ...(user.impersonateUid !== "" && { "impersonate-uid": bytesOf(user.impersonateUid) }),
    ...(user.impersonateGroups.length > 0 && { "impersonate-group": user.impersonateGroups.map(bytesOf) }),
    ...Object.fromEntries(
      Object.entries(user.impersonateExtra).filter(([, values]) => values.length > 0).map(([key, values]) => [
        `impersonate-extra-${escapeKey(key)}`,
        values.map(bytesOf)
      ])
    )
  }
}

const bytesOf = (text: string): string => Buffer.from(text, "utf8").toString("latin1")

/** Each byte that cannot stand in a header's name as `%XX`. */
const escapeKey = (key: string): string =>
  bytesOf(key).replaceAll(
    /[^!#$&'*+\-.0-9A-Z^_`a-z|~]/g,
    (byte) => `%${byte.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`
  )

const systemTrust = "a CA that Node or this system trusts. For a company's own, name it in the kubeconfig " +
  "(certificate-authority), or start Node with NODE_EXTRA_CA_CERTS or --use-system-ca"

let cas: string | undefined

/**
 * Node trusts the CAs that it brings along; kubectl those of the system, where a company puts its own. Here both count.
 * `undefined` where this runtime cannot say which those are.
 */
const systemCas = (): string | undefined => cas ??= Option.getOrUndefined(readSystemCas())

const readSystemCas = Option.liftThrowable(() =>
  [...new Set([...NodeTls.getCACertificates("default"), ...NodeTls.getCACertificates("system")])].join("\n")
)

const errorText = (cause: unknown): string =>
  cause instanceof Error && cause.message !== "" ? cause.message.trim() : String(cause)
