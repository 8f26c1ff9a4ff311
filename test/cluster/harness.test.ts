import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { spawnSync } from "node:child_process"
import { existsSync } from "node:fs"
import { setTimeout as sleep } from "node:timers/promises"
import { HttpFaultProxy, tooManyRequests } from "./utils/HttpFaultProxy.ts"
import { startCluster } from "./utils/KubeCluster.ts"
import { cleanEnvironment, JsonLinesProcess } from "./utils/Processes.ts"
import { Proxy } from "./utils/Proxy.ts"
import { eventually, scoped, sharedCluster, skipWithout } from "./utils/Testing.ts"

const failure = (promise: Promise<unknown>): Promise<Error> =>
  promise.then(() => {
    throw new Error("It should have failed")
  }, (error: Error) => error)

describe("the cluster", () => {
  it("keeps Leases, and a witness sees each change", async () => {
    await using cluster = await sharedCluster()
    const { admin } = cluster
    const namespace = await admin.createNamespace()
    await using observer = await admin.observeLease(namespace, "a")
    const created = await admin.createLease(namespace, "a", { holderIdentity: "one", leaseDurationSeconds: 15 })
    await admin.patchLease(namespace, "a", { spec: { holderIdentity: "two" } })
    await admin.putLease(namespace, { ...created, metadata: { name: "a" }, spec: {} }).then(
      () => assert.fail("a replacement without a version was accepted"),
      (error) => assert.strictEqual(error.answer.status, 422)
    )
    assert.strictEqual((await admin.listLeases(namespace)).length, 1)
    assert.isTrue(await admin.deleteLease(namespace, "a"))
    assert.isFalse(await admin.deleteLease(namespace, "a"))
    await observer.waitFor((event) => event.type === "DELETED")
    assert.deepStrictEqual(observer.events.map((event) => [event.type, event.lease.spec.holderIdentity]), [
      ["ADDED", "one"],
      ["MODIFIED", "two"],
      ["DELETED", "two"]
    ])
  })

  it("collects a Lease when its Pod is gone, and not before", async (context) => {
    await using cluster = await sharedCluster()
    skipWithout(context, cluster, "garbageCollector")
    const { admin } = cluster
    const namespace = await admin.createNamespace()
    const pod = await admin.createPod(namespace, "replica-1")
    const owner = { apiVersion: "v1", kind: "Pod", name: "replica-1", uid: pod.metadata.uid }
    await admin.createLease(namespace, "a", {}, { ownerReferences: [owner] })
    await sleep(200)
    assert.isDefined(await admin.getLease(namespace, "a"))
    await admin.deletePod(namespace, "replica-1")
    await admin.waitForLease(namespace, "a", (lease) => lease === undefined)
  })

  it("gives a candidate the rights to its own Lease and no others", async () => {
    await using cluster = await sharedCluster()
    const { admin } = cluster
    const namespace = await admin.createNamespace()
    const token = await admin.createCandidateAccount(namespace, "mine", { watch: false })
    const leases = `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases`
    const status = async (method: string, path: string, body?: unknown, as = token) =>
      (await admin.request(method, path, body, { token: as })).status
    assert.strictEqual(await status("POST", leases, { metadata: { name: "mine" }, spec: {} }), 201)
    assert.strictEqual(await status("GET", `${leases}/mine`), 200)
    assert.strictEqual(await status("PATCH", `${leases}/mine`, { spec: { holderIdentity: "me" } }), 200)
    assert.strictEqual(await status("GET", `${leases}/other`), 403)
    assert.strictEqual(await status("DELETE", `${leases}/mine`), 403)
    assert.strictEqual(await status("GET", `${leases}?watch=1&fieldSelector=metadata.name%3Dmine`), 403)
    assert.strictEqual(await status("GET", `${leases}/mine`, undefined, "wrong"), 401)
    await admin.deleteRoleBinding(namespace, "candidate", "candidate")
    await eventually("the right is gone", async () => (await status("GET", `${leases}/mine`)) === 403)
  })

  it("records requests", async (context) => {
    await using cluster = await sharedCluster()
    skipWithout(context, cluster, "audit")
    const { admin } = cluster
    const namespace = await admin.createNamespace()
    const token = await admin.createCandidateAccount(namespace, "a")
    const since = Date.now() - 1
    await admin.request("GET", `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases/a`, undefined, { token })
    const user = `system:serviceaccount:${namespace}:candidate`
    const entries = await eventually("an entry", async () => {
      const entries = await cluster.auditLog({ since, user })
      return entries.length > 0 && entries
    })
    assert.deepStrictEqual(entries.map((entry) => [entry.verb, entry.responseStatus?.code]), [["get", 404]])
  })

  it("applies a manifest again", async () => {
    await using cluster = await sharedCluster()
    const namespace = await cluster.admin.createNamespace()
    const manifest = (image: string) =>
      `apiVersion: v1
kind: ServiceAccount
metadata: { name: web }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: web }
spec:
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec: { containers: [{ name: web, image: "${image}" }] }
`
    await cluster.admin.apply(manifest("one"), namespace)
    const [, deployment] = await cluster.admin.apply(manifest("two"), namespace)
    assert.strictEqual(deployment.spec.template.spec.containers[0].image, "two")
  })
})

