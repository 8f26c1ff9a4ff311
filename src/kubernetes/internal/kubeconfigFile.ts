/**
 * What kubeconfig files say: parsed and merged once, by the rules of client-go's `clientcmd`. Pure, apart from looking
 * whether a file that is named can be read.
 *
 * No message repeats what stands in a file beside the names of its entries: a mistake may be in the middle of a token.
 *
 * @internal
 */
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type * as SchemaIssue from "effect/SchemaIssue"
import { dirname, isAbsolute, join, resolve } from "node:path"
import type { parseAllDocuments, ScalarTag, Tags } from "yaml"

export interface Cluster {
  readonly server: string
  readonly tlsServerName: string
  readonly insecure: boolean
  /** A file. */
  readonly certificateAuthority: string
  /** PEM. */
  readonly certificateAuthorityData: string
  readonly proxyUrl: string
  readonly disableCompression: boolean
  /** What the extension `client.authentication.k8s.io/exec` holds, for exec plugins. */
  readonly execConfig: unknown
}

export interface Exec {
  readonly apiVersion: string
  /** Resolved against the kubeconfig's folder, unless it is to be looked for in PATH. */
  readonly command: string
  readonly args: ReadonlyArray<string>
  readonly env: ReadonlyArray<{ readonly name: string; readonly value: string }>
  readonly installHint: string
  readonly provideClusterInfo: boolean
  readonly interactiveMode: string
}

export interface User {
  readonly token: string
  readonly tokenFile: string
  readonly username: string
  readonly password: string
  readonly clientCertificate: string
  readonly clientCertificateData: string
  readonly clientKey: string
  readonly clientKeyData: string
  readonly impersonate: string
  readonly impersonateUid: string
  readonly impersonateGroups: ReadonlyArray<string>
  readonly impersonateExtra: Readonly<Record<string, ReadonlyArray<string>>>
  readonly exec: Exec | undefined
  readonly authProvider: { readonly name: string; readonly config: Readonly<Record<string, string>> } | undefined
}

export interface Context {
  readonly cluster: string
  readonly user: string
  readonly namespace: string
}

export interface Kubeconfig {
  readonly currentContext: string
  readonly clusters: ReadonlyMap<string, Cluster>
  readonly users: ReadonlyMap<string, User>
  readonly contexts: ReadonlyMap<string, Context>
}

/** What one context comes to. */
export interface Selected {
  readonly context: string
  readonly namespace: string
  readonly cluster: Cluster
  readonly user: User
}

// --- Parsing ---

const Text = Schema.optional(Schema.NullOr(Schema.String))
const Flag = Schema.optional(Schema.NullOr(Schema.Boolean))
const List = <A extends Schema.Top>(item: A) => Schema.optional(Schema.NullOr(Schema.Array(Schema.NullOr(item))))

const ClusterEntry = Schema.Struct({
  server: Text,
  "tls-server-name": Text,
  "insecure-skip-tls-verify": Flag,
  "certificate-authority": Text,
  "certificate-authority-data": Text,
  "proxy-url": Text,
  "disable-compression": Flag,
  extensions: List(Schema.Struct({ name: Text, extension: Schema.optional(Schema.Unknown) }))
})

const UserEntry = Schema.Struct({
  token: Text,
  tokenFile: Text,
  username: Text,
  password: Text,
  "client-certificate": Text,
  "client-certificate-data": Text,
  "client-key": Text,
  "client-key-data": Text,
  as: Text,
  "as-uid": Text,
  "as-groups": List(Schema.String),
  "as-user-extra": Schema.optional(
    Schema.NullOr(Schema.Record(Schema.String, Schema.NullOr(Schema.Array(Schema.NullOr(Schema.String)))))
  ),
  exec: Schema.optional(Schema.NullOr(Schema.Struct({
    apiVersion: Text,
    command: Text,
    args: List(Schema.String),
    env: List(Schema.Struct({ name: Text, value: Text })),
    installHint: Text,
    provideClusterInfo: Flag,
    interactiveMode: Text
  }))),
  "auth-provider": Schema.optional(Schema.NullOr(Schema.Struct({
    name: Text,
    config: Schema.optional(Schema.NullOr(Schema.Record(Schema.String, Schema.NullOr(Schema.String))))
  })))
})

const ContextEntry = Schema.Struct({ cluster: Text, user: Text, namespace: Text })

const FileContent = Schema.NullOr(Schema.Struct({
  apiVersion: Text,
  kind: Text,
  "current-context": Text,
  clusters: List(Schema.Struct({ name: Text, cluster: Schema.optional(Schema.NullOr(ClusterEntry)) })),
  users: List(Schema.Struct({ name: Text, user: Schema.optional(Schema.NullOr(UserEntry)) })),
  contexts: List(Schema.Struct({ name: Text, context: Schema.optional(Schema.NullOr(ContextEntry)) }))
}))

