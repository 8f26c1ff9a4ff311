/**
 * An empty project with the packed package in it, and everything that it is checked with.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { once } from "node:events"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

export const root = fileURLToPath(new URL("../..", import.meta.url))

export const packageJson: {
  readonly name: string
  readonly version: string
  readonly bin: Readonly<Record<string, string>>
  readonly devDependencies: Readonly<Record<string, string>>
} = JSON.parse(readFileSync(join(root, "package.json"), "utf8"))

const pinned = (name: string) => `${name}@${packageJson.devDependencies[name]}`

/** What the package is checked with, beside what this project itself is built with. */
const tools = [
  "typescript58@npm:typescript@5.8.3",
  "typescript59@npm:typescript@5.9.3",
  `typescript7@npm:${pinned("typescript")}`,
  pinned("esbuild"),
  "webpack@5.112.2",
  "webpack-cli@7.3.1",
  "rollup@4.68.8",
  "@rollup/plugin-node-resolve@16.0.3",
  "@rollup/plugin-commonjs@29.0.3",
  "@rollup/plugin-json@6.1.0",
  "bun@1.4.5",
  "deno@2.9.6",
  "node22@npm:node@22.19.0",
  `node24@npm:${pinned("node")}`,
  "node26@npm:node@26.10.0"
]

/** The result of a command that may fail. */
export interface Result {
  readonly status: number | null
  readonly output: string
}

export interface Project {
  readonly directory: string
  readonly write: (file: string, content: string) => void
  readonly path: (file: string) => string
  readonly try: (command: string, args: ReadonlyArray<string>, env?: NodeJS.ProcessEnv) => Result
  /** Fails unless the command succeeds; gives what it printed. */
  readonly run: (command: string, args: ReadonlyArray<string>, env?: NodeJS.ProcessEnv) => string
  /** Starts a process, which ends with the project at the latest. */
  readonly start: (command: string, args: ReadonlyArray<string>, env?: NodeJS.ProcessEnv) => Started
}

export interface Started {
  /** The first match in what it prints. */
  readonly output: (pattern: RegExp) => Promise<RegExpExecArray>
  readonly signal: (signal: NodeJS.Signals) => void
  /** Its exit code. */
  readonly ended: Promise<number | null>
}

const start = (child: ChildProcess, name: string): Started => {
  let text = ""
  const listeners = new Set<() => void>()
  const onData = (data: unknown) => {
    text += String(data)
    listeners.forEach((listener) => listener())
  }
  child.stdout?.on("data", onData)
  child.stderr?.on("data", onData)
  const ended = once(child, "close").then(([code]) => code as number | null)
  return {
    output: (pattern) =>
      new Promise((resolve, reject) => {
        const look = () => {
          const match = pattern.exec(text)
          if (match !== null) {
            listeners.delete(look)
            resolve(match)
          }
        }
        listeners.add(look)
        look()
        void ended.then((code) => {
          look()
          reject(new Error(`${name} ended with ${code} before it printed ${pattern}\n${text}`))
        })
        setTimeout(() => reject(new Error(`${name} did not print ${pattern} within 60 s\n${text}`)), 60_000).unref()
      }),
    signal: (signal) => {
      child.kill(signal)
    },
    ended
  }
}

const runIn = (cwd: string, command: string, args: ReadonlyArray<string>, env = process.env): Result => {
  const { error, status, stderr, stdout } = spawnSync(command, args, { cwd, env, encoding: "utf8" })
  if (error !== undefined) {
    throw error
  }
  return { status, output: `${stdout}${stderr}` }
}

const expectSuccess = (command: string, args: ReadonlyArray<string>, { output, status }: Result): string => {
  if (status !== 0) {
    throw new Error(`${command} ${args.join(" ")} ended with ${status}\n${output}`)
  }
  return output
}

/** Packs this checkout; gives the path of the file. */
export const pack = (): string => {
  const args = ["pack", "--silent", "--ignore-scripts"]
  return join(root, expectSuccess("npm", args, runIn(root, "npm", args)).trim().split("\n").at(-1)!)
}

/** Makes the project, hands it to `use`, and removes it. */
export const withProject = async (tarball: string, use: (project: Project) => Promise<void>): Promise<void> => {
  const directory = mkdtempSync(join(tmpdir(), "check-package-"))
  const children: Array<ChildProcess> = []
  const project: Project = {
    directory,
    path: (file) => join(directory, file),
    write: (file, content) => writeFileSync(join(directory, file), content),
    try: (command, args, env) => runIn(directory, command, args, env),
    run: (command, args, env) => expectSuccess(command, args, runIn(directory, command, args, env)),
    start: (command, args, env = process.env) => {
      const child = spawn(command, args, { cwd: directory, env, stdio: ["ignore", "pipe", "pipe"] })
      children.push(child)
      return start(child, [command, ...args].join(" "))
    }
  }
  try {
    project.write(
      "package.json",
      JSON.stringify({
        private: true,
        type: "module",
        allowScripts: { bun: true, deno: true, esbuild: true, node: true }
      })
    )
    project.run("npm", [
      "install",
      "--no-audit",
      "--no-fund",
      tarball,
      ...["effect", "@effect/platform-node", "@types/node"].map(pinned),
      ...tools
    ])
    await use(project)
  } finally {
    for (const child of children) {
      child.kill("SIGKILL")
    }
    rmSync(directory, { recursive: true, force: true })
  }
}

/** The first TypeScript of the README: the smallest app. */
export const readmeApp = /```ts\n([\s\S]*?)```/.exec(readFileSync(join(root, "README.md"), "utf8"))![1]!

/** A local Lease API server that prints where its kubeconfig is. */
export const serverProgram = `
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

/** What an election of a program in the project is given. */
export const electionEnvironment = (kubeconfig: string, name: string): NodeJS.ProcessEnv => ({
  PATH: process.env["PATH"],
  HOME: process.env["HOME"],
  KUBECONFIG: kubeconfig,
  LEADER_ELECTION_NAME: name,
  LEADER_ELECTION_LEASE_DURATION: "2s",
  LEADER_ELECTION_NEW_LEASE: "lead"
})
