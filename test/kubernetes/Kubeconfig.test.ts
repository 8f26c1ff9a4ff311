/**
 * That a kubeconfig reaches its cluster as it does with kubectl: each kind of thing that may stand in one, on real sockets
 * and with real plugins. How files are read is compared with client-go itself in test/cluster.
 */
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Context, Effect, Fiber, Layer, type Scope } from "effect"
import { TestClock } from "effect/testing"
import { spawn } from "node:child_process"
import { existsSync } from "node:fs"
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises"
import { createServer as createHttpServer, type IncomingMessage } from "node:http"
import { type AddressInfo, connect as connectSocket, createServer, type Socket } from "node:net"
import { tmpdir } from "node:os"
import { delimiter, join } from "node:path"
import { fileURLToPath } from "node:url"
import * as Client from "../../src/kubernetes/KubernetesClient.ts"
import type { KubernetesConfigError, KubernetesError } from "../../src/kubernetes/KubernetesError.ts"
import { OptionalPackages } from "../../src/kubernetes/OptionalPackages.ts"
import { makeAuthority } from "../utils/certificates.ts"
import { type Handler, json, serve } from "../utils/TestServer.ts"

// --- Helpers ---

const directory: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.promise(() => mkdtemp(join(tmpdir(), "kubeconfig-"))),
  (path) => Effect.promise(() => rm(path, { recursive: true }))
)

const base64 = (text: string) => Buffer.from(text).toString("base64")

interface Parts {
  readonly server: string
  readonly cluster?: Record<string, unknown>
  readonly user?: Record<string, unknown>
  readonly context?: Record<string, unknown>
}

const content = ({ cluster, context, server, user }: Parts) => ({
  apiVersion: "v1",
  kind: "Config",
  clusters: [{ name: "a", cluster: { server, ...cluster } }],
  users: [{ name: "a", user: user ?? {} }],
  contexts: [{ name: "a", context: { cluster: "a", user: "a", ...context } }],
  "current-context": "a"
})

const write = (file: string, text: string) => Effect.promise(() => writeFile(file, text))

const kubeconfig = Effect.fnUntraced(function*(parts: Parts) {
  const file = join(yield* directory, "config")
  yield* write(file, JSON.stringify(content(parts)))
  return file
})

const connect = (layer: ReturnType<typeof Client.layerKubeconfig>, variables: Record<string, string> = {}) =>
  Effect.map(Layer.build(Layer.fresh(layer)), (context) => Context.get(context, Client.KubernetesClient)).pipe(
    Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown(variables)))
  )

const get = { method: "GET", path: "/api/v1/things" } as const

const ask = (file: string, variables?: Record<string, string>) =>
  Effect.flatMap(connect(Client.layerKubeconfig({ file }), variables), (client) => client.request(get))

const refusal = <A, R>(effect: Effect.Effect<A, KubernetesConfigError | KubernetesError, R>) =>
  Effect.map(Effect.flip(effect), (error) => error.message)

const ok: Handler = (_, response) => json(response, 200, { ok: true })

const root = makeAuthority("root CA")
const tls = root.server(["127.0.0.1", "localhost"])
const trusted = { "certificate-authority-data": base64(root.cert) }

const isRunning = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

/** Waits until it is so; the limit of the test is the limit. */
const until = (condition: () => boolean) =>
  Effect.promise(async () => {
    while (!condition()) await new Promise((resolve) => setTimeout(resolve, 10))
  })

/** What a Node program prints that connects by these files, and its exit code. */
const program = fileURLToPath(new URL("../utils/kubeconfigProgram.ts", import.meta.url))

const start = (
  command: string,
  args: ReadonlyArray<string>,
  options: { readonly env?: Record<string, string>; readonly cwd?: string } = {}
): Effect.Effect<{ readonly stdout: string; readonly stderr: string; readonly code: number | null }> =>
  Effect.callback((resume) => {
    const child = spawn(command, args, {
      stdio: ["ignore", "pipe", "pipe"],
      cwd: options.cwd,
      env: { PATH: process.env["PATH"] ?? "", ...options.env }
    })
    let stdout = ""
    let stderr = ""
    child.stdout.on("data", (chunk) => stdout += String(chunk))
    child.stderr.on("data", (chunk) => stderr += String(chunk))
    child.once("close", (code) => resume(Effect.succeed({ stdout, stderr, code })))
    return Effect.sync(() => child.kill("SIGKILL"))
  })

