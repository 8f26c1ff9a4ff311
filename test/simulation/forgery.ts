/**
 * Edits of the Lease that name its candidates, and the schedules in which they, or a deletion, would do harm: while the
 * leader is cut off and cannot know.
 *
 * What is never done here is what the documentation excludes: writing the mark of a release by hand, and putting back
 * a record that somebody else than the one it names takes for the last one, because it missed what came between. A
 * complete record in the name of a process that has just started is put back, and what follows from that is not held
 * against anybody (`Monitor.forged`).
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { FromJson, instanceAnnotation, type LeaseRecord } from "../../src/LeaseRecord.ts"
import type { MemoryCluster } from "../../src/testing/index.ts"
import type { Candidate, Incarnation } from "./Candidate.ts"
import type { ObservedTerm, Written } from "./Monitor.ts"
import type { Simulation } from "./Simulation.ts"
import type { Act } from "./storm.ts"
import { epoch, key, milli, second } from "./World.ts"

const encode = Schema.encodeSync(FromJson)

/** Everything that a record says, as a person puts it back; with `salt` unlike it was, so that it is a sign of life. */
const bodyOf = (record: LeaseRecord, salt: bigint): MemoryCluster.LeaseBody => {
  // Back: a strange value may be the last time that can be written.
  const renewTime = salt === 0n ? record.renewTime : (record.renewTime ?? 0n) - salt
  const { metadata: { annotations = {}, labels = {}, ownerReferences = [] }, spec = {} } = encode({
    ...record,
    renewTime
  })
  return { metadata: { annotations, labels, ownerReferences }, spec }
}

const others = (simulation: Simulation, leader: ObservedTerm): ReadonlyArray<Candidate> =>
  simulation.candidates.filter((candidate) => candidate !== leader.incarnation.candidate && candidate.alive)

/** Calls back when a condition holds, unless that takes too long. */
const when = (simulation: Simulation, condition: () => boolean, then: () => void, limit: number): void => {
  const { world } = simulation
  const until = world.now + limit
  simulation.lastFault = Math.max(simulation.lastFault, until)
  const look = () => {
    if (condition()) {
      then()
    } else if (world.now < until && !simulation.isCalm) {
      world.after(100 * milli, look)
    }
  }
  look()
}

const cut = (simulation: Simulation, incarnation: Incarnation, shortest = 0.3): void => {
  const { dice, timing, weather } = simulation
  weather.cut(
    incarnation,
    dice.pick(["refuse", "stall", "stall"]),
    dice.scale(shortest, Math.max(2, shortest * 1.2)) * timing.leaseDuration
  )
}

/** Puts a record back. What every live process has gone beyond is put back as it was. */
export const putBack = (simulation: Simulation, record: LeaseRecord): void => {
  const { cluster, monitor, timing, world } = simulation
  const salted = !monitor.isOutdated(record)
  simulation.fault("a record put back", timing.leaseDuration)
  world.note("fault", () => `what stood there as v${record.resourceVersion} is put back${salted ? ", nearly" : ""}`)
  // With a shorter duration than its holder wrote it would be a forged one.
  const leaseDurationSeconds = Math.max(monitor.heldFor, record.leaseDurationSeconds ?? 0) || undefined
  const body = bodyOf({ ...record, leaseDurationSeconds }, salted ? BigInt(monitor.nextSalt()) : 0n)
  simulation.foreign(cluster.putLease(key, body))
  monitor.onForged()
}

/** Without the annotations that the election goes by. */
const withoutAnnotations = (simulation: Simulation, record: LeaseRecord): { [name: string]: null } => {
  const mark = Object.entries(record.annotations).find(([, value]) => value === record.uid)?.[0]
  const all = [instanceAnnotation, ...(mark === undefined ? [] : [mark])]
  const names = simulation.dice.pick([[], [], [], [instanceAnnotation], mark === undefined ? [] : [mark], all])
  return Object.fromEntries(names.map((name) => [name, null]))
}

const restartSoon = (simulation: Simulation, candidate: Candidate): void => {
  const { dice, world } = simulation
  const { current } = candidate
  const delay = dice.scale(0.05, 1) * second
  simulation.fault("restart of the named", 3 * second)
  world.after(delay, () => {
    if (current !== undefined && candidate.current === current) {
      candidate.kill(current)
      world.after(dice.scale(0.05, 2) * second, () => candidate.start())
    }
  })
}

