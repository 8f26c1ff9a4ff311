/**
 * Members, shards and the pure rule, and nothing else: Leases are a version and a holder, and the election is a guarded
 * write. Everything is drawn from the seed. Times are milliseconds.
 */
import * as Rule from "../../src/internal/protocol/shards.ts"
import type { Dice } from "../simulation/random.ts"

export class Violation extends Error {
  readonly invariant: string
  constructor(invariant: string, message: string) {
    super(message)
    this.invariant = invariant
  }
}

export const leaseDuration = 15_000
export const renewDeadline = 10_000
export const renewInterval = 5000
export const retryPeriod = 2000
const memberWindow = Number(Rule.memberWindow(BigInt(leaseDuration)))
const standBack = Number(Rule.standBack(BigInt(retryPeriod)))

/** What the Lease of a shard is, on the server. */
interface Stored {
  readonly name: string
  version: bigint
  holder: Process | undefined
  /** Since when it has had no leader, with what the Lease still says. */
  leaderlessSince: number | undefined
  lastLeader: string | undefined
  moves: number
}

/** What a process sees of it. */
interface Seen {
  readonly name: string
  version: bigint
  holder: string | undefined
  freeAt: number
}

type Change =
  | { readonly _tag: "Shard"; readonly name: string; readonly version: bigint; readonly holder: string | undefined }
  | { readonly _tag: "Expired"; readonly name: string; readonly version: bigint }
  | { readonly _tag: "Member"; readonly member: Rule.Member }
  | { readonly _tag: "Gone"; readonly identity: string }

/** A replica. */
export class Process {
  readonly model: Model
  readonly identity: string
  readonly generation: string
  readonly lag: number
  /** How long its programs take to end. */
  readonly ending: number
  alive = true
  connected = true
  connectedSince = 0
  leaving = false
  /** It has been asked to end. */
  terminating = false
  /** Its member Lease, on the server. */
  member: Rule.Member | undefined
  /** Extra lag of its watch. */
  slow = 0
  /** Shards that are not on its list yet. */
  private readonly unknown = new Set<string>()

  // --- What it sees
  readonly shards = new Map<string, Seen>()
  readonly members = new Map<string, Rule.Member>()
  changedAt = 0
  joinedAt: number | undefined
  readonly leading = new Set<string>()
  readonly stopping = new Set<string>()
  readonly giving = new Set<string>()
  readonly standBackUntil = new Map<string, number>()
  private readonly asked = new Set<string>()
  private delivered = 0
  private planned: Rule.Plan | undefined
  private wakesAt = Infinity
  /** Events of an earlier connection are not delivered. */
  private connection = 0

  constructor(model: Model, identity: string, generation: string) {
    this.model = model
    this.identity = identity
    this.generation = generation
    this.lag = model.dice.scale(1, 50)
    this.ending = model.dice.pick([0, model.dice.scale(1, 1000)])
  }

  /** Its list of shards lacks one for a while. */
  misses(name: string, duration: number): void {
    const change = (missing: boolean) => {
      this.unknown[missing ? "add" : "delete"](name)
      this.planned = undefined
      this.describe(() => this.wake())
    }
    change(true)
    this.model.after(duration, () => change(false))
  }

  private get list(): string {
    return [...this.unknown].sort().join()
  }

  get reachable(): boolean {
    return this.alive && this.connected
  }

  start(): void {
    this.snapshot()
    this.join()
  }

  join(): void {
    this.request(() => {
      const { model } = this
      this.member = {
        identity: this.identity,
        generation: this.generation,
        joined: this.member?.joined ?? ++model.version,
        leaving: this.leaving,
        list: this.list
      }
      model.registered.set(this.identity, this)
      model.notify({ _tag: "Member", member: this.member })
    }, () => {
      this.joinedAt ??= this.model.now
      this.wake()
    })
  }

  /** A request, its effect on the server, and its answer. */
  private request(effect: () => void, answered: () => void): void {
    const { dice } = this.model
    const there = dice.scale(0.5, 10)
    this.model.after(there, () => {
      if (this.connected) {
        effect()
        this.model.after(dice.scale(0.5, 10), () => this.alive && answered())
      } else {
        this.model.after(retryPeriod, () => this.alive && answered())
      }
    })
  }

