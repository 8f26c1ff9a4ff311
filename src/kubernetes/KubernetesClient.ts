/**
 * The connection to a Kubernetes API server: where it is, how this process logs
 * in, and how long it waits.
 *
 * **Details**
 *
 * Inside a cluster, the service account's token and CA are read from their
 * files, and read again as Kubernetes replaces them. Elsewhere a kubeconfig says
 * both; only then is `@kubernetes/client-node` loaded. All requests share one
 * pool of connections that are kept open for 30 seconds after their last use.
 *
 * The server's certificate is always verified, unless the kubeconfig says
 * `insecure-skip-tls-verify`, which is logged.
 *
 * **Retries**
 *
 * A request is sent a second time in two cases only, at once and within the same
 * time limit. After a 401, once, with credentials that were read again: the API
 * server did nothing yet. And once, on a new connection, where one kept open from
 * an earlier request broke before the first byte of the response: most likely
 * the server, or a proxy, had just closed it. That is for reads, and for writes
 * that are `repeatable`. Any other write fails with an unknown outcome: it most
 * likely never arrived, but it may have.
 *
 * @since 0.1.0
 */
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { homedir } from "node:os"
import { delimiter, join } from "node:path"
import { format } from "../internal/duration.ts"
import { duration } from "../internal/options.ts"
import type { DurationInput } from "../LeaderElectionConfig.ts"
import { AnsweredWithin } from "../LeaseStore.ts"
import { timedOut } from "./internal/connectionFailure.ts"
import * as Connections from "./internal/connections.ts"
import type { Credentials, CredentialSource } from "./internal/credentials.ts"
import { sameTls, type Tls } from "./internal/dial.ts"
import * as Kubeconfig from "./internal/kubeconfig.ts"
import { isLoopback } from "./internal/loopback.ts"
import * as Progress from "./internal/progress.ts"
import * as Proxy from "./internal/proxy.ts"
import { recordRequest } from "./internal/requestMetric.ts"
import * as ServiceAccount from "./internal/serviceAccount.ts"
import * as Transport from "./internal/transport.ts"
import {
  KubernetesBodyError,
  KubernetesConfigError,
  KubernetesError,
  type KubernetesErrorReason,
  KubernetesStatusError,
  KubernetesTimeoutError
} from "./KubernetesError.ts"

/**
 * One request to the API server.
 *
 * @category models
 * @since 0.1.0
 */
export interface KubernetesRequest {
  readonly method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE"
  /** Absolute, as in `/api/v1/namespaces/default/pods`; each part of it encoded where necessary. */
  readonly path: string
  readonly query?: Readonly<Record<string, string | undefined>> | undefined
  /** Sent as JSON. */
  readonly body?: unknown
  /** Of the body; `application/json` by default, `application/merge-patch+json` for PATCH. */
  readonly contentType?: string | undefined
  /**
   * Whether a write may be sent a second time where a connection that was kept open broke before the answer began: it is
   * guarded, so that at most one of both can be applied. A refusal of the second then leaves the outcome unknown.
   */
  readonly repeatable?: boolean | undefined
  /** How long the whole request may take; by default what the layer was given. */
  readonly timeout?: Duration.Input | undefined
  /** What the request is called in the metric; by default what Kubernetes calls the method (`get`, `create`, …). */
  readonly verb?: string | undefined
}

/**
 * A request whose response is read as it comes: a watch.
 *
 * @category models
 * @since 0.1.0
 */
export interface KubernetesStreamRequest {
  /** As in {@link KubernetesRequest}. */
  readonly path: string
  readonly query?: Readonly<Record<string, string | undefined>> | undefined
  /** How long it may take until the response begins; by default what the layer was given. */
  readonly timeout?: Duration.Input | undefined
  /** How long the server may be silent; by default 90 seconds. A watch that asks for bookmarks gets one each minute. */
  readonly silence?: Duration.Input | undefined
  /** What the request is called in the metric; `watch` by default. */
  readonly verb?: string | undefined
}

