/**
 * Rules of the election broken on purpose, to see that the simulation can fail. Each is a change of the text of a
 * source file as it is loaded, and of nothing else: the library has no option for it. A change that no longer fits its
 * file is an error.
 */
import { readFileSync } from "node:fs"
import { registerHooks } from "node:module"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import type { Kind } from "./adversary.ts"
import type { Misuse } from "./Simulation.ts"

export interface Edit {
  /** Below `src`. */
  readonly file: string
  readonly find: string
  readonly replace: string
}

export interface BrokenRule {
  readonly name: string
  /** Who had it, or may have. */
  readonly seenIn: string
  /** It has to be found within so many seeds. */
  readonly within: number
  readonly edits: ReadonlyArray<Edit>
  /** A condition of use that is broken instead of a rule. */
  readonly misuse?: Misuse
  /** Only seeds of these kinds are run: in the others nothing happens that would show it. */
  readonly among?: ReadonlyArray<Kind>
}

const edit = (file: string, find: string, replace: string): Edit => ({ file, find, replace })

export const brokenRules: ReadonlyArray<BrokenRule> = [
  {
    name: "deadline counted from the answer",
    seenIn: "client-go and most others",
    within: 500,
    edits: [
      edit(
        "internal/election/renewal.ts",
        "Renewal.committed(claim, attempt, lease)",
        "Renewal.committed(claim, { ...attempt, start: answer.end }, lease)"
      ),
      edit("internal/protocol/renewal.ts", "  attempt.id <= claim.validBy\n", "  attempt.id < claim.validBy\n")
    ]
  },
  {
    name: "deadline looked at only between requests",
    seenIn: "fabric8, the Python client",
    within: 100,
    edits: [
      edit(
        "internal/election/term.ts",
        "    if (left === 0n) {\n      return lose(election, \"RenewDeadlineExceeded\", now)\n    }",
        "    if (left === 0n && claim.renewals.requests.some(({ open }) => open)) {\n      yield* Effect.sleep(1)\n      continue\n    }\n    if (left === 0n) {\n      return lose(election, \"RenewDeadlineExceeded\", now)\n    }"
      )
    ]
  },
  {
    name: "expiry by renewTime and the wall clock",
    seenIn: "the Ruby gem, fabric8, the Rust and Node libraries",
    within: 100,
    edits: [
      edit(
        "internal/election/campaign.ts",
        "const decision = decide(observation, Attempts.recognised(takes), candidate, now)",
        "const wall = yield* wallMicros\n  const decision = decide(typeof observation.lease === \"string\" || observation.lease.renewTime === undefined ? observation : { ...observation, signOfLifeAt: now - (wall - observation.lease.renewTime) * 1000n }, Attempts.recognised(takes), candidate, now)"
      )
    ]
  },
  {
    name: "any edit counts as a sign of life",
    seenIn: "client-go (it compares the whole record)",
    within: 500,
    edits: [
      edit(
        "LeaseRecord.ts",
        "  before.uid !== after.uid ||\n",
        "  before.resourceVersion !== after.resourceVersion ||\n"
      )
    ]
  },
  {
    name: "a newer record of ours counts as a successful renewal",
    seenIn: "the first design of this library",
    within: 500,
    edits: [
      edit(
        "internal/protocol/renewal.ts",
        "const next = shown === undefined ? known : extend(known, shown, lease.resourceVersion)",
        "const next = extend(known, shown ?? { id: claim.validBy + 1, open: false, start: {\n    monotonic: observation.reportedAt,\n    witness: claim.validFrom.witness + observation.reportedAt - claim.validFrom.monotonic,\n    wall: claim.validFrom.wall + observation.reportedAt - claim.validFrom.monotonic\n  } }, lease.resourceVersion)"
      )
    ]
  },
  {
    name: "a late 404 is believed",
    seenIn: "the first design of this library",
    within: 1000,
    edits: [
      edit(
        "internal/protocol/observation.ts",
        "  if (begun === observation.revision) {\n    return lease === \"absent\"",
        "  if (begun === observation.revision || lease === \"absent\") {\n    return lease === \"absent\""
      )
    ]
  },
  {
    name: "own duration instead of the holder's",
    seenIn: "the Java client, the Ruby gem, zio-k8s",
    within: 200,
    edits: [
      edit(
        "internal/protocol/timing.ts",
        "leaseDurationSeconds === undefined ? leaseDuration",
        "leaseDurationSeconds !== 1 ? leaseDuration"
      ),
      edit(
        "internal/protocol/timing.ts",
        "const least = BigInt(observation.heldFor) * 1_000_000_000n",
        "const least = BigInt(observation.heldFor) * 0n"
      )
    ]
  },
  {
    name: "a record of one's own that is put back says nothing new",
    seenIn: "the first version of the rules for edits",
    within: 100,
    among: ["forgery"],
    edits: [
      edit(
        "internal/protocol/timing.ts",
        "holderIdentity === candidate.identity ? observation.changedAt : observation.signOfLifeAt",
        "holderIdentity === candidate.identity ? observation.signOfLifeAt : observation.signOfLifeAt"
      )
    ]
  },
  {
    name: "a duration that was shortened by hand is believed",
    seenIn: "client-go, and the first version of this library",
    within: 500,
    among: ["forgery"],
    edits: [
      edit(
        "internal/protocol/timing.ts",
        "const least = BigInt(observation.heldFor) * 1_000_000_000n",
        "const least = BigInt(observation.heldFor) * 0n"
      )
    ]
  },
  {
    name: "unguarded patch",
    seenIn: "kube-leader-election (Rust), the Ruby gem",
    within: 200,
    edits: [
      edit(
        "internal/leaseJson.ts",
        "metadata: { resourceVersion: resourceVersion.toString(), ...metadataOf(write) }",
        "metadata: { ...metadataOf(write) }"
      )
    ]
  },
  {
    name: "identity by the Pod's name alone",
    seenIn: "the Ruby gem, operator-lib",
    within: 500,
    edits: [
      edit(
        "internal/protocol/decision.ts",
        "  const own = lease.holderIdentity === candidate.identity\n",
        "  const own = lease.holderIdentity.split(\"_\")[0] === candidate.identity.split(\"_\")[0]\n"
      ),
      edit(
        "internal/protocol/instance.ts",
        "JSON.stringify([identity, podUid ?? null])",
        "JSON.stringify([identity.split(\"_\")[0]])"
      )
    ]
  },
  {
    name: "the Lease is created again inside a term",
    seenIn: "client-go, the Java client",
    within: 200,
    edits: [
      edit(
        "internal/protocol/renewal.ts",
        "  if (loss !== undefined) {\n    return lose(",
        "  if (loss === \"LeaseDeleted\" && observation.lease === \"absent\") {\n    return claim\n  }\n  if (loss !== undefined) {\n    return lose("
      ),
      edit(
        "internal/election/renewal.ts",
        "  if (held && Result.isSuccess(answer.result)) {\n",
        "  if (held && Result.isFailure(answer.result) && answer.result.failure.reason._tag === \"LeaseNotFound\") {\n    const again = yield* Effect.result(\n      election.store.create(election.key, Writes.create(election.state.claim!.candidate, attempt.renewTime))\n    )\n    if (Result.isSuccess(again)) {\n      const { lease } = again.success\n      advance(election, (state) => ({\n        ...state,\n        observation: Observation.onApplied(state.observation, lease, answer.end.monotonic),\n        claim: Renewal.committed({ ...state.claim!, uid: lease.uid, lease }, attempt, lease)\n      }), answer.end)\n    }\n  }\n  if (held && Result.isSuccess(answer.result)) {\n"
      )
    ]
  },
  {
    name: "a young Lease leads at once",
    seenIn: "every other elector",
    within: 500,
    edits: [
      edit(
        "internal/protocol/youngLease.ts",
        "  return observation.markedAt !== undefined && observation.markedAt < seen ? observation.markedAt : seen\n",
        "  return seen < 0n ? seen : 0n\n"
      )
    ]
  },
  {
    name: "the age is carried over to another uid",
    seenIn: "a design that was given up",
    within: 1000,
    edits: [
      edit(
        "internal/protocol/observation.ts",
        "      firstSeenAt: now,\n      markedAt: isMarked(lease) ? now : undefined",
        "      firstSeenAt: observation.firstSeenAt === 0n ? now : observation.firstSeenAt,\n" +
          "      markedAt: observation.markedAt"
      )
    ]
  },
  {
    name: "the term on a young Lease begins without a guarded write",
    seenIn: "a design that was given up",
    within: 1000,
    edits: [
      edit(
        "internal/election/campaign.ts",
        "    if (settings.newLease === \"lead\" ||",
        "    if (moment.monotonic >= YoungLease.oldEnoughAt(observation, timing.leaseDuration)) {\n      advance(election, claimed((claim) => ({ ...claim, validFrom: moment })), moment)\n      return yield* begin(election, election.state.claim!)\n    }\n    if (settings.newLease === \"lead\" ||"
      )
    ]
  },
  {
    name: "the age mark is a constant text",
    seenIn: "the first idea of a mark",
    within: 500,
    among: ["server clocks"],
    edits: [
      edit(
        "internal/protocol/youngLease.ts",
        "lease.uid !== \"\" && lease.annotations[ageMarkAnnotation] === lease.uid",
        "lease.uid !== \"\" && lease.annotations[ageMarkAnnotation] !== undefined"
      )
    ]
  },
  {
    name: "any Lease without holder is free at once",
    seenIn: "client-go and every other elector",
    within: 500,
    edits: [
      edit(
        "internal/protocol/decision.ts",
        "lease.holderIdentity === \"\" && lease.leaseDurationSeconds === releasedDurationSeconds",
        "lease.holderIdentity === \"\""
      )
    ]
  },
  {
    name: "what was first seen may be resumed at any version",
    seenIn: "the first design of the resume",
    within: 1000,
    among: ["forgery"],
    edits: [
      edit(
        "internal/protocol/decision.ts",
        " && isFirst(observation, lease)) {",
        " && (isFirst(observation, lease) || lease.uid !== \"\")) {"
      )
    ]
  },
  {
    name: "campaigns while the last program still runs",
    seenIn: "client-go where Run is called again at once",
    within: 200,
    edits: [
      edit("LeaderElection.ts", "    yield* Fiber.interrupt(fiber)\n", "    fiber.interruptUnsafe()\n"),
      edit(
        "LeaderElection.ts",
        "    const exit = yield* Fiber.await(fiber)\n",
        "    const exit = fiber.pollUnsafe() ?? Exit.void\n"
      )
    ]
  },
  {
    name: "a later instance is resumed by an earlier one",
    seenIn: "every elector with one identity per Pod",
    within: 1000,
    edits: [
      edit(
        "internal/protocol/instance.ts",
        "  left.start === right.start ? left.random < right.random : left.start < right.start",
        "  left.start === right.start || true"
      )
    ]
  },
  {
    name: "an earlier instance is not resumed",
    seenIn: "client-go (a random identity per process)",
    within: 1000,
    edits: [
      edit(
        "internal/protocol/instance.ts",
        "  left.start === right.start ? left.random < right.random : left.start < right.start",
        "  left.start === right.start && left.random !== left.random"
      )
    ]
  },
  {
    name: "releases without reading after a conflict",
    seenIn: "client-go before 2026",
    within: 1000,
    edits: [
      edit(
        "internal/election/release.ts",
        "if (election.state.observation.version === version) {",
        "if (version < 0n) {"
      )
    ]
  },
  {
    name: "releases before the program is interrupted",
    seenIn: "client-go, fabric8, pinniped",
    within: 100,
    edits: [
      edit(
        "internal/election/term.ts",
        "    if (left === 0n) {\n      return lose(election, \"RenewDeadlineExceeded\", now)\n    }",
        "    if (left === 0n) {\n      yield* election.store.patch(election.key, claim.lease.resourceVersion, {\n        holderIdentity: \"\",\n        leaseDurationSeconds: 1,\n        renewTime: (claim.lease.renewTime ?? 0n) + 1n\n      }).pipe(Effect.timeoutOption(election.settings.requestTimeout), Effect.exit)\n      return lose(election, \"RenewDeadlineExceeded\", now)\n    }"
      )
    ]
  },
  {
    name: "a renewal may write the same renewTime twice",
    seenIn: "every elector that writes the wall clock as it is",
    within: 1000,
    among: ["usual"],
    edits: [
      edit(
        "internal/protocol/writes.ts",
        "wallClock > lastWritten ? wallClock : lastWritten + 1n\n  return unique === stored ? unique + 1n : unique",
        "wallClock > lastWritten ? wallClock : lastWritten\n  return stored === undefined ? unique : unique"
      )
    ]
  },
  {
    name: "validity as a stored boolean",
    seenIn: "every other elector",
    within: 1000,
    among: ["usual"],
    edits: [
      edit(
        "internal/protocol/renewal.ts",
        "    : remaining(claim.validFrom, now, renewDeadline)\n",
        "    : now.monotonic >= 0n ? renewDeadline : 0n\n"
      )
    ]
  },
  {
    name: "an instance has no origin: the name alone says what is resumed",
    seenIn: "the first design of the resume",
    within: 200,
    among: ["forgery"],
    edits: [edit("internal/protocol/instance.ts", "left.origin === right.origin &&", "right.origin !== \"\" &&")]
  },
  {
    name: "the origin is the Pod's uid alone",
    seenIn: "the first design of origins",
    within: 1000,
    among: ["forgery"],
    edits: [
      edit(
        "internal/protocol/instance.ts",
        "JSON.stringify([identity, podUid ?? null])",
        "JSON.stringify([podUid ?? null])"
      )
    ]
  },
  {
    name: "an older record of one's own ends the process",
    seenIn: "the first design of this library",
    within: 1000,
    among: ["forgery", "one at a time"],
    edits: [
      edit(
        "internal/protocol/decision.ts",
        "lease.holderIdentity === candidate.identity && Instance.startedAfter(instanceOf(lease), candidate.instance)",
        "lease.holderIdentity === candidate.identity && Instance.startedAfter(\"0-0\", candidate.instance) === false"
      )
    ]
  },
  {
    name: "holding a young Lease has no deadline",
    seenIn: "the first design of the wait",
    within: 1000,
    among: ["forgery"],
    edits: [
      edit(
        "internal/election/campaign.ts",
        "timing.renewDeadline) === 0n) {\n      return undefined",
        "timing.renewDeadline) < 0n) {\n      return undefined"
      ),
      edit(
        "internal/election/campaign.ts",
        "until: claim.validFrom.monotonic + timing.renewDeadline",
        "until: moment.monotonic + timing.renewDeadline"
      ),
      // Since then what was put back is another's for a second reason.
      edit(
        "internal/protocol/renewal.ts",
        "claim.validFrom.monotonic >= claim.candidate.leaseDuration",
        "claim.validFrom.monotonic < 0n"
      )
    ]
  },
  {
    name: "the age mark is written on a young Lease",
    seenIn: "nobody: a slip that is easily made",
    within: 500,
    among: ["server clocks", "newLease"],
    edits: [
      edit(
        "internal/protocol/youngLease.ts",
        "  start >= oldEnoughAt(observation, leaseDuration)\n",
        "  (start >= oldEnoughAt(observation, leaseDuration) || observation.version > 0n)\n"
      )
    ]
  },
  {
    name: "the age mark is written by any leader, whatever it knows",
    seenIn: "the first design of the mark",
    within: 2000,
    among: ["newLease"],
    edits: [
      edit(
        "internal/election/renewal.ts",
        "const mark = YoungLease.needsMark(election.state.observation, start.monotonic, timing.leaseDuration)",
        "const mark = YoungLease.needsMark(election.state.observation, start.monotonic, timing.leaseDuration) || " +
          "(claim.term !== undefined && !YoungLease.isMarked(guard))"
      )
    ]
  },
  {
    name: "the age by creationTimestamp and the wall clock",
    seenIn: "the first version of the age rule, by the server's Date",
    within: 200,
    among: ["server clocks"],
    edits: [
      edit(
        "internal/election/campaign.ts",
        "    if (settings.newLease === \"lead\" ||",
        "    const wall = yield* wallMicros\n" +
          "    if (wall / 1000n - BigInt(claim.lease.creationTimestamp ?? 0) >= timing.leaseDuration / 1_000_000n ||\n" +
          "      settings.newLease === \"lead\" ||"
      )
    ]
  },
  {
    name: "the suspend witness is believed alone",
    seenIn: "the first version of the witness",
    within: 500,
    among: ["one at a time"],
    edits: [
      edit(
        "internal/protocol/timing.ts",
        "const suspended = witness < wall ? witness : wall",
        "const suspended = witness < wall ? witness : witness"
      )
    ]
  },
  {
    name: "the wall clock is believed alone",
    seenIn: "the Rust and Node libraries",
    within: 500,
    among: ["one at a time"],
    edits: [
      edit(
        "internal/protocol/timing.ts",
        "const suspended = witness < wall ? witness : wall",
        "const suspended = witness < wall ? wall : wall"
      )
    ]
  },
  {
    name: "a suspension is not noticed",
    seenIn: "every other elector",
    within: 500,
    among: ["usual"],
    edits: [
      edit(
        "internal/protocol/timing.ts",
        "return suspended > monotonic ? suspended : monotonic",
        "return suspended > monotonic ? monotonic : monotonic"
      )
    ]
  },
  {
    name: "attempts are given up at requestTimeout",
    seenIn: "the first version of this library",
    within: 500,
    among: ["slow writes, one at a time"],
    edits: [
      edit(
        "internal/election/requests.ts",
        "Number(sending.limit / 1_000_000n)",
        "Number((running.kind === \"write\" ? election.timing.requestTimeout : sending.limit) / 1_000_000n)"
      )
    ]
  },
  {
    name: "reads are given up at requestTimeout",
    seenIn: "the first version of this library",
    within: 500,
    among: ["slow reads"],
    edits: [
      edit(
        "internal/election/requests.ts",
        "Number(sending.limit / 1_000_000n)",
        "Number((running.kind === \"read\" ? election.timing.requestTimeout : sending.limit) / 1_000_000n)"
      )
    ]
  },
  {
    name: "a fourth attempt waits",
    seenIn: "the first design of attempts",
    within: 500,
    among: ["hung"],
    edits: [
      edit(
        "internal/protocol/attempts.ts",
        "  const later = spaced > series.notBefore ? spaced : series.notBefore\n",
        "  const awaited = open(series)\n" +
          "  if (awaited.length >= maxOpen) {\n    return awaited[0]!.start.monotonic + 1_000_000_000_000n\n  }\n" +
          "  const later = spaced > series.notBefore ? spaced : series.notBefore\n"
      )
    ]
  },
  {
    name: "a fourth attempt gives up the oldest",
    seenIn: "the first design of attempts",
    within: 1000,
    among: ["slow writes, one at a time", "hung"],
    edits: [edit("internal/protocol/attempts.ts", "undefined : awaited.at(-1)", "undefined : awaited[0]")]
  },
  {
    name: "a newer version kills no attempt",
    seenIn: "the first design of attempts",
    within: 1000,
    among: ["slow writes, one at a time"],
    edits: [
      edit(
        "internal/protocol/attempts.ts",
        "  keep(series, (attempt) => isLiving(attempt, lease))\n",
        "  keep(series, (attempt) => isLiving(attempt, lease) || attempt.id >= 0)\n"
      )
    ]
  },
  {
    name: "the next renewal counts from the newest attempt",
    seenIn: "the first design of attempts",
    within: 1000,
    among: ["slow writes, one at a time"],
    edits: [
      edit(
        "internal/protocol/renewal.ts",
        "const renewal = claim.firstDue ?? claim.validFrom.monotonic + timing.renewInterval",
        "const renewal = claim.firstDue ?? (claim.renewals.starts.at(-1) ?? claim.validFrom.monotonic) + timing.renewInterval"
      )
    ]
  },
  {
    name: "a success counts from the newest attempt",
    seenIn: "the first design of this library",
    within: 1000,
    among: ["slow writes, one at a time", "slow writes"],
    edits: [
      edit(
        "internal/protocol/renewal.ts",
        "const shown = Attempts.shownBy(Attempts.recognised(claim.renewals), lease)",
        "const shown = Attempts.shownBy(Attempts.recognised(claim.renewals), lease) && claim.renewals.requests.at(-1)"
      )
    ]
  },
  {
    name: "a candidate does not count a write whose answer was lost",
    seenIn: "the first version of this library",
    within: 1000,
    among: ["slow writes, one at a time"],
    edits: [
      edit(
        "internal/protocol/decision.ts",
        "if (adopted !== undefined) {",
        "if (adopted !== undefined && adopted.open) {"
      )
    ]
  },
  {
    name: "a page of a proxy ends a candidate",
    seenIn: "the first version of this library",
    within: 500,
    among: ["one at a time"],
    edits: [
      edit(
        "internal/protocol/refusal.ts",
        "    case \"LeaseUnauthorized\":\n    case \"LeaseExpired\":\n    case \"LeaseUnavailable\":\n      return \"Retry\"",
        "    case \"LeaseUnavailable\":\n      return reason.code === 404 ? \"Refused\" : \"Retry\"\n" +
          "    case \"LeaseUnauthorized\":\n    case \"LeaseExpired\":\n      return \"Retry\""
      ),
      edit(
        "internal/protocol/refusal.ts",
        "  streak.last - streak.since >= (leaseDuration > leastPatience ? leaseDuration : leastPatience)",
        "  streak.last - streak.since >= 0n"
      )
    ]
  },
  {
    name: "refusals for leaseDuration end a candidate",
    seenIn: "the first version of this library",
    within: 500,
    among: ["one at a time"],
    edits: [
      edit(
        "internal/protocol/refusal.ts",
        "(leaseDuration > leastPatience ? leaseDuration : leastPatience)",
        "leaseDuration"
      )
    ]
  },
  {
    name: "a Logger that throws ends what logs",
    seenIn: "the first version of this library",
    within: 200,
    among: ["a Logger throws"],
    edits: [
      edit(
        "internal/log.ts",
        "  Effect.catchCause(effect, (cause) =>",
        "  Effect.tapCause(effect, (cause) =>"
      )
    ]
  },
  {
    name: "no pause after a create that is deleted at once, nor between any three",
    seenIn: "the first version of this library",
    within: 500,
    among: ["usual", "forgery"],
    edits: [
      edit(
        "internal/election/campaign.ts",
        "  election.createNotBefore = now + election.timing.leaseDuration\n",
        "  election.createNotBefore = now\n"
      ),
      edit(
        "internal/protocol/attempts.ts",
        "const crowded = series.starts.length < maxOpen ? 0n : series.starts[0]! + pace.retryPeriod",
        "const crowded = series.starts.length < maxOpen ? 0n : series.starts[0]!"
      )
    ]
  },
  {
    name: "a read that failed is forgotten",
    seenIn: "the first version of this library",
    within: 2000,
    edits: [
      edit(
        "internal/election/requests.ts",
        "advance(election, (state) => ({ ...state, reads: Attempts.begun(state.reads, request) }), start)",
        "advance(election, (state) => ({ ...state, mustRead: false, reads: Attempts.begun(state.reads, request) }), start)"
      )
    ]
  },
  {
    name: "a release is sent whenever the program has ended",
    seenIn: "the first version of this library",
    within: 500,
    among: ["forgery"],
    edits: [
      edit(
        "internal/election/release.ts",
        "const stop = limit < latest ? limit : latest",
        "const stop = limit < latest ? limit : limit"
      )
    ]
  },
  {
    name: "leaseDuration 15 s beside 30 s, each with the renewDeadline that follows from it",
    seenIn: "a rollout that changes leaseDuration in one step",
    within: 100,
    edits: [],
    misuse: "leaseDurations too far apart"
  },
  {
    name: "takeover waits for a watch event only",
    seenIn: "@codedependant, nestjs",
    within: 100,
    edits: [
      edit(
        "internal/election/campaign.ts",
        "return yield* waitUntil(due < until ? due : until, election.news)",
        "return yield* watching ? election.news.await : waitUntil(due < until ? due : until, election.news)"
      )
    ]
  }
]

const src = fileURLToPath(new URL("../../src/", import.meta.url))

/** The text of a file with a rule broken in it. Fails where a change no longer fits. */
export const apply = (rule: BrokenRule, file: string, source: string): string => {
  for (const { file: edited, find, replace } of rule.edits) {
    if (edited === file) {
      const parts = source.split(find)
      if (parts.length !== 2) {
        throw new Error(`"${rule.name}" no longer fits src/${file}: found ${parts.length - 1} times: ${find}`)
      }
      source = parts.join(replace)
    }
  }
  return source
}

/** Breaks a rule in everything that is loaded from now on. Fails at once where it no longer fits. */
export const breakRule = (rule: BrokenRule): void => {
  const broken = new Map<string, string>()
  for (const { file } of rule.edits) {
    const path = join(src, file)
    broken.set(path, apply(rule, file, readFileSync(path, "utf8")))
  }
  registerHooks({
    load: (url, context, next) => {
      const source = url.startsWith("file:") ? broken.get(fileURLToPath(url)) : undefined
      return source === undefined ? next(url, context) : { format: "module-typescript", source, shortCircuit: true }
    }
  })
}
