/**
 * What the API server in memory refuses with: the real one's code, reason and words.
 *
 * @since 0.2.0
 */
import * as Data from "effect/Data"

/**
 * One of several causes of a refusal.
 *
 * @category models
 * @since 0.2.0
 */
export interface StatusCause {
  readonly reason: string
  readonly message: string
  readonly field?: string
}

/**
 * What a refusal is about.
 *
 * @category models
 * @since 0.2.0
 */
export interface StatusDetails {
  readonly name?: string
  readonly group?: string
  readonly kind?: string
  readonly uid?: string
  readonly causes?: ReadonlyArray<StatusCause>
  readonly retryAfterSeconds?: number
}

/**
 * A request that the API server refused. `reason` and `details` are missing where the real server leaves them out (its
 * plain 500s have neither, its 400s no details).
 *
 * @category errors
 * @since 0.1.0
 */
export class ApiError extends Data.TaggedError("ApiError")<{
  readonly code: number
  readonly message: string
  readonly reason?: string | undefined
  readonly details?: StatusDetails | undefined
}> {}
