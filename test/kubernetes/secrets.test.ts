/**
 * No token, password, key or output of a plugin comes out anywhere: secrets are planted wherever they can stand, and looked
 * for in every error, log line, span and metric, and in what the command prints.
 */
import { assert, describe, it } from "@effect/vitest"
import {
  Cause,
  ConfigProvider,
  Context,
  Effect,
  Exit,
  Layer,
  Logger,
  Metric,
  References,
  type Scope,
  Tracer
} from "effect"
import { chmod, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { inspect } from "node:util"
import { afterAll, beforeAll } from "vitest"
import * as KubernetesClient from "../../src/kubernetes/KubernetesClient.ts"
import { bundle, type Executable, Running } from "../cli/Executable.ts"
import { makeAuthority } from "../utils/certificates.ts"
import { type Handler, json, serve } from "../utils/TestServer.ts"

/** Each secret has this in it; no text of ours has. */
const mark = "pLaNtEd"
let planted = 0
const secret = (what: string) => `${mark}-${what}-${++planted}`

const forms = (text: string) => {
  const encoded = Buffer.from(mark).toString("base64").slice(0, 8)
  return text.includes(mark) || text.includes(encoded) || text.toLowerCase().includes(mark.toLowerCase())
}

const directory: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.promise(() => mkdtemp(join(tmpdir(), "secrets-"))),
  (path) => Effect.promise(() => rm(path, { recursive: true }))
)

const authority = makeAuthority("test CA")
const tls = authority.server(["127.0.0.1"])
const base64 = (text: string) => Buffer.from(text).toString("base64")

interface Parts {
  readonly server: string
  readonly cluster?: Record<string, unknown>
  readonly user?: Record<string, unknown>
}

const kubeconfigText = ({ cluster, server, user }: Parts) =>
  JSON.stringify({
    clusters: [{
      name: "a",
      cluster: { server, "certificate-authority-data": base64(authority.cert), ...cluster }
    }],
    users: [{ name: "a", user: { ...user } }, { name: "unused", user: { token: secret("unused") } }],
    contexts: [{ name: "a", context: { cluster: "a", user: "a" } }],
    "current-context": "a"
  })

/** Everything that comes out while this runs: of the effect, of its logs, spans and metrics. */
const observe = <A, E>(effect: Effect.Effect<A, E, Scope.Scope>) =>
  Effect.gen(function*() {
    const out: Array<string> = []
    const spans: Array<Tracer.Span> = []
    const logger = Logger.make((options) => {
      out.push(inspect([options.message, options.cause, Cause.pretty(options.cause)], { depth: 20 }))
      out.push(JSON.stringify(options.fiber.getRef(References.CurrentLogAnnotations)))
    })
    const native = yield* Tracer.Tracer
    const tracer = Tracer.make({
      ...native,
      span: (options) => {
        const span = native.span(options)
        spans.push(span)
        return span
      }
    })
    const metrics = new Map()
    const exit = yield* Effect.exit(Effect.scoped(effect)).pipe(
      Effect.tap((exit) => Exit.isFailure(exit) ? Effect.logError("failed", exit.cause) : Effect.void),
      Effect.withSpan("all"),
      Effect.provide(Logger.layer([logger])),
      Effect.provideService(References.MinimumLogLevel, "All"),
      Effect.provideService(Tracer.Tracer, tracer),
      Effect.provideService(Metric.MetricRegistry, metrics)
    )
    if (Exit.isFailure(exit)) out.push(Cause.pretty(exit.cause), inspect(exit.cause, { depth: 20 }))
    for (const span of spans) out.push(inspect([span.name, [...span.attributes], span.status], { depth: 20 }))
    out.push(inspect([...metrics.entries()], { depth: 8 }))
    return { exit, text: out.join("\n") }
  })

const requests = (client: KubernetesClient.KubernetesClient["Service"]) =>
  Effect.gen(function*() {
    yield* client.request({ method: "GET", path: "/a", timeout: "2 seconds" })
    yield* client.request({ method: "POST", path: "/b", body: {}, timeout: "2 seconds" })
  })

const by = (layer: Layer.Layer<KubernetesClient.KubernetesClient, any>, variables: Record<string, string> = {}) =>
  Effect.gen(function*() {
    const context = yield* Layer.build(Layer.fresh(layer))
    yield* requests(Context.get(context, KubernetesClient.KubernetesClient))
  }).pipe(Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown(variables))))

const v1 = "client.authentication.k8s.io/v1"

