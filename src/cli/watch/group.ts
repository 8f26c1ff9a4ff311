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
import * as Stream from "effect/Stream"
import * as LeaderShards from "../../LeaderShards.ts"
import type { LeaseRecord } from "../../LeaseRecord.ts"
import { type LeaseChange, LeaseStore } from "../../LeaseStore.ts"
import { line } from "../shared/printable.ts"

/** What has been seen of a group, and what has changed since the last report. */
export class Watched {
  private readonly group: string
  private readonly holders = new Map<string, string>()
  private readonly members = new Map<string, string>()
  /** From whom to whom, and how many. */
  private readonly moves = new Map<string, number>()
  private readonly events: Array<string> = []
  /** Who led each shard last, and not any more. */
  private readonly last = new Map<string, string>()
  private begun = false

  constructor(group: string) {
    this.group = group
  }

  observe(change: LeaseChange): void {
    if (change._tag !== "Applied" && change._tag !== "Deleted") {
      return
    }
    const { lease } = change
    if (lease.labels[LeaderShards.labels.group] !== this.group) {
      return
    }
    const holder = change._tag === "Deleted" ? "" : lease.holderIdentity
    if (lease.labels[LeaderShards.labels.role] === "member") {
      this.observeMember(lease, holder)
    } else {
      this.observeShard(lease.name, holder)
    }
  }

  private observeMember(lease: LeaseRecord, holder: string): void {
    const before = this.members.get(lease.name)
    if (holder === "") {
      if (before !== undefined) {
        this.members.delete(lease.name)
        this.events.push(`${before} is gone`)
      }
      return
    }
    if (before !== holder) {
      this.members.set(lease.name, holder)
      this.events.push(`${holder} joins${generationOf(lease)}`)
    }
  }

  private observeShard(name: string, holder: string): void {
    const before = this.holders.get(name)
    if (holder === "") {
      if (before !== undefined) {
        this.holders.delete(name)
        this.last.set(name, before)
      }
    } else if (before !== holder) {
      const from = before ?? this.last.get(name)
      this.holders.set(name, holder)
      if (this.begun) {
        const move = `${from ?? "nobody"} -> ${holder}`
        this.moves.set(move, (this.moves.get(move) ?? 0) + 1)
      }
    }
  }

  /** What there is to report since the last time. */
  news(): ReadonlyArray<string> {
    const moved = [...this.moves.values()].reduce((sum, count) => sum + count, 0)
    if (this.begun && moved === 0 && this.events.length === 0) {
      return []
    }
    const counts = new Map([...this.members.values()].map((member) => [member, 0]))
    for (const holder of this.holders.values()) {
      counts.set(holder, (counts.get(holder) ?? 0) + 1)
    }
    const free = this.last.size === 0 ? 0 : [...this.last.keys()].filter((name) => !this.holders.has(name)).length
    const lines = [
      ...(this.begun ? this.events : []),
      ...(moved === 0 ? [] : [
        `${moved} moved: ${
          [...this.moves].map(([move, count]) => count === 1 ? move : `${move} (${count})`).join(", ")
        }`
      ]),
      `${[...counts].sort(([a], [b]) => a < b ? -1 : 1).map(([member, count]) => `${member} ${count}`).join(", ")}` +
      (free === 0 ? "" : `; free ${free}`)
    ]
    this.begun = true
    this.moves.clear()
    this.events.length = 0
    return lines
  }
}

const generationOf = ({ labels }: LeaseRecord): string => {
  const generation = labels[LeaderShards.labels.generation]
  return generation === undefined || generation === "" ? "" : ` (generation ${generation})`
}

/** Prints what changes, at most once a second. */
export const watchGroup = (group: string, namespace: string) =>
  Effect.gen(function*() {
    const store = yield* LeaseStore
    const watched = new Watched(group)
    const print = Effect.gen(function*() {
      const millis = yield* Clock.currentTimeMillis
      const time = DateTime.formatIso(DateTime.makeUnsafe(millis)).slice(11)
      for (const text of watched.news()) {
        yield* Console.log(`${time}  ${line(text, 2000)}`)
      }
    })
    yield* Effect.forkScoped(Effect.forever(Effect.andThen(Effect.sleep("1 second"), print)))
    const follow = Stream.runForEach(
      store.changes({ namespace, name: "" }, undefined),
      (change) => Effect.sync(() => watched.observe(change))
    )
    while (true) {
      yield* follow.pipe(
        Effect.catchIf((error) => error.reason._tag === "LeaseUnavailable", (error) => Effect.logWarning(error.message))
      )
      yield* Effect.sleep("1 second")
    }
  }).pipe(Effect.scoped)
