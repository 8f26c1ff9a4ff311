/**
 * Packs the package, installs it into an empty project, and uses it there as a
 * new user would: the README's smallest app is type-checked and run against the
 * local Lease API server, and the command answers, on each Node version that is
 * supported.
 *
 * `node scripts/check-package.ts [node version ...]`
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { once } from "node:events"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))
const versions = process.argv.length > 2 ? process.argv.slice(2) : ["22.19.0", "24", "26"]
const packageJson: {
  readonly name: string
  readonly version: string
  readonly devDependencies: Readonly<Record<string, string>>
} = JSON.parse(readFileSync(join(root, "package.json"), "utf8"))

const run = (command: string, args: ReadonlyArray<string>, cwd: string): string => {
  const { error, status, stderr, stdout } = spawnSync(command, args, { cwd, encoding: "utf8" })
  if (status !== 0) {
    throw new Error(`${command} ${args.join(" ")} ended with ${status}\n${stdout}\n${stderr}`, { cause: error })
  }
  return stdout
}

const pinned = (name: string) => `${name}@${packageJson.devDependencies[name]}`

/** The first line of its output that matches. */
const output = (child: ChildProcess, pattern: RegExp) =>
  new Promise<RegExpExecArray>((resolve, reject) => {
    let text = ""
    const onData = (data: unknown) => {
      text += String(data)
      const match = pattern.exec(text)
      if (match !== null) {
        resolve(match)
      }
    }
    child.stdout!.on("data", onData)
    child.stderr!.on("data", onData)
    child.on("exit", (code) => reject(new Error(`ended with ${code} before it printed ${pattern}\n${text}`)))
  })

const app = /```ts\n([\s\S]*?)```/.exec(readFileSync(join(root, "README.md"), "utf8"))![1]!

const server = `
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect } from "effect"
import { LeaseApiServer } from "effect-kubernetes-leader-election/testing"

const program = Effect.gen(function*() {
  const server = yield* LeaseApiServer.LeaseApiServer
  yield* Console.log("kubeconfig: " + (yield* server.writeKubeconfig("kubeconfig")))
  return yield* Effect.never
})
NodeRuntime.runMain(program.pipe(Effect.provide(LeaseApiServer.layer())))
`

const promiseApp = `
import { type LeadershipHandle, runAsLeader } from "effect-kubernetes-leader-election/promise"

export const job = (leadership: LeadershipHandle, signal: AbortSignal): Promise<bigint> => {
  leadership.ensure()
  return Promise.resolve(signal.aborted ? 0n : leadership.fencingToken)
}
export const main = () => runAsLeader({ name: "jobs" }, job)
`

const tsconfig = {
  compilerOptions: {
    target: "ES2022",
    module: "NodeNext",
    strict: true,
    exactOptionalPropertyTypes: true,
    // As strict as any project: with `true`, types that cannot be found silently become `any`.
    skipLibCheck: false,
    noEmit: true,
    types: ["node"]
  }
}

const tarball = join(root, run("npm", ["pack", "--silent"], root).trim().split("\n").at(-1)!)
try {
  for (const version of versions) {
    const project = mkdtempSync(join(tmpdir(), "check-package-"))
    const children: Array<ChildProcess> = []
    try {
      writeFileSync(join(project, "package.json"), JSON.stringify({ private: true, type: "module" }))
      writeFileSync(join(project, "tsconfig.json"), JSON.stringify(tsconfig))
      writeFileSync(join(project, "app.ts"), app)
      writeFileSync(join(project, "server.ts"), server)
      writeFileSync(join(project, "promise.ts"), promiseApp)
      run("npm", [
        "install",
        "--no-audit",
        "--no-fund",
        tarball,
        ...["effect", "@effect/platform-node", "@kubernetes/client-node", "typescript", "@types/node"].map(pinned)
      ], project)
      // The Node under test, apart from the project: npm's own scripts use the one that runs this.
      const nodeDirectory = join(project, "node")
      run("npm", ["install", "--no-audit", "--no-fund", "--prefix", nodeDirectory, `node@${version}`], project)
      const node = join(nodeDirectory, "node_modules/node/bin/node")
      const found = run(node, ["--version"], project).trim()

      run(node, ["node_modules/typescript/bin/tsc", "-p", "."], project)

      const printed = run(node, ["node_modules/.bin/effect-kubernetes-leader-election", "--version"], project).trim()
      if (!printed.includes(packageJson.version)) {
        throw new Error(
          `effect-kubernetes-leader-election --version printed "${printed}" and not ${packageJson.version}`
        )
      }

      const options = { cwd: project, stdio: ["ignore", "pipe", "pipe"] as const }
      const serving = spawn(node, ["server.ts"], { ...options, stdio: [...options.stdio] })
      children.push(serving)
      const kubeconfig = (await output(serving, /kubeconfig: (.*)/))[1]!
      const leading = spawn(node, ["app.ts"], {
        ...options,
        stdio: [...options.stdio],
        env: {
          ...process.env,
          KUBECONFIG: kubeconfig,
          LEADER_ELECTION_NAME: "invoices",
          LEADER_ELECTION_LEASE_DURATION: "1s"
        }
      })
      children.push(leading)
      await output(leading, /Sending invoices/)
      leading.kill("SIGTERM")
      await once(leading, "exit")
      console.log(`${found}: installs, type-checks, and leads`)
    } finally {
      for (const child of children) {
        child.kill("SIGKILL")
      }
      rmSync(project, { recursive: true, force: true })
    }
  }
} finally {
  rmSync(tarball, { force: true })
}