const plugin = (script: string) => ({
  exec: {
    apiVersion: v1,
    command: process.execPath,
    args: ["-e", script, secret("argument")],
    env: [{ name: "PASSWORD", value: secret("variable") }],
    interactiveMode: "Never"
  }
})

const prints = (status: Record<string, unknown>) =>
  `console.log(${JSON.stringify(JSON.stringify({ apiVersion: v1, kind: "ExecCredential", status }))})`

const jwt = (claims: Record<string, unknown>) =>
  [{ alg: "RS256", note: mark }, { ...claims, note: mark }]
    .map((part) => Buffer.from(JSON.stringify(part)).toString("base64url")).concat(mark).join(".")

/** Users who may log in, and some who cannot. */
const users: Record<string, () => Record<string, unknown>> = {
  "a token": () => ({ token: secret("token") }),
  "a token that is not a header": () => ({ token: `${secret("token")}\n\u0000x` }),
  "a password": () => ({ username: secret("user"), password: secret("password") }),
  "two logins": () => ({ username: secret("user"), token: secret("token") }),
  "a key that is not one": () => ({
    "client-certificate-data": base64(tls.cert),
    "client-key-data": base64(`-----BEGIN PRIVATE KEY-----\n${secret("key")}\n-----END PRIVATE KEY-----`)
  }),
  "a key that is not base64": () => ({ "client-certificate-data": base64(tls.cert), "client-key-data": secret("key") }),
  "a plugin": () => plugin(prints({ token: secret("output") })),
  "a plugin with a bare token": () => plugin(`console.log("${secret("output")}")`),
  "a plugin with broken JSON": () => plugin(`console.log('{"status":{"token":"${secret("output")}"')`),
  "a plugin of another version": () =>
    plugin(`console.log('{"kind":"ExecCredential","apiVersion":"${secret("output")}","status":{}}')`),
  "a plugin with a broken time": () => plugin(prints({ token: "t", expirationTimestamp: secret("time") })),
  "a plugin that fails": () => plugin(`console.log("${secret("output")}"); process.exit(1)`),
  "a provider that is gone": () => ({ "auth-provider": { name: "gcp", config: { "access-token": secret("token") } } }),
  "an OIDC login": () => ({
    "auth-provider": {
      name: "oidc",
      config: { "idp-issuer-url": "https://127.0.0.1:1", "client-id": "x", "id-token": jwt({ exp: 4e9 }) }
    }
  }),
  "an OIDC login that has expired": () => ({
    "auth-provider": {
      name: "oidc",
      config: {
        "idp-issuer-url": "https://127.0.0.1:1",
        "client-id": "x",
        "client-secret": secret("client"),
        "refresh-token": secret("refresh"),
        "id-token": jwt({ exp: 1 })
      }
    }
  }),
  "types that are wrong": () => ({ token: [secret("token")], password: { a: secret("password") } })
}

/** What servers do; none of them repeats what it was sent. */
const servers: Record<string, Handler> = {
  accepts: (_, response) => json(response, 200, {}),
  refuses: (_, response) => json(response, 401, { kind: "Status", message: "Unauthorized", reason: "Unauthorized" }),
  breaks: (_, __, socket) => socket.destroy()
}

