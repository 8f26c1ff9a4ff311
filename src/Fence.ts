/**
 * A fence in an SQL database: the last line against a leader that does not know
 * yet that it was replaced.
 *
 * `Leadership.ensure` answers for the moment of the call. Between it and the
 * commit a process may be stopped for longer than its lease (SIGSTOP, a
 * suspended machine, a pause of its CPU quota), and write beside its successor.
 * {@link transaction} closes that gap as far as a database can: each Lease has a
 * row with a token; the first act of a term raises it to the term's fencing
 * token, and each transaction of a leader keeps the row locked and commits only
 * if it shows the token of its own term.
 *
 * @since 0.2.0
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Semaphore from "effect/Semaphore"
import * as SqlClient from "effect/sql/SqlClient"
import { isSqlError, type SqlError } from "effect/sql/SqlError"
import * as DurationText from "./internal/duration.ts"
import * as Dialect from "./internal/fence/dialect.ts"
import type { DurationInput } from "./LeaderElectionConfig.ts"
import type { LeaderElectionError } from "./LeaderElectionError.ts"
import { Leadership } from "./Leadership.ts"
import { formatKey } from "./LeaseRecord.ts"

/**
 * The settings of a fence, or a token, cannot be used. `problem` names the
 * setting, its value and the remedy.
 *
 * @category errors
 * @since 0.2.0
 */
export class FenceInvalid
  extends Schema.Error<FenceInvalid>("effect-kubernetes-leader-election/FenceError/FenceInvalid")({
    _tag: Schema.tag("FenceInvalid"),
    problem: Schema.String
  })
{
  override get message(): string {
    return this.problem
  }
}

/**
 * A fenced transaction was begun inside another transaction. Its lock would come
 * after what that one has read, and be given up with its savepoint.
 *
 * @category errors
 * @since 0.2.0
 */
export class FenceNested extends Schema.Error<FenceNested>("effect-kubernetes-leader-election/FenceError/FenceNested")({
  _tag: Schema.tag("FenceNested")
}) {
  override get message(): string {
    return "Fence.transaction was called inside another transaction of the same client: make it the outermost one"
  }
}

/**
 * The row could not be raised within the limit, because another session keeps it
 * locked: most likely an earlier leader that was stopped inside a transaction.
 *
 * @category errors
 * @since 0.2.0
 */
export class FenceBlocked
  extends Schema.Error<FenceBlocked>("effect-kubernetes-leader-election/FenceError/FenceBlocked")({
    _tag: Schema.tag("FenceBlocked"),
    table: Schema.String,
    name: Schema.String,
    limit: Schema.String,
    /** One phrase for each session that kept the row locked, as far as it could be seen. */
    sessions: Schema.Array(Schema.String),
    remedy: Schema.String
  })
{
  override get message(): string {
    const sessions = this.sessions.length === 0 ? "a session that could not be identified" : this.sessions.join("; ")
    return `the first act of this term waited ${this.limit} for the row "${this.name}" of ${this.table}, kept locked ` +
      `by ${sessions}. ${this.remedy}`
  }
}

/**
 * The row shows a token greater than that of the valid leader: etcd was restored
 * from a backup, or the application was moved to another cluster, and its
 * resourceVersions began again below.
 *
 * @category errors
 * @since 0.2.0
 */
export class FenceAhead extends Schema.Error<FenceAhead>("effect-kubernetes-leader-election/FenceError/FenceAhead")({
  _tag: Schema.tag("FenceAhead"),
  table: Schema.String,
  name: Schema.String,
  stored: Schema.BigInt,
  own: Schema.BigInt
}) {
  override get message(): string {
    return `the row "${this.name}" of ${this.table} shows token ${this.stored}, this term has the smaller ${this.own}, ` +
      "and its leadership was confirmed: etcd was restored from a backup, or the application was moved to another " +
      `cluster. Reset the row with: ${
        Dialect.reset(this.table, this.name, 0n)
      }. That is safe once every process that led ` +
      "before has ended: until then its writes would be let in"
  }
}

/**
 * The row was changed although no later term has begun (the leadership was
 * confirmed): by hand, or by the leaders of another cluster that use the same
 * table. One that only went down is raised again, and fails when it goes down
 * again meanwhile.
 *
 * @category errors
 * @since 0.2.0
 */
