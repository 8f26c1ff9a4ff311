/**
 * Which member should lead which shard: from what one member sees, which free
 * shards belong to which member, and which shards a member gives up.
 *
 * The rule decides who campaigns when, and nothing else: the Lease of a shard
 * alone decides who leads it. So members with different views cost balance,
 * never a second leader. Members with the same view come to the same plan, and
 * do not get in each other's way.
 *
 * @internal
 */

/** A member as its own Lease describes it. */
export interface Member {
  readonly identity: string
  /** Members of one generation run the same version of the program. */
  readonly generation: string
  /** The version of the first write into its Lease: a later member has a larger one. */
  readonly joined: bigint
  /** It is about to end, or is being drained: it gives up what it leads. */
  readonly leaving: boolean
  /** Stands for its list of shards: members with the same list have the same. */
  readonly list: string
}

/** A shard as its Lease describes it. */
export interface Shard {
  readonly name: string
  /** The identity of its holder; `undefined` where the Lease is free. */
  readonly holder: string | undefined
  /** The version of its Lease; 0n where there is none. */
  readonly version: bigint
}

/** What one member sees: its own list of shards, and what else members lead. */
export interface View {
  readonly members: ReadonlyArray<Member>
  readonly shards: ReadonlyArray<Shard>
}

/** What follows from a view, for every member. */
export interface Plan {
  /** How many shards each member leads at least, where all is at rest. */
  readonly least: number
  /** Members that may take free shards: those of the newest generation that stay. */
  readonly takers: ReadonlySet<string>
  /** Members that may lead more than they do now. */
  readonly wanting: ReadonlySet<string>
  /** Whether any member stays. */
  readonly staffed: boolean
  /** The member to take each free shard at once. */
  readonly takes: ReadonlyMap<string, string>
  /** What members give up, in the order in which they do. */
  readonly gives: ReadonlyMap<string, ReadonlyArray<string>>
}

// --- Ranking ---

const hash = (text: string): number => {
  let h = 0x811c9dc5
  for (let i = 0; i < text.length; i++) {
    h = Math.imul(h ^ text.charCodeAt(i), 0x01000193)
  }
  return h
}

/**
 * How high a member ranks for a shard. Ranks of other members and shards do not
 * enter, so a member that comes or goes changes no other's (rendezvous hashing).
 */
export const rank = (member: string, shard: string): number => {
  let h = hash(member) ^ Math.imul(hash(shard), 0x9e3779b1)
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return (h ^ (h >>> 16)) >>> 0
}

// Of names, which are never the same.
const compare = (left: string, right: string): number => left < right ? -1 : 1

const highest = (members: ReadonlyArray<string>, shard: string): string | undefined => {
  let best: string | undefined
  let bestRank = -1
  for (const member of members) {
    const own = rank(member, shard)
    if (own > bestRank) {
      best = member
      bestRank = own
    }
  }
  return best
}

// --- The plan ---

/**
 * The generation that takes what is free: that of the newest member that stays.
 * After an undo half-way the generation that returns is the newest again, while
 * a container that restarts in an old Pod is not a new member.
 */
export const newestGeneration = (staying: ReadonlyArray<Member>): string | undefined => {
  let newest: Member | undefined
  for (const member of staying) {
    if (newest === undefined || member.joined > newest.joined) {
      newest = member
    }
  }
  return newest?.generation
}

/**
 * Plans for all members.
 *
 * **Details**
 *
 * With L shards and P members that stay, each leads ⌊L/P⌋, and L mod P of them
 * one more. Each free shard goes to the member of those below their number that
 * ranks highest for it; in the order in which they became free, which all
 * members see alike, so that one that becomes free later changes nothing for
 * those before it, nor one that is taken sooner for the others.
 *
 * While members of several generations stay, only the newest takes, and nobody
 * gives on account of balance: what an old member leads moves when that member
 * ends, and then once. Nor while their lists of shards differ: what a member
 * does not have on its list it would not take.
 */
export const plan = (view: View): Plan => {
  // In one order for all members, whatever the order of what they saw.
  const staying = view.members.filter(({ leaving }) => !leaving).sort((a, b) => compare(a.identity, b.identity))
  const generation = newestGeneration(staying)
  const takers = staying.filter((member) => member.generation === generation).map(({ identity }) => identity)
  const least = staying.length === 0 ? 0 : Math.floor(view.shards.length / staying.length)
  const extra = view.shards.length - least * staying.length

  const held = new Map<string, Array<string>>(view.members.map(({ identity }) => [identity, []]))
  const free: Array<Shard> = []
  for (const shard of view.shards) {
    if (shard.holder === undefined) {
      free.push(shard)
    } else {
      held.get(shard.holder)?.push(shard.name)
    }
  }

  const counts = new Map(staying.map(({ identity }) => [identity, held.get(identity)!.length]))
  // How many each taker may lead: the least, and one more for as many as no surplus stands for. Neither changes when a
  // shard becomes free, nor when a taker takes its part: so members that see these in another order plan the same.
  let more = extra
  for (const count of counts.values()) {
    more -= Math.max(0, count - least)
  }
  const first = view.shards.reduce((name, shard) => shard.name < name ? shard.name : name, view.shards[0]?.name ?? "")
  const withOneMore = new Set(
    takers.filter((identity) => counts.get(identity)! <= least)
      .sort((a, b) => rank(b, first) - rank(a, first) || compare(a, b))
      .slice(0, Math.max(0, more))
  )
  const room = (): ReadonlyArray<string> =>
    takers.filter((identity) => counts.get(identity)! < least + (withOneMore.has(identity) ? 1 : 0))

  const wanting = new Set(room())
  const takes = new Map<string, string>()
  for (
    const { name } of free.sort((a, b) =>
      a.version === b.version ? compare(a.name, b.name) : a.version < b.version ? -1 : 1
    )
  ) {
    const taker = highest(room(), name)
    if (taker === undefined) {
      break
    }
    takes.set(name, taker)
    counts.set(taker, counts.get(taker)! + 1)
  }

  const gives = new Map<string, ReadonlyArray<string>>()
  const give = (identity: string, surplus: number) => {
    const own = held.get(identity)!
    if (surplus > 0 && own.length > 0) {
      const order = own.map((name) => ({ name, rank: rank(identity, name) }))
      gives.set(
        identity,
        order.sort((a, b) => a.rank - b.rank || compare(a.name, b.name)).slice(0, surplus).map(({ name }) => name)
      )
    }
  }
  if (staying.length > 0) {
    for (const { identity, leaving } of view.members) {
      give(identity, leaving ? view.shards.length : 0)
    }
    if (takers.length === staying.length && staying.every(({ list }) => list === staying[0]!.list)) {
      // Members that lead more than the least keep one more, so that the fewest shards move: always the same members,
      // however far each has come.
      takers.filter((identity) => counts.get(identity)! > least).forEach((identity, index) =>
        give(identity, counts.get(identity)! - least - (index < extra ? 1 : 0))
      )
    }
  }
  return { least, takers: new Set(takers), wanting, staffed: staying.length > 0, takes, gives }
}