/**
 * The head of a 2xx response.
 *
 * @category models
 * @since 0.1.0
 */
export interface KubernetesResponseHead {
  readonly status: number
  /** By their names in lower case. */
  readonly headers: Readonly<Record<string, string>>
  /** The `Date` header: the API server's wall clock, Unix milliseconds (whole seconds). */
  readonly serverTime: number | undefined
}

/**
 * A 2xx response.
 *
 * @category models
 * @since 0.1.0
 */
export interface KubernetesResponse extends KubernetesResponseHead {
  /** Parsed, where it is JSON; else its text. */
  readonly body: unknown
}

/**
 * A 2xx response that is still coming in.
 *
 * @category models
 * @since 0.1.0
 */
export interface KubernetesStream extends KubernetesResponseHead {
  /** The lines of the body, parsed as JSON. Ends when the server ends the response in good order. To be run once. */
  readonly lines: Stream.Stream<unknown, KubernetesError>
}

/**
 * Sends requests to the API server.
 *
 * **Details**
 *
 * Everything can be interrupted at any time: the request is abandoned, and its
 * connection closed, at once. Where the request may have been sent by then, a
 * write may have been applied.
 *
 * @category services
 * @since 0.1.0
 */
export class KubernetesClient extends Context.Service<KubernetesClient, {
  /** The API server's URL, without a slash at its end. */
  readonly server: string

  /** The namespace of the service account, or of the kubeconfig's context, which is `default` where that has none. */
  readonly namespace: string | undefined

  /** Where the credentials come from; see `LeaderElectionConfig.CredentialsOrigin`. */
  readonly origin: "pod" | "given" | "found"

  /** Sends a request. Fails with {@link KubernetesError} for anything but a complete 2xx response. */
  readonly request: (request: KubernetesRequest) => Effect.Effect<KubernetesResponse, KubernetesError>

  /**
   * Sends a GET and succeeds when the head of a 2xx response is there. The connection is closed with the scope. The
   * lines fail where the connection breaks, or is silent for too long.
   */
  readonly stream: (
    request: KubernetesStreamRequest
  ) => Effect.Effect<KubernetesStream, KubernetesError, Scope.Scope>
}>()("effect-kubernetes-leader-election/KubernetesClient") {}

/**
 * The time limits of a client.
 *
 * @category models
 * @since 0.1.0
 */
export interface TimeLimits {
  /**
   * How long a request may take, from reading the credentials to the last byte of the response. By default 30 seconds:
   * a last resort, since the election has limits of its own, which its user can set.
   */
  readonly requestTimeout?: DurationInput | undefined
  /** How long it may take until a connection is there, TLS included. By default 10 seconds. */
  readonly connectTimeout?: DurationInput | undefined
}

// What is shorter was meant in seconds.
const leastLimit = Duration.millis(50)

const userAgent = "effect-kubernetes-leader-election"

const verbs: Record<KubernetesRequest["method"], string> = {
  GET: "get",
  POST: "create",
  PUT: "update",
  PATCH: "patch",
  DELETE: "delete"
}

