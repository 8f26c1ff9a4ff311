/**
 * stdout, of which nothing gets lost without a word.
 *
 * Node's stream for a file writes once, however little of it fits, and throws
 * what went wrong, which `console` swallows. An error of a pipe is known only
 * after the write, and after the end of a command that has nothing else to do.
 *
 * @internal
 */
import { writeSync } from "node:fs"
import { Socket } from "node:net"
import type { Writable } from "node:stream"
import { getSystemErrorMessage } from "node:util"

const writeAll = (bytes: Uint8Array): void => {
  for (let written = 0; written < bytes.length;) {
    written += writeSync(1, bytes, written)
  }
}

export interface Stdout {
  /** Calls back when all is written, or cannot be: then with the reason. */
  readonly flush: (onDone: (failure: NodeJS.ErrnoException | undefined) => void) => void
}

/** From now on every write counts: the first one that fails is reported, when it fails and at the end. */
export const watchStdout = (onFailure: () => void): Stdout => {
  const stdout: Writable = process.stdout
  let failure: NodeJS.ErrnoException | undefined
  stdout.on("error", (error) => {
    failure ??= error
    onFailure()
  })
  // A pipe or a terminal is a socket, which does write everything.
  if (!(stdout instanceof Socket)) {
    stdout._write = (chunk: Uint8Array, _encoding, onWritten) => {
      try {
        writeAll(chunk)
        onWritten()
      } catch (error) {
        onWritten(error as NodeJS.ErrnoException)
      }
    }
  }
  return {
    // The event of an earlier write comes after the answer to this one.
    flush: (onDone) => stdout.write("", () => setImmediate(() => onDone(failure)))
  }
}

/** What to report of a failure; nothing where the reader of a pipe has seen enough: `… | head -1`. */
export const describeFailure = (failure: NodeJS.ErrnoException): string | undefined =>
  failure.code === "EPIPE"
    ? undefined
    : `cannot write to stdout: ${failure.errno === undefined ? failure.message : getSystemErrorMessage(failure.errno)}`
