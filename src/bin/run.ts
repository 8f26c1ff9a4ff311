/**
 * `leader-election run`: waits for leadership, then runs a command.
 *
 * @internal
 */
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Effect from "effect/Effect"
import * as Options from "./options.ts"

export const command = Command.make(
  "run",
  { ...Options.settings, ...Options.connection, command: Argument.variadic(Argument.String("COMMAND"), { min: 1 }) },
  Effect.fnUntraced(function*(options) {
    yield* Effect.logInfo("to be written", options.command)
  })
).pipe(Command.withDescription("Wait for leadership, then run COMMAND while it lasts"))