export class FenceChanged
  extends Schema.Error<FenceChanged>("effect-kubernetes-leader-election/FenceError/FenceChanged")({
    _tag: Schema.tag("FenceChanged"),
    table: Schema.String,
    name: Schema.String,
    stored: Schema.BigInt,
    own: Schema.BigInt
  })
{
  override get message(): string {
    return `the row "${this.name}" of ${this.table} shows token ${this.stored} in place of ${this.own}, although no later ` +
      "term has begun: somebody writes into the table, or the leaders of another cluster do. Give each cluster a table " +
      `of its own. Set the row back with: ${Dialect.reset(this.table, this.name, this.own)}`
  }
}

/**
 * A request carried a token smaller than one that was already seen: it was sent
 * by an earlier leader.
 *
 * @category errors
 * @since 0.2.0
 */
export class FenceStale extends Schema.Error<FenceStale>("effect-kubernetes-leader-election/FenceError/FenceStale")({
  _tag: Schema.tag("FenceStale"),
  name: Schema.String,
  stored: Schema.BigInt,
  token: Schema.BigInt
}) {
  override get message(): string {
    return `the fencing token ${this.token} for "${this.name}" is not the newest: ${this.stored} was seen`
  }
}

/**
 * Everything a {@link FenceError} can be about.
 *
 * @category errors
 * @since 0.2.0
 */
export const FenceErrorReason = Schema.Union([
  FenceInvalid,
  FenceNested,
  FenceBlocked,
  FenceAhead,
  FenceChanged,
  FenceStale
])

/**
 * Everything a {@link FenceError} can be about.
 *
 * @category errors
 * @since 0.2.0
 */
export type FenceErrorReason = typeof FenceErrorReason.Type

/**
 * The one error of this module. A lost leadership is not among its reasons: that
 * arrives as `LeaderElectionError`, as everywhere.
 *
 * @category errors
 * @since 0.2.0
 */
export class FenceError extends Schema.Error<FenceError>("effect-kubernetes-leader-election/FenceError")({
  _tag: Schema.tag("FenceError"),
  reason: FenceErrorReason
}) {
  override get message(): string {
    return this.reason.message
  }
}

/**
 * A name and a token that arrived from elsewhere; see `accept`.
 *
 * @category models
 * @since 0.2.0
 */
export interface Claim {
  /** What the token is for: `namespace/name` of the Lease. */
  readonly name: string
  readonly token: bigint
}

/**
 * Fenced transactions on one table.
 *
 * @category services
 * @since 0.2.0
 */
