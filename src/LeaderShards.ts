/**
 * Many leaderships, spread fairly over the replicas: one for each tenant, queue
 * or partition, each with exactly one leader.
 *
 * With `LeaderElections` the first replica that starts takes all of them, and
 * keeps them. Here every replica leads about as many, a new one gets its part,
 * and a rolling update moves each shard once. The Lease of a shard alone decides
 * who leads it; sharing only decides who campaigns when, and who gives up what.
 * So a wrong view of the others costs balance, never a second leader.
 *
 * **Example** (A worker for each tenant)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { KubernetesLeaderShards, LeaderShards } from "effect-kubernetes-leader-election"
 *
 * const serve = (tenant: string) => Effect.andThen(Effect.logInfo(`serving ${tenant}`), Effect.never)
 *
 * export const program = LeaderShards.run({ shards: ["acme", "globex", "initech"], lead: serve }).pipe(
 *   Effect.provide(KubernetesLeaderShards.layer({ group: "tenants" }))
 * )
 * ```
 *
 * @since 0.2.0
 */
import * as Cause from "effect/Cause"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberMap from "effect/FiberMap"
import type * as HttpRouter from "effect/http/HttpRouter"
import * as Latch from "effect/Latch"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as References from "effect/References"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import { Deference } from "./internal/election/deference.ts"
import * as Log from "./internal/log.ts"
import * as Rule from "./internal/protocol/shards.ts"
import { annotations as ofMembers, Group, labels as ofLeases, listDigest, shardLease } from "./internal/shards/group.ts"
import * as Member from "./internal/shards/member.ts"
import * as LeaderElectionConfig from "./LeaderElectionConfig.ts"
import { AlreadyCampaigning, InvalidSettings, LeaderElectionError, LeaseRefused } from "./LeaderElectionError.ts"
import * as LeaderElections from "./LeaderElections.ts"
import * as Metrics from "./LeaderShardsMetrics.ts"
import type { Leadership } from "./Leadership.ts"
import type { LeaseError } from "./LeaseError.ts"
import type { LeaseRecord, LeaseWrite } from "./LeaseRecord.ts"
import { LeaseStore } from "./LeaseStore.ts"

/**
 * The labels of the Leases of a group: `group`, its name; `role`, `member` or
 * `shard`; and on member Leases `generation`.
 *
 * @category annotations
 * @since 0.2.0
 */
export const labels: { readonly group: string; readonly role: string; readonly generation: string } = ofLeases

/**
 * The annotations of member Leases: `joined`, the version of the first write
 * into it; `leaving`, `"true"` once the member is about to end or is drained;
 * `list`, which stands for its list of shards.
 *
 * @category annotations
 * @since 0.2.0
 */
export const annotations: { readonly joined: string; readonly leaving: string; readonly list: string } = ofMembers

/**
 * The settings of a group of shards: those of an election, which all of its
 * Leases share, and the name of the group.
 *
 * @category models
 * @since 0.2.0
 */
export interface Input extends Omit<LeaderElectionConfig.Input, "name" | "watch" | "candidates"> {
  /**
   * The name of the group, the same for all replicas: the Lease of a shard is
   * called `<group>-<shard>`, that of a member `<group>-member-<hash>`.
   * LEADER_ELECTION_NAME by default.
   */
  readonly group?: string | undefined
  /**
   * What the replicas of one rollout have in common. While a newer generation
   * has members, older ones take nothing, so that a rollout moves each shard
   * once. LEADER_ELECTION_GENERATION by default (the Pod's label
   * `pod-template-hash` through the downward API), otherwise all replicas are of
   * one generation.
   */
  readonly generation?: string | undefined
}

/**
 * What to lead.
 *
 * @category models
 * @since 0.2.0
 */
