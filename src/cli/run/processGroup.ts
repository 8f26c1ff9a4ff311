/**
 * A process group: what can be sent to it, and whether anything of it is left.
 *
 * @internal
 */
import { readdirSync, readFileSync } from "node:fs"

export interface ProcessGroup {
  /** Sends a signal to all of its processes. Whether there are any that have not ended. */
  readonly signal: (signal: NodeJS.Signals) => boolean
  /** Whether any of its processes has not ended yet. */
  readonly isLeft: () => boolean
}

type Member = "alive" | "ended" | "other"

/**
 * What `/proc` says of a process. One that has ended, but that its parent has
 * not asked for (a zombie), still belongs to its group, and can be sent signals
 * without an error: it runs no more, and so does not count.
 */
const look = (pid: string, group: number): Member => {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1")
    // The name, in brackets, may hold spaces and brackets itself.
    const [state = "", , processGroup] = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
    return processGroup !== String(group) ? "other" : "ZX".includes(state) ? "ended" : "alive"
  } catch {
    // It is gone; or it is another user's, which may not be looked at (hidepid).
    return "other"
  }
}

const processes = (): ReadonlyArray<string> => {
  try {
    return readdirSync("/proc").filter((name) => /^\d+$/.test(name))
  } catch {
    return []
  }
}

const send = (group: number, signal: NodeJS.Signals | 0): boolean => {
  try {
    return process.kill(-group, signal)
  } catch (error) {
    // EPERM: there are some, but they run as another user.
    return error instanceof Error && "code" in error && error.code === "EPERM"
  }
}

export const make = (group: number): ProcessGroup => {
  /** One that was alive at the last look, so that not all have to be looked at each time. */
  let known: string | undefined
  const isLeft = (): boolean => {
    if (!send(group, 0)) {
      return false
    }
    if (known !== undefined && look(known, group) === "alive") {
      return true
    }
    known = undefined
    let hasEnded = false
    for (const pid of processes()) {
      const member = look(pid, group)
      if (member === "alive") {
        known = pid
        return true
      }
      hasEnded ||= member === "ended"
    }
    // Where none is seen at all (no /proc, or others' processes are hidden), the kernel's word stands.
    return !hasEnded && send(group, 0)
  }
  return { isLeft, signal: (signal) => isLeft() && send(group, signal) }
}
