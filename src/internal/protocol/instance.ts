/**
 * Instance ids: what tells two processes apart that use one identity.
 *
 * One per campaign, not per process: `<start, Unix microseconds>-<random>`.
 * They are ordered by start, then by the random part, so that of two processes
 * exactly one finds the other to be the earlier: only an earlier one is resumed
 * (a container that was restarted in its Pod); else two live processes of one
 * Pod would take the Lease from each other at full speed.
 *
 * @internal
 */
const pattern = /^([0-9]{1,20})-([0-9a-z]{1,32})$/

export const format = (startMicros: bigint, random: string): string => `${startMicros}-${random}`

/** Whether `other` started before `own`; false where it is no instance id. */
export const startedBefore = (other: string | undefined, own: string): boolean => {
  const left = other === undefined ? null : pattern.exec(other)
  const right = pattern.exec(own)
  if (left === null || right === null) {
    return false
  }
  const [leftStart, rightStart] = [BigInt(left[1]!), BigInt(right[1]!)]
  return leftStart === rightStart ? left[2]! < right[2]! : leftStart < rightStart
}