const newestOf = (simulation: Simulation, identity: string): Written | undefined =>
  simulation.monitor.history.findLast((written) =>
    written.identity === identity && written.record.holderIdentity === identity
  )

/** Names another candidate in the Lease of the leader. */
const nameAnother = (simulation: Simulation, leader: ObservedTerm): void => {
  const { clientGo, cluster, dice, monitor, timing, world } = simulation
  const record = monitor.record
  const candidates = others(simulation, leader)
  if (record === undefined || candidates.length === 0) {
    return
  }
  const named = dice.pick(candidates)
  const { identity } = named.current!
  const its = newestOf(simulation, identity)?.record
  const instance = dice.chance(0.3)
    ? its?.annotations[instanceAnnotation] ??
      dice.pick([`${BigInt(epoch) * 1000n}-0`, `${BigInt(epoch) * 1000n}-1abc-0`, "not an instance"])
    : undefined
  const annotations = instance === undefined
    ? withoutAnnotations(simulation, record)
    : { [instanceAnnotation]: instance }
  // A released Lease says 1 s, which is a forgery of its own under a holder's name.
  const leaseDurationSeconds = record.leaseDurationSeconds === 1
    ? Math.ceil(timing.leaseDuration / second)
    : record.leaseDurationSeconds ?? null
  simulation.fault("a candidate named by others", timing.leaseDuration)
  world.note("fault", () => `the Lease is made to name ${identity}, with ${JSON.stringify(annotations)}`)
  simulation.foreign(
    cluster.editLease(key, { metadata: { annotations }, spec: { holderIdentity: identity, leaseDurationSeconds } })
  )
  monitor.onForged()
  // An elector of another kind keeps an instance that was there before: beside it a restart is as good as a forgery.
  if (dice.chance(0.4) && clientGo === undefined) {
    restartSoon(simulation, named)
  }
}

const putBackAnother = (simulation: Simulation, leader: ObservedTerm): void => {
  const { dice, monitor } = simulation
  const candidates = others(simulation, leader)
  if (candidates.length === 0) {
    return
  }
  const named = dice.pick(candidates)
  const { identity } = named.current!
  const held = monitor.history.filter(({ record }) => record.holderIdentity === identity)
  const written = dice.chance(0.7) ? held.at(-1) : held.length > 0 ? dice.pick(held) : undefined
  if (written !== undefined) {
    putBack(simulation, written.record)
    if (dice.chance(0.2)) {
      restartSoon(simulation, named)
    }
  }
}

/** While the leader is cut off, or while it is not. */
const behindItsBack = (edit: (simulation: Simulation, leader: ObservedTerm) => void): Act => (simulation) => {
  const { dice, monitor, timing, world } = simulation
  const leader = monitor.leader()
  if (leader === undefined) {
    return
  }
  if (dice.chance(0.8)) {
    cut(simulation, leader.incarnation)
  }
  world.after(dice.scale(0.001, 0.3) * timing.leaseDuration, () => edit(simulation, leader))
}

/** Who holds a young Lease and waits is cut off until another leads; then that one is, and the first record comes back. */
const heldAndCutOff: Act = (simulation) => {
  const { cluster, monitor, timing } = simulation
  simulation.fault("Lease deleted")
  simulation.foreign(cluster.deleteLease(key))
  const holder = () =>
    simulation.candidates.find(({ current }) => current?.identity === monitor.record?.holderIdentity)?.current
  when(simulation, () => holder() !== undefined && monitor.leader() === undefined, () => {
    const waiting = holder()!
    const { record } = monitor
    cut(simulation, waiting, 1.2)
    const another = () => monitor.leader()?.incarnation !== waiting ? monitor.leader() : undefined
    when(simulation, () => another() !== undefined, () => {
      cut(simulation, another()!.incarnation)
      const { cluster, dice } = simulation
      if (dice.chance(0.7)) {
        putBack(simulation, record!)
      } else {
        simulation.foreign(cluster.editLease(key, { spec: { holderIdentity: waiting.identity } }))
        monitor.onForged()
      }
    }, 2.5 * timing.leaseDuration)
  }, timing.leaseDuration)
}