  // --- The watch ---

  /** Everything as it is now, and what follows. */
  snapshot(): void {
    const connection = ++this.connection
    this.model.after(this.lag, () => {
      if (connection !== this.connection || !this.reachable) {
        return
      }
      const gone = [...this.members.keys()].filter((identity) => !this.model.registered.has(identity))
      gone.forEach((identity) => this.apply({ _tag: "Gone", identity }))
      for (const { member } of this.model.registered.values()) {
        this.apply({ _tag: "Member", member: member! })
      }
      for (const { holder, name, version } of this.model.shards.values()) {
        this.apply({ _tag: "Shard", name, version, holder: holder?.identity })
      }
      this.model.watchExpiry(this)
    })
  }

  notify(change: Change): void {
    if (!this.reachable) {
      return
    }
    const connection = this.connection
    this.delivered = Math.max(this.delivered, this.model.now + this.lag * this.model.dice.between(0.5, 1.5) + this.slow)
    this.model.after(this.delivered - this.model.now, () => {
      if (connection === this.connection && this.reachable) {
        this.apply(change)
        this.wake()
      }
    })
  }

  private apply(change: Change): void {
    this.planned = undefined
    switch (change._tag) {
      case "Member": {
        const { identity, leaving } = change.member
        if (this.members.get(identity)?.leaving !== leaving) {
          this.changedAt = this.model.now
        }
        this.members.set(identity, change.member)
        return
      }
      case "Gone": {
        if (this.members.delete(change.identity)) {
          this.changedAt = this.model.now
        }
        return
      }
      case "Expired": {
        const seen = this.shards.get(change.name)
        if (seen?.version === change.version && seen.holder !== undefined) {
          Object.assign(seen, { holder: undefined, freeAt: this.model.now })
        }
        return
      }
      case "Shard": {
        const { holder, name, version } = change
        const seen = this.shards.get(name)
        if (seen === undefined) {
          this.shards.set(name, { name, holder, version, freeAt: this.model.now })
        } else if (version > seen.version) {
          Object.assign(seen, { holder, version, freeAt: this.model.now })
          if (holder !== undefined && holder !== this.identity) {
            this.giving.delete(name)
            this.standBackUntil.delete(name)
          }
        }
      }
    }
  }

  // --- The rule ---

  get view(): Rule.View {
    return {
      members: [...this.members.values()],
      // What it is about to take counts as its own: answers and events come in any order.
      shards: [...this.shards.values()].filter(({ holder, name }) => holder !== undefined || !this.unknown.has(name))
        .map(({ holder, name, version }) => ({
          name,
          holder: this.asked.has(name) ? this.identity : holder,
          version
        }))
    }
  }

  private get plan(): Rule.Plan {
    return this.planned ??= Rule.plan(this.view)
  }

  wake(): void {
    const { now } = this.model
    if (!this.alive || this.terminating) {
      return
    }
    this.wakesAt = Infinity
    const self = this.members.get(this.identity) ?? {
      identity: this.identity,
      generation: this.generation,
      joined: 0n,
      leaving: this.leaving,
      list: this.list
    }
    if (!this.leaving) {
      for (const seen of this.shards.values()) {
        if (seen.holder !== undefined || this.unknown.has(seen.name) || this.asked.has(seen.name)) {
          continue
        }
        const turn = Rule.turnOf(this.plan, self, seen.name)
        if (turn === "Never") {
          continue
        }
        const deference = Number(Rule.deference(
          turn,
          BigInt(Math.floor(seen.freeAt)),
          BigInt(Math.floor(this.joinedAt ?? now)),
          BigInt(retryPeriod)
        ))
        const due = Math.max(seen.freeAt + deference, this.standBackUntil.get(seen.name) ?? 0)
        if (due <= now) {
          this.take(seen)
        } else {
          this.wakeAt(due)
        }
      }
    }
    const sinceChange = BigInt(Math.floor(now - this.changedAt))
    if (self.leaving || this.members.has(this.identity)) {
      for (
        const name of Rule.givesNow(this.plan, self, this.giving, sinceChange, Rule.noReturns, BigInt(leaseDuration))
      ) {
        this.give(name)
      }
      const settles = this.changedAt + Number(Rule.settleTime(BigInt(leaseDuration))) + 1
      if (settles > now) {
        this.wakeAt(settles)
      }
    }
  }

