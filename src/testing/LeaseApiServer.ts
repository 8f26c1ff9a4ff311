/**
 * A local API server for Leases: the HTTP of a real kube-apiserver 1.37 on a {@link MemoryCluster}.
 *
 * Programs that elect a leader can be run and tested against it, in other processes too, on a machine without any
 * Kubernetes. It knows Leases, the Pods that own them (with garbage collection), namespaces, Events and access reviews;
 * of other kinds it says that they do not exist. Guards, versions, watches, error bodies and headers are those of the
 * real server: one suite is run against both.
 *
 * It stands on `node:http` directly: it is here to let connections misbehave (to reset them, to stall them in the middle
 * of an answer, to break open watches), and that is done to sockets, which `effect/http` keeps out of sight.
 *
 * It speaks plain HTTP on the loopback interface, without TLS, and anyone on this machine may do everything, unless
 * `tokens` says who may: it is for tests and demonstrations only.
 *
 * @since 0.1.0
 */
import type * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import * as Layer from "effect/Layer"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { writeFile } from "node:fs/promises"
import * as Http from "node:http"
import type * as Net from "node:net"
import * as ApiErrors from "./internal/apiError.ts"
import { apiOf } from "./internal/clusterApi.ts"
import type { WatchEvent } from "./internal/objects.ts"
import * as Routes from "./internal/routes.ts"
import * as MemoryCluster from "./MemoryCluster.ts"

/**
 * Which client something is done to: the one with this token, those whose `User-Agent` contains this text, or, with
 * neither, all.
 *
 * @category models
 * @since 0.1.0
 */
export interface ClientSelector {
  readonly token?: string | undefined
  readonly userAgent?: string | undefined
}

/**
 * One request that the server has got.
 *
 * @category models
 * @since 0.1.0
 */
export interface Request {
  /** The server's wall clock, Unix milliseconds. */
  readonly at: number
  /** The user that asked: `system:anonymous` where none may ask without a token, `undefined` where it was not known. */
  readonly user: string | undefined
  readonly userAgent: string
  readonly method: string
  /** Path and query. */
  readonly url: string
  /** As in the rules of a Role: get, list, watch, create, update, patch, delete. */
  readonly verb: string
  /** The status that was answered; `undefined` while, or where, there is no answer. */
  readonly code: number | undefined
}

/**
 * A running local API server.
 *
 * @category services
 * @since 0.1.0
 */
export class LeaseApiServer extends Context.Service<LeaseApiServer, {
  /** `http://127.0.0.1:<port>`. */
  readonly url: string
  readonly port: number
  /** What it serves: for what others do to Leases and Pods. */
  readonly cluster: MemoryCluster.MemoryCluster["Service"]
  /** A token that it knows. */
  readonly token: string

  /** Knows one more token, as this user. */
  readonly addToken: (token: string, user: string) => Effect.Effect<void>

  /** Answers this token with 401 from now on. */
  readonly removeToken: (token: string) => Effect.Effect<void>

  /** Refuses these verbs on Leases with 403 from now on; an empty list grants all again. Open watches go on. */
  readonly forbid: (client: ClientSelector, verbs: ReadonlyArray<string>) => Effect.Effect<void>

  /** Waits this long before it looks at a request. */
  readonly setLatency: (latency: Duration.Input) => Effect.Effect<void>

  /**
   * Cuts the client off: its connections are reset, open watches too, and so is every new one as soon as it has asked
   * for something. Requests that waited for their answer are not carried out.
   */
  readonly refuse: (client?: ClientSelector) => Effect.Effect<void>

  /**
   * Cuts the client off without a word: connections stay open, but nothing is read from them or written to them, open
   * watches included. They break with `restore`; what was sent meanwhile is lost.
   */
  readonly stall: (client?: ClientSelector) => Effect.Effect<void>

  /** Answers every request with 429, as a server that has too much to do. Open watches go on. */
  readonly overload: (client?: ClientSelector, retryAfter?: Duration.Input) => Effect.Effect<void>

  /** Ends what `refuse`, `stall` and `overload` began for this client; without one, for all of them. */
  readonly restore: (client?: ClientSelector) => Effect.Effect<void>

