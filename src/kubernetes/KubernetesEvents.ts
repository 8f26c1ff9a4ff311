/**
 * Kubernetes Events on the Lease: who became leader, who stopped leading, and
 * why. `kubectl describe lease` and `kubectl get events` show them for about an
 * hour.
 *
 * Optional, and never in the way of the election: an Event that cannot be
 * created is tried again for about a minute and then given up, and what a leader
 * does never waits for it.
 *
 * The service account needs this rule beside those of the election. Where it is
 * missing, one warning is logged, and there are no Events:
 *
 * ```yaml
 * rules:
 *   - apiGroups: ["events.k8s.io"]
 *     resources: ["events"]
 *     verbs: ["create"]
 * ```
 *
 * @since 0.1.0
 */
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import * as Log from "../internal/log.ts"
import * as MicroTime from "../internal/protocol/microTime.ts"
import { LeaderElection } from "../LeaderElection.ts"
import { LeadershipLost, type LossReason } from "../LeaderElectionError.ts"
import type { LeaderElectionStatus, TakeoverCause, Term } from "../LeaderElectionStatus.ts"
import { missingRule } from "./internal/missingRule.ts"
import * as Paths from "./internal/paths.ts"
import { KubernetesClient } from "./KubernetesClient.ts"
import * as KubernetesError from "./KubernetesError.ts"

interface Transition {
  readonly type: "Normal" | "Warning"
  readonly reason: "BecameLeader" | "StoppedLeading"
  readonly note: string
  readonly term: Term
  /** The wall clock, Unix microseconds. */
  readonly at: bigint
}

const takeoverText: Record<TakeoverCause, string> = {
  created: "there was no Lease",
  released: "the Lease was free",
  expired: "the leader before had stopped renewing",
  resumed: "an earlier process of this Pod, or an earlier write of this process, held it"
}

/** Whether what was refused now may be accepted later. */
const isPassing = (error: KubernetesError.KubernetesError): boolean => {
  const refused = KubernetesError.refusedWith(error)
  return refused === undefined || refused === 401 || refused === 429
}

/**
 * Creates an Event when a term of this process begins and when it ends.
 *
 * **Details**
 *
 * - `BecameLeader` (type `Normal`), with the cause of the takeover and the
 *   fencing token.
 * - `StoppedLeading`: type `Normal` where the program ended by itself, `Warning`
 *   where the term was lost, with the reason.
 *
 * `regarding` is the Lease, by its uid. A leader that is killed leaves no Event;
 * its successor's says so. When the layer ends, up to 2 seconds are spent on
 * Events that are still to be sent: the Lease has been released by then.
 *
 * **Example** (Recording Events)
 *
 * ```ts
 * import { Layer } from "effect"
 * import { KubernetesClient, KubernetesEvents, LeaderElectionLive } from "effect-kubernetes-leader-election"
 *
 * export const MainLive = KubernetesEvents.layer.pipe(
 *   Layer.provideMerge(LeaderElectionLive),
 *   Layer.provide(KubernetesClient.layer)
 * )
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<never, never, LeaderElection | KubernetesClient> = Layer.effectDiscard(
  // oxlint-disable-next-line max-lines-per-function -- one recorder: its functions share the queue
  Effect.gen(function*() {
    const election = yield* LeaderElection
    const client = yield* KubernetesClient
    const { identity, name, namespace } = election.settings
    const queue = yield* Queue.unbounded<Transition, Cause.Done>()
    let leading: Term | undefined
    let warned = false

    const observe = (status: LeaderElectionStatus, at: bigint): void => {
      const term = status._tag === "Leading" ? status.term : undefined
      if (leading !== undefined && leading.fencingToken !== term?.fencingToken) {
        Queue.offerUnsafe(queue, stopped(leading, status._tag === "Ending" ? status.reason : undefined, at))
      }
      if (term !== undefined && leading?.fencingToken !== term.fencingToken) {
        Queue.offerUnsafe(queue, became(term, at))
      }
      leading = term
    }

    const became = (term: Term, at: bigint): Transition => ({
      type: "Normal",
      reason: "BecameLeader",
      note: `${identity} became leader: ${takeoverText[term.cause]} (fencing token ${term.fencingToken})`,
      term,
      at
    })

    const stopped = (term: Term, cause: LossReason | undefined, at: bigint): Transition => ({
      type: cause === undefined || cause === "SteppedDown" ? "Normal" : "Warning",
      reason: "StoppedLeading",
      note: `${identity} stopped leading: ${
        cause === undefined ? "its program ended" : new LeadershipLost({ reason: cause }).message
      } (fencing token ${term.fencingToken})`,
      term,
      at
    })

    const create = ({ at, note, reason, term, type }: Transition) =>
      client.request({
        method: "POST",
        path: Paths.events(namespace),
        timeout: "5 seconds",
        body: {
          apiVersion: "events.k8s.io/v1",
          kind: "Event",
          // The same at each attempt, so that none is created twice.
          metadata: {
            namespace,
            name: `${name.slice(0, 200)}.${term.fencingToken.toString(16)}.${reason.toLowerCase()}`
          },
          eventTime: MicroTime.format(at),
          reportingController: "effect-kubernetes-leader-election",
          // The API server takes no more; the note has it whole.
          reportingInstance: identity.slice(0, 128),
          action: reason === "BecameLeader" ? "Lead" : "StopLeading",
          reason,
          type,
          note: note.slice(0, 1024),
          regarding: {
            apiVersion: "coordination.k8s.io/v1",
            kind: "Lease",
            namespace,
            name,
            uid: term.leaseUid,
            resourceVersion: term.fencingToken.toString()
          }
        }
      })

    const report = (error: KubernetesError.KubernetesError) =>
      Effect.suspend(() => {
        const log = warned ? Log.debug : Log.warn
        warned = true
        const hint = KubernetesError.refusedWith(error) === 403
          ? `\n${missingRule(namespace, { apiGroup: "events.k8s.io", resource: "events", verb: "create" })}`
          : ""
        return log(`An Event on the Lease could not be created: ${error.message}${hint}`)
      })

    /** With some patience: the Event of a loss is often due while the API server cannot be reached. */
    const send = (transition: Transition) =>
      create(transition).pipe(
        // An earlier attempt, of unknown outcome, was applied.
        Effect.catchIf((error) => KubernetesError.refusedWith(error) === 409, () => Effect.void),
        Effect.tapError(report),
        Effect.retry({ schedule: Schedule.exponential("1 second"), times: 5, while: isPassing }),
        Effect.andThen(Effect.sync(() => {
          warned = false
        })),
        Effect.ignore
      )

    // One fiber notes what happens and when, another sends it to the API server: what hangs there delays no note.
    const sending = yield* Effect.forkDetach(
      Stream.runForEach(Stream.fromQueue(queue), send).pipe(
        Effect.annotateLogs({ lease: `${namespace}/${name}`, identity })
      ),
      { startImmediately: true }
    )
    yield* Effect.addFinalizer(() =>
      Effect.andThen(Queue.end(queue), Fiber.await(sending)).pipe(
        Effect.interruptible,
        Effect.timeoutOption("2 seconds"),
        Effect.andThen(Fiber.interrupt(sending))
      )
    )
    yield* Stream.runForEach(
      election.changes,
      (status) => Effect.clockWith((clock) => Effect.map(clock.currentTimeNanos, (now) => observe(status, now / 1000n)))
    ).pipe(Effect.forkScoped({ startImmediately: true }))
  })
)