// --- The server ---

describe("trust", () => {
  it.live("may be in an intermediate CA, and in no other", () =>
    Effect.gen(function*() {
      const intermediate = root.authority("intermediate CA")
      const { cert, key } = intermediate.server(["127.0.0.1"])
      const server = yield* serve(ok, { tls: { cert: cert + intermediate.cert, key } })
      const file = (ca: string) =>
        kubeconfig({ server: server.url, cluster: { "certificate-authority-data": base64(ca) } })
      yield* ask(yield* file(intermediate.cert))
      yield* ask(yield* file(root.cert))
      const sibling = root.authority("another intermediate CA")
      assert.match(
        yield* refusal(ask(yield* file(sibling.cert))),
        /is not trusted .*; it must be signed by the kubeconfig's certificate-authority/
      )
      assert.strictEqual(server.received.length, 2)
    }))

  it.live("is in the CAs of the system where the kubeconfig names none", () =>
    Effect.gen(function*() {
      const server = yield* serve(ok, { tls })
      const file = yield* kubeconfig({ server: server.url })
      const store = join(yield* directory, "ca-certificates.crt")
      yield* write(store, root.cert)
      const trusting = yield* start(process.execPath, [program, file], { env: { SSL_CERT_FILE: store } })
      assert.deepStrictEqual(trusting, { stdout: `{"ok":true}\n`, stderr: "", code: 0 })
      const { code, stderr } = yield* start(process.execPath, [program, file])
      assert.strictEqual(code, 1)
      assert.include(stderr, "NODE_EXTRA_CA_CERTS")
      assert.include(stderr, "--use-system-ca")
    }))
})

describe("files", () => {
  it.live("may have broken entries that are not used", () =>
    Effect.gen(function*() {
      const server = yield* serve(ok)
      const used = content({ server: server.url, user: { token: "t" } })
      const file = join(yield* directory, "config")
      yield* write(
        file,
        JSON.stringify({
          ...used,
          clusters: [
            ...used.clusters,
            { name: "empty" },
            { name: "no-server", cluster: {} },
            { name: "no-ca", cluster: { server: "ftp://x", "certificate-authority": "/no/such/file" } }
          ],
          users: [...used.users, { name: "empty" }, { name: "half", user: { "client-certificate": "/no/such/file" } }, {
            name: "gone",
            user: { "auth-provider": { name: "gcp" } }
          }],
          contexts: [...used.contexts, { name: "empty" }, { name: "lost", context: { cluster: "x", user: "y" } }]
        })
      )
      yield* ask(file)
      assert.strictEqual(server.received[0]?.headers.authorization, "Bearer t")
    }))

  it.live("of a list may be empty, or hold nothing but comments", () =>
    Effect.gen(function*() {
      const server = yield* serve(ok)
      const path = yield* directory
      yield* write(join(path, "empty"), "")
      yield* write(join(path, "comments"), "# nothing here\n\n---\n# nor here\n")
      yield* write(join(path, "config"), JSON.stringify(content({ server: server.url, user: { token: "t" } })))
      const files = ["", "empty", "missing", "comments", "config"].map((name) => name && join(path, name))
      const client = yield* connect(Client.layerKubeconfig(), { KUBECONFIG: files.join(delimiter) })
      yield* client.request(get)
      assert.strictEqual(
        yield* refusal(connect(Client.layerKubeconfig({ file: join(path, "empty") }))),
        `${join(path, "empty")}: the kubeconfig has no current-context; set one (kubectl config use-context NAME)`
      )
    }))

  it.live("are YAML as Go reads it", () =>
    Effect.gen(function*() {
      const server = yield* serve(ok, { tls })
      const file = join(yield* directory, "config")
      yield* write(
        file,
        `%YAML 1.1
---
apiVersion: v1
kind: Config
current-context: "yes"
defaults: &defaults
  insecure-skip-tls-verify: on
clusters:
  - name: a
    cluster: { <<: *defaults, server: "${server.url}" }
users:
- { name: a, user: { token: first, token: last } }
contexts:
-
  name: "yes"
  context:
    cluster: a
    user: a
...
---
another: document
`
      )
      yield* ask(file)
      assert.strictEqual(server.received[0]?.headers.authorization, "Bearer last")
    }))
})

