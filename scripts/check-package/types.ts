/**
 * The package's types in a strict project: clean without `skipLibCheck`, and nameable. A project with `declaration` (every
 * package of a monorepo that is `composite`) writes the types that are inferred for its exports into declarations, and
 * that works only if each of them can be imported by a path that the package exports.
 */
import type { Project } from "./project.ts"

const compilers = ["typescript58", "typescript59", "typescript7"]

const layers = `
import { Effect, Layer } from "effect"
import { EventLoopMonitor, LeaderElection, LeaderElectionLive, Leadership } from "effect-kubernetes-leader-election"
import { LeaseFaults, MemoryLeaseStore } from "effect-kubernetes-leader-election/testing"

export const MainLive = Layer.mergeAll(LeaderElectionLive, EventLoopMonitor.layer())
export const closeMonth = Effect.gen(function*() {
  const leadership = yield* Leadership
  yield* leadership.ensure
  return leadership.fencingToken
})
export const main = LeaderElection.whileLeadingForever(closeMonth).pipe(Effect.provide(MainLive))
export const TestLive = Layer.provideMerge(LeaseFaults.layer, MemoryLeaseStore.layerMemory())
`

const promises = `
import { type LeadershipHandle, runAsLeader } from "effect-kubernetes-leader-election/promise"

export const job = (leadership: LeadershipHandle, signal: AbortSignal) => {
  leadership.ensure()
  return Promise.resolve(signal.aborted ? 0n : leadership.fencingToken)
}
export const main = () => runAsLeader({ name: "jobs" }, job)
`

/** Every value that the package exports, exported again with its inferred type. */
const everything = (project: Project): string => {
  project.write(
    "list.mjs",
    `
const lines = []
for (const entry of ["", "/testing", "/promise"]) {
  const name = "effect-kubernetes-leader-election" + entry
  const ns = "Entry" + entry.replace("/", "_")
  lines.push("import * as " + ns + " from " + JSON.stringify(name))
  for (const [key, value] of Object.entries(await import(name))) {
    const keys = Object.prototype.toString.call(value) === "[object Module]" ? Object.keys(value).map((k) => [key, k]) : [[key]]
    for (const path of keys) lines.push("export const " + [ns, ...path].join("_") + " = " + [ns, ...path].join("."))
  }
}
console.log(lines.join("\\n"))
`
  )
  return project.run("node_modules/node24/bin/node", ["list.mjs"])
}

const tsconfig = (directory: string, files: ReadonlyArray<string>) => ({
  compilerOptions: {
    target: "ES2022",
    module: "NodeNext",
    strict: true,
    exactOptionalPropertyTypes: true,
    skipLibCheck: false,
    composite: true,
    declaration: true,
    rootDir: ".",
    outDir: directory,
    tsBuildInfoFile: `${directory}/tsconfig.tsbuildinfo`,
    types: ["node"]
  },
  files
})

export const checkTypes = (project: Project): void => {
  project.write("layers.ts", layers)
  project.write("promise.ts", promises)
  project.write("everything.ts", everything(project))
  const files = ["app.ts", "server.ts", "layers.ts", "promise.ts", "everything.ts"]
  for (const compiler of compilers) {
    project.write("tsconfig.json", JSON.stringify(tsconfig(`declarations-${compiler}`, files)))
    const version = project.run("node_modules/node24/bin/node", [`node_modules/${compiler}/bin/tsc`, "--version"])
    project.run("node_modules/node24/bin/node", [`node_modules/${compiler}/bin/tsc`, "-p", "."])
    console.log(`TypeScript ${version.replace("Version", "").trim()}: clean, and every inferred type can be named`)
  }
}
