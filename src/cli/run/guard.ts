/**
 * A second process that kills COMMAND when `run` cannot: because it was itself
 * killed hard, was stopped (SIGSTOP), or hangs. Without it a COMMAND whose
 * `run` is gone would go on beside the next leader's.
 *
 * **Details**
 *
 * It is a shell of one to three megabytes that reads from a pipe: first the
 * process group, then, again and again, for how many seconds COMMAND may run
 * without another word. When these are over, or the pipe ends because `run` is
 * gone, it kills the group and ends. It is in a session of its own, so that no
 * signal to `run` or COMMAND reaches it, and has no environment, so that no
 * BASH_ENV or ENV can end it.
 *
 * bash, busybox' ash, mksh, ksh93 and zsh can wait for a line and for a time at
 * once; other shells (dash) notice only that `run` is gone. Without any shell
 * (distroless images) there is no guard: there `run` is usually process 1, with
 * which the kernel kills everything in the container.
 *
 * The alternatives: PR_SET_PDEATHSIG (`setpriv --pdeathsig`) is on few systems,
 * does not reach the children of COMMAND, and does not notice a `run` that
 * hangs; a second Node process would take ten times the memory.
 *
 * @internal
 */
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import { spawn } from "node:child_process"
import { existsSync } from "node:fs"

/** With this the shell ends when it has killed COMMAND. */
const hasKilled = 3

/**
 * What the shell runs.
 *
 * A shell is asked what it can do before that matters: bash 3.2, the one of
 * every Mac, takes whole seconds only, and its `read -t 4.250` fails at once,
 * with the status of a time-out. A `read` that fails later on has waited, or
 * has found the end of the pipe, or could not do its work. The time that has
 * passed shows (where the shell counts it: SECONDS), and a second read, without
 * a limit, finds the end. The clock behind SECONDS may be set back: then the
 * first read is trusted.
 *
 * Rounded down, a time is over too early rather than too late, but never
 * 0, with which bash only looks whether there is something to read.
 */
export const script = `
trap '' HUP INT QUIT TERM
read -r group limit || exit
if echo | read -r -t 1.5 word; then unit=any
elif echo | read -r -t 1 word; then unit=second
else unit=none
fi
next() {
  case $unit in
    any) read -r -t "$limit" word ;;
    second) if [ "$whole" -ge 1 ]; then read -r -t "$whole" word; else read -r -t 1 word; fi ;;
    *) read -r word ;;
  esac
}
while :; do
  whole=\${limit%.*}
  start=$SECONDS
  next
  result=$?
  if [ $result -ne 0 ]; then
    if [ $unit = none ] || [ $result -gt 128 ] || [ -z "$start" ]; then break; fi
    passed=$((SECONDS - start))
    passed=\${passed%.*}
    if [ "\${passed:-0}" -ge "$whole" ] || [ "\${passed:-0}" -lt 0 ]; then break; fi
    read -r word || break
  fi
  limit=$word
done
kill -9 "-$group"
exit ${hasKilled}
`

export interface Guard {
  /** Kills this process group unless it is informed otherwise within `limit`. */
  readonly watch: (group: number, limit: Duration.Duration) => void
  /** COMMAND may run for so long from now on. */
  readonly extend: (limit: Duration.Duration) => void
}

const shells = ["/bin/bash", "/usr/bin/bash", "/bin/sh"]

/** Starts a guard, which is let go with the scope; `undefined` where there is no shell. */
export const make = (
  candidates: ReadonlyArray<string> = shells
): Effect.Effect<Guard | undefined, never, Scope.Scope> =>
  Effect.gen(function*() {
    const shell = candidates.find((path) => existsSync(path))
    if (shell === undefined) {
      yield* Effect.logDebug(
        "There is no shell here to guard COMMAND with: it would outlive a hard kill of this process"
      )
      return undefined
    }
    const ending = Deferred.makeUnsafe<string>()
    const process = yield* Effect.acquireRelease(
      Effect.sync(() => {
        const process = spawn(shell, ["-c", script], { detached: true, env: {}, stdio: ["pipe", "ignore", "ignore"] })
        const ended = (how: string) => Deferred.doneUnsafe(ending, Exit.succeed(how))
        process.on("error", (error) => ended(`could not be started: ${error.message}`))
        process.on("exit", (code, signal) =>
          ended(
            code === hasKilled
              ? "has killed COMMAND, because this process did not extend its time: was it stopped, or did it hang?"
              : `has ended (${signal ?? `exit code ${code}`}): COMMAND would outlive a hard kill of this process`
          ))
        // After one of these it takes no more orders.
        process.stdin.on("error", () => {})
        return process
      }),
      // Hard, so that it cannot take the end of its pipe for ours.
      (process) => Effect.sync(() => process.kill("SIGKILL"))
    )
    // Forked after the guard was made, so that it is gone before the guard is let go: that end is expected.
    yield* Deferred.await(ending).pipe(
      Effect.flatMap((how) => Effect.logWarning(`The guard (${shell}) ${how}`)),
      Effect.forkScoped({ startImmediately: true })
    )
    const write = (line: string) => process.stdin.write(`${line}\n`)
    // Never 0, with which bash only looks whether there is something to read.
    const seconds = (limit: Duration.Duration) => Math.max(Duration.toSeconds(limit), 0.001).toFixed(3)
    return {
      watch: (group, limit) => write(`${group} ${seconds(limit)}`),
      extend: (limit) => write(seconds(limit))
    }
  })
