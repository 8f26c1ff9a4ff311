/**
 * An election without any cluster, for local development: this process leads at
 * once, against a Lease in its own memory.
 *
 * Nothing chooses it by itself: where the cluster cannot be reached, nobody
 * becomes leader. So provide it by name, in the entry that developers start.
 *
 * @since 0.1.0
 */
import * as Layer from "effect/Layer"
import * as Log from "./internal/log.ts"
import * as LeaderElection from "./LeaderElection.ts"
import type * as LeaderElectionConfig from "./LeaderElectionConfig.ts"
import type { LeaderElectionError } from "./LeaderElectionError.ts"
import * as LeaseStore from "./LeaseStore.ts"

/**
 * The election of one process with itself. It runs through all that a real one
 * does, terms, fencing tokens, status and metrics, and leads at once.
 *
 * **Details**
 *
 * `name` and `namespace` are by default `local`; what else is not given has its
 * default: the environment is not read. Logs a warning, so that it is not left in by mistake.
 *
 * **Gotchas**
 *
 * Every process that uses it leads: never use it where there are several.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  input?: LeaderElectionConfig.Input
): Layer.Layer<LeaderElection.LeaderElection, LeaderElectionError> =>
  LeaderElection.layer({
    ...input,
    name: input?.name ?? "local",
    namespace: input?.namespace ?? "local",
    newLease: input?.newLease ?? "lead"
  }).pipe(
    Layer.provide(Layer.fresh(LeaseStore.layerMemory)),
    Layer.tap(() => Log.warn("This election is local: the process leads whatever others do. For development only"))
  )
