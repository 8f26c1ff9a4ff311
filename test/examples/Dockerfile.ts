/**
 * Does what a Dockerfile says, without a container engine: each stage is a
 * folder, empty at first, in which its RUN lines run.
 */
import { execFile } from "node:child_process"
import { cp, mkdir, readFile } from "node:fs/promises"
import { dirname, join } from "node:path"
import { promisify } from "node:util"

export interface Instruction {
  readonly keyword: string
  readonly text: string
}

export interface Stage {
  readonly image: string
  readonly name: string | undefined
  readonly instructions: ReadonlyArray<Instruction>
}

export const parse = (dockerfile: string): ReadonlyArray<Stage> => {
  const stages: Array<{ image: string; name: string | undefined; instructions: Array<Instruction> }> = []
  const lines = dockerfile.split("\n").filter((line) => !/^\s*(#|$)/.test(line)).join("\n").replaceAll(/\\\n/g, "")
  for (const line of lines.split("\n")) {
    const [, keyword = "", text = ""] = /^(\S+)\s+(.*)$/.exec(line) ?? []
    if (keyword === "FROM") {
      const [, image = "", name] = /^(\S+)(?: AS (\S+))?$/.exec(text) ?? []
      stages.push({ image, name, instructions: [] })
    } else {
      stages.at(-1)!.instructions.push({ keyword, text })
    }
  }
  return stages
}

/** The list that CMD is given. */
export const commandOf = (stage: Stage): ReadonlyArray<string> =>
  JSON.parse(stage.instructions.findLast(({ keyword }) => keyword === "CMD")!.text)

/** What of the context reaches the engine: of a `.dockerignore` that names all, and then what not to ignore. */
const allowed = async (context: string): Promise<ReadonlySet<string>> => {
  const lines = (await readFile(join(context, ".dockerignore"), "utf8")).split("\n").filter((line) =>
    /^[^#]/.test(line)
  )
  if (lines[0] !== "*" || lines.slice(1).some((line) => !line.startsWith("!"))) {
    throw new Error(`A .dockerignore of this kind is not known here: ${lines.join(" ")}`)
  }
  return new Set(lines.slice(1).map((line) => line.slice(1)))
}

export interface Built {
  /** The working directory of the last stage. */
  readonly directory: string
  readonly env: Readonly<Record<string, string>>
}

/** Builds all stages below `directory`, which is empty. */
export const build = async (
  stages: ReadonlyArray<Stage>,
  context: string,
  directory: string,
  env: Readonly<Record<string, string>>
): Promise<Built> => {
  const sources = await allowed(context)
  const rootOf = (stage: Stage) => join(directory, String(stages.indexOf(stage)))
  let built: Built | undefined
  for (const stage of stages) {
    const root = rootOf(stage)
    const own: Record<string, string> = {}
    let cwd = root
    await mkdir(root)
    for (const { keyword, text } of stage.instructions) {
      switch (keyword) {
        case "WORKDIR":
          cwd = join(root, text)
          await mkdir(cwd, { recursive: true })
          break
        case "ENV": {
          const [name = "", value = ""] = text.split("=")
          own[name] = value
          break
        }
        case "RUN":
          await promisify(execFile)("sh", ["-ec", text], { cwd, env: { ...env, ...own } })
          break
        case "COPY": {
          const words = text.split(" ")
          const from = words[0]!.startsWith("--from=") ? words.shift()!.slice("--from=".length) : undefined
          const target = words.pop()!
          const origin = from === undefined ? context : rootOf(stages.find(({ name }) => name === from)!)
          for (const source of words) {
            if (from === undefined && !sources.has(source)) {
              throw new Error(`.dockerignore leaves out ${source}`)
            }
            const to = target.endsWith("/") ? join(cwd, target, source.split("/").at(-1)!) : join(cwd, target)
            await mkdir(dirname(to), { recursive: true })
            await cp(join(origin, source), to, { recursive: true, verbatimSymlinks: true })
          }
          break
        }
        case "USER":
        case "EXPOSE":
        case "ENTRYPOINT":
        case "CMD":
          break
        default:
          throw new Error(`Not known here: ${keyword}`)
      }
    }
    built = { directory: cwd, env: own }
  }
  return built!
}
