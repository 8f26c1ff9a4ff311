/**
 * What happens to the members of one run, and what must be true of it.
 */
import * as Dice from "../simulation/random.ts"
import { Model, type Process, retryPeriod, Violation } from "./Model.ts"

export interface Outcome {
  readonly seed: number
  readonly scenario: string
  readonly members: number
  readonly shards: number
  /** Moves that the scenario brought; those of the first start do not count. */
  readonly moves: number
  /** Moves of the first start: members that start far apart bring some. */
  readonly startMoves: number
  readonly longestLeaderless: number
  readonly events: number
  readonly violation: Violation | undefined
  readonly timeline: ReadonlyArray<string>
}

const second = 1000
/** From the last change until everything must be at rest: settled, and given up a few at a time. */
const settles = 60 * second

class Run {
  readonly dice: Dice.Dice
  readonly model: Model
  readonly size: number
  private started = 0

  constructor(seed: number, tracing: boolean) {
    this.dice = Dice.make(seed, "shards")
    const large = this.dice.chance(0.01)
    this.size = large ? 5 : this.dice.int(2, 5)
    this.model = new Model(this.dice, large ? 100 : this.dice.int(3, 15), tracing)
  }

  launch(generation: string): Process {
    return this.model.launch(`${generation}-${this.started++}`, generation)
  }

  get living(): Array<Process> {
    return this.model.processes.filter(({ alive, leaving }) => alive && !leaving)
  }

  wait(duration: number): void {
    this.model.run(this.model.now + duration)
  }

  /** All has settled: fair, and nothing moves for minutes. */
  rest(): void {
    this.wait(settles)
    this.model.checkRest()
    const { moves } = this.model
    this.wait(120 * second)
    if (this.model.moves !== moves) {
      throw new Violation("no moves at rest", `${this.model.moves - moves} moves although nothing happened`)
    }
    this.model.checkRest()
  }

  expect(moves: number, before: number, bound: number, least = 0): void {
    const made = moves - before
    if (made > bound || made < least) {
      throw new Violation("moves within their bound", `${made} moves, where ${bound} are to be expected`)
    }
  }
}

/** The least number of moves that makes it fair with so many members more. */
const leastMoves = (counts: ReadonlyArray<number>, shards: number, joining: number): number => {
  const least = Math.floor(shards / (counts.length + joining))
  const extra = shards - least * (counts.length + joining)
  return [...counts].sort((a, b) => b - a).reduce(
    (sum, count, index) => sum + Math.max(0, count - least - (index < extra ? 1 : 0)),
    0
  )
}

const join = (run: Run) => {
  const { dice, model } = run
  const joining = dice.int(1, 3)
  const bound = leastMoves(model.counts(), model.shards.size, joining)
  const before = model.moves
  for (let i = 0; i < joining; i++) {
    run.launch("v1")
    run.wait(dice.between(0, 4 * second))
  }
  run.rest()
  run.expect(model.moves, before, bound, bound)
}

const end = (how: "end" | "crash" | "drain") => (run: Run) => {
  const { dice, model } = run
  const gone = dice.pick(run.living)
  const own = gone.leading.size
  const before = model.moves
  gone[how]()
  run.rest()
  run.expect(model.moves, before, own, own)
}

/** The list of one member lacks the shards of another, which ends: the others lead them nevertheless. */
const listsDiffer = (run: Run) => {
  const { dice, model } = run
  if (run.size < 3) {
    return end("end")(run)
  }
  const [gone, missing] = run.living as [Process, Process]
  const own = gone.leading.size
  for (const name of gone.leading) {
    missing.misses(name, 60 * second)
  }
  const before = model.moves
  gone[dice.pick(["end", "crash"] as const)]()
  run.wait(70 * second)
  run.rest()
  run.expect(model.moves, before, 2 * own + 1, own)
}

/** Members end one after the other, before anything has settled. */
const shrink = (run: Run) => {
  const { dice, model } = run
  const before = model.moves
  let own = 0
  while (run.living.length > 1) {
    const gone = dice.pick(run.living)
    own += gone.leading.size
    gone[dice.pick(["end", "crash"] as const)]()
    run.wait(dice.between(16 * second, 30 * second))
  }
  run.rest()
  run.expect(model.moves, before, own + model.shards.size)
}

/** A Deployment's rolling update. */
const roll = (run: Run, surge: number, unavailable: number) => {
  const { dice, model, size } = run
  // Whether an old Pod is replaced is decided by how many are ready.
  const isReady = (process: Process) => {
    const { joinedAt = Infinity, members } = process
    return process.alive && !process.leaving && members.has(process.identity) && model.now >= joinedAt + retryPeriod
  }
  let starting = 0
  const limit = model.now + 600 * second
  for (;;) {
    const old = run.living.filter(({ generation }) => generation === "v1")
    const total = run.living.length + starting
    const created = total - old.length
    if (old.length === 0 && created === size) {
      break
    }
    if (created < size && total < size + surge) {
      starting++
      model.after(dice.between(1, 8) * second, () => {
        starting--
        run.launch("v2")
      })
    }
    if (old.length > 0 && run.living.filter(isReady).length > size - unavailable) {
      dice.pick(old).end()
    }
    run.wait(0.2 * second)
    if (model.now > limit) {
      throw new Error("the rolling update does not end")
    }
  }
  run.wait(20 * second)
}

