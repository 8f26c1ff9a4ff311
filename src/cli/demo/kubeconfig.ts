/**
 * A kubeconfig like another one, but with its server behind a proxy of the demo's.
 *
 * @internal
 */
import * as Effect from "effect/Effect"
import { readFileSync, writeFileSync } from "node:fs"
import { dirname, resolve } from "node:path"
import { KubernetesConfigError } from "../../kubernetes/KubernetesError.ts"

interface Content {
  readonly "current-context"?: string
  readonly contexts?: ReadonlyArray<{ readonly name: string; readonly context: { readonly cluster: string } }>
  readonly clusters?: ReadonlyArray<{ readonly name: string; readonly cluster: Record<string, unknown> }>
  readonly users?: ReadonlyArray<{ readonly name: string; readonly user: Record<string, unknown> }>
}

/** What in an entry is a path, and would be taken as beside the new file. */
const paths = new Set(["certificate-authority", "client-certificate", "client-key", "tokenFile"])

/** Writes it to `path`: the context's cluster is reached at this port of the loopback address. */
export const writeKubeconfig = (
  target: { readonly file: string; readonly context: string | undefined },
  port: number,
  path: string
): Effect.Effect<string, KubernetesConfigError> =>
  Effect.tryPromise({
    try: async () => {
      // `default` is all that a bundle which is split into files has of a CommonJS module.
      const { parse } = (await import("yaml")).default
      const content = parse(readFileSync(target.file, "utf8"), { prettyErrors: false }) as Content
      const folder = dirname(resolve(target.file))
      const absolute = (entry: Record<string, unknown>) =>
        Object.fromEntries(
          Object.entries(entry).map(([key, value]) => [
            key,
            paths.has(key) && typeof value === "string" ? resolve(folder, value) : value
          ])
        )
      const name = target.context ?? content["current-context"]
      const context = content.contexts?.find((entry) => entry.name === name)
      const clusters = content.clusters?.map(({ cluster, name }) => ({
        name,
        cluster: name === context?.context.cluster
          ? { ...absolute(cluster), ...behind(cluster, port) }
          : absolute(cluster)
      }))
      const users = content.users?.map(({ name, user }) => ({ name, user: absolute(user) }))
      writeFileSync(path, JSON.stringify({ ...content, "current-context": name, clusters, users }), { mode: 0o600 })
      return path
    },
    // Not the parser's own words, which may hold what stands beside a mistake.
    catch: () => new KubernetesConfigError({ message: `${target.file} is not a valid kubeconfig` })
  })

const behind = (cluster: Record<string, unknown>, port: number) => {
  const { hostname, pathname, protocol } = new URL(String(cluster["server"]))
  return {
    server: `${protocol}//127.0.0.1:${port}${pathname === "/" ? "" : pathname}`,
    // The certificate is still that of the server behind the proxy.
    ...(hostname !== "127.0.0.1" && { "tls-server-name": cluster["tls-server-name"] ?? hostname })
  }
}
