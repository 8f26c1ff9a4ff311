/**
 * A second source of elapsed time, which goes on while the machine is
 * suspended.
 *
 * The monotonic clock stops then. A leader that wakes up would find its
 * leadership as fresh as it was, although another candidate has taken the Lease
 * long ago. For one's own validity the longer of the two clocks counts; the
 * expiry of others is judged by the monotonic clock alone.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Layer from "effect/Layer"
import * as Os from "node:os"

/**
 * Elapsed nanoseconds since an arbitrary moment, suspension included; or
 * `undefined` for none, which is the default.
 *
 * **Gotchas**
 *
 * A virtual machine that is paused with all its clocks cannot be noticed by any
 * clock inside it: use the fencing token where the resource can check it.
 *
 * @category references
 * @since 0.1.0
 */
export const SuspendWitness = Context.Reference<(() => bigint) | undefined>(
  "effect-kubernetes-leader-election/SuspendWitness",
  { defaultValue: () => undefined }
)

/**
 * The operating system's uptime, which counts suspension on Linux (resolution
 * 10 ms). Part of `LeaderElectionLive`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerNode: Layer.Layer<never> = Layer.succeed(
  SuspendWitness,
  () => BigInt(Math.round(Os.uptime() * 1e9))
)
