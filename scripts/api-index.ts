/**
 * Makes `docs/api.md`, one line for each public export, from the doc comments: `npm run docs`. A test compares it with the
 * code.
 */
import { globSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))
const packageName = "effect-kubernetes-leader-election"

interface Export {
  readonly name: string
  readonly category: string
  readonly summary: string
}

/** The first sentence of a doc comment, as Markdown in one line. */
const summaryOf = (comment: string): string => {
  const text = comment.split("\n").map((line) =>
    line.replace(/^ *(?:\/\*\*|\*\/|\*) ?/, "").replace(/\*\/$/, "").trim()
  )
  const end = text.findIndex((line, index) =>
    index > 0 && (line === "" || line.startsWith("@") || line.startsWith("**"))
  )
  const paragraph = text.slice(0, end === -1 ? undefined : end).join(" ").trim()
  // Up to the first full stop, colon or list that ends the sentence.
  const sentence = /^.*?[.:](?=\s|$)/.exec(paragraph)?.[0] ?? paragraph
  return sentence.replace(/:$/, ".").replaceAll(/\{@link ([^}]+)\}/g, "`$1`").replaceAll("|", "\\|")
}

const exportsOf = (source: string): ReadonlyArray<Export> => {
  const found = new Map<string, Export>()
  const pattern =
    /\/\*\*((?:(?!\*\/)[\s\S])*)\*\/\n(?:declare )?export (?:declare )?(?:abstract )?(?:const|class|interface|type|function) (\w+)/g
  for (const [, comment, name] of source.matchAll(pattern)) {
    const category = /@category (.*)/.exec(comment!)?.[1]?.trim()
    if (category !== undefined && !/@internal\b/.test(comment!) && !found.has(name!)) {
      found.set(name!, { name: name!, category, summary: summaryOf(`/**${comment}`) })
    }
  }
  return [...found.values()]
}

const section = (file: string): string => {
  const source = readFileSync(join(root, "src", file), "utf8")
  const path = file.replace(/\.ts$/, "")
  const header = /^\/\*\*[\s\S]*?\*\//.exec(source)?.[0] ?? ""
  const rows = exportsOf(source).map(({ category, name, summary }) => `| \`${name}\` | ${category} | ${summary} |`)
  return [
    `### ${path.split("/").at(-1)}`,
    "",
    `\`${packageName}/${path}\`. ${summaryOf(header)}`,
    "",
    "| export | category | |",
    "|---|---|---|",
    ...rows,
    ""
  ].join("\n")
}

/** The page, as it should be. */
export const apiIndex = (): string => {
  const files = (pattern: string) =>
    globSync(pattern, { cwd: join(root, "src") }).filter((file) => !file.endsWith("index.ts")).sort()
  const part = (title: string, text: string, found: ReadonlyArray<string>) =>
    [`## ${title}`, "", text, "", ...found.map(section)].join("\n")
  return [
    "# Every export",
    "",
    "Made from the code by `npm run docs`. The doc comment of each has details, examples and errors; your editor shows it.",
    `Import modules from the entry, or one by one: \`import * as LeaderElection from "${packageName}/LeaderElection"\`.`,
    "",
    part("The election", `Entry \`${packageName}\`.`, files("*.ts").filter((file) => file !== "promise.ts")),
    part("On Kubernetes", `Entry \`${packageName}\`.`, files("kubernetes/*.ts")),
    part("Promises", `Entry \`${packageName}/promise\`.`, ["promise.ts"]),
    part("Testing", `Entry \`${packageName}/testing\`.`, files("testing/*.ts"))
  ].join("\n").replace(/\n+$/, "\n")
}

if (import.meta.main) {
  writeFileSync(join(root, "docs/api.md"), apiIndex())
}
