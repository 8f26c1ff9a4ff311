/**
 * The invariants. The monitor sees everything at once, in true time: every request as it leaves its process, every
 * write as the server commits it, every term, and every step of every program. What it finds ends the run.
 */
import * as Cause from "effect/Cause"
import { Clock as ClockRef } from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import { LeaderElectionError } from "../../src/LeaderElectionError.ts"
import type { Leadership } from "../../src/Leadership.ts"
import type { LeaseError } from "../../src/LeaseError.ts"
import { instanceAnnotation, type LeaseRecord, type LeaseWrite } from "../../src/LeaseRecord.ts"
import { type LeaseResponse, LeaseStore } from "../../src/LeaseStore.ts"
import type { Candidate, Incarnation } from "./Candidate.ts"
import type { Simulation } from "./Simulation.ts"
import { format, milli, type Process, second, Violation } from "./World.ts"

/** A record that one of the candidates wrote. */
export interface Written {
  readonly record: LeaseRecord
  readonly process: Process
  readonly identity: string
}

/** A patch that left its process, in a storm of requests that hang. */
interface Patch {
  readonly at: number
  readonly hung: boolean
}

/** A term, as its program and the world see it. */
export interface ObservedTerm {
  readonly incarnation: Incarnation
  readonly process: Process
  readonly identity: string
  readonly leadership: Leadership["Service"]
  readonly begun: number
  program: "running" | "closing" | "ended"
  /** Process's monotonic time at which the validity ends, as last asked. */
  validUntil: number
  /** Once it was found invalid; nothing may revive it. */
  final: boolean
  /** A forgery that cannot be told from the truth was believed in its time. */
  forged: boolean
}

// How late the timers of a process that is not stalled may be.
const lateness = 20 * milli

export class Monitor {
  readonly simulation: Simulation
  /** Terms whose leadership may be valid, or whose program still runs. */
  readonly terms: Array<ObservedTerm> = []
  /** Identities that two live processes have used: nothing is promised of who leads beside them. */
  readonly duplicated = new Set<string>()
  /** The newest process under each identity. */
  private readonly newest = new Map<string, Process>()
  /**
   * Identities in whose name a complete earlier record stood in the Lease when a process of theirs started: the one
   * forgery that nobody can tell from the truth.
   */
  readonly forged = new Set<string>()
  /** Identities beside which an instance id stood that nobody has. */
  private readonly madeUp = new Set<string>()
  /** What the candidates wrote, oldest first: the newest 400. */
  readonly history: Array<Written> = []
  /** Who wrote each instance id. */
  private readonly authors = new Map<string, string>()
  /** The forged record, as long as it is the stored one. */
  private forgery: { readonly version: bigint; readonly identity: string } | undefined
  /** What each process saw first: the version, or that there was no Lease. */
  private readonly first = new WeakMap<Process, bigint>()
  /** True time of the last answer to each process that was no refusal, or of its start. */
  private readonly answered = new WeakMap<Process, number>()
  /** When each write left its process, by its renewTime. */
  private readonly sent = new WeakMap<Process, Map<bigint, number>>()
  /** When the newest of a process's committed writes left it. */
  private readonly succeeded = new WeakMap<Process, number>()
  /** The version that each process's last take was decided on. */
  private readonly taken = new WeakMap<Process, bigint>()
  private readonly patches = new WeakMap<Process, Array<Patch>>()
  /** Writes and reads of each process since it was emptied, and how many of the writes were committed. */
  readonly traffic = new Map<Process, { writes: number; reads: number; commits: number }>()
  /** The Lease as it is stored. */
  record: LeaseRecord | undefined
  /** True times of the last write by the record's holder, and of the last change at all. */
  private holderWroteAt = 0
  /** The duration that the last holder has written to this object, in seconds. */
  heldFor = 0
  private changedAt = 0
  private lastToken = 0n
  /** True time of the last write of each process that was committed. */
  private readonly committed = new WeakMap<Process, number>()
  private readonly requests = new WeakMap<Process, Array<number>>()
  private readonly known = new WeakMap<Process, Map<bigint, LeaseRecord>>()
  private readonly knowledge = new WeakMap<
    Process,
    { readonly version: bigint; readonly present: boolean; readonly at: number; readonly news: number }
  >()
  /** Statistics. */
  begun = 0
  steps = 0
  requestCount = 0
  lost = 0
  confirms = 0
  /** Requests of each process since the last time that it was emptied. */
  readonly requestsOf = new Map<Process, number>()

