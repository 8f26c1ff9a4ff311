/**
 * Kubeconfigs of every kind that may reach this library: what stands in them, in how many files, written how, with which
 * variables. What comes first in each choice is the plainest, which is where shrinking leads.
 */
import { Arbitrary, Schema } from "effect"
import { makeAuthority } from "../../utils/certificates.ts"

export interface File {
  readonly name: string
  /** Undefined: the file does not exist. */
  readonly text: string | undefined
}

export interface Case {
  readonly files: ReadonlyArray<File>
  /** Names of files, as KUBECONFIG lists them; `""` is an empty entry. */
  readonly list: ReadonlyArray<string>
  readonly explicit: string | undefined
  readonly context: string | undefined
  readonly env: Readonly<Record<string, string>>
  /** What the generator has put in, by the names of families and exceptions. */
  readonly tags: ReadonlySet<string>
}

// --- What may be chosen ---

type Arbitrary<A> = Arbitrary.Arbitrary<A>

const below = (count: number): Arbitrary<number> =>
  Arbitrary.schema(Schema.Literals(Array.from({ length: count }, (_, index) => index)))

const pick = <const A>(...values: ReadonlyArray<A>): Arbitrary<A> =>
  Arbitrary.map(below(values.length), (index) => values[index]!)

const choose = <A>(...choices: ReadonlyArray<Arbitrary<A>>): Arbitrary<A> =>
  Arbitrary.flatMap(below(choices.length), (index) => choices[index]!)

/** One time in so many, else the first. */
const seldom = <A>(times: number, usual: Arbitrary<A>, other: Arbitrary<A>): Arbitrary<A> =>
  Arbitrary.flatMap(below(times), (index) => index === times - 1 ? other : usual)

const constant = <A>(value: A): Arbitrary<A> => Arbitrary.map(below(1), () => value)

/** Part of an entry, with the tags of what it brings along. */
interface Piece {
  readonly entry: Readonly<Record<string, unknown>>
  readonly tags: ReadonlyArray<string>
}

const piece = (entry: Readonly<Record<string, unknown>>, ...tags: ReadonlyArray<string>): Piece => ({ entry, tags })
const nothing = piece({})

const together = (...parts: ReadonlyArray<Arbitrary<Piece>>): Arbitrary<Piece> =>
  Arbitrary.map(Arbitrary.all(parts), (pieces) => ({
    entry: Object.assign({}, ...pieces.map(({ entry }) => entry)) as Record<string, unknown>,
    tags: pieces.flatMap(({ tags }) => tags)
  }))

// --- Certificates ---

const root = makeAuthority("root CA")
const intermediate = root.authority("intermediate CA")
const client = root.client("somebody")
const other = root.client("somebody else")
const base64 = (text: string) => Buffer.from(text).toString("base64")

/** Files that lie beside each kubeconfig. */
export const besides: ReadonlyArray<File> = [
  { name: "ca.pem", text: root.cert },
  { name: "intermediate.pem", text: intermediate.cert },
  { name: "client.pem", text: client.cert },
  { name: "client.key", text: client.key },
  { name: "other.key", text: other.key },
  { name: "token", text: "from-file\n" },
  { name: "empty", text: "" },
  { name: "garbage", text: "garbage" }
]

// --- Clusters ---

const server = seldom<Piece>(
  60,
  pick(
    ...[
      "https://10.0.0.1:6443",
      "https://cluster.example",
      "https://cluster.example:443/",
      "https://gateway.example/k8s/clusters/c-1",
      "https://gateway.example/k8s/?query=1#fragment",
      "https://[2001:db8::1]:6443",
      "https://Cluster.Example:6443/",
      "https://127.0.0.1:6443"
    ].map((server) => piece({ server }))
  ),
  choose(
    pick(piece({ server: "http://127.0.0.1:8001" }, "plain"), piece({ server: "http://cluster.example" }, "plain")),
    pick(piece({ server: "cluster.example:6443" }, "no scheme"), piece({ server: "" }), nothing)
  )
)

