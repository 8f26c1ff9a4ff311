/**
 * The example of a container image: what its Dockerfile says is done in an empty folder with the packed package, and the
 * program runs on a real API server, as the Pods of its deployment.yaml, under exactly its Role.
 */
import { assert, describe, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import { existsSync } from "node:fs"
import { chmod, cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { delimiter, dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { Running } from "../cli/Executable.ts"
import * as Dockerfile from "../examples/Dockerfile.ts"
import { freePort } from "./utils/ports.ts"
import { cleanEnvironment } from "./utils/Processes.ts"
import { eventually, sharedCluster } from "./utils/Testing.ts"

const root = fileURLToPath(new URL("../..", import.meta.url))
const example = join(root, "examples/container")

// RUN lines find the Node of this test; npm keeps its settings.
const env = cleanEnvironment({
  NODE_ENV: undefined,
  PATH: [dirname(process.execPath), process.env["PATH"]].join(delimiter)
})

/** The image's files, from the packed package: it is what a registry would give. */
const buildImage = async (directory: string) => {
  const pack = await promisify(execFile)("npm", ["pack", "--silent", "--pack-destination", directory], {
    cwd: root,
    env
  })
  const tarball = join(directory, pack.stdout.trim().split("\n").at(-1)!)
  const context = join(directory, "context")
  await cp(example, context, { recursive: true })
  const manifest = JSON.parse(await readFile(join(context, "package.json"), "utf8"))
  manifest.dependencies["effect-kubernetes-leader-election"] = `file:${tarball}`
  await writeFile(join(context, "package.json"), JSON.stringify(manifest))
  const stages = Dockerfile.parse(await readFile(join(context, "Dockerfile"), "utf8"))
  const built = await Dockerfile.build(stages, context, await mkdtemp(join(directory, "image-")), env)
  return { ...built, command: Dockerfile.commandOf(stages.at(-1)!) }
}

const mountPoint = "/var/run/secrets/kubernetes.io/serviceaccount"

// A mount of its own for this process alone: /run is a file system in memory, empty at first.
const inPod = `mount -t tmpfs none /run && mkdir -p ${mountPoint} && mount --bind "$0" ${mountPoint} && ` +
  `cd "$1" && shift && exec "$@"`

describe("examples/container", () => {
  it(
    "builds as its Dockerfile says, and elects its leader as its deployment.yaml says",
    { timeout: 400_000 },
    async (context) => {
      await using cluster = await sharedCluster()
      const { admin } = cluster
      await using mounts = new Running("unshare", ["--mount", "sh", "-c", inPod, cluster.directory, "/", "true"], {})
      if (await mounts.exit.then(({ code }) => code !== 0, () => true)) {
        context.skip("this process may not mount anything, or /var/run is not /run")
      }
      const directory = await mkdtemp(join(tmpdir(), "container-"))
      await using _ = { [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }) }
      await chmod(directory, 0o755)
      const image = await buildImage(directory)
      // What only the build needs, and what only a kubeconfig needs, is not in it.
      for (const name of ["typescript", "esbuild", "vitest", "https-proxy-agent"]) {
        assert.isFalse(existsSync(join(image.directory, "node_modules", name)), name)
      }

      const namespace = await admin.createNamespace("container")
      const applied = await admin.apply(await readFile(join(example, "deployment.yaml"), "utf8"), namespace)
      const spec = applied.find(({ kind }) => kind === "Deployment").spec.template.spec
      const [container] = spec.containers
      const files = await cluster.writeServiceAccountFiles({
        token: await admin.createToken(namespace, spec.serviceAccountName),
        namespace
      })
      const [command, ...args] = image.command
      assert.strictEqual(command, "node")

      // There is no kubelet: the program gets what it would give to the container.
      const start = async (name: string) => {
        const { metadata } = await admin.createPod(namespace, name)
        const fields: Record<string, string> = {
          "metadata.name": metadata.name,
          "metadata.uid": metadata.uid,
          "metadata.namespace": namespace
        }
        const variables = container.env.map(({ name, value, valueFrom }: any) => [
          name,
          value ?? fields[valueFrom.fieldRef.fieldPath]
        ])
        const port = await freePort()
        const running = new Running("unshare", [
          "--mount",
          "sh",
          "-c",
          inPod,
          files,
          image.directory,
          process.execPath,
          ...args
        ], {
          ...image.env,
          KUBERNETES_SERVICE_HOST: cluster.host,
          KUBERNETES_SERVICE_PORT: String(cluster.port),
          ...Object.fromEntries(variables),
          // Two on one machine; and the Lease is new, which costs a leaseDuration otherwise.
          PORT: String(port),
          LEADER_ELECTION_NEW_LEASE: "lead"
        })
        const probe = async (which: "readinessProbe" | "livenessProbe") =>
          (await fetch(`http://127.0.0.1:${port}${container[which].httpGet.path}`)).status
        return { running, probe, uid: metadata.uid }
      }

      const one = await start("invoices-a")
      await using _one = one.running
      await one.running.until(({ stdout }) => stdout.includes("Sends invoices"))
      const two = await start("invoices-b")
      await using _two = two.running
      await two.running.until(({ stdout }) => stdout.includes("Following invoices-a"))
      for (const { probe } of [one, two]) {
        await eventually("answers", async () => (await probe("readinessProbe").catch(() => 0)) !== 0)
        assert.strictEqual(await probe("readinessProbe"), 200)
        assert.strictEqual(await probe("livenessProbe"), 200)
      }
      const lease = await admin.getLease(namespace, "invoices")
      assert.strictEqual(lease?.spec.holderIdentity, `invoices-a_${one.uid}`)
      assert.deepStrictEqual(lease?.metadata.ownerReferences?.map(({ uid }) => uid), [one.uid])
      assert.notInclude(two.running.stdout, "Sends invoices")

      const told = performance.now()
      one.running.signal("SIGTERM")
      const ended = await one.running.exit
      assert.strictEqual(ended.code, 130)
      assert.isBelow(ended.at - told, spec.terminationGracePeriodSeconds * 1_000)
      await two.running.until(({ stdout }) => stdout.includes("Sends invoices"))
      assert.strictEqual(await two.probe("readinessProbe"), 200)
      two.running.signal("SIGTERM")
      assert.strictEqual((await two.running.exit).code, 130)
      assert.strictEqual((await admin.getLease(namespace, "invoices"))?.spec.holderIdentity, "")
      const output = [one, two].map(({ running }) => running.stdout + running.stderr).join("")
      assert.notMatch(output, /forbidden/i)
      // One JSON object a line: what a log collector gets.
      for (const line of two.running.stdout.trim().split("\n")) {
        assert.containsAllKeys(JSON.parse(line), ["timestamp", "level", "message"])
      }
      await admin.deleteNamespace(namespace)
    }
  )
})
