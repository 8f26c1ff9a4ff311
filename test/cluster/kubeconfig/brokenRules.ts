/**
 * Rules of reading kubeconfigs, each broken by an edit of the text: the comparison has to find it. An edit that no longer
 * fits the text is an error.
 */
import * as Esbuild from "esbuild"
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"
import type * as Ours from "./ours.ts"

export interface BrokenRule {
  readonly name: string
  readonly file: "kubeconfigFile" | "kubeconfig" | "proxy" | "execPlugin"
  readonly from: string
  readonly to: string
}

export const brokenRules: ReadonlyArray<BrokenRule> = [
  { name: "of several files the last wins", file: "kubeconfigFile", from: "maps.toReversed()", to: "maps" },
  {
    name: "paths are relative to the working directory",
    file: "kubeconfigFile",
    from: "const base = resolve(dirname(file))",
    to: "const base = resolve(\".\")"
  },
  {
    name: "groups are not asked for",
    file: "kubeconfig",
    from: "user.impersonateGroups.length > 0 &&",
    to: "user.impersonateGroups.length < 0 &&"
  },
  {
    name: "NO_PROXY is not looked at",
    file: "proxy",
    from: "environment.no_proxy || environment.NO_PROXY || \"\"",
    to: "\"\""
  },
  {
    name: "a context without a namespace has none",
    file: "kubeconfigFile",
    from: "context.namespace || \"default\"",
    to: "context.namespace"
  },
  {
    name: "plugins never know their cluster",
    file: "execPlugin",
    from: "...(exec.provideClusterInfo && {",
    to: "...(false && {"
  }
]

const repository = fileURLToPath(new URL("../../..", import.meta.url))

/** This library's side of the comparison, with the rule broken. */
export const withBrokenRule = async (rule: BrokenRule): Promise<typeof Ours.resolve> => {
  const outfile = join(
    repository,
    "node_modules/.cache/kubeconfig-oracle",
    `${rule.name.replaceAll(/\W+/g, "-")}-${process.pid}.mjs`
  )
  await Esbuild.build({
    entryPoints: [fileURLToPath(new URL("ours.ts", import.meta.url))],
    outfile,
    bundle: true,
    platform: "node",
    format: "esm",
    packages: "external",
    plugins: [{
      name: "broken rule",
      setup: (build) =>
        build.onLoad({ filter: new RegExp(`/internal/${rule.file}\\.ts$`) }, async ({ path }) => {
          const text = await readFile(path, "utf8")
          if (!text.includes(rule.from)) throw new Error(`${rule.name}: the text to be edited is not there any more`)
          return { contents: text.replace(rule.from, rule.to), loader: "ts" }
        })
    }]
  })
  const module: typeof Ours = await import(pathToFileURL(outfile).href)
  return module.resolve
}
