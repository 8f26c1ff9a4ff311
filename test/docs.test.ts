/**
 * Holds the documentation to the code: what the README and the pages under docs
 * show in TypeScript is type-checked and run, and everything that is exported
 * says what it is.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { LeaseApiServer } from "effect-kubernetes-leader-election/testing"
import { execFile, spawn } from "node:child_process"
import { existsSync, globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { basename, dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { apiIndex } from "../scripts/api-index.ts"
import { bundlePrograms } from "./utils/bundle.ts"

const root = fileURLToPath(new URL("..", import.meta.url))

// Beside the tests, so that they are resolved as the tests are; hidden, so that nobody takes them for one.
const directory = join(root, "test/.docs")

interface Fence {
  readonly title: string
  readonly code: string
  readonly file: string
}

const fences = (path: string): ReadonlyArray<Fence> =>
  [...readFileSync(join(root, path), "utf8").matchAll(/^( *)```ts\n([\s\S]*?)^ *```$/gm)].map((match, index) => ({
    title: `${path}, TypeScript ${index + 1}`,
    code: match[2]!.replaceAll(new RegExp(`^${match[1]}`, "gm"), ""),
    file: join(directory, `${basename(path, ".md")}-${index + 1}.ts`)
  }))

const examples = ["README.md", ...globSync("docs/*.md", { cwd: root })].flatMap(fences)

/** The examples in doc comments: compiled like those of the pages, and not run. */
const comments: ReadonlyArray<Fence> = globSync("src/**/*.ts", { cwd: root }).flatMap((path) =>
  [...readFileSync(join(root, path), "utf8").matchAll(/^ *\* ```ts\n([\s\S]*?)^ *\* ```$/gm)].map((match, index) => ({
    title: `${path}, example ${index + 1}`,
    code: match[1]!.replaceAll(/^ *\* ?/gm, ""),
    file: join(directory, `comment-${path.replace(/\.ts$/, "").replaceAll("/", "-")}-${index + 1}.ts`)
  }))
)

rmSync(directory, { recursive: true, force: true })
mkdirSync(directory, { recursive: true })
for (const example of [...examples, ...comments]) {
  writeFileSync(example.file, example.code)
}

const isApp = (example: Fence) => /^NodeRuntime\.runMain/m.test(example.code)

describe("TypeScript in the documentation", () => {
  it("has examples", () => {
    assert.isAbove(examples.length, 15)
    assert.isAbove(comments.length, 10)
  })

  it("type-checks", { timeout: 60_000 }, async () => {
    const config = join(directory, "tsconfig.json")
    writeFileSync(
      config,
      JSON.stringify({
        extends: "../../tsconfig.json",
        compilerOptions: { noUnusedLocals: false },
        files: [...examples, ...comments].map((example) => basename(example.file)),
        include: []
      })
    )
    const tsc = join(root, "node_modules/typescript/bin/tsc")
    const { stdout } = await promisify(execFile)(process.execPath, [tsc, "-p", config], { cwd: root })
      .catch((error: { readonly stdout: string }) => error)
    assert.strictEqual(stdout, "")
  })
})

for (const example of examples.filter((example) => !isApp(example))) {
  // Tests register themselves; the rest only has to load.
  describe(example.title, async () => {
    await import(/* @vite-ignore */ example.file)
    it("loads", () => {})
  })
}

for (const example of examples.filter(isApp)) {
  it.live(`${example.title} leads and releases on SIGTERM`, () =>
    Effect.gen(function*() {
      const server = yield* LeaseApiServer.LeaseApiServer
      const bundle = example.file.replace(/ts$/, "mjs")
      yield* Effect.promise(() => bundlePrograms([example.file], directory))
      const kubeconfig = yield* server.writeKubeconfig(join(directory, "kubeconfig"))
      const app = spawn(process.execPath, [bundle], {
        env: {
          PATH: process.env["PATH"],
          KUBECONFIG: kubeconfig,
          LEADER_ELECTION_NAME: "invoices",
          LEADER_ELECTION_LEASE_DURATION: "2s"
        }
      })
      yield* Effect.addFinalizer(() => Effect.sync(() => app.kill("SIGKILL")))
      let output = ""
      const exited = new Promise((resolve) => app.on("exit", resolve))
      const leads = new Promise<void>((resolve) =>
        app.stdout.on("data", (data) => {
          output += String(data)
          if (output.includes("Sending invoices")) {
            resolve()
          }
        })
      )
      app.stderr.on("data", (data) => (output += String(data)))
      const key = { namespace: "default", name: "invoices" }
      yield* Effect.promise(() => Promise.race([leads, exited]))
      assert.include(output, "Sending invoices")
      assert.isNotEmpty((yield* server.cluster.lease(key))?.holderIdentity)
      app.kill("SIGTERM")
      yield* Effect.promise(() => exited)
      assert.strictEqual((yield* server.cluster.lease(key))?.holderIdentity, "")
    }).pipe(Effect.provide(LeaseApiServer.layer())), { timeout: 30_000 })
}

