/**
 * The replicas of the demo: candidate processes, each behind a connection that
 * can be cut, and what is seen of them.
 *
 * @internal
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as ChildProcess from "effect/process/ChildProcess"
import * as ChildProcessSpawner from "effect/process/ChildProcessSpawner"
import * as Stream from "effect/Stream"
import { variables } from "../../LeaderElectionConfig.ts"
import { type CandidateEvent, decodeLine } from "../run/candidateEvent.ts"
import type { Phase, Row, Span } from "../shared/timeline.ts"
import type { Proxy } from "./proxy.ts"

/** One replica, over all of its restarts. */
export interface Replica {
  readonly label: string
  readonly proxy: Proxy
  readonly kubeconfig: string
  /** The process, while it runs. */
  process: ChildProcessSpawner.ChildProcessHandle | undefined
  /** What was reported last; `undefined` while no process runs. */
  event: CandidateEvent["event"] | undefined
  fencingToken: string | undefined
  cut: boolean
  readonly spans: Array<{ -readonly [Field in keyof Span]: Span[Field] }>
  /** The last lines of stderr. */
  readonly log: Array<string>
}

export const make = (label: string, proxy: Proxy, kubeconfig: string): Replica => ({
  label,
  proxy,
  kubeconfig,
  process: undefined,
  event: undefined,
  fencingToken: undefined,
  cut: false,
  spans: [],
  log: []
})

/** The monotonic clock, in milliseconds: as in the candidates' lines. */
export const now: Effect.Effect<number> = Effect.map(
  Clock.Clock,
  (clock) => Number(clock.monotonicTimeNanosUnsafe()) / 1e6
)

export const leads = (replica: Replica): boolean => replica.event === "leading" || replica.event === "step"

const phaseOf = (replica: Replica): Phase | undefined => {
  switch (replica.event) {
    case "leading":
    case "step":
      return replica.cut ? "leadsCut" : "leads"
    case "lost":
    case "ending":
      return "ends"
    case "pending":
      return replica.cut ? "cut" : "holds"
    case "started":
    case "idle":
    case "following":
    case "ended":
      return replica.cut ? "cut" : "follows"
    default:
      return undefined
  }
}

/** Brings the row up to date after a change. */
const draw = (replica: Replica, at: number): void => {
  const phase = phaseOf(replica)
  const last = replica.spans.at(-1)
  if (last?.to === undefined) {
    if (last?.phase === phase) {
      return
    }
    if (last !== undefined) {
      last.to = at
    }
  }
  if (phase !== undefined) {
    replica.spans.push({ phase, from: at, to: undefined })
  }
}

export const toRow = (replica: Replica): Row => ({
  label: replica.label,
  spans: replica.spans,
  note: leads(replica) ? `token ${replica.fencingToken}` : ""
})

export const setCut = (replica: Replica, cut: boolean): Effect.Effect<void> =>
  Effect.gen(function*() {
    yield* cut ? replica.proxy.cut : replica.proxy.restore
    replica.cut = cut
    draw(replica, yield* now)
  })

export interface Setup {
  readonly name: string
  readonly namespace: string
  readonly leaseDuration: string
  readonly journal: string
  /** Called for each line of a candidate. */
  readonly onEvent: (replica: Replica, event: CandidateEvent) => void
  /** When each process was gone: the monotonic clock, in milliseconds. */
  readonly exits: Map<number, number>
}

// A candidate of the demo is given everything; nothing of what surrounds the demo may change it.
const foreign = ["KUBERNETES_SERVICE_HOST", "POD_NAME", "POD_UID", "POD_NAMESPACE", ...Object.values(variables)]

/** Whether this is the standalone executable. Neither Bun nor Deno has the module. */
function isExecutable(): boolean {
  const sea: { readonly isSea: () => boolean } | undefined = process.getBuiltinModule("node:sea")
  return sea?.isSea() === true
}

/** The file of the command; the standalone executable has none, and needs none. */
const script: ReadonlyArray<string> = isExecutable() ? [] : [process.argv[1] ?? ""]

/** Starts the replica's process. It is asked to end, and waited for, when the scope closes. */
export const start = Effect.fnUntraced(function*(replica: Replica, setup: Setup) {
  const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
  const handle = yield* spawner.spawn(ChildProcess.make(process.execPath, [
    ...process.execArgv,
    ...script,
    "candidate",
    `--kubeconfig=${replica.kubeconfig}`,
    `--namespace=${setup.namespace}`,
    `--name=${setup.name}`,
    `--identity=${replica.label}`,
    `--lease-duration=${setup.leaseDuration}`,
    `--journal=${setup.journal}`,
    "--step=50ms",
    "--ending=200ms",
    `--parent=${process.pid}`
  ], {
    env: Object.fromEntries(foreign.map((name) => [name, undefined])),
    extendEnv: true,
    stdin: "ignore",
    forceKillAfter: "10 seconds"
  }))
  replica.process = handle
  const onLine = (line: string) => {
    const event = Option.getOrUndefined(decodeLine(line))
    if (event !== undefined) {
      replica.event = event.event
      replica.fencingToken = event.fencingToken ?? replica.fencingToken
      draw(replica, event.mono)
      setup.onEvent(replica, event)
    }
  }
  const lines = handle.stdout.pipe(
    Stream.decodeText(),
    Stream.splitLines,
    Stream.runForEach((line) => Effect.sync(() => onLine(line)))
  )
  const log = handle.stderr.pipe(
    Stream.decodeText(),
    Stream.splitLines,
    Stream.runForEach((line) =>
      Effect.sync(() => {
        replica.log.push(line)
        replica.log.splice(0, replica.log.length - 20)
      })
    )
  )
  const gone = Effect.gen(function*() {
    // Fails where a signal has ended it: gone is gone.
    yield* Effect.exit(handle.exitCode)
    const at = yield* now
    setup.exits.set(handle.pid, at)
    return at
  })
  // What it has written last may be read after it is gone.
  yield* Effect.all([gone, Effect.ignore(lines), Effect.ignore(log)], { concurrency: "unbounded" }).pipe(
    Effect.map(([at]) => {
      replica.process = undefined
      replica.event = undefined
      draw(replica, at)
    }),
    Effect.tapCause((cause) => Cause.hasInterruptsOnly(cause) ? Effect.void : Effect.logError(cause)),
    Effect.forkScoped({ startImmediately: true })
  )
})

/** Sends a signal, and waits until the process is gone. */
export const kill = (replica: Replica, killSignal: "SIGTERM" | "SIGKILL"): Effect.Effect<void> =>
  Effect.suspend(() =>
    replica.process === undefined ? Effect.void : Effect.ignore(replica.process.kill({ killSignal }))
  )