describe("no secret comes out of a kubeconfig", () => {
  for (const [user, make] of Object.entries(users)) {
    for (const [behaviour, handler] of Object.entries(servers)) {
      it.live(`with ${user}, where the server ${behaviour}`, () =>
        Effect.gen(function*() {
          const server = yield* serve(handler, { tls })
          const file = join(yield* directory, "config")
          yield* Effect.promise(() => writeFile(file, kubeconfigText({ server: server.url, user: make() })))
          const { text } = yield* observe(by(KubernetesClient.layerKubeconfig({ file })))
          assert.isFalse(forms(text), text)
        }))
    }
  }

  it.live("in its addresses, or in a proxy's", () =>
    Effect.gen(function*() {
      const password = secret("password")
      const cases: ReadonlyArray<readonly [Parts, Record<string, string>]> = [
        [{ server: `https://user:${password}@127.0.0.1:1` }, {}],
        [{
          server: `https://user:${password}@127.0.0.1:1`,
          cluster: { "insecure-skip-tls-verify": true, "certificate-authority-data": "" }
        }, {}],
        [{ server: `ftp://user:${password}@127.0.0.1:1` }, {}],
        [{ server: "https://cluster.example", cluster: { "proxy-url": `http://user:${password}@127.0.0.1:1` } }, {}],
        [{ server: "https://cluster.example", cluster: { "proxy-url": `ftp://user:${password}@127.0.0.1:1` } }, {}],
        [{ server: "https://cluster.example" }, { HTTPS_PROXY: `http://user:${password}@127.0.0.1:1` }],
        [{ server: "https://cluster.example" }, { HTTPS_PROXY: `socks4://user:${password}@127.0.0.1:1` }],
        [{ server: "https://cluster.example" }, { HTTPS_PROXY: `http://user:${password}@:::` }]
      ]
      for (const [parts, variables] of cases) {
        const file = join(yield* directory, "config")
        yield* Effect.promise(() => writeFile(file, kubeconfigText(parts)))
        const { exit, text } = yield* observe(by(KubernetesClient.layerKubeconfig({ file }), variables))
        assert.isTrue(Exit.isFailure(exit))
        assert.isFalse(forms(text), text)
      }
    }))

  it.live("that is not valid YAML, wherever the mistake is", () =>
    Effect.gen(function*() {
      const whole = `apiVersion: v1\nusers:\n- name: a\n  user:\n    token: ${secret("token")}\n    password: "${
        secret("password")
      }"\n`
      const file = join(yield* directory, "config")
      for (
        const mistake of ["\t", "\"", "'", "[", "{", "*", "&", "!", ": ", "- ", "\n", "%", "@", "`", "|", "\u0000"]
      ) {
        for (let at = 0; at < whole.length; at += 3) {
          yield* Effect.promise(() => writeFile(file, whole.slice(0, at) + mistake + whole.slice(at)))
          const exit = yield* Effect.exit(Effect.scoped(by(KubernetesClient.layerKubeconfig({ file }))))
          assert(Exit.isFailure(exit))
          const text = `${Cause.pretty(exit.cause)}${inspect(exit.cause, { depth: 20 })}`
          assert.isFalse(forms(text), text)
        }
      }
    }))
})

describe("no secret comes out of a service account", () => {
  for (const [behaviour, handler] of Object.entries(servers)) {
    it.live(`where the server ${behaviour}`, () =>
      Effect.gen(function*() {
        const server = yield* serve(handler, { tls })
        const path = yield* directory
        for (const token of [secret("token"), `${secret("token")}\nü\u0001`]) {
          yield* Effect.promise(() => writeFile(join(path, "token"), token))
          yield* Effect.promise(() => writeFile(join(path, "ca.crt"), authority.cert))
          const { text } = yield* observe(by(KubernetesClient.layerInCluster({ directory: path }), {
            KUBERNETES_SERVICE_HOST: "127.0.0.1",
            KUBERNETES_SERVICE_PORT: `${server.port}`
          }))
          assert.isFalse(forms(text), text)
        }
      }))
  }
})

describe("no secret comes out of the command", () => {
  let executable: Executable
  beforeAll(async () => {
    executable = await bundle()
  })
  afterAll(async () => {
    await executable[Symbol.asyncDispose]()
  })

  it.live.each(["status", "doctor"])("%s", (subcommand) =>
    Effect.gen(function*() {
      const server = yield* serve(servers["refuses"]!, { tls })
      const path = yield* directory
      yield* Effect.promise(() => mkdir(join(path, "bin")))
      const bare = join(path, "bin", "bare")
      yield* Effect.promise(() => writeFile(bare, `#!/bin/sh\necho ${secret("output")}\n`))
      yield* Effect.promise(() => chmod(bare, 0o755))
      const texts = [
        kubeconfigText({ server: server.url, user: { token: secret("token") } }),
        kubeconfigText({
          server: server.url,
          user: { exec: { apiVersion: v1, command: "bin/bare", interactiveMode: "Never" } }
        }),
        `users:\n- name: a\n  user:\n    token: ${secret("token")}\n   password: ${secret("password")}\n`
      ]
      for (const [index, text] of texts.entries()) {
        const file = join(path, `config-${index}`)
        yield* Effect.promise(() => writeFile(file, text))
        for (const format of ["text", "json"]) {
          const running = new Running(process.execPath, [
            executable.file,
            subcommand,
            ...(subcommand === "doctor" ? ["--name", "x"] : []),
            "--kubeconfig",
            file,
            "--log",
            format,
            "--log-level",
            "trace"
          ], { SECRET: secret("environment"), HTTPS_PROXY: `http://user:${secret("password")}@127.0.0.1:1` })
          const { code } = yield* Effect.promise(() => running.exit)
          assert.notStrictEqual(code, 0)
          assert.isNotEmpty(running.stdout + running.stderr)
          assert.isFalse(forms(running.stdout + running.stderr), running.stdout + running.stderr)
        }
      }
    }))
})
