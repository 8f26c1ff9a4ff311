/**
 * Makes a release ready: version, CHANGELOG, a packed package that was checked, a commit and a tag. Pushing the tag
 * publishes, by `.github/workflows/release.yml`.
 *
 * `npm run release -- 0.2.0`
 * `npm run release -- 0.2.0 --repository OWNER/NAME`  the first time: where the project is published on GitHub
 * `npm run release -- --check 0.2.0`                  only looks whether this commit is that release
 */
import { spawnSync } from "node:child_process"
import { readFileSync, writeFileSync } from "node:fs"
import { parseArgs } from "node:util"

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    check: { type: "boolean", default: false },
    repository: { type: "string" },
    "skip-package-check": { type: "boolean", default: false }
  }
})

const fail = (message: string): never => {
  console.error(`release: ${message}`)
  return process.exit(1)
}

const run = (command: string, ...args: ReadonlyArray<string>): string => {
  const { status, stderr, stdout } = spawnSync(command, args, { encoding: "utf8" })
  return status === 0 ? stdout.trim() : fail(`${command} ${args.join(" ")} ended with ${status}\n${stdout}${stderr}`)
}

interface PackageJson {
  version: string
  repository?: { readonly type: string; readonly url: string } | undefined
  publishConfig?: { readonly access?: string; readonly provenance?: boolean } | undefined
}

const read = (): PackageJson => JSON.parse(readFileSync("package.json", "utf8"))

const version = positionals[0] ?? fail("give the version: npm run release -- 0.2.0")
const parts = (text: string) => /^(\d+)\.(\d+)\.(\d+)$/.exec(text)?.slice(1).map(Number)
if (parts(version) === undefined) {
  fail(`${version} is not a version such as 0.2.0`)
}

/** What has to be so on the commit that is published. */
const problems = (): ReadonlyArray<string> => {
  const { publishConfig, repository, version: current } = read()
  const changelog = readFileSync("CHANGELOG.md", "utf8")
  return [
    current === version ? "" : `package.json has version ${current}`,
    new RegExp(`^## ${version.replaceAll(".", "\\.")} \\(\\d{4}-\\d{2}-\\d{2}\\)$`, "m").test(changelog)
      ? ""
      : `CHANGELOG.md has no entry "## ${version} (date)"`,
    repository === undefined
      ? "package.json has no repository, so that npm could not show where the package was built: " +
        "add --repository OWNER/NAME"
      : "",
    publishConfig?.provenance === true ? "" : "publishConfig.provenance is not true in package.json"
  ].filter((problem) => problem !== "")
}

const expectNone = (found: ReadonlyArray<string>) => {
  if (found.length > 0) {
    fail(`not ready for ${version}:\n${found.map((problem) => `- ${problem}`).join("\n")}`)
  }
}

if (values.check) {
  expectNone(problems())
  console.log(`This commit is ${version}`)
  process.exit(0)
}

const setRepository = (name: string) => {
  if (!/^[\w.-]+\/[\w.-]+$/.test(name)) {
    fail(`--repository ${name} is not of the form OWNER/NAME`)
  }
  const { version: current, ...rest } = read()
  const url = `https://github.com/${name}`
  const entries = Object.entries({ version: current, ...rest }).filter(([key]) =>
    !["repository", "homepage", "bugs"].includes(key)
  )
  const at = entries.findIndex(([key]) => key === "license") + 1
  entries.splice(
    at,
    0,
    ["homepage", `${url}#readme`],
    ["bugs", `${url}/issues`],
    ["repository", { type: "git", url: `git+${url}.git` }]
  )
  // The name stands first.
  entries.sort(([a], [b]) => Number(b === "name") - Number(a === "name"))
  writeFileSync("package.json", `${JSON.stringify(Object.fromEntries(entries), undefined, 2)}\n`)
}

const dateChangelog = () => {
  const changelog = readFileSync("CHANGELOG.md", "utf8")
  const heading = `## ${version} (unreleased)`
  if (!changelog.includes(`${heading}\n`)) {
    fail(`CHANGELOG.md has no entry "${heading}"`)
  }
  writeFileSync("CHANGELOG.md", changelog.replace(heading, `## ${version} (${new Date().toISOString().slice(0, 10)})`))
}

if (run("git", "status", "--porcelain") !== "") {
  fail("commit first: the working tree is not clean")
}
const [before, after] = [parts(read().version)!, parts(version)!]
const difference = after.map((part, index) => part - before[index]!).find((part) => part !== 0) ?? 0
if (difference < 0) {
  fail(`${version} is not newer than ${read().version}`)
}
if (!values["skip-package-check"]) {
  run("npm", "run", "check-package")
}
dateChangelog()
if (values.repository !== undefined) {
  setRepository(values.repository)
}
run("npm", "version", "--no-git-tag-version", "--allow-same-version", version)
const found = problems()
if (found.length > 0) {
  // As it was, so that the next try begins from a clean tree.
  run("git", "checkout", "--quiet", "--", ".")
  expectNone(found)
}
run("git", "commit", "--quiet", "--all", "--message", `Release ${version}`)
run("git", "tag", "--annotate", `v${version}`, "--message", `Release ${version}`)
console.log(`${version} is ready. Publish it with: git push --follow-tags`)
