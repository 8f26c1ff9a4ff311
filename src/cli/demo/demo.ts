/**
 * `effect-kubernetes-leader-election demo`: three candidates, and what can happen to a leader.
 *
 * @internal
 */
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Console from "effect/Console"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { KubernetesClient } from "../../kubernetes/KubernetesClient.ts"
import { status } from "../../kubernetes/KubernetesError.ts"
import { type CandidateEvent, decodeLine } from "../run/candidateEvent.ts"
import { exitCodes } from "../shared/exitCodes.ts"
import { CommandFailure } from "../shared/failure.ts"
import * as Options from "../shared/options.ts"
import * as Printable from "../shared/printable.ts"
import { gaps, measured, paint, render } from "../shared/timeline.ts"
import * as Screen from "../shared/timelineScreen.ts"
import { judge, type Term } from "./judge.ts"
import { writeKubeconfig } from "./kubeconfig.ts"
import * as Proxy from "./proxy.ts"
import * as Replica from "./replica.ts"

/** Short, so that the demo is, and long enough for a busy machine: a leader is lost after 3.3 s without a renewal. */
const leaseDuration = 5
const replicaCount = 3
/** What the axis has room for at first. */
const expectedSeconds = 35

const fail = (message: string) => new CommandFailure({ exitCode: exitCodes.failure, message })

const temporaryDirectory = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "leader-election-demo-"))),
  (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
)

interface Target extends Options.Connection {
  readonly namespace: string | undefined
}

/** The given cluster, or a server of our own that stands in for one. */
const makeTarget = Effect.fnUntraced(function*(options: Target, directory: string) {
  if (options.kubeconfig !== undefined) {
    return { file: options.kubeconfig, context: options.context }
  }
  for (const name of ["context", "namespace"] as const) {
    if (options[name] !== undefined) {
      return yield* new CommandFailure({
        exitCode: exitCodes.usage,
        message: `--${name} ${options[name]} needs --kubeconfig FILE: without it the demo runs on a server of its own`
      })
    }
  }
  // Imported here, because every candidate would load it otherwise.
  const { make } = yield* Effect.promise(() => import("../../testing/LeaseApiServer.ts"))
  const server = yield* Effect.mapError(make(), (error) => fail(error.message))
  return { file: yield* server.writeKubeconfig(join(directory, "kubeconfig")), context: undefined }
})

interface Handover {
  readonly what: string
  /** When it began: the monotonic clock, in milliseconds. */
  readonly from: number
  readonly expected: string
}

