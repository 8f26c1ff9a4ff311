/**
 * The paths of the Kubernetes API that the local server knows, and the shapes of what it answers.
 *
 * @internal
 */
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as ApiErrors from "./apiError.ts"
import type { ApiObject, ObjectMeta } from "./apiObject.ts"
import * as Discovery from "./discovery.ts"
import type { Continuation, DeleteOptions, Page, WatchTarget } from "./objects.ts"
import { apiVersionOf, type ResourceType } from "./resources.ts"
import * as Selectors from "./selectors.ts"

export type Verb = "get" | "list" | "watch" | "create" | "update" | "patch" | "delete"

export interface ObjectRoute {
  readonly _tag: "Objects"
  readonly type: ResourceType
  readonly verb: Verb
  readonly namespace: string | undefined
  readonly name: string | undefined
  readonly query: URLSearchParams
}

export type Route =
  | ObjectRoute
  | { readonly _tag: "Review"; readonly review: "access" | "self" }
  | { readonly _tag: "Discovery"; readonly path: string; readonly document: object }
  | { readonly _tag: "Version" | "Ready" | "Unknown" | "MethodNotAllowed" }

const objectPath =
  /^\/(?:api\/(?<core>[^/]+)|apis\/(?<group>[^/]+)\/(?<version>[^/]+))(?:\/namespaces\/(?<namespace>[^/]+))?\/(?<plural>[^/]+)(?:\/(?<name>[^/]+))?$/

export const parse = (method: string, url: string, types: { readonly [name: string]: ResourceType }): Route => {
  const { pathname, searchParams: query } = new URL(url, "http://localhost")
  switch (pathname) {
    case "/version":
      return { _tag: "Version" }
    case "/readyz":
    case "/livez":
    case "/healthz":
      return { _tag: "Ready" }
    case "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews":
      return method === "POST" ? { _tag: "Review", review: "access" } : { _tag: "MethodNotAllowed" }
    case "/apis/authentication.k8s.io/v1/selfsubjectreviews":
      return method === "POST" ? { _tag: "Review", review: "self" } : { _tag: "MethodNotAllowed" }
  }
  const document = Discovery.document(pathname, Object.values(types))
  if (document !== undefined) {
    return method === "GET" ? { _tag: "Discovery", path: pathname, document } : { _tag: "MethodNotAllowed" }
  }
  const parts = objectPath.exec(pathname)?.groups
  if (parts === undefined) {
    return { _tag: "Unknown" }
  }
  const { core, group = "", name, namespace, plural, version = core } = parts
  const type = Object.values(types).find((type) =>
    type.plural === plural && type.group === group && type.version === version
  )
  if (type === undefined || (namespace !== undefined && !type.namespaced)) {
    return { _tag: "Unknown" }
  }
  // Without a namespace, objects of all namespaces can be listed and watched, nothing else.
  const verb = type.namespaced && namespace === undefined && (method !== "GET" || name !== undefined)
    ? undefined
    : verbOf(method, name !== undefined, query)
  return verb === undefined
    ? { _tag: "MethodNotAllowed" }
    : {
      _tag: "Objects",
      type,
      verb,
      namespace: namespace === undefined ? undefined : decodeURIComponent(namespace),
      name: name === undefined ? undefined : decodeURIComponent(name),
      query
    }
}

const verbOf = (method: string, hasName: boolean, query: URLSearchParams): Verb | undefined => {
  switch (method) {
    case "GET": {
      const watch = query.get("watch")
      return watch === "1" || watch === "true" ? "watch" : hasName ? "get" : "list"
    }
    case "POST":
      return hasName ? undefined : "create"
    case "PUT":
      return hasName ? "update" : undefined
    case "PATCH":
      return hasName ? "patch" : undefined
    case "DELETE":
      return hasName ? "delete" : undefined
    default:
      return undefined
  }
}

// --- what is asked for ------------------------------------------------------------------------------------------

const fieldsOf = (query: URLSearchParams) => Selectors.parseFields(query.get("fieldSelector") ?? "")

/** The objects that a list or a watch is about. */
export const target = ({ name, namespace, query, type }: ObjectRoute): Effect.Effect<WatchTarget, ApiErrors.ApiError> =>
  Effect.fromResult(Result.mapError(
    Result.gen(function*() {
      const labels = query.get("labelSelector")
      const fitsLabels = yield* Selectors.parseLabels(labels ?? "")
      const terms = yield* fieldsOf(query)
      const selected = terms.find(({ field, is }) => is && field === "metadata.name")?.value
      const fits = ({ metadata }: ApiObject) =>
        fitsLabels(metadata.labels ?? {}) &&
        terms.every(({ field, is, value }) =>
          ((field === "metadata.name" ? metadata.name : metadata.namespace ?? "") === value) === is
        )
      return {
        type,
        namespace,
        name: name ?? selected,
        selects: labels === null && terms.length === 0 ? undefined : fits
      }
    }),
    ApiErrors.badRequest
  ))