export interface Options<E, R> {
  /**
   * The names of the shards: the list of all of them, or a stream of such lists.
   * A shard that is added is campaigned for; the program of one that is removed is
   * ended, and its Lease released. A name is part of the name of a Lease: lower-case
   * letters, digits, `-` and `.`.
   */
  readonly shards: Iterable<string> | Stream.Stream<Iterable<string>>
  /**
   * Runs while this replica leads the shard, with `Leadership`, and with a
   * `Scope` of its own that is closed when the shard is no longer led here: it
   * may run on, or set something up and return.
   */
  readonly lead: (shard: string) => Effect.Effect<unknown, E, R>
  /**
   * When a program that has failed is run again, on the same replica: after 1
   * second, doubled each time, to a minute. Where the schedule ends, this
   * replica releases the shard and leaves it to others.
   */
  readonly retry?: Schedule.Schedule<unknown> | undefined
}

/**
 * One member of the group: a replica.
 *
 * @category models
 * @since 0.2.0
 */
export interface GroupMember {
  readonly identity: string
  readonly generation: string
  /** It is about to end, or is being drained. */
  readonly leaving: boolean
  /** How many shards it leads. */
  readonly leads: number
}

/**
 * What this replica sees of its group.
 *
 * @category models
 * @since 0.2.0
 */
export interface Status {
  readonly group: string
  readonly members: ReadonlyArray<GroupMember>
  /** The holder of each shard on this replica's list; `undefined` where it is free. */
  readonly shards: ReadonlyMap<string, string | undefined>
  /** The shards whose programs run here. */
  readonly leads: ReadonlySet<string>
}

/**
 * This replica as a member of a group of shards.
 *
 * @category services
 * @since 0.2.0
 */
export class LeaderShards extends Context.Service<LeaderShards, {
  readonly group: string
  /** Stands in the Leases that this replica holds. */
  readonly identity: string

  /** Leads this replica's part of the shards; see the module's {@link run}. */
  readonly run: <E, R>(
    options: Options<E, R>
  ) => Effect.Effect<never, LeaderElectionError, Exclude<R, Leadership | Scope.Scope>>

  /** What this replica sees of its group. */
  readonly status: Effect.Effect<Status>

  /** What this replica sees of its group, and each change of it. Never ends. */
  readonly changes: Stream.Stream<Status>

  /** Whether the others have seen this replica; see the module's {@link ready}. */
  readonly ready: Effect.Effect<boolean>

  /** Gives up everything in good order; see the module's {@link drain}. */
  readonly drain: Effect.Effect<void>
}>()("effect-kubernetes-leader-election/LeaderShards") {}

const validName = /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/

const invalid = (message: string) => new LeaderElectionError({ reason: new InvalidSettings({ problems: [message] }) })

/**
 * Makes this replica a member of a group, once {@link run} begins.
 *
 * @category constructors
 * @since 0.2.0
 */
export const make = (
  input: Input = {}
): Effect.Effect<LeaderShards["Service"], LeaderElectionError, LeaseStore | Scope.Scope> =>
  Effect.gen(function*() {
    const { generation: asked, group: named, ...rest } = input
    const settings = yield* LeaderElectionConfig.make({ ...rest, ...(named !== undefined && { name: named }) })
    const generation = asked ?? (yield* generationFromEnvironment)
    if (generation.length > 63 || !/^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$/.test(generation)) {
      return yield* invalid(
        `generation "${generation}" (LEADER_ELECTION_GENERATION) cannot be a label: give at most 63 letters, digits, ` +
          `"-", "_" and "."`
      )
    }
    if (settings.name.length > 63 || !validName.test(settings.name)) {
      return yield* invalid(
        `group "${settings.name}" cannot be a label: give at most 63 lower-case letters, digits, "-" and "."`
      )
    }
    // Who is next to take a shard follows from the members, and each of these is alone on its own Lease.
    return yield* makeGroup(yield* LeaseStore, { ...settings, candidates: 1 }, generation)
  })

const generationFromEnvironment = Effect.orElseSucceed(Config.String("LEADER_ELECTION_GENERATION"), () => "")

const nanos = Duration.toNanosUnsafe

const monotonic = Effect.clockWith((clock) => clock.monotonicTimeNanos)

// A shard whose program takes its time to end counts as being given up until it has.
const forever = 2n ** 63n