  constructor(simulation: Simulation) {
    this.simulation = simulation
  }

  private get world() {
    return this.simulation.world
  }

  private fail(invariant: string, detail: string): never {
    // Whoever it was that noticed may be a fiber, whose failure is its own: the world ends the run.
    throw this.world.violate(new Violation(invariant, detail))
  }

  // --- leadership -----------------------------------------------------------------------------------------------

  isValid(term: ObservedTerm): boolean {
    return Effect.runSync(Effect.provideService(term.leadership.isValid, ClockRef, term.process.clock))
  }

  /** After each step of true time. */
  check(): void {
    if (this.terms.length < 2) {
      return
    }
    let leader: ObservedTerm | undefined
    for (let i = this.terms.length - 1; i >= 0; i--) {
      const term = this.terms[i]!
      if (!this.isValid(term)) {
        this.settle(term, i)
        continue
      }
      if (term.final) {
        this.fail("a term once over stays over", describe(term))
      }
      if (!this.isPromised(term)) {
        continue
      }
      if (leader !== undefined) {
        this.fail("at most one valid leader", `${describe(term)} and ${describe(leader)}`)
      }
      leader = term
    }
  }

  /** Whether anything is promised of who leads beside this one. */
  private isPromised(term: ObservedTerm): boolean {
    return !this.duplicated.has(term.identity) && !this.forged.has(term.identity) && !term.forged &&
      term.incarnation.candidate.options.settings.newLease === "wait"
  }

  /** Whether somebody leads. */
  leader(): ObservedTerm | undefined {
    return this.terms.find((term) => this.isValid(term))
  }

  private settle(term: ObservedTerm, index: number): void {
    term.final = true
    if (term.program === "ended") {
      this.terms.splice(index, 1)
    }
  }

  private remember(term: ObservedTerm): void {
    const left = Effect.runSync(Effect.provideService(term.leadership.remaining, ClockRef, term.process.clock))
    const nanos = Number(Duration.toNanosUnsafe(left))
    if (nanos > 0) {
      term.validUntil = term.process.monotonic() + nanos
    } else {
      term.validUntil = Math.min(term.validUntil, term.process.monotonic())
    }
  }

  // --- programs -------------------------------------------------------------------------------------------------

  begin(incarnation: Incarnation, leadership: Leadership["Service"]): ObservedTerm {
    const { identity, process } = incarnation
    const term: ObservedTerm = {
      incarnation,
      process,
      identity,
      leadership,
      begun: this.world.now,
      program: "running",
      validUntil: process.monotonic(),
      final: false,
      forged: false
    }
    this.world.note(process.name, () => `LEADS with token ${leadership.fencingToken}`)
    this.begun++
    for (const other of this.terms) {
      if (other.program !== "ended") {
        this.overlap(term, other)
      }
    }
    if (leadership.fencingToken > this.lastToken) {
      this.lastToken = leadership.fencingToken
    } else if (!this.duplicated.has(identity) && !this.forged.has(identity)) {
      this.fail("fencing tokens grow", `${describe(term)} after ${this.lastToken}`)
    }
    this.terms.push(term)
    this.remember(term)
    this.simulation.onLeader()
    return term
  }

