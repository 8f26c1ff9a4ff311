/**
 * What one member sees of its group: the Leases of members and shards as the
 * watch shows them, and what follows from them at a moment.
 *
 * @internal
 */
import type { LeaseRecord } from "../../LeaseRecord.ts"
import type { LeaseChange } from "../../LeaseStore.ts"
import { isReleased } from "../protocol/decision.ts"
import { isSignOfLife } from "../protocol/observation.ts"
import { type Member, memberDuration, memberWindow, type Shard, type View } from "../protocol/shards.ts"
import { holdersDuration } from "../protocol/timing.ts"

const prefix = "effect-kubernetes-leader-election"

/** Labels of the Leases of a group, and annotations of its member Leases. */
export const labels = {
  /** The group, on every Lease of it. */
  group: `${prefix}/group`,
  /** `member` or `shard`. */
  role: `${prefix}/role`,
  generation: `${prefix}/generation`
} as const
export const annotations = {
  joined: `${prefix}/joined`,
  leaving: `${prefix}/leaving`,
  list: `${prefix}/shards`
} as const

/** 53 bits of a text, in base 36. */
export const digest = (text: string): string => {
  let high = 0xdeadbeef
  let low = 0x41c6ce57
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    high = Math.imul(high ^ code, 2654435761)
    low = Math.imul(low ^ code, 1597334677)
  }
  high = Math.imul(high ^ (high >>> 16), 2246822507) ^ Math.imul(low ^ (low >>> 13), 3266489909)
  low = Math.imul(low ^ (low >>> 16), 2246822507) ^ Math.imul(high ^ (high >>> 13), 3266489909)
  return (4294967296 * (2097151 & low) + (high >>> 0)).toString(36).padStart(11, "0")
}

/** The Lease of a shard. */
export const shardLease = (group: string, shard: string): string => `${group}-${shard}`

/** The Lease of a member. Outside of Pods its identity is a new one with each start. */
export const memberLease = (group: string, identity: string): string => `${group}-member-${digest(identity)}`

/** Stands for a list of shards: its length is for people. */
export const listDigest = (shards: Iterable<string>): string => {
  const sorted = [...shards].sort()
  return `${sorted.length}-${digest(sorted.join("\n"))}`
}

interface Seen {
  readonly lease: LeaseRecord
  readonly signOfLifeAt: bigint
  /** Whether a sign of life was seen here: what the first look shows may have been left behind long ago. */
  readonly renewed: boolean
  /** The version at which it was seen first under this holder. */
  readonly since: bigint
}

/** A member, as its Lease shows it. */
export interface SeenMember extends Member {
  /** The name of its Lease. */
  readonly lease: string
  /** When it no longer counts, where nothing is heard of it but of others. */
  readonly expiresAt: bigint
}

export interface Options {
  readonly group: string
  readonly identity: string
  /** Nanoseconds; where a Lease does not say. */
  readonly leaseDuration: bigint
}

type LeaseEvent = Exclude<LeaseChange, { _tag: "Opened" | "Bookmark" }>

/** Mutable, and without effects: the time is given with each question. */
export class Group {
  readonly options: Options
  private readonly seen = new Map<string, Seen>()
  private readonly claims = new Map<string, bigint>()
  /** Leases that an election has found free before the watch of the group has shown it. */
  private readonly free = new Set<string>()
  /** What the watch, begun anew without its past, has not shown again yet, and until when it was heard of. */
  private stale = new Map<string, bigint>()
  private openedAt = 0n
  /** When the watch last said anything. */
  private reportedAt = 0n
  /** When the first of the members runs out that count. */
  private expiry = 2n ** 63n
  private membership = ""
  /** The latest renewTime of a Lease that another holds. */
  private newestRenewal = 0n
  /** When the members last changed. */
  changedAt = 0n
  /** Counts the changes of what {@link view} shows, but that time has passed. */
  revision = 0

  constructor(options: Options) {
    this.options = options
  }

  private belongs(lease: LeaseRecord): boolean {
    return lease.labels[labels.group] === this.options.group || lease.name.startsWith(`${this.options.group}-`)
  }

  /**
   * Whether it says nothing new. What a watch shows first replaces what is known,
   * whatever its version: after etcd was restored versions have stepped back.
   */
  private isOld({ _tag, lease }: LeaseEvent, before: Seen | undefined): boolean {
    const stale = this.stale.delete(lease.name)
    return before !== undefined && (stale
      ? _tag === "Applied" && lease.resourceVersion === before.lease.resourceVersion &&
        !isSignOfLife(before.lease, lease)
      : lease.resourceVersion <= before.lease.resourceVersion)
  }

