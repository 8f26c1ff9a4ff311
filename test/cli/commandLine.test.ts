import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { readFile, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { afterAll, beforeAll } from "vitest"
import { descriptions, exitCodes, ofSignal } from "../../src/cli/shared/exitCodes.ts"
import { LeaseApiServer } from "../../src/testing/index.ts"
import { bundle, type Executable, Running } from "./Executable.ts"

let executable: Executable
beforeAll(async () => {
  executable = await bundle()
}, 60_000)
afterAll(() => executable[Symbol.asyncDispose]())

const start = (args: ReadonlyArray<string>, env: Record<string, string> = {}) =>
  new Running(process.execPath, [executable.file, ...args], { HOME: "/nowhere", ...env })

const finish = async (args: ReadonlyArray<string>, env?: Record<string, string>) => {
  const running = start(args, env)
  const { code } = await running.exit
  return { code, stdout: running.stdout, stderr: running.stderr }
}

const limit = 30_000

describe("bad usage", () => {
  const cases: ReadonlyArray<readonly [args: ReadonlyArray<string>, message: RegExp]> = [
    [["run", "--nmae", "a", "--", "true"], /run: .*--nmae.*Did you mean.*--name/],
    [["run"], /run: .*COMMAND/],
    [["run", "--lease-duration", "15x", "--", "true"], /--lease-duration.*"15x" is no duration; write it as 15s/],
    [["run", "--new-lease", "maybe", "--", "true"], /--new-lease.*maybe.*wait.*lead/],
    [["run", "--statsd", ":1", "--", "true"], /--statsd.*write it as statsd\.monitoring:8125/],
    [["run", "--log", "xml", "--", "true"], /--log.*xml.*text.*json/],
    [["serve", "--port", "http"], /--port.*http/],
    [["step-down"], /step-down: .*NAME/],
    [["rnu"], /Unknown subcommand "rnu".*Did you mean.*run/],
    [["--nothing"], /--nothing/]
  ]
  for (const [args, message] of cases) {
    it(`${args.join(" ")}: one line on stderr, and 2`, async () => {
      const { code, stderr, stdout } = await finish(args)
      assert.strictEqual(code, 2)
      assert.strictEqual(stdout, "")
      assert.match(stderr, message)
      assert.match(stderr, /^effect-kubernetes-leader-election.*\(see effect-kubernetes-leader-election.* --help\)\n$/)
    }, limit)
  }

  const unseparated: ReadonlyArray<ReadonlyArray<string>> = [
    ["--name", "a", "prog", "--namespace", "elsewhere"],
    ["--name", "a", "prog"],
    ["prog", "--namespace", "elsewhere", "--", "true"],
    ["--name", "a", "prog", "--frobnicate"],
    ["--name", "a", "prog", "-x"]
  ]
  it.each(unseparated)("run %s %s %s %s: refused, with the right form", async (...args) => {
    const { code, stderr } = await finish(["run", ...args.filter((arg) => arg !== undefined)])
    assert.strictEqual(code, 2)
    assert.match(stderr, /^effect-kubernetes-leader-election.*run \[OPTIONS\] -- COMMAND \[ARGUMENTS\].*\n$/)
  }, limit)

  it("tells all problems of the settings at once", async () => {
    const args = ["run", "--name", "A", "--lease-duration", "1500ms", "--kubeconfig", await kubeconfigOf("http://x")]
    const { code, stderr } = await finish([...args, "--", "true"])
    assert.strictEqual(code, 2)
    assert.match(
      stderr,
      /^effect-kubernetes-leader-election: invalid settings:\n {2}- name .*\n {2}- leaseDuration .*\n$/
    )
  }, limit)
})

const kubeconfigOf = async (server: string): Promise<string> => {
  const file = join(executable.file, "..", `kubeconfig-${Math.random()}`)
  const text = JSON.stringify({
    clusters: [{ name: "a", cluster: { server } }],
    users: [{ name: "a", user: { token: "t" } }],
    contexts: [{ name: "a", context: { cluster: "a", user: "a", namespace: "default" } }],
    "current-context": "a"
  })
  await writeFile(file, text)
  return file
}

describe("what cannot work", () => {
  it("is told before it takes part, with a code of its own", async () => {
    const cases: ReadonlyArray<readonly [command: string, code: number, message: string]> = [
      ["no-such-command", exitCodes.notFound, "cannot run no-such-command: not found in PATH"],
      ["/no/such/file", exitCodes.notFound, "cannot run /no/such/file: no such file"],
      ["/etc/passwd", exitCodes.notExecutable, "cannot run /etc/passwd: it is not an executable file"],
      ["/tmp", exitCodes.notExecutable, "cannot run /tmp: it is not an executable file"]
    ]
    for (const [command, code, message] of cases) {
      const ended = await finish(["run", "--name", "a", "--", command])
      assert.deepStrictEqual(ended, { code, stdout: "", stderr: `effect-kubernetes-leader-election: ${message}\n` })
    }
  }, limit)

  it("names what is missing where there is no cluster", async () => {
    const { code, stderr } = await finish(["run", "--name", "a", "--", "true"])
    assert.strictEqual(code, exitCodes.configuration)
    assert.match(stderr, /^effect-kubernetes-leader-election: .*KUBECONFIG.*\n$/)
  }, limit)

  it("names what cannot be reached", async () => {
    const { code, stderr } = await finish(["step-down", "a", "--kubeconfig", await kubeconfigOf("http://127.0.0.1:1")])
    assert.strictEqual(code, exitCodes.unavailable)
    assert.match(stderr, /^effect-kubernetes-leader-election: get lease default\/a: .*ECONNREFUSED.*\n$/)
  }, limit)

  it("is one JSON object with --log json", async () => {
    const { code, stderr } = await finish(["run", "--log", "json", "--name", "a", "--", "no-such-command"])
    assert.strictEqual(code, exitCodes.notFound)
    const { level, message } = JSON.parse(stderr)
    assert.deepStrictEqual([level, message], ["ERROR", "cannot run no-such-command: not found in PATH"])
  }, limit)
})

describe("help", () => {
  it("is on stdout, with examples and exit codes", async () => {
    const all = await finish(["--help"])
    assert.strictEqual(all.code, 0)
    assert.strictEqual(all.stderr, "")
    for (const name of ["run", "serve", "step-down", ...Object.values(exitCodes).map(String)]) {
      assert.include(all.stdout, name)
    }
    const run = await finish(["run", "--help"])
    assert.strictEqual(run.code, 0)
    assert.include(run.stdout, "EXAMPLES")
    assert.include(run.stdout, "effect-kubernetes-leader-election run --name my-job -- node worker.js")
  }, limit)

  it("agrees with the documentation", async () => {
    const documentation = await readFile(new URL("../../docs/command-line.md", import.meta.url), "utf8")
    for (const [code] of descriptions) {
      assert.include(documentation, `\n| ${code} |`)
    }
    for (const command of ["run", "serve", "step-down"]) {
      const { stdout } = await finish([command, "--help"])
      for (const [flag] of stdout.matchAll(/^ {2}--[a-z-]+/gm)) {
        if (!["--help", "--version"].includes(flag.trim())) {
          assert.include(documentation, flag.trim())
        }
      }
    }
  }, limit)

  it("has the version, and completions for the shells", async () => {
    assert.match((await finish(["--version"])).stdout, /^effect-kubernetes-leader-election v\d+\.\d+\.\d+\n$/)
    for (const shell of ["bash", "zsh", "fish"]) {
      const { code, stdout } = await finish(["--completions", shell])
      assert.strictEqual(code, 0)
      assert.include(stdout, "step-down")
    }
  }, limit)
})

describe("exit codes", () => {
  it("are those of the shells for signals", () => {
    assert.strictEqual(ofSignal("SIGTERM"), 143)
    assert.strictEqual(ofSignal("SIGINT"), 130)
  })
})

describe("run on the local API server", () => {
  it.live("logs to stderr in words, and nothing else to stdout than COMMAND", () =>
    Effect.gen(function*() {
      const server = yield* LeaseApiServer.make()
      const kubeconfig = yield* server.writeKubeconfig(join(executable.file, "..", "kubeconfig"))
      const { code, stderr, stdout } = yield* Effect.promise(() =>
        finish(
          [
            "run",
            "--kubeconfig",
            kubeconfig,
            "--new-lease",
            "lead",
            "--",
            "sh",
            "-c",
            "echo $LEADER_ELECTION_NAME; exit 3"
          ],
          { LEADER_ELECTION_NAME: "from-the-environment" }
        )
      )
      assert.strictEqual(code, 3)
      assert.strictEqual(stdout, "from-the-environment\n")
      assert.match(
        stderr,
        /^\S+Z INFO {2}Leads \(created\) lease=default\/from-the-environment identity=\S+ term=\d+$/m
      )
      assert.match(stderr, /^\S+Z INFO {2}sh has ended with 3$/m)
    }), limit)

  it.live("gives the Lease away when COMMAND cannot be started after all", () =>
    Effect.gen(function*() {
      const server = yield* LeaseApiServer.make()
      const kubeconfig = yield* server.writeKubeconfig(join(executable.file, "..", "kubeconfig-2"))
      const script = join(executable.file, "..", "no-interpreter")
      yield* Effect.promise(() => writeFile(script, "#!/no/such/interpreter\n", { mode: 0o755 }))
      const args = ["run", "--kubeconfig", kubeconfig, "--name", "a", "--new-lease", "lead", "--", script]
      const { code, stderr } = yield* Effect.promise(() => finish(args))
      assert.strictEqual(code, exitCodes.notFound)
      assert.include(stderr, `effect-kubernetes-leader-election: cannot run ${script}: it is gone, or the interpreter`)
      assert.match(stderr, /Released the Lease/)
    }), limit)
})
