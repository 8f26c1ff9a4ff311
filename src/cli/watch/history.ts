/**
 * Who has held a Lease, as far as it was seen: from one look at it to the next.
 * Pure.
 *
 * As candidates do, it goes by signs of life and when they were seen, never by
 * the times in the record.
 *
 * @internal
 */
import { instanceOf, isSignOfLife, type LeaseRecord } from "../../LeaseRecord.ts"
import { line } from "../shared/printable.ts"
import { measured, type Row, type Span } from "../shared/timeline.ts"

/**
 * What a look has shown.
 *
 * - `Lease`, `Absent`: as it is now.
 * - `Nothing`: nothing new, although everything that happened would have been seen.
 * - `Blind`: it cannot be seen from now on, until the next look.
 */
export type Look =
  | { readonly _tag: "Lease"; readonly lease: LeaseRecord }
  | { readonly _tag: "Absent" }
  | { readonly _tag: "Nothing" }
  | { readonly _tag: "Blind"; readonly reason: string }

/** Times are milliseconds on one clock that never goes back. */
export interface History {
  readonly lease: LeaseRecord | "absent" | "unknown"
  /** When the last sign of life of a holder was seen. */
  readonly signOfLifeAt: number
  /** Since when the present holder holds it; `undefined` where nobody does. */
  readonly heldSince: number | undefined
  /** Since when nobody holds it; `undefined` where somebody does, or nothing is known. */
  readonly freeSince: number | undefined
  readonly blind: boolean
  /** A row for each holder, in the order in which they were first seen, and one for the time without. */
  readonly holders: ReadonlyArray<Row>
  readonly nobody: ReadonlyArray<Span>
}

/** One sentence on what has changed. */
export interface News {
  readonly text: string
  readonly kind: "held" | "free" | "other"
}

export const initial: History = {
  lease: "unknown",
  signOfLifeAt: 0,
  heldSince: undefined,
  freeSince: undefined,
  blind: false,
  holders: [],
  nobody: []
}

/** When the lease runs out, if no sign of life is seen until then; `undefined` where nobody holds it. */
export const runsOutAt = (history: History): number | undefined =>
  typeof history.lease === "string" || history.heldSince === undefined
    ? undefined
    : history.signOfLifeAt + (history.lease.leaseDurationSeconds ?? defaultDuration) * 1000

/** Where the record has no duration, candidates take their own; this is the default one. */
const defaultDuration = 15

const close = (spans: ReadonlyArray<Span>, at: number): ReadonlyArray<Span> =>
  spans.map((span) => span.to === undefined ? { ...span, to: at } : span)

const closeAll = (history: History, at: number): History => ({
  ...history,
  holders: history.holders.map((row) => ({ ...row, spans: close(row.spans, at) })),
  nobody: close(history.nobody, at)
})

const hold = (history: History, holder: string, at: number): History => {
  const closed = closeAll(history, at)
  const span: Span = { phase: "leads", from: at, to: undefined }
  const known = closed.holders.some(({ label }) => label === holder)
  return {
    ...closed,
    heldSince: at,
    freeSince: undefined,
    holders: known
      ? closed.holders.map((row) => row.label === holder ? { ...row, spans: [...row.spans, span] } : row)
      : [...closed.holders, { label: holder, spans: [span] }]
  }
}

const free = (history: History, at: number): History => ({
  ...closeAll(history, at),
  heldSince: undefined,
  freeSince: at,
  nobody: [...close(history.nobody, at), { phase: "gap", from: at, to: undefined }]
})

/** What was a wait on a new Lease, as it turned out, is shown as one. */
const turnIntoWait = (history: History, holder: string, at: number): History => ({
  ...history,
  heldSince: at,
  holders: history.holders.map((row) =>
    row.label !== holder ? row : {
      ...row,
      spans: [
        ...row.spans.map((span): Span => span.to === undefined ? { ...span, phase: "holds", to: at } : span),
        { phase: "leads", from: at, to: undefined }
      ]
    }
  )
})

type Step = { readonly history: History; readonly news: ReadonlyArray<News> }

const quiet = (history: History): Step => ({ history, news: [] })