// oxlint-disable-next-line max-lines-per-function -- one client: its functions share the connections
const make = Effect.fnUntraced(function*(
  target: ServiceAccount.Target & Pick<KubernetesClient["Service"], "origin">,
  limits: TimeLimits | undefined
) {
  const server = target.server.replace(/\/+$/, "")
  const requestTimeout = duration("requestTimeout", limits?.requestTimeout ?? "30 seconds", leastLimit)
  const connectTimeout = duration("connectTimeout", limits?.connectTimeout ?? "10 seconds", leastLimit)
  const { hostname, port, protocol } = new URL(server)
  const secure = protocol === "https:"
  let pool: Connections.Connections | undefined
  yield* Effect.addFinalizer(() => Effect.sync(() => pool?.destroy()))

  const poolFor = (tls: Tls): Connections.Connections => {
    if (pool === undefined || (secure && !sameTls(pool.target.tls ?? tls, tls))) {
      pool?.retire()
      pool = Connections.make({
        host: hostname.replace(/^\[|\]$/g, ""),
        port: port === "" ? secure ? 443 : 80 : Number(port),
        tls: secure ? tls : undefined,
        tunnel: target.tunnel
      }, Duration.toMillis(connectTimeout))
    }
    return pool
  }

  const open = Effect.fnUntraced(function*(
    request: Omit<KubernetesRequest, "timeout">,
    verb: string,
    stream: boolean,
    progress: Progress.Progress
  ): Effect.fn.Return<Transport.Answer, KubernetesErrorReason, Scope.Scope> {
    const url = new URL(server + request.path)
    for (const [name, value] of Object.entries(request.query ?? {})) {
      if (value !== undefined) {
        url.searchParams.set(name, value)
      }
    }
    const body = request.body === undefined ? undefined : JSON.stringify(request.body)
    const send = (credentials: Credentials, aliveWithin: number) =>
      Transport.exchange(poolFor(credentials.tls), {
        url,
        method: request.method,
        headers: {
          accept: "application/json",
          "user-agent": userAgent,
          ...(body !== undefined && {
            "content-type": request.contentType ??
              (request.method === "PATCH" ? "application/merge-patch+json" : "application/json"),
            "content-length": `${Buffer.byteLength(body)}`
          }),
          ...credentials.headers
        },
        body,
        aliveWithin,
        stream
      }, progress)
    const aliveWithin = Duration.toMillis(yield* AnsweredWithin)
    // On a new connection: what closed this one while it was idle has most likely closed the others too.
    const attempt = (credentials: Credentials) =>
      Effect.catchTag(
        send(credentials, aliveWithin),
        "KubernetesConnectionError",
        (error) => {
          if (!progress.reused || progress.status !== undefined || !(request.method === "GET" || request.repeatable)) {
            return Effect.fail(error)
          }
          progress.repeated = true
          return send(credentials, 0)
        }
      )
    progress.phase = "credentials"
    const credentials = yield* target.credentials.get
    let answer = yield* attempt(credentials)
    if (answer.status === 401) {
      // To the end, so that the connection can be used again.
      yield* Transport.readText(answer)
      yield* recordRequest(verb, 401)
      progress.phase = "credentials"
      answer = yield* attempt(yield* target.credentials.renew(credentials))
    }
    return answer.status >= 200 && answer.status < 300
      ? answer
      : yield* toStatusError(answer, yield* Transport.readText(answer), progress)
  })

  const perform = <A, R>(
    request: Omit<KubernetesRequest, "timeout">,
    timeout: Duration.Input | undefined,
    stream: boolean,
    read: (answer: Transport.Answer) => Effect.Effect<A, KubernetesErrorReason, R>
  ): Effect.Effect<A, KubernetesError, R | Scope.Scope> =>
    Effect.suspend(() => {
      const verb = request.verb ?? verbs[request.method]
      const limit = timeout === undefined ? requestTimeout : Duration.fromInputUnsafe(timeout)
      const progress = Progress.make(request.method !== "GET")
      return open(request, verb, stream, progress).pipe(
        Effect.flatMap(read),
        Effect.timeoutOrElse({
          duration: limit,
          orElse: () => Effect.fail(timedOut(pool?.target, server, progress, limit))
        }),
        Effect.mapError((reason) => new KubernetesError({ method: request.method, path: request.path, reason })),
        Effect.onExit(() => recordRequest(verb, progress.status))
      )
    })

  return KubernetesClient.of({
    server,
    namespace: target.namespace,
    origin: target.origin,
    request: Effect.fn("KubernetesClient.request")(
      function*(request) {
        yield* Effect.annotateCurrentSpan({ method: request.method, path: request.path })
        return yield* perform(request, request.timeout, false, readBody)
      },
      Effect.scoped
    ),
    stream: Effect.fn("KubernetesClient.stream")(function*(request) {
      yield* Effect.annotateCurrentSpan({ path: request.path })
      const silence = Duration.fromInputUnsafe(request.silence ?? "90 seconds")
      const answer = yield* perform(
        { method: "GET", path: request.path, query: request.query, verb: request.verb ?? "watch" },
        request.timeout,
        true,
        Effect.succeed
      )
      const lines = readLines(answer, silence).pipe(
        Stream.mapError((reason) => new KubernetesError({ method: "GET", path: request.path, reason }))
      )
      return { ...head(answer), lines }
    })
  })
})