// --- Users ---

describe("impersonation", () => {
  it.live("sends user, uid, groups and extra", () =>
    Effect.gen(function*() {
      const server = yield* serve(ok)
      const file = yield* kubeconfig({
        server: server.url,
        user: {
          token: "t",
          as: "Jürgen",
          "as-uid": "42",
          "as-groups": ["developers", "operators, all"],
          "as-user-extra": { "example.com/reason 100%": ["one", "two"], scopes: ["read"], none: [] }
        }
      })
      yield* ask(file)
      const names = server.received[0]!.rawHeaders.flatMap((name, index, all) =>
        index % 2 === 0 && /^impersonate/i.test(name)
          ? [[name.toLowerCase(), Buffer.from(all[index + 1]!, "latin1").toString("utf8")]]
          : []
      )
      assert.deepStrictEqual(names.sort(), [
        ["impersonate-extra-example.com%2freason%20100%25", "one"],
        ["impersonate-extra-example.com%2freason%20100%25", "two"],
        ["impersonate-extra-scopes", "read"],
        ["impersonate-group", "developers"],
        ["impersonate-group", "operators, all"],
        ["impersonate-uid", "42"],
        ["impersonate-user", "Jürgen"]
      ])
    }))

  it.live.each([{ "as-uid": "1" }, { "as-groups": ["a"] }, { "as-user-extra": { a: ["b"] } }])(
    "needs a user: %j",
    (user) =>
      Effect.gen(function*() {
        const server = yield* serve(ok)
        const file = yield* kubeconfig({ server: server.url, user: { token: "t", ...user } })
        assert.strictEqual(
          yield* refusal(ask(file)),
          `${file}: user a has as-uid, as-groups or as-user-extra without as: say which user to impersonate`
        )
        assert.strictEqual(server.received.length, 0)
      })
  )
})

describe("users that contradict themselves are refused", () => {
  it.live.each([
    [{ token: "t", username: "u" }, "has a token and a username; keep one of them"],
    [{ "client-certificate-data": base64("x") }, "has a client certificate without client-key or client-key-data"],
    [{ exec: { apiVersion: "client.authentication.k8s.io/v1", command: "x" } }, "has exec without interactiveMode"],
    [{ exec: { apiVersion: "client.authentication.k8s.io/v1alpha1", command: "x" } }, "has exec without an apiVersion"],
    [{ "auth-provider": { name: "gcp" } }, "gke-gcloud-auth-plugin"],
    [{ "auth-provider": { name: "azure", config: { "access-token": "t" } } }, "kubelogin"],
    [{ "auth-provider": { name: "oidc", config: {} } }, "without idp-issuer-url"]
  ])("%j", ([user, message]) =>
    Effect.gen(function*() {
      const file = yield* kubeconfig({ server: "https://127.0.0.1:1", user: user as Record<string, unknown> })
      assert.include(yield* refusal(connect(Client.layerKubeconfig({ file }))), message as string)
    }))
})

it.live("a login in the server's URL is sent where there is no other, and shown nowhere", () =>
  Effect.gen(function*() {
    const server = yield* serve(ok)
    const url = server.url.replace("//", "//us%20er:p%40ss@")
    const client = yield* connect(Client.layerKubeconfig({ file: yield* kubeconfig({ server: url }) }))
    assert.strictEqual(client.server, server.url)
    yield* client.request(get)
    yield* ask(yield* kubeconfig({ server: url, user: { token: "t" } }))
    assert.deepStrictEqual(server.received.map(({ headers }) => headers.authorization), [
      `Basic ${base64("us er:p@ss")}`,
      "Bearer t"
    ])
  }))

// --- Exec plugins ---

const apiVersion = "client.authentication.k8s.io/v1"

const script = (text: string, rest: Record<string, unknown> = {}) => ({
  apiVersion,
  command: process.execPath,
  args: ["-e", text],
  interactiveMode: "Never",
  ...rest
})

const prints = (status: Record<string, unknown>) =>
  `console.log(JSON.stringify(${JSON.stringify({ apiVersion, kind: "ExecCredential", status })}))`

