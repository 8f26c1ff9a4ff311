/**
 * Takes part in elections as a Pod does, on the library's own modules, and tells what was loaded for it. A program of
 * its own: what a test has loaded would hide it. Arguments: the directory of the service account's files, and the names
 * of the Leases, of which many are led by the keyed form.
 */
import { registerHooks } from "node:module"

const modules: Array<string> = []
registerHooks({
  load: (url, context, next) => {
    modules.push(url)
    return next(url, context)
  }
})

const [directory = "", ...names] = process.argv.slice(2)

const Effect = await import("effect/Effect")
const Layer = await import("effect/Layer")
const KubernetesClient = await import("../../src/kubernetes/KubernetesClient.ts")
const client = KubernetesClient.layerInCluster({ directory })
const settings = { newLease: "lead", leaseDuration: names.length > 1 ? "15 seconds" : "9 seconds" } as const

const tell = () =>
  Effect.sync(() => {
    // Not in Node's documentation, but the only list of its own modules that were loaded.
    const { moduleLoadList } = process as unknown as { readonly moduleLoadList: ReadonlyArray<string> }
    const native = moduleLoadList.filter((name) => name.startsWith("NativeModule "))
    process.stdout.write(`${JSON.stringify({ modules, native })}\n`)
  })

if (names.length > 1) {
  const LeaderElections = await import("../../src/LeaderElections.ts")
  const KubernetesLeaderElections = await import("../../src/kubernetes/KubernetesLeaderElections.ts")
  const lead = LeaderElections.LeaderElections.use((elections) =>
    Effect.forEach(names, (name) => elections.whileLeadingForever(name, Effect.andThen(tell(), Effect.never)), {
      concurrency: "unbounded",
      discard: true
    })
  )
  await Effect.runPromise(Effect.provide(lead, Layer.provide(KubernetesLeaderElections.layer(settings), client)))
} else {
  const LeaderElection = await import("../../src/LeaderElection.ts")
  const KubernetesLeaseStore = await import("../../src/kubernetes/KubernetesLeaseStore.ts")
  const layer = LeaderElection.layer({ ...settings, name: names[0] }).pipe(
    Layer.provide(KubernetesLeaseStore.layer),
    Layer.provide(client)
  )
  await Effect.runPromise(
    Effect.provide(LeaderElection.whileLeadingForever(Effect.andThen(tell(), Effect.never)), layer)
  )
}