  private overlap(term: ObservedTerm, other: ObservedTerm): void {
    if (other.process === term.process) {
      this.fail("no campaign while the last program runs", describe(term))
    }
    if (this.duplicated.has(other.identity) || !this.simulation.programsNeverOverlap) {
      return
    }
    if (!this.isPromised(term) || !this.isPromised(other)) {
      return
    }
    // A process that does not run cannot stop its program either.
    const { process } = other
    const left = (process.monotonic() - other.validUntil) / process.options.rate
    const lostAt = this.world.now - left
    const { renewDeadline } = this.simulation.timing
    if (
      process.state === "running" && process.stalledUntil < lostAt - lateness &&
      process.suspendedUntil < lostAt - renewDeadline
    ) {
      this.fail("programs never overlap", `${describe(term)} while that of ${describe(other)} is ${other.program}`)
    }
  }

  step(term: ObservedTerm, guarded: boolean): void {
    this.steps++
    if (this.isValid(term)) {
      this.remember(term)
      return
    }
    if (guarded) {
      this.fail("ensure is right", `a step of ${describe(term)} although it is not valid`)
    }
    const { process } = term
    const late = (process.monotonic() - term.validUntil) / process.options.rate
    if (late > lateness && process.stalledUntil < this.world.now - late && process.suspendedUntil < 0) {
      this.fail("no program step while invalid", `${describe(term)}, ${(late / second).toFixed(3)} s after its end`)
    }
  }

  confirmed(term: ObservedTerm, asked: number): void {
    if ((this.committed.get(term.process) ?? -1) < asked) {
      this.fail("confirm is a committed renewal", describe(term))
    }
  }

  closing(term: ObservedTerm, interrupted: boolean): void {
    term.program = "closing"
    this.world.note(term.process.name, () => "program is closing")
    if (interrupted && !term.incarnation.terminating) {
      this.lost++
      const lost = Effect.runSyncExit(term.leadership.lost)
      if (Exit.isSuccess(lost) && lost.value === "RenewDeadlineExceeded") {
        this.checkLoss(term)
      }
    }
    if (interrupted && this.isValid(term)) {
      this.fail("leadership ends before its finalizers run", describe(term))
    }
  }

  end(term: ObservedTerm): void {
    term.program = "ended"
    this.world.note(term.process.name, () => "program has ended")
  }

  onDead(process: Process): void {
    for (let i = this.terms.length - 1; i >= 0; i--) {
      if (this.terms[i]!.process === process) {
        this.terms.splice(i, 1)
      }
    }
  }

  /** Where requests hang and nothing else is wrong, no term is lost but where all of them did. */
  private checkLoss({ process }: ObservedTerm): void {
    const { profile, timing, weather } = this.simulation
    if (profile.theme !== "hung" || this.simulation.isCalm) {
      return
    }
    const { rate } = process.options
    const { renewInterval, requestTimeout, retryPeriod } = this.simulation.candidates[0]!.options.settings
    const nanos = Duration.toNanosUnsafe
    const deadline = timing.renewDeadline / rate
    const since = this.world.now - deadline
    const tried = (this.patches.get(process) ?? []).filter(({ at }) => at > since + 50 * milli)
    const passed = tried.find(({ at, hung }) => !hung && at < this.world.now - weather.roundTrip - 50 * milli)
    if (passed !== undefined) {
      this.fail(
        "no term is lost while requests get through",
        `${process.name}, to which one of ${format(passed.at)} did`
      )
    }
    const period = Number(retryPeriod > requestTimeout ? nanos(retryPeriod) : nanos(requestTimeout))
    const least = Math.floor((timing.renewDeadline - Number(nanos(renewInterval))) / period) - 2
    if (tried.length < least) {
      this.fail("a leader keeps trying", `${process.name} tried ${tried.length} times in its last renewDeadline`)
    }
  }

  onPatch(process: Process, hung: boolean): void {
    const patches = this.patches.get(process) ?? []
    patches.push({ at: this.world.now, hung })
    if (patches.length > 2000) {
      patches.splice(0, 1000)
    }
    this.patches.set(process, patches)
  }

  // --- processes --------------------------------------------------------------------------------------------------

