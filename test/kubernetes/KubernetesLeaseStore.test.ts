import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Duration, Effect, Fiber, Layer, Logger, Queue, Redacted, Stream } from "effect"
import { TestClock } from "effect/testing"
import type { ServerResponse } from "node:http"
import { nanos } from "../../src/internal/election/clock.ts"
import { candidateRetriesAt } from "../../src/internal/protocol/timing.ts"
import * as KubernetesClient from "../../src/kubernetes/KubernetesClient.ts"
import * as KubernetesLeaseStore from "../../src/kubernetes/KubernetesLeaseStore.ts"
import * as LeaderElection from "../../src/LeaderElection.ts"
import type { LeaseError, LeaseErrorReason, LeaseVerb } from "../../src/LeaseError.ts"
import type { LeaseKey, LeaseWrite } from "../../src/LeaseRecord.ts"
import { type LeaseChange, LeaseStore } from "../../src/LeaseStore.ts"
import * as LeaseApiServer from "../../src/testing/LeaseApiServer.ts"
import { httpFront } from "../utils/httpFront.ts"
import { type Handler, json, serve, type TestServer } from "../utils/TestServer.ts"

// --- Helpers ---

const key: LeaseKey = { namespace: "ns", name: "x" }

const connect = (
  server: { readonly url: string },
  options: Partial<Parameters<typeof KubernetesClient.layerServer>[0]> = {}
) =>
  KubernetesLeaseStore.layer.pipe(
    Layer.provide(KubernetesClient.layerServer({ server: server.url, ...options })),
    Layer.build,
    Effect.map(Context.get(LeaseStore))
  )

const lease = (resourceVersion: string, spec: Record<string, unknown> = {}) => ({
  kind: "Lease",
  apiVersion: "coordination.k8s.io/v1",
  metadata: {
    name: "x",
    namespace: "ns",
    uid: "1ece",
    resourceVersion,
    creationTimestamp: "2026-11-22T13:30:00Z",
    managedFields: [{ manager: "m", operation: "Update" }]
  },
  spec: { holderIdentity: "me", leaseDurationSeconds: 15, renewTime: "2026-11-22T13:30:01.123456Z", ...spec }
})

const status = (code: number, reason: string | undefined, message: string, details?: unknown) => ({
  kind: "Status",
  apiVersion: "v1",
  metadata: {},
  status: "Failure",
  message,
  ...(reason !== undefined && { reason }),
  ...(details !== undefined && { details }),
  code
})

const reasonOf = <A>(effect: Effect.Effect<A, LeaseError>): Effect.Effect<LeaseErrorReason> =>
  Effect.flip(effect).pipe(Effect.map((error) => error.reason), Effect.catch(() => Effect.die("it succeeded")))

const write: LeaseWrite = {
  holderIdentity: "me",
  leaseDurationSeconds: 15,
  renewTime: 1_795_354_201_123_456n,
  annotations: { a: "b", gone: null }
}

type Store = LeaseStore["Service"]

const calls: Record<LeaseVerb, (store: Store) => Effect.Effect<unknown, LeaseError>> = {
  get: (store) => store.get(key),
  create: (store) => store.create(key, write),
  patch: (store) => store.patch(key, 7n, write),
  watch: (store) => Stream.runDrain(store.changes(key, 7n))
}

// --- Requests ---

describe("requests", () => {
  it.live("get asks for the newest state, and gives the Lease with the server's clock", () =>
    Effect.gen(function*() {
      const server = yield* serve((_, response) => json(response, 200, lease("12")))
      const store = yield* connect(server)
      assert.strictEqual(store.server, server.url)
      const { lease: record } = yield* store.get(key)
      assert.strictEqual(record.resourceVersion, 12n)
      assert.strictEqual(record.holderIdentity, "me")
      assert.deepStrictEqual(server.received.map(({ body, method, url }) => [method, url, body]), [
        ["GET", "/apis/coordination.k8s.io/v1/namespaces/ns/leases/x", ""]
      ])
    }))

  it.live("create posts the Lease, patch sends a merge patch with the version it is guarded by", () =>
    Effect.gen(function*() {
      const server = yield* serve(({ method }, response) => json(response, method === "POST" ? 201 : 200, lease("8")))
      const store = yield* connect(server)
      assert.strictEqual((yield* store.create(key, write)).lease.resourceVersion, 8n)
      assert.strictEqual((yield* store.patch(key, 18446744073709551615n, write)).lease.resourceVersion, 8n)
      const spec = { holderIdentity: "me", leaseDurationSeconds: 15, renewTime: "2026-11-22T13:30:01.123456Z" }
      const annotations = { a: "b", gone: null }
      assert.deepStrictEqual(
        server.received.map(({ body, headers, method, url }) => [
          method,
          url,
          headers["content-type"],
          JSON.parse(body)
        ]),
        [
          ["POST", "/apis/coordination.k8s.io/v1/namespaces/ns/leases", "application/json", {
            apiVersion: "coordination.k8s.io/v1",
            kind: "Lease",
            metadata: { namespace: "ns", name: "x", annotations },
            spec
          }],
          ["PATCH", "/apis/coordination.k8s.io/v1/namespaces/ns/leases/x", "application/merge-patch+json", {
            metadata: { resourceVersion: "18446744073709551615", annotations },
            spec
          }]
        ]
      )
    }))

  it.live("names cannot leave their place in the path", () =>
    Effect.gen(function*() {
      const server = yield* serve((_, response) => json(response, 200, lease("1")))
      const store = yield* connect(server)
      yield* Effect.flip(store.get({ namespace: "a/b", name: "../c?d#e" }))
      assert.strictEqual(server.received[0]?.url, "/apis/coordination.k8s.io/v1/namespaces/a%2Fb/leases/..%2Fc%3Fd%23e")
    }))
})

