/**
 * Terms and handovers on a real API server: candidates are processes with the rights that the README gives them, most
 * of them with the service account's files of a Pod.
 */
import { assert, describe } from "@effect/vitest"
import { randomUUID } from "node:crypto"
import { setTimeout as sleep } from "node:timers/promises"
import { monotonicNow } from "./support/Terms.ts"
import { assertBetween, leaseDuration, leaseName, milliseconds, releasedLease } from "./support/Trial.ts"
import { makeTrials } from "./support/trials.ts"
import type { Lease } from "./utils/ApiClient.ts"
import { eventually } from "./utils/Testing.ts"

const trial = makeTrials()
const { duration, slack } = milliseconds

describe.concurrent("the first leader", () => {
  trial("waits leaseDuration on a Lease that did not exist (default settings)", {}, async (trial) => {
    const env = { LEADER_ELECTION_LEASE_DURATION: undefined }
    const candidates = await Promise.all([trial.candidate({ env }), trial.candidate({ env })])
    const { lease: { metadata, spec } } = await trial.observer.waitFor(({ type }) => type === "ADDED")
    const [leader, follower] = candidates[0].identity === spec.holderIdentity ? candidates : candidates.toReversed()
    const leading = await leader!.first("leading", 25_000)
    assertBetween("from creation to leading", leading.at - Date.parse(spec.acquireTime!), 15_000, 15_000 + slack)
    assert.strictEqual(leading.cause, "created")
    assert.include(leader!.events, "pending")
    assert.strictEqual(spec.holderIdentity, leader!.identity)
    assert.strictEqual(spec.leaseDurationSeconds, 15)
    assert.strictEqual(spec.leaseTransitions, 0)
    const { name, uid } = leader!.pod.metadata
    assert.deepStrictEqual(metadata.ownerReferences, [{ apiVersion: "v1", kind: "Pod", name, uid }])
    await leader!.first("step")
    assert.deepStrictEqual(follower!.terms, [])
  })

  trial("leads at once on an old Lease that was released", { lease: releasedLease }, async (trial) => {
    const candidate = await trial.candidate({ connection: "kubeconfig" })
    const leading = await candidate.first("leading")
    assertBetween("from the campaign's start to leading", leading.mono - candidate.since("following"), 0, slack)
    assert.strictEqual(leading.cause, "released")
    assert.strictEqual(leading.transitions, 8)
    // With a kubeconfig it may be the Lease of another cluster, where this Pod does not exist.
    assert.isUndefined((await trial.lease()).metadata.ownerReferences)
  })
})