  private wakeAt(time: number): void {
    if (time < this.wakesAt) {
      this.wakesAt = time
      this.model.after(time - this.model.now, () => this.wakesAt === time && this.wake())
    }
  }

  private take({ name, version }: Seen): void {
    this.asked.add(name)
    this.planned = undefined
    this.request(() => this.model.take(this, name, version), () => {
      this.asked.delete(name)
      this.planned = undefined
      // A conflict means: read.
      const { holder, version } = this.model.shards.get(name)!
      if (this.connected) {
        this.apply({ _tag: "Shard", name, version, holder: holder?.identity })
      }
      this.wake()
    })
  }

  give(name: string): void {
    if (!this.leading.has(name) || this.stopping.has(name)) {
      return
    }
    this.giving.add(name)
    this.model.onGive(this)
    this.stop(name, () => {
      this.standBackUntil.set(name, this.model.now + standBack)
      this.model.after(standBack + 1, () => {
        this.giving.delete(name)
        this.wake()
      })
    })
  }

  /** Ends a shard's program, and releases. */
  private stop(name: string, then: () => void): void {
    this.stopping.add(name)
    this.model.after(this.ending * this.model.dice.next(), () => {
      if (!this.alive) {
        return
      }
      this.leading.delete(name)
      this.request(() => this.model.release(this, name), () => {
        this.stopping.delete(name)
        then()
      })
    })
  }

  // --- Its end ---

  /** It gives up everything in good order, and goes on running. */
  drain(): void {
    this.leaving = true
    this.describe(() => this.wake())
  }

  /** SIGTERM: says that it is leaving, then ends everything. */
  end(): void {
    if (!this.alive || this.terminating) {
      return
    }
    this.leaving = true
    this.terminating = true
    this.describe(() => {
      this.unregisterOnceIdle()
    })
  }

  /** Writes into its member Lease what it is now. */
  private describe(then: () => void): void {
    this.request(() => {
      if (this.member !== undefined && this.model.registered.has(this.identity)) {
        this.member = { ...this.member, leaving: this.leaving, list: this.list }
        this.model.notify({ _tag: "Member", member: this.member })
      }
    }, then)
  }

  /** What it was about to take when it was asked to end is released, too. */
  private unregisterOnceIdle(): void {
    for (const name of this.leading) {
      if (!this.stopping.has(name)) {
        this.stop(name, () => undefined)
      }
    }
    if (this.leading.size + this.stopping.size + this.asked.size > 0) {
      this.model.after(5, () => this.alive && this.unregisterOnceIdle())
      return
    }
    this.request(() => this.model.unregister(this), () => {
      this.alive = false
      if (this.model.registered.has(this.identity)) {
        // It could not be said: its member Lease runs out.
        this.model.silence(this, "ends, cut off")
      }
    })
  }

  crash(): void {
    this.alive = false
    this.model.silence(this, "crash")
    this.leading.clear()
  }

  cutOff(duration: number): void {
    this.connected = false
    this.connection++
    this.model.silence(this, "cut")
    this.model.after(duration, () => {
      this.connected = true
      if (this.alive) {
        this.connectedSince = this.model.now
        this.model.heal(this)
        this.snapshot()
      }
    })
  }
}

export class Model {
  now = 0
  version = 100n
  readonly dice: Dice
  readonly shards = new Map<string, Stored>()
  readonly registered = new Map<string, Process>()
  readonly processes: Array<Process> = []
  readonly timeline: Array<string> | undefined
  events = 0
  /** Longest time without a leader, of a shard that was led before. */
  longestLeaderless = 0
  /** Whether `promptly` is checked: not while views may be wrong for long. */
  prompt = true
  private readonly queue: Array<{ readonly at: number; readonly order: number; readonly run: () => unknown }> = []
  private order = 0
  /** Expirations to come, by process that no longer renews: the versions of its shards, and when. */
  private readonly silent = new Map<Process, { readonly renewed: Map<string, number>; readonly member: number }>()

