/**
 * The programs that the tests start as processes of their own, each bundled into one file: so it starts in a third of
 * the time, which counts where dozens of them start on two cores.
 */
import * as Esbuild from "esbuild"
import { createHash } from "node:crypto"
import { mkdir, rename, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

const repository = fileURLToPath(new URL("../../..", import.meta.url))
const directory = join(repository, "node_modules", ".cache", "test-cluster")

/** Bundles `test/cluster/support/<name>.ts` and gives the path of the file to start. */
export const bundle = async (name: "candidate" | "manyCandidates"): Promise<string> => {
  const { outputFiles: [output] } = await Esbuild.build({
    entryPoints: [join(repository, "test", "cluster", "support", `${name}.ts`)],
    write: false,
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node22",
    keepNames: true,
    banner: {
      js: `import{createRequire as __createRequire}from"node:module";const require=__createRequire(import.meta.url);`
    }
  })
  // By its content, so that runs at the same time do not disturb each other.
  const hash = createHash("sha256").update(output!.contents).digest("hex").slice(0, 16)
  const file = join(directory, `${name}-${hash}.mjs`)
  await mkdir(directory, { recursive: true })
  await writeFile(`${file}.${process.pid}`, output!.contents)
  await rename(`${file}.${process.pid}`, file)
  return file
}