describe("exec plugins", () => {
  it.live("are looked for beside the kubeconfig where their name has a folder", () =>
    Effect.gen(function*() {
      const server = yield* serve(ok)
      const file = yield* kubeconfig({
        server: server.url,
        user: { exec: { apiVersion, command: "./bin/plugin", interactiveMode: "Never" } }
      })
      const bin = join(file, "../bin")
      yield* Effect.promise(() => mkdir(bin))
      yield* write(join(bin, "plugin"), `#!${process.execPath}\n${prints({ token: "beside" })}`)
      yield* Effect.promise(() => chmod(join(bin, "plugin"), 0o755))
      yield* ask(file)
      assert.strictEqual(server.received[0]?.headers.authorization, "Bearer beside")
    }))

  it.live("get their variables, and KUBERNETES_EXEC_INFO with the cluster where they ask for it", () =>
    Effect.gen(function*() {
      const server = yield* serve(ok, { tls })
      const report = `const info = process.env.KUBERNETES_EXEC_INFO;
        require("node:fs").writeFileSync(process.env.REPORT, info + process.env.PATH.length);${prints({ token: "t" })}`
      const path = yield* directory
      const info = Effect.fnUntraced(function*(provideClusterInfo: boolean) {
        const env = [{ name: "REPORT", value: join(path, "report") }]
        const file = yield* kubeconfig({
          server: server.url,
          cluster: {
            ...trusted,
            "tls-server-name": "localhost",
            extensions: [{ name: "client.authentication.k8s.io/exec", extension: { audience: "x" } }, {
              name: "other",
              extension: 1
            }]
          },
          user: { exec: script(report, { env, provideClusterInfo }) }
        })
        yield* ask(file)
        return JSON.parse((yield* Effect.promise(() => readFile(join(path, "report"), "utf8"))).replace(/\d+$/, ""))
      })
      assert.deepStrictEqual(yield* info(false), { kind: "ExecCredential", apiVersion, spec: { interactive: false } })
      assert.deepStrictEqual(yield* info(true), {
        kind: "ExecCredential",
        apiVersion,
        spec: {
          interactive: false,
          cluster: {
            server: server.url,
            "tls-server-name": "localhost",
            "certificate-authority-data": base64(root.cert),
            config: { audience: "x" }
          }
        }
      })
    }))

  it.live("have no standard input without a terminal, and are refused where they need one", () =>
    Effect.gen(function*() {
      const server = yield* serve(ok)
      const reads = `process.stdin.on("data", () => {}).on("end", () => ${prints({ token: "t" })})`
      for (const interactiveMode of ["Never", "IfAvailable"]) {
        yield* ask(yield* kubeconfig({ server: server.url, user: { exec: script(reads, { interactiveMode }) } }))
      }
      const file = yield* kubeconfig({
        server: server.url,
        user: { exec: script(reads, { interactiveMode: "Always" }) }
      })
      const { code, stderr } = yield* start(process.execPath, [program, file])
      assert.strictEqual(code, 1)
      assert.include(stderr, "needs a terminal (interactiveMode is Always), and standard input is not one")
    }))

  it.live("show what they print on stderr as it comes, and what they print on stdout never", () =>
    Effect.gen(function*() {
      const text = `console.error("log in at https://login.example"); console.log("s3cr3t"); process.exit(3)`
      const file = yield* kubeconfig({ server: "https://127.0.0.1:1", user: { exec: script(text) } })
      const { code, stderr, stdout } = yield* start(process.execPath, [program, file])
      assert.strictEqual(code, 1)
      assert.match(
        stderr,
        /^log in at https:\/\/login\.example\n.* ended with exit code 3; what it said .* stands above/
      )
      assert.notInclude(stderr + stdout, "s3cr3t")
    }))

  /** It hangs, with a child that does so too, and says who they are. */
  const hangs = (report: string) =>
    script(
      `const child = require("node:child_process").spawn("sleep", ["600"]);
      process.on("SIGTERM", () => {});
      require("node:fs").writeFileSync("${report}.new", process.pid + " " + child.pid);
      require("node:fs").renameSync("${report}.new", "${report}"); setInterval(() => {}, 1e6)`
    )

  const pids = (report: string) =>
    Effect.andThen(
      until(() => existsSync(report)),
      Effect.promise(async () => (await readFile(report, "utf8")).split(" ").map(Number))
    )

  it.effect("that hang are killed with all that they started when their time is up", () =>
    Effect.gen(function*() {
      const report = join(yield* directory, "report")
      const file = yield* kubeconfig({ server: "https://127.0.0.1:1", user: { exec: hangs(report) } })
      const client = yield* connect(Client.layerKubeconfig({ file }))
      const fiber = yield* Effect.forkChild(refusal(client.request({ ...get, timeout: "10 minutes" })))
      const running = yield* pids(report)
      yield* TestClock.adjust("59 seconds")
      assert.deepStrictEqual(running.map(isRunning), [true, true])
      yield* TestClock.adjust("1 second")
      assert.include(yield* Fiber.join(fiber), `exec plugin ${process.execPath} did not end within 60s, and was killed`)
      yield* until(() => !running.some(isRunning))
    }))

  it.live("that hang are killed with all that they started when the client ends", () =>
    Effect.gen(function*() {
      const report = join(yield* directory, "report")
      const file = yield* kubeconfig({ server: "https://127.0.0.1:1", user: { exec: hangs(report) } })
      const running = yield* Effect.scoped(Effect.gen(function*() {
        const client = yield* connect(Client.layerKubeconfig({ file }))
        yield* Effect.forkScoped(client.request(get))
        return yield* pids(report)
      }))
      yield* until(() => !running.some(isRunning))
    }))

  it.live("that hang are killed with all that they started when the process exits without further ado", () =>
    Effect.gen(function*() {
      const report = join(yield* directory, "report")
      const file = yield* kubeconfig({ server: "https://127.0.0.1:1", user: { exec: hangs(report) } })
      yield* start(process.execPath, [program, file, report])
      const running = yield* pids(report)
      yield* until(() => !running.some(isRunning))
    }))

  it.effect("that give the same token again are not started for each request", () =>
    Effect.gen(function*() {
      const server = yield* serve(ok)
      const path = yield* directory
      const now = Date.now()
      yield* TestClock.setTime(now)
      const expirationTimestamp = new Date(now + 120_000).toISOString()
      const file = yield* kubeconfig({
        server: server.url,
        user: {
          exec: script(
            `require("node:fs").appendFileSync(${JSON.stringify(join(path, "starts"))}, "x");` +
              prints({ token: "t", expirationTimestamp })
          )
        }
      })
      const client = yield* connect(Client.layerKubeconfig({ file }))
      const starts = Effect.promise(async () => (await readFile(join(path, "starts"), "utf8")).length)
      yield* client.request(get)
      // In the last fifth of its life, and beyond.
      yield* TestClock.adjust("100 seconds")
      yield* client.request(get)
      yield* Effect.promise(async () => {
        while ((await readFile(join(path, "starts"), "utf8")).length < 2) {
          await new Promise((done) => setTimeout(done, 10))
        }
      })
      // Until its answer is there.
      yield* Effect.promise(() => new Promise((done) => setTimeout(done, 300)))
      for (let second = 0; second < 9; second++) {
        yield* client.request(get)
        yield* TestClock.adjust("1 second")
      }
      assert.strictEqual(yield* starts, 2)
      yield* TestClock.adjust("60 seconds")
      yield* client.request(get)
      assert.strictEqual(yield* starts, 3)
      yield* client.request(get)
      assert.strictEqual(yield* starts, 3)
    }))
})

