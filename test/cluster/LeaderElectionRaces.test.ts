/**
 * Races, hundreds of times each: two candidates that see the same lease run out at the same moment; a takeover at the
 * moment when the garbage collector is about to delete the Lease of its former leader.
 */
import { assert, describe, it } from "@effect/vitest"
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import type { ManyEvent, Work } from "./support/manyCandidates.ts"
import { bundle } from "./support/programs.ts"
import { monotonicNow, problemsOf, type Term, termsOf } from "./support/Terms.ts"
import { type KubeCluster, startCluster } from "./utils/KubeCluster.ts"
import { cleanEnvironment, JsonLinesProcess } from "./utils/Processes.ts"
import { eventually, sharedCluster, skipWithout } from "./utils/Testing.ts"

const leases = 50
const rounds = 4
const races = leases * rounds

// The candidates' leaseDuration. The dead leader's is shorter, and is what both wait for.
const duration = 8_000
const deadDuration = 2_000

const program = bundle("manyCandidates")
const names = Array.from({ length: leases }, (_, index) => `lease-${index + 1}`)

const report = (text: string) => void process.stderr.write(`${text}\n`)

/** A process with one candidate for each Lease. */
class Many implements AsyncDisposable {
  readonly process: JsonLinesProcess<ManyEvent>
  readonly name: string

  static async start(cluster: KubeCluster, name: string, options: {
    readonly namespace: string
    readonly token: string
    readonly pods?: ReadonlyMap<string, { readonly name: string; readonly uid: string }>
  }): Promise<Many> {
    const work: Work = {
      server: cluster.url,
      ca: cluster.ca,
      token: options.token,
      leaseDuration: duration / 1_000,
      candidates: names.map((lease) => {
        const pod = options.pods?.get(lease)
        return {
          namespace: options.namespace,
          name: lease,
          identity: `${name}-${lease}`,
          ...(pod !== undefined && { pod })
        }
      })
    }
    const file = join(cluster.directory, `${options.namespace}-${name}.json`)
    await writeFile(file, JSON.stringify(work), { mode: 0o600 })
    return new Many(
      name,
      JsonLinesProcess.start({ name, command: process.execPath, args: [await program, file], env: cleanEnvironment() })
    )
  }

  private constructor(name: string, process: JsonLinesProcess<ManyEvent>) {
    this.name = name
    this.process = process
  }

  /** The events of one kind, of one Lease. */
  of(lease: string, event: ManyEvent["event"]): Array<ManyEvent> {
    return this.process.values.filter((value) => value.lease === lease && value.event === event)
  }

  count(event: ManyEvent["event"]): number {
    return this.process.values.filter((value) => value.event === event).length
  }

  /** Waits until all candidates have told this. */
  async all(event: ManyEvent["event"]): Promise<void> {
    const missing = () => names.filter((name) => this.of(name, event).length === 0)
    await eventually(`${event} of all candidates of ${this.name}`, async () => missing().length === 0, 60_000)
  }

  terms(lease: string): Array<Term> {
    return termsOf(this.process.values.filter((value) => value.lease === lease))
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.process.close()
  }
}

/** An account that may do with all the Leases of a namespace what a candidate does with one. */
const account = async (cluster: KubeCluster, namespace: string): Promise<string> => {
  const { admin } = cluster
  await admin.createServiceAccount(namespace, "candidates")
  await admin.putRole(namespace, "candidates", [
    { apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["create", "get", "patch", "watch"] }
  ])
  await admin.putRoleBinding(namespace, "candidates", "candidates")
  return admin.createToken(namespace, "candidates")
}

const inBatches = async <A>(values: ReadonlyArray<A>, run: (value: A) => Promise<unknown>): Promise<void> => {
  for (let from = 0; from < values.length; from += 20) await Promise.all(values.slice(from, from + 20).map(run))
}

const dead = { holderIdentity: "dead", leaseDurationSeconds: deadDuration / 1_000 }

/** With a renewTime of its own, as a holder writes it: a shorter duration is believed of nobody else. */
const lastSign = () => ({ ...dead, renewTime: new Date().toISOString().replace("Z", "000Z") })

/** Waits until each Lease is led by one of the candidates, for a while. */
const settled = async (many: ReadonlyArray<Many>, timeout = 60_000) => {
  const led = () => names.every((name) => many.some((one) => one.terms(name).at(-1)?.ended === Infinity))
  await eventually("a leader of each Lease", async () => {
    if (!led()) return false
    await sleep(1_500)
    return led()
  }, timeout)
}

const problemsOfAll = (many: ReadonlyArray<Many>) =>
  names.flatMap((name) => problemsOf(many.flatMap((one) => one.terms(name))).map((problem) => `${name}: ${problem}`))

