/**
 * Child processes that report by one JSON object per line on stdout, as the candidates do.
 */
import type { ChildProcess } from "node:child_process"
import { createInterface } from "node:readline"
import { killGroup, spawnGuarded } from "./Watchdog.ts"

export interface Line<A> {
  /** Wall-clock milliseconds at which the line was received, fractional. */
  readonly receivedAt: number
  readonly value: A
}

export interface Exit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  /** Wall-clock milliseconds, fractional. */
  readonly at: number
}

export interface ProcessOptions {
  readonly command: string
  readonly args?: ReadonlyArray<string>
  /** Instead of this process's environment; see `cleanEnvironment`. */
  readonly env?: Record<string, string | undefined>
  readonly cwd?: string
  /** For messages. */
  readonly name?: string
}

/**
 * This process's environment without what would tell a candidate where it runs or which cluster to use, and with
 * `extra`.
 */
export const cleanEnvironment = (extra: Record<string, string | undefined> = {}): Record<string, string> => {
  const foreign = /^(KUBERNETES_|KUBECONFIG$|POD_|LEADER_ELECTION_|VITEST|NODE_OPTIONS$)/
  const own = Object.entries(process.env).filter(([name]) => !foreign.test(name))
  const all = [...own, ...Object.entries(extra)]
  return Object.fromEntries(all.filter((entry): entry is [string, string] => entry[1] !== undefined))
}

const now = () => performance.timeOrigin + performance.now()

/** A running child process and all that it has reported. */
export class JsonLinesProcess<A = any> implements AsyncDisposable {
  readonly name: string
  readonly pid: number
  readonly lines: Array<Line<A>> = []
  /** Settles when the process has ended and its last line was read. */
  readonly exit: Promise<Exit>
  private readonly child: ChildProcess
  private readonly errors: Array<string> = []
  private readonly listeners = new Set<() => void>()
  private ended: Exit | undefined

  /** Starts a process; it is killed when this object is closed, or with the process that has started it. */
  static start<A = any>(options: ProcessOptions): JsonLinesProcess<A> {
    return new JsonLinesProcess<A>(options)
  }

  private constructor(options: ProcessOptions) {
    this.child = spawnGuarded(options.command, options.args ?? [], {
      cwd: options.cwd,
      env: options.env ?? process.env,
      stdio: ["ignore", "pipe", "pipe"]
    })
    this.name = options.name ?? options.command
    this.pid = this.child.pid ?? -1
    const output = createInterface({ input: this.child.stdout! })
    output.on("line", (line) => {
      const receivedAt = now()
      try {
        this.lines.push({ receivedAt, value: JSON.parse(line) })
      } catch {
        this.note(`not JSON on stdout: ${line}`)
      }
      this.notify()
    })
    createInterface({ input: this.child.stderr! }).on("line", (line) => this.note(line))
    const drained = new Promise((resolve) => output.once("close", resolve))
    this.exit = new Promise((resolve) => {
      const end = async (code: number | null, signal: NodeJS.Signals | null) => {
        const at = now()
        await drained
        this.ended = { code, signal, at }
        this.notify()
        resolve(this.ended)
      }
      this.child.once("error", (error) => {
        this.note(error.message)
        void end(null, null)
      })
      this.child.once("exit", (code, signal) => void end(code, signal))
    })
  }

  get values(): Array<A> {
    return this.lines.map((line) => line.value)
  }

  /** The last lines of stderr. */
  get stderr(): string {
    return this.errors.join("\n")
  }

  get running(): boolean {
    return this.ended === undefined
  }

  /** Sends a signal to the process itself. */
  signal(signal: NodeJS.Signals): void {
    this.child.kill(signal)
  }

  /**
   * The first line that fits, from the `from`th on: pass `lines.length` to ask for what is still to come. Fails after
   * `timeout` ms, or when the process has ended without it.
   */
  waitFor(
    predicate: (value: A, line: Line<A>) => boolean,
    timeout = 10_000,
    from = 0
  ): Promise<Line<A>> {
    return new Promise((resolve, reject) => {
      let next = from
      const finish = () => {
        clearTimeout(timer)
        this.listeners.delete(check)
      }
      const check = () => {
        for (; next < this.lines.length; next++) {
          const line = this.lines[next]!
          if (predicate(line.value, line)) {
            finish()
            return resolve(line)
          }
        }
        if (this.ended !== undefined) {
          finish()
          const { code, signal } = this.ended
          reject(this.failure(`ended with ${signal ?? `code ${code}`} before the line that was waited for`))
        }
      }
      const timer = setTimeout(() => {
        finish()
        reject(this.failure(`has not printed the line that was waited for within ${timeout} ms`))
      }, timeout)
      this.listeners.add(check)
      check()
    })
  }

  /** Kills it if it still runs, and waits until it is gone. */
  async close(): Promise<void> {
    await killGroup(this.child)
    await this.exit
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  private failure(what: string): Error {
    const last = this.lines.slice(-8).map((line) => JSON.stringify(line.value))
    return new Error(
      [`${this.name} ${what}.`, "Its last lines on stdout:", ...last, "and on stderr:", this.stderr].join("\n")
    )
  }

  private note(line: string): void {
    this.errors.push(line)
    if (this.errors.length > 40) this.errors.shift()
  }

  private notify(): void {
    for (const listener of this.listeners) listener()
  }
}
