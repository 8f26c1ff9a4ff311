import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import {
  deference,
  givesAtOnce,
  givesNow,
  noReturns,
  returnTime,
  type Member,
  memberDuration,
  memberWindow,
  newestGeneration,
  plan,
  type Plan,
  rank,
  settleTime,
  type Shard,
  standBack,
  turnOf,
  type View
} from "../../../src/internal/protocol/shards.ts"
import { seconds } from "../../utils/leases.ts"

// "a" of generation "1"; "a'" of generation "2"; "-a" leaves; "a!" has another list of shards. Later ones in the text have joined later.
const members = (text: string): ReadonlyArray<Member> =>
  text.split(" ").filter((word) => word !== "").map((word, index) => {
    const [, leaves, name, newer, list] = /^(-?)(\w+)('*)(!?)$/.exec(word)!
    return {
      identity: name!,
      generation: `${1 + newer!.length}`,
      joined: BigInt(index + 1),
      leaving: leaves === "-",
      list: list!
    }
  })

// "a3 b2 ?4 x1": how many are held by each; "?" is free.
const shards = (text: string): ReadonlyArray<Shard> => {
  const all: Array<Shard> = []
  for (const [, holder, count] of text.matchAll(/(\?|[a-z]+)(\d+)/g)) {
    for (let i = 0; i < Number(count); i++) {
      const number = all.length
      all.push({ name: `s${number}`, holder: holder === "?" ? undefined : holder!, version: BigInt(100 + number) })
    }
  }
  return all
}

const tally = (names: Iterable<string>): string => {
  const counts = new Map<string, number>()
  for (const name of names) {
    counts.set(name, (counts.get(name) ?? 0) + 1)
  }
  return [...counts].sort().map(([name, count]) => `${name}${count}`).join(" ")
}

const show = ({ gives, takes }: Plan): string =>
  `takes ${tally(takes.values())}; gives ${[...gives].map(([name, own]) => `${name}${own.length}`).sort().join(" ")}`
    .replace(/ ;/, ";").trim()

describe("plan", () => {
  const table: ReadonlyArray<[string, members: string, shards: string, expected: string]> = [
    ["nobody", "", "?3", "takes; gives"],
    ["no shards", "a b", "", "takes; gives"],
    ["one member takes all", "a", "?3", "takes a3; gives"],
    ["shared evenly", "a b", "?4", "takes a2 b2; gives"],
    ["one more for one of them", "a b c", "a1 b1 ?2", "takes a1 c1; gives"],
    ["the one below comes first, whatever the ranks", "a b", "a9 b8 ?1", "takes b1; gives"],
    ["fewer shards than members", "a b c", "a1 ?1", "takes b1; gives"],
    // --- at rest
    ["at rest", "a b", "a2 b2", "takes; gives"],
    ["at rest, one has one more", "a b c", "a3 b2 c2", "takes; gives"],
    ["at rest, two have one more", "a b c", "a3 b2 c3", "takes; gives"],
    ["at rest, fewer shards than members", "a b c", "b1 c1", "takes; gives"],
    // --- a member joins
    ["joins two", "a b c", "a6 b6", "takes; gives a2 b2"],
    ["joins three", "a b c d", "a4 b3 c3", "takes; gives a1 c1"],
    ["joins where nothing is to share", "a b c", "a1 b1", "takes; gives"],
    ["what is free goes first", "a b c", "a3 b3 ?3", "takes c3; gives"],
    ["what is free is not enough", "a b c", "a4 b4 ?1", "takes c1; gives a1 b1"],
    // --- a member is gone, or led by nobody of the group
    ["its shards are still held", "a b", "a2 b2 x2", "takes; gives"],
    ["its shards are free", "a b", "a2 b2 ?2", "takes a1 b1; gives"],
    ["one takes them all", "a b", "a4 ?4", "takes b4; gives"],
    // --- too many
    ["one more than the others may have", "a b c", "a5 b3 c3", "takes; gives a1"],
    ["two may have one more", "a b c", "a5 b5 c1", "takes; gives a1 b1"],
    // --- leaving
    ["a leaving member gives all, and takes nothing", "a -b", "a2 b2 ?2", "takes a2; gives b2"],
    ["all are leaving", "-a -b", "a2 b2 ?2", "takes; gives"],
    ["a leaving member leads nothing", "a -b", "a2", "takes; gives"],
    // --- generations
    ["a newer generation has joined: nobody gives", "a b c'", "a6 b6", "takes; gives"],
    ["only the newer one takes, up to its number", "a b c'", "a6 ?6", "takes c4; gives"],
    ["an old member ends", "a -b c'", "a6 b6", "takes; gives b6"],
    ["an old member has ended", "a c'", "a6 ?6", "takes c6; gives"],
    ["the second new one takes what the second old one had", "-b c' d'", "c6 ?6", "takes d6; gives"],
    ["too many on a new one: not before the old are gone", "a b' c'", "a1 b7 c1", "takes; gives"],
    ["and then", "b' c'", "b8 c1", "takes; gives b3"],
    ["the newer one has its number, and nobody else may take", "a b' c'", "a1 b3 c3 ?2", "takes; gives"],
    ["the newer ones may have one more together", "a b' c'", "a1 b4 c3 ?2", "takes; gives"],
    ["and take no more than that", "a b' c'", "a1 b3 c3 ?3", "takes b1; gives"],
    // --- lists
    ["lists differ: what is free is taken, but nobody gives", "a b c!", "a6 b4 ?2", "takes c2; gives"],
    ["lists differ: a leaving member gives nevertheless", "a b! -c", "a6 b1 c1", "takes; gives c1"],
    ["all have another list", "a! b!", "a3 b1", "takes; gives a1"],
    ["the list of a leaving member does not matter", "a b -c!", "a4 b2 c0", "takes; gives a1"],
    ["a leaving newer generation counts no more", "a b -c'", "a4 b1 ?1", "takes b1; gives a1"],
    ["an undo half-way: the old generation is the newest again", "a' b c", "a4 ?4 b1", "takes b2 c2; gives"]
  ]
  for (const [title, ofMembers, ofShards, expected] of table) {
    it(title, () => assert.strictEqual(show(plan({ members: members(ofMembers), shards: shards(ofShards) })), expected))
  }

  it("is the same whatever the order of members and shards", () => {
    const view: View = { members: members("a b c' d'"), shards: shards("a3 b4 ?7 c1") }
    const turned: View = { members: [...view.members].reverse(), shards: [...view.shards].reverse() }
    assert.deepStrictEqual(plan(turned).takes, plan(view).takes)
    const rest: View = { members: members("a b c d"), shards: shards("a9 b8") }
    const reversed: View = { members: [...rest.members].reverse(), shards: [...rest.shards].reverse() }
    assert.deepStrictEqual([...plan(reversed).gives].sort(), [...plan(rest).gives].sort())
    assert.deepStrictEqual(tally(["a", "b", "a"]), "a2 b1")
  })

  it("those that rank highest for the shard with the least name lead one more", () => {
    const names = ["a", "b", "c", "d", "e"]
    for (const [least, count] of [["s0", 7], ["s10", 8], ["s100", 6]] as const) {
      const free = Array.from({ length: count }, (_, index): Shard => ({
        name: index === count - 1 ? least : `t${index}`,
        holder: undefined,
        version: BigInt(index)
      }))
      const { takes } = plan({ members: members(names.join(" ")), shards: free })
      const ranked = names.toSorted((left, right) => rank(right, least) - rank(left, least))
      const expected = ranked.flatMap((name, index) => index < count - 5 ? [name, name] : [name])
      assert.strictEqual(tally(takes.values()), tally(expected))
    }
  })

  it("does not change its view", () => {
    const view: View = { members: members("b a"), shards: shards("?2 b2") }
    const before = structuredClone(view)
    plan(view)
    assert.deepStrictEqual(view, before)
  })

  it("a free shard keeps its taker when others become free later", () => {
    const some = shards("a2 b2 c2 ?6")
    const first = plan({ members: members("a b c"), shards: some }).takes
    for (const version of [112n, 999n]) {
      const later = [...some.slice(1), { name: "s0", holder: undefined, version }]
      const { takes } = plan({ members: members("a b c"), shards: later })
      for (const [name, taker] of first) {
        assert.strictEqual(takes.get(name), taker)
      }
      assert.isTrue(takes.has("s0"))
    }
  })

  it("what became free first is planned first, and of those that did together, the name decides", () => {
    const ofGroup = members("a b")
    const free = (...versions: ReadonlyArray<bigint>): ReadonlyArray<Shard> =>
      versions.map((version, index) => ({ name: `s${index}`, holder: undefined, version }))
    const order = (of: ReadonlyArray<Shard>) => [...plan({ members: ofGroup, shards: of }).takes.keys()]
    assert.deepStrictEqual(order(free(30n, 20n, 10n, 40n)), ["s2", "s1", "s0", "s3"])
    assert.deepStrictEqual(order(free(0n, 0n, 0n, 0n).toReversed()), ["s0", "s1", "s2", "s3"])
    assert.deepStrictEqual(order(free(7n, 0n, 7n, 0n)), ["s1", "s3", "s0", "s2"])
  })

  it("gives those first for which the member ranks lowest", () => {
    const { gives } = plan({ members: members("a b"), shards: shards("a9") })
    const ranks = gives.get("a")!.map((name) => rank("a", name))
    assert.deepStrictEqual(ranks, [...ranks].sort((x, y) => x - y))
    const kept = shards("a9").map(({ name }) => name).filter((name) => !gives.get("a")!.includes(name))
    assert.isBelow(ranks.at(-1)!, Math.min(...kept.map((name) => rank("a", name))))
  })

  it("of members with as many, the same keeps one more for all", () => {
    assert.deepStrictEqual(plan({ members: members("c b a"), shards: shards("a3 c3") }).gives.size, 2)
    const { gives } = plan({ members: members("c b a"), shards: shards("a4 b1 c4 ?1") })
    assert.deepStrictEqual([...gives.keys()].sort(), ["c"])
  })
})

describe("newestGeneration", () => {
  it("is that of the member that joined last", () => {
    assert.isUndefined(newestGeneration([]))
    assert.strictEqual(newestGeneration(members("a b' c")), "1")
    assert.strictEqual(newestGeneration(members("a b'")), "2")
    assert.strictEqual(newestGeneration(members("a b'").toReversed()), "2")
  })

  it("an old member whose container restarts keeps its version", () => {
    assert.strictEqual(newestGeneration(members("a b c'").toReversed()), "2")
  })
})

describe("rank", () => {
  it("is stable: members of different versions agree", () => {
    assert.deepStrictEqual(
      [rank("a", "s0"), rank("b", "s0"), rank("pod-7c9f_1b4e", "tenant-42"), rank("", "")],
      [3698172407, 2313394208, 533099293, 1743282159]
    )
  })

  it("spreads the shards evenly", () => {
    const names = ["pod-a_1", "pod-b_2", "pod-c_3", "pod-d_4"]
    const counts = new Map(names.map((name) => [name, 0]))
    for (let i = 0; i < 10_000; i++) {
      const [best] = [...names].sort((a, b) => rank(b, `tenant-${i}`) - rank(a, `tenant-${i}`))
      counts.set(best!, counts.get(best!)! + 1)
    }
    for (const count of counts.values()) {
      assert.isAbove(count, 2300)
      assert.isBelow(count, 2700)
    }
  })
})

describe("turnOf", () => {
  const view: View = { members: members("a b -c"), shards: shards("a3 b1 c1 ?1") }
  const [a, b, c] = view.members as [Member, Member, Member]

  it("first that of the member it belongs to, last anybody's, never a leaving member's", () => {
    const planned = plan(view)
    assert.strictEqual(turnOf(planned, b, "s5"), "First")
    assert.strictEqual(turnOf(planned, a, "s5"), "Last")
    assert.strictEqual(turnOf(planned, c, "s5"), "Never")
  })

  it("next that of others below their number", () => {
    const planned = plan({ members: members("a b"), shards: shards("?4") })
    for (const [name, taker] of planned.takes) {
      assert.strictEqual(turnOf(planned, taker === "a" ? a : b, name), "First")
      assert.strictEqual(turnOf(planned, taker === "a" ? b : a, name), "Next")
    }
  })

  it("a leaving member's last where no other stays", () => {
    assert.strictEqual(turnOf(plan({ members: members("-c"), shards: shards("?1") }), c, "s0"), "Last")
  })

  it("an old member's last, whatever it leads", () => {
    const planned = plan({ members: members("a b'"), shards: shards("?4") })
    assert.strictEqual(turnOf(planned, a, "s0"), "Last")
  })

  it("last that of a member that the others do not know", () => {
    assert.strictEqual(turnOf(plan(view), { ...a, identity: "stranger" }, "s5"), "Last")
  })
})

describe("deference", () => {
  const table: ReadonlyArray<["First" | "Next" | "Last", freeAt: number, joinedAt: number, expected: number]> = [
    ["First", 100, 0, 0],
    ["Next", 100, 0, 1],
    ["Last", 100, 0, 2],
    // --- has just joined
    ["First", 100, 100, 1.5],
    ["First", 100, 99, 0.5],
    ["First", 100, 98.5, 0],
    ["First", 100, 98, 0],
    ["Next", 100, 99, 1],
    ["Next", 100, 99.75, 1.25],
    ["Last", 100, 99.75, 2],
    // --- free before it joined
    ["First", 100, 105, 1.5]
  ]
  it.each(table)("%s, free at %d s, joined at %d s", (turn, freeAt, joinedAt, expected) => {
    assert.strictEqual(deference(turn, seconds(freeAt), seconds(joinedAt), seconds(2)), seconds(expected))
  })
})

describe("memberWindow", () => {
  it("is longer than a healthy member's silence, and over before its shards run out", () => {
    const window = memberWindow(seconds(15))
    assert.strictEqual(window, seconds(7.5))
    // Renewed a third before the others at most.
    assert.isTrue(window > seconds(5))
    assert.isTrue(window < seconds(10))
  })
})

describe("memberDuration", () => {
  it("is the holder's, up to four times one's own", () => {
    assert.strictEqual(memberDuration(seconds(5), seconds(15)), seconds(5))
    assert.strictEqual(memberDuration(seconds(60), seconds(15)), seconds(60))
    assert.strictEqual(memberDuration(seconds(61), seconds(15)), seconds(60))
  })
})

describe("givesNow", () => {
  const view: View = { members: members("a b"), shards: shards("a20") }
  const [a] = view.members as [Member]
  const planned = plan(view)
  const none = new Set<string>()

  it("nothing before membership has settled", () => {
    assert.strictEqual(settleTime(seconds(15)), seconds(5))
    assert.deepStrictEqual(givesNow(planned, a, none, seconds(5) - 1n, noReturns, seconds(15)), [])
    assert.strictEqual(givesNow(planned, a, none, seconds(5), noReturns, seconds(15)).length, givesAtOnce)
  })

  it("a few at a time, in order, and none twice", () => {
    const order = planned.gives.get("a")!
    assert.strictEqual(givesAtOnce, 4)
    assert.deepStrictEqual(givesNow(planned, a, none, seconds(9), noReturns, seconds(15)), order.slice(0, 4))
    assert.deepStrictEqual(givesNow(planned, a, new Set([order[1]!]), seconds(9), noReturns, seconds(15)), [
      order[0]!,
      order[2]!,
      order[3]!
    ])
    assert.deepStrictEqual(givesNow(planned, a, new Set(["x", "y", "z", "v"]), seconds(9), noReturns, seconds(15)), [])
    assert.deepStrictEqual(
      givesNow(planned, a, new Set(["x", "y", "z", "v", "w"]), seconds(9), noReturns, seconds(15)),
      []
    )
  })

  it("one at a time, and ever later, where what was given came back", () => {
    const after = (count: number, since: bigint) =>
      givesNow(planned, a, none, seconds(100), { count, since }, seconds(15)).length
    assert.deepStrictEqual([0, 1, 2, 5, 6, 7, 100].map((count) => returnTime(count, seconds(15))), [
      0n,
      ...[10, 20, 160, 320, 320, 320].map(seconds)
    ])
    assert.strictEqual(after(1, seconds(10) - 1n), 0)
    assert.strictEqual(after(1, seconds(10)), 1)
    assert.strictEqual(after(0, 0n), givesAtOnce)
    assert.deepStrictEqual(
      givesNow(planned, a, new Set(["x"]), seconds(100), { count: 1, since: seconds(10) }, seconds(15)),
      []
    )
  })

  it("nothing where it has nothing to give", () => {
    assert.deepStrictEqual(givesNow(planned, view.members[1]!, none, seconds(9), noReturns, seconds(15)), [])
  })

  it("a leaving member does not wait", () => {
    const leaving: View = { members: members("-a b"), shards: shards("a6") }
    assert.strictEqual(
      givesNow(plan(leaving), leaving.members[0]!, none, 0n, noReturns, seconds(15)).length,
      givesAtOnce
    )
  })

  it("what it gave up, it leaves to others for longer than anybody waits", () => {
    assert.strictEqual(standBack(seconds(2)), seconds(3))
  })
})

// --- Properties ---

const Start = Schema.Struct({
  staying: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 6 })),
  leaving: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 })),
  shards: Schema.Array(Schema.Struct({
    holder: Schema.Int.check(Schema.isBetween({ minimum: -2, maximum: 8 })),
    version: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 5 }))
  })).check(Schema.isMaxLength(40))
})

