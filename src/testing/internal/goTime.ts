/**
 * `MicroTime` as the API server reads it, with its words for what it cannot read. Stricter than our own codec on
 * purpose: a time that the real server would refuse must not pass here.
 *
 * @internal
 */
import * as Result from "effect/Result"
import * as MicroTime from "../../internal/protocol/microTime.ts"

const layout = "2006-01-02T15:04:05.000000Z07:00"

interface Element {
  /** The text in front of the element. */
  readonly prefix: string
  readonly name: string
  readonly pattern: RegExp
  readonly range?: readonly [name: string, min: number, max: number]
}

const elements: ReadonlyArray<Element> = [
  { prefix: "", name: "2006", pattern: /^\d{4}/ },
  { prefix: "-", name: "01", pattern: /^\d{2}/, range: ["month", 1, 12] },
  { prefix: "-", name: "02", pattern: /^\d{2}/, range: ["day", 1, 31] },
  { prefix: "T", name: "15", pattern: /^\d{1,2}/, range: ["hour", 0, 23] },
  { prefix: ":", name: "04", pattern: /^\d{2}/, range: ["minute", 0, 59] },
  { prefix: ":", name: "05", pattern: /^\d{2}/, range: ["second", 0, 59] },
  { prefix: "", name: ".000000", pattern: /^[.,]\d{6}/ },
  { prefix: "", name: "Z07:00", pattern: /^(?:Z|[+-]\d{2}:\d{2})/ }
]

/** The time in UTC with six digits; null for the zero time, which is read back as null. */
export const normalise = (text: string): Result.Result<string | null, string> => {
  const problem = findProblem(text)
  if (problem !== undefined) {
    return Result.fail(`parsing time ${JSON.stringify(text)}${problem}`)
  }
  const padded = text.replace(/T(\d):/, "T0$1:").replace(",", ".")
  if (/^0001-01-01T00:00:00\.000000(?:Z|[+-]00:00)$/.test(padded)) {
    return Result.succeed(null)
  }
  const micros = MicroTime.parse(padded)
  return micros === undefined
    ? Result.fail(`parsing time ${JSON.stringify(text)}: time zone offset hour out of range`)
    : Result.succeed(MicroTime.format(micros))
}

const findProblem = (text: string): string | undefined => {
  const cannotParse = (rest: string, name: string) =>
    ` as ${JSON.stringify(layout)}: cannot parse ${JSON.stringify(rest)} as ${JSON.stringify(name)}`
  let rest = text
  for (const { name, pattern, prefix, range } of elements) {
    if (!rest.startsWith(prefix)) {
      return cannotParse(rest, prefix)
    }
    rest = rest.slice(prefix.length)
    const match = pattern.exec(rest)
    if (match === null) {
      return cannotParse(rest, name)
    }
    if (range !== undefined && (Number(match[0]) < range[1] || Number(match[0]) > range[2])) {
      return `: ${range[0]} out of range`
    }
    rest = rest.slice(match[0].length)
  }
  // What JavaScript would carry over into the next month.
  const [year = 0, month = 0, day = 0] = text.split(/[-T]/).map(Number)
  const leap = year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0)
  if (day > (month === 2 ? leap ? 29 : 28 : [4, 6, 9, 11].includes(month) ? 30 : 31)) {
    return ": day out of range"
  }
  return rest === "" ? undefined : `: extra text: ${JSON.stringify(rest)}`
}
