/**
 * `--` stands before COMMAND. Without it, `run --name a prog --namespace b`
 * would take an option of `prog` for its own, and elect in another namespace.
 * Pure.
 *
 * @internal
 */

/** What to write instead. */
export const remedy = "write -- before COMMAND: run [OPTIONS] -- COMMAND [ARGUMENTS]"

/** Whether `args`, all that this process was given, have `--` before the whole of `command`, which was found in them. */
export const isBefore = (args: ReadonlyArray<string>, command: ReadonlyArray<string>): boolean => {
  const separator = args.indexOf("--")
  return separator !== -1 && args.length - separator - 1 === command.length
}