// --- Errors ---

const forbidden = (verb: string, user = "system:serviceaccount:ns:cand") =>
  status(
    403,
    "Forbidden",
    `leases.coordination.k8s.io "x" is forbidden: User "${user}" cannot ${verb} resource "leases" in API group ` +
      `"coordination.k8s.io" in the namespace "ns"`,
    { name: "x", group: "coordination.k8s.io", kind: "leases" }
  )

const modified = `Operation cannot be fulfilled on leases.coordination.k8s.io "x": the object has been modified; ` +
  "please apply your changes to the latest version and try again"

interface Case {
  readonly title: string
  readonly verbs: ReadonlyArray<LeaseVerb>
  readonly answer: (response: ServerResponse) => void
  readonly expected:
    & Partial<Record<"outcomeUnknown" | "code" | "anonymous" | "ownerReferences" | "deniedBy", unknown>>
    & {
      readonly _tag: LeaseErrorReason["_tag"]
    }
  readonly message: RegExp
}

const answers = (code: number, body: unknown) => (response: ServerResponse) => json(response, code, body)

const text = (code: number, body: string, headers: Record<string, string> = {}) => (response: ServerResponse) => {
  response.writeHead(code, { "content-type": "text/plain; charset=utf-8", ...headers })
  response.end(body)
}