  /** Requests so far, oldest first; only the newest 10 000 are kept. */
  readonly requests: Effect.Effect<ReadonlyArray<Request>>

  /**
   * Writes a kubeconfig that leads here, for this library's client, other clients and kubectl. Gives its path.
   */
  readonly writeKubeconfig: (
    path: string,
    options?: {
      /** {@link token} by default. */
      readonly token?: string | undefined
      /** "default" by default. */
      readonly namespace?: string | undefined
      /** Another address, of a proxy in front of this server. */
      readonly server?: string | undefined
    }
  ) => Effect.Effect<string>
}>()("effect-kubernetes-leader-election/testing/LeaseApiServer") {}

/**
 * Settings of a {@link LeaseApiServer}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** A free one by default. */
  readonly port?: number | undefined
  /**
   * Tokens and the users that they stand for; "" is for those who send none, as kubectl and client-go do without TLS. By
   * default "local-token" and "", for the same user. Where "" is left out, they are refused as anonymous.
   */
  readonly tokens?: { readonly [token: string]: string } | undefined
  readonly latency?: Duration.Input | undefined
  /** A cluster of its own, with the namespace "default", where none is given. */
  readonly cluster?: MemoryCluster.MemoryCluster["Service"] | undefined
}

/**
 * The port cannot be had.
 *
 * @category errors
 * @since 0.1.0
 */
export class ListenError
  extends Schema.Error<ListenError>("effect-kubernetes-leader-election/testing/LeaseApiServer/ListenError")({
    _tag: Schema.tag("ListenError"),
    message: Schema.String,
    cause: Schema.Defect()
  })
{}

