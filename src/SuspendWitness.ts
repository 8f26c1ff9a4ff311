/**
 * A second source of elapsed time, which goes on while the machine is
 * suspended.
 *
 * The monotonic clock stops then. A leader that wakes up would find its
 * leadership as fresh as it was, although another candidate has taken the Lease
 * long ago. For one's own validity a suspension counts as far as this witness
 * and the wall clock agree on it; the expiry of others is judged by the
 * monotonic clock alone.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as FileSystem from "node:fs/promises"
import * as Os from "node:os"

/**
 * Elapsed nanoseconds since an arbitrary moment, suspension included; or
 * `undefined` for none, which is the default. It is called on the event loop,
 * at every check of a leadership: it must not block.
 *
 * **Gotchas**
 *
 * A virtual machine that is paused with all its clocks cannot be noticed by any
 * clock inside it: use the fencing token where the resource can check it. Nor
 * can a suspension during which the wall clock was stepped back.
 *
 * @category references
 * @since 0.1.0
 */
export const SuspendWitness = Context.Reference<(() => bigint) | undefined>(
  "effect-kubernetes-leader-election/SuspendWitness",
  { defaultValue: () => undefined }
)

/**
 * What a witness is made from: everything that differs between machines, and in tests.
 *
 * @internal
 */
export interface Machine {
  /** The file with the uptime; `undefined` where asking the system cannot block. */
  readonly file: string | undefined
  readonly uptime: () => number
  readonly monotonic: () => bigint
  readonly wall: () => number
}

const thisMachine: Machine = {
  file: process.platform === "linux" ? "/proc/uptime" : undefined,
  uptime: Os.uptime,
  monotonic: process.hrtime.bigint,
  wall: Date.now
}

/** A read that takes longer is not answered at once. */
const blocked = 100_000_000n

const nanos = (seconds: number): bigint => BigInt(Math.round(seconds * 1e9))

/**
 * A witness from the operating system's uptime. On Linux that is a file, which
 * may block: lxcfs and other file systems in user space stand in for it. It is
 * read without blocking every five seconds, one read at a time, and carried on by the
 * monotonic clock in between. Where the wall clock has run ahead since the last
 * read, as after a suspension, and that read was answered at once and no other is
 * waiting for its answer, the file is read on the spot.
 *
 * @internal
 */
export const make = Effect.fnUntraced(function*(machine: Machine = thisMachine) {
  const { file, monotonic, uptime, wall } = machine
  if (file === undefined) {
    return () => nanos(uptime())
  }
  let known: { readonly uptime: bigint; readonly at: bigint; readonly wall: number } | undefined
  let prompt = false
  let readingSince: bigint | undefined
  const note = (uptime: bigint) => {
    known = { uptime, at: monotonic(), wall: wall() }
  }
  const refresh = Effect.gen(function*() {
    const start = readingSince = monotonic()
    const text = yield* Effect.tryPromise((signal) => FileSystem.readFile(file, { encoding: "utf8", signal })).pipe(
      Effect.ensuring(Effect.sync(() => {
        readingSince = undefined
      }))
    )
    const seconds = Number.parseFloat(text)
    prompt = monotonic() - start < blocked
    if (Number.isFinite(seconds)) {
      note(nanos(seconds))
    }
  }).pipe(Effect.ignore)
  yield* Effect.forkScoped(Effect.forever(Effect.andThen(refresh, Effect.sleep(Duration.seconds(5)))), {
    startImmediately: true
  })
  return () => {
    if (known === undefined) {
      return 0n
    }
    const now = monotonic()
    const since = now - known.at
    const answers = prompt && (readingSince === undefined || now - readingSince < blocked)
    if (answers && wall() - known.wall > Number(since / 1_000_000n) + 1000) {
      note(nanos(uptime()))
      return known.uptime
    }
    return known.uptime + since
  }
})

/**
 * The operating system's uptime, which counts suspension on Linux (resolution
 * 10 ms). Part of `LeaderElectionLive`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerNode: Layer.Layer<never> = Layer.effect(SuspendWitness, make())
