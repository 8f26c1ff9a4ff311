/**
 * True time, and everything that happens in it.
 *
 * One heap of events is all that moves time. Simulated processes run real Effect fibers, but on a scheduler and a clock
 * of their own that only the world drives: no timer, no promise and no event loop of Node takes part, so a run is a
 * function of its seed. A process that is stalled or dead is one whose tasks, timers and messages are not run.
 *
 * Times are nanoseconds since the start of the run.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as Random from "effect/Random"
import * as References from "effect/References"
import * as Scheduler from "effect/Scheduler"
import * as Dice from "./random.ts"

export const second = 1_000_000_000
export const milli = 1_000_000

/** The Lease that all is about. */
export const key = { namespace: "default", name: "demo" }

/** 2026-01-01T00:00:00Z: the server's wall clock at the start of a run. */
export const epoch = Date.UTC(2026, 0, 1)

export const format = (at: number): string => (at / second).toFixed(6)

interface Event {
  readonly at: number
  readonly order: number
  readonly run: () => void
}

/** What ends a run: the name of the invariant, and what was seen. */
export class Violation extends Error {
  readonly invariant: string
  constructor(invariant: string, detail: string) {
    super(`${invariant}: ${detail}`)
    this.invariant = invariant
  }
}

/** A scheduler whose tasks wait in a list until the world runs them. */
export class Tasks {
  private waiting: Array<() => void> = []
  readonly scheduler = new Scheduler.MixedScheduler("async", (run) => {
    let task: (() => void) | undefined = run
    this.waiting.push(() => task?.())
    return () => {
      task = undefined
    }
  })
  get isEmpty(): boolean {
    return this.waiting.length === 0
  }
  clear(): void {
    this.waiting = []
  }
  /** Runs what waits now, and tells how much it was. */
  run(): number {
    const tasks = this.waiting
    this.waiting = []
    for (const task of tasks) {
      task()
    }
    return tasks.length
  }
}

const tooManyTasks = 200_000

export class World {
  readonly seed: number
  readonly dice: Dice.Dice
  readonly tracing: boolean
  readonly timeline: Array<string> = []
  /** True time. */
  now = 0
  /** Events so far: each is one step at which everything is checked. */
  steps = 0
  readonly processes: Array<Process> = []
  readonly tasks = new Tasks()
  readonly context: Context.Context<never>
  readonly clock: Clock.Clock
  /** Called after each step. */
  check: () => void = () => {}
  private heap: Array<Event> = []
  private order = 0
  private violation: Violation | undefined

  constructor(seed: number, tracing: boolean) {
    this.seed = seed
    this.tracing = tracing
    this.dice = Dice.make(seed, "world")
    this.clock = makeClock({
      monotonic: () => this.now,
      wall: () => this.now,
      sleep: (duration, wake) => this.after(duration, wake)
    })
    this.context = makeContext(this.clock, this.tasks, this.dice)
  }

  /** Notes what happens. The text is only made where somebody will read it. */
  note(who: string, text: () => string): void {
    if (this.tracing) {
      this.timeline.push(`${format(this.now).padStart(12)}  ${who.padEnd(10)} ${text()}`)
    }
  }

  /** Notes a violation, the first one only: the run ends with this step. */
  violate(violation: Violation): Violation {
    this.violation ??= violation
    return this.violation
  }

  at(time: number, run: () => void): () => void {
    let cancelled = false
    push(this.heap, {
      at: Math.max(this.now, Math.ceil(time)),
      order: this.order++,
      run: () => {
        if (!cancelled) {
          run()
        }
      }
    })
    return () => {
      cancelled = true
    }
  }

  after(duration: number, run: () => void): () => void {
    return this.at(this.now + duration, run)
  }

  /** Runs an effect outside all processes: the network, the API server, the garbage collector. */
  fork<A, E>(effect: Effect.Effect<A, E>): Fiber.Fiber<A, E> {
    return Effect.runForkWith(this.context)(effect)
  }

  /** Runs an effect that needs no time. */
  sync<A, E>(effect: Effect.Effect<A, E>): A {
    return Effect.runSyncWith(this.context)(effect)
  }

