import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Logger } from "effect"
import { DatagramSocket } from "effect/socket"
import { type Format, formatLine } from "../../src/cli/shared/log.ts"

/** The line that is logged with this cause. */
const logged = (format: Format, cause: Cause.Cause<unknown>) =>
  Effect.gen(function*() {
    const lines: Array<string> = []
    const logger = Logger.map(Logger.make(formatLine(format)), (text) => lines.push(text))
    yield* Effect.logWarning("No metrics", cause).pipe(
      Effect.annotateLogs({ term: "7" }),
      Effect.provide(Logger.layer([logger]))
    )
    return lines.join("\n")
  })

const refused = Cause.fail(new Error("refused"))
// It says nothing itself: what has happened stands behind it.
const silent = Cause.fail(
  new DatagramSocket.DatagramSocketError({
    reason: new DatagramSocket.DatagramSocketWriteError({
      kind: "Unknown",
      cause: new Error("getaddrinfo ENOTFOUND nosuch.invalid")
    })
  })
)

describe("the log", () => {
  it.effect("an expected failure takes one line, without a stack trace", () =>
    Effect.gen(function*() {
      assert.match(yield* logged("text", refused), /WARN {2}No metrics: refused term=7$/)
      assert.match(yield* logged("text", silent), /WARN {2}No metrics: getaddrinfo ENOTFOUND nosuch\.invalid term=7$/)
      const { cause, message } = JSON.parse(yield* logged("json", silent))
      assert.deepStrictEqual([message, cause], ["No metrics", "getaddrinfo ENOTFOUND nosuch.invalid"])
    }))

  it.effect("a defect shows where it was", () =>
    Effect.gen(function*() {
      assert.match(yield* logged("text", Cause.die(new Error("defect"))), /No metrics term=7\n +Error: defect\n +at /)
    }))
})