describe.concurrent("a handover", () => {
  trial("after SIGTERM takes less than a second, and comes after the program's end", {
    lease: releasedLease
  }, async (trial) => {
    const { follower, leader } = await trial.pair({ env: { ENDING: "300ms" } })
    const asked = leader.terminate()
    const leading = await follower.first("leading")
    assertBetween("from SIGTERM to the next leader", leading.mono - asked, 300, 1_000)
    assert.strictEqual(leading.cause, "released")
    await leader.exit()
    const events = leader.events
    assert.deepStrictEqual(events.filter((event) => event !== "idle" && event !== "following"), [
      "started",
      "leading",
      "ending",
      "ended",
      "exit"
    ])
    const ended = await leader.first("ended")
    const released = await trial.observer.waitFor(({ at, lease }) => at > ended.at && lease.spec.holderIdentity === "")
    assert.strictEqual(released.lease.spec.leaseDurationSeconds, 1)
    assert.isUndefined(released.lease.metadata.ownerReferences)
    // While its program was ending, the leader still held the Lease.
    const earlier = trial.observer.events.filter(({ at }) =>
      at > (asked - monotonicNow()) + Date.now() && at < ended.at
    )
    for (const { lease } of earlier) assert.strictEqual(lease.spec.holderIdentity, leader.identity)
  })

  trial("after kill -9 takes place within a second of the lease's end", { lease: releasedLease }, async (trial) => {
    const { follower, leader } = await trial.pair({}, { connection: "kubeconfig" })
    // A follower counts from the first renewal that it sees, and may have come just before the next one.
    await trial.change()
    await leader.kill()
    const leading = await follower.first("leading")
    const { at, lease } = trial.lastRenewal(leader)
    assertBetween("since the last renewal", leading.at - Date.parse(lease.spec.renewTime!), duration, Infinity)
    assertBetween("since the lease's end", leading.at - (at + duration), -200, 1_000)
    assert.strictEqual(leading.cause, "expired")
  })

  trial("to the same Pod's next container is immediate, before its lease runs out", {
    lease: releasedLease
  }, async (trial) => {
    const { follower, leader } = await trial.pair()
    const before = await leader.first("leading")
    await leader.kill()
    const restarted = await trial.candidate({ pod: leader.pod })
    const leading = await restarted.first("leading")
    assertBetween("from the campaign's start to leading", leading.mono - restarted.since("following"), 0, slack)
    assert.strictEqual(leading.cause, "resumed")
    assert.strictEqual(leading.transitions, before.transitions)
    assert.isAbove(Number(leading.fencingToken), Number(before.fencingToken))
    assert.deepStrictEqual(follower.terms, [])
  })

  trial("to a Pod of the same name with another uid is none: it waits like any other", {
    lease: releasedLease
  }, async (trial) => {
    const leader = await trial.candidate({ name: "replica-0" })
    await leader.first("leading")
    await leader.kill()
    // Else the Lease would go with the Pod.
    await trial.admin.patchLease(trial.namespace, leaseName, { metadata: { ownerReferences: null } })
    await trial.admin.deletePod(trial.namespace, "replica-0")
    const successor = await trial.candidate({ name: "replica-0" })
    assert.notStrictEqual(successor.identity, leader.identity)
    const leading = await successor.first("leading")
    assertBetween(
      "from the campaign's start to leading",
      leading.mono - successor.since("following"),
      duration - 100,
      duration + slack
    )
    assert.strictEqual(leading.cause, "expired")
  })
})

describe.concurrent("a Pod", () => {
  trial("that is deleted takes the Lease with it: the next leader follows one leaseDuration after its creation", {
    lease: releasedLease,
    features: ["garbageCollector"]
  }, async (trial) => {
    const { follower, leader } = await trial.pair()
    await leader.kill()
    await trial.admin.deletePod(trial.namespace, leader.pod.metadata.name)
    const deleted = await trial.observer.waitFor(({ type }) => type === "DELETED")
    const created = await trial.observer.waitFor(({ at, type }) => type === "ADDED" && at > deleted.at)
    assertBetween("from deletion to creation", created.at - deleted.at, 0, 500)
    const leading = await follower.first("leading")
    assertBetween(
      "from creation to leading",
      leading.at - Date.parse(created.lease.spec.acquireTime!),
      duration,
      duration + slack
    )
    assert.strictEqual(leading.cause, "created")
  })

  trial("that is deleted is replaced at once with newLease=lead", {
    lease: releasedLease,
    features: ["garbageCollector"]
  }, async (trial) => {
    const env = { LEADER_ELECTION_NEW_LEASE: "lead" }
    const { follower, leader } = await trial.pair({ env }, { env })
    await leader.kill()
    await trial.admin.deletePod(trial.namespace, leader.pod.metadata.name)
    const deleted = await trial.observer.waitFor(({ type }) => type === "DELETED")
    const leading = await follower.first("leading")
    assertBetween("from deletion to leading", leading.at - deleted.at, -100, 500)
  })

  trial("that POD_UID names, but that does not exist, is an error that says so", {
    features: ["garbageCollector"]
  }, async (trial) => {
    const uid = randomUUID()
    const candidate = await trial.candidate({ name: "replica-0", podUid: uid })
    await eventually("the error", async () => candidate.process.stderr.includes(`there is no Pod "replica-0" with uid`))
    assert.include(candidate.process.stderr, uid)
    assert.include(candidate.process.stderr, `in namespace ${trial.namespace}`)
    assert.include(candidate.process.stderr, "Set POD_NAME, POD_UID and POD_NAMESPACE from the downward API")
    // It goes on, but not at full speed.
    await sleep(1_000)
    assert.isTrue(candidate.process.running)
    assert.strictEqual(trial.observer.events.filter(({ type }) => type === "ADDED").length, 1)
    assert.deepStrictEqual(candidate.terms, [])
  })

  trial("whose identity a second process has, too, ends the first one's candidacy with an error", {
    lease: releasedLease,
    // The first learns of it by an event, after the second has taken the Lease: what no election can prevent.
    verify: false
  }, async (trial) => {
    const first = await trial.candidate()
    await first.first("leading")
    const second = await trial.candidate({ pod: first.pod })
    assert.strictEqual((await second.first("leading")).cause, "resumed")
    assert.strictEqual((await first.first("lost")).reason, "DuplicateIdentity")
    const error = await first.first("error")
    assert.strictEqual(error.reason, "DuplicateIdentity")
    assert.include(error.message, `as "${first.identity}"`)
    assert.strictEqual((await first.exit()).code, 1)
  })
})

