/**
 * The raw HTTP of the API server, asserted word for word: status codes, reasons, messages, details, headers, the lines
 * of a watch. It runs against a real kube-apiserver and against the local server, which is how the latter is held to the
 * former.
 */
import { assert, describe, layer, type Vitest } from "@effect/vitest"
import { Context, Effect, type Layer, type Scope } from "effect"
import * as Http from "node:http"
import * as Https from "node:https"
import { createInterface } from "node:readline"
import type { Admin } from "./LeaseStoreSuite.ts"

export interface Answer {
  readonly status: number
  readonly headers: Http.IncomingHttpHeaders
  readonly text: string
  /** The parsed JSON; `undefined` where the body is something else. */
  // oxlint-disable-next-line typescript/no-explicit-any -- assertions are made on whatever came
  readonly body: any
}

export interface RequestOptions {
  readonly token?: string
  readonly contentType?: string
  readonly headers?: Record<string, string>
}

/** The lines of a watch, as they come. */
export interface WatchLines {
  readonly status: number
  readonly headers: Http.IncomingHttpHeaders
  /** The next line; fails where the watch has ended. */
  // oxlint-disable-next-line typescript/no-explicit-any -- assertions are made on whatever came
  readonly next: Effect.Effect<any>
  /** All lines until its end. */
  // oxlint-disable-next-line typescript/no-explicit-any -- assertions are made on whatever came
  readonly rest: Effect.Effect<Array<any>>
}

/** A client that knows nothing of this library. */
export const makeClient = (options: {
  readonly url: string
  readonly ca?: string | undefined
  readonly token: string
}) => {
  const { request: send } = options.url.startsWith("https:") ? Https : Http
  const open = (
    method: string,
    path: string,
    body: unknown,
    { contentType, headers, token = options.token }: RequestOptions
  ): Promise<Http.IncomingMessage> =>
    new Promise((resolve, reject) => {
      const text = body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body)
      const request = send(new URL(options.url + path), {
        method,
        agent: false,
        ...(options.ca !== undefined && { ca: options.ca }),
        headers: {
          accept: "application/json",
          ...(token !== "" && { authorization: `Bearer ${token}` }),
          ...(text !== undefined && {
            "content-type": contentType ?? (method === "PATCH" ? "application/merge-patch+json" : "application/json"),
            "content-length": Buffer.byteLength(text)
          }),
          ...headers
        }
      }, resolve)
      request.once("error", reject)
      request.end(text)
    })

  const request = (
    method: string,
    path: string,
    body?: unknown,
    requestOptions: RequestOptions = {}
  ): Effect.Effect<Answer> =>
    Effect.promise(async () => {
      const response = await open(method, path, body, requestOptions)
      const chunks: Array<Buffer> = []
      for await (const chunk of response) chunks.push(chunk)
      const text = Buffer.concat(chunks).toString()
      const isJson = response.headers["content-type"]?.startsWith("application/json") === true
      return {
        status: response.statusCode ?? 0,
        headers: response.headers,
        text,
        body: isJson ? JSON.parse(text) : undefined
      }
    })

  const watch = (
    path: string,
    requestOptions: RequestOptions = {}
  ): Effect.Effect<WatchLines, never, Scope.Scope> =>
    Effect.gen(function*() {
      const response = yield* Effect.acquireRelease(
        Effect.promise(() => open("GET", path, undefined, requestOptions)),
        (response) => Effect.sync(() => response.destroy())
      )
      const lines = createInterface({ input: response })[Symbol.asyncIterator]()
      const pull = async () => {
        const line = await lines.next()
        return line.done === true ? undefined : JSON.parse(line.value)
      }
      return {
        status: response.statusCode ?? 0,
        headers: response.headers,
        next: Effect.promise(async () => (await pull()) ?? assert.fail("the watch has ended")).pipe(
          Effect.timeout("10 seconds"),
          Effect.orDie
        ),
        rest: Effect.promise(async () => {
          const all = []
          for (let line = await pull(); line !== undefined; line = await pull()) all.push(line)
          return all
        }).pipe(Effect.timeout("30 seconds"), Effect.orDie)
      }
    })

  return { request, watch }
}

/** What others do, over HTTP. */
export const makeAdmin = ({ request }: ReturnType<typeof makeClient>, namespace: string): Admin => {
  const leases = `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases`
  const pods = `/api/v1/namespaces/${namespace}/pods`
  const ok = (...args: Parameters<typeof request>) =>
    Effect.map(request(...args), ({ body, status, text }) => {
      assert.isBelow(status, 300, `${args[0]} ${args[1]}: ${text}`)
      return body
    })
  return {
    editLease: (name, patch) => Effect.asVoid(ok("PATCH", `${leases}/${name}`, patch)),
    deleteLease: (name) => Effect.asVoid(ok("DELETE", `${leases}/${name}`)),
    createPod: (name) =>
      Effect.map(
        ok("POST", pods, {
          metadata: { name },
          spec: { nodeName: "no-such-node", containers: [{ name: "main", image: "none" }] }
        }),
        ({ metadata }) => metadata
      ),
    deletePod: (name, gracePeriodSeconds) => Effect.asVoid(ok("DELETE", `${pods}/${name}`, { gracePeriodSeconds }))
  }
}

export class Environment extends Context.Service<Environment, {
  readonly client: ReturnType<typeof makeClient>
  readonly namespace: string
  readonly missingNamespace: string
  /** A user whose token is known but who has no rights. */
  readonly stranger: { readonly token: string; readonly user: string }
  readonly garbageCollector: boolean
}>()("test/LeaseApiSuite/Environment") {}

let names = 0

const setup = Effect.gen(function*() {
  const { client, ...rest } = yield* Environment
  names += 1
  const name = `raw-${names}-${Math.random().toString(36).slice(2, 8)}`
  const leases = `/apis/coordination.k8s.io/v1/namespaces/${rest.namespace}/leases`
  const create = (body: object = {}) =>
    Effect.map(
      client.request("POST", leases, {
        metadata: { name, ...("metadata" in body ? body.metadata as object : {}) },
        spec: "spec" in body ? body.spec : {}
      }),
      (answer) => {
        assert.strictEqual(answer.status, 201, answer.text)
        return answer.body
      }
    )
  /** Leases `NAME-a` and so on, with these labels and `group: NAME`. */
  const createLabelled = (labels: { readonly [letter: string]: object }) =>
    Effect.forEach(
      Object.entries(labels),
      ([letter, own]) =>
        client.request("POST", leases, { metadata: { name: `${name}-${letter}`, labels: { group: name, ...own } } })
    )
  return { ...client, ...rest, name, leases, path: `${leases}/${name}`, create, createLabelled }
})

/** Which of a (x=1, y=p), b (x=2), c (x=10, z empty), d (without these labels) it names. */
const labelSelectors = [
  ["x=1", "a"],
  ["x==1", "a"],
  [" x = 1", "a"],
  ["x!=1", "bcd"],
  ["x in (1,2)", "ab"],
  ["x  in( 1 , 2 ) ", "ab"],
  ["x notin (1)", "bcd"],
  ["x notin (1,2),x", "c"],
  ["x", "abc"],
  ["!x", "d"],
  ["! z", "abd"],
  ["x,!y", "bc"],
  ["x=1,y=p", "a"],
  ["x=1,x=2", ""],
  ["x>5", "c"],
  ["x<5", "ab"],
  ["z=", "c"],
  ["z in ()", "c"],
  ["z in (,1)", "c"],
  ["x in (in)", ""],
  ["a/b=1", ""],
  ["in notin (in)", "abcd"]
] as const

const requirement = (message: string) => `unable to parse requirement: ${message}`