export class Fence extends Context.Service<Fence, {
  /** Runs an effect in a fenced transaction; see the module's {@link transaction}. */
  readonly transaction: <A, E, R>(
    effect: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E | FenceError | LeaderElectionError | SqlError, R | Leadership>

  /** The first act of a term, by itself; see the module's {@link raise}. */
  readonly raise: Effect.Effect<void, FenceError | LeaderElectionError | SqlError, Leadership>

  /**
   * For a receiver of tokens: runs an effect in a transaction that commits only
   * while no greater token was seen for this name. A greater one than was seen
   * is remembered first. Fails with `FenceStale`; with `FenceInvalid` where the
   * token is none (1 to 2^63 - 1).
   */
  readonly accept: <A, E, R>(
    claim: Claim,
    effect: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E | FenceError | SqlError, R>
}>()("effect-kubernetes-leader-election/Fence") {}

/**
 * What a fence can be given.
 *
 * @category models
 * @since 0.2.0
 */
export interface Options {
  /** The table, with its schema where it needs one (`app.leader_fences`). */
  readonly table: string
  /**
   * How long the first act of a term waits for a session that keeps its row
   * locked; 10 seconds by default. It has to be longer than the transactions of
   * a leader take. MariaDB counts in whole seconds, one at least.
   */
  readonly limit?: DurationInput | undefined
}

/**
 * The statement that makes the table; it does nothing where there is one.
 * Throws a {@link FenceError} with `FenceInvalid` where the name cannot be that
 * of a table, or the dialect is another.
 *
 * **Example** (Creating the table in a migration)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { SqlClient } from "effect/sql"
 * import { Fence } from "effect-kubernetes-leader-election"
 *
 * export const migration = Effect.gen(function*() {
 *   const sql = yield* SqlClient.SqlClient
 *   yield* sql.unsafe(Fence.createTable("leader_fences", "pg"))
 * })
 * ```
 *
 * @category constructors
 * @since 0.2.0
 */
export const createTable = (table: string, dialect: "pg" | "mysql" | "sqlite"): string => {
  const problem = Dialect.tableProblem(table) ?? Dialect.dialectProblem(dialect)
  if (problem !== undefined) {
    throw new FenceError({ reason: new FenceInvalid({ problem }) })
  }
  return Dialect.createTable(table, dialect)
}

/** What was found in the row when it was to be raised. */
interface Raised {
  /** The greater token that stands there; `undefined` where the row shows ours now. */
  readonly ahead: bigint | undefined
}

/**
 * Makes a fence on the table, with the `SqlClient` in whose transactions it is
 * to be. Building it makes no request. Fails with `FenceInvalid`.
 *
 * @category constructors
 * @since 0.2.0
 */
export const make = Effect.fnUntraced(
  // oxlint-disable-next-line max-lines-per-function -- one fence: its functions share its table
  function*(options: Options): Effect.fn.Return<Fence["Service"], FenceError, SqlClient.SqlClient> {
    const sql = yield* SqlClient.SqlClient
    const { table } = options
    const problem = Dialect.tableProblem(table)
    if (problem !== undefined) {
      return yield* invalid(problem)
    }
    const given = options.limit ?? "10 seconds"
    const limit = DurationText.read(given)
    const limitMillis = limit === undefined ? 0 : Math.round(Duration.toMillis(limit))
    if (limit === undefined || limitMillis < 1 || limitMillis > 3_600_000) {
      return yield* invalid(`limit: ${DurationText.show(given)} cannot be waited for: give 1 millisecond to 1 hour`)
    }
    const dialect = Dialect.make(sql, table)
    if (dialect === undefined) {
      return yield* invalid(
        `the fence was not tested with this database (driver ${sql.driver}): use PostgreSQL, MariaDB or SQLite`
      )
    }

    /** The tokens that this process has raised rows to, so that only the first act of a term does it. */
    const known = new Map<string, { readonly permit: Semaphore.Semaphore; token: bigint | undefined }>()
    const entryOf = (name: string) => {
      const found = known.get(name)
      if (found !== undefined) {
        return found
      }
      const made = { permit: Semaphore.makeUnsafe(1), token: undefined }
      known.set(name, made)
      return made
    }

    const begin = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
      Effect.flatMap(
        SqlClient.BeginTransaction,
        (outer) => {
          let own: Cause.Cause<E> | undefined
          const noted = Effect.tapCause(effect, (cause) => Effect.sync(() => (own = cause)))
          return sql.withTransaction(Effect.provideService(noted, SqlClient.BeginTransaction, outer)).pipe(
            Effect.provideService(SqlClient.BeginTransaction, dialect.begin ?? outer),
            // A server that ends the session of a stopped process leaves nothing to roll back, and `withTransaction` dies
            // of the attempt: here that is to be expected. What the effect itself died of stays a defect.
            Effect.catchDefect((defect) =>
              isSqlError(defect) && !diedOf(own, defect) ? Effect.fail(defect) : Effect.die(defect)
            )
          )
        }
      )

    const raiseInTransaction = (claim: Claim, onSession: (session: string | undefined) => void) =>
      begin(Effect.gen(function*() {
        onSession(yield* dialect.limitWaiting(limitMillis))
        let rows = yield* dialect.lockExclusively(claim.name, limitMillis)
        if (rows.length === 0) {
          yield* dialect.insertIfAbsent(claim.name)
          rows = yield* dialect.lockExclusively(claim.name, limitMillis)
        }
        const stored = tokenOf(rows) ?? 0n
        if (stored > claim.token) {
          return { ahead: stored }
        }
        if (stored < claim.token) {
          yield* dialect.update(claim.name, claim.token)
        }
        return { ahead: undefined }
      }))

    /** As {@link raiseInTransaction}, but an error that is due to a lock names the sessions that keep it. */
    const raiseWithin = (claim: Claim): Effect.Effect<Raised, FenceError | SqlError> => {
      let session: string | undefined
      let sessions: ReadonlyArray<string> = []
      const attempt = raiseInTransaction(claim, (own) => (session = own))
      const raised = dialect.polls
        ? Effect.retry(attempt, {
          while: isLockTimeout,
          schedule: Schedule.upTo(Schedule.spaced("20 millis"), { duration: limit })
        })
        // Two first acts of all on one row may meet.
        : Effect.retry(attempt, { while: (error) => error.reason._tag === "DeadlockError", times: 5 })
      // Asked while the session still waits: afterwards nothing shows for what it did. On another connection; where
      // the pool has none, the answer is missing, and the raise goes on.
      const look = Effect.sleep(Duration.times(limit, 0.8)).pipe(
        Effect.andThen(Effect.suspend(() => session === undefined ? Effect.succeed([]) : dialect.blockers(session))),
        Effect.map((found) => {
          sessions = found
        }),
        // What a user without rights may not see is missing too.
        Effect.ignore,
        Effect.andThen(Effect.never)
      )
      return Effect.raceFirst(raised, look).pipe(
        Effect.catchIf(isLockTimeout, () =>
          fail(
            new FenceBlocked({
              table,
              name: claim.name,
              limit: DurationText.format(limit),
              sessions,
              remedy: dialect.remedy
            })
          ))
      )
    }

    /** Raises the row unless this process has done it. */
    const raiseOnce = (claim: Claim): Effect.Effect<Raised, FenceError | SqlError> =>
      Effect.suspend(() => {
        const problem = tokenProblem(claim.token)
        if (problem !== undefined) {
          return invalid(problem)
        }
        const entry = entryOf(claim.name)
        if (entry.token === claim.token) {
          return Effect.succeed({ ahead: undefined })
        }
        return entry.permit.withPermit(Effect.suspend(() =>
          entry.token === claim.token
            ? Effect.succeed({ ahead: undefined })
            : Effect.tap(raiseWithin(claim), ({ ahead }) =>
              Effect.sync(() => {
                if (ahead === undefined) {
                  entry.token = claim.token
                }
              }))
        ))
      })

    /** Runs the effect with the row locked; fails with {@link Other} where it shows another token. */
    const fenced = <A, E, R>(claim: Claim, effect: Effect.Effect<A, E, R>) =>
      begin(Effect.flatMap(dialect.lockShared(claim.name), (rows): Effect.Effect<A, E | Other, R> => {
        const stored = tokenOf(rows) ?? 0n
        if (stored === claim.token) {
          return effect
        }
        // Removed or reset, or the database lost commits: it has to be raised again.
        if (stored < claim.token) {
          entryOf(claim.name).token = undefined
        }
        return Effect.fail(new Other(stored))
      }))

    const outermost: Effect.Effect<void, FenceError> = Effect.flatMap(
      Effect.serviceOption(sql.transactionService),
      (outer) => Option.isSome(outer) ? fail(new FenceNested({})) : Effect.void
    )

    const raiseTerm = Effect.fnUntraced(function*(leadership: Leadership["Service"]) {
      const claim = { name: formatKey(leadership.lease), token: leadership.fencingToken }
      yield* leadership.ensure
      const { ahead } = yield* raiseOnce(claim)
      if (ahead !== undefined) {
        // Either a successor was here, then this says so; or tokens began again below.
        yield* stillLeads(leadership)
        return yield* fail(new FenceAhead({ table, name: claim.name, stored: ahead, own: claim.token }))
      }
      return claim
    })

    const changed = (claim: Claim, stored: bigint) =>
      new FenceError({ reason: new FenceChanged({ table, name: claim.name, stored, own: claim.token }) })

    return Fence.of({
      raise: Effect.andThen(outermost, Effect.asVoid(Leadership.use(raiseTerm))),
      transaction: (effect) =>
        Effect.gen(function*() {
          yield* outermost
          const leadership = yield* Leadership
          const attempt = Effect.gen(function*() {
            const claim = yield* raiseTerm(leadership)
            // Raising may have taken its time.
            yield* leadership.ensure
            return yield* fenced(claim, effect)
          })
          const claim = { name: formatKey(leadership.lease), token: leadership.fencingToken }
          return yield* attempt.pipe(
            Effect.catchIf(isOther, ({ stored }) =>
              Effect.andThen(
                stillLeads(leadership),
                stored < claim.token ? attempt : Effect.fail(changed(claim, stored))
              )),
            Effect.catchIf(isOther, ({ stored }) => Effect.fail(changed(claim, stored)))
          )
        }),
      accept: (claim, effect) => {
        const attempt = Effect.gen(function*() {
          yield* outermost
          const { ahead } = yield* raiseOnce(claim)
          return ahead === undefined ? yield* fenced(claim, effect) : yield* Effect.fail(new Other(ahead))
        })
        return attempt.pipe(
          Effect.catchIf(isOther, (other) => other.stored < claim.token ? attempt : Effect.fail(other)),
          Effect.catchIf(isOther, ({ stored }) =>
            Effect.fail(
              stored < claim.token
                ? changed(claim, stored)
                : new FenceError({ reason: new FenceStale({ name: claim.name, stored, token: claim.token }) })
            ))
        )
      }
    })
  }
)

/**
 * A fence on the given table.
 *
 * **Example** (Writing as the leader, and only as the leader)
 *
 * ```ts
 * import { Effect, Layer } from "effect"
 * import { SqlClient } from "effect/sql"
 * import { Fence, LeaderElection } from "effect-kubernetes-leader-election"
 *
 * const closeMonth = Effect.gen(function*() {
 *   const sql = yield* SqlClient.SqlClient
 *   yield* Fence.transaction(sql`UPDATE months SET closed = true WHERE month = '2026-10'`)
 * })
 *
 * export const program = LeaderElection.whileLeading(closeMonth).pipe(
 *   Effect.provide(Fence.layer({ table: "leader_fences" }))
 * )
 * ```
 *
 * @category layers
 * @since 0.2.0
 */
export const layer = (options: Options): Layer.Layer<Fence, FenceError, SqlClient.SqlClient> =>
  Layer.effect(Fence, make(options))

/**
 * Runs an effect in a transaction that commits only in the term of this
 * `Leadership`.
 *
 * **Expected flow**
 *
 * 1. `ensure` is asked.
 * 2. The first act of a term raises the row of its Lease to the term's token, in
 *    a transaction of its own. It waits for the transactions of earlier leaders
 *    that are still open.
 * 3. A transaction is opened, and its first statement locks the row, shared: the
 *    transactions of one leader run side by side. Where the row shows another
 *    token than that of this very term, the leadership is confirmed: the term of
 *    a leader that was replaced ends, and this fails with `LeadershipLost`.
 * 4. The effect runs, and the transaction commits.
 *
 * **Guarantees**
 *
 * - Each transaction of an earlier leader is committed before the first act of
 *   its successor, or never. However long a process was stopped, and wherever.
 *
 * **Caveats**
 *
 * - Only what is written through this client, inside the effect, is fenced. A
 *   request to another system made from inside it is not; see `FenceHttp`.
 * - What the leader reads outside a fenced transaction may change until an
 *   earlier leader's last transaction has ended: call {@link raise} first.
 * - A transaction of SQLite has the whole database to itself.
 * - MariaDB's transactions are at the isolation level of the client's session.
 *
 * **Errors**
 *
 * - those of the effect, and `SqlError`;
 * - `LeaderElectionError` with `LeadershipLost`: another leader has begun;
 * - `FenceError` with `FenceNested`, `FenceBlocked`, `FenceAhead` or
 *   `FenceChanged`: need a person.
 *
 * @category running
 * @since 0.2.0
 */
export const transaction = <A, E, R>(
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E | FenceError | LeaderElectionError | SqlError, R | Fence | Leadership> =>
  Fence.use((fence) => fence.transaction(effect))

/**
 * Raises the row to the token of this term, which {@link transaction} does by
 * itself before the first one. When it has succeeded, no transaction of an
 * earlier leader can commit any more: call it at the start of a program that
 * reads before it writes.
 *
 * @category running
 * @since 0.2.0
 */
export const raise: Effect.Effect<void, FenceError | LeaderElectionError | SqlError, Fence | Leadership> = Fence.use(
  (fence) => fence.raise
)

const fail = (reason: FenceErrorReason) => Effect.fail(new FenceError({ reason }))

const invalid = (problem: string) => fail(new FenceInvalid({ problem }))

/** The row showed another token when the transaction was to begin. */
class Other {
  readonly stored: bigint
  constructor(stored: bigint) {
    this.stored = stored
  }
}

const isOther = (error: unknown): error is Other => error instanceof Other

/**
 * Succeeds only where the term goes on; where a successor has begun, the election learns of it, and the term is lost.
 * Asked again until there is an answer: without one the term ends at its deadline.
 */
const stillLeads = (leadership: Leadership["Service"]): Effect.Effect<void, LeaderElectionError> =>
  Effect.retry(leadership.confirm, {
    while: (error) => error.reason._tag === "RenewalFailed",
    schedule: Schedule.spaced("1 second")
  })

const diedOf = (cause: Cause.Cause<unknown> | undefined, defect: unknown): boolean =>
  cause !== undefined && cause.reasons.some((reason) => Cause.isDieReason(reason) && reason.defect === defect)

// What 64 bits with a sign hold. Each row begins with 0, which is no token.
const tokenProblem = (token: unknown): string | undefined =>
  typeof token === "bigint" && token >= 1n && token <= 9_223_372_036_854_775_807n
    ? undefined
    : `token: ${String(token)} cannot be a fencing token: give a bigint of 1 to 9223372036854775807`

const tokenOf = (rows: ReadonlyArray<Dialect.TokenRow>): bigint | undefined =>
  rows[0] === undefined ? undefined : BigInt(rows[0].token)

const isLockTimeout = (error: SqlError): boolean => error.reason._tag === "LockTimeoutError"
