import { NodeServices } from "@effect/platform-node"
import { assert, it } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { health, runShards } from "effect-kubernetes-leader-election/promise"
import { LeaseApiServer } from "effect-kubernetes-leader-election/testing"
import * as TermHealth from "../src/internal/termHealth.ts"

// In a file of its own: what it reads is that of the whole process.
it.live("the health of a process has the shards that it leads", () =>
  Effect.gen(function*() {
    const server = yield* LeaseApiServer.LeaseApiServer
    const fs = yield* FileSystem.FileSystem
    const kubeconfig = yield* server.writeKubeconfig(`${yield* fs.makeTempDirectoryScoped()}/kubeconfig`)
    const stop = new AbortController()
    let seen: unknown
    const ended = yield* Effect.promise(() =>
      runShards(
        {
          kubeconfig,
          namespace: "default",
          group: "tenants",
          newLease: "lead",
          shards: ["red"],
          signal: stop.signal,
          onLog: () => {}
        },
        (_shard, _leadership, signal) => {
          seen = health()
          stop.abort("enough")
          return new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve()))
        }
      ).catch((reason: unknown) => reason)
    )
    assert.strictEqual(ended, "enough")
    assert.deepStrictEqual(seen, {
      healthy: true,
      message: "the program that runs as leader on default/tenants-red is within its term"
    })
    assert.deepStrictEqual(health(), { healthy: true, message: "no election" })
  }).pipe(Effect.provide([LeaseApiServer.layer(), NodeServices.layer])))

it("a program that outlives its term is unhealthy 20 s after others may lead", () => {
  let now = 0
  let end = 14_250
  const check = TermHealth.make("default/a", () => Math.max(0, end - now), () => now)
  now = 10_000
  assert.isTrue(check().healthy)
  // Renewed since, and then no more.
  end = 24_250
  assert.isTrue(check().healthy)
  now = 44_250
  assert.deepStrictEqual(check(), {
    healthy: true,
    message: "the program that runs as leader on default/a has not ended yet"
  })
  now = 44_251
  assert.isFalse(check().healthy)
  assert.include(check().message, "should have ended 20.0 s ago")
})