const viewOf = ({ leaving, shards, staying }: typeof Start.Type): View => {
  const ofGroup = Array.from({ length: staying + leaving }, (_, index): Member => ({
    identity: `m${index}`,
    generation: "1",
    joined: BigInt(index),
    leaving: index >= staying,
    list: ""
  }))
  return {
    members: ofGroup,
    shards: shards.map(({ holder, version }, index) => ({
      name: `s${index}`,
      // Some are free, and some are held by others than the members.
      holder: holder < 0 ? undefined : ofGroup[holder]?.identity ?? "stranger",
      version: BigInt(version)
    }))
  }
}

const countsOf = ({ members, shards }: View): Array<number> =>
  members.filter(({ leaving }) => !leaving).map(({ identity }) =>
    shards.filter(({ holder }) => holder === identity).length
  )

/** What the members make of it together: every take and every give done, until none is left. */
const settle = (start: View): { readonly view: View; readonly moves: number; readonly rounds: number } => {
  const { members } = start
  let shards: ReadonlyArray<Shard> = start.shards.map(({ holder, name, version }) => ({
    name,
    holder: holder === "stranger" ? undefined : holder,
    version
  }))
  let moves = 0
  for (let rounds = 0;; rounds++) {
    const { gives, takes } = plan({ members, shards })
    const given = new Set([...gives.values()].flat())
    if (takes.size + given.size === 0 || rounds > 100) {
      return { view: { members, shards }, moves, rounds }
    }
    moves += given.size
    shards = shards.map(({ holder, name, version }) => ({
      name,
      holder: given.has(name) ? undefined : takes.get(name) ?? holder,
      version: version + (given.has(name) ? 1000n : 0n)
    }))
  }
}