const ca = choose<Piece>(
  constant(piece({ "certificate-authority-data": base64(root.cert) })),
  constant(piece({ "certificate-authority": "ca.pem" })),
  constant(nothing),
  pick(
    piece({ "certificate-authority-data": base64(intermediate.cert) }, "C1"),
    piece({ "certificate-authority": "./intermediate.pem" }, "C1"),
    piece({ "certificate-authority": "../a/ca.pem" }),
    piece({ "certificate-authority-data": base64(`comment\n${root.cert}${intermediate.cert}`) }, "C1")
  ),
  seldom(
    3,
    constant(piece({ "insecure-skip-tls-verify": true })),
    pick(
      piece({ "insecure-skip-tls-verify": true, "certificate-authority": "ca.pem" }),
      piece({ "certificate-authority": "ca.pem", "certificate-authority-data": base64(root.cert) }),
      piece({ "certificate-authority": "missing.pem" }),
      piece({ "certificate-authority": "garbage" }),
      piece({ "certificate-authority-data": base64("garbage") }),
      piece({ "certificate-authority-data": "not base64!" }),
      piece({ "certificate-authority-data": `${base64(root.cert).slice(0, 60)}\n${base64(root.cert).slice(60)}\n` }),
      piece({ "insecure-skip-tls-verify": false, "certificate-authority": "" })
    )
  )
)

const proxyUrl = seldom<Piece>(
  8,
  constant(nothing),
  pick(
    piece({ "proxy-url": "http://proxy.example:3128" }, "C15"),
    piece({ "proxy-url": "https://user:p%40ss@proxy.example" }, "C15"),
    piece({ "proxy-url": "socks5://127.0.0.1:1080" }, "C15"),
    piece({ "proxy-url": "ftp://proxy.example" }, "C15"),
    piece({ "proxy-url": "proxy.example:3128" }, "C15"),
    piece({ "proxy-url": "" })
  )
)

const execExtension = seldom<Piece>(
  4,
  constant(nothing),
  pick(
    piece({
      extensions: [{ name: "client.authentication.k8s.io/exec", extension: { audience: "x", list: [1, true] } }]
    }),
    piece({ extensions: [{ name: "other", extension: { a: 1 } }, { name: "more", extension: "text" }] }),
    piece({ extensions: [] })
  )
)

const cluster = together(
  server,
  ca,
  seldom(5, constant(nothing), pick(piece({ "tls-server-name": "kubernetes" }), piece({ "tls-server-name": "" }))),
  proxyUrl,
  execExtension,
  seldom(10, constant(nothing), constant(piece({ "disable-compression": true })))
)

// --- Users ---

const certificate = choose<Piece>(
  constant(piece({ "client-certificate-data": base64(client.cert), "client-key-data": base64(client.key) })),
  constant(piece({ "client-certificate-data": base64(client.cert), "client-key-data": base64(client.key) })),
  constant(piece({ "client-certificate": "client.pem", "client-key": "client.key" })),
  constant(piece({ "client-certificate": "client.pem", "client-key-data": base64(client.key) })),
  pick(
    piece({ "client-certificate": "client.pem" }),
    piece({ "client-key": "client.key" }),
    piece({ "client-certificate": "missing.pem", "client-key": "client.key" }),
    piece({ "client-certificate": "client.pem", "client-key": "other.key" }),
    piece({ "client-certificate-data": base64(client.cert), "client-key-data": base64(other.key) }),
    piece({ "client-certificate-data": base64("garbage"), "client-key-data": base64(client.key) }),
    piece({
      "client-certificate": "client.pem",
      "client-certificate-data": base64(client.cert),
      "client-key": "client.key"
    }),
    piece({ "client-certificate": "client.pem", "client-key": "client.key", "client-key-data": base64(client.key) })
  )
)

const token = choose<Piece>(
  pick(piece({ token: "secret" }), piece({ tokenFile: "token" })),
  constant(piece({ token: "secret" })),
  constant(piece({ tokenFile: "token" })),
  constant(piece({ token: "secret", tokenFile: "token" })),
  pick(
    piece({ token: "secret", tokenFile: "missing" }),
    piece({ tokenFile: "missing" }),
    piece({ tokenFile: "../b/token" }),
    piece({ token: "" }),
    piece({ token: null })
  )
)

const basic = pick<Piece>(
  piece({ username: "user", password: "password" }),
  piece({ username: "üser", password: "pass:word" }),
  piece({ username: "user" }),
  piece({ password: "password" })
)

const v1 = "client.authentication.k8s.io/v1"
const v1beta1 = "client.authentication.k8s.io/v1beta1"

