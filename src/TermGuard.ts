/**
 * Ends a process whose event loop is blocked when its term is over.
 *
 * A program that is interrupted stops at its next step; one that blocks the
 * event loop takes none, and goes on beside its successor. Nothing on its own
 * thread can end it. The guard is a worker thread that knows when the term ends
 * and kills the process then. Off unless its layer is provided.
 *
 * @since 0.2.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import { Worker } from "node:worker_threads"
import { format } from "./internal/duration.ts"
import { type ActiveTerm, ActiveTerms } from "./internal/election/activeTerms.ts"
import * as GuardWorker from "./internal/guardWorker.ts"
import * as Log from "./internal/log.ts"

/**
 * The guard's thread could not be started: this runtime has no worker threads,
 * no shared memory, or no room for another thread.
 *
 * @category errors
 * @since 0.2.0
 */
export class TermGuardError extends Schema.Error<TermGuardError>("effect-kubernetes-leader-election/TermGuardError")({
  _tag: Schema.tag("TermGuardError"),
  cause: Schema.Defect()
}) {
  override get message(): string {
    return `the guard's worker thread could not be started: ${
      this.cause instanceof Error ? this.cause.message : String(this.cause)
    }. Leave TermGuard.layer out where there are no worker threads`
  }
}

/** How long after the end of a term the main thread may be late with its own timer: a busy one is not yet a blocked one. */
const grace = Duration.toNanosUnsafe("40 millis")

/** So long before others may take the Lease the process is killed, where its program has not ended by then. */
const margin = Duration.toNanosUnsafe("50 millis")

/** A worker that wakes up later than this was not running, nor was the main thread, which then has as long again. */
const late = Duration.toNanosUnsafe("25 millis")

const startTimeout = Duration.seconds(10)

/**
 * Guards the terms of all elections of this process while the layer lives.
 *
 * **Details**
 *
 * The deadline stands in memory that both threads share; the election moves it
 * on with each renewal. It is the end of the term's validity, and, once the main
 * thread has noticed that the term is over and stops the program, the moment at
 * which others may take the Lease, less 50 milliseconds. A deadline that the
 * main thread has not moved on within 40 milliseconds of it ends the process with
 * SIGKILL. First the thread writes one line to stderr, for which it waits 10
 * milliseconds at most: an exit code of 137 without that line came from somebody
 * else. The guard never renews: a process that is blocked does not stay leader
 * because of it.
 *
 * **Gotchas**
 *
 * - SIGKILL runs no finalizer: what has to be whole afterwards belongs into a
 *   transaction. The restart is Kubernetes' work.
 * - SIGSTOP, a suspended machine and a container without CPU stop both threads:
 *   the guard acts when they go on. The last line against those is a `Fence`.
 * - A debugger that holds the main thread for longer than the term looks like a
 *   blocked one.
 * - Needs `node:worker_threads`. Times are real ones, whatever `Clock` is
 *   provided.
 *
 * **Example** (Guarding a program that computes for long)
 *
 * ```ts
 * import { Layer } from "effect"
 * import { LeaderElectionLive, TermGuard } from "effect-kubernetes-leader-election"
 *
 * export const MainLive = Layer.mergeAll(LeaderElectionLive, TermGuard.layer)
 * ```
 *
 * @category layers
 * @since 0.2.0
 */
export const layer: Layer.Layer<never, TermGuardError> = Layer.effectDiscard(Effect.gen(function*() {
  const active = yield* ActiveTerms
  const memory = new SharedArrayBuffer(GuardWorker.sharedBytes)
  const words = new BigInt64Array(memory, 0, 2)
  const set = (deadline: bigint) => {
    Atomics.store(words, 0, deadline)
    Atomics.notify(words, 0)
  }
  const worker = yield* Effect.acquireRelease(
    Effect.try({
      try: () => start(memory),
      catch: (cause) => new TermGuardError({ cause })
    }),
    (worker) =>
      Effect.promise(async () => {
        set(GuardWorker.stopped)
        await worker.terminate()
      })
  )
  const ended = Effect.callback<never, TermGuardError>((resume) => {
    worker.once("error", (cause) => resume(Effect.fail(new TermGuardError({ cause }))))
    worker.once("exit", (code) => resume(Effect.fail(new TermGuardError({ cause: `it ended with ${code}` }))))
  })
  yield* Effect.raceFirst(untilReady(words), ended)
  yield* Effect.forkScoped(
    Effect.catch(
      ended,
      (error) => Log.error(`Nothing guards the terms of this process any more: ${error.message}`)
    ),
    { startImmediately: true }
  )

  const update = () => {
    // Before the terms are asked: a pause between the two may only bring the end forward.
    const now = process.hrtime.bigint()
    let soonest: { readonly deadline: bigint; readonly text: string } | undefined
    for (const term of active.terms) {
      const next = deadlineOf(term, now)
      if (soonest === undefined || next.deadline < soonest.deadline) {
        soonest = next
      }
    }
    if (soonest !== undefined) {
      writeText(memory, soonest.text)
    }
    set(soonest?.deadline ?? GuardWorker.idle)
  }
  yield* Effect.acquireRelease(
    Effect.sync(() => active.listeners.add(update)),
    () => Effect.sync(() => active.listeners.delete(update))
  )
  update()
}))

const deadlineOf = (term: ActiveTerm, now: bigint) => {
  const { isOver, nanos } = term.left()
  return isOver
    ? {
      deadline: now + nanos - margin,
      text: `its program has not ended although the term on ${term.lease} is over, and others may take the Lease now`
    }
    : {
      deadline: now + nanos + grace,
      text: `its event loop is blocked although the term on ${term.lease} is over`
    }
}

const start = (memory: SharedArrayBuffer): Worker => {
  const worker = new Worker(GuardWorker.source, {
    eval: true,
    name: "term-guard",
    workerData: { memory, late },
    env: {},
    execArgv: [],
    // It allocates next to nothing.
    resourceLimits: { maxOldGenerationSizeMb: 8, maxYoungGenerationSizeMb: 1 }
  })
  // It keeps no process from ending.
  worker.unref()
  return worker
}

const untilReady = (words: BigInt64Array): Effect.Effect<void, TermGuardError> =>
  Effect.repeat(Effect.sync(() => Atomics.load(words, 1) === GuardWorker.ready), {
    until: (isReady) => isReady,
    schedule: Schedule.spaced("2 millis")
  }).pipe(
    Effect.asVoid,
    Effect.timeoutOrElse({
      duration: startTimeout,
      orElse: () => Effect.fail(new TermGuardError({ cause: `it is not ready after ${format(startTimeout)}` }))
    })
  )

const encoder = new TextEncoder()

const writeText = (memory: SharedArrayBuffer, text: string): void => {
  const bytes = encoder.encode(text).subarray(0, GuardWorker.textBytes)
  new Uint8Array(memory, GuardWorker.textOffset + 4).set(bytes)
  new DataView(memory).setInt32(GuardWorker.textOffset, bytes.length)
}
