/**
 * Many elections in one process, by the names of their Leases: a leader for each
 * tenant, shard or queue.
 *
 * All share one store; on Kubernetes (`KubernetesLeaderElections.layer`) also one
 * connection pool and one watch. Each election exists while somebody uses it.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as RcMap from "effect/RcMap"
import * as Scope from "effect/Scope"
import { RenewalPhase } from "./internal/election/state.ts"
import * as LeaderElection from "./LeaderElection.ts"
import * as LeaderElectionConfig from "./LeaderElectionConfig.ts"
import type { LeaderElectionError } from "./LeaderElectionError.ts"
import type { Leadership } from "./Leadership.ts"
import { LeaseStore } from "./LeaseStore.ts"

/**
 * The settings that all elections share: everything but the name.
 *
 * @category models
 * @since 0.1.0
 */
export type Input = Omit<LeaderElectionConfig.Input, "name">

/**
 * The elections of this process, by name.
 *
 * @category services
 * @since 0.1.0
 */
export class LeaderElections extends Context.Service<LeaderElections, {
  /**
   * The election on the Lease with this name, made for the first that asks for
   * it, and gone when the last scope that did is closed.
   */
  readonly get: (
    name: string
  ) => Effect.Effect<LeaderElection.LeaderElection["Service"], LeaderElectionError, Scope.Scope>

  /**
   * `LeaderElection.whileLeading` on the Lease with this name. Fails with
   * `AlreadyCampaigning` where one before it has not ended: where programs come
   * and go by name, wait for the end of one (`FiberMap.remove`) before the next.
   */
  readonly whileLeading: <A, E, R>(
    name: string,
    program: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E | LeaderElectionError, Exclude<R, Leadership | Scope.Scope>>

  /** `LeaderElection.whileLeadingForever` on the Lease with this name. */
  readonly whileLeadingForever: <A, E, R>(
    name: string,
    program: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E | LeaderElectionError, Exclude<R, Leadership | Scope.Scope>>
}>()("effect-kubernetes-leader-election/LeaderElections") {}

// How elections that begin together do so: so many at once, and the others apart, in nanoseconds.
const burst = 50n
const apart = 5_000_000n

/**
 * Makes the elections from the settings that they share, on one store.
 *
 * **Details**
 *
 * Their renewals are spread over the renewInterval: the first one of each term
 * comes after a random part of it. Elections that begin together would
 * otherwise renew together ever after. Of many that begin together, fifty do so
 * at once and the others 5 milliseconds apart: the requests of all of them at
 * once would take longer than the time limit of each.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  input?: Input
): Effect.Effect<LeaderElections["Service"], never, LeaseStore | Scope.Scope> =>
  Effect.gen(function*() {
    const store = yield* LeaseStore
    const elections = yield* RcMap.make({
      lookup: (name: string) =>
        LeaderElection.make.pipe(
          Effect.provideServiceEffect(
            LeaderElectionConfig.LeaderElectionConfig,
            LeaderElectionConfig.make({ ...input, name })
          ),
          Effect.provideService(LeaseStore, store),
          Effect.provideService(RenewalPhase, "spread")
        )
    })
    let closed = false
    // A map that is closed interrupts whoever asks it, without a word.
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        closed = true
      })
    )
    const get = (name: string) =>
      Effect.suspend(() =>
        closed
          ? Effect.die(
            new Error(
              `LeaderElections was asked for ${JSON.stringify(name)} after its layer was closed: ` +
                "use it in the scope of the layer that it comes from"
            )
          )
          : RcMap.get(elections, name)
      )
    let next: bigint | undefined
    const turn = Effect.flatMap(Clock.monotonicTimeNanos, (now) => {
      const earliest = now - burst * apart
      const begin = next === undefined || next < earliest ? earliest : next
      next = begin + apart
      return begin > now ? Effect.sleep(Duration.nanos(begin - now)) : Effect.void
    })
    return LeaderElections.of({
      get,
      whileLeading: (name, program) =>
        Effect.scopedWith((scope) =>
          Effect.flatMap(
            Effect.andThen(turn, Scope.provide(get(name), scope)),
            (election) => election.whileLeading(program)
          )
        ),
      whileLeadingForever: (name, program) =>
        Effect.scopedWith((scope) =>
          Effect.flatMap(
            Effect.andThen(turn, Scope.provide(get(name), scope)),
            (election) => election.whileLeadingForever(program)
          )
        )
    })
  })

/**
 * Elections on whatever store is provided.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (input?: Input): Layer.Layer<LeaderElections, never, LeaseStore> =>
  Layer.effect(LeaderElections, make(input))
