/**
 * What can happen to one request between a candidate and the API server, for {@link LeaseFaults}.
 *
 * A fault is a plain record; {@link all} puts several together:
 *
 * ```ts
 * import { Fault } from "effect-kubernetes-leader-election/testing"
 *
 * const slowAndLost = Fault.all(Fault.delayRequest("2 seconds"), Fault.dropAnswer)
 * ```
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import {
  LeaseConflict,
  type LeaseErrorReason,
  LeaseForbidden,
  LeaseInvalid,
  LeaseNotFound,
  LeaseUnauthorized,
  LeaseUnavailable
} from "../LeaseError.ts"

/**
 * What happens to one request; an empty record lets it through.
 *
 * **Details**
 *
 * - `requestDelay`: it reaches the server this much later, even if the caller has given up by then.
 * - `request`: `"lost"` where it never does.
 * - `answerDelay`: its answer arrives this much later.
 * - `answer`: `"none"` where none ever arrives, `"broken"` where the connection breaks instead, `"brokenAtOnce"` where
 *   it breaks while the request is still on its way, or the error that arrives instead.
 *
 * On a watch it is about opening it: a delayed answer delays `Opened`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Fault {
  readonly requestDelay?: Duration.Input | undefined
  readonly request?: "lost" | undefined
  readonly answerDelay?: Duration.Input | undefined
  readonly answer?: "none" | "broken" | "brokenAtOnce" | LeaseErrorReason | undefined
}

/**
 * Nothing happens to the request.
 *
 * @category constructors
 * @since 0.1.0
 */
export const pass: Fault = {}

/**
 * Several faults of one request; where two disagree, the later one holds.
 *
 * @category constructors
 * @since 0.1.0
 */
export const all = (...faults: ReadonlyArray<Fault>): Fault => Object.assign({}, ...faults)

/**
 * The request reaches the server late. A caller that gives up does not call it back: the write is applied.
 *
 * @category constructors
 * @since 0.1.0
 */
export const delayRequest = (delay: Duration.Input): Fault => ({ requestDelay: delay })

/**
 * The server answers at once, but the answer arrives late.
 *
 * @category constructors
 * @since 0.1.0
 */
export const delayAnswer = (delay: Duration.Input): Fault => ({ answerDelay: delay })

/**
 * The request never reaches the server, and nothing ever comes back: the connection has stalled.
 *
 * @category constructors
 * @since 0.1.0
 */
export const hang: Fault = { request: "lost", answer: "none" }

/**
 * The request is applied, but nothing ever comes back.
 *
 * @category constructors
 * @since 0.1.0
 */
export const hangAfterCommit: Fault = { answer: "none" }

/**
 * The connection breaks before the request reaches the server. The caller cannot know: the outcome is unknown.
 *
 * @category constructors
 * @since 0.1.0
 */
export const dropRequest: Fault = { request: "lost", answer: "broken" }

/**
 * The connection breaks after the request was applied. The outcome is unknown to the caller.
 *
 * @category constructors
 * @since 0.1.0
 */
export const dropAnswer: Fault = { answer: "broken" }

/**
 * The connection breaks now, and the request is applied this much later, guarded as ever.
 *
 * @category constructors
 * @since 0.1.0
 */
export const applyLate = (delay: Duration.Input): Fault => ({ requestDelay: delay, answer: "brokenAtOnce" })

/**
 * Fails with this error; the request is not applied.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fail = (reason: LeaseErrorReason): Fault => ({ request: "lost", answer: reason })

/**
 * Fails with this error although the request has been applied.
 *
 * @category constructors
 * @since 0.1.0
 */
export const failAfterCommit = (reason: LeaseErrorReason): Fault => ({ answer: reason })

/**
 * 409: the version has moved on.
 *
 * @category constructors
 * @since 0.1.0
 */
export const conflict: Fault = fail(new LeaseConflict({ message: "the object has been modified" }))

/**
 * 404: there is no such Lease.
 *
 * @category constructors
 * @since 0.1.0
 */
export const notFound: Fault = fail(new LeaseNotFound({ message: "not found" }))

/**
 * 403: the right is missing.
 *
 * @category constructors
 * @since 0.1.0
 */
export const forbidden: Fault = fail(
  new LeaseForbidden({ message: "is forbidden", anonymous: false, ownerReferences: false })
)

/**
 * 401: the token is refused.
 *
 * @category constructors
 * @since 0.1.0
 */
export const unauthorized: Fault = fail(new LeaseUnauthorized({ message: "Unauthorized" }))

/**
 * 422: the server will never accept it.
 *
 * @category constructors
 * @since 0.1.0
 */
export const invalid: Fault = fail(new LeaseInvalid({ message: "is invalid" }))

/**
 * 429: the server is too busy, and asks to come back after so long.
 *
 * @category constructors
 * @since 0.1.0
 */
export const tooManyRequests = (retryAfter: Duration.Input = "1 second"): Fault =>
  fail(
    new LeaseUnavailable({
      message: "Too many requests, please try again later.",
      outcomeUnknown: false,
      code: 429,
      retryAfter: Duration.fromInputUnsafe(retryAfter)
    })
  )

/**
 * 500, or another status that says that the server is unwell. What became of a write is unknown; here it was not
 * applied.
 *
 * @category constructors
 * @since 0.1.0
 */
export const serverError = (code = 500): Fault =>
  fail(new LeaseUnavailable({ message: "Internal Server Error", outcomeUnknown: true, code }))

/**
 * 504 although the write was applied: the API server's own time-out.
 *
 * @category constructors
 * @since 0.1.0
 */
export const gatewayTimeout: Fault = failAfterCommit(
  new LeaseUnavailable({
    message: "Timeout: request did not complete within the allotted timeout",
    outcomeUnknown: true,
    code: 504
  })
)

/**
 * A proxy on the way has sent the request twice: the first was applied, and the
 * conflict that the second met is the answer.
 *
 * @category constructors
 * @since 0.1.0
 */
export const sentTwice: Fault = failAfterCommit(new LeaseConflict({ message: "the object has been modified" }))

/**
 * The connection is refused: certainly not applied.
 *
 * @category constructors
 * @since 0.1.0
 */
export const refused: Fault = fail(new LeaseUnavailable({ message: "connection refused", outcomeUnknown: false }))
