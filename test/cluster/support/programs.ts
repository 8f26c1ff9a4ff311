/**
 * The programs that the tests start as processes of their own, each bundled into one file: so it starts in a third of
 * the time, which counts where dozens of them start on two cores.
 */
import * as Esbuild from "esbuild"
import { rmSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

const repository = fileURLToPath(new URL("../../..", import.meta.url))

/** Bundles `test/cluster/support/<name>.ts` and gives the path of the file to start. */
export const bundle = async (name: "candidate" | "manyCandidates"): Promise<string> => {
  // Where @kubernetes/client-node is found, and nobody commits it. Of this process, which others must not overwrite.
  const outfile = join(repository, "node_modules", ".cache", "test-cluster", `${name}-${process.pid}.mjs`)
  process.once("exit", () => rmSync(outfile, { force: true }))
  await Esbuild.build({
    entryPoints: [join(repository, "test", "cluster", "support", `${name}.ts`)],
    outfile,
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node22",
    keepNames: true,
    external: ["@kubernetes/client-node"],
    banner: {
      js: `import{createRequire as __createRequire}from"node:module";const require=__createRequire(import.meta.url);`
    }
  })
  return outfile
}
