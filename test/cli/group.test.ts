import { assert, describe, it } from "@effect/vitest"
import { toGroup, toLines } from "../../src/cli/status/group.ts"
import { Watched } from "../../src/cli/watch/group.ts"
import { annotations, labels } from "../../src/LeaderShards.ts"
import type { LeaseRecord } from "../../src/LeaseRecord.ts"
import { lease } from "../utils/leases.ts"

const now = Date.UTC(2026, 0, 1, 12)

const record = (
  name: string,
  role: "member" | "shard",
  holder: string,
  options: {
    readonly age?: number
    readonly generation?: string
    readonly leaving?: boolean
    readonly list?: string
  } = {}
): LeaseRecord =>
  lease({
    name: `tenants-${name}`,
    holderIdentity: holder,
    leaseDurationSeconds: holder === "" ? 1 : 15,
    renewTime: BigInt(now - (options.age ?? 2) * 1000) * 1000n,
    labels: {
      [labels.group]: "tenants",
      [labels.role]: role,
      ...(options.generation !== undefined && { [labels.generation]: options.generation })
    },
    annotations: {
      ...(options.leaving === true && { [annotations.leaving]: "true" }),
      ...(role === "member" && { [annotations.list]: options.list ?? "4-x" })
    }
  })

const report = (...records: ReadonlyArray<LeaseRecord>) =>
  toLines(toGroup("tenants", "default", records, { millis: now, clock: "server" }))

const shards = (holders: string) =>
  holders.split("").map((holder, index) => record(`s${index}`, "shard", holder === "-" ? "" : holder))

describe("status --group", () => {
  it("shows the members, and how many each leads", () => {
    assert.deepStrictEqual(
      report(
        record("member-2", "member", "b", { generation: "v1" }),
        record("member-1", "member", "a", { generation: "v1" }),
        record("member-3", "member", ""),
        ...shards("abab")
      ),
      [
        "tenants: 2 members, 4 shards led",
        "",
        "MEMBER   GENERATION   LEADS   STATE   RENEWED",
        "a        v1           2       held    2s",
        "b        v1           2       held    2s"
      ]
    )
  })

  const problems: ReadonlyArray<[string, ReadonlyArray<LeaseRecord>, ReadonlyArray<string>]> = [
    ["nothing", [record("m1", "member", "a"), record("m2", "member", "b"), ...shards("abab")], []],
    ["released shards that are on no list", [record("m1", "member", "a"), ...shards("aaaa--")], []],
    ["shards without a leader", [record("m1", "member", "a"), ...shards("aa--")], [
      "2 of 4 listed shards without a leader"
    ]],
    ["uneven", [record("m1", "member", "a"), record("m2", "member", "b"), ...shards("aaab")], [
      "the members lead from 1 to 3 shards"
    ]],
    [
      "a member that leaves does not count",
      [record("m1", "member", "a"), record("m2", "member", "b", { leaving: true }), ...shards("aaaa")],
      []
    ],
    [
      "a rollout",
      [
        record("m1", "member", "a", { generation: "1" }),
        record("m2", "member", "b", { generation: "2" }),
        ...shards("aaaa")
      ],
      ["2 generations: a rollout is under way, and nothing moves for balance"]
    ],
    ["lists differ", [record("m1", "member", "a"), record("m2", "member", "b", { list: "4-y" }), ...shards("aabb")], [
      "the members' lists of shards differ: nothing moves for balance until they are the same"
    ]],
    [
      "silent",
      [
        record("m1", "member", "a"),
        record("m2", "member", "b", { age: 20 }),
        ...shards("aaa"),
        record("s3", "shard", "b", { age: 20 })
      ],
      ["1 member not renewed in time: b", "1 shard not renewed in time: s3", "1 of 4 listed shards without a leader"]
    ]
  ]
  it.each(problems)("says what is not as it should be: %s", (_, records, expected) => {
    const lines = report(...records)
    assert.deepStrictEqual(lines.slice(1, lines.indexOf("")), expected.map((problem) => `! ${problem}`))
  })
})

