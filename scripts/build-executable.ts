/**
 * Builds the command as a standalone executable for Linux: one file, for images and machines without Node.
 *
 * `node scripts/build-executable.ts [x64] [arm64]`, both by default, on either. It takes Node from
 * `packaging/node_modules` (`npm ci --force --prefix packaging`: each Node is for one platform, and both are wanted),
 * and downloads nothing itself.
 *
 * It is Node's own single executable. Bun's, which is 11 MiB smaller, was tried: its `process.hrtime` counts from the
 * start of the process, so that `validUntilMonotonic` of `serve` meant nothing to the program beside it, and the demo,
 * which compares times of several processes, saw two leaders.
 */
import * as Esbuild from "esbuild"
import { spawnSync } from "node:child_process"
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync
} from "node:fs"
import { createRequire } from "node:module"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { bundleOptions } from "./bundle.ts"
import { notices, packagesIn } from "./notices.ts"

const root = fileURLToPath(new URL("..", import.meta.url))
const packages = `${root}packaging/node_modules`

export type Architecture = "x64" | "arm64"

const nodeOf = (architecture: Architecture): string => `${packages}/node-linux-${architecture}/bin/node`

/** Whether what it is built from is installed. */
export const isInstalled = (): boolean => existsSync(nodeOf("x64")) && existsSync(nodeOf("arm64"))

/** What marks the place for the program in Node's binary. */
const sentinelFuse = "NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2"

/** The command as one CommonJS file, as this version of Node wants it, with the optional packages in it. */
const bundle = async (directory: string) => {
  const file = join(directory, "main.cjs")
  const { chunkNames: _, splitting: __, ...options } = bundleOptions
  const { metafile } = await Esbuild.build({
    ...options,
    absWorkingDir: root,
    metafile: true,
    entryPoints: [`${root}src/cli/main.ts`],
    format: "cjs",
    external: [],
    outfile: file,
    banner: { js: `const __importMetaUrl=require("node:url").pathToFileURL(__filename).href;` },
    define: { "import.meta.url": "__importMetaUrl" }
  })
  return { file, packages: packagesIn(metafile, root) }
}

/** Builds into `directory`; gives the file. */
export const build = async (architecture: Architecture, directory: string): Promise<string> => {
  const file = join(directory, `effect-kubernetes-leader-election-linux-${architecture}`)
  mkdirSync(directory, { recursive: true })
  const temporary = mkdtempSync(join(directory, "build-"))
  try {
    const blob = join(temporary, "blob")
    const config = join(temporary, "sea-config.json")
    const { file: main, packages: bundled } = await bundle(temporary)
    // Code that is compiled already would be for the processor that it is built on.
    writeFileSync(config, JSON.stringify({ main, output: blob, disableExperimentalSEAWarning: true }))
    // By the version that it is for: the form of the blob belongs to it.
    const made = spawnSync(nodeOf(process.arch === "arm64" ? "arm64" : "x64"), ["--experimental-sea-config", config], {
      encoding: "utf8"
    })
    if (made.status !== 0) {
      throw new Error(`The executable for ${architecture} could not be built\n${made.stderr}`)
    }
    const { inject } = createRequire(`${packages}/`)("postject")
    copyFileSync(nodeOf(architecture), file)
    chmodSync(file, 0o755)
    writeFileSync(
      join(directory, "THIRD-PARTY-NOTICES"),
      notices([...bundled, `${packages}/node-linux-${architecture}`])
    )
    await inject(file, "NODE_SEA_BLOB", readFileSync(blob), { sentinelFuse })
  } finally {
    rmSync(temporary, { recursive: true })
  }
  return file
}

if (import.meta.main) {
  const given = process.argv.slice(2)
  for (const name of given.length === 0 ? ["x64", "arm64"] : given) {
    if (name !== "x64" && name !== "arm64") {
      throw new Error(`${name} is not a platform: give x64 or arm64`)
    }
    const file = await build(name, `${root}dist/executable`)
    console.log(`${file}: ${(statSync(file).size / 2 ** 20).toFixed(0)} MiB`)
  }
}