describe("a cluster of one's own", () => {
  it("stops and starts the API server, and freezes etcd", async (context) => {
    await using shared = await sharedCluster()
    if (shared.descriptor.kind === "existing") skipWithout(context, shared, "restart", "freeze")
    await using cluster = await startCluster({ garbageCollector: false })
    const { admin } = cluster
    const namespace = await admin.createNamespace()
    await using observer = await admin.observeLease(namespace, "a")
    await admin.createLease(namespace, "a")
    await cluster.stopApiServer()
    await failure(admin.getLease(namespace, "a"))
    await cluster.startApiServer()
    await admin.patchLease(namespace, "a", { spec: { holderIdentity: "one" } })
    // The witness has gone on.
    await observer.waitFor((event) => event.lease.spec.holderIdentity === "one")

    cluster.freezeEtcd()
    const path = `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases/a`
    const error = await failure(admin.request("PATCH", path, { spec: { holderIdentity: "two" } }, { timeout: 500 }))
    assert.include(error.message, "no answer within 500 ms")
    cluster.thawEtcd()
    await admin.waitForLease(namespace, "a", (lease) => lease !== undefined)

    const second = await cluster.addApiServer()
    const other = cluster.clientAs({ token: cluster.descriptor.local!.adminToken, server: second.url })
    assert.isDefined(await other.getLease(namespace, "a"))
    other.close()
  })
})

describe("Proxy", () => {
  // A candidate's view: the API server through the proxy, each request on a new connection.
  const through = async (modeOf: (proxy: Proxy, get: (timeout?: number) => Promise<number>) => Promise<void>) => {
    await using cluster = await sharedCluster()
    const namespace = await cluster.admin.createNamespace()
    const token = await cluster.admin.createCandidateAccount(namespace, "a")
    await using proxy = await Proxy.start(cluster)
    const client = cluster.clientAs({ token, server: proxy.url })
    const path = `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases/a`
    await modeOf(
      proxy,
      // A token of its own in a request means a connection of its own.
      async (timeout = 2_000) => (await client.request("GET", path, undefined, { token, timeout })).status
    )
    client.close()
  }

  it("passes, delays and refuses", () =>
    through(async (proxy, get) => {
      assert.strictEqual(await get(), 404)
      proxy.setDelay(100)
      const started = performance.now()
      assert.strictEqual(await get(), 404)
      // One round trip at least for TLS, one for the request.
      assert.isAbove(performance.now() - started, 390)
      proxy.setDelay(0)
      await proxy.set("refuse")
      assert.include((await failure(get())).message, "ECONNREFUSED")
      await proxy.set("pass")
      assert.strictEqual(await get(), 404)
    }))

  it("stalls, and goes on where it was", () =>
    through(async (proxy, get) => {
      await proxy.set("stall")
      assert.include((await failure(get(300))).message, "no answer within")
      const waiting = get(5_000)
      await sleep(300)
      await proxy.set("pass")
      assert.strictEqual(await waiting, 404)
    }))

  it("resets what is open", () =>
    through(async (proxy, get) => {
      await proxy.set("stall")
      const waiting = failure(get())
      await sleep(100)
      assert.strictEqual(proxy.connections, 1)
      proxy.cut()
      assert.match((await waiting).message, /ECONNRESET|hang up|disconnected/)
    }))

  it("lets a write take effect and keeps its answer", async () => {
    await using cluster = await sharedCluster()
    const namespace = await cluster.admin.createNamespace()
    const token = await cluster.admin.createCandidateAccount(namespace, "a")
    await using proxy = await Proxy.start(cluster)
    // One connection for both requests: the second stalls only on its way back.
    const client = cluster.clientAs({ token, server: proxy.url })
    await client.createLease(namespace, "a")
    await proxy.set("stallAnswers")
    const path = `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases/a`
    const patch = { spec: { holderIdentity: "written" } }
    await failure(client.request("PATCH", path, patch, { timeout: 500 }))
    assert.strictEqual((await cluster.admin.getLease(namespace, "a"))?.spec.holderIdentity, "written")
    client.close()
  })
})

