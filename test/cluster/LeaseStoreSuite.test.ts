import { layer } from "@effect/vitest"
import { Context, Effect, Layer, Redacted } from "effect"
import * as KubernetesClient from "../../src/kubernetes/KubernetesClient.ts"
import * as KubernetesLeaseStore from "../../src/kubernetes/KubernetesLeaseStore.ts"
import { LeaseStore } from "../../src/LeaseStore.ts"
import * as LeaseApiSuite from "../utils/LeaseApiSuite.ts"
import * as LeaseStoreSuite from "../utils/LeaseStoreSuite.ts"
import { type KubeCluster, startCluster } from "./utils/KubeCluster.ts"
import { scoped, sharedCluster } from "./utils/Testing.ts"

/**
 * A cluster in which version 1 is too old to watch from. An API server that has seen all versions knows none that is, so
 * a local one is started again after something was written.
 */
const agedCluster = async (): Promise<KubeCluster> => {
  const shared = await sharedCluster()
  if (shared.descriptor.kind === "existing") return shared
  await shared[Symbol.asyncDispose]()
  const cluster = await startCluster()
  await cluster.admin.createNamespace()
  await cluster.stopApiServer()
  await cluster.startApiServer()
  return cluster
}

/** A user with every right, by token: the administrator may be known by a certificate only. */
const createSuperuser = Effect.fnUntraced(function*(cluster: KubeCluster, namespace: string) {
  const { admin } = cluster
  const bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
  yield* Effect.acquireRelease(
    Effect.promise(async () => {
      await admin.createServiceAccount(namespace, "superuser")
      await admin.ok("POST", bindings, {
        metadata: { name: namespace },
        roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: "cluster-admin" },
        subjects: [{ kind: "ServiceAccount", name: "superuser", namespace }]
      })
    }),
    () => Effect.promise(() => admin.request("DELETE", `${bindings}/${namespace}`))
  )
  return yield* Effect.promise(() => admin.createToken(namespace, "superuser"))
})

/** One cluster for both suites: starting it takes longer than they do. */
class Shared extends Context.Service<Shared, {
  readonly cluster: KubeCluster
  readonly namespace: string
  readonly token: string
  readonly client: ReturnType<typeof LeaseApiSuite.makeClient>
}>()("test/cluster/LeaseStoreSuite/Shared") {}

const shared = Layer.effect(
  Shared,
  Effect.gen(function*() {
    const cluster = yield* scoped(agedCluster)
    const namespace = yield* Effect.promise(() => cluster.admin.createNamespace())
    const token = yield* createSuperuser(cluster, namespace)
    const client = LeaseApiSuite.makeClient({ url: cluster.url, ca: cluster.ca, token })
    // A new right takes some milliseconds to be known.
    yield* client.request("GET", "/api/v1/namespaces").pipe(
      Effect.repeat({ until: ({ status }) => status === 200, times: 100 })
    )
    return { cluster, namespace, token, client }
  })
)

const apiEnvironment = Layer.effect(
  LeaseApiSuite.Environment,
  Effect.gen(function*() {
    const { client, cluster, namespace } = yield* Shared
    yield* Effect.promise(() => cluster.admin.createServiceAccount(namespace, "stranger"))
    const stranger = {
      token: yield* Effect.promise(() => cluster.admin.createToken(namespace, "stranger")),
      user: `system:serviceaccount:${namespace}:stranger`
    }
    return {
      client,
      namespace,
      missingNamespace: `${namespace}-missing`,
      stranger,
      garbageCollector: cluster.missing("garbageCollector") === undefined
    }
  })
)

const storeEnvironment = Layer.effect(
  LeaseStoreSuite.Environment,
  Effect.gen(function*() {
    const { client, cluster, namespace, token } = yield* Shared
    return {
      namespace,
      missingNamespace: `${namespace}-missing`,
      connect: Effect.suspend(() => {
        const { ca, url } = cluster
        const connection = KubernetesClient.layerServer({ server: url, token: Redacted.make(token), ca })
        return Layer.build(Layer.provide(KubernetesLeaseStore.layer, connection)).pipe(
          Effect.map(Context.get(LeaseStore)),
          Effect.orDie
        )
      }),
      admin: LeaseApiSuite.makeAdmin(client, namespace),
      tooOld: Effect.succeed(1n),
      garbageCollector: cluster.missing("garbageCollector") === undefined
    }
  })
)

layer(shared, { excludeTestServices: true, timeout: "3 minutes" })((it) => {
  // What the local server is held to is the newest Kubernetes: an older one says some things in other words.
  if (process.env["TEST_KUBERNETES"] !== "oldest") {
    it.layer(apiEnvironment)("Lease API: kube-apiserver", LeaseApiSuite.tests)
  }
  it.layer(storeEnvironment)("LeaseStore: kube-apiserver", LeaseStoreSuite.tests)
})