// --- Homes ---

it.live("without a home and a user, says what to set in one line", () =>
  Effect.gen(function*() {
    const path = yield* directory
    // As for a user that is in no list of users: what a random uid in a container is.
    yield* write(
      join(path, "nobody.cjs"),
      `require("node:os").homedir = () => { throw new Error("ENOENT: no such file or directory, uv_os_homedir") }
      require("node:module").syncBuiltinESMExports()`
    )
    const { code, stderr } = yield* start(process.execPath, ["--require", join(path, "nobody.cjs"), program])
    assert.deepStrictEqual([code, stderr], [
      1,
      "KUBECONFIG is not set, nor is HOME, and this user has no home directory; set KUBECONFIG to a kubeconfig file\n"
    ])
  }))

it.live("a kubeconfig with a token loads a parser, and no package for proxies and OIDC", () =>
  Effect.gen(function*() {
    const server = yield* serve(ok)
    const file = yield* kubeconfig({ server: server.url, user: { token: "t" } })
    const report = `
      const { registerHooks } = await import("node:module")
      const loaded = new Set()
      registerHooks({ resolve: (specifier, context, next) => (loaded.add(specifier), next(specifier, context)) })
      process.on("exit", () => {
        const builtin = process.moduleLoadList.map((name) => name.split(" ")[1])
        const some = /^yaml$|proxy-agent|agent-base|openid-client|undici\\/undici|client-node/
        console.log([...loaded, ...builtin].filter((name) => some.test(name)).join())
      })`
    const { stderr, stdout } = yield* start(process.execPath, [
      "--import",
      `data:text/javascript,${encodeURIComponent(report)}`,
      program,
      file
    ])
    assert.deepStrictEqual([stdout, stderr], [`{"ok":true}\nyaml\n`, ""])
  }))

