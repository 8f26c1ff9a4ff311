import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Logger, Scope } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { make, script } from "../../src/cli/run/guard.ts"

/** A shell, or one that stands in for it: what comes before the script changes what its `read` can do. */
interface Shell {
  readonly name: string
  readonly command: string
  readonly args: ReadonlyArray<string>
  readonly before?: string
  /** Whether it notices that a time is over. */
  readonly waits: boolean
}

const read = (refusal: string) => `read() { case "$*" in ${refusal} esac; builtin read "$@"; }\n`

const shells: ReadonlyArray<Shell> = [
  { name: "bash", command: "/bin/bash", args: [], waits: true },
  { name: "dash", command: "/bin/dash", args: [], waits: false },
  { name: "busybox ash", command: "/bin/busybox", args: ["ash"], waits: true },
  { name: "mksh", command: "/bin/mksh", args: [], waits: true },
  { name: "zsh", command: "/bin/zsh", args: [], waits: true },
  { name: "ksh93", command: "/bin/ksh93", args: [], waits: true },
  // bash 3.2 does so, on every Mac.
  { name: "no fractions", command: "/bin/bash", args: [], before: read("*-t*.*) return 1;;"), waits: true },
  { name: "no time-out", command: "/bin/bash", args: [], before: read("*-t*) return 1;;"), waits: false },
  {
    name: "a time-out refused only when it matters",
    command: "/bin/bash",
    args: [],
    before: read(`*"-t 1.5"*) ;; *-t*) return 1;;`),
    waits: false
  },
  {
    name: "no time-out, and no SECONDS",
    command: "/bin/bash",
    args: [],
    before: `unset SECONDS; ${read("*-t*) return 2;;")}`,
    waits: false
  }
]

const here = shells.filter(({ command }) => existsSync(command))

const started = (command: string, args: ReadonlyArray<string>) =>
  Effect.acquireRelease(
    Effect.sync(() => spawn(command, args, { detached: true, env: {}, stdio: ["pipe", "ignore", "ignore"] })),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )

const ended = (child: ChildProcess) =>
  Effect.callback<NodeJS.Signals | null>((resume) => {
    child.once("exit", (_, signal) => resume(Effect.succeed(signal)))
  })

/** A command, and a guard that is to kill it in so many seconds. */
const guarded = Effect.fnUntraced(function*({ args, before = "", command }: Shell, limit: string) {
  const guardedCommand = yield* started("/bin/sleep", ["600"])
  const guard = yield* started(command, [...args, "-c", before + script])
  guard.stdin?.on("error", () => {})
  guard.stdin?.write(`${guardedCommand.pid} ${limit}\n`)
  return { command: guardedCommand, guard }
})

describe("the guard", () => {
  for (const shell of here) {
    it.live(`kills the command when its pipe ends, and not before (${shell.name})`, () =>
      Effect.gen(function*() {
        const { command, guard } = yield* guarded(shell, "600.000")
        guard.stdin?.write("500.000\n")
        yield* Effect.sleep("500 millis")
        assert.isNull(command.signalCode)
        const killed = ended(command)
        guard.stdin?.end()
        assert.strictEqual(yield* killed, "SIGKILL")
      }))

    if (shell.waits) {
      it.live(
        `kills the command when it is told nothing more, and not before (${shell.name})`,
        () =>
          Effect.gen(function*() {
            const { command, guard } = yield* guarded(shell, "3.900")
            for (let word = 0; word < 8; word++) {
              yield* Effect.sleep("500 millis")
              guard.stdin?.write("3.900\n")
            }
            assert.isNull(command.signalCode)
            const start = performance.now()
            guard.stdin?.write("1.200\n")
            assert.strictEqual(yield* ended(command), "SIGKILL")
            assert.isAtLeast(performance.now() - start, 950)
          }),
        20_000
      )
    }
  }

  it.live("lets the command live when it is itself killed", () =>
    Effect.gen(function*() {
      const { command, guard } = yield* guarded(here[0]!, "0.500")
      guard.kill("SIGKILL")
      yield* ended(guard)
      yield* Effect.sleep("700 millis")
      assert.isNull(command.signalCode)
    }))

  it.live("is not ended by BASH_ENV, and an end of its own is reported", () =>
    Effect.gen(function*() {
      const directory = mkdtempSync(join(tmpdir(), "guard-"))
      yield* Effect.addFinalizer(() => Effect.sync(() => rmSync(directory, { recursive: true })))
      writeFileSync(join(directory, "env"), "exit 0\n")
      writeFileSync(join(directory, "sh"), "#!/bin/sh\nexit 0\n", { mode: 0o755 })
      const messages: Array<string> = []
      const layer = Logger.layer([Logger.make(({ message }) => messages.push(String(message)))])
      const start = (shell: string) =>
        Effect.gen(function*() {
          const scope = yield* Scope.make()
          const guard = yield* make([shell]).pipe(Scope.provide(scope), Effect.provide(layer))
          const command = yield* started("/bin/sleep", ["600"])
          guard?.watch(command.pid!, Duration.minutes(10))
          return { scope, command, guard }
        })
      process.env["BASH_ENV"] = join(directory, "env")
      yield* Effect.addFinalizer(() => Effect.sync(() => delete process.env["BASH_ENV"]))
      const well = yield* start("/bin/bash")
      yield* start(join(directory, "sh"))
      while (messages.length === 0) {
        yield* Effect.sleep("10 millis")
      }
      assert.deepStrictEqual(messages, [
        `The guard (${
          join(directory, "sh")
        }) has ended (exit code 0): COMMAND would outlive a hard kill of this process`
      ])
      const killed = ended(well.command)
      well.guard?.extend(Duration.millis(1))
      assert.strictEqual(yield* killed, "SIGKILL")
      while (messages.length === 1) {
        yield* Effect.sleep("10 millis")
      }
      assert.match(messages[1]!, /^The guard \(\/bin\/bash\) has killed COMMAND/)
      yield* Scope.close(well.scope, Exit.void)
      assert.strictEqual(messages.length, 2)
    }))
})
