import { assert, describe, it } from "@effect/vitest"
import { Console, Effect, Layer, Logger, Redacted } from "effect"
import { KubernetesClient, LeaseRecord } from "effect-kubernetes-leader-election"
import { LeaderShards } from "effect-kubernetes-leader-election"
import { LeaseApiServer } from "effect-kubernetes-leader-election/testing"
import { toStatus, toTable } from "../../src/cli/status/lease.ts"
import { status } from "../../src/cli/status/status.ts"

const now = Date.parse("2026-11-22T12:00:00Z")

const decode = (metadata: object, spec: object) =>
  LeaseRecord.decode({ metadata: { name: "x", namespace: "ns", uid: "u", resourceVersion: "7", ...metadata }, spec })

const held = { holderIdentity: "a", leaseDurationSeconds: 15, renewTime: "2026-11-22T11:59:57.500000Z" }
const instance = {
  annotations: { [LeaseRecord.instanceAnnotation]: "1-a", [LeaseRecord.ageMarkAnnotation]: "u" }
}
const young = { annotations: { [LeaseRecord.instanceAnnotation]: "1-a" } }
const pod = (name: string) => ({ ownerReferences: [{ apiVersion: "v1", kind: "Pod", name, uid: "p" }] })

const cases: ReadonlyArray<readonly [name: string, metadata: object, spec: object, expected: object]> = [
  ["held by one of ours", { ...instance, ...pod("pod-a") }, held, {
    state: "held",
    kind: "ours",
    holder: "a",
    ageSeconds: 2.5,
    leftSeconds: 12.5,
    ownerPod: { name: "pod-a", uid: "p" },
    instance: "1-a"
  }],
  ["young, which nobody leads yet", young, held, { state: "young", holder: "a" }],
  ["restored with the age mark of another", { ...instance, uid: "v" }, held, { state: "young" }],
  ["young, but expired", young, { ...held, leaseDurationSeconds: 2 }, { state: "expired" }],
  ["expired", instance, { ...held, leaseDurationSeconds: 2 }, { state: "expired", leftSeconds: -0.5 }],
  ["released", instance, { ...held, holderIdentity: "", leaseDurationSeconds: 1 }, { state: "released", holder: null }],
  ["emptied by hand", {}, { ...held, holderIdentity: null }, { state: "free", kind: "unknown", holder: null }],
  ["never held", {}, {}, {
    state: "free",
    kind: "unknown",
    renewTime: null,
    ageSeconds: null,
    leftSeconds: null,
    leaseDurationSeconds: null
  }],
  ["without renewTime", {}, { holderIdentity: "a", leaseDurationSeconds: 15 }, { state: "held", leftSeconds: null }],
  ["by a clock ahead of the server's", {}, { ...held, renewTime: "2026-11-22T12:00:03.000000Z" }, {
    ageSeconds: 0,
    leftSeconds: 15
  }],
  ["of client-go", {}, held, { kind: "client-go" }],
  ["of the gem", pod("a"), held, { kind: "gem" }],
  ["of client-go, with the owner that one of ours has left", pod("pod-b"), held, { kind: "client-go" }],
  ["coordinated", {}, { ...held, strategy: "OldestEmulationVersion", preferredHolder: "b" }, {
    kind: "coordinated",
    preferredHolder: "b"
  }],
  ["of a node", { ownerReferences: [{ apiVersion: "v1", kind: "Node", name: "n", uid: "p" }] }, held, { kind: "node" }],
  ["of an API server", { labels: { "apiserver.kubernetes.io/identity": "kube-apiserver" } }, held, {
    kind: "apiserver"
  }],
  ["being deleted", { deletionTimestamp: "2026-11-22T12:00:00Z" }, held, { deleting: true }]
]

/** Runs against a server with these Leases; gives what is printed, and how it ends. */
const run = (
  options: Partial<Parameters<typeof status>[0]>,
  setUp: Effect.Effect<unknown, unknown, LeaseApiServer.LeaseApiServer>
) =>
  Effect.gen(function*() {
    const server = yield* LeaseApiServer.LeaseApiServer
    yield* Effect.orDie(setUp)
    const lines: Array<string> = []
    const exit = yield* status({ names: [], namespace: undefined, allNamespaces: false, output: "table", ...options })
      .pipe(
        Effect.provide(
          KubernetesClient.layerServer({
            server: server.url,
            namespace: "default",
            token: Redacted.make("local-token")
          })
        ),
        Effect.provideService(
          Console.Console,
          Object.assign(Object.create(console), { log: (text: string) => lines.push(...text.split("\n")) })
        ),
        Effect.result
      )
    return { lines, exit }
  }).pipe(Effect.provide(Layer.merge(LeaseApiServer.layer(), Logger.layer([]))))

const create = (...names: ReadonlyArray<string>) =>
  LeaseApiServer.LeaseApiServer.use(({ cluster }) =>
    Effect.forEach(
      names,
      (name) =>
        cluster.createLease({ namespace: "default", name }, { spec: { holderIdentity: "a", leaseDurationSeconds: 15 } })
    )
  )