const cases: ReadonlyArray<Case> = [
  {
    title: "a stale version",
    verbs: ["patch"],
    answer: answers(409, status(409, "Conflict", modified, { name: "x" })),
    expected: { _tag: "LeaseConflict" },
    message: /^409 Conflict: .*has been modified/
  },
  {
    title: "a Lease that exists",
    verbs: ["create"],
    answer: answers(409, status(409, "AlreadyExists", `leases.coordination.k8s.io "x" already exists`)),
    expected: { _tag: "LeaseConflict" },
    message: /^409 AlreadyExists: /
  },
  {
    title: "a Lease that does not exist",
    verbs: ["get", "patch"],
    answer: answers(404, status(404, "NotFound", `leases.coordination.k8s.io "x" not found`, { name: "x" })),
    expected: { _tag: "LeaseNotFound" },
    message: /^404 NotFound: leases.coordination.k8s.io "x" not found$/
  },
  {
    title: "a namespace that does not exist",
    verbs: ["create"],
    answer: answers(404, status(404, "NotFound", `namespaces "ns" not found`, { name: "ns", kind: "namespaces" })),
    expected: { _tag: "LeaseNotFound" },
    message: /^the namespace ns does not exist \(404 NotFound: namespaces "ns" not found\)$/
  },
  {
    title: "a right that is missing",
    verbs: ["get"],
    answer: answers(403, forbidden("get")),
    expected: { _tag: "LeaseForbidden", anonymous: false, ownerReferences: false },
    message: new RegExp(
      [
        `cannot get resource "leases" in API group "coordination.k8s.io" in the namespace "ns"`,
        "The Role in namespace ns lacks this rule:",
        `  - apiGroups: \\["coordination.k8s.io"\\]`,
        `    resources: \\["leases"\\]`,
        `    verbs: \\["get"\\]`,
        `    resourceNames: \\["x"\\]$`
      ].join("\n")
    )
  },
  {
    title: "the right to patch",
    verbs: ["patch"],
    answer: answers(403, forbidden("patch")),
    expected: { _tag: "LeaseForbidden", anonymous: false, ownerReferences: false },
    message: /\n {4}verbs: \["patch"\]\n {4}resourceNames: \["x"\]$/
  },
  {
    title: "the right to watch",
    verbs: ["watch"],
    answer: answers(403, forbidden("watch")),
    expected: { _tag: "LeaseForbidden", anonymous: false, ownerReferences: false },
    message: /\n {4}verbs: \["watch"\]\n {4}resourceNames: \["x"\]$/
  },
  {
    title: "the right to create, which no name can limit",
    verbs: ["create"],
    answer: answers(403, forbidden("create")),
    expected: { _tag: "LeaseForbidden", anonymous: false, ownerReferences: false },
    message: /\n {4}verbs: \["create"\] # must not be limited by resourceNames$/
  },
  {
    title: "no token",
    verbs: ["get", "create", "patch", "watch"],
    answer: answers(403, forbidden("get", "system:anonymous")),
    expected: { _tag: "LeaseForbidden", anonymous: true, ownerReferences: false },
    message: /\nThe request arrived without a token, or with an empty one: .*automountServiceAccountToken/
  },
  {
    title: "owners that may not be set",
    verbs: ["patch"],
    answer: answers(
      403,
      status(
        403,
        "Forbidden",
        `leases.coordination.k8s.io "x" is forbidden: cannot set an ownerRef on a resource you can't delete: , <nil>`
      )
    ),
    expected: { _tag: "LeaseForbidden", anonymous: false, ownerReferences: true },
    message: /\n {4}verbs: \["delete"\] # what changing ownerReferences needs here\n {4}resourceNames: \["x"\]$/
  },
  {
    title: "owners whose deletion may not be blocked",
    verbs: ["create", "patch"],
    answer: answers(
      403,
      status(
        403,
        "Forbidden",
        `leases.coordination.k8s.io "x" is forbidden: cannot set blockOwnerDeletion if an ownerReference refers to a ` +
          "resource you can't set finalizers on: , <nil>"
      )
    ),
    expected: { _tag: "LeaseForbidden", anonymous: false, ownerReferences: true },
    message: /\n {2}- apiGroups: \[""\]\n {4}resources: \["pods\/finalizers"\]\n {4}verbs: \["update"\]$/
  },
  {
    title: "a namespace that is being deleted, against which no rule helps",
    verbs: ["create"],
    answer: answers(
      403,
      status(
        403,
        "Forbidden",
        `leases.coordination.k8s.io "x" is forbidden: unable to create new content in namespace ns because it is being ` +
          "terminated",
        { name: "x", kind: "leases", causes: [{ reason: "NamespaceTerminating", field: "metadata.namespace" }] }
      )
    ),
    expected: {
      _tag: "LeaseForbidden",
      anonymous: false,
      ownerReferences: false,
      deniedBy: "an admission plugin of the API server"
    },
    message: /because it is being terminated\nNo right is missing: the request was denied by an admission plugin/
  },
  {
    title: "credentials that are not accepted",
    verbs: ["get", "create", "patch", "watch"],
    answer: answers(401, status(401, "Unauthorized", "Unauthorized")),
    expected: { _tag: "LeaseUnauthorized" },
    message: /^401 Unauthorized: Unauthorized; the API server did not accept the credentials, which were read again/
  },
  {
    title: "a bad request",
    verbs: ["create"],
    answer: answers(400, status(400, "BadRequest", `Lease in version "v1" cannot be handled as a Lease: CAUSE`)),
    expected: { _tag: "LeaseInvalid" },
    message: /^400 BadRequest: Lease in version "v1" cannot be handled as a Lease: CAUSE$/
  },
  {
    title: "an invalid field",
    verbs: ["patch"],
    answer: answers(
      422,
      status(
        422,
        "Invalid",
        `Lease.coordination.k8s.io "x" is invalid: spec.leaseDurationSeconds: must be greater than 0`
      )
    ),
    expected: { _tag: "LeaseInvalid" },
    message: /^422 Invalid: Lease/
  },
  {
    title: "an entity too large",
    verbs: ["patch"],
    answer: answers(413, status(413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728")),
    expected: { _tag: "LeaseInvalid" },
    message: /^413/
  },
  {
    title: "too many requests",
    verbs: ["get", "create", "patch", "watch"],
    answer: text(429, "Too many requests, please try again later.\n", { "retry-after": "1" }),
    expected: { _tag: "LeaseUnavailable", outcomeUnknown: false, code: 429 },
    message: /^429: Too many requests, please try again later\.$/
  },
  {
    title: "a server that does not get to it in time",
    verbs: ["create", "patch"],
    answer: answers(504, {
      metadata: {},
      status: "Failure",
      message: "Timeout: request did not complete within the allotted timeout",
      reason: "Timeout",
      details: {},
      code: 504
    }),
    expected: { _tag: "LeaseUnavailable", outcomeUnknown: true, code: 504 },
    message: /^504 Timeout: Timeout: request did not complete within the allotted timeout$/
  },
  {
    title: "a read that a server does not get to",
    verbs: ["get"],
    answer: answers(504, { message: "Timeout", code: 504 }),
    expected: { _tag: "LeaseUnavailable", outcomeUnknown: false, code: 504 },
    message: /^504: Timeout$/
  },
  {
    title: "an error of the server",
    verbs: ["create", "patch"],
    answer: answers(500, status(500, undefined, "etcdserver: leader changed")),
    expected: { _tag: "LeaseUnavailable", outcomeUnknown: true, code: 500 },
    message: /^500: etcdserver: leader changed$/
  },
  {
    title: "a version that is too old",
    verbs: ["watch"],
    answer: answers(410, status(410, "Expired", "too old resource version: 1 (284)")),
    expected: { _tag: "LeaseExpired" },
    message: /^410 Expired: too old resource version: 1 \(284\)$/
  },
  {
    title: "a connection that breaks within a write",
    verbs: ["create", "patch"],
    answer: (response) => response.socket?.destroy(),
    expected: { _tag: "LeaseUnavailable", outcomeUnknown: true },
    message: /^the connection to http:\/\/127.0.0.1:\d+ broke before the answer: /
  },
  {
    title: "a connection that breaks within a read",
    verbs: ["get", "watch"],
    answer: (response) => response.socket?.destroy(),
    expected: { _tag: "LeaseUnavailable", outcomeUnknown: false },
    message: /^the connection to http:\/\/127.0.0.1:\d+ broke before the answer: /
  }
]

// A webhook chooses the code of its denial, and a policy one of four.
const denials: ReadonlyArray<readonly [code: number, reason: string | undefined, message: string, deniedBy: string]> = [
  ...([
    [400, undefined],
    [401, "Unauthorized"],
    [403, "Forbidden"],
    [404, "NotFound"],
    [409, "Conflict"],
    [
      410,
      "Gone"
    ],
    [422, "Invalid"],
    [429, "TooManyRequests"],
    [500, "InternalError"]
  ] as const).map(([code, reason]) =>
    [
      code,
      reason,
      `admission webhook "no-leases.example.com" denied the request: not on a Friday`,
      `the admission webhook "no-leases.example.com"`
    ] as const
  ),
  [
    400,
    undefined,
    `admission webhook "no-leases.example.com" denied the request without explanation`,
    `the admission webhook "no-leases.example.com"`
  ],
  [
    422,
    "Invalid",
    `leases.coordination.k8s.io "x" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no`,
    "the ValidatingAdmissionPolicy 'p'"
  ],
  [
    401,
    "Unauthorized",
    `leases.coordination.k8s.io "x" is forbidden: ValidatingAdmissionPolicy 'p' denied request: no`,
    "the ValidatingAdmissionPolicy 'p'"
  ],
  [
    403,
    "Forbidden",
    `leases.coordination.k8s.io "x" is forbidden: exceeded quota: q, requested: count/leases.coordination.k8s.io=1`,
    "an admission plugin of the API server"
  ]
]

describe("B2 denials of what the rights would allow", () => {
  for (const verb of ["create", "patch"] as const) {
    it.live.each(denials)(`${verb}: %s %s: %s`, ([code, reason, message, deniedBy]) =>
      Effect.gen(function*() {
        const server = yield* serve((_, response) => json(response, code, status(code, reason, message)))
        const store = yield* connect(server, { token: Redacted.make("one") })
        const error = yield* reasonOf(Effect.asVoid(calls[verb](store)))
        assert(error._tag === "LeaseForbidden", error._tag)
        assert.strictEqual(error.deniedBy, deniedBy)
        assert.isFalse(error.anonymous || error.ownerReferences)
        assert.notInclude(error.message, "lacks this rule")
        assert.include(error.message, message)
      }))
  }
})

/** What something in front of the API server answers, or the API server where it does not know of Leases. */
const foreign: Record<string, (response: ServerResponse) => void> = {
  ...Object.fromEntries(
    [400, 401, 402, 403, 404, 405, 409, 410, 413, 415, 422, 429, 451, 500, 503].map((code) => [
      `a page with ${code}`,
      (response: ServerResponse) => {
        response.writeHead(code, { "content-type": "text/html" })
        response.end("<html>\n<body>no</body>\n</html>")
      }
    ])
  ),
  "a page with 404 in plain text": text(404, "404 page not found\n"),
  ...Object.fromEntries([301, 302, 303, 307].map((code) => [
    `a redirection with ${code}`,
    text(code, "", { location: "https://login.example.com" })
  ])),
  "a refusal in the JSON of somebody else": answers(403, { type: "error", status: "403", code: "Forbidden" }),
  "a missing page in the JSON of somebody else": answers(404, { reason: "NotFound", message: "no route", code: 404 }),
  "a conflict in the JSON of somebody else": answers(409, { kind: "Error", reason: "Conflict" }),
  "a page with 200": (response) => {
    response.writeHead(200, { "content-type": "text/html" })
    response.end("<html>sign in</html>")
  },
  "nothing with 200": text(200, ""),
  "nothing with 204": (response) => {
    response.writeHead(204)
    response.end()
  },
  "another object with 200": answers(200, { kind: "Lease", metadata: { name: "x" } }),
  "another Lease": answers(200, { ...lease("7"), metadata: { ...lease("7").metadata, name: "y" } }),
  "a Lease of another namespace": answers(200, { ...lease("7"), metadata: { ...lease("7").metadata, namespace: "m" } }),
  "a Lease that is cut short": (response) => {
    response.writeHead(200, { "content-type": "application/json" })
    response.end(JSON.stringify(lease("7")).slice(0, -20))
  },
  "a page without a Content-Type": (response) => {
    response.writeHead(200)
    response.end("<html>")
  },
  "a refusal that is cut short": (response) => {
    response.writeHead(403, { "content-type": "application/json" })
    response.end(JSON.stringify(forbidden("get")).slice(0, -20))
  }
}

describe("B1 answers that are not the API server's own", () => {
  for (const verb of ["get", "create", "patch", "watch"] as const) {
    it.live.each(Object.entries(foreign))(`${verb}: %s`, ([title, answer]) =>
      Effect.gen(function*() {
        const server = yield* serve((_, response) => answer(response))
        const store = yield* connect(server, { token: Redacted.make("one") })
        // A watch that ends without a word is one that was closed in good order.
        if (verb === "watch" && title.startsWith("nothing with")) {
          return yield* Effect.asVoid(calls[verb](store))
        }
        const reason = yield* reasonOf(Effect.asVoid(calls[verb](store)))
        assert(reason._tag === "LeaseUnavailable", `${reason._tag}: ${reason.message}`)
        const tooMany = reason.code === 429
        assert.strictEqual(reason.outcomeUnknown, (verb === "create" || verb === "patch") && !tooMany, reason.message)
        assert.notInclude(reason.message, "\n")
        assert.isDefined(reason.code)
      }))
  }

  const types = [undefined, "Application/JSON", "application/json;charset=utf-8", "APPLICATION/JSON; CHARSET=UTF-8"]
  for (const type of types) {
    it.live(`but a Lease, a watch and a Status are what they are, with Content-Type ${type}`, () =>
      Effect.gen(function*() {
        const server = yield* serve(({ method, url }, response) => {
          response.writeHead(method === "PATCH" ? 409 : 200, type === undefined ? {} : { "content-type": type })
          response.end(JSON.stringify(
            method === "PATCH"
              ? status(409, "Conflict", modified)
              : url.includes("watch=1")
              ? { type: "ADDED", object: lease("8") }
              : lease("7")
          ))
        })
        const store = yield* connect(server)
        assert.strictEqual((yield* store.get(key)).lease.resourceVersion, 7n)
        assert.strictEqual((yield* reasonOf(store.patch(key, 6n, write)))._tag, "LeaseConflict")
        assert.deepStrictEqual(
          (yield* Stream.runCollect(store.changes(key, undefined))).map((change) => change._tag),
          ["Opened", "Applied"]
        )
      }))
  }
})

describe("errors", () => {
  const single = cases.flatMap(({ verbs, ...rest }) => verbs.map((verb) => ({ ...rest, verb })))
  it.live.each(single)("$verb: $title", ({ answer, expected, message, verb }) =>
    Effect.gen(function*() {
      const server = yield* serve((_, response) => answer(response))
      const store = yield* connect(server, { token: Redacted.make("one") })
      const error = yield* Effect.flip(calls[verb](store))
      assert.strictEqual(error.verb, verb)
      assert.isTrue(error.message.startsWith(`${verb} lease ns/x: `), error.message)
      assert.match(error.reason.message, message)
      assert.deepOwnInclude(error.reason, expected)
      // Nothing is sent again, but what was refused with 401.
      assert.strictEqual(server.received.length, expected._tag === "LeaseUnauthorized" ? 2 : 1)
    }))

  it.live("a server that asks to wait is not asked again before", () =>
    Effect.gen(function*() {
      const server = yield* serve((_, response) => text(429, "no", { "retry-after": "3" })(response))
      const store = yield* connect(server)
      const reason = yield* reasonOf(store.get(key))
      assert(reason._tag === "LeaseUnavailable")
      assert.deepStrictEqual(reason.retryAfter, Duration.seconds(3))
    }))

  for (const [what, value] of [["400 digits", "9".repeat(400)], ["20 digits", "9".repeat(20)]] as const) {
    it.live(`A10 a server that asks to wait for ${what} of seconds is asked again after leaseDuration`, () =>
      Effect.gen(function*() {
        const server = yield* serve((_, response) => text(429, "no", { "retry-after": value })(response))
        const store = yield* connect(server)
        const reason = yield* reasonOf(store.get(key))
        assert(reason._tag === "LeaseUnavailable")
        const retryAfter = nanos(reason.retryAfter!)
        const timing = { retryPeriod: 2n, leaseDuration: 15n }
        assert.strictEqual(candidateRetriesAt({ start: 0n, end: 1n, retryAfter }, timing), 16n)
      }))
  }

  it.live("a connection that is refused says that nothing was written", () =>
    Effect.gen(function*() {
      const { url } = yield* Effect.scoped(serve(() => {}))
      const store = yield* connect({ url })
      const reason = yield* reasonOf(store.patch(key, 1n, write))
      assert(reason._tag === "LeaseUnavailable")
      assert.isFalse(reason.outcomeUnknown)
      assert.isUndefined(reason.code)
    }))

  it.effect("an answer that does not come leaves the outcome of a write unknown", () =>
    Effect.gen(function*() {
      const server = yield* serve(() => {})
      const store = yield* connect(server)
      const fiber = yield* Effect.forkChild(reasonOf(store.patch(key, 1n, write)))
      yield* server.arrival(1)
      yield* TestClock.adjust("30 seconds")
      const reason = yield* Fiber.join(fiber)
      assert(reason._tag === "LeaseUnavailable")
      assert.isTrue(reason.outcomeUnknown)
    }))
})

describe("interruption", () => {
  it.live.each(["get", "create", "patch", "watch"] as const)(
    "of %s closes the connection",
    (verb) =>
      Effect.gen(function*() {
        const server = yield* serve(() => {})
        const store = yield* connect(server)
        const fiber = yield* Effect.forkChild(calls[verb](store))
        yield* server.arrival(1)
        yield* Fiber.interrupt(fiber)
        yield* server.closed(1)
      })
  )
})

// --- Watching ---

/** A server that keeps a watch open and sends what the test writes. */
const makeWatch = Effect.gen(function*() {
  const opened = yield* Deferred.make<ServerResponse>()
  const handler: Handler = (_, response) => {
    response.writeHead(200, { "content-type": "application/json", "transfer-encoding": "chunked" })
    response.flushHeaders()
    Deferred.doneUnsafe(opened, Effect.succeed(response))
  }
  const server: TestServer = yield* serve(handler)
  const onOpen = (f: (response: ServerResponse) => void) => Effect.map(Deferred.await(opened), f)
  return {
    server,
    write: (text: string | Uint8Array) => onOpen((response) => response.write(text)),
    send: (...events: ReadonlyArray<unknown>) =>
      onOpen((response) => response.write(events.map((event) => `${JSON.stringify(event)}\n`).join(""))),
    end: onOpen((response) => response.end()),
    cut: onOpen((response) => response.socket?.destroy())
  }
})

const follow = Effect.fnUntraced(function*(store: Store, since: bigint | undefined) {
  const changes = yield* Queue.make<LeaseChange>()
  const fiber = yield* store.changes(key, since).pipe(
    Stream.runForEach((change) => Queue.offer(changes, change)),
    Effect.forkScoped
  )
  return { fiber, next: Queue.take(changes) }
})

const bookmark = (resourceVersion: string) => ({
  type: "BOOKMARK",
  object: { kind: "Lease", apiVersion: "coordination.k8s.io/v1", metadata: { resourceVersion }, spec: {} }
})

describe("changes", () => {
  it.live("asks for one Lease, from a version on, with bookmarks, for 5 to 10 minutes", () =>
    Effect.gen(function*() {
      const server = yield* serve((_, response) => response.end())
      const store = yield* connect(server)
      const times = new Set<string>()
      for (let i = 0; i < 10; i++) {
        yield* Stream.runDrain(store.changes(key, i === 0 ? undefined : 42n))
        const url = new URL(server.received[i]!.url, server.url)
        assert.strictEqual(url.pathname, "/apis/coordination.k8s.io/v1/namespaces/ns/leases")
        const { timeoutSeconds, ...query } = Object.fromEntries(url.searchParams)
        assert.deepStrictEqual(query, {
          watch: "1",
          fieldSelector: "metadata.name=x",
          allowWatchBookmarks: "true",
          ...(i > 0 && { resourceVersion: "42" })
        })
        assert.isTrue(Number(timeoutSeconds) >= 300 && Number(timeoutSeconds) <= 600, timeoutSeconds)
        times.add(timeoutSeconds!)
      }
      assert.isAbove(times.size, 1)
      assert.include(server.received[0]!.url, "fieldSelector=metadata.name%3Dx")
    }))

  it.live("opens before anything has happened, gives what happens, and ends with the response", () =>
    Effect.gen(function*() {
      const watch = yield* makeWatch
      const { fiber, next } = yield* follow(yield* connect(watch.server), 1n)
      assert.deepStrictEqual(yield* next, { _tag: "Opened" })
      yield* watch.send({ type: "ADDED", object: lease("2", { holderIdentity: "a" }) })
      const added = yield* next
      assert(added._tag === "Applied")
      assert.deepStrictEqual([added.lease.resourceVersion, added.lease.holderIdentity], [2n, "a"])
      yield* watch.send({ type: "MODIFIED", object: lease("3", { holderIdentity: "ü€𝄞" }) }, bookmark("4"), {
        type: "DELETED",
        object: lease("5")
      })
      const modified = yield* next
      assert(modified._tag === "Applied")
      assert.strictEqual(modified.lease.holderIdentity, "ü€𝄞")
      assert.deepStrictEqual(yield* next, { _tag: "Bookmark", resourceVersion: 4n })
      const deleted = yield* next
      assert(deleted._tag === "Deleted")
      assert.strictEqual(deleted.lease.resourceVersion, 5n)
      yield* watch.end
      yield* Fiber.join(fiber)
    }))

  it.live("puts together what arrives in pieces", () =>
    Effect.gen(function*() {
      const watch = yield* makeWatch
      const { next } = yield* follow(yield* connect(watch.server), 1n)
      yield* next
      for (
        const byte of Buffer.from(
          `${JSON.stringify({ type: "ADDED", object: lease("2", { holderIdentity: "ü€𝄞" }) })}\n`
        )
      ) {
        yield* watch.write(Uint8Array.of(byte))
      }
      const added = yield* next
      assert(added._tag === "Applied")
      assert.strictEqual(added.lease.holderIdentity, "ü€𝄞")
    }))

  it.live("B12 leaves out events of other Leases, which a proxy lets through that drops the selector", () =>
    Effect.gen(function*() {
      const watch = yield* makeWatch
      const { next } = yield* follow(yield* connect(watch.server), 1n)
      yield* next
      const other = (metadata: Record<string, unknown>) => ({
        ...lease("2"),
        metadata: { ...lease("2").metadata, uid: "other", ...metadata }
      })
      yield* watch.send(
        { type: "ADDED", object: other({ name: "y" }) },
        { type: "DELETED", object: other({ name: "y" }) },
        { type: "MODIFIED", object: other({ namespace: "elsewhere" }) },
        { type: "MODIFIED", object: lease("3") }
      )
      const change = yield* next
      assert(change._tag === "Applied")
      assert.strictEqual(change.lease.uid, "1ece")
    }))

  it.live("A10 a leaseDurationSeconds of 1.5 is none, in a read and in an event", () =>
    Effect.gen(function*() {
      const odd = lease("2", { leaseDurationSeconds: 1.5 })
      const reading = yield* serve((_, response) => json(response, 200, odd))
      const { lease: read } = yield* (yield* connect(reading)).get(key)
      assert.deepStrictEqual([read.holderIdentity, read.leaseDurationSeconds], ["me", undefined])
      const watch = yield* makeWatch
      const { next } = yield* follow(yield* connect(watch.server), 1n)
      yield* next
      yield* watch.send({ type: "MODIFIED", object: odd })
      const change = yield* next
      assert(change._tag === "Applied")
      assert.deepStrictEqual([change.lease.holderIdentity, change.lease.leaseDurationSeconds], ["me", undefined])
    }))

  it.live("ignores events that it does not know", () =>
    Effect.gen(function*() {
      const watch = yield* makeWatch
      const { next } = yield* follow(yield* connect(watch.server), 1n)
      yield* next
      yield* watch.send({ type: "FUTURE", object: {} }, bookmark("4"))
      assert.deepStrictEqual(yield* next, { _tag: "Bookmark", resourceVersion: 4n })
    }))

  const inside: ReadonlyArray<{ readonly title: string; readonly event: unknown; readonly tag: string }> = [
    {
      title: "a version that is too old",
      event: { type: "ERROR", object: status(410, "Expired", "too old resource version: 1 (284)") },
      tag: "LeaseExpired"
    },
    {
      title: "an error of the server",
      event: { type: "ERROR", object: status(500, "InternalError", "etcd event received with PrevKv=nil") },
      tag: "LeaseUnavailable"
    },
    { title: "an error without a word", event: { type: "ERROR", object: null }, tag: "LeaseUnavailable" },
    { title: "an object that is no Lease", event: { type: "MODIFIED", object: {} }, tag: "LeaseUnavailable" },
    { title: "a bookmark without a version", event: { type: "BOOKMARK", object: {} }, tag: "LeaseUnavailable" },
    { title: "a line that is no event", event: { a: 1 }, tag: "LeaseUnavailable" }
  ]
  it.live.each(inside)("fails within a 200 with $title", ({ event, tag }) =>
    Effect.gen(function*() {
      const watch = yield* makeWatch
      const { fiber, next } = yield* follow(yield* connect(watch.server), 1n)
      assert.deepStrictEqual(yield* next, { _tag: "Opened" })
      yield* watch.send(event)
      const error = yield* Effect.flip(Fiber.join(fiber))
      assert.strictEqual(error.verb, "watch")
      assert.strictEqual(error.reason._tag, tag)
      // The rest of the stream is of no use any more.
      yield* watch.server.closed(1)
    }))

  it.live("fails where the connection breaks", () =>
    Effect.gen(function*() {
      const watch = yield* makeWatch
      const { fiber, next } = yield* follow(yield* connect(watch.server), 1n)
      yield* next
      yield* watch.cut
      assert.strictEqual((yield* reasonOf(Fiber.join(fiber)))._tag, "LeaseUnavailable")
    }))

  it.effect("fails after 90 seconds without a bookmark, and closes the connection", () =>
    Effect.gen(function*() {
      const watch = yield* makeWatch
      const { fiber, next } = yield* follow(yield* connect(watch.server), 1n)
      yield* next
      yield* TestClock.adjust("60 seconds")
      yield* watch.send(bookmark("2"))
      yield* next
      yield* TestClock.adjust("89 seconds")
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("1 second")
      const reason = yield* reasonOf(Fiber.join(fiber))
      assert(reason._tag === "LeaseUnavailable")
      assert.strictEqual(reason.message, "not a byte from the API server for 90s")
      yield* watch.server.closed(1)
    }))

  it.effect("fails where the watch does not open for 10 seconds", () =>
    Effect.gen(function*() {
      const server = yield* serve(() => {})
      const { fiber } = yield* follow(yield* connect(server), 1n)
      yield* server.arrival(1)
      yield* TestClock.adjust("10 seconds")
      const reason = yield* reasonOf(Fiber.join(fiber))
      assert(reason._tag === "LeaseUnavailable")
      assert.strictEqual(reason.message, `no answer from ${server.url} within 10s, though the request was sent`)
      yield* server.closed(1)
    }))

  it.live("closes the connection when it is interrupted, or has been read far enough", () =>
    Effect.gen(function*() {
      const watch = yield* makeWatch
      const store = yield* connect(watch.server)
      const { fiber, next } = yield* follow(store, 1n)
      yield* next
      yield* Fiber.interrupt(fiber)
      yield* watch.server.closed(1)
      yield* Stream.runDrain(Stream.take(store.changes(key, 1n), 1))
      yield* watch.server.closed(2)
    }))
})

// --- Watching together ---

/** A namespace's watch that is answered as the test says, beside those of single Leases, which are granted. */
const makeTogether = Effect.gen(function*() {
  const state = { answer: answers(403, forbidden("watch")) as (response: ServerResponse) => void }
  const asked: Array<string> = []
  const streams: Array<ServerResponse> = []
  const stream = (response: ServerResponse) => {
    response.writeHead(200, { "content-type": "application/json" })
    response.flushHeaders()
    streams.push(response)
  }
  const server = yield* serve(({ url }, response) => {
    const selector = new URL(url, "http://x").searchParams.get("fieldSelector")
    asked.push(selector ?? "all")
    return selector === null ? state.answer(response) : stream(response)
  })
  const store = yield* KubernetesLeaseStore.layerShared.pipe(
    Layer.provide(KubernetesClient.layerServer({ server: server.url })),
    Layer.build,
    Effect.map(Context.get(LeaseStore))
  )
  return { state, asked, stream, store }
})

describe("watching together", () => {
  it.live("B3 is not given up for an answer that is not a refusal", () =>
    Effect.gen(function*() {
      const { asked, state, store, stream } = yield* makeTogether
      for (const answer of Object.values(foreign)) {
        state.answer = answer
        yield* Effect.exit(Stream.runDrain(store.changes(key, undefined)))
      }
      state.answer = stream
      yield* Stream.runDrain(Stream.take(store.changes(key, undefined), 1))
      assert.deepStrictEqual(new Set(asked), new Set(["all"]))
    }))
})

// --- An election ---

describe("B1 an election behind something that answers by itself", () => {
  it.live("goes on, as a candidate and as a leader, and whileLeadingForever too", () =>
    Effect.gen(function*() {
      const server = yield* LeaseApiServer.make()
      const pages = Object.values(foreign)
      const left = { GET: pages.slice(), POST: pages.slice(), PATCH: pages.slice() }
      // Candidates get nothing else at first; what holds the Lease gets one and the server's answer in turn.
      let patches = 0
      const url = yield* httpFront(server.url, {
        answer: (method, url) =>
          url.includes("watch=1") || !(method in left) || (method === "PATCH" && patches++ % 2 === 1)
            ? undefined
            : left[method as keyof typeof left].pop()
      })
      const election = yield* LeaderElection.layer({
        ...key,
        namespace: "default",
        identity: "a",
        newLease: "lead",
        renewInterval: "50 millis",
        retryPeriod: "50 millis",
        requestTimeout: "2 seconds"
      }).pipe(
        Layer.provide(KubernetesLeaseStore.layer),
        Layer.provide(KubernetesClient.layerServer({ server: url, token: Redacted.make(server.token) })),
        Layer.build,
        Effect.map(Context.get(LeaderElection.LeaderElection))
      )
      let terms = 0
      const fiber = yield* Effect.forkScoped(election.whileLeadingForever(Effect.suspend(() => {
        terms++
        return Effect.never
      })))
      const isDone = () => Object.values(left).every((pages) => pages.length === 0)
      while (!isDone() && fiber.pollUnsafe() === undefined) {
        yield* Effect.sleep("50 millis")
      }
      assert.isUndefined(fiber.pollUnsafe())
      assert.strictEqual(terms, 1)
      assert.strictEqual((yield* election.status)._tag, "Leading")
    }).pipe(Effect.provide(Logger.layer([]))))
})
