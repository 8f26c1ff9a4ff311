/**
 * The rule of the shards broken on purpose, to see that the model can fail: changes of the text as it is loaded, as
 * those of the simulation are.
 */
import type { BrokenRule, Edit } from "../simulation/brokenRules.ts"

const rule = (find: string, replace: string): Edit => ({ file: "internal/protocol/shards.ts", find, replace })
const model = (find: string, replace: string): Edit => ({ file: "../test/shards/Model.ts", find, replace })

export const brokenRules: ReadonlyArray<BrokenRule> = [
  {
    name: "no member Lease: members are those that lead something",
    seenIn: "the Azure SDKs (a newcomer is invisible until it owns something)",
    within: 1000,
    edits: [
      model(
        "members: [...this.members.values()],",
        "members: [...this.members.values()].filter(({ identity }) => identity === this.identity || " +
          "[...this.shards.values()].some(({ holder }) => holder === identity)),"
      )
    ]
  },
  {
    name: "a member below its number steals",
    seenIn: "amazon-kinesis-client",
    within: 1000,
    edits: [
      model(
        "if (seen.holder !== undefined || this.unknown.has(seen.name)",
        "if ((seen.holder !== undefined && (seen.holder === this.identity || !this.plan.gives.get(seen.holder)?.includes(seen.name))) || this.unknown.has(seen.name)"
      )
    ]
  },
  {
    name: "no settle time",
    seenIn: "the Azure SDKs (ping-pong)",
    within: 1000,
    edits: [
      rule("=> leaseDuration / 3n", "=> leaseDuration / leaseDuration")
    ]
  },
  {
    name: "by index modulo the number of members",
    seenIn: "argo-cd, and what one writes first",
    within: 1000,
    edits: [
      rule(
        "    const taker = highest(room(), name)\n",
        "    const taker = takers[hash(name) % takers.length < 0 ? -(hash(name) % takers.length) : hash(name) % takers.length]\n"
      ),
      rule(
        "      takers.filter((identity) => counts.get(identity)! > least).forEach((identity, index) =>\n" +
          "        give(identity, counts.get(identity)! - least - (index < extra ? 1 : 0))\n      )\n",
        "      takers.forEach((identity, index) => gives.set(identity, held.get(identity)!.filter((name) => " +
          "Math.abs(hash(name) % takers.length) !== index)))\n"
      )
    ]
  },
  {
    name: "old generations take",
    seenIn: "every sharing that does not know of rollouts",
    within: 1000,
    edits: [
      rule(
        "const takers = staying.filter((member) => member.generation === generation)",
        "const takers = staying.filter((member) => member.generation !== generation || true)"
      )
    ]
  },
  {
    name: "the newest generation is that of the member that leads most",
    seenIn: "a design that was given up",
    within: 1000,
    edits: [
      rule(
        "const generation = newestGeneration(staying)",
        "const led = (member: Member) => view.shards.filter(({ holder }) => holder === member.identity).length\n" +
          "  const generation = [...staying].sort((a, b) => led(b) - led(a))[0]?.generation"
      )
    ]
  },
  {
    name: "nobody takes what it should not",
    seenIn: "argo-cd (a shard without leader for 57 hours)",
    within: 1000,
    edits: [
      rule("? \"Next\" : \"Last\"", "? \"Next\" : \"Never\"")
    ]
  },
  {
    name: "surplus is given up all at once",
    seenIn: "Kafka's eager rebalancing",
    within: 1000,
    edits: [
      rule("      .slice(0, Math.max(0, atOnce - giving.size))", "      .slice(0)")
    ]
  },
  {
    name: "a member counts for as long as its Lease",
    seenIn: "the first design of this rule",
    within: 1000,
    edits: [
      rule("=> leaseDuration / 2n", "=> leaseDuration")
    ]
  },
  {
    name: "a leaving member counts until it is gone",
    seenIn: "client-go based sharding",
    within: 1000,
    edits: [
      rule("view.members.filter(({ leaving }) => !leaving)", "view.members.filter(({ leaving }) => !leaving || true)")
    ]
  }
]

const shipped = (file: string, find: string, replace: string): Edit => ({ file, find, replace })

// What the shipped code's few seeds come across too seldom, or do not count.
const ofTheModelAlone = new Set(["surplus is given up all at once", "nobody takes what it should not"])

/** Those that the simulation of the shipped code has to find: of the rule, and of what carries it out. */
export const brokenInShippedCode: ReadonlyArray<BrokenRule> = [
  ...brokenRules.filter(({ edits, name }) =>
    edits.every(({ file }) => file === "internal/protocol/shards.ts") && !ofTheModelAlone.has(name)
  ),
  {
    name: "a member that ends says nothing",
    seenIn: "client-go based sharding",
    within: 500,
    edits: [shipped(
      "internal/shards/sharing.ts",
      "Effect.timeoutOption(\n            membership.leave,",
      "Effect.timeoutOption(\n            Effect.void,"
    )]
  },
  {
    name: "what came back is given again at once",
    seenIn: "the first version of this code",
    within: 500,
    edits: [shipped("internal/shards/giving.ts", "? count + 1 : count", "? 0 : 0")]
  },
  {
    name: "a watch that has gone silent is trusted",
    seenIn: "most watchers",
    within: 500,
    edits: [shipped("internal/shards/watchGroup.ts", "        if (left <= 0n) {", "        if (left < -(2n ** 62n)) {")]
  },
  {
    name: "what a dead member left behind counts as a member to a newcomer",
    seenIn: "the first version of this code",
    within: 500,
    edits: [shipped("internal/shards/group.ts", " && !this.isLeftBehind(seen) &&", " &&")]
  },
  {
    name: "a member counts from the first shard that it leads",
    seenIn: "the Azure SDKs (a newcomer is invisible until it owns something)",
    within: 500,
    edits: [
      shipped(
        "internal/shards/group.ts",
        " && !this.isLeftBehind(seen) &&",
        " && !this.isLeftBehind(seen) && (lease.holderIdentity === this.options.identity || " +
          "[...this.seen.values()].some((other) => !isMember(other.lease) && other.lease.holderIdentity === lease.holderIdentity)) &&"
      )
    ]
  }
]
