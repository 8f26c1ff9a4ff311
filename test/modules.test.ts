/**
 * What each entry of the package loads: the election by itself knows no backend, the index no test.
 */
import { assert, describe, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"

const root = fileURLToPath(new URL("..", import.meta.url))

/** The modules of this package that an import of `entry` loads, by their paths under src. */
const loadedBy = async (entry: string): Promise<ReadonlyArray<string>> => {
  const program = `
    import { registerHooks } from "node:module"
    const loaded = []
    registerHooks({ load: (url, context, next) => { loaded.push(url); return next(url, context) } })
    await import("./src/${entry}")
    const src = new URL("./src/", "file://" + process.cwd() + "/").href
    console.log(JSON.stringify(loaded.filter((url) => url.startsWith(src)).map((url) => url.slice(src.length))))
  `
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", program], { cwd: root })
  return JSON.parse(stdout)
}

const inFolder = (...folders: ReadonlyArray<string>) => (module: string) =>
  folders.some((folder) => module.startsWith(`${folder}/`))

describe("modules", () => {
  for (
    const entry of [
      "LeaderElection.ts",
      "LeaderElections.ts",
      "Leadership.ts",
      "LeaseStore.ts",
      "LocalLeaderElection.ts"
    ]
  ) {
    it(`${entry} alone loads nothing of kubernetes, testing or cli`, async () => {
      const loaded = await loadedBy(entry)
      assert.include(loaded, entry)
      assert.deepStrictEqual(loaded.filter(inFolder("kubernetes", "testing", "cli")), [])
    })
  }

  for (const entry of ["index.ts", "promise.ts"]) {
    it(`${entry} loads nothing of testing or cli`, async () => {
      const loaded = await loadedBy(entry)
      assert.include(loaded, "kubernetes/KubernetesClient.ts")
      assert.deepStrictEqual(loaded.filter(inFolder("testing", "cli")), [])
    })
  }

  it("A10 the library logs past no logger that throws", () => {
    const src = join(root, "src")
    const sources = readdirSync(src, { recursive: true, encoding: "utf8" }).filter((file) =>
      file.endsWith(".ts") && !file.startsWith("cli/") && file !== join("internal", "log.ts")
    )
    assert.isAbove(sources.length, 100)
    const lines = sources.flatMap((file) =>
      readFileSync(join(src, file), "utf8").split("\n")
        .filter((line) => /\bEffect\.log[A-Z]?/.test(line) && !/^\s*\*/.test(line))
        .map((line) => `${file}: ${line.trim()}`)
    )
    assert.deepStrictEqual(lines, [])
  })
})
