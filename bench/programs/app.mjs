/**
 * The smallest program that uses the library, as in the README, on the built
 * library given as the argument.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Effect } from "effect"

const { LeaderElection, LeaderElectionLive } = await import(process.argv[2])

NodeRuntime.runMain(LeaderElection.whileLeading(Effect.never).pipe(Effect.provide(LeaderElectionLive)))