const decode = Schema.decodeUnknownResult(FileContent)

/** The deepest place at which something is wrong. */
const pathOf = (issue: SchemaIssue.Issue): ReadonlyArray<PropertyKey> => {
  switch (issue._tag) {
    case "Pointer":
      return [...issue.path, ...pathOf(issue.issue)]
    case "Composite":
    case "AnyOf":
      return issue.issues.map(pathOf).reduce((a, b) => b.length > a.length ? b : a, [])
    case "Filter":
    case "Encoding":
      return pathOf(issue.issue)
    default:
      return []
  }
}

const show = (path: ReadonlyArray<PropertyKey>): string =>
  path.map((part) => typeof part === "number" ? `[${part}]` : `.${String(part)}`).join("").replace(/^\./, "") ||
  "the whole"

// YAML 1.1 as Go reads it: it knows neither times nor sexagesimal numbers, and the last of two equal keys counts.
const yamlTags = (tags: Tags): Tags =>
  tags.filter((tag) => {
    const { format, tag: name } = tag as ScalarTag
    return format !== "TIME" && !/:(timestamp|binary|omap|pairs|set)$/.test(name ?? "") &&
      !/^(timestamp|binary|omap|pairs|set|intTime|floatTime)$/.test(String(tag))
  })

const parseYaml = (parse: typeof parseAllDocuments, text: string): Result.Result<unknown, string> => {
  const [document] = parse(text, {
    version: "1.1",
    schema: "yaml-1.1",
    customTags: yamlTags,
    uniqueKeys: false,
    merge: true,
    prettyErrors: false,
    logLevel: "silent"
  })
  if (document === undefined) {
    return Result.succeed(null)
  }
  const [error] = document.errors
  if (error !== undefined) {
    const before = text.slice(0, error.pos[0]).split("\n")
    return Result.fail(
      `it is not valid YAML (${error.code} in line ${before.length}, column ${(before.at(-1) ?? "").length + 1})`
    )
  }
  return Result.try({
    try: () => document.toJS({ maxAliasCount: 1_000 }) as unknown,
    catch: () => "it is not valid YAML (an alias without its anchor, or too many of them)"
  })
}

const base64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/

/** A list by its names; one that comes twice is an error, as for kubectl. */
const byName = <A extends { readonly name?: string | null | undefined }, B>(
  key: string,
  list: ReadonlyArray<A | null> | null | undefined,
  make: (item: A | null, path: string) => B
): Map<string, B> => {
  const out = new Map<string, B>()
  for (const [index, item] of (list ?? []).entries()) {
    const name = item?.name ?? ""
    if (out.has(name)) {
      throw new Invalid(`${key} has ${JSON.stringify(name)} twice`)
    }
    out.set(name, make(item, `${key}[${index}]`))
  }
  return out
}

// Thrown and caught in this file only.
class Invalid {
  readonly message: string
  constructor(message: string) {
    this.message = message
  }
}

/**
 * Reads the text of one file; its relative paths are taken as beside it. `undefined` where there is nothing in it but
 * comments. Fails with what is wrong.
 */
export const parse = (
  parseAll: typeof parseAllDocuments,
  file: string,
  text: string
): Result.Result<Kubeconfig | undefined, string> => {
  const value = parseYaml(parseAll, text)
  if (Result.isFailure(value)) {
    return Result.fail(value.failure)
  }
  const decoded = decode(value.success)
  if (Result.isFailure(decoded)) {
    return Result.fail(`${show(pathOf(decoded.failure.issue))} is not of the type that a kubeconfig has there`)
  }
  const content = decoded.success
  if (content === null) {
    return Result.succeed(undefined)
  }
  if ((content.kind || "Config") !== "Config" || (content.apiVersion || "v1") !== "v1") {
    return Result.fail("its kind is not Config of the apiVersion v1")
  }
  const base = resolve(dirname(file))
  return Result.try({
    try: (): Kubeconfig => ({
      currentContext: content["current-context"] ?? "",
      clusters: byName("clusters", content.clusters, (item, path) => toCluster(base, item?.cluster ?? {}, path)),
      users: byName("users", content.users, (item, path) => toUser(base, item?.user ?? {}, path)),
      contexts: byName("contexts", content.contexts, (item) => ({
        cluster: item?.context?.cluster ?? "",
        user: item?.context?.user ?? "",
        namespace: item?.context?.namespace ?? ""
      }))
    }),
    catch: (cause) => {
      if (cause instanceof Invalid) return cause.message
      throw cause
    }
  })
}