  onStart({ identity, process }: Incarnation): void {
    this.answered.set(process, this.world.now)
    // A replacement that starts before its predecessor's Pod is gone is a second process under one identity.
    if (this.newest.get(identity)?.alive === true) {
      this.duplicated.add(identity)
    }
    this.newest.set(identity, process)
    if (this.forgery?.identity === identity) {
      this.believe(identity)
    }
  }

  /** What is forged in this name cannot be told from the truth: whoever leads now may have a second leader beside it. */
  private believe(identity: string): void {
    this.forged.add(identity)
    for (const term of this.terms) {
      term.forged = true
    }
  }

  /** An answer has reached this process. */
  onAnswer(process: Process, exit: Exit.Exit<LeaseResponse, LeaseError>): void {
    const failure = Exit.findErrorOption(exit)
    const tag = Option.isSome(failure) ? failure.value.reason._tag : undefined
    if (tag !== "LeaseForbidden" && tag !== "LeaseInvalid") {
      this.answered.set(process, this.world.now)
    }
  }

  /** The main fiber of a process has failed. */
  onProcessEnd({ candidate, identity, process }: Incarnation, cause: Cause.Cause<unknown>): void {
    const error = Option.getOrUndefined(Cause.findErrorOption(cause))
    const reason = error instanceof LeaderElectionError ? error.reason._tag : undefined
    if (reason === "DuplicateIdentity") {
      // An instance id that somebody made up, or one from before the wall clock stepped back, may say that it is later.
      if (!candidate.steppedBack && !this.duplicated.has(identity) && !this.madeUp.has(identity)) {
        this.fail("only a second process ends another", `${process.name} ended: its identity is its own`)
      }
    } else if (reason === "LeaseRefused") {
      const since = (this.world.now - (this.answered.get(process) ?? 0)) * process.options.rate
      if (since < 60 * second) {
        this.fail("nobody ends for a refusal that passes", `${process.name} after ${format(since)} s`)
      }
    } else {
      this.fail("a process ends for a reason", `${process.name}: ${Cause.pretty(cause).split("\n")[0]}`)
    }
  }

  private salts = 0

  /** Microseconds that make a record unlike all others. */
  nextSalt(): number {
    return ++this.salts
  }

  // --- edits that name candidates -----------------------------------------------------------------------------------

  /**
   * Whether what one candidate wrote may be put back as it is: every live process has seen something after the last
   * record that said the same, so that it is a sign of life to all of them. To the one that it names it is one anyway.
   */
  isOutdated(record: LeaseRecord): boolean {
    // What is put back says the same of another object, where the Lease was deleted since.
    const last = this.signs.get(signOf({ ...record, uid: this.record?.uid ?? "" }))?.version ?? record.resourceVersion
    const named = new Set(
      this.simulation.candidates.flatMap(({ current }) =>
        current?.identity === record.holderIdentity ? [current.process] : []
      )
    )
    return this.world.processes.every((process) =>
      named.has(process) || (this.knowledge.get(process)?.version ?? 0n) > last
    )
  }

  /** Whether all live processes know the Lease as its holder wrote it: what is shortened then is an edit to them. */
  isSeenByAll(): boolean {
    return this.shortened() === undefined &&
      this.world.processes.every((process) => this.knowledge.get(process)?.version === this.record?.resourceVersion)
  }

  /** The duration that the last holder has written, in seconds, where somebody has shortened it since. */
  shortened(): number | undefined {
    return this.heldFor > (this.record?.leaseDurationSeconds ?? 0) ? this.heldFor : undefined
  }

  /**
   * etcd was restored from a backup, and the version of the Lease has stepped back. That is no sign of life: who missed
   * what came since may take what has run out by its last look, and whoever led has given up.
   */
  onRestored(lease: LeaseRecord | undefined): void {
    this.record = lease
    this.holderWroteAt = 0
    this.changedAt = 0
  }

  /** Whether this process has seen anything yet. */
  private hasSeen(process: Process): boolean {
    return this.first.has(process)
  }