const makeGroup = Effect.fnUntraced(function*(
  base: LeaseStore["Service"],
  settings: LeaderElectionConfig.Settings,
  generation: string
) {
  const { identity, name: group, namespace } = settings
  const nothing: Status = { group, members: [], shards: new Map(), leads: new Set() }
  const statuses = yield* SubscriptionRef.make(nothing)
  /** What is being run. */
  let current: Sharing | undefined
  let taken = false
  /** A replica that was drained stays so when it runs again. */
  let drained = false

  const onlyOne = Effect.acquireRelease(
    Effect.suspend(() => {
      if (taken) {
        return Effect.fail(
          new LeaderElectionError({ reason: new AlreadyCampaigning({ lease: `${namespace}/${group}` }) })
        )
      }
      taken = true
      return Effect.void
    }),
    () =>
      Effect.suspend(() => {
        taken = false
        current = undefined
        return Effect.andThen(
          SubscriptionRef.set(statuses, nothing),
          updateMetrics(nothing, { group: `${namespace}/${group}` })
        )
      })
  )

  return LeaderShards.of({
    group,
    identity,
    run: (options) =>
      Effect.scoped(Effect.gen(function*() {
        yield* onlyOne
        const sharing = yield* share(base, settings, generation, { drained, statuses })
        current = sharing
        return yield* sharing.run(options)
      })).pipe(Effect.annotateLogs({ group, identity })),
    status: SubscriptionRef.get(statuses),
    changes: SubscriptionRef.changes(statuses),
    ready: Effect.map(monotonic, (now) => current?.isReady(now) === true),
    drain: Effect.suspend(() => {
      drained = true
      const sharing = current
      return sharing === undefined
        ? Effect.void
        : Effect.andThen(
          sharing.leave,
          Stream.runDrain(Stream.takeUntil(
            SubscriptionRef.changes(statuses),
            () => sharing !== current || sharing.isIdle()
          ))
        )
    })
  })
})

/** One run of a replica's part. */
interface Sharing {
  readonly run: <E, R>(
    options: Options<E, R>
  ) => Effect.Effect<never, LeaderElectionError, Exclude<R, Leadership | Scope.Scope> | Scope.Scope>
  readonly isReady: (now: bigint) => boolean
  /** Whether nothing is held any more, nor being released. */
  readonly isIdle: () => boolean
  readonly leave: Effect.Effect<void>
}

