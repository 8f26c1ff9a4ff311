/**
 * `effect-kubernetes-leader-election watch`: who holds a Lease, while it happens.
 *
 * @internal
 */
import * as Command from "effect/cli/Command"
import * as Clock from "effect/Clock"
import * as Console from "effect/Console"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as KubernetesLeaseStore from "../../kubernetes/KubernetesLeaseStore.ts"
import type { LeaseError } from "../../LeaseError.ts"
import { formatKey, type LeaseKey } from "../../LeaseRecord.ts"
import { LeaseStore } from "../../LeaseStore.ts"
import { exitCodes } from "../shared/exitCodes.ts"
import { CommandFailure } from "../shared/failure.ts"
import * as Options from "../shared/options.ts"
import { line } from "../shared/printable.ts"
import { paint, render, shortLabels } from "../shared/timeline.ts"
import * as Screen from "../shared/timelineScreen.ts"
import { watchGroup } from "./group.ts"
import * as History from "./history.ts"
import { patience, silent } from "./silence.ts"

/** What the picture shows at most, and at least. */
const longest = 10 * 60_000
const shortest = 60_000

/** How often to look where watching is not granted. */
const pollInterval = Duration.seconds(1)

const colors: Record<History.News["kind"], string | undefined> = { held: "32", free: "31", other: "33" }

export const watch = Effect.fnUntraced(
  // oxlint-disable-next-line max-lines-per-function -- one screen: its parts share what was seen
  function*(key: LeaseKey) {
    const store = yield* LeaseStore
    const screen = yield* Screen.make
    const clock = yield* Clock.Clock
    const now = () => Number(clock.monotonicTimeNanosUnsafe()) / 1e6
    const zero = now()
    let history = History.initial
    const printed: Array<string> = []

    const look = (look: History.Look) =>
      Effect.suspend(() => {
        const { history: next, news } = History.step(history, look, now())
        history = History.forget(next, now() - longest)
        const time = DateTime.formatIso(DateTime.makeUnsafe(clock.currentTimeMillisUnsafe())).slice(11)
        const lines = news.map(({ kind, text }) => `${time}  ${paint(line(text, 2000), colors[kind], screen.colors)}`)
        printed.push(...lines)
        printed.splice(0, printed.length - 100)
        return screen.isLive ? Effect.void : Effect.forEach(lines, (line) => Console.log(line), { discard: true })
      })

    // --- Looking ---

    const silence = Effect.sleep(patience).pipe(
      Effect.andThen(look({ _tag: "Blind", reason: silent(store.server) })),
      Effect.andThen(Effect.never)
    )

    const read = Effect.raceFirst(store.get(key), silence).pipe(
      Effect.tap(({ lease }) => look({ _tag: "Lease", lease })),
      Effect.map(({ lease }) => lease.resourceVersion),
      Effect.catchIf(
        (error) => error.reason._tag === "LeaseNotFound",
        () => Effect.as(look({ _tag: "Absent" }), undefined)
      )
    )

    /** What happened while nobody looked is not known: each connection begins with a read. */
    const follow = Effect.flatMap(
      read,
      (version) =>
        Stream.runForEach(store.changes(key, version), (change) =>
          change._tag === "Applied"
            ? look({ _tag: "Lease", lease: change.lease })
            : change._tag === "Deleted"
            ? look({ _tag: "Absent" })
            : Effect.void)
    )

    const poll = Effect.forever(Effect.andThen(read, Effect.sleep(pollInterval)))

    const follower = (use: Effect.Effect<unknown, LeaseError>): Effect.Effect<never, LeaseError> =>
      Effect.flatMap(Effect.result(use), (result) => {
        if (result._tag === "Success" || result.failure.reason._tag === "LeaseExpired") {
          return follower(use)
        }
        const error = result.failure
        switch (error.reason._tag) {
          case "LeaseForbidden":
            return error.verb === "watch"
              ? Effect.andThen(
                Effect.logWarning(`Polling every ${Duration.format(pollInterval)}: ${error.message}`),
                follower(poll)
              )
              : Effect.fail(error)
          case "LeaseUnavailable":
            return look({ _tag: "Blind", reason: error.reason.message }).pipe(
              Effect.andThen(Effect.sleep("1 second")),
              Effect.andThen(follower(use))
            )
          default:
            return Effect.fail(error)
        }
      })

    // A watch may be dead without anybody knowing: before a holder is called silent, the Lease is read once more.
    const expiry = Effect.gen(function*() {
      const until = History.runsOutAt(history)
      if (until === undefined || now() < until || history.blind) {
        return
      }
      const { signOfLifeAt } = history
      yield* read
      if (history.signOfLifeAt === signOfLifeAt) {
        yield* look({ _tag: "Nothing" })
      }
    }).pipe(
      Effect.catch((error) => look({ _tag: "Blind", reason: error.reason.message })),
      Effect.andThen(Effect.sleep("100 millis")),
      Effect.forever
    )

    // --- Drawing ---

    const draw = Effect.gen(function*() {
      const at = now()
      const from = Math.max(zero, at - longest)
      const { lease } = history
      const holder = typeof lease === "string" || history.heldSince === undefined ? "nobody" : lease.holderIdentity
      const state = history.blind
        ? "cannot be seen"
        : lease === "unknown"
        ? "not seen yet"
        : `held by ${line(holder)}`
      const labels = shortLabels(history.holders.map(({ label }) => label))
      const holders = history.holders.map((row, index) => ({ ...row, label: labels[index] ?? row.label }))
      const lines = render({
        rows: [...holders, { label: "nobody", spans: history.nobody }],
        zero,
        from,
        to: Math.max(at, from + shortest),
        now: at,
        width: yield* screen.width,
        colors: screen.colors
      })
      yield* screen.draw([
        `${formatKey(key)} (${store.server}): ${state}`,
        "",
        ...lines,
        "",
        ...printed.slice(-10)
      ])
    })

    yield* Effect.forkScoped(expiry)
    if (screen.isLive) {
      yield* Effect.forkScoped(Effect.forever(Effect.andThen(draw, Effect.sleep("250 millis"))))
    }
    return yield* follower(follow)
  },
  Effect.scoped
)

