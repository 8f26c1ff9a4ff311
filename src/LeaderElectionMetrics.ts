/**
 * The metrics of the election: handles only, the election updates them.
 *
 * All carry the attribute `lease` (`namespace/name`); what else they carry is
 * said with each. Counters end in `_total`, but for {@link leaderRunning},
 * whose name is the Ruby gem's. Export them with Effect's own exporters.
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
 * less, nobody leads; more, several do. Prometheus knows it as
 * `leader_running_total`.
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
 * `identity`.
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
 * did. Attribute `reason`, a `LossCause`.
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
 * Lease. Attribute `cause`: `created`, `released`, `expired`, `resumed`.
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
 * renewal to its answer, successful ones only.
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
 * one each but for the winner.
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
 * as live until its Lease has run out.
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
 * left when a renewal succeeded, or the term ended, in this term so far. At
 * rest it is renewDeadline less renewInterval and the time of a request; near 0
 * the term was nearly lost.
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
 * Counter `leader_election_watch_reconnects_total`: watches that had been open
 * and were opened again. One about every 5 to 10 minutes is normal.
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
 * run in this process for longer than the monitor's limit.
 *
 * @category metrics
 * @since 0.1.0
 */
export const eventLoopStalls = Metric.counter("leader_election_event_loop_stalls_total", {
  description: "Event loop stalls beyond the monitor's limit",
  incremental: true
})

/**
 * Counter `leader_election_requests_total`: requests to the API server.
 * Attributes `verb` and `code` (the HTTP status, or `error` without answer).
 *
 * @category metrics
 * @since 0.1.0
 */
export const requests = Metric.counter("leader_election_requests_total", {
  description: "Requests to the API server",
  incremental: true
})
