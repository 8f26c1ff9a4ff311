/**
 * Rounds with real elections on a real API server: the leader is stopped (SIGSTOP) wherever it happens to be, until
 * another leads and writes, and then goes on.
 */
import * as Esbuild from "esbuild"
import { mkdirSync } from "node:fs"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { Client, Pool } from "pg"
import type { KubeCluster } from "../../cluster/utils/KubeCluster.ts"
import { cleanEnvironment, JsonLinesProcess } from "../../cluster/utils/Processes.ts"
import { clientOptions } from "../../utils/Postgres.ts"
import type { Database } from "./databases.ts"

export type Kind = "fence" | "naive" | "client-go"

export interface Options {
  readonly cluster: KubeCluster
  readonly database: Database
  readonly kind: Kind
  readonly rounds: number
  /** Elections at the same time, of two candidates each. */
  readonly elections: number
}

const leaseSeconds = 2

const root = fileURLToPath(new URL("../../..", import.meta.url))

const bundleCandidate = async (): Promise<string> => {
  const cache = join(root, "node_modules/.cache/fence")
  mkdirSync(cache, { recursive: true })
  const program = join(cache, "candidate.mjs")
  await Esbuild.build({
    entryPoints: [join(root, "test/fence/rounds/candidate.ts")],
    outfile: program,
    bundle: true,
    platform: "node",
    format: "esm",
    packages: "external"
  })
  return program
}

const pause = (millis: number) => new Promise<void>((resolve) => setTimeout(resolve, millis))

/** Writes for candidates that cannot: each POST is one write. */
const startBridge = async (directory: string) => {
  const client = new Pool({ ...clientOptions(directory), max: 8 })
  const server = createServer((request, response) => {
    const url = new URL(request.url!, "http://bridge")
    const values = [url.pathname.slice(1), url.searchParams.get("token")]
    client.query("INSERT INTO history (name, token) VALUES ($1, $2)", values).then(
      () => response.writeHead(204).end(),
      () => response.writeHead(500).end()
    )
  })
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections()
      server.close()
      await client.end()
    }
  }
}

interface Candidate {
  readonly identity: string
  readonly process: JsonLinesProcess
}

const startCandidates = async (
  { cluster, database, kind }: Options,
  namespace: string,
  name: string,
  writeUrl: string
): Promise<ReadonlyArray<Candidate>> => {
  if (kind !== "client-go") {
    const program = join(root, "node_modules/.cache/fence/candidate.mjs")
    const token = await cluster.admin.createCandidateAccount(namespace, name)
    const directory = await cluster.writeServiceAccountFiles({ token, namespace })
    return Promise.all([1, 2].map(async (index) => {
      const pod = await cluster.admin.createPod(namespace, `${name}-${index}`)
      return {
        identity: `${pod.metadata.name}_${pod.metadata.uid}`,
        process: JsonLinesProcess.start({
          name: pod.metadata.name,
          command: process.execPath,
          args: [program],
          env: cleanEnvironment({
            KUBERNETES_SERVICE_HOST: cluster.host,
            KUBERNETES_SERVICE_PORT: String(cluster.port),
            SERVICE_ACCOUNT_DIRECTORY: directory,
            WITNESS: database.directory,
            TRANSACTION: kind,
            POD_NAME: pod.metadata.name,
            POD_UID: pod.metadata.uid,
            POD_NAMESPACE: namespace,
            LEADER_ELECTION_NAME: name,
            LEADER_ELECTION_LEASE_DURATION: `${leaseSeconds}s`
          })
        })
      }
    }))
  }
  await cluster.admin.createServiceAccount(namespace, name)
  await cluster.admin.putRole(namespace, name, [
    { apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["create", "get", "update"] }
  ])
  await cluster.admin.putRoleBinding(namespace, name, name)
  const kubeconfig = await cluster.writeKubeconfig({
    token: await cluster.admin.createToken(namespace, name),
    namespace
  })
  return [1, 2].map((index) => ({
    identity: `go-${index}`,
    process: JsonLinesProcess.start({
      name: `${name}-go-${index}`,
      command: cluster.candidateProgram!,
      args: [
        `--kubeconfig=${kubeconfig}`,
        `--namespace=${namespace}`,
        `--name=${name}`,
        `--identity=go-${index}`,
        `--lease-duration=${leaseSeconds}s`,
        "--renew-deadline=1400ms",
        "--retry-period=300ms",
        "--rejoin",
        `--write-url=${writeUrl}/${name}`
      ],
      env: cleanEnvironment()
    })
  }))
}

/** Runs the rounds of one election. Gives how many of them there were: rounds without a second leader do not count. */
const runElection = async (options: Options, name: string, rounds: number, writeUrl: string): Promise<number> => {
  const { admin } = options.cluster
  const namespace = await admin.createNamespace("fence")
  const candidates = await startCandidates(options, namespace, name, writeUrl)
  const client = new Client(clientOptions(options.database.directory))
  await client.connect()
  const newest = async () => {
    const { rows } = await client.query<{ token: string; writes: string }>(
      "SELECT token, count(*) AS writes FROM history WHERE name = $1 GROUP BY token ORDER BY token DESC LIMIT 1",
      [name]
    )
    return { token: BigInt(rows[0]?.token ?? -1), writes: Number(rows[0]?.writes ?? 0) }
  }
  /** A leader that has written in a term after this one. */
  const written = async (after: bigint, millis: number): Promise<bigint | undefined> => {
    const end = performance.now() + millis
    while (performance.now() < end) {
      const { token, writes } = await newest()
      if (token > after && writes >= 4) {
        return token
      }
      await pause(20)
    }
    return undefined
  }
  const holder = async () => {
    const lease = await admin.getLease(namespace, name).catch(() => undefined)
    return candidates.find(({ identity }) => identity === lease?.spec.holderIdentity)
  }
  try {
    let token = await written(-1n, 30_000)
    let done = 0
    for (let round = 0; round < rounds && token !== undefined; round++) {
      const leader = await holder()
      if (leader === undefined) {
        throw new Error(`${name}: nobody holds the Lease`)
      }
      // Anywhere in its transaction, or between two.
      await pause(Math.random() * 40)
      leader.process.signal("SIGSTOP")
      const next = await written(token, 10 * leaseSeconds * 1000)
      leader.process.signal("SIGCONT")
      // What it was about to do, it does now.
      await pause(300)
      if (next === undefined) {
        console.error(`${name}: no successor wrote while ${leader.process.name} was stopped in term ${token}`)
        for (const { process } of candidates) {
          console.error(
            `--- ${process.name}\n${process.lines.slice(-4).map(({ value }) => JSON.stringify(value)).join("\n")}`
          )
          console.error(process.stderr)
        }
      } else {
        done++
      }
      token = next ?? await written(token - 1n, 10_000)
    }
    return done
  } catch (error) {
    throw new Error(candidates.map(({ process }) => `--- ${process.name}\n${process.stderr}`).join("\n"), {
      cause: error
    })
  } finally {
    await Promise.all(candidates.map(({ process }) => process.close()))
    await client.end()
  }
}

/** Gives how many rounds had a stopped leader and a successor that wrote. */
export const run = async (options: Options): Promise<number> => {
  if (options.kind !== "client-go") {
    await bundleCandidate()
  }
  await using bridge = await startBridge(options.database.directory)
  const done = await Promise.all(
    Array.from({ length: options.elections }, (_, index) =>
      runElection(
        options,
        `${options.kind}-${index}`,
        Math.ceil((options.rounds - index) / options.elections),
        bridge.url
      ))
  )
  return done.reduce((sum, count) => sum + count, 0)
}
