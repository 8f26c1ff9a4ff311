/**
 * The picture of docs/shards.md: a rolling update of five replicas with a hundred shards, by the shipped code.
 *
 *     node test/shards/picture.ts > docs/shards.svg
 */
import { second } from "../simulation/World.ts"
import { rollingUpdate, Simulation } from "./Simulation.ts"

const run = new Simulation(1, { trace: false, calm: true, size: 5, shards: 100 })
for (let i = 0; i < run.size; i++) {
  run.world.after(i * 0.2 * second, () => run.launch("v1"))
}
run.wait(60 * second)
const from = run.world.now - 5 * second
rollingUpdate(run)

const last = Math.max(...run.spans.map((span) => span.from))
const to = last + 10 * second
const width = 760
const row = 4
const left = 40
const top = 46
const x = (at: number) => left + ((Math.min(Math.max(at, from), to) - from) / (to - from)) * (width - left - 10)
const replicas = [...new Set(run.spans.map(({ replica }) => replica))]
// Old ones grey to blue, new ones warm: which generation a shard is with shows at a glance.
const old = ["#9fb3c8", "#829ab1", "#627d98", "#486581", "#334e68"]
const young = ["#f9c74f", "#f9a03f", "#f3722c", "#e8505b", "#b5179e"]
const color = (replica: string) => {
  const own = replicas.filter((name) => name.startsWith("v1") === replica.startsWith("v1"))
  return (replica.startsWith("v1") ? old : young)[own.indexOf(replica)] ?? "#000"
}

// Shards in the order in which they moved.
const moved = new Map<string, number>()
for (const { from: began, shard } of run.spans) {
  moved.set(shard, Math.max(moved.get(shard) ?? 0, began))
}
const rows = [...moved].sort((a, b) => a[1] - b[1]).map(([shard]) => shard)
const height = top + rows.length * row + 30
const bar = ({ from: began, replica, shard, to: ended }: Simulation["spans"][number]) => {
  const y = top + rows.indexOf(shard) * row
  return `<rect x="${x(began).toFixed(1)}" y="${y}" width="${(x(ended) - x(began)).toFixed(1)}" height="${
    row - 0.5
  }" ` +
    `fill="${color(replica)}"/>`
}
const legend = replicas.map((replica, index) =>
  `<rect x="${left + index * 70}" y="14" width="10" height="10" fill="${color(replica)}"/>` +
  `<text x="${left + index * 70 + 14}" y="23">${replica.startsWith("v1") ? "old" : "new"} ${(index % 5) + 1}</text>`
)
const seconds = Math.floor((to - from) / second / 10)
const ticks = Array.from({ length: seconds + 1 }, (_, index) => {
  const at = x(from + index * 10 * second)
  return `<line x1="${at.toFixed(1)}" x2="${at.toFixed(1)}" y1="${top}" y2="${height - 24}" stroke="#0002"/>` +
    `<text x="${at.toFixed(1)}" y="${height - 8}" text-anchor="middle">${index * 10} s</text>`
})
console.log(
  `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="11" ` +
    `fill="#555"><title>A rolling update of five replicas with a hundred shards: each moves once</title>` +
    `<rect width="100%" height="100%" fill="#fff"/>${legend.join("")}` +
    `<g stroke="none">${run.spans.filter(({ to: ended }) => ended > from).map(bar).join("")}</g>${ticks.join("")}</svg>`
)
