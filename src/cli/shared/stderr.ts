/**
 * Lines on stderr that never hold up the process. A reader that does not read (a
 * log collector that hangs) fills the pipe, and write(2) waits then: with it the
 * event loop, and with that the renewals.
 *
 * A pipe or a terminal is opened a second time, so that writing without waiting
 * is a matter of this process and not of all that share the pipe, as COMMAND
 * does. Where that cannot be done (a socket, another system), one write at a time
 * waits in a thread of the pool. What does not get out is kept up to a limit, and
 * counted beyond it.
 *
 * @internal
 */
import { constants, fstatSync, openSync, write as writeLater, writeSync } from "node:fs"

/** Tries to write: how many bytes went, or `full`; `pending` where that is reported later. */
type Attempt = (bytes: Uint8Array, onWritten: (count: number) => void) => number | "full" | "pending"

export interface Lines {
  readonly write: (line: string) => void
  /** Calls back when all is written, or after this long: then `stuck` says that a thread still waits in a write. */
  readonly flush: (millis: number, onDone: (stuck: boolean) => void) => void
}

/** How much is kept for a reader that does not read. */
const limit = 1024 * 1024

/** How often to look whether it reads again. */
const pause = 100

/** Writes lines in order. `dropped` says how many were left out, when the next ones get out. */
export const makeLines = (attempt: Attempt, dropped: (count: number) => string): Lines => {
  let queue: Array<Uint8Array> = []
  let size = 0
  let lost = 0
  let pending = false
  let timer: NodeJS.Timeout | undefined

  const written = (count: number) => {
    while (count > 0 && queue.length > 0) {
      const first = queue[0]!
      const part = Math.min(count, first.length)
      count -= part
      size -= part
      if (part === first.length) {
        queue.shift()
      } else {
        queue[0] = first.subarray(part)
      }
    }
  }

  const drain = () => {
    clearTimeout(timer)
    timer = undefined
    while (!pending && queue.length > 0) {
      const result = attempt(queue[0]!, (count) => {
        pending = false
        written(count)
        drain()
      })
      if (result === "pending") {
        pending = true
      } else if (result === "full") {
        timer = setTimeout(drain, pause)
        timer.unref()
        return
      } else {
        written(result)
      }
      if (queue.length === 0 && lost > 0) {
        const count = lost
        lost = 0
        push(dropped(count))
      }
    }
  }

  const push = (line: string) => {
    const bytes = Buffer.from(`${line}\n`)
    queue.push(bytes)
    size += bytes.length
  }

  return {
    write: (line) => {
      if (size > limit) {
        lost++
        return
      }
      push(line)
      if (!pending && timer === undefined) {
        drain()
      }
    },
    flush: (millis, onDone) => {
      const deadline = performance.now() + millis
      const look = () => {
        if (!pending) {
          drain()
        }
        if (queue.length === 0 || performance.now() >= deadline) {
          onDone(pending)
        } else {
          setTimeout(look, 10)
        }
      }
      look()
    }
  }
}

const isFull = (cause: unknown): boolean => (cause as { readonly code?: unknown }).code === "EAGAIN"

/** What cannot be written for another reason (nobody reads any more) counts as written: nothing is to be done about it. */
const at = (fd: number): Attempt => (bytes) => {
  try {
    return writeSync(fd, bytes)
  } catch (cause) {
    return isFull(cause) ? "full" : bytes.length
  }
}

const later = (fd: number): Attempt => (bytes, onWritten) => {
  writeLater(fd, bytes, (cause, count) => {
    if (cause !== null && isFull(cause)) {
      setTimeout(() => onWritten(0), pause)
    } else {
      onWritten(cause === null ? count : bytes.length)
    }
  })
  return "pending"
}

/** Of an open file: the way to write to it that does not wait. */
const attemptOn = (fd: number): Attempt => {
  try {
    const stat = fstatSync(fd)
    if (stat.isFile()) {
      return at(fd)
    }
    if (process.platform === "linux" && (stat.isFIFO() || stat.isCharacterDevice())) {
      return at(openSync(`/proc/self/fd/${fd}`, constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOCTTY))
    }
  } catch {
    // Not ours to open, or no /proc.
  }
  return later(fd)
}

/** Those on stderr, which is opened with the first. */
export const makeStderr = (dropped: (count: number) => string): Lines => {
  let lines: Lines | undefined
  return {
    write: (line) => {
      lines ??= makeLines(attemptOn(2), dropped)
      lines.write(line)
    },
    flush: (millis, onDone) => lines === undefined ? onDone(false) : lines.flush(millis, onDone)
  }
}
