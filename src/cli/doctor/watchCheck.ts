/**
 * Whether events arrive: a watch is opened, as candidates open theirs.
 *
 * A proxy that collects answers before it passes them on (nginx does, unless it
 * is configured not to) lets a watch be opened, and no event through: everything seems
 * well, and a handover takes half a lease instead of milliseconds.
 *
 * @internal
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import * as DurationText from "../../DurationText.ts"
import type { KubernetesClient } from "../../kubernetes/KubernetesClient.ts"
import * as KubernetesLeaseStore from "../../kubernetes/KubernetesLeaseStore.ts"
import type { Settings } from "../../LeaderElectionConfig.ts"
import type { Check } from "./checks.ts"

const remedy =
  "Something between here and the API server holds answers back (nginx: proxy_buffering off; the annotation " +
  "nginx.ingress.kubernetes.io/proxy-buffering), or cuts what lasts long: let watches through as they come. Until then " +
  "candidates notice a handover only when they ask, after up to half of leaseDuration."

/** `exists`: without a Lease there is no event to wait for; it is sent as it is now with the watch's beginning. */
export const watch = Effect.fnUntraced(
  function*(
    settings: Settings,
    exists: boolean,
    limit: Duration.Duration
  ): Effect.fn.Return<Check, never, KubernetesClient> {
    const store = yield* KubernetesLeaseStore.make
    const wanted = exists ? "Applied" : "Opened"
    let opened = false
    const first = yield* store.changes(settings, undefined).pipe(
      Stream.tap(({ _tag }) =>
        Effect.sync(() => {
          opened ||= _tag === "Opened"
        })
      ),
      Stream.filter(({ _tag }) => _tag === wanted),
      Stream.runHead,
      Effect.timed,
      Effect.timeoutOption(limit),
      Effect.result
    )
    const check = (outcome: Check["outcome"], found: string, advice?: string): Check => ({
      name: "watch",
      outcome,
      found,
      remedy: advice
    })
    if (Result.isFailure(first)) {
      return check("warning", `cannot be opened: ${first.failure.message}`, "Candidates poll instead.")
    }
    const seen = Option.getOrUndefined(first.success)
    if (seen !== undefined && Option.isSome(seen[1])) {
      const after = DurationText.format(Duration.millis(Math.round(Duration.toMillis(seen[0]))))
      return check(
        "passed",
        exists
          ? `opens, and its first event arrived after ${after}`
          : `opens after ${after}; there is no Lease yet of which an event could be seen`
      )
    }
    const time = DurationText.format(limit)
    return check(
      "warning",
      opened || seen !== undefined
        ? `opens, but no event arrived within ${time}, though there is a Lease whose state it begins with`
        : `was not answered within ${time}, though other requests are`,
      remedy
    )
  }
)
