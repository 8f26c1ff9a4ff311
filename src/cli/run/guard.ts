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
 * signal to `run` or COMMAND reaches it.
 *
 * bash and busybox' ash can wait for a line and for a time at once; other shells
 * (dash) notice only that `run` is gone. Without any shell (distroless images)
 * there is no guard: there `run` is usually process 1, with which the kernel
 * kills everything in the container.
 *
 * The alternatives: PR_SET_PDEATHSIG (`setpriv --pdeathsig`) is on few systems,
 * does not reach the children of COMMAND, and does not notice a `run` that
 * hangs; a second Node process would take ten times the memory.
 *
 * @internal
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { spawn } from "node:child_process"
import { existsSync } from "node:fs"

/** What the shell runs. */
export const script = `
trap '' HUP INT QUIT TERM
read -r group limit || exit
(read -r -t 1 nothing < /dev/null) 2> /dev/null
if [ $? -eq 1 ]; then
  while read -r -t "$limit" limit; do :; done
else
  while read -r limit; do :; done
fi
kill -9 "-$group"
`

export interface Guard {
  /** Kills this process group unless it is told otherwise within `limit`. */
  readonly watch: (group: number, limit: Duration.Duration) => void
  /** COMMAND may run for so long from now on. */
  readonly extend: (limit: Duration.Duration) => void
}

const shells = ["/bin/bash", "/usr/bin/bash", "/bin/sh"]

/** Starts a guard, which is let go with the scope; `undefined` where there is no shell. */
export const make: Effect.Effect<Guard | undefined, never, Scope.Scope> = Effect.gen(function*() {
  const shell = shells.find((path) => existsSync(path))
  if (shell === undefined) {
    yield* Effect.logDebug("There is no shell here to guard COMMAND with: it would outlive a hard kill of this process")
    return undefined
  }
  const process = yield* Effect.acquireRelease(
    Effect.sync(() => {
      const process = spawn(shell, ["-c", script], { detached: true, stdio: ["pipe", "ignore", "ignore"] })
      // A guard that could not be started or was killed takes no more orders; there is nothing to do about it.
      process.on("error", () => {})
      process.stdin.on("error", () => {})
      return process
    }),
    // Hard, so that it cannot take the end of its pipe for ours.
    (process) => Effect.sync(() => process.kill("SIGKILL"))
  )
  const write = (line: string) => process.stdin.write(`${line}\n`)
  // Never 0, with which bash only looks whether there is something to read.
  const seconds = (limit: Duration.Duration) => Math.max(Duration.toSeconds(limit), 0.001).toFixed(3)
  return {
    watch: (group, limit) => write(`${group} ${seconds(limit)}`),
    extend: (limit) => write(seconds(limit))
  }
})