  /** Forgets what was deleted while no watch was open: a watch that has been open for so long would have shown it. */
  private forgetDeleted(now: bigint): void {
    if (this.stale.size > 0 && now >= this.openedAt + this.options.leaseDuration) {
      this.revision++
      this.stale.forEach((_, name) => this.seen.delete(name))
      this.stale.clear()
    }
  }

  /** Whether the change matters to the group: more than one more renewal. */
  observe(change: LeaseChange, now: bigint): boolean {
    if (change._tag === "Opened") {
      this.stale = new Map(Array.from(this.seen.keys(), (name) => [name, this.stale.get(name) ?? this.reportedAt]))
      this.openedAt = now
      return false
    }
    this.reportedAt = now
    // A member that has run out counts until the watch says something.
    const runsOut = this.expiry <= now
    return change._tag === "Bookmark" ? runsOut : this.record(change, now) || runsOut
  }

  private record(change: LeaseEvent, now: bigint): boolean {
    const { lease } = change
    const before = this.seen.get(lease.name)
    if (!this.belongs(lease) || this.isOld(change, before)) {
      return false
    }
    const holder = this.holder(lease.name, now)
    // That it was released may be shown after one's own claim on it.
    if (lease.holderIdentity !== "") {
      this.claims.delete(lease.name)
    }
    this.free.delete(lease.name)
    if (change._tag === "Deleted") {
      this.revision++
      return this.seen.delete(lease.name)
    }
    const same = before !== undefined && before.lease.holderIdentity === lease.holderIdentity
    const renewed = before !== undefined && isSignOfLife(before.lease, lease)
    const { holderIdentity, renewTime } = lease
    if (
      holderIdentity !== "" && holderIdentity !== this.options.identity &&
      renewTime !== undefined && renewTime > this.newestRenewal
    ) {
      this.newestRenewal = renewTime
    }
    this.seen.set(lease.name, {
      lease,
      signOfLifeAt: before === undefined || renewed ? now : before.signOfLifeAt,
      renewed: renewed || before?.renewed === true,
      since: same ? before.since : lease.resourceVersion
    })
    const after = this.holder(lease.name, now)
    // Those that are free have an order: that of their versions.
    if (isMember(lease) || after !== holder || after === undefined) {
      this.revision++
    }
    return !same || isMember(lease)
  }

  private duration(lease: LeaseRecord): bigint {
    const { leaseDuration } = this.options
    return memberDuration(holdersDuration(lease, leaseDuration), leaseDuration)
  }

  /**
   * Whether a Lease was left behind by a member that died before this one
   * looked: others have been renewed for longer than its duration since. Wall
   * clocks that disagree by as much hide a living member until its next renewal.
   * That costs balance for a moment; to count a dead one would cost it in each
   * rollout, since a newcomer takes its part before any window has passed.
   */
  private isLeftBehind({ lease, renewed }: Seen): boolean {
    return !renewed && lease.holderIdentity !== this.options.identity && lease.renewTime !== undefined &&
      lease.renewTime + this.duration(lease) / 1000n < this.newestRenewal
  }

  private expiresAt({ lease, signOfLifeAt }: Seen): bigint {
    return signOfLifeAt + memberWindow(this.duration(lease))
  }

  /**
   * Until when nothing was heard of a Lease. Silence says something about its
   * holder only as far as the watch has spoken since: where it has not, it may be
   * the watch that is silent, and then all others would seem to have gone.
   */
  private heardUntil(lease: string): bigint {
    return this.stale.get(lease) ?? this.reportedAt
  }

  /** Members with a sign of life, in the order of their identities. */
  members(now: bigint): ReadonlyArray<SeenMember> {
    this.forgetDeleted(now)
    // One for each identity: where it stands in several Leases, that which was written last.
    const found = new Map<string, Seen>()
    for (const seen of this.seen.values()) {
      const { lease } = seen
      const other = found.get(lease.holderIdentity)
      if (
        isMember(lease) && lease.labels[labels.group] === this.options.group && lease.holderIdentity !== "" &&
        this.expiresAt(seen) > this.heardUntil(lease.name) && !this.isLeftBehind(seen) &&
        (other === undefined || other.lease.resourceVersion < lease.resourceVersion)
      ) {
        found.set(lease.holderIdentity, seen)
      }
    }
    const members = Array.from(found, ([identity, seen]): SeenMember => ({
      identity,
      generation: seen.lease.labels[labels.generation] ?? "",
      joined: versionIn(seen.lease.annotations[annotations.joined]) ?? seen.since,
      leaving: seen.lease.annotations[annotations.leaving] === "true",
      list: seen.lease.annotations[annotations.list] ?? "",
      lease: seen.lease.name,
      expiresAt: this.stale.has(seen.lease.name) ? this.openedAt + this.options.leaseDuration : this.expiresAt(seen)
    }))
    members.sort((a, b) => a.identity < b.identity ? -1 : 1)
    this.expiry = members.reduce((first, { expiresAt }) => expiresAt < first ? expiresAt : first, 2n ** 63n)
    const membership = members.map(({ generation, identity, leaving }) => `${identity} ${generation} ${leaving}`).join()
    if (membership !== this.membership) {
      this.membership = membership
      this.changedAt = now
      this.revision++
    }
    return members
  }