  constructor(dice: Dice, shards: number, tracing: boolean) {
    this.dice = dice
    this.timeline = tracing ? [] : undefined
    for (let i = 0; i < shards; i++) {
      const name = `shard-${i}`
      this.shards.set(name, {
        name,
        version: 0n,
        holder: undefined,
        leaderlessSince: undefined,
        lastLeader: undefined,
        moves: 0
      })
    }
  }

  note(text: () => string): void {
    this.timeline?.push(`${(this.now / 1000).toFixed(3)} ${text()}`)
  }

  launch(identity: string, generation: string): Process {
    const process = new Process(this, identity, generation)
    this.processes.push(process)
    this.note(() => `${identity} starts (${generation})`)
    process.start()
    return process
  }

  // --- Time ---

  after(delay: number, run: () => unknown): void {
    const event = { at: this.now + Math.max(0, delay), order: this.order++, run }
    const { queue } = this
    let index = queue.length
    queue.push(event)
    while (index > 0) {
      const parent = (index - 1) >> 1
      if (before(queue[parent]!, event)) {
        break
      }
      queue[index] = queue[parent]!
      index = parent
    }
    queue[index] = event
  }

  private next() {
    const { queue } = this
    const first = queue[0]!
    const last = queue.pop()!
    if (queue.length > 0) {
      let index = 0
      for (;;) {
        let child = 2 * index + 1
        if (child >= queue.length) {
          break
        }
        if (child + 1 < queue.length && before(queue[child + 1]!, queue[child]!)) {
          child++
        }
        if (before(last, queue[child]!)) {
          break
        }
        queue[index] = queue[child]!
        index = child
      }
      queue[index] = last
    }
    return first
  }

  run(until: number): void {
    while (this.queue.length > 0 && this.queue[0]!.at <= until) {
      const event = this.next()
      this.now = event.at
      this.events++
      event.run()
    }
    this.now = until
  }

  // --- The server ---

  notify(change: Change): void {
    for (const process of this.processes) {
      process.notify(change)
    }
  }

  take(process: Process, name: string, version: bigint): void {
    const shard = this.shards.get(name)!
    if (shard.version !== version) {
      return
    }
    if (shard.holder !== undefined && shard.leaderlessSince === undefined && shard.holder !== process) {
      throw new Violation(
        "nobody steals",
        `${process.identity} took ${name} from ${shard.holder.identity}, who leads it`
      )
    }
    this.checkLeaderless(shard)
    if (shard.lastLeader !== undefined && shard.lastLeader !== process.identity) {
      shard.moves++
    }
    this.note(() => `${process.identity} takes ${name} (from ${shard.lastLeader})`)
    shard.version = ++this.version
    shard.holder = process
    shard.lastLeader = process.identity
    shard.leaderlessSince = undefined
    if (process.reachable) {
      process.leading.add(name)
      this.notify({ _tag: "Shard", name, version: shard.version, holder: process.identity })
    } else {
      // Its write arrived, and it does not live to see it.
      this.notify({ _tag: "Shard", name, version: shard.version, holder: process.identity })
      this.expireLater(process, name, this.now)
    }
  }

  private checkLeaderless(shard: Stored): void {
    if (shard.leaderlessSince !== undefined) {
      const leaderless = this.now - shard.leaderlessSince
      this.longestLeaderless = Math.max(this.longestLeaderless, leaderless)
      if (this.prompt && leaderless > 2 * retryPeriod) {
        throw new Violation(
          "every shard is led within its bound",
          `nobody led ${shard.name} for ${(leaderless / 1000).toFixed(1)} s`
        )
      }
    }
  }

  release(process: Process, name: string): void {
    const shard = this.shards.get(name)!
    if (shard.holder === process) {
      this.note(() => `${process.identity} releases ${name}`)
      shard.version = ++this.version
      shard.holder = undefined
      shard.leaderlessSince = this.now
      this.notify({ _tag: "Shard", name, version: shard.version, holder: undefined })
    }
  }

