/**
 * Removing Leases on purpose, for elections that come and go: a tenant that has
 * left leaves its released Lease behind. The election itself never deletes.
 *
 * @since 0.2.0
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { isReleased } from "../internal/protocol/decision.ts"
import { LeaseError, type LeaseErrorReason, LeaseForbidden, LeaseUnavailable } from "../LeaseError.ts"
import { decode, type LeaseKey } from "../LeaseRecord.ts"
import * as LeaseErrors from "./internal/leaseError.ts"
import { missingRule } from "./internal/missingRule.ts"
import * as Paths from "./internal/paths.ts"
import { KubernetesClient } from "./KubernetesClient.ts"

/**
 * What became of a Lease that was to be removed.
 *
 * - `removed`
 * - `absent`: there was none.
 * - `held`: it has a holder, or no holder without having been released.
 * - `changed`: it changed between the read and the removal; nothing was removed.
 *
 * @category models
 * @since 0.2.0
 */
export type Outcome = "removed" | "absent" | "held" | "changed"

/**
 * Removes a Lease that its last holder has released, and no other.
 *
 * **Details**
 *
 * The removal is guarded by the uid and the version that were read, so that a
 * Lease that is taken meanwhile stays. It needs the verbs `get` and `delete` on
 * the Lease, which the election itself does not. Call it when nobody is to take
 * part any more: a candidate creates the Lease again, and waits
 * leaseDuration before leading on it.
 *
 * Fails with `LeaseForbidden` where a right is missing, and names the rule; with
 * `LeaseUnavailable` where there was no answer.
 *
 * **Example** (A tenant that has left)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { LeaseRemoval } from "effect-kubernetes-leader-election"
 *
 * export const forget = (tenant: string) =>
 *   LeaseRemoval.removeReleased({ namespace: "default", name: `tenant-${tenant}` }).pipe(
 *     Effect.tap((outcome) => Effect.logInfo(`Lease of ${tenant}: ${outcome}`))
 *   )
 * ```
 *
 * @category removing
 * @since 0.2.0
 */
export const removeReleased: (key: LeaseKey) => Effect.Effect<Outcome, LeaseError, KubernetesClient> = Effect
  .fnUntraced(function*(key) {
    const client = yield* KubernetesClient
    const path = Paths.lease(key.namespace, key.name)
    const fail = (reason: LeaseErrorReason) => Effect.fail(new LeaseError({ verb: "get", ...key, reason }))

    const read = yield* Effect.result(client.request({ method: "GET", path }))
    if (Result.isFailure(read)) {
      const reason = LeaseErrors.fromRequest(key, "get", read.failure)
      return yield* reason._tag === "LeaseNotFound" ? Effect.succeed<Outcome>("absent") : fail(reason)
    }
    const lease = yield* Effect.catch(
      decode(read.success.body),
      (problem) => fail(LeaseErrors.noLease("get", read.success.status, problem.message))
    )
    if (!isReleased(lease)) {
      return "held"
    }

    const preconditions = { uid: lease.uid, resourceVersion: lease.resourceVersion.toString() }
    const removed = yield* Effect.result(client.request({ method: "DELETE", path, body: { preconditions } }))
    if (Result.isSuccess(removed)) {
      return "removed"
    }
    const reason = LeaseErrors.fromRequest(key, "get", removed.failure)
    switch (reason._tag) {
      case "LeaseNotFound":
        return "absent"
      case "LeaseConflict":
        return "changed"
      case "LeaseForbidden":
        return yield* fail(
          new LeaseForbidden({
            anonymous: reason.anonymous,
            ownerReferences: false,
            message: `cannot delete it\n${missingRule(key.namespace, { ...rule, resourceName: key.name })}`
          })
        )
      case "LeaseUnavailable":
        // It may have been removed all the same.
        return yield* fail(new LeaseUnavailable({ message: reason.message, outcomeUnknown: true }))
      default:
        return yield* fail(reason)
    }
  })

const rule = { apiGroup: "coordination.k8s.io", resource: "leases", verb: "delete" }