const exec = Arbitrary.map(
  together(
    choose(
      constant(piece({ command: "plugin" })),
      pick(
        piece({ command: "./bin/plugin" }, "C8"),
        piece({ command: "bin/plugin" }, "C8"),
        piece({ command: "../plugins//plugin" }, "C8"),
        piece({ command: "/usr/local/bin/plugin" }, "C8")
      ),
      seldom(4, constant(piece({ command: "plugin" })), pick(piece({ command: "" }), nothing))
    ),
    seldom(
      8,
      pick(
        piece({ apiVersion: v1, interactiveMode: "Never" }),
        piece({ apiVersion: v1, interactiveMode: "IfAvailable" }, "C10"),
        piece({ apiVersion: v1beta1 }, "C10"),
        piece({ apiVersion: v1beta1, interactiveMode: "Never" })
      ),
      pick(
        piece({ apiVersion: v1, interactiveMode: "Always" }, "C10"),
        piece({ apiVersion: v1 }, "C10"),
        piece({ apiVersion: v1, interactiveMode: "Sometimes" }, "C10"),
        piece({ apiVersion: "client.authentication.k8s.io/v1alpha1", interactiveMode: "Never" }),
        piece({ interactiveMode: "Never" })
      )
    ),
    pick(nothing, piece({ args: ["get-token", "--audience=x y"] }), piece({ args: null })),
    pick(
      nothing,
      piece({ env: [{ name: "A", value: "1" }, { name: "B", value: "" }] }),
      piece({ env: [{ name: "A" }, { name: "A", value: "2" }] }),
      piece({ env: null })
    ),
    pick(nothing, piece({ provideClusterInfo: true }, "C9"), piece({ provideClusterInfo: false }, "C9")),
    pick(nothing, piece({ installHint: "install it" }))
  ),
  ({ entry, tags }) => piece({ exec: entry }, ...tags)
)

const jwt = (claims: Record<string, unknown>) =>
  [{ alg: "RS256" }, claims].map((part) => Buffer.from(JSON.stringify(part)).toString("base64url")).concat("c2ln").join(
    "."
  )

/** Replaced by something new in each case: client-go keeps a provider for each client. */
export const unique = "UNIQUE"

const oidc = Arbitrary.map(
  seldom(
    5,
    pick<Record<string, unknown> | null>(
      { "idp-issuer-url": "https://issuer.example", "client-id": unique, "id-token": jwt({ exp: 4_000_000_000 }) },
      {
        "idp-issuer-url": "https://issuer.example",
        "client-id": unique,
        "client-secret": "y",
        "refresh-token": "z",
        "id-token": jwt({ exp: 4_000_000_000 })
      }
    ),
    pick<Record<string, unknown> | null>(
      { "client-id": unique, "id-token": jwt({ exp: 4_000_000_000 }) },
      { "idp-issuer-url": "https://issuer.example", "id-token": jwt({ exp: 4_000_000_000 }) },
      { "idp-issuer-url": "https://issuer.example", "client-id": unique, "id-token": jwt({ exp: 1_000_000_000 }) },
      {}
    )
  ),
  (config) => piece({ "auth-provider": { name: "oidc", config } }, "C19")
)

const legacy = pick<Piece>(
  piece({ "auth-provider": { name: "gcp", config: { "access-token": "t" } } }, "C18"),
  piece({ "auth-provider": { name: "azure" } }, "C18"),
  piece({ "auth-provider": { name: "openstack", config: null } }, "C18"),
  piece({ "auth-provider": { name: "" } }, "C18")
)

const credentials = choose<Piece>(
  token,
  certificate,
  exec,
  exec,
  basic,
  seldom(3, oidc, legacy),
  constant(nothing),
  seldom(2, together(token, certificate), choose(together(token, basic), together(token, exec), together(exec, oidc)))
)

const impersonation = seldom<Piece>(
  5,
  constant(nothing),
  pick(
    piece({ as: "boss" }, "C7"),
    piece({ as: "boss", "as-groups": ["a", "b, c"] }, "C7"),
    piece({ as: "Jürgen", "as-uid": "42" }, "C7"),
    piece({ as: "boss", "as-user-extra": { "Some.Key/x%y z": ["1", "2"], ö: ["3"], none: [], nil: null } }, "C7"),
    piece({ "as-groups": ["a"] }, "C7"),
    piece({ "as-uid": "42" }, "C7"),
    piece({ "as-user-extra": { a: ["b"] } }, "C7"),
    piece({ "as-groups": [], "as-user-extra": {} }, "C7")
  )
)

const user = together(credentials, impersonation)

// --- Files ---

const namespace = choose<Piece>(
  pick(piece({ namespace: "team" }, "C3"), piece({}, "C3")),
  pick(piece({ namespace: "" }, "C3"), piece({ namespace: null }, "C3"))
)

