/**
 * A label on the leader's Pod, for a Service that routes to the leader.
 *
 * Optional, and never in the way of the election: what cannot be written is
 * tried again, and what a leader does never waits for it.
 *
 * **Gotchas**
 *
 * The label is for routing, and no proof of leadership: it follows a term after
 * some milliseconds, connections to a former leader stay open, and a leader that
 * is cut off from the API server cannot remove it, while its successor already
 * has one. What is reached must still ask `Leadership.ensure`.
 *
 * The service account needs this rule beside those of the election. Where it is
 * missing, one warning is logged, and there is no label. It lets every Pod with
 * this account change all Pods of the namespace, since RBAC knows no "own Pod";
 * with a StatefulSet, `resourceNames` can name the Pods:
 *
 * ```yaml
 * rules:
 *   - apiGroups: [""]
 *     resources: ["pods"]
 *     verbs: ["patch"]
 * ```
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as Log from "../internal/log.ts"
import { LeaderElection } from "../LeaderElection.ts"
import { missingRule } from "./internal/missingRule.ts"
import * as Paths from "./internal/paths.ts"
import { KubernetesClient } from "./KubernetesClient.ts"
import * as KubernetesError from "./KubernetesError.ts"

/**
 * The label's key, where no other is given. Its value is `true`.
 *
 * @category constants
 * @since 0.1.0
 */
export const defaultLabel = "effect-kubernetes-leader-election/leader"

/**
 * Labels this process's Pod while it leads.
 *
 * **Details**
 *
 * The label is set when a term begins and removed when it is over or lost,
 * before the program's finalizers have ended. When the layer is built it is
 * removed once, in case that a crash of an earlier process of this Pod has left
 * it behind. The Pod is that of POD_NAME and POD_UID: one of the same name that
 * came after it is never touched. Without a Pod identity, a warning is logged
 * and nothing else happens.
 *
 * A write that failed is tried again after 1 second, then after ever longer
 * pauses of up to 1 minute. When the layer ends, up to 2 seconds are spent on
 * removing the label.
 *
 * **Example** (A Service that routes to the leader)
 *
 * ```ts
 * import { Layer } from "effect"
 * import { KubernetesClient, LeaderElectionLive, PodLabel } from "effect-kubernetes-leader-election"
 *
 * // Service: spec.selector: { app: invoices, leads-invoices: "true" }
 * export const MainLive = PodLabel.layer({ label: "leads-invoices" }).pipe(
 *   Layer.provideMerge(LeaderElectionLive),
 *   Layer.provide(KubernetesClient.layer)
 * )
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = ( // oxlint-disable-line max-lines-per-function -- one label: its functions share what is wanted
  options?: {
    /** The label's key, {@link defaultLabel} by default. Several elections in one process need one each. */
    readonly label?: string | undefined
  }
): Layer.Layer<never, never, LeaderElection | KubernetesClient> =>
  // oxlint-disable-next-line max-lines-per-function -- one label: its functions share what is wanted
  Layer.effectDiscard(Effect.gen(function*() {
    const election = yield* LeaderElection
    const client = yield* KubernetesClient
    const label = options?.label ?? defaultLabel
    const { identity, name, namespace, pod } = election.settings
    const logged = Effect.annotateLogs({ lease: `${namespace}/${name}`, identity })
    if (pod === undefined) {
      return yield* logged(Log.warn(
        `The leader's Pod gets no label "${label}": set POD_NAME, POD_UID and POD_NAMESPACE from the downward API`
      ))
    }

    let wanted = false
    // Unknown at first: a crash may have left the label behind.
    let written: boolean | undefined
    // A write that set the label, of unknown outcome: it may be applied after the removal that follows it.
    let late = false
    let ending = false
    let warned = false
    let pause = 1
    const changed = Latch.makeUnsafe(true)

    const patch = (value: boolean) =>
      client.request({
        method: "PATCH",
        path: Paths.pod(namespace, pod.name),
        contentType: "application/merge-patch+json",
        timeout: "5 seconds",
        // The uid guards a Pod of the same name that came after ours.
        body: { metadata: { uid: pod.uid, labels: { [label]: value ? "true" : null } } }
      })

    // To the API server, another uid is a change of a field that cannot change.
    const isOtherPod = (error: Option.Option<KubernetesError.KubernetesError>) =>
      Option.isSome(error) && KubernetesError.refusedWith(error.value) === 422 &&
      error.value.message.includes("metadata.uid")

    // A write of unknown outcome leaves unknown what is written: the opposite is not assumed.
    const reconcile = Effect.gen(function*() {
      while (true) {
        if (ending && written === false) {
          return
        }
        changed.closeUnsafe()
        const value = wanted && !ending
        if (written === value) {
          if (written || !late) {
            yield* changed.await
          } else if (
            yield* Effect.raceFirst(Effect.as(changed.await, false), Effect.as(Effect.sleep("1 minute"), true))
          ) {
            late = false
            written = undefined
          }
          continue
        }
        written = undefined
        const exit = yield* Effect.exit(patch(value))
        if (Exit.isSuccess(exit)) {
          written = value
          warned = false
          pause = 1
          continue
        }
        const error = Exit.findErrorOption(exit)
        const refused = Option.isSome(error) ? KubernetesError.refusedWith(error.value) : undefined
        late ||= value && (Option.isNone(error) || KubernetesError.isOutcomeUnknown(error.value))
        if (refused === 404 || isOtherPod(error)) {
          // Our Pod is gone, and its label with it.
          written = false
          if (value) {
            yield* Log.warn(
              `There is no Pod "${pod.name}" with uid ${pod.uid} to label: are POD_NAME and POD_UID right?`
            )
            yield* changed.await
          }
          continue
        }
        if (!warned) {
          warned = true
          const hint = refused === 403
            ? `\n${missingRule(namespace, { apiGroup: "", resource: "pods", verb: "patch" })}`
            : ""
          yield* Log.warn(
            `The label "${label}" could not be ${value ? "set on" : "removed from"} Pod ${pod.name}: ${
              Option.isSome(error) ? error.value.message : "the client failed unexpectedly"
            }${hint}`
          )
        }
        yield* Effect.raceFirst(changed.await, Effect.sleep(`${pause} seconds`))
        pause = Math.min(pause * 2, 60)
      }
    })

    // Outlives the scope for as long as the finalizer waits for it.
    const fiber = yield* Effect.forkDetach(logged(reconcile), { startImmediately: true })
    yield* Effect.addFinalizer(() =>
      Effect.suspend(() => {
        ending = true
        changed.openUnsafe()
        return Fiber.await(fiber)
      }).pipe(
        Effect.interruptible,
        Effect.timeoutOption("2 seconds"),
        Effect.andThen(Fiber.interrupt(fiber))
      )
    )
    yield* Stream.runForEach(election.changes, (status) =>
      Effect.sync(() => {
        const leads = status._tag === "Leading"
        if (wanted !== leads) {
          wanted = leads
          pause = 1
          changed.openUnsafe()
        }
      })).pipe(Effect.forkScoped({ startImmediately: true }))
  }))