/**
 * Starts a server. Closing the scope ends it and all its connections.
 *
 * **Gotchas**
 *
 * Sockets do not wait for `TestClock`: use the live clock (`it.live`).
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function*( // oxlint-disable-line max-lines-per-function -- one server: its functions share its connections
  options: Options = {}
): Effect.fn.Return<LeaseApiServer["Service"], ListenError, Scope.Scope> {
  const cluster = options.cluster ?? (yield* MemoryCluster.make({ name: "local", namespaces: ["default"] }))
  const api = apiOf(cluster)
  const fork = yield* FiberSet.makeRuntime()
  const tokens = new Map(
    Object.entries(options.tokens ?? { [defaultToken]: defaultUser, "": defaultUser })
  )
  let latency = options.latency ?? Duration.zero
  let rules: ReadonlyArray<Rule> = []
  let forbidden: ReadonlyArray<{ readonly client: ClientSelector; readonly verbs: ReadonlyArray<string> }> = []
  const log: Array<MutableRequest> = []
  let audits = 0

  // --- connections ------------------------------------------------------------------------------------------

  const connections = new Map<Net.Socket, Connection>()

  const ruleFor = (client: Client): Rule | undefined => rules.find((rule) => selects(rule.client, client))

  const setRule = (rule: Rule) =>
    Effect.sync(() => {
      rules = [rule, ...rules.filter(({ client }) => !isSame(client, rule.client))]
      for (const [socket, connection] of connections) {
        if (connection.client !== undefined && selects(rule.client, connection.client)) {
          if (rule._tag === "Refuse") {
            socket.resetAndDestroy()
          } else if (rule._tag === "Stall") {
            connection.stalled = true
          }
        }
      }
    })

  // --- requests ---------------------------------------------------------------------------------------------

  const answer = (exchange: Exchange, code: number, body: unknown, headers: Http.OutgoingHttpHeaders = {}) =>
    Effect.suspend(() => {
      if (exchange.connection.stalled) {
        return Effect.never
      }
      exchange.log.code = code
      const text = Predicate.isString(body) ? body : `${JSON.stringify(body)}\n`
      exchange.response.writeHead(code, {
        ...commonHeaders(exchange, api.clock),
        "Content-Type": Predicate.isString(body) ? "text/plain; charset=utf-8" : "application/json",
        "Content-Length": Buffer.byteLength(text),
        ...headers
      })
      exchange.response.end(text)
      return Effect.void
    })

  const isForbidden = (exchange: Exchange, verb: string): boolean =>
    forbidden.some(({ client, verbs }) => verbs.includes(verb) && selects(client, exchange.client))

  const serveObjects = Effect.fnUntraced(function*(exchange: Exchange, route: Routes.ObjectRoute) {
    const { name, namespace, query, type } = route
    if (exchange.user === undefined || (type === api.types.leases && isForbidden(exchange, route.verb))) {
      return yield* Routes.forbidden(route, exchange.user)
    }
    yield* Routes.checkSupported(route)
    switch (route.verb) {
      case "get": {
        yield* checkVersion(route)
        return yield* answer(exchange, 200, yield* api.run((objects) => objects.get(type, namespace ?? "", name ?? "")))
      }
      case "list": {
        yield* checkVersion(route)
        const target = yield* Routes.target(route)
        const { from, limit } = yield* Routes.paging(route)
        const page = yield* api.run((objects) => objects.page(target, limit, from))
        return yield* answer(exchange, 200, Routes.toList(type, page, target.selects !== undefined))
      }
      case "watch": {
        return yield* serveWatch(exchange, route)
      }
      case "create": {
        const body = yield* readJson(exchange)
        return yield* answer(exchange, 201, yield* api.run((objects) => objects.create(type, namespace ?? "", body)))
      }
      case "update": {
        const body = yield* readJson(exchange)
        const { created, object } = yield* api.run((objects) => objects.put(type, namespace ?? "", name ?? "", body))
        return yield* answer(exchange, created ? 201 : 200, object)
      }
      case "patch": {
        const contentType = contentTypeOf(exchange)
        if (
          contentType !== "application/merge-patch+json" && contentType !== "application/strategic-merge-patch+json"
        ) {
          return yield* unsupportedMedia("415: Unsupported Media Type")
        }
        const patch = yield* Effect.mapError(
          readAsJson(exchange),
          (error) => error.code === 400 ? ApiErrors.badRequest("invalid JSON patch") : error
        )
        return yield* answer(
          exchange,
          200,
          yield* api.run((objects) => objects.patch(type, namespace ?? "", name ?? "", patch))
        )
      }
      case "delete": {
        const body = yield* readJson(exchange)
        yield* Routes.checkSupported(route, body)
        const deleteOptions = Routes.deleteOptions(query, body)
        const { object, removed } = yield* api.run((objects) =>
          objects.remove(type, namespace ?? "", name ?? "", deleteOptions)
        )
        return yield* answer(
          exchange,
          200,
          removed && type !== api.types.pods ? Routes.toDeleted(type, object.metadata) : object
        )
      }
    }
  })

  const checkVersion = Effect.fnUntraced(function*(route: Routes.ObjectRoute) {
    const wanted = yield* Routes.resourceVersion(route)
    const current = yield* cluster.version
    if (wanted !== undefined && wanted > current) {
      yield* Effect.sleep("3 seconds")
      return yield* Routes.tooLarge(wanted, current)
    }
  })

  const serveWatch = Effect.fnUntraced(function*(exchange: Exchange, route: Routes.ObjectRoute) {
    const { query, type } = route
    const target = yield* Routes.target(route)
    yield* Routes.paging(route)
    const since = yield* Routes.resourceVersion(route)
    const timeout = yield* Routes.timeoutSeconds(query)
    const bookmarks = query.get("allowWatchBookmarks") === "true" || query.get("allowWatchBookmarks") === "1"
    if (exchange.connection.stalled) {
      return yield* Effect.never
    }
    exchange.log.code = 200
    exchange.response.writeHead(200, {
      ...commonHeaders(exchange, api.clock),
      "Content-Type": "application/json"
    })
    exchange.response.flushHeaders()

    const write = (line: unknown) =>
      Effect.sync(() => {
        if (!exchange.connection.stalled) {
          exchange.response.write(`${JSON.stringify(line)}\n`)
        }
      })
    let announced = since ?? (yield* cluster.version)
    const bookmark = (version: bigint) =>
      Effect.suspend(() => {
        if (!bookmarks || version <= announced) {
          return Effect.void
        }
        announced = version
        return write({ type: "BOOKMARK", object: Routes.toBookmark(type, version) })
      })
    const deliver = ({ object, type, version }: WatchEvent) =>
      Effect.suspend(() => {
        announced = version > announced ? version : announced
        return write({ type, object })
      })

    // The real server's last bookmarks come two seconds and one second before the end.
    const ending = Effect.sleep(Duration.seconds(Math.max(0, timeout - 2))).pipe(
      Effect.andThen(Effect.flatMap(cluster.version, bookmark)),
      Effect.andThen(Effect.sleep(Duration.seconds(Math.min(1, timeout)))),
      Effect.andThen(Effect.flatMap(cluster.version, bookmark)),
      Effect.andThen(Effect.sleep(Duration.seconds(Math.max(0, Math.min(1, timeout - 1)))))
    )
    yield* api.watch(target, since).pipe(
      Stream.runForEach((element) =>
        element._tag === "Event"
          ? deliver(element.event)
          : element._tag === "Bookmark"
          ? bookmark(element.version)
          : Effect.void
      ),
      Effect.catch((error) => write({ type: "ERROR", object: ApiErrors.toStatus(error) })),
      Effect.raceFirst(ending)
    )
    if (exchange.connection.stalled) {
      return yield* Effect.never
    }
    exchange.response.end()
  })

  const serveReview = Effect.fnUntraced(function*(exchange: Exchange, review: "access" | "self") {
    const body = yield* readJson(exchange)
    if (exchange.user === undefined) {
      return yield* Routes.anonymousReview(review)
    }
    const verb = Routes.reviewedVerb(body)
    return yield* answer(
      exchange,
      201,
      review === "access"
        ? Routes.accessReview(body, verb !== undefined && !isForbidden(exchange, verb))
        : Routes.selfReview(exchange.user)
    )
  })

  const serve = Effect.fnUntraced(
    function*(exchange: Exchange) {
      yield* Effect.sleep(latency)
      const rule = ruleFor(exchange.client)
      if (rule?._tag === "Overload") {
        return yield* answer(exchange, 429, "Too many requests, please try again later.\n", {
          "Retry-After": String(Math.ceil(Duration.toSeconds(Duration.fromInputUnsafe(rule.retryAfter))))
        })
      }
      const { route } = exchange
      if (exchange.client.token !== "" && exchange.user === undefined) {
        return yield* new ApiErrors.ApiError({ code: 401, message: "Unauthorized", reason: "Unauthorized" })
      }
      switch (route._tag) {
        case "Ready": {
          return yield* answer(exchange, 200, "ok")
        }
        case "Version": {
          return yield* answer(exchange, 200, Routes.version)
        }
        case "Review": {
          return yield* serveReview(exchange, route.review)
        }
        case "Objects": {
          return yield* serveObjects(exchange, route)
        }
        case "Discovery": {
          return exchange.user === undefined
            ? yield* Routes.forbiddenPath(route.path)
            : yield* answer(exchange, 200, route.document)
        }
        case "Unknown": {
          return yield* answer(exchange, 404, "404 page not found\n")
        }
        case "MethodNotAllowed": {
          return yield* Routes.methodNotAllowed
        }
      }
    },
    (effect, exchange) =>
      Effect.catch(
        effect,
        (error) =>
          answer(exchange, error.code, ApiErrors.toStatus(error), error.code === 504 ? { "Retry-After": "1" } : {})
      )
  )

  const onRequest = (request: Http.IncomingMessage, response: Http.ServerResponse) => {
    const connection = connections.get(request.socket)
    if (connection === undefined) {
      response.destroy()
      return
    }
    const client: Client = {
      token: /^Bearer +(.*)$/i.exec(request.headers.authorization ?? "")?.[1]?.trim() ?? "",
      userAgent: request.headers["user-agent"] ?? ""
    }
    connection.client = client
    const route = Routes.parse(request.method ?? "GET", request.url ?? "/", api.types)
    const user = tokens.get(client.token)
    audits += 1
    const entry: MutableRequest = {
      at: api.clock.currentTimeMillisUnsafe(),
      user: user ?? (client.token === "" ? Routes.anonymous : undefined),
      userAgent: client.userAgent,
      method: request.method ?? "",
      url: request.url ?? "",
      verb: route._tag === "Objects" ? route.verb : "",
      code: undefined
    }
    log.push(entry)
    if (log.length > maxLog) {
      log.shift()
    }
    const rule = ruleFor(client)
    if (rule?._tag === "Refuse") {
      request.socket.resetAndDestroy()
      return
    }
    connection.stalled ||= rule?._tag === "Stall"
    if (connection.stalled) {
      // Not even read: it is as if it were still on its way.
      return
    }
    const fiber = fork(serve({
      request,
      response,
      connection,
      client,
      user,
      route,
      log: entry,
      audit: `5eed0000-0000-4000-9000-${audits.toString(16).padStart(12, "0")}`
    }))
    response.once("close", () => {
      fiber.interruptUnsafe()
    })
  }

  // --- the socket -------------------------------------------------------------------------------------------

  const server = yield* Effect.acquireRelease(
    Effect.callback<Http.Server, ListenError>((resume) => {
      const server = Http.createServer({ keepAliveTimeout: 60_000, requestTimeout: 0 }, onRequest)
      server.on("connection", (socket) => {
        const connection: Connection = { client: undefined, stalled: false }
        connections.set(socket, connection)
        socket.once("close", () => connections.delete(socket))
        // A client that goes away in the middle is none of our business.
        socket.on("error", () => {})
        if (ruleFor({ token: "", userAgent: "" })?._tag === "Refuse") {
          socket.resetAndDestroy()
        }
      })
      server.once("error", (cause) => {
        resume(Effect.fail(
          new ListenError({ message: `cannot listen on 127.0.0.1:${options.port ?? 0}: ${cause.message}`, cause })
        ))
      })
      server.listen(options.port ?? 0, "127.0.0.1", () => resume(Effect.succeed(server)))
    }),
    (server) =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        for (const socket of connections.keys()) {
          socket.destroy()
        }
      })
  )
  const address = server.address()
  const port = Predicate.isReadonlyObject(address) && Predicate.isNumber(address.port) ? address.port : 0
  const url = `http://127.0.0.1:${port}`
  const token = [...tokens.keys()].find((token) => token !== "") ?? ""

  return LeaseApiServer.of({
    url,
    port,
    cluster,
    token,

    addToken: (added, user) => Effect.sync(() => tokens.set(added, user)),
    removeToken: (removed) => Effect.sync(() => tokens.delete(removed)),
    forbid: (client, verbs) =>
      Effect.sync(() => {
        forbidden = [...forbidden.filter((entry) => !isSame(entry.client, client)), { client, verbs }]
      }),
    setLatency: (next) =>
      Effect.sync(() => {
        latency = next
      }),

    refuse: (client = {}) => setRule({ _tag: "Refuse", client }),
    stall: (client = {}) => setRule({ _tag: "Stall", client }),
    overload: (client = {}, retryAfter = "1 second") => setRule({ _tag: "Overload", client, retryAfter }),
    restore: (client) =>
      Effect.sync(() => {
        rules = client === undefined ? [] : rules.filter((rule) => !isSame(rule.client, client))
        for (const [socket, connection] of connections) {
          const rule = connection.client === undefined ? undefined : ruleFor(connection.client)
          if (connection.stalled && rule?._tag !== "Stall") {
            socket.resetAndDestroy()
          }
        }
      }),

    requests: Effect.sync(() => log.map((entry) => Object.assign({}, entry))),

    writeKubeconfig: (path, config = {}) =>
      Effect.promise(() =>
        writeFile(
          path,
          kubeconfig({
            server: config.server ?? url,
            token: config.token ?? token,
            namespace: config.namespace ?? "default"
          }),
          { mode: 0o600 }
        )
      ).pipe(Effect.as(path))
  })
})

/**
 * A {@link LeaseApiServer} as a layer.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<LeaseApiServer, ListenError> =>
  Layer.effect(LeaseApiServer, make(options))

// --- internal ---------------------------------------------------------------------------------------------------

const defaultToken = "local-token"

const defaultUser = "system:serviceaccount:default:candidate"

const maxLog = 10_000

const maxBody = 3_145_728

type MutableRequest = { -readonly [field in keyof Request]: Request[field] }

interface Client {
  readonly token: string
  readonly userAgent: string
}

interface Connection {
  client: Client | undefined
  /** Nothing is written to it any more; it is broken when the client is restored. */
  stalled: boolean
}

