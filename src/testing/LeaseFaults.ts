/**
 * A fault layer in front of any {@link LeaseStore}: what goes wrong on one client's way to the API server, under the
 * control of a test while the election runs.
 *
 * One value is one client's connection. Wrap each candidate's store in its own.
 *
 * **Example** (A write whose answer is lost)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Fault, LeaseFaults, MemoryCluster, MemoryLeaseStore } from "effect-kubernetes-leader-election/testing"
 *
 * const program = Effect.gen(function*() {
 *   const cluster = yield* MemoryCluster.make()
 *   const faults = yield* LeaseFaults.make(yield* MemoryLeaseStore.make(cluster))
 *   yield* faults.next("create", Fault.dropAnswer)
 *   const key = { namespace: "default", name: "invoices" }
 *   yield* Effect.ignore(faults.store.create(key, { holderIdentity: "a" }))
 *   return yield* cluster.lease(key) // it is there
 * })
 * ```
 *
 * @since 0.1.0
 */
import type * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as LeaderElectionConfig from "../LeaderElectionConfig.ts"
import { LeaseError, type LeaseErrorReason, LeaseUnavailable } from "../LeaseError.ts"
import type { LeaseKey, LeaseRecord, LeaseWrite } from "../LeaseRecord.ts"
import { type LeaseChange, type LeaseResponse, LeaseStore } from "../LeaseStore.ts"
import * as Fault from "./Fault.ts"

/**
 * A request of a {@link LeaseStore}.
 *
 * @category models
 * @since 0.1.0
 */
export type Verb = "get" | "create" | "patch" | "watch"

/**
 * How a request ended, as its caller saw it. `Ended` is for watches that were closed in good order, or by their
 * reader.
 *
 * @category models
 * @since 0.1.0
 */
export type Outcome =
  | { readonly _tag: "Answered"; readonly lease: LeaseRecord }
  | { readonly _tag: "Failed"; readonly error: LeaseError }
  | { readonly _tag: "Interrupted" }
  | { readonly _tag: "Ended" }

/**
 * A request that was made, for assertions. Times are milliseconds of the fault layer's monotonic clock.
 *
 * @category models
 * @since 0.1.0
 */
export interface Request {
  /** 1 for the first request of this connection. */
  readonly id: number
  readonly verb: Verb
  readonly key: LeaseKey
  /** The version that guards a patch, or after which a watch begins. */
  readonly resourceVersion: bigint | undefined
  readonly write: LeaseWrite | undefined
  /** What was done to it. */
  readonly fault: Fault.Fault
  readonly began: number
  /** `undefined` while its caller waits. */
  readonly ended: number | undefined
  readonly outcome: Outcome | undefined
  /** When the server had done as asked, and what came of it, whatever the caller learned of that. */
  readonly applied: { readonly at: number; readonly lease: LeaseRecord } | undefined
}

/**
 * Faults on one connection.
 *
 * @category services
 * @since 0.1.0
 */
export class LeaseFaults extends Context.Service<LeaseFaults, {
  /** The store with faults in front of it. */
  readonly store: LeaseStore["Service"]

  /** Does this to the next request with this verb, or to the next `times`. Waits in line behind earlier ones. */
  readonly next: (verb: Verb, fault: Fault.Fault, times?: number) => Effect.Effect<void>

  /** Does this to all requests with these verbs, until `clear` or another `set`. */
  readonly set: (faults: { readonly [verb in Verb]?: Fault.Fault | undefined }) => Effect.Effect<void>

  /**
   * Asks this function about each request for which there is no `next` and no `set`: for faults while a condition
   * holds, or drawn from a seed. `undefined` lets the request through.
   */
  readonly decide: (f: (request: Request) => Fault.Fault | undefined) => Effect.Effect<void>

  /** No faults from now on; restores the connection too. What is already lost, stays lost. */
  readonly clear: Effect.Effect<void>

  // --- the connection ---------------------------------------------------------------------------------------

