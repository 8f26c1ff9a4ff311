/**
 * `effect-kubernetes-leader-election run`: waits for leadership, then runs a command, and ends it
 * before another can lead.
 *
 * @internal
 */
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Stdio from "effect/Stdio"
import { LeaderElection, whileLeadingForever } from "../../LeaderElection.ts"
import * as LeaderElectionConfig from "../../LeaderElectionConfig.ts"
import { Leadership } from "../../Leadership.ts"
import { exitCodes, ofSignal } from "../shared/exitCodes.ts"
import { CommandFailure } from "../shared/failure.ts"
import * as Options from "../shared/options.ts"
import * as Child from "./child.ts"
import * as Guard from "./guard.ts"
import * as Separator from "./separator.ts"

// -----------------------------------------------------------------------------
// Signals
// -----------------------------------------------------------------------------

const passedOn = ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH"] as const

/** These two mean the end; with SIGHUP many programs read their configuration again, and SIGQUIT is for them to read. */
const meansTheEnd = (signal: NodeJS.Signals): boolean => signal === "SIGTERM" || signal === "SIGINT"

/**
 * These end `run` where there is no COMMAND to pass them on to: SIGQUIT, too,
 * which some images have as their stop signal, and SIGHUP where it says that the
 * terminal is gone.
 */
const endsAlone = (signal: NodeJS.Signals): boolean =>
  meansTheEnd(signal) || signal === "SIGQUIT" || (signal === "SIGHUP" && process.stdin.isTTY === true)

/** A terminal sends these to everything that runs in it. */
const fromTerminal: ReadonlySet<NodeJS.Signals> = new Set(["SIGINT", "SIGQUIT", "SIGWINCH"])

/**
 * Which signals have come, and where they go.
 *
 * While COMMAND runs, all are passed on to it: it decides what they mean, and
 * `run` goes on until it has ended. Before and after, some of them end `run`.
 */
interface Signals {
  child: Child.Child | undefined
  /** The first that means the end. */
  stop: NodeJS.Signals | undefined
  /** Done with it, whatever it was for. */
  readonly stopping: Deferred.Deferred<NodeJS.Signals>
  /** Done with it where there was no COMMAND to pass it on to, or is none any more. */
  readonly stopped: Deferred.Deferred<NodeJS.Signals>
}

const listen: Effect.Effect<Signals, never, Scope.Scope> = Effect.gen(function*() {
  const signals: Signals = {
    child: undefined,
    stop: undefined,
    stopping: Deferred.makeUnsafe(),
    stopped: Deferred.makeUnsafe()
  }
  const onSignal = (signal: NodeJS.Signals) => {
    if (signals.child === undefined ? endsAlone(signal) : meansTheEnd(signal)) {
      signals.stop ??= signal
      Deferred.doneUnsafe(signals.stopping, Exit.succeed(signal))
      if (signals.child === undefined) {
        Deferred.doneUnsafe(signals.stopped, Exit.succeed(signal))
      }
    }
    if (signals.child !== undefined) {
      if (fromTerminal.has(signal)) {
        signals.child.group.signal(signal)
      } else {
        signals.child.signal(signal)
      }
    }
  }
  yield* Effect.acquireRelease(
    Effect.sync(() => {
      for (const signal of passedOn) {
        process.on(signal, onSignal)
      }
    }),
    () =>
      Effect.sync(() => {
        for (const signal of passedOn) {
          process.off(signal, onSignal)
        }
      })
  )
  return signals
})

// -----------------------------------------------------------------------------
// One term
// -----------------------------------------------------------------------------

interface Plan {
  readonly command: string
  readonly args: ReadonlyArray<string>
  readonly killAfter: Duration.Duration | undefined
  readonly again: boolean
}

/** Before others can take the Lease, with the time that a signal takes to work. */
const killMargin = Duration.millis(100)

/** What COMMAND leaves behind when it has ended by itself. */
const leftBehind = Duration.seconds(2)

