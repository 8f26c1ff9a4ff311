import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { isReleased } from "../src/internal/protocol/decision.ts"
import * as LeaseRecord from "../src/LeaseRecord.ts"

const key = { namespace: "default", name: "invoices" }

const micros = (text: string): bigint => BigInt(Date.parse(text)) * 1000n

/** A body as the API server answers it. */
const body = (spec?: unknown, metadata: object = {}): unknown => ({
  apiVersion: "coordination.k8s.io/v1",
  kind: "Lease",
  metadata: {
    name: "invoices",
    namespace: "default",
    uid: "0f9c3f2e-6c0d-4f55-9b07-0c2b6c1f2c11",
    resourceVersion: "603",
    creationTimestamp: "2026-11-22T13:30:00Z",
    managedFields: [{
      manager: "leader-election",
      operation: "Update",
      apiVersion: "coordination.k8s.io/v1",
      time: "2026-11-22T13:30:05Z",
      fieldsType: "FieldsV1",
      fieldsV1: { "f:spec": { "f:renewTime": {} } }
    }],
    ...metadata
  },
  ...(spec !== undefined && { spec })
})

const empty: LeaseRecord.LeaseRecord = {
  namespace: "default",
  name: "invoices",
  uid: "0f9c3f2e-6c0d-4f55-9b07-0c2b6c1f2c11",
  resourceVersion: 603n,
  deletionTimestamp: undefined,
  labels: {},
  annotations: {},
  ownerReferences: [],
  holderIdentity: "",
  leaseDurationSeconds: undefined,
  acquireTime: undefined,
  renewTime: undefined,
  leaseTransitions: 0,
  strategy: undefined,
  preferredHolder: undefined
}

const pod = { apiVersion: "v1", kind: "Pod", name: "web-0", uid: "a1" }

const encode = Schema.encodeEffect(LeaseRecord.FromJson)

