import { assert, describe, it } from "@effect/vitest"
import * as Writes from "../../../src/internal/protocol/writes.ts"
import {
  ageMarkAnnotation,
  instanceAnnotation,
  noteAnnotation,
  type OwnerReference,
  stepDownAnnotation
} from "../../../src/LeaseRecord.ts"
import { lease, seconds } from "../../utils/leases.ts"

const pod = { name: "web-0", uid: "pod-1" }
const candidate: Writes.Candidate = {
  identity: "me",
  instance: "50-x",
  leaseDuration: seconds(20),
  leaseDurationSeconds: 20,
  pod
}
const podless: Writes.Candidate = { ...candidate, pod: undefined }

const own: OwnerReference = { apiVersion: "v1", kind: "Pod", name: "web-0", uid: "pod-1" }
const former: OwnerReference = { apiVersion: "v1", kind: "Pod", name: "web-1", uid: "pod-2" }
const deployment: OwnerReference = {
  apiVersion: "apps/v1",
  kind: "Deployment",
  name: "web",
  uid: "d",
  controller: true,
  blockOwnerDeletion: true
}
const foreignPod: OwnerReference = { apiVersion: "example.com/v1", kind: "Pod", name: "x", uid: "y" }
const v1Node: OwnerReference = { apiVersion: "v1", kind: "Node", name: "n", uid: "n" }

describe("uniqueRenewTime", () => {
  const table: ReadonlyArray<[string, bigint, bigint, bigint | undefined, bigint]> = [
    ["the wall clock", 100n, 50n, 70n, 100n],
    ["the wall clock, nothing stored", 100n, 50n, undefined, 100n],
    ["a clock that stands", 100n, 100n, 70n, 101n],
    ["a clock that went back", 30n, 100n, 70n, 101n],
    ["found in the Lease already", 100n, 50n, 100n, 101n],
    ["found there after a clock that stands", 100n, 100n, 101n, 102n],
    ["one that is stored just before", 100n, 50n, 99n, 100n],
    ["one that is stored just behind", 100n, 50n, 101n, 100n]
  ]
  for (const [what, wallClock, lastWritten, stored, expected] of table) {
    it(what, () => {
      assert.strictEqual(Writes.uniqueRenewTime(wallClock, lastWritten, stored), expected)
    })
  }
})

describe("ownedBy", () => {
  const table: ReadonlyArray<
    [string, ReadonlyArray<OwnerReference>, Writes.Pod | undefined, ReadonlyArray<OwnerReference>]
  > = [
    ["none yet", [], pod, [own]],
    ["a former holder's Pod goes", [former], pod, [own]],
    ["other kinds stay, in their order and as they are", [deployment, former, foreignPod, v1Node], pod, [
      deployment,
      foreignPod,
      v1Node,
      own
    ]],
    ["ours already", [own], pod, [own]],
    ["ours twice", [own, own], pod, [own]],
    ["no Pod: none is left", [own, deployment], undefined, [deployment]],
    ["no Pod, none there", [], undefined, []]
  ]
  for (const [what, references, owner, expected] of table) {
    it(`T21 ${what}`, () => {
      assert.deepStrictEqual(Writes.ownedBy(references, owner), expected)
    })
  }
})

describe("create", () => {
  it("the whole record, owned by the Pod", () => {
    assert.deepStrictEqual(Writes.create(candidate, 7n), {
      holderIdentity: "me",
      leaseDurationSeconds: 20,
      acquireTime: 7n,
      renewTime: 7n,
      leaseTransitions: 0,
      annotations: { [instanceAnnotation]: "50-x" },
      ownerReferences: [own]
    })
  })

  it("without a Pod it has no owner", () => {
    assert.isFalse("ownerReferences" in Writes.create(podless, 7n))
  })
})