export const demo = Effect.fnUntraced(
  // oxlint-disable-next-line max-lines-per-function -- the demo's acts, in their order
  function*(options: Target) {
    const directory = yield* temporaryDirectory
    const target = yield* makeTarget(options, directory)
    const client = Context.get(
      yield* Layer.build(Options.layerClient({ kubeconfig: target.file, context: target.context })),
      KubernetesClient
    )
    const namespace = options.namespace ?? client.namespace ?? "default"
    const random = yield* Random.nextIntBetween(0, 36 ** 5 - 1)
    const name = `leader-election-demo-${random.toString(36).padStart(5, "0")}`
    const journal = join(directory, "journal")
    writeFileSync(journal, "")

    // Registered before any candidate is started, so that it runs when all of them have ended.
    yield* Effect.addFinalizer(() => deleteLease(client, namespace, name))

    const server = new URL(client.server)
    const port = Number(server.port || (server.protocol === "https:" ? 443 : 80))
    const replicas = yield* Effect.forEach(
      Array.from({ length: replicaCount }, (_, index) => `replica-${index + 1}`),
      Effect.fnUntraced(function*(label) {
        const proxy = yield* Proxy.make(server.hostname, port)
        const kubeconfig = yield* writeKubeconfig(target, proxy.port, join(directory, label))
        return Replica.make(label, proxy, kubeconfig)
      })
    )

    // --- What is shown ---

    // The axis begins with the first candidate, however long processes take to start here.
    let firstStarted: number | undefined
    const since = (at: number) => at - (firstStarted ?? at)
    const screen = yield* Screen.make
    const { colors } = screen
    const printed: Array<string> = []
    const say = (text: string, at: number, color?: string) => {
      const line = `${(since(at) / 1000).toFixed(1).padStart(5)} s  ${paint(Printable.line(text), color, colors)}`
      printed.push(line)
      return screen.isLive ? Effect.void : Console.log(line)
    }
    const title =
      `Three replicas on the Lease ${namespace}/${name} (${client.server}), leaseDuration ${leaseDuration} s`
    const picture = Effect.gen(function*() {
      const now = yield* Replica.now
      const zero = firstStarted ?? now
      const rows = replicas.map(Replica.toRow)
      return render({
        rows: [...rows, { label: "nobody", spans: gaps(rows, now) }],
        zero,
        from: zero,
        to: Math.max(now, zero + expectedSeconds * 1000),
        now,
        width: yield* screen.width,
        colors
      })
    })
    const draw = Effect.flatMap(picture, (lines) => screen.draw([title, "", ...lines, "", ...printed.slice(-12)]))
    if (screen.isLive) {
      yield* draw.pipe(Effect.andThen(Effect.sleep("100 millis")), Effect.forever, Effect.forkScoped)
    } else {
      yield* Console.log(title)
    }

    // --- The candidates ---

    const run = Effect.runSyncWith(yield* Effect.context<never>())
    const setup: Replica.Setup = {
      name,
      namespace,
      leaseDuration: `${leaseDuration}s`,
      journal,
      exits: new Map(),
      onEvent: (replica, event) => {
        firstStarted ??= event.mono
        const line = describe(event)
        if (line !== undefined) {
          run(say(`${replica.label} ${line}`, event.mono, event.event === "leading" ? "32" : undefined))
        }
      }
    }
    const start = (replica: Replica.Replica) => Replica.start(replica, setup)
    const waitFor = <A>(what: string, find: () => A | undefined): Effect.Effect<A, CommandFailure> =>
      Effect.gen(function*() {
        while (true) {
          const found = find()
          if (found !== undefined) {
            return found
          }
          yield* Effect.sleep("20 millis")
        }
      }).pipe(
        Effect.timeoutOrElse({
          duration: Duration.seconds(4 * leaseDuration),
          orElse: () => Effect.fail(fail(`${what}: not within ${4 * leaseDuration} s\n${logs(replicas)}`))
        })
      )
    const leader = () => replicas.find(Replica.leads)

    // --- What happens ---

    const handovers: Array<Handover> = []
    /** Does something to the leader, and waits until another one leads. */
    const act = Effect.fnUntraced(function*(
      what: string,
      expected: string,
      deed: (leader: Replica.Replica) => Effect.Effect<void>
    ) {
      yield* Effect.sleep("3 seconds")
      const former = yield* waitFor("nobody leads", leader)
      const from = yield* Replica.now
      yield* say(`${former.label}: ${what}`, from, "1")
      handovers.push({ what, from, expected })
      yield* Effect.forkScoped(deed(former), { startImmediately: true })
      yield* waitFor(
        `nobody leads after ${former.label}: ${what}`,
        () => replicas.find((replica) => replica !== former && Replica.leads(replica))
      )
      return former
    })
    const restart = Effect.fnUntraced(function*(replica: Replica.Replica) {
      yield* waitFor(`${replica.label} has not ended`, () => replica.process === undefined ? replica : undefined)
      yield* Effect.sleep("1 second")
      yield* start(replica)
    })

    yield* Effect.forEach(replicas, start, { discard: true })
    yield* waitFor("nobody leads", leader)
    handovers.push({
      what: "first start",
      from: firstStarted ?? (yield* Replica.now),
      expected: `${leaseDuration} s: a new Lease may hide an old leader`
    })
    yield* restart(
      yield* act(
        "asked to stop (SIGTERM)",
        "milliseconds after the end of its program",
        (replica) => Replica.kill(replica, "SIGTERM")
      )
    )
    yield* restart(
      yield* act(
        "killed (SIGKILL)",
        `at the lease's end: at most ${leaseDuration} s`,
        (replica) => Replica.kill(replica, "SIGKILL")
      )
    )
    const former = yield* act(
      "cut off from the API server",
      `at the lease's end: at most ${leaseDuration} s`,
      (replica) => Replica.setCut(replica, true)
    )
    yield* Effect.sleep("2 seconds")
    yield* say(`${former.label}: connected again`, yield* Replica.now, "1")
    yield* Replica.setCut(former, false)
    yield* Effect.sleep("2 seconds")

    // Followers first, so that nobody takes over.
    yield* say("all are asked to stop", yield* Replica.now, "1")
    const last = leader()
    yield* Effect.forEach(
      replicas.filter((replica) => replica !== last),
      (replica) => Replica.kill(replica, "SIGTERM"),
      { concurrency: "unbounded", discard: true }
    )
    yield* Effect.forEach(replicas, (replica) => Replica.kill(replica, "SIGTERM"), { discard: true })
    yield* waitFor("a replica has not ended", () => replicas.every(({ process }) => process === undefined) || undefined)

    // --- What came of it ---

    const { problems, terms } = judge(readJournal(journal), setup.exits)
    // On a machine that is too busy a leader may be lost in between: that breaks no promise.
    const broken = terms.length >= handovers.length
      ? problems
      : [...problems, `there were ${terms.length} terms, and ${handovers.length} were expected`]
    const report = [
      ...summary(handovers, terms),
      broken.length === 0
        ? paint("No two led at once, and fencing tokens only grew.", "32", colors)
        : paint("Broken promises:", "31", colors)
    ]
    if (screen.isLive) {
      yield* draw
      yield* Console.log(["", ...report].join("\n"))
    } else {
      yield* Console.log(["", ...yield* picture, "", ...report].join("\n"))
    }
    if (broken.length > 0) {
      return yield* fail(`${broken.join("\n")}\n${logs(replicas)}`)
    }
  },
  Effect.scoped
)

