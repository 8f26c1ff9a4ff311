/**
 * A Lease that somebody has written to take over the terminal, or the log, of everybody who looks at it: it goes through
 * every command.
 */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Logger } from "effect"
import { LeaderShards, LeaseRecord } from "effect-kubernetes-leader-election"
import { LeaseApiServer } from "effect-kubernetes-leader-election/testing"
import { join } from "node:path"
import { afterAll, beforeAll } from "vitest"
import { type Format, formatLine } from "../../src/cli/shared/log.ts"
import { block, json, line } from "../../src/cli/shared/printable.ts"
import { bundle, type Executable, Running } from "./Executable.ts"

const forged = "2026-11-25T00:00:00.000Z INFO  Became leader of everything"
const controls = "\u001b[2J\u001b]0;title\u0007\u009b31m\u0085\u007f\u202e\u2066\u200b\u2028\r\b\t\u0000\ud800"
const hostile = `evil${controls}\n${forged}\n{"level":"INFO","message":"forged"}`
const long = hostile + "x".repeat(1_000_000)

const isPrintable = (text: string, what: string) => {
  // The end of a line is the only one that may be there.
  const found = text.replaceAll("\n", "").match(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u)
  assert.isNull(found, `${what}: ${JSON.stringify(found)}`)
  for (const each of text.split("\n")) {
    assert.isFalse(each.startsWith(forged) || each.startsWith(`{"level":"INFO","message":"forged"`), what)
  }
}

describe("printable", () => {
  it("a line is one line, and can be read", () => {
    assert.strictEqual(line("my-pod_1-2, größer 🚀"), "my-pod_1-2, größer 🚀")
    assert.strictEqual(line("a\u001b[2J\nb\u202e"), "a\\x1b[2J\\nb\\u{202e}")
    assert.strictEqual(line("abcdef", 3), "abc…")
  })

  it("lines after the first stand further in", () => {
    assert.strictEqual(block("a\nb\n   c"), "a\n  b\n   c")
  })

  it("JSON keeps everything", () => {
    isPrintable(json({ hostile }), "JSON")
    assert.deepStrictEqual(JSON.parse(json({ hostile }, 2)), { hostile })
  })

  it.effect.each(["text", "json"] as const)(
    "every line of the log is safe (%s)",
    (format: Format) =>
      Effect.gen(function*() {
        const lines: Array<string> = []
        const logger = Logger.map(Logger.make(formatLine(format)), (text) => lines.push(text))
        yield* Effect.logInfo(`Following ${long}`, { holder: hostile }).pipe(
          Effect.andThen(Effect.logError(Cause.fail(new Error(hostile)))),
          Effect.annotateLogs({ lease: hostile, identity: long }),
          Effect.provide(Logger.layer([logger]))
        )
        assert.strictEqual(lines.length, 2)
        for (const each of lines) {
          isPrintable(each, format)
          assert.isBelow(each.length, 10_000)
          if (format === "json") {
            JSON.parse(each)
          }
        }
      })
  )
})

// --- Every command ---

let executable: Executable
beforeAll(async () => {
  executable = await bundle()
})
afterAll(() => executable[Symbol.asyncDispose]())

/** What each command is given, and what it prints when it has seen the Lease; `undefined` where it ends by itself. */
const commands: Record<string, { readonly args: ReadonlyArray<string>; readonly seen?: RegExp } | "sees no Lease"> = {
  run: { args: ["--name=x", "--identity=a", "--", "true"], seen: /evil/ },
  serve: { args: ["--name=x", "--identity=a", "--port=0"], seen: /evil/ },
  candidate: { args: ["--name=x", "--identity=a"], seen: /evil/ },
  watch: { args: ["x"], seen: /evil/ },
  "step-down": { args: ["x", "--timeout=2s"] },
  status: { args: [] },
  doctor: { args: ["--name=x", "--identity=a"] },
  manifest: "sees no Lease",
  demo: "sees no Lease",
  "dev-server": "sees no Lease"
}

/** Other views of the same commands. */
const more: ReadonlyArray<
  readonly [name: string, command: { readonly args: ReadonlyArray<string>; readonly seen?: RegExp }]
> = [
  ["status", { args: ["--group=x"] }],
  ["status", { args: ["--output=json"] }],
  ["watch", { args: ["--group=x"], seen: /evil/ }]
]