// --- Proxies ---

/** A proxy that knows CONNECT, and one that knows SOCKS 5; each says what it was asked for. */
const makeProxies = Effect.gen(function*() {
  const asked: Array<string> = []
  const sockets = new Set<Socket>()
  const track = <A extends Socket>(socket: A) => {
    sockets.add(socket)
    socket.on("error", () => {}).on("close", () => sockets.delete(socket))
    return socket
  }
  // No name here leads anywhere but to this machine.
  const through = (port: number, client: Socket, ready: (upstream: Socket) => void) => {
    const upstream = track(connectSocket(port, "127.0.0.1", () => {
      ready(upstream)
      client.pipe(upstream).pipe(client)
    }))
  }
  const http = createHttpServer().on("connect", (request: IncomingMessage, client: Socket) => {
    track(client)
    asked.push(`CONNECT ${request.url} ${request.headers["proxy-authorization"] ?? ""}`.trim())
    if (request.url!.startsWith("refused")) {
      client.end("HTTP/1.1 403 Forbidden\r\n\r\nno way")
      return
    }
    through(Number(request.url!.split(":").at(-1)), client, () => client.write("HTTP/1.1 200 OK\r\n\r\n"))
  })
  const socks = createServer((client) => {
    track(client)
    client.once("data", () => {
      client.write(Buffer.from([5, 0]))
      client.once("data", (request: Buffer) => {
        const name = request.subarray(5, 5 + request[4]!).toString()
        const port = request.readUInt16BE(request.length - 2)
        asked.push(`SOCKS ${request[3] === 3 ? name : "an address"}:${port}`)
        through(port, client, () => client.write(Buffer.from([5, 0, 0, 1, 127, 0, 0, 1, 0, 0])))
      })
    })
  })
  const listen = (server: ReturnType<typeof createServer>) =>
    Effect.acquireRelease(
      Effect.callback<number>((resume) => {
        server.listen(0, "127.0.0.1", () => resume(Effect.succeed((server.address() as AddressInfo).port)))
      }),
      () => Effect.sync(() => server.close())
    )
  const ports = { http: yield* listen(http), socks: yield* listen(socks) }
  yield* Effect.addFinalizer(() => Effect.sync(() => sockets.forEach((socket) => socket.destroy())))
  return { ...ports, asked }
})

