import { assert, describe, it } from "@effect/vitest"
import { Duration } from "effect"
import * as LeaseError from "../src/LeaseError.ts"

const error = (reason: LeaseError.LeaseErrorReason, verb: LeaseError.LeaseVerb = "patch") =>
  new LeaseError.LeaseError({ verb, namespace: "default", name: "invoices", reason })

const unavailable = (outcomeUnknown: boolean, retryAfter?: Duration.Duration) =>
  new LeaseError.LeaseUnavailable({
    message: "no answer",
    outcomeUnknown,
    ...(retryAfter !== undefined && { retryAfter })
  })

it("the message names the verb and the Lease", () => {
  assert.strictEqual(
    error(new LeaseError.LeaseConflict({ message: "changed" })).message,
    "patch lease default/invoices: changed"
  )
  assert.strictEqual(error(unavailable(true), "watch").message, "watch lease default/invoices: no answer")
})

describe("what can be done about it", () => {
  const others: ReadonlyArray<LeaseError.LeaseErrorReason> = [
    new LeaseError.LeaseConflict({ message: "" }),
    new LeaseError.LeaseNotFound({ message: "" }),
    new LeaseError.LeaseForbidden({ message: "", anonymous: false, ownerReferences: false }),
    new LeaseError.LeaseUnauthorized({ message: "" }),
    new LeaseError.LeaseInvalid({ message: "" }),
    new LeaseError.LeaseExpired({ message: "" })
  ]
  for (const reason of others) {
    it(`${reason._tag}: certainly not applied, and no Retry-After`, () => {
      assert.isFalse(LeaseError.isOutcomeUnknown(error(reason)))
      assert.isUndefined(LeaseError.retryAfter(error(reason)))
    })
  }

  it("LeaseUnavailable says whether the write may have been applied, and when to come back", () => {
    assert.isTrue(LeaseError.isOutcomeUnknown(error(unavailable(true))))
    assert.isFalse(LeaseError.isOutcomeUnknown(error(unavailable(false))))
    assert.isUndefined(LeaseError.retryAfter(error(unavailable(true))))
    assert.deepStrictEqual(LeaseError.retryAfter(error(unavailable(false, Duration.seconds(3)))), Duration.seconds(3))
  })
})
