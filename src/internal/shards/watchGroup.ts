/**
 * The watch of all Leases of a group: opened again where it ends or goes silent.
 *
 * @internal
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Stream from "effect/Stream"
import type { Settings } from "../../LeaderElectionConfig.ts"
import { LeaderElectionError, LeaseRefused } from "../../LeaderElectionError.ts"
import type { LeaseStore } from "../../LeaseStore.ts"
import { monotonic } from "../election/clock.ts"
import * as Log from "../log.ts"
import { endsCandidate } from "../protocol/refusal.ts"
import type { Group } from "./group.ts"

/** Shows a group all Leases of its namespace, as they change. Fails without the right to watch them. */
export const watchGroup = Effect.fnUntraced(function*(
  store: LeaseStore["Service"],
  settings: Settings,
  group: Group,
  onChange: () => void
) {
  const leaseDuration = Duration.toNanosUnsafe(settings.leaseDuration)
  let heardAt = yield* monotonic
  let warned = false
  // A server that starts refuses what it grants soon, and its start has ended every watch.
  let granted = false
  let refusedAt: bigint | undefined
  while (true) {
    let reportedAt = yield* monotonic
    let defect: Cause.Cause<never> | undefined
    const changes = Stream.runForEach(
      store.changes({ namespace: settings.namespace, name: "" }, undefined),
      (change) =>
        Effect.map(monotonic, (now) => {
          reportedAt = now
          granted = true
          refusedAt = undefined
          if (change._tag !== "Opened") {
            heardAt = now
            warned = false
          }
          if (group.observe(change, now)) {
            onChange()
          }
        }).pipe(Effect.tapCause((cause) =>
          Effect.sync(() => {
            defect = cause
          })
        ))
    )
    // This member's own renewals are shown every third of leaseDuration: a watch without them has gone silent.
    const silence = Effect.gen(function*() {
      while (true) {
        const left = reportedAt + leaseDuration / 2n - (yield* monotonic)
        if (left <= 0n) {
          return
        }
        yield* Effect.sleep(Duration.nanos(left))
      }
    })
    const exit = yield* Effect.exit(Effect.raceFirst(changes, silence))
    // A defect of the store is a watch that broke; one in what is done about an event is the end.
    if (defect !== undefined && !Cause.hasInterruptsOnly(defect)) {
      return yield* Effect.failCause(defect)
    }
    const error = Exit.isFailure(exit) ? Cause.findErrorOption(exit.cause) : undefined
    if (error?._tag === "Some" && error.value.reason._tag === "LeaseForbidden") {
      const now = yield* monotonic
      refusedAt ??= now
      if (!granted || endsCandidate({ since: refusedAt, last: now }, leaseDuration)) {
        return yield* new LeaderElectionError({ reason: new LeaseRefused({ error: error.value }) })
      }
    } else {
      refusedAt = undefined
    }
    if (!warned && (yield* monotonic) - heardAt >= leaseDuration / 2n) {
      warned = true
      yield* Log.warn(
        "The watch of the group brings nothing: this replica does not see the others, and shares by what it saw last",
        Exit.isFailure(exit) ? exit.cause : undefined
      )
    }
    yield* Effect.sleep(settings.retryPeriod)
  }
})