/** A take whose answer is lost; another leads since, and is cut off; what the first wrote is put back. */
const takenUnheard: Act = (simulation) => {
  const { dice, monitor, timing, weather, world } = simulation
  const leader = monitor.leader()
  const candidates = leader === undefined ? [] : others(simulation, leader)
  if (leader === undefined || candidates.length < 2) {
    return
  }
  const { current: unlucky } = dice.pick(candidates)
  if (unlucky === undefined) {
    return
  }
  weather.once(unlucky, dice.pick(["hang after commit", "delivered late"]), "patch")
  simulation.fault("crash")
  leader.incarnation.candidate.kill(leader.incarnation)
  world.after(3 * timing.leaseDuration, () => leader.incarnation.candidate.start())
  when(simulation, () => monitor.record?.holderIdentity === unlucky.identity, () => {
    const record = monitor.record!
    cut(simulation, unlucky, 1)
    const another = () => monitor.leader()?.incarnation !== unlucky ? monitor.leader() : undefined
    when(simulation, () => another() !== undefined && !simulation.weather.isCut(unlucky), () => {
      world.after(dice.scale(0.05, 3) * second, () => {
        const leading = another()
        if (leading !== undefined) {
          cut(simulation, leading.incarnation)
          putBack(simulation, record)
        }
      })
    }, 3 * timing.leaseDuration)
  }, 2 * timing.leaseDuration)
}

/** A leader that does not wait marks nothing: it goes at once, and who comes after it waits. */
const leadAndGo: Act = (simulation) => {
  const { cluster, dice, monitor, timing, world } = simulation
  const leader = monitor.leader()
  if (leader === undefined) {
    return
  }
  cut(simulation, leader.incarnation, 0.7)
  simulation.fault("Lease deleted")
  world.note("fault", () => "kubectl delete lease, while its leader is cut off")
  simulation.foreign(cluster.deleteLease(key))
  const hasty = () => {
    const other = monitor.terms.find((term) =>
      term.incarnation.candidate.options.settings.newLease === "lead" && term.incarnation !== leader.incarnation &&
      term.program === "running"
    )
    return other?.incarnation
  }
  when(simulation, () => hasty() !== undefined, () => {
    const incarnation = hasty()!
    const lasts = dice.scale(0.2, 2) * second
    world.after(lasts, () => {
      simulation.fault("SIGTERM", 30 * second)
      incarnation.candidate.terminate(incarnation)
      world.after(5 * second, () => {
        incarnation.candidate.kill(incarnation)
        incarnation.candidate.start()
      })
    })
  }, timing.leaseDuration / 2)
}

/** The Lease of a leader that is cut off is deleted. */
const deleteBeside: Act = (simulation) => {
  const { cluster, dice, monitor, timing, world } = simulation
  const leader = monitor.leader()
  if (leader === undefined) {
    return
  }
  cut(simulation, leader.incarnation, 0.7)
  const at = dice.chance(0.5) ? 0 : dice.scale(0.001, 0.2) * timing.leaseDuration
  world.after(at, () => {
    simulation.fault("Lease deleted")
    world.note("fault", () => "kubectl delete lease, while its leader is cut off")
    const before = monitor.record
    simulation.foreign(cluster.deleteLease(key))
    if (before !== undefined && dice.chance(0.3)) {
      // From a backup that was made after a release: free at once, and as young as any other.
      const spec = { holderIdentity: "", leaseDurationSeconds: 1, leaseTransitions: before.leaseTransitions }
      world.after(dice.scale(0.0001, 0.5) * second, () => {
        world.note("fault", () => "a released Lease is applied")
        simulation.foreign(cluster.createLease(key, { metadata: { annotations: before.annotations }, spec }))
      })
    }
  })
}