export const step = (history: History, look: Look, at: number): Step => {
  // After a time in which anything may have happened, the next look is as the first.
  const seen: History = history.blind
    ? { ...history, blind: false, lease: "unknown", heldSince: undefined, freeSince: undefined }
    : history
  switch (look._tag) {
    case "Blind":
      return history.blind ? quiet(history) : {
        history: { ...closeAll(history, at), blind: true },
        news: [{ kind: "other", text: `cannot be seen: ${look.reason}` }]
      }
    case "Nothing": {
      const until = runsOutAt(history)
      return history.blind || until === undefined || at < until || typeof history.lease === "string"
        ? quiet(history)
        : {
          history: free(history, until),
          news: [{ kind: "free", text: `${line(history.lease.holderIdentity)} has not renewed it: it has run out` }]
        }
    }
    case "Absent":
      return seeNobody(seen, undefined, at)
    case "Lease":
      if (typeof seen.lease !== "string" && look.lease.resourceVersion < seen.lease.resourceVersion) {
        // A read that was overtaken by an event.
        return quiet(history)
      }
      return look.lease.holderIdentity === "" ? seeNobody(seen, look.lease, at) : seeHolder(seen, look.lease, at)
  }
}

const forHowLong = ({ heldSince }: History, at: number): string =>
  heldSince === undefined ? "" : `, held for ${measured(at - heldSince)}`

/** The Lease has no holder, or is not there. */
const seeNobody = (history: History, lease: LeaseRecord | undefined, at: number): Step => {
  const before = history.lease
  const next: History = { ...history, lease: lease ?? "absent" }
  const text = before === "unknown"
    ? lease === undefined ? "does not exist" : "has no holder"
    : lease === undefined
    ? before === "absent" ? undefined : `was deleted${forHowLong(history, at)}`
    : before === "absent"
    ? "was created without holder"
    : before.holderIdentity === ""
    ? undefined
    : lease.leaseDurationSeconds === 1
    ? `${line(before.holderIdentity)} has released it${forHowLong(history, at)}`
    : `was emptied; ${line(before.holderIdentity)} was its holder${forHowLong(history, at)}`
  return {
    history: history.freeSince === undefined ? free(next, at) : next,
    news: text === undefined ? [] : [{ kind: "free", text }]
  }
}

const seeHolder = (history: History, lease: LeaseRecord, at: number): Step => {
  const { freeSince, heldSince, lease: before } = history
  const holder = lease.holderIdentity
  const next: History = { ...history, lease }
  const begin = (text: string): Step => ({
    history: hold({ ...next, signOfLifeAt: at }, holder, at),
    news: [{ kind: "held", text }]
  })
  const description = `(transitions ${lease.leaseTransitions}, version ${lease.resourceVersion})`
  if (before === "unknown") {
    return begin(`${line(holder)} holds it ${description}`)
  }
  const wasHolder = before !== "absent" && before.uid === lease.uid && before.holderIdentity === holder
  if (!wasHolder) {
    return begin(
      `${line(holder)} takes it ${description}` +
        (freeSince !== undefined
          ? `; nobody held it for ${measured(at - freeSince)}`
          : before === "absent"
          ? ""
          : ` from ${line(before.holderIdentity)}${forHowLong(history, at)}`)
    )
  }
  if (!isSignOfLife(before, lease)) {
    return quiet(next)
  }
  if (heldSince === undefined) {
    return begin(
      `${line(holder)} renews it again${freeSince === undefined ? "" : `, after ${measured(at - freeSince)}`}`
    )
  }
  if (instanceOf(before) !== instanceOf(lease)) {
    return begin(`${line(holder)} takes it anew ${description}: another process or campaign of this identity`)
  }
  return before.acquireTime === lease.acquireTime
    ? quiet({ ...next, signOfLifeAt: at })
    : {
      history: turnIntoWait({ ...next, signOfLifeAt: at }, holder, at),
      news: [{ kind: "held", text: `${line(holder)} begins its term, having waited for ${measured(at - heldSince)}` }]
    }
}

/** Without what ended before `from`. */
export const forget = (history: History, from: number): History => {
  const keep = (spans: ReadonlyArray<Span>) => spans.filter(({ to }) => to === undefined || to > from)
  return {
    ...history,
    nobody: keep(history.nobody),
    holders: history.holders.map((row) => ({ ...row, spans: keep(row.spans) })).filter(({ spans }) => spans.length > 0)
  }
}
