import { Effect } from "effect"
import { spawn } from "node:child_process"
import { createConnection, type Socket } from "node:net"

/** A port at which connections are neither accepted nor refused: nobody accepts, and the system's queue is full. */
export const blackHole = Effect.gen(function*() {
  const script = `
    const server = require("node:net").createServer()
    server.listen({ port: 0, host: "127.0.0.1", backlog: 1 }, () => {
      require("node:fs").writeSync(1, String(server.address().port))
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
    })`
  const child = yield* Effect.acquireRelease(
    Effect.sync(() => spawn(process.execPath, ["-e", script], { stdio: ["ignore", "pipe", "inherit"] })),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )
  const port = yield* Effect.callback<number>((resume) => {
    child.stdout.once("data", (data) => resume(Effect.succeed(Number(data))))
  })
  // One more than the backlog, says Linux.
  for (let i = 0; i < 2; i++) {
    yield* Effect.acquireRelease(
      Effect.callback<Socket>((resume) => {
        const socket = createConnection(port, "127.0.0.1", () => resume(Effect.succeed(socket)))
      }),
      (socket) => Effect.sync(() => socket.destroy())
    )
  }
  return port
})
