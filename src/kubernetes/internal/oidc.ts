/**
 * The `oidc` auth-provider of kubeconfigs: an id-token, and a refresh-token by which another is had.
 *
 * `openid-client` does the refresh, and is loaded only for it.
 *
 * @internal
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { readFile } from "node:fs/promises"
import { request } from "node:https"
import { KubernetesCredentialsError } from "../KubernetesError.ts"
import { isLoopback } from "./loopback.ts"
import { type Load, optionalPackage } from "./optionalPackage.ts"

type Settings = Readonly<Record<string, string>>

/** What is known of a user beyond the file: providers that rotate refresh-tokens accept each of them once. */
export interface Session {
  readonly load: Load
  /** The last refresh-token, by the one that the file had when it was fetched. */
  refreshed: { readonly from: string; readonly idToken: string; readonly refreshToken: string } | undefined
}

export const makeSession = (load: Load): Session => ({ load, refreshed: undefined })

/** What is wrong with the settings, if anything. */
export const problem = (settings: Settings): string | undefined =>
  !settings["idp-issuer-url"]
    ? "has an oidc auth-provider without idp-issuer-url"
    : !settings["client-id"]
    ? "has an oidc auth-provider without client-id"
    : undefined

/** As client-go: an id-token is not used in its last ten seconds. */
const margin = 10_000

const Claims = Schema.fromJsonString(Schema.Struct({ exp: Schema.Number }))

/** When the token expires, in Unix milliseconds. */
const expiryOf = (token: string): number | undefined =>
  Option.getOrUndefined(Option.map(
    Schema.decodeUnknownOption(Claims)(Buffer.from(token.split(".")[1] ?? "", "base64url").toString("utf8")),
    ({ exp }) => exp * 1000
  ))

/** A token that is valid now, and for how long. `fresh` asks for another than the file has. */
export const token = Effect.fnUntraced(function*(
  user: string,
  settings: Settings,
  session: Session,
  fresh: boolean
): Effect.fn.Return<
  { readonly token: string; readonly lifetime: Duration.Duration | undefined },
  KubernetesCredentialsError
> {
  const now = yield* Clock.currentTimeMillis
  const from = settings["refresh-token"] ?? ""
  const known = session.refreshed?.from === from ? session.refreshed : undefined
  const idToken = known?.idToken ?? settings["id-token"] ?? ""
  const expiry = expiryOf(idToken)
  if (expiry !== undefined && expiry - margin > now && !(fresh && from !== "")) {
    return { token: idToken, lifetime: Duration.millis(expiry - margin - now) }
  }
  if (from === "") {
    return yield* failed(user, "has expired, and there is no refresh-token: log in again, as you did for kubectl")
  }
  const answer = yield* refresh(user, settings, known?.refreshToken ?? from, session.load)
  session.refreshed = { from, ...answer }
  const renewed = expiryOf(answer.idToken)
  return {
    token: answer.idToken,
    lifetime: renewed === undefined ? undefined : Duration.millis(Math.max(0, renewed - margin - now))
  }
})

const failed = (user: string, what: string): KubernetesCredentialsError =>
  new KubernetesCredentialsError({ message: `the OIDC login of the kubeconfig's user ${user} ${what}` })

/** What is used of `openid-client`. */
interface OpenId {
  readonly customFetch: symbol
  readonly allowInsecureRequests: unknown
  readonly discovery: (
    issuer: URL,
    clientId: string,
    clientSecret: string | undefined,
    authentication: undefined,
    options: Record<string | symbol, unknown>
  ) => Promise<unknown>
  readonly refreshTokenGrant: (
    configuration: unknown,
    refreshToken: string
  ) => Promise<{ readonly id_token?: string; readonly refresh_token?: string }>
}

const refresh = Effect.fnUntraced(function*(
  user: string,
  settings: Settings,
  refreshToken: string,
  load: Load
) {
  const openid = yield* Effect.mapError(
    optionalPackage<OpenId>(load, "openid-client", "an OIDC login whose id-token has expired"),
    ({ message }) => new KubernetesCredentialsError({ message })
  )
  const issuer = settings["idp-issuer-url"] ?? ""
  const url = Option.getOrUndefined(Option.liftThrowable(() => new URL(issuer))())
  if (url === undefined || !(url.protocol === "https:" || (url.protocol === "http:" && isLoopback(url.hostname)))) {
    return yield* failed(user, `has an idp-issuer-url that is not one with https: ${issuer}`)
  }
  const data = settings["idp-certificate-authority-data"] ?? ""
  const file = settings["idp-certificate-authority"] ?? ""
  const ca = data !== "" ? Buffer.from(data, "base64").toString("utf8") : file === "" ? undefined : yield* Effect
    .tryPromise({
      try: () => readFile(file, "utf8"),
      catch: () => failed(user, `names the idp-certificate-authority ${file}, which cannot be read`)
    })
  const answer = yield* Effect.tryPromise({
    try: async (signal) => {
      const configuration = await openid.discovery(
        url,
        settings["client-id"] ?? "",
        settings["client-secret"] || undefined,
        undefined,
        {
          ...(url.protocol === "http:" && { execute: [openid.allowInsecureRequests] }),
          [openid.customFetch]: fetchWith(ca, signal)
        }
      )
      return await openid.refreshTokenGrant(configuration, refreshToken)
    },
    // Of the provider's answer only the code: the rest is text of its own.
    catch: (cause) =>
      failed(user, `could not be refreshed at ${issuer} (${codeOf(cause)}); log in again if this goes on`)
  })
  return answer.id_token === undefined
    ? yield* failed(user, `was refreshed at ${issuer}, but without an id-token; request the scope openid`)
    : { idToken: answer.id_token, refreshToken: answer.refresh_token ?? refreshToken }
})

const Coded = Schema.Struct({
  error: Schema.optional(Schema.String),
  code: Schema.optional(Schema.String),
  cause: Schema.optional(Schema.Unknown)
})

const codeOf = (cause: unknown): string => {
  const decoded = Schema.decodeUnknownResult(Coded)(cause)
  if (Result.isFailure(decoded)) {
    return "no answer"
  }
  const { cause: inner, code, error } = decoded.success
  const found = error ?? code ?? (inner === undefined ? undefined : codeOf(inner))
  return found !== undefined && /^[\w-]{1,60}$/.test(found) ? found : "no answer"
}

interface FetchOptions {
  readonly method: string
  readonly headers: Record<string, string>
  readonly body?: string | URLSearchParams | null
}

/** `fetch` trusts no CA but Node's own; this one also that of the provider. */
const fetchWith =
  (ca: string | undefined, signal: AbortSignal) => (url: string, options: FetchOptions): Promise<Response> =>
    ca === undefined
      ? fetch(url, { ...options, body: options.body ?? null, signal })
      : new Promise((resolve, reject) => {
        const sent = request(url, { method: options.method, headers: options.headers, ca, signal }, (response) => {
          const chunks: Array<Buffer> = []
          response.on("data", (chunk: Buffer) => chunks.push(chunk))
          response.on("error", reject)
          response.on("end", () => {
            const headers = new Headers()
            for (const [name, value] of Object.entries(response.headers)) headers.set(name, String(value))
            const status = response.statusCode ?? 500
            resolve(new Response(status === 204 || status === 304 ? null : Buffer.concat(chunks), { status, headers }))
          })
        })
        sent.on("error", reject)
        sent.end(options.body?.toString())
      })
