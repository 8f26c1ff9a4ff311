/**
 * What is wrong with the arguments, one sentence for each mistake. Pure.
 *
 * @internal
 */
import type * as CliError from "effect/cli/CliError"

const expectedOf = ({ expected }: CliError.InvalidValue): string => expected.replace(/^Expected:? /, "")

const occurrences = /^(\d+) occurrences$/

/** `args` are those that this process was given. */
const describe = (error: CliError.CliError, args: ReadonlyArray<string>): string => {
  if (error._tag !== "InvalidValue") {
    return error.message.replace(/\s*\n\s*/g, " ")
  }
  const called = error.kind === "flag" ? `--${error.option}` : error.option
  const [, times] = occurrences.exec(error.value) ?? []
  if (times !== undefined && error.kind === "flag") {
    return `${called} is given ${times} times: give it once`
  }
  if (error.value !== "") {
    return error.message.replace(/\s*\n\s*/g, " ")
  }
  const after = error.kind === "flag" ? valueAfter(error, args) : ""
  const found = after === undefined || after === "--" ? "has no value" : after === "" ? "is empty" : `is "${after}"`
  return `${called} ${found}: give ${expectedOf(error)}`
}

/**
 * What stands after a flag for which no value was found: none, or one that
 * begins as flags do, and is then read as one or several; `""` after `--flag=`.
 */
const valueAfter = ({ option }: CliError.InvalidValue, args: ReadonlyArray<string>): string | undefined => {
  const position = args.indexOf(`--${option}`)
  return position === -1 ? "" : args[position + 1]
}

/** A sentence for each mistake, but none for what only follows from another. */
export const mistakes = (
  errors: ReadonlyArray<CliError.CliError>,
  args: ReadonlyArray<string>
): ReadonlyArray<string> => {
  const values = errors.flatMap((error) =>
    error._tag === "InvalidValue" && error.value === "" ? valueAfter(error, args) ?? [] : []
  )
  return errors
    .filter((error) =>
      error._tag !== "UnrecognizedOption" ||
      !values.some((value) => !value.startsWith("--") && value.includes(error.option.slice(1)))
    )
    .map((error) => describe(error, args))
}
