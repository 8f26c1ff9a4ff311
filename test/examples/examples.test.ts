/**
 * The examples, started as their comments say, in two replicas on a local API
 * server: one works, and when it is stopped the other goes on.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import { LeaseApiServer } from "effect-kubernetes-leader-election/testing"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { readdir, readFile } from "node:fs/promises"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { fileURLToPath } from "node:url"
import { afterAll, beforeAll } from "vitest"
import { bundle, type Executable, Running } from "../cli/Executable.ts"
import { bundlePrograms } from "../utils/bundle.ts"

const root = fileURLToPath(new URL("../..", import.meta.url))
const example = (name: string) => join(root, "examples", name)

const cache = join(root, "node_modules/.cache")
mkdirSync(cache, { recursive: true })
const directory = mkdtempSync(join(cache, "examples-"))
let executable: Executable

beforeAll(async () => {
  const programs = ["effect-worker.ts", "cron.ts", "http-service.ts", "many-elections.ts", "tenants.ts"].map(example)
  const [made] = await Promise.all([bundle(), bundlePrograms(programs, directory)])
  executable = made
}, 60_000)
afterAll(async () => {
  await executable[Symbol.asyncDispose]()
  rmSync(directory, { recursive: true, force: true })
})

/** What an example's replicas share: a server of their own, a folder, and settings under which little is waited for. */
const makeStage = async () => {
  const scope = Scope.makeUnsafe()
  const server = await Effect.runPromise(Scope.provide(LeaseApiServer.make(), scope))
  const folder = mkdtempSync(join(directory, "stage-"))
  const kubeconfig = await Effect.runPromise(server.writeKubeconfig(join(folder, "kubeconfig")))
  const started: Array<Running> = []
  const start = (identity: string, args: ReadonlyArray<string>, env: Record<string, string>) => {
    const running = new Running(process.execPath, args, {
      NO_COLOR: "1",
      KUBECONFIG: kubeconfig,
      LEADER_ELECTION_IDENTITY: identity,
      LEADER_ELECTION_NAME: "example",
      LEADER_ELECTION_LEASE_DURATION: "3s",
      LEADER_ELECTION_NEW_LEASE: "lead",
      ...env
    })
    started.push(running)
    return running
  }
  return {
    server,
    folder,
    program: (name: string, identity: string, env: Record<string, string> = {}) =>
      start(identity, [join(directory, `${name}.mjs`)], env),
    cli: (identity: string, args: ReadonlyArray<string>, env: Record<string, string> = {}) =>
      start(identity, [executable.file, ...args], env),
    holder: async (name = "example") => {
      const lease = await Effect.runPromise(server.cluster.lease({ namespace: "default", name }))
      return lease?.holderIdentity
    },
    [Symbol.asyncDispose]: async () => {
      await Promise.all(started.map((running) => running[Symbol.asyncDispose]()))
      await Effect.runPromise(Scope.close(scope, Exit.void))
    }
  }
}

type Output = { readonly stdout: string; readonly stderr: string }

const has = (pattern: RegExp | string, times = 1) => ({ stderr, stdout }: Output) =>
  (stdout + stderr).split(pattern).length > times

/** The first group of each match, in the output of one after the other. */
const found = (pattern: RegExp, ...outputs: ReadonlyArray<Output>): Array<string> =>
  outputs.flatMap(({ stdout }) => [...stdout.matchAll(pattern)].map((match) => match[1]!))

/** What `NodeRuntime.runMain` ends with where a signal interrupts it. */
const interrupted = 130

