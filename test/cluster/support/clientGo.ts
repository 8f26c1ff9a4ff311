/**
 * A candidate of client-go, as a process.
 */
import { cleanEnvironment, JsonLinesProcess } from "../utils/Processes.ts"
import { leaseDuration, leaseName, milliseconds, type Trial } from "./Trial.ts"

export interface GoEvent {
  /** Unix milliseconds. */
  readonly at: number
  readonly event: "started" | "newLeader" | "leading" | "stopped" | "released"
  readonly identity: string
  readonly leader?: string
}

/** Milliseconds. */
export const retryPeriod = 500

export interface GoOptions {
  /** Of the Lease, where it is not that of the trial. */
  readonly lease?: string
  /** `client-go`'s own defaults are 15 s, 10 s and 2 s. */
  readonly timing?: { readonly leaseDuration: string; readonly renewDeadline: string; readonly retryPeriod: string }
}

/** Starts one, and gives it when it has seen the Lease. */
export const startGo = async (
  trial: Trial,
  identity: string,
  options: GoOptions = {}
): Promise<JsonLinesProcess<GoEvent>> => {
  const account = `go-${identity}`
  const timing = options.timing ?? {
    leaseDuration: `${leaseDuration}s`,
    renewDeadline: `${milliseconds.renewDeadline}ms`,
    retryPeriod: `${retryPeriod}ms`
  }
  await trial.admin.createServiceAccount(trial.namespace, account)
  await trial.admin.putRole(trial.namespace, account, [
    { apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["create", "get", "update"] }
  ])
  await trial.admin.putRoleBinding(trial.namespace, account, account)
  const token = await trial.admin.createToken(trial.namespace, account)
  const process = JsonLinesProcess.start<GoEvent>({
    name: identity,
    command: trial.cluster.candidateProgram!,
    args: [
      `--kubeconfig=${await trial.cluster.writeKubeconfig({ token, namespace: trial.namespace })}`,
      `--namespace=${trial.namespace}`,
      `--name=${options.lease ?? leaseName}`,
      `--identity=${identity}`,
      `--lease-duration=${timing.leaseDuration}`,
      `--renew-deadline=${timing.renewDeadline}`,
      `--retry-period=${timing.retryPeriod}`,
      "--release"
    ],
    env: cleanEnvironment()
  })
  await process.waitFor(({ event }) => event === "newLeader", 20_000)
  return process
}
