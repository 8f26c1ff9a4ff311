/**
 * The independent witness: a PostgreSQL of the test's own. Every write of every leader program goes through a condition
 * on its fencing token, and stays in a log, refused or not.
 */
import { type Client, Pool } from "pg"
import { clientOptions, startPostgres } from "../utils/Postgres.ts"

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

export const startWitness = async (): Promise<Witness> => {
  const server = await startPostgres()
  const client = new Pool({ ...clientOptions(server.directory), max: 4 })
  client.on("error", () => {})
  await client.query(`
    CREATE TABLE fences (name text PRIMARY KEY, token numeric NOT NULL);
    CREATE TABLE writes (
      id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(), name text NOT NULL,
      token numeric NOT NULL, identity text NOT NULL, kind text NOT NULL, mono double precision NOT NULL,
      accepted boolean NOT NULL
    );
    CREATE INDEX ON writes (name, id);
    CREATE TABLE leader_fences (name text PRIMARY KEY, token bigint NOT NULL);
  `)
  return {
    directory: server.directory,
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
      await client.end()
      await server[Symbol.asyncDispose]()
    }
  }
}
