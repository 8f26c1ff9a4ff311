/**
 * Durations as people write them in variables, flags and manifests.
 *
 * Effect reads `15 seconds`; Kubernetes' users write `15s`, `1m30s` or plain
 * seconds. Here all of these are read, and what is written is read back as the
 * same duration, by Go too.
 *
 * @since 0.2.0
 */
import type * as Duration from "effect/Duration"
import * as Internal from "./internal/duration.ts"

/**
 * Reads a duration of 0 or more; `undefined` where the text is none. Digits
 * beyond the nanosecond are dropped.
 *
 * **Example** (Reading a variable)
 *
 * ```ts
 * import { DurationText } from "effect-kubernetes-leader-election"
 *
 * DurationText.parse("1m30s") // 90 s
 * DurationText.parse("2.5") // 2.5 s
 * DurationText.parse("soon") // undefined
 * ```
 *
 * @category parsing
 * @since 0.2.0
 */
export const parse: (text: string) => Duration.Duration | undefined = Internal.parse

/**
 * Writes a duration in seconds (`90s`), or in milliseconds below one second
 * (`500ms`).
 *
 * @category formatting
 * @since 0.2.0
 */
export const format: (duration: Duration.Duration) => string = Internal.format

/**
 * What {@link parse} reads, for messages.
 *
 * @category formatting
 * @since 0.2.0
 */
export const examples: string = Internal.examples
