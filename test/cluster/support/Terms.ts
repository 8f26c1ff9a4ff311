/**
 * What the terms of several candidates have to be to each other, computed from what the leader programs themselves have
 * written down. All processes of one machine share the monotonic clock that the times are of.
 */
import { readFile } from "node:fs/promises"
import type { CandidateEvent } from "../../../src/cli/run/candidateEvent.ts"

export interface Term {
  readonly identity: string
  readonly fencingToken: bigint
  readonly cause: string | undefined
  /** Milliseconds of the monotonic clock. */
  readonly began: number
  /** When the program was asked to stop, had ended by itself, or was killed; Infinity while it runs. */
  readonly askedToEnd: number
  /** When its finalizers, too, had ended, or it was killed. */
  readonly ended: number
}

/** The monotonic clock of `CandidateEvent.mono`. */
export const monotonicNow = (): number => Number(process.hrtime.bigint()) / 1e6

/** The terms in the events of one candidate, in order. A process that was killed ends its term there. */
export const termsOf = (
  events: ReadonlyArray<
    Pick<CandidateEvent, "identity" | "mono" | "fencingToken" | "cause"> & { readonly event: string }
  >,
  killed = Infinity
): Array<Term> => {
  const terms: Array<Term> = []
  for (const event of events) {
    const last = terms.at(-1)
    if (event.event === "leading") {
      terms.push({
        identity: event.identity,
        fencingToken: BigInt(event.fencingToken!),
        cause: event.cause,
        began: event.mono,
        askedToEnd: killed,
        ended: killed
      })
    } else if (
      last !== undefined && last.askedToEnd === killed && (event.event === "lost" || event.event === "ending")
    ) {
      terms[terms.length - 1] = { ...last, askedToEnd: event.mono }
    } else if (last !== undefined && last.ended === killed && event.event === "ended") {
      terms[terms.length - 1] = { ...last, askedToEnd: Math.min(last.askedToEnd, event.mono), ended: event.mono }
    }
  }
  return terms
}

const show = (term: Term) =>
  `${term.identity} (token ${term.fencingToken}): ${term.began.toFixed(1)} to ${term.ended.toFixed(1)}`

/**
 * What is wrong with these terms of one Lease: programs that ran at the same time, finalizers included; fencing tokens
 * that did not grow.
 */
export const problemsOf = (terms: ReadonlyArray<Term>): Array<string> => {
  const problems: Array<string> = []
  const sorted = terms.toSorted((left, right) => left.began - right.began)
  for (const [index, term] of sorted.entries()) {
    for (const later of sorted.slice(index + 1)) {
      if (later.began < term.ended) problems.push(`two leaders at once: ${show(term)}; ${show(later)}`)
      if (later.fencingToken <= term.fencingToken) {
        problems.push(`the fencing token did not grow: ${show(term)}; ${show(later)}`)
      }
    }
  }
  return problems
}

/**
 * What is wrong with a journal that all candidates of one Lease append to: an act of a term after one of a later term.
 * The file keeps the order of the writes, and knows no clock.
 */
export const problemsOfJournal = async (file: string): Promise<Array<string>> => {
  const text = await readFile(file, "utf8").catch(() => "")
  const problems: Array<string> = []
  let highest = 0n
  for (const line of text.split("\n").slice(0, -1)) {
    const event: CandidateEvent = JSON.parse(line)
    if (event.event !== "leading" && event.event !== "step") continue
    const token = BigInt(event.fencingToken!)
    if (token < highest) problems.push(`stale act in the journal, after token ${highest}: ${line}`)
    else highest = token
  }
  return problems
}