const start = Arbitrary.schema(Start)

describe("properties", () => {
  const runs = { arbitrary: { runs: 300 } }

  it.prop("fair within one, everything led, and then nothing moves", [start], ([from]) => {
    const { rounds, view } = settle(viewOf(from))
    const counts = countsOf(view)
    assert.isBelow(rounds, 10)
    assert.isAtMost(Math.max(...counts) - Math.min(...counts), 1)
    assert.strictEqual(counts.reduce((sum, count) => sum + count, 0), view.shards.length)
    assert.strictEqual(show(plan(view)), "takes; gives")
  }, runs)

  it.prop("a join brings the least number of moves that makes it fair", [start], ([from]) => {
    const { view } = settle(viewOf({ ...from, leaving: 0 }))
    const joined = settle({
      ...view,
      members: [...view.members, { identity: "new", generation: "1", joined: 99n, leaving: false, list: "" }]
    })
    assert.strictEqual(joined.moves, Math.floor(view.shards.length / (view.members.length + 1)))
  }, runs)

  it.prop("a member that ends brings no moves but its own shards'", [start], ([from]) => {
    const { view } = settle(viewOf({ ...from, staying: from.staying + 1, leaving: 0 }))
    const [gone, ...members] = view.members
    const left = settle({
      members,
      shards: view.shards.map((shard) => shard.holder === gone!.identity ? { ...shard, holder: undefined } : shard)
    })
    assert.strictEqual(left.moves, 0)
    for (const [index, { holder }] of view.shards.entries()) {
      assert.isTrue(holder === gone!.identity || left.view.shards[index]!.holder === holder)
    }
  }, runs)

  it.prop("a plan takes only what is free, for those who may take, and gives only what is led", [start], ([from]) => {
    const view = viewOf(from)
    const { gives, takers, takes } = plan(view)
    for (const [name, taker] of takes) {
      assert.isUndefined(view.shards.find((shard) => shard.name === name)!.holder)
      assert.isTrue(takers.has(taker))
    }
    for (const [identity, names] of gives) {
      for (const name of names) {
        assert.strictEqual(view.shards.find((shard) => shard.name === name)!.holder, identity)
      }
    }
  }, runs)

  it.prop("what is taken first changes nothing for the others", [start], ([from]) => {
    const view = viewOf(from)
    const { takes } = plan(view)
    for (const [taken, taker] of takes) {
      const shards = view.shards.map((shard) => shard.name === taken ? { ...shard, holder: taker } : shard)
      const after = plan({ members: view.members, shards })
      assert.deepStrictEqual([...after.takes], [...takes].filter(([name]) => name !== taken))
    }
  }, runs)

  it.prop("a rolling update moves each shard once", [start], ([from]) => {
    let { view } = settle(viewOf({ ...from, leaving: 0 }))
    let moves = 0
    const old = view.members
    for (const [index, { identity }] of old.entries()) {
      const added: Member = {
        identity: `n${index}`,
        generation: "2",
        joined: BigInt(100 + index),
        leaving: false,
        list: ""
      }
      const together = [...view.members, added]
      assert.strictEqual(show(plan({ members: together, shards: view.shards })), "takes; gives")
      // The old one says that it is leaving, and then ends its programs.
      const without = together.filter((member) => member.identity !== identity)
      moves += view.shards.filter(({ holder }) => holder === identity).length
      const ended = settle({
        members: without,
        shards: view.shards.map((shard) => shard.holder === identity ? { ...shard, holder: undefined } : shard)
      })
      moves += ended.moves
      view = ended.view
      assert.isTrue(view.shards.every(({ holder }) => holder !== undefined))
    }
    assert.strictEqual(moves, view.shards.length)
    const counts = countsOf(view)
    assert.isAtMost(Math.max(...counts) - Math.min(...counts), 1)
  }, runs)
})
