/**
 * Judges what candidates have written into their journal: that no two of their
 * leader programs ran at once, and that fencing tokens only grew. Pure.
 *
 * @internal
 */
import * as Arr from "effect/Array"
import type { CandidateEvent } from "../run/candidateEvent.ts"

/** One run of a leader program. Times are the monotonic clock, in milliseconds. */
export interface Term {
  readonly pid: number
  readonly identity: string
  readonly fencingToken: bigint
  readonly from: number
  /** When it was asked to end, or was killed: until then it may have acted as leader. */
  readonly askedToEnd: number
  /** When it was over, finalizers included. */
  readonly ended: number
  readonly steps: number
}

export interface Verdict {
  /** In the order in which they began. */
  readonly terms: ReadonlyArray<Term>
  /** One sentence for each promise that was broken; none, where all is well. */
  readonly problems: ReadonlyArray<string>
}

/**
 * `journal` has the lines of all candidates in the order in which they were
 * written; `exits` says when each process was gone, which is the end of a
 * program that could not write one.
 */
export const judge = (
  journal: ReadonlyArray<CandidateEvent>,
  exits: ReadonlyMap<number, number>
): Verdict => {
  const problems: Array<string> = []
  const byTerm = Arr.groupBy(
    journal.filter(({ fencingToken }) => fencingToken !== undefined),
    ({ fencingToken, pid }) => `${pid} ${fencingToken}`
  )

  const terms: Array<Term> = []
  for (const lines of Object.values(byTerm)) {
    const { fencingToken, identity, pid } = lines[0]
    const gone = exits.get(pid)
    const from = lines.find(({ event }) => event === "leading")?.mono
    const ended = lines.find(({ event }) => event === "ended")?.mono ?? gone
    if (from === undefined) {
      problems.push(`${identity} acted with fencing token ${fencingToken} without having begun to lead`)
    } else if (ended === undefined) {
      problems.push(`the program of ${identity} (fencing token ${fencingToken}) has not ended`)
    } else {
      terms.push({
        pid,
        identity,
        fencingToken: BigInt(fencingToken!),
        from,
        askedToEnd: lines.find(({ event }) => event === "lost" || event === "ending")?.mono ?? ended,
        ended,
        steps: lines.filter(({ event }) => event === "step").length
      })
    }
  }
  terms.sort((a, b) => a.from - b.from)

  for (const [index, term] of terms.entries()) {
    for (const earlier of terms.slice(0, index)) {
      if (earlier.ended > term.from) {
        problems.push(
          `two led at once: ${term.identity} began ${
            (earlier.ended - term.from).toFixed(1)
          } ms before the program of ` +
            `${earlier.identity} had ended (fencing tokens ${term.fencingToken}, ${earlier.fencingToken})`
        )
      }
      if (earlier.fencingToken >= term.fencingToken) {
        problems.push(
          `fencing tokens did not grow: ${term.identity} got ${term.fencingToken} after ${earlier.identity} had got ` +
            `${earlier.fencingToken}`
        )
      }
    }
  }

  // The order in one file needs no clock at all.
  let newest: CandidateEvent | undefined
  for (const line of journal) {
    if (line.fencingToken === undefined) {
      continue
    }
    if (newest?.fencingToken !== undefined && BigInt(line.fencingToken) < BigInt(newest.fencingToken)) {
      problems.push(
        `${line.identity} wrote "${line.event}" with fencing token ${line.fencingToken} after ${newest.identity} had ` +
          `written with ${newest.fencingToken}`
      )
    } else {
      newest = line
    }
  }
  return { terms, problems }
}
