/**
 * The Lease of a member: an election of its own, whose writes say what the
 * others want to know of it.
 *
 * @internal
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Random from "effect/Random"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as LeaderElection from "../../LeaderElection.ts"
import { LeaderElectionConfig, type Settings } from "../../LeaderElectionConfig.ts"
import type { LeaderElectionError } from "../../LeaderElectionError.ts"
import type { LeaseKey, LeaseRecord, LeaseWrite } from "../../LeaseRecord.ts"
import { type LeaseResponse, LeaseStore } from "../../LeaseStore.ts"
import { annotations, type Group, labels, memberLease, versionIn } from "./group.ts"

/** What a member says of itself. */
export interface Description {
  readonly group: string
  readonly generation: string
  readonly list: () => string
  /** Whether it leaves from the beginning. */
  readonly leaving: boolean
}

export interface Membership {
  /** Holds the member Lease until the scope closes, then releases it. Fails where a person is needed. */
  readonly hold: Effect.Effect<never, LeaderElectionError>
  /** Writes soon what has changed. */
  readonly describe: Effect.Effect<void>
  /** Says that this member leaves, and waits until that is written, or for a requestTimeout. */
  readonly leave: Effect.Effect<void>
  readonly isLeaving: () => boolean
}

// oxlint-disable-next-line max-lines-per-function -- one member: what it makes shares its state
export const make = (
  store: LeaseStore["Service"],
  settings: Settings,
  group: Group,
  description: Description
): Effect.Effect<Membership, never, Scope.Scope> =>
  // oxlint-disable-next-line max-lines-per-function -- one member: what it makes shares its state
  Effect.gen(function*() {
    let name = memberLease(description.group, settings.identity)
    let joined: bigint | undefined
    let leaving = description.leaving
    /** Whether this process holds the member Lease. That it stands under this identity says less: an earlier one may have. */
    let held = false
    const isHeld = () => held
    /** What was written last, to see whether it still holds. */
    let written = ""
    /** `joined` of the record that a take is guarded by, as its election was shown it, where that is this member. */
    let joinedBefore: bigint | undefined
    const changed = Latch.makeUnsafe(false)
    const key = (): LeaseKey => ({ namespace: settings.namespace, name })

    const ownLabels = {
      [labels.group]: description.group,
      [labels.role]: "member",
      [labels.generation]: description.generation
    }
    const said = (): Record<string, string | null> => ({
      [annotations.joined]: joined === undefined ? null : `${joined}`,
      [annotations.leaving]: leaving ? "true" : null,
      [annotations.list]: description.list()
    })
    // A create cannot take away what is not there.
    const present = (entries: Record<string, string | null>) =>
      Object.fromEntries(Object.entries(entries).filter(([, value]) => value !== null))

    const described = (write: LeaseWrite, own: Record<string, string | null>): LeaseWrite => ({
      ...write,
      labels: { ...write.labels, ...ownLabels },
      annotations: { ...write.annotations, ...own }
    })
    const noteJoined = (version: bigint) => {
      // Versions step back where etcd is restored.
      if (joined === undefined || joined > version) {
        joined = version
        changed.openUnsafe()
      }
    }
    const show = ({ annotations: of, holderIdentity, labels: has }: LeaseRecord) => {
      // Under a new generation it is a new member, whatever its name: a StatefulSet's Pods keep theirs in a rollout.
      const isSame = holderIdentity === settings.identity && has[labels.generation] === description.generation
      joinedBefore = isSame ? versionIn(of[annotations.joined]) : undefined
    }
    const note = ({ lease }: LeaseResponse, own: Record<string, string | null>) =>
      Effect.sync(() => {
        show(lease)
        noteJoined(lease.resourceVersion)
        written = JSON.stringify(own)
      })
    const memberStore = LeaseStore.of({
      ...store,
      get: (key) => Effect.tap(store.get(key), ({ lease }) => Effect.sync(() => show(lease))),
      changes: (key, since) =>
        Stream.tap(store.changes(key, since), (change) =>
          Effect.sync(() => {
            if (change._tag === "Applied") {
              show(change.lease)
            }
          })),
      create: (key, write) =>
        Effect.suspend(() => {
          const own = said()
          return Effect.tap(store.create(key, described(write, present(own))), (answer) => note(answer, own))
        }),
      patch: (key, resourceVersion, write) =>
        Effect.suspend(() => {
          if (write.acquireTime !== undefined) {
            // A container that restarts is the member that it was, and no newer one.
            joined = joinedBefore
          }
          const own = said()
          return Effect.tap(store.patch(key, resourceVersion, described(write, own)), (answer) => note(answer, own))
        })
    })

    // One write of what has changed, guarded like every other; the election's own writes say it as well. Only of what is
    // held: any change of a record that is not would look like a sign of life of its holder.
    const write = Effect.gen(function*() {
      for (let attempts = 0; attempts < 5 && isHeld() && JSON.stringify(said()) !== written; attempts++) {
        const found = yield* store.get(key())
        if (!isHeld() || found.lease.holderIdentity !== settings.identity) {
          return
        }
        const own = said()
        const answer = yield* store.patch(key(), found.lease.resourceVersion, described({}, own)).pipe(
          Effect.catchIf((error) => error.reason._tag === "LeaseConflict", () => Effect.undefined)
        )
        if (answer !== undefined) {
          return yield* note(answer, own)
        }
      }
    }).pipe(
      Effect.timeoutOption(settings.requestTimeout),
      // A defect of the store is a failed attempt; the next renewal says the same.
      Effect.catchCause(() => Effect.void)
    )

    const holding = Effect.suspend(() => {
      held = true
      // The take was sent a while ago.
      if (JSON.stringify(said()) !== written) {
        changed.openUnsafe()
      }
      return Effect.never
    }).pipe(Effect.ensuring(Effect.sync(() => {
      held = false
    })))

    yield* Effect.gen(function*() {
      while (true) {
        yield* changed.await
        changed.closeUnsafe()
        yield* write
        // A list that changes all the time is written now and then.
        yield* Effect.sleep(Duration.divideUnsafe(settings.retryPeriod, 4))
      }
    }).pipe(Effect.forkScoped)

    const campaign = Effect.scopedWith((scope) =>
      LeaderElection.make.pipe(
        Effect.provideService(LeaderElectionConfig, { ...settings, name, newLease: "lead" }),
        Effect.provideService(LeaseStore, memberStore),
        Effect.provideService(Scope.Scope, scope),
        Effect.flatMap((election) =>
          Effect.raceFirst(
            election.whileLeadingForever(holding),
            // Another one was faster to take over a released member Lease.
            Stream.runDrain(Stream.takeUntil(
              election.changes,
              ({ _tag, leader }) =>
                _tag === "Following" && leader._tag === "Some" && leader.value !== settings.identity &&
                name !== memberLease(description.group, settings.identity)
            ))
          )
        )
      )
    )

    return {
      hold: Effect.gen(function*() {
        // With a Pod as its owner the Lease is deleted with it; without, one that another member left is used again.
        if (settings.pod === undefined) {
          // The watch shows those first.
          yield* Effect.sleep(Duration.divideUnsafe(settings.retryPeriod, 8))
        }
        const left = settings.pod === undefined ? group.releasedMembers() : []
        if (left.length > 0) {
          name = left[yield* Random.nextIntBetween(0, left.length - 1)]!
          yield* campaign
          name = memberLease(description.group, settings.identity)
        }
        yield* campaign
        return yield* Effect.never
      }),
      describe: Effect.sync(() => changed.openUnsafe()),
      leave: Effect.suspend(() => {
        leaving = true
        return write
      }),
      isLeaving: () => leaving
    }
  })