/** Fails where it would else be done otherwise than it was asked for: a dry run in earnest, for one. */
export const checkSupported = ({ query }: ObjectRoute, body?: unknown): Effect.Effect<void, ApiErrors.ApiError> => {
  const unsupported = query.has("dryRun") || (Predicate.isReadonlyObject(body) && body.dryRun !== undefined)
    ? "dryRun"
    : query.get("sendInitialEvents") === "true"
    ? "sendInitialEvents"
    : query.get("resourceVersionMatch") === "Exact"
    ? "resourceVersionMatch"
    : undefined
  return unsupported === undefined
    ? Effect.void
    : Effect.fail(ApiErrors.badRequest(`${unsupported} is not supported by this server`))
}

/** How many a list gives at once, 0 for all, and where it goes on. */
export const paging = (
  route: ObjectRoute
): Effect.Effect<{ readonly limit: number; readonly from: Continuation | undefined }, ApiErrors.ApiError> => {
  const { query } = route
  const limit = query.get("limit")
  const after = query.get("continue") ?? ""
  const version = query.get("resourceVersion") ?? ""
  if (limit !== null && !/^[-+]?\d+$/.test(limit)) {
    return Effect.fail(ApiErrors.badRequest(`strconv.ParseInt: parsing ${JSON.stringify(limit)}: invalid syntax`))
  }
  if (after === "") {
    // From the cache, and the cache is whole.
    return Effect.succeed({ limit: version === "0" ? 0 : Number(limit), from: undefined })
  }
  if (version !== "" && version !== "0") {
    return Effect.fail(ApiErrors.badRequest("specifying resource version is not allowed when using continue"))
  }
  return Effect.fromResult(Result.mapError(
    Result.map(decodeContinue(after), ({ rv, start }) => ({
      limit: Number(limit),
      from: { version: BigInt(rv), start }
    })),
    (error) => ApiErrors.badRequest(`invalid continue token: continue key is not valid: ${error.message}`)
  ))
}

const decodeContinue = Schema.decodeUnknownResult(
  Schema.StringFromBase64Url.pipe(Schema.decodeTo(Schema.fromJsonString(Schema.Struct({
    v: Schema.Literal("meta.k8s.io/v1"),
    rv: Schema.Int,
    start: Schema.String
  }))))
)

export const resourceVersion = (route: ObjectRoute): Effect.Effect<bigint | undefined, ApiErrors.ApiError> => {
  const text = route.query.get("resourceVersion") ?? ""
  return text === ""
    ? Effect.succeed(undefined)
    : /^\d+$/.test(text)
    ? Effect.succeed(BigInt(text))
    : Effect.fail(ApiErrors.internal(`strconv.ParseUint: parsing ${JSON.stringify(text)}: invalid syntax`))
}

/** How long a watch goes on: half an hour where the client does not say, the least that the real server does. */
export const timeoutSeconds = (query: URLSearchParams): Effect.Effect<number, ApiErrors.ApiError> => {
  const text = query.get("timeoutSeconds")
  return text === null
    ? Effect.succeed(1800)
    : /^\d+$/.test(text)
    ? Effect.succeed(Number(text))
    : Effect.fail(ApiErrors.badRequest(`strconv.ParseInt: parsing ${JSON.stringify(text)}: invalid syntax`))
}

export const deleteOptions = (query: URLSearchParams, body: unknown): DeleteOptions => {
  const sent = Predicate.isReadonlyObject(body) ? body : {}
  const preconditions = Predicate.isReadonlyObject(sent.preconditions) ? sent.preconditions : {}
  const grace = sent.gracePeriodSeconds ?? query.get("gracePeriodSeconds") ?? undefined
  const policy = sent.propagationPolicy ?? query.get("propagationPolicy")
  return {
    preconditions: {
      uid: Predicate.isString(preconditions.uid) ? preconditions.uid : undefined,
      resourceVersion: Predicate.isString(preconditions.resourceVersion) ? preconditions.resourceVersion : undefined
    },
    propagationPolicy: Predicate.isString(policy) ? policy : undefined,
    gracePeriodSeconds: grace === undefined ? undefined : Number(grace)
  }
}

// --- what is answered -------------------------------------------------------------------------------------------

