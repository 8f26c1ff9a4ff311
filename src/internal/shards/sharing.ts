/**
 * What a replica does for its part of the shards: it follows the members and the
 * list, campaigns, and gives.
 *
 * @internal
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberMap from "effect/FiberMap"
import * as Latch from "effect/Latch"
import * as Metric from "effect/Metric"
import * as References from "effect/References"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import type { Settings } from "../../LeaderElectionConfig.ts"
import { InvalidSettings, LeaderElectionError } from "../../LeaderElectionError.ts"
import * as LeaderElections from "../../LeaderElections.ts"
import type { Options, Status } from "../../LeaderShards.ts"
import * as Metrics from "../../LeaderShardsMetrics.ts"
import type { Leadership } from "../../Leadership.ts"
import type { LeaseError } from "../../LeaseError.ts"
import type { LeaseRecord, LeaseWrite } from "../../LeaseRecord.ts"
import { LeaseStore } from "../../LeaseStore.ts"
import { monotonic } from "../election/clock.ts"
import { Deference } from "../election/deference.ts"
import * as Log from "../log.ts"
import * as Rule from "../protocol/shards.ts"
import * as Attempts from "./attempts.ts"
import { Giving } from "./giving.ts"
import { Group, labels as ofLeases, listDigest, shardLease } from "./group.ts"
import * as Member from "./member.ts"
import { watchGroup } from "./watchGroup.ts"

/** What can be the name of a group, and a part of that of a Lease. */
export const validName = /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/

/** Settings that cannot be. */
export const invalid = (message: string) =>
  new LeaderElectionError({ reason: new InvalidSettings({ problems: [message] }) })

const nanos = Duration.toNanosUnsafe

/** One run of a replica's part. */
export interface Sharing {
  readonly run: <E, R>(
    options: Options<E, R>
  ) => Effect.Effect<never, LeaderElectionError, Exclude<R, Leadership | Scope.Scope> | Scope.Scope>
  readonly isReady: (now: bigint) => boolean
  /** Whether nothing is held any more, nor being released. */
  readonly isIdle: () => boolean
  readonly leave: Effect.Effect<void>
}