const rollOnce = (run: Run) => {
  const before = new Map([...run.model.shards.values()].map(({ moves, name }) => [name, moves]))
  roll(run, run.dice.int(1, 2), 0)
  run.rest()
  for (const { moves, name } of run.model.shards.values()) {
    if (moves !== before.get(name)! + 1) {
      throw new Violation("a rolling update moves each shard once", `${name} moved ${moves - before.get(name)!} times`)
    }
  }
}

const rollDefaults = (run: Run) => {
  const { model, size } = run
  const surge = Math.ceil(size / 4)
  const unavailable = Math.floor(size / 4)
  const before = model.moves
  roll(run, surge, unavailable)
  run.rest()
  const shards = model.shards.size
  run.expect(model.moves, before, shards + 2 * Math.max(surge, unavailable) * Math.ceil(shards / size), shards)
}

/** An undo half-way: the members that return are of the first generation. */
const undo = (run: Run) => {
  const { dice, model, size } = run
  const turns = dice.int(1, size - 1)
  const replace = (from: string, to: string) => {
    run.launch(to)
    run.wait(3 * second)
    const old = run.living.filter(({ generation }) => generation === from)
    dice.pick(old).end()
    run.wait(dice.between(3, 10) * second)
  }
  for (let i = 0; i < turns; i++) {
    replace("v1", "v2")
  }
  const half = model.moves
  const led = run.living.filter(({ generation }) => generation === "v2").reduce(
    (sum, { leading }) => sum + leading.size,
    0
  )
  for (let i = 0; i < turns; i++) {
    replace("v2", "v1")
  }
  run.rest()
  // Only what had moved moves back; and what is over once both are gone.
  run.expect(model.moves, half, led + Math.ceil(model.shards.size / size))
}

/** Anything at any moment; then calm. */
const storm = (run: Run) => {
  const { dice, model } = run
  model.prompt = false
  const until = model.now + dice.between(30, 120) * second
  while (model.now < until) {
    const process = dice.pick(run.living)
    dice.pick([
      () => run.living.length < 7 && run.launch(dice.pick(["v1", "v1", "v2"])),
      () => run.living.length > 1 && process.end(),
      () => run.living.length > 1 && process.crash(),
      () => process.connected && process.cutOff(dice.scale(100, 40 * second)),
      () => {
        process.slow = dice.scale(10, 8 * second)
        model.after(dice.scale(100, 20 * second), () => {
          process.slow = 0
        })
      },
      () => process.misses(dice.pick([...model.shards.keys()]), dice.scale(100, 20 * second))
    ])()
    run.wait(dice.scale(10, 20 * second))
  }
  run.wait(60 * second)
  const generations = new Set(run.living.map(({ generation }) => generation))
  if (generations.size > 1) {
    // It is not at rest while two generations stay.
    run.living.filter(({ generation }) => generation === "v2").forEach((process) => process.end())
    run.wait(20 * second)
  }
  run.rest()
}

const scenarios: ReadonlyArray<readonly [string, (run: Run) => void]> = [
  ["join", join],
  ["end", end("end")],
  ["crash", end("crash")],
  ["drain", end("drain")],
  ["lists differ", listsDiffer],
  ["shrink", shrink],
  ["rolling update", rollOnce],
  ["rolling update, defaults", rollDefaults],
  ["undo", undo],
  ["storm", storm],
  ["storm", storm]
]

/** Runs one seed. */
export const simulate = (
  seed: number,
  options: { readonly trace?: boolean; readonly large?: boolean } = {}
): Outcome => {
  const run = new Run(seed, options.trace === true)
  const { dice, model } = run
  const [scenario, play] = dice.pick(scenarios)
  let violation: Violation | undefined
  let startMoves = 0
  try {
    const spread = dice.pick([0.5, 2, 20]) * second
    for (let i = 0; i < run.size; i++) {
      model.after(dice.between(0, spread), () => run.launch("v1"))
    }
    run.wait(spread)
    run.rest()
    startMoves = model.moves
    model.note(() => `--- ${scenario}`)
    play(run)
  } catch (error) {
    if (!(error instanceof Violation)) {
      throw error
    }
    violation = error
    model.note(() => `VIOLATION of "${error.invariant}": ${error.message}`)
  }
  return {
    seed,
    scenario,
    members: run.size,
    shards: model.shards.size,
    moves: model.moves - startMoves,
    startMoves,
    longestLeaderless: model.longestLeaderless,
    events: model.events,
    violation,
    timeline: model.timeline ?? []
  }
}
