/**
 * The licences of the packages whose code is in a bundle, as they ask for it.
 */
import type { Metafile } from "esbuild"
import { readdirSync, readFileSync } from "node:fs"
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

const manifestOf = (folder: string) => JSON.parse(readFileSync(join(folder, "package.json"), "utf8"))

const textsIn = (folder: string): ReadonlyArray<string> =>
  readdirSync(folder).filter((file) => licenceFile.test(file)).map((file) =>
    readFileSync(join(folder, file), "utf8").trim()
  )

/** Of a repository with several packages, some have its licence with them: those stand for the others. */
const textOf = (folder: string, folders: ReadonlyArray<string>): string | undefined => {
  const { repository } = manifestOf(folder)
  const siblings = folders.filter((other) => manifestOf(other).repository?.url === repository?.url)
  return [folder, ...siblings].map(textsIn).find((texts) => texts.length > 0)?.join("\n\n")
}

/** One text for all; fails where a package comes without its licence. */
export const notices = (folders: ReadonlyArray<string>): string => {
  const parts = folders.map((folder) => {
    const { license, name, version } = manifestOf(folder)
    const text = textOf(folder, folders)
    if (text === undefined) {
      throw new Error(`${name} is in the bundle, and its licence (${license}) is not in ${folder}`)
    }
    return `${name} ${version} (${license})\n\n${text}`
  })
  return `The command contains code of these packages:\n\n${parts.join(`\n\n${"-".repeat(80)}\n\n`)}\n`
}
