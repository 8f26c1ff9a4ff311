/**
 * Text as it may leave for a terminal or a log. Anybody who may write a Lease
 * chooses its holderIdentity, and the API server stores every character: ones
 * that move the cursor, set the title, forge a line of the log, or turn the
 * direction of writing; and a megabyte of them. Pure.
 *
 * @internal
 */

// What a terminal acts on, what cannot be seen, what ends a line, and halves of characters.
const unsafe = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu

const escape = (character: string): string => {
  const code = character.codePointAt(0) ?? 0
  switch (character) {
    case "\n":
      return "\\n"
    case "\r":
      return "\\r"
    case "\t":
      return "\\t"
    default:
      return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u{${code.toString(16)}}`
  }
}

const cut = (text: string, limit: number): string => text.length > limit ? `${text.slice(0, limit)}…` : text

/** `text` in one line, at most `limit` characters of it. */
export const line = (text: string, limit = 300): string => cut(text, limit).replace(unsafe, escape)

/** A message of ours, which may have several lines; none but the first begins where a line of the log does. */
export const block = (text: string): string =>
  text.split("\n", 200).map((part, index) => `${index === 0 || /^\s/.test(part) ? "" : "  "}${line(part, 2000)}`)
    .join("\n")

/** JSON with everything in it, as characters that are safe to print. */
export const json = (value: unknown, indent?: number): string =>
  JSON.stringify(value, undefined, indent).replace(
    unsafe,
    (character) =>
      character === "\n" ?
        character :
        character.split("").map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`).join("")
  )

// --- Columns ---

/** Marks that stand on the character before them. */
const combining = /[\p{Mn}\p{Me}\u1160-\u11ff]/u

/** Characters that take two columns: East Asian wide and fullwidth ones, and emoji. */
const wide = new RegExp(
  "[\\p{Emoji_Presentation}\\u1100-\\u115f\\u2e80-\\u303e\\u3041-\\ua4cf\\ua960-\\ua97f\\uac00-\\ud7a3\\uf900-\\ufaff" +
    "\\ufe30-\\ufe6f\\uff01-\\uff60\\uffe0-\\uffe6\\u{20000}-\\u{3fffd}]",
  "u"
)

const widthOf = (character: string): number => combining.test(character) ? 0 : wide.test(character) ? 2 : 1

/** How many columns of a terminal a text takes. */
export const width = (text: string): number => {
  let sum = 0
  for (const character of text) {
    sum += widthOf(character)
  }
  return sum
}

/** `text` with spaces after it, up to so many columns. */
export const pad = (text: string, columns: number): string => text + " ".repeat(Math.max(0, columns - width(text)))

/** The beginning of `text` that fits into so many columns. */
export const fit = (text: string, columns: number): string => {
  let end = 0
  let room = columns
  for (const character of text) {
    room -= widthOf(character)
    if (room < 0) {
      break
    }
    end += character.length
  }
  return text.slice(0, end)
}