const cases = [...Object.entries(commands), ...more].flatMap(([name, command]) =>
  command === "sees no Lease"
    ? []
    : ["text", "json"].map((format) => ({ name, format, args: command.args, seen: command.seen }))
)

describe("a hostile Lease", () => {
  it.live("every command is tried", () =>
    Effect.gen(function*() {
      const help = new Running(process.execPath, [executable.file, "--help"], {})
      yield* Effect.promise(() => help.exit)
      const listed = /SUBCOMMANDS\n((?: .*\n)+)/.exec(help.stdout)?.[1]?.matchAll(/^ {2}(\S+)/gm)
      // The one that is not listed.
      const names = [...listed ?? []].map(([, name]) => name!).concat("candidate")
      assert.deepStrictEqual(Object.keys(commands).toSorted(), names.toSorted())
    }))

  it.live.each(cases)("$name $args --log $format", ({ args, format, name, seen }) =>
    Effect.gen(function*() {
      const server = yield* LeaseApiServer.make()
      const kubeconfig = yield* server.writeKubeconfig(join(executable.file, "..", `hostile-${Math.random()}`))
      yield* server.cluster.createLease({ namespace: "default", name: "x" }, {
        metadata: {
          annotations: { [LeaseRecord.instanceAnnotation]: hostile },
          labels: { [LeaderShards.labels.group]: "x", [LeaderShards.labels.role]: "member" }
        },
        spec: {
          holderIdentity: long,
          leaseDurationSeconds: 60,
          renewTime: new Date().toISOString().replace("Z", "000Z"),
          strategy: hostile,
          preferredHolder: long
        }
      })
      const running = yield* Effect.acquireRelease(
        Effect.sync(() =>
          new Running(process.execPath, [
            executable.file,
            name,
            `--kubeconfig=${kubeconfig}`,
            `--log=${format}`,
            "--log-level=debug",
            ...args
          ], {})
        ),
        (running) => Effect.promise(() => running[Symbol.asyncDispose]())
      )
      if (seen === undefined) {
        yield* Effect.promise(() => running.exit)
        assert.match(running.stdout + running.stderr, /evil/)
      } else {
        yield* Effect.promise(() => running.until(({ stderr, stdout }) => seen.test(stdout + stderr)))
      }
      const answers: Array<string> = []
      if (name === "serve") {
        const port = /port (\d+)/.exec(running.stderr)![1]
        const answer = yield* Effect.promise(() => fetch(`http://127.0.0.1:${port}/leader`).then((it) => it.text()))
        assert.strictEqual(JSON.parse(answer).leader, long)
        answers.push(answer)
      }
      if (seen !== undefined) {
        running.signal("SIGTERM")
        yield* Effect.promise(() => running.exit)
      }
      for (const text of [running.stdout, running.stderr, ...answers]) {
        isPrintable(text, name)
      }
      if (format === "json") {
        for (const each of running.stderr.trimEnd().split("\n")) {
          assert.isTrue(each === "" || typeof JSON.parse(each) === "object")
        }
      }
      if (name !== "candidate" && !args.includes("--output=json")) {
        assert.isBelow(running.stdout.length + running.stderr.length, 50_000)
      }
    }))

  it.live("status prints hundreds of Leases beside it, in little memory; all of it as JSON", () =>
    Effect.gen(function*() {
      const server = yield* LeaseApiServer.make()
      const kubeconfig = yield* server.writeKubeconfig(join(executable.file, "..", "kubeconfig"))
      for (let number = 0; number < 710; number++) {
        yield* server.cluster.createLease({ namespace: "default", name: `x-${number}` }, {
          spec: { holderIdentity: number === 7 ? long : "a", leaseDurationSeconds: 15 }
        })
      }
      const status = (...args: ReadonlyArray<string>) =>
        Effect.promise(async () => {
          const command = ["--max-old-space-size=100", executable.file, "status", `--kubeconfig=${kubeconfig}`]
          await using running = new Running(process.execPath, [...command, ...args], {})
          assert.strictEqual((await running.exit).code, 0, running.stderr)
          isPrintable(running.stdout, "status")
          return running.stdout
        })
      assert.isBelow((yield* status()).length, 710 * 400)
      const found: ReadonlyArray<{ readonly holder: string }> = JSON.parse(yield* status("-o", "json"))
      assert.strictEqual(found.length, 710)
      assert.isTrue(found.some(({ holder }) => holder === long))
    }))
})
