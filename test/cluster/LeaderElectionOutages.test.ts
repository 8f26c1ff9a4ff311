/**
 * Trouble of the cluster that costs no healthy leader, and ends no candidate: a webhook on Leases with nothing behind
 * it, rights that are missing for a while, the pages of something in front of the API server. client-go beside ours.
 */
import { assert, describe } from "@effect/vitest"
import { createServer } from "node:net"
import type { AddressInfo } from "node:net"
import { setTimeout as sleep } from "node:timers/promises"
import { vi } from "vitest"
import { startGo } from "./support/clientGo.ts"
import { assertBetween, leaseName, milliseconds, releasedLease, type Trial } from "./support/Trial.ts"
import { makeTrials } from "./support/trials.ts"
import { leaseRules } from "./utils/ApiClient.ts"
import { HttpFaultProxy } from "./utils/HttpFaultProxy.ts"

const outageSeconds = Number(process.env["OUTAGE_SECONDS"] ?? "45")

vi.setConfig({ testTimeout: 180_000 + outageSeconds * 1_000 })

const trial = makeTrials()
const { duration, slack } = milliseconds

/** Accepts connections, and never says a word. */
const blackHole = async () => {
  const server = createServer((socket) => void socket.on("error", () => {}))
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  return { port: (server.address() as AddressInfo).port, [Symbol.dispose]: () => void server.close() }
}

const webhooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"

/** Every write of a Lease in this namespace takes 3 s: what is asked first does not answer, and is ignored then. */
const addWebhook = async ({ admin, namespace }: Trial, port: number) => {
  const name = `hole-${namespace}`
  await admin.ok("POST", webhooks, {
    apiVersion: "admissionregistration.k8s.io/v1",
    kind: "ValidatingWebhookConfiguration",
    metadata: { name },
    webhooks: [{
      name: "hole.example.com",
      admissionReviewVersions: ["v1"],
      sideEffects: "None",
      failurePolicy: "Ignore",
      timeoutSeconds: 3,
      clientConfig: { url: `https://127.0.0.1:${port}/` },
      namespaceSelector: { matchLabels: { "kubernetes.io/metadata.name": namespace } },
      rules: [{
        apiGroups: ["coordination.k8s.io"],
        apiVersions: ["v1"],
        operations: ["CREATE", "UPDATE"],
        resources: ["leases"]
      }]
    }]
  })
  return { [Symbol.asyncDispose]: () => admin.ok("DELETE", `${webhooks}/${name}`).then(() => {}) }
}

describe.concurrent("a webhook on Leases behind which nobody answers", () => {
  trial("costs no leader its term, and keeps nobody from taking a released Lease; nor does it with client-go", {
    lease: releasedLease,
    features: ["clientGo"]
  }, async (trial) => {
    const { admin, namespace } = trial
    // The defaults: with 5 s there would be less time between two renewals than one of them takes.
    const { follower, leader } = await trial.pair({ leaseDuration: 15 }, { leaseDuration: 15 })
    const timing = { leaseDuration: "15s", renewDeadline: "10s", retryPeriod: "2s" }
    await admin.createLease(namespace, "of-client-go", releasedLease)
    await using go = await startGo(trial, "go", { lease: "of-client-go", timing })
    await go.waitFor(({ event }) => event === "leading", 40_000)

    using hole = await blackHole()
    await using _webhook = await addWebhook(trial, hole.port)
    await sleep(2_000)
    const wrote = performance.now()
    await admin.patchLease(namespace, leaseName, { metadata: { labels: { touched: "yes" } } })
    assertBetween("a write", performance.now() - wrote, 2_500, 5_000)

    await sleep(outageSeconds * 1_000)
    assert.deepStrictEqual([leader.terms.length, leader.terms[0]!.ended, follower.terms.length], [1, Infinity, 0])
    assert.isFalse(go.values.some(({ event }) => event === "stopped"))

    const asked = leader.terminate()
    const next = await follower.first("leading", 30_000)
    assert.strictEqual(next.cause, "released")
    // A release that meets a renewal on its way is sent again; and the take.
    assertBetween("from SIGTERM to the next leader", next.mono - asked, 3_000, 14_000)
    await sleep(15_000)
    assert.strictEqual(follower.terms[0]!.ended, Infinity)
  })
})

describe.concurrent("nobody ends", () => {
  trial("when everything is refused for half a minute", { lease: releasedLease }, async (trial) => {
    const { follower, leader } = await trial.pair()
    await trial.admin.putRole(trial.namespace, "candidate", [])
    const lost = await leader.first("lost", 20_000)
    assert.strictEqual(lost.reason, "RenewDeadlineExceeded")
    await sleep(30_000)
    const lines = [leader, follower].map(({ process }) => process.lines.length)
    await trial.admin.putRole(trial.namespace, "candidate", leaseRules(leaseName))
    const given = performance.now()
    await Promise.race([
      leader.first("leading", 30_000, lines[0]),
      follower.first("leading", 30_000, lines[1])
    ])
    assertBetween("from the rights to the next leader", performance.now() - given, 0, 2 * duration + slack)
    assert.isTrue(leader.process.running && follower.process.running)
  })

  trial("when something in front of the API server answers with pages of its own", {
    lease: releasedLease
  }, async (trial) => {
    const pages = [
      { status: 404, headers: { "content-type": "text/html" }, body: "<h1>Not found</h1>" },
      { status: 400, headers: { "content-type": "text/html" }, body: "<h1>Bad request</h1>" },
      { status: 302, headers: { location: "https://login.example.com/" }, body: "" },
      { status: 200, headers: { "content-type": "text/html" }, body: "<h1>Sign in</h1>" },
      { status: 200, headers: { "content-type": "application/json" }, body: "{\"kind\":\"Lease\",\"metadata\":{\"na" },
      { status: 403, headers: { "content-type": "text/html" }, body: "<h1>Blocked</h1>" }
    ]
    await using proxy = await HttpFaultProxy.start({ url: trial.cluster.url, ca: trial.cluster.ca })
    const { follower, leader } = await trial.pair({ through: proxy }, { through: proxy })
    let asked = 0
    proxy.rule = () => ({ respond: pages[asked++ % pages.length]! })
    proxy.cut()
    await sleep(6_000)
    const lines = [leader, follower].map(({ process }) => process.lines.length)
    proxy.rule = () => undefined
    proxy.cut()
    assert.isAbove(asked, pages.length)
    await Promise.race([
      leader.first("leading", 30_000, lines[0]),
      follower.first("leading", 30_000, lines[1])
    ])
    assert.isTrue(leader.process.running && follower.process.running)
  })
})
