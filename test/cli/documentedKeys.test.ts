/**
 * The page of the command line names every key of the JSON that `status` and `serve` give.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { LeaseRecord } from "effect-kubernetes-leader-election"
import { readFileSync } from "node:fs"
import { toStatus } from "../../src/cli/status/lease.ts"

const page = readFileSync(new URL("../../docs/command-line.md", import.meta.url), "utf8")

/** The keys in the first column of the tables of a section. */
const keysIn = (title: string): ReadonlyArray<string> => {
  const section = page.split(`\n## ${title}\n`)[1]!.split("\n## ")[0]!
  return [...section.matchAll(/^\| ((?:`\w+`(?:, )?)+) \|/gm)].flatMap(([, cell]) =>
    [...cell!.matchAll(/`(\w+)`/g)].map(([, key]) => key!)
  )
}

describe("docs/command-line.md", () => {
  it.effect("has the keys of status -o json", () =>
    Effect.gen(function*() {
      const lease = yield* LeaseRecord.decode({
        metadata: { name: "x", namespace: "default", uid: "u", resourceVersion: "1" },
        spec: {}
      })
      const status = toStatus(lease, { millis: 0, clock: "local" })
      assert.deepStrictEqual(keysIn("status").toSorted(), Object.keys(status).toSorted())
    }))

  it("has the keys of serve, in the example too", () => {
    const example = JSON.parse(page.split("\n## serve\n")[1]!.split("```json\n")[1]!.split("```")[0]!)
    assert.deepStrictEqual(keysIn("serve").toSorted(), Object.keys(example).toSorted())
  })
})