/** Makes a run: a member, and its part of the shards. */
// oxlint-disable-next-line max-lines-per-function -- one set of shards: its functions share the members
export const share = Effect.fnUntraced(function*(
  base: LeaseStore["Service"],
  settings: Settings,
  generation: string,
  { drained, statuses }: { readonly drained: boolean; readonly statuses: SubscriptionRef.SubscriptionRef<Status> }
) {
  const { identity, name: groupName, namespace } = settings
  const leaseDuration = nanos(settings.leaseDuration)
  const retryPeriod = nanos(settings.retryPeriod)
  const group = new Group({ group: groupName, identity, leaseDuration })
  /** What this member says of itself it knows without its watch. */
  const known = <M extends Rule.Member>(member: M): M =>
    member.identity === identity && membership.isLeaving() ? { ...member, leaving: true } : member
  // Every look of every election asks for it.
  const self = (): Rule.Member =>
    known(
      seen.find((member) => member.identity === identity) ??
        { identity, generation, joined: 0n, leaving: false, list: listDigest(list) }
    )
  const attributes = { group: `${namespace}/${groupName}` }

  // --- What is known ---

  let list: ReadonlySet<string> = new Set()
  const listed = Latch.makeUnsafe(false)
  let seen = group.members(0n)
  /** When the others can have seen this member first. */
  let joinedAt: bigint | undefined
  // Where servers are slow at a start, one that does not see itself as a member yet would come to the turn of anybody, and
  // take everything.
  let unknownUntil: bigint | undefined
  const giving = new Giving({ leaseDuration, retryPeriod })
  /** Whose programs are being ended. */
  const ending = new Set<string>()
  const running = new Set<string>()
  /** Whose Leases another group has, and that was said. */
  const warnedOf = new Set<string>()
  /** Whose Leases the API server refused. */
  const refused = new Set<string>()
  const campaigns = yield* FiberMap.make<string>()
  const changed = Latch.makeUnsafe(false)
  const touch = () => changed.openUnsafe()
  // Hundreds of elections look at it in a moment, on the loop that must also renew. No event says when a Lease runs out, so
  // it is kept no longer than until the next look.
  const makePlan = (claims: "claims" | "none") => {
    let planned: { readonly plan: Rule.Plan; readonly at: bigint; readonly revision: number } | undefined
    return {
      at: (now: bigint): Rule.Plan => {
        if (planned?.revision !== group.revision || now - planned.at >= retryPeriod / 8n) {
          const { members, shards } = group.view(list, now, claims)
          planned = { plan: Rule.plan({ members: members.map(known), shards }), at: now, revision: group.revision }
        }
        return planned.plan
      },
      forget: () => {
        planned = undefined
      }
    }
  }
  /** What to take follows from what is about to be taken as well. */
  const taken = makePlan("claims")
  /** What to give, from what the Leases show alone: a take may be refused again and again. */
  const shown = makePlan("none")
  const planAnew = () => {
    taken.forget()
    shown.forget()
    touch()
  }
  const setList = (next: ReadonlySet<string>) => {
    list = next
    for (const names of [refused, warnedOf]) {
      names.forEach((name) => next.has(name) || names.delete(name))
    }
    planAnew()
  }
  const membership = yield* Member.make(base, settings, group, {
    group: groupName,
    generation,
    list: () => listDigest(list),
    leaving: drained
  })

  // --- The elections of the shards ---

  /** The Leases of shards carry the labels of the group, so that they can be found. */
  const store = LeaseStore.of({
    ...base,
    create: (key, write) => taking(key.name, base.create(key, labelled(write, groupName))),
    patch: (key, version, write) =>
      write.acquireTime === undefined
        ? base.patch(key, version, write)
        : taking(key.name, base.patch(key, version, labelled(write, groupName)))
  })
  /** Leases that are for another, who has not taken them. */
  const asLast = new Set<string>()
  const tookAsLast = (lease: string, now: bigint) => {
    if (asLast.delete(lease)) {
      giving.cameBack(now, group.changedAt)
    }
  }
  const taking = <A>(lease: string, request: Effect.Effect<A, LeaseError>) =>
    request.pipe(
      Effect.tap(() => Effect.map(monotonic, (now) => tookAsLast(lease, now))),
      // Another one was faster, and the watch of the group may have shown it before the election saw the Lease free.
      Effect.tapError(({ reason }) =>
        reason._tag === "LeaseConflict"
          ? Effect.map(monotonic, (now) => {
            group.refused(lease, now)
            touch()
          })
          : Effect.void
      )
    )
  const { name: _, ...shared } = settings
  const elections = yield* LeaderElections.make(shared).pipe(Effect.provideService(LeaseStore, store))

  /** What balance asks of a candidate whose shard is free. */
  const deference = (shard: string) => (free: LeaseRecord | undefined) => (since: bigint, now: bigint): bigint => {
    const lease = shardLease(groupName, shard)
    group.found(lease, free?.resourceVersion, now)
    const turn = Rule.turnOf(taken.at(now), self(), shard)
    const asked = Rule.deference(turn === "Never" ? "Last" : turn, since, joinedAt ?? now, retryPeriod)
    if (since + asked <= now) {
      group.claim(lease, now, now + retryPeriod)
      if (turn === "Last" && joinedAt !== undefined) {
        asLast.add(lease)
      } else {
        asLast.delete(lease)
      }
      return asked
    }
    // What follows from changes elsewhere is seen at the next look.
    const look = now - since + retryPeriod / 8n
    return look < asked ? look : asked
  }

  const status = (): Status => {
    const shards = new Map<string, string | undefined>()
    const counts = new Map<string, number>()
    for (const shard of list) {
      const holder = group.shown(shardLease(groupName, shard))
      shards.set(shard, holder)
      counts.set(holder ?? "", (counts.get(holder ?? "") ?? 0) + 1)
    }
    return {
      group: groupName,
      members: seen.map((member) => ({
        identity: member.identity,
        generation: member.generation,
        leaving: member.leaving,
        leads: counts.get(member.identity) ?? 0
      })),
      shards,
      leads: new Set(running)
    }
  }

  // --- Running ---

  // oxlint-disable-next-line max-lines-per-function -- one set of shards: its functions share the members
  const run = <E, R>(options: Options<E, R>) =>
    // oxlint-disable-next-line max-lines-per-function -- one set of shards: its functions share the members
    Effect.gen(function*() {
      const failed = yield* Deferred.make<never, LeaderElectionError>()
      const fail = (error: LeaderElectionError) => Effect.asVoid(Deferred.fail(failed, error))
      /** What works for all shards: its failure ends all, and a defect does so loudly. */
      const background = <R>(effect: Effect.Effect<unknown, LeaderElectionError, R>) =>
        Effect.forkScoped(
          Effect.onExit(effect, (exit) =>
            Exit.isFailure(exit) && !Cause.hasInterruptsOnly(exit.cause)
              ? Deferred.failCause(failed, exit.cause)
              : Effect.void)
        )
      const logLevel = yield* References.MinimumLogLevel
      const scope = yield* Effect.scope

      // The failure of a shard's program is that shard's: it is tried again where it is, so that no other one moves.
      const attempt = (shard: string): Effect.Effect<never, Attempts.ShardFailed, Exclude<R, Scope.Scope>> =>
        Effect.scoped(Effect.andThen(Effect.suspend(() => options.lead(shard)), Effect.never)).pipe(
          Effect.provideService(References.MinimumLogLevel, logLevel),
          // Its end by this replica does not come here; a program that joins an interrupted fiber has failed.
          Effect.catchCause((cause) =>
            Effect.andThen(
              failure(`The program of shard ${shard} failed`, cause),
              Effect.fail(new Attempts.ShardFailed(shard))
            )
          )
        )

      const failure = (message: string, cause: Cause.Cause<unknown>) =>
        Effect.andThen(
          Metric.update(Metric.withAttributes(Metrics.failures, attributes), 1),
          Effect.provideService(Log.error(message, cause), References.MinimumLogLevel, logLevel)
        )

      const program = (shard: string) =>
        Effect.suspend(() => {
          running.add(shard)
          refused.delete(shard)
          touch()
          return Attempts.attempts(attempt(shard), options.retry)
        }).pipe(
          Effect.ensuring(Effect.sync(() => {
            running.delete(shard)
            touch()
          })),
          Effect.annotateLogs({ shard })
        )

      const campaign = (shard: string): Effect.Effect<void, never, Exclude<R, Leadership | Scope.Scope>> =>
        Effect.flatMap(monotonic, (now) => {
          // What was given up is left to others for a while.
          const rest = giving.restOf(shard, now)
          return rest > 0n ? Effect.sleep(Duration.nanos(rest)) : Effect.void
        }).pipe(
          Effect.andThen(elections.whileLeadingForever(shardLease(groupName, shard), program(shard))),
          // A shard that is tried no more is left to others.
          Effect.catch((error: Attempts.ShardFailed | LeaderElectionError) =>
            error instanceof Attempts.ShardFailed ? Effect.never : refusal(shard, error)
          ),
          // Such as that of the schedule.
          Effect.catchCauseIf(Cause.hasDies, (cause) => Effect.asVoid(Deferred.failCause(failed, cause))),
          Effect.provideService(Deference, deference(shard)),
          // Logged by change of the whole, not by shard.
          Effect.provideService(References.MinimumLogLevel, quieter(logLevel))
        )

      // What needs a person ends all, unless it is the Lease of one shard alone that is refused, or another leads it.
      const isRefused = (shard: string) => refused.has(shard) && group.shown(shardLease(groupName, shard)) === undefined
      const refusal = (
        shard: string,
        error: LeaderElectionError
      ): Effect.Effect<void, never, Exclude<R, Leadership | Scope.Scope>> =>
        Effect.suspend(() => {
          if (!list.has(shard)) {
            return Effect.void
          }
          refused.add(shard)
          return error.reason._tag !== "LeaseRefused" || Array.from(list).every(isRefused)
            ? fail(error)
            : failure(`Shard ${shard} is not led here`, Cause.fail(error)).pipe(
              Effect.andThen(Effect.sleep("1 minute")),
              Effect.andThen(campaign(shard))
            )
        })

      /** Ends a shard's program and releases it; what follows is done before it is campaigned for again. */
      const stop = (shard: string, then: Effect.Effect<void> = Effect.void) => {
        // From now on, and not only once that fiber runs.
        ending.add(shard)
        const late = Log.warn(
          `The program of shard ${shard} has not ended for ${
            Duration.format(settings.leaseDuration)
          }: it keeps the shard until it has`
        )
        return Effect.andThen(
          Effect.forkScoped(Effect.delay(late, settings.leaseDuration)),
          FiberMap.remove(campaigns, shard)
        ).pipe(
          Effect.scoped,
          Effect.andThen(then),
          Effect.ensuring(Effect.sync(() => {
            ending.delete(shard)
            touch()
          })),
          Effect.forkIn(scope)
        )
      }

      const give = (shard: string, reason: "balance" | "drain") => {
        giving.begin(shard)
        return stop(
          shard,
          Effect.andThen(
            Effect.map(monotonic, (now) => giving.released(shard, now)),
            Metric.update(Metric.withAttributes(Metrics.given, { ...attributes, reason }), 1)
          )
        )
      }

      /** Campaigns for what is on the list; a leaving member only keeps what it leads, as long as another stays. */
      const reconcile = Effect.fnUntraced(function*(now: bigint) {
        if (joinedAt === undefined && (unknownUntil === undefined || now < unknownUntil)) {
          return
        }
        const leaves = membership.isLeaving() && taken.at(now).staffed
        const isKept = (shard: string) =>
          list.has(shard) && (!leaves || running.has(shard) || group.shown(shardLease(groupName, shard)) === identity)
        for (const [shard] of campaigns) {
          if (!isKept(shard) && !ending.has(shard)) {
            yield* stop(shard)
          }
        }
        for (const shard of leaves ? [] : list) {
          if (!ending.has(shard) && !FiberMap.hasUnsafe(campaigns, shard)) {
            yield* FiberMap.run(campaigns, shard, campaign(shard))
          }
        }
      })

      /** Who took what was given: one that would give it on was not the one that it was for. */
      const takerOf = (plan: Rule.Plan) => (shard: string) => {
        const holder = group.shown(shardLease(groupName, shard))
        return !list.has(shard)
          ? "gone"
          : holder === undefined || holder === identity
          ? "nobody"
          : plan.gives.has(holder)
          ? "another"
          : "receiver"
      }

      const warnOfOthers = Effect.suspend(() => {
        const found = Array.from(list).filter((shard) => !warnedOf.has(shard)).flatMap((shard) => {
          const other = group.ownerOf(shardLease(groupName, shard))
          return other === undefined ? [] : [{ shard, other }]
        })
        return Effect.forEach(found, ({ other, shard }) => {
          warnedOf.add(shard)
          return Log.error(
            `The Lease ${
              shardLease(groupName, shard)
            } of shard ${shard} belongs to group ${other}: only one of both can ` +
              "lead it. Name groups so that none is another's name with \"-\" and more behind it"
          )
        }, { discard: true })
      })

      const balance = Effect.gen(function*() {
        let logged = ""
        let loggedAt = 0n
        while (true) {
          changed.closeUnsafe()
          const now = yield* monotonic
          seen = group.members(now)
          joinedAt ??= seen.some((member) => member.identity === identity) ? now : undefined
          yield* warnOfOthers
          const { changedAt } = group
          // The watch may show a take before it is answered.
          for (const lease of asLast) {
            if (group.shown(lease) === identity) {
              tookAsLast(lease, now)
            }
          }
          const plan = shown.at(now)
          giving.settle(now, changedAt, takerOf(plan))
          const returns = giving.returns(now, changedAt)
          const { shards } = giving
          for (const shard of Rule.givesNow(plan, self(), shards, now - changedAt, returns, leaseDuration)) {
            // A plan is kept for a while, and what is given to somebody is not to be given again with it.
            const isOwn = group.shown(shardLease(groupName, shard)) === identity
            // What came back is to be led first: nobody may be there to take it but this one.
            const isBack = returns.count > 0 && !running.has(shard) && !membership.isLeaving()
            if (isOwn && !isBack && FiberMap.hasUnsafe(campaigns, shard) && !ending.has(shard)) {
              yield* give(shard, membership.isLeaving() ? "drain" : "balance")
            }
          }
          yield* reconcile(now)
          const next = status()
          yield* SubscriptionRef.set(statuses, next)
          yield* updateMetrics(next, attributes)
          const leads = [...running].filter((shard) => list.has(shard)).length
          const said = `Leads ${leads} of ${list.size} shards of ${groupName} (${seen.length} members)`
          const dueAt = loggedAt + retryPeriod
          if (said !== logged && now >= dueAt && unknownUntil !== undefined) {
            logged = said
            loggedAt = now
            yield* Log.info(said)
          }
          const timers = [
            ...seen.map(({ expiresAt }) => expiresAt),
            ...giving.timers,
            changedAt + Rule.settleTime(leaseDuration),
            unknownUntil ?? 0n,
            ...(said === logged ? [] : [dueAt])
          ].filter((time) => time > now)
          const wakeAt = timers.reduce((least, time) => time < least ? time : least, now + leaseDuration)
          yield* Effect.raceFirst(changed.await, Effect.sleep(Duration.nanos(wakeAt - now)))
        }
      })

      let over = false
      const wrongNames = new Set<string>()
      const isWrong = (name: string) =>
        typeof name !== "string" || !validName.test(name) || name.startsWith("member-") ||
        name.length + groupName.length > 252
      const wrongName = (name: string) =>
        invalid(
          `shard "${name}" cannot be part of a Lease's name: give lower-case letters, digits, "-" and ".", not "member-…"`
        )

      const follow = Effect.fnUntraced(function*(names: Iterable<string>) {
        if (typeof names === "string") {
          return yield* invalid(`shards is the text "${names}": give a list of names, or a stream of such lists`)
        }
        const next = new Set(names)
        for (const name of Array.from(next).filter(isWrong)) {
          // At the start it is a mistake of the program; later one name must not end what all replicas lead.
          if (unknownUntil === undefined) {
            return yield* wrongName(name)
          }
          next.delete(name)
          if (!wrongNames.has(name)) {
            wrongNames.add(name)
            yield* failure(`Shard ${name} is not led`, Cause.fail(wrongName(name)))
          }
        }
        if (
          over || (unknownUntil !== undefined && next.size === list.size && [...next].every((name) => list.has(name)))
        ) {
          return
        }
        unknownUntil ??= (yield* monotonic) + 2n * retryPeriod
        setList(next)
        listed.openUnsafe()
        yield* membership.describe
      })

      // What does not know what there is to lead is no member that anything can be left to.
      yield* background(Effect.andThen(listed.await, watchGroup(base, settings, group, touch)))
      yield* background(Effect.andThen(listed.await, membership.hold))
      yield* background(
        Stream.runForEach(Stream.isStream(options.shards) ? options.shards : Stream.make(options.shards), follow)
      )
      // First that it leaves, then all programs at once; the member Lease is released after them.
      yield* Effect.addFinalizer(() =>
        Effect.suspend(() => {
          over = true
          return Effect.timeoutOption(
            membership.leave,
            // The programs do not wait long for a server that does not answer.
            Duration.divideUnsafe(settings.retryPeriod, 4)
          )
        }).pipe(Effect.andThen(Effect.suspend(() => {
          setList(new Set())
          return FiberMap.clear(campaigns)
        })))
      )
      yield* background(balance)
      return yield* Deferred.await(failed)
    })

  return {
    run,
    isReady: (now) => joinedAt !== undefined && now >= joinedAt + retryPeriod,
    isIdle: () => ending.size === 0 && [...campaigns].length === 0,
    leave: Effect.andThen(membership.leave, Effect.sync(planAnew))
  } satisfies Sharing
})

const labelled = (write: LeaseWrite, group: string): LeaseWrite => ({
  ...write,
  labels: { ...write.labels, [ofLeases.group]: group, [ofLeases.role]: "shard" }
})

const quieter = (level: typeof References.MinimumLogLevel.Service): typeof References.MinimumLogLevel.Service =>
  level === "Trace" || level === "Debug" || level === "All" ? level : level === "Info" ? "Warn" : level

/** Shows in the metrics what a status says. */
export const updateMetrics = (
  { leads, members, shards }: Status,
  attributes: Record<string, string>
): Effect.Effect<void> =>
  Effect.all([
    Metric.update(Metric.withAttributes(Metrics.led, attributes), leads.size),
    Metric.update(Metric.withAttributes(Metrics.listed, attributes), shards.size),
    Metric.update(Metric.withAttributes(Metrics.members, attributes), members.length),
    Metric.update(
      Metric.withAttributes(Metrics.free, attributes),
      [...shards.values()].filter((holder) => holder === undefined).length
    )
  ], { discard: true })
