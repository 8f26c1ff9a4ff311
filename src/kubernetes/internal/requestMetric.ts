/**
 * Counts requests to the API server.
 *
 * @internal
 */
import type * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import { requests } from "../../LeaderElectionMetrics.ts"

/** `verb` in Kubernetes' words; `code` is undefined where no answer came. */
export const recordRequest = (verb: string, code: number | undefined): Effect.Effect<void> =>
  Metric.update(Metric.withAttributes(requests, { verb, code: code === undefined ? "error" : `${code}` }), 1)
