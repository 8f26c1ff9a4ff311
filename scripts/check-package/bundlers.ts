/**
 * A program that uses the package, bundled: it builds without the optional packages, which stay outside where they are
 * installed unless the program asks for them, and what comes out leads.
 */
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { electionEnvironment, type Project } from "./project.ts"

const node = "node_modules/node24/bin/node"
const optional = "https-proxy-agent@9.1.0"

const app = (extra = "") => `
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import { LeaderElection, LeaderElectionLive, OptionalPackages } from "effect-kubernetes-leader-election"

const sendInvoices = Effect.logInfo("Sending invoices").pipe(Effect.repeat(Schedule.spaced("1 second")))
const program = LeaderElection.whileLeadingForever(sendInvoices)
NodeRuntime.runMain(program.pipe(Effect.provide(LeaderElectionLive)${extra}))
`

const wanted = `, Effect.provideService(OptionalPackages.OptionalPackages, () => import("https-proxy-agent"))`

// What webpack has no options for on its command line.
const webpackConfig = `
export default {
  mode: "production",
  target: "node22",
  entry: "./bundled.js",
  experiments: { outputModule: true },
  output: { path: import.meta.dirname, module: true, library: { type: "module" } },
  performance: { hints: false }
}
`

const esbuild = (entry: string, out: string): [string, ReadonlyArray<string>] => [
  "node_modules/.bin/esbuild",
  [
    entry,
    "--bundle",
    "--platform=node",
    "--format=esm",
    "--minify",
    `--outfile=${out}`,
    `--banner:js=import{createRequire as r}from"node:module";const require=r(import.meta.url);`
  ]
]

/** Each bundler: the command that builds `bundled.js` into the file of the given name. */
const bundlers: Readonly<Record<string, (out: string) => [string, ReadonlyArray<string>]>> = {
  esbuild: (out) => esbuild("bundled.js", out),
  bun: (out) => [
    "node_modules/bun/bin/bun.exe",
    ["build", "bundled.js", "--target=node", "--minify", `--outfile=${out}`]
  ],
  webpack: (out) => [node, ["node_modules/webpack-cli/bin/cli.js", `--output-filename=${out}`]],
  rollup: (out) => [
    node,
    [
      "node_modules/rollup/dist/bin/rollup",
      "bundled.js",
      "--plugin=@rollup/plugin-node-resolve={preferBuiltins:true,exportConditions:[\"node\"]}",
      "--plugin=@rollup/plugin-commonjs",
      "--plugin=@rollup/plugin-json",
      "--format=es",
      "--inlineDynamicImports",
      `--file=${out}`
    ]
  ]
}

// What stands in the optional package, and in nothing else.
const hasOptional = (file: string) => readFileSync(file, "utf8").includes("Replaying proxy buffer")

const megabytes = (file: string) => `${(statSync(file).size / 1e6).toFixed(1)} MB`

const expect = (ok: boolean, message: string) => {
  if (!ok) {
    throw new Error(message)
  }
}

/** Starts a bundle against the local server; resolves when it has led and ended in good order. */
const leads = async (project: Project, file: string, kubeconfig: string, name: string) => {
  const app = project.start(node, [file], electionEnvironment(kubeconfig, name))
  await app.output(/Sending invoices/)
  app.signal("SIGTERM")
  await app.ended
}

export const checkBundlers = async (project: Project, kubeconfig: string): Promise<void> => {
  project.write("bundled.js", app())
  project.write("webpack.config.js", webpackConfig)
  const failures: Array<string> = []
  for (const [name, command] of Object.entries(bundlers)) {
    try {
      await checkBundler(project, kubeconfig, name, command)
    } catch (error) {
      failures.push(`${name}: ${String(error)}`)
    }
  }
  expect(failures.length === 0, failures.join("\n\n"))
  await checkWanted(project, kubeconfig)
}

const checkBundler = async (
  project: Project,
  kubeconfig: string,
  name: string,
  command: (out: string) => [string, ReadonlyArray<string>]
) => {
  const file = `${name}.mjs`
  project.run(...command(file))
  const bundle = project.path(file)
  await leads(project, bundle, kubeconfig, name)
  console.log(`${name}: ${megabytes(bundle)}, and leads`)
}

/** With the package installed: outside of the bundle, or in it because the program asks for it. */
const checkWanted = async (project: Project, kubeconfig: string) => {
  project.run("npm", ["install", "--no-audit", "--no-fund", optional])
  project.run(...esbuild("bundled.js", "unwanted.mjs"))
  expect(!hasOptional(project.path("unwanted.mjs")), "the bundle contains the optional package")
  project.write("wanted.js", app(wanted))
  project.run(...esbuild("wanted.js", "wanted.mjs"))
  const elsewhere = mkdtempSync(join(tmpdir(), "check-package-bundle-"))
  try {
    const bundle = join(elsewhere, "wanted.mjs")
    writeFileSync(bundle, readFileSync(project.path("wanted.mjs")))
    expect(hasOptional(bundle), "the bundle does not contain the optional package")
    await leads(project, bundle, kubeconfig, "wanted")
    console.log(`esbuild, an optional package asked for: ${megabytes(bundle)}, and leads where nothing is installed`)
  } finally {
    rmSync(elsewhere, { recursive: true, force: true })
  }
}