/** Somebody shortens the duration of a leader that is cut off, and that all others have seen. */
const shortenBeside: Act = (simulation) => {
  const { clientGo, cluster, dice, monitor, timing, world } = simulation
  const leader = monitor.leader()
  // client-go believes it.
  if (leader === undefined || clientGo !== undefined) {
    return
  }
  cut(simulation, leader.incarnation, 0.7)
  const { record } = monitor
  world.after(dice.scale(0.001, 0.3) * timing.leaseDuration, () => {
    if (monitor.isSeenByAll() && monitor.record?.resourceVersion === record?.resourceVersion) {
      const leaseDurationSeconds = dice.int(2, record?.leaseDurationSeconds ?? 2)
      simulation.fault("a duration shortened", timing.leaseDuration)
      world.note("fault", () => `leaseDurationSeconds is made ${leaseDurationSeconds}, while the leader is cut off`)
      simulation.foreign(cluster.editLease(key, { spec: { leaseDurationSeconds } }))
    }
  })
}

/** The container of who holds a young Lease is started again. */
const restartWhileYoung: Act = (simulation) => {
  const { cluster, dice, monitor, timing, world } = simulation
  simulation.fault("Lease deleted", 2 * timing.leaseDuration)
  simulation.foreign(cluster.deleteLease(key))
  const holder = () =>
    simulation.candidates.find(({ current }) =>
      current?.process.alive === true && current.identity === monitor.record?.holderIdentity
    )
  when(simulation, () => holder() !== undefined && monitor.leader() === undefined, () => {
    const waiting = holder()!
    world.after(dice.scale(0.01, 1) * timing.leaseDuration, () => restartSoon(simulation, waiting))
  }, timing.leaseDuration)
}

/** A create that is on its way for long: the Lease is there, is deleted, and then it lands. */
const lateCreate: Act = (simulation, target) => {
  const { cluster, dice, monitor, timing, weather, world } = simulation
  const { current } = target
  if (current?.process.alive !== true) {
    return
  }
  weather.once(current, dice.pick(["applied late", "delivered late", "slow request"]), "create")
  simulation.fault("Lease deleted", timing.leaseDuration)
  simulation.foreign(cluster.deleteLease(key))
  world.after(dice.scale(0.05, 1.5) * timing.leaseDuration, () => {
    const leader = monitor.leader()
    if (leader !== undefined && dice.chance(0.5)) {
      cut(simulation, leader.incarnation)
    }
    simulation.fault("Lease deleted", timing.leaseDuration)
    simulation.foreign(cluster.deleteLease(key))
  })
}

/** A campaign ends while its take is on its way. */
const endWithOpenTake: Act = (simulation) => {
  const { dice, monitor, timing, weather, world } = simulation
  const leader = monitor.leader()
  const candidates = leader === undefined ? [] : others(simulation, leader)
  if (leader === undefined || candidates.length === 0) {
    return
  }
  const candidate = dice.pick(candidates)
  const incarnation = candidate.current!
  weather.once(incarnation, dice.pick(["slow request", "hang after commit", "delivered late", "504 applied"]), "patch")
  simulation.fault("crash", timing.leaseDuration)
  leader.incarnation.candidate.kill(leader.incarnation)
  world.after(2.5 * timing.leaseDuration, () => leader.incarnation.candidate.start())
  const before = monitor.count(incarnation.process).writes
  when(simulation, () => monitor.count(incarnation.process).writes > before, () => {
    world.after(dice.scale(0.001, 3) * second, () => {
      simulation.fault("SIGTERM", 30 * second)
      candidate.terminate(incarnation)
      world.after(20 * second, () => {
        candidate.kill(incarnation)
        candidate.start()
      })
    })
  }, 2 * timing.leaseDuration)
}

/** The second clock of a machine jumps: what shows it in a container was started again. */
export const witnessJumps: Act = (simulation, { name, current }) => {
  const { dice, timing, world } = simulation
  // Back only where it is not needed.
  const by = Math.floor(dice.scale(0.1, 100) * timing.leaseDuration) *
    (dice.chance(0.6) || simulation.suspends ? 1 : -1)
  simulation.fault("suspend witness jumps")
  world.note("fault", () => `the suspend witness of ${name} jumps by ${(by / second).toFixed(1)} s`)
  current?.process.jumpWitness(by)
}

