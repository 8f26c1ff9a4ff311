/**
 * The example in Python: beside the sidecar, and under `run`, in two replicas on a local API server.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import { LeaseApiServer } from "effect-kubernetes-leader-election/testing"
import { spawnSync } from "node:child_process"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { fileURLToPath } from "node:url"
import { afterAll, beforeAll } from "vitest"
import { bundle, type Executable, Running } from "../cli/Executable.ts"
import { parse } from "./Dockerfile.ts"

const example = (name: string) => fileURLToPath(new URL(`../../examples/python/${name}`, import.meta.url))
const python = spawnSync("python3", ["--version"]).status === 0

let executable: Executable
beforeAll(async () => {
  executable = await bundle()
})
afterAll(() => executable[Symbol.asyncDispose]())

const makeStage = async () => {
  const scope = Scope.makeUnsafe()
  const server = await Effect.runPromise(Scope.provide(LeaseApiServer.make(), scope))
  const kubeconfig = await Effect.runPromise(
    server.writeKubeconfig(join(executable.file, "..", `python-${Math.random()}`))
  )
  const started: Array<Running> = []
  const start = (command: string, args: ReadonlyArray<string>, env: Record<string, string>) => {
    const running = new Running(command, args, env)
    started.push(running)
    return running
  }
  const election = (identity: string) => ({
    KUBECONFIG: kubeconfig,
    LEADER_ELECTION_IDENTITY: identity,
    LEADER_ELECTION_NAME: "invoices",
    LEADER_ELECTION_NEW_LEASE: "lead"
  })
  return {
    run: (identity: string) =>
      start(process.execPath, [executable.file, "run", "--", "python3", example("worker.py")], {
        ...election(identity),
        INTERVAL: "0.05"
      }),
    /** A Pod: the sidecar, and then the program. */
    pod: async (identity: string, duration = "15s") => {
      const sidecar = start(process.execPath, [executable.file, "serve", "--port", "0"], {
        ...election(identity),
        LEADER_ELECTION_LEASE_DURATION: duration
      })
      await sidecar.until(({ stderr }) => /port \d+ of/.test(stderr))
      const program = start("python3", [example("worker.py")], {
        LEADER_ELECTION_URL: `http://127.0.0.1:${/port (\d+) of/.exec(sidecar.stderr)![1]}`,
        INTERVAL: "0.05"
      })
      return { sidecar, program }
    },
    [Symbol.asyncDispose]: async () => {
      await Promise.all(started.map((running) => running[Symbol.asyncDispose]()))
      await Effect.runPromise(Scope.close(scope, Exit.void))
    }
  }
}

const tokens = ({ stdout }: { readonly stdout: string }) =>
  [...stdout.matchAll(/with token (\d+)/g)].map(([, token]) => BigInt(token!))
const works = (times = 1) => (output: { readonly stdout: string }) => tokens(output).length >= times

describe.skipIf(!python)("examples/python", { timeout: 60_000 }, () => {
  it("beside the sidecar: the other Pod works as soon as the program has stopped", async () => {
    await using stage = await makeStage()
    const one = await stage.pod("one")
    await one.program.until(works(3))
    const two = await stage.pod("two")
    await two.sidecar.until(({ stderr }) => stderr.includes("Following one"))
    assert.isFalse(works()(two.program))
    // As a kubelet ends a Pod with a native sidecar: first the program.
    one.program.signal("SIGTERM")
    const { at, code } = await one.program.exit
    assert.strictEqual(code, 0)
    assert.match(one.program.stdout, /has stopped\n$/)
    // The validity that it had been given was for up to 10 s.
    assert.isBelow((await two.program.until(works())) - at, 4_000)
    assert.isTrue(tokens(two.program)[0]! > tokens(one.program).at(-1)!)
    one.sidecar.signal("SIGTERM")
    assert.strictEqual((await one.sidecar.exit).code, 143)
  })

  it("beside a sidecar that is stopped: the work stops at the deadline, before the other's begins", async () => {
    await using stage = await makeStage()
    const one = await stage.pod("one", "4s")
    await one.program.until(works(3))
    const two = await stage.pod("two", "4s")
    await two.sidecar.until(({ stderr }) => stderr.includes("Following one"))
    one.sidecar.signal("SIGSTOP")
    await two.program.until(works())
    const before = tokens(one.program).length
    await sleep(300)
    assert.strictEqual(tokens(one.program).length, before)
    assert.isTrue(tokens(two.program)[0]! > tokens(one.program).at(-1)!)
    // It goes on, and knows that it leads no more.
    one.sidecar.signal("SIGCONT")
    await one.sidecar.until(({ stderr }) => stderr.includes("Following two"))
    assert.strictEqual(tokens(one.program).length, before)
  })

  it("under run: it ends in good order, and the other Pod works", async () => {
    await using stage = await makeStage()
    const one = stage.run("one")
    await one.until(works(3))
    const two = stage.run("two")
    await two.until(({ stderr }) => stderr.includes("Following one"))
    one.signal("SIGTERM")
    assert.strictEqual((await one.exit).code, 0)
    await two.until(works())
    assert.isTrue(tokens(two)[0]! > tokens(one).at(-1)!)
  })

  it("the YAML is what the command prints, and fits the image", async () => {
    const common = ["manifest", "--name", "invoices", "--image", "registry.example.com/invoices:1"]
    for (
      const [file, options] of [
        ["deployment-sidecar.yaml", ["--sidecar", "registry.example.com/leader-election:1"]],
        ["deployment-run.yaml", ["--probe-port", "8080"]]
      ] as const
    ) {
      await using printed = new Running(process.execPath, [executable.file, ...common, ...options], {})
      assert.strictEqual(readFileSync(example(file), "utf8"), await printed.output)
    }
    const last = parse(readFileSync(example("Dockerfile"), "utf8")).at(-1)!
    const entrypoint: ReadonlyArray<string> = JSON.parse(
      last.instructions.find(({ keyword }) => keyword === "ENTRYPOINT")!.text
    )
    assert.strictEqual(entrypoint[entrypoint.indexOf("--metrics-port") + 1], "8080")
  })
})
