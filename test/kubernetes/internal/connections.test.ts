/**
 * How many connections are opened for how many requests: on a server with one processor, in simulated time.
 */
import { afterEach, assert, beforeEach, describe, it, vi } from "@effect/vitest"
import { EventEmitter } from "node:events"
import type { Socket } from "node:net"
import * as Connections from "../../../src/kubernetes/internal/connections.ts"

/** Milliseconds. */
interface Costs {
  /** Of the server's processor, which does one thing after the other. */
  readonly handshake: number
  readonly request: number
  /** That pass beside that: a handshake's way, and what a request waits for. */
  readonly distance?: number
  readonly wait?: number
}

class FakeSocket extends EventEmitter {
  destroyed = false
  writable = true
  setTimeout() {}
  ref() {}
  unref() {}
  destroy() {
    if (!this.destroyed) {
      this.destroyed = true
      this.emit("close")
    }
  }
}

const setup = ({ distance = 0, handshake, request, wait = 0 }: Costs) => {
  const sockets: Array<FakeSocket> = []
  const server = { opened: 0, answered: 0, lastAnswer: 0, hanging: 0, silent: false }
  let freeAt = 0
  const work = (millis: number, beside: number, done: () => void) => {
    freeAt = Math.max(freeAt, performance.now()) + millis
    setTimeout(done, freeAt - performance.now() + beside)
  }
  const pool = Connections.make({ host: "127.0.0.1", port: 6443, tls: undefined }, 10_000, {
    dial: (onDone) => {
      server.opened++
      let aborted = false
      if (server.hanging > 0) {
        server.hanging--
      } else {
        work(handshake, distance, () => {
          if (!aborted) {
            const socket = new FakeSocket()
            sockets.push(socket)
            onDone({ socket: socket as unknown as Socket, address: "127.0.0.1:6443" })
          }
        })
      }
      return {
        state: () => ({ step: "tls", address: undefined }),
        abort: () => {
          aborted = true
        }
      }
    }
  })
  const send = (onAnswer = () => {}, aliveWithin = Infinity) => {
    pool.acquire({
      aliveWithin,
      stream: false,
      onConnection: (connection) => {
        if (!server.silent) {
          work(request, wait, () => {
            server.answered++
            server.lastAnswer = performance.now()
            pool.release(connection)
            onAnswer()
          })
        }
      },
      onFailed: ({ step }) => assert.fail(step)
    })
  }
  const sendAll = (count: number) => {
    for (let i = 0; i < count; i++) send()
  }
  const cut = () => sockets.splice(0).forEach((socket) => socket.destroy())
  return { server, send, sendAll, cut }
}

const pass = (millis: number) => vi.advanceTimersByTime(millis)

// One clock for all of them.
describe("connections in proportion to their use", { concurrent: false }, () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "setImmediate", "clearImmediate", "performance"] })
    vi.setSystemTime(0)
  })
  afterEach(() => {
    vi.useRealTimers()
  })

  it("a saturated server spends its time on requests, not on handshakes", () => {
    for (
      const [count, costs, most] of [
        [1000, { handshake: 3, request: 1 }, 60],
        [1000, { handshake: 10, request: 1 }, 60],
        [50, { handshake: 50, request: 20 }, 25]
      ] as const
    ) {
      const began = performance.now()
      const { sendAll, server } = setup(costs)
      sendAll(count)
      pass(10_000)
      assert.strictEqual(server.answered, count)
      assert.isAtMost(server.opened, most)
      assert.isAtMost(server.lastAnswer - began, count * costs.request + most * costs.handshake)
    }
  })

  it("a server that lets requests wait gets a connection for each, a far one too", () => {
    const began = performance.now()
    const { sendAll, server } = setup({ handshake: 3, request: 1, distance: 200, wait: 4000 })
    sendAll(1000)
    pass(30_000)
    assert.strictEqual(server.answered, 1000)
    assert.isAtMost(server.lastAnswer - began, 14_000)
  })

  it("attempts beside others share the connections that answer", () => {
    for (const elections of [5, 50]) {
      const { send, server } = setup({ handshake: 3, request: 1, wait: 4000 })
      // Each renews every 5 s, and an answer takes 4 s, so that a second attempt begins after 2 s.
      const renew = () => {
        const start = performance.now()
        send(() => setTimeout(renew, start + 5000 - performance.now()))
        setTimeout(() => send(undefined, 2000), 2000)
      }
      for (let i = 0; i < elections; i++) setTimeout(renew, i * 5000 / elections)
      pass(20_000)
      const before = { ...server }
      pass(60_000)
      assert.isAtLeast(server.answered - before.answered, 23 * elections)
      assert.strictEqual(server.opened, before.opened)
    }
  })

  it("after a saturated time sixteen are tried at once again as soon as nothing answers", () => {
    for (const [isCut, limit] of [[true, 1_500], [false, 1_800]] as const) {
      const { cut, send, sendAll, server } = setup({ handshake: 10, request: 1 })
      sendAll(200)
      pass(5_000)
      assert.strictEqual(server.answered, 200)
      server.silent = true
      sendAll(server.opened)
      pass(1_000)
      if (isCut) cut()
      server.silent = false
      server.hanging = 32
      const began = performance.now()
      for (let i = 0; i < 100; i++) send()
      pass(5_000)
      assert.strictEqual(server.answered, 300)
      assert.isAtMost(server.lastAnswer - began, limit)
    }
  })
})
