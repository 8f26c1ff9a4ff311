/**
 * Leads with a guard, and does what its first argument says. One JSON line for each event on stdout, with the machine's
 * monotonic time in milliseconds. Run from a file of its own, also bundled, and by other runtimes than Node.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import { write, writeSync } from "node:fs"
import * as LeaderElection from "../../../src/LeaderElection.ts"
import { Leadership } from "../../../src/Leadership.ts"
import { LeaseStore } from "../../../src/LeaseStore.ts"
import * as TermGuard from "../../../src/TermGuard.ts"
import * as MemoryLeaseStore from "../../../src/testing/MemoryLeaseStore.ts"

const [what = "", guarded = "guarded"] = process.argv.slice(2)

const mono = () => Number(process.hrtime.bigint()) / 1e6

const emit = (event: string, fields: object = {}) => {
  writeSync(1, `${JSON.stringify({ event, mono: mono(), ...fields })}\n`)
}

const block = (millis: number) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, millis)

/** The store, until it no longer answers a renewal. */
let cut = false
const Store = Layer.effect(
  LeaseStore,
  Effect.map(LeaseStore, (store) => ({
    ...store,
    patch: (...args: Parameters<typeof store.patch>) => Effect.suspend(() => cut ? Effect.never : store.patch(...args))
  }))
).pipe(Layer.provide(MemoryLeaseStore.layerMemory()))

const Election = LeaderElection.layer({
  name: "jobs",
  namespace: "default",
  newLease: "lead",
  leaseDuration: "2 seconds"
}).pipe(Layer.provide(Store))

const program = Effect.gen(function*() {
  const leadership = yield* Leadership
  const left = Effect.map(leadership.remaining, Duration.toMillis)
  const say = (event: string) => Effect.map(left, (millis) => emit(event, { validUntil: mono() + millis }))
  yield* Effect.addFinalizer(() => Effect.sync(() => emit("ended")))
  yield* say("leading")
  switch (what) {
    case "blocks": {
      yield* say("blocking")
      block(4_000)
      return
    }
    case "blocks-a-little": {
      // Longer than a validity in all, but renewed in between.
      for (let round = 0; round < 5; round++) {
        yield* Effect.sleep("100 millis")
        block(500)
      }
      return
    }
    case "is-cut-off": {
      cut = true
      yield* say("cut off")
      return yield* Effect.never
    }
    case "ends-late": {
      cut = true
      yield* Effect.addFinalizer(() => Effect.never)
      yield* say("cut off")
      return
    }
    case "blocks-with-a-full-stderr": {
      // More than any buffer takes: another thread hangs with the rest.
      write(2, Buffer.alloc(4_000_000, "x"), () => {})
      yield* Effect.sleep("200 millis")
      yield* say("blocking")
      block(4_000)
      return
    }
    case "waits": {
      yield* say("waiting")
      return yield* Effect.never
    }
    default:
      return
  }
})

const exit = await Effect.runPromiseExit(
  LeaderElection.whileLeading(program).pipe(
    Effect.provide(Election),
    Effect.provide(guarded === "guarded" ? TermGuard.layer : Layer.empty),
    Effect.tapCause((cause) => Effect.sync(() => emit("error", { message: String(cause) })))
  )
)
emit("done", { success: Exit.isSuccess(exit) })
