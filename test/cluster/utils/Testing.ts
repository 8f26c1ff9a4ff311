/**
 * What connects the harness with vitest and Effect.
 */
import { Effect, type Scope } from "effect"
import { setTimeout as sleep } from "node:timers/promises"
import { inject, type TestContext } from "vitest"
import { type ClusterDescriptor, connectCluster, type Feature, type KubeCluster } from "./KubeCluster.ts"

declare module "vitest" {
  interface ProvidedContext {
    readonly cluster: ClusterDescriptor
  }
}

/** The cluster that the whole run shares: without the feature `restart`, and never to be frozen. */
export const sharedCluster = (): Promise<KubeCluster> => connectCluster(inject("cluster"))

/** A resource of the harness that lives as long as the test's scope: `yield* scoped(() => Proxy.start(cluster))`. */
export const scoped = <A extends AsyncDisposable>(start: () => Promise<A>): Effect.Effect<A, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(start),
    (resource) => Effect.promise(async () => resource[Symbol.asyncDispose]())
  )

/** Skips the test where the cluster lacks a feature, and says so even where skipped tests are not listed. */
export const skipWithout = (context: TestContext, cluster: KubeCluster, ...features: ReadonlyArray<Feature>): void => {
  for (const feature of features) {
    const reason = cluster.missing(feature)
    if (reason !== undefined) {
      process.stderr.write(`SKIPPED: ${context.task.name}: ${reason}\n`)
      context.skip(reason)
    }
  }
}

/** Repeats until it gives something else than undefined or false; fails after `timeout` ms. */
export const eventually = async <A>(
  what: string,
  attempt: () => Promise<A | undefined | false>,
  timeout = 10_000
): Promise<A> => {
  const deadline = performance.now() + timeout
  for (;;) {
    const result = await attempt()
    if (result !== undefined && result !== false) return result
    if (performance.now() > deadline) throw new Error(`Not within ${timeout} ms: ${what}`)
    await sleep(20)
  }
}