  /** Runs until a true time. */
  run(time: number): void {
    const until = Math.ceil(time)
    this.settle()
    while (this.heap.length > 0 && this.heap[0]!.at <= until) {
      const event = pop(this.heap)
      this.now = event.at
      event.run()
      this.settle()
      this.steps++
      this.check()
      if (this.violation !== undefined) {
        throw this.violation
      }
    }
    this.now = until
  }

  /** Runs all tasks of this moment. */
  private settle(): void {
    let ran = 0
    while (true) {
      let idle = this.tasks.run() === 0
      for (const process of this.processes) {
        const count = process.runTasks()
        if (count > 0) {
          ran += count
          idle = false
        }
      }
      if (idle) {
        return
      }
      if (ran > tooManyTasks) {
        throw new Violation("never at full speed", `${ran} tasks of processes without any time passing`)
      }
    }
  }
}

/** How a process's clocks run, and how late its timers are. */
export interface ProcessOptions {
  readonly name: string
  readonly rate: number
  /** Of its wall clock, from the true one: the node's, and so that of every process there. */
  readonly wallOffset: () => number
  /** Nanoseconds that a timer fires after (or, by less than a millisecond, before) it is due. */
  readonly lateness: () => number
}

interface Timer {
  /** In the process's monotonic time. */
  readonly due: number
  readonly wake: () => void
  cancel: () => void
}

/** A process: its clocks, its event loop, and what keeps it from running. */
export class Process {
  readonly world: World
  readonly options: ProcessOptions
  readonly tasks = new Tasks()
  readonly clock: Clock.Clock
  readonly dice: Dice.Dice
  state: "running" | "stalled" | "suspended" | "dead" = "running"
  /** True time at which the last stall or suspension ended. */
  stalledUntil = -1
  suspendedUntil = -1
  private readonly started: number
  /** What the second clock has jumped by. */
  private witnessOff = 0
  private suspended = 0
  private suspendedAt = 0
  private readonly timers = new Set<Timer>()
  private due: Array<Timer> = []
  private inbox: Array<() => void> = []

  constructor(world: World, options: ProcessOptions) {
    this.world = world
    this.options = options
    this.started = world.now
    this.dice = Dice.make(world.seed, `process ${options.name} ${world.now}`)
    this.clock = makeClock({
      monotonic: () => this.monotonic(),
      wall: () => this.wall(),
      sleep: (duration, wake) => this.sleep(duration, wake)
    })
    world.processes.push(this)
  }

  get name(): string {
    return this.options.name
  }

  get alive(): boolean {
    return this.state !== "dead"
  }

  /** Its monotonic clock: stops while it is suspended. */
  monotonic(): number {
    const suspended = this.suspended + (this.state === "suspended" ? this.world.now - this.suspendedAt : 0)
    return 7 * second + Math.floor((this.world.now - this.started - suspended) * this.options.rate)
  }

  /** Time since its start, suspension included, in steps of 10 ms. */
  uptime(): number {
    const elapsed = (this.world.now - this.started) * this.options.rate + 7 * second + this.witnessOff
    return Math.floor(elapsed / (10 * milli)) * 10 * milli
  }

  /** The second clock jumps, as where what shows it in a container is started again. */
  jumpWitness(by: number): void {
    this.witnessOff += by
  }

  wall(): number {
    return Math.floor(this.world.now * this.options.rate) + this.options.wallOffset()
  }

  /** A message arrives: handled now, after the stall, or never. */
  deliver(handle: () => void): void {
    if (this.state === "running") {
      handle()
    } else if (this.state !== "dead") {
      this.inbox.push(handle)
    }
  }

  runTasks(): number {
    return this.state === "running" ? this.tasks.run() : 0
  }

  sleep(duration: number, wake: () => void): () => void {
    const timer: Timer = { due: this.monotonic() + duration, wake, cancel: () => {} }
    this.timers.add(timer)
    this.arm(timer)
    return () => {
      this.timers.delete(timer)
      timer.cancel()
    }
  }

  private arm(timer: Timer): void {
    timer.cancel()
    const left = Math.max(0, timer.due - this.monotonic()) / this.options.rate
    timer.cancel = this.world.after(Math.max(0, left + this.options.lateness()), () => {
      if (this.state === "running") {
        this.fire(timer)
      } else if (this.state === "stalled") {
        this.due.push(timer)
      }
    })
  }

