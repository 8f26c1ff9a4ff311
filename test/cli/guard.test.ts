import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { existsSync } from "node:fs"
import { script } from "../../src/cli/run/guard.ts"

const started = (command: string, args: ReadonlyArray<string>) =>
  Effect.acquireRelease(
    Effect.sync(() => spawn(command, args, { detached: true, stdio: ["pipe", "ignore", "ignore"] })),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )

const ended = (child: ChildProcess) =>
  Effect.callback<NodeJS.Signals | null>((resume) => {
    child.once("exit", (_, signal) => resume(Effect.succeed(signal)))
  })

/** A command, and a guard that is to kill it in so many seconds. */
const guarded = Effect.fnUntraced(function*(shell: string, limit: string) {
  const command = yield* started("sleep", ["600"])
  const guard = yield* started(shell, ["-c", script])
  guard.stdin?.on("error", () => {})
  guard.stdin?.write(`${command.pid} ${limit}\n`)
  return { command, guard }
})

describe("the guard", () => {
  for (const shell of ["/bin/bash", "/bin/dash", "/bin/sh"].filter(existsSync)) {
    it.live(`kills the command when its pipe ends (${shell})`, () =>
      Effect.gen(function*() {
        const { command, guard } = yield* guarded(shell, "600.000")
        guard.stdin?.end()
        assert.strictEqual(yield* ended(command), "SIGKILL")
      }))
  }

  if (existsSync("/bin/bash")) {
    it.live("kills the command when it is told nothing more, and not before", () =>
      Effect.gen(function*() {
        const { command, guard } = yield* guarded("/bin/bash", "3.000")
        for (let word = 0; word < 8; word++) {
          yield* Effect.sleep("500 millis")
          guard.stdin?.write("3.000\n")
        }
        assert.isNull(command.signalCode)
        guard.stdin?.write("0.200\n")
        assert.strictEqual(yield* ended(command), "SIGKILL")
      }), 20_000)
  }

  it.live("lets the command live when it is itself killed", () =>
    Effect.gen(function*() {
      const { command, guard } = yield* guarded(existsSync("/bin/bash") ? "/bin/bash" : "/bin/sh", "0.500")
      guard.kill("SIGKILL")
      yield* ended(guard)
      yield* Effect.sleep("700 millis")
      assert.isNull(command.signalCode)
    }))
})