describe("take", () => {
  const owner = { owner: true, mark: false }

  it("from another: one transition more, and the owner is this Pod", () => {
    assert.deepStrictEqual(
      Writes.take(candidate, lease({ instance: "1-o", ownerReferences: [deployment, former] }), 7n, owner),
      {
        holderIdentity: "me",
        leaseDurationSeconds: 20,
        acquireTime: 7n,
        renewTime: 7n,
        leaseTransitions: 4,
        annotations: { [instanceAnnotation]: "50-x" },
        ownerReferences: [deployment, own]
      }
    )
  })

  const transitions: ReadonlyArray<[string, string, number, number]> = [
    ["from nobody", "", 3, 4],
    ["a first one", "", 0, 1],
    ["resumed", "me", 3, 3],
    ["up to the greatest", "other", 2 ** 31 - 2, 2 ** 31 - 1],
    ["never beyond the greatest", "other", 2 ** 31 - 1, 2 ** 31 - 1]
  ]
  for (const [what, holderIdentity, leaseTransitions, expected] of transitions) {
    it(`leaseTransitions, ${what}: ${expected}`, () => {
      const write = Writes.take(candidate, lease({ holderIdentity, leaseTransitions }), 7n, owner)
      assert.strictEqual(write.leaseTransitions, expected)
    })
  }

  const references: ReadonlyArray<
    [string, Writes.Candidate, ReadonlyArray<OwnerReference>, boolean, ReadonlyArray<OwnerReference> | undefined]
  > = [
    ["set where it is missing", candidate, [], true, [own]],
    ["not written where it would not change", candidate, [own], true, undefined],
    ["not written where only others' are beside it", candidate, [deployment, own], true, undefined],
    ["written where the order changes", candidate, [own, deployment], true, [deployment, own]],
    ["compared by kind too", candidate, [own, { ...own, kind: "Node" }], true, [{ ...own, kind: "Node" }, own]],
    ["compared by version too", candidate, [own, { ...own, apiVersion: "v2" }], true, [
      { ...own, apiVersion: "v2" },
      own
    ]],
    ["left alone where it may not be set", candidate, [former], false, undefined],
    ["without a Pod a former holder's goes", podless, [former, deployment], true, [deployment]],
    ["without a Pod, and without references", podless, [], true, undefined],
    ["of the same name with another uid", candidate, [{ ...own, uid: "pod-0" }], true, [own]],
    ["of another name with the same uid", candidate, [{ ...own, name: "web-9" }], true, [own]],
    ["ours, with a flag of somebody's, stays", candidate, [{ ...own, blockOwnerDeletion: false }], true, undefined]
  ]
  for (const [what, by, ownerReferences, allowed, expected] of references) {
    it(`ownerReferences: ${what}`, () => {
      const write = Writes.take(by, lease({ ownerReferences }), 7n, { owner: allowed, mark: false })
      assert.deepStrictEqual(write.ownerReferences, expected)
      assert.strictEqual("ownerReferences" in write, expected !== undefined)
    })
  }

  it("adds the age mark where it is known to be old", () => {
    const write = Writes.take(candidate, lease(), 7n, { owner: true, mark: true })
    assert.deepStrictEqual(write.annotations, { [instanceAnnotation]: "50-x", [ageMarkAnnotation]: "uid-1" })
  })

  it("removes what the leader before was asked", () => {
    const write = Writes.take(candidate, lease({ annotations: { [stepDownAnnotation]: "1-o", note: "x" } }), 7n, owner)
    assert.deepStrictEqual(write.annotations, { [instanceAnnotation]: "50-x", [stepDownAnnotation]: null })
  })
})

describe("renew", () => {
  it("writes holder, duration and time, and nothing else", () => {
    assert.deepStrictEqual(
      Writes.renew(candidate, lease({ holderIdentity: "me", instance: "50-x" }), 7n, { mark: false }),
      {
        holderIdentity: "me",
        leaseDurationSeconds: 20,
        renewTime: 7n
      }
    )
  })

  it("restores an annotation that was lost", () => {
    assert.deepStrictEqual(Writes.renew(candidate, lease({ holderIdentity: "me" }), 7n, { mark: false }), {
      holderIdentity: "me",
      leaseDurationSeconds: 20,
      renewTime: 7n,
      annotations: { [instanceAnnotation]: "50-x" }
    })
  })
})

