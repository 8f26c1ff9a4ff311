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

/** Looks until it fits, at most for so long; the last look otherwise. */
const lookUntil = Effect.fnUntraced(function*(
  key: LeaseKey,
  limit: Duration.Duration,
  fits: (lease: LeaseRecord | undefined) => boolean
) {
  const end = (yield* Clock.monotonicTimeNanos) + Duration.toNanosUnsafe(limit)
  while (true) {
    const lease = yield* read(key)
    if (fits(lease) || (yield* Clock.monotonicTimeNanos) >= end) {
      return lease
    }
    yield* Effect.sleep("100 millis")
  }
})

const stepDown = Effect.fnUntraced(function*(key: LeaseKey, timeout: Duration.Duration) {
  const before = yield* ask(key)
  const leader = line(before.holderIdentity)
  const start = yield* Clock.monotonicTimeNanos
  const after = Effect.map(
    Clock.monotonicTimeNanos,
    (now) => format(Duration.millis(Number((now - start) / 1_000_000n)))
  )
  const over = yield* lookUntil(key, timeout, (lease) => isOver(before, lease))
  if (!isOver(before, over)) {
    return yield* failed(
      `${leader} was asked to step down, but still holds the Lease ${formatKey(key)} after ${format(timeout)}: ` +
        "its program may take long to end, or nobody renews the Lease any more"
    )
  }
  yield* Console.log(`${leader} has stepped down (after ${yield* after})`)
  const next = yield* lookUntil(key, timeout, (lease) => lease !== undefined && lease.holderIdentity !== "")
  yield* Console.log(
    next === undefined || next.holderIdentity === ""
      ? `nobody has taken the Lease ${formatKey(key)} within ${format(timeout)}`
      : `${line(next.holderIdentity)} holds the Lease now (after ${yield* after})`
  )
})

export const command = Command.make(
  "step-down",
  {
    name: Options.leaseName,
    namespace: Options.namespace,
    timeout: Options.duration("timeout", "How long to wait for the leader to end, and for the next one (default 30s)"),
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