// oxlint-disable-next-line max-lines-per-function -- one set of shards: its functions share the members
const share = Effect.fnUntraced(function*(
  base: LeaseStore["Service"],
  settings: LeaderElectionConfig.Settings,
  generation: string,
  { drained, statuses }: { readonly drained: boolean; readonly statuses: SubscriptionRef.SubscriptionRef<Status> }
) {
  const { identity, name: groupName, namespace } = settings
  const leaseDuration = nanos(settings.leaseDuration)
  const retryPeriod = nanos(settings.retryPeriod)
  const group = new Group({ group: groupName, identity, leaseDuration })
  const self = (): Rule.Member =>
    seen.find((member) => member.identity === identity) ??
      { identity, generation, joined: 0n, leaving: membership.isLeaving(), list: listDigest(list) }
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
  /** What is being given up, or was and has no new leader yet: until when it counts as that. */
  const giving = new Map<string, bigint>()
  /** Whose programs are being ended. */
  const ending = new Set<string>()
  const standBackUntil = new Map<string, bigint>()
  /** What was given to others and came back. */
  let returns = Rule.noReturns
  let returnedAt = 0n
  const running = new Set<string>()
  /** Whose Leases another group has, and that was said. */
  const warnedOf = new Set<string>()
  /** Whose Leases the API server refused. */
  const refused = new Set<string>()
  const campaigns = yield* FiberMap.make<string>()
  const changed = Latch.makeUnsafe(false)
  let planned: { readonly plan: Rule.Plan; readonly at: bigint; readonly revision: number } | undefined
  const touch = () => changed.openUnsafe()
  // Hundreds of elections look at it in a moment, on the loop that must also renew. No event says when a Lease runs out, so
  // it is kept no longer than until the next look.
  const planAt = (now: bigint): Rule.Plan => {
    if (planned?.revision !== group.revision || now - planned.at >= retryPeriod / 8n) {
      planned = { plan: Rule.plan(group.view(list, now)), at: now, revision: group.revision }
    }
    return planned.plan
  }
  const setList = (next: ReadonlySet<string>) => {
    list = next
    planned = undefined
    touch()
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
  // Another one was faster, and the watch of the group may have shown it before the election saw the Lease free.
  const taking = <A>(lease: string, request: Effect.Effect<A, LeaseError>) =>
    Effect.tapError(request, ({ reason }) =>
      reason._tag === "LeaseConflict"
        ? Effect.map(monotonic, (now) => {
          group.refused(lease, now)
          touch()
        })
        : Effect.void)
  const { name: _, ...shared } = settings
  const elections = yield* LeaderElections.make(shared).pipe(Effect.provideService(LeaseStore, store))

  const returnsAt = (now: bigint): Rule.Returns =>
    returnedAt < group.changedAt ? Rule.noReturns : { count: returns.count, since: now - returnedAt }
  const noteReturn = (now: bigint) => {
    const { count, since } = returnsAt(now)
    // Those that were given together come back together.
    const isNext = since >= Rule.returnTime(count, leaseDuration)
    returns = { count: isNext ? count + 1 : count, since: 0n }
    returnedAt = now
  }

  /** What balance asks of a candidate whose shard is free. */
  const deference = (shard: string) => (free: LeaseRecord | undefined) => (since: bigint, now: bigint): bigint => {
    const lease = shardLease(groupName, shard)
    group.found(lease, free?.resourceVersion, now)
    const turn = Rule.turnOf(planAt(now), self(), shard)
    const asked = Rule.deference(turn === "Never" ? "Last" : turn, since, joinedAt ?? now, retryPeriod)
    if (since + asked <= now) {
      group.claim(lease, now, now + retryPeriod)
      // It was for another, who did not take it.
      if (turn === "Last" && joinedAt !== undefined) {
        noteReturn(now)
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
      const retry = options.retry ?? defaultRetry

      // The failure of a shard's program is that shard's: it is tried again where it is, so that no other one moves.
      const attempt = (shard: string): Effect.Effect<never, ShardFailed, Exclude<R, Scope.Scope>> =>
        Effect.scoped(Effect.andThen(Effect.suspend(() => options.lead(shard)), Effect.never)).pipe(
          Effect.provideService(References.MinimumLogLevel, logLevel),
          // Its end by this replica does not come here; a program that joins an interrupted fiber has failed.
          Effect.catchCause((cause) =>
            Effect.andThen(failure(`The program of shard ${shard} failed`, cause), Effect.fail(new ShardFailed(shard)))
          )
        )

      const failure = (message: string, cause: Cause.Cause<unknown>) =>
        Effect.andThen(
          Metric.update(Metric.withAttributes(Metrics.failures, attributes), 1),
          Effect.provideService(Log.error(message, cause), References.MinimumLogLevel, logLevel)
        )

      /** Tried again by the schedule, which begins anew after a program that has run well. */
      const attempts = (
        shard: string,
        before?: ShardFailed
      ): Effect.Effect<never, ShardFailed, Exclude<R, Scope.Scope>> => {
        let failed = before
        let ranWell = false
        const next = Effect.suspend(() => {
          if (failed !== undefined) {
            const again = Effect.fail(failed)
            failed = undefined
            return again
          }
          return Effect.flatMap(monotonic, (began) =>
            Effect.tapError(attempt(shard), () =>
              Effect.map(monotonic, (now) => {
                ranWell = now - began >= runsWell
              })))
        })
        return Effect.retry(next, {
          schedule: retry,
          while: () =>
            !ranWell
        }).pipe(
          Effect.catch((error) =>
            ranWell ? attempts(shard, error) : Effect.fail(error)
          )
        )
      }

      const program = (shard: string) =>
        Effect.suspend(() => {
          running.add(shard)
          refused.delete(shard)
          touch()
          return attempts(shard)
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
          const rest = (standBackUntil.get(shard) ?? 0n) - now
          return rest > 0n ? Effect.sleep(Duration.nanos(rest)) : Effect.void
        }).pipe(
          Effect.andThen(elections.whileLeadingForever(shardLease(groupName, shard), program(shard))),
          // A shard that is tried no more is left to others.
          Effect.catch((error: ShardFailed | LeaderElectionError) =>
            error instanceof ShardFailed ? Effect.never : refusal(shard, error)
          ),
          // Such as that of the schedule.
          Effect.catchCauseIf(Cause.hasDies, (cause) => Effect.asVoid(Deferred.failCause(failed, cause))),
          Effect.provideService(Deference, deference(shard)),
          // Logged by change of the whole, not by shard.
          Effect.provideService(References.MinimumLogLevel, quieter(logLevel))
        )

      // What needs a person ends all, unless it is the Lease of one shard alone that is refused.
      const refusal = (
        shard: string,
        error: LeaderElectionError
      ): Effect.Effect<void, never, Exclude<R, Leadership | Scope.Scope>> =>
        Effect.suspend(() => {
          refused.add(shard)
          return error.reason._tag !== "LeaseRefused" || Array.from(list).every((name) => refused.has(name))
            ? fail(error)
            : failure(`Shard ${shard} is not led here`, Cause.fail(error)).pipe(
              Effect.andThen(Effect.sleep("1 minute")),
              Effect.andThen(campaign(shard))
            )
        })

      const stop = (shard: string) =>
        Effect.scoped(
          Effect.suspend(() => {
            ending.add(shard)
            const late = Log.warn(
              `The program of shard ${shard} has not ended for ${
                Duration.format(settings.leaseDuration)
              }: it keeps the shard until it has`
            )
            return Effect.andThen(
              Effect.forkScoped(Effect.delay(late, settings.leaseDuration)),
              FiberMap.remove(campaigns, shard)
            )
          })
        ).pipe(Effect.ensuring(Effect.sync(() => {
          ending.delete(shard)
          touch()
        })))

      const give = (shard: string, reason: "balance" | "drain") =>
        Effect.gen(function*() {
          yield* stop(shard)
          yield* Metric.update(Metric.withAttributes(Metrics.given, { ...attributes, reason }), 1)
          const until = (yield* monotonic) + Rule.standBack(retryPeriod)
          giving.set(shard, until)
          standBackUntil.set(shard, until)
          touch()
        })

      /** Campaigns for what is on the list; a leaving member only keeps what it leads, as long as another stays. */
      const reconcile = Effect.fnUntraced(function*(now: bigint) {
        if (joinedAt === undefined && (unknownUntil === undefined || now < unknownUntil)) {
          return
        }
        const leaves = membership.isLeaving() && planAt(now).staffed
        const wanted = (shard: string) =>
          list.has(shard) && (!leaves || group.holder(shardLease(groupName, shard), now) === identity)
        for (const [shard] of campaigns) {
          if (!wanted(shard) && !ending.has(shard)) {
            ending.add(shard)
            yield* Effect.forkIn(stop(shard), scope)
          }
        }
        for (const shard of list) {
          if (wanted(shard) && !ending.has(shard) && !FiberMap.hasUnsafe(campaigns, shard)) {
            yield* FiberMap.run(campaigns, shard, campaign(shard))
          }
        }
      })

      /** Forgets what was given and has come to its end: another leads it, or it came back. */
      const settleGiven = (now: bigint) => {
        for (const [shard, until] of giving) {
          const holder = group.holder(shardLease(groupName, shard), now)
          const isTaken = holder !== undefined && holder !== identity
          if (until <= now || isTaken) {
            giving.delete(shard)
            standBackUntil.delete(shard)
            if (isTaken && !planAt(now).gives.has(holder)) {
              returns = Rule.noReturns
            } else if (!membership.isLeaving()) {
              noteReturn(now)
            }
          }
        }
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
          settleGiven(now)
          const sinceChange = now - group.changedAt
          const given = new Set(giving.keys())
          for (const shard of Rule.givesNow(planAt(now), self(), given, sinceChange, returnsAt(now), leaseDuration)) {
            // A plan is kept for a while, and what is given to somebody is not to be given again with it.
            const isOwn = group.holder(shardLease(groupName, shard), now) === identity
            // What came back is to be led first: nobody may be there to take it but this one.
            const isBack = returns.count > 0 && !running.has(shard) && !membership.isLeaving()
            if (isOwn && !isBack && FiberMap.hasUnsafe(campaigns, shard) && !ending.has(shard)) {
              ending.add(shard)
              giving.set(shard, forever)
              yield* Effect.forkIn(give(shard, membership.isLeaving() ? "drain" : "balance"), scope)
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
            ...standBackUntil.values(),
            group.changedAt + Rule.settleTime(leaseDuration),
            returnedAt + Rule.returnTime(returns.count, leaseDuration),
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

      yield* background(watch)
      // What does not know what there is to lead is no member that anything can be left to.
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

  /** All Leases of the namespace, as they change. */
  const watch = Effect.gen(function*() {
    let heardAt = yield* monotonic
    let warned = false
    while (true) {
      let reportedAt = yield* monotonic
      let defect: Cause.Cause<never> | undefined
      const changes = Stream.runForEach(
        base.changes({ namespace, name: "" }, undefined),
        (change) =>
          Effect.map(monotonic, (now) => {
            reportedAt = now
            if (change._tag !== "Opened") {
              heardAt = now
              warned = false
            }
            if (group.observe(change, now)) {
              touch()
            }
          }).pipe(Effect.tapCause((cause) =>
            Effect.sync(() => {
              defect = cause
            })
          ))
      )
      // This member's own renewals are shown every third of leaseDuration: a watch without them has gone silent.
      const silence = Effect.gen(function*() {
        while (true) {
          const left = reportedAt + leaseDuration / 2n - (yield* monotonic)
          if (left <= 0n) {
            return
          }
          yield* Effect.sleep(Duration.nanos(left))
        }
      })
      const exit = yield* Effect.exit(Effect.raceFirst(changes, silence))
      // A defect of the store is a watch that broke; one in what is done about an event is the end.
      if (defect !== undefined && !Cause.hasInterruptsOnly(defect)) {
        return yield* Effect.failCause(defect)
      }
      const error = Exit.isFailure(exit) ? Cause.findErrorOption(exit.cause) : undefined
      if (error?._tag === "Some" && error.value.reason._tag === "LeaseForbidden") {
        return yield* new LeaderElectionError({ reason: new LeaseRefused({ error: error.value }) })
      }
      if (!warned && (yield* monotonic) - heardAt >= leaseDuration / 2n) {
        warned = true
        yield* Log.warn(
          "The watch of the group brings nothing: this replica does not see the others, and shares by what it saw last",
          Exit.isFailure(exit) ? exit.cause : undefined
        )
      }
      yield* Effect.sleep(settings.retryPeriod)
    }
  })

  return {
    run,
    isReady: (now) => joinedAt !== undefined && now >= joinedAt + retryPeriod,
    isIdle: () => ending.size === 0 && [...campaigns].length === 0,
    leave: Effect.andThen(membership.leave, Effect.sync(touch))
  } satisfies Sharing
})

class ShardFailed extends Error {
  constructor(shard: string) {
    super(`the program of shard ${shard} is not run again here: its schedule has ended`)
    this.name = "ShardFailed"
  }
}

// After which a failure counts as the first: as long as a container has to run for its back-off to begin anew.
const runsWell = nanos("10 minutes")

const defaultRetry = Schedule.min([Schedule.exponential("1 second"), Schedule.spaced("1 minute")])

const labelled = (write: LeaseWrite, group: string): LeaseWrite => ({
  ...write,
  labels: { ...write.labels, [ofLeases.group]: group, [ofLeases.role]: "shard" }
})

const quieter = (level: typeof References.MinimumLogLevel.Service): typeof References.MinimumLogLevel.Service =>
  level === "Trace" || level === "Debug" || level === "All" ? level : level === "Info" ? "Warn" : level

const updateMetrics = ({ leads, members, shards }: Status, attributes: Record<string, string>): Effect.Effect<void> =>
  Effect.all([
    Metric.update(Metric.withAttributes(Metrics.led, attributes), leads.size),
    Metric.update(Metric.withAttributes(Metrics.listed, attributes), shards.size),
    Metric.update(Metric.withAttributes(Metrics.members, attributes), members.length),
    Metric.update(
      Metric.withAttributes(Metrics.free, attributes),
      [...shards.values()].filter((holder) => holder === undefined).length
    )
  ], { discard: true })

/**
 * Leads this replica's part of the shards, for as long as it runs.
 *
 * **Expected flow**
 *
 * 1. The replica becomes a member: it holds a Lease of its own, which the others
 *    see before it leads anything.
 * 2. It campaigns for every shard, and leaves to others what is theirs: a free
 *    shard goes to that member of those below their number that ranks highest
 *    for it.
 * 3. A member that leads more than its part gives up shards in good order, a few at a
 *    time, when the members have not changed for leaseDuration / 3.
 * 4. When it is interrupted, it says that it leaves, ends all programs at once,
 *    and releases.
 *
 * **Guarantees**
 *
 * - At most one leader of a shard, as for every election here.
 * - At rest, with L shards and P members, each leads ⌊L/P⌋ or ⌈L/P⌉, and nothing
 *   moves.
 * - A free shard is taken within three retryPeriods and the time of a few
 *   requests, whatever the members think of balance. That is where they have
 *   only just started, on a server that is slow; two and a half where one
 *   member gave it up to another that died before it took it; else one at most,
 *   and mostly none.
 *
 * **Errors**
 *
 * - those of an election that need a person; without the right to `watch` the
 *   namespace's Leases: the missing rule;
 * - the failure of a shard's program is logged, and that shard's alone.
 *
 * @category running
 * @since 0.2.0
 */
export const run = <E, R>(
  options: Options<E, R>
): Effect.Effect<never, LeaderElectionError, LeaderShards | Exclude<R, Leadership | Scope.Scope>> =>
  LeaderShards.use((shards) => shards.run(options))

/**
 * What this replica sees of its group.
 *
 * @category accessors
 * @since 0.2.0
 */
export const status: Effect.Effect<Status, never, LeaderShards> = LeaderShards.use((shards) => shards.status)

/**
 * Whether this replica has been a member for a retryPeriod, so that the others
 * have seen it. Use it as the readiness of the Pod, with `maxUnavailable: 0`:
 * then a rolling update moves each shard once.
 *
 * @category accessors
 * @since 0.2.0
 */
export const ready: Effect.Effect<boolean, never, LeaderShards> = LeaderShards.use((shards) => shards.ready)

/**
 * Gives up everything in good order, a few shards at a time, and takes nothing
 * any more as long as another member stays. Ends when nothing is led here: while
 * no other member stays nothing is given up, and a sole member's does not end.
 *
 * @category running
 * @since 0.2.0
 */
export const drain: Effect.Effect<void, never, LeaderShards> = LeaderShards.use((shards) => shards.drain)

/**
 * A group of shards on whatever store is provided.
 *
 * @category layers
 * @since 0.2.0
 */
export const layer = (input?: Input): Layer.Layer<LeaderShards, LeaderElectionError, LeaseStore> =>
  Layer.effect(LeaderShards, make(input))

/**
 * A route for readiness probes, `GET /readyz` unless `path` says otherwise: 200
 * once this replica is {@link ready}, 503 before.
 *
 * @category layers
 * @since 0.2.0
 */
export const layerReadiness = (
  path: HttpRouter.PathInput = "/readyz"
): Layer.Layer<never, never, LeaderShards | HttpRouter.HttpRouter> =>
  Layer.effectDiscard(Effect.gen(function*() {
    // Loaded only here: a program without routes does not pay for a router.
    const { HttpRouter } = yield* Effect.promise(() => import("effect/http/HttpRouter"))
    const { withLoggerDisabled } = yield* Effect.promise(() => import("effect/http/HttpMiddleware"))
    const Response = yield* Effect.promise(() => import("effect/http/HttpServerResponse"))
    const router = yield* HttpRouter
    const shards = yield* LeaderShards
    const answer = Effect.map(
      shards.ready,
      (ready) =>
        ready
          ? Response.text("ready\n")
          : Response.text("the other members have not seen this one yet\n", { status: 503 })
    )
    yield* router.add("GET", path, withLoggerDisabled(answer))
  }))
