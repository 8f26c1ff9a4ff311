/**
 * A candidate that reports what happens to it: one JSON line for each change on
 * stdout. The demo, the fault tests and the benchmarks all start this one.
 *
 * @internal
 */
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Clock from "effect/Clock"
import * as Console from "effect/Console"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { closeSync, openSync, writeSync } from "node:fs"
import { LeaderElection, whileLeadingForever } from "../../LeaderElection.ts"
import type { LeaderElectionError } from "../../LeaderElectionError.ts"
import { Leadership } from "../../Leadership.ts"
import * as Options from "../shared/options.ts"
import { json } from "../shared/printable.ts"
import type { CandidateEvent } from "./candidateEvent.ts"

export interface Behaviour {
  /** How often the leader program does its work; `undefined`: it has none. */
  readonly step: Duration.Duration | undefined
  /** Gets the lines of the leader program too, as they are written; several candidates may share one. */
  readonly journal: string | undefined
  /** How long the finalizers of the leader program take. */
  readonly ending: Duration.Duration
  /** For how long SIGUSR2 blocks the event loop. */
  readonly block: Duration.Duration
}

type Fields = Partial<Omit<CandidateEvent, "at" | "mono" | "event" | "pid" | "identity" | "leader">>

const millis = (nanos: bigint): number => Number(nanos) / 1e6

/** Campaigns, and leads with a program that only reports about itself. Ends by interruption, or with an error. */
export const candidate = Effect.fnUntraced(
  function*(behaviour: Behaviour): Effect.fn.Return<never, LeaderElectionError, LeaderElection | Scope.Scope> {
    const election = yield* LeaderElection
    const clock = yield* Clock.Clock
    const { identity } = election.settings
    const journal = behaviour.journal === undefined ? undefined : yield* openJournal(behaviour.journal)

    const line = (event: CandidateEvent["event"], fields: Fields | undefined) =>
      Effect.map(election.leader, (leader) => {
        const value: CandidateEvent = {
          at: millis(clock.currentTimeNanosUnsafe()),
          mono: millis(clock.monotonicTimeNanosUnsafe()),
          event,
          pid: process.pid,
          identity,
          leader: Option.getOrNull(leader),
          ...fields
        }
        return json(value)
      })

    const emit = (event: CandidateEvent["event"], fields?: Fields) => Effect.flatMap(line(event, fields), Console.log)

    // Into the journal first, and before anything else can happen: what is not there, the program has not done.
    const act = (event: CandidateEvent["event"], fields?: Fields) =>
      Effect.flatMap(line(event, fields), (text) => {
        journal?.(text)
        return Console.log(text)
      })

    const program = Effect.gen(function*() {
      const leadership = yield* Leadership
      const term: Fields = { fencingToken: String(leadership.fencingToken), transitions: leadership.transitions }
      const { step } = behaviour

      const end = Effect.gen(function*() {
        const status = yield* election.status
        const reason = status._tag === "Ending" ? status.reason : undefined
        yield* reason === undefined ? act("ending", term) : act("lost", { ...term, reason })
        yield* Effect.sleep(behaviour.ending)
        yield* act("ended", term)
      })

      const work = step === undefined ? Effect.never : Effect.gen(function*() {
        while (true) {
          yield* Effect.sleep(step)
          yield* leadership.ensure
          yield* act("step", { ...term, remainingMs: Duration.toMillis(yield* leadership.remaining) })
        }
      })

      const status = yield* election.status
      return yield* act("leading", {
        ...term,
        cause: status._tag === "Leading" ? status.term.cause : undefined,
        remainingMs: Duration.toMillis(yield* leadership.remaining)
      }).pipe(
        Effect.andThen(work),
        Effect.onExit(() => end)
      )
    })

    const reportStatus = election.changes.pipe(
      Stream.runForEach((status) => {
        switch (status._tag) {
          case "Idle":
            return emit("idle")
          case "Following":
            return emit("following")
          case "Pending":
            return emit("pending", { cause: status.cause })
          default:
            // Reported by the leader program itself.
            return Effect.void
        }
      })
    )

    const run = Effect.runSyncWith(yield* Effect.context<never>())
    const block = () => {
      run(emit("blocked"))
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, Duration.toMillis(behaviour.block))
      run(emit("unblocked"))
    }
    yield* Effect.acquireRelease(
      Effect.sync(() => process.on("SIGUSR2", block)),
      () => Effect.sync(() => process.off("SIGUSR2", block))
    )

    yield* emit("started")
    yield* Effect.forkScoped(reportStatus, { startImmediately: true })
    return yield* whileLeadingForever(program).pipe(
      Effect.tapError((error) => emit("error", { reason: error.reason._tag, message: error.message })),
      Effect.ensuring(emit("exit"))
    )
  },
  Effect.scoped
)

/** Opens a file that lines are appended to, each by one write, so that the lines of several processes do not mix. */
const openJournal = (file: string) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => openSync(file, "a")),
      (descriptor) => Effect.sync(() => closeSync(descriptor))
    ),
    (descriptor) => (line: string) => {
      writeSync(descriptor, `${line}\n`)
    }
  )

/** Listens to the signals that ask a process to end, and waits for the first. */
const askedToEnd = Effect.callback<void>((resume) => {
  const end = () => resume(Effect.void)
  const signals = ["SIGINT", "SIGTERM"] as const
  for (const signal of signals) {
    process.on(signal, end)
  }
  return Effect.sync(() => {
    for (const signal of signals) {
      process.off(signal, end)
    }
  })
})

/** Waits until this process has another parent than it was started by: nothing is interested in it any more. */
const orphaned = (parent: number) =>
  Effect.sleep("500 millis").pipe(Effect.repeat({ until: () => process.ppid !== parent }))

export const command = Command.make(
  "candidate",
  {
    ...Options.settings,
    ...Options.connection,
    step: Options.duration("step", "How often the leader program writes a step (default: never)"),
    journal: Options.text("journal", "FILE", "Append the lines of the leader program to this file too"),
    ending: Options.duration("ending", "How long the finalizers of the leader program take (default 0s)"),
    block: Options.duration("block", "For how long SIGUSR2 blocks the event loop (default 20s)"),
    parent: Options.whole("parent", "PID", { least: 1, most: 2 ** 31, noun: "a process id" }).pipe(
      Flag.withDescription("End when the process with this id is no longer the parent"),
      Flag.optional
    )
  },
  (options) =>
    candidate({
      step: options.step,
      journal: options.journal,
      ending: options.ending ?? Duration.zero,
      block: options.block ?? Duration.seconds(20)
    }).pipe(
      Effect.provide(Options.layerElection(options)),
      Effect.raceFirst(askedToEnd),
      Effect.raceFirst(Option.match(options.parent, { onNone: () => Effect.never, onSome: orphaned }))
    )
).pipe(
  Command.withDescription("Take part in an election and report what happens, one JSON line for each change"),
  Command.unlisted
)
