/**
 * Kubernetes' garbage collector for Leases owned by Pods, one API call per step, so that anything can happen between
 * two of its steps. Its habit matters: it deletes by uid and version, but after a conflict it reads again and, where
 * the ownerReferences are what they were, deletes by uid alone. A Lease that was taken over in between is lost.
 *
 * @internal
 */
import * as Equal from "effect/Equal"
import * as Result from "effect/Result"
import type { CollectorCall as StepName, CollectorOutcome as StepOutcome } from "../MemoryCluster.ts"
import type { ApiObject, OwnerRef } from "./apiObject.ts"
import { foregroundDeletion, type Objects, type WatchEvent } from "./objects.ts"
import { pods, type ResourceType } from "./resources.ts"

export interface Job {
  readonly id: string
  readonly type: ResourceType
  readonly namespace: string
  readonly name: string
  readonly uid: string
  readonly next: StepName
}

interface MutableJob extends Job {
  next: StepName
  /** Something happened to the object, or to its owner, since the job began. */
  again: boolean
  seen: ApiObject | undefined
}

export interface GarbageCollector {
  readonly onChange: (event: WatchEvent, type: ResourceType) => void
  /** Looks at everything again, as the collector does when it starts. */
  readonly rescan: () => void
  readonly forget: () => void
  readonly pending: () => ReadonlyArray<Job>
  readonly step: (id: string) => { readonly step: StepName; readonly outcome: StepOutcome } | undefined
}

