/** Records for tables of pure rules. */
import { instanceAnnotation, type LeaseRecord } from "../../src/LeaseRecord.ts"

export const seconds = (seconds: number): bigint => BigInt(seconds * 1000) * 1_000_000n

/** A Lease held by "other" for 15 s, changed as said. */
export const lease = (change: Partial<LeaseRecord> & { readonly instance?: string } = {}): LeaseRecord => {
  const { instance, ...rest } = change
  return {
    namespace: "default",
    name: "invoices",
    uid: "uid-1",
    resourceVersion: 10n,
    deletionTimestamp: undefined,
    labels: {},
    annotations: instance === undefined ? {} : { [instanceAnnotation]: instance },
    ownerReferences: [],
    holderIdentity: "other",
    leaseDurationSeconds: 15,
    acquireTime: 1n,
    renewTime: 2n,
    leaseTransitions: 3,
    strategy: undefined,
    preferredHolder: undefined,
    ...rest
  }
}
