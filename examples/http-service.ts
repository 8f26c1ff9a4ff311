/**
 * A plain `node:http` service without Effect. All replicas answer requests; one
 * of them, the leader, refreshes the exchange rates beside that.
 *
 * It shows
 *
 * - the `promise` entry: `runAsLeader` with an `AbortSignal`;
 * - readiness that does not depend on leading: all replicas get traffic, and a
 *   rollout does not wait for a leader that cannot be ready before it ends;
 * - liveness that fails where the job does not end although its term is over:
 *   a restart is the only remedy then;
 * - the end in good order: not ready any more, the job stopped, the Lease
 *   released, open requests answered, exit code 0.
 *
 * Start it in two terminals:
 *
 *     LEADER_ELECTION_NAME=rates PORT=8080 node http-service.ts
 *     LEADER_ELECTION_NAME=rates PORT=8081 node http-service.ts
 */
import { type LeadershipHandle, runAsLeader, type Status } from "effect-kubernetes-leader-election/promise"
import { createServer } from "node:http"
import { setTimeout as sleep } from "node:timers/promises"

const interval = Number(process.env["INTERVAL_MS"] ?? 10_000)
const shutdown = new AbortController()
for (const signal of ["SIGTERM", "SIGINT"]) {
  process.once(signal, () => shutdown.abort())
}

/** The leader's job. Its signal is aborted when leadership is lost, and when the service is asked to end. */
const refreshRates = async (leadership: LeadershipHandle, signal: AbortSignal): Promise<void> => {
  while (!signal.aborted) {
    // The process may have been stalled since the last time: ask right before what only a leader may do.
    leadership.ensure()
    // Here: fetch them with { signal }, and write them with the token where the database can compare it.
    console.log(`refreshes the rates with token ${leadership.fencingToken}`)
    await sleep(interval, undefined, { signal })
  }
}

let status: Status | undefined
let endingSince: number | undefined
const onStatus = (next: Status): void => {
  status = next
  endingSince = next.state === "ending" ? endingSince ?? performance.now() : undefined
}

const isAlive = () => endingSince === undefined || performance.now() - endingSince < 30_000

const server = createServer((request, response) => {
  const answer = (code: number, text: string) =>
    response.writeHead(code, { "content-type": "text/plain" }).end(`${text}\n`)
  switch (request.url) {
    case "/livez":
      return isAlive() ? answer(200, "alive") : answer(503, "the job of a term that is over has not ended")
    case "/readyz":
      return shutdown.signal.aborted ? answer(503, "shutting down") : answer(200, "ready")
    default:
      return answer(200, `hello; ${status?.leader ?? "nobody"} refreshes the rates, ${status?.state ?? "idle"} here`)
  }
})

server.listen(Number(process.env["PORT"] ?? 8080), () => {
  const address = server.address()
  console.log(`listens on ${typeof address === "object" ? address?.port : address}`)
})

try {
  // Ends with the reason of its signal, or with what needs a person: a bad setting, a right that is missing.
  await runAsLeader({ again: true, signal: shutdown.signal, onStatus }, refreshRates)
} catch (error) {
  if (!shutdown.signal.aborted) {
    console.error(error instanceof Error ? error.message : error)
    process.exitCode = 1
  }
} finally {
  server.close()
}
