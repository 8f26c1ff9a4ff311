/**
 * Where a picture is drawn: redrawn in place on a terminal, or, into a pipe or
 * a file, not at all.
 *
 * @internal
 */
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Stdio from "effect/Stdio"
import * as Terminal from "effect/Terminal"
import { fit, width } from "./printable.ts"

export interface Screen {
  /** Whether stdout is a terminal that can move its cursor: else only whole lines are of use. */
  readonly isLive: boolean
  readonly colors: boolean
  /** Characters that fit into a line. */
  readonly width: Effect.Effect<number>
  /** Replaces what was drawn before. */
  readonly draw: (lines: ReadonlyArray<string>) => Effect.Effect<void>
}

const variable = (name: string) => Effect.orElseSucceed(Config.option(Config.String(name)), Option.none<string>)

/** What stdout can do. */
export const abilities: Effect.Effect<Pick<Screen, "isLive" | "colors">, never, Stdio.Stdio> = Effect.gen(function*() {
  const { stdoutIsTerminal } = yield* Stdio.Stdio
  const isLive = (yield* stdoutIsTerminal) && Option.getOrUndefined(yield* variable("TERM")) !== "dumb"
  const forced = Option.getOrUndefined(yield* variable("FORCE_COLOR"))
  const refused = Option.getOrUndefined(yield* variable("NO_COLOR"))
  // As Node has it: FORCE_COLOR, even empty, turns them on, and off with 0 or false; NO_COLOR counts unless it is empty.
  const colors = forced === undefined ? isLive && (refused ?? "") === "" : forced !== "0" && forced !== "false"
  return { isLive, colors }
})

/** Hides the cursor while the scope is open, where there is one. */
export const make: Effect.Effect<Screen, never, Terminal.Terminal | Stdio.Stdio | Scope.Scope> = Effect.gen(
  function*() {
    const terminal = yield* Terminal.Terminal
    const { colors, isLive } = yield* abilities
    const given = Number(Option.getOrElse(yield* variable("COLUMNS"), () => "80")) || 80
    const display = (text: string) => Effect.ignore(terminal.display(text))
    if (isLive) {
      yield* Effect.acquireRelease(display("\u001b[?25l"), () => display("\u001b[?25h"))
    }
    let drawn = 0
    return {
      isLive,
      colors,
      width: Effect.map(terminal.columns, (columns) => columns > 0 ? columns - 1 : given),
      draw: Effect.fnUntraced(function*(lines) {
        const columns = yield* terminal.columns
        const rows = yield* terminal.rows
        const fitting = lines.slice(0, Math.max(1, rows - 1)).map((line) => cut(line, columns - 1))
        yield* display(
          (drawn > 0 ? `\u001b[${drawn}F` : "") + fitting.map((line) => `${line}\u001b[K\n`).join("") + "\u001b[J"
        )
        drawn = fitting.length
      })
    }
  }
)

// oxlint-disable-next-line no-control-regex -- these are what is looked for
const sequence = /(\u001b\[[\d;]*m)/

/** The first characters of a line; colours take no room. */
const cut = (line: string, columns: number): string => {
  let room = columns
  return line.split(sequence).map((part, index) => {
    if (index % 2 === 1) {
      return part
    }
    const fitting = fit(part, room)
    room -= fitting === part ? width(part) : room
    return fitting
  }).join("")
}
