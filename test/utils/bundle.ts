/**
 * Makes programs that import the package by its name into files that Node can
 * run, with the sources in the place of the package.
 */
import * as Esbuild from "esbuild"
import { fileURLToPath } from "node:url"

const src = (path: string) => fileURLToPath(new URL(`../../src/${path}`, import.meta.url))

/**
 * Bundles each program into `<outdir>/<its name>.mjs`. The folder has to be in
 * this checkout: other packages are resolved from there.
 */
export const bundlePrograms = async (entryPoints: ReadonlyArray<string>, outdir: string): Promise<void> => {
  await Esbuild.build({
    entryPoints: [...entryPoints],
    outdir,
    outExtension: { ".js": ".mjs" },
    bundle: true,
    platform: "node",
    format: "esm",
    // What they use of Effect in one file: its modules one by one take three times as long to load.
    banner: {
      js: `import{createRequire as __createRequire}from"node:module";const require=__createRequire(import.meta.url);`
    },
    alias: {
      "effect-kubernetes-leader-election/promise": src("promise.ts"),
      "effect-kubernetes-leader-election/testing": src("testing/index.ts"),
      "effect-kubernetes-leader-election": src("index.ts")
    }
  })
}
