/**
 * The log of the command line: on stderr, as text for people or as one JSON
 * object a line. stdout belongs to what was asked for, and to COMMAND.
 *
 * @internal
 */
import * as Cause from "effect/Cause"
import * as Logger from "effect/Logger"
import * as Predicate from "effect/Predicate"
import * as Record from "effect/Record"
import * as References from "effect/References"
import { block, json, line } from "./printable.ts"
import { makeStderr } from "./stderr.ts"

export type Format = "text" | "json"

/** The format that the arguments ask for, right or wrong as the others may be. */
export const formatOf = (args: ReadonlyArray<string>): Format => {
  const separator = args.indexOf("--")
  const own = separator === -1 ? args : args.slice(0, separator)
  return own.some((arg, index) => arg === "--log=json" || (arg === "json" && own[index - 1] === "--log"))
    ? "json"
    : "text"
}

/** What a failure says; of one that says nothing itself (a socket's), what is behind it. */
const messageOf = (error: unknown): string => {
  for (let each = error; Predicate.hasProperty(each, "message");) {
    if (each.message !== "") {
      return String(each.message)
    }
    each = Predicate.hasProperty(each, "cause")
      ? each.cause
      : Predicate.hasProperty(each, "reason")
      ? each.reason
      : undefined
  }
  return String(error)
}

/** Failures are expected, and need no stack trace: that is for defects. */
const failuresOf = (cause: Cause.Cause<unknown>): string | undefined =>
  cause.reasons.length > 0 && cause.reasons.every(Cause.isFailReason)
    ? cause.reasons.map(({ error }) => messageOf(error)).join("; ")
    : undefined

/** One line in `format`, without its end. */
export const formatLine = (format: Format) => (options: Logger.Options<unknown>): string => {
  const { cause, date, fiber, logLevel, message } = options
  const text = (Array.isArray(message) ? message : [message]).map(show).join(" ")
  const annotations = fiber.getRef(References.CurrentLogAnnotations)
  const failures = failuresOf(cause)
  const causeText = failures ?? (cause.reasons.length > 0 ? Cause.pretty(cause) : undefined)
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
  const said = [text, failures].filter((part) => part !== undefined && part !== "").join(": ")
  const first = `${date.toISOString()} ${logLevel.toUpperCase().padEnd(5)} ${block(said)}${fields}`
  return causeText === undefined || failures !== undefined ? first : block(`${first}\n${causeText}`)
}

const show = (value: unknown): string => typeof value === "string" ? value : JSON.stringify(value) ?? String(value)

let latest: Format = "text"

const stderr = makeStderr((count) => {
  const message = `${count} lines of the log were left out: nobody read stderr`
  const timestamp = new Date().toISOString()
  return latest === "json" ? json({ timestamp, level: "WARN", message }) : `${timestamp} WARN  ${message}`
})

/** Prints a text for a person, in as many lines as it has. */
export const print = (text: string): void => stderr.write(block(text))

export const logger = (format: Format): Logger.Logger<unknown, void> => {
  latest = format
  return Logger.map(Logger.make(formatLine(format)), stderr.write)
}

/** Ends the process when the log is written, and soon in any case. */
export const exit = (code: number): void =>
  stderr.flush(1_000, (stuck) => {
    // Node would wait for the thread that waits for a reader.
    process.exitCode = code
    return stuck ? process.kill(process.pid, "SIGKILL") : process.exit(code)
  })