  /** The Lease names a candidate that has not written it. */
  onForged(): void {
    const { record } = this
    const instance = record?.annotations[instanceAnnotation]
    const identity = record?.holderIdentity ?? ""
    this.forgery = undefined
    // Also where the instance is that of another candidate, which may have started later: from there it looks like a
    // second process of this name, in another Pod.
    if (instance !== undefined && this.authors.get(instance) !== identity) {
      this.madeUp.add(identity)
    }
    if (record === undefined || instance === undefined || this.authors.get(instance) !== identity) {
      return
    }
    this.forgery = { version: record.resourceVersion, identity }
    for (const { current } of this.simulation.candidates) {
      if (current?.identity === identity && current.process.alive && !this.hasSeen(current.process)) {
        this.believe(identity)
      }
    }
  }

  // --- requests -------------------------------------------------------------------------------------------------

  onRequest(process: Process): void {
    this.requestCount++
    this.requestsOf.set(process, (this.requestsOf.get(process) ?? 0) + 1)
    const { requestLimit } = this.simulation
    const now = this.world.now
    const times = this.requests.get(process) ?? []
    times.push(now)
    while (times[0]! < now - 10 * second) {
      times.shift()
    }
    this.requests.set(process, times)
    if (times.length > requestLimit) {
      this.fail("requests stay few", `${times.length} by ${process.name} in 10 s`)
    }
  }

  /** A record has reached this process. */
  onSeen(process: Process, lease: LeaseRecord): void {
    this.onNews(process, lease.resourceVersion, true)
    const known = this.known.get(process) ?? new Map<bigint, LeaseRecord>()
    known.set(lease.resourceVersion, lease)
    this.known.set(process, known)
  }

  private onNews(process: Process, version: bigint, present: boolean): void {
    if (!this.first.has(process)) {
      this.first.set(process, present ? version : -1n)
    }
    const knowledge = this.knowledge.get(process)
    if (knowledge === undefined || version > knowledge.version) {
      this.knowledge.set(process, { version, present, at: this.world.now, news: this.news(process) + 1 })
    }
  }

  /** A DELETED event has reached this process. */
  onDeleted(process: Process, lease: LeaseRecord): void {
    this.onNews(process, lease.resourceVersion, false)
  }

  /** What the watch had brought may not have been looked at when it was closed. */
  onWatchClosed(process: Process): void {
    const knowledge = this.knowledge.get(process)
    if (knowledge !== undefined) {
      this.knowledge.set(process, { ...knowledge, present: false })
    }
  }

  /** Counts what has reached this process so far. */
  news(process: Process): number {
    return this.knowledge.get(process)?.news ?? 0
  }

  /** A 404 has reached this process: to be believed only if nothing else did since its request began. */
  onNotFound(process: Process, begun: number): void {
    const knowledge = this.knowledge.get(process)
    if (!this.first.has(process)) {
      this.first.set(process, -1n)
    }
    if (knowledge !== undefined && knowledge.news === begun) {
      this.knowledge.set(process, { ...knowledge, present: false })
    }
  }