/** What is not used, and broken. */
const unused = seldom<Piece>(
  4,
  constant(nothing),
  pick(
    piece({ clusters: [{ name: "broken", cluster: { server: "://", "certificate-authority": "/no/file" } }] }, "C5"),
    piece(
      { clusters: [{ name: "empty" }], users: [{ name: "empty", user: null }], contexts: [{ name: "empty" }] },
      "C5"
    ),
    piece({ users: [{ name: "broken", user: { token: "a", username: "b", "client-certificate": "/no/file" } }] }, "C5"),
    piece({ users: [{ name: "legacy", user: { "auth-provider": { name: "gcp" }, exec: {} } }] }, "C5"),
    piece({ contexts: [{ name: "lost", context: { cluster: "no", user: "no" } }] }, "C5")
  )
)

interface Content {
  readonly value: Record<string, unknown>
  readonly tags: ReadonlyArray<string>
}

const names = ["main", "second"] as const

/** A file with entries of these names; a later one may have the same names. */
const content = (whole: boolean): Arbitrary<Content> =>
  Arbitrary.map(
    Arbitrary.all({
      clusters: Arbitrary.all([cluster, cluster]),
      users: Arbitrary.all([user, user]),
      namespaces: Arbitrary.all([namespace, namespace]),
      which: whole ? constant("both") : pick("both", "first", "second", "contexts", "entries"),
      current: seldom(10, constant("main"), pick("second", "", undefined, "absent")),
      // Seldom enough to stay an exception.
      userName: seldom(80, constant(undefined), pick("", "absent")),
      unused,
      head: seldom(
        30,
        constant<Readonly<Record<string, string>>>({ apiVersion: "v1", kind: "Config" }),
        pick<Readonly<Record<string, string>>>({}, { kind: "Config" }, { apiVersion: "v1", kind: "Pod" }, {
          apiVersion: "v2",
          kind: "Config"
        })
      )
    }),
    ({ clusters, current, head, namespaces, unused, userName, users, which }) => {
      const tags = new Set<string>(unused.tags)
      const kept = names.filter((_, index) =>
        which === "both" || which === "contexts" || which === "entries" ||
        which === ["first", "second"][index]
      )
      const list = (key: string, pieces: ReadonlyArray<Piece>, named: string) =>
        kept.map((name) => {
          const { entry, tags: brought } = pieces[names.indexOf(name)]!
          for (const tag of brought) tags.add(tag)
          return {
            name,
            [key]: key === "context" ? { cluster: name, user: userName ?? name, ...entry } : entry
          }
        }).concat((unused.entry[named] as Array<any> | undefined) ?? [])
      if (userName === "absent") tags.add("no user")
      return {
        value: {
          ...head,
          ...(current !== undefined && { "current-context": current }),
          ...(which !== "contexts" &&
            { clusters: list("cluster", clusters, "clusters"), users: list("user", users, "users") }),
          ...(which !== "entries" && { contexts: list("context", namespaces, "contexts") })
        },
        tags: [...tags]
      }
    }
  )

/** As flow and block YAML, which a reader that knows only JSON would not take. */
const yaml = (value: unknown, indent = ""): string => {
  if (Array.isArray(value)) {
    return value.length === 0 ? " []" : value.map((item) => {
      const text = yaml(item, `${indent}  `)
      return `\n${indent}-${text.startsWith("\n") ? ` ${text.slice(indent.length + 3)}` : text}`
    }).join("")
  }
  if (typeof value === "object" && value !== null) {
    const entries = Object.entries(value).filter(([, item]) => item !== undefined)
    return entries.length === 0 ? " {}" : entries
      .map(([key, item]) =>
        `\n${indent}${/^[a-z-]+$/.test(key) ? key : JSON.stringify(key)}:${yaml(item, `${indent}  `)}`
      )
      .join("")
  }
  if (typeof value === "string" && value.length > 60 && /^[A-Za-z0-9+/=]+$/.test(value)) {
    return ` ${value}`
  }
  return typeof value === "string" && /^[a-z][a-z./:0-9-]*[a-z0-9]$/.test(value) &&
      !/^(y|n|yes|no|on|off|true|false|null)$/.test(value)
    ? ` ${value}`
    : ` ${JSON.stringify(value)}`
}

type Style = "yaml" | "json" | "document" | "twice" | "broken" | "empty" | "comment"