type Rule =
  | { readonly _tag: "Refuse" | "Stall"; readonly client: ClientSelector }
  | { readonly _tag: "Overload"; readonly client: ClientSelector; readonly retryAfter: Duration.Input }

interface Exchange {
  readonly request: Http.IncomingMessage
  readonly response: Http.ServerResponse
  readonly connection: Connection
  readonly client: Client
  readonly user: string | undefined
  readonly route: Routes.Route
  readonly log: MutableRequest
  readonly audit: string
}

const selects = (selector: ClientSelector, client: Client): boolean =>
  (selector.token === undefined || selector.token === client.token) &&
  (selector.userAgent === undefined || client.userAgent.includes(selector.userAgent))

const isSame = (a: ClientSelector, b: ClientSelector): boolean => a.token === b.token && a.userAgent === b.userAgent

const commonHeaders = (exchange: Exchange, clock: Clock.Clock): Http.OutgoingHttpHeaders => ({
  "Audit-Id": exchange.audit,
  "Cache-Control": "no-cache, private",
  Date: new Date(clock.currentTimeMillisUnsafe()).toUTCString(),
  "X-Kubernetes-Pf-Flowschema-Uid": "5eed0000-0000-4000-a000-000000000001",
  "X-Kubernetes-Pf-Prioritylevel-Uid": "5eed0000-0000-4000-a000-000000000002"
})