describe("proxies", () => {
  const name = "cluster.example"
  const named = root.server([name])

  const stage = Effect.gen(function*() {
    const proxies = yield* makeProxies
    const server = yield* serve(ok, { tls: named })
    const address = `https://${name}:${server.port}`
    return { proxies, server, address, target: `${name}:${server.port}` }
  })

  it.live("are those of HTTPS_PROXY, unless NO_PROXY exempts the server", () =>
    Effect.gen(function*() {
      const { address, proxies, target } = yield* stage
      const proxy = `http://us%20er:s3cr3t@127.0.0.1:${proxies.http}`
      const file = yield* kubeconfig({ server: address, cluster: trusted, user: { token: "t" } })
      yield* ask(file, { HTTPS_PROXY: proxy })
      yield* ask(file, { https_proxy: `127.0.0.1:${proxies.http}`, HTTPS_PROXY: "http://127.0.0.1:1" })
      assert.deepStrictEqual(proxies.asked, [
        `CONNECT ${target} Basic ${base64("us er:s3cr3t")}`,
        `CONNECT ${target}`
      ])
      // The name leads nowhere without the proxy.
      assert.include(yield* refusal(ask(file, { HTTPS_PROXY: proxy, NO_PROXY: ".example" })), name)
      assert.strictEqual(proxies.asked.length, 2)
    }))

  it.live("are never used for this machine", () =>
    Effect.gen(function*() {
      const { proxies } = yield* stage
      const server = yield* serve(ok, { tls })
      yield* ask(yield* kubeconfig({ server: server.url, cluster: trusted }), {
        HTTPS_PROXY: `http://127.0.0.1:${proxies.http}`
      })
      assert.deepStrictEqual(proxies.asked, [])
    }))

  it.live("are those of the cluster's proxy-url before all variables, SOCKS too", () =>
    Effect.gen(function*() {
      const { address, proxies, target } = yield* stage
      const variables = { HTTPS_PROXY: "http://127.0.0.1:1", NO_PROXY: "*" }
      for (const proxy of [`http://127.0.0.1:${proxies.http}`, `socks5://127.0.0.1:${proxies.socks}`]) {
        const client = yield* connect(
          Client.layerKubeconfig({
            file: yield* kubeconfig({ server: address, cluster: { ...trusted, "proxy-url": proxy } })
          }),
          variables
        )
        yield* client.request(get)
        yield* client.request(get)
      }
      assert.deepStrictEqual(proxies.asked, [`CONNECT ${target}`, `SOCKS ${target}`])
    }))

  it.live("that refuse say so, and nothing was sent", () =>
    Effect.gen(function*() {
      const { proxies, server } = yield* stage
      const file = yield* kubeconfig({
        server: `https://refused.example:${server.port}`,
        cluster: { ...trusted, "proxy-url": `http://user:s3cr3t@127.0.0.1:${proxies.http}` }
      })
      const client = yield* connect(Client.layerKubeconfig({ file }))
      const error = yield* Effect.flip(client.request({ ...get, method: "POST", body: {} }))
      assert.include(error.message, "the proxy answered with 403")
      assert.notInclude(error.message, "s3cr3t")
      assert.deepInclude(error.reason, { outcomeUnknown: false })
    }))

  it.live("have nothing to do with the service account of a Pod", () =>
    Effect.gen(function*() {
      const { proxies } = yield* stage
      const path = yield* directory
      yield* write(join(path, "token"), "t")
      yield* write(join(path, "ca.crt"), root.cert)
      const message = yield* refusal(
        Effect.flatMap(
          connect(Client.layerInCluster({ directory: path }), {
            KUBERNETES_SERVICE_HOST: name,
            KUBERNETES_SERVICE_PORT: "443",
            HTTPS_PROXY: `http://127.0.0.1:${proxies.http}`
          }),
          (client) => client.request(get)
        )
      )
      assert.include(message, name)
      assert.deepStrictEqual(proxies.asked, [])
    }))

  it.live("that are not installed are named", () =>
    Effect.gen(function*() {
      const { address, proxies } = yield* stage
      const file = yield* kubeconfig({
        server: address,
        cluster: { "proxy-url": `http://user:s3cr3t@127.0.0.1:${proxies.http}` }
      })
      const missing = (name: string) => Promise.reject(Object.assign(new Error(name), { code: "ERR_MODULE_NOT_FOUND" }))
      assert.strictEqual(
        yield* refusal(connect(Client.layerKubeconfig({ file }))).pipe(
          Effect.provideService(OptionalPackages, missing)
        ),
        `the proxy http://127.0.0.1:${proxies.http} needs the package https-proxy-agent, which is not installed: ` +
          "npm install https-proxy-agent@9"
      )
    }))
})

// --- OIDC ---

