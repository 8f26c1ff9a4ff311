/**
 * Reads JSON into the fields of a Go struct, with the words of Go's decoder for what does not fit.
 *
 * @internal
 */
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import * as GoTime from "./goTime.ts"

export type Decoded<A> = Result.Result<A, string>

const describe = (value: unknown): string =>
  Array.isArray(value)
    ? "array"
    : typeof value === "boolean"
    ? "bool"
    : typeof value === "string" || typeof value === "number"
    ? typeof value
    : "object"

const mismatch = (found: string, field: string, type: string): Decoded<never> =>
  Result.fail(`json: cannot unmarshal ${found} into Go struct field ${field} of type ${type}`)

const isAbsent = Predicate.isNullish

export const string = (value: unknown, field: string): Decoded<string | undefined> =>
  isAbsent(value)
    ? Result.succeed(undefined)
    : Predicate.isString(value)
    ? Result.succeed(value)
    : mismatch(describe(value), field, "string")

export const boolean = (value: unknown, field: string): Decoded<boolean | undefined> =>
  isAbsent(value)
    ? Result.succeed(undefined)
    : Predicate.isBoolean(value)
    ? Result.succeed(value)
    : mismatch(describe(value), field, "bool")

export const integer = (
  value: unknown,
  field: string,
  type: "int32" | "int64" = "int32"
): Decoded<number | undefined> => {
  const limit = type === "int32" ? 2 ** 31 : 2 ** 63
  return isAbsent(value)
    ? Result.succeed(undefined)
    : !Predicate.isNumber(value)
    ? mismatch(describe(value), field, type)
    : Number.isInteger(value) && value >= -limit && value < limit
    ? Result.succeed(value)
    : mismatch(`number ${value}`, field, type)
}

/** `undefined` where it is absent, null where it is the zero time. */
export const microTime = (value: unknown, field: string): Decoded<string | null | undefined> =>
  isAbsent(value)
    ? Result.succeed(undefined)
    : Predicate.isString(value)
    ? GoTime.normalise(value)
    : mismatch(describe(value), field, "string")

export const struct = (
  value: unknown,
  field: string,
  type: string
): Decoded<{ readonly [field: string]: unknown } | undefined> =>
  isAbsent(value)
    ? Result.succeed(undefined)
    : Predicate.isReadonlyObject(value)
    ? Result.succeed(value)
    : mismatch(describe(value), field, type)

export const strings = (value: unknown, field: string): Decoded<ReadonlyArray<string> | undefined> =>
  Result.gen(function*() {
    const items = yield* list(value, field, "string")
    const result: Array<string> = []
    for (const item of items ?? []) {
      result.push((yield* string(item, field)) ?? "")
    }
    return result.length === 0 ? undefined : result
  })

export const list = (value: unknown, field: string, type: string): Decoded<ReadonlyArray<unknown> | undefined> =>
  isAbsent(value)
    ? Result.succeed(undefined)
    : Array.isArray(value)
    ? Result.succeed(value)
    : mismatch(describe(value), field, `[]${type}`)

/** `undefined` where it is empty, as Go leaves out empty maps. */
export const stringMap = (value: unknown, field: string): Decoded<Readonly<Record<string, string>> | undefined> =>
  Result.gen(function*() {
    const map = yield* struct(value, field, "map[string]string")
    const entries: Array<readonly [string, string]> = []
    for (const [key, item] of Object.entries(map ?? {})) {
      entries.push([key, (yield* string(item, field)) ?? ""])
    }
    return entries.length === 0 ? undefined : Object.fromEntries(entries)
  })
