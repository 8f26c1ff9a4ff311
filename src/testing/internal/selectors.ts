/**
 * Label and field selectors as the API server reads them, and its words for what is none.
 *
 * @internal
 */
import * as Result from "effect/Result"
import { invalidValue } from "./apiError.ts"

export type Labels = Readonly<Record<string, string>>

type Read<A> = Result.Result<A, string>

// --- requirements -----------------------------------------------------------------------------------------------

type Operator = "exists" | "absent" | "in" | "notin" | "=" | "==" | "!=" | ">" | "<"

const name = /^([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$/

const nameRule = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an " +
  "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is " +
  "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"

const valueRule = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and " +
  "must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for " +
  "validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"

const refused = (field: string, value: string, why: string): Read<never> => {
  const { message } = invalidValue(field, value, why)
  return Result.fail(`${field}: ${message}`)
}

const checkKey = (key: string): Read<string> => {
  const parts = key.split("/")
  return parts.length > 2
    ? refused(
      "<nil>",
      key,
      `a valid label key ${nameRule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')`
    )
    : parts.every((part) => name.test(part) || part.length > 63)
    ? Result.succeed(key)
    : refused("<nil>", key, `name part ${nameRule}`)
}

const checkValue = (key: string, operator: Operator) => (value: string, index: number): Read<string> =>
  value.length > 63
    ? refused(`values[${index}][${key}]`, value, "must be no more than 63 bytes")
    : value !== "" && !name.test(value)
    ? refused(`values[${index}][${key}]`, value, valueRule)
    : (operator === ">" || operator === "<") && !/^-?\d+$/.test(value)
    ? refused(`values[${index}]`, value, "for 'Gt', 'Lt' operators, the value must be an integer")
    : Result.succeed(value)

const fits = (key: string, operator: Operator, values: ReadonlyArray<string>) => (labels: Labels): boolean => {
  const value = Object.hasOwn(labels, key) ? labels[key] : undefined
  switch (operator) {
    case "exists":
      return value !== undefined
    case "absent":
      return value === undefined
    case "notin":
    case "!=":
      return value === undefined || !values.includes(value)
    case ">":
    case "<": {
      const number = value !== undefined && /^-?\d+$/.test(value) ? BigInt(value) : undefined
      const limit = BigInt(values[0] ?? 0)
      return number !== undefined && (operator === ">" ? number > limit : number < limit)
    }
    default:
      return value !== undefined && values.includes(value)
  }
}

// --- the text of a label selector -------------------------------------------------------------------------------

/** `word` also stands for `in` and `notin`, which are labels too; `end` is the empty text. */
interface Token {
  readonly is: "word" | "end" | "==" | "!=" | "=" | "!" | "(" | ")" | "," | "<" | ">"
  readonly text: string
}

const tokensOf = (text: string): ReadonlyArray<Token> => [
  ...[...text.matchAll(/([=!]=|[=!(),<>])|[^\s=!(),<>]+/g)].map(([text, symbol]): Token => ({
    is: (symbol as Token["is"] | undefined) ?? "word",
    text
  })),
  { is: "end", text: "" }
]

interface Reader {
  readonly next: () => Token
  readonly take: () => Token
}

const makeReader = (text: string): Reader => {
  const tokens = tokensOf(text)
  const end: Token = { is: "end", text: "" }
  let index = 0
  return { next: () => tokens[index] ?? end, take: () => tokens[index++] ?? end }
}

/** What stands in brackets, the first of which is taken already. */
const readList = ({ next, take }: Reader): Read<ReadonlyArray<string>> => {
  if (next().is === ")") {
    take()
    return Result.succeed([""])
  }
  const values = new Set<string>()
  while (true) {
    const token = take()
    if (token.is === "word") {
      values.add(token.text)
      if (next().is !== "," && next().is !== ")") {
        return Result.fail(`found '${next().text}', expected: ',' or ')'`)
      }
    } else if (token.is === ",") {
      // Nothing before, between or after commas is the empty value.
      if (values.size === 0 || next().is === "," || next().is === ")") {
        values.add("")
      }
    } else {
      return Result.fail(`found '${token.text}', expected: ',', or identifier`)
    }
    if (next().is === ")") {
      take()
      return Result.succeed([...values].sort())
    }
  }
}

const readOperator = ({ take }: Reader): Read<Operator> => {
  const { is, text } = take()
  return is === "word" && (text === "in" || text === "notin")
    ? Result.succeed(text)
    : is === "=" || is === "==" || is === "!=" || is === "<" || is === ">"
    ? Result.succeed(is)
    : Result.fail(`found '${text}', expected: in, notin, =, ==, !=, gt, lt`)
}

const readValues = (reader: Reader, operator: Operator): Read<ReadonlyArray<string>> => {
  if (operator === "in" || operator === "notin") {
    const bracket = reader.take()
    return bracket.is === "(" ? readList(reader) : Result.fail(`found '${bracket.text}' expected: '('`)
  }
  if (reader.next().is === "end" || reader.next().is === ",") {
    return Result.succeed([""])
  }
  const { is, text } = reader.take()
  return is === "word" ? Result.succeed([text]) : Result.fail(`found '${text}', expected: identifier`)
}

const readRequirement = (reader: Reader): Read<(labels: Labels) => boolean> =>
  Result.gen(function*() {
    const isNegated = reader.next().is === "!"
    if (isNegated) {
      reader.take()
    }
    const { is, text } = reader.take()
    if (is !== "word") {
      return yield* Result.fail(`found '${text}', expected: identifier`)
    }
    const key = yield* checkKey(text)
    if (isNegated || reader.next().is === "end" || reader.next().is === ",") {
      return fits(key, isNegated ? "absent" : "exists", [])
    }
    const operator = yield* readOperator(reader)
    const values = yield* readValues(reader, operator)
    for (const [index, value] of values.entries()) {
      yield* checkValue(key, operator)(value, index)
    }
    return fits(key, operator, values)
  })

/** Whether labels fit a selector; fails with the API server's words for one that it cannot read. */
export const parseLabels = (text: string): Read<(labels: Labels) => boolean> =>
  Result.gen(function*() {
    const reader = makeReader(text)
    const requirements: Array<(labels: Labels) => boolean> = []
    if (reader.next().is === "end") {
      return (_labels: Labels) => true
    }
    if (reader.next().is !== "word" && reader.next().is !== "!") {
      return yield* Result.fail(`found '${reader.next().text}', expected: !, identifier, or 'end of string'`)
    }
    while (true) {
      requirements.push(
        yield* Result.mapError(readRequirement(reader), (error) => `unable to parse requirement: ${error}`)
      )
      const separator = reader.take()
      if (separator.is === "end") {
        return (labels: Labels) => requirements.every((requirement) => requirement(labels))
      }
      if (separator.is !== ",") {
        return yield* Result.fail(`found '${separator.text}', expected: ',' or 'end of string'`)
      }
      if (reader.next().is !== "word" && reader.next().is !== "!") {
        return yield* Result.fail(`found '${reader.next().text}', expected: identifier after ','`)
      }
    }
  })

// --- field selectors --------------------------------------------------------------------------------------------

export interface FieldTerm {
  readonly field: "metadata.name" | "metadata.namespace"
  readonly is: boolean
  readonly value: string
}

/** The terms of a field selector: names and namespaces, as of all kinds here. */
export const parseFields = (text: string): Read<ReadonlyArray<FieldTerm>> =>
  Result.gen(function*() {
    const terms: Array<FieldTerm> = []
    for (const term of text.split(",").filter((term) => term !== "")) {
      const [, field, operator, value = ""] = /^([^=!]*)(!=|==?)(.*)$/.exec(term) ?? []
      if (field === undefined) {
        return yield* Result.fail(`invalid selector: '${term}'; can't understand '${term}'`)
      }
      if (field !== "metadata.name" && field !== "metadata.namespace") {
        return yield* Result.fail(
          `"${field}" is not a known field selector: only "metadata.name", "metadata.namespace"`
        )
      }
      terms.push({ field, is: operator !== "!=", value })
    }
    return terms
  })
