/**
 * Makes `docs/demo.svg`, the picture of the demo in the README, from a run of
 * the demo: `node scripts/demo-picture.ts`.
 */
import { spawn } from "node:child_process"
import { mkdir, writeFile } from "node:fs/promises"

const columns = 112

/** What the demo prints, colours included; fails where it does. */
const runDemo = async (): Promise<string> => {
  const demo = spawn(process.execPath, ["src/cli/main.ts", "demo"], {
    env: { ...process.env, FORCE_COLOR: "1", COLUMNS: `${columns}` },
    stdio: ["ignore", "pipe", "inherit"]
  })
  let output = ""
  demo.stdout.setEncoding("utf8").on("data", (text: string) => {
    output += text
    process.stdout.write(text)
  })
  const code = await new Promise((resolve) => demo.once("close", resolve))
  if (code !== 0) {
    throw new Error(`the demo has ended with ${code}`)
  }
  return output
}

const cell = { width: 8, height: 18 }
const margin = 16
const foreground = "#d4d4d8"
// By the number in the sequence `ESC [ … m`.
const colors: Record<string, string> = {
  "1": "#ffffff",
  "2": "#71717a",
  "31": "#f87171",
  "32": "#4ade80",
  "33": "#facc15",
  "35": "#e879f9",
  "36": "#22d3ee"
}
// Drawn as shapes: as glyphs they have gaps between them in many fonts.
const blocks: Record<string, { readonly top: number; readonly opacity: number }> = {
  "█": { top: 0, opacity: 1 },
  "▓": { top: 0, opacity: 0.75 },
  "▒": { top: 0, opacity: 0.5 },
  "▄": { top: 0.5, opacity: 1 }
}

const escape = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")

/** The parts of a line that look the same throughout. */
const runsOf = (line: string): Array<{ readonly column: number; readonly text: string; readonly color: string }> => {
  const runs: Array<{ column: number; text: string; color: string }> = []
  let column = 0
  let color = foreground
  // oxlint-disable-next-line no-control-regex -- these are what is looked for
  for (const [part, code] of line.matchAll(/\u001b\[([\d;]*)m|[^\u001b]+/g)) {
    if (code !== undefined) {
      color = colors[code] ?? foreground
      continue
    }
    for (const [text] of part.matchAll(/(█+|▓+|▒+|▄+|[^█▓▒▄]+)/g)) {
      runs.push({ column, text, color })
      column += text.length
    }
  }
  return runs
}

const draw = (output: string): string => {
  const lines = output.trimEnd().split("\n")
  const longest = Math.max(...lines.map((line) => runsOf(line).reduce((end, { text }) => end + text.length, 0)))
  const width = 2 * margin + Math.max(columns, longest) * cell.width
  const height = 2 * margin + lines.length * cell.height
  const shapes = lines.flatMap((line, row) =>
    runsOf(line).filter(({ text }) => text.trim() !== "").map(({ color, column, text }) => {
      const x = margin + column * cell.width
      const y = margin + row * cell.height
      const length = text.length * cell.width
      const block = blocks[text[0]!]
      return block === undefined
        ? `<text x="${x}" y="${y + 13}" textLength="${length}" fill="${color}">${escape(text)}</text>`
        : `<rect x="${x}" y="${y + block.top * 14 + 2}" width="${length}" height="${
          14 * (1 - block.top)
        }" fill="${color}" fill-opacity="${block.opacity}"/>`
    })
  )
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img" aria-label="A run of npm start">
<title>Three replicas elect a leader: it is stopped, killed, and cut off from the API server</title>
<rect width="100%" height="100%" rx="8" fill="#18181b"/>
<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="13" xml:space="preserve">
${shapes.join("\n")}
</g>
</svg>
`
}

const output = await runDemo()
await mkdir("docs", { recursive: true })
await writeFile("docs/demo.svg", draw(output))
