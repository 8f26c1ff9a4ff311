/**
 * Asks the API server of a kubeconfig one question. With a second file, ends as soon as that is there.
 */
import { Effect } from "effect"
import { existsSync } from "node:fs"
import * as KubernetesClient from "../../src/kubernetes/KubernetesClient.ts"

const [file, end] = process.argv.slice(2)

if (end !== undefined) {
  setInterval(() => existsSync(end) && process.exit(), 10)
}

await KubernetesClient.KubernetesClient.use((client) => client.request({ method: "GET", path: "/api/v1/things" })).pipe(
  Effect.provide(KubernetesClient.layerKubeconfig({ file })),
  Effect.match({
    onFailure: (error) => {
      process.stderr.write(`${error.message}\n`)
      process.exitCode = 1
    },
    onSuccess: ({ body }) => {
      process.stdout.write(`${JSON.stringify(body)}\n`)
    }
  }),
  Effect.runPromise
)
process.exit()