  private fire(timer: Timer): void {
    if (this.timers.delete(timer)) {
      timer.wake()
    }
  }

  stall(): void {
    if (this.state === "running") {
      this.state = "stalled"
    }
  }

  suspend(): void {
    if (this.state === "running") {
      this.state = "suspended"
      this.suspendedAt = this.world.now
    }
  }

  /** Ends a stall or a suspension. Of what has piled up, timers or messages come first. */
  resume(timersFirst: boolean): void {
    if (this.state === "stalled") {
      this.stalledUntil = this.world.now
    } else if (this.state === "suspended") {
      this.suspendedUntil = this.world.now
      this.suspended += this.world.now - this.suspendedAt
    } else {
      return
    }
    const wasSuspended = this.state === "suspended"
    this.state = "running"
    if (wasSuspended) {
      for (const timer of Array.from(this.timers)) {
        this.arm(timer)
      }
    }
    const messages = this.inbox
    const timers = this.due
    this.inbox = []
    this.due = []
    const fire = () => timers.forEach((timer) => this.fire(timer))
    if (timersFirst) {
      fire()
    }
    messages.forEach((handle) => this.deliver(handle))
    if (!timersFirst) {
      this.tasks.run()
      fire()
    }
  }

  /** Ends it: nothing of it ever runs again, finalizers included. */
  kill(): void {
    this.state = "dead"
    this.tasks.clear()
    for (const timer of this.timers) {
      timer.cancel()
    }
    this.timers.clear()
    this.due = []
    this.inbox = []
    const index = this.world.processes.indexOf(this)
    if (index >= 0) {
      this.world.processes.splice(index, 1)
    }
  }
}

/** What every simulated fiber runs on. */
export const makeContext = (clock: Clock.Clock, tasks: Tasks, dice: Dice.Dice): Context.Context<never> =>
  Context.empty().pipe(
    Context.add(Clock.Clock, clock),
    Context.add(Scheduler.Scheduler, tasks.scheduler),
    Context.add(Random.Random, dice.service),
    Context.add(References.TracerEnabled, false),
    Context.add(References.MinimumLogLevel, "None")
  ) as Context.Context<never>

const makeClock = (source: {
  readonly monotonic: () => number
  readonly wall: () => number
  readonly sleep: (duration: number, wake: () => void) => () => void
}): Clock.Clock => {
  const wallNanos = () => BigInt(epoch) * 1_000_000n + BigInt(source.wall())
  const millis = () => epoch + Math.floor(source.wall() / milli)
  const monotonic = () => BigInt(source.monotonic())
  return {
    currentTimeMillisUnsafe: millis,
    currentTimeMillis: Effect.sync(millis),
    currentTimeNanosUnsafe: wallNanos,
    currentTimeNanos: Effect.sync(wallNanos),
    monotonicTimeNanosUnsafe: monotonic,
    monotonicTimeNanos: Effect.sync(monotonic),
    sleep: (duration) =>
      Effect.callback((resume) => {
        const millis = Duration.toMillis(duration)
        if (millis === Infinity) {
          return
        }
        const cancel = source.sleep(millis * milli, () => resume(Effect.void))
        return Effect.sync(cancel)
      })
  }
}

// --- a binary heap of events ------------------------------------------------------------------------------------

const before = (a: Event, b: Event): boolean => a.at < b.at || (a.at === b.at && a.order < b.order)

const push = (heap: Array<Event>, event: Event): void => {
  let index = heap.length
  heap.push(event)
  while (index > 0) {
    const parent = (index - 1) >> 1
    if (!before(event, heap[parent]!)) {
      break
    }
    heap[index] = heap[parent]!
    index = parent
  }
  heap[index] = event
}

const pop = (heap: Array<Event>): Event => {
  const top = heap[0]!
  const last = heap.pop()!
  if (heap.length === 0) {
    return top
  }
  let index = 0
  while (true) {
    let child = 2 * index + 1
    if (child >= heap.length) {
      break
    }
    if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) {
      child++
    }
    if (!before(heap[child]!, last)) {
      break
    }
    heap[index] = heap[child]!
    index = child
  }
  heap[index] = last
  return top
}
