/**
 * A test of the executable on a real API server: a namespace, the rights of a candidate, a kubeconfig.
 */
import { afterAll, beforeAll } from "vitest"
import type { Lease } from "../cluster/utils/ApiClient.ts"
import type { KubeCluster } from "../cluster/utils/KubeCluster.ts"
import { sharedCluster } from "../cluster/utils/Testing.ts"
import { bundle, type Executable, Running } from "./Executable.ts"

export const leaseName = "job"

/** Settings under which little has to be waited for. */
export const quick = ["--lease-duration", "4s", "--new-lease", "lead"]

/** leaseDuration of {@link quick}, in milliseconds. */
export const leaseDuration = 4_000

export const says = (text: string) => ({ stdout }: { readonly stdout: string }) => stdout.includes(text)
export const logs = (text: string) => ({ stderr }: { readonly stderr: string }) => stderr.includes(text)

export interface Trial extends AsyncDisposable {
  readonly cluster: KubeCluster
  readonly namespace: string
  readonly kubeconfig: string
  readonly executable: string
  /** Starts a program that is ended with the test. */
  readonly start: (command: string, args: ReadonlyArray<string>, env?: Record<string, string | undefined>) => Running
  /** Starts the command with these arguments. */
  readonly cli: (args: ReadonlyArray<string>, env?: Record<string, string | undefined>) => Running
  /** Starts `run` with these options on the test's Lease, as this identity. */
  readonly run: (
    identity: string,
    options: ReadonlyArray<string>,
    command: ReadonlyArray<string>,
    env?: Record<string, string | undefined>
  ) => Running
  readonly lease: () => Promise<Lease | undefined>
}

export interface TrialOptions {
  /** Another address of the API server: a proxy's. */
  readonly server?: string
  readonly role?: false
}

/** Gives what starts a trial, and the executable. */
export const makeTrials = () => {
  let executable: Executable
  beforeAll(async () => {
    executable = await bundle()
  })
  afterAll(async () => {
    await executable[Symbol.asyncDispose]()
  })

  return async (options: TrialOptions = {}): Promise<Trial> => {
    const cluster = await sharedCluster()
    const { admin } = cluster
    const namespace = await admin.createNamespace("cli")
    const token = await admin.createCandidateAccount(namespace, leaseName)
    if (options.role === false) {
      await admin.deleteRoleBinding(namespace, "candidate", "candidate")
    }
    const kubeconfig = await cluster.writeKubeconfig({ token, namespace, server: options.server })
    const started: Array<Running> = []
    const start: Trial["start"] = (command, args, env = {}) => {
      const running = new Running(command, args, env)
      started.push(running)
      return running
    }
    const cli: Trial["cli"] = (args, env) => start(process.execPath, [executable.file, ...args], env)
    const common = ["--kubeconfig", kubeconfig, "--name", leaseName, "--log", "json"]
    return {
      cluster,
      namespace,
      kubeconfig,
      executable: executable.file,
      start,
      cli,
      run: (identity, options, command, env) =>
        cli(["run", ...common, "--identity", identity, ...options, "--", ...command], env),
      lease: () => admin.getLease(namespace, leaseName),
      [Symbol.asyncDispose]: async () => {
        await Promise.all(started.map((running) => running[Symbol.asyncDispose]()))
        await cluster[Symbol.asyncDispose]()
      }
    }
  }
}