  /** A write leaves its process. */
  onWrite(incarnation: Incarnation, resourceVersion: bigint | undefined, write: LeaseWrite): void {
    const { identity, process } = incarnation
    this.count(process).writes++
    if (write.renewTime !== undefined) {
      const sent = this.sent.get(process) ?? new Map<bigint, number>()
      sent.set(write.renewTime, this.world.now)
      this.sent.set(process, sent)
    }
    if (write.leaseTransitions !== undefined && resourceVersion !== undefined) {
      this.taken.set(process, resourceVersion)
    }
    if (resourceVersion === undefined) {
      if (this.terms.some((term) => term.process === process && term.program !== "ended")) {
        this.fail("never created again inside a term", process.name)
      }
      // What has arrived in this very moment, after a stall, may not have been looked at yet.
      const knowledge = this.knowledge.get(process)
      if (knowledge?.present === true && knowledge.at < this.world.now) {
        this.fail("nobody creates a Lease that it knows to exist", process.name)
      }
    } else {
      const decidedOn = this.known.get(process)?.get(resourceVersion)
      if (decidedOn === undefined) {
        this.fail("every patch carries the version it was decided on", `${process.name} never saw v${resourceVersion}`)
      }
      const transitions = write.leaseTransitions
      if (transitions !== undefined && transitions - decidedOn.leaseTransitions > 1) {
        this.fail("every patch carries the version it was decided on", `${process.name} on v${resourceVersion}`)
      }
    }
    if (write.holderIdentity === "") {
      this.simulation.onRelease?.()
      const decidedOn = resourceVersion === undefined ? undefined : this.known.get(process)?.get(resourceVersion)
      const since = (this.world.now - (this.succeeded.get(process) ?? this.world.now)) * process.options.rate
      const own = Number(Duration.toNanosUnsafe(incarnation.candidate.options.settings.leaseDuration))
      // A process that was stalled on its way may be late.
      if (
        decidedOn?.holderIdentity === identity && since > own + lateness &&
        // One that goes after takes of unknown outcome is sent upon what they were decided on.
        this.taken.get(process) !== resourceVersion &&
        process.stalledUntil < this.world.now - milli
      ) {
        this.fail("no release after the lease's end", `${process.name}, ${format(since)} s after its last success`)
      }
      for (const term of this.terms) {
        if (term.process === process && term.program !== "ended") {
          this.fail("finalizers end before the release", `${describe(term)} is ${term.program}`)
        }
        if (term.process === process && this.isValid(term)) {
          this.fail("leadership ends before the release", describe(term))
        }
      }
    } else if (write.holderIdentity !== identity) {
      this.fail("a candidate writes its own name", `${process.name} wrote ${write.holderIdentity}`)
    }
  }

  /** What this process asked for since the counts were emptied. */
  count(process: Process): { writes: number; reads: number; commits: number } {
    const counted = this.traffic.get(process) ?? { writes: 0, reads: 0, commits: 0 }
    this.traffic.set(process, counted)
    return counted
  }

  /** The server's side of a connection: what is committed, and by whom. */
  spy(candidate: Candidate, identity: string, process: Process, store: LeaseStore["Service"]): LeaseStore["Service"] {
    return LeaseStore.of({
      ...store,
      get: store.get,
      create: (key, write) =>
        Effect.map(store.create(key, write), (response) => {
          this.commit(process, identity, response.lease, write)
          return response
        }),
      patch: (key, resourceVersion, write) =>
        Effect.suspend(() => {
          const before = this.record
          return Effect.map(store.patch(key, resourceVersion, write), (response) => {
            if (before === undefined || before.resourceVersion !== resourceVersion) {
              this.fail(
                "every write is guarded",
                `${process.name} decided on v${resourceVersion}, and changed v${before?.resourceVersion}`
              )
            }
            this.checkTakeover(candidate, identity, process, before, write)
            this.commit(process, identity, response.lease, write)
            return response
          })
        })
    })
  }

  private checkTakeover(
    candidate: Candidate,
    identity: string,
    process: Process,
    before: LeaseRecord,
    write: LeaseWrite
  ): void {
    const own = Number(Duration.toNanosUnsafe(candidate.options.settings.leaseDuration))
    const instance = before.annotations[instanceAnnotation]
    const writer = write.annotations?.[instanceAnnotation]
    const written = writer === undefined || writer === null || instance === writer ||
      // Its own record, which lost its annotations in an edit: it writes them again.
      (instance === undefined && this.authors.has(writer))
    // Only what stood there when this process first looked, and only by one of its own name in its own Pod.
    const resumes = written || (instance !== undefined && startOf(instance) <= startOf(writer) &&
      this.first.get(process) === before.resourceVersion && this.authors.get(instance) === identity)
    if (before.holderIdentity === identity && resumes) {
      return
    }
    const duration = before.leaseDurationSeconds === undefined ? own : before.leaseDurationSeconds * second
    const [since, wait] = before.holderIdentity !== ""
      ? [this.holderWroteAt, duration]
      : before.leaseDurationSeconds === 1
      ? [0, 0]
      : [this.changedAt, own]
    const waited = (this.world.now - since) * process.options.rate
    if (waited < wait - 2) {
      this.fail(
        "nobody overwrites another's live lease",
        `${process.name} took that of "${before.holderIdentity}" after ${(waited / second).toFixed(3)} s by its clock`
      )
    }
  }