describe("effect-worker.ts", { timeout: 60_000 }, () => {
  const number = /Sends invoice (\d+)/g

  it("sends on one replica, ends in good order, and the next number comes from the other", async () => {
    await using stage = await makeStage()
    const env = { LEDGER: join(stage.folder, "ledger.sqlite"), INTERVAL: "50 millis" }
    const one = stage.program("effect-worker", "one", env)
    await one.until(has(/Sends invoice/))
    const two = stage.program("effect-worker", "two", env)
    await two.until(has("Following one"))
    await one.until(has(/Sends invoice/, one.stdout.split("Sends invoice").length + 3))
    assert.notInclude(two.stdout, "Sends")
    one.signal("SIGTERM")
    assert.strictEqual((await one.exit).code, interrupted)
    assert.match(one.stdout, /Has sent its last invoice[^]*$/)
    await two.until(has(/Sends invoice/, 3))
    two.signal("SIGTERM")
    assert.strictEqual((await two.exit).code, interrupted)
    assert.strictEqual(await stage.holder(), "")
    const numbers = found(number, one, two).map(Number)
    assert.deepStrictEqual(numbers, numbers.map((_, index) => index + 1))
  })

  it("a replica that was stopped, and goes on when another leads, sends nothing more", async () => {
    await using stage = await makeStage()
    const env = {
      LEDGER: join(stage.folder, "ledger.sqlite"),
      INTERVAL: "1 second",
      LEADER_ELECTION_LEASE_DURATION: "2s"
    }
    const one = stage.program("effect-worker", "one", env)
    await one.until(has(/Sends invoice/))
    const two = stage.program("effect-worker", "two", env)
    await two.until(has("Following one"))
    // Not while it writes: SQLite's lock is the process's, and would be stopped with it.
    await one.until(has(/Sends invoice/, one.stdout.split("Sends invoice").length))
    one.signal("SIGSTOP")
    await two.until(has(/Sends invoice/))
    one.signal("SIGCONT")
    await one.until(has("Following two"))
    two.signal("SIGTERM")
    await two.exit
    // Campaigns again after the loss.
    await one.until(({ stdout }) => stdout.lastIndexOf("Sends invoice") > stdout.indexOf("Following two"))
    // As a leader does that has written meanwhile: the database has the last word, whatever `one` believes.
    using database = new DatabaseSync(env.LEDGER, { timeout: 5_000 })
    database.exec("UPDATE ledger SET token = 9000000000000000000")
    assert.strictEqual((await one.exit).code, 1)
    assert.include(one.stdout + one.stderr, "A later leader than that of term")
    assert.strictEqual(await stage.holder(), "")
    const [before, after] = one.stdout.split("Following two").map((stdout) => ({ stdout, stderr: "" }))
    const numbers = found(number, before!, two, after!).map(Number)
    assert.deepStrictEqual(numbers, numbers.map((_, index) => index + 1))
    assert.strictEqual(database.prepare("SELECT number FROM ledger").get()?.["number"], numbers.length)
  })
})

describe("cron.ts", { timeout: 60_000 }, () => {
  it("runs each time of the calendar at most once, in order, across a handover", async () => {
    await using stage = await makeStage()
    const env = { CLAIMS: join(stage.folder, "claims.sqlite"), CRON: "* * * * * *" }
    const one = stage.program("cron", "one", env)
    await one.until(has("Closes the books"))
    const two = stage.program("cron", "two", env)
    await two.until(has("Following one"))
    // Right after it has run a time, so that the next leader finds the same time due, and claimed.
    await one.until(has("Closes the books", one.stdout.split("Closes the books").length))
    one.signal("SIGTERM")
    assert.strictEqual((await one.exit).code, interrupted)
    await two.until(has("Closes the books"))
    two.signal("SIGTERM")
    assert.strictEqual((await two.exit).code, interrupted)
    const times = found(/Closes the books for (\S+Z)/g, one, two)
    assert.isAtLeast(times.length, 3)
    assert.deepStrictEqual(times, [...new Set(times)].sort())
  })
})

describe("http-service.ts", { timeout: 60_000 }, () => {
  it("all replicas are ready, one refreshes; it ends in good order, and another goes on", async () => {
    await using stage = await makeStage()
    const start = async (identity: string) => {
      const running = stage.program("http-service", identity, { PORT: "0", INTERVAL_MS: "50" })
      await running.until(has("listens on"))
      const port = /listens on (\d+)/.exec(running.stdout)![1]
      const get = async (path: string) => {
        const response = await fetch(`http://127.0.0.1:${port}${path}`)
        return { code: response.status, text: await response.text() }
      }
      return { running, get }
    }
    const one = await start("one")
    await one.running.until(has("refreshes the rates"))
    const two = await start("two")
    await two.running.until(has("Following one"))
    for (const { get } of [one, two]) {
      assert.strictEqual((await get("/readyz")).code, 200)
      assert.strictEqual((await get("/livez")).code, 200)
    }
    assert.strictEqual((await one.get("/")).text, "hello; one refreshes the rates, leading here\n")
    assert.strictEqual((await two.get("/")).text, "hello; one refreshes the rates, following here\n")
    assert.notInclude(two.running.stdout, "refreshes")

    one.running.signal("SIGTERM")
    assert.strictEqual((await one.running.exit).code, 0)
    await two.running.until(has("refreshes the rates"))
    const [first] = found(/with token (\d+)/g, one.running)
    const [second] = found(/with token (\d+)/g, two.running)
    assert.isTrue(BigInt(second!) > BigInt(first!))
    assert.strictEqual((await two.get("/readyz")).code, 200)
    two.running.signal("SIGINT")
    assert.strictEqual((await two.running.exit).code, 0)
    assert.strictEqual(await stage.holder(), "")
  })
})

