/**
 * What others do to the Lease of a leader that is cut off, on a real API server: they name another candidate in it, put
 * an older record back, delete it while API servers disagree about the time. Again and again: `ROUNDS` says how often.
 */
import { assert, describe } from "@effect/vitest"
import { setTimeout as sleep } from "node:timers/promises"
import { vi } from "vitest"
import { assertBetween, type Candidate, leaseName, milliseconds, releasedLease, type Trial } from "./support/Trial.ts"
import { makeTrials } from "./support/trials.ts"
import type { Lease } from "./utils/ApiClient.ts"
import { HttpFaultProxy } from "./utils/HttpFaultProxy.ts"

const trial = makeTrials()
const { duration, slack } = milliseconds

const rounds = Number(process.env["ROUNDS"] ?? "2")

vi.setConfig({ testTimeout: 60_000 + rounds * 20_000 })

/** A candidate behind a connection of its own. */
class Placed implements AsyncDisposable {
  readonly proxy: HttpFaultProxy
  readonly candidate: Candidate
  /** Whether nothing passes. */
  cutOff = false

  static async start(trial: Trial, clock: number): Promise<Placed> {
    const proxy = await HttpFaultProxy.start({ url: trial.cluster.url, ca: trial.cluster.ca })
    let placed: Placed | undefined
    proxy.rule = () => placed?.cutOff === true ? { hang: true } : { clock }
    placed = new Placed(proxy, await trial.candidate({ through: proxy }))
    return placed
  }

  private constructor(proxy: HttpFaultProxy, candidate: Candidate) {
    this.proxy = proxy
    this.candidate = candidate
  }

  cut(): void {
    this.cutOff = true
    this.proxy.cut()
  }

  restore(): void {
    this.cutOff = false
    this.proxy.cut()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.proxy.close()
  }
}

/** Its leader is cut off, something is done to the Lease, and the other one takes over. Both lead in turn. */
const again = async (
  trial: Trial,
  options: {
    readonly clock: number
    readonly act: (follower: Candidate) => Promise<void>
    /** From the act to the next leader. */
    readonly within: readonly [low: number, high: number]
  }
): Promise<void> => {
  await using one = await Placed.start(trial, 0)
  await one.candidate.first("leading", 40_000)
  await using two = await Placed.start(trial, options.clock)
  await two.candidate.process.waitFor(({ leader }) => leader === one.candidate.identity)
  let [leader, follower] = [one, two]
  for (let round = 1; round <= rounds; round++) {
    // The other one's record is there to be put back, too.
    await trial.change()
    const before = { leader: leader.candidate.process.lines.length, follower: follower.candidate.process.lines.length }
    leader.cut()
    await options.act(follower.candidate)
    const acted = Date.now()
    const next = await follower.candidate.first("leading", 30_000, before.follower)
    const ended = await leader.candidate.first("ended", 30_000, before.leader)
    assertBetween("from the act to the next leader", next.at - acted, ...options.within)
    assertBetween("from the program's end to the next leader", next.mono - ended.mono, 0, Infinity)
    const lines = leader.candidate.process.lines.length
    leader.restore()
    await leader.candidate.process.waitFor((value) => value.leader === follower.candidate.identity, 20_000, lines)
    ;[leader, follower] = [follower, leader]
  }
  process.stderr.write(`${rounds} rounds, never two leaders\n`)
}

const setting = { lease: releasedLease }

describe.concurrent("while the leader is cut off, nobody leads beside it", () => {
  trial("when somebody writes the follower's name into the Lease", setting, (trial) =>
    again(trial, {
      clock: 0,
      within: [duration - 200, duration + slack],
      act: async ({ identity }) => {
        await trial.admin.patchLease(trial.namespace, leaseName, { spec: { holderIdentity: identity } })
      }
    }))

  trial("when somebody puts back what stood there while the follower led", setting, async (trial) => {
    let old: Lease | undefined
    await again(trial, {
      clock: 0,
      within: [duration - 200, duration + slack],
      act: async ({ identity }) => {
        old = trial.observer.events.findLast(({ lease, type }) =>
          type !== "DELETED" && lease.spec.holderIdentity === identity
        )?.lease
        // It has not led yet in the first round: then it is only named.
        const { annotations = {}, resourceVersion } = (await trial.lease()).metadata
        await trial.admin.putLease(trial.namespace, {
          metadata: { name: leaseName, resourceVersion, annotations: old?.metadata.annotations ?? annotations },
          spec: old?.spec ?? { ...(await trial.lease()).spec, holderIdentity: identity }
        })
      }
    })
    assert.isTrue(rounds < 2 || old !== undefined)
  })

  trial("when the Lease is deleted, and the follower's API server is a minute ahead", setting, (trial) =>
    again(trial, {
      clock: 60_000,
      within: [duration - 200, 2 * duration + slack],
      act: async () => {
        await sleep(Math.random() * 500)
        await trial.admin.deleteLease(trial.namespace, leaseName)
      }
    }))
})
