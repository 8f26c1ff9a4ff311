/**
 * The operating system's uptime as a file that jumps, or blocks, as lxcfs makes it.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import { execFile, execFileSync } from "node:child_process"
import { closeSync, constants, mkdtempSync, openSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { elapsed } from "../src/internal/protocol/timing.ts"
import * as SuspendWitness from "../src/SuspendWitness.ts"

const second = 1_000_000_000n

/** A machine whose clocks are the test's, with its uptime in a file. */
const setup = Effect.gen(function*() {
  const directory = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "uptime-"))),
    (directory) => Effect.sync(() => rmSync(directory, { recursive: true }))
  )
  const file = join(directory, "uptime")
  const state = { monotonic: 0n, wall: 1_000_000, uptime: 100, asked: 0 }
  const machine: SuspendWitness.Machine = {
    file,
    uptime: () => {
      state.asked++
      return state.uptime
    },
    monotonic: () => state.monotonic,
    wall: () => state.wall
  }
  /** So much time passes, for the machine and for the timers. */
  const pass = (seconds: number) =>
    Effect.andThen(
      Effect.sync(() => {
        state.monotonic += BigInt(seconds) * second
        state.wall += seconds * 1000
        state.uptime += seconds
      }),
      TestClock.adjust(`${seconds} seconds`)
    )
  return { file, machine, pass, state, put: (seconds: number) => writeFileSync(file, `${seconds}.00 1.00\n`) }
})

/** Files are read by threads, which know nothing of the test's clock. */
const until = (is: () => boolean) =>
  Effect.callback<void>((resume) => {
    const look = () => is() ? resume(Effect.void) : setTimeout(look, 5)
    look()
  })

describe.skipIf(process.platform !== "linux")("the uptime in a file", () => {
  it.effect("A8 that jumps forward is a witness that is alone, and ends nothing", () =>
    Effect.gen(function*() {
      const { machine, pass, put, state } = yield* setup
      put(100)
      const witness = yield* SuspendWitness.make(machine)
      yield* until(() => witness() !== 0n)
      const moment = () => ({
        monotonic: state.monotonic,
        witness: witness(),
        wall: BigInt(state.wall) * 1_000_000n
      })
      const start = moment()
      assert.strictEqual(start.witness, 100n * second)
      put(360_000)
      yield* pass(5)
      yield* until(() => witness() > 1000n * second)
      assert.strictEqual(elapsed(start, moment()), 5n * second)
    }))

  it.live("A8 that blocks from the first holds up neither the start nor who asks", () =>
    Effect.gen(function*() {
      const { file } = yield* setup
      execFileSync("mkfifo", [file])
      const program = `
        import { Effect } from "effect"
        import * as SuspendWitness from "${new URL("../src/SuspendWitness.ts", import.meta.url).pathname}"
        const machine = { file: process.argv[1], uptime: () => 1, monotonic: process.hrtime.bigint, wall: () => wall }
        let wall = Date.now()
        await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
          const witness = yield* SuspendWitness.make(machine)
          const first = witness()
          yield* Effect.sleep("50 millis")
          wall += 3_600_000
          process.stdout.write(\`asked: \${first} \${witness()}\`, () => process.kill(process.pid, "SIGKILL"))
          yield* Effect.never
        })))
      `
      // In a process of its own: one that blocks cannot be given up from inside.
      const stdout = yield* Effect.callback<string>((resume) => {
        execFile(
          process.execPath,
          ["--input-type=module", "-e", program, file],
          { timeout: 20_000, killSignal: "SIGKILL" },
          (_, stdout) => resume(Effect.succeed(stdout))
        )
      })
      assert.strictEqual(stdout, "asked: 0 0")
    }))

  it.effect("A8 that blocks later is not waited for in a suspension", () =>
    Effect.gen(function*() {
      const { file, machine, pass, put, state } = yield* setup
      put(100)
      const witness = yield* SuspendWitness.make(machine)
      yield* until(() => witness() !== 0n)
      rmSync(file)
      execFileSync("mkfifo", [file])
      // Who waits to open it for reading gets on when it is open for writing: the thread must not outlive the test.
      yield* Effect.addFinalizer(() =>
        Effect.callback<void>((resume) => {
          const writer = openSync(file, constants.O_RDWR | constants.O_NONBLOCK)
          setTimeout(() => {
            closeSync(writer)
            resume(Effect.void)
          }, 50)
        })
      )
      yield* pass(5)
      yield* pass(5)
      assert.strictEqual(witness(), 110n * second)
      state.wall += 3_600_000
      state.uptime += 3600
      assert.strictEqual(witness(), 110n * second)
      assert.strictEqual(state.asked, 0)
    }))

  it.effect("is asked on the spot after a suspension, which it counts", () =>
    Effect.gen(function*() {
      const { machine, pass, put, state } = yield* setup
      put(100)
      const witness = yield* SuspendWitness.make(machine)
      yield* until(() => witness() !== 0n)
      yield* pass(2)
      assert.strictEqual(witness(), 102n * second)
      assert.strictEqual(state.asked, 0)
      // An hour in which neither timers nor the monotonic clock went on.
      state.wall += 3_600_000
      state.uptime += 3600
      assert.strictEqual(witness(), 3702n * second)
      assert.strictEqual(state.asked, 1)
    }))
})