  /**
   * Cuts the client off: connections are refused from now on, and open ones have broken. Requests that were on their
   * way are lost.
   */
  readonly refuse: Effect.Effect<void>

  /**
   * Cuts the client off without a word: requests get no answer, open watches no event. What was on its way, and what
   * is sent meanwhile, is lost even after `restore`.
   */
  readonly stall: Effect.Effect<void>

  /** Holds up everything, in both directions, until `restore` lets it go on in the same order. */
  readonly pause: Effect.Effect<void>

  /** Ends `refuse`, `stall` or `pause`. */
  readonly restore: Effect.Effect<void>

  // --- watches ----------------------------------------------------------------------------------------------

  /** Open watches fail: their connection broke. */
  readonly cutWatches: Effect.Effect<void>

  /** Open watches end in good order. */
  readonly endWatches: Effect.Effect<void>

  /** Watches stay open but receive nothing any more; until `clear`, new ones neither. */
  readonly silenceWatches: Effect.Effect<void>

  /** Events arrive late, each watch's in order. Answers do not wait for them. */
  readonly delayEvents: (
    delay: Duration.Input | ((change: LeaseChange) => Duration.Input)
  ) => Effect.Effect<void>

  /** How many watches are open. */
  readonly openWatches: Effect.Effect<number>

  // --- what happened ----------------------------------------------------------------------------------------

  /** All requests so far, oldest first; only the newest 10 000 are kept. */
  readonly log: Effect.Effect<ReadonlyArray<Request>>
}>()("effect-kubernetes-leader-election/testing/LeaseFaults") {}