describe("Exports", () => {
  for (const path of globSync(["src/*.ts", "src/kubernetes/*.ts", "src/testing/*.ts"], { cwd: root })) {
    it(`${path} documents everything it exports`, () => {
      const lines = readFileSync(join(root, path), "utf8").split("\n")
      assert.strictEqual(lines[0], "/**", "a module begins with what it is for")
      const undocumented = lines.filter((line, index) =>
        /^export (?:const|class|interface|type|function|declare|\* as|\{)/.test(line) &&
        !(lines[index - 1] ?? "").endsWith("*/")
      )
      assert.deepStrictEqual(undocumented, [])
    })
  }
})

describe("Links", () => {
  const pages = ["*.md", "docs/**/*.md", "examples/**/*.md", ".github/**/*.md"].flatMap((pattern) =>
    globSync(pattern, { cwd: root, exclude: ["node_modules/**"] })
  )

  /** As GitHub makes it of a heading. */
  const anchorOf = (heading: string) =>
    heading.trim().toLowerCase().replaceAll(/[^\p{L}\p{N} _-]/gu, "").replaceAll(" ", "-")

  const anchorsOf = (path: string) =>
    [...readFileSync(path, "utf8").matchAll(/^#+ (.*)$/gm)].map(([, heading]) => anchorOf(heading!))

  for (const page of pages) {
    it(`${page} leads to what exists`, () => {
      const text = readFileSync(join(root, page), "utf8").replaceAll(/^ *```[\s\S]*?^ *```$/gm, "")
      const dead = [...text.matchAll(/\]\(([^)\s]+)\)/g)].map(([, target]) => target!).filter((target) => {
        if (/^[a-z]+:/.test(target)) {
          return false
        }
        const [path, anchor] = target.split("#")
        const file = path === "" ? join(root, page) : join(root, dirname(page), path!)
        return !existsSync(file) || (anchor !== undefined && !anchorsOf(file).includes(anchor))
      })
      assert.deepStrictEqual(dead, [])
    })
  }

  it("the index of the documentation has every page", () => {
    const index = readFileSync(join(root, "docs/README.md"), "utf8")
    const missing = globSync("docs/*.md", { cwd: root }).map((page) => basename(page)).filter((page) =>
      page !== "README.md" && !index.includes(`](${page})`)
    )
    assert.deepStrictEqual(missing, [])
  })
})

it("the index of exports is that of the code (npm run docs)", () => {
  assert.strictEqual(readFileSync(join(root, "docs/api.md"), "utf8"), apiIndex())
})

it("the figures of the README stand in the benchmark", () => {
  const [, table] = /## Beside client-go[\s\S]*?(\n\|[\s\S]*?)\n\n/.exec(readFileSync(join(root, "README.md"), "utf8"))!
  const benchmarks = readFileSync(join(root, "docs/benchmarks.md"), "utf8").replaceAll("*", "")
  const rows = table!.trim().split("\n").slice(2).map((row) => row.split("|").slice(1, -1).map((cell) => cell.trim()))
  assert.isAbove(rows.length, 4)
  for (const [what, ours, clientGo] of rows) {
    // The words of the rows differ, the pairs of figures must not.
    const found = benchmarks.split("\n").some((row) => {
      const cells = row.split("|").map((cell) => cell.trim())
      const starts = (figure: string) => cells.findIndex((cell) => cell === figure || cell.startsWith(`${figure} (`))
      return starts(ours!) > 0 && starts(clientGo!) > starts(ours!) - 1 && starts(clientGo!) > 0
    })
    assert.isTrue(found, `${what}: ${ours} beside ${clientGo}`)
  }
})
