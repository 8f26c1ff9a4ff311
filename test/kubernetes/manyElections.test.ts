/**
 * Many elections of one process while handshakes hang, over TLS and in real time: `ELECTIONS=1000`, for which it needs half a
 * core. Only where it is asked for.
 */
import { assert, it } from "@effect/vitest"
import { Context, Deferred, Effect, type Exit, Fiber, Layer, Logger, Redacted } from "effect"
import { KubernetesClient, KubernetesLeaseStore, LeaderElections } from "effect-kubernetes-leader-election"
import { fork } from "node:child_process"
import { fileURLToPath } from "node:url"
import { makeAuthority } from "../utils/certificates.ts"
import type { Order } from "../utils/tlsFront.ts"

const elections = Number(process.env["ELECTIONS"] ?? 50)
const handshakes = Number(process.env["HANDSHAKES"] ?? 32)
const leaseSeconds = 15

const authority = makeAuthority("elections CA")

/** The API server behind a load balancer: what it is at first, and how many handshakes hang with every order. */
const makeFront = Effect.gen(function*() {
  const { cert, key } = authority.server(["127.0.0.1"])
  const child = yield* Effect.acquireRelease(
    Effect.sync(() =>
      fork(fileURLToPath(new URL("../utils/tlsFront.ts", import.meta.url)), [], {
        env: { ...process.env, TLS_KEY: key, TLS_CERT: cert },
        execArgv: []
      })
    ),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )
  const answer = Effect.callback<Record<string, unknown>>((resume) => {
    child.once("message", (message) => resume(Effect.succeed(message as Record<string, unknown>)))
  })
  const { port, token } = yield* answer
  const order = (order: Order) =>
    Effect.map(
      Effect.suspend(() => {
        child.send(order)
        return answer
      }),
      ({ hung }) => Number(hung)
    )
  return { url: `https://127.0.0.1:${port}`, token: String(token), order }
})

// A term without renewals ends renewDeadline after the last one.
const oneTerm = Effect.sleep(`${leaseSeconds * 0.8} seconds`)

it.live.skipIf(process.env["ELECTIONS"] === undefined)(
  `${elections} elections lose nothing while handshakes hang`,
  () =>
    Effect.gen(function*() {
      const front = yield* makeFront
      const context = yield* Layer.build(
        LeaderElections.layer({
          namespace: "default",
          identity: "one",
          newLease: "lead",
          leaseDuration: `${leaseSeconds} seconds`
        }).pipe(
          Layer.provide(KubernetesLeaseStore.layerShared),
          Layer.provideMerge(
            KubernetesClient.layerServer({ server: front.url, ca: authority.cert, token: Redacted.make(front.token) })
          )
        )
      )
      const all = Context.get(context, LeaderElections.LeaderElections)
      const client = Context.get(context, KubernetesClient.KubernetesClient)
      const ended: Array<Exit.Exit<never, unknown>> = []
      let leading = 0
      const allLead = yield* Deferred.make<void>()
      const lead = Effect.andThen(
        Effect.suspend(() => ++leading === elections ? Deferred.succeed(allLead, undefined) : Effect.void),
        Effect.never
      )
      const names = Array.from({ length: elections }, (_, index) => `shard-${index}`)
      const fiber = yield* Effect.forkScoped(Effect.forEach(
        names,
        (name) => Effect.onExit(all.whileLeading(name, lead), (exit) => Effect.sync(() => ended.push(exit))),
        { concurrency: "unbounded" }
      ))
      // One that ends ends them all.
      yield* Effect.raceFirst(Deferred.await(allLead), Fiber.join(fiber))

      // No handshake is answered any more, and streams want more connections than there are.
      yield* front.order({ hang: 1e9 })
      const path = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
      const stream = Effect.scoped(
        Effect.andThen(Effect.exit(client.stream({ path, query: { watch: "1" } })), Effect.never)
      )
      const streams = yield* Effect.forkScoped(
        Effect.forEach(Array.from({ length: 60 }), () => stream, { concurrency: "unbounded" })
      )
      yield* oneTerm
      assert.isAtLeast(yield* front.order({}), 16)
      assert.deepStrictEqual(ended.map(String), [])
      yield* Fiber.interrupt(streams)

      // All connections are cut, and the next handshakes hang.
      yield* front.order({ hang: handshakes, cut: true })
      yield* oneTerm
      assert.isAtLeast(yield* front.order({}), Math.min(handshakes, 16))
      assert.deepStrictEqual(ended.map(String), [])
      yield* Fiber.interrupt(fiber)
    }).pipe(Effect.provide(Logger.layer([]))),
  { timeout: 240_000 }
)
