import { assert, describe, it } from "@effect/vitest"
import { Console, Duration, Effect, Fiber, Logger, Option } from "effect"
import { LeaseRecord, LeaseStore } from "effect-kubernetes-leader-election"
import { TestClock } from "effect/testing"
import { stepDown } from "../../src/cli/stepDown.ts"

const key = { namespace: "default", name: "x" }

type Store = LeaseStore.LeaseStore["Service"]

const makeHeld = Effect.gen(function*() {
  const store = yield* LeaseStore.makeMemory
  yield* store.create(key, {
    holderIdentity: "a",
    leaseDurationSeconds: 15,
    annotations: { [LeaseRecord.instanceAnnotation]: "1-a" }
  })
  return store
})

/** Asks with a limit of 2 s; gives what it says and how it ends, if it has ended when that is over. */
const run = (store: Store) =>
  Effect.gen(function*() {
    const lines: Array<string> = []
    const fiber = yield* stepDown(key, Duration.seconds(2)).pipe(
      Effect.provideService(LeaseStore.LeaseStore, store),
      Effect.provideService(
        Console.Console,
        Object.assign(Object.create(console), { log: (text: string) => lines.push(text) })
      ),
      Effect.flip,
      Effect.map(({ message }) => message),
      Effect.forkChild({ startImmediately: true })
    )
    yield* TestClock.adjust("2 seconds")
    const message = yield* Effect.timeoutOption(Fiber.join(fiber), 0).pipe(Effect.provide(Logger.layer([])))
    return { lines, message: Option.getOrUndefined(message) }
  })

describe("step-down", () => {
  it.effect("says why the holder may hold on", () =>
    Effect.gen(function*() {
      const old = yield* run(yield* makeHeld)
      assert.match(old.message ?? "", /^a was asked .* after 2s: its program may take long to end, or nobody renews/)
    }))

  it.effect("takes no longer than its limit, though nothing is answered", () =>
    Effect.gen(function*() {
      const store = yield* makeHeld
      const silent = yield* run({ ...store, get: () => Effect.never })
      assert.match(silent.message ?? "", /^memory-\d+ has not answered within 2s: whether the leader was asked to step/)
      let asked = false
      const later = yield* run({
        ...store,
        get: (key) => asked ? Effect.never : store.get(key),
        patch: (...args) =>
          Effect.tap(store.patch(...args), () =>
            Effect.sync(() => {
              asked = true
            }))
      })
      assert.match(
        later.message ?? "",
        /has not answered within 2s: a was asked to step down, and whether it has is not/
      )
    }))
})