describe("OIDC", () => {
  const jwt = (claims: Record<string, unknown>) =>
    [{ alg: "RS256", typ: "JWT" }, claims].map((part) => Buffer.from(JSON.stringify(part)).toString("base64url"))
      .concat("c2lnbmF0dXJl").join(".")

  const seconds = (from: number) => Math.floor(Date.now() / 1000) + from

  /** A provider that gives another refresh-token with each id-token, and accepts each once. */
  const makeProvider = (options?: Parameters<typeof serve>[1]) =>
    Effect.gen(function*() {
      const state = { refreshToken: "refresh-0", lifetime: 3600, count: 0 }
      const asked: Array<string> = []
      const provider = yield* serve((received, response) => {
        if (received.url === "/.well-known/openid-configuration") {
          json(response, 200, {
            issuer: provider.url,
            token_endpoint: `${provider.url}/token`,
            authorization_endpoint: `${provider.url}/auth`,
            jwks_uri: `${provider.url}/keys`,
            response_types_supported: ["code"],
            subject_types_supported: ["public"],
            id_token_signing_alg_values_supported: ["RS256"]
          })
          return
        }
        const given = new URLSearchParams(received.body).get("refresh_token")
        asked.push(String(given))
        if (given !== state.refreshToken) {
          json(response, 400, { error: "invalid_grant", error_description: `${given} was used before` })
          return
        }
        state.refreshToken = `refresh-${++state.count}`
        json(response, 200, {
          access_token: "unused",
          token_type: "Bearer",
          id_token: jwt({
            iss: provider.url,
            aud: "kubernetes",
            sub: "me",
            iat: seconds(0),
            exp: seconds(state.lifetime),
            n: state.count
          }),
          refresh_token: state.refreshToken
        })
      }, options)
      const user = (config: Record<string, string>) => ({
        "auth-provider": {
          name: "oidc",
          config: { "idp-issuer-url": provider.url, "client-id": "kubernetes", ...config }
        }
      })
      return { asked, state, user, url: provider.url }
    })

  const bearer = (header: string | undefined) =>
    JSON.parse(Buffer.from(header!.split(".")[1]!, "base64url").toString()) as { readonly n: number }

  it.live("uses an id-token that is valid", () =>
    Effect.gen(function*() {
      const { asked, user } = yield* makeProvider()
      const server = yield* serve(ok)
      const idToken = jwt({ exp: seconds(60), n: 7 })
      const file = yield* kubeconfig({ server: server.url, user: user({ "id-token": idToken }) })
      yield* ask(file)
      assert.strictEqual(server.received[0]?.headers.authorization, `Bearer ${idToken}`)
      assert.deepStrictEqual(asked, [])
    }))

  it.live("refreshes one that has expired, and keeps the refresh-token that comes with it", () =>
    Effect.gen(function*() {
      const { asked, state, user } = yield* makeProvider()
      let accepted = 1
      const server = yield* serve(({ headers }, response) =>
        json(response, bearer(headers.authorization).n === accepted ? 200 : 401, {})
      )
      const file = yield* kubeconfig({
        server: server.url,
        user: user({ "id-token": jwt({ exp: seconds(5) }), "refresh-token": "refresh-0", "client-secret": "x" })
      })
      const client = yield* connect(Client.layerKubeconfig({ file }))
      yield* client.request(get)
      // Refused, so the file is read again: it still has the first refresh-token.
      accepted = 2
      yield* client.request(get)
      assert.deepStrictEqual(asked, ["refresh-0", "refresh-1"])
      assert.strictEqual(state.count, 2)
    }))

  it.live("trusts the CA of the provider", () =>
    Effect.gen(function*() {
      const { asked, user } = yield* makeProvider({ tls })
      const server = yield* serve(ok)
      const file = yield* kubeconfig({
        server: server.url,
        user: user({ "refresh-token": "refresh-0", "idp-certificate-authority-data": base64(root.cert) })
      })
      yield* ask(file)
      assert.deepStrictEqual(asked, ["refresh-0"])
    }))

  it.live("says in one line what is to be done where it cannot be refreshed, and shows no token", () =>
    Effect.gen(function*() {
      const { url, user } = yield* makeProvider()
      const server = yield* serve(ok)
      const expired = jwt({ exp: seconds(-60) })
      const without = yield* kubeconfig({ server: server.url, user: user({ "id-token": expired }) })
      assert.include(
        yield* refusal(ask(without)),
        "the OIDC login of the kubeconfig's user a has expired, and there is no refresh-token: log in again"
      )
      const used = yield* kubeconfig({
        server: server.url,
        user: user({ "id-token": expired, "refresh-token": "s3cr3t" })
      })
      const message = yield* refusal(ask(used))
      assert.include(message, `could not be refreshed at ${url} (invalid_grant)`)
      assert.notInclude(message, "s3cr3t")
      assert.strictEqual(server.received.length, 0)
    }))
})
