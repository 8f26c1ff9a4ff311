/**
 * `effect-kubernetes-leader-election watch --group`: a line for each change of
 * a group of shards.
 *
 * @internal
 */
import * as Clock from "effect/Clock"
import * as Console from "effect/Console"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Stream from "effect/Stream"
import * as LeaderShards from "../../LeaderShards.ts"
import { isSignOfLife, type LeaseRecord } from "../../LeaseRecord.ts"
import { type LeaseChange, LeaseStore } from "../../LeaseStore.ts"
import { line } from "../shared/printable.ts"
import { patience, silent } from "./silence.ts"

/** A Lease of the group that somebody holds. */
interface Held {
  readonly lease: LeaseRecord
  /** When its last sign of life was seen. */
  readonly signOfLifeAt: number
  /** It was not renewed for its duration: its holder is gone. */
  readonly hasRunOut: boolean
}

const roleOf = ({ labels }: LeaseRecord): string | undefined => labels[LeaderShards.labels.role]

const isLeaving = ({ annotations }: LeaseRecord): boolean => annotations[LeaderShards.annotations.leaving] === "true"

/** How many shards are on its list. */
const listedBy = ({ annotations }: LeaseRecord): number =>
  Number(/^\d+/.exec(annotations[LeaderShards.annotations.list] ?? "")?.[0] ?? 0)

/**
 * What has been seen of a group, and what has changed since the last report. As
 * candidates do, it goes by signs of life and when they were seen. Times are
 * milliseconds on one clock that never goes back.
 */
export class Watched {
  private readonly group: string
  private readonly held = new Map<string, Held>()
  /** Said before the changes of the next report. */
  private readonly notes: Array<string> = []
  private sight: "not yet" | "blind" | "seen" = "not yet"
  // As they were reported last.
  private members = new Map<string, LeaseRecord>()
  /** Who led each shard last, whether or not it does so still. */
  private readonly leaders = new Map<string, string>()
  private begun = false

  constructor(group: string) {
    this.group = group
  }

  /** It cannot be seen from now on. */
  blind(reason: string): void {
    if (this.sight !== "blind") {
      this.sight = "blind"
      this.notes.push(`cannot be seen: ${reason}`)
    }
  }

  observe(change: LeaseChange, now: number): void {
    if (change._tag === "Opened") {
      // Who was silent while nobody looked is unknown.
      this.sight = "seen"
      for (const [name, seen] of this.held) {
        this.held.set(name, { ...seen, signOfLifeAt: now })
      }
    } else if (change._tag !== "Bookmark" && change.lease.labels[LeaderShards.labels.group] === this.group) {
      const { lease } = change
      const before = this.held.get(lease.name)
      if (change._tag === "Deleted" || lease.holderIdentity === "") {
        this.held.delete(lease.name)
      } else if (before === undefined || isSignOfLife(before.lease, lease)) {
        this.held.set(lease.name, { lease, signOfLifeAt: now, hasRunOut: false })
      } else {
        this.held.set(lease.name, { ...before, lease })
      }
    }
  }

  /** Those that were not renewed for their duration, as far as is seen; a last look shows whether that is so. */
  overdue(now: number): ReadonlyArray<LeaseRecord> {
    return this.sight !== "seen" ? [] : [...this.held.values()]
      .filter(({ hasRunOut, lease, signOfLifeAt }) =>
        !hasRunOut && now >= signOfLifeAt + (lease.leaseDurationSeconds ?? defaultDuration) * 1000
      )
      .map(({ lease }) => lease)
  }

  /** The last look at one that was overdue. */
  settle(name: string, found: LeaseRecord | undefined, now: number): void {
    const seen = this.held.get(name)
    if (seen !== undefined && found === undefined) {
      this.held.delete(name)
    } else if (found !== undefined) {
      this.observe({ _tag: "Applied", lease: found }, now)
      const after = this.held.get(name)
      if (after !== undefined && after.signOfLifeAt === seen?.signOfLifeAt) {
        this.held.set(name, { ...after, hasRunOut: true })
      }
    }
  }

  /** What there is to report since the last time. */
  news(): ReadonlyArray<string> {
    const notes = this.notes.splice(0)
    if (this.sight !== "seen") {
      return notes
    }
    const live = [...this.held.values()].filter(({ hasRunOut }) => !hasRunOut).map(({ lease }) => lease)
    const members = new Map(
      live.filter((lease) => roleOf(lease) === "member").map((lease) => [lease.holderIdentity, lease])
    )
    const shards = live.filter((lease) => roleOf(lease) !== "member")
    const changes = [...this.membersChanged(members), ...this.shardsMoved(shards)]
    const isFirst = !this.begun
    this.begun = true
    this.members = members
    return isFirst
      ? [...notes, summary(members, shards)]
      : changes.length === 0
      ? notes
      : [...notes, ...changes, summary(members, shards)]
  }

