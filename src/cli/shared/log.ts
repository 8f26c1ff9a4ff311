/**
 * The log of the command line: on stderr, as text for people or as one JSON
 * object a line. stdout belongs to what was asked for, and to COMMAND.
 *
 * @internal
 */
import * as Cause from "effect/Cause"
import * as Logger from "effect/Logger"
import * as Record from "effect/Record"
import * as References from "effect/References"
import { writeSync } from "node:fs"
import { block, json, line } from "./printable.ts"

export type Format = "text" | "json"

/** The format that the arguments ask for, right or wrong as the others may be. */
export const formatOf = (args: ReadonlyArray<string>): Format => {
  const separator = args.indexOf("--")
  const own = separator === -1 ? args : args.slice(0, separator)
  return own.some((arg, index) => arg === "--log=json" || (arg === "json" && own[index - 1] === "--log"))
    ? "json"
    : "text"
}

/** One line in `format`, without its end. */
export const formatLine = (format: Format) => (options: Logger.Options<unknown>): string => {
  const { cause, date, fiber, logLevel, message } = options
  const text = (Array.isArray(message) ? message : [message]).map(show).join(" ")
  const annotations = fiber.getRef(References.CurrentLogAnnotations)
  const causeText = cause.reasons.length > 0 ? Cause.pretty(cause) : undefined
  if (format === "json") {
    return json({
      timestamp: date.toISOString(),
      level: logLevel.toUpperCase(),
      message: block(text),
      ...Record.map(annotations, (value) => typeof value === "string" ? line(value) : value),
      ...(causeText !== undefined && { cause: block(causeText) })
    })
  }
  const fields = Object.entries(annotations).map(([name, value]) => ` ${name}=${line(show(value))}`).join("")
  const first = `${date.toISOString()} ${logLevel.toUpperCase().padEnd(5)} ${block(text)}${fields}`
  return causeText === undefined ? first : block(`${first}\n${causeText}`)
}

const show = (value: unknown): string => typeof value === "string" ? value : JSON.stringify(value) ?? String(value)

/** Tells a person something, in as many lines as it has. */
export const tell = (text: string): void => writeLine(block(text))

/** Writes to stderr at once, so that nothing is lost when the process ends; a stderr that nobody reads is no reason to. */
const writeLine = (line: string): void => {
  try {
    writeSync(2, `${line}\n`)
  } catch {
    // Closed, or full and not blocking.
  }
}

export const logger = (format: Format): Logger.Logger<unknown, void> =>
  Logger.map(Logger.make(formatLine(format)), writeLine)