describe("HttpFaultProxy", () => {
  it.live("answers by itself, loses answers and cuts watches", () =>
    Effect.gen(function*() {
      const cluster = yield* scoped(sharedCluster)
      const proxy = yield* scoped(() => HttpFaultProxy.start(cluster))
      yield* Effect.promise(async () => {
        const namespace = await cluster.admin.createNamespace()
        const token = await cluster.admin.createCandidateAccount(namespace, "a")
        const client = cluster.clientAs({ token, server: proxy.url, ca: proxy.ca })
        const leases = `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases`
        await client.createLease(namespace, "a")

        proxy.rule = (request) => request.method === "PATCH" ? tooManyRequests(3) : undefined
        const refused = await client.request("PATCH", `${leases}/a`, { spec: { holderIdentity: "one" } })
        assert.deepStrictEqual([refused.status, refused.headers["retry-after"]], [429, "3"])
        assert.isDefined(await client.getLease(namespace, "a"))

        proxy.rule = () => ({ dropAnswer: true })
        await failure(client.request("PATCH", `${leases}/a`, { spec: { holderIdentity: "two" } }))
        assert.strictEqual((await cluster.admin.getLease(namespace, "a"))?.spec.holderIdentity, "two")

        proxy.rule = (request) => request.watch ? { cutAfter: 300 } : undefined
        const started = performance.now()
        await failure(client.request("GET", `${leases}?watch=1&fieldSelector=metadata.name%3Da`))
        assert.isAbove(performance.now() - started, 290)
        assert.isBelow(performance.now() - started, 2_000)

        proxy.rule = () => ({ hang: true })
        await failure(client.request("GET", `${leases}/a`, undefined, { timeout: 200 }))
        assert.deepStrictEqual(proxy.requests.map((request) => request.method), [
          "POST",
          "PATCH",
          "GET",
          "PATCH",
          "GET",
          "GET"
        ])
        client.close()
      })
    }))
})

describe("Processes", () => {
  it("collects lines, and fails with what the process said", async () => {
    const script = "console.log(JSON.stringify({ a: 1 })); console.error('some reason'); setTimeout(() => {}, 60_000)"
    await using child = JsonLinesProcess.start<{ a: number }>({ command: process.execPath, args: ["-e", script] })
    const line = await child.waitFor((value) => value.a === 1)
    assert.isBelow(Math.abs(line.receivedAt - Date.now()), 1_000)
    const error = await failure(child.waitFor((value) => value.a === 2, 100))
    assert.include(error.message, "some reason")
    child.signal("SIGTERM")
    assert.strictEqual((await child.exit).signal, "SIGTERM")
    assert.include((await failure(child.waitFor((value) => value.a === 2))).message, "ended with SIGTERM")
  })

  it("leaves nothing behind when its owner is killed", async () => {
    const watchdog = new URL("./utils/Watchdog.ts", import.meta.url)
    const script = `
      const { spawnGuarded, temporaryDirectory } = await import(${JSON.stringify(watchdog.href)})
      const directory = await temporaryDirectory("leader-election-test")
      const child = spawnGuarded("sleep", ["600"], { stdio: "ignore" })
      console.log(JSON.stringify({ directory: directory.path, pid: child.pid }))
    `
    await using owner = JsonLinesProcess.start<{ directory: string; pid: number }>({
      command: process.execPath,
      args: ["--input-type=module", "-e", script]
    })
    const { directory, pid } = (await owner.waitFor(() => true)).value
    // A process that has ended may still be listed, as a zombie, where nobody waits for orphans.
    const state = () => spawnSync("ps", ["-o", "stat=", "-p", String(pid)], { encoding: "utf8" }).stdout.trim()
    assert.match(state(), /^S/)
    owner.signal("SIGKILL")
    await owner.exit
    await eventually("the directory is gone", async () => !existsSync(directory))
    assert.match(state(), /^(Z.*)?$/)
  })

  it("runs the candidate of client-go: it leads, releases, and another takes over", async (context) => {
    await using cluster = await sharedCluster()
    skipWithout(context, cluster, "clientGo")
    const { admin } = cluster
    const namespace = await admin.createNamespace()
    await admin.createServiceAccount(namespace, "go")
    await admin.putRole(namespace, "go", [
      { apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["create", "get", "update"] }
    ])
    await admin.putRoleBinding(namespace, "go", "go")
    const kubeconfig = await cluster.writeKubeconfig({ token: await admin.createToken(namespace, "go"), namespace })
    const start = (identity: string) =>
      JsonLinesProcess.start<{ at: number; event: string; identity: string; leader?: string }>({
        name: identity,
        command: cluster.candidateProgram!,
        args: [
          `--kubeconfig=${kubeconfig}`,
          `--namespace=${namespace}`,
          "--name=a",
          `--identity=${identity}`,
          "--lease-duration=3s",
          "--renew-deadline=2s",
          "--retry-period=200ms",
          "--release"
        ],
        env: cleanEnvironment()
      })
    await using one = start("one")
    await one.waitFor(({ event }) => event === "leading")
    await using two = start("two")
    await two.waitFor(({ event, leader }) => event === "newLeader" && leader === "one")
    one.signal("SIGTERM")
    await two.waitFor(({ event }) => event === "leading")
    assert.strictEqual((await one.exit).code, 0)
    assert.deepStrictEqual(one.values.map(({ event }) => event).slice(-2), ["stopped", "released"])
    assert.strictEqual((await admin.getLease(namespace, "a"))?.spec.holderIdentity, "two")
  })
})
