/**
 * Instance ids: what distinguishes two processes that use one identity.
 *
 * One per campaign, and a new one after each holding that was lost:
 * `<start, Unix microseconds>-<origin>-<random>`. They are ordered by start,
 * then by the random part, so that of two processes exactly one finds the other
 * to be the earlier: only an earlier one is resumed (a container that was
 * restarted in its Pod); else two live processes of one Pod would take the
 * Lease from each other at full speed.
 *
 * The origin says which identity, in which Pod, made the id. `kubectl patch` of
 * holderIdentity alone leaves the leader's instance beside another candidate's
 * name: without the origin that candidate would take it for an earlier process
 * of its own, and lead beside a leader that is cut off.
 *
 * @internal
 */
import { createHash } from "node:crypto"

// The second form, without origin, is that of version 0.1.0: it is ordered, and never resumed.
const pattern = /^([0-9]{1,20})-([0-9a-f]{20})-([0-9a-z]{1,32})$/
const withoutOrigin = /^([0-9]{1,20})()-([0-9a-z]{1,32})$/

interface Instance {
  readonly start: bigint
  /** `""` where there is none. */
  readonly origin: string
  readonly random: string
}

const parse = (text: string | undefined): Instance | undefined => {
  const match = text === undefined ? null : pattern.exec(text) ?? withoutOrigin.exec(text)
  return match === null ? undefined : { start: BigInt(match[1]!), origin: match[2]!, random: match[3]! }
}

/**
 * The origin of a process: 80 bits of a hash of its identity and its Pod's uid.
 * Both, because two processes of one Pod may have an identity each, and one
 * identity may be given to several Pods. Without salt: it is the same after a
 * restart of the container.
 */
export const originOf = (identity: string, podUid: string | undefined): string =>
  createHash("sha256").update(JSON.stringify([identity, podUid ?? null])).digest("hex").slice(0, 20)

export const format = (startMicros: bigint, origin: string, random: string): string =>
  `${startMicros}-${origin}-${random}`

const isEarlier = (left: Instance, right: Instance): boolean =>
  left.start === right.start ? left.random < right.random : left.start < right.start

/** Whether `other` is an earlier process of the same identity in the same Pod: only that may be resumed. */
export const isPredecessor = (other: string | undefined, own: string): boolean => {
  const [left, right] = [parse(other), parse(own)]
  return left !== undefined && right !== undefined && left.origin !== "" && left.origin === right.origin &&
    isEarlier(left, right)
}

/** Whether `other`, of whatever origin, started after `own`; false where it is not an instance id. */
export const startedAfter = (other: string | undefined, own: string): boolean => {
  const [left, right] = [parse(other), parse(own)]
  return left !== undefined && right !== undefined && isEarlier(right, left)
}