  private commit(process: Process, identity: string, lease: LeaseRecord, write: LeaseWrite): void {
    if (lease.uid === this.record?.uid && lease.resourceVersion === this.record.resourceVersion) {
      // A write that changes nothing is no sign of life.
      return
    }
    this.world.note("server", () => `v${lease.resourceVersion} by ${process.name}: held by "${lease.holderIdentity}"`)
    this.changedAt = this.world.now
    this.committed.set(process, this.world.now)
    this.count(process).commits++
    this.forgery = undefined
    const sent = write.renewTime === undefined ? undefined : this.sent.get(process)?.get(write.renewTime)
    if (sent !== undefined && write.holderIdentity !== "") {
      this.succeeded.set(process, Math.max(sent, this.succeeded.get(process) ?? 0))
    }
    const instance = write.annotations?.[instanceAnnotation]
    if (typeof instance === "string") {
      this.authors.set(instance, identity)
    }
    this.isNewSign(lease)
    this.heldFor = lease.holderIdentity === "" ? 0 : lease.leaseDurationSeconds ?? 0
    this.history.push({ record: lease, process, identity })
    if (this.history.length > 400) {
      this.history.splice(0, 100)
    }
    if (lease.holderIdentity === identity || lease.uid !== this.record?.uid) {
      this.holderWroteAt = this.world.now
    }
    this.record = lease
    this.simulation.collect()
  }

  /** The newest version that said the same, and when the first did. */
  private readonly signs = new Map<string, { readonly version: bigint; readonly at: number }>()

  /** Whether this is a sign of life that nobody can have seen before. */
  private isNewSign(lease: LeaseRecord | undefined): boolean {
    if (lease === undefined) {
      return false
    }
    const sign = signOf(lease)
    const before = this.signs.get(sign)
    this.signs.set(sign, { version: lease.resourceVersion, at: before?.at ?? this.world.now })
    if (before !== undefined) {
      // Who missed what came between has seen no sign of life since.
      this.holderWroteAt = Math.min(this.holderWroteAt, before.at)
    }
    return before === undefined
  }

  /** Somebody else may have changed the Lease. */
  onForeign(lease: LeaseRecord | undefined): void {
    if (lease?.resourceVersion === this.record?.resourceVersion && lease?.uid === this.record?.uid) {
      return
    }
    this.world.note(
      "server",
      () => lease === undefined ? "no Lease" : `v${lease.resourceVersion} by others: held by "${lease.holderIdentity}"`
    )
    this.changedAt = this.world.now
    if (this.isNewSign(lease)) {
      this.holderWroteAt = this.world.now
    }
    if (lease?.uid !== this.record?.uid) {
      this.heldFor = lease?.leaseDurationSeconds ?? 0
    }
    this.record = lease
    if (lease === undefined) {
      this.forgery = undefined
    }
  }
}

/** When the campaign with this instance id began. */
const startOf = (instance: string): bigint => BigInt(/^[0-9]+/.exec(instance)?.[0] ?? 0)

/** All by which a record is a sign of life. */
const signOf = (lease: LeaseRecord): string =>
  [
    lease.uid,
    lease.holderIdentity,
    lease.renewTime,
    lease.acquireTime,
    lease.leaseTransitions,
    lease.leaseDurationSeconds,
    lease.annotations[instanceAnnotation]
  ].join("\n")

const describe = (term: ObservedTerm): string =>
  `${term.process.name} (token ${term.leadership.fencingToken}, since ${format(term.begun)})`
