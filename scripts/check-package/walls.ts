/**
 * What can be imported from the package: every public module by its path, and nothing behind them.
 */
import { globSync } from "node:fs"
import { join } from "node:path"
import { packageJson, type Project, root } from "./project.ts"

const isInternal = (module: string) => /(^|\/)internal\/|^cli\/|(^|\/)index$/.test(module)

export const checkWalls = (project: Project): void => {
  const modules = globSync("**/*.ts", { cwd: join(root, "src") }).map((file) => file.replace(/\.ts$/, ""))
  // One file of the bundled command as well.
  const closed = [...modules.filter(isInternal), "bin/leader-election"]
  const open = modules.filter((module) => !isInternal(module))
  project.write(
    "walls.mjs",
    `
const problems = []
for (const module of ${JSON.stringify(open)}) {
  await import("${packageJson.name}/" + module).catch((error) => problems.push("cannot be imported: " + module + ": " + error.message))
}
for (const module of ${JSON.stringify(closed)}) {
  const code = await import("${packageJson.name}/" + module).then(() => "imported", (error) => error.code)
  if (code !== "ERR_PACKAGE_PATH_NOT_EXPORTED") problems.push("is not refused: " + module + ": " + code)
}
if (problems.length > 0) throw new Error(problems.join("\\n"))
`
  )
  project.run("node_modules/node24/bin/node", ["walls.mjs"])
  console.log(`Exports: ${open.length} public modules can be imported, ${closed.length} others are refused`)
}
