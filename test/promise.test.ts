import { NodeServices } from "@effect/platform-node"
import { assert, it } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import {
  health,
  LeaderElectionFailure,
  type LeadershipHandle,
  makeElections,
  makeTestTerm,
  metrics,
  runAsLeader,
  runShards,
  type ShardsHandle,
  type Status
} from "effect-kubernetes-leader-election/promise"
import { LeaseApiServer } from "effect-kubernetes-leader-election/testing"
import { readFile, writeFile } from "node:fs/promises"

const withServer = <A>(
  f: (options: {
    readonly server: LeaseApiServer.LeaseApiServer["Service"]
    readonly settings: {
      readonly kubeconfig: string
      readonly name: string
      readonly namespace: string
      readonly newLease: "lead"
      readonly leaseDuration: "15 seconds"
      readonly onLog: () => void
    }
  }) => Promise<A>
) =>
  Effect.gen(function*() {
    const server = yield* LeaseApiServer.LeaseApiServer
    const fs = yield* FileSystem.FileSystem
    const directory = yield* fs.makeTempDirectoryScoped()
    const kubeconfig = yield* server.writeKubeconfig(`${directory}/kubeconfig`)
    const settings = {
      kubeconfig,
      name: "jobs",
      namespace: "default",
      newLease: "lead",
      leaseDuration: "15 seconds",
      onLog: () => {}
    } as const
    return yield* Effect.promise(() => f({ server, settings }))
  }).pipe(Effect.provide([LeaseApiServer.layer(), NodeServices.layer]))

const holder = (server: LeaseApiServer.LeaseApiServer["Service"]) =>
  Effect.runPromise(Effect.map(
    server.cluster.lease({ namespace: "default", name: "jobs" }),
    (lease) => lease?.holderIdentity
  ))

it.live("runs the program as leader, gives its value and releases the Lease", () =>
  withServer(async ({ server, settings }) => {
    const statuses: Array<Status> = []
    let seen: LeadershipHandle | undefined
    const value = await runAsLeader(
      { ...settings, identity: "one", onStatus: (status) => statuses.push(status) },
      async (leadership) => {
        seen = leadership
        assert.strictEqual(await holder(server), "one")
        assert.isTrue(leadership.isValid)
        assert.isAbove(leadership.remaining, 0)
        leadership.ensure()
        await leadership.confirm()
        return 42
      }
    )
    assert.strictEqual(value, 42)
    assert.strictEqual(await holder(server), "")
    assert.isFalse(seen!.isValid)
    assert.strictEqual(seen!.remaining, 0)
    assert.throws(() => seen!.ensure(), LeaderElectionFailure)
    const states = statuses.map((status) => status.state)
    assert.deepStrictEqual(
      states.filter((state, index) => state !== states[index - 1]),
      ["idle", "following", "leading", "ending", "idle"]
    )
    assert.strictEqual(statuses.find((status) => status.state === "leading")?.fencingToken, seen!.fencingToken)
  }))

it.live("rejects with what the program throws, and releases the Lease", () =>
  withServer(async ({ server, settings }) => {
    const error = new Error("no money")
    const thrown = await runAsLeader({ ...settings, identity: "one" }, () => Promise.reject(error)).catch((e) => e)
    assert.strictEqual(thrown, error)
    assert.strictEqual(await holder(server), "")
  }))

it.live("aborts the program's signal when leadership goes, and waits for the program", () =>
  withServer(async ({ server, settings }) => {
    let ended = false
    let reason: unknown
    const thrown: unknown = await runAsLeader({ ...settings, identity: "one" }, async (_, signal) => {
      await Effect.runPromise(server.cluster.deleteLease({ namespace: "default", name: "jobs" }))
      await new Promise((resolve) => signal.addEventListener("abort", resolve))
      await Promise.resolve()
      reason = signal.reason
      ended = true
    }).catch((e) => e)
    assert.isTrue(ended)
    assert.instanceOf(reason, LeaderElectionFailure)
    assert.strictEqual(reason.reason, "LeaseDeleted")
    assert.instanceOf(thrown, LeaderElectionFailure)
    assert.strictEqual(thrown.code, "LeadershipLost")
    assert.strictEqual(thrown.reason, "LeaseDeleted")
  }))

it.live("campaigns again after a loss where it is asked to", () =>
  withServer(async ({ server, settings }) => {
    const tokens: Array<bigint> = []
    await runAsLeader({ ...settings, identity: "one", again: true }, async (leadership, signal) => {
      tokens.push(leadership.fencingToken)
      if (tokens.length === 1) {
        await Effect.runPromise(server.cluster.deleteLease({ namespace: "default", name: "jobs" }))
        await new Promise((resolve) => signal.addEventListener("abort", resolve))
      }
    })
    assert.strictEqual(tokens.length, 2)
    assert.isTrue(tokens[1]! > tokens[0]!)
  }))

