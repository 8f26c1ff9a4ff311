/**
 * A PostgreSQL server of a test's own, from the binaries that Debian installs.
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process"
import { chownSync, existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Client, type ClientConfig } from "pg"

const binaries = (): string | undefined => {
  try {
    const directory = execFileSync("pg_config", ["--bindir"], { encoding: "utf8", stdio: "pipe" }).trim()
    if (existsSync(join(directory, "initdb"))) {
      return directory
    }
  } catch {
    // Without its development package there is no pg_config: look where Debian puts the server.
  }
  return ["19", "18", "17", "16", "15", "14"].map((version) => `/usr/lib/postgresql/${version}/bin`)
    .find((directory) => existsSync(join(directory, "initdb")))
}

/** Why there is no PostgreSQL here; `undefined` where there is one. */
export const missingPostgres = (): string | undefined =>
  binaries() === undefined ? "PostgreSQL's server is not installed (Debian's package postgresql)" : undefined

/** Connects through the server's socket: no port to find, and nobody else can. */
export const clientOptions = (directory: string): ClientConfig => ({
  host: directory,
  user: "postgres",
  database: "postgres"
})

export interface Postgres extends AsyncDisposable {
  /** Where its socket is. */
  readonly directory: string
}

/** Starts a server that answers. It ends with this process at the latest. */
export const startPostgres = async (settings: ReadonlyArray<string> = []): Promise<Postgres> => {
  const bin = binaries()!
  const directory = mkdtempSync(join(tmpdir(), "postgres-"))
  // The server refuses to run as root; clients of any user have to reach its socket.
  const isRoot = process.getuid?.() === 0
  const data = join(directory, "data")
  mkdirSync(data, { mode: 0o700 })
  if (isRoot) {
    const [uid, gid] = execFileSync("getent", ["passwd", "postgres"], { encoding: "utf8" }).split(":").slice(2, 4)
      .map(Number)
    chownSync(directory, uid!, gid!)
    chownSync(data, uid!, gid!)
  }
  execFileSync("chmod", ["755", directory])
  const as = (program: string, args: ReadonlyArray<string>): [string, Array<string>] =>
    isRoot
      ? ["setpriv", ["--reuid=postgres", "--regid=postgres", "--clear-groups", join(bin, program), ...args]]
      : [join(bin, program), [...args]]
  execFileSync(...as("initdb", ["-D", data, "-U", "postgres", "--auth=trust", "--no-sync"]), { stdio: "pipe" })
  const server: ChildProcess = spawn(
    ...as("postgres", [
      "-D",
      data,
      "-k",
      directory,
      ...["listen_addresses=", "fsync=off", "max_connections=400", ...settings].flatMap((setting) => ["-c", setting])
    ]),
    { stdio: "ignore" }
  )
  const kill = () => {
    server.kill("SIGKILL")
    rmSync(directory, { recursive: true, force: true, maxRetries: 3 })
  }
  process.on("exit", kill)
  for (let attempt = 0;; attempt++) {
    const client = new Client(clientOptions(directory))
    try {
      await client.connect()
      await client.end()
      break
    } catch (error) {
      if (attempt === 100) {
        throw error
      }
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }
  return {
    directory,
    [Symbol.asyncDispose]: async () => {
      process.off("exit", kill)
      const ended = new Promise((resolve) => server.on("exit", resolve))
      // Fast shutdown: connections that are still open are cut off.
      server.kill("SIGINT")
      await ended
      rmSync(directory, { recursive: true, force: true })
    }
  }
}
