import { assert, describe } from "@effect/vitest"
import { Fiber } from "effect"
import * as LeaderElectionConfig from "../src/LeaderElectionConfig.ts"
import { oldLease, test } from "./utils/Elections.ts"

describe("a long healthy life", () => {
  test("in an hour a leader makes 720 patches and nothing else, a follower no request at all", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    const b = yield* w.candidate("b")
    yield* a.lead
    yield* w.settle
    yield* b.lead
    yield* w.settle
    const before = (yield* a.requests()).length
    assert.deepStrictEqual(yield* b.requests(), ["100000 get", "100000 watch"])
    yield* w.until(3_700_000)
    const requests = (yield* a.requests()).slice(before)
    assert.strictEqual(requests.length, 720)
    assert.isTrue(requests.every((line) => line.endsWith("patch")))
    assert.deepStrictEqual(yield* b.requests(), ["100000 get", "100000 watch"])
    assert.deepStrictEqual(w.timeline, ["100000 a leads"])
  })

  test("a day of a leader and a follower is a handful of lines at Info, none of them a warning", function*(w) {
    const settings = LeaderElectionConfig.defaultsFor("6 minutes")
    const a = yield* w.candidate("a", { settings })
    const b = yield* w.candidate("b", { settings })
    const leading = yield* a.lead
    yield* w.until(10_000)
    const following = yield* b.lead
    yield* w.until(86_400_000)
    yield* Fiber.interrupt(leading)
    yield* w.until(86_600_000)
    yield* Fiber.interrupt(following)
    assert.deepStrictEqual(w.timeline.filter((line) => line.endsWith("leads")), ["360000 a leads", "86400000 b leads"])
    const lines = w.logs.filter((line) => !line.startsWith("Debug") && !line.startsWith("Trace"))
    assert.isTrue(lines.length <= 10, lines.join("\n"))
    assert.isTrue(lines.every((line) => line.startsWith("Info")), lines.join("\n"))
  })
})