// What others leave behind. All of these are valid for the API server.
const others: Record<string, readonly [Lease["spec"], transitions: number]> = {
  "released by client-go: holder \"\" and 1 second": [{ ...releasedLease, leaseTransitions: 3 }, 3],
  "released with a null holder and 1 second": [{ ...releasedLease, holderIdentity: null, leaseTransitions: 4 }, 4],
  "released without any times": [{ holderIdentity: "", leaseDurationSeconds: 1 }, 0]
}

const unclear: Record<string, readonly [Lease["spec"], seconds: number]> = {
  "with an empty spec": [{}, leaseDuration],
  "with a spec of nulls": [{
    holderIdentity: null,
    leaseDurationSeconds: null,
    acquireTime: null,
    renewTime: null,
    leaseTransitions: null
  }, leaseDuration],
  "whose holder was nulled and whose duration stayed": [
    { ...releasedLease, holderIdentity: null, leaseDurationSeconds: 20 },
    leaseDuration
  ],
  "with a holder, and neither duration nor times": [{ holderIdentity: "someone" }, leaseDuration],
  "with a holder and its shorter duration": [{ holderIdentity: "someone", leaseDurationSeconds: 3 }, 3],
  "with a holder whose renewTime lies in the future": [
    {
      holderIdentity: "someone",
      leaseDurationSeconds: 3,
      renewTime: "2099-01-01T00:00:00.000000Z",
      acquireTime: "2099-01-01T00:00:00.000000Z"
    },
    3
  ]
}

describe.concurrent("a Lease of others", () => {
  for (const [title, [lease, transitions]] of Object.entries(others)) {
    trial(`${title}, is taken at once`, { lease }, async (trial) => {
      const candidate = await trial.candidate()
      const leading = await candidate.first("leading")
      assertBetween("from the campaign's start to leading", leading.mono - candidate.since("following"), 0, slack)
      assert.strictEqual(leading.cause, "released")
      assert.strictEqual(leading.transitions, transitions + 1)
    })
  }

  for (const [title, [lease, seconds]] of Object.entries(unclear)) {
    trial(`${title}, is taken after its duration without change, ${seconds} s`, { lease }, async (trial) => {
      const candidate = await trial.candidate()
      const leading = await candidate.first("leading")
      assertBetween(
        "from the campaign's start to leading",
        leading.mono - candidate.since("following"),
        seconds * 1_000,
        seconds * 1_000 + slack
      )
      assert.strictEqual(leading.cause, "expired")
    })
  }

  trial("without holder counts from its last change of any kind; with one, only from signs of life", {
    lease: {}
  }, async (trial) => {
    const candidate = await trial.candidate()
    await sleep(duration / 2)
    await trial.admin.patchLease(trial.namespace, leaseName, { metadata: { labels: { touched: "once" } } })
    const touched = await trial.observer.waitFor(({ lease }) => lease.metadata.labels?.["touched"] === "once")
    const leading = await candidate.first("leading")
    assertBetween("from the change to leading", leading.at - touched.at, duration - 200, duration + slack)

    await candidate.kill()
    const follower = await trial.candidate()
    await sleep(duration / 2)
    await trial.admin.patchLease(trial.namespace, leaseName, { metadata: { labels: { touched: "twice" } } })
    const next = await follower.first("leading")
    assertBetween(
      "from the campaign's start to leading",
      next.mono - follower.since("following"),
      duration - 100,
      duration + slack
    )
  })
})