const badSelectors: ReadonlyArray<readonly [kind: "label" | "field", selector: string, message: string]> = [
  ["label", "x in (1,", requirement("found '', expected: ',', or identifier")],
  ["label", "x in (1 2)", requirement("found '2', expected: ',' or ')'")],
  ["label", "x in 1", requirement("found '1' expected: '('")],
  ["label", "x y", requirement("found 'y', expected: in, notin, =, ==, !=, gt, lt")],
  ["label", "x===1", requirement("found '=', expected: identifier")],
  ["label", "!", requirement("found '', expected: identifier")],
  [
    "label",
    "x>a",
    requirement(`values[0]: Invalid value: "a": for 'Gt', 'Lt' operators, the value must be an integer`)
  ],
  [
    "label",
    "-x=1",
    requirement(
      `<nil>: Invalid value: "-x": name part must consist of alphanumeric characters, '-', '_' or '.', and must start ` +
        "and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for " +
        "validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
    )
  ],
  [
    "label",
    "x=-1",
    requirement(
      `values[0][x]: Invalid value: "-1": a valid label must be an empty string or consist of alphanumeric ` +
        "characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or " +
        "'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
    )
  ],
  [
    "label",
    `x=${"v".repeat(64)}`,
    requirement(`values[0][x]: Invalid value: "${"v".repeat(64)}": must be no more than 63 bytes`)
  ],
  ["label", "=1", "found '=', expected: !, identifier, or 'end of string'"],
  ["label", "x=1,", "found '', expected: identifier after ','"],
  ["label", "x=1 2", "found '2', expected: ',' or 'end of string'"],
  ["label", "!x=1", "found '=', expected: ',' or 'end of string'"],
  ["field", "metadata.name", "invalid selector: 'metadata.name'; can't understand 'metadata.name'"],
  ["field", "=a", `"" is not a known field selector: only "metadata.name", "metadata.namespace"`]
]

// oxlint-disable-next-line typescript/no-explicit-any -- assertions are made on whatever came
type Any = any

const details = (name: string) => ({ name, group: "coordination.k8s.io", kind: "leases" })
const kindDetails = (name: string) => ({ name, group: "coordination.k8s.io", kind: "Lease" })

const failure = (
  answer: Answer,
  expected: { readonly code: number; readonly reason?: string; readonly message: string; readonly details?: unknown }
) => {
  const { code, message, reason } = expected
  assert.deepStrictEqual(answer.body, {
    kind: "Status",
    apiVersion: "v1",
    metadata: {},
    status: "Failure",
    message,
    ...(reason !== undefined && { reason }),
    ...(expected.details !== undefined && { details: expected.details }),
    code
  })
  assert.strictEqual(answer.status, code)
}

const hasBeenModified = (name: string) => ({
  code: 409,
  reason: "Conflict",
  message: `Operation cannot be fulfilled on leases.coordination.k8s.io "${name}": the object has been modified; ` +
    "please apply your changes to the latest version and try again",
  details: details(name)
})

