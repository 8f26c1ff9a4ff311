/**
 * How the packages are loaded that only some kubeconfigs need.
 *
 * @since 0.2.0
 */
import * as Context from "effect/Context"

/**
 * A package that need not be installed: `https-proxy-agent` (9) and
 * `socks-proxy-agent` (10) for a cluster behind a proxy, `openid-client` (6) for
 * a kubeconfig that logs in by OIDC.
 *
 * @category models
 * @since 0.2.0
 */
export type OptionalPackage = "https-proxy-agent" | "socks-proxy-agent" | "openid-client"

/**
 * Loads one of these packages, where a kubeconfig needs it and not before.
 *
 * **Details**
 *
 * By default it is imported from where the program is installed, also by a
 * bundled program: the bundle does not contain it, and can be built without it.
 *
 * **Example** (Taking a package into the bundle)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { LeaderElection, LeaderElectionLive, OptionalPackages } from "effect-kubernetes-leader-election"
 *
 * export const program = LeaderElection.whileLeading(Effect.logInfo("leading")).pipe(
 *   Effect.provide(LeaderElectionLive),
 *   Effect.provideService(OptionalPackages.OptionalPackages, (name) =>
 *     name === "https-proxy-agent" ? import("https-proxy-agent") : Promise.reject(new Error(`${name} is not in the bundle`)))
 * )
 * ```
 *
 * @category references
 * @since 0.2.0
 */
export const OptionalPackages: Context.Reference<(name: OptionalPackage) => Promise<unknown>> = Context.Reference<
  (name: OptionalPackage) => Promise<unknown>
>(
  "effect-kubernetes-leader-election/kubernetes/OptionalPackages",
  // Not a literal: bundlers would look for the package, and take it into every bundle.
  { defaultValue: () => (name) => import(/* webpackIgnore: true */ /* @vite-ignore */ name) }
)
