/**
 * Kubeconfigs by the thousand, before client-go and before this library: both have to make the same of each, or the case
 * has to be one of the few exceptions that are named here.
 */
import { Arbitrary, Effect, Queue } from "effect"
import { spawn } from "node:child_process"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { isDeepStrictEqual } from "node:util"
import { besides, type Case, cases, unique } from "./cases.ts"
import * as Ours from "./ours.ts"

/** What of a family C can be seen before a request is sent. */
export const families = [
  "C1",
  "C2",
  "C3",
  "C5",
  "C6",
  "C7",
  "C8",
  "C9",
  "C10",
  "C12",
  "C14",
  "C15",
  "C18",
  "C19"
] as const

/**
 * Where this library differs on purpose. Each is narrower than a family, and together they are at most 2 % of the cases.
 */
export const exceptions: ReadonlyArray<{
  readonly name: string
  readonly applies: (theirs: Ours.Answer, ours: Ours.Answer, asked: Case) => boolean
}> = [
  {
    // kubectl sends none, and is refused as nobody. Here they are sent on this machine, and elsewhere nothing is.
    name: "credentials over plain http",
    applies: (theirs, ours) =>
      theirs.server?.startsWith("http://") === true &&
      (/has no TLS/.test(ours.refused ?? "") ||
        (ours.server === normalServer(theirs.server) && ours.namespace === theirs.namespace))
  },
  {
    // kubectl takes it for plain http without credentials, which is never what is meant.
    name: "a server without a scheme",
    applies: (theirs, ours) =>
      theirs.server?.startsWith("http://") === true && /is not a URL with https or http/.test(ours.refused ?? "")
  },
  {
    // kubectl goes on as nobody.
    name: "a context whose user is missing",
    applies: (theirs, ours) =>
      theirs.server !== undefined && /names the user .*, which it lacks/.test(ours.refused ?? "")
  },
  {
    // kubectl does not look at credentials for plain http, so that they may be wrong there.
    name: "credentials that are wrong, and of no use to plain http",
    applies: (theirs, ours) => theirs.server?.startsWith("http://") === true && ours.refused !== undefined
  }
]

export interface Report {
  readonly runs: number
  readonly agreed: number
  readonly refused: number
  readonly families: Readonly<Record<string, number>>
  readonly exceptions: Readonly<Record<string, number>>
  /** The first case that is neither agreed on nor an exception, as small as it could be made. */
  readonly difference: { readonly asked: Case; readonly theirs: Ours.Answer; readonly ours: Ours.Answer } | undefined
  readonly replay: string | undefined
}

const normalServer = (server: string | undefined): string | undefined =>
  server === undefined ? undefined : new URL(server).href.replace(/\/+$/, "")

const normalProxy = (proxy: string | undefined): string => proxy ? new URL(proxy).href.replace(/\/$/, "") : ""

/** What is the same said in two ways. */
const normal = (answer: Ours.Answer) =>
  answer.refused !== undefined ? { refused: true } : {
    ...answer,
    server: normalServer(answer.server),
    proxy: normalProxy(answer.proxy),
    headers: answer.headers ?? {},
    exec: answer.exec === undefined ? undefined : {
      ...answer.exec,
      args: answer.exec.args ?? [],
      env: answer.exec.env ?? [],
      info: normalInfo(answer.exec.info)
    }
  }

const normalInfo = (info: any) =>
  info.spec.cluster?.server === undefined
    ? info
    : {
      ...info,
      spec: { ...info.spec, cluster: { ...info.spec.cluster, server: normalServer(info.spec.cluster.server) } }
    }

export const agree = (theirs: Ours.Answer, ours: Ours.Answer): boolean =>
  isDeepStrictEqual(JSON.parse(JSON.stringify(normal(theirs))), JSON.parse(JSON.stringify(normal(ours))))

/** client-go, as a process that answers line by line. */
const startOracle = (program: string) =>
  Effect.gen(function*() {
    const child = yield* Effect.acquireRelease(
      Effect.sync(() => spawn(program, { stdio: ["pipe", "pipe", "ignore"], env: { HOME: "/nonexistent" } })),
      (child) => Effect.sync(() => child.kill("SIGKILL"))
    )
    const answers = yield* Queue.make<Ours.Answer>()
    createInterface({ input: child.stdout }).on("line", (line) => Queue.offerUnsafe(answers, JSON.parse(line)))
    return (question: Ours.Question) =>
      Effect.suspend(() => {
        child.stdin.write(`${JSON.stringify(question)}\n`)
        return Queue.take(answers)
      })
  })

let written = 0

const folders = ["a", "b", "c"]

const prepare = (folder: string) => {
  for (const name of folders) {
    mkdirSync(join(folder, name))
    for (const file of besides) writeFileSync(join(folder, name, file.name), file.text!)
  }
}

const write = (folder: string, { files }: Case) => {
  written++
  for (const name of folders) rmSync(join(folder, name, "config"), { force: true })
  for (const { name, text } of files) {
    if (text !== undefined) writeFileSync(join(folder, name), text.replaceAll(unique, `client-${written}`))
  }
}

/** Runs the comparison; stops at the first difference, which is then made smaller. */
export const compare = (options: {
  readonly program: string
  readonly runs: number
  readonly seed: string
  readonly replay?: string | undefined
  /** Instead of this library: with a rule that was broken on purpose. */
  readonly ours?: typeof Ours.resolve
}): Effect.Effect<Report> =>
  Effect.scoped(Effect.gen(function*() {
    const folder = yield* Effect.acquireRelease(
      Effect.sync(() => mkdtempSync(join(tmpdir(), "kubeconfig-oracle-"))),
      (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
    )
    prepare(folder)
    const oracle = yield* startOracle(options.program)
    const counts = { agreed: 0, refused: 0 }
    const reached: Record<string, number> = Object.fromEntries(families.map((name) => [name, 0]))
    const excepted: Record<string, number> = Object.fromEntries(exceptions.map(({ name }) => [name, 0]))
    let difference: Report["difference"]

    const check = Effect.fnUntraced(function*(asked: Case) {
      write(folder, asked)
      const path = (name: string) => name === "" ? "" : join(folder, name)
      const question: Ours.Question = {
        list: asked.list.map(path).join(":"),
        explicit: path(asked.explicit ?? ""),
        context: asked.context ?? "",
        env: asked.env
      }
      const [theirs, ours] = yield* Effect.all([oracle(question), (options.ours ?? Ours.resolve)(question)])
      for (const name of families) {
        if (asked.tags.has(name) || (name === "C14" && theirs.tls?.ca === "" && !theirs.tls.insecure)) reached[name]!++
      }
      if (theirs.refused !== undefined) counts.refused++
      if (agree(theirs, ours)) {
        counts.agreed++
        return true
      }
      const exception = exceptions.find(({ applies }) => applies(theirs, ours, asked))
      if (exception !== undefined) {
        excepted[exception.name]!++
        return true
      }
      difference = { asked, theirs, ours }
      return false
    })

    const result = yield* Arbitrary.checkEffect(cases, check, {
      runs: options.runs,
      seed: options.seed,
      maxShrinks: 2_000,
      ...(options.replay !== undefined && { replay: options.replay })
    })
    return {
      runs: "runs" in result ? result.runs : 0,
      ...counts,
      families: reached,
      exceptions: excepted,
      difference: result._tag === "Passed" ? undefined : difference,
      replay: result._tag === "Falsified" ? result.replay : undefined
    }
  }))
