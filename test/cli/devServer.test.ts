import { assert, describe, it } from "@effect/vitest"
import { spawnSync } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll } from "vitest"
import { bundle, type Executable, Running } from "./Executable.ts"

let executable: Executable
beforeAll(async () => {
  executable = await bundle()
})
afterAll(() => executable[Symbol.asyncDispose]())

const start = (...args: ReadonlyArray<string>) => new Running(process.execPath, [executable.file, ...args], {})

describe("dev-server", () => {
  it("serves Leases to programs that have its kubeconfig, and takes it away at the end", async () => {
    const directory = mkdtempSync(join(tmpdir(), "dev server-"))
    try {
      const file = join(directory, "leases.kubeconfig")
      await using server = start("dev-server", "--kubeconfig", file)
      await server.until(({ stdout }) => stdout.includes("\n"))
      // As a shell reads it.
      const sourced = new Running("/bin/sh", [
        "-c",
        `${server.stdout} exec "$0" "$@"`,
        process.execPath,
        executable.file,
        "run",
        "--name=a",
        "--new-lease=lead",
        "--",
        "echo",
        "leads"
      ], {})
      await using run = sourced
      assert.strictEqual((await run.exit).code, 0, run.stderr)
      assert.strictEqual(run.stdout, "leads\n")
      await using again = start("dev-server", "--kubeconfig", file)
      assert.strictEqual((await again.exit).code, 1)
      assert.match(again.stderr, /is there already: remove it, or give another --kubeconfig FILE\n$/)
      await using status = start("status", "--kubeconfig", file)
      assert.match(await status.output, /^a +released/m)
      server.signal("SIGTERM")
      assert.strictEqual((await server.exit).code, 143)
      assert.isFalse(existsSync(file))
    } finally {
      rmSync(directory, { recursive: true })
    }
  })

  it("takes away what it has written, and nothing that was put in its place", async () => {
    const directory = mkdtempSync(join(tmpdir(), "dev-server-"))
    try {
      const file = join(directory, "leases.kubeconfig")
      await using server = start("dev-server", "--kubeconfig", file)
      await server.until(({ stdout }) => stdout.includes("\n"))
      writeFileSync(file, "of somebody else")
      server.signal("SIGTERM")
      assert.strictEqual((await server.exit).code, 143)
      assert.strictEqual(readFileSync(file, "utf8"), "of somebody else")
    } finally {
      rmSync(directory, { recursive: true })
    }
  })

  const hasKubectl = spawnSync("kubectl", ["version", "--client"]).status === 0
  it.skipIf(!hasKubectl)("serves kubectl: the recipes for those without the command", async () => {
    const directory = mkdtempSync(join(tmpdir(), "dev-server-"))
    try {
      const file = join(directory, "leases.kubeconfig")
      await using server = start("dev-server", "--kubeconfig", file)
      await server.until(({ stdout }) => stdout.includes("\n"))
      await using run = start(
        "run",
        `--kubeconfig=${file}`,
        "--name=my-service",
        "--identity=one",
        "--new-lease=lead",
        "--",
        "sleep",
        "60"
      )
      await run.until(({ stderr }) => stderr.includes("Started sleep"))
      const page = readFileSync(new URL("../../docs/command-line.md", import.meta.url), "utf8")
      const recipes = page.slice(page.indexOf("### Without the command")).matchAll(/```sh\n([^`]*)```/g)
      const [who = "", handover = ""] = [...recipes].map(([, recipe]) => recipe)
      await using shell = new Running("/bin/sh", ["-ec", `${who}\n${handover}`], { KUBECONFIG: file, HOME: directory })
      assert.strictEqual((await shell.exit).code, 0, shell.stderr)
      assert.match(shell.stdout, /^one.*\/my-service annotated\n$/s)
      assert.strictEqual((await run.exit).code, 75)
      assert.include(run.stderr, "asked to step down")
    } finally {
      rmSync(directory, { recursive: true })
    }
  })

  it("says in one line that it cannot listen, or write", async () => {
    await using one = start("dev-server", "--kubeconfig", "/no/such/folder/x")
    assert.strictEqual((await one.exit).code, 1)
    assert.match(one.stderr, /^effect-kubernetes-leader-election: cannot write \/no\/such\/folder\/x: .*\n$/)
  })
})
