import type { TestProject } from "vitest/node"
import { startCluster } from "./KubeCluster.ts"

/** Starts the one cluster that most tests share; a test that stops or freezes it starts its own. */
export default async (project: TestProject): Promise<() => Promise<void>> => {
  const cluster = await startCluster()
  project.provide("cluster", cluster.descriptor)
  return cluster.close
}