it("renewing and beginning add the age mark", () => {
  const annotations = { [ageMarkAnnotation]: "uid-1" }
  const held = lease({ holderIdentity: "me", instance: "50-x" })
  assert.deepStrictEqual(Writes.renew(candidate, held, 7n, { mark: true }).annotations, annotations)
  assert.deepStrictEqual(Writes.begin(candidate, held, 7n, { mark: true }).annotations, annotations)
  assert.deepStrictEqual(Writes.renew(candidate, lease({ holderIdentity: "me" }), 7n, { mark: true }).annotations, {
    ...annotations,
    [instanceAnnotation]: "50-x"
  })
})

it("a release keeps the age mark, and a create cannot have one", () => {
  assert.deepStrictEqual(Writes.release(lease(), 7n, { owner: true }).annotations, { [instanceAnnotation]: null })
  assert.deepStrictEqual(Writes.create(candidate, 7n).annotations, { [instanceAnnotation]: "50-x" })
})

it("begin renews, and dates the term", () => {
  assert.deepStrictEqual(
    Writes.begin(candidate, lease({ holderIdentity: "me", instance: "50-x" }), 7n, { mark: false }),
    {
      holderIdentity: "me",
      leaseDurationSeconds: 20,
      renewTime: 7n,
      acquireTime: 7n
    }
  )
})

describe("release", () => {
  it("leaves no holder, no owner, no instance, and the mark of a release", () => {
    assert.deepStrictEqual(
      Writes.release(lease({ ownerReferences: [own, deployment] }), 7n, { owner: true }),
      {
        holderIdentity: "",
        leaseDurationSeconds: 1,
        renewTime: 7n,
        annotations: { [instanceAnnotation]: null },
        ownerReferences: [deployment]
      }
    )
  })

  it("leaves the owner references alone where there is none of a Pod, or where it may not", () => {
    assert.isFalse("ownerReferences" in Writes.release(lease({ ownerReferences: [deployment] }), 7n, { owner: true }))
    assert.isFalse("ownerReferences" in Writes.release(lease({ ownerReferences: [own] }), 7n, { owner: false }))
  })
})

describe("the note", () => {
  const noting: Writes.Candidate = { ...candidate, note: "10.0.0.7" }
  const marked = (note?: string) =>
    lease({
      annotations: { [instanceAnnotation]: "50-x", ...(note !== undefined && { [noteAnnotation]: note }) }
    })
  const options = { owner: false, mark: false }
  const of = (write: { readonly annotations?: Readonly<Record<string, string | null>> }) =>
    write.annotations?.[noteAnnotation]

  it("is written with each write of a holder where it is not there", () => {
    assert.strictEqual(of(Writes.create(noting, 1n)), "10.0.0.7")
    for (const stored of [undefined, "10.0.0.6"]) {
      assert.strictEqual(of(Writes.take(noting, marked(stored), 1n, options)), "10.0.0.7")
      assert.strictEqual(of(Writes.renew(noting, marked(stored), 1n, options)), "10.0.0.7")
      assert.strictEqual(of(Writes.begin(noting, marked(stored), 1n, options)), "10.0.0.7")
    }
    assert.isUndefined(of(Writes.renew(noting, marked("10.0.0.7"), 1n, options)))
    assert.isUndefined(Writes.renew(noting, marked("10.0.0.7"), 1n, options).annotations)
  })

  it("of a predecessor goes, and one's own with the release", () => {
    assert.strictEqual(of(Writes.take(candidate, marked("10.0.0.6"), 1n, options)), null)
    assert.strictEqual(of(Writes.renew(candidate, marked("10.0.0.6"), 1n, options)), null)
    assert.strictEqual(of(Writes.release(marked("10.0.0.7"), 1n, options)), null)
    assert.isUndefined(of(Writes.release(marked(), 1n, options)))
    assert.isUndefined(of(Writes.create(candidate, 1n)))
  })
})
