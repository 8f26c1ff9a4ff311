/**
 * What befalls a leader on a real API server: its connection, its Pod, its Lease.
 */
import { assert, describe } from "@effect/vitest"
import { setTimeout as sleep } from "node:timers/promises"
import { monotonicNow } from "./support/Terms.ts"
import { assertBetween, leaseName, milliseconds, releasedLease } from "./support/Trial.ts"
import { makeTrials } from "./support/trials.ts"
import { Proxy } from "./utils/Proxy.ts"

const trial = makeTrials()
const { duration, renewDeadline, slack } = milliseconds

const cuts = { stall: "stalls", stallAnswers: "loses all answers", refuse: "is refused" } as const
const modes = Object.keys(cuts) as Array<keyof typeof cuts>

describe.concurrent("a leader whose connection", () => {
  for (const mode of modes) {
    trial(`${cuts[mode]} has stopped its program by renewDeadline + 0.2 s, and takes part again afterwards`, {
      lease: releasedLease
    }, async (trial) => {
      await using proxy = await Proxy.start(trial.cluster)
      // A program that asks for its leadership would learn the truth by itself: this one has to be told.
      const { follower, leader } = await trial.pair({ through: proxy, env: { STEP: "1h" } })
      await trial.change()
      // The answer has come, and the next renewal is not due: this is the last one that the leader knows of.
      await sleep(duration / 15)
      const { at, lease } = trial.lastRenewal(leader)
      await proxy.set(mode)
      const ended = await leader.first("ended")
      assert.strictEqual((await leader.first("lost")).reason, "RenewDeadlineExceeded")
      // Each renewal carries the leader's own time at its start; the witness saw it later.
      const sent = Date.parse(lease.spec.renewTime!)
      assertBetween(
        "from the last renewal's start to the program's end",
        ended.at - sent,
        renewDeadline,
        renewDeadline + 200
      )
      assertBetween("since the witness saw it", ended.at - at, 0, renewDeadline + 200)

      const leading = await follower.first("leading")
      assertBetween("from the program's end to the next leader", leading.mono - ended.mono, 0, Infinity)
      assertBetween(
        "from the lease's end to the next leader",
        leading.at - (trial.lastRenewal(leader).at + duration),
        -200,
        slack
      )

      // Three lease durations without a connection, and then again with it.
      await sleep(duration)
      assert.strictEqual(leader.terms.length, 1)
      const lines = leader.process.lines.length
      await proxy.set("pass")
      await leader.process.waitFor((value) => value.leader === follower.identity, 20_000, lines)
      const asked = follower.terminate()
      const again = await leader.first("leading", 20_000, lines)
      assertBetween("from SIGTERM to the next leader", again.mono - asked, 0, 1_000)
    })
  }
})

describe.concurrent("a Pod that is deleted by force while its process leads behind a cut connection", () => {
  for (const mode of ["stall", "refuse"] as const) {
    trial(`(${mode}) leads never at the same time as its replacement`, {
      lease: releasedLease,
      features: ["garbageCollector"]
    }, async (trial) => {
      await using proxy = await Proxy.start(trial.cluster)
      const { follower, leader } = await trial.pair({ name: "replica-0", through: proxy })
      await proxy.set(mode)
      await trial.admin.deletePod(trial.namespace, "replica-0")
      const deleted = monotonicNow()
      const replacement = await trial.candidate({ name: "replica-0" })
      await trial.observer.waitFor(({ type }) => type === "DELETED")
      const ended = await leader.first("ended")
      const next = await Promise.race([follower.first("leading"), replacement.first("leading")])
      // It did lead on while the others could see no Lease.
      const acts = leader.process.values.filter(({ event, mono }) => event === "step" && mono > deleted)
      assert.isAbove(acts.length, 10)
      assertBetween("from the program's end to the next leader", next.mono - ended.mono, 0, duration + slack)
      // Nor does what was held back in the network change anything.
      await proxy.set("pass")
      await sleep(duration)
      assert.strictEqual(leader.terms.length, 1)
      assert.isTrue(leader.process.running)
    })
  }
})