/**
 * Runs COMMAND, and gives its exit code, or why it could not be started: then
 * the term ends in good order, and `run` has that to say, once. Interrupted when
 * the term is lost: COMMAND has ended then.
 */
const runCommand = Effect.fnUntraced(
  function*(plan: Plan, signals: Signals) {
    const leadership = yield* Leadership
    const election = yield* LeaderElection
    const { settings } = election

    const left = leadership.untilOverrun
    const guard = yield* Guard.make()
    if (signals.stop !== undefined) {
      // Asked to end at the moment at which the term began: no COMMAND is started any more.
      return yield* Effect.never
    }
    const child = yield* Effect.acquireRelease(
      Effect.gen(function*() {
        const child = yield* Child.spawn(plan.command, plan.args, {
          ...process.env,
          ...LeaderElectionConfig.toEnvironment(settings),
          LEADER_ELECTION_FENCING_TOKEN: String(leadership.fencingToken),
          LEADER_ELECTION_TRANSITIONS: String(leadership.transitions)
        })
        signals.child = child
        guard?.watch(child.pid, yield* left)
        return child
      }),
      (child, exit) =>
        Effect.gen(function*() {
          if (Exit.isSuccess(exit)) {
            // It has ended by itself, and there will be no other: no signal can change how `run` ends now.
            return
          }
          const limit = yield* left
          // What it received last may be older than the last renewal.
          guard?.extend(limit)
          yield* Child.end(child, Duration.max(Duration.subtract(limit, killMargin), Duration.zero))
          signals.child = undefined
          if (signals.stop !== undefined && plan.again) {
            Deferred.doneUnsafe(signals.stopped, Exit.succeed(signals.stop))
          }
        })
    )
    yield* Effect.logInfo(`Started ${plan.command} (pid ${child.pid})`)
    if (guard !== undefined) {
      yield* Effect.forkScoped(keepAlive(guard, left, settings.renewInterval))
    }
    yield* Effect.forkScoped(killAfter(plan, signals, child))

    const ended = yield* child.ending
    if (ended.signal === "SIGKILL") {
      // By the guard, perhaps, while this process was stopped.
      yield* leadership.ensure
    }
    const exitCode = Child.exitCodeOf(ended)
    yield* Effect.logInfo(
      ended.signal === null
        ? `${plan.command} has ended with ${exitCode}`
        : `${plan.command} was ended by ${ended.signal}`
    )
    // What it left behind in its group would go on beside the next leader.
    yield* Child.end(child, leftBehind)
    return exitCode
  },
  Effect.scoped,
  Effect.catchTag("CommandFailure", (failure) => Effect.succeed(failure))
)

/** Lets the guard know how long COMMAND may run, often enough that it never acts on an old word while all is well. */
const keepAlive = Effect.fnUntraced(function*(
  guard: Guard.Guard,
  left: Effect.Effect<Duration.Duration>,
  renewInterval: Duration.Duration
) {
  while (true) {
    const limit = yield* left
    guard.extend(limit)
    yield* Effect.sleep(
      Duration.clamp(Duration.times(limit, 0.5), { minimum: Duration.millis(50), maximum: renewInterval })
    )
  }
})

/** After the first signal that ends a process, COMMAND has `killAfter` to do so. */
const killAfter = Effect.fnUntraced(function*(plan: Plan, signals: Signals, child: Child.Child) {
  if (plan.killAfter === undefined) {
    return
  }
  const signal = yield* Deferred.await(signals.stopping)
  yield* Effect.sleep(plan.killAfter)
  yield* Effect.logWarning(`COMMAND has not ended within --kill-after of ${signal}, and is killed`)
  child.group.signal("SIGKILL")
})

// -----------------------------------------------------------------------------
// The command
// -----------------------------------------------------------------------------