const decodeJson = Schema.decodeUnknownEffect(Schema.fromJsonString(Schema.Unknown))

const readText = (request: Http.IncomingMessage): Effect.Effect<string, ApiErrors.ApiError> =>
  Effect.callback((resume) => {
    const chunks: Array<Buffer> = []
    let size = 0
    request.on("data", (chunk: Buffer) => {
      size += chunk.length
      if (size <= maxBody) {
        chunks.push(chunk)
      }
    })
    request.once("end", () => {
      resume(
        size <= maxBody
          ? Effect.succeed(Buffer.concat(chunks).toString())
          : Effect.fail(
            new ApiErrors.ApiError({
              code: 413,
              message: `Request entity too large: limit is ${maxBody}`,
              reason: "RequestEntityTooLarge",
              details: {}
            })
          )
      )
    })
  })

const contentTypeOf = ({ request }: Exchange): string | undefined => request.headers["content-type"]?.split(";")[0]

const unsupportedMedia = (message: string): ApiErrors.ApiError =>
  new ApiErrors.ApiError({ code: 415, message, reason: "UnsupportedMediaType", details: {} })

/** The body, whatever it is called; `undefined` where there is none. */
const readAsJson = ({ request }: Exchange): Effect.Effect<unknown, ApiErrors.ApiError> =>
  Effect.flatMap(
    readText(request),
    (text) =>
      text === ""
        ? Effect.succeed(undefined)
        : Effect.mapError(
          decodeJson(text),
          () => ApiErrors.badRequest("the object provided is unrecognized (must be of type Lease)")
        )
  )

/** The body; `undefined` where there is none. Go's typed clients send protobuf by default. */
const readJson = (exchange: Exchange): Effect.Effect<unknown, ApiErrors.ApiError> =>
  (contentTypeOf(exchange) ?? "application/json") === "application/json"
    ? readAsJson(exchange)
    : Effect.fail(
      unsupportedMedia(
        "the body of the request was in an unknown format - accepted media types include: application/json"
      )
    )

// JSON is YAML.
const kubeconfig = (options: { readonly server: string; readonly token: string; readonly namespace: string }): string =>
  `${
    JSON.stringify(
      {
        apiVersion: "v1",
        kind: "Config",
        clusters: [{ name: "local", cluster: { server: options.server } }],
        users: [{ name: "local", user: { token: options.token } }],
        contexts: [{ name: "local", context: { cluster: "local", user: "local", namespace: options.namespace } }],
        "current-context": "local"
      },
      undefined,
      2
    )
  }\n`