it.live("A10 an onLog and an onStatus that throw cost neither the term nor the next", () =>
  withServer(async ({ server, settings }) => {
    let terms = 0
    const onLog = () => {
      throw new Error("this one is broken")
    }
    let statuses = 0
    const onStatus = () => {
      statuses++
      throw new Error("this one too")
    }
    const value = await runAsLeader(
      { ...settings, onLog, onStatus, identity: "one", again: true },
      async (_, signal) => {
        terms++
        if (terms === 1) {
          await Effect.runPromise(server.cluster.deleteLease({ namespace: "default", name: "jobs" }))
          await new Promise((resolve) => signal.addEventListener("abort", resolve))
        }
        return terms
      }
    )
    assert.strictEqual(value, 2)
    assert.isAtLeast(statuses, 4)
    assert.strictEqual(await holder(server), "")
  }))

it.live("an async onLog and onStatus may reject", () =>
  withServer(async ({ settings }) => {
    const unhandled: Array<unknown> = []
    const note = (error: unknown) => String(error).includes("a callback") && unhandled.push(error)
    process.on("unhandledRejection", note)
    const reject = () => Promise.reject(new Error("a callback"))
    await runAsLeader({ ...settings, onLog: reject, onStatus: reject, identity: "one" }, () => {})
    // They are reported when the queue of promises is empty.
    await new Promise((resolve) => setImmediate(resolve))
    process.off("unhandledRejection", note)
    assert.deepStrictEqual(unhandled, [])
  }))

it("says which argument is none of those that it takes", async () => {
  const wrong = runAsLeader as (options: unknown, program?: unknown) => Promise<unknown>
  const shards = runShards as (options: unknown, lead?: unknown) => Promise<unknown>
  for (
    const [call, problem] of [
      [() => wrong({ name: "a" }), "program is undefined: give a function"],
      [() => wrong({ name: "a", onStatus: true }, () => {}), "onStatus is true: give a function"],
      [() => wrong({ name: "a", signal: new AbortController() }, () => {}), "signal is no AbortSignal: "],
      [() => shards({ group: "a", shards: ["a"] }), "lead is undefined: give a function"],
      [() => makeElections().runAsLeader({ name: "a" }, undefined as never), "program is undefined: give a function"]
    ] as const
  ) {
    const error = await call().catch((error: unknown) => error)
    assert.instanceOf(error, LeaderElectionFailure)
    assert.strictEqual(error.code, "InvalidSettings")
    assert.include(error.message, problem)
  }
})

it.live("ends with the reason of its own signal, while it waits and while it leads", () =>
  withServer(async ({ server, settings }) => {
    const reason = new Error("shutting down")
    const leading = new AbortController()
    const first = runAsLeader({ ...settings, identity: "one", signal: leading.signal }, async (_, signal) => {
      const waiting = new AbortController()
      const second = runAsLeader(
        {
          ...settings,
          identity: "two",
          signal: waiting.signal,
          onStatus: (status) => status.leader === "one" && waiting.abort(reason)
        },
        () => assert.fail("two leaders")
      ).catch((e) => e)
      assert.strictEqual(await second, reason)
      leading.abort(reason)
      await new Promise((resolve) => signal.aborted ? resolve(undefined) : signal.addEventListener("abort", resolve))
      assert.strictEqual(signal.reason, reason)
    }).catch((e) => e)
    assert.strictEqual(await first, reason)
    assert.strictEqual(await holder(server), "")
  }))

it.live("says what is wrong with the settings", () =>
  withServer(async ({ settings }) => {
    const thrown: unknown = await runAsLeader({ ...settings, name: "No Name" }, () => {}).catch((e) => e)
    assert.instanceOf(thrown, LeaderElectionFailure)
    assert.strictEqual(thrown.code, "InvalidSettings")
    assert.include(thrown.message, "No Name")
  }))

it.live("says where it looked for credentials", () =>
  withServer(async ({ settings }) => {
    const thrown: unknown = await runAsLeader({ ...settings, kubeconfig: "/nowhere/kubeconfig" }, () => {}).catch((e) =>
      e
    )
    assert.instanceOf(thrown, LeaderElectionFailure)
    assert.strictEqual(thrown.code, "Credentials")
    assert.include(thrown.message, "/nowhere/kubeconfig")
  }))

it.live("many elections share a connection pool and a watch, and each ends by itself", () =>
  withServer(async ({ server, settings }) => {
    const { name, ...shared } = settings
    assert.strictEqual(name, "jobs")
    const elections = makeElections({ ...shared, identity: "one" })
    const stop = new AbortController()
    const leading = new Set<string>()
    const all = new Promise<void>((resolve) => {
      for (const name of ["red", "green", "blue"]) {
        void elections.runAsLeader({ name, again: true, signal: stop.signal }, async (leadership, signal) => {
          leadership.ensure()
          leading.add(name)
          if (leading.size === 3) {
            resolve()
          }
          await new Promise((resolve) => signal.addEventListener("abort", resolve))
          leading.delete(name)
        }).catch(() => {})
      }
    })
    await all
    assert.deepStrictEqual(health(), { healthy: true, message: health().message })
    const text = await metrics()
    for (const name of ["red", "green", "blue"]) {
      assert.match(text, new RegExp(`^leader_election_leader\\{[^}]*default/${name}[^}]*\\} 1$`, "m"))
    }
    const watches = (await Effect.runPromise(server.requests)).filter(({ verb }) => verb === "watch")
    assert.strictEqual(watches.length, 1)
    stop.abort()
    await elections.close()
    assert.strictEqual(leading.size, 0)
  }))