describe("decode", () => {
  const renewTime = "2026-11-22T13:30:05.123456Z"
  const acquireTime = "2026-11-22T13:30:00.000000Z"
  const table: ReadonlyArray<[string, unknown, Partial<LeaseRecord.LeaseRecord>]> = [
    [
      "ours",
      body({ holderIdentity: "web-0_a1", leaseDurationSeconds: 15, acquireTime, renewTime, leaseTransitions: 2 }, {
        labels: { team: "billing" },
        annotations: { "effect-kubernetes-leader-election/instance": "1-a" },
        ownerReferences: [pod]
      }),
      {
        holderIdentity: "web-0_a1",
        leaseDurationSeconds: 15,
        acquireTime: micros("2026-11-22T13:30:00Z"),
        renewTime: micros("2026-11-22T13:30:05Z") + 123_456n,
        leaseTransitions: 2,
        labels: { team: "billing" },
        annotations: { "effect-kubernetes-leader-election/instance": "1-a" },
        ownerReferences: [pod]
      }
    ],
    ["without spec", body(), {}],
    ["a null spec", body(null), {}],
    ["an empty spec", body({}), {}],
    [
      "everything null",
      body({
        holderIdentity: null,
        leaseDurationSeconds: null,
        acquireTime: null,
        renewTime: null,
        leaseTransitions: null,
        strategy: null,
        preferredHolder: null
      }, { labels: null, annotations: null, ownerReferences: null, creationTimestamp: null, deletionTimestamp: null }),
      {}
    ],
    ["no creationTimestamp, which nothing depends on", body({}, { creationTimestamp: undefined }), {}],
    ["a creationTimestamp that is not a time", body({}, { creationTimestamp: 5 }), {}],
    ["an empty holder", body({ holderIdentity: "" }), {}],
    ["A10 a duration that is not whole", body({ leaseDurationSeconds: 1.5 }), {}],
    ["a duration of 0", body({ leaseDurationSeconds: 0 }), {}],
    ["a negative duration", body({ leaseDurationSeconds: -1 }), {}],
    ["the shortest duration", body({ leaseDurationSeconds: 1 }), { leaseDurationSeconds: 1 }],
    ["the longest duration", body({ leaseDurationSeconds: 2 ** 31 - 1 }), { leaseDurationSeconds: 2 ** 31 - 1 }],
    ["a duration beyond it", body({ leaseDurationSeconds: 2 ** 31 }), {}],
    ["transitions that are not whole", body({ leaseTransitions: 0.5 }), {}],
    ["negative transitions", body({ leaseTransitions: -1 }), {}],
    ["any text as holder", body({ holderIdentity: "a b\n\u0000😀" }), { holderIdentity: "a b\n\u0000😀" }],
    // Written as year 1, read back as null; other servers may read it back as it is.
    ["year 1", body({ renewTime: "0001-01-01T00:00:00.000000Z", acquireTime: null }), {
      renewTime: micros("0001-01-01T00:00:00Z")
    }],
    ["times that are no MicroTime", body({ renewTime: "yesterday", acquireTime: "" }), {}],
    ["the greatest transitions", body({ leaseTransitions: 2147483647 }), { leaseTransitions: 2147483647 }],
    ["a terminating one", body({}, { deletionTimestamp: "2026-11-22T13:31:00Z", finalizers: ["x/y"] }), {
      deletionTimestamp: Date.parse("2026-11-22T13:31:00Z")
    }],
    ["a greater version than a number can hold", body({}, { resourceVersion: "18446744073709551615" }), {
      resourceVersion: 18_446_744_073_709_551_615n
    }],
    ["an owner with flags", body({}, { ownerReferences: [{ ...pod, controller: true, blockOwnerDeletion: false }] }), {
      ownerReferences: [{ ...pod, controller: true, blockOwnerDeletion: false }]
    }],
    ["fields of times to come", body({ holderIdentity: "x", priority: 5 }, { generation: 3 }), { holderIdentity: "x" }],
    // --- others
    [
      "client-go",
      body({
        holderIdentity: "host_7d0e3c1e-0d3c-4f6c-8f6e-0c8f4c9c4b0a",
        leaseDurationSeconds: 15,
        acquireTime,
        renewTime,
        leaseTransitions: 7
      }),
      {
        holderIdentity: "host_7d0e3c1e-0d3c-4f6c-8f6e-0c8f4c9c4b0a",
        leaseDurationSeconds: 15,
        acquireTime: micros("2026-11-22T13:30:00Z"),
        renewTime: micros("2026-11-22T13:30:05Z") + 123_456n,
        leaseTransitions: 7
      }
    ],
    [
      "the Ruby gem",
      body({
        holderIdentity: "web-0",
        leaseDurationSeconds: 60,
        acquireTime,
        renewTime: "2026-11-22T14:30:05.000000Z",
        leaseTransitions: 0
      }, { ownerReferences: [pod] }),
      {
        holderIdentity: "web-0",
        leaseDurationSeconds: 60,
        acquireTime: micros("2026-11-22T13:30:00Z"),
        renewTime: micros("2026-11-22T14:30:05Z"),
        ownerReferences: [pod]
      }
    ],
    [
      "coordinated leader election",
      body({
        holderIdentity: "c1",
        leaseDurationSeconds: 5,
        renewTime,
        strategy: "OldestEmulationVersion",
        preferredHolder: "c2"
      }),
      {
        holderIdentity: "c1",
        leaseDurationSeconds: 5,
        renewTime: micros("2026-11-22T13:30:05Z") + 123_456n,
        strategy: "OldestEmulationVersion",
        preferredHolder: "c2"
      }
    ],
    ["a Node library that forgot the duration", body({ holderIdentity: "h-12", leaseDurationSec: 20, renewTime }), {
      holderIdentity: "h-12",
      renewTime: micros("2026-11-22T13:30:05Z") + 123_456n
    }]
  ]
  for (const [what, value, expected] of table) {
    it.effect(what, () =>
      Effect.gen(function*() {
        const lease = yield* LeaseRecord.decode(value)
        assert.deepStrictEqual(lease, { ...empty, ...expected })
        // Written and read again it is the same; year 1 is what no server can hold.
        const json = JSON.parse(JSON.stringify(yield* encode(lease)))
        const again = yield* LeaseRecord.decode(json)
        assert.deepStrictEqual(again, what === "year 1" ? { ...lease, renewTime: lease.renewTime! + 1n } : lease)
      }))
  }

  it.effect("encode writes what the record holds, as the API server writes it", () =>
    Effect.gen(function*() {
      const spec = { holderIdentity: "web-0_a1", leaseDurationSeconds: 15, acquireTime, renewTime, leaseTransitions: 2 }
      const metadata = {
        namespace: "default",
        name: "invoices",
        uid: "0f9c3f2e-6c0d-4f55-9b07-0c2b6c1f2c11",
        resourceVersion: "603",
        labels: { team: "billing" },
        annotations: { a: "1" },
        ownerReferences: [pod]
      }
      assert.deepStrictEqual(yield* encode(yield* LeaseRecord.decode({ metadata, spec })), { metadata, spec })
      const rare = {
        metadata: { ...metadata, deletionTimestamp: "2026-11-22T13:31:00.000Z" },
        spec: { ...spec, strategy: "OldestEmulationVersion", preferredHolder: "c2" }
      }
      assert.deepStrictEqual(yield* encode(yield* LeaseRecord.decode(rare)), rare)
      assert.deepStrictEqual(yield* encode(empty), {
        metadata: { ...metadata, labels: {}, annotations: {}, ownerReferences: [] },
        spec: { holderIdentity: "", leaseTransitions: 0 }
      })
    }))

  it.effect("what is no record is not encoded", () =>
    Effect.gen(function*() {
      for (const value of [undefined, null, "text", {}, { ...empty, resourceVersion: "603" }]) {
        const error = yield* Effect.flip(Schema.encodeUnknownEffect(LeaseRecord.FromJson)(value))
        assert.strictEqual(error._tag, "SchemaError")
      }
    }))

  const releases: ReadonlyArray<[string, unknown, boolean]> = [
    ["client-go's", { holderIdentity: "", leaseDurationSeconds: 1, acquireTime, renewTime, leaseTransitions: 7 }, true],
    ["fabric8's", { holderIdentity: "", leaseDurationSeconds: 1, acquireTime, renewTime, leaseTransitions: 2 }, true],
    ["one with the holder removed", { leaseDurationSeconds: 1, renewTime, leaseTransitions: 2 }, true],
    ["one with a null holder", { holderIdentity: null, leaseDurationSeconds: 1 }, true],
    // zio-k8s keeps itself as holder; a Node library keeps its duration.
    ["one that keeps its holder", { holderIdentity: "web-0", leaseDurationSeconds: 1, renewTime }, false],
    ["one that keeps its duration", { holderIdentity: null, leaseDurationSeconds: 20, renewTime }, false]
  ]
  for (const [what, spec, expected] of releases) {
    it.effect(`T7 a release, ${what}: ${expected ? "free at once" : "not told from a held one"}`, () =>
      Effect.gen(function*() {
        assert.strictEqual(isReleased(yield* LeaseRecord.decode(body(spec))), expected)
      }))
  }

  const refused: ReadonlyArray<[string, unknown]> = [
    ["nothing", undefined],
    ["null", null],
    ["text", "Too many requests, please try again later.\n"],
    ["an empty object", {}],
    ["a Status", { kind: "Status", apiVersion: "v1", metadata: {}, status: "Failure", code: 409 }],
    ["no name", body({}, { name: undefined })],
    ["no namespace", body({}, { namespace: undefined })],
    ["no uid", body({}, { uid: undefined })],
    ["no resourceVersion", body({}, { resourceVersion: undefined })],
    ["an empty resourceVersion", body({}, { resourceVersion: "" })],
    ["a resourceVersion that is no decimal number", body({}, { resourceVersion: "12a" })],
    ["a negative one", body({}, { resourceVersion: "-12" })],
    ["one that is a number", body({}, { resourceVersion: 12 })],
    ["an owner without uid", body({}, { ownerReferences: [{ apiVersion: "v1", kind: "Pod", name: "p" }] })],
    ["a holder that is a number", body({ holderIdentity: 5 })],
    ["a duration that is text", body({ leaseDurationSeconds: "15" })]
  ]
  for (const [what, value] of refused) {
    it.effect(`${what} is no Lease`, () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(LeaseRecord.decode(value))
        assert.strictEqual(error._tag, "SchemaError")
      }))
  }
})