/** Values that the API server stores, and nobody should trip over. */
const strangeValues: Act = (simulation) => {
  const { cluster, dice, monitor, timing, world } = simulation
  const { record } = monitor
  if (record === undefined) {
    return
  }
  const annotations = dice.pick([
    { [instanceAnnotation]: "" },
    { [instanceAnnotation]: "not an instance" },
    { [instanceAnnotation]: `${BigInt(epoch) * 1000n}-abc` },
    { [instanceAnnotation]: "-1-2-3" },
    Object.fromEntries(
      Object.entries(record.annotations).filter(([, value]) => value === record.uid).map(([name]) => [name, "another"])
    ),
    {}
  ])
  const spec = dice.pick([
    {},
    { leaseTransitions: 2 ** 31 - 1 },
    { acquireTime: "0001-01-01T00:00:00.000001Z" },
    // With a shorter duration than its holder wrote it would be a forged record.
    {
      renewTime: "9999-12-31T23:59:59.999999Z",
      leaseDurationSeconds: monitor.shortened() ?? record.leaseDurationSeconds ?? null
    },
    { holderIdentity: `${"x".repeat(2000)}\n\u001b[2J${world.now}` }
  ])
  simulation.fault("strange values", timing.leaseDuration)
  world.note("fault", () => `strange values: ${JSON.stringify([annotations, spec]).slice(0, 200)}`)
  simulation.foreign(cluster.editLease(key, { metadata: { annotations }, spec }))
  monitor.onForged()
}

/**
 * etcd is restored from a backup of a while ago, as it should be: nobody reaches an API server before everybody who led
 * has given up, and no version is used a second time (`--bump-revision`).
 */
const etcdRestored: Act = (simulation) => {
  const { candidates, clientGo, cluster, dice, monitor, timing, weather, world } = simulation
  if (clientGo !== undefined) {
    return
  }
  const backup = world.sync(cluster.snapshot)
  const pods = candidates.map(({ podUid }) => podUid)
  const slowest = Math.min(...candidates.map(({ options }) => options.rate))
  const lasts = (timing.renewDeadline + timing.ending) / slowest + second
  const delay = dice.scale(0.1, 3) * timing.leaseDuration
  // Not counted as a fault before it is one, but the storm is not over before it.
  simulation.lastFault = Math.max(simulation.lastFault, world.now + delay + lasts)
  world.after(delay, () => {
    weather.down(lasts)
    simulation.fault("etcd restored", lasts + timing.leaseDuration)
    world.after(lasts - milli, () => {
      // Where Pods came and went since, processes run in Pods that no longer exist: each Lease of theirs is collected.
      if (candidates.some(({ podUid }, index) => podUid !== pods[index])) {
        return
      }
      world.note("fault", () => `etcd is restored, as of v${backup.version}`)
      const version = world.sync(cluster.version)
      world.sync(cluster.restore(backup))
      world.sync(cluster.skipVersions(Number(version - backup.version) + 1))
      monitor.onRestored(world.sync(cluster.lease(key)))
      simulation.foreign(Effect.void)
    })
  })
}

const acts: { readonly [name: string]: Act } = {
  "etcd restored": etcdRestored,
  "name another": behindItsBack(nameAnother),
  "put back another": behindItsBack(putBackAnother),
  "held and cut off": heldAndCutOff,
  "taken unheard": takenUnheard,
  "lead and go": leadAndGo,
  "delete beside": deleteBeside,
  "shorten beside": shortenBeside,
  "restart while young": restartWhileYoung,
  "late create": lateCreate,
  "end with open take": endWithOpenTake,
  "witness jumps": witnessJumps,
  "strange values": strangeValues
}

export const forgeries = {
  acts,
  /** In a storm that is about them. */
  all: [
    ["name another", 4],
    ["put back another", 4],
    ["held and cut off", 2],
    ["taken unheard", 2],
    ["delete beside", 1],
    ["shorten beside", 2],
    ["restart while young", 1],
    ["late create", 1],
    ["end with open take", 1],
    ["strange values", 1]
  ],
  /** Among everything else. */
  usual: [
    ["name another", 1],
    ["put back another", 1],
    ["witness jumps", 1],
    ["etcd restored", 0.3],
    ["strange values", 0.5],
    ["restart while young", 0.5],
    ["end with open take", 0.5],
    ["late create", 0.5]
  ]
} satisfies {
  readonly acts: { readonly [name: string]: Act }
  readonly all: ReadonlyArray<readonly [string, number]>
  readonly usual: ReadonlyArray<readonly [string, number]>
}
