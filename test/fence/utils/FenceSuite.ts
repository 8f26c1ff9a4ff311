/**
 * What a fence does, for each database.
 */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, type Layer } from "effect"
import { Fence, LeaderElectionError } from "effect-kubernetes-leader-election"
import { SqlClient } from "effect/sql"
import { inTerm, lost, term } from "./terms.ts"

export interface Database {
  readonly dialect: "pg" | "mysql" | "sqlite"
  /** A client with connections of its own: what a process has. */
  readonly client: Layer.Layer<SqlClient.SqlClient>
  /** Whether transactions of one leader run side by side. */
  readonly sideBySide: boolean
  /** What an error says of a session that keeps the row, besides the names. */
  readonly blocker: RegExp
}

const table = "leader_fences"

const failure = <A, E>(exit: Exit.Exit<A, E>): E | undefined =>
  Exit.isFailure(exit)
    ? Cause.findErrorOption(exit.cause).pipe((found) => found._tag === "Some" ? found.value : undefined)
    : undefined

const isLoss = (error: unknown) =>
  error instanceof LeaderElectionError.LeaderElectionError && error.reason._tag === "LeadershipLost"

const reasonOf = (error: unknown) => error instanceof Fence.FenceError ? error.reason : undefined

export const suite = (title: string, database: Database): void => {
  /** Runs as one process does: with its own connections and its own memory of what it raised. */
  const process = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    effect.pipe(
      Effect.provide(Fence.layer({ table, limit: "1 second" })),
      Effect.provide(database.client, { local: true })
    )

  /** An empty table for fences and one for writes, and the name of a Lease that no other test has. */
  let used = 0
  const prepared = Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    yield* sql.unsafe(Fence.createTable(table, database.dialect))
    yield* sql.unsafe("CREATE TABLE IF NOT EXISTS writes (name varchar(100) NOT NULL, token varchar(20) NOT NULL)")
    return `lease-${used++}`
  }).pipe(Effect.provide(database.client, { local: true }))

  const write = (name: string, token: bigint) =>
    SqlClient.SqlClient.use((sql) => sql`INSERT INTO writes (name, token) VALUES (${name}, ${String(token)})`)

  const written = (name: string) =>
    SqlClient.SqlClient.use((sql) =>
      Effect.map(
        sql<{ token: string }>`SELECT token FROM writes WHERE name = ${name}`,
        (rows) => rows.map((row) => BigInt(row.token))
      )
    )

  describe(title, () => {
    it.live("writes of a term are let in, and those of an earlier one refused from the later one's first act", () =>
      Effect.gen(function*() {
        const name = yield* prepared
        yield* process(Effect.gen(function*() {
          const first = inTerm(term(7n, { name, isReplaced: () => true }))
          yield* first(Fence.transaction(write(name, 7n)))
          yield* first(Fence.transaction(write(name, 7n)))
          yield* process(inTerm(term(9n, { name }))(Fence.transaction(write(name, 9n))))
          const refused = yield* Effect.exit(first(Fence.transaction(write(name, 7n))))
          assert.isTrue(isLoss(failure(refused)), String(refused))
          assert.deepStrictEqual(yield* written(name), [7n, 7n, 9n])
        }))
      }))

    it.live("the first act alone shuts out the earlier term", () =>
      Effect.gen(function*() {
        const name = yield* prepared
        yield* process(Effect.gen(function*() {
          const first = inTerm(term(7n, { name, isReplaced: () => true }))
          yield* first(Fence.transaction(write(name, 7n)))
          yield* process(inTerm(term(9n, { name }))(Fence.raise))
          const refused = yield* Effect.exit(first(Fence.transaction(write(name, 7n))))
          assert.isTrue(isLoss(failure(refused)), String(refused))
        }))
      }))

    it.live("tokens that a double cannot tell apart are told apart", () =>
      Effect.gen(function*() {
        const name = yield* prepared
        const small = 2n ** 53n
        yield* process(Effect.gen(function*() {
          const first = inTerm(term(small, { name, isReplaced: () => true }))
          yield* first(Fence.transaction(write(name, small)))
          yield* process(inTerm(term(small + 1n, { name }))(Fence.transaction(write(name, small + 1n))))
          const refused = yield* Effect.exit(first(Fence.transaction(write(name, small))))
          assert.isTrue(isLoss(failure(refused)), String(refused))
          const largest = 2n ** 63n - 1n
          yield* process(inTerm(term(largest, { name }))(Fence.transaction(write(name, largest))))
          const behind = yield* Effect.exit(process(inTerm(term(largest - 1n, { name }))(Fence.raise)))
          const reason = reasonOf(failure(behind))
          assert.deepInclude(reason, { _tag: "FenceAhead", stored: largest, own: largest - 1n })
          assert.deepStrictEqual(yield* written(name), [small, small + 1n, largest])
        }))
      }))

    it.live("a greater token than that of a confirmed leader is reported with the statement that resets it", () =>
      Effect.gen(function*() {
        const name = yield* prepared
        yield* process(inTerm(term(900n, { name }))(Fence.raise))
        yield* process(Effect.gen(function*() {
          const restored = inTerm(term(12n, { name }))
          const refused = yield* Effect.exit(restored(Fence.transaction(write(name, 12n))))
          const reason = reasonOf(failure(refused))
          assert.deepInclude(reason, { _tag: "FenceAhead", table, name: `default/${name}`, stored: 900n, own: 12n })
          const statement = /Reset the row with: (.*?)\. That is safe once/.exec(reason!.message)![1]!
          const sql = yield* SqlClient.SqlClient
          yield* sql.unsafe(statement)
          yield* restored(Fence.transaction(write(name, 12n)))
          assert.deepStrictEqual(yield* written(name), [12n])
        }))
      }))

    it.live("a greater token where the leadership cannot be confirmed is a loss", () =>
      Effect.gen(function*() {
        const name = yield* prepared
        yield* process(inTerm(term(900n, { name }))(Fence.raise))
        const leadership = { ...term(12n, { name }), confirm: Effect.fail(lost("LeaseTaken")) }
        const refused = yield* Effect.exit(process(inTerm(leadership)(Fence.raise)))
        assert.isTrue(isLoss(failure(refused)), String(refused))
      }))

    it.live("a leader that is not valid begins no transaction", () =>
      Effect.gen(function*() {
        const name = yield* prepared
        yield* process(Effect.gen(function*() {
          const over = inTerm(term(7n, { name, isValid: () => false }))
          const refused = yield* Effect.exit(over(Fence.transaction(write(name, 7n))))
          assert.isTrue(isLoss(failure(refused)), String(refused))
          const sql = yield* SqlClient.SqlClient
          const rows = yield* sql`SELECT name FROM ${sql(table)} WHERE name = ${`default/${name}`}`
          assert.strictEqual(rows.length, 0)
        }))
      }))

    it.live("a row that somebody removed or reset during a term is raised again by the leader, and by nobody before it", () =>
      Effect.gen(function*() {
        const name = yield* prepared
        yield* process(Effect.gen(function*() {
          const sql = yield* SqlClient.SqlClient
          const fence = yield* Fence.Fence
          const earlier = inTerm(term(7n, { name, isReplaced: () => true }))(fence.transaction(write(name, 7n)))
          yield* earlier
          yield* process(Effect.gen(function*() {
            const leading = inTerm(term(9n, { name }))(Fence.transaction(write(name, 9n)))
            yield* leading
            yield* sql`UPDATE ${sql(table)} SET token = 0 WHERE name = ${`default/${name}`}`
            assert.isTrue(isLoss(failure(yield* Effect.exit(earlier))))
            yield* leading
            yield* sql`DELETE FROM ${sql(table)} WHERE name = ${`default/${name}`}`
            yield* leading
          }))
          assert.isTrue(isLoss(failure(yield* Effect.exit(earlier))))
          assert.deepStrictEqual(yield* written(name), [7n, 9n, 9n, 9n])
        }))
      }))

    it.live("a row that somebody raised during a term is reported with the statement that sets it back", () =>
      Effect.gen(function*() {
        const name = yield* prepared
        yield* process(Effect.gen(function*() {
          const sql = yield* SqlClient.SqlClient
          const leading = inTerm(term(7n, { name }))
          yield* leading(Fence.transaction(write(name, 7n)))
          yield* sql`UPDATE ${sql(table)} SET token = 99 WHERE name = ${`default/${name}`}`
          const reason = reasonOf(failure(yield* Effect.exit(leading(Fence.transaction(write(name, 7n))))))
          assert.deepInclude(reason, { _tag: "FenceChanged", table, name: `default/${name}`, stored: 99n, own: 7n })
          yield* sql.unsafe(/Set the row back with: (.*)$/.exec(reason!.message)![1]!)
          yield* leading(Fence.transaction(write(name, 7n)))
          assert.deepStrictEqual(yield* written(name), [7n, 7n])
        }))
      }))

    it.live("inside another transaction it fails", () =>
      Effect.gen(function*() {
        const name = yield* prepared
        yield* process(Effect.gen(function*() {
          const sql = yield* SqlClient.SqlClient
          const leading = inTerm(term(7n, { name }))
          for (const fenced of [Fence.transaction(write(name, 7n)), Fence.raise]) {
            const outside = yield* Effect.exit(sql.withTransaction(leading(fenced)))
            assert.strictEqual(reasonOf(failure(outside))?._tag, "FenceNested")
          }
          const twice = yield* Effect.exit(leading(Fence.transaction(Fence.transaction(write(name, 7n)))))
          assert.strictEqual(reasonOf(failure(twice))?._tag, "FenceNested")
          // A savepoint inside is the program's own affair.
          yield* leading(Fence.transaction(sql.withTransaction(write(name, 7n))))
          assert.deepStrictEqual(yield* written(name), [7n])
        }))
      }))

    it.live("an effect that fails is rolled back, and its error is passed on", () =>
      Effect.gen(function*() {
        const name = yield* prepared
        yield* process(Effect.gen(function*() {
          const failing = Effect.andThen(write(name, 7n), Effect.fail("no more paper" as const))
          const exit = yield* Effect.exit(inTerm(term(7n, { name }))(Fence.transaction(failing)))
          assert.strictEqual(failure(exit), "no more paper")
          assert.deepStrictEqual(yield* written(name), [])
        }))
      }))

    it.live("what an effect dies of is a defect, an SqlError too", () =>
      Effect.gen(function*() {
        const name = yield* prepared
        yield* process(Effect.gen(function*() {
          const sql = yield* SqlClient.SqlClient
          const dying = Effect.orDie(sql`SELECT * FROM there_is_no_such_table`)
          const exit = yield* Effect.exit(inTerm(term(7n, { name }))(Fence.transaction(dying)))
          assert.isTrue(Exit.hasDies(exit))
          assert.isUndefined(failure(exit))
        }))
      }))

    it.live("many first acts at the same time, of two processes, on a row that is not there", () =>
      Effect.gen(function*() {
        const name = yield* prepared
        const five = Effect.all(
          Array.from({ length: 5 }, () => Fence.transaction(write(name, 7n))),
          { concurrency: "unbounded", discard: true }
        )
        const processes = Array.from({ length: 2 }, () => process(inTerm(term(7n, { name }))(five)))
        yield* Effect.all(processes, { concurrency: "unbounded" })
        assert.strictEqual((yield* process(written(name))).length, 10)
      }))

    it.live("a successor's first act waits for a transaction that is still open", () =>
      Effect.gen(function*() {
        const name = yield* prepared
        const inside = yield* Deferred.make<void>()
        const go = yield* Deferred.make<void>()
        const events: Array<string> = []
        const slow = write(name, 7n).pipe(
          Effect.andThen(Deferred.succeed(inside, undefined)),
          Effect.andThen(Deferred.await(go)),
          Effect.andThen(Effect.sync(() => events.push("earlier")))
        )
        const earlier = yield* Effect.forkChild(process(inTerm(term(7n, { name }))(Fence.transaction(slow))))
        yield* Deferred.await(inside)
        const later = yield* Effect.forkChild(
          process(inTerm(term(9n, { name }))(Effect.andThen(Fence.raise, Effect.sync(() => events.push("later")))))
        )
        // Long enough that it would have passed if nothing held it.
        yield* Effect.sleep("200 millis")
        yield* Deferred.succeed(go, undefined)
        yield* Fiber.join(earlier)
        yield* Fiber.join(later)
        assert.deepStrictEqual(events, ["earlier", "later"])
      }))

    it.live("a session that keeps the row is named, with what to set; when it is gone the raise succeeds", () =>
      Effect.gen(function*() {
        const name = yield* prepared
        const inside = yield* Deferred.make<void>()
        const stopped = Effect.andThen(Deferred.succeed(inside, undefined), Effect.never)
        const holder = yield* Effect.forkChild(process(inTerm(term(7n, { name }))(Fence.transaction(stopped))))
        yield* Deferred.await(inside)
        yield* process(Effect.gen(function*() {
          const later = inTerm(term(9n, { name }))
          const blocked = yield* Effect.exit(later(Fence.transaction(write(name, 9n))))
          const reason = reasonOf(failure(blocked))
          assert.deepInclude(reason, { _tag: "FenceBlocked", table, name: `default/${name}`, limit: "1s" })
          assert.match(reason!.message, database.blocker)
          yield* Fiber.interrupt(holder)
          yield* later(Fence.transaction(write(name, 9n)))
          assert.deepStrictEqual(yield* written(name), [9n])
        }))
      }))

    if (database.sideBySide) {
      it.live("the transactions of one leader run side by side", () =>
        Effect.gen(function*() {
          const name = yield* prepared
          const arrived = [yield* Deferred.make<void>(), yield* Deferred.make<void>()] as const
          const meet = (mine: 0 | 1) =>
            Effect.andThen(Deferred.succeed(arrived[mine], undefined), Deferred.await(arrived[mine === 0 ? 1 : 0]))
          yield* process(
            inTerm(term(7n, { name }))(
              Effect.all([Fence.transaction(meet(0)), Fence.transaction(meet(1))], { concurrency: 2 })
            )
          ).pipe(Effect.timeout("10 seconds"))
        }))
    }

    it.live("an interrupted transaction is rolled back and its lock is free", () =>
      Effect.gen(function*() {
        const name = yield* prepared
        const inside = yield* Deferred.make<void>()
        yield* process(Effect.gen(function*() {
          const endless = Effect.andThen(
            write(name, 7n),
            Effect.andThen(Deferred.succeed(inside, undefined), Effect.never)
          )
          const fiber = yield* Effect.forkChild(inTerm(term(7n, { name }))(Fence.transaction(endless)))
          yield* Deferred.await(inside)
          yield* Fiber.interrupt(fiber)
          yield* inTerm(term(9n, { name }))(Fence.transaction(write(name, 9n)))
          assert.deepStrictEqual(yield* written(name), [9n])
        }))
      }))

    it.live("a receiver whose row went down lets the newest token in again, and shuts out the smaller ones", () =>
      Effect.gen(function*() {
        const name = yield* prepared
        yield* process(Effect.gen(function*() {
          const sql = yield* SqlClient.SqlClient
          const fence = yield* Fence.Fence
          const accept = (token: bigint) => fence.accept({ name, token }, write(name, token))
          yield* accept(50n)
          yield* sql`UPDATE ${sql(table)} SET token = 0 WHERE name = ${name}`
          yield* accept(50n)
          yield* sql`DELETE FROM ${sql(table)} WHERE name = ${name}`
          yield* accept(50n)
          const refused = yield* Effect.exit(accept(49n))
          assert.deepInclude(reasonOf(failure(refused)), { _tag: "FenceStale", stored: 50n, token: 49n })
          assert.deepStrictEqual(yield* written(name), [50n, 50n, 50n])
        }))
      }))

    it.live("what is not a token is refused before it is stored", () =>
      Effect.gen(function*() {
        const name = yield* prepared
        yield* process(Effect.gen(function*() {
          const sql = yield* SqlClient.SqlClient
          const fence = yield* Fence.Fence
          for (const token of [0n, -1n, 2n ** 63n, 2n ** 64n]) {
            const accepted = failure(yield* Effect.exit(fence.accept({ name, token }, write(name, token))))
            assert.include(String(accepted), `token: ${token} cannot be a fencing token: give a bigint of 1 to`)
            const led = failure(
              yield* Effect.exit(inTerm(term(token, { name }))(Fence.transaction(write(name, token))))
            )
            assert.strictEqual(reasonOf(led)?._tag, "FenceInvalid")
          }
          assert.deepStrictEqual(yield* sql`SELECT name FROM ${sql(table)} WHERE name = ${name}`, [])
          yield* fence.accept({ name, token: 2n ** 63n - 1n }, write(name, 1n))
        }))
      }))

    it.live("a receiver lets the newest token in, remembers a greater one, and refuses a smaller one", () =>
      Effect.gen(function*() {
        const name = yield* prepared
        yield* process(Effect.gen(function*() {
          const fence = yield* Fence.Fence
          yield* fence.accept({ name, token: 7n }, write(name, 7n))
          yield* process(Fence.Fence.use((other) => other.accept({ name, token: 9n }, write(name, 9n))))
          const refused = yield* Effect.exit(fence.accept({ name, token: 7n }, write(name, 7n)))
          assert.deepInclude(reasonOf(failure(refused)), { _tag: "FenceStale", stored: 9n, token: 7n })
          const late = yield* Effect.exit(process(
            Fence.Fence.use((other) => other.accept({ name, token: 8n }, write(name, 8n)))
          ))
          assert.deepInclude(reasonOf(failure(late)), { _tag: "FenceStale", stored: 9n, token: 8n })
          assert.deepStrictEqual(yield* written(name), [7n, 9n])
        }))
      }))
  })
}