describe("watch --group", () => {
  const opened = () => {
    const watched = new Watched("tenants")
    watched.observe({ _tag: "Opened" }, 0)
    return {
      watched,
      apply: (...records: ReadonlyArray<LeaseRecord>) =>
        records.forEach((lease) => watched.observe({ _tag: "Applied", lease }, 0))
    }
  }
  const listOf = (count: number) => ({ list: `${count}-x` })

  it("says who joins, leaves and goes, and how many moved from whom to whom", () => {
    const { apply, watched } = opened()
    apply(record("m1", "member", "a", listOf(3)), ...shards("aaa"), lease({ name: "another", holderIdentity: "z" }))
    assert.deepStrictEqual(watched.news(), ["a 3"])
    assert.deepStrictEqual(watched.news(), [])
    apply(record("m2", "member", "b", { generation: "v2", ...listOf(3) }))
    assert.deepStrictEqual(watched.news(), ["b joins (generation v2)", "a 3, b 0"])
    apply(...shards("a--"))
    assert.deepStrictEqual(watched.news(), [])
    apply(...shards("ab-"))
    assert.deepStrictEqual(watched.news(), ["1 moved: a -> b", "a 1, b 1; free 1"])
    apply(record("m1", "member", "a", { leaving: true, ...listOf(3) }))
    assert.deepStrictEqual(watched.news(), ["a leaves", "a 1, b 1; free 1"])
    apply(...shards("bbb"), record("m1", "member", ""))
    assert.deepStrictEqual(watched.news(), ["a is gone", "2 moved: a -> b (2)", "b 3"])
  })

  it("a group without members is one", () => {
    const { apply, watched } = opened()
    assert.deepStrictEqual(watched.news(), ["no members"])
    apply(record("m1", "member", "a"))
    assert.deepStrictEqual(watched.news(), ["a joins", "a 0; free 4"])
  })

  it("says nothing of the group before it was seen, and while it cannot be", () => {
    const watched = new Watched("tenants")
    assert.deepStrictEqual(watched.news(), [])
    watched.blind("no connection")
    watched.blind("no answer")
    assert.deepStrictEqual(watched.news(), ["cannot be seen: no connection"])
    watched.observe({ _tag: "Opened" }, 0)
    watched.observe({ _tag: "Applied", lease: record("m1", "member", "a", listOf(0)) }, 0)
    watched.blind("no connection")
    assert.deepStrictEqual(watched.overdue(20_000), [])
    // When it is seen again, the member has a whole duration to show that it lives.
    watched.observe({ _tag: "Opened" }, 30_000)
    assert.deepStrictEqual(watched.overdue(44_999), [])
    assert.strictEqual(watched.overdue(45_000).length, 1)
  })

  it("a member that does not renew is gone, and what it led is free", () => {
    const { apply, watched } = opened()
    const silent = [record("m1", "member", "a", listOf(2)), ...shards("ab")]
    apply(...silent, record("m2", "member", "b", listOf(2)))
    assert.deepStrictEqual(watched.news(), ["a 1, b 1"])
    assert.deepStrictEqual(watched.overdue(14_999), [])
    for (const { holderIdentity, name } of watched.overdue(15_000)) {
      const renewed = record(name.replace("tenants-", ""), name.includes("m") ? "member" : "shard", "b", {
        age: -10,
        ...listOf(2)
      })
      watched.settle(name, holderIdentity === "a" ? silent.find((lease) => lease.name === name) : renewed, 15_000)
    }
    assert.deepStrictEqual(watched.news(), ["a is gone", "b 1; free 1"])
    assert.deepStrictEqual(watched.overdue(20_000), [])
    assert.deepStrictEqual(watched.news(), [])
    // Its Lease is removed later; the member that renewed is asked about again.
    assert.deepStrictEqual(watched.overdue(30_000).map(({ name }) => name), ["tenants-s1", "tenants-m2"])
    watched.settle("tenants-m2", undefined, 30_000)
    assert.deepStrictEqual(watched.news(), ["b is gone", "b 1"])
  })

  it("a shard that is taken off the list is not free", () => {
    const { apply, watched } = opened()
    apply(record("m1", "member", "a", listOf(3)), ...shards("aaa"))
    assert.deepStrictEqual(watched.news(), ["a 3"])
    apply(record("m1", "member", "a", listOf(2)), ...shards("aa-"), record("m2", "member", "b", listOf(2)))
    assert.deepStrictEqual(watched.news(), ["b joins", "a 2, b 0"])
  })

  it("a shard that its leader gives up and takes again has not moved", () => {
    const { apply, watched } = opened()
    apply(record("m1", "member", "a", listOf(1)), ...shards("a"))
    assert.deepStrictEqual(watched.news(), ["a 1"])
    apply(...shards("-"))
    apply(...shards("a"))
    assert.deepStrictEqual(watched.news(), [])
  })
})