// --- Responses ---

const head = ({ headers, status }: Transport.Answer): KubernetesResponseHead => {
  const serverTime = Date.parse(headers["date"] ?? "")
  return { status, headers, serverTime: Number.isNaN(serverTime) ? undefined : serverTime }
}

const parseJson = Schema.decodeUnknownResult(Schema.fromJsonString(Schema.Unknown))

const isJson = (answer: Transport.Answer): boolean =>
  /^application\/(.+\+)?json\b/i.test(answer.headers["content-type"] ?? "")

const readBody = Effect.fnUntraced(function*(
  answer: Transport.Answer
): Effect.fn.Return<KubernetesResponse, KubernetesErrorReason> {
  const text = yield* Transport.readText(answer)
  const untyped = answer.headers["content-type"] === undefined
  if (!isJson(answer) && !untyped) {
    return { ...head(answer), body: text }
  }
  const body = parseJson(text)
  if (Result.isSuccess(body)) {
    return { ...head(answer), body: body.success }
  }
  if (untyped) {
    return { ...head(answer), body: text }
  }
  return yield* new KubernetesBodyError({
    status: answer.status,
    message: `the answer (${answer.status}) is not JSON: ${shorten(text)}`
  })
})

// `Stream.timeoutOrElse` asks the wall clock, which may jump: here each read has a limit of its own. Text is decoded
// before it is split, so neither a character nor a line has to arrive in one piece.
const readLines = (
  answer: Transport.Answer,
  silence: Duration.Duration
): Stream.Stream<unknown, KubernetesErrorReason> =>
  Stream.fromPull(Effect.succeed(Effect.timeoutOrElse(Queue.takeAll(answer.chunks), {
    duration: silence,
    orElse: () =>
      Effect.fail(
        new KubernetesTimeoutError({
          phase: "stream",
          message: `not a byte from the API server for ${format(silence)}`,
          outcomeUnknown: false
        })
      )
  }))).pipe(
    Stream.decodeText,
    Stream.splitLines,
    Stream.filter((line) => line !== ""),
    Stream.mapEffect((line) =>
      Result.match(parseJson(line), {
        onSuccess: Effect.succeed,
        onFailure: () =>
          Effect.fail(
            new KubernetesBodyError({ status: answer.status, message: `a line is not JSON: ${shorten(line)}` })
          )
      })
    )
  )

const Status = Schema.Struct({
  kind: Schema.optional(Schema.String),
  message: Schema.optional(Schema.String),
  reason: Schema.optional(Schema.String),
  details: Schema.optional(Schema.Unknown)
})

const parseStatus = Schema.decodeUnknownOption(Schema.fromJsonString(Status))

const toStatusError = (
  answer: Transport.Answer,
  text: string,
  progress: Progress.Progress
): KubernetesStatusError => {
  const { details, kind, message, reason } = Option.getOrElse(parseStatus(text), (): typeof Status.Type => ({}))
  const seconds = Number.parseInt(answer.headers["retry-after"] ?? "", 10)
  const fromApiServer = kind === "Status"
  return new KubernetesStatusError({
    status: answer.status,
    message: (fromApiServer ? message?.trim() : shorten(message ?? "")) || shorten(text) || "no message",
    ...(reason !== undefined && { reason }),
    ...(details !== undefined && { details }),
    ...(seconds >= 0 && { retryAfter: Duration.seconds(seconds) }),
    fromApiServer,
    // Of one that was sent twice, the first may have been applied: what refuses the second may be just that.
    outcomeUnknown: (progress.repeated || !(fromApiServer && answer.status < 500)) && Progress.outcomeUnknown(progress)
  })
}

