/**
 * Logging to a stderr that nobody reads: the process goes on, and what was left out is said when somebody reads again.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { spawn } from "node:child_process"
import { closeSync, constants, mkdtempSync, openSync, readSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { makeLines } from "../../src/cli/shared/stderr.ts"

describe("lines", () => {
  /** A pipe with room for so many bytes. */
  const makePipe = (room: number) => {
    const pipe = { room, text: "", attempts: 0 }
    const attempt = (bytes: Uint8Array) => {
      pipe.attempts++
      const count = Math.min(pipe.room, bytes.length)
      pipe.room -= count
      pipe.text += Buffer.from(bytes.subarray(0, count)).toString()
      return count === 0 ? "full" as const : count
    }
    return { pipe, lines: makeLines(attempt, (count) => `${count} left out`) }
  }
  const flush = (lines: ReturnType<typeof makeLines>, millis: number) =>
    Effect.callback<boolean>((resume) => lines.flush(millis, (stuck) => resume(Effect.succeed(stuck))))

  it.live("go out at once, and whole, also where only a part of one fits", () =>
    Effect.gen(function*() {
      const { lines, pipe } = makePipe(8)
      lines.write("one")
      assert.strictEqual(pipe.text, "one\n")
      lines.write("three")
      assert.strictEqual(pipe.text, "one\nthre")
      lines.write("four")
      pipe.room = 100
      assert.isFalse(yield* flush(lines, 1_000))
      assert.strictEqual(pipe.text, "one\nthree\nfour\n")
    }))

  it.live("A9 beyond a limit are counted, and the count is told", () =>
    Effect.gen(function*() {
      const { lines, pipe } = makePipe(0)
      const long = "x".repeat(100_000)
      for (let i = 0; i < 100; i++) lines.write(`${i} ${long}`)
      // Not tried for each line.
      assert.strictEqual(pipe.attempts, 1)
      assert.isFalse(yield* flush(lines, 20))
      pipe.room = Infinity
      yield* flush(lines, 1_000)
      const out = pipe.text.split("\n")
      assert.deepStrictEqual(out.map((line) => line.split(" ")[0]), [
        ...Array.from({ length: 11 }, (_, index) => `${index}`),
        "89",
        ""
      ])
      assert.strictEqual(out[11], "89 left out")
      lines.write("later")
      assert.isTrue(pipe.text.endsWith("left out\nlater\n"))
    }))

  it.live("that wait in a thread are written one after the other, and one that never ends is told", () =>
    Effect.gen(function*() {
      const asked: Array<string> = []
      const done: Array<(count: number) => void> = []
      const lines = makeLines((bytes, onWritten) => {
        asked.push(Buffer.from(bytes).toString())
        done.push(onWritten)
        return "pending"
      }, String)
      lines.write("one")
      lines.write("two")
      assert.deepStrictEqual(asked, ["one\n"])
      done[0]!(4)
      assert.deepStrictEqual(asked, ["one\n", "two\n"])
      assert.isTrue(yield* flush(lines, 20))
      done[1]!(4)
      assert.isFalse(yield* flush(lines, 20))
    }))
})

// Logs far more than any pipe holds, then says on stdout for how long that has held it up.
const program = `
  import { Effect, Logger } from "effect"
  import * as Log from "${new URL("../../src/cli/shared/log.ts", import.meta.url).pathname}"
  const start = performance.now()
  const line = Effect.logInfo("x".repeat(1000))
  await Effect.runPromise(Effect.provide(Effect.forEach(Array(5000), () => line), Logger.layer([Log.logger("json")])))
  await new Promise((resolve) => setTimeout(resolve, 100))
  process.stdout.write("logged", () => Log.exit(3))
`

describe.skipIf(process.platform !== "linux")("a process whose stderr nobody reads", () => {
  const run = (stderr: "pipe" | number) =>
    Effect.callback<{ readonly stdout: string; readonly code: number | null; readonly signal: string | null }>(
      (resume) => {
        const child = spawn(process.execPath, ["--input-type=module", "-e", program], {
          stdio: ["ignore", "pipe", stderr]
        })
        let stdout = ""
        child.stdout!.on("data", (data) => {
          stdout += data
        })
        child.on("close", (code, signal) => resume(Effect.succeed({ stdout, code, signal })))
        // Without this the pipe is read.
        child.stderr?.pause()
        child.on("exit", () => child.stderr?.destroy())
        return Effect.sync(() => child.kill("SIGKILL"))
      }
    ).pipe(Effect.timeout("30 seconds"))

  it.live("A9 is not held up by a pipe, and ends with its exit code", () =>
    Effect.gen(function*() {
      const directory = mkdtempSync(join(tmpdir(), "stderr-"))
      const path = join(directory, "pipe")
      yield* Effect.callback<void>((resume) => {
        spawn("mkfifo", [path]).on("exit", () => resume(Effect.void))
      })
      const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
      const writer = openSync(path, constants.O_WRONLY)
      const { code, stdout } = yield* run(writer)
      assert.deepStrictEqual({ code, stdout }, { code: 3, stdout: "logged" })
      const buffer = Buffer.alloc(1 << 20)
      const lines = buffer.subarray(0, readSync(reader, buffer)).toString().split("\n").slice(0, -1)
      assert.isAbove(lines.length, 10)
      assert.isTrue(lines.every((line) => JSON.parse(line).message.length === 1000))
      closeSync(reader)
      closeSync(writer)
      rmSync(directory, { recursive: true })
    }))

  it.live("A9 is not held up by a socket, and ends", () =>
    Effect.gen(function*() {
      const { code, signal, stdout } = yield* run("pipe")
      assert.strictEqual(stdout, "logged")
      assert.isTrue(code === 3 || signal === "SIGKILL", `${code} ${signal}`)
    }))
})
