/**
 * Packages that only some kubeconfigs need.
 *
 * @internal
 */
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import { KubernetesConfigError } from "../KubernetesError.ts"
import type { OptionalPackage } from "../OptionalPackages.ts"

export type Load = (name: OptionalPackage) => Promise<unknown>

// As in package.json.
const versions: Record<OptionalPackage, string> = {
  "https-proxy-agent": "9",
  "socks-proxy-agent": "10",
  "openid-client": "6"
}

/** Loads a package that may not be installed; `what` needs it. */
export const optionalPackage = <A>(
  load: Load,
  name: OptionalPackage,
  what: string
): Effect.Effect<A, KubernetesConfigError> =>
  Effect.tryPromise({
    try: () => load(name) as Promise<A>,
    catch: (cause) =>
      new KubernetesConfigError({
        message: `${what} needs the package ${name}, which ` +
          (Predicate.hasProperty(cause, "code") && cause.code === "ERR_MODULE_NOT_FOUND"
            ? `is not installed: npm install ${name}@${versions[name]}`
            : "could not be loaded"),
        cause
      })
  })
