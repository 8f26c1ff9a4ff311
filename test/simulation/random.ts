/**
 * The simulator's only source of chance: streams of pseudo-random numbers, each from a seed and a name, so that what
 * one part draws does not change what another part gets.
 */
import type * as Random from "effect/Random"

export interface Dice {
  /** From 0 to 1, without 1. */
  readonly next: () => number
  /** A number from `min` to `max`. */
  readonly between: (min: number, max: number) => number
  /** As `between`, but small values are as likely as large ones (`min` above 0). */
  readonly scale: (min: number, max: number) => number
  readonly int: (min: number, max: number) => number
  readonly chance: (probability: number) => boolean
  readonly pick: <A>(items: ReadonlyArray<A>) => A
  readonly service: Random.Random
}

const hash = (text: string): number => {
  let h = 0x811c9dc5
  for (let i = 0; i < text.length; i++) {
    h = Math.imul(h ^ text.charCodeAt(i), 0x01000193)
  }
  return h >>> 0
}

/** The generator sfc32. */
export const make = (seed: number, name: string): Dice => {
  let a = seed >>> 0
  let b = Math.floor(seed / 2 ** 32) >>> 0
  let c = hash(name)
  let counter = 1
  const next32 = () => {
    const t = (a + b | 0) + counter | 0
    counter = counter + 1 | 0
    a = b ^ (b >>> 9)
    b = c + (c << 3) | 0
    c = (c << 21) | (c >>> 11)
    c = c + t | 0
    return t >>> 0
  }
  for (let i = 0; i < 15; i++) {
    next32()
  }
  const next = () => next32() / 2 ** 32
  const dice: Dice = {
    next,
    between: (min, max) => min + next() * (max - min),
    scale: (min, max) => min * (max / min) ** next(),
    int: (min, max) => min + Math.floor(next() * (max - min + 1)),
    chance: (probability) => next() < probability,
    pick: (items) => items[Math.floor(next() * items.length)]!,
    service: {
      nextDoubleUnsafe: next,
      nextIntUnsafe: () => Math.floor((next() * 2 - 1) * Number.MAX_SAFE_INTEGER)
    }
  }
  return dice
}