it.live("elections that are closed end their programs and take no others, and say so", () =>
  withServer(async ({ server, settings }) => {
    const elections = makeElections({ ...settings, identity: "one" })
    let reason: unknown
    let led: Promise<unknown> | undefined
    await new Promise<void>((resolve) => {
      led = elections.runAsLeader({ name: "jobs" }, async (_, signal) => {
        resolve()
        await new Promise((resolve) => signal.addEventListener("abort", resolve))
        reason = signal.reason
      }).catch((error: unknown) => error)
    })
    await elections.close()
    assert.strictEqual(await holder(server), "")
    const later = await elections.runAsLeader({ name: "jobs" }, () => {}).catch((error: unknown) => error)
    for (const error of [reason, await led, later]) {
      assert.instanceOf(error, LeaderElectionFailure)
      assert.strictEqual(error.code, "Closed")
    }
  }))

it.live("elections whose kubeconfig was broken read it again", () =>
  withServer(async ({ settings }) => {
    const good = await readFile(settings.kubeconfig, "utf8")
    await writeFile(settings.kubeconfig, "apiVersion: v1\nkind: Config\n")
    const elections = makeElections({ ...settings, identity: "one" })
    const broken: unknown = await elections.runAsLeader({ name: "jobs" }, () => {}).catch((error: unknown) => error)
    assert.instanceOf(broken, LeaderElectionFailure)
    assert.strictEqual(broken.code, "Credentials")
    await writeFile(settings.kubeconfig, good)
    assert.strictEqual(await elections.runAsLeader({ name: "jobs" }, () => 1), 1)
    await elections.close()
  }))

it("a test decides when its term is lost", () => {
  const { leadership, lose, signal } = makeTestTerm({ fencingToken: 7n })
  leadership.ensure()
  assert.deepStrictEqual([leadership.isValid, leadership.fencingToken], [true, 7n])
  lose("SteppedDown")
  assert.isTrue(signal.aborted)
  assert.strictEqual(leadership.remaining, 0)
  try {
    leadership.ensure()
    assert.fail("it should have thrown")
  } catch (error) {
    assert.instanceOf(error, LeaderElectionFailure)
    assert.deepStrictEqual([error.code, error.reason], ["LeadershipLost", "SteppedDown"])
  }
})

it.live("shares shards between replicas, and releases them when its signal is aborted", () =>
  withServer(async ({ server, settings }) => {
    const begun: Array<string> = []
    const leave = new AbortController()
    const handles: Array<ShardsHandle> = []
    const replica = (identity: string) =>
      runShards(
        {
          kubeconfig: settings.kubeconfig,
          namespace: settings.namespace,
          newLease: settings.newLease,
          onLog: settings.onLog,
          group: "tenants",
          identity,
          leaseDuration: "3 seconds",
          shards: ["red", "green", "blue", "yellow"],
          signal: leave.signal,
          onStart: (handle) => handles.push(handle)
        },
        (shard, leadership, signal) => {
          leadership.ensure()
          begun.push(`${identity} ${shard}`)
          return new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve()))
        }
      ).catch((error: unknown) => error)
    const ended = Promise.all([replica("a"), replica("b")])
    while (handles.length < 2 || handles.some(({ leads, ready }) => leads.length !== 2 || !ready)) {
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
    assert.strictEqual(new Set(begun.map((text) => text.split(" ")[1])).size, 4)
    leave.abort(new Error("the end"))
    assert.deepStrictEqual((await ended).map(String), ["Error: the end", "Error: the end"])
    const leases = await Effect.runPromise(server.cluster.leases())
    assert.deepStrictEqual(leases.filter(({ holderIdentity }) => holderIdentity !== ""), [])
  }))

for (
  const [how, onStart] of [
    ["throws", () => {
      throw new Error("no port")
    }],
    ["rejects", () => Promise.reject(new Error("no port"))]
  ] as const
) {
  it.live(`ends a run whose onStart ${how}`, () =>
    withServer(async ({ settings }) => {
      const { kubeconfig, namespace, onLog } = settings
      const error = await runShards(
        { kubeconfig, namespace, onLog, group: "tenants", identity: "a", shards: ["red"], onStart },
        () => undefined
      ).catch((error: unknown) => error)
      assert.match(String(error), /no port/)
    }))
}
