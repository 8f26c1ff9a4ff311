/**
 * What the Leases of a group of shards say to a person who looks at them once.
 * Pure.
 *
 * @internal
 */
import * as LeaderShards from "../../LeaderShards.ts"
import type { LeaseRecord } from "../../LeaseRecord.ts"
import { line } from "../shared/printable.ts"
import { type State, table, toStatus } from "./lease.ts"

export interface Member {
  readonly identity: string
  readonly generation: string
  readonly state: State
  readonly leaving: boolean
  /** How many shards it holds. */
  readonly leads: number
  /** Stands for its list of shards: members with the same list have the same. */
  readonly list: string
  readonly ageSeconds: number | null
}

export interface Group {
  readonly group: string
  readonly namespace: string
  readonly members: ReadonlyArray<Member>
  readonly shards: ReadonlyArray<{ readonly shard: string; readonly state: State; readonly holder: string | null }>
  /** What is not as it should be, one sentence for each. */
  readonly problems: ReadonlyArray<string>
}

const many = (count: number, noun: string): string => `${count} ${noun}${count === 1 ? "" : "s"}`

/** `now` is the API server's clock where it is known, in Unix milliseconds. */
export const toGroup = (
  group: string,
  namespace: string,
  leases: ReadonlyArray<LeaseRecord>,
  now: Parameters<typeof toStatus>[1]
): Group => {
  const seen = leases.map((lease) => ({ lease, status: toStatus(lease, now) }))
  const roleOf = (lease: LeaseRecord) => lease.labels[LeaderShards.labels.role]
  const shards = seen.filter(({ lease }) => roleOf(lease) === "shard").map(({ status }) => ({
    shard: status.name.slice(group.length + 1),
    state: status.state,
    holder: status.holder
  }))
  const held = (identity: string) =>
    shards.filter(({ holder, state }) => state === "held" && holder === identity).length
  const members = seen
    .filter(({ lease }) => roleOf(lease) === "member" && lease.holderIdentity !== "")
    .map(({ lease, status }): Member => ({
      identity: lease.holderIdentity,
      generation: lease.labels[LeaderShards.labels.generation] ?? "",
      state: status.state,
      leaving: lease.annotations[LeaderShards.annotations.leaving] === "true",
      leads: held(lease.holderIdentity),
      list: lease.annotations[LeaderShards.annotations.list] ?? "",
      ageSeconds: status.ageSeconds
    }))
    .sort((a, b) => a.identity < b.identity ? -1 : 1)
  return { group, namespace, members, shards, problems: problemsOf(members, shards) }
}

const problemsOf = (members: ReadonlyArray<Member>, shards: Group["shards"]): ReadonlyArray<string> => {
  const staying = members.filter(({ leaving, state }) => state === "held" && !leaving)
  const problems: Array<string> = []
  const gone = members.filter(({ state }) => state === "expired")
  if (gone.length > 0) {
    problems.push(
      `${many(gone.length, "member")} not renewed in time: ${gone.map(({ identity }) => identity).join(", ")}`
    )
  }
  // Shards that are no longer on any list stay behind, released.
  const expired = shards.filter(({ state }) => state === "expired")
  if (expired.length > 0) {
    problems.push(`${many(expired.length, "shard")} not renewed in time: ${some(expired.map(({ shard }) => shard))}`)
  }
  const listed = Math.max(0, ...staying.map(({ list }) => Number(/^\d+/.exec(list)?.[0] ?? 0)))
  const led = shards.filter(({ state }) => state === "held").length
  if (led < listed) {
    problems.push(`${listed - led} of ${many(listed, "listed shard")} without a leader`)
  }
  if (new Set(staying.map(({ list }) => list)).size > 1) {
    problems.push("the members' lists of shards differ: nothing moves for balance until they are the same")
  }
  const generations = new Set(staying.map(({ generation }) => generation))
  if (generations.size > 1) {
    problems.push(`${many(generations.size, "generation")}: a rollout is under way, and nothing moves for balance`)
  } else if (staying.length > 0) {
    const counts = staying.map(({ leads }) => leads)
    const spread = Math.max(...counts) - Math.min(...counts)
    if (spread > 1) {
      problems.push(`the members lead from ${Math.min(...counts)} to ${Math.max(...counts)} shards`)
    }
  }
  return problems
}

const some = (names: ReadonlyArray<string>): string =>
  names.length > 5 ? `${names.slice(0, 5).join(", ")} and ${names.length - 5} more` : names.join(", ")

export const toLines = ({ group, members, problems, shards }: Group): ReadonlyArray<string> => {
  const led = shards.filter(({ state }) => state === "held").length
  return [
    `${group}: ${many(members.length, "member")}, ${many(led, "shard")} led`,
    ...problems.map((problem) => `! ${line(problem)}`),
    "",
    ...table([
      ["MEMBER", "GENERATION", "LEADS", "STATE", "RENEWED"],
      ...members.map(({ ageSeconds, generation, identity, leads, leaving, state }) => [
        identity,
        generation === "" ? "-" : generation,
        String(leads),
        leaving ? "leaving" : state,
        ageSeconds === null ? "-" : `${Math.round(ageSeconds)}s`
      ])
    ])
  ]
}

/** Whether it is the record of a Lease of this group. */
export const isOf = (group: string) => (lease: LeaseRecord): boolean =>
  lease.labels[LeaderShards.labels.group] === group