/** The tests, to be called with an `it` that has an environment and the live clock. */
export const tests = (it: Vitest.MethodsNonLive<Environment>): void => {
  const test = <A, E>(name: string, effect: Effect.Effect<A, E, Environment | Scope.Scope>) =>
    it.effect(name, () => effect, 30_000)
  const collected = <A, E>(name: string, effect: Effect.Effect<A, E, Environment | Scope.Scope>) =>
    it.effect(name, (context) =>
      Effect.gen(function*() {
        const { garbageCollector } = yield* Environment
        if (!garbageCollector) return context.skip("there is no garbage collector")
        return yield* effect
      }), 30_000)

  describe("create", () => {
    test(
      "answers 201 with the whole object, and the headers of the real one",
      Effect.gen(function*() {
        const { leases, name, namespace, request } = yield* setup
        const { body, headers, status, text } = yield* request("POST", leases, {
          metadata: { name },
          spec: { holderIdentity: "", leaseDurationSeconds: 15, renewTime: "2026-01-02T03:04:05.000006+02:00" }
        })
        assert.strictEqual(status, 201)
        assert.isTrue(text.endsWith("}\n"))
        const { creationTimestamp, managedFields: _, resourceVersion, uid, ...metadata } = body.metadata
        assert.deepStrictEqual({ ...body, metadata }, {
          kind: "Lease",
          apiVersion: "coordination.k8s.io/v1",
          metadata: { name, namespace },
          spec: { holderIdentity: "", leaseDurationSeconds: 15, renewTime: "2026-01-02T01:04:05.000006Z" }
        })
        assert.match(uid, /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/)
        assert.match(resourceVersion, /^[1-9]\d*$/)
        assert.match(creationTimestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/)
        assert.match(headers["audit-id"] as string, /^[0-9a-f-]{36}$/)
        assert.strictEqual(headers["cache-control"], "no-cache, private")
        assert.strictEqual(headers["content-type"], "application/json")
        assert.match(headers.date ?? "", /^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$/)
        assert.isString(headers["x-kubernetes-pf-flowschema-uid"])
        assert.isString(headers["x-kubernetes-pf-prioritylevel-uid"])
      })
    )

    test(
      "refuses a name that is taken",
      Effect.gen(function*() {
        const { create, leases, name, path, request } = yield* setup
        yield* create()
        failure(yield* request("POST", leases, { metadata: { name } }), {
          code: 409,
          reason: "AlreadyExists",
          message: `leases.coordination.k8s.io "${name}" already exists`,
          details: details(name)
        })
        yield* request("PATCH", path, { metadata: { finalizers: ["example.com/hold"] } })
        yield* request("DELETE", path)
        failure(yield* request("POST", leases, { metadata: { name } }), {
          code: 409,
          reason: "AlreadyExists",
          message: `object is being deleted: leases.coordination.k8s.io "${name}" already exists`,
          details: details(name)
        })
        yield* request("PATCH", path, { metadata: { finalizers: null } })
      })
    )

    test(
      "refuses a missing namespace, and one unlike the path's",
      Effect.gen(function*() {
        const { leases, missingNamespace, name, namespace, request } = yield* setup
        const elsewhere = leases.replace(`/${namespace}/`, `/${missingNamespace}/`)
        failure(yield* request("POST", elsewhere, { metadata: { name } }), {
          code: 404,
          reason: "NotFound",
          message: `namespaces "${missingNamespace}" not found`,
          details: { name: missingNamespace, kind: "namespaces" }
        })
        failure(yield* request("GET", `${elsewhere}/${name}`), {
          code: 404,
          reason: "NotFound",
          message: `leases.coordination.k8s.io "${name}" not found`,
          details: details(name)
        })
        failure(yield* request("POST", leases, { metadata: { name, namespace: "other" } }), {
          code: 400,
          reason: "BadRequest",
          message: "the namespace of the provided object does not match the namespace sent on the request"
        })
      })
    )

    test(
      "takes no version, no uid and no time from the client",
      Effect.gen(function*() {
        const { leases, name, request } = yield* setup
        failure(yield* request("POST", leases, { metadata: { name, resourceVersion: "1" } }), {
          code: 500,
          message: "resourceVersion should not be set on objects to be created"
        })
        const uid = "11111111-1111-4111-8111-111111111111"
        const { body, status } = yield* request("POST", leases, {
          metadata: { name, uid, creationTimestamp: "2001-01-01T00:00:00Z" }
        })
        assert.strictEqual(status, 201)
        assert.notStrictEqual(body.metadata.uid, uid)
        assert.notStrictEqual(body.metadata.creationTimestamp, "2001-01-01T00:00:00Z")
        assert.deepStrictEqual(body.spec, {})
      })
    )

    test(
      "reads what is called JSON, or nothing",
      Effect.gen(function*() {
        const { leases, name, request } = yield* setup
        const { body, status } = yield* request("POST", leases, { metadata: { name } }, { contentType: "text/plain" })
        assert.deepStrictEqual([status, body.reason], [415, "UnsupportedMediaType"])
        assert.match(
          body.message,
          /^the body of the request was in an unknown format - accepted media types include: application\/json/
        )
        const contentType = "application/json; charset=utf-8"
        assert.strictEqual((yield* request("POST", leases, { metadata: { name } }, { contentType })).status, 201)
      })
    )

    test(
      "refuses names that are none",
      Effect.gen(function*() {
        const { leases, request } = yield* setup
        const rule = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', " +
          "and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is " +
          "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        const message = `Invalid value: "A_b": ${rule}`
        failure(yield* request("POST", leases, { metadata: { name: "A_b" } }), {
          code: 422,
          reason: "Invalid",
          message: `Lease.coordination.k8s.io "A_b" is invalid: metadata.name: ${message}`,
          details: {
            ...kindDetails("A_b"),
            causes: [{ reason: "FieldValueInvalid", message, field: "metadata.name" }]
          }
        })
        const long = yield* request("POST", leases, { metadata: { name: "a".repeat(254) } })
        const missing = yield* request("POST", leases, { metadata: {} })
        assert.deepStrictEqual([long.status, long.body.reason], [422, "Invalid"])
        assert.deepStrictEqual([missing.status, missing.body.reason], [422, "Invalid"])
        assert.include(missing.body.message, "metadata.name: Required value: name or generateName is required")
        assert.strictEqual(
          (yield* request("POST", leases, { apiVersion: "v2", metadata: { name: "a" } })).status,
          400
        )
      })
    )
  })

  describe("patch", () => {
    test(
      "is guarded by the version in its body",
      Effect.gen(function*() {
        const { create, name, path, request } = yield* setup
        const { metadata } = yield* create({ spec: { holderIdentity: "a" } })
        const guarded = (resourceVersion: unknown, holderIdentity = "b") =>
          request("PATCH", path, { metadata: { resourceVersion }, spec: { holderIdentity } })
        const first = yield* guarded(metadata.resourceVersion)
        assert.strictEqual(first.status, 200)
        const { resourceVersion } = first.body.metadata
        failure(yield* guarded(metadata.resourceVersion), hasBeenModified(name))
        failure(yield* guarded("99999999"), hasBeenModified(name))
        const required = `metadata.resourceVersion: Invalid value: 0: must be specified for an update`
        for (const version of [null, "", "0"]) {
          const answer = yield* guarded(version, "c")
          assert.strictEqual(answer.status, 422)
          assert.strictEqual(answer.body.message, `leases.coordination.k8s.io "${name}" is invalid: ${required}`)
        }
        const unchanged = yield* guarded(resourceVersion)
        assert.deepStrictEqual(unchanged.body, first.body)
        const unguarded = yield* request("PATCH", path, { spec: { holderIdentity: "d" } })
        assert.strictEqual(unguarded.status, 200)
        assert.isTrue(BigInt(unguarded.body.metadata.resourceVersion) > BigInt(resourceVersion))
      })
    )

    test(
      "with another uid is refused: 409 at a stale version, 422 at the right one",
      Effect.gen(function*() {
        const { create, name, path, request } = yield* setup
        const { metadata } = yield* create()
        const uid = "11111111-1111-4111-8111-111111111111"
        failure(
          yield* request("PATCH", path, { metadata: { uid, resourceVersion: "1" } }),
          hasBeenModified(name)
        )
        const message = `Invalid value: "${uid}": field is immutable`
        failure(yield* request("PATCH", path, { metadata: { uid, resourceVersion: metadata.resourceVersion } }), {
          code: 422,
          reason: "Invalid",
          message: `Lease.coordination.k8s.io "${name}" is invalid: metadata.uid: ${message}`,
          details: {
            ...kindDetails(name),
            causes: [{ reason: "FieldValueInvalid", message, field: "metadata.uid" }]
          }
        })
      })
    )

    test(
      "never creates, and does not rename",
      Effect.gen(function*() {
        const { create, name, path, request } = yield* setup
        failure(yield* request("PATCH", path, { metadata: { resourceVersion: "1" }, spec: {} }), {
          code: 404,
          reason: "NotFound",
          message: `leases.coordination.k8s.io "${name}" not found`,
          details: details(name)
        })
        yield* create()
        failure(yield* request("PATCH", path, { metadata: { name: "other" } }), {
          code: 400,
          reason: "BadRequest",
          message: `the name of the object (other) does not match the name on the URL (${name})`
        })
      })
    )

    test(
      "is a merge patch in JSON, nothing else",
      Effect.gen(function*() {
        const { create, path, request } = yield* setup
        yield* create()
        const json = yield* request("PATCH", path, {}, { contentType: "application/json" })
        assert.deepStrictEqual([json.status, json.body.reason], [415, "UnsupportedMediaType"])
        const broken = yield* request("PATCH", path, "{", { contentType: "application/merge-patch+json" })
        assert.deepStrictEqual([broken.status, broken.body.reason], [400, "BadRequest"])
      })
    )

    test(
      "with null removes, with an object merges, with a list replaces",
      Effect.gen(function*() {
        const { create, path, request } = yield* setup
        yield* create({
          metadata: { labels: { a: "1", b: "2" }, annotations: { x: "1" } },
          spec: { holderIdentity: "a", leaseDurationSeconds: 15 }
        })
        const { body } = yield* request("PATCH", path, {
          metadata: { labels: { a: null, c: "3" }, annotations: null, creationTimestamp: "2001-01-01T00:00:00Z" },
          spec: { holderIdentity: null, leaseTransitions: 1 }
        })
        assert.deepStrictEqual(body.metadata.labels, { b: "2", c: "3" })
        assert.notProperty(body.metadata, "annotations")
        assert.deepStrictEqual(body.spec, { leaseDurationSeconds: 15, leaseTransitions: 1 })
        assert.notStrictEqual(body.metadata.creationTimestamp, "2001-01-01T00:00:00Z")
        assert.deepStrictEqual((yield* request("PATCH", path, { spec: null })).body.spec, {})
      })
    )

    test(
      "drops fields that Leases do not have",
      Effect.gen(function*() {
        const { create, path, request } = yield* setup
        const { metadata } = yield* create({ spec: { strategy: "OldestEmulationVersion", preferredHolder: "a" } })
        const { body, status } = yield* request("PATCH", path, { spec: { foo: 1, strategy: "example.com/x" } })
        assert.strictEqual(status, 200)
        assert.deepStrictEqual(body.spec, {})
        assert.strictEqual(body.metadata.resourceVersion, metadata.resourceVersion)
      })
    )

    test(
      "of a finalizer, the last one, ends a deletion that was held up",
      Effect.gen(function*() {
        const { create, path, request } = yield* setup
        const made = yield* create({ metadata: { finalizers: ["example.com/hold"] } })
        const deleted = yield* request("DELETE", path)
        assert.strictEqual(deleted.body.kind, "Lease")
        assert.isString(deleted.body.metadata.deletionTimestamp)
        assert.strictEqual(deleted.body.metadata.deletionGracePeriodSeconds, 0)
        const last = yield* request("PATCH", path, { metadata: { finalizers: [] } })
        assert.strictEqual(last.status, 200)
        assert.strictEqual(last.body.metadata.uid, made.metadata.uid)
        assert.strictEqual((yield* request("GET", path)).status, 404)
      })
    )
  })

  describe("put", () => {
    test(
      "needs the version of what it replaces",
      Effect.gen(function*() {
        const { create, name, path, request } = yield* setup
        const made = yield* create({ metadata: { labels: { a: "1" } }, spec: { holderIdentity: "a" } })
        const { resourceVersion } = made.metadata
        const put = (metadata: object, spec: object = { leaseDurationSeconds: 5 }) =>
          request("PUT", path, { metadata: { name, ...metadata }, spec })
        for (const version of [{}, { resourceVersion: "" }, { resourceVersion: "0" }]) {
          const answer = yield* put(version)
          assert.strictEqual(answer.status, 422)
          assert.strictEqual(
            answer.body.message,
            `leases.coordination.k8s.io "${name}" is invalid: metadata.resourceVersion: Invalid value: 0: must be ` +
              "specified for an update"
          )
        }
        failure(yield* put({ resourceVersion: "1" }), hasBeenModified(name))
        failure(yield* put({ resourceVersion: "99999999" }), hasBeenModified(name))
        failure(yield* put({ resourceVersion: "abc" }), {
          code: 500,
          message: "strconv.ParseUint: parsing \"abc\": invalid syntax"
        })
        const uid = "11111111-1111-4111-8111-111111111111"
        const wrong = yield* put({ uid, resourceVersion })
        assert.deepStrictEqual([wrong.status, wrong.body.reason], [409, "Conflict"])
        assert.include(
          wrong.body.message,
          `Precondition failed: UID in precondition: ${uid}, UID in object meta: ${made.metadata.uid}`
        )
        failure(yield* put({ name: "other", resourceVersion }), {
          code: 400,
          reason: "BadRequest",
          message: `the name of the object (other) does not match the name on the URL (${name})`
        })
        const replaced = yield* put({ resourceVersion })
        assert.strictEqual(replaced.status, 200)
        assert.deepStrictEqual(replaced.body.spec, { leaseDurationSeconds: 5 })
        assert.notProperty(replaced.body.metadata, "labels")
      })
    )

    test(
      "creates what is missing, whatever version it carries",
      Effect.gen(function*() {
        const { name, path, request } = yield* setup
        const uid = "11111111-1111-4111-8111-111111111111"
        const withUid = yield* request("PUT", path, { metadata: { name, uid, resourceVersion: "5" }, spec: {} })
        assert.deepStrictEqual([withUid.status, withUid.body.reason], [409, "Conflict"])
        assert.isTrue(withUid.body.message.endsWith("UID in object meta: "))
        const created = yield* request("PUT", path, { metadata: { name, resourceVersion: "5" }, spec: {} })
        assert.strictEqual(created.status, 201)
        assert.notStrictEqual(created.body.metadata.resourceVersion, "5")
      })
    )
  })

  describe("delete", () => {
    test(
      "answers with a Status that names the uid, then 404",
      Effect.gen(function*() {
        const { create, name, path, request } = yield* setup
        const { metadata } = yield* create()
        const preconditions = { uid: metadata.uid, resourceVersion: metadata.resourceVersion }
        const { body, status } = yield* request("DELETE", path, { preconditions })
        assert.strictEqual(status, 200)
        assert.deepStrictEqual(body, {
          kind: "Status",
          apiVersion: "v1",
          metadata: {},
          status: "Success",
          details: { ...details(name), uid: metadata.uid }
        })
        failure(yield* request("DELETE", path), {
          code: 404,
          reason: "NotFound",
          message: `leases.coordination.k8s.io "${name}" not found`,
          details: details(name)
        })
      })
    )

    test(
      "looks at the uid of its preconditions, then at the version",
      Effect.gen(function*() {
        const { create, name, path, request } = yield* setup
        const { metadata } = yield* create()
        const remove = (preconditions: object) => request("DELETE", path, { preconditions })
        const uid = "11111111-1111-4111-8111-111111111111"
        const uidConflict = (wanted: string) => ({
          code: 409,
          reason: "Conflict",
          message: `Operation cannot be fulfilled on Lease.coordination.k8s.io "${name}": the UID in the ` +
            `precondition (${wanted}) does not match the UID in record (${metadata.uid}). The object might have been ` +
            "deleted and then recreated",
          details: kindDetails(name)
        })
        failure(yield* remove({ uid, resourceVersion: "1" }), uidConflict(uid))
        failure(yield* remove({ uid: "" }), uidConflict(""))
        failure(yield* remove({ uid: metadata.uid, resourceVersion: "1" }), {
          code: 409,
          reason: "Conflict",
          message: `Operation cannot be fulfilled on Lease.coordination.k8s.io "${name}": the ResourceVersion in the ` +
            `precondition (1) does not match the ResourceVersion in record (${metadata.resourceVersion}). The object ` +
            "might have been modified",
          details: kindDetails(name)
        })
        assert.strictEqual((yield* request("GET", path)).status, 200)
      })
    )

    collected(
      "in the foreground marks the Lease, and the garbage collector ends it",
      Effect.gen(function*() {
        const { create, leases, name, path, request, watch } = yield* setup
        const { metadata } = yield* create()
        const lines = yield* watch(
          `${leases}?watch=1&fieldSelector=metadata.name%3D${name}&resourceVersion=${metadata.resourceVersion}`
        )
        const { body } = yield* request("DELETE", path, { propagationPolicy: "Foreground" })
        assert.deepStrictEqual(body.metadata.finalizers, ["foregroundDeletion"])
        assert.isString(body.metadata.deletionTimestamp)
        const marked = yield* lines.next
        assert.deepStrictEqual([marked.type, marked.object.metadata.finalizers], ["MODIFIED", ["foregroundDeletion"]])
        assert.strictEqual((yield* lines.next).type, "DELETED")
      })
    )
  })

  describe("validation", () => {
    const fields: ReadonlyArray<readonly [object, string, string]> = [
      [{ leaseDurationSeconds: 0 }, "spec.leaseDurationSeconds", "Invalid value: 0: must be greater than 0"],
      [{ leaseDurationSeconds: -3 }, "spec.leaseDurationSeconds", "Invalid value: -3: must be greater than 0"],
      [{ leaseTransitions: -1 }, "spec.leaseTransitions", "Invalid value: -1: must be greater than or equal to 0"]
    ]
    for (const [spec, field, message] of fields) {
      test(
        `refuses ${JSON.stringify(spec)}`,
        Effect.gen(function*() {
          const { create, leases, name, path, request } = yield* setup
          const expected = {
            code: 422,
            reason: "Invalid",
            message: `Lease.coordination.k8s.io "${name}" is invalid: ${field}: ${message}`,
            details: { ...kindDetails(name), causes: [{ reason: "FieldValueInvalid", message, field }] }
          }
          failure(yield* request("POST", leases, { metadata: { name }, spec }), expected)
          yield* create()
          failure(yield* request("PATCH", path, { spec }), expected)
        })
      )
    }

    const undecodable: ReadonlyArray<readonly [object, string]> = [
      [
        { leaseDurationSeconds: 1.5 },
        "json: cannot unmarshal number 1.5 into Go struct field LeaseSpec.spec.leaseDurationSeconds of type int32"
      ],
      [
        { leaseDurationSeconds: "15" },
        "json: cannot unmarshal string into Go struct field LeaseSpec.spec.leaseDurationSeconds of type int32"
      ],
      [
        { leaseTransitions: 2 ** 31 },
        "json: cannot unmarshal number 2147483648 into Go struct field LeaseSpec.spec.leaseTransitions of type int32"
      ],
      [
        { holderIdentity: 5 },
        "json: cannot unmarshal number into Go struct field LeaseSpec.spec.holderIdentity of type string"
      ],
      [
        { renewTime: 5 },
        "json: cannot unmarshal number into Go struct field LeaseSpec.spec.renewTime of type string"
      ],
      ...[
        ["2026-11-22T13:30:00.123Z", "cannot parse \".123Z\" as \".000000\""],
        ["2026-11-22T13:30:00.1234567Z", "cannot parse \"7Z\" as \"Z07:00\""],
        ["2026-11-22T13:30:00Z", "cannot parse \"Z\" as \".000000\""],
        ["2026-11-22T13:30:00.123456", "cannot parse \"\" as \"Z07:00\""],
        ["now", "cannot parse \"now\" as \"2006\""],
        ["+010000-01-01T00:00:00.000000Z", "cannot parse \"+010000-01-01T00:00:00.000000Z\" as \"2006\""],
        ["2026-11-22 13:30:00.123456Z", "cannot parse \" 13:30:00.123456Z\" as \"T\""],
        ["", "cannot parse \"\" as \"2006\""]
      ].map(([renewTime, cause]) =>
        [
          { renewTime },
          `parsing time ${JSON.stringify(renewTime)} as "2006-01-02T15:04:05.000000Z07:00": ${cause}`
        ] as const
      ),
      ...[
        ["2026-11-22T13:30:60.000000Z", "second out of range"],
        ["2026-11-22T24:30:00.000000Z", "hour out of range"],
        ["2026-13-22T13:30:00.000000Z", "month out of range"],
        ["2026-02-30T13:30:00.000000Z", "day out of range"]
      ].map(([renewTime, cause]) => [{ renewTime }, `parsing time ${JSON.stringify(renewTime)}: ${cause}`] as const)
    ]
    for (const [spec, cause] of undecodable) {
      test(
        `cannot read ${JSON.stringify(spec)}`,
        Effect.gen(function*() {
          const { create, leases, name, path, request } = yield* setup
          failure(yield* request("POST", leases, { metadata: { name }, spec }), {
            code: 400,
            reason: "BadRequest",
            message: `Lease in version "v1" cannot be handled as a Lease: ${cause}`
          })
          yield* create()
          const patched = yield* request("PATCH", path, { spec })
          assert.deepStrictEqual([patched.status, patched.body.reason], [422, "Invalid"])
          assert.isTrue(patched.body.message.startsWith(" \"\" is invalid: patch: Invalid value: "))
          assert.isTrue(patched.body.message.endsWith(`: ${cause}`), patched.body.message)
          assert.strictEqual(patched.body.details.causes[0].field, "patch")
        })
      )
    }

    const times: ReadonlyArray<readonly [string, string | null]> = [
      ["2026-11-22T13:30:00.123456+02:00", "2026-11-22T11:30:00.123456Z"],
      ["2026-11-22T13:30:00,123456Z", "2026-11-22T13:30:00.123456Z"],
      ["2026-11-22T3:59:59.000000Z", "2026-11-22T03:59:59.000000Z"],
      ["1969-01-01T00:00:00.000001-00:00", "1969-01-01T00:00:00.000001Z"],
      ["0001-01-01T00:00:00.000000Z", null]
    ]
    for (const [written, read] of times) {
      test(
        `reads the time ${written}`,
        Effect.gen(function*() {
          const { create, path, request } = yield* setup
          yield* create({ spec: { renewTime: written } })
          assert.deepStrictEqual((yield* request("GET", path)).body.spec, { renewTime: read })
        })
      )
    }

    test(
      "wants owners complete, and one controller at most",
      Effect.gen(function*() {
        const { leases, name, request } = yield* setup
        const owner = { apiVersion: "example.com/v1", kind: "Thing", name: "a", uid: "1" }
        const post = (ownerReferences: ReadonlyArray<object>) =>
          request("POST", leases, { metadata: { name, ownerReferences } })
        for (const field of ["apiVersion", "kind", "name", "uid"]) {
          const { body, status } = yield* post([{ ...owner, [field]: "" }])
          assert.strictEqual(status, 422)
          assert.include(body.message, `metadata.ownerReferences[0].${field}: `)
        }
        const uid = yield* post([{ ...owner, uid: "" }])
        assert.include(uid.body.message, "metadata.ownerReferences[0].uid: Required value: must not be empty")
        const two = yield* post([{ ...owner, controller: true }, { ...owner, uid: "2", controller: true }])
        assert.strictEqual(two.status, 422)
        assert.include(two.body.message, "Only one reference can have Controller set to true")
      })
    )

    test(
      "wants annotations below 262144 bytes",
      Effect.gen(function*() {
        const { leases, name, request } = yield* setup
        const { body, status } = yield* request("POST", leases, {
          metadata: { name, annotations: { a: "x".repeat(262_144) } }
        })
        assert.strictEqual(status, 422)
        assert.strictEqual(
          body.message,
          `Lease.coordination.k8s.io "${name}" is invalid: metadata.annotations: Too long: may not be more than ` +
            "262144 bytes"
        )
      })
    )
  })

  describe("lists", () => {
    test(
      "the Leases of a namespace, and one by its name",
      Effect.gen(function*() {
        const { create, leases, name, namespace, request } = yield* setup
        const { metadata } = yield* create({ spec: { holderIdentity: "a" } })
        const all = yield* request("GET", leases)
        assert.deepStrictEqual([all.body.kind, all.body.apiVersion], ["LeaseList", "coordination.k8s.io/v1"])
        assert.isAtLeast(Number(all.body.metadata.resourceVersion), Number(metadata.resourceVersion))
        for (
          const selector of [
            `metadata.name%3D${name}`,
            `metadata.name%3D%3D${name},metadata.namespace%3D${namespace}`
          ]
        ) {
          const { body } = yield* request("GET", `${leases}?fieldSelector=${selector}`)
          assert.lengthOf(body.items, 1)
          assert.deepStrictEqual(body.items[0].metadata.uid, metadata.uid)
          assert.notProperty(body.items[0], "kind")
        }
        const everywhere = yield* request(
          "GET",
          `/apis/coordination.k8s.io/v1/leases?fieldSelector=metadata.name%3D${name}`
        )
        assert.lengthOf(everywhere.body.items, 1)
        failure(yield* request("GET", `${leases}?fieldSelector=spec.holderIdentity%3Da`), {
          code: 400,
          reason: "BadRequest",
          message:
            "\"spec.holderIdentity\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        })
      })
    )

    test(
      "the Leases that selectors name",
      Effect.gen(function*() {
        const { createLabelled, leases, name, namespace, request } = yield* setup
        yield* createLabelled({ a: { x: "1", y: "p" }, b: { x: "2" }, c: { x: "10", z: "" }, d: {} })
        for (const [selector, expected] of labelSelectors) {
          const query = `labelSelector=${encodeURIComponent(`group=${name},${selector}`)}`
          const { body, status } = yield* request("GET", `${leases}?${query}`)
          assert.strictEqual(status, 200, selector)
          assert.strictEqual(body.items.map(({ metadata }: Any) => metadata.name.at(-1)).join(""), expected, selector)
        }
        for (
          const [selector, expected] of [
            [`metadata.name!=${name}-a`, "bcd"],
            [`metadata.name!=${name}-a,metadata.name!=${name}-b,`, "cd"],
            [`metadata.name=${name}-a,metadata.name=${name}-b`, ""],
            [`metadata.namespace!=${namespace}`, ""],
            ["metadata.namespace=other", ""],
            [`metadata.namespace!=other,metadata.name==${name}-d`, "d"]
          ] as const
        ) {
          const query = `labelSelector=group=${name}&fieldSelector=${encodeURIComponent(selector)}`
          const { body } = yield* request("GET", `${leases}?${query}`)
          assert.strictEqual(body.items.map(({ metadata }: Any) => metadata.name.at(-1)).join(""), expected, selector)
        }
      })
    )

    test(
      "no list, and no watch, by what is not a selector",
      Effect.gen(function*() {
        const { leases, request } = yield* setup
        for (const [kind, selector, message] of badSelectors) {
          for (const watch of ["", "watch=1&"]) {
            const path = `${leases}?${watch}${kind}Selector=${encodeURIComponent(selector)}`
            failure(yield* request("GET", path), { code: 400, reason: "BadRequest", message })
          }
        }
      })
    )

    test(
      "as many as wanted, and then the rest of the same version",
      Effect.gen(function*() {
        const { createLabelled, leases, name, request } = yield* setup
        yield* createLabelled({ a: {}, b: {}, c: {}, d: {} })
        const path = `${leases}?labelSelector=group=${name}`
        const first = (yield* request("GET", `${path}&limit=2`)).body
        yield* request("DELETE", `${leases}/${name}-c`)
        yield* request("PATCH", `${leases}/${name}-d`, { metadata: { labels: { group: null } } })
        yield* request("POST", leases, { metadata: { name: `${name}-e`, labels: { group: name } } })
        const next = `${path}&continue=${encodeURIComponent(first.metadata.continue)}`
        const second = (yield* request("GET", `${next}&limit=1`)).body
        const rest = (yield* request("GET", `${next}&limit=500&resourceVersion=0`)).body
        const names = ({ items }: Any) => items.map(({ metadata }: Any) => metadata.name.at(-1)).join("")
        assert.deepStrictEqual([names(first), names(second), names(rest)], ["ab", "c", "cd"])
        assert.isString(second.metadata.continue)
        for (const { metadata } of [second, rest]) {
          assert.strictEqual(metadata.resourceVersion, first.metadata.resourceVersion)
        }
        assert.notProperty(rest.metadata, "continue")
        assert.notProperty(first.metadata, "remainingItemCount")
        // From the cache, whole.
        assert.strictEqual(names((yield* request("GET", `${path}&limit=1&resourceVersion=0`)).body), "abe")
        // Other tests have Leases here, too.
        assert.isAtLeast((yield* request("GET", `${leases}?limit=1`)).body.metadata.remainingItemCount, 2)
        assert.isAtLeast((yield* request("GET", `${leases}?limit=0`)).body.items.length, 3)
      })
    )

    test(
      "nothing by a limit, or a place to go on from, that is none",
      Effect.gen(function*() {
        const { createLabelled, leases, request } = yield* setup
        yield* createLabelled({ a: {}, b: {} })
        const after = (yield* request("GET", `${leases}?limit=1`)).body.metadata.continue
        for (
          const [query, message] of [
            ["limit=abc", `strconv.ParseInt: parsing "abc": invalid syntax`],
            ["limit=1.5", `strconv.ParseInt: parsing "1.5": invalid syntax`],
            ["watch=1&limit=abc", `strconv.ParseInt: parsing "abc": invalid syntax`],
            [
              `continue=${after}&resourceVersion=1`,
              "specifying resource version is not allowed when using continue"
            ]
          ] as const
        ) {
          failure(yield* request("GET", `${leases}?${query}`), { code: 400, reason: "BadRequest", message })
        }
        const { body, status } = yield* request("GET", `${leases}?continue=abc`)
        assert.strictEqual(status, 400)
        assert.match(body.message, /^invalid continue token: continue key is not valid: /)
      })
    )
  })

  describe("get", () => {
    test(
      "at a version to come waits some seconds, and gives up",
      Effect.gen(function*() {
        const { create, path, request } = yield* setup
        const { metadata } = yield* create()
        assert.strictEqual((yield* request("GET", `${path}?resourceVersion=${metadata.resourceVersion}`)).status, 200)
        const { body, headers, status } = yield* request("GET", `${path}?resourceVersion=99999999`)
        assert.strictEqual(status, 504)
        assert.strictEqual(headers["retry-after"], "1")
        assert.match(body.message, /^Timeout: Too large resource version: 99999999, current: \d+$/)
        assert.deepStrictEqual([body.reason, body.details], ["Timeout", {
          causes: [{ reason: "ResourceVersionTooLarge", message: "Too large resource version" }],
          retryAfterSeconds: 1
        }])
      })
    )
  })

  describe("watch", () => {
    test(
      "with a label selector tells what begins to fit as new, and what ceases to as gone",
      Effect.gen(function*() {
        const { createLabelled, leases, name, request, watch } = yield* setup
        yield* createLabelled({ a: { x: "1" }, b: { x: "2" } })
        const version = (yield* request("GET", leases)).body.metadata.resourceVersion
        const path = `${leases}?watch=1&labelSelector=group=${name},x%20in%20(1)`
        const live = yield* watch(path)
        const first = yield* live.next
        assert.deepStrictEqual([first.type, first.object.metadata.name], ["ADDED", `${name}-a`])
        const changed = []
        for (
          const [letter, patch] of [
            ["a", { metadata: { labels: { x: "2" } } }],
            ["a", { spec: { holderIdentity: "q" } }],
            ["b", { metadata: { labels: { x: "1" } } }],
            ["b", { spec: { holderIdentity: "q" } }]
          ] as const
        ) {
          changed.push((yield* request("PATCH", `${leases}/${name}-${letter}`, patch)).body)
        }
        yield* request("DELETE", `${leases}/${name}-b`)
        yield* request("DELETE", `${leases}/${name}-a`)
        for (const lines of [live, yield* watch(`${path}&resourceVersion=${version}`)]) {
          // As it was, at the version at which it went.
          const { metadata } = first.object
          const { resourceVersion } = changed[0].metadata
          const gone = yield* lines.next
          const { managedFields: _, ...before } = metadata
          const { managedFields: __, ...after } = gone.object.metadata
          assert.deepStrictEqual([gone.type, after], ["DELETED", { ...before, resourceVersion }])
          assert.deepStrictEqual(yield* lines.next, { type: "ADDED", object: changed[2] })
          assert.deepStrictEqual(yield* lines.next, { type: "MODIFIED", object: changed[3] })
          const deleted = yield* lines.next
          assert.deepStrictEqual([deleted.type, deleted.object.metadata.name], ["DELETED", `${name}-b`])
        }
      })
    )

    const watchPath = (leases: string, name: string, query: string) =>
      `${leases}?watch=1&fieldSelector=metadata.name%3D${name}&${query}`

    test(
      "tells what came after the version, a JSON object a line",
      Effect.gen(function*() {
        const { create, leases, name, path, request, watch } = yield* setup
        const made = yield* create()
        const lines = yield* watch(watchPath(leases, name, `resourceVersion=${made.metadata.resourceVersion}`))
        assert.strictEqual(lines.status, 200)
        assert.strictEqual(lines.headers["content-type"], "application/json")
        assert.strictEqual(lines.headers["transfer-encoding"], "chunked")
        assert.isString(lines.headers.date)
        const changed = (yield* request("PATCH", path, { spec: { holderIdentity: "b" } })).body
        assert.deepStrictEqual(yield* lines.next, { type: "MODIFIED", object: changed })
        yield* request("DELETE", path)
        const deleted = yield* lines.next
        assert.strictEqual(deleted.type, "DELETED")
        assert.deepStrictEqual(deleted.object.spec, changed.spec)
        assert.isTrue(BigInt(deleted.object.metadata.resourceVersion) > BigInt(changed.metadata.resourceVersion))
        const again = yield* create()
        assert.deepStrictEqual(yield* lines.next, { type: "ADDED", object: again })
      })
    )

    test(
      "without a version, or from 0, begins with what is there",
      Effect.gen(function*() {
        const { create, leases, name, path, request, watch } = yield* setup
        const empty = yield* watch(watchPath(leases, name, "resourceVersion=0"))
        const made = yield* create()
        assert.deepStrictEqual(yield* empty.next, { type: "ADDED", object: made })
        const lines = yield* watch(watchPath(leases, name, ""))
        assert.deepStrictEqual(yield* lines.next, { type: "ADDED", object: made })
        const changed = (yield* request("PATCH", path, { spec: { holderIdentity: "b" } })).body
        assert.deepStrictEqual(yield* lines.next, { type: "MODIFIED", object: changed })
      })
    )

    test(
      "of the whole namespace tells of all its Leases",
      Effect.gen(function*() {
        const { create, leases, name, request, watch } = yield* setup
        const made = yield* create()
        const lines = yield* watch(`${leases}?watch=true&resourceVersion=${made.metadata.resourceVersion}`)
        yield* request("POST", leases, { metadata: { name: `${name}-other` } })
        const seen = new Set<string>()
        // Other tests write at the same time.
        while (!seen.has(`${name}-other`)) seen.add((yield* lines.next).object.metadata.name)
      })
    )

    test(
      "from too old a version is a 200 with an error in it",
      Effect.gen(function*() {
        const { create, leases, name, watch } = yield* setup
        yield* create()
        const lines = yield* watch(watchPath(leases, name, "resourceVersion=1"))
        assert.strictEqual(lines.status, 200)
        const [{ object, type }, ...more] = yield* lines.rest
        assert.lengthOf(more, 0)
        assert.strictEqual(type, "ERROR")
        const { message, ...status } = object
        assert.match(message, /^too old resource version: 1 \(\d+\)$/)
        assert.deepStrictEqual(status, {
          kind: "Status",
          apiVersion: "v1",
          metadata: {},
          status: "Failure",
          reason: "Expired",
          code: 410
        })
      })
    )

    test(
      "from a version to come is silent up to there",
      Effect.gen(function*() {
        const { create, leases, name, path, request, watch } = yield* setup
        const { metadata } = yield* create()
        const since = BigInt(metadata.resourceVersion) + 3n
        const lines = yield* watch(watchPath(leases, name, `resourceVersion=${since}`))
        assert.strictEqual(lines.status, 200)
        const written: Array<object> = []
        while (written.length < 2) {
          const { body } = yield* request("PATCH", path, { spec: { holderIdentity: `${names}-${Math.random()}` } })
          if (BigInt(body.metadata.resourceVersion) > since) written.push(body)
        }
        for (const object of written) {
          assert.deepStrictEqual(yield* lines.next, { type: "MODIFIED", object })
        }
      })
    )

    test(
      "ends when its time is over, after bookmarks for those who allow them",
      Effect.gen(function*() {
        const { create, leases, name, request, watch } = yield* setup
        const { metadata } = yield* create()
        const query = `resourceVersion=${metadata.resourceVersion}&timeoutSeconds=5`
        const [silent, told] = yield* Effect.all([
          watch(watchPath(leases, name, query)),
          watch(watchPath(leases, name, `${query}&allowWatchBookmarks=true`))
        ])
        // There is nothing to resume from that the client does not know, unless something else is written.
        yield* request("POST", leases, { metadata: { name: `${name}-other` } })
        assert.deepStrictEqual(yield* silent.rest, [])
        const bookmarks = yield* told.rest
        assert.isNotEmpty(bookmarks)
        for (const { object, type } of bookmarks) {
          assert.strictEqual(type, "BOOKMARK")
          const { resourceVersion, ...none } = object.metadata
          assert.isTrue(BigInt(resourceVersion) > BigInt(metadata.resourceVersion))
          assert.deepStrictEqual(
            { ...object, metadata: none },
            { kind: "Lease", apiVersion: "coordination.k8s.io/v1", metadata: {}, spec: {} }
          )
        }
      })
    )

    test(
      "refuses what it does not understand",
      Effect.gen(function*() {
        const { leases, name, request } = yield* setup
        failure(yield* request("GET", `${leases}?watch=1&fieldSelector=spec.holderIdentity%3Da`), {
          code: 400,
          reason: "BadRequest",
          message:
            "\"spec.holderIdentity\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        })
        assert.strictEqual((yield* request("GET", watchPath(leases, name, "timeoutSeconds=0.5"))).status, 400)
        assert.strictEqual((yield* request("GET", watchPath(leases, name, "resourceVersion=abc"))).status, 500)
      })
    )
  })

  describe("users", () => {
    test(
      "with an unknown token are refused with 401",
      Effect.gen(function*() {
        const { path, request } = yield* setup
        failure(yield* request("GET", path, undefined, { token: "wrong" }), {
          code: 401,
          reason: "Unauthorized",
          message: "Unauthorized"
        })
      })
    )

    test(
      "without a token are anonymous, and refused with 403",
      Effect.gen(function*() {
        const { leases, name, namespace, path, request } = yield* setup
        failure(yield* request("GET", path, undefined, { token: "" }), {
          code: 403,
          reason: "Forbidden",
          message: `leases.coordination.k8s.io "${name}" is forbidden: User "system:anonymous" cannot get resource ` +
            `"leases" in API group "coordination.k8s.io" in the namespace "${namespace}"`,
          details: details(name)
        })
        failure(yield* request("POST", leases, { metadata: { name } }, { token: "" }), {
          code: 403,
          reason: "Forbidden",
          message: "leases.coordination.k8s.io is forbidden: User \"system:anonymous\" cannot create resource " +
            `"leases" in API group "coordination.k8s.io" in the namespace "${namespace}"`,
          details: { group: "coordination.k8s.io", kind: "leases" }
        })
      })
    )

    test(
      "without a right are told which one",
      Effect.gen(function*() {
        const { leases, name, namespace, path, request, stranger } = yield* setup
        const expected = (verb: string, named: boolean) => ({
          code: 403,
          reason: "Forbidden",
          message: `leases.coordination.k8s.io${named ? ` "${name}"` : ""} is forbidden: User "${stranger.user}" ` +
            `cannot ${verb} resource "leases" in API group "coordination.k8s.io" in the namespace "${namespace}"`,
          details: named ? details(name) : { group: "coordination.k8s.io", kind: "leases" }
        })
        const as = { token: stranger.token }
        failure(yield* request("GET", path, undefined, as), expected("get", true))
        failure(yield* request("PATCH", path, {}, as), expected("patch", true))
        failure(yield* request("DELETE", path, undefined, as), expected("delete", true))
        failure(yield* request("POST", leases, { metadata: { name } }, as), expected("create", false))
        failure(yield* request("GET", leases, undefined, as), expected("list", false))
        failure(
          yield* request("GET", `${leases}?watch=1&fieldSelector=metadata.name%3D${name}`, undefined, as),
          expected("watch", true)
        )
      })
    )

    test(
      "can ask what they may do",
      Effect.gen(function*() {
        const { name, namespace, request, stranger } = yield* setup
        const review = (token?: string) =>
          request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {
            apiVersion: "authorization.k8s.io/v1",
            kind: "SelfSubjectAccessReview",
            spec: {
              resourceAttributes: { group: "coordination.k8s.io", resource: "leases", namespace, verb: "patch", name }
            }
          }, token === undefined ? {} : { token })
        const [mine, theirs] = [yield* review(), yield* review(stranger.token)]
        assert.deepStrictEqual([mine.status, theirs.status], [201, 201])
        assert.deepStrictEqual([mine.body.status.allowed, theirs.body.status.allowed], [true, false])
        assert.deepInclude(mine.body.spec.resourceAttributes, { verb: "patch", name })
        const self = yield* request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {
          apiVersion: "authentication.k8s.io/v1",
          kind: "SelfSubjectReview"
        }, { token: stranger.token })
        assert.deepStrictEqual([self.status, self.body.status.userInfo.username], [201, stranger.user])
      })
    )
  })

  describe("the rest", () => {
    collected(
      "Pods own Leases, and take them with them",
      Effect.gen(function*() {
        const { create, leases, name, namespace, path, request, watch } = yield* setup
        const pods = `/api/v1/namespaces/${namespace}/pods`
        const pod = (yield* request("POST", pods, {
          metadata: { name, labels: { app: "web" } },
          spec: { nodeName: "no-such-node", containers: [{ name: "main", image: "none" }] }
        })).body
        assert.deepStrictEqual([pod.kind, pod.apiVersion, pod.metadata.name], ["Pod", "v1", name])
        const labelled = yield* request("PATCH", `${pods}/${name}`, { metadata: { labels: { leader: "true" } } })
        assert.deepStrictEqual(labelled.body.metadata.labels, { app: "web", leader: "true" })
        const owner = { apiVersion: "v1", kind: "Pod", name, uid: pod.metadata.uid }
        const made = yield* create({ metadata: { ownerReferences: [owner] } })
        assert.deepStrictEqual(made.metadata.ownerReferences, [owner])
        const lines = yield* watch(
          `${leases}?watch=1&fieldSelector=metadata.name%3D${name}&resourceVersion=${made.metadata.resourceVersion}`
        )
        const terminating = yield* request("DELETE", `${pods}/${name}`)
        assert.strictEqual(terminating.body.metadata.deletionGracePeriodSeconds, 30)
        assert.strictEqual((yield* request("GET", path)).status, 200)
        const gone = yield* request("DELETE", `${pods}/${name}`, { gracePeriodSeconds: 0 })
        assert.deepStrictEqual([gone.status, gone.body.kind], [200, "Pod"])
        assert.strictEqual((yield* lines.next).type, "DELETED")
        failure(yield* request("GET", `${pods}/${name}`), {
          code: 404,
          reason: "NotFound",
          message: `pods "${name}" not found`,
          details: { name, kind: "pods" }
        })
      })
    )

    collected(
      "Pods deleted in the foreground lose their Leases while they terminate",
      Effect.gen(function*() {
        const { create, leases, name, namespace, request, watch } = yield* setup
        const pods = `/api/v1/namespaces/${namespace}/pods`
        const pod = (yield* request("POST", pods, {
          metadata: { name },
          spec: { nodeName: "no-such-node", containers: [{ name: "main", image: "none" }] }
        })).body
        const made = yield* create({
          metadata: { ownerReferences: [{ apiVersion: "v1", kind: "Pod", name, uid: pod.metadata.uid }] }
        })
        const lines = yield* watch(
          `${leases}?watch=1&fieldSelector=metadata.name%3D${name}&resourceVersion=${made.metadata.resourceVersion}`
        )
        yield* request("DELETE", `${pods}/${name}`, { propagationPolicy: "Foreground" })
        assert.strictEqual((yield* lines.next).type, "DELETED")
        assert.isString((yield* request("GET", `${pods}/${name}`)).body.metadata.deletionTimestamp)
        yield* request("DELETE", `${pods}/${name}`, { gracePeriodSeconds: 0 })
      })
    )

    test(
      "namespaces can be read, and are not found",
      Effect.gen(function*() {
        const { missingNamespace, namespace, request } = yield* setup
        const { body } = yield* request("GET", `/api/v1/namespaces/${namespace}`)
        assert.deepStrictEqual([body.kind, body.metadata.name], ["Namespace", namespace])
        failure(yield* request("GET", `/api/v1/namespaces/${missingNamespace}`), {
          code: 404,
          reason: "NotFound",
          message: `namespaces "${missingNamespace}" not found`,
          details: { name: missingNamespace, kind: "namespaces" }
        })
      })
    )

    test(
      "Events are stored, if they are complete",
      Effect.gen(function*() {
        const { name, namespace, request } = yield* setup
        const events = `/apis/events.k8s.io/v1/namespaces/${namespace}/events`
        const event = {
          metadata: { name },
          eventTime: "2026-11-22T13:30:00.123456Z",
          reportingController: "example.com/elector",
          reportingInstance: "pod-1",
          action: "Acquire",
          reason: "BecameLeader",
          type: "Normal",
          regarding: { apiVersion: "coordination.k8s.io/v1", kind: "Lease", namespace, name }
        }
        assert.strictEqual((yield* request("POST", events, event)).status, 201)
        const { body } = yield* request("GET", `${events}/${name}`)
        assert.deepInclude(body, { kind: "Event", reason: "BecameLeader", eventTime: event.eventTime })
        for (const field of ["eventTime", "reportingController", "reportingInstance", "action", "reason"] as const) {
          const { [field]: _, ...incomplete } = event
          const refused = yield* request("POST", events, { ...incomplete, metadata: { name: `${name}-2` } })
          assert.strictEqual(refused.status, 422)
          assert.include(refused.body.message, `${field}: Required value`)
        }
      })
    )

    test(
      "it says what it is, and that it is ready, to anyone",
      Effect.gen(function*() {
        const { request } = yield* setup
        const version = yield* request("GET", "/version", undefined, { token: "" })
        assert.deepStrictEqual([version.status, version.body.major], [200, "1"])
        const ready = yield* request("GET", "/readyz", undefined, { token: "" })
        assert.deepStrictEqual([ready.status, ready.text], [200, "ok"])
        assert.strictEqual((yield* request("GET", "/apis/example.com/v1/things")).status, 404)
      })
    )

    test(
      "it says what it has, to those that it knows",
      Effect.gen(function*() {
        const { request } = yield* setup
        const get = (path: string) => Effect.map(request("GET", path), ({ body }) => body)
        const versions = yield* get("/api")
        assert.deepStrictEqual([versions.kind, versions.versions], ["APIVersions", ["v1"]])
        const version = { groupVersion: "coordination.k8s.io/v1", version: "v1" }
        const group = { name: "coordination.k8s.io", versions: [version], preferredVersion: version }
        const groups = yield* get("/apis")
        assert.deepStrictEqual([groups.kind, groups.apiVersion], ["APIGroupList", "v1"])
        assert.deepInclude(groups.groups, group)
        assert.deepStrictEqual(yield* get("/apis/coordination.k8s.io"), {
          kind: "APIGroup",
          apiVersion: "v1",
          ...group
        })
        for (
          const [path, groupVersion, name, kind, namespaced] of [
            ["/apis/coordination.k8s.io/v1", version.groupVersion, "leases", "Lease", true],
            ["/apis/events.k8s.io/v1/", "events.k8s.io/v1", "events", "Event", true],
            ["/api/v1", "v1", "pods", "Pod", true],
            ["/api/v1", "v1", "namespaces", "Namespace", false]
          ] as const
        ) {
          const list = yield* get(path)
          assert.deepStrictEqual([list.kind, list.groupVersion], ["APIResourceList", groupVersion])
          const { verbs, ...resource } = list.resources.find((resource: Any) => resource.name === name)
          assert.deepInclude(resource, { singularName: kind.toLowerCase(), namespaced, kind })
          assert.includeMembers(verbs, ["create", "delete", "get", "list", "patch", "update", "watch"])
        }
        const review = (yield* get("/apis/authorization.k8s.io/v1")).resources
          .find(({ name }: Any) => name === "selfsubjectaccessreviews")
        assert.deepInclude(review, { kind: "SelfSubjectAccessReview", namespaced: false, verbs: ["create"] })
        assert.strictEqual((yield* request("GET", "/apis/coordination.k8s.io/v9")).status, 404)
        failure(yield* request("POST", "/apis/coordination.k8s.io/v1", {}), {
          code: 405,
          reason: "MethodNotAllowed",
          message: "the server does not allow this method on the requested resource",
          details: {}
        })
        failure(yield* request("GET", "/apis", undefined, { token: "" }), {
          code: 403,
          reason: "Forbidden",
          message: "forbidden: User \"system:anonymous\" cannot get path \"/apis\"",
          details: {}
        })
      })
    )

    test(
      "a body may not be larger than 3 MB",
      Effect.gen(function*() {
        const { leases, name, request } = yield* setup
        const { body, status } = yield* request("POST", leases, {
          metadata: { name },
          spec: { holderIdentity: "x".repeat(3_145_728) }
        })
        assert.deepStrictEqual([status, body.reason], [413, "RequestEntityTooLarge"])
        assert.strictEqual(body.message, "Request entity too large: limit is 3145728")
      })
    )
  })
}

/** Runs the tests in an environment. */
export const suite = <E>(name: string, environment: Layer.Layer<Environment, E>): void =>
  layer(environment, { excludeTestServices: true, timeout: "2 minutes" })(`Lease API: ${name}`, tests)