describe("encode", () => {
  const write: LeaseRecord.LeaseWrite = {
    holderIdentity: "web-0_a1",
    leaseDurationSeconds: 15,
    acquireTime: micros("2026-11-22T13:30:00Z"),
    renewTime: micros("2026-11-22T13:30:05Z") + 1n,
    leaseTransitions: 2,
    annotations: { a: "1", b: null },
    ownerReferences: [pod]
  }

  it("T20 the body of a POST", () => {
    assert.strictEqual(
      JSON.stringify(LeaseRecord.toCreateBody(key, write)),
      "{\"apiVersion\":\"coordination.k8s.io/v1\",\"kind\":\"Lease\"," +
        "\"metadata\":{\"namespace\":\"default\",\"name\":\"invoices\",\"annotations\":{\"a\":\"1\",\"b\":null}," +
        "\"ownerReferences\":[{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"name\":\"web-0\",\"uid\":\"a1\"}]}," +
        "\"spec\":{\"holderIdentity\":\"web-0_a1\",\"leaseDurationSeconds\":15," +
        "\"acquireTime\":\"2026-11-22T13:30:00.000000Z\",\"renewTime\":\"2026-11-22T13:30:05.000001Z\"," +
        "\"leaseTransitions\":2}}"
    )
  })

  it("T20 the body of a merge patch, guarded by the version alone", () => {
    assert.deepStrictEqual(LeaseRecord.toPatchBody(18_446_744_073_709_551_615n, write), {
      metadata: {
        resourceVersion: "18446744073709551615",
        annotations: { a: "1", b: null },
        ownerReferences: [pod]
      },
      spec: {
        holderIdentity: "web-0_a1",
        leaseDurationSeconds: 15,
        acquireTime: "2026-11-22T13:30:00.000000Z",
        renewTime: "2026-11-22T13:30:05.000001Z",
        leaseTransitions: 2
      }
    })
  })

  it("labels are written where they are given", () => {
    assert.deepStrictEqual(LeaseRecord.toPatchBody(7n, { labels: { team: "billing" } }), {
      metadata: { resourceVersion: "7", labels: { team: "billing" } },
      spec: {}
    })
  })

  it("what is left out stays as it is stored; empty is not left out", () => {
    assert.deepStrictEqual(LeaseRecord.toPatchBody(7n, {}), { metadata: { resourceVersion: "7" }, spec: {} })
    assert.deepStrictEqual(
      LeaseRecord.toPatchBody(7n, {
        holderIdentity: "",
        leaseTransitions: 0,
        acquireTime: 0n,
        renewTime: 0n,
        leaseDurationSeconds: 0,
        annotations: {},
        ownerReferences: []
      }),
      {
        metadata: { resourceVersion: "7", annotations: {}, ownerReferences: [] },
        spec: {
          holderIdentity: "",
          leaseTransitions: 0,
          acquireTime: "1970-01-01T00:00:00.000000Z",
          renewTime: "1970-01-01T00:00:00.000000Z",
          leaseDurationSeconds: 0
        }
      }
    )
    assert.deepStrictEqual(LeaseRecord.toCreateBody(key, {}), {
      apiVersion: "coordination.k8s.io/v1",
      kind: "Lease",
      metadata: key,
      spec: {}
    })
  })
})

it("formatKey, the annotations, and the greatest leaseTransitions", () => {
  assert.strictEqual(LeaseRecord.formatKey(key), "default/invoices")
  assert.strictEqual(LeaseRecord.instanceAnnotation, "effect-kubernetes-leader-election/instance")
  assert.strictEqual(LeaseRecord.stepDownAnnotation, "effect-kubernetes-leader-election/step-down")
  assert.strictEqual(LeaseRecord.maxLeaseTransitions, 2147483647)
})