const styles: Record<Style, (text: { readonly yaml: string; readonly json: string }) => string> = {
  yaml: ({ yaml }) => yaml,
  json: ({ json }) => json,
  document: ({ yaml }) => `# a comment\n---\n${yaml}\n...\n---\nanother: one\n`,
  // A key that comes twice: the last one counts.
  twice: ({ yaml }) => `current-context: absent\n${yaml}\n`,
  broken: ({ yaml }) => `${yaml}\n  - : [\n`,
  empty: () => "",
  comment: () => "# nothing but this\n\n"
}

/** Mistakes of type, for which the whole file is refused. */
const mistakes = pick<Readonly<Record<string, unknown>>>(
  { clusters: "text" },
  { users: [{ name: "main", user: { token: 5 } }] },
  { users: [{ name: 7, user: {} }] },
  { clusters: [{ name: "main", cluster: { server: "https://x", "insecure-skip-tls-verify": "true" } }] },
  { contexts: [{ name: "main", context: [] }] },
  { contexts: [{ name: "main" }, { name: "main" }] },
  { users: [{ name: "x", user: { "as-groups": "a" } }] }
)

interface Written {
  readonly text: string | undefined
  readonly tags: ReadonlyArray<string>
}

const written = (whole: boolean): Arbitrary<Written> =>
  Arbitrary.map(
    Arbitrary.all({
      content: content(whole),
      style: seldom<Style | "missing">(
        whole ? 40 : 4,
        pick("yaml", "json", "document", "twice"),
        pick("empty", "comment", "missing", "empty", "comment", "missing", "broken")
      ),
      mistake: seldom(40, constant<Readonly<Record<string, unknown>> | undefined>(undefined), mistakes)
    }),
    ({ content, mistake, style }): Written => {
      if (style === "missing") {
        return { text: undefined, tags: ["C6"] }
      }
      const value = { ...content.value, ...mistake }
      return {
        text: styles[style]({ yaml: yaml(value).trimStart(), json: JSON.stringify(value, undefined, 1) }),
        tags: style === "empty" || style === "comment"
          ? ["C6"]
          : style === "broken" || mistake !== undefined
          ? ["C12"]
          : content.tags
      }
    }
  )

// --- The surroundings ---

const proxies = seldom<Readonly<Record<string, string>>>(
  5,
  constant({}),
  Arbitrary.map(
    Arbitrary.all([
      pick<Record<string, string>>(
        { HTTPS_PROXY: "http://proxy.example:3128" },
        { https_proxy: "proxy.example:3128", HTTPS_PROXY: "http://ignored.example" },
        { HTTPS_PROXY: "socks5://proxy.example:1080", HTTP_PROXY: "http://plain.example" },
        { HTTPS_PROXY: "" }
      ),
      pick<Record<string, string>>(
        {},
        { NO_PROXY: "cluster.example" },
        { NO_PROXY: ".example, 10.0.0.0/8" },
        { no_proxy: "*.example", NO_PROXY: "*" },
        { NO_PROXY: "10.0.0.1:6443,gateway.example:443" },
        { NO_PROXY: "10.0.0.1:443,xcluster.example,example.com" },
        { NO_PROXY: "*" },
        { NO_PROXY: "2001:db8::/32,[2001:db8::1]:6443" }
      )
    ]),
    ([proxy, exempt]) => ({ ...proxy, ...exempt })
  )
)

export const cases: Arbitrary<Case> = Arbitrary.map(
  Arbitrary.all({
    whole: written(true),
    others: Arbitrary.flatMap(below(3), (count) => Arbitrary.all(Array.from({ length: count }, () => written(false)))),
    place: below(3),
    source: pick("list", "list", "explicit"),
    gap: seldom(6, constant(false), constant(true)),
    context: seldom(
      8,
      constant<string | undefined>(undefined),
      pick<string | undefined>("second", "main", "second", "absent")
    ),
    env: proxies
  }),
  ({ context, env, gap, others, place, source, whole }): Case => {
    const files = others.toSpliced(place, 0, whole)
    const list = files.map((_, index) => `${"abc"[index]}/config`)
    const tags = new Set(files.flatMap((file) => file.tags))
    if (Object.keys(env).length > 0) tags.add("C15")
    if (source === "explicit") tags.add("C2")
    return {
      files: files.map(({ text }, index) => ({ name: list[index]!, text })),
      list: gap ? ["", ...list, list[0]!] : list,
      explicit: source === "explicit" ? list[files.indexOf(whole)] : undefined,
      context,
      env,
      tags
    }
  }
)