const beside = (base: string, path: string | null | undefined): string =>
  !path ? "" : isAbsolute(path) ? path : join(base, path)

const bytes = (path: string, value: string | null | undefined): string => {
  const compact = (value ?? "").replaceAll(/[\r\n]/g, "")
  if (!base64.test(compact)) {
    throw new Invalid(`${path} is not valid base64`)
  }
  return Buffer.from(compact, "base64").toString("utf8")
}

const toCluster = (base: string, entry: typeof ClusterEntry.Type, path: string): Cluster => ({
  server: entry.server ?? "",
  tlsServerName: entry["tls-server-name"] ?? "",
  insecure: entry["insecure-skip-tls-verify"] ?? false,
  certificateAuthority: beside(base, entry["certificate-authority"]),
  certificateAuthorityData: bytes(
    `${path}.cluster.certificate-authority-data`,
    entry["certificate-authority-data"]
  ),
  proxyUrl: entry["proxy-url"] ?? "",
  disableCompression: entry["disable-compression"] ?? false,
  execConfig: entry.extensions?.find((extension) => extension?.name === "client.authentication.k8s.io/exec")?.extension
})

const toUser = (base: string, entry: typeof UserEntry.Type, path: string): User => ({
  token: entry.token ?? "",
  tokenFile: beside(base, entry.tokenFile),
  username: entry.username ?? "",
  password: entry.password ?? "",
  clientCertificate: beside(base, entry["client-certificate"]),
  clientCertificateData: bytes(`${path}.user.client-certificate-data`, entry["client-certificate-data"]),
  clientKey: beside(base, entry["client-key"]),
  clientKeyData: bytes(`${path}.user.client-key-data`, entry["client-key-data"]),
  impersonate: entry.as ?? "",
  impersonateUid: entry["as-uid"] ?? "",
  impersonateGroups: texts(entry["as-groups"]),
  impersonateExtra: Object.fromEntries(
    Object.entries(entry["as-user-extra"] ?? {}).map(([key, values]) => [key, texts(values)])
  ),
  exec: entry.exec === null || entry.exec === undefined ? undefined : toExec(base, entry.exec),
  authProvider: entry["auth-provider"] === null || entry["auth-provider"] === undefined ? undefined : {
    name: entry["auth-provider"].name ?? "",
    config: Object.fromEntries(
      Object.entries(entry["auth-provider"].config ?? {}).map(([key, value]) => [key, value ?? ""])
    )
  }
})

const toExec = (base: string, entry: NonNullable<NonNullable<typeof UserEntry.Type["exec"]>>): Exec => {
  const apiVersion = entry.apiVersion ?? ""
  const command = entry.command ?? ""
  return {
    apiVersion,
    // A name alone is looked for in PATH.
    command: command.includes("/") ? beside(base, command) : command,
    args: texts(entry.args),
    env: (entry.env ?? []).map((variable) => ({ name: variable?.name ?? "", value: variable?.value ?? "" })),
    installHint: entry.installHint ?? "",
    provideClusterInfo: entry.provideClusterInfo ?? false,
    interactiveMode: entry.interactiveMode ||
      (apiVersion === "client.authentication.k8s.io/v1beta1" ? "IfAvailable" : "")
  }
}

const texts = (list: ReadonlyArray<string | null> | null | undefined): ReadonlyArray<string> =>
  (list ?? []).map((text) => text ?? "")

// --- Merging ---

/** Of several files, the first that has an entry of a name counts, with nothing added from the others. */
export const merge = (files: ReadonlyArray<Kubeconfig>): Kubeconfig => {
  const first = <A>(maps: ReadonlyArray<ReadonlyMap<string, A>>): ReadonlyMap<string, A> => {
    const all = new Map<string, A>()
    for (const [name, entry] of maps.toReversed().flatMap((map) => Array.from(map))) {
      all.set(name, entry)
    }
    return all
  }
  return {
    currentContext: files.find((file) => file.currentContext !== "")?.currentContext ?? "",
    clusters: first(files.map((file) => file.clusters)),
    users: first(files.map((file) => file.users)),
    contexts: first(files.map((file) => file.contexts))
  }
}

// --- Selecting ---

const nobody: User = toUser("/", {}, "")

/**
 * The context with its cluster and its user. Only these are looked at. Fails with everything that is wrong with them.
 */
