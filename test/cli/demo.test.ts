import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Option } from "effect"
import * as Net from "node:net"
import { judge } from "../../src/cli/demo/judge.ts"
import * as Proxy from "../../src/cli/demo/proxy.ts"
import type { CandidateEvent } from "../../src/cli/run/candidateEvent.ts"

/** `1 leading 10 @100`: what process 1 did at 100 ms with fencing token 10. */
const line = (text: string): CandidateEvent => {
  const [pid, event, fencingToken, mono] = text.split(" ")
  return {
    at: 0,
    mono: Number(mono!.slice(1)),
    event: event as CandidateEvent["event"],
    pid: Number(pid),
    identity: `replica-${pid}`,
    leader: null,
    fencingToken: fencingToken!
  }
}

const verdict = (lines: ReadonlyArray<string>, exits: Record<number, number> = {}) =>
  judge(lines.map(line), new Map(Object.entries(exits).map(([pid, at]) => [Number(pid), at])))

const first = ["1 leading 10 @100", "1 step 10 @150", "1 ending 10 @200", "1 ended 10 @210"]

describe("judge", () => {
  it("finds the terms, one after another", () => {
    const { problems, terms } = verdict([
      ...first,
      "2 leading 12 @211",
      "2 step 12 @220",
      "2 lost 12 @230",
      "2 ended 12 @240"
    ])
    assert.deepStrictEqual(problems, [])
    assert.deepStrictEqual(
      terms.map(({ askedToEnd, ended, fencingToken, from, steps }) => [fencingToken, from, askedToEnd, ended, steps]),
      [[10n, 100, 200, 210, 1], [12n, 211, 230, 240, 1]]
    )
  })

  it("takes the end of a killed program from the end of its process", () => {
    const { problems, terms } = verdict(["1 leading 10 @100", "2 leading 12 @211", "2 ended 12 @300"], { 1: 190 })
    assert.deepStrictEqual(problems, [])
    assert.deepStrictEqual(terms.map(({ askedToEnd, ended }) => [askedToEnd, ended]), [[190, 190], [300, 300]])
  })

  const broken: ReadonlyArray<
    readonly [name: string, lines: ReadonlyArray<string>, exits: Record<number, number>, problem: RegExp]
  > = [
    [
      "a program begins before another has ended",
      [...first, "2 leading 12 @209", "2 ended 12 @300"],
      {},
      /two led at once: replica-2 began 1\.0 ms/
    ],
    [
      "a killed one still ran",
      ["1 leading 10 @100", "2 leading 12 @211", "2 ended 12 @300"],
      { 1: 220 },
      /two led at once/
    ],
    [
      "a token that did not grow",
      [...first, "2 leading 10 @211", "2 ended 10 @300"],
      {},
      /did not grow: replica-2 got 10/
    ],
    [
      "a step of an older term after one of a newer",
      ["1 leading 10 @100", "2 leading 12 @211", "1 step 10 @150", "2 ended 12 @300"],
      { 1: 200 },
      /replica-1 wrote "step" with fencing token 10 after replica-2/
    ],
    ["a program that has not ended", ["1 leading 10 @100"], {}, /has not ended/],
    ["acting without having begun", ["1 step 10 @100", "1 ended 10 @110"], {}, /without having begun/]
  ]
  it.each(broken)("%s", (_, lines, exits, problem) => {
    const { problems } = verdict(lines, exits)
    assert.strictEqual(problems.length, 1, problems.join("\n"))
    assert.match(problems[0]!, problem)
  })
})

const echoServer = Effect.acquireRelease(
  Effect.callback<Net.Server>((resume) => {
    const server = Net.createServer((socket) => socket.on("error", () => {}).pipe(socket))
    server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
  }),
  (server) => Effect.sync(() => server.close())
)

const connect = (port: number) =>
  Effect.acquireRelease(
    Effect.sync(() => Net.connect(port, "127.0.0.1").on("error", () => {})),
    (socket) => Effect.sync(() => socket.destroy())
  )

const echo = (socket: Net.Socket, text: string) =>
  Effect.callback<string>((resume) => {
    socket.once("data", (data) => resume(Effect.succeed(String(data))))
    socket.once("close", () => resume(Effect.succeed("closed")))
    socket.write(text)
  })

describe("proxy", () => {
  it.live("lets everything through, nothing while it is cut, and breaks what was cut", () =>
    Effect.gen(function*() {
      const server = yield* echoServer
      const address = server.address()
      assert.isObject(address)
      const proxy = yield* Proxy.make("127.0.0.1", (address as Net.AddressInfo).port)
      const open = yield* connect(proxy.port)
      assert.strictEqual(yield* echo(open, "1"), "1")
      yield* proxy.cut
      const late = yield* connect(proxy.port)
      const answer = yield* Effect.raceFirst(echo(open, "2"), echo(late, "3")).pipe(Effect.timeoutOption("200 millis"))
      assert.isTrue(Option.isNone(answer))
      const closed = yield* Effect.forkChild(Effect.all([echo(open, "4"), echo(late, "5")], { concurrency: 2 }), {
        startImmediately: true
      })
      yield* proxy.restore
      assert.deepStrictEqual(yield* Fiber.join(closed), ["closed", "closed"])
      assert.strictEqual(yield* echo(yield* connect(proxy.port), "6"), "6")
    }))
})
