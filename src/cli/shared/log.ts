/**
 * The log of the command line: on stderr, as text for people or as one JSON
 * object a line. stdout belongs to what was asked for, and to COMMAND.
 *
 * @internal
 */
import * as Cause from "effect/Cause"
import * as Logger from "effect/Logger"
import * as References from "effect/References"
import { writeSync } from "node:fs"

export type Format = "text" | "json"

/** One line in `format`, without its end. */
export const formatLine = (format: Format) => (options: Logger.Options<unknown>): string => {
  const { cause, date, fiber, logLevel, message } = options
  const text = (Array.isArray(message) ? message : [message]).map(show).join(" ")
  const annotations = fiber.getRef(References.CurrentLogAnnotations)
  const causeText = cause.reasons.length > 0 ? Cause.pretty(cause) : undefined
  if (format === "json") {
    return JSON.stringify({
      timestamp: date.toISOString(),
      level: logLevel.toUpperCase(),
      message: text,
      ...annotations,
      ...(causeText !== undefined && { cause: causeText })
    })
  }
  const fields = Object.entries(annotations).map(([name, value]) => ` ${name}=${show(value)}`).join("")
  const line = `${date.toISOString()} ${logLevel.toUpperCase().padEnd(5)} ${text}${fields}`
  return causeText === undefined ? line : `${line}\n${causeText}`
}

const show = (value: unknown): string => typeof value === "string" ? value : JSON.stringify(value) ?? String(value)

/** Writes to stderr at once, so that nothing is lost when the process ends; a stderr that nobody reads is no reason to. */
export const writeLine = (line: string): void => {
  try {
    writeSync(2, `${line}\n`)
  } catch {
    // Closed, or full and not blocking.
  }
}

export const logger = (format: Format): Logger.Logger<unknown, void> =>
  Logger.map(Logger.make(formatLine(format)), writeLine)
