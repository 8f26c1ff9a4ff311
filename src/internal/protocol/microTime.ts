/**
 * Kubernetes' `MicroTime`: RFC 3339 with exactly six digits after the point.
 * The API server refuses every other number of digits, so
 * `Date.prototype.toISOString` (three) makes a write that never succeeds.
 *
 * @internal
 */
const pattern = /^(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(?:[.,](\d{1,9}))?(Z|[+-]\d{2}:\d{2})$/

// The years 0001 and 9999: what `MicroTime` can hold. Its zero value is read back as null.
const min = BigInt(Date.parse("0001-01-01T00:00:00Z")) * 1000n + 1n
const max = BigInt(Date.parse("9999-12-31T23:59:59Z")) * 1000n + 999_999n

/** Unix microseconds as `MicroTime` text in UTC, clamped to what it can hold. */
export const format = (micros: bigint): string => {
  const clamped = micros < min ? min : micros > max ? max : micros
  const fraction = ((clamped % 1_000_000n) + 1_000_000n) % 1_000_000n
  const seconds = new Date(Number((clamped - fraction) / 1000n)).toISOString().slice(0, 19)
  return `${seconds}.${fraction.toString().padStart(6, "0")}Z`
}

/** Unix microseconds of a time in the record; `undefined` where there is none or it is unreadable. */
export const parse = (text: string | null | undefined): bigint | undefined => {
  const match = text == null ? null : pattern.exec(text)
  if (match === null) {
    return undefined
  }
  const millis = Date.parse(`${match[1]}${match[3]}`)
  return Number.isNaN(millis)
    ? undefined
    : BigInt(millis) * 1000n + BigInt((match[2] ?? "").padEnd(6, "0").slice(0, 6))
}