// --- When ---

/** What a member has to do with a shard that is free. */
export type Turn = "First" | "Next" | "Last" | "Never"

/**
 * Whose turn a free shard is: first that of the member it belongs to, next that
 * of any other below its number, and last anybody's, since a leader matters
 * more than balance. A leaving member takes nothing while another stays.
 */
export const turnOf = (plan: Plan, self: Member, shard: string): Turn => {
  if (self.leaving && plan.staffed) {
    return "Never"
  }
  return plan.takes.get(shard) === self.identity ? "First" : plan.wanting.has(self.identity) ? "Next" : "Last"
}

/**
 * How long after it became free a member takes a shard; retryPeriod at most.
 *
 * One that has just joined waits until three quarters of a retryPeriod have
 * passed since, so that members that start together see each other before the
 * first takes everything, and still comes before those that come last.
 */
export const deference = (
  turn: Exclude<Turn, "Never">,
  freeAt: bigint,
  joinedAt: bigint,
  retryPeriod: bigint
): bigint => {
  const asked = turn === "First" ? 0n : turn === "Next" ? retryPeriod / 2n : retryPeriod
  const newcomer = (3n * retryPeriod) / 4n
  const known = joinedAt + newcomer - freeAt
  const waits = known < newcomer ? known : newcomer
  return waits > asked ? waits : asked
}

/**
 * How long a member leaves to others what it gave up: longer than any of them
 * waits for its turn.
 */
export const standBack = (retryPeriod: bigint): bigint => (3n * retryPeriod) / 2n

/**
 * For how long after a sign of life of its Lease a member counts. A healthy one
 * renews every third of leaseDuration, and one that ended without a word must
 * not be given its own shards when their Leases run out: those have been seen
 * renewed at most a third of leaseDuration before its own.
 */
export const memberWindow = (leaseDuration: bigint): bigint => leaseDuration / 2n

/**
 * The duration of a member's Lease that counts: what it says, but at most four
 * times one's own. Members that are renewed less often, while leaseDuration is
 * being changed, count all the same; one that died with a duration of years
 * does not keep its part for as long.
 */
export const memberDuration = (holders: bigint, own: bigint): bigint => holders < 4n * own ? holders : 4n * own

/** For how long membership must not have changed before anything is given on account of balance. */
export const settleTime = (leaseDuration: bigint): bigint => leaseDuration / 3n

/** How many shards a member gives up at a time. */
export const givesAtOnce = 4

/** How many shards in a row came back that a member gave for balance, and how long ago the last one did. */
export interface Returns {
  readonly count: number
  readonly since: bigint
}

/** Nothing came back. */
export const noReturns: Returns = { count: 0, since: 0n }

/**
 * How long a member gives nothing after a shard came back: nobody took it, and
 * what has happened once happens again. A member may count and yet take nothing,
 * because it does not see the others, or sees them too late, or has tried a
 * shard too often. Doubled each time, to 64 times the settle time.
 */
export const returnTime = (count: number, leaseDuration: bigint): bigint =>
  count === 0 ? 0n : settleTime(leaseDuration) << BigInt(Math.min(count, 6))

/**
 * What a member gives up now: nothing before membership has settled (a leaving
 * member need not wait), and a few at a time, counting those given up that have
 * no new leader yet; one at a time, and after a while, where the last one came
 * back.
 */
export const givesNow = (
  plan: Plan,
  self: Member,
  giving: ReadonlySet<string>,
  sinceChange: bigint,
  returns: Returns,
  leaseDuration: bigint
): ReadonlyArray<string> => {
  const waits = sinceChange < settleTime(leaseDuration) || returns.since < returnTime(returns.count, leaseDuration)
  const atOnce = self.leaving || returns.count === 0 ? givesAtOnce : 1
  return waits && !self.leaving
    ? []
    : (plan.gives.get(self.identity) ?? [])
      .filter((name) => !giving.has(name))
      .slice(0, Math.max(0, atOnce - giving.size))
}
