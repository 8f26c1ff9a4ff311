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
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as HttpRouter from "effect/http/HttpRouter"
import * as Layer from "effect/Layer"
import type * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import { annotations as ofMembers, labels as ofLeases } from "./internal/shards/group.ts"
import { invalid, type Sharing, share, updateMetrics, validName } from "./internal/shards/sharing.ts"
import * as LeaderElectionConfig from "./LeaderElectionConfig.ts"
import { AlreadyCampaigning, LeaderElectionError } from "./LeaderElectionError.ts"
import type { Leadership } from "./Leadership.ts"
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
   * letters, digits, `-` and `.`. A wrong one in the first list ends the whole; one
   * in a later list is logged, and the others are led.
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
   * second, doubled each time, to a minute. The schedule begins anew after a
   * program that has run for ten minutes. Where it ends, this replica releases the
   * shard and leaves it to others.
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
    ready: Effect.clockWith((clock) => Effect.map(clock.monotonicTimeNanos, (now) => current?.isReady(now) === true)),
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
 * - `AlreadyCampaigning`: this service is being run already;
 * - the failure of a shard's program is logged, and that shard's alone; so is the
 *   refusal of its Lease, as long as not all are refused.
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
 * Whether this replica has its list of shards and has been a member for a
 * retryPeriod, so that the others have seen it. Use it as the readiness of the Pod, with `maxUnavailable: 0`:
 * then a rolling update moves each shard once.
 *
 * @category accessors
 * @since 0.2.0
 */
export const ready: Effect.Effect<boolean, never, LeaderShards> = LeaderShards.use((shards) => shards.ready)

/**
 * Gives up everything in good order, a few shards at a time, and takes nothing
 * any more as long as another member stays, for the life of this service. Ends
 * when nothing is held here any more, or `run` has ended: while no other member
 * stays nothing is given up.
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
