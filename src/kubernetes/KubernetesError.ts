/**
 * What can go wrong between this process and the Kubernetes API, with the one
 * thing that a write needs to know beside the cause: whether it may have been
 * applied all the same.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

/**
 * The API server, or something in front of it, answered with another status
 * than 2xx.
 *
 * **Details**
 *
 * `fromApiServer` is true where the body is a Kubernetes `Status`: then `reason`,
 * `message` and `details` are its own. It is false for the page of something in
 * front of the API server, whatever its status, and for the plain text that the
 * API server sends with 429. `retryAfter` is the header's, in milliseconds.
 *
 * A write that the API server itself answered with 4xx was not applied, nor one
 * that was answered with 429; after anything else it may have been, or may yet
 * be.
 *
 * @category errors
 * @since 0.1.0
 */
export class KubernetesStatusError
  extends Schema.Error<KubernetesStatusError>("effect-kubernetes-leader-election/KubernetesError/Status")({
    _tag: Schema.tag("KubernetesStatusError"),
    status: Schema.Number,
    reason: Schema.optional(Schema.String),
    message: Schema.String,
    details: Schema.optional(Schema.Unknown),
    retryAfter: Schema.optional(Schema.DurationFromMillis),
    fromApiServer: Schema.Boolean,
    outcomeUnknown: Schema.Boolean
  })
{}

/**
 * There was no connection, or it broke before the answer was complete.
 *
 * **Details**
 *
 * `code` is Node's (`ECONNREFUSED`, `ENOTFOUND`, `ECONNRESET`, a TLS error, …).
 * Where the connection was never established (refused, no such host, TLS
 * handshake failed) nothing was sent, and `outcomeUnknown` is false.
 *
 * @category errors
 * @since 0.1.0
 */
export class KubernetesConnectionError
  extends Schema.Error<KubernetesConnectionError>("effect-kubernetes-leader-election/KubernetesError/Connection")({
    _tag: Schema.tag("KubernetesConnectionError"),
    message: Schema.String,
    code: Schema.optional(Schema.String),
    outcomeUnknown: Schema.Boolean,
    cause: Schema.optional(Schema.Defect())
  })
{}

/**
 * A time limit was reached.
 *
 * **Details**
 *
 * `phase` says what was being waited for: the credentials (a token file, an
 * exec plugin), the name of the server, the connection to it, its TLS handshake,
 * the response's headers, its body, or, in a stream, the next sign of life.
 * Before the response nothing was sent, and `outcomeUnknown` is false.
 *
 * @category errors
 * @since 0.1.0
 */
export class KubernetesTimeoutError
  extends Schema.Error<KubernetesTimeoutError>("effect-kubernetes-leader-election/KubernetesError/Timeout")({
    _tag: Schema.tag("KubernetesTimeoutError"),
    phase: Schema.Literals(["credentials", "name", "connection", "tls", "response", "body", "stream"]),
    message: Schema.String,
    outcomeUnknown: Schema.Boolean
  })
{}

/**
 * The credentials could not be read, so nothing was sent: a file is missing, an
 * exec plugin failed.
 *
 * @category errors
 * @since 0.1.0
 */
export class KubernetesCredentialsError
  extends Schema.Error<KubernetesCredentialsError>("effect-kubernetes-leader-election/KubernetesError/Credentials")({
    _tag: Schema.tag("KubernetesCredentialsError"),
    message: Schema.String,
    cause: Schema.optional(Schema.Defect())
  })
{}

/**
 * A 2xx whose body is not the JSON that it is said to be. A write with this
 * answer may have been applied; what it led to is not known.
 *
 * @category errors
 * @since 0.1.0
 */
export class KubernetesBodyError
  extends Schema.Error<KubernetesBodyError>("effect-kubernetes-leader-election/KubernetesError/Body")({
    _tag: Schema.tag("KubernetesBodyError"),
    status: Schema.Number,
    message: Schema.String
  })
{}

/**
 * Everything a {@link KubernetesError} can be about.
 *
 * @category errors
 * @since 0.1.0
 */
export const KubernetesErrorReason = Schema.Union([
  KubernetesStatusError,
  KubernetesConnectionError,
  KubernetesTimeoutError,
  KubernetesCredentialsError,
  KubernetesBodyError
])

/**
 * Everything a {@link KubernetesError} can be about.
 *
 * @category errors
 * @since 0.1.0
 */
export type KubernetesErrorReason = typeof KubernetesErrorReason.Type

/**
 * A request to the Kubernetes API failed. `reason` says why; the message names
 * the request.
 *
 * @category errors
 * @since 0.1.0
 */
export class KubernetesError
  extends Schema.Error<KubernetesError>("effect-kubernetes-leader-election/KubernetesError")({
    _tag: Schema.tag("KubernetesError"),
    method: Schema.String,
    path: Schema.String,
    reason: KubernetesErrorReason
  })
{
  override get message(): string {
    return `${this.method} ${this.path}: ${describe(this.reason)}`
  }
}

/**
 * The reason as text, with the status where there was an answer.
 *
 * @category accessors
 * @since 0.1.0
 */
export const describe = (reason: KubernetesErrorReason): string =>
  reason._tag === "KubernetesStatusError"
    ? [reason.status, ...(reason.reason === undefined ? [] : [reason.reason])].join(" ") + `: ${reason.message}`
    : reason.message

/**
 * The HTTP status, where there was an answer.
 *
 * @category accessors
 * @since 0.1.0
 */
export const status = (error: KubernetesError): number | undefined =>
  error.reason._tag === "KubernetesStatusError" || error.reason._tag === "KubernetesBodyError"
    ? error.reason.status
    : undefined

/**
 * The HTTP status with which the API server itself refused the request;
 * `undefined` where there was no answer, or one of something in front of it.
 *
 * @category accessors
 * @since 0.2.0
 */
export const refusedWith = (error: KubernetesError): number | undefined =>
  error.reason._tag === "KubernetesStatusError" && error.reason.fromApiServer && error.reason.status < 500
    ? error.reason.status
    : undefined

/**
 * Whether the write that failed may nevertheless have been applied, now or
 * later. Always false for reads.
 *
 * @category accessors
 * @since 0.1.0
 */
export const isOutcomeUnknown = (error: KubernetesError): boolean =>
  "outcomeUnknown" in error.reason && error.reason.outcomeUnknown

/**
 * There is no usable way to the API server: no cluster around this process and
 * no kubeconfig, or one that is wrong. The message names the variable or file,
 * what was found there, and what to do.
 *
 * @category errors
 * @since 0.1.0
 */
export class KubernetesConfigError
  extends Schema.Error<KubernetesConfigError>("effect-kubernetes-leader-election/KubernetesConfigError")({
    _tag: Schema.tag("KubernetesConfigError"),
    message: Schema.String,
    cause: Schema.optional(Schema.Defect())
  })
{}
