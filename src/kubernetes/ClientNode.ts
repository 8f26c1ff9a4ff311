/**
 * How the optional package `@kubernetes/client-node` is loaded, which reads
 * kubeconfig files.
 *
 * @since 0.2.0
 */
import * as Context from "effect/Context"

// Not a literal where it is imported: bundlers would look for the package, which need not be installed, and take all of
// its 18 MB into every bundle.
const specifier: string = ["@kubernetes", "client-node"].join("/")

/**
 * Loads `@kubernetes/client-node`, where a kubeconfig is used and not before.
 *
 * **Details**
 *
 * By default it is imported from where the program is installed, also by a
 * bundled program: the bundle does not contain it. Inside a cluster it is not
 * needed.
 *
 * **Example** (Taking the package into the bundle)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { ClientNode, LeaderElection, LeaderElectionLive } from "effect-kubernetes-leader-election"
 *
 * export const program = LeaderElection.whileLeading(Effect.logInfo("leading")).pipe(
 *   Effect.provide(LeaderElectionLive),
 *   Effect.provideService(ClientNode.ClientNode, () => import("@kubernetes/client-node"))
 * )
 * ```
 *
 * @category references
 * @since 0.2.0
 */
export const ClientNode: Context.Reference<() => Promise<unknown>> = Context.Reference<() => Promise<unknown>>(
  "effect-kubernetes-leader-election/kubernetes/ClientNode",
  { defaultValue: () => () => import(/* webpackIgnore: true */ /* @vite-ignore */ specifier) }
)