  private membersChanged(members: ReadonlyMap<string, LeaseRecord>): ReadonlyArray<string> {
    return [
      ...[...this.members.keys()].filter((identity) => !members.has(identity)).map((identity) => `${identity} is gone`),
      ...[...members].flatMap(([identity, lease]) => {
        const before = this.members.get(identity)
        return before === undefined
          ? [`${identity} joins${generationOf(lease)}`]
          : isLeaving(lease) && !isLeaving(before)
          ? [`${identity} leaves`]
          : []
      })
    ]
  }

  private shardsMoved(shards: ReadonlyArray<LeaseRecord>): ReadonlyArray<string> {
    const moves = new Map<string, number>()
    for (const { holderIdentity, name } of shards) {
      const from = this.leaders.get(name)
      if (from !== holderIdentity) {
        const move = `${from ?? "nobody"} -> ${holderIdentity}`
        moves.set(move, (moves.get(move) ?? 0) + 1)
        this.leaders.set(name, holderIdentity)
      }
    }
    const count = [...moves.values()].reduce((sum, each) => sum + each, 0)
    const each = [...moves].map(([move, times]) => times === 1 ? move : `${move} (${times})`)
    return count === 0 ? [] : [`${count} moved: ${each.join(", ")}`]
  }
}

/** Where a record has no duration, candidates take their own; this is the default one. */
const defaultDuration = 15

/** How many shards each leads, and how many of those that are listed nobody leads. */
const summary = (members: ReadonlyMap<string, LeaseRecord>, shards: ReadonlyArray<LeaseRecord>): string => {
  const counts = new Map([...members.keys()].map((identity) => [identity, 0]))
  for (const { holderIdentity } of shards) {
    counts.set(holderIdentity, (counts.get(holderIdentity) ?? 0) + 1)
  }
  const listed = Math.max(0, ...[...members.values()].filter((lease) => !isLeaving(lease)).map(listedBy))
  const free = Math.max(0, listed - shards.length)
  return (counts.size === 0
    ? "no members"
    : [...counts].sort(([a], [b]) => a < b ? -1 : 1).map(([member, count]) => `${member} ${count}`).join(", ")) +
    (free === 0 ? "" : `; free ${free}`)
}

const generationOf = ({ labels }: LeaseRecord): string => {
  const generation = labels[LeaderShards.labels.generation]
  return generation === undefined || generation === "" ? "" : ` (generation ${generation})`
}

/** Prints what changes, at most once a second. */
export const watchGroup = (group: string, namespace: string) =>
  Effect.gen(function*() {
    const store = yield* LeaseStore
    const clock = yield* Clock.Clock
    const now = () => Number(clock.monotonicTimeNanosUnsafe()) / 1e6
    const watched = new Watched(group)

    // A watch may be dead without anybody knowing: before a holder is called gone, its Lease is read once more.
    const settle = (lease: LeaseRecord) =>
      store.get(lease).pipe(
        Effect.map(({ lease: found }): LeaseRecord | undefined => found),
        Effect.catchIf((error) => error.reason._tag === "LeaseNotFound", () => Effect.succeed(undefined)),
        Effect.map((found) => watched.settle(lease.name, found, now())),
        // It is tried again a second later.
        Effect.catchIf((error) => error.reason._tag === "LeaseUnavailable", () => Effect.void)
      )
    const print = Effect.gen(function*() {
      yield* Effect.forEach(watched.overdue(now()), settle, { discard: true })
      const millis = yield* Clock.currentTimeMillis
      const time = DateTime.formatIso(DateTime.makeUnsafe(millis)).slice(11)
      for (const text of watched.news()) {
        yield* Console.log(`${time}  ${line(text, 2000)}`)
      }
    })
    const opened = yield* Latch.make(false)
    const silence = Effect.sleep(patience).pipe(
      Effect.andThen(Effect.sync(() => watched.blind(silent(store.server)))),
      Effect.raceFirst(opened.await),
      Effect.andThen(Effect.never)
    )
    const follow = Stream.runForEach(
      store.changes({ namespace, name: "" }, undefined),
      (change) => Effect.andThen(opened.open, Effect.sync(() => watched.observe(change, now())))
    ).pipe(
      Effect.raceFirst(silence),
      Effect.ensuring(opened.close),
      Effect.catchIf(
        ({ reason }) => reason._tag === "LeaseUnavailable" || reason._tag === "LeaseExpired",
        ({ reason }) => Effect.sync(() => watched.blind(reason.message))
      ),
      Effect.andThen(Effect.sleep("1 second")),
      Effect.forever
    )
    return yield* Effect.raceFirst(
      follow,
      Effect.forever(Effect.andThen(Effect.sleep("1 second"), print))
    )
  })