describe("races", () => {
  it.concurrent(`of two candidates who see the same lease run out, ${races} times: exactly one takes it`, async () => {
    await using cluster = await sharedCluster()
    const { admin } = cluster
    const namespace = await admin.createNamespace()
    const token = await account(cluster, namespace)
    await inBatches(
      names,
      (name) => admin.createLease(namespace, name, { ...dead, leaseDurationSeconds: 600, leaseTransitions: 0 })
    )
    await using one = await Many.start(cluster, "one", { namespace, token })
    await using two = await Many.start(cluster, "two", { namespace, token })
    await Promise.all([one.all("following"), two.all("following")])
    // A term may begin on these Leases when both have known them for leaseDuration.
    await sleep(duration)
    const show = (name: string) =>
      [one, two].flatMap((many) => many.process.values.filter(({ lease }) => lease === name))
        .toSorted((left, right) => left.mono - right.mono)
        .map(({ cause, event, identity, mono, reason }) =>
          `\n${mono.toFixed(1)} ${identity} ${event} ${cause ?? reason ?? ""}`
        ).join("")
    for (let round = 1; round <= rounds; round++) {
      const began = monotonicNow()
      // The dead leader's last sign of life, which also ends the term of the round before: from here both wait the same.
      await inBatches(names, async (name) => {
        await sleep(Math.random() * 300)
        await admin.patchLease(namespace, name, { spec: lastSign() })
      })
      const taken = (name: string) => [one, two].some((many) => many.of(name, "took").some(({ mono }) => mono > began))
      await eventually("a take of each", async () => names.every(taken), 30_000)
      await settled([one, two])
      for (const { metadata: { name }, spec } of await admin.listLeases(namespace)) {
        // One whose answer was late takes the Lease, which it holds already, once more: still one winner.
        const takes = [one, two].flatMap((many) => many.of(name, "took")).filter(({ mono }) => mono > began)
        const winners = new Set(takes.map(({ identity }) => identity))
        assert.strictEqual(winners.size, 1, `${name}: ${show(name)}`)
        assert.deepStrictEqual([spec.holderIdentity, spec.leaseTransitions], [takes[0]!.identity, round])
      }
    }
    assert.deepStrictEqual(problemsOfAll([one, two]), [])
    const beaten = one.count("beaten") + two.count("beaten")
    // Else the two never raced.
    assert.isAbove(beaten, races / 10)
    report(
      `Two candidates, the same expired lease, ${races} times: exactly one took it each time ` +
        `(${one.count("took")} to ${two.count("took")}); in ${beaten} races both wrote, and one was refused`
    )
  })

  it.concurrent(`of a takeover with the garbage collector, ${races} times: never two leaders`, async (context) => {
    await using shared = await sharedCluster()
    skipWithout(context, shared, "garbageCollector")
    // All Leases of a round at once, each request of the collector waiting for about a second in its own queue, as when
    // a node with hundreds of Pods is removed: it deletes by what it has read a second ago.
    await using cluster = shared.descriptor.kind === "existing" ? await sharedCluster() : await startCluster({
      controllerManagerArgs: [`--concurrent-gc-syncs=${leases}`, `--kube-api-qps=${leases / 2}`, "--kube-api-burst=1"]
    })
    const { admin } = cluster
    const namespace = await admin.createNamespace()
    const token = await account(cluster, namespace)
    await inBatches(names, (name) => admin.createLease(namespace, name, { ...dead, leaseDurationSeconds: 600 }))
    const podsOf = async (prefix: string) => {
      const pods = new Map<string, { readonly name: string; readonly uid: string }>()
      await inBatches(names, async (lease) => {
        const name = `${prefix}-${lease}`
        pods.set(lease, { name, uid: (await admin.createPod(namespace, name)).metadata.uid })
      })
      return pods
    }
    await using one = await Many.start(cluster, "one", { namespace, token, pods: await podsOf("one") })
    await using two = await Many.start(cluster, "two", { namespace, token, pods: await podsOf("two") })
    const witnesses = await Promise.all(names.map((name) => admin.observeLease(namespace, name)))
    await Promise.all([one.all("following"), two.all("following")])
    await sleep(duration)

    for (let round = 1; round <= rounds; round++) {
      const pods = await podsOf(`dead-${round}`)
      await Promise.all(names.map(async (name) => {
        const owner = { apiVersion: "v1", kind: "Pod", ...pods.get(name)! }
        await sleep(Math.random() * 300)
        await admin.patchLease(namespace, name, { metadata: { ownerReferences: [owner] }, spec: lastSign() })
        const end = performance.now() + deadDuration
        const before = async (milliseconds: number, act: () => Promise<unknown>) => {
          await sleep(Math.max(end - Math.random() * milliseconds - performance.now(), 0))
          await act()
        }
        // Edited by somebody, so that the collector's first attempt, by version, fails: the second goes by the uid alone.
        const labels = { edited: `${round}` }
        await Promise.all([
          before(1_500, () => admin.deletePod(namespace, owner.name)),
          before(1_000, () => admin.patchLease(namespace, name, { metadata: { labels } }).catch(() => {}))
        ])
      }))
      // On a new Lease the term begins after leaseDuration.
      await settled([one, two])
    }

    assert.deepStrictEqual(problemsOfAll([one, two]), [])
    const deleted = witnesses.flatMap(({ events }) => events.filter(({ type }) => type === "DELETED"))
    await Promise.all(witnesses.map((witness) => witness.close()))
    const lost = deleted.filter(({ lease }) => lease.spec.holderIdentity !== "dead")
    const untaken = deleted.length - lost.length
    const taken = races - untaken
    // Else nothing raced.
    assert.isAbove(untaken, races / 20)
    assert.isAbove(taken, races / 20)
    report(
      `Takeovers while the garbage collector works on the dead leader's Lease, ${races} times, never two leaders: ` +
        `${untaken} Leases were deleted before they ran out; of ${taken} that were taken, ${lost.length} were deleted ` +
        `nevertheless, which cost that term`
    )
  })
})
