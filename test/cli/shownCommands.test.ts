/**
 * Every command that is shown to users runs this package: npx looks for a package of that name where none is installed.
 */
import { assert, describe, it } from "@effect/vitest"
import { readdirSync, readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { programName } from "../../src/cli/shared/programName.ts"

const root = fileURLToPath(new URL("../..", import.meta.url))

const shown = ["README.md", "docs", "examples", "src/cli"].flatMap((path) =>
  path.endsWith(".md")
    ? [path]
    : readdirSync(`${root}/${path}`, { recursive: true, encoding: "utf8" })
      .filter((name) => /\.(md|sh|ya?ml|ts|py)$|Dockerfile$/.test(name) && !name.includes("node_modules"))
      .map((name) => `${path}/${name}`)
)

/** What only those who work on this package, or compile a program, run. */
const others = ["tsc", "node", "vitest"]

describe("the commands that are shown", () => {
  it("there is one, and it has the name of the package", () => {
    const { bin, name } = JSON.parse(readFileSync(`${root}/package.json`, "utf8"))
    assert.deepStrictEqual(Object.keys(bin), [name])
    assert.strictEqual(programName, name)
  })

  it.each(shown)("%s", (path) => {
    const text = readFileSync(`${root}/${path}`, "utf8")
    for (const [, command = ""] of text.matchAll(/npx (?:-\S+ )*([@\w][\w./@-]*)/g)) {
      assert.isTrue([programName, ...others].includes(command), `npx ${command}`)
    }
    const subcommands = "run|serve|status|watch|doctor|manifest|step-down|demo|candidate|dev-server"
    for (const [match] of text.matchAll(new RegExp(`[\\w./-]*leader-election,? (?:${subcommands})\\b`, "g"))) {
      assert.match(match, new RegExp(`^(?:\\S*/)?${programName},? `))
    }
  })
})
