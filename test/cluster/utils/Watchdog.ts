/**
 * Child processes that cannot outlive this one, however it ends.
 *
 * A killed test run cannot clean up, and Node knows no "die with your parent". So each child's process id is told to a
 * small shell process through a pipe; when this process is gone the pipe ends, and the shell kills what is still
 * running and removes the temporary directories.
 */
import { type ChildProcess, spawn, type SpawnOptions } from "node:child_process"
import { mkdtemp, rm } from "node:fs/promises"
import type { Socket } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"

const script = `
pids=
while read -r op arg; do
  case $op in
    pid) pids="$pids $arg" ;;
    ended)
      left=
      for pid in $pids; do [ "$pid" = "$arg" ] || left="$left $pid"; done
      pids=$left ;;
    directory) set -- "$@" "$arg" ;;
  esac
done
for pid in $pids; do kill -KILL "-$pid" 2>/dev/null; done
[ $# -eq 0 ] || rm -rf -- "$@"
`

let watchdog: ChildProcess | undefined

const tell = (line: string): void => {
  if (watchdog === undefined) {
    // Detached: an interrupt typed at the terminal must not end it before it has done its work.
    watchdog = spawn("sh", ["-c", script], { detached: true, stdio: ["pipe", "ignore", "ignore"] })
    watchdog.unref()
    const stdin = watchdog.stdin as Socket
    stdin.unref()
    stdin.on("error", () => {})
  }
  watchdog.stdin!.write(`${line}\n`)
}

/** As `spawn`, but in a process group of its own that is killed when this process ends. */
export const spawnGuarded = (command: string, args: ReadonlyArray<string>, options: SpawnOptions): ChildProcess => {
  const child = spawn(command, args, { ...options, detached: true })
  const pid = child.pid
  if (pid !== undefined) {
    tell(`pid ${pid}`)
    child.once("exit", () => tell(`ended ${pid}`))
  }
  return child
}

/** Kills a process with the processes that it has started itself; waits until it is gone. */
export const killGroup = async (child: ChildProcess): Promise<void> => {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
  child.ref()
  const exited = new Promise((resolve) => child.once("exit", resolve))
  try {
    process.kill(-child.pid, "SIGKILL")
  } catch {
    child.kill("SIGKILL")
  }
  await exited
}

/** A temporary directory that is removed when this process ends, at the latest. */
export const temporaryDirectory = async (
  name: string
): Promise<{ readonly path: string; readonly remove: () => Promise<void> }> => {
  const path = await mkdtemp(join(tmpdir(), `${name}-`))
  tell(`directory ${path}`)
  return { path, remove: () => rm(path, { recursive: true, force: true }) }
}
