/**
 * `effect-kubernetes-leader-election manifest`: what it prints, applied to a real API server in a namespace with
 * PodSecurity `restricted` and a quota, is all that an election needs. What takes part has exactly the printed Role.
 */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Layer, Redacted } from "effect"
import {
  KubernetesClient,
  KubernetesEvents,
  KubernetesLeaderElection,
  KubernetesLeaderElections,
  LeaderElection,
  LeaderElections
} from "effect-kubernetes-leader-election"
import { afterAll, beforeAll } from "vitest"
import { bundle, type Executable, Running } from "../cli/Executable.ts"
import { observe } from "../utils/observed.ts"
import { eventually, sharedCluster } from "./utils/Testing.ts"

let executable: Executable

beforeAll(async () => {
  executable = await bundle()
})
afterAll(async () => {
  await executable[Symbol.asyncDispose]()
})

const event = (name: string) => ({ stdout }: { readonly stdout: string }) => stdout.includes(`"event":"${name}"`)

/** A namespace as careful administrators make it. */
const restrictedNamespace = async (admin: Awaited<ReturnType<typeof sharedCluster>>["admin"]) => {
  const namespace = await admin.createNamespace("manifest")
  await admin.ok("PATCH", `/api/v1/namespaces/${namespace}`, {
    metadata: { labels: { "pod-security.kubernetes.io/enforce": "restricted" } }
  })
  const hard = { "requests.cpu": "1", "requests.memory": "1Gi", "limits.memory": "1Gi" }
  const quotas = `/api/v1/namespaces/${namespace}/resourcequotas`
  await admin.ok("POST", quotas, { metadata: { name: "quota" }, spec: { hard } })
  // A controller would do so.
  await admin.ok("PATCH", `${quotas}/quota/status`, {
    status: { hard, used: { "requests.cpu": "0", "requests.memory": "0", "limits.memory": "0" } }
  })
  return namespace
}

/** Prints and applies it; gives what starts a Pod of the Deployment, as far as there is no kubelet. */
const applied = async (options: ReadonlyArray<string>) => {
  const cluster = await sharedCluster()
  const { admin } = cluster
  const namespace = await restrictedNamespace(admin)
  await using printed = new Running(process.execPath, [
    executable.file,
    "manifest",
    "--name=invoices",
    `--namespace=${namespace}`,
    "--service-account=accountant",
    "--image=invoices:1",
    ...options
  ], {})
  const objects = await admin.apply(await printed.output)
  assert.strictEqual((await printed.exit).code, 0)
  const template = objects.find(({ kind }) => kind === "Deployment").spec.template
  const token = await admin.createToken(namespace, template.spec.serviceAccountName)
  const kubeconfig = await cluster.writeKubeconfig({ token, namespace })
  const started: Array<Running> = []
  /** The command in the Pod's container of this index, with the variables that a kubelet would set. */
  const start = async (name: string, container: (spec: any) => any, args: ReadonlyArray<string>) => {
    // As the Deployment's controller would: the admission of Pods decides whether it may.
    const { metadata } = await admin.createPod(namespace, name, template.spec)
    const fields: Record<string, string> = {
      "metadata.name": metadata.name,
      "metadata.uid": metadata.uid,
      "metadata.namespace": namespace
    }
    const variables = container(template.spec).env.map(({ name, value, valueFrom }: any) => [
      name,
      value ?? fields[valueFrom.fieldRef.fieldPath]
    ])
    const running = new Running(
      process.execPath,
      [executable.file, ...args, "--kubeconfig", kubeconfig],
      Object.fromEntries(variables)
    )
    started.push(running)
    return running
  }
  return {
    cluster,
    admin,
    namespace,
    objects,
    template,
    token,
    start,
    [Symbol.asyncDispose]: async () => {
      await Promise.all(started.map((running) => running[Symbol.asyncDispose]()))
      await admin.deleteNamespace(namespace)
      await cluster[Symbol.asyncDispose]()
    }
  }
}

