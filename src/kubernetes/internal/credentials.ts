/**
 * Credentials that are read again as they age, near the end of their life, and
 * after a 401.
 *
 * @internal
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import { format } from "../../internal/duration.ts"
import * as Log from "../../internal/log.ts"
import { KubernetesCredentialsError } from "../KubernetesError.ts"
import { sameTls, type Tls } from "./dial.ts"

/** What one request needs beside the request itself. */
export interface Credentials {
  /** A list of values is sent as so many headers. */
  readonly headers: Readonly<Record<string, string | Array<string>>>
  readonly tls: Tls
  /** How much longer they are accepted, where that is known. */
  readonly lifetime?: Duration.Duration | undefined
}

export interface CredentialSource {
  readonly get: Effect.Effect<Credentials, KubernetesCredentialsError>
  /** Others than `refused`, if there are any by now. */
  readonly renew: (refused: Credentials) => Effect.Effect<Credentials, KubernetesCredentialsError>
}

interface Loaded {
  readonly credentials: Credentials
  /** Monotonic; from then on they are read again before they are used. */
  readonly staleAt: bigint
  /** Monotonic; from then on new ones are fetched while these are still used. */
  readonly renewAt: bigint | undefined
  readonly expiredAt: bigint | undefined
}

export const make: (options: {
  /** `fresh` asks for others than last time: nothing that was kept from it may be used. */
  readonly load: (fresh: boolean) => Effect.Effect<Credentials, KubernetesCredentialsError>
  /** How old they may be when they are used. */
  readonly maxAge: Duration.Duration
  /**
   * After a load that failed, or gave the same ones again, none is begun before this time has passed: a load that starts a
   * program is not to be repeated for every request. None by default.
   */
  readonly floor?: Duration.Duration | undefined
  /** A load that takes longer has failed: the next one may do better than one that hangs for ever. */
  readonly timeLimit: Duration.Duration
  // oxlint-disable-next-line max-lines-per-function -- one source: its functions share what was read
}) => Effect.Effect<CredentialSource, never, Scope.Scope> = Effect.fnUntraced(function*(options) {
  const scope = yield* Effect.scope
  const monotonic = Effect.clockWith((clock) => clock.monotonicTimeNanos)
  const maxAge = Duration.toNanosUnsafe(options.maxAge)
  const floor = Duration.toNanosUnsafe(options.floor ?? Duration.zero)
  let current: Loaded | undefined
  /** Monotonic; no fresh ones are asked for before. */
  let notBefore = 0n
  let running:
    | { readonly fiber: Fiber.Fiber<Credentials, KubernetesCredentialsError>; readonly fresh: boolean }
    | undefined

  const load = (fresh: boolean) =>
    Effect.gen(function*() {
      const credentials = yield* options.load(fresh)
      const now = yield* monotonic
      const unchanged = current !== undefined && same(current.credentials, credentials)
      if (unchanged && fresh) {
        notBefore = now + floor
      }
      current = {
        credentials,
        staleAt: now + maxAge,
        // The same ones, read again, keep their times; asked for anew, they may last longer.
        ...(current !== undefined && unchanged && !fresh
          ? { renewAt: current.renewAt, expiredAt: current.expiredAt }
          : life(now, credentials.lifetime))
      }
      return credentials
    }).pipe(
      Effect.timeoutOrElse({
        duration: options.timeLimit,
        orElse: () =>
          Effect.fail(
            new KubernetesCredentialsError({
              message: `the credentials could not be read within ${format(options.timeLimit)}`
            })
          )
      }),
      Effect.catch(Effect.fnUntraced(function*(error) {
        if (current === undefined) {
          return yield* error
        }
        // The API server decides whether what we have is still good.
        yield* Log.warn(`Could not refresh credentials; continuing with the previous ones: ${error.message}`)
        const now = yield* monotonic
        notBefore = now + floor
        current = { ...current, staleAt: now + maxAge, renewAt: current.renewAt && now + maxAge }
        return current.credentials
      }))
    )

  // Runs in the scope of the client: a request that is interrupted while it waits must not take the load with it, for
  // an exec plugin that needs longer than one attempt would never finish.
  const start = (fresh: boolean) =>
    Effect.map(Effect.forkIn(load(fresh), scope), (fiber) => {
      running = { fiber, fresh }
      fiber.addObserver(() => {
        running = undefined
      })
      return fiber
    })

  const join = (fresh: boolean): Effect.Effect<Credentials, KubernetesCredentialsError> =>
    Effect.suspend(() =>
      running === undefined
        ? Effect.flatMap(start(fresh), Fiber.join)
        : fresh && !running.fresh
        ? Effect.andThen(Fiber.await(running.fiber), join(fresh))
        : Fiber.join(running.fiber)
    )

  return {
    get: Effect.gen(function*() {
      const now = yield* monotonic
      if (current?.expiredAt !== undefined && now >= current.expiredAt && now >= notBefore) {
        return yield* join(true)
      }
      if (current?.renewAt !== undefined && now >= current.renewAt && now >= notBefore) {
        if (running === undefined) {
          yield* start(true)
        }
        return current.credentials
      }
      return current === undefined || (now >= current.staleAt && now >= notBefore)
        ? yield* join(false)
        : current.credentials
    }),
    renew: (refused) =>
      Effect.flatMap(
        monotonic,
        (now) =>
          current === undefined || (same(current.credentials, refused) && now >= notBefore)
            ? join(true)
            : Effect.succeed(current.credentials)
      )
  }
})

// New ones are fetched in the last minute, or in the last fifth of a short life.
const life = (now: bigint, lifetime: Duration.Duration | undefined) => {
  if (lifetime === undefined) {
    return { renewAt: undefined, expiredAt: undefined }
  }
  const nanos = Duration.toNanosUnsafe(lifetime)
  const early = nanos / 5n < 60_000_000_000n ? nanos / 5n : 60_000_000_000n
  return { renewAt: now + nanos - early, expiredAt: now + nanos }
}

const same = (a: Credentials, b: Credentials): boolean =>
  sameTls(a.tls, b.tls) && JSON.stringify(a.headers) === JSON.stringify(b.headers)
