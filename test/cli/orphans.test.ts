/**
 * `run` as process 1 of a container (here: of a pid namespace), to which the orphans of COMMAND are given.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { LeaseRecord } from "effect-kubernetes-leader-election"
import { LeaseApiServer } from "effect-kubernetes-leader-election/testing"
import { spawnSync } from "node:child_process"
import { join } from "node:path"
import { afterAll, beforeAll } from "vitest"
import { bundle, type Executable, Running } from "./Executable.ts"

let executable: Executable
beforeAll(async () => {
  executable = await bundle()
})
afterAll(() => executable[Symbol.asyncDispose]())

const asProcess1 = ["--pid", "--fork", "--mount-proc"]

// Five orphans that have ended; process 1 is their parent then, and has to ask for them.
const command = "for i in 1 2 3 4 5; do (sleep 0 &); done; echo starts as $$; exec sleep 600"

describe("run as process 1", () => {
  it.live("hands over at once though COMMAND has left orphans, which have ended", (context) =>
    Effect.gen(function*() {
      if (spawnSync("unshare", [...asProcess1, "true"]).status !== 0) {
        context.skip("this process may not make a pid namespace")
      }
      const server = yield* LeaseApiServer.make()
      const kubeconfig = yield* server.writeKubeconfig(join(executable.file, "..", "kubeconfig"))
      const key = { namespace: "default", name: "orphans" }
      const start = (identity: string) =>
        Effect.acquireRelease(
          Effect.sync(() =>
            new Running("unshare", [
              ...asProcess1,
              process.execPath,
              executable.file,
              "run",
              `--kubeconfig=${kubeconfig}`,
              "--name=orphans",
              `--identity=${identity}`,
              "--new-lease=lead",
              "--again",
              "--",
              "sh",
              "-c",
              command
            ], {})
          ),
          (running) => Effect.promise(() => running[Symbol.asyncDispose]())
        )
      const running = { one: yield* start("one"), two: yield* start("two") }
      const holder = Effect.map(server.cluster.lease(key), (lease) => lease?.holderIdentity ?? "")
      const until = <A>(what: Effect.Effect<A>, fits: (value: A) => boolean) =>
        Effect.andThen(Effect.sleep("1 millis"), what).pipe(Effect.repeat({ until: fits }))
      const times: Array<number> = []
      const starts = { one: 0, two: 0 }
      for (let handover = 0; handover < 20; handover++) {
        const leader = yield* until(holder, (name) => name !== "")
        assert.isTrue(leader === "one" || leader === "two")
        const name = leader === "one" ? "one" : "two"
        starts[name]++
        yield* Effect.promise(() => running[name].until(({ stdout }) => stdout.split("starts").length > starts[name]))
        const other = running[name === "one" ? "two" : "one"]
        yield* Effect.promise(() => other.until(({ stderr }) => stderr.includes(`Following ${leader}`)))
        const lease = yield* server.cluster.lease(key)
        const start = performance.now()
        yield* server.cluster.editLease(key, {
          metadata: {
            annotations: { [LeaseRecord.stepDownAnnotation]: lease!.annotations[LeaseRecord.instanceAnnotation]! }
          }
        })
        yield* until(holder, (now) => now !== leader && now !== "")
        times.push(performance.now() - start)
      }
      const median = times.toSorted((a, b) => a - b)[10]!
      yield* Effect.promise(() => context.annotate(`median of 20 handovers: ${median.toFixed(1)} ms`))
      assert.isAtMost(median, 100, times.map(Math.round).join(" "))
      for (const { stderr } of Object.values(running)) {
        assert.notInclude(stderr, "was killed")
        assert.notInclude(stderr, "WARN")
      }
    }), 120_000)
})
