import { assert, it } from "@effect/vitest"
import { Effect, Logger } from "effect"
import { LeaderElection, Leadership, LocalLeaderElection } from "effect-kubernetes-leader-election"

it.effect("leads at once, and says that it is local", () =>
  Effect.gen(function*() {
    const lines: Array<string> = []
    const logger = Logger.make(({ logLevel, message }) => {
      lines.push(`${logLevel}: ${message}`)
    })
    const lead = Effect.flatMap(Leadership, ({ ensure, lease }) => Effect.as(ensure, lease))
    const lease = yield* LeaderElection.whileLeading(lead).pipe(
      Effect.provide(LocalLeaderElection.layer()),
      Effect.provide(Logger.layer([logger]))
    )
    assert.deepStrictEqual(lease, { namespace: "local", name: "local" })
    assert.isTrue(lines.some((line) => line.startsWith("Warn: This election is local")))
  }))