const shorten = (text: string): string => {
  const line = text.trim().replace(/\s+/g, " ")
  return line.length > 300 ? `${line.slice(0, 300)}…` : line
}

// --- Layers ---

const environment = (name: string): Effect.Effect<string | undefined, KubernetesConfigError> =>
  Effect.mapBoth(Effect.suspend(() => Config.option(Config.String(name))), {
    onFailure: (cause) => new KubernetesConfigError({ message: `${name} cannot be read: ${cause.message}`, cause }),
    onSuccess: (value) => Option.getOrUndefined(value) || undefined
  })

const makeInCluster = Effect.fnUntraced(function*(
  options?: TimeLimits & { readonly directory?: string | undefined }
) {
  const host = yield* environment("KUBERNETES_SERVICE_HOST")
  if (host === undefined) {
    return yield* new KubernetesConfigError({
      message: "KUBERNETES_SERVICE_HOST is not set, so this process does not run in a Pod of a Kubernetes cluster; " +
        "run it in one, or use a kubeconfig"
    })
  }
  const target = yield* ServiceAccount.make({
    host,
    port: yield* environment("KUBERNETES_SERVICE_PORT"),
    directory: options?.directory ?? ServiceAccount.defaultDirectory
  })
  return yield* make({ ...target, origin: "pod" }, options)
})

// A user that is in no list of users has none.
const homeDirectory = Effect.try({
  try: () => homedir(),
  catch: (cause) =>
    new KubernetesConfigError({
      message:
        "KUBECONFIG is not set, nor is HOME, and this user has no home directory; set KUBECONFIG to a kubeconfig file",
      cause
    })
})

const makeKubeconfig = Effect.fnUntraced(function*(
  options?: TimeLimits & { readonly file?: string | undefined; readonly context?: string | undefined }
) {
  const { context } = options ?? {}
  for (const [name, what] of [["file", "the path of a kubeconfig"], ["context", "the name of a context"]] as const) {
    if (options?.[name] === "") {
      return yield* new KubernetesConfigError({
        message: `${name === "file" ? "the kubeconfig's file" : name} is empty: give ${what}, or leave it out`
      })
    }
  }
  const proxies: Record<string, string | undefined> = {}
  for (const name of Proxy.variables) {
    proxies[name] = yield* environment(name)
  }
  const connect = (files: ReadonlyArray<string>, source: string, origin: "given" | "found") =>
    Effect.flatMap(
      Kubeconfig.make({ files, source, context, proxies }),
      (target) => make({ ...target, origin }, options)
    )
  if (options?.file !== undefined) {
    return yield* connect([options.file], options.file, "given")
  }
  const variable = yield* environment("KUBECONFIG")
  const files = variable?.split(delimiter).filter((file) => file !== "") ?? []
  if (files.length > 0) {
    return yield* connect(files, `KUBECONFIG=${variable}`, "given")
  }
  const home = (yield* environment("HOME")) ?? (yield* homeDirectory)
  const file = join(home, ".kube", "config")
  return yield* connect([file], "KUBECONFIG is not set", context === undefined ? "found" : "given")
})

