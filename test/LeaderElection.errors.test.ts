import { assert, describe } from "@effect/vitest"
import { Cause, Exit, type Fiber } from "effect"
import type { LeaderElectionError } from "../src/LeaderElectionError.ts"
import { LeaseForbidden } from "../src/LeaseError.ts"
import { Fault } from "../src/testing/index.ts"
import { heldBy, key, oldLease, released, test } from "./utils/Elections.ts"

const errorOf = (fiber: Fiber.Fiber<unknown, LeaderElectionError>): LeaderElectionError | undefined => {
  const exit = fiber.pollUnsafe()
  return exit !== undefined && Exit.isFailure(exit) && !Cause.hasInterrupts(exit.cause)
    ? Cause.squash(exit.cause) as LeaderElectionError
    : undefined
}

describe("while campaigning", () => {
  for (const verb of ["get", "create", "patch"] as const) {
    test(`T23 B2 403 on ${verb}: logged at once, a failure that names the verb after a minute`, function*(w) {
      if (verb === "patch") {
        yield* w.cluster.createLease(key, released)
      }
      yield* w.until(100_000)
      const a = yield* w.candidate("a")
      yield* a.faults.set({ [verb]: Fault.forbidden })
      const fiber = yield* a.lead
      yield* w.settle
      const warnings = w.logs.filter((line) => line.startsWith("Warn"))
      assert.strictEqual(warnings.length, 1)
      assert.include(warnings[0], `${verb} lease default/invoices`)
      yield* w.until(159_999)
      assert.isUndefined(errorOf(fiber))
      yield* w.until(163_000)
      const error = errorOf(fiber)
      assert.strictEqual(error?.reason._tag, "LeaseRefused")
      assert.match(error?.message ?? "", new RegExp(`cannot take part.*${verb} lease default/invoices.*forbidden`))
      assert.isTrue((yield* a.requests(verb)).length <= 33)
    })
  }

  test("B2 403 that passes before is no failure, and one success begins the count anew", function*(w) {
    yield* w.until(100_000)
    const a = yield* w.candidate("a", { settings: { newLease: "lead" } })
    yield* a.faults.set({ get: Fault.forbidden })
    const fiber = yield* a.lead
    // Nearly a minute, as an API server that restarts may take.
    yield* w.until(157_000)
    assert.isUndefined(errorOf(fiber))
    yield* a.faults.clear
    yield* w.until(164_000)
    assert.isUndefined(errorOf(fiber))
    assert.strictEqual(w.timeline.length, 1)
    assert.match(w.timeline[0] ?? "", /^158000 a leads$/)
  })

  test("another failure in between begins the count anew", function*(w) {
    yield* w.until(100_000)
    const a = yield* w.candidate("a")
    yield* a.faults.set({ get: Fault.forbidden })
    const fiber = yield* a.lead
    yield* w.until(110_500)
    yield* a.faults.next("get", Fault.serverError())
    yield* w.until(171_000)
    assert.isUndefined(errorOf(fiber))
    yield* w.until(175_000)
    assert.strictEqual(errorOf(fiber)?.reason._tag, "LeaseRefused")
  })

  for (const verb of ["get", "create"] as const) {
    test(`422 on ${verb} is a failure only when it lasts for a minute`, function*(w) {
      const a = yield* w.candidate("a")
      yield* a.faults.set({ [verb]: Fault.invalid })
      const fiber = yield* a.lead
      yield* w.until(59_000)
      assert.isUndefined(errorOf(fiber))
      yield* w.until(63_000)
      const error = errorOf(fiber)
      assert.strictEqual(error?.reason._tag, "LeaseRefused")
      assert.match(error?.message ?? "", new RegExp(`${verb} lease default/invoices: is invalid`))
    })
  }

  test("a namespace that does not exist for a minute is a failure that names it", function*(w) {
    const a = yield* w.candidate("a", { settings: { namespace: "nowhere" } })
    const fiber = yield* a.lead
    yield* w.until(59_000)
    assert.isUndefined(errorOf(fiber))
    yield* w.until(63_000)
    const error = errorOf(fiber)
    assert.strictEqual(error?.reason._tag, "LeaseRefused")
    assert.match(error?.message ?? "", /create lease nowhere\/invoices: .*"nowhere" not found/)
  }, { namespaces: ["default"] })

  const passing: ReadonlyArray<[string, Fault.Fault, number]> = [
    ["500", Fault.serverError(), 2000],
    ["401", Fault.unauthorized, 2000],
    ["a refused connection", Fault.refused, 2000],
    ["a hung request", Fault.hang, 2000],
    ["429 with 3 s", Fault.tooManyRequests("3 seconds"), 3000],
    ["429 with an hour", Fault.tooManyRequests("1 hour"), 15_000]
  ]
  for (const [what, fault, pause] of passing) {
    test(`${what} is tried again after ${pause / 1000} s`, function*(w) {
      yield* oldLease(w)
      const a = yield* w.candidate("a")
      yield* a.faults.next("get", fault)
      yield* a.faults.next("patch", fault)
      yield* a.lead
      yield* w.until(140_000)
      assert.deepStrictEqual((yield* a.requests("get")).slice(0, 2), ["100000 get", `${100_000 + pause} get`])
      assert.deepStrictEqual(w.timeline, [`${100_000 + 2 * pause} a leads`])
    })
  }

  test("T25 nobody becomes leader because the cluster cannot be reached", function*(w) {
    const a = yield* w.candidate("a", { settings: { newLease: "lead" } })
    yield* a.faults.refuse
    const fiber = yield* a.lead
    yield* w.until(3_600_000)
    assert.deepStrictEqual(w.timeline, [])
    assert.isUndefined(fiber.pollUnsafe())
    // One line for each leaseDuration at most, and the rest at debug.
    assert.isTrue(w.logs.filter((line) => line.startsWith("Warn")).length <= 241)
    assert.isTrue((yield* a.requests("get")).length <= 1801)
    yield* a.faults.restore
    yield* w.until(3_602_000)
    assert.strictEqual(w.timeline.length, 1)
    assert.isTrue(w.logs.includes("Info a: Requests succeed again: get"))
  })

  test("a conflict is followed by a look at what is there, without a pause; a second one by a pause", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a", { settings: { watch: false } })
    yield* a.faults.next("patch", Fault.conflict, 2)
    yield* a.lead
    yield* w.until(101_599)
    assert.deepStrictEqual(yield* a.requests(), [
      "100000 get",
      "100000 patch",
      "100000 get",
      "100000 patch"
    ])
    yield* w.until(102_001)
    assert.strictEqual(w.timeline.length, 1)
  })

  test("permanent conflicts are no reason to hurry", function*(w) {
    yield* oldLease(w)
    const a = yield* w.candidate("a")
    yield* a.faults.set({ patch: Fault.conflict })
    yield* a.lead
    yield* w.until(160_000)
    assert.deepStrictEqual(w.timeline, [])
    assert.isTrue((yield* a.requests("patch")).length <= 40)
  })
})

