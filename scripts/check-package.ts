/**
 * Packs the package, installs it into an empty project, and uses it there as a new user would: in TypeScript, through
 * bundlers, on every runtime.
 *
 * `node scripts/check-package.ts [--tarball FILE] [walls] [types] [bundlers] [demo] [runtimes] [node22 node24 node26 bun deno]`
 */
import { rmSync } from "node:fs"
import { resolve } from "node:path"
import { parseArgs } from "node:util"
import { checkBundlers } from "./check-package/bundlers.ts"
import { pack, readmeApp, serverProgram, withProject } from "./check-package/project.ts"
import { checkDemo, checkRuntimes } from "./check-package/runtimes.ts"
import { checkTypes } from "./check-package/types.ts"
import { checkWalls } from "./check-package/walls.ts"

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { tarball: { type: "string" } }
})
const parts = new Set(["walls", "types", "bundlers", "demo", "runtimes"])
const runtimes = positionals.filter((name) => !parts.has(name))
const wanted = (part: string) => positionals.length === 0 || positionals.includes(part)

const tarball = values.tarball === undefined ? pack() : resolve(values.tarball)
const failures: Array<unknown> = []
const attempt = async (check: () => void | Promise<void>) => {
  try {
    await check()
  } catch (error) {
    failures.push(error)
  }
}
try {
  await withProject(tarball, async (project) => {
    project.write("app.ts", readmeApp)
    project.write("server.ts", serverProgram)
    if (wanted("walls")) {
      await attempt(() => checkWalls(project))
    }
    if (wanted("types")) {
      await attempt(() => checkTypes(project))
    }
    if (wanted("bundlers")) {
      await attempt(async () => {
        const server = project.start("node_modules/node24/bin/node", ["server.ts"])
        await checkBundlers(project, (await server.output(/kubeconfig: (.*)/))[1]!)
        server.signal("SIGTERM")
        await server.ended
      })
    }
    if (wanted("demo")) {
      await attempt(() => checkDemo(project))
    }
    if (wanted("runtimes") || runtimes.length > 0) {
      await attempt(() => checkRuntimes(project, runtimes))
    }
  })
} finally {
  if (values.tarball === undefined) {
    rmSync(tarball, { force: true })
  }
}
for (const failure of failures) {
  console.error(failure)
}
process.exitCode = failures.length === 0 ? 0 : 1