describe("status", () => {
  it.effect.each(cases)("a Lease %s", ([, metadata, spec, expected]) =>
    Effect.gen(function*() {
      const found = toStatus(yield* decode(metadata, spec), { millis: now, clock: "server" })
      assert.deepInclude(found, expected)
    }))

  it.effect("as a table", () =>
    Effect.gen(function*() {
      const leases = yield* Effect.all([
        decode({ ...instance, ...pod("pod-a"), name: "invoices" }, { ...held, leaseTransitions: 3 }),
        decode({ name: "old" }, { ...held, leaseDurationSeconds: 1 }),
        decode({ name: "x", deletionTimestamp: "2026-11-22T12:00:00Z" }, {})
      ])
      const statuses = leases.map((lease) => toStatus(lease, { millis: now, clock: "server" }))
      assert.deepStrictEqual(toTable(statuses, { namespaces: true }), [
        "NAMESPACE   NAME       STATE                 HOLDER   RENEWED   LEFT      TRANSITIONS   POD     KIND",
        "ns          invoices   held                  a        3s        13s       3             pod-a   ours",
        "ns          old        expired               a        3s        2s over   0             -       client-go",
        "ns          x          free, being deleted   -        -         -         0             -       -"
      ])
    }))

  it.effect("columns are straight below wide and combining characters", () =>
    Effect.gen(function*() {
      const leases = yield* Effect.forEach(["ab", "日本🚀", "e\u0301"], (holderIdentity) =>
        decode(instance, { ...held, holderIdentity }))
      const lines = toTable(
        leases.map((lease) =>
          toStatus(lease, { millis: now, clock: "server" })
        ),
        { namespaces: false }
      )
      assert.deepStrictEqual(lines.map((text) => /^.*?(RENEWED|3s)/.exec(text)![0]), [
        "NAME   STATE   HOLDER   RENEWED",
        "x      held    ab       3s",
        "x      held    日本🚀   3s",
        "x      held    e\u0301        3s"
      ])
    }))

  it.live("lists a namespace", () =>
    Effect.gen(function*() {
      const { lines } = yield* run({}, create("b", "a"))
      assert.deepStrictEqual(lines.map((line) => line.split(/ +/)[0]), ["NAME", "a", "b"])
    }))

  it.live("lists more Leases than the server gives at once", () =>
    Effect.gen(function*() {
      const names = Array.from({ length: 501 }, (_, index) => `lease-${index}`)
      const { lines } = yield* run({}, create(...names))
      assert.sameMembers(lines.slice(1).map((line) => line.split(/ +/)[0]), names)
    }))

  it.live("shows the members of a group, and of no other", () =>
    Effect.gen(function*() {
      const member = (group: string) =>
        LeaseApiServer.LeaseApiServer.use(({ cluster }) =>
          cluster.createLease({ namespace: "default", name: `${group}-member` }, {
            metadata: { labels: { [LeaderShards.labels.group]: group, [LeaderShards.labels.role]: "member" } },
            spec: { holderIdentity: `member of ${group}`, leaseDurationSeconds: 15 }
          })
        )
      const { lines } = yield* run({ group: "one", output: "json" }, Effect.andThen(member("one"), member("two")))
      const { members } = JSON.parse(lines.join("\n"))
      assert.deepStrictEqual(members.map(({ identity }: { identity: string }) => identity), ["member of one"])
    }))

  it.live("lists all namespaces, as JSON too", () =>
    Effect.gen(function*() {
      const { lines } = yield* run({ allNamespaces: true, output: "json" }, create("a"))
      const [lease] = JSON.parse(lines.join("\n"))
      assert.deepInclude(lease, { namespace: "default", name: "a", holder: "a", clock: "server", leftSeconds: null })
    }))

  it.live("shows the Leases that there are, and fails for those that there are not", () =>
    Effect.gen(function*() {
      const { exit, lines } = yield* run({ names: ["a", "nope"] }, create("a"))
      assert.strictEqual(lines.length, 2)
      assert.isTrue(exit._tag === "Failure")
      assert.include(exit._tag === "Failure" ? exit.failure : {}, {
        exitCode: 1,
        message: "there is no Lease default/nope"
      })
    }))

  it.live("says which right is missing, and what works without it", () =>
    Effect.gen(function*() {
      const forbid = LeaseApiServer.LeaseApiServer.use((server) => server.forbid({}, ["list"]))
      const { exit } = yield* run({}, Effect.andThen(create("a"), forbid))
      assert.isTrue(exit._tag === "Failure" && exit.failure._tag === "CommandFailure" && exit.failure.exitCode === 77)
      assert.match(exit._tag === "Failure" ? exit.failure.message : "", /verb list on leases .* name the Leases/)
      const named = yield* run({ names: ["a"] }, Effect.andThen(create("a"), forbid))
      assert.strictEqual(named.exit._tag, "Success")
    }))
})
