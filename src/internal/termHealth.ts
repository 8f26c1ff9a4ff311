/**
 * The health of a term of which only its Leadership is known.
 *
 * @internal
 */

/** Milliseconds beyond the end of the term, as in Kubernetes' own components. */
const tolerance = 20_000

/** To be asked at each probe, and when the program is asked to end: the term's end is seen from there on. */
export const make = (
  lease: string,
  untilOverrun: () => number,
  now: () => number
): () => { readonly healthy: boolean; readonly message: string } => {
  let overrunAt: number | undefined
  return () => {
    const at = now()
    const left = untilOverrun()
    // Renewed again and again; once it is over, what was known before stands.
    overrunAt = left > 0 ? at + left : overrunAt ?? at
    const late = at - overrunAt
    const who = `the program that runs as leader on ${lease}`
    return late <= tolerance
      ? { healthy: true, message: late > 0 ? `${who} has not ended yet` : `${who} is within its term` }
      : {
        healthy: false,
        message: `${who} should have ended ${(late / 1000).toFixed(1)} s ago: its term is over, it was interrupted, ` +
          "and it has not ended"
      }
  }
}
