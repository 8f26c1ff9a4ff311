/**
 * The command line as users have it: the bundle, in processes of its own.
 */
import * as Esbuild from "esbuild"
import type { ChildProcess } from "node:child_process"
import { randomBytes } from "node:crypto"
import { mkdir, readdir, readFile, rm } from "node:fs/promises"
import { setTimeout as sleep } from "node:timers/promises"
import { fileURLToPath } from "node:url"
import { bundleOptions } from "../../scripts/bundle.ts"
import { cleanEnvironment } from "../cluster/utils/Processes.ts"
import { killGroup, spawnGuarded } from "../cluster/utils/Watchdog.ts"

export interface Executable extends AsyncDisposable {
  readonly file: string
}

/** Bundles the command into a file of its own, from where it finds the packages that it does not contain. */
export const bundle = async (): Promise<Executable> => {
  const directory = fileURLToPath(
    new URL(`../../node_modules/.cache/leader-election-${randomBytes(4).toString("hex")}`, import.meta.url)
  )
  const file = `${directory}/leader-election.js`
  await mkdir(directory, { recursive: true })
  await Esbuild.build({ ...bundleOptions, outdir: directory })
  return { file, [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }) }
}

export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  /** Milliseconds, monotonic. */
  readonly at: number
}

/** A running command. */
export class Running implements AsyncDisposable {
  readonly pid: number
  readonly exit: Promise<Ended>
  stdout = ""
  stderr = ""
  private readonly child: ChildProcess
  private ended: Ended | undefined

  constructor(command: string, args: ReadonlyArray<string>, env: Record<string, string | undefined>) {
    this.child = spawnGuarded(command, args, { env: cleanEnvironment(env), stdio: ["ignore", "pipe", "pipe"] })
    this.pid = this.child.pid ?? -1
    this.child.stdout!.setEncoding("utf8").on("data", (text: string) => {
      this.stdout += text
    })
    this.child.stderr!.setEncoding("utf8").on("data", (text: string) => {
      this.stderr += text
    })
    this.exit = new Promise((resolve, reject) => {
      this.child.once("error", reject)
      let at = 0
      this.child.once("exit", () => {
        at = performance.now()
      })
      // What it wrote last has been read then, too.
      this.child.once("close", (code, signal) => {
        this.ended = { code, signal, at }
        resolve(this.ended)
      })
    })
  }

  /** Everything that it has written to stdout, when it has ended. */
  get output(): Promise<string> {
    return this.exit.then(() => this.stdout)
  }

  get running(): boolean {
    return this.ended === undefined
  }

  signal(signal: NodeJS.Signals): void {
    this.child.kill(signal)
  }

  /** Waits until the output is as wanted; fails after `timeout` ms, or when the process has ended without it. */
  async until(predicate: (output: { readonly stdout: string; readonly stderr: string }) => boolean, timeout = 20_000) {
    const deadline = performance.now() + timeout
    while (!predicate(this)) {
      if (this.ended !== undefined) {
        throw new Error(`It has ended (${JSON.stringify(this.ended)}) without it:\n${this.stdout}\n${this.stderr}`)
      }
      if (performance.now() > deadline) {
        throw new Error(`Not within ${timeout} ms:\n${this.stdout}\n${this.stderr}`)
      }
      await sleep(10)
    }
    return performance.now()
  }

  /** Ends it, and what it has started in other process groups: also where the test fails because it was left behind. */
  async [Symbol.asyncDispose](): Promise<void> {
    const started = await descendants(this.pid)
    await killGroup(this.child)
    for (const pid of started) {
      try {
        process.kill(pid, "SIGKILL")
      } catch {
        // It has ended by itself.
      }
    }
  }
}

interface Stat {
  readonly pid: number
  readonly state: string
  readonly parent: number
  readonly group: number
}

const processes = async (): Promise<Array<Stat>> => {
  const stats: Array<Stat> = []
  for (const name of await readdir("/proc")) {
    const text = /^\d+$/.test(name) ? await readFile(`/proc/${name}/stat`, "utf8").catch(() => "") : ""
    const [state, parent, group] = text.slice(text.lastIndexOf(")") + 2).split(" ")
    if (text !== "" && state !== undefined) {
      stats.push({ pid: Number(name), state, parent: Number(parent), group: Number(group) })
    }
  }
  return stats
}

const descendants = async (pid: number): Promise<Array<number>> => {
  const all = await processes()
  const found = [pid]
  for (const each of found) {
    found.push(...all.filter(({ parent }) => parent === each).map(({ pid }) => pid))
  }
  return found.slice(1)
}

/** Whether a process, or (negative) any of a group, is there. A zombie is not. */
export const isAlive = async (pid: number): Promise<boolean> =>
  (await processes()).some((process) =>
    !"ZX".includes(process.state) && (pid > 0 ? process.pid === pid : process.group === -pid)
  )
