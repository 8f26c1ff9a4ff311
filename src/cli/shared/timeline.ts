/**
 * Draws who did what when: a row for each replica (or holder), a cell for each
 * moment. Pure: from a picture's description to its lines.
 *
 * @internal
 */
import { line, pad, width } from "./printable.ts"

/**
 * What a row shows at a time.
 *
 * - `follows`, `holds`, `leads`, `ends`: as a candidate's status.
 * - `cut`, `leadsCut`: follows, or leads, and is cut off from the API server.
 * - `gap`: nobody leads.
 */
export type Phase = "follows" | "holds" | "leads" | "ends" | "cut" | "leadsCut" | "gap"

/** Times are milliseconds on any one clock. */
export interface Span {
  readonly phase: Phase
  readonly from: number
  /** `undefined` while it lasts. */
  readonly to: number | undefined
}

export interface Row {
  readonly label: string
  readonly spans: ReadonlyArray<Span>
  /** Beside the row: how things stand. */
  readonly note?: string | undefined
}

export interface Picture {
  readonly rows: ReadonlyArray<Row>
  /** What the axis counts from. */
  readonly zero: number
  /** The first and the last moment that the picture has room for. */
  readonly from: number
  readonly to: number
  /** What is after it, is not known yet. */
  readonly now: number
  /** Characters in a line. */
  readonly width: number
  readonly colors: boolean
}

const styles: Record<Phase, { readonly symbol: string; readonly color: string; readonly meaning: string }> = {
  leads: { symbol: "█", color: "32", meaning: "leads" },
  ends: { symbol: "▓", color: "36", meaning: "ends its program" },
  holds: { symbol: "▒", color: "33", meaning: "holds a new Lease, waits" },
  leadsCut: { symbol: "▄", color: "35", meaning: "leads, but is cut off" },
  cut: { symbol: "~", color: "35", meaning: "cut off" },
  follows: { symbol: "·", color: "2", meaning: "follows" },
  gap: { symbol: "×", color: "31", meaning: "nobody leads" }
}

const order: ReadonlyArray<Phase> = ["leads", "ends", "holds", "leadsCut", "cut", "follows", "gap"]

/** `text` in a colour of the terminal: its number in the sequence `ESC [ … m`. */
export const paint = (text: string, color: string | undefined, colors: boolean): string =>
  colors && text !== "" && color !== undefined ? `\u001b[${color}m${text}\u001b[0m` : text

/**
 * When no row leads, from the first moment that one did. A program that is
 * being ended still belongs to its leader's term.
 */
export const gaps = (rows: ReadonlyArray<Row>, now: number): ReadonlyArray<Span> => {
  const led = rows.flatMap(({ spans }) => spans)
    .filter(({ phase }) => phase === "leads" || phase === "leadsCut" || phase === "ends")
    .map(({ from, to }) => ({ from, to: to ?? now }))
    .sort((a, b) => a.from - b.from)
  const found: Array<Span> = []
  let end = led[0]?.from
  for (const { from, to } of led) {
    if (end !== undefined && from > end) {
      found.push({ phase: "gap", from: end, to: from })
    }
    end = Math.max(end ?? to, to)
  }
  return end !== undefined && end < now ? [...found, { phase: "gap", from: end, to: undefined }] : found
}

