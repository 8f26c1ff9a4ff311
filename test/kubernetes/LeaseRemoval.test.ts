import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Redacted } from "effect"
import { KubernetesClient, LeaseRemoval } from "effect-kubernetes-leader-election"
import { LeaseApiServer } from "effect-kubernetes-leader-election/testing"

const key = { namespace: "default", name: "tenant-red" }

const remove = LeaseRemoval.removeReleased(key)

const ServerLive = LeaseApiServer.layer()
const ClientLive = Layer.unwrap(
  Effect.map(
    LeaseApiServer.LeaseApiServer,
    ({ token, url }) => KubernetesClient.layerServer({ server: url, token: Redacted.make(token) })
  )
)

const setup = Effect.map(LeaseApiServer.LeaseApiServer, ({ cluster, forbid }) => {
  const edit = (patch: object) => Effect.orDie(cluster.editLease(key, patch))
  return {
    cluster,
    forbid,
    edit,
    released: edit({ spec: { holderIdentity: "", leaseDurationSeconds: 1 } })
  }
})

const withLease = Effect.gen(function*() {
  const made = yield* setup
  const client = yield* KubernetesClient.KubernetesClient
  yield* client.request({
    method: "POST",
    path: "/apis/coordination.k8s.io/v1/namespaces/default/leases",
    body: {
      apiVersion: "coordination.k8s.io/v1",
      kind: "Lease",
      metadata: { name: key.name },
      spec: { holderIdentity: "a", leaseDurationSeconds: 15 }
    }
  })
  return made
})

const live = <A, E>(
  title: string,
  effect: Effect.Effect<A, E, KubernetesClient.KubernetesClient | LeaseApiServer.LeaseApiServer>
) => it.live(title, () => effect.pipe(Effect.provide(ClientLive), Effect.provide(ServerLive)))

describe("removeReleased", () => {
  live(
    "removes a Lease that was released, and says where there is none",
    Effect.gen(function*() {
      const { cluster, released } = yield* withLease
      yield* released
      assert.strictEqual(yield* remove, "removed")
      assert.isUndefined(yield* cluster.lease(key))
      assert.strictEqual(yield* remove, "absent")
    })
  )

  live(
    "leaves a Lease with a holder, and one that was emptied by hand",
    Effect.gen(function*() {
      const { cluster, edit } = yield* withLease
      assert.strictEqual(yield* remove, "held")
      yield* edit({ spec: { holderIdentity: null } })
      assert.strictEqual(yield* remove, "held")
      assert.isDefined(yield* cluster.lease(key))
    })
  )

  live(
    "leaves a Lease that is taken between the read and the removal",
    Effect.gen(function*() {
      const { cluster, edit, released } = yield* withLease
      yield* released
      const client = yield* KubernetesClient.KubernetesClient
      const racing = KubernetesClient.KubernetesClient.of({
        ...client,
        request: (request) =>
          Effect.tap(
            client.request(request),
            () =>
              request.method === "GET" ? edit({ spec: { holderIdentity: "b", leaseDurationSeconds: 15 } }) : Effect.void
          )
      })
      assert.strictEqual(
        yield* Effect.provideService(remove, KubernetesClient.KubernetesClient, racing),
        "changed"
      )
      assert.strictEqual((yield* cluster.lease(key))?.holderIdentity, "b")
    })
  )

  live(
    "names the rule where the right is missing",
    Effect.gen(function*() {
      const { cluster, forbid, released } = yield* withLease
      yield* released
      yield* forbid({}, ["delete"])
      const error = yield* Effect.flip(remove)
      assert.strictEqual(error.reason._tag, "LeaseForbidden")
      assert.include(error.message, `verbs: ["delete"]`)
      assert.include(error.message, `resourceNames: ["tenant-red"]`)
      assert.isDefined(yield* cluster.lease(key))
    })
  )
})