  /** Does something to what is known of a Lease, and counts it where the Lease has another holder then. */
  private change(lease: string, now: bigint, f: () => void): void {
    const before = this.holder(lease, now)
    f()
    if (this.holder(lease, now) !== before) {
      this.revision++
    }
  }

  /** Counts a shard as one's own until its Lease shows a holder: answers and events come in any order. */
  claim(lease: string, now: bigint, until: bigint): void {
    this.change(lease, now, () => this.claims.set(lease, until))
  }

  /**
   * Counts a shard as free until its Lease changes: its election has found that,
   * at a version where there is a Lease. It may hear of that after the watch of
   * the group has shown who took it since.
   */
  found(lease: string, version: bigint | undefined, now: bigint): void {
    const seen = this.seen.get(lease)
    if (version === undefined || seen === undefined || seen.lease.resourceVersion <= version) {
      this.change(lease, now, () => this.free.add(lease))
    }
  }

  /** Another took it: what its Lease showed last counts again. */
  refused(lease: string, now: bigint): void {
    this.change(lease, now, () => {
      this.claims.delete(lease)
      this.free.delete(lease)
    })
  }

  /** The holder of a shard that is led, as far as this member can see; itself where it is about to take it. */
  holder(lease: string, now: bigint): string | undefined {
    const claimed = this.claims.get(lease)
    return claimed !== undefined && claimed > now ? this.options.identity : this.shown(lease)
  }

  /** The holder that a Lease shows, as long as it is held. */
  shown(lease: string): string | undefined {
    const seen = this.seen.get(lease)
    return seen === undefined || this.free.has(lease) || seen.lease.holderIdentity === "" || isReleased(seen.lease) ||
        seen.signOfLifeAt + holdersDuration(seen.lease, this.options.leaseDuration) <= this.heardUntil(lease)
      ? undefined
      : seen.lease.holderIdentity
  }

  /** The other group that a Lease belongs to, if it does. */
  ownerOf(lease: string): string | undefined {
    const owner = this.seen.get(lease)?.lease.labels[labels.group]
    return owner === this.options.group ? undefined : owner
  }

  /** The shards of a list, and what else members lead. */
  view(list: ReadonlySet<string>, now: bigint, claims: "claims" | "none" = "claims"): View {
    const holderOf = (name: string) => claims === "claims" ? this.holder(name, now) : this.shown(name)
    const { group } = this.options
    const shards: Array<Shard> = []
    const names = new Set<string>()
    for (const shard of list) {
      const name = shardLease(group, shard)
      names.add(name)
      shards.push({
        name: shard,
        holder: holderOf(name),
        version: this.seen.get(name)?.lease.resourceVersion ?? 0n
      })
    }
    for (const [name, { lease }] of this.seen) {
      if (lease.labels[labels.group] === group && lease.labels[labels.role] === "shard" && !names.has(name)) {
        const holder = holderOf(name)
        if (holder !== undefined) {
          shards.push({ name: name.slice(group.length + 1), holder, version: lease.resourceVersion })
        }
      }
    }
    return { members: this.members(now), shards }
  }

  /** Member Leases that nobody holds: a member without a Pod takes one of them instead of creating another. */
  releasedMembers(): ReadonlyArray<string> {
    return [...this.seen.values()]
      .filter(({ lease }) => lease.labels[labels.group] === this.options.group && isMember(lease) && isReleased(lease))
      .map(({ lease }) => lease.name)
  }
}

const isMember = ({ labels: of }: LeaseRecord): boolean => of[labels.role] === "member"

/** The version that an annotation says; nothing where it is malformed: anybody may have written it. */
export const versionIn = (text: string | undefined): bigint | undefined =>
  text !== undefined && /^[0-9]{1,20}$/.test(text) ? BigInt(text) : undefined