export const toList = (type: ResourceType, { items, next, remaining, version }: Page, isSelected: boolean) => ({
  kind: `${type.kind}List`,
  apiVersion: apiVersionOf(type),
  metadata: {
    resourceVersion: version.toString(),
    ...(next !== undefined && {
      continue: Buffer.from(JSON.stringify({ v: "meta.k8s.io/v1", rv: Number(next.version), start: next.start }))
        .toString("base64url"),
      // It would have to look at them.
      ...(!isSelected && { remainingItemCount: remaining })
    })
  },
  // Items of a list do not say what they are.
  items: items.map(({ apiVersion: _apiVersion, kind: _kind, ...rest }) => rest)
})

export const toBookmark = (type: ResourceType, version: bigint) => ({
  kind: type.kind,
  apiVersion: apiVersionOf(type),
  metadata: { resourceVersion: version.toString() },
  spec: {}
})

export const toDeleted = (type: ResourceType, { name, uid }: ObjectMeta) => ({
  kind: "Status",
  apiVersion: "v1",
  metadata: {},
  status: "Success",
  details: { name, ...(type.group !== "" && { group: type.group }), kind: type.plural, uid }
})

export const version = {
  major: "1",
  minor: "37",
  gitVersion: "v1.37.2",
  platform: "local"
}

export const anonymous = "system:anonymous"

export const forbidden = (route: ObjectRoute, user: string | undefined): ApiErrors.ApiError => {
  const { namespace, query, type, verb } = route
  const selected = Result.getOrElse(fieldsOf(query), () => []).find(({ field }) => field === "metadata.name")?.value
  const name = route.name ?? (verb === "list" || verb === "watch" ? selected : undefined)
  const resource = ApiErrors.groupResource(type)
  return new ApiErrors.ApiError({
    code: 403,
    message: `${resource}${name === undefined ? "" : ` "${name}"`} is forbidden: User "${
      user ?? anonymous
    }" cannot ${verb} resource "${type.plural}" in API group "${type.group}" ${
      namespace === undefined ? "at the cluster scope" : `in the namespace "${namespace}"`
    }`,
    reason: "Forbidden",
    details: {
      ...(name !== undefined && { name }),
      ...(type.group !== "" && { group: type.group }),
      kind: type.plural
    }
  })
}

export const tooLarge = (wanted: bigint, current: bigint): ApiErrors.ApiError =>
  new ApiErrors.ApiError({
    code: 504,
    message: `Timeout: Too large resource version: ${wanted}, current: ${current}`,
    reason: "Timeout",
    details: {
      causes: [{ reason: "ResourceVersionTooLarge", message: "Too large resource version" }],
      retryAfterSeconds: 1
    }
  })

export const forbiddenPath = (path: string): ApiErrors.ApiError =>
  new ApiErrors.ApiError({
    code: 403,
    message: `forbidden: User "${anonymous}" cannot get path "${path}"`,
    reason: "Forbidden",
    details: {}
  })

export const methodNotAllowed = new ApiErrors.ApiError({
  code: 405,
  message: "the server does not allow this method on the requested resource",
  reason: "MethodNotAllowed",
  details: {}
})

export const anonymousReview = (review: "access" | "self"): ApiErrors.ApiError => {
  const [plural, group] = review === "access"
    ? ["selfsubjectaccessreviews", "authorization.k8s.io"]
    : ["selfsubjectreviews", "authentication.k8s.io"]
  return new ApiErrors.ApiError({
    code: 403,
    message: `${plural}.${group} is forbidden: User "${anonymous}" cannot create resource "${plural}" in API group ` +
      `"${group}" at the cluster scope`,
    reason: "Forbidden",
    details: { group, kind: plural }
  })
}

/** The verb on Leases that is asked about; "" for anything else, which is granted. */
export const reviewedVerb = (body: unknown): string | undefined => {
  const spec = Predicate.isReadonlyObject(body) ? body.spec : undefined
  const attributes = Predicate.isReadonlyObject(spec) ? spec.resourceAttributes : undefined
  const verb = Predicate.isReadonlyObject(attributes) ? attributes.verb : undefined
  return Predicate.isString(verb) && verb !== "" ? verb : undefined
}

export const accessReview = (body: unknown, allowed: boolean) => ({
  kind: "SelfSubjectAccessReview",
  apiVersion: "authorization.k8s.io/v1",
  metadata: {},
  spec: Predicate.isReadonlyObject(body) ? body.spec : {},
  status: { allowed }
})

export const selfReview = (user: string) => ({
  kind: "SelfSubjectReview",
  apiVersion: "authentication.k8s.io/v1",
  metadata: {},
  status: { userInfo: { username: user, groups: ["system:authenticated"] } }
})
