/**
 * The image of the command, as its Dockerfile says, without a container engine: built as far as folders can stand for
 * stages, and run in a root that holds what its base has of it.
 */
import { assert, describe, it } from "@effect/vitest"
import { execFileSync } from "node:child_process"
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { delimiter, dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { build, parse } from "../examples/Dockerfile.ts"
import { cleanEnvironment } from "./utils/Processes.ts"

const root = fileURLToPath(new URL("../..", import.meta.url))
const command = "usr/local/bin/effect-kubernetes-leader-election"

describe("the image of the command", () => {
  const stages = parse(readFileSync(`${root}/Dockerfile`, "utf8"))
  const last = stages.at(-1)!

  it("is not root, builds nothing in its last stage, and starts the command itself", () => {
    assert.deepStrictEqual(last.instructions.filter(({ keyword }) => keyword === "RUN"), [])
    assert.isAbove(Number(last.instructions.find(({ keyword }) => keyword === "USER")?.text), 0)
    assert.strictEqual(last.instructions.find(({ keyword }) => keyword === "ENTRYPOINT")?.text, `["/${command}"]`)
  })

  it("holds one executable, which runs as any user and writes nothing", async () => {
    const directory = mkdtempSync(join(tmpdir(), "image-"))
    // Others must be able to go in.
    chmodSync(directory, 0o755)
    try {
      const path = [dirname(process.execPath), process.env["PATH"]].join(delimiter)
      await build(stages, root, directory, { ...cleanEnvironment(), PATH: path })
      const image = join(directory, String(stages.length - 1))
      const files = readdirSync(image, { recursive: true, encoding: "utf8" })
        .filter((file) => statSync(join(image, file)).isFile())
      assert.deepStrictEqual(files.toSorted(), [
        command,
        "usr/share/doc/effect-kubernetes-leader-election/THIRD-PARTY-NOTICES"
      ])
      const notices = readFileSync(join(image, files.find((file) => file !== command)!), "utf8")
      assert.match(notices, /^effect \d/m)
      assert.match(notices, /^node-linux-\w+ \d/m)
      const printed = execFileSync(
        "setpriv",
        ["--reuid=1000", "--regid=1000", "--clear-groups", "--bounding-set=-all", join(image, command), "--version"],
        { encoding: "utf8", cwd: "/" }
      )
      assert.match(printed, /^effect-kubernetes-leader-election v\d/)
    } finally {
      rmSync(directory, { recursive: true })
    }
  })
})