/**
 * The API server of the cluster that this process runs in, as the service
 * account of its Pod.
 *
 * **Details**
 *
 * Reads `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`, which
 * Kubernetes sets in every Pod, and the files `token`, `ca.crt` and `namespace`
 * in `directory` (by default where Kubernetes mounts them). Token and CA are read
 * again when they are older than 10 seconds, and after a 401.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerInCluster = (
  options?: TimeLimits & { readonly directory?: string | undefined }
): Layer.Layer<KubernetesClient, KubernetesConfigError> => Layer.effect(KubernetesClient, makeInCluster(options))

/**
 * The API server of a kubeconfig's context.
 *
 * **Details**
 *
 * `file` is by default what `KUBECONFIG` says (several files are merged as by
 * kubectl), or `~/.kube/config`; `context` is by default the kubeconfig's own.
 * Connects and logs in as kubectl does with it: tokens and token files, client
 * certificates, basic authentication, exec plugins, OIDC, impersonation,
 * `proxy-url`, and the proxy that HTTPS_PROXY names unless NO_PROXY exempts the
 * server. Tokens that expire are renewed before that.
 *
 * A proxy needs the package `https-proxy-agent` (or `socks-proxy-agent`), and an
 * OIDC login whose id-token has expired `openid-client`; each is loaded only
 * then. Refresh-tokens that an OIDC provider rotates are kept in memory, and not
 * written to the file.
 *
 * Plain `http` is accepted, but credentials are sent over it to the loopback
 * address only.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerKubeconfig = (
  options?: TimeLimits & { readonly file?: string | undefined; readonly context?: string | undefined }
): Layer.Layer<KubernetesClient, KubernetesConfigError> => Layer.effect(KubernetesClient, makeKubeconfig(options))

/**
 * What there is, in the order of client-go's controllers: {@link layerKubeconfig}
 * where `KUBECONFIG` is set, {@link layerInCluster} where
 * `KUBERNETES_SERVICE_HOST` is, else the kubeconfig in the home directory. Fails
 * where there is neither: nothing is assumed.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<KubernetesClient, KubernetesConfigError> = Layer.effect(
  KubernetesClient,
  Effect.gen(function*() {
    const host = yield* environment("KUBERNETES_SERVICE_HOST")
    if (host !== undefined && (yield* environment("KUBECONFIG")) === undefined) {
      return yield* makeInCluster()
    }
    return yield* Effect.mapError(makeKubeconfig(), (error) =>
      host !== undefined
        ? error
        : new KubernetesConfigError({
          message:
            `${error.message} (KUBERNETES_SERVICE_HOST is not set either, so this process does not run in a Pod)`,
          cause: error
        }))
  })
)

/**
 * An API server at a known address, with a token that does not change: for
 * tests, and for servers that stand in for a cluster's.
 *
 * **Details**
 *
 * `ca` is PEM text; without it the server's certificate must be signed by a CA
 * that Node knows. Over plain `http` the token is sent to the loopback address
 * only.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerServer = (
  options: TimeLimits & {
    readonly server: string
    readonly namespace?: string | undefined
    readonly token?: Redacted.Redacted | undefined
    readonly ca?: string | undefined
  }
): Layer.Layer<KubernetesClient, KubernetesConfigError> =>
  Layer.effect(
    KubernetesClient,
    Effect.suspend(() => {
      const url = URL.canParse(options.server) ? new URL(options.server) : undefined
      if (url === undefined || (url.protocol !== "https:" && url.protocol !== "http:")) {
        return Effect.fail(
          new KubernetesConfigError({ message: `the server is not a URL with https or http: ${options.server}` })
        )
      }
      if (url.protocol === "http:" && options.token !== undefined && !isLoopback(url.hostname)) {
        return Effect.fail(
          new KubernetesConfigError({
            message: `the token is not sent to ${options.server}, which has no TLS; use https`
          })
        )
      }
      const credentials: Credentials = {
        headers: options.token === undefined ? {} : { authorization: `Bearer ${Redacted.value(options.token)}` },
        tls: { ca: options.ca }
      }
      const source: CredentialSource = {
        get: Effect.succeed(credentials),
        renew: () => Effect.succeed(credentials)
      }
      return make(
        { server: options.server, namespace: options.namespace, credentials: source, origin: "given" },
        options
      )
    })
  )
