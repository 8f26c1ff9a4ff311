import { assert, describe, it } from "@effect/vitest"
import * as Esbuild from "esbuild"
import { readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { bundleOptions } from "../../scripts/bundle.ts"
import { notices, packagesIn } from "../../scripts/notices.ts"

const root = fileURLToPath(new URL("../..", import.meta.url))

describe("THIRD-PARTY-NOTICES", () => {
  it("is in the tarball, and has the licence of each package whose code is in the command", async () => {
    const { metafile, outputFiles } = await Esbuild.build({
      ...bundleOptions,
      absWorkingDir: root,
      outdir: "dist/bin",
      metafile: true,
      write: false
    })
    assert.isAbove(outputFiles.length, 0)
    const folders = packagesIn(metafile, root)
    const names = folders.map((folder) => JSON.parse(readFileSync(`${folder}/package.json`, "utf8")).name)
    assert.includeMembers(names, ["effect", "@effect/platform-node", "ws"])
    const text = notices(folders)
    for (const name of names) {
      assert.match(text, new RegExp(`^${name} \\d+\\.\\d+\\.\\d+ \\(`, "m"))
    }
    const parts = text.split(`\n${"-".repeat(80)}\n`)
    assert.strictEqual(parts.length, names.length)
    for (const part of parts) {
      assert.match(part, /Permission is hereby granted|Redistribution and use|Permission to use|Apache License/)
    }
    assert.include(JSON.parse(readFileSync(`${root}/package.json`, "utf8")).files, "dist/THIRD-PARTY-NOTICES")
  })
})
