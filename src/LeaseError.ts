/**
 * What a {@link LeaseStore} can answer instead of a Lease, sorted by what can be
 * done about it.
 *
 * @since 0.1.0
 */
import type * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"

/**
 * The request that failed, by its name in Kubernetes' authorisation rules.
 *
 * @category models
 * @since 0.1.0
 */
export type LeaseVerb = "get" | "create" | "patch" | "watch"

/**
 * The write's guard did not hold: the Lease has changed since the version that
 * the write was decided on, or (create) it exists already. The write was not
 * applied.
 *
 * @category errors
 * @since 0.1.0
 */
export class LeaseConflict
  extends Schema.Error<LeaseConflict>("effect-kubernetes-leader-election/LeaseError/Conflict")({
    _tag: Schema.tag("LeaseConflict"),
    message: Schema.String
  })
{}

/**
 * The Lease does not exist, or, on create, its namespace does not.
 *
 * @category errors
 * @since 0.1.0
 */
export class LeaseNotFound
  extends Schema.Error<LeaseNotFound>("effect-kubernetes-leader-election/LeaseError/NotFound")({
    _tag: Schema.tag("LeaseNotFound"),
    message: Schema.String
  })
{}

/**
 * The API server itself refused the request: a right is missing, or something
 * denied what the rights would allow.
 *
 * **Details**
 *
 * `deniedBy` is set where no right is missing: it names the admission webhook,
 * the ValidatingAdmissionPolicy or the plugin that denied the request, whatever
 * code it chose for that. `ownerReferences` is true where only the change of the
 * owner was refused (admission plugin `OwnerReferencesPermissionEnforcement`);
 * `anonymous` where no token arrived at all.
 *
 * @category errors
 * @since 0.1.0
 */
export class LeaseForbidden
  extends Schema.Error<LeaseForbidden>("effect-kubernetes-leader-election/LeaseError/Forbidden")({
    _tag: Schema.tag("LeaseForbidden"),
    message: Schema.String,
    anonymous: Schema.Boolean,
    ownerReferences: Schema.Boolean,
    deniedBy: Schema.optional(Schema.String)
  })
{}

/**
 * The credentials were refused, even after they had been read again.
 *
 * @category errors
 * @since 0.1.0
 */
export class LeaseUnauthorized
  extends Schema.Error<LeaseUnauthorized>("effect-kubernetes-leader-election/LeaseError/Unauthorized")({
    _tag: Schema.tag("LeaseUnauthorized"),
    message: Schema.String
  })
{}

/**
 * The API server understood the request and will never accept it (400, 413,
 * 422), as a Status of its own says.
 *
 * @category errors
 * @since 0.1.0
 */
export class LeaseInvalid extends Schema.Error<LeaseInvalid>("effect-kubernetes-leader-election/LeaseError/Invalid")({
  _tag: Schema.tag("LeaseInvalid"),
  message: Schema.String
}) {}

/**
 * A watch cannot be resumed at the version asked for (410): read, or watch
 * without a version.
 *
 * @category errors
 * @since 0.1.0
 */
export class LeaseExpired extends Schema.Error<LeaseExpired>("effect-kubernetes-leader-election/LeaseError/Expired")({
  _tag: Schema.tag("LeaseExpired"),
  message: Schema.String
}) {}

/**
 * No answer, one that asks to come back, or one that is not the API server's
 * own: a time-out, a broken or refused connection, 429, 5xx, the page of a
 * proxy with any code, a body that is not a Lease.
 *
 * **Details**
 *
 * `outcomeUnknown` is true where a write may have been applied, or may still be
 * applied up to a minute later; false where it certainly was not (the
 * connection was refused, the answer was 429). `retryAfter` is what the
 * server asked for, in milliseconds. `code` is the HTTP status where there was
 * an answer.
 *
 * @category errors
 * @since 0.1.0
 */
export class LeaseUnavailable
  extends Schema.Error<LeaseUnavailable>("effect-kubernetes-leader-election/LeaseError/Unavailable")({
    _tag: Schema.tag("LeaseUnavailable"),
    message: Schema.String,
    outcomeUnknown: Schema.Boolean,
    code: Schema.optional(Schema.Number),
    retryAfter: Schema.optional(Schema.DurationFromMillis),
    cause: Schema.optional(Schema.Defect())
  })
{}

/**
 * Everything a {@link LeaseError} can be about.
 *
 * @category errors
 * @since 0.1.0
 */
export const LeaseErrorReason = Schema.Union([
  LeaseConflict,
  LeaseNotFound,
  LeaseForbidden,
  LeaseUnauthorized,
  LeaseInvalid,
  LeaseExpired,
  LeaseUnavailable
])

/**
 * Everything a {@link LeaseError} can be about.
 *
 * @category errors
 * @since 0.1.0
 */
export type LeaseErrorReason = typeof LeaseErrorReason.Type

/**
 * A request of the {@link LeaseStore} failed. `reason` says why; the message
 * names the verb and the Lease.
 *
 * @category errors
 * @since 0.1.0
 */
export class LeaseError extends Schema.Error<LeaseError>("effect-kubernetes-leader-election/LeaseError")({
  _tag: Schema.tag("LeaseError"),
  verb: Schema.Literals(["get", "create", "patch", "watch"]),
  namespace: Schema.String,
  name: Schema.String,
  reason: LeaseErrorReason
}) {
  override get message(): string {
    return `${this.verb} lease ${this.namespace}/${this.name}: ${this.reason.message}`
  }
}

/**
 * How long the server asked to wait before the next request, where it did.
 *
 * @category accessors
 * @since 0.1.0
 */
export const retryAfter = (error: LeaseError): Duration.Duration | undefined =>
  error.reason._tag === "LeaseUnavailable" ? error.reason.retryAfter : undefined

/**
 * Whether the write that failed may nevertheless have been applied, now or
 * later.
 *
 * @category accessors
 * @since 0.1.0
 */
export const isOutcomeUnknown = (error: LeaseError): boolean =>
  error.reason._tag === "LeaseUnavailable" && error.reason.outcomeUnknown
