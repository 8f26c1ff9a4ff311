import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect, Stdio } from "effect"
import { existsSync } from "node:fs"
import { readFile, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { afterAll, beforeAll } from "vitest"
import { descriptions, exitCodes, ofSignal } from "../../src/cli/shared/exitCodes.ts"
import { parseHostAndPort } from "../../src/cli/shared/options.ts"
import { abilities } from "../../src/cli/shared/timelineScreen.ts"
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
    [["run", "--lease-duration", "15x", "--", "true"], /--lease-duration.*"15x".*a duration, such as 15s/],
    [["run", "--new-lease", "maybe", "--", "true"], /--new-lease.*maybe.*wait.*lead/],
    [["serve", "--candidates", "many"], /--candidates: "many". Expected: a number of candidates, 1 or more/],
    [
      ["run", "--statsd", ":1", "--", "true"],
      /--statsd.*a host, with or without a port, such as statsd\.monitoring:8125/
    ],
    [["run", "--log", "xml", "--", "true"], /--log.*xml.*text.*json/],
    [["serve", "--port", "http"], /--port: "http". Expected: a port, from 0 to 65535/],
    [["serve", "--port", "70000"], /--port: "70000". Expected: a port, from 0 to 65535/],
    [["run", "--metrics-port", "-1", "--", "true"], /--metrics-port/],
    [["run", "--metrics-port", "1e3", "--", "true"], /--metrics-port: "1e3". Expected: a port/],
    [["run", "--statsd", "[::1]:70000", "--", "true"], /--statsd.*a host/],
    [
      ["manifest", "--name", "a", "--image", "b", "--replicas", "0"],
      /--replicas: "0". Expected: a number of Pods, from 1/
    ],
    [["manifest", "--name", "a", "--image", "b", "--probe-port", "0"], /--probe-port: "0". Expected: a port, from 1/],
    [["manifest", "--name", "a", "--image", "b", "--statsd", " "], /--statsd: " ". Expected: a host/],
    [["run", "--kill-after", "-1s", "--", "true"], /--kill-after is "-1s": give DURATION/],
    [["run", "--kill-after", "-n", "a", "--", "true"], /--kill-after is "-n": give DURATION/],
    [["run", "--kill-after", "--", "true"], /--kill-after has no value: give DURATION/],
    [["run", "--name", "a", "--name", "b", "--", "true"], /--name is given 2 times: give it once/],
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

  // `--host "$HOST"` without HOST would listen on all addresses.
  it("an option that takes a text is given an empty one", async () => {
    const tried = new Set<string>()
    for (
      const command of ["run", "serve", "step-down", "status", "watch", "doctor", "manifest", "dev-server", "demo"]
    ) {
      const { stdout } = await finish([command, "--help"])
      const options = [...stdout.matchAll(/^ {2}--([a-z-]+)(?:, -\w)? (?!PORT|NUMBER|DURATION)[A-Z[\]:]+ .*/gm)]
      for (const [line, flag] of options.filter(([line]) => !tried.has(line))) {
        tried.add(line)
        const others = command === "manifest"
          ? ["name", "image"].filter((other) => other !== flag).map((other) => `--${other}=a`)
          : []
        const { code, stderr } = await finish([
          command,
          ...others,
          `--${flag}=`,
          ...(command === "run" ? ["--", "true"] : [])
        ])
        assert.strictEqual(code, 2, `${line}: ${stderr}`)
        assert.match(stderr, new RegExp(`--${flag} is (""|(set, but )?empty): give `), line)
      }
    }
    assert.isAtLeast(tried.size, 15)
  }, limit)

  it.each(["step-down", "status", "watch"])("%s refuses an empty NAME", async (command) => {
    const { code, stderr } = await finish([command, ""])
    assert.strictEqual(code, 2)
    assert.include(stderr, "NAME is empty: give the name of a Lease (see ")
  }, limit)

  it("is JSON too with --log json, and in nobody else's words", async () => {
    for (const args of [["serve", "--port", "x", "--log", "json"], ["--log=json", "serve", "--port", "x"]]) {
      const { code, stderr } = await finish(args)
      assert.strictEqual(code, 2)
      const { level, message } = JSON.parse(stderr)
      assert.strictEqual(level, "ERROR")
      assert.match(message, /--port: "x". Expected: a port, from 0 to 65535 \(see .* serve --help\)$/)
    }
    for (const [name, value] of [["STATSD_PORT", "abc"], ["STATSD_PORT", "0"], ["STATSD_DIALECT", "x"]] as const) {
      const { code, stderr } = await finish(["run", "--name", "a", "--statsd", "localhost", "--", "true"], {
        [name]: value,
        KUBECONFIG: await kubeconfigOf("http://127.0.0.1:1")
      })
      assert.strictEqual(code, 2)
      assert.match(stderr, new RegExp(`^effect-kubernetes-leader-election: ${name} is "${value}": give .*\n$`))
    }
  }, limit)

  it("no NAME is given, and no variable has it", async () => {
    for (const command of ["step-down", "watch"]) {
      const { code, stderr } = await finish([command, "--kubeconfig", await kubeconfigOf("http://127.0.0.1:1")])
      assert.strictEqual(code, 2)
      assert.match(stderr, /no Lease is named: give NAME, or set LEADER_ELECTION_NAME\n$/)
    }
  }, limit)

  const noLease: ReadonlyArray<
    readonly [args: ReadonlyArray<string>, message: RegExp, env: Record<string, string>]
  > = [
    [["status"], /namespace \(LEADER_ELECTION_NAMESPACE\) is "UP"/, { LEADER_ELECTION_NAMESPACE: "UP" }],
    [["status", "a"], /LEADER_ELECTION_NAMESPACE\) is set, but empty/, { LEADER_ELECTION_NAMESPACE: "" }],
    [["watch", "a", "-n", ""], /: --namespace is empty: give NAMESPACE/, {}],
    [["step-down", ""], /: NAME is empty: give the name of a Lease/, {}],
    [["step-down"], /name \(LEADER_ELECTION_NAME\) is " "/, { LEADER_ELECTION_NAME: " " }],
    [["status", "a", ""], /NAME is empty/, {}],
    [["watch", "UP"], /: NAME is "UP": give the name of the Lease.*such as my-service$/m, {}],
    [["status", "--group", ""], /--group is empty: give the name of a group/, {}],
    [["status", "a", "-n", "UP"], /: .*--namespace is "UP": .*such as --namespace default$/m, {}],
    [["watch", "--group", "a,b=c"], /--group: "a,b=c". Expected: the name of a group/, {}],
    [["watch", "--group", "a", "b"], /--group shows one group of shards: give it without NAME/, {}]
  ]
  it.each(noLease)("%s: no Lease can be called that", async (args, message, env) => {
    const ended = await finish([...args, "--kubeconfig", await kubeconfigOf("http://127.0.0.1:1")], env)
    assert.strictEqual(ended.code, 2, ended.stderr)
    assert.match(ended.stderr, message)
  }, limit)

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

  it("an empty COMMAND is none", async () => {
    const { code, stderr } = await finish(["run", "--name", "a", "--", "", "x"])
    assert.strictEqual(code, 2)
    assert.match(stderr, /: run: COMMAND is empty: give what to run, after --\n$/)
  }, limit)

  it("tells all problems of the settings at once, each by its flag where that was given", async () => {
    const args = ["--name", "A", "--lease-duration", "1500ms", "--kubeconfig", await kubeconfigOf("http://x")]
    for (const command of [["run", ...args, "--", "true"], ["serve", ...args], ["doctor", ...args]]) {
      const { code, stderr, stdout } = await finish(command, { LEADER_ELECTION_CANDIDATES: "0" })
      assert.include([1, 2], code)
      assert.match(
        stderr + stdout,
        /--name is "A".*such as --name my-service\n.*--lease-duration is 1.5s.*\n.*candidates \(LEADER_ELECTION_CAND.*\n/,
        command[0]
      )
    }
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
      ["/tmp", exitCodes.notExecutable, "cannot run /tmp: it is not an executable file"],
      // As shells have it: the file group is found in PATH, the directory ssl passed over.
      ["group", exitCodes.notExecutable, "cannot run group: it is not an executable file"],
      ["ssl", exitCodes.notFound, "cannot run ssl: not found in PATH"]
    ]
    for (const [command, code, message] of cases) {
      const ended = await finish(["run", "--name", "a", "--", command], { PATH: "/bin:/etc" })
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

  it("every line is JSON with --log json, Node's own warnings too", async () => {
    const kubeconfig = await kubeconfigOf("https://127.0.0.1:1")
    const { stderr } = await finish(["status", "x", "--log", "json", "--kubeconfig", kubeconfig], {
      NODE_TLS_REJECT_UNAUTHORIZED: "0"
    })
    const lines = stderr.trimEnd().split("\n").map((line) => JSON.parse(line))
    assert.isTrue(
      lines.some(({ level, message }) => level === "WARN" && message.includes("NODE_TLS_REJECT_UNAUTHORIZED"))
    )
  }, limit)
})

describe("output that cannot be written", () => {
  /** Starts the command by a shell that has this done before, or to its stdout. */
  const inShell = async (script: string, args: ReadonlyArray<string>) => {
    await using running = new Running("/bin/sh", ["-c", script, process.execPath, executable.file, ...args], {
      HOME: "/nowhere"
    })
    const { code } = await running.exit
    return { code, stderr: running.stderr }
  }
  const manifest = ["manifest", "--name", "a", "--image", "b"]
  const lost = (why: string) => ({
    code: exitCodes.failure,
    stderr: `effect-kubernetes-leader-election: cannot write to stdout: ${why}\n`
  })

  it.each([manifest, ["--version"], ["manifest", "--help"], ["--completions", "bash"]])(
    "%s %s: one line on stderr, and 1, on a full disk",
    async (...args) => {
      const given = args.filter((arg) => arg !== undefined)
      assert.deepStrictEqual(await inShell(`exec "$0" "$@" > /dev/full`, given), lost("no space left on device"))
    },
    limit
  )

  it("is not cut where only a part can be written", async () => {
    const file = join(executable.file, "..", "limited.yaml")
    const script = `trap "" XFSZ; ulimit -f 1; exec "$0" "$@" > ${file}`
    assert.deepStrictEqual(await inShell(script, manifest), lost("file too large"))
  }, limit)

  it("ends a command that would go on, and what it has made goes with it", async () => {
    const file = join(executable.file, "..", "unwritten.kubeconfig")
    const { code, stderr } = await inShell(`exec "$0" "$@" > /dev/full`, ["dev-server", "--kubeconfig", file])
    assert.strictEqual(code, exitCodes.failure)
    assert.include(stderr, "cannot write to stdout: no space left on device\n")
    assert.isFalse(existsSync(file))
  }, limit)

  it("ends every command with 1, and without a word, where nobody reads the pipe", async () => {
    const pipe = join(executable.file, "..", "unread")
    // Its only reader is gone before the command begins.
    const script = `mkfifo ${pipe} && exec 3<> ${pipe} 4> ${pipe} 3<&- && rm ${pipe} && exec "$0" "$@" >&4 4>&-`
    for (const args of [manifest, ["--version"], ["manifest", "--help"]]) {
      assert.deepStrictEqual(await inShell(script, args), { code: exitCodes.failure, stderr: "" }, args.join(" "))
    }
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

  it("describes each command in lines that fit", async () => {
    const { stdout } = await finish(["--help"])
    const commands = [...stdout.split("\nSUBCOMMANDS\n")[1]!.matchAll(/^ {2}(\S+)/gm)].map(([, command]) => command!)
    assert.include(commands, "doctor")
    for (const command of commands) {
      const [description = ""] = (await finish([command, "--help"])).stdout.split("\nUSAGE\n")
      for (const line of description.split("\n")) {
        assert.isAtMost(line.length, 122, line)
      }
    }
  }, limit)

  it("is on stderr, with 2, where no subcommand is given", async () => {
    const { code, stderr, stdout } = await finish([])
    assert.deepStrictEqual([code, stdout], [2, ""])
    assert.match(stderr, /SUBCOMMANDS\n +run /)
  }, limit)

  it("agrees with the documentation", async () => {
    const documentation = await readFile(new URL("../../docs/command-line.md", import.meta.url), "utf8")
    for (const [code] of descriptions) {
      assert.include(documentation, `\n| ${code} |`)
    }
    const { stdout: general } = await finish(["--help"])
    const meaning = /^\| 128 \+ n \| (.*) \|$/m.exec(documentation)![1]!.replaceAll("`", "")
    assert.include(general, `128 + n  ${meaning}\n`)
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

describe("what is given otherwise", () => {
  it("the namespace by -n, the Lease by LEADER_ELECTION_NAME", async () => {
    const kubeconfig = await kubeconfigOf("http://127.0.0.1:1")
    for (const command of ["step-down", "doctor"]) {
      const { stderr, stdout } = await finish([command, "-n", "jobs", "--kubeconfig", kubeconfig], {
        LEADER_ELECTION_NAME: "nightly"
      })
      assert.match(stderr + stdout, /jobs\/nightly/, command)
    }
    for (const command of ["run", "serve", "status", "watch", "manifest", "demo"]) {
      assert.include((await finish([command, "--help"])).stdout, "--namespace, -n", command)
    }
  }, limit)

  const hosts: ReadonlyArray<readonly [given: string, host: string | undefined, port: number | undefined]> = [
    ["statsd.monitoring", "statsd.monitoring", undefined],
    ["statsd:9125", "statsd", 9125],
    ["10.0.0.1:8125", "10.0.0.1", 8125],
    ["::1", "::1", undefined],
    ["fd00::1", "fd00::1", undefined],
    ["[fd00::1]", "fd00::1", undefined],
    ["[fd00::1]:9125", "fd00::1", 9125],
    ["statsd:0", undefined, undefined],
    ["a:b:c", undefined, undefined],
    ["tcp://10.0.0.1:8125", undefined, undefined],
    ["", undefined, undefined]
  ]
  it.each(hosts)("the StatsD server %s", (given, host, port) => {
    assert.deepStrictEqual(parseHostAndPort(given), host === undefined ? undefined : { host, port })
  })

  it("colours, as Node has it", async () => {
    const colors = (variables: Record<string, string>) =>
      abilities.pipe(
        Effect.provide([
          ConfigProvider.layer(ConfigProvider.fromUnknown(variables)),
          Stdio.layerTest({ stdoutIsTerminal: Effect.succeed(true) })
        ]),
        Effect.map((found) => found.colors),
        Effect.runPromise
      )
    assert.isTrue(await colors({}))
    assert.isFalse(await colors({ FORCE_COLOR: "0" }))
    assert.isFalse(await colors({ NO_COLOR: "1" }))
    assert.isTrue(await colors({ FORCE_COLOR: "1", TERM: "dumb" }))
    assert.isFalse(await colors({ TERM: "dumb" }))
  })
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
            "--candidates",
            "9",
            "--",
            "sh",
            "-c",
            "echo $LEADER_ELECTION_NAME $LEADER_ELECTION_CANDIDATES; exit 3"
          ],
          { LEADER_ELECTION_NAME: "from-the-environment" }
        )
      )
      assert.strictEqual(code, 3)
      assert.strictEqual(stdout, "from-the-environment 9\n")
      assert.match(
        stderr,
        /^\S+Z INFO {2}Became leader \(created\) lease=default\/from-the-environment identity=\S+ term=\d+$/m
      )
      assert.match(stderr, /^\S+Z INFO {2}sh has ended with 3$/m)
    }), limit)

  it.live(
    "only SIGTERM and SIGINT mean the end; a COMMAND reads its configuration again at SIGHUP",
    () =>
      Effect.gen(function*() {
        const server = yield* LeaseApiServer.make()
        const kubeconfig = yield* server.writeKubeconfig(join(executable.file, "..", "kubeconfig-3"))
        const command = `for (const s of ["SIGHUP", "SIGQUIT"]) process.on(s, () => console.log("reads again", s));
        process.on("SIGTERM", () => process.exit(0)); console.log("starts"); setInterval(() => {}, 1000)`
        const args = [
          "--name",
          "a",
          "--new-lease",
          "lead",
          "--again",
          "--kill-after",
          "100ms",
          "--lease-duration",
          "3s"
        ]
        const running = start(["run", "--kubeconfig", kubeconfig, ...args, "--", process.execPath, "-e", command])
        yield* Effect.addFinalizer(() => Effect.promise(() => running[Symbol.asyncDispose]()))
        yield* Effect.promise(async () => {
          await running.until(({ stdout }) => stdout.includes("starts"))
          for (const signal of ["SIGHUP", "SIGQUIT", "SIGHUP"] as const) {
            const before = running.stdout.split("reads again").length
            running.signal(signal)
            await running.until(({ stdout }) => stdout.split("reads again").length > before)
          }
        })
        // Longer than --kill-after.
        yield* Effect.sleep("400 millis")
        assert.notInclude(running.stderr, "--kill-after")
        // Its term is lost, and it campaigns again; a SIGHUP meanwhile does not end it.
        yield* server.cluster.deleteLease({ namespace: "default", name: "a" })
        yield* Effect.promise(() => running.until(({ stdout }) => stdout.split("starts").length === 3))
        running.signal("SIGTERM")
        assert.strictEqual((yield* Effect.promise(() => running.exit)).code, 0)
      }),
    limit
  )

  it.live("says what was killed: what COMMAND has left behind, and not COMMAND", () =>
    Effect.gen(function*() {
      const server = yield* LeaseApiServer.make()
      const kubeconfig = yield* server.writeKubeconfig(join(executable.file, "..", "kubeconfig-4"))
      const args = ["run", "--kubeconfig", kubeconfig, "--name", "a", "--new-lease", "lead", "--"]
      const { code, stderr } = yield* Effect.promise(() =>
        finish([...args, "sh", "-c", "trap '' TERM; sleep 600 & exit 3"])
      )
      assert.strictEqual(code, 3)
      assert.match(
        stderr,
        /sh has ended with 3\n.*WARN {2}What COMMAND has left behind has not ended within 2000 ms of SIGTERM, and was/
      )
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
      // Once, and without a stack trace.
      assert.match(
        stderr,
        /\neffect-kubernetes-leader-election: cannot run \S+: it is gone, or the interpreter that it names is not there\n$/
      )
      assert.strictEqual(stderr.split("cannot run").length, 2, stderr)
      assert.notMatch(stderr, /^ +at |ERROR/m)
      assert.match(stderr, /Released the Lease/)
    }), limit)
})
