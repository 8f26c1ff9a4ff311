/**
 * What stands between a client and the API server: it passes everything on, but for what a test has it do.
 */
import { Effect, type Scope } from "effect"
import { createServer, type OutgoingHttpHeaders, request, type Server, type ServerResponse } from "node:http"

export interface Front {
  /** Answers in place of the server, where it gives something. */
  readonly answer?: (method: string, url: string) => ((response: ServerResponse) => void) | undefined
  /** Headers of each answer, beside or in place of the server's. */
  readonly headers?: () => OutgoingHttpHeaders
  /** Passes an answer on when it is complete, as nginx does: of a watch comes the head at most. */
  readonly buffering?: "body" | "everything" | undefined
}

/** Starts one in front of this server; gives its URL. */
export const httpFront = (
  server: string,
  { answer = () => undefined, buffering, headers: more = () => ({}) }: Front
): Effect.Effect<string, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.callback<Server>((resume) => {
        const front = createServer((incoming, outgoing) => {
          const { headers, method = "", url = "" } = incoming
          const instead = answer(method, url)
          if (instead !== undefined) {
            incoming.resume().on("end", () => instead(outgoing))
            return
          }
          const forwarded = request(server + url, { method, headers }, (answer) => {
            const chunks: Array<Buffer> = []
            const head = () => {
              outgoing.writeHead(answer.statusCode!, { "content-type": answer.headers["content-type"], ...more() })
              outgoing.flushHeaders()
            }
            if (buffering !== "everything") {
              head()
            }
            answer.on("data", (chunk: Buffer) => buffering === undefined ? outgoing.write(chunk) : chunks.push(chunk))
              .on("end", () => {
                if (buffering === "everything") {
                  head()
                }
                outgoing.end(Buffer.concat(chunks))
              }).on("error", () => outgoing.destroy())
          })
          forwarded.on("error", () => outgoing.destroy())
          outgoing.on("close", () => forwarded.destroy())
          incoming.pipe(forwarded)
        })
        front.listen(0, "127.0.0.1", () => resume(Effect.succeed(front)))
      }),
      (front) =>
        Effect.sync(() => {
          front.close()
          front.closeAllConnections()
        })
    ),
    (front) => {
      const address = front.address()
      return `http://127.0.0.1:${typeof address === "object" ? address?.port : ""}`
    }
  )
