/**
 * The worker thread of `TermGuard`, and what it shares with the main thread.
 *
 * It is a text, so that it is part of every bundle. It sleeps in `Atomics.wait`
 * and has no timer and no port: nothing that the main thread does or leaves
 * undone keeps it from its deadline.
 *
 * @internal
 */

/** In the first word: there is nothing to guard. */
export const idle = 0n
/** In the first word: the guard ends. */
export const stopped = -1n
/** In the second word, when the worker waits for its first deadline. */
export const ready = 1n
/** Bytes of the text that names the Lease, behind the two words and its length. */
export const textBytes = 1024
/** Offset of the length of that text; the text follows. */
export const textOffset = 16
export const sharedBytes = textOffset + 4 + textBytes

/** How long the line on stderr may hold up the end of the process, in milliseconds. */
export const lineMillis = 10

/**
 * The deadline is nanoseconds of `process.hrtime`, which all threads share.
 * `workerData`: the shared memory; how late a wake-up counts as a stop of the
 * whole process, after which the main thread has as long again, in nanoseconds.
 */
export const source = `
const { workerData } = require("node:worker_threads")
const fs = require("node:fs")
const { late, memory } = workerData
const words = new BigInt64Array(memory, 0, 2)

// The stream of this thread goes through the main one, which is blocked. A description of our own can be made
// non-blocking without a change to the one that others write to; where a pipe belongs to somebody else, or stderr is a
// socket, there is none.
let own
try {
  own = fs.openSync("/proc/self/fd/2", fs.constants.O_WRONLY | fs.constants.O_NONBLOCK | fs.constants.O_APPEND)
  const found = fs.fstatSync(own)
  // To a file a write can block all the same.
  if (!found.isFIFO() && !found.isCharacterDevice()) {
    fs.closeSync(own)
    own = undefined
  }
} catch {}

// Otherwise theirs is made non-blocking, but at the very end: what shares it with this process could notice.
const stderr = fs.fstatSync(2)
const net = own === undefined && (stderr.isSocket() || stderr.isFIFO()) ? require("node:net") : undefined

const end = () => process.kill(process.pid, "SIGKILL")
// What is needed at the end has run once.
process.kill(process.pid, 0)

const text = () => {
  const length = new DataView(memory).getInt32(${textOffset})
  return Buffer.from(new Uint8Array(memory, ${textOffset + 4}, length).slice()).toString()
}

const fire = (overdue) => {
  const line = Buffer.from(
    "effect-kubernetes-leader-election: killing this process (pid " + process.pid + ", SIGKILL): " + text() + "\\n"
  )
  if (own !== undefined) {
    try {
      fs.writeSync(own, line)
    } catch {}
    end()
  } else if (net !== undefined) {
    try {
      // For its side effect on the descriptor.
      new net.Socket({ fd: 2, readable: false, writable: true })
      fs.writeSync(2, line)
    } catch {}
    end()
  } else {
    // A file: by another thread, which may hang with its disk.
    setTimeout(end, ${lineMillis})
    fs.write(2, line, end)
  }
}

const guard = () => {
  let excused = ${idle}n
  for (;;) {
    const deadline = Atomics.load(words, 0)
    if (deadline === ${stopped}n) {
      return
    }
    if (deadline === ${idle}n) {
      Atomics.wait(words, 0, deadline)
      continue
    }
    const left = deadline - process.hrtime.bigint()
    if (left > 0n) {
      // Rounded up: never before its time.
      Atomics.wait(words, 0, deadline, Number(left / 1000000n) + 1)
      continue
    }
    if (-left > late && excused !== deadline) {
      // This thread could not run either: the process was stopped, or has no CPU. The main thread, if it can, now does
      // what it was kept from.
      excused = deadline
      Atomics.wait(words, 0, deadline, Number(late / 1000000n))
      continue
    }
    return fire()
  }
}

Atomics.store(words, 1, ${ready}n)
Atomics.notify(words, 1)
guard()
`