describe("the owner", () => {
  const refuseOwner = new LeaseForbidden({
    message: "cannot set an ownerRef on a resource you can't delete",
    anonymous: false,
    ownerReferences: true
  })

  test("where it may not be set: taken without it, with one warning, for good", function*(w) {
    const pod = yield* w.cluster.createPod({ namespace: "default", name: "p" })
    yield* oldLease(w)
    const a = yield* w.candidate("a", { pod })
    yield* a.faults.decide(({ verb, write }) =>
      verb === "patch" && write?.ownerReferences !== undefined ? Fault.fail(refuseOwner) : undefined
    )
    yield* a.startForever(a.program())
    yield* w.settle
    assert.deepStrictEqual(w.timeline, ["100000 a leads"])
    assert.deepStrictEqual((yield* w.lease).ownerReferences, [])
    yield* w.until(120_000)
    yield* w.cluster.editLease(key, heldBy("thief", 15))
    yield* w.until(140_000)
    assert.deepStrictEqual(w.timeline.slice(1), ["120000 a ends", "135000 a leads"])
    const warnings = w.logs.filter((line) => line.includes("OwnerReferencesPermissionEnforcement"))
    assert.strictEqual(warnings.length, 1)
    assert.match(warnings[0] ?? "", /^Warn/)
  })

  test("T21 is the holder's Pod, and only that", function*(w) {
    const first = yield* w.cluster.createPod({ namespace: "default", name: "web-0" })
    const second = yield* w.cluster.createPod({ namespace: "default", name: "web-1" })
    const a = yield* w.candidate("a", { pod: first })
    const b = yield* w.candidate("b", { pod: second })
    yield* a.lead
    yield* w.until(1000)
    yield* b.lead
    yield* w.until(20_000)
    const reference = (pod: typeof first) => ({ apiVersion: "v1", kind: "Pod", name: pod.name, uid: pod.uid })
    assert.deepStrictEqual((yield* w.lease).ownerReferences, [reference(first)])
    yield* a.crash
    yield* w.until(50_000)
    assert.deepStrictEqual((yield* w.lease).ownerReferences, [reference(second)])
    // The former holder's Pod takes nothing with it.
    const before = yield* w.lease
    yield* w.cluster.deletePod({ namespace: "default", name: "web-0" })
    yield* w.until(54_000)
    assert.deepStrictEqual(yield* w.lease, before)
    assert.deepStrictEqual(w.timeline, ["15000 a leads", "35000 b leads"])
    // The holder's does: its term is over with it.
    yield* w.cluster.deletePod({ namespace: "default", name: "web-1" })
    yield* w.until(55_000)
    assert.strictEqual(w.timeline[2], "54006 b ends")
  })

  for (const newLease of ["wait", "lead"] as const) {
    test(
      `a Pod that does not exist (newLease ${newLease}): an error, and the next create after leaseDuration`,
      function*(w) {
        const a = yield* w.candidate("a", { pod: { name: "ghost", uid: "no-such-uid" }, settings: { newLease } })
        yield* a.startForever(a.program())
        yield* w.until(14_900)
        assert.deepStrictEqual(yield* a.requests("create"), ["0 create"])
        const errors = w.logs.filter((line) => line.startsWith("Error"))
        assert.strictEqual(errors.length, 1)
        assert.match(
          errors[0] ?? "",
          /there is no Pod "ghost" with uid no-such-uid in namespace default.*POD_NAME, POD_UID/
        )
        yield* w.until(16_000)
        assert.strictEqual((yield* a.requests("create")).length, 2)
        yield* w.until(29_000)
        assert.strictEqual((yield* a.requests("create")).length, 2)
      }
    )
  }

  test("the same where the deletion is known before the create is answered", function*(w) {
    const a = yield* w.candidate("a", { pod: { name: "ghost", uid: "no-such-uid" } })
    yield* a.faults.next("create", Fault.delayAnswer("100 millis"))
    yield* a.startForever(a.program())
    yield* w.until(14_900)
    assert.deepStrictEqual(yield* a.requests("create"), ["0 create"])
    assert.strictEqual(w.logs.filter((line) => line.startsWith("Error")).length, 1)
  })

  test("deleted by a person long after it was created: created again at once", function*(w) {
    const pod = yield* w.cluster.createPod({ namespace: "default", name: "p" })
    const a = yield* w.candidate("a", { pod })
    yield* a.lead
    yield* w.until(4000)
    yield* w.cluster.deleteLease(key)
    yield* w.settle
    assert.deepStrictEqual(yield* a.requests("create"), ["0 create", "4000 create"])
    assert.isFalse(w.logs.some((line) => line.startsWith("Error")))
  })
})

test("a right that was missing at two different times was not missing all the time between", function*(world) {
  yield* world.cluster.createLease(key, { spec: { holderIdentity: "another", leaseDurationSeconds: 15 } })
  const a = yield* world.candidate("a")
  yield* a.faults.set({ patch: Fault.forbidden })
  yield* a.lead
  // Refused when the lease has run out, until its holder shows another sign of life.
  yield* world.until(20_000)
  yield* world.cluster.editLease(key, { spec: { leaseTransitions: 1 } })
  // Refused again when that has run out, for less than leaseDuration.
  yield* world.until(45_000)
  assert.deepStrictEqual(world.timeline, [])
  yield* a.faults.clear
  yield* world.until(50_000)
  assert.match(world.timeline.join(), /^4[5-7]\d{3} a leads$/)
})
