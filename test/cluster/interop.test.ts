/**
 * One Lease, two implementations: this library and client-go, each respecting the other's lease and taking over from it.
 */
import { assert, describe } from "@effect/vitest"
import { setTimeout as sleep } from "node:timers/promises"
import { retryPeriod, startGo } from "./support/clientGo.ts"
import { problemsOf, type Term } from "./support/Terms.ts"
import { assertBetween, leaseDuration, milliseconds, releasedLease, type Trial } from "./support/Trial.ts"
import { makeTrials } from "./support/trials.ts"
import type { JsonLinesProcess } from "./utils/Processes.ts"

const trial = makeTrials()
const { duration, slack } = milliseconds

describe.concurrent("a lease of client-go", () => {
  trial("is respected, taken at once when it is released, and when it has run out after a crash", {
    lease: releasedLease,
    features: ["clientGo"]
  }, async (trial) => {
    await using one = await startGo(trial, "one")
    const ours = await trial.candidate()
    await ours.process.waitFor(({ leader }) => leader === "one")
    // Longer than its duration: it renews, and we wait.
    await sleep(duration + slack)
    assert.deepStrictEqual(ours.terms, [])
    const asked = Date.now()
    one.signal("SIGTERM")
    const leading = await ours.first("leading")
    assert.strictEqual(leading.cause, "released")
    assertBetween("from SIGTERM to our term", leading.at - asked, 0, 1_000)
    await one.exit

    // Its turn again, and then it crashes.
    await using two = await startGo(trial, "two")
    ours.terminate()
    await two.waitFor(({ event }) => event === "leading")
    await ours.exit()
    const next = await trial.candidate()
    await next.process.waitFor(({ leader }) => leader === "two")
    await trial.change()
    two.signal("SIGKILL")
    const last = await next.first("leading")
    assert.strictEqual(last.cause, "expired")
    const renewal = trial.observer.events.findLast(({ lease }) => lease.spec.holderIdentity === "two")!
    assertBetween("from its lease's end to our term", last.at - (renewal.at + duration), -200, 1_000)
  })
})

describe.concurrent("a lease of ours", () => {
  trial("is respected by client-go, which takes it when it is released, and when it has run out after a crash", {
    lease: releasedLease,
    features: ["clientGo"]
  }, async (trial) => {
    const ours = await trial.candidate()
    await ours.first("leading")
    await using one = await startGo(trial, "one")
    await sleep(duration + slack)
    assert.isFalse(one.values.some(({ event }) => event === "leading"))
    const asked = Date.now()
    ours.terminate()
    const leading = await one.waitFor(({ event }) => event === "leading")
    // It asks every retryPeriod, which it stretches by up to 1.2 times as much.
    assertBetween("from SIGTERM to its term", leading.value.at - asked, 0, retryPeriod * 2.2 + slack)
    // Its record has our annotations and no owner of ours.
    assert.isUndefined((await trial.lease()).metadata.ownerReferences)

    const second = await trial.candidate()
    await second.process.waitFor(({ leader }) => leader === "one")
    one.signal("SIGTERM")
    await second.first("leading")
    await using two = await startGo(trial, "two")
    await trial.change()
    await second.kill()
    const last = await two.waitFor(({ event }) => event === "leading", 20_000)
    const { lease } = trial.lastRenewal(second)
    const since = last.value.at - Date.parse(lease.spec.renewTime!)
    assertBetween("from our last renewal to its term", since, duration, duration + retryPeriod * 2.2 + slack)
  })
})

type Kind = "ours" | "client-go"

interface Entrant {
  readonly kind: Kind
  readonly name: string
  readonly process: JsonLinesProcess<{ readonly at: number; readonly event: string }>
  readonly began: Promise<number>
}

