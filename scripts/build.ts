/**
 * Builds the package: the library as plain modules with declarations, the
 * command bundled. Bundled it starts in a third of the time and
 * with half of the memory that its modules take.
 */
import * as Esbuild from "esbuild"
import { spawnSync } from "node:child_process"
import { writeFileSync } from "node:fs"
import { chmod, rm } from "node:fs/promises"
import { fileURLToPath } from "node:url"
import { bundleOptions } from "./bundle.ts"
import { notices, packagesIn } from "./notices.ts"

const tsc = fileURLToPath(new URL("../node_modules/typescript/bin/tsc", import.meta.url))

await rm("dist", { recursive: true, force: true })

const compiled = spawnSync(process.execPath, [tsc, "-p", "tsconfig.build.json"], {
  stdio: "inherit"
})
if (compiled.status !== 0) {
  process.exit(compiled.status ?? 1)
}

// The compiler wraps an import of a name that it does not know into a call of a helper, out of which webpack's minifier
// makes an import with two arguments. This file imports no file of ours, so that there is nothing to rewrite.
await Esbuild.build({
  entryPoints: ["src/kubernetes/OptionalPackages.ts"],
  outdir: "dist/kubernetes",
  format: "esm",
  target: "es2022",
  sourcemap: true
})

const outdir = "dist/bin"
const result = await Esbuild.build({
  ...bundleOptions,
  outdir,
  metafile: true
})
await chmod(`${outdir}/leader-election.js`, 0o755)
writeFileSync("dist/THIRD-PARTY-NOTICES", notices(packagesIn(result.metafile, ".")))
const bytes = Object.values(result.metafile.outputs).reduce((sum, output) => sum + output.bytes, 0)
console.log(`${outdir}: ${(bytes / 1024).toFixed(0)} KiB`)
