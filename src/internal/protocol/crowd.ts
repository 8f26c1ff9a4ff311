/**
 * How a crowd shares one Lease. All of its candidates see a release in the same
 * moment. If all of them wrote, each write but one would be a conflict, and the
 * one that counts would wait among the others.
 *
 * So each draws: a handful write at once, and the others leave them the time
 * that it takes until everybody has seen the winner. How long that is need not
 * be known, as it would have to be if all took turns: a handshake, a write and
 * hundreds of events take 20 ms on one cluster, and 200 on another.
 *
 * @internal
 */

/** So few share out nothing: their conflicts cost less than waiting. */
const few = 8

/** How many write at once, on average: that nobody does happens once in 150 times, more than ten once in 70. */
const handful = 5

/** The part of retryPeriod that is left to the first. */
const head = 8n

/** Between two of those that follow, where none of the first has taken the Lease; in nanoseconds. */
const each = 10_000_000n

/** Whether there is anything to draw. */
export const isCrowd = (candidates: number | undefined): candidates is number =>
  candidates !== undefined && candidates > few

/**
 * For how long a candidate of a crowd leaves a Lease to others that has become
 * free, given a random number from 0 to 1 (without 1); in nanoseconds,
 * retryPeriod at most.
 */
export const delay = (candidates: number, retryPeriod: bigint, random: number): bigint => {
  const first = handful / candidates
  if (random < first) {
    return 0n
  }
  const left = retryPeriod / head
  const wanted = BigInt(candidates) * each
  const window = wanted < retryPeriod - left ? wanted : retryPeriod - left
  return left + BigInt(Math.floor((random - first) / (1 - first) * Number(window)))
}