export const select = (
  config: Kubeconfig,
  wanted: string | undefined,
  isReadable: (file: string) => boolean
): Result.Result<Selected, string> => {
  const name = wanted || config.currentContext
  if (name === "") {
    return Result.fail("the kubeconfig has no current-context; set one (kubectl config use-context NAME)")
  }
  const context = config.contexts.get(name)
  if (context === undefined) {
    return Result.fail(`the kubeconfig has no context ${name}, only: ${[...config.contexts.keys()].join(", ")}`)
  }
  const cluster = config.clusters.get(context.cluster)
  if (cluster === undefined) {
    return Result.fail(`context ${name} of the kubeconfig names the cluster ${context.cluster}, which it lacks`)
  }
  const user = context.user === "" ? nobody : config.users.get(context.user)
  if (user === undefined) {
    return Result.fail(`context ${name} of the kubeconfig names the user ${context.user}, which it lacks`)
  }
  const problems = [
    ...clusterProblems(cluster, isReadable).map((problem) => `cluster ${context.cluster} ${problem}`),
    ...userProblems(user, isReadable).map((problem) => `user ${context.user} ${problem}`)
  ]
  return problems.length > 0
    ? Result.fail(problems.join("; "))
    : Result.succeed({ context: name, namespace: context.namespace || "default", cluster, user })
}

const clusterProblems = (cluster: Cluster, isReadable: (file: string) => boolean): ReadonlyArray<string> => [
  ...(cluster.server === "" ? ["has no server"] : []),
  ...(cluster.certificateAuthority !== "" && cluster.certificateAuthorityData !== ""
    ? ["has certificate-authority and certificate-authority-data; keep one of them"]
    : []),
  ...unreadable("certificate-authority", cluster.certificateAuthority, isReadable),
  ...(cluster.insecure && cluster.server.startsWith("https:") &&
      (cluster.certificateAuthority !== "" || cluster.certificateAuthorityData !== "")
    ? ["has a certificate-authority and insecure-skip-tls-verify; keep one of them"]
    : [])
]

const modes = ["Never", "IfAvailable", "Always"]
const execVersions = ["client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"]

const userProblems = (user: User, isReadable: (file: string) => boolean): ReadonlyArray<string> => {
  const hasCertificate = user.clientCertificate !== "" || user.clientCertificateData !== ""
  return [
    ...((user.username !== "" && (user.token !== "" || user.tokenFile !== "")) ||
        (user.password !== "" && user.token !== "")
      ? ["has a token and a username; keep one of them"]
      : []),
    ...(!hasCertificate ? [] : [
      ...(user.clientCertificate !== "" && user.clientCertificateData !== ""
        ? ["has client-certificate and client-certificate-data; keep one of them"]
        : []),
      ...(user.clientKey !== "" && user.clientKeyData !== ""
        ? ["has client-key and client-key-data; keep one of them"]
        : []),
      ...(user.clientKey === "" && user.clientKeyData === ""
        ? ["has a client certificate without client-key or client-key-data"]
        : []),
      ...unreadable("client-certificate", user.clientCertificate, isReadable),
      ...unreadable("client-key", user.clientKey, isReadable)
    ]),
    ...(user.exec === undefined ? [] : execProblems(user.exec, user.authProvider !== undefined)),
    ...(user.impersonate === "" &&
        (user.impersonateUid !== "" || user.impersonateGroups.length > 0 ||
          Object.keys(user.impersonateExtra).length > 0)
      ? ["has as-uid, as-groups or as-user-extra without as: say which user to impersonate"]
      : [])
  ]
}

const execProblems = (exec: Exec, hasAuthProvider: boolean): ReadonlyArray<string> => [
  ...(hasAuthProvider ? ["has exec and auth-provider; keep one of them"] : []),
  ...(exec.command === "" ? ["has exec without command"] : []),
  ...(execVersions.includes(exec.apiVersion)
    ? []
    : [`has exec without an apiVersion that is supported; give ${execVersions.join(" or ")}`]),
  ...(exec.env.some(({ name }) => name === "") ? ["has exec with an env entry without name"] : []),
  ...(modes.includes(exec.interactiveMode) ? [] : [`has exec without interactiveMode; give ${modes.join(", ")}`])
]

const unreadable = (key: string, file: string, isReadable: (file: string) => boolean): ReadonlyArray<string> =>
  file === "" || isReadable(file) ? [] : [`names the ${key} ${file}, which cannot be read`]

// --- Addresses ---

/** The server's URL without query and fragment; `undefined` where it is not one with https or http. */
export const serverUrl = (server: string): URL | undefined => {
  const url = Option.getOrUndefined(Option.liftThrowable(() => new URL(server))())
  if (url === undefined || (url.protocol !== "https:" && url.protocol !== "http:")) {
    return undefined
  }
  url.search = ""
  url.hash = ""
  return url
}
