/**
 * A TCP proxy between one candidate and the API server. TLS passes through untouched, so what it can do is what a bad
 * network can do.
 */
import { connect, createServer, type Server, type Socket } from "node:net"
import { freePort } from "./ports.ts"

/**
 * - `pass`: bytes go through, each after `delay` ms
 * - `refuse`: nothing listens; connections that were open are reset
 * - `stall`: connections stay open, new ones are accepted, and not a byte moves
 * - `stallAnswers`: requests arrive at the server and take effect, the answers do not come back
 */
export type ProxyMode = "pass" | "refuse" | "stall" | "stallAnswers"

type Direction = "requests" | "answers"

interface Pipe {
  readonly direction: Direction
  readonly from: Socket
  readonly to: Socket
  /** What was read and not yet passed on; undefined stands for the end. */
  readonly queue: Array<{ readonly due: number; readonly chunk: Buffer | undefined }>
  timer: NodeJS.Timeout | undefined
}

export class Proxy implements AsyncDisposable {
  readonly port: number
  /** The address for a kubeconfig's `server`. */
  readonly url: string
  mode: ProxyMode = "pass"
  /** How many connections were accepted. */
  accepted = 0
  private delay = 0
  private server: Server | undefined
  private readonly target: { readonly host: string; readonly port: number }
  private readonly pipes = new Set<Pipe>()

  /** Starts a proxy that passes everything. */
  static async start(target: { readonly host: string; readonly port: number }): Promise<Proxy> {
    const proxy = new Proxy(target, await freePort())
    await proxy.listen()
    return proxy
  }

  private constructor(target: { readonly host: string; readonly port: number }, port: number) {
    this.target = target
    this.port = port
    this.url = `https://127.0.0.1:${port}`
  }

  /** The number of connections that are open at present. */
  get connections(): number {
    return this.pipes.size / 2
  }

  /** Changes the behaviour, for open connections too. What was held back goes on in order when bytes pass again. */
  async set(mode: ProxyMode): Promise<void> {
    this.mode = mode
    if (mode === "refuse") {
      await this.unlisten()
      return
    }
    await this.listen()
    for (const pipe of this.pipes) {
      if (this.stalled(pipe)) pipe.from.pause()
      else this.pump(pipe)
    }
  }

  /** Delays every byte in each direction; a round trip takes twice as long. */
  setDelay(milliseconds: number): void {
    this.delay = milliseconds
  }

  /** Resets all open connections, once. */
  cut(): void {
    for (const pipe of this.pipes) pipe.from.resetAndDestroy()
    this.pipes.clear()
  }

  async close(): Promise<void> {
    await this.unlisten()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  private listen(): Promise<void> {
    if (this.server !== undefined) return Promise.resolve()
    // A client that has sent its last byte still waits for its answer.
    const server = createServer({ allowHalfOpen: true }, (client) => this.accept(client))
    this.server = server
    return new Promise((resolve, reject) => {
      server.once("error", reject)
      server.listen(this.port, "127.0.0.1", () => resolve())
    })
  }

  private unlisten(): Promise<void> {
    const server = this.server
    this.server = undefined
    const closed = new Promise<void>((resolve) => server === undefined ? resolve() : server.close(() => resolve()))
    this.cut()
    return closed
  }

  private accept(client: Socket): void {
    this.accepted++
    const upstream = connect({ ...this.target, allowHalfOpen: true })
    client.setNoDelay(true)
    upstream.setNoDelay(true)
    const requests: Pipe = { direction: "requests", from: client, to: upstream, queue: [], timer: undefined }
    const answers: Pipe = { direction: "answers", from: upstream, to: client, queue: [], timer: undefined }
    for (const pipe of [requests, answers]) {
      this.pipes.add(pipe)
      const push = (chunk: Buffer | undefined) => {
        pipe.queue.push({ due: performance.now() + this.delay, chunk })
        this.pump(pipe)
      }
      pipe.from.on("data", push)
      pipe.from.once("end", () => push(undefined))
      // The reason is of no interest: whatever it was, the other side gets to know that the connection is gone.
      pipe.from.on("error", () => {})
      pipe.from.once("close", (hadError) => {
        // Behind a stalled connection the other side would not hear of it.
        const tell = () => {
          if (this.pipes.has(pipe) && this.stalled(pipe)) {
            setTimeout(tell, 50).unref()
            return
          }
          this.pipes.delete(pipe)
          if (hadError) pipe.to.resetAndDestroy()
          // What is still delayed goes first, and the end with it.
          else if (pipe.queue.length === 0) pipe.to.end()
        }
        tell()
      })
      if (this.stalled(pipe)) pipe.from.pause()
    }
  }

  private stalled(pipe: Pipe): boolean {
    return this.mode === "stall" || (this.mode === "stallAnswers" && pipe.direction === "answers")
  }

  private pump(pipe: Pipe): void {
    clearTimeout(pipe.timer)
    if (this.stalled(pipe)) {
      pipe.from.pause()
      return
    }
    pipe.from.resume()
    for (;;) {
      const first = pipe.queue[0]
      if (first === undefined) return
      const wait = first.due - performance.now()
      if (wait > 0) {
        pipe.timer = setTimeout(() => this.pump(pipe), wait)
        return
      }
      pipe.queue.shift()
      if (first.chunk === undefined) pipe.to.end()
      else if (pipe.to.writable) pipe.to.write(first.chunk)
    }
  }
}