const run = Effect.fnUntraced(
  function*(plan: Plan, signals: Signals) {
    const election = yield* LeaderElection
    const term = runCommand(plan, signals)
    const terms = plan.again ? whileLeadingForever(term) : election.whileLeading(term)
    const exitCode = yield* Effect.raceFirst(
      terms,
      Effect.map(Deferred.await(signals.stopped), ofSignal)
    )
    if (typeof exitCode !== "number") {
      return yield* exitCode
    }
    if (exitCode !== 0) {
      // COMMAND has reported by itself what there is to report.
      return yield* new CommandFailure({ message: "", exitCode })
    }
  }
)

const layerMetrics = (port: number | undefined): Layer.Layer<never, CommandFailure, LeaderElection> =>
  port === undefined
    ? Layer.empty
    : Layer.unwrap(Effect.map(Effect.promise(() => import("../serve/http.ts")), (http) => http.layerMetrics(port)))

export const command = Command.make(
  "run",
  {
    command: Argument.String("COMMAND").pipe(
      Argument.variadic({ min: 1 }),
      Argument.withDescription("What to run, with its arguments, after --")
    ),
    ...Options.settings,
    again: Flag.Boolean("again").pipe(
      Flag.withDescription("Campaign again when leadership was lost, instead of ending with 75"),
      Flag.withDefault(false)
    ),
    killAfter: Options.duration(
      "kill-after",
      "Kill COMMAND so long after the first SIGTERM or SIGINT (default: it has all the time it takes)"
    ),
    metricsPort: Options.port("metrics-port").pipe(
      Flag.withDescription("Listen there for Prometheus (/metrics) and for probes (/livez, /readyz)"),
      Flag.optional,
      Flag.map(Option.getOrUndefined)
    ),
    statsd: Options.statsd,
    ...Options.connection
  },
  Effect.fnUntraced(function*({ again, command, killAfter, metricsPort, statsd, ...options }) {
    if (!Separator.isBefore(yield* Stdio.Stdio.use((stdio) => stdio.args), command)) {
      return yield* new CommandFailure({
        message: `run: options of ${command[0]} could be taken for options of run; ${Separator.remedy}`,
        exitCode: exitCodes.usage
      })
    }
    const [name = "", ...args] = command
    if (name === "") {
      return yield* new CommandFailure({
        message: "run: COMMAND is empty: give what to run, after --",
        exitCode: exitCodes.usage
      })
    }
    const signals = yield* listen
    yield* Child.check(name, process.env["PATH"] ?? "/usr/local/bin:/usr/bin:/bin")
    yield* run({ command: name, args, again, killAfter }, signals).pipe(
      Effect.provide(layerMetrics(metricsPort)),
      Effect.provide([Options.layerElection(options), Options.layerStatsD(statsd)])
    )
  }, Effect.scoped)
).pipe(
  Command.withShortDescription("Wait for leadership, then run a command while it lasts"),
  Command.withDescription(
    "Wait for leadership, then run COMMAND while it lasts.\n\n" +
      "COMMAND gets the settings, LEADER_ELECTION_FENCING_TOKEN and LEADER_ELECTION_TRANSITIONS in its environment,\n" +
      "and our stdin, stdout and stderr. When it ends, so does run, with its exit code, and the Lease is released.\n" +
      "Signals are passed on to COMMAND; run leads until COMMAND has ended. While it waits to lead, SIGTERM, SIGINT and\n" +
      "SIGQUIT end run, and SIGHUP where it has a terminal.\n\n" +
      "When leadership is lost, COMMAND and all of its process group get SIGTERM at once, and SIGKILL before another\n" +
      "can take the Lease; run ends with 75. So they do when run itself is killed, stopped, or hangs."
  ),
  Command.withExamples([
    {
      command: "effect-kubernetes-leader-election run --name my-job -- node worker.js",
      description: "In one replica at a time"
    },
    {
      command: "effect-kubernetes-leader-election run --name my-job --lease-duration 30s --again -- ./sync.sh --all",
      description: "Forever, also after a loss of leadership"
    },
    {
      command: "effect-kubernetes-leader-election run --name drill --kubeconfig ~/.kube/config --context staging -- sh",
      description: "From outside of the cluster"
    }
  ])
)
