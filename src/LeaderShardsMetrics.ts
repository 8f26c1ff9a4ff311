/**
 * The metrics of a group of shards: handles only. All carry the attribute
 * `group` (`namespace/name`).
 *
 * Those of the elections (`LeaderElectionMetrics`) exist for each shard, too.
 *
 * @since 0.2.0
 */
import * as Metric from "effect/Metric"

/**
 * Gauge `leader_shards_led`: the shards whose programs run in this process. Its
 * sum over all replicas is {@link listed} where every shard is led.
 *
 * @category metrics
 * @since 0.2.0
 */
export const led = Metric.gauge("leader_shards_led", {
  description: "Shards whose programs run in this process"
})

/**
 * Gauge `leader_shards_listed`: the shards on this replica's list.
 *
 * @category metrics
 * @since 0.2.0
 */
export const listed = Metric.gauge("leader_shards_listed", {
  description: "Shards on this replica's list"
})

/**
 * Gauge `leader_shards_free`: the shards that nobody holds, as seen here.
 *
 * @category metrics
 * @since 0.2.0
 */
export const free = Metric.gauge("leader_shards_free", {
  description: "Shards that nobody holds, as seen by this replica"
})

/**
 * Gauge `leader_shards_members`: the members of the group, as seen here.
 *
 * @category metrics
 * @since 0.2.0
 */
export const members = Metric.gauge("leader_shards_members", {
  description: "Members of the group, as seen by this replica"
})

/**
 * Counter `leader_shards_given_total`: shards that this replica gave up to
 * others. Attribute `reason`: `balance` or `drain`.
 *
 * @category metrics
 * @since 0.2.0
 */
export const given = Metric.counter("leader_shards_given_total", {
  description: "Shards that this replica gave up to others",
  incremental: true
})

/**
 * Counter `leader_shards_failures_total`: programs of shards that failed.
 *
 * @category metrics
 * @since 0.2.0
 */
export const failures = Metric.counter("leader_shards_failures_total", {
  description: "Programs of shards that failed in this process",
  incremental: true
})