/**
 * Puts faults in front of a store.
 *
 * **Details**
 *
 * Delays are measured by the clock in which this effect runs, not by the candidate's. Writes that are applied late are
 * applied even if their sender has gone; they end with this effect's scope.
 *
 * When the scope closes, what still waits for an answer fails, and so does every later request: an election that is
 * stopped after its fault layer gives up at once, and waits for no clock that has stopped.
 *
 * Without faults a request passes at once: an answer from memory is there before the watch has reported the change. To
 * have it the other way round, delay the answer.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function*( // oxlint-disable-line max-lines-per-function -- one connection: its functions share its faults
  base: LeaseStore["Service"]
): Effect.fn.Return<LeaseFaults["Service"], never, Scope.Scope> {
  const clock = yield* Clock.Clock
  // Of their own, so that what travels ends after its callers have been answered.
  const scope = yield* Scope.make()

  const now = () => Number(clock.monotonicTimeNanosUnsafe()) / 1_000_000
  const sleep = (delay: Duration.Input | undefined) =>
    delay === undefined ? Effect.void : clock.sleep(Duration.fromInputUnsafe(delay))

  // --- what to do to a request ------------------------------------------------------------------------------

  const log: Array<MutableRequest> = []
  let ids = 0
  let queued: Array<{ readonly verb: Verb; readonly fault: Fault.Fault }> = []
  let standing: { readonly [verb in Verb]?: Fault.Fault | undefined } = {}
  let decide: ((request: Request) => Fault.Fault | undefined) | undefined

  const faultFor = (request: Request): Fault.Fault => {
    const index = queued.findIndex(({ verb }) => verb === request.verb)
    const [first] = index < 0 ? [] : queued.splice(index, 1)
    return first?.fault ?? standing[request.verb] ?? decide?.(request) ?? Fault.pass
  }

  const begin = (
    verb: Verb,
    key: LeaseKey,
    resourceVersion: bigint | undefined,
    write: LeaseWrite | undefined
  ): MutableRequest => {
    ids += 1
    const request: MutableRequest = {
      id: ids,
      verb,
      key,
      resourceVersion,
      write,
      fault: Fault.pass,
      began: now(),
      ended: undefined,
      outcome: undefined,
      applied: undefined
    }
    log.push(request)
    if (log.length > maxLog) {
      log.shift()
    }
    request.fault = connection === "refused" ? Fault.refused : faultFor(request)
    return request
  }

  const end = (request: MutableRequest, outcome: Outcome) => {
    request.ended ??= now()
    request.outcome ??= outcome
  }

  // --- the connection ---------------------------------------------------------------------------------------

  let connection: "open" | "refused" | "stalled" | "paused" = "open"
  const passage = yield* Latch.make(true)
  const inFlight = new Map<number, { readonly break: () => void; lost: boolean }>()
  // Everything that has a caller: what is lost is no longer in flight, but still waited for.
  const waiting = new Set<(reason: LeaseErrorReason) => void>()
  let closed = false

  // Waits while the connection is paused. What was lost ends here: its caller waits for ever.
  const pass = (entry: { readonly lost: boolean }): Effect.Effect<void> =>
    Effect.suspend(() =>
      entry.lost || connection === "stalled"
        ? Effect.interrupt
        : connection === "paused"
        ? Effect.andThen(passage.await, pass(entry))
        : Effect.void
    )

  const connect = (state: typeof connection) =>
    Effect.suspend(() => {
      connection = state
      return state === "paused" ? passage.close : passage.open
    })

  const lose = Effect.sync(() => {
    for (const entry of inFlight.values()) {
      entry.lost = true
    }
  })

  // --- requests ---------------------------------------------------------------------------------------------

  const request = (
    verb: Verb,
    key: LeaseKey,
    resourceVersion: bigint | undefined,
    write: LeaseWrite | undefined,
    effect: Effect.Effect<LeaseResponse, LeaseError>
  ): Effect.Effect<LeaseResponse, LeaseError> =>
    Effect.suspend(() => {
      const entry = begin(verb, key, resourceVersion, write)
      if (closed) {
        const error = new LeaseError({ verb, ...key, reason: layerClosed })
        end(entry, { _tag: "Failed", error })
        return Effect.fail(error)
      }
      const { fault } = entry
      const answer = Deferred.makeUnsafe<LeaseResponse, LeaseError>()
      const failWith = (reason: LeaseErrorReason) =>
        Deferred.doneUnsafe(answer, Exit.fail(new LeaseError({ verb, ...key, reason })))
      const flight = { lost: false, break: () => failWith(broken(verb)) }

      const travel = Effect.gen(function*() {
        if (fault.answer === "brokenAtOnce") {
          failWith(broken(verb))
        }
        yield* pass(flight)
        if (fault.requestDelay !== undefined) {
          yield* sleep(fault.requestDelay)
          yield* pass(flight)
        }
        const exit = fault.request === "lost" ? undefined : yield* Effect.exit(effect)
        if (exit !== undefined && Exit.isSuccess(exit)) {
          entry.applied = { at: now(), lease: exit.value.lease }
        }
        yield* sleep(fault.answerDelay)
        yield* pass(flight)
        if (fault.answer === undefined) {
          Deferred.doneUnsafe(answer, exit ?? Exit.fail(new LeaseError({ verb, ...key, reason: broken(verb) })))
        } else if (fault.answer === "broken") {
          failWith(broken(verb))
        } else if (typeof fault.answer === "object") {
          failWith(fault.answer)
        }
      }).pipe(Effect.ensuring(Effect.sync(() => inFlight.delete(entry.id))))

      inFlight.set(entry.id, flight)
      waiting.add(failWith)
      return Effect.gen(function*() {
        const fiber = yield* Effect.forkIn(travel, scope, { startImmediately: true })
        return yield* Deferred.await(answer).pipe(
          // What is on its way already cannot be called back; a store that works over a socket can be.
          Effect.onInterrupt(() => isDelayed(fault) ? Effect.void : Fiber.interrupt(fiber))
        )
      }).pipe(
        Effect.onExit((exit) =>
          Effect.sync(() => {
            waiting.delete(failWith)
            end(entry, toOutcome(exit))
          })
        )
      )
    })

  // --- watches ----------------------------------------------------------------------------------------------

  interface Watch {
    readonly key: LeaseKey
    readonly queue: Queue.Queue<LeaseChange, LeaseError | Cause.Done>
    lost: boolean
  }

  const watches = new Set<Watch>()
  let silent = false
  let eventDelay: ((change: LeaseChange) => Duration.Input) | undefined

  const breakWatch = (key: LeaseKey, reason: LeaseErrorReason = broken("watch")) =>
    new LeaseError({ verb: "watch", ...key, reason })

  const changes = (key: LeaseKey, since: bigint | undefined): Stream.Stream<LeaseChange, LeaseError> =>
    Stream.unwrap(Effect.gen(function*() {
      const entry = begin("watch", key, since, undefined)
      const { fault } = entry
      const queue = yield* Queue.unbounded<LeaseChange, LeaseError | Cause.Done>()
      const watch: Watch = { key, queue, lost: false }
      yield* Effect.acquireRelease(
        Effect.sync(() => {
          watches.add(watch)
        }),
        () =>
          Effect.sync(() => {
            watches.delete(watch)
            end(entry, { _tag: "Ended" })
          })
      )
      const failWatch = (error: LeaseError) => {
        end(entry, { _tag: "Failed", error })
        return Queue.fail(queue, error)
      }

      // What is late goes through this line, so that nothing overtakes it.
      const late = yield* Queue.unbounded<{ readonly due: number; readonly deliver: Effect.Effect<unknown> }>()
      let waiting = 0
      const inOrder = (delay: Duration.Input | undefined, deliver: Effect.Effect<unknown>): Effect.Effect<unknown> =>
        Effect.suspend(() => {
          const due = now() + (delay === undefined ? 0 : Duration.toMillis(Duration.fromInputUnsafe(delay)))
          if (waiting === 0 && due <= now() && connection === "open") {
            return watch.lost ? Effect.void : deliver
          }
          waiting += 1
          return Queue.offer(late, { due, deliver })
        })
      yield* Queue.take(late).pipe(
        Effect.flatMap(({ deliver, due }) =>
          sleep(Math.max(0, due - now())).pipe(
            Effect.andThen(pass(watch)),
            Effect.andThen(Effect.suspend(() => {
              waiting -= 1
              return watch.lost ? Effect.void : deliver
            }))
          )
        ),
        Effect.forever,
        Effect.forkScoped({ startImmediately: true })
      )

      yield* Effect.gen(function*() {
        yield* pass(watch)
        yield* sleep(fault.requestDelay)
        yield* pass(watch)
        if (fault.answer !== undefined || fault.request === "lost") {
          yield* sleep(fault.answerDelay)
          return yield* fault.answer === "none"
            ? Effect.never
            : failWatch(breakWatch(key, typeof fault.answer === "object" ? fault.answer : undefined))
        }
        return yield* base.changes(key, since).pipe(
          Stream.runForEach((change) =>
            silent && change._tag !== "Opened"
              ? Effect.void
              : inOrder(
                change._tag === "Opened" ? fault.answerDelay : eventDelay?.(change),
                Queue.offer(queue, change)
              )
          ),
          Effect.matchEffect({
            onFailure: (error) => inOrder(undefined, failWatch(error)),
            onSuccess: () => inOrder(undefined, Queue.end(queue))
          })
        )
      }).pipe(Effect.forkScoped({ startImmediately: true }))

      return Stream.fromQueue(queue).pipe(
        Stream.tapError((error) => Effect.sync(() => end(entry, { _tag: "Failed", error })))
      )
    }))

  const forEachWatch = (f: (watch: Watch) => Effect.Effect<unknown>) =>
    Effect.suspend(() => Effect.forEach(Array.from(watches), f, { discard: true }))

  const cutWatches = forEachWatch((watch) => {
    watch.lost = true
    return Queue.fail(watch.queue, breakWatch(watch.key))
  })

  const loseWatches = forEachWatch((watch) =>
    Effect.sync(() => {
      watch.lost = true
    })
  )

  const restore = connect("open")

  yield* Effect.addFinalizer((exit) =>
    Effect.suspend(() => {
      closed = true
      for (const fail of waiting) {
        fail(layerClosed)
      }
      return Effect.andThen(cutWatches, Scope.close(scope, exit))
    })
  )

  return LeaseFaults.of({
    store: LeaseStore.of({
      server: base.server,
      get: (key) => request("get", key, undefined, undefined, base.get(key)),
      create: (key, write) => request("create", key, undefined, write, base.create(key, write)),
      patch: (key, resourceVersion, write) =>
        request("patch", key, resourceVersion, write, base.patch(key, resourceVersion, write)),
      changes
    }),

    next: (verb, fault, times = 1) =>
      Effect.sync(() => {
        for (let i = 0; i < times; i++) {
          queued.push({ verb, fault })
        }
      }),

    set: (faults) =>
      Effect.sync(() => {
        standing = { ...standing, ...faults }
      }),

    decide: (f) =>
      Effect.sync(() => {
        decide = f
      }),

    clear: Effect.andThen(
      Effect.sync(() => {
        queued = []
        standing = {}
        decide = undefined
        eventDelay = undefined
        silent = false
      }),
      restore
    ),

    refuse: Effect.andThen(lose, connect("refused")).pipe(
      Effect.andThen(Effect.sync(() => {
        for (const flight of inFlight.values()) {
          flight.break()
        }
      })),
      Effect.andThen(cutWatches)
    ),
    stall: Effect.andThen(lose, loseWatches).pipe(Effect.andThen(connect("stalled"))),
    pause: connect("paused"),
    restore,

    cutWatches,
    endWatches: forEachWatch((watch) => {
      watch.lost = true
      return Queue.end(watch.queue)
    }),
    silenceWatches: Effect.andThen(
      loseWatches,
      Effect.sync(() => {
        silent = true
      })
    ),
    delayEvents: (delay) =>
      Effect.sync(() => {
        eventDelay = typeof delay === "function" ? delay : () => delay
      }),
    openWatches: Effect.sync(() => watches.size),

    log: Effect.sync(() => log.map((request) => Object.assign({}, request)))
  })
})

/**
 * Puts faults in front of the {@link LeaseStore} in context. To be provided below the election in its place:
 * `Layer.provideMerge(LeaseFaults.layer, MemoryLeaseStore.layerMemory())`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<LeaseFaults | LeaseStore, never, LeaseStore> = Layer.effectContext(
  Effect.gen(function*() {
    const faults = yield* Effect.flatMap(LeaseStore, make)
    return Context.make(LeaseFaults, faults).pipe(
      Context.add(LeaseStore, faults.store),
      // What the store below says of its elections goes for those above.
      Context.add(LeaderElectionConfig.ReadsEnvironment, yield* LeaderElectionConfig.ReadsEnvironment)
    )
  })
)

// --- internal ---------------------------------------------------------------------------------------------------

const maxLog = 10_000

type MutableRequest = { -readonly [field in keyof Request]: Request[field] }

const broken = (verb: Verb): LeaseErrorReason =>
  new LeaseUnavailable({ message: "the connection broke", outcomeUnknown: verb === "create" || verb === "patch" })

// Nothing will answer any more: not worth another attempt within any lease.
const layerClosed: LeaseErrorReason = new LeaseUnavailable({
  message: "the fault layer is closed",
  outcomeUnknown: false,
  retryAfter: Duration.days(1)
})

const isDelayed = (fault: Fault.Fault): boolean => fault.requestDelay !== undefined || fault.answer !== undefined

const toOutcome = (exit: Exit.Exit<LeaseResponse, LeaseError>): Outcome =>
  Exit.match(exit, {
    onSuccess: ({ lease }): Outcome => ({ _tag: "Answered", lease }),
    onFailure: (): Outcome => {
      const error = Exit.findErrorOption(exit)
      return error._tag === "Some" ? { _tag: "Failed", error: error.value } : { _tag: "Interrupted" }
    }
  })
