/**
 * COMMAND as a child process in a process group of its own.
 *
 * On `node:child_process` and not on `effect/process`: what ends a child by a
 * signal is reported there in words only, `run` has to know which one it was; and a
 * signal is sent there to end the process, and waited for, while `run` passes
 * on any signal and lets COMMAND decide.
 *
 * @internal
 */
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schedule from "effect/Schedule"
import { spawn as spawnProcess } from "node:child_process"
import { accessSync, constants, statSync } from "node:fs"
import { delimiter, join } from "node:path"
import { exitCodes, ofSignal } from "../shared/exitCodes.ts"
import { CommandFailure } from "../shared/failure.ts"
import * as ProcessGroup from "./processGroup.ts"

/** How COMMAND ended: one of the two is not null. */
export interface Ending {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

export interface Child {
  /** Of the process, and of its group. */
  readonly pid: number
  readonly ending: Effect.Effect<Ending>
  readonly hasEnded: Effect.Effect<boolean>
  /** Sends a signal to the process itself; does nothing when it has ended. */
  readonly signal: (signal: NodeJS.Signals) => void
  readonly group: ProcessGroup.ProcessGroup
}

/** The exit code of a process that ended so, as a shell has it. */
export const exitCodeOf = ({ code, signal }: Ending): number => signal === null ? code ?? 0 : ofSignal(signal)

const failed = (command: string, why: string, exitCode: number): CommandFailure =>
  new CommandFailure({ message: `cannot run ${command}: ${why}`, exitCode })

const isExecutable = (file: string): boolean => {
  try {
    accessSync(file, constants.X_OK)
    return statSync(file).isFile()
  } catch {
    return false
  }
}

/** In a directory of PATH, shells pass over what is no file. */
const isThere = (file: string, isPath: boolean): boolean => {
  const found = statSync(file, { throwIfNoEntry: false })
  return found !== undefined && (isPath || found.isFile())
}

/**
 * Fails where COMMAND cannot be run, before this process takes part in the
 * election: a follower must not find that out when it is to lead.
 */
export const check = (command: string, path: string): Effect.Effect<void, CommandFailure> =>
  Effect.suspend(() => {
    const isPath = command.includes("/")
    const files = isPath ? [command] : path.split(delimiter).map((directory) => join(directory, command))
    return files.some(isExecutable)
      ? Effect.void
      : Effect.fail(
        files.some((file) => isThere(file, isPath))
          ? failed(command, "it is not an executable file", exitCodes.notExecutable)
          : failed(command, isPath ? "no such file" : "not found in PATH", exitCodes.notFound)
      )
  })

/**
 * Starts COMMAND with our stdin, stdout and stderr. It leads a session of its
 * own, so that its group can be ended as a whole, and without us.
 */
export const spawn = (
  command: string,
  args: ReadonlyArray<string>,
  environment: NodeJS.ProcessEnv
): Effect.Effect<Child, CommandFailure> =>
  Effect.callback<Child, CommandFailure>((resume) => {
    const process = spawnProcess(command, args, { detached: true, env: environment, stdio: "inherit" })
    const ending = Deferred.makeUnsafe<Ending>()
    process.on("exit", (code, signal) => Deferred.doneUnsafe(ending, Exit.succeed({ code, signal })))
    process.on("error", (error: NodeJS.ErrnoException) => {
      resume(Effect.fail(
        error.code === "ENOENT"
          ? failed(command, "it is gone, or the interpreter that it names is not there", exitCodes.notFound)
          : failed(command, error.message, exitCodes.notExecutable)
      ))
    })
    const { pid } = process
    // Known at once where the process has been started; else "error" follows.
    if (pid !== undefined) {
      resume(Effect.succeed({
        pid,
        ending: Deferred.await(ending),
        hasEnded: Deferred.isDone(ending),
        signal: (signal) => {
          process.kill(signal)
        },
        group: ProcessGroup.make(pid)
      }))
    }
  })

/** Waits until COMMAND has ended, and no process of its group is left. */
const ended = (child: Child): Effect.Effect<void> =>
  Effect.andThen(
    child.ending,
    Effect.repeat(Effect.sync(child.group.isLeft), {
      schedule: Schedule.spaced("10 millis"),
      while: (isLeft) => isLeft
    })
  ).pipe(Effect.asVoid)

/**
 * Ends COMMAND and all of its group: SIGTERM now, SIGKILL after `limit`. Waits
 * until COMMAND has ended.
 */
export const end = Effect.fnUntraced(function*(child: Child, limit: Duration.Duration) {
  if (!child.group.signal("SIGTERM")) {
    return yield* child.ending
  }
  const whose = (yield* child.hasEnded) ? "What COMMAND has left behind" : "COMMAND"
  // A process that is stopped can act on a signal only when it goes on.
  child.group.signal("SIGCONT")
  const inTime = yield* Effect.timeoutOption(Effect.interruptible(ended(child)), limit)
  if (inTime._tag === "None" && child.group.signal("SIGKILL")) {
    yield* Effect.logWarning(
      `${whose} has not ended within ${Math.round(Duration.toMillis(limit))} ms of SIGTERM, and was killed`
    )
  }
  return yield* child.ending
})