/** A line for what a candidate reports, where it matters on the screen. */
const describe = (event: CandidateEvent): string | undefined => {
  switch (event.event) {
    case "pending":
      return `holds the Lease (${event.cause}), and waits until no earlier leader can be left`
    case "leading":
      return `leads (${event.cause}), fencing token ${event.fencingToken}`
    case "lost":
      return `has lost its term (${event.reason}): its program is stopped`
    case "ending":
      return "ends its program"
    case "error":
      return `gives up: ${event.message}`
    default:
      return undefined
  }
}

const readJournal = (file: string): ReadonlyArray<CandidateEvent> =>
  readFileSync(file, "utf8").split("\n").flatMap((line) => Option.toArray(decodeLine(line)))

const logs = (replicas: ReadonlyArray<Replica.Replica>): string =>
  replicas.flatMap(({ label, log }) => log.map((line) => `${label}: ${line}`)).join("\n")

const summary = (handovers: ReadonlyArray<Handover>, terms: ReadonlyArray<Term>): ReadonlyArray<string> => {
  const rows = handovers.map(({ expected, from, what }) => {
    const index = terms.findIndex((term) => term.from > from)
    const term = terms[index]
    const before = terms[index - 1]
    return [
      what,
      term === undefined ? "never" : measured(term.from - from),
      term === undefined || before === undefined ? "" : measured(Math.max(0, term.from - before.ended)),
      term === undefined ? "" : `${term.identity}, token ${term.fencingToken}`,
      expected
    ]
  })
  const table = [["handover", "took", "nobody led", "next leader", "expected"], ...rows]
  const widths = table[0]!.map((_, column) => Math.max(...table.map((row) => row[column]!.length)))
  const steps = terms.reduce((sum, term) => sum + term.steps, 0)
  return [
    ...table.map((row) => row.map((cell, column) => cell.padEnd(widths[column]!)).join("   ").trimEnd()),
    "",
    `The programs' own journal has ${terms.length} terms with ${steps} steps, ` +
    `fencing tokens ${terms.map(({ fencingToken }) => fencingToken).join(" < ")}.`
  ]
}

const deleteLease = (client: KubernetesClient["Service"], namespace: string, name: string) =>
  client.request({
    method: "DELETE",
    path: `/apis/coordination.k8s.io/v1/namespaces/${encodeURIComponent(namespace)}/leases/${name}`
  }).pipe(
    Effect.catchIf(
      (error) => status(error) === 404,
      () => Effect.void
    ),
    Effect.catch((error) => Effect.logWarning(`The demo's Lease ${namespace}/${name} is left: ${error.message}`)),
    Effect.asVoid
  )

export const command = Command.make(
  "demo",
  {
    kubeconfig: Options.text(
      "kubeconfig",
      "FILE",
      "Kubeconfig of a cluster (else the demo runs on a server of its own)"
    ),
    context: Options.connection.context,
    namespace: Options.text(
      "namespace",
      "NAMESPACE",
      "Namespace of the Lease (else that of the context, or default)"
    ).pipe(Flag.withAlias("n"))
  },
  demo
).pipe(
  Command.withShortDescription("Watch three candidates hand leadership over"),
  Command.withDescription(
    "Watch three candidates elect a leader: one leader is stopped, one killed, one cut off from the API server.\n\n" +
      "Runs on a server of its own, or with --kubeconfig on a cluster. Takes about 40 seconds; ends with 0 only if no\n" +
      "two led at once."
  ),
  Command.withExamples([
    { command: "effect-kubernetes-leader-election demo", description: "Needs nothing but Node" },
    {
      command: "effect-kubernetes-leader-election demo --kubeconfig ~/.kube/config --namespace default",
      description: "On a cluster"
    }
  ])
)