describe("nightly.sh", { timeout: 60_000 }, () => {
  it("writes each report once, ends in good order, and after a loss without it", async () => {
    await using stage = await makeStage()
    const reports = join(stage.folder, "reports")
    // Long enough for a handover within one period: what the first has written must not be written again.
    const env = { REPORTS: reports, PERIOD: "3" }
    const one = stage.cli("one", ["run", "--", example("nightly.sh")], env)
    await one.until(has("published"))
    const two = stage.cli("two", ["run", "--", example("nightly.sh")], env)
    await two.until(has("Following one"))
    assert.strictEqual(two.stdout, "")
    await one.until(has("published", one.stdout.split("published").length))
    one.signal("SIGTERM")
    assert.strictEqual((await one.exit).code, 0)
    assert.isTrue(one.stdout.endsWith("\nends\n"), one.stdout)
    await two.until(has("published"))

    const times = found(/published \S+-(\d+) with/g, one, two)
    assert.deepStrictEqual(times, [...new Set(times)].sort())
    const token = found(/with token (\d+)/g, two)[0]
    assert.include(await readFile(join(reports, `report-${times.at(-1)}`), "utf8"), `written with token ${token}`)

    await Effect.runPromise(stage.server.cluster.deleteLease({ namespace: "default", name: "example" }))
    assert.strictEqual((await two.exit).code, 75)
    const left = await readdir(reports)
    assert.deepStrictEqual(left.filter((file) => file.startsWith(".draft")), [])
  })

  it("publishes nothing where a later leader has, and does not start without run", async () => {
    await using stage = await makeStage()
    const reports = join(stage.folder, "reports")
    const env = { REPORTS: reports, PERIOD: "86400" }
    mkdirSync(reports)
    writeFileSync(join(reports, ".token"), "9000000000000000000\n")
    await using stale = new Running(example("nightly.sh"), [], { ...env, LEADER_ELECTION_FENCING_TOKEN: "5" })
    assert.strictEqual((await stale.exit).code, 1)
    assert.include(stale.stderr, "9000000000000000000 has published already")
    assert.deepStrictEqual((await readdir(reports)).filter((file) => file.startsWith("report-")), [])
    await using alone = new Running(example("nightly.sh"), [], env)
    assert.notStrictEqual((await alone.exit).code, 0)
    assert.include(alone.stderr, "effect-kubernetes-leader-election run --name nightly")
  })
})

describe("many-elections.ts", { timeout: 60_000 }, () => {
  it("serves each tenant once, and all of them when a replica goes", async () => {
    await using stage = await makeStage()
    const tenants = ["red", "green", "blue"]
    const env = { TENANTS: tenants.join(",") }
    const one = stage.program("many-elections", "one", env)
    for (const tenant of tenants) {
      await one.until(has(`Serves ${tenant}`))
    }
    const two = stage.program("many-elections", "two", env)
    await two.until(has("Following one", 3))
    assert.notInclude(two.stdout, "Serves")
    // One tenant moves; the others stay where they are.
    const stepDown = stage.cli("three", ["step-down", "tenant-red"])
    assert.strictEqual((await stepDown.exit).code, 0, stepDown.stderr)
    await two.until(has("Serves red"))
    assert.deepStrictEqual(await Promise.all(tenants.map((tenant) => stage.holder(`tenant-${tenant}`))), [
      "two",
      "one",
      "one"
    ])
    one.signal("SIGTERM")
    assert.strictEqual((await one.exit).code, interrupted)
    for (const tenant of tenants) {
      assert.include(one.stdout, `Leaves ${tenant}`)
      await two.until(has(`Serves ${tenant}`))
      assert.strictEqual(await stage.holder(`tenant-${tenant}`), "two")
    }
    two.signal("SIGTERM")
    assert.strictEqual((await two.exit).code, interrupted)
    for (const tenant of tenants) {
      assert.strictEqual(await stage.holder(`tenant-${tenant}`), "")
    }
  })
})

describe("tenants.ts", { timeout: 60_000 }, () => {
  it("shares the tenants, follows the list, and is ready when the others have seen it", async () => {
    await using stage = await makeStage()
    const file = join(stage.folder, "tenants.txt")
    const tenants = ["red", "green", "blue", "yellow"]
    writeFileSync(file, tenants.join("\n"))
    const env = { TENANTS_FILE: file, LEADER_ELECTION_NAME: "tenants", PORT: "0" }
    const one = stage.program("tenants", "one", env)
    for (const tenant of tenants) {
      await one.until(has(`Serves ${tenant}`))
    }
    const two = stage.program("tenants", "two", env)
    // Two of the four move to it, one after the other in good order.
    await two.until(has("Serves ", 2))
    await one.until(has("Leaves ", 2))
    writeFileSync(file, [...tenants, "white"].join("\n"))
    await Promise.race([one.until(has("Serves white")), two.until(has("Serves white"))])
    one.signal("SIGTERM")
    assert.strictEqual((await one.exit).code, interrupted)
    for (const tenant of [...tenants, "white"]) {
      await two.until(has(`Serves ${tenant}`))
    }
    two.signal("SIGTERM")
    assert.strictEqual((await two.exit).code, interrupted)
    const leases = await Effect.runPromise(stage.server.cluster.leases())
    assert.deepStrictEqual(leases.filter(({ holderIdentity }) => holderIdentity !== ""), [])
    assert.strictEqual(leases.length, 7)
  })
})
