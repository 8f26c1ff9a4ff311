/**
 * The package on each runtime: the local server, the README's smallest app, the promise entry, the guard and the command.
 */
import { readFileSync } from "node:fs"
import { electionEnvironment, packageJson, type Project } from "./project.ts"

const runtimes: Readonly<Record<string, readonly [command: string, ...args: ReadonlyArray<string>]>> = {
  node22: ["node_modules/node22/bin/node"],
  node24: ["node_modules/node24/bin/node"],
  node26: ["node_modules/node26/bin/node"],
  bun: ["node_modules/bun/bin/bun.exe"],
  deno: ["node_modules/deno/deno", "run", "--allow-all", "--node-modules-dir=manual", "--no-check"]
}

const promises = `
import { runAsLeader } from "effect-kubernetes-leader-election/promise"

const controller = new AbortController()
const token = await runAsLeader({ signal: controller.signal, onLog: () => {} }, async (leadership) => {
  leadership.ensure()
  await leadership.confirm()
  return leadership.fencingToken
})
console.log("token: " + typeof token)
process.exit(0)
`

const guarded = `
import { Effect, Layer } from "effect"
import { LeaderElection, LocalLeaderElection, TermGuard } from "effect-kubernetes-leader-election"

const block = Effect.sync(() => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20_000))
const Live = Layer.mergeAll(LocalLeaderElection.layer({ leaseDuration: "2 seconds" }), TermGuard.layer)
await Effect.runPromise(LeaderElection.whileLeading(block).pipe(Effect.provide(Live)))
`

const bin = `node_modules/.bin/${Object.keys(packageJson.bin)[0]}`

const expect = (ok: boolean, message: string) => {
  if (!ok) {
    throw new Error(message)
  }
}

/** Who holds a Lease of the local server. */
const holder = async (kubeconfig: string, name: string): Promise<string> => {
  const text = readFileSync(kubeconfig, "utf8")
  const server = /"?server"?: *"?([^"\s,]+)/.exec(text)![1]!
  const token = /"?token"?: *"?([^"\s,]+)/.exec(text)?.[1]
  const response = await fetch(`${server}/apis/coordination.k8s.io/v1/namespaces/default/leases/${name}`, {
    headers: token === undefined ? {} : { authorization: `Bearer ${token}` }
  })
  const lease = await response.json() as { readonly spec?: { readonly holderIdentity?: string } }
  return lease.spec?.holderIdentity ?? ""
}

const checkRuntime = async (project: Project, name: string) => {
  const [command, ...args] = runtimes[name]!
  const version = project.run(command, ["--version"]).trim().split("\n")[0]
  const server = project.start(command, [...args, "server.ts"])
  const kubeconfig = project.path((await server.output(/kubeconfig: (.*)/))[1]!)

  const app = project.start(command, [...args, "app.ts"], electionEnvironment(kubeconfig, "app"))
  await app.output(/Sending invoices/)
  expect(await holder(kubeconfig, "app") !== "", "the app leads and the Lease has no holder")
  app.signal("SIGTERM")
  await app.ended
  expect(await holder(kubeconfig, "app") === "", "the app has ended and the Lease still has its holder")

  project.write("promises.mjs", promises)
  const promised = project.run(command, [...args, "promises.mjs"], electionEnvironment(kubeconfig, "promises"))
  expect(promised.includes("token: bigint"), `the promise entry: ${promised}`)

  project.write("guarded.mjs", guarded)
  const blocked = project.try(command, [...args, "guarded.mjs"])
  expect(
    blocked.status === null && blocked.output.includes("its event loop is blocked although the term on"),
    `the guard did not end a blocked process: ${blocked.status}\n${blocked.output}`
  )

  const printed = project.run(command, [...args, bin, "--version"]).trim()
  expect(printed.includes(packageJson.version), `--version printed "${printed}" and not ${packageJson.version}`)
  const ran = project.try(
    command,
    [...args, bin, "run", "--", "sh", "-c", "echo child; exit 3"],
    electionEnvironment(kubeconfig, "run")
  )
  expect(ran.status === 3 && ran.output.includes("child"), `run ended with ${ran.status}\n${ran.output}`)

  server.signal("SIGTERM")
  await server.ended
  console.log(
    `${
      /^v?\d/.test(version!) ? name.replace(/\d+/, "") + " " : ""
    }${version}: server, app, promises, guard and command work`
  )
}

/** The demo, from the package alone: it judges itself. */
export const checkDemo = async (project: Project): Promise<void> => {
  const [command, ...args] = runtimes["node24"]!
  const demo = project.start(command, [...args, bin, "demo"], { PATH: process.env["PATH"], HOME: process.env["HOME"] })
  const code = await demo.ended
  expect(code === 0, `the demo ended with ${code}`)
  console.log("demo: runs from the package alone, and finds no two leaders")
}

export const checkRuntimes = async (project: Project, names: ReadonlyArray<string>): Promise<void> => {
  const failures: Array<Error> = []
  for (const name of names.length === 0 ? Object.keys(runtimes) : names) {
    try {
      await checkRuntime(project, name)
    } catch (error) {
      failures.push(new Error(`on ${name}`, { cause: error }))
    }
  }
  if (failures.length > 0) {
    throw new AggregateError(failures)
  }
}