  unregister(process: Process): void {
    this.note(() => `${process.identity} has ended`)
    this.registered.delete(process.identity)
    this.notify({ _tag: "Gone", identity: process.identity })
  }

  /** It renews no longer: what it holds runs out, for each watcher when that has not seen a renewal for long enough. */
  silence(process: Process, reason: "crash" | "cut" | "ends, cut off"): void {
    this.note(() => `${process.identity}: ${reason}`)
    const lastRenewal = () => Math.max(process.connectedSince, this.now - this.dice.between(0, renewInterval))
    const renewed = new Map<string, number>()
    this.silent.set(process, { renewed, member: lastRenewal() })
    for (const { holder, name } of this.shards.values()) {
      if (holder === process && (process.leading.has(name) || process.stopping.has(name))) {
        this.expireLater(process, name, lastRenewal())
      }
    }
    const { member } = this.silent.get(process)!
    this.after(member + memberWindow - this.now, () => {
      if (this.silent.get(process)?.member === member && this.registered.delete(process.identity)) {
        this.notify({ _tag: "Gone", identity: process.identity })
      }
    })
  }

  private expireLater(process: Process, name: string, renewedAt: number): void {
    const { version } = this.shards.get(name)!
    this.silent.get(process)?.renewed.set(name, renewedAt)
    const runsOut = (delay: number, then: () => void) =>
      this.after(renewedAt + delay - this.now, () => {
        const shard = this.shards.get(name)!
        if (shard.version === version && shard.holder === process) {
          then()
        }
      })
    runsOut(renewDeadline, () => {
      process.leading.delete(name)
      process.giving.delete(name)
    })
    runsOut(leaseDuration, () => {
      this.shards.get(name)!.leaderlessSince ??= this.now
      this.notify({ _tag: "Expired", name, version })
    })
  }

  /** For a watch that begins anew: what had run out before it began runs out for it when it has seen it for long enough. */
  watchExpiry(process: Process): void {
    for (const { leaderlessSince, name, version } of this.shards.values()) {
      if (leaderlessSince !== undefined) {
        this.after(leaseDuration, () => process.notify({ _tag: "Expired", name, version }))
      }
    }
  }

  heal(process: Process): void {
    this.note(() => `${process.identity}: connected again`)
    const silent = this.silent.get(process)
    this.silent.delete(process)
    for (const [name, renewedAt] of silent?.renewed ?? []) {
      const shard = this.shards.get(name)!
      // Renewed in time: a sign of life.
      if (shard.holder === process && process.leading.has(name) && this.now < renewedAt + renewDeadline) {
        shard.version = ++this.version
        this.notify({ _tag: "Shard", name, version: shard.version, holder: process.identity })
      }
    }
    this.after(
      silent !== undefined && this.now > silent.member + renewDeadline
        ? Math.max(0, silent.member + leaseDuration - this.now)
        : 0,
      () => process.reachable && !process.leaving && process.join()
    )
  }

  // --- Invariants ---

  onGive(process: Process): void {
    const ending = [...process.stopping].filter((name) => this.shards.get(name)!.holder === process).length
    if (ending >= 4) {
      throw new Violation("a few at a time", `${process.identity} gives up ${ending + 1} at once`)
    }
  }

  get moves(): number {
    let moves = 0
    for (const shard of this.shards.values()) {
      moves += shard.moves
    }
    return moves
  }

  counts(): Array<number> {
    return this.processes.filter(({ alive, leaving }) => alive && !leaving).map(({ leading }) => leading.size)
  }

  /** Everything is led, and fairly. */
  checkRest(): void {
    for (const { holder, name } of this.shards.values()) {
      if (holder?.leading.has(name) !== true) {
        throw new Violation("every shard is led", `nobody leads ${name} after everything has settled`)
      }
    }
    const counts = this.counts()
    if (Math.max(...counts) - Math.min(...counts) > 1) {
      throw new Violation("fair within one", `members lead ${counts.join(", ")} after everything has settled`)
    }
  }
}

const before = (a: { at: number; order: number }, b: { at: number; order: number }): boolean =>
  a.at < b.at || (a.at === b.at && a.order < b.order)
