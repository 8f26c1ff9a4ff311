/**
 * The licences of the packages whose code is in a bundle, as they ask for it.
 */
import type { Metafile } from "esbuild"
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { join, resolve } from "node:path"

/** The folder of the package that a file belongs to; `undefined` where it is our own. */
const packageOf = (file: string): string | undefined => {
  const match = /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(file)
  return match?.[1]
}

/** The folders of the packages in a bundle, below `root`. */
export const packagesIn = (metafile: Metafile, root: string): ReadonlyArray<string> =>
  [...new Set(Object.keys(metafile.inputs).map(packageOf).filter((folder) => folder !== undefined))]
    .map((folder) => resolve(root, folder)).toSorted()

const licenceFile = /^(licen[cs]e|copying|notice)(\.|$|-)/i

/** One text for all; fails where a package comes without its licence. */
export const notices = (folders: ReadonlyArray<string>): string => {
  const parts = folders.map((folder) => {
    const { license, name, version } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"))
    const files = readdirSync(folder).filter((file) => licenceFile.test(file))
    const texts = files.map((file) => readFileSync(join(folder, file), "utf8").trim())
    // A package of a repository with several has it at the top only.
    const text = texts.length > 0 ? texts.join("\n\n") : shared(folder)
    if (text === undefined) {
      throw new Error(`${name} is in the bundle, and its licence (${license}) is not in ${folder}`)
    }
    return `${name} ${version} (${license})\n\n${text}`
  })
  return `The command contains code of these packages:\n\n${parts.join(`\n\n${"-".repeat(80)}\n\n`)}\n`
}

/** The licence of the package that this one is a part of: `@effect/x` of `effect`. */
const shared = (folder: string): string | undefined => {
  const file = resolve(folder, "../../effect/LICENSE")
  return folder.includes("/@effect/") && existsSync(file) ? readFileSync(file, "utf8").trim() : undefined
}
