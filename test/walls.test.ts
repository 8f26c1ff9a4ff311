/**
 * The walls between the parts of the source: an import that the linter's rules forbid, tried for each of them.
 */
import { assert, describe, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))

/** A file, what it imports, and whether that is allowed. */
const imports: ReadonlyArray<readonly [file: string, specifier: string, allowed: boolean]> = [
  ["src/LeaderElection.ts", "./internal/election/term.ts", true],
  ["src/LeaderElection.ts", "./kubernetes/KubernetesClient.ts", false],
  ["src/LeaseStore.ts", "./testing/MemoryCluster.ts", false],
  ["src/LeaderHealth.ts", "./cli/main.ts", false],
  ["src/StatsD.ts", "effect", false],
  ["src/index.ts", "./kubernetes/KubernetesClient.ts", true],
  ["src/promise.ts", "./kubernetes/KubernetesClient.ts", true],
  ["src/internal/election/term.ts", "../protocol/timing.ts", true],
  ["src/internal/election/term.ts", "../../kubernetes/KubernetesClient.ts", false],
  ["src/internal/protocol/timing.ts", "../../testing/Fault.ts", false],
  ["src/kubernetes/KubernetesClient.ts", "../LeaseStore.ts", true],
  ["src/kubernetes/KubernetesClient.ts", "../testing/LeaseApiServer.ts", false],
  ["src/kubernetes/internal/transport.ts", "../../cli/main.ts", false],
  ["src/testing/LeaseApiServer.ts", "../kubernetes/KubernetesClient.ts", true],
  ["src/testing/LeaseApiServer.ts", "../cli/main.ts", false],
  ["src/cli/run/run.ts", "../../LeaderElection.ts", true],
  ["src/cli/run/run.ts", "../../internal/protocol/timing.ts", false],
  ["src/cli/main.ts", "../kubernetes/internal/transport.ts", false]
]

describe("walls", async () => {
  const directory = mkdtempSync(join(tmpdir(), "walls-"))
  cpSync(join(root, ".oxlintrc.json"), join(directory, ".oxlintrc.json"))
  // One folder for each, so that each import is a file of its own at its place.
  const cases = imports.map(([file, specifier, allowed], index) => ({ file, specifier, allowed, index }))
  for (const { file, index, specifier } of cases) {
    const path = join(directory, `${index}`, file)
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, `import * as It from "${specifier}"\nexport const it = It\n`)
    cpSync(join(root, ".oxlintrc.json"), join(directory, `${index}`, ".oxlintrc.json"))
  }
  const refused = await Promise.all(cases.map(({ file, index }) =>
    new Promise<boolean>((resolve, reject) => {
      const oxlint = join(root, "node_modules/oxlint/bin/oxlint")
      execFile(
        process.execPath,
        [oxlint, "--format=unix", file],
        { cwd: join(directory, `${index}`) },
        (_error, stdout, stderr) => {
          // The last line counts what was found; without it the linter did not run.
          const text = stdout + stderr
          return /\d+ problem|^$/m.test(text)
            ? resolve(text.includes("no-restricted-imports"))
            : reject(new Error(text))
        }
      )
    })
  ))
  rmSync(directory, { recursive: true, force: true })
  for (const { allowed, file, index, specifier } of cases) {
    it(`${file} ${allowed ? "may" : "may not"} import ${specifier}`, () => {
      assert.strictEqual(refused[index], !allowed)
    })
  }
})