// oxlint-disable-next-line max-lines-per-function -- one collector: its functions share its graph
export const make = (options: {
  readonly objects: () => Objects
  readonly leases: ResourceType
  readonly onJob: (job: Job) => void
}): GarbageCollector => {
  const { leases, objects, onJob } = options
  const jobs = new Map<string, MutableJob>()

  const enqueue = (type: ResourceType, object: ApiObject) => {
    const { name, namespace = "", uid } = object.metadata
    const present = jobs.get(uid)
    if (present !== undefined) {
      present.again = true
      return
    }
    const job: MutableJob = { id: uid, type, namespace, name, uid, next: "Read", again: false, seen: undefined }
    jobs.set(uid, job)
    onJob(job)
  }

  // Owners of kinds that this cluster does not keep count as existing, as kinds unknown to the real collector do.
  const owner = (namespace: string, ref: OwnerRef): "Solid" | "Dangling" | "Waiting" => {
    if (ref.kind !== "Pod" || ref.apiVersion !== "v1") {
      return "Solid"
    }
    const pod = Result.getOrUndefined(objects().get(pods, namespace, ref.name))
    return pod === undefined || pod.metadata.uid !== ref.uid
      ? "Dangling"
      : isForeground(pod)
      ? "Waiting"
      : "Solid"
  }

  const lostOwners = (object: ApiObject): ReadonlyArray<OwnerRef> =>
    (object.metadata.ownerReferences ?? []).filter((ref) => owner(object.metadata.namespace ?? "", ref) !== "Solid")

  const consider = (lease: ApiObject) => {
    if (isForeground(lease) || lostOwners(lease).length > 0) {
      enqueue(leases, lease)
    }
  }

  const dependents = (pod: ApiObject): ReadonlyArray<ApiObject> =>
    objects().list({ type: leases, namespace: pod.metadata.namespace })
      .filter((lease) => lease.metadata.ownerReferences?.some((ref) => ref.uid === pod.metadata.uid))

  const onPod = (pod: ApiObject) => {
    for (const lease of dependents(pod)) {
      consider(lease)
    }
    if (isForeground(pod)) {
      enqueue(pods, pod)
    }
  }

  const current = (job: Job): ApiObject | undefined => {
    const found = Result.getOrUndefined(objects().get(job.type, job.namespace, job.name))
    return found?.metadata.uid === job.uid ? found : undefined
  }

  const read = (job: MutableJob): StepOutcome => {
    const object = current(job)
    if (object === undefined) {
      return "Gone"
    }
    if (isForeground(object)) {
      if (job.type === pods && dependents(object).length > 0) {
        // Its Leases go first; the last of them brings us here again.
        return "Kept"
      }
      job.next = "RemoveFinalizer"
      return "Continues"
    }
    const lost = lostOwners(object)
    if (lost.length === 0) {
      return "Kept"
    }
    job.seen = object
    job.next = lost.length < (object.metadata.ownerReferences ?? []).length ? "RemoveReferences" : "Delete"
    return "Continues"
  }

  const patchMetadata = (
    job: Job,
    change: (object: ApiObject) => { readonly [field: string]: unknown }
  ): StepOutcome => {
    const object = current(job)
    if (object !== undefined) {
      objects().patch(job.type, job.namespace, job.name, { metadata: change(object) })
    }
    return object === undefined ? "Gone" : "Changed"
  }

  const run = (job: MutableJob): StepOutcome => {
    switch (job.next) {
      case "Read": {
        return read(job)
      }
      case "Delete": {
        const answer = objects().remove(job.type, job.namespace, job.name, {
          preconditions: { uid: job.uid, resourceVersion: job.seen?.metadata.resourceVersion }
        })
        if (Result.isSuccess(answer)) {
          return "Deleted"
        }
        if (answer.failure.code !== 409) {
          return "Gone"
        }
        job.next = "ReadAgain"
        return "Continues"
      }
      case "ReadAgain": {
        const object = current(job)
        if (object === undefined) {
          return "Gone"
        }
        const unchanged = Equal.equals(object.metadata.ownerReferences, job.seen?.metadata.ownerReferences)
        job.next = unchanged ? "DeleteByUid" : "Read"
        return "Continues"
      }
      case "DeleteByUid": {
        const answer = objects().remove(job.type, job.namespace, job.name, { preconditions: { uid: job.uid } })
        return Result.isSuccess(answer) ? "Deleted" : "Gone"
      }
      case "RemoveReferences": {
        // By the owners' uids, as the real one's patch does, whatever else the list has become.
        const lost = new Set((job.seen === undefined ? [] : lostOwners(job.seen)).map((ref) => ref.uid))
        return patchMetadata(job, ({ metadata }) => ({
          ownerReferences: (metadata.ownerReferences ?? []).filter((ref) => !lost.has(ref.uid))
        }))
      }
      case "RemoveFinalizer": {
        return patchMetadata(job, ({ metadata }) => ({
          finalizers: (metadata.finalizers ?? []).filter((finalizer) => finalizer !== foregroundDeletion)
        }))
      }
    }
  }

  return {
    onChange: (event, type) => {
      if (type === pods) {
        onPod(event.object)
      } else if (type === leases) {
        if (event.type !== "DELETED") {
          return consider(event.object)
        }
        for (const ref of event.object.metadata.ownerReferences ?? []) {
          const pod = objects().get(pods, event.object.metadata.namespace ?? "", ref.name)
          if (Result.isSuccess(pod) && isForeground(pod.success)) {
            enqueue(pods, pod.success)
          }
        }
      }
    },
    rescan: () => {
      objects().list({ type: pods }).forEach(onPod)
      objects().list({ type: leases }).forEach(consider)
    },
    forget: () => jobs.clear(),
    pending: () => [...jobs.values()],
    step: (id) => {
      const job = jobs.get(id)
      if (job === undefined) {
        return undefined
      }
      const step = job.next
      if (step === "Read") {
        job.again = false
      }
      const outcome = run(job)
      if (outcome !== "Continues") {
        if (job.again && current(job) !== undefined) {
          job.next = "Read"
        } else {
          jobs.delete(id)
        }
      }
      return { step, outcome }
    }
  }
}

const isForeground = ({ metadata }: ApiObject): boolean =>
  metadata.deletionTimestamp !== undefined && metadata.finalizers?.includes(foregroundDeletion) === true
