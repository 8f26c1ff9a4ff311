/**
 * The types that are promised, checked by the compiler: `npm run check` fails where one of them changes.
 */
import { describe, expectTypeOf, it } from "@effect/vitest"
import type { Duration, Layer, Scope, Stream } from "effect"
import { Context, Effect } from "effect"
import {
  type KubernetesError,
  LeaderElection,
  type LeaderElectionError,
  LeaderElectionLive,
  type LeaderElections,
  type LeaderElectionStatus,
  Leadership,
  type LeaseStore,
  LocalLeaderElection
} from "effect-kubernetes-leader-election"
import { type LeadershipHandle, runAsLeader } from "effect-kubernetes-leader-election/promise"

class Database
  extends Context.Service<Database, { readonly close: Effect.Effect<number, "down"> }>()("test/Database")
{}

type Failure = LeaderElectionError.LeaderElectionError
type Election = LeaderElection.LeaderElection

// Needs the term, a scope and a service; fails with an error of its own.
const program = Effect.gen(function*() {
  const { ensure } = yield* Leadership
  yield* Effect.addFinalizer(() => Effect.void)
  yield* ensure
  return yield* Effect.flatMap(Database, ({ close }) => close)
})

describe("types", () => {
  it("whileLeading provides the term and a scope, and adds the election and its errors", () => {
    expectTypeOf(LeaderElection.whileLeading(program)).toEqualTypeOf<
      Effect.Effect<number, "down" | Failure, Election | Database>
    >()
    expectTypeOf(LeaderElection.whileLeadingForever(program)).toEqualTypeOf<
      Effect.Effect<number, "down" | Failure, Election | Database>
    >()
    expectTypeOf(LeaderElection.whileLeading(Effect.void)).toEqualTypeOf<Effect.Effect<void, Failure, Election>>()
  })

  it("the service has the same without the election", () => {
    expectTypeOf((election: Election["Service"]) => election.whileLeading(program)).returns.toEqualTypeOf<
      Effect.Effect<number, "down" | Failure, Database>
    >()
    expectTypeOf((election: Election["Service"]) => election.whileLeadingForever(program)).returns.toEqualTypeOf<
      Effect.Effect<number, "down" | Failure, Database>
    >()
  })

  it("acquire needs a scope, and gives the term", () => {
    expectTypeOf(LeaderElection.acquire).toEqualTypeOf<
      Effect.Effect<Leadership["Service"], Failure, Election | Scope.Scope>
    >()
  })

  it("what can be read needs the election and cannot fail", () => {
    expectTypeOf(LeaderElection.status).toEqualTypeOf<
      Effect.Effect<LeaderElectionStatus.LeaderElectionStatus, never, Election>
    >()
    expectTypeOf(LeaderElection.changes).toEqualTypeOf<
      Stream.Stream<LeaderElectionStatus.LeaderElectionStatus, never, Election>
    >()
  })

  it("a term answers without services", () => {
    expectTypeOf<Leadership["Service"]["fencingToken"]>().toEqualTypeOf<bigint>()
    expectTypeOf<Leadership["Service"]["ensure"]>().toEqualTypeOf<Effect.Effect<void, Failure>>()
    expectTypeOf<Leadership["Service"]["confirm"]>().toEqualTypeOf<Effect.Effect<void, Failure>>()
    expectTypeOf<Leadership["Service"]["isValid"]>().toEqualTypeOf<Effect.Effect<boolean>>()
    expectTypeOf<Leadership["Service"]["remaining"]>().toEqualTypeOf<Effect.Effect<Duration.Duration>>()
  })

  it("each entry says what it needs and how it fails", () => {
    expectTypeOf(LeaderElectionLive).toEqualTypeOf<
      Layer.Layer<Election, Failure | KubernetesError.KubernetesConfigError>
    >()
    expectTypeOf(LocalLeaderElection.layer()).toEqualTypeOf<Layer.Layer<Election, Failure>>()
    expectTypeOf(LeaderElection.layer({ name: "x" })).toEqualTypeOf<
      Layer.Layer<Election, Failure, LeaseStore.LeaseStore>
    >()
    expectTypeOf((elections: LeaderElections.LeaderElections["Service"]) => elections.whileLeading("x", program))
      .returns.toEqualTypeOf<Effect.Effect<number, "down" | Failure, Database>>()
  })

  it("a program outside of a term does not compile where it needs one", () => {
    // @ts-expect-error: Leadership is missing
    const run: Effect.Effect<void, unknown> = Effect.flatMap(Leadership, ({ ensure }) => ensure)
    void run
  })

  it("promises give what the program gives", () => {
    expectTypeOf(runAsLeader<bigint>).returns.toEqualTypeOf<Promise<bigint>>()
    expectTypeOf<LeadershipHandle["fencingToken"]>().toEqualTypeOf<bigint>()
  })
})