/** The lines of a picture: the axis, a line for each row, and the legend of the symbols in it. */
export const render = (picture: Picture): ReadonlyArray<string> => {
  const { colors, rows } = picture
  const labels = Math.max(...rows.map(({ label }) => width(label)), 0)
  const notes = Math.max(...rows.map(({ note }) => note === undefined ? 0 : width(note) + 1), 0)
  const cells = Math.max(10, picture.width - labels - 1 - notes)
  const step = (picture.to - picture.from) / cells
  const used = new Set<Phase>()

  const drawn = rows.map(({ label, note, spans }) => {
    let line = ""
    let run: { phase: Phase | undefined; text: string } = { phase: undefined, text: "" }
    const flush = () => {
      line += run.phase === undefined ? run.text : paint(run.text, styles[run.phase].color, colors)
    }
    for (let cell = 0; cell < cells; cell++) {
      const from = picture.from + cell * step
      const phase = prevailing(spans, from, Math.min(from + step, picture.now))
      if (phase !== run.phase) {
        flush()
        run = { phase, text: "" }
      }
      run.text += phase === undefined ? " " : styles[phase].symbol
      if (phase !== undefined) {
        used.add(phase)
      }
    }
    flush()
    return `${pad(label, labels)} ${line}${note === undefined || note === "" ? "" : ` ${note}`}`.trimEnd()
  })

  const legend: Array<{ width: number; text: string }> = []
  for (const phase of order.filter((phase) => used.has(phase))) {
    const { color, meaning, symbol } = styles[phase]
    const width = meaning.length + 2
    const entry = `${paint(symbol, color, colors)} ${meaning}`
    const line = legend.at(-1)
    if (line === undefined || line.width + 3 + width > picture.width - labels - 1) {
      legend.push({ width, text: entry })
    } else {
      line.width += 3 + width
      line.text += `   ${entry}`
    }
  }
  return [
    `${" ".repeat(labels + 1)}${axis(picture, cells, step)}`.trimEnd(),
    ...drawn,
    ...legend.map(({ text }) => `${" ".repeat(labels + 1)}${text}`)
  ]
}

/**
 * What fills most of a cell. Leading has to fill half of it: two rows never
 * seem to lead at once because a handover fell into one cell.
 */
const prevailing = (spans: ReadonlyArray<Span>, from: number, to: number): Phase | undefined => {
  const filled = new Map<Phase, number>()
  let empty = to - from
  for (const span of spans) {
    const overlap = Math.min(span.to ?? to, to) - Math.max(span.from, from)
    if (overlap > 0) {
      filled.set(span.phase, (filled.get(span.phase) ?? 0) + overlap)
      empty -= overlap
    }
  }
  let best: Phase | undefined
  let most = empty
  for (const [phase, time] of filled) {
    const counts = (phase !== "leads" && phase !== "leadsCut") || time * 2 >= to - from
    if (counts && time >= most) {
      best = phase
      most = time
    }
  }
  return best
}

const ofPod = /^(.+)_([0-9a-f]{8})-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

/**
 * Identities, short enough to stand beside a row: of `<pod>_<uid>` the Pod's
 * name, with the beginning of the uid where two have the same one.
 */
export const shortLabels = (identities: ReadonlyArray<string>): ReadonlyArray<string> => {
  const pods = identities.map((identity) => ofPod.exec(identity)?.[1] ?? identity)
  return identities.map((identity) => {
    const [, pod, uid] = ofPod.exec(identity) ?? []
    const label = pod === undefined ? identity : pods.indexOf(pod) === pods.lastIndexOf(pod) ? pod : `${pod}_${uid}`
    return line(label, label.length > 40 ? 39 : 40)
  })
}

const intervals = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600, 43_200, 86_400]

/** A label wherever there is room for one, at round times. */
const axis = ({ from, to, zero }: Picture, cells: number, step: number): string => {
  const room = 8
  const interval = (intervals.find((seconds) => seconds * 1000 / step >= room) ?? 86_400) * 1000
  let line = ""
  for (let time = Math.ceil((from - zero) / interval) * interval; time <= to - zero; time += interval) {
    const cell = Math.round((time + zero - from) / step)
    const label = elapsed(time)
    if (cell >= line.length && cell + label.length <= cells) {
      line = line.padEnd(cell) + label
    }
  }
  return line
}

/** `5s`, `1m30s`, `2h`: whole seconds. */
export const elapsed = (millis: number): string => {
  const seconds = Math.round(Math.abs(millis) / 1000)
  const parts = [[Math.floor(seconds / 3600), "h"], [Math.floor(seconds / 60) % 60, "m"], [seconds % 60, "s"]] as const
  const text = parts.filter(([value]) => value > 0).map(([value, unit]) => `${value}${unit}`).join("")
  return `${millis < 0 ? "-" : ""}${text || "0s"}`
}

/** A time of a measurement: `4.02 s`, `12 ms`. */
export const measured = (millis: number): string =>
  Math.abs(millis) < 1000 ? `${Math.round(millis)} ms` : `${(millis / 1000).toFixed(2)} s`
