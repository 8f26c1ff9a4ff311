/**
 * The watch of a namespace where it is granted, and one for each Lease where it
 * is not, until it is.
 *
 * @internal
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Log from "../../internal/log.ts"
import type { LeaseError } from "../../LeaseError.ts"
import type { LeaseKey } from "../../LeaseRecord.ts"
import type { LeaseChange, LeaseStore } from "../../LeaseStore.ts"
import * as SharedWatch from "./sharedWatch.ts"

/** How long to leave a watch alone that is refused. */
const pause = "1 minute"

// Anything else is not about rights, and passes: each listener opens it again as it would its own.
const isRefusal = (error: LeaseError): boolean =>
  error.reason._tag === "LeaseForbidden" || error.reason._tag === "LeaseInvalid"

export const make: (options: {
  readonly namespace: string
  /** One connection's worth of the changes of all Leases. */
  readonly together: (since: bigint | undefined) => Stream.Stream<LeaseChange, LeaseError>
  /** The changes of one Lease. */
  readonly apart: LeaseStore["Service"]["changes"]
}) => Effect.Effect<LeaseStore["Service"]["changes"], never, Scope.Scope> = Effect.fnUntraced(
  function*({ apart, namespace, together }) {
    const scope = yield* Effect.scope
    const shared = yield* SharedWatch.make(together)
    /** While the shared watch is refused: done when it is granted. */
    let refused: { readonly granted: Deferred.Deferred<void>; listeners: number } | undefined

    const begin = (error: LeaseError) =>
      Effect.suspend(() => {
        if (refused !== undefined) {
          return Effect.succeed(refused)
        }
        const begun = refused = { granted: Deferred.makeUnsafe<void>(), listeners: 0 }
        return Log.warn(
          `The Leases of namespace ${namespace} cannot be watched together, so each is watched by itself, and the ` +
            `shared watch is tried again each minute: ${error.message}`
        ).pipe(
          Effect.andThen(Effect.forkIn(tryAgain(begun), scope)),
          Effect.as(begun)
        )
      })

    const tryAgain = Effect.fnUntraced(function*(begun: NonNullable<typeof refused>) {
      do {
        yield* Effect.sleep(pause)
      } while (begun.listeners > 0 && !(yield* isGranted))
      refused = undefined
      if (begun.listeners > 0) {
        yield* Log.info(`The Leases of namespace ${namespace} are watched together again`)
        // Each opens again what ends in good order, and finds the shared watch.
        yield* Deferred.succeed(begun.granted, undefined)
      }
    })

    const isGranted = Stream.runHead(Stream.suspend(() => together(undefined))).pipe(
      Effect.result,
      Effect.map((result) => Result.isSuccess(result) && Option.isSome(result.success))
    )

    const alone = (begun: NonNullable<typeof refused>, key: LeaseKey, since: bigint | undefined) =>
      Stream.unwrap(
        Effect.as(
          Effect.acquireRelease(
            Effect.sync(() => begun.listeners++),
            () => Effect.sync(() => begun.listeners--)
          ),
          apart(key, since)
        )
      ).pipe(Stream.interruptWhen(Deferred.await(begun.granted)))

    return (key, since) =>
      Stream.suspend(() =>
        refused !== undefined
          ? alone(refused, key, since)
          : Stream.catchIf(shared(key, since), isRefusal, (error) =>
            Stream.unwrap(Effect.map(begin(error), (begun) => alone(begun, key, since))))
      )
  }
)
