import { assert, describe, it } from "@effect/vitest"
import {
  endsCandidate,
  leastPatience,
  type Meaning,
  meaningOf,
  refused
} from "../../../src/internal/protocol/refusal.ts"
import {
  LeaseConflict,
  type LeaseErrorReason,
  LeaseExpired,
  LeaseForbidden,
  LeaseInvalid,
  LeaseNotFound,
  LeaseUnauthorized,
  LeaseUnavailable,
  type LeaseVerb
} from "../../../src/LeaseError.ts"

const message = "as the server put it"

const reasons: Record<string, LeaseErrorReason> = {
  conflict: new LeaseConflict({ message }),
  "not found": new LeaseNotFound({ message }),
  forbidden: new LeaseForbidden({ message, anonymous: false, ownerReferences: false }),
  "forbidden to nobody": new LeaseForbidden({ message, anonymous: true, ownerReferences: false }),
  "denied by a webhook": new LeaseForbidden({
    message,
    anonymous: false,
    ownerReferences: false,
    deniedBy: "a webhook"
  }),
  "owner refused": new LeaseForbidden({ message, anonymous: false, ownerReferences: true }),
  unauthorized: new LeaseUnauthorized({ message }),
  invalid: new LeaseInvalid({ message }),
  expired: new LeaseExpired({ message }),
  "no answer": new LeaseUnavailable({ message, outcomeUnknown: true }),
  "page of a proxy, 403": new LeaseUnavailable({ message, outcomeUnknown: true, code: 403 }),
  "page of a proxy, 404": new LeaseUnavailable({ message, outcomeUnknown: true, code: 404 }),
  "too many requests": new LeaseUnavailable({ message, outcomeUnknown: false, code: 429 })
}

describe("meaningOf", () => {
  const inAnElection: Record<string, Meaning> = {
    conflict: "Read",
    "not found": "Absent",
    forbidden: "Refused",
    "forbidden to nobody": "Refused",
    "denied by a webhook": "Refused",
    "owner refused": "WithoutOwner",
    unauthorized: "Retry",
    invalid: "Refused",
    expired: "Retry",
    "no answer": "Retry",
    "page of a proxy, 403": "Retry",
    "page of a proxy, 404": "Retry",
    "too many requests": "Retry"
  }
  for (const role of ["candidate", "holder", "releasing"] as const) {
    for (const verb of ["get", "create", "patch"] satisfies Array<LeaseVerb>) {
      for (const [name, reason] of Object.entries(reasons)) {
        const expected = name === "not found" && verb === "create" ? "Refused" : inAnElection[name]
        it(`${role}, ${verb}: ${name}`, () => {
          assert.strictEqual(meaningOf(role, verb, reason), expected)
        })
      }
    }
  }

  const watching: Record<string, Meaning> = {
    forbidden: "Poll",
    "forbidden to nobody": "Poll",
    "denied by a webhook": "Poll",
    "owner refused": "Poll",
    invalid: "Poll",
    expired: "StartOver"
  }
  for (const [name, reason] of Object.entries(reasons)) {
    it(`watching: ${name}`, () => {
      assert.strictEqual(meaningOf("watching", "watch", reason), watching[name] ?? "Retry")
    })
  }
})

describe("a streak of refusals", () => {
  const timing = { retryPeriod: 2n, requestTimeout: 3n }

  it("starts with the start of its first request", () => {
    assert.deepStrictEqual(refused(undefined, { start: 5n, end: 6n }, timing), { since: 5n, last: 6n })
  })

  it("goes on while refusals follow each other", () => {
    // Two retryPeriods and one requestTimeout after the last answer, and not a moment later.
    assert.deepStrictEqual(refused({ since: 5n, last: 6n }, { start: 13n, end: 14n }, timing), { since: 5n, last: 14n })
  })

  it("starts anew after a gap in which nothing was answered", () => {
    assert.deepStrictEqual(refused({ since: 5n, last: 6n }, { start: 14n, end: 15n }, timing), {
      since: 14n,
      last: 15n
    })
  })

  it("B2 ends a candidate after a minute of nothing else, whatever shorter leaseDuration is", () => {
    assert.strictEqual(leastPatience, 60_000_000_000n)
    assert.isFalse(endsCandidate({ since: 1n, last: leastPatience }, 15_000_000_000n))
    assert.isTrue(endsCandidate({ since: 1n, last: 1n + leastPatience }, 15_000_000_000n))
  })

  it("ends a candidate after a longer leaseDuration", () => {
    const leaseDuration = leastPatience + 5n
    assert.isFalse(endsCandidate({ since: 1n, last: leaseDuration }, leaseDuration))
    assert.isTrue(endsCandidate({ since: 1n, last: 1n + leaseDuration }, leaseDuration))
  })
})