describe("manifest", () => {
  it.each([["with", []], ["without", ["--no-watch"]]])("is enough for an election, %s watch", async (_, options) => {
    await using trial = await applied(["--lease-duration=5s", "--ending=10s", "--probe-port=8080", ...options])
    const { admin, namespace, objects, start, template } = trial
    assert.strictEqual(template.spec.serviceAccountName, "accountant")
    assert.strictEqual(template.spec.terminationGracePeriodSeconds, 16)
    assert.strictEqual(objects.find(({ kind }) => kind === "Deployment").spec.replicas, 2)
    const main = (spec: any) => spec.containers[0]
    const first = await start("invoices-a", main, ["candidate"])
    await first.until(event("leading"))
    const second = await start("invoices-b", main, ["candidate"])
    await second.until(event("following"))
    const lease = await admin.getLease(namespace, "invoices")
    assert.deepStrictEqual(
      lease?.metadata.ownerReferences?.map(({ kind, name }) => [kind, name]) ?? [],
      // The connection is not the Pod's own: there is a kubeconfig instead of a kubelet.
      lease?.metadata.ownerReferences === undefined ? [] : [["Pod", "invoices-a"]]
    )
    first.signal("SIGTERM")
    assert.strictEqual((await first.exit).code, 0)
    await second.until(event("leading"))
    second.signal("SIGTERM")
    assert.strictEqual((await second.exit).code, 0)
    assert.strictEqual((await admin.getLease(namespace, "invoices"))?.spec.holderIdentity, "")
    assert.notMatch(first.stderr + second.stderr, /forbidden/i)
  })

  it("runs serve beside a program", async () => {
    await using trial = await applied(["--sidecar=le:1", "--lease-duration=5s"])
    const sidecar = (spec: any) => spec.initContainers[0]
    const { args } = sidecar(trial.template.spec)
    // Any free ports: here all Pods are on one machine.
    const own = args.map((arg: string) => arg === "9090" ? "0" : arg)
    const running = await trial.start("invoices-a", sidecar, [...own, "--port", "0"])
    await running.until(({ stderr }) => /port \d+ of/.test(stderr) && /port \d+ for probes/.test(stderr))
    const url = `http://127.0.0.1:${/port (\d+) of/.exec(running.stderr)![1]}`
    await eventually("it leads", async () => (await fetch(`${url}/leader`)).status === 200)
    const probed = `http://127.0.0.1:${/port (\d+) for probes/.exec(running.stderr)![1]}`
    for (
      const { httpGet } of [sidecar(trial.template.spec).livenessProbe, sidecar(trial.template.spec).readinessProbe]
    ) {
      assert.strictEqual((await fetch(probed + httpGet.path)).status, 200)
    }
    running.signal("SIGTERM")
    await running.exit
    assert.notMatch(running.stderr, /forbidden/i)
  })

  it.each([["shards", ["--shards"]], ["StatsD", ["--sidecar=le:1", "--statsd=[fd00::1]:8125"]]])(
    "is admitted with %s",
    async (_, options) => {
      await using trial = await applied(options)
      const { metadata } = await trial.admin.createPod(trial.namespace, "invoices-a", trial.template.spec)
      assert.isString(metadata.uid)
    }
  )

  it("grants Leases of any name, Events, and a priority of their own", async () => {
    await using trial = await applied(["--many", "--events"])
    const { admin, cluster, namespace, token } = trial
    const observed = observe()
    const client = KubernetesClient.layerServer({ server: cluster.url, ca: cluster.ca!, token: Redacted.make(token) })
    const options = { namespace, identity: "one", newLease: "lead" } as const
    const leads = (started: Deferred.Deferred<void>) =>
      Effect.andThen(Deferred.succeed(started, undefined), Effect.never)
    await Effect.gen(function*() {
      const started = [yield* Deferred.make<void>(), yield* Deferred.make<void>(), yield* Deferred.make<void>()]
      for (const [index, name] of ["red", "blue"].entries()) {
        yield* LeaderElections.LeaderElections.use((elections) =>
          elections.whileLeadingForever(name, leads(started[index]!))
        ).pipe(
          Effect.provide(Layer.provide(KubernetesLeaderElections.layer(options), client)),
          Effect.forkScoped
        )
      }
      yield* LeaderElection.whileLeading(leads(started[2]!)).pipe(
        Effect.provide(
          KubernetesEvents.layer.pipe(
            Layer.provideMerge(KubernetesLeaderElection.layer({ ...options, name: "green", pod: undefined })),
            Layer.provide(client)
          )
        ),
        Effect.forkScoped
      )
      for (const each of started) {
        yield* Deferred.await(each)
      }
      yield* Effect.promise(() =>
        eventually("the Event", async () => {
          const { items } = await admin.ok("GET", `/apis/events.k8s.io/v1/namespaces/${namespace}/events`)
          return items.some(({ reason }: any) => reason === "BecameLeader")
        })
      )
    }).pipe(Effect.scoped, Effect.provideContext(observed.context), Effect.runPromise)
    assert.deepStrictEqual(
      (await admin.listLeases(namespace)).map(({ metadata }) => metadata.name).toSorted(),
      ["blue", "green", "red"]
    )
    const schema = trial.objects.find(({ kind }) => kind === "FlowSchema")
    const red = `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases/red`
    await eventually("the FlowSchema is used", async () => {
      const { headers } = await admin.request("GET", red, undefined, { token })
      return headers["x-kubernetes-pf-flowschema-uid"] === schema.metadata.uid
    })
    await admin.ok("DELETE", `/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/${schema.metadata.name}`)
  })
})
