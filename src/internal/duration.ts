/**
 * Durations as people write them in variables and flags, and back.
 *
 * Effect reads `15 seconds` only; Kubernetes' users write `15s`, `1m30s` or
 * plain seconds. Reading and writing go through whole nanoseconds, so that what
 * is written is read back as the same duration.
 *
 * @internal
 */
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"

const nanosPer: Readonly<Record<string, bigint>> = {
  ns: 1n,
  us: 1_000n,
  µs: 1_000n,
  ms: 1_000_000n,
  s: 1_000_000_000n,
  m: 60_000_000_000n,
  h: 3_600_000_000_000n,
  nano: 1n,
  micro: 1_000n,
  milli: 1_000_000n,
  second: 1_000_000_000n,
  minute: 60_000_000_000n,
  hour: 3_600_000_000_000n,
  day: 86_400_000_000_000n,
  week: 604_800_000_000_000n
}

const plain = /^\d+(?:\.\d+)?$/
const short = /^(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+$/
const long = /^(\d+(?:\.\d+)?) (nano|micro|milli|second|minute|hour|day|week)s?$/

/** What {@link parse} reads, for messages. */
export const examples = "15s, 500ms, 1m30s, 15 seconds, or plain seconds such as 15 or 2.5"

// Digits beyond the nanosecond are dropped: no clock here shows them.
const toNanos = (number: string, unit: string): bigint => {
  const [whole = "", fraction = ""] = number.split(".")
  return BigInt(whole + fraction) * nanosPer[unit]! / 10n ** BigInt(fraction.length)
}

/** Whole milliseconds where they are exact, so that equal durations look equal in logs and tests. */
export const fromNanos = (nanos: bigint): Duration.Duration =>
  nanos % 1_000_000n === 0n ? Duration.millis(Number(nanos / 1_000_000n)) : Duration.nanos(nanos)

/** A duration of 0 or more as text; `undefined` where the text is none. */
export const parse = (text: string): Duration.Duration | undefined => {
  if (plain.test(text)) {
    return fromNanos(toNanos(text, "s"))
  }
  const words = long.exec(text)
  if (words !== null) {
    return fromNanos(toNanos(words[1]!, words[2]!))
  }
  if (!short.test(text)) {
    return undefined
  }
  let nanos = 0n
  for (const [, number, unit] of text.matchAll(/([\d.]+)(\D+)/g)) {
    nanos += toNanos(number!, unit!)
  }
  return fromNanos(nanos)
}

const decimal = (nanos: bigint, unit: "s" | "ms"): string => {
  const per = nanosPer[unit]!
  const fraction = (nanos % per).toString().padStart(per.toString().length - 1, "0").replace(/0+$/, "")
  return `${nanos / per}${fraction === "" ? "" : `.${fraction}`}${unit}`
}

/** Seconds, or milliseconds below one second; {@link parse} reads it back exactly, and so does Go. */
export const format = (duration: Duration.Duration): string => {
  if (!Duration.isFinite(duration)) {
    return Duration.isPositive(duration) ? "Infinity" : "-Infinity"
  }
  const nanos = Duration.toNanosUnsafe(duration)
  const absolute = nanos < 0n ? -nanos : nanos
  return `${nanos < 0n ? "-" : ""}${decimal(absolute, absolute > 0n && absolute < 1_000_000_000n ? "ms" : "s")}`
}

// --- Durations in code ------------------------------------------------------------------------------

/** As Effect writes durations, or as variables and options do. */
export type Input = Duration.Input | string

/** `undefined` where it is no duration. */
export const read = (given: Input): Duration.Duration | undefined => {
  if (typeof given === "string") {
    return parse(given)
  }
  return isNothing(given) ? undefined : Option.getOrUndefined(Duration.fromInput(given))
}

const units = ["weeks", "days", "hours", "minutes", "seconds", "milliseconds", "microseconds", "nanoseconds"]

/** What Effect takes for zero: NaN, alone or as a part, and an object without any unit. */
const isNothing = (given: unknown): boolean => {
  if (typeof given !== "object" || given === null || Duration.isDuration(given)) {
    return Number.isNaN(given)
  }
  // Not by what is its own: a Temporal.Duration has getters.
  const parts: ReadonlyArray<unknown> = Array.isArray(given)
    ? given
    : units.map((unit) => (given as Record<string, unknown>)[unit]).filter((part) => part !== undefined)
  return parts.length === 0 || parts.some(Number.isNaN)
}

/** The value as it was given: a bare number has to show its unit, or the mistake stays hidden. */
export const show = (given: Input): string => {
  switch (typeof given) {
    case "string":
      return JSON.stringify(given.length <= 300 ? given : `${given.slice(0, 300)}…`)
    case "number":
      return `${given} (a number in code is milliseconds)`
    case "bigint":
      return `${given} (a bigint in code is nanoseconds)`
    default: {
      const duration = read(given)
      return duration === undefined ? "not a valid duration" : format(duration)
    }
  }
}

/** What is wrong with a duration in code that is to be finite and not less than this; `undefined` where nothing is. */
export const problem = (given: Input, least: Duration.Duration): string | undefined => {
  const value = read(given)
  return value === undefined
    ? `is ${show(given)}: write it as ${examples}`
    : Duration.isFinite(value) && Duration.isGreaterThanOrEqualTo(value, least)
    ? undefined
    : `is ${show(given)}: give ${format(least)} or more, and not without end`
}
