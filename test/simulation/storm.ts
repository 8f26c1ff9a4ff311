/**
 * What goes wrong in a run: the weather on the connections, and what happens to processes, Pods and the Lease.
 */
import { Fault, type LeaseFaults } from "../../src/testing/index.ts"
import type { Candidate } from "./Candidate.ts"
import type { Simulation } from "./Simulation.ts"
import { milli, second } from "./World.ts"

/** What the connections go through at the moment. */
export class Weather {
  private readonly simulation: Simulation
  private latency: number

  constructor(simulation: Simulation) {
    this.simulation = simulation
    this.latency = simulation.dice.scale(0.5, 80)
  }

  decide(candidate: Candidate, request: LeaseFaults.Request): Fault.Fault {
    const { simulation } = this
    const { dice } = simulation.world
    const usual: Fault.Fault = {
      requestDelay: this.latency * dice.scale(0.2, 2),
      answerDelay: this.latency * dice.scale(0.2, 2)
    }
    if (simulation.isCalm || !dice.chance(0.05)) {
      return usual
    }
    void candidate
    void request
    const roll = dice.next()
    if (roll < 0.3) {
      simulation.fault("answer lost")
      return Fault.all(usual, Fault.dropAnswer)
    }
    if (roll < 0.6) {
      simulation.fault("request hangs")
      return Fault.hang
    }
    const delay = dice.scale(100, 20_000)
    simulation.fault("applied late", delay * milli)
    return Fault.applyLate(delay)
  }
}

export const plan = (simulation: Simulation): void => {
  const { dice, world } = simulation
  for (let at = dice.scale(1, 40) * second; at < simulation.stormEnds; at += dice.scale(1, 40) * second) {
    world.at(at, () => {
      const candidate = dice.pick(simulation.candidates)
      const delay = dice.scale(0.1, 30) * second
      simulation.fault("crash", delay)
      candidate.kill()
      world.after(delay, () => candidate.start("same"))
    })
  }
}

export const end = (_simulation: Simulation): void => {}
