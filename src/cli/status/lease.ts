/**
 * What a Lease says to a person who looks at it once. Pure.
 *
 * @internal
 */
import {
  ageMarkAnnotation,
  formatTime,
  instanceAnnotation,
  type LeaseRecord,
  noteAnnotation
} from "../../LeaseRecord.ts"
import { line, pad, width } from "../shared/printable.ts"

/**
 * Whose record it is, by what stands in it.
 *
 * - `ours`: has this library's annotation.
 * - `coordinated`: of Kubernetes' coordinated leader election (KEP-4355).
 * - `gem`: owned by a Pod that is named as its holder, as the Ruby gem writes it.
 * - `node`, `apiserver`: the sign of life of a node or an API server; no election.
 * - `client-go`: anything else that is held, which is client-go's form and that
 *   of most others.
 * - `unknown`: nobody holds it, and it does not show who did.
 */
export type Kind = "ours" | "coordinated" | "gem" | "node" | "apiserver" | "client-go" | "unknown"

/**
 * - `held`: by a holder that has renewed it within its duration.
 * - `young`: held so, by one of ours, and nobody has yet seen this very Lease
 *   for its duration: its holder waits before it leads (unless its newLease is
 *   `lead`).
 * - `expired`: not renewed for its duration.
 * - `released`: given up in good order.
 * - `free`: without holder otherwise.
 */
export type State = "held" | "young" | "expired" | "released" | "free"

export interface Status {
  readonly namespace: string
  readonly name: string
  readonly state: State
  readonly kind: Kind
  /** null where there is none. */
  readonly holder: string | null
  /** As the holder wrote it, by its own clock. */
  readonly renewTime: string | null
  readonly acquireTime: string | null
  /** The clock that `ageSeconds` was measured with: that of the API server, or this machine's where it did not say. */
  readonly clock: "server" | "local"
  /** That clock minus `renewTime`; 0 where the holder's clock is ahead of it. */
  readonly ageSeconds: number | null
  readonly leaseDurationSeconds: number | null
  /** What is left of the duration by that age; negative where it has run out. */
  readonly leftSeconds: number | null
  readonly transitions: number
  readonly ownerPod: { readonly name: string; readonly uid: string } | null
  /** The campaign that holds it, of ours only. */
  readonly instance: string | null
  /** What the holder publishes with its term. */
  readonly note: string | null
  readonly resourceVersion: string
  /** Set while a finalizer holds up its deletion. */
  readonly deleting: boolean
  /** Who should take over, of `coordinated` only. */
  readonly preferredHolder: string | null
}

const kindOf = (lease: LeaseRecord): Kind => {
  const pod = lease.ownerReferences.find(({ kind }) => kind === "Pod")
  return lease.annotations[instanceAnnotation] !== undefined
    ? "ours"
    : lease.strategy !== undefined
    ? "coordinated"
    : lease.ownerReferences.some(({ kind }) => kind === "Node")
    ? "node"
    : lease.labels["apiserver.kubernetes.io/identity"] !== undefined
    ? "apiserver"
    : pod !== undefined && pod.name === lease.holderIdentity
    ? "gem"
    : lease.holderIdentity === ""
    ? "unknown"
    : "client-go"
}

const seconds = (millis: number): number => Math.round(millis / 100) / 10

/** `now` is the API server's clock where it is known, in Unix milliseconds. */
export const toStatus = (
  lease: LeaseRecord,
  now: { readonly millis: number; readonly clock: "server" | "local" }
): Status => {
  // The API server shows whole seconds of its clock, and the holder's may be ahead: nothing is younger than new.
  const age = lease.renewTime === undefined ? undefined : Math.max(0, now.millis - Number(lease.renewTime / 1000n))
  const duration = lease.leaseDurationSeconds
  const left = age === undefined || duration === undefined ? undefined : duration * 1000 - age
  const pod = lease.ownerReferences.find(({ kind }) => kind === "Pod")
  const kind = kindOf(lease)
  return {
    namespace: lease.namespace,
    name: lease.name,
    state: lease.holderIdentity === ""
      ? lease.leaseDurationSeconds === 1 ? "released" : "free"
      : left !== undefined && left < 0
      ? "expired"
      : kind === "ours" && lease.annotations[ageMarkAnnotation] !== lease.uid
      ? "young"
      : "held",
    kind,
    holder: lease.holderIdentity === "" ? null : lease.holderIdentity,
    renewTime: lease.renewTime === undefined ? null : formatTime(lease.renewTime),
    acquireTime: lease.acquireTime === undefined ? null : formatTime(lease.acquireTime),
    clock: now.clock,
    ageSeconds: age === undefined ? null : seconds(age),
    leaseDurationSeconds: duration ?? null,
    leftSeconds: left === undefined ? null : seconds(left),
    transitions: lease.leaseTransitions,
    ownerPod: pod === undefined ? null : { name: pod.name, uid: pod.uid },
    instance: lease.annotations[instanceAnnotation] ?? null,
    note: lease.annotations[noteAnnotation] ?? null,
    resourceVersion: lease.resourceVersion.toString(),
    deleting: lease.deletionTimestamp !== undefined,
    preferredHolder: lease.preferredHolder ?? null
  }
}

const ago = (value: number | null): string => value === null ? "-" : `${Math.round(value)}s`

/** No cell is wider than a name can be, which is longer than any other text that is not made up. */
const widest = 253

/** Columns as kubectl's: upper case, three spaces apart, nothing after the last. */
export const table = (given: ReadonlyArray<ReadonlyArray<string>>): ReadonlyArray<string> => {
  const rows = given.map((row) => row.map((cell) => line(cell, widest)))
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => width(row[column] ?? "")))) ?? []
  return rows.map((row) => row.map((cell, column) => pad(cell, widths[column] ?? 0)).join("   ").trimEnd())
}

export const toTable = (
  statuses: ReadonlyArray<Status>,
  options: { readonly namespaces: boolean }
): ReadonlyArray<string> =>
  table([
    [
      ...(options.namespaces ? ["NAMESPACE"] : []),
      "NAME",
      "STATE",
      "HOLDER",
      "RENEWED",
      "LEFT",
      "TRANSITIONS",
      "POD",
      "KIND"
    ],
    ...statuses.map((status) => {
      const isHeld = status.holder !== null
      return [
        ...(options.namespaces ? [status.namespace] : []),
        status.name,
        status.deleting ? `${status.state}, being deleted` : status.state,
        status.holder ?? "-",
        ago(status.ageSeconds),
        isHeld && status.leftSeconds !== null
          ? status.leftSeconds < 0 ? `${ago(-status.leftSeconds)} over` : ago(status.leftSeconds)
          : "-",
        String(status.transitions),
        status.ownerPod?.name ?? "-",
        status.kind === "unknown" ? "-" : status.kind
      ]
    })
  ])
