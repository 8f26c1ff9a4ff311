/**
 * The independent witness: a PostgreSQL of the test's own. Every write of every leader program goes through a condition
 * on its fencing token, and stays in a log, refused or not.
 */
import { execFileSync, type ChildProcess, spawn } from "node:child_process"
import { chownSync, existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type Client, type ClientConfig, Pool } from "pg"

/** Connects through the server's socket: no port to find, and nobody else can. */
export const clientOptions = (directory: string): ClientConfig => ({
  host: directory,
  user: "postgres",
  database: "postgres"
})

export interface Write {
  readonly name: string
  /** Decimal text. */
  readonly token: string
  readonly identity: string
  readonly kind: "begin" | "step"
  /** The machine's monotonic clock when the leadership was last seen to be valid, in milliseconds. */
  readonly mono: number
}

/** One write of a leader program: whether the condition let it in. */
export const record = async (client: Client, write: Write): Promise<boolean> => {
  const { rows } = await client.query<{ accepted: boolean }>({
    name: "record",
    text: `WITH let_in AS (
             INSERT INTO fences VALUES ($1, $2::numeric)
             ON CONFLICT (name) DO UPDATE SET token = excluded.token WHERE fences.token <= excluded.token
             RETURNING 1
           )
           INSERT INTO writes (name, token, identity, kind, mono, accepted)
           SELECT $1, $2::numeric, $3, $4, $5, EXISTS (SELECT FROM let_in)
           RETURNING accepted`,
    values: [write.name, write.token, write.identity, write.kind, write.mono]
  })
  return rows[0]!.accepted
}

export interface Verdict {
  readonly writes: number
  readonly terms: number
  /** Writes of a program that had seen its leadership valid after a later term had begun. */
  readonly twoLeaders: number
  readonly staleRefused: number
  readonly staleLetIn: number
  /** The longest time between two writes that were let in, in milliseconds. */
  readonly longestGap: number
}

export interface Witness extends AsyncDisposable {
  readonly directory: string
  /** `monotonic: false` where a process had a clock that cannot be compared: then the order of arrival counts. */
  readonly judge: (name: string, options: { readonly monotonic: boolean }) => Promise<Verdict>
  /** Whether anybody has written within the last `millis`. */
  readonly isLed: (name: string, millis: number) => Promise<boolean>
}

/** Why there is no PostgreSQL here; `undefined` where there is one. */
export const missingPostgres = (): string | undefined =>
  binaries() === undefined ? "PostgreSQL's server is not installed (Debian's package postgresql)" : undefined

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

export const startWitness = async (): Promise<Witness> => {
  const bin = binaries()!
  const directory = mkdtempSync(join(tmpdir(), "witness-"))
  // The server refuses to run as root; candidates of any user have to reach its socket.
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
      ...["listen_addresses=", "fsync=off", "max_connections=400"].flatMap((setting) => ["-c", setting])
    ]),
    { stdio: "ignore" }
  )
  const kill = () => {
    server.kill("SIGKILL")
    rmSync(directory, { recursive: true, force: true, maxRetries: 3 })
  }
  process.on("exit", kill)
  const client = new Pool({ ...clientOptions(directory), max: 4 })
  client.on("error", () => {})
  for (let attempt = 0;; attempt++) {
    try {
      await client.query("SELECT 1")
      break
    } catch (error) {
      if (attempt === 100) {
        throw error
      }
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }
  await client.query(`
    CREATE TABLE fences (name text PRIMARY KEY, token numeric NOT NULL);
    CREATE TABLE writes (
      id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(), name text NOT NULL,
      token numeric NOT NULL, identity text NOT NULL, kind text NOT NULL, mono double precision NOT NULL,
      accepted boolean NOT NULL
    );
    CREATE INDEX ON writes (name, id);
  `)
  return {
    directory,
    judge: async (name, { monotonic }) => {
      const later = monotonic ? "began.mono < writes.mono" : "began.id < writes.id"
      const { rows } = await client.query<Record<string, string | null>>(
        `WITH mine AS (SELECT * FROM writes WHERE name = $1),
              began AS (SELECT token, min(mono) AS mono, min(id) AS id FROM mine WHERE kind = 'begin' GROUP BY token),
              let_in AS (
                SELECT token, at - lag(at) OVER (ORDER BY id) AS gap, max(token) OVER (ORDER BY id) AS newest
                FROM mine WHERE accepted
              )
         SELECT (SELECT count(*) FROM mine) AS writes,
                (SELECT count(*) FROM began) AS terms,
                (SELECT count(*) FROM mine AS writes
                 WHERE EXISTS (SELECT FROM began WHERE began.token > writes.token AND ${later})) AS two_leaders,
                (SELECT count(*) FROM mine WHERE NOT accepted) AS refused,
                (SELECT count(*) FROM let_in WHERE token < newest) AS let_in,
                (SELECT extract(epoch FROM max(gap)) * 1000 FROM let_in) AS gap`,
        [name]
      )
      const row = rows[0]!
      return {
        writes: Number(row["writes"]),
        terms: Number(row["terms"]),
        twoLeaders: Number(row["two_leaders"]),
        staleRefused: Number(row["refused"]),
        staleLetIn: Number(row["let_in"]),
        longestGap: Math.round(Number(row["gap"] ?? 0))
      }
    },
    isLed: async (name, millis) => {
      const { rows } = await client.query<{ led: boolean }>(
        `SELECT EXISTS (
           SELECT FROM writes WHERE name = $1 AND accepted AND at > clock_timestamp() - $2 * interval '1 millisecond'
         ) AS led`,
        [name, millis]
      )
      return rows[0]!.led
    },
    [Symbol.asyncDispose]: async () => {
      process.off("exit", kill)
      await client.end()
      const ended = new Promise((resolve) => server.on("exit", resolve))
      // Fast shutdown: whoever is still connected is cut off.
      server.kill("SIGINT")
      await ended
      rmSync(directory, { recursive: true, force: true })
    }
  }
}
