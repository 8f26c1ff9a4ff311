import { assert, describe, it } from "@effect/vitest"
import {
  elapsed,
  gaps,
  measured,
  type Phase,
  type Picture,
  render,
  type Row,
  shortLabels
} from "../../src/cli/shared/timeline.ts"

/** `leads 0-5, follows 5-`: a row's spans, in seconds. */
const row = (label: string, text: string, note?: string): Row => ({
  label,
  note,
  spans: text === "" ? [] : text.split(", ").map((part) => {
    const [, phase, from, to] = /^(\w+) ([\d.]+)-([\d.]*)$/.exec(part)!
    return { phase: phase as Phase, from: Number(from) * 1000, to: to === "" ? undefined : Number(to) * 1000 }
  })
})

const picture = (rows: ReadonlyArray<Row>, given?: Partial<Picture>): Picture => ({
  rows,
  zero: 0,
  from: 0,
  to: 20_000,
  now: 20_000,
  width: 22,
  colors: false,
  ...given
})

describe("timeline", () => {
  it("draws a cell for each moment, and what is on the picture in the legend", () => {
    assert.deepStrictEqual(
      render(picture([row("a", "leads 0-5, ends 5-7, follows 9-"), row("b", "follows 0-10, leads 10-")])),
      [
        "  0s        10s",
        "a █████▓▓  ···········",
        "b ··········██████████",
        "  █ leads",
        "  ▓ ends its program",
        "  · follows"
      ]
    )
  })

  it("rows begin in one column, though a label has wide or combining characters", () => {
    const lines = render(picture([row("日本", "leads 0-"), row("e\u0301", "follows 0-")], { width: 25 }))
    assert.deepStrictEqual(lines.slice(1, 3), ["日本 ████████████████████", "e\u0301    ····················"])
  })

  it("leaves the future empty", () => {
    assert.deepStrictEqual(render(picture([row("a", "leads 0-")], { now: 3000 }))[1], "a ███")
  })

  it("gives a cell to what fills most of it, so that a handover within it never shows two leaders", () => {
    const lines = render(picture([row("a", "leads 0-5.4, follows 5.4-"), row("b", "follows 0-5.5, leads 5.5-")]))
    assert.strictEqual(lines[1], "a █████···············")
    assert.strictEqual(lines[2], "b ·····███████████████")
  })

  it("shows a leader only where it fills half of the cell", () => {
    assert.strictEqual(
      render(picture([row("a", "follows 0-0.3, ends 0.3-0.6, leads 0.6-2")], { now: 2000 }))[1],
      "a ▓█"
    )
  })

  it("moves with the window, and counts from zero", () => {
    assert.deepStrictEqual(render(picture([row("a", "leads 95-105")], { from: 90_000, to: 110_000, now: 110_000 })), [
      "  1m30s     1m40s",
      "a      ██████████",
      "  █ leads"
    ])
  })

  it("keeps room for the notes", () => {
    assert.deepStrictEqual(
      render(picture([row("a", "leads 0-", "token 7"), row("bc", "follows 0-", "")], { width: 33 })).slice(1, 3),
      ["a  ██████████████████████ token 7", "bc ······················"]
    )
  })

  it("colours each run of cells once", () => {
    assert.strictEqual(
      render(picture([row("a", "leads 0-10, follows 10-")], { colors: true }))[1],
      "a \u001b[32m██████████\u001b[0m\u001b[2m··········\u001b[0m"
    )
  })

  it("has a line for nothing at all", () => {
    assert.deepStrictEqual(render(picture([], { now: 0, to: 1 })).slice(1), [])
  })

  const cases: ReadonlyArray<readonly [name: string, rows: ReadonlyArray<string>, expected: string]> = [
    ["nobody has led yet", ["follows 0-"], ""],
    ["one leads", ["follows 0-2, leads 2-"], ""],
    ["between two leaders", ["leads 2-5", "leads 7-"], "5-7"],
    ["the program that ends still counts", ["leads 2-5, ends 5-6", "leads 7-"], "6-7"],
    ["a leader that is cut off still counts", ["leadsCut 2-5", "leads 5-9"], "9-"],
    ["terms within another", ["leads 2-9", "leads 3-5", "leads 10-"], "9-10"],
    ["who waits with a new Lease does not lead", ["leads 1-2", "holds 2-4, leads 4-"], "2-4"]
  ]
  it.each(cases)("gap: %s", (_, rows, expected) => {
    const found = gaps(rows.map((text) => row("r", text)), 20_000)
    assert.strictEqual(
      found.map(({ from, to }) => `${from / 1000}-${to === undefined ? "" : to / 1000}`).join(", "),
      expected
    )
  })

  it("writes durations as people do", () => {
    assert.deepStrictEqual([0, 4400, 90_000, 7_200_000, -1000].map(elapsed), ["0s", "4s", "1m30s", "2h", "-1s"])
    assert.deepStrictEqual([0.4, 12.6, 4021].map(measured), ["0 ms", "13 ms", "4.02 s"])
  })

  it("shortens the identities of Pods, as long as they stay apart", () => {
    const uid = (start: string) => `${start}-0000-4000-8000-000000000000`
    assert.deepStrictEqual(
      shortLabels([
        `web-0_${uid("1111aaaa")}`,
        `web-1_${uid("2222bbbb")}`,
        `web-0_${uid("3333cccc")}`,
        "host_1_x",
        "y".repeat(60)
      ]),
      ["web-0_1111aaaa", "web-1", "web-0_3333cccc", "host_1_x", `${"y".repeat(39)}…`]
    )
  })
})
