/**
 * The metrics of the election: handles only, the election updates them.
 *
 * All but {@link requests} and {@link eventLoopStalls} carry the attribute
 * `lease` (`namespace/name`); what else they carry is said with each. Counters
 * end in `_total`, but for {@link leaderRunning}, whose name is the Ruby gem's.
 * When an election is built, everything whose attributes are known is shown at
 * 0, {@link renewalDuration} and {@link validityLeft} excepted.
 *
 * **Example** (Exporting to Prometheus)
 *
 * Merge this layer with those of your program, and serve its router. Effect's
 * exporter adds no endings to names: the mapper names the gem's counter as
 * Prometheus wants it.
 *
 * ```ts
 * import { PrometheusMetrics } from "effect/observability"
 *
 * const metricNameMapper = (name: string) => name === "leader_running" ? "leader_running_total" : name
 *
 * export const MetricsLive = PrometheusMetrics.layerHttp({ path: "/metrics", metricNameMapper })
 * ```
 *
 * `Otlp.layerJson({ baseUrl })` of the same package sends metrics, logs and
 * spans to an OpenTelemetry Collector; {@link StatsD} is this library's.
 *
 * @since 0.1.0
 */
import * as Metric from "effect/Metric"

/**
 * Counter `leader_running`: one at the start of a term, and one for each
 * renewInterval while its leadership is valid.
 *
 * **Details**
 *
 * Alert when its rate over all replicas is not about one per renewInterval:
 * less, nobody leads; more, several do. Each change of the leader adds up to one
 * too many, since every term begins with one. Where names of counters must end
 * in `_total`, call it `leader_running_total` by the exporter's name mapping.
 *
 * @category metrics
 * @since 0.1.0
 */
export const leaderRunning = Metric.counter("leader_running", {
  description: "One per renewInterval while this process leads",
  incremental: true
})

/**
 * Gauge `leader_election_leader`: 1 while this process leads, else 0. Attribute
 * `identity`. It is 0 from the loss or the end of a term on, while finalizers of
 * the program still run. A process that was killed exports nothing.
 *
 * @category metrics
 * @since 0.1.0
 */
export const leader = Metric.gauge("leader_election_leader", {
  description: "1 while this process leads, else 0"
})

/**
 * Counter `leader_election_terms_total`: terms begun by this process.
 *
 * @category metrics
 * @since 0.1.0
 */
export const terms = Metric.counter("leader_election_terms_total", {
  description: "Terms begun by this process",
  incremental: true
})

/**
 * Counter `leader_election_losses_total`: terms that ended before their program
 * did. Attribute `reason`, a `LossReason`.
 *
 * @category metrics
 * @since 0.1.0
 */
export const losses = Metric.counter("leader_election_losses_total", {
  description: "Terms of this process that ended before their program did",
  incremental: true
})

/**
 * Counter `leader_election_takeovers_total`: how this process came to hold the
 * Lease. Attribute `cause`: `created`, `released`, `expired`, `resumed`. A Lease
 * that may be younger than leaseDuration is held before its term begins, and
 * may be lost before: terms can be fewer.
 *
 * @category metrics
 * @since 0.1.0
 */
export const takeovers = Metric.counter("leader_election_takeovers_total", {
  description: "Times that this process came to hold the Lease",
  incremental: true
})

/**
 * Histogram `leader_election_renewal_duration_seconds`: from the start of a
 * renewal to its answer, successful ones only; those that keep a young Lease
 * before the term begins too.
 *
 * @category metrics
 * @since 0.1.0
 */
export const renewalDuration = Metric.histogram("leader_election_renewal_duration_seconds", {
  description: "Time that successful renewals took",
  boundaries: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]
})

/**
 * Counter `leader_election_failed_attempts_total`: requests of the election that
 * failed. Attributes `verb` (`get`, `create`, `patch`, `watch`) and `reason`
 * (the tag of the `LeaseError`'s reason).
 *
 * **Details**
 *
 * A conflict is counted too: several candidates that try for one free Lease make
 * one each but for the winner. A read that finds no Lease has not failed.
 *
 * @category metrics
 * @since 0.1.0
 */
export const failedAttempts = Metric.counter("leader_election_failed_attempts_total", {
  description: "Requests of the election that failed",
  incremental: true
})

/**
 * Counter `leader_election_leaderless_seconds_total`: time during which this
 * process, while it took part, knew of no live holder. A crashed holder counts
 * as live until its Lease has run out, and the holder of a young Lease as a holder.
 * Added when a live holder is seen again: until then the counter stands still.
 *
 * @category metrics
 * @since 0.1.0
 */
export const leaderlessSeconds = Metric.counter("leader_election_leaderless_seconds_total", {
  description: "Seconds without a live holder, as seen here",
  incremental: true
})

/**
 * Gauge `leader_election_validity_left_seconds`: the least validity that was
 * left when the answer of a successful renewal arrived, in this term so far; 0
 * when the term was lost because no renewal succeeded. At rest it is
 * renewDeadline less renewInterval and the time of a request (5 s by default);
 * near 0 the term was nearly lost. Not shown before the first renewal of a term;
 * after a term it keeps its last value.
 *
 * @category metrics
 * @since 0.1.0
 */
export const validityLeft = Metric.gauge("leader_election_validity_left_seconds", {
  description: "Least validity left at a renewal of this term"
})

/**
 * Counter `leader_election_overruns_total`: programs that had not ended when
 * others could take the Lease, 95 % of leaseDuration after the last renewal.
 *
 * @category metrics
 * @since 0.1.0
 */
export const overruns = Metric.counter("leader_election_overruns_total", {
  description: "Programs that outlived their term",
  incremental: true
})

/**
 * Counter `leader_election_watch_reconnects_total`: watches that had been open,
 * ended or broke, and are opened again. One about every 5 to 10 minutes is
 * normal.
 *
 * @category metrics
 * @since 0.1.0
 */
export const watchReconnects = Metric.counter("leader_election_watch_reconnects_total", {
  description: "Watches opened again",
  incremental: true
})

/**
 * Counter `leader_election_event_loop_stalls_total`: times that nothing could
 * run in this process for longer than the limit of {@link EventLoopMonitor}.
 *
 * @category metrics
 * @since 0.1.0
 */
export const eventLoopStalls = Metric.counter("leader_election_event_loop_stalls_total", {
  description: "Event loop stalls beyond the monitor's limit",
  incremental: true
})

/**
 * Counter `leader_election_requests_total`: requests to the API server, those
 * that credentials were renewed for included. Attributes `verb` and `code` (the
 * HTTP status, or `error` without answer). A watch counts when it opens.
 *
 * @category metrics
 * @since 0.1.0
 */
export const requests = Metric.counter("leader_election_requests_total", {
  description: "Requests to the API server",
  incremental: true
})
