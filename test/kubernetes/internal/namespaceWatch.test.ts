/**
 * When the Leases of a namespace are watched together, and when each by itself.
 */
import { assert, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Logger, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as NamespaceWatch from "../../../src/kubernetes/internal/namespaceWatch.ts"
import { LeaseError, LeaseForbidden, type LeaseErrorReason, LeaseUnavailable } from "../../../src/LeaseError.ts"
import type { LeaseChange } from "../../../src/LeaseStore.ts"
import { brokenLogger } from "../../utils/observed.ts"

const namespace = "default"

const opened: LeaseChange = { _tag: "Opened" }
const forbidden = new LeaseForbidden({ message: "cannot watch", anonymous: false, ownerReferences: false })
const page = new LeaseUnavailable({ message: "403: no", code: 403, outcomeUnknown: false })

const setup = Effect.gen(function*() {
  const asked: Array<string> = []
  const lines: Array<string> = []
  const open = new Map<string, number>()
  const state: { reason: LeaseErrorReason | undefined } = { reason: undefined }
  const counted = (name: string) =>
    Stream.unwrap(
      Effect.as(
        Effect.acquireRelease(
          Effect.sync(() => open.set(name, (open.get(name) ?? 0) + 1)),
          () => Effect.sync(() => open.set(name, open.get(name)! - 1))
        ),
        Stream.concat(Stream.succeed(opened), Stream.never)
      )
    )
  const changes = yield* NamespaceWatch.make({
    namespace,
    together: () =>
      Stream.suspend(() => {
        asked.push("all")
        return state.reason === undefined
          ? counted("all")
          : Stream.fail(new LeaseError({ verb: "watch", namespace, name: "", reason: state.reason }))
      }),
    apart: ({ name }) =>
      Stream.suspend(() => {
        asked.push(name)
        return counted(name)
      })
  })
  /** Watches as an election does: what ends in good order is opened again, what fails 2 seconds later. */
  const watching = (name: string) =>
    Effect.forkScoped(Effect.forever(
      Effect.exit(Stream.runDrain(changes({ namespace, name }, undefined))).pipe(
        Effect.flatMap((exit) => Exit.isSuccess(exit) ? Effect.void : Effect.sleep("2 seconds"))
      )
    ))
  const logged = Effect.provide(Logger.layer([
    Logger.make(({ logLevel, message }) => {
      lines.push(`${logLevel} ${String(message)}`)
    })
  ]))
  const live = () => Object.fromEntries([...open].filter(([, count]) => count > 0))
  return { asked, lines, live, logged, state, watching }
})

it.effect("B3 each by itself from a refusal on, and together again in the minute in which that is granted", () =>
  Effect.gen(function*() {
    const { asked, lines, live, logged, state, watching } = yield* setup
    yield* logged(Effect.gen(function*() {
      state.reason = forbidden
      for (const name of ["a", "b", "c"]) {
        yield* watching(name)
        yield* TestClock.adjust("1 second")
      }
      assert.deepStrictEqual(asked, ["all", "a", "b", "c"])
      assert.deepStrictEqual(live(), { a: 1, b: 1, c: 1 })
      // Asked once a minute, and never by each.
      yield* TestClock.adjust("5 minutes")
      assert.deepStrictEqual(asked.slice(4), Array(5).fill("all"))
      state.reason = undefined
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(live(), { all: 1 })
      const before = asked.length
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(asked.length, before)
    }))
    assert.deepStrictEqual(lines, [
      "Warn The Leases of namespace default cannot be watched together, so each is watched by itself, and the shared " +
      "watch is tried again each minute: watch lease default/a: cannot watch",
      "Info The Leases of namespace default are watched together again"
    ])
  }))

it.effect("B3 an answer that is not the API server's own changes nothing for longer than it lasts", () =>
  Effect.gen(function*() {
    const { asked, live, logged, state, watching } = yield* setup
    yield* logged(Effect.gen(function*() {
      state.reason = page
      yield* watching("a")
      yield* watching("b")
      yield* TestClock.adjust("10 seconds")
      state.reason = undefined
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(live(), { all: 1 })
      assert.deepStrictEqual(new Set(asked), new Set(["all"]))
    }))
  }))

it.effect("A10 a logger that throws ends neither the watches nor the way back to the shared one", () =>
  Effect.gen(function*() {
    const { live, state, watching } = yield* setup
    state.reason = forbidden
    for (const name of ["a", "b"]) {
      yield* watching(name)
      yield* TestClock.adjust("1 second")
    }
    assert.deepStrictEqual(live(), { a: 1, b: 1 })
    state.reason = undefined
    yield* TestClock.adjust("1 minute")
    assert.deepStrictEqual(live(), { all: 1 })
  }).pipe(Effect.provide(brokenLogger)))

it.effect("nothing is asked for when nobody watches any more", () =>
  Effect.gen(function*() {
    const { asked, live, logged, state, watching } = yield* setup
    yield* logged(Effect.gen(function*() {
      state.reason = forbidden
      const fiber = yield* watching("a")
      yield* TestClock.adjust("1 second")
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(live(), {})
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(asked, ["all", "a"])
      // And who comes then finds it as if for the first time.
      state.reason = undefined
      yield* watching("b")
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(live(), { all: 1 })
    }))
  }))