const enter = async (trial: Trial, kind: Kind, name: string): Promise<Entrant> => {
  const process = kind === "ours" ? (await trial.candidate({ name })).process : await startGo(trial, name)
  const began = process.waitFor(({ event }) => event === "leading", 60_000).then(({ value }) => value.at)
  // Of one that never leads nobody asks.
  began.catch(() => {})
  return { kind, name, process, began }
}

/** Who waits for each term: one alone, so that every order of the two comes, or both, of whom the faster takes it. */
const waiting: ReadonlyArray<ReadonlyArray<Kind>> = [
  ["client-go"],
  ["client-go"],
  ["ours"],
  ["ours"],
  ["ours", "client-go"]
]

/** Changes of the holder that were neither preceded by a release nor by the end of the holder's lease. */
const unfair = (trial: Trial): Array<string> =>
  trial.observer.events.flatMap(({ at, lease: { spec } }, index, events) => {
    const before = events[index - 1]
    const last = before?.lease.spec
    if (last === undefined || (last.holderIdentity ?? "") === "" || last.holderIdentity === spec.holderIdentity) {
      return []
    }
    const released = (spec.holderIdentity ?? "") === ""
    // The witness may have seen the one sooner, and the other later, than the candidate did.
    const expired = at - before!.at >= last.leaseDurationSeconds! * 1_000 - 200
    return released || expired ? [] : [`${last.holderIdentity} to ${spec.holderIdentity} after ${at - before!.at} ms`]
  })

describe.concurrent("30 terms", () => {
  trial("of ours and client-go's, in mixed order, ended in good order and by crashes, never overlap", {
    lease: releasedLease,
    features: ["clientGo"]
  }, async (trial) => {
    const entrants: Array<Entrant> = []
    const terms: Array<Term> = []
    const handovers: Record<string, Array<number>> = {}
    try {
      let leader = await enter(trial, "ours", "ours-0")
      entrants.push(leader)
      await leader.began
      for (let number = 1; number <= 30; number++) {
        const kinds = waiting[number % waiting.length]!
        const followers = await Promise.all(kinds.map((kind) => enter(trial, kind, `${kind}-${number}`)))
        entrants.push(...followers)
        const crash = number % 4 === 0
        const began = await leader.began
        const asked = performance.timeOrigin + performance.now()
        leader.process.signal(crash ? "SIGKILL" : "SIGTERM")
        await leader.process.exit
        // What client-go's program is told by is its context, which ends with the signal; that it has "stopped" is told
        // after the release.
        const ended = !crash && leader.kind === "ours"
          ? leader.process.values.find(({ event }) => event === "ended")!.at
          : asked
        terms.push({
          identity: leader.name,
          cause: undefined,
          fencingToken: BigInt(number),
          began,
          askedToEnd: ended,
          ended
        })
        const next = await Promise.race(followers.map(async (follower) => {
          await follower.began
          return follower
        }))
        const handover = `${crash ? "kill -9" : "SIGTERM"}, ${leader.kind} to ${next.kind}`
        handovers[handover] = [...(handovers[handover] ?? []), (await next.began) - asked]
        for (const other of followers) if (other !== next) await other.process.close()
        leader = next
      }
      assert.deepStrictEqual(problemsOf(terms), [])
      assert.deepStrictEqual(unfair(trial), [])
      const count = (kind: Kind) => terms.filter(({ identity }) => identity.startsWith(kind)).length
      const seconds = (milliseconds: number) => (milliseconds / 1_000).toFixed(2)
      const lines = Object.entries(handovers).toSorted().map(([handover, times]) =>
        `  ${handover}: ${times.length} times, ${seconds(Math.min(...times))} to ${seconds(Math.max(...times))} s`
      )
      process.stderr.write(
        `${terms.length} terms on one Lease, never two leaders: ${count("ours")} of ours, ${count("client-go")} of ` +
          `client-go's (${leaseDuration} s leases); from the signal to the next leader:\n${lines.join("\n")}\n`
      )
    } finally {
      await Promise.all(entrants.map(({ process }) => process.close()))
    }
  })
})