export const command = Command.make(
  "watch",
  {
    name: Options.leaseName,
    namespace: Options.namespace,
    group: Options.group("A group of shards instead of one Lease"),
    ...Options.connection
  },
  Effect.fnUntraced(function*({ group, name, namespace, ...connection }) {
    yield* Effect.gen(function*() {
      if (group !== undefined) {
        if (Option.isSome(name)) {
          return yield* new CommandFailure({
            exitCode: exitCodes.usage,
            message: "--group shows one group of shards: give it without NAME"
          })
        }
        return yield* watchGroup(group, yield* Options.resolveNamespace(namespace))
      }
      yield* watch({ name: yield* Options.resolveName(name), namespace: yield* Options.resolveNamespace(namespace) })
    }).pipe(
      Effect.provide(Layer.provideMerge(KubernetesLeaseStore.layer, Options.layerClient(connection)))
    )
  })
).pipe(
  Command.withShortDescription("Watch who holds a Lease, live"),
  Command.withDescription(
    "Watch who holds a Lease, live: a timeline on a terminal, a line for each change elsewhere.\n\n" +
      "As candidates do, it counts from when it sees a renewal; the times in the record do not matter. Ends with\n" +
      "Ctrl-C. Needs the rights to get and watch the Lease; without watch it looks every second."
  ),
  Command.withExamples([
    {
      command: "effect-kubernetes-leader-election watch my-service",
      description: "On a terminal: a row for each holder"
    },
    {
      command: "effect-kubernetes-leader-election watch my-service | tee handovers.log",
      description: "In a pipe: a line for each change"
    }
  ])
)