describe.concurrent("a Lease that is", () => {
  trial("deleted under its leader ends the term at once; the next begins leaseDuration after the next creation", {
    lease: releasedLease
  }, async (trial) => {
    const { follower, leader } = await trial.pair()
    await trial.admin.deleteLease(trial.namespace, leaseName)
    const deleted = await trial.observer.waitFor(({ type }) => type === "DELETED")
    const lost = await leader.first("lost")
    assert.strictEqual(lost.reason, "LeaseDeleted")
    assertBetween("from the deletion to the term's end", lost.at - deleted.at, -200, 500)
    const created = await trial.observer.waitFor(({ at, type }) => type === "ADDED" && at > deleted.at)
    const lines = leader.process.lines.length
    const next = await Promise.race([follower.first("leading"), leader.first("leading", 20_000, lines)])
    assertBetween(
      "from creation to leading",
      next.at - Date.parse(created.lease.spec.acquireTime!),
      duration,
      duration + slack
    )
  })

  trial("stolen under its leader ends the term at once; the thief's duration is respected", {
    lease: releasedLease
  }, async (trial) => {
    const { follower, leader } = await trial.pair()
    await trial.admin.patchLease(trial.namespace, leaseName, {
      spec: { holderIdentity: "thief", leaseDurationSeconds: 3, renewTime: "2026-11-25T12:00:00.000000Z" }
    })
    const stolen = await trial.observer.waitFor(({ lease }) => lease.spec.holderIdentity === "thief")
    const lost = await leader.first("lost")
    assert.strictEqual(lost.reason, "LeaseTaken")
    assertBetween("from the theft to the term's end", lost.at - stolen.at, -200, 500)
    const lines = leader.process.lines.length
    const next = await Promise.race([follower.first("leading"), leader.first("leading", 20_000, lines)])
    assertBetween("from the theft to the next leader", next.at - stolen.at, 2_800, 3_000 + slack)
  })

  trial("edited under its leader does not end the term, and is put right by the next renewal", {
    lease: releasedLease
  }, async (trial) => {
    const { follower, leader } = await trial.pair()
    const patch = (patch: object) => trial.admin.patchLease(trial.namespace, leaseName, patch)
    const mine = await trial.lease()
    await patch({ metadata: { labels: { edited: "yes" } } })
    await patch({ spec: { leaseDurationSeconds: 600 } })
    await patch({ spec: { renewTime: null, acquireTime: null } })
    await patch({
      metadata: { annotations: Object.fromEntries(Object.keys(mine.metadata.annotations!).map((key) => [key, null])) }
    })
    await trial.admin.waitForLease(
      trial.namespace,
      leaseName,
      (lease) =>
        lease!.spec.leaseDurationSeconds === duration / 1_000 && typeof lease!.spec.renewTime === "string" &&
        JSON.stringify(lease!.metadata.annotations) === JSON.stringify(mine.metadata.annotations)
    )
    // Edits at the pace of renewals: every write of the leader may meet a newer version.
    for (let edit = 0; edit < 60; edit++) {
      await patch({ metadata: { labels: { edited: `${edit}` } } })
      await sleep(100)
    }
    assert.strictEqual((await trial.lease()).metadata.labels?.["edited"], "59")
    assert.strictEqual(leader.terms.length, 1)
    assert.strictEqual(leader.terms[0]!.ended, Infinity)
    assert.deepStrictEqual(follower.terms, [])
  })

  trial("emptied in place ends the term at once, and is free one leaseDuration later", {
    lease: releasedLease
  }, async (trial) => {
    const { follower, leader } = await trial.pair()
    await trial.empty()
    const emptied = await trial.observer.waitFor(({ lease }) => lease.spec.holderIdentity === undefined)
    const lost = await leader.first("lost")
    assert.strictEqual(lost.reason, "LeaseTaken")
    assertBetween("from the edit to the term's end", lost.at - emptied.at, -200, 500)
    const lines = leader.process.lines.length
    const next = await Promise.race([follower.first("leading"), leader.first("leading", 20_000, lines)])
    assertBetween("from the edit to the next leader", next.at - emptied.at, duration - 200, duration + slack)
  })

  trial("emptied in place is not taken while its leader, whom no news reach, may live", {
    lease: releasedLease
  }, async (trial) => {
    await using proxy = await Proxy.start(trial.cluster)
    const { follower, leader } = await trial.pair({ through: proxy })
    await proxy.set("stall")
    await trial.empty()
    const emptied = await trial.observer.waitFor(({ lease }) => lease.spec.holderIdentity === undefined)
    const next = await follower.first("leading")
    assertBetween("from the edit to the next leader", next.at - emptied.at, duration - 200, duration + slack)
    const acts = leader.process.values.filter(({ at, event }) => event === "step" && at > emptied.at)
    assert.isAbove(acts.length, 10)
  })
})
