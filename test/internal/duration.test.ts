import { assert, describe, it } from "@effect/vitest"
import { Duration } from "effect"
import { examples, format, fromNanos, type Input, parse, problem, read, show } from "../../src/internal/duration.ts"

describe("duration", () => {
  it.each<[text: string, nanos: bigint]>([
    ["15s", 15_000_000_000n],
    ["500ms", 500_000_000n],
    ["1m30s", 90_000_000_000n],
    ["1h2m3.5s", 3_723_500_000_000n],
    ["10us", 10_000n],
    ["10µs", 10_000n],
    ["7ns", 7n],
    ["1.000000001s", 1_000_000_001n],
    ["15 seconds", 15_000_000_000n],
    ["1 second", 1_000_000_000n],
    ["250 millis", 250_000_000n],
    ["1.5 minutes", 90_000_000_000n],
    ["1.25 seconds", 1_250_000_000n],
    ["3 nanos", 3n],
    ["4 micros", 4_000n],
    ["2 hours", 7_200_000_000_000n],
    ["1 day", 86_400_000_000_000n],
    ["1 week", 604_800_000_000_000n],
    ["15", 15_000_000_000n],
    ["2.5", 2_500_000_000n],
    ["0", 0n],
    ["0.33333333333333", 333_333_333n]
  ])("reads %j", (text, nanos) => {
    const duration = parse(text)
    assert(duration !== undefined)
    assert.strictEqual(Duration.toNanosUnsafe(duration), nanos)
  })

  it.each([
    "",
    " ",
    "s",
    "abc",
    "15 s",
    "15S",
    " 15s",
    "15s\n",
    "-5s",
    "-5",
    "+5",
    "1m30",
    "1m 30s",
    ".5",
    "5.",
    "1.2.3s",
    "1e3",
    "0x10",
    "PT15S",
    "15  seconds",
    "15 Seconds",
    "15 secs",
    "1m15 seconds",
    "15 seconds long",
    "Infinity",
    "NaN",
    "1d"
  ])("refuses %j", (text) => {
    assert.strictEqual(parse(text), undefined)
  })

  it.each<[duration: Duration.Duration, text: string]>([
    [Duration.seconds(15), "15s"],
    [Duration.millis(2500), "2.5s"],
    [Duration.millis(500), "500ms"],
    [Duration.nanos(333_333_333n), "333.333333ms"],
    [Duration.nanos(1_666_666_666n), "1.666666666s"],
    [Duration.nanos(1n), "0.000001ms"],
    [Duration.zero, "0s"],
    [Duration.seconds(1), "1s"],
    [Duration.minutes(90), "5400s"],
    [Duration.millis(-1500), "-1.5s"],
    [Duration.infinity, "Infinity"],
    [Duration.negativeInfinity, "-Infinity"]
  ])("writes %s as %j", (duration, text) => {
    assert.strictEqual(format(duration), text)
  })

  it("whole milliseconds stay what they are, so that equal durations look equal", () => {
    assert.strictEqual(String(fromNanos(2_500_000_000n)), String(Duration.millis(2500)))
    assert.strictEqual(String(fromNanos(2_500_000_001n)), String(Duration.nanos(2_500_000_001n)))
  })

  it("its examples are what it reads", () => {
    for (const example of examples.split(/, or plain seconds such as | or |, /)) {
      assert.isDefined(parse(example), example)
    }
    assert.include(examples, "15 seconds")
  })

  it.each([0n, 1n, 999_999n, 1_000_000n, 333_333_333n, 999_999_999n, 1_000_000_000n, 1_000_000_001n, 5_000_000_000n])(
    "reads back what it wrote: %d ns",
    (nanos) => {
      assert.deepStrictEqual(parse(format(fromNanos(nanos))), fromNanos(nanos))
    }
  )
})

class WithGetters {
  get seconds() {
    return 2
  }
}

describe("a duration in code", () => {
  it.each<[given: unknown, millis: number | undefined, shown: string]>([
    ["1m30s", 90_000, "\"1m30s\""],
    ["15 seconds", 15_000, "\"15 seconds\""],
    ["soon", undefined, "\"soon\""],
    ["x".repeat(301), undefined, `"${"x".repeat(300)}…"`],
    [1500, 1500, "1500 (a number in code is milliseconds)"],
    [Number.NaN, undefined, "NaN (a number in code is milliseconds)"],
    [2_000_000n, 2, "2000000 (a bigint in code is nanoseconds)"],
    [Duration.seconds(3), 3000, "3s"],
    [Duration.infinity, Number.POSITIVE_INFINITY, "Infinity"],
    [{ minutes: 1, seconds: 0 }, 60_000, "60s"],
    [new WithGetters(), 2000, "2s"],
    [[1, 500_000_000], 1500, "1.5s"],
    [{ seconds: Number.NaN }, undefined, "not a valid duration"],
    [[Number.NaN, 0], undefined, "not a valid duration"],
    [[], undefined, "not a valid duration"],
    [{}, undefined, "not a valid duration"],
    [new Date(0), undefined, "not a valid duration"],
    [true, undefined, "not a valid duration"],
    [null, undefined, "not a valid duration"]
  ])("%o is %s ms", (given, millis, shown) => {
    const duration = read(given as Input)
    assert.strictEqual(duration && Duration.toMillis(duration), millis)
    assert.strictEqual(show(given as Input), shown)
  })

  it.each<[given: Input, expected: string | undefined]>([
    ["50ms", undefined],
    [50, undefined],
    [49, "is 49 (a number in code is milliseconds): give 50ms or more, and not without end"],
    [-5, "is -5 (a number in code is milliseconds): give 50ms or more, and not without end"],
    [Duration.infinity, "is Infinity: give 50ms or more, and not without end"],
    ["soon", `is "soon": write it as ${examples}`]
  ])("of 50 ms or more: %o", (given, expected) => {
    assert.strictEqual(problem(given, Duration.millis(50)), expected)
  })
})
