/**
 * Tests that run side by side, each on a stage of its own: most of their time is waiting for leases to run out.
 */
import { afterAll, beforeAll, it } from "@effect/vitest"
import { type TestContext, vi } from "vitest"
import type { Feature, KubeCluster } from "../utils/KubeCluster.ts"
import { sharedCluster, skipWithout } from "../utils/Testing.ts"
import { Trial, type TrialOptions } from "./Trial.ts"

export interface Setting extends TrialOptions {
  readonly features?: ReadonlyArray<Feature>
  /** Whether to wait until the Lease that is there is so old that a term may begin on it at once; true by default. */
  readonly aged?: boolean
  /** Whether to verify at its end that there never were two leaders; true by default. */
  readonly verify?: boolean
}

/**
 * Gives the function that declares such a test. All stages are set when the file begins, so that Leases grow old
 * together.
 */
export const makeTrials = () => {
  const settings = new Map<string, Setting>()
  const stages = new Map<string, Promise<Trial>>()
  let cluster: KubeCluster

  // Node processes in pairs and triples, on a machine that may have two cores.
  vi.setConfig({ maxConcurrency: 10 })

  beforeAll(async () => {
    cluster = await sharedCluster()
    for (const [title, setting] of settings) stages.set(title, Trial.start(cluster, setting))
    await Promise.all(stages.values())
  })

  afterAll(async () => {
    for (const stage of stages.values()) await (await stage)[Symbol.asyncDispose]()
    await cluster?.close()
  })

  return (title: string, setting: Setting, run: (trial: Trial, context: TestContext) => Promise<void>): void => {
    settings.set(title, setting)
    it.concurrent(title, async (context) => {
      skipWithout(context, cluster, ...(setting.features ?? []))
      await using trial = await stages.get(title)!
      if (setting.lease !== undefined && setting.aged !== false) await trial.aged()
      await run(trial, context)
      if (setting.verify !== false) await trial.verify()
    })
  }
}
