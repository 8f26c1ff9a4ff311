/**
 * `effect-kubernetes-leader-election step-down`: asks the leader to give up its term in good
 * order, for drills and maintenance.
 *
 * @internal
 */
import * as Command from "effect/cli/Command"
import * as Clock from "effect/Clock"
import * as Console from "effect/Console"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import { format } from "../DurationText.ts"
import * as KubernetesLeaseStore from "../kubernetes/KubernetesLeaseStore.ts"
import type { LeaseError } from "../LeaseError.ts"
import { formatKey, instanceAnnotation, type LeaseKey, type LeaseRecord, stepDownAnnotation } from "../LeaseRecord.ts"
import { LeaseStore } from "../LeaseStore.ts"
import { exitCodes } from "./shared/exitCodes.ts"
import { CommandFailure } from "./shared/failure.ts"
import * as Options from "./shared/options.ts"
import { line } from "./shared/printable.ts"

const failed = (message: string): CommandFailure => new CommandFailure({ message, exitCode: exitCodes.failure })

/** The Lease as it is now; `undefined` where there is none. */
const read = (key: LeaseKey): Effect.Effect<LeaseRecord | undefined, LeaseError, LeaseStore> =>
  LeaseStore.use((store) => store.get(key)).pipe(
    Effect.map(({ lease }): LeaseRecord | undefined => lease),
    Effect.catchIf((error) => error.reason._tag === "LeaseNotFound", () => Effect.succeed(undefined))
  )

/** Writes the annotation; again where the leader renewed in between. Gives the term that is asked to end. */
const ask = Effect.fnUntraced(function*(key: LeaseKey) {
  const lease = formatKey(key)
  const store = yield* LeaseStore
  while (true) {
    const found = yield* read(key)
    if (found === undefined) {
      return yield* failed(`there is no Lease ${lease}, so nobody leads`)
    }
    if (found.holderIdentity === "") {
      return yield* failed(`nobody holds the Lease ${lease}`)
    }
    const instance = found.annotations[instanceAnnotation]
    if (instance === undefined) {
      return yield* failed(
        `${
          line(found.holderIdentity)
        } holds the Lease ${lease}, but it is not one of ours (the Lease has no annotation ` +
          `${instanceAnnotation}), and does not know how to step down: end its process instead`
      )
    }
    const asked = yield* Effect.result(
      store.patch(key, found.resourceVersion, { annotations: { [stepDownAnnotation]: instance } })
    )
    if (Result.isSuccess(asked)) {
      return found
    }
    if (asked.failure.reason._tag !== "LeaseConflict") {
      return yield* asked.failure
    }
  }
})

/** Whether the term of `before` is over. */
const isOver = (before: LeaseRecord, now: LeaseRecord | undefined): boolean =>
  now === undefined || now.uid !== before.uid || now.holderIdentity !== before.holderIdentity ||
  now.annotations[instanceAnnotation] !== before.annotations[instanceAnnotation]

/** When to give up, on the monotonic clock. */
type Deadline = bigint

/** `None` where it has not ended by the deadline. */
const by = <A, E, R>(deadline: Deadline, effect: Effect.Effect<A, E, R>): Effect.Effect<Option.Option<A>, E, R> =>
  Effect.flatMap(
    Clock.monotonicTimeNanos,
    (now) => Effect.timeoutOption(effect, Duration.nanos(deadline > now ? deadline - now : 0n))
  )

/** Looks until it fits; at the deadline, what the last look has shown, and `None` where none was answered. */
const lookUntil = Effect.fnUntraced(function*(
  key: LeaseKey,
  deadline: Deadline,
  fits: (lease: LeaseRecord | undefined) => boolean,
  known: Option.Option<LeaseRecord | undefined> = Option.none()
) {
  let last = known
  while (Option.isNone(last) || !fits(last.value)) {
    const found = yield* by(deadline, read(key))
    if (Option.isNone(found)) {
      return last
    }
    last = found
    if (!fits(found.value)) {
      if ((yield* Clock.monotonicTimeNanos) >= deadline) {
        return last
      }
      yield* by(deadline, Effect.sleep("100 millis"))
    }
  }
  return last
})

export const stepDown = Effect.fnUntraced(function*(key: LeaseKey, timeout: Duration.Duration) {
  const { server } = yield* LeaseStore
  const start = yield* Clock.monotonicTimeNanos
  const deadline = start + Duration.toNanosUnsafe(timeout)
  const unanswered = (unknown: string) =>
    new CommandFailure({
      message: `${server} has not answered within ${format(timeout)}: ${unknown} is not known`,
      exitCode: exitCodes.unavailable
    })
  const asked = yield* by(deadline, ask(key))
  if (Option.isNone(asked)) {
    return yield* unanswered(`whether the leader was asked to step down`)
  }
  const before = asked.value
  const leader = line(before.holderIdentity)
  const askedAt = yield* Clock.monotonicTimeNanos
  const after = Effect.map(
    Clock.monotonicTimeNanos,
    (now) => format(Duration.millis(Number((now - askedAt) / 1_000_000n)))
  )
  const over = yield* lookUntil(key, deadline, (lease) => isOver(before, lease))
  if (Option.isNone(over)) {
    return yield* unanswered(`${leader} was asked to step down, and whether it has`)
  }
  if (over.value !== undefined && !isOver(before, over.value)) {
    return yield* failed(
      `${leader} was asked to step down, but still holds the Lease ${formatKey(key)} after ${format(timeout)}: ` +
        "its program may take long to end, or nobody renews the Lease any more"
    )
  }
  yield* Console.log(`${leader} has stepped down (after ${yield* after})`)
  const isHeld = (lease: LeaseRecord | undefined) => lease !== undefined && lease.holderIdentity !== ""
  const next = Option.getOrUndefined(yield* lookUntil(key, deadline, isHeld, over))
  yield* Console.log(
    next === undefined || !isHeld(next)
      ? `nobody has taken the Lease ${formatKey(key)} within ${format(timeout)}`
      : `${line(next.holderIdentity)} holds the Lease now (after ${yield* after})`
  )
})

export const command = Command.make(
  "step-down",
  {
    name: Options.leaseName,
    namespace: Options.namespace,
    timeout: Options.duration("timeout", "How long all of it may take, until the next one leads (default 30s)"),
    ...Options.connection
  },
  Effect.fnUntraced(function*({ name, namespace, timeout, ...connection }) {
    const layerClient = Options.layerClient(connection)
    yield* Effect.gen(function*() {
      const key = { name: yield* Options.resolveName(name), namespace: yield* Options.resolveNamespace(namespace) }
      yield* stepDown(key, timeout ?? Duration.seconds(30))
    }).pipe(
      Effect.provide(Layer.provideMerge(KubernetesLeaseStore.layer, layerClient))
    )
  })
).pipe(
  Command.withShortDescription("Ask the leader to give up its term in good order"),
  Command.withDescription(
    "Ask the leader to give up its term in good order, for drills and maintenance.\n\n" +
      "Waits until its term is over, and reports who leads then. The leader that stepped down does not campaign\n" +
      "until another leads, or one leaseDuration has passed. Needs the rights to get and patch the Lease."
  ),
  Command.withExamples([
    { command: "effect-kubernetes-leader-election step-down my-service", description: "Hand over to another replica" },
    {
      command: "effect-kubernetes-leader-election step-down my-service --namespace jobs --context staging",
      description: "In another cluster and namespace"
    }
  ])
)
