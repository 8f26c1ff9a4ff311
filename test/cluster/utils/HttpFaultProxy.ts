/**
 * An HTTP proxy between candidates and the API server. It ends TLS with a certificate of its own, so it can do what an
 * overloaded server or a load balancer can do: answer by itself, delay, drop an answer, cut a watch.
 */
import { execFile } from "node:child_process"
import { readFile } from "node:fs/promises"
import type { IncomingHttpHeaders, IncomingMessage, OutgoingHttpHeaders, ServerResponse } from "node:http"
import { Agent, createServer, request as httpsRequest, type Server } from "node:https"
import type { AddressInfo, Socket } from "node:net"
import { join } from "node:path"
import { promisify } from "node:util"
import { temporaryDirectory } from "./Watchdog.ts"

export interface FaultRequest {
  readonly method: string
  /** Path and query. */
  readonly path: string
  readonly headers: IncomingHttpHeaders
  readonly watch: boolean
}

/**
 * What becomes of a request; all fields may be combined:
 * - `delay`: it is held for so many ms first
 * - `respond`: it is answered here and never reaches the API server
 * - `answerDelay`: the API server's answer is held for so many ms
 * - `dropAnswer`: it takes effect, and then the connection is reset instead of answered
 * - `hang`: it is never answered, and never reaches the API server
 * - `cutAfter`: the connection is reset so many ms after the answer has begun
 * - `clock`: the answer's `Date` is so many ms later than the API server's
 */
export interface Fault {
  readonly delay?: number
  readonly respond?: {
    readonly status: number
    readonly headers?: OutgoingHttpHeaders
    readonly body?: string | object
  }
  readonly answerDelay?: number
  readonly dropAnswer?: boolean
  readonly hang?: boolean
  readonly cutAfter?: number
  readonly clock?: number
}

/** Chooses what becomes of a request; undefined lets it pass. */
export type FaultRule = (request: FaultRequest) => Fault | undefined

/** The API server's answer when it refuses work: plain text, and a header that says when to come back. */
export const tooManyRequests = (retryAfterSeconds = 1): Fault => ({
  respond: {
    status: 429,
    headers: { "content-type": "text/plain; charset=utf-8", "retry-after": String(retryAfterSeconds) },
    body: "Too many requests, please try again later.\n"
  }
})

/** What a load balancer answers when no API server is behind it. */
export const serviceUnavailable = (retryAfterSeconds?: number): Fault => ({
  respond: {
    status: 503,
    headers: {
      "content-type": "text/plain; charset=utf-8",
      ...(retryAfterSeconds === undefined ? {} : { "retry-after": String(retryAfterSeconds) })
    },
    body: "upstream connect error or disconnect/reset before headers\n"
  }
})

export interface ProxiedRequest {
  /** Wall-clock milliseconds at which it arrived, fractional. */
  readonly at: number
  readonly method: string
  readonly path: string
  readonly fault: Fault | undefined
}

export class HttpFaultProxy implements AsyncDisposable {
  readonly port: number
  /** The address for a kubeconfig's `server`. */
  readonly url: string
  /** The certificate authority that its clients have to trust, as PEM. */
  readonly ca: string
  /** May be changed at any time; asked for each request when it arrives. */
  rule: FaultRule = () => undefined
  readonly requests: Array<ProxiedRequest> = []
  private readonly server: Server
  private readonly agent: Agent
  private readonly target: { readonly url: string; readonly ca: string | undefined }
  private readonly sockets = new Set<Socket>()

  /** Starts a proxy that lets everything pass. */
  static async start(target: { readonly url: string; readonly ca: string | undefined }): Promise<HttpFaultProxy> {
    const { certificate, key } = await makeCertificate()
    const server = createServer({ cert: certificate, key })
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject)
      server.listen(0, "127.0.0.1", () => resolve())
    })
    return new HttpFaultProxy(target, server, certificate)
  }

  private constructor(
    target: { readonly url: string; readonly ca: string | undefined },
    server: Server,
    certificate: string
  ) {
    this.target = target
    this.server = server
    this.ca = certificate
    this.port = (server.address() as AddressInfo).port
    this.url = `https://127.0.0.1:${this.port}`
    this.agent = new Agent({ keepAlive: true, ca: target.ca })
    server.on("connection", (socket: Socket) => {
      this.sockets.add(socket)
      socket.once("close", () => this.sockets.delete(socket))
    })
    // A client that goes away in the middle of a handshake is nothing to fail a test for.
    server.on("tlsClientError", () => {})
    server.on("request", (request: IncomingMessage, response: ServerResponse) => void this.handle(request, response))
  }

  /** Resets all open connections, once. */
  cut(): void {
    for (const socket of this.sockets) socket.resetAndDestroy()
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.server.close(resolve))
    this.cut()
    this.agent.destroy()
    await closed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  private async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const method = request.method!
    const path = request.url!
    const watch = /[?&]watch=(1|true)\b/.test(path)
    const fault = this.rule({ method, path, headers: request.headers, watch })
    this.requests.push({ at: performance.timeOrigin + performance.now(), method, path, fault })
    const reset = () => void request.socket.destroy()
    request.once("error", () => {})
    response.once("error", () => {})

    // The body is read before anything else, so that a delay holds the whole request and not its second half.
    const chunks: Array<Buffer> = []
    request.on("data", (chunk: Buffer) => chunks.push(chunk))
    await new Promise((resolve) => request.once("end", resolve).once("close", resolve))
    if (fault?.delay !== undefined) await pause(fault.delay)
    if (response.destroyed || fault?.hang === true) return
    if (fault?.respond !== undefined) {
      const { body = "", headers = {}, status } = fault.respond
      const text = typeof body === "string" ? body : `${JSON.stringify(body)}\n`
      const type = typeof body === "string" ? "text/plain" : "application/json"
      response.writeHead(status, { "content-type": type, "content-length": Buffer.byteLength(text), ...headers })
      response.end(text)
      return
    }

    const { host: _, ...headers } = request.headers
    const upstream = httpsRequest(
      new URL(this.target.url + path),
      { method, headers, agent: this.agent },
      async (answer) => {
        if (fault?.dropAnswer === true) {
          answer.resume()
          reset()
          return
        }
        if (fault?.answerDelay !== undefined) await pause(fault.answerDelay)
        const date = Date.parse(answer.headers.date ?? "") + (fault?.clock ?? 0)
        response.writeHead(answer.statusCode!, {
          ...answer.headers,
          ...(fault?.clock === undefined ? {} : { date: new Date(date).toUTCString() })
        })
        // At once: the answer to a watch begins long before its first event.
        response.flushHeaders()
        if (fault?.cutAfter !== undefined) setTimeout(reset, fault.cutAfter)
        answer.once("error", reset)
        answer.pipe(response)
      }
    )
    upstream.once("error", reset)
    response.once("close", () => upstream.destroy())
    upstream.end(Buffer.concat(chunks))
  }
}

const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds))

const makeCertificate = async (): Promise<{ readonly certificate: string; readonly key: string }> => {
  const directory = await temporaryDirectory("leader-election-certificate")
  const read = (name: string) => readFile(join(directory.path, name), "utf8")
  try {
    // Node can make keys, but no certificates.
    const subject = "-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1,DNS:localhost"
    const kind = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    const args = `req ${kind} ${subject} -keyout tls.key -out tls.crt`.split(" ")
    await promisify(execFile)("openssl", args, { cwd: directory.path })
    return { certificate: await read("tls.crt"), key: await read("tls.key") }
  } finally {
    await directory.remove()
  }
}
