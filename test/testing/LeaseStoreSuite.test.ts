/**
 * The suite of the `./testing` entry: our own stores pass it, and stores that are broken in one way each do not.
 */
import { assert, describe, it } from "@effect/vitest"
import { type Duration, Effect, Fiber, Stream } from "effect"
import { LeaseConflict, LeaseError } from "../../src/LeaseError.ts"
import type { LeaseKey, LeaseRecord } from "../../src/LeaseRecord.ts"
import { type LeaseChange, type LeaseStore, makeMemory } from "../../src/LeaseStore.ts"
import { LeaseStoreSuite, MemoryCluster, MemoryLeaseStore } from "../../src/testing/index.ts"

type Store = LeaseStore["Service"]

describe("LeaseStore.makeMemory", () => {
  for (const { effect, name } of LeaseStoreSuite.cases.filter(({ needsRemove }) => !needsRemove)) {
    it.live(name, () => Effect.flatMap(makeMemory, (store) => effect({ connect: Effect.succeed(store) })))
  }

  it.effect("a watch that asks for more than is kept is told to read", () =>
    Effect.gen(function*() {
      const store = yield* makeMemory
      const key = { namespace: "default", name: "x" }
      let { resourceVersion } = (yield* store.create(key, {})).lease
      for (let i = 0n; i < 1001n; i++) {
        resourceVersion = (yield* store.patch(key, resourceVersion, { renewTime: i })).lease.resourceVersion
      }
      const error = yield* Effect.flip(Stream.runHead(store.changes(key, 1n)))
      assert.strictEqual(error.reason._tag, "LeaseExpired")
    }))

  it.effect("a watch without a name shows all Leases of the namespace, and no others", () =>
    Effect.gen(function*() {
      const store = yield* makeMemory
      const create = (namespace: string, name: string) => store.create({ namespace, name }, {})
      const { resourceVersion } = (yield* create("default", "x")).lease
      yield* create("other", "x")
      yield* create("default", "y")
      const names = (since: bigint | undefined, count: number) =>
        store.changes({ namespace: "default", name: "" }, since).pipe(
          Stream.take(count),
          Stream.map((change) => "lease" in change ? `${change.lease.namespace}/${change.lease.name}` : change._tag),
          Stream.runCollect
        )
      const live = yield* Effect.forkChild(names(undefined, 4), { startImmediately: true })
      yield* create("other", "z")
      yield* create("default", "z")
      assert.deepStrictEqual(yield* Fiber.join(live), ["Opened", "default/x", "default/y", "default/z"])
      assert.deepStrictEqual(yield* names(resourceVersion, 3), ["Opened", "default/y", "default/z"])
    }))
})

const makeTarget = (
  patience: Duration.Input,
  breakIt: (store: Store) => Store
) =>
  Effect.map(MemoryCluster.make(), (cluster): LeaseStoreSuite.Target => ({
    connect: Effect.map(MemoryLeaseStore.make(cluster), (store) => breakIt(store)),
    remove: (key) => Effect.ignore(cluster.deleteLease(key)),
    patience
  }))

const record = (change: LeaseChange, f: (lease: LeaseRecord) => LeaseRecord): LeaseChange =>
  "lease" in change ? { ...change, lease: f(change.lease) } : change

const mapRecords = (store: Store, f: (lease: LeaseRecord) => LeaseRecord): Store => {
  const mapped = <E>(effect: Effect.Effect<{ readonly lease: LeaseRecord }, E>) =>
    Effect.map(effect, ({ lease }) => ({ lease: f(lease) }))
  return {
    ...store,
    get: (key) => mapped(store.get(key)),
    create: (key, write) => mapped(store.create(key, write)),
    patch: (key, version, write) => mapped(store.patch(key, version, write)),
    changes: (key, since) => Stream.map(store.changes(key, since), (change) => record(change, f))
  }
}

const current = (store: Store, key: LeaseKey) => Effect.map(store.get(key), ({ lease }) => lease)

/** Stores that break one promise each, and a case that has to find it. */
const broken: Readonly<Record<string, readonly [found: string, make: (store: Store) => Store]>> = {
  "writes without looking at the version": [
    "patch conflicts at any version but the current one",
    (store) => ({
      ...store,
      patch: (key, _, write) =>
        Effect.flatMap(current(store, key), ({ resourceVersion }) => store.patch(key, resourceVersion, write))
    })
  ],
  "looks at the version, and writes a moment later": [
    "patch succeeds for one of four that try at one version, again and again",
    (store) => ({
      ...store,
      patch: Effect.fnUntraced(function*(key, version, write) {
        const { resourceVersion } = yield* current(store, key)
        if (version !== resourceVersion) {
          return yield* new LeaseError({ verb: "patch", ...key, reason: new LeaseConflict({ message: "changed" }) })
        }
        yield* Effect.yieldNow
        return yield* store.patch(key, (yield* current(store, key)).resourceVersion, write)
      })
    })
  ],
  "refuses an older version, and takes one that is not there yet": [
    "patch conflicts at any version but the current one",
    (store) => ({
      ...store,
      patch: (key, version, write) =>
        Effect.flatMap(
          current(store, key),
          ({ resourceVersion }) => store.patch(key, version > resourceVersion ? resourceVersion : version, write)
        )
    })
  ],
  "creates over a Lease that exists": [
    "create conflicts with a Lease that exists, and leaves it alone",
    (store) => ({
      ...store,
      create: (key, write) =>
        Effect.catch(
          store.create(key, write),
          () => Effect.flatMap(current(store, key), ({ resourceVersion }) => store.patch(key, resourceVersion, write))
        )
    })
  ],
  "creates by a patch": [
    "patch never creates",
    (store) => ({
      ...store,
      patch: (key, version, write) =>
        Effect.catch(
          store.patch(key, version, write),
          (error) => error.reason._tag === "LeaseNotFound" ? store.create(key, write) : Effect.fail(error)
        )
    })
  ],
  "answers a conflict as success": [
    "patch succeeds for one of four that try at one version, again and again",
    (store) => ({
      ...store,
      patch: (key, version, write) =>
        Effect.catch(
          store.patch(key, version, write),
          (error) => error.reason._tag === "LeaseConflict" ? store.get(key) : Effect.fail(error)
        )
    })
  ],
  "has the same uid for every Lease of a name": [
    "a re-created Lease has another uid, and versions only grow",
    (store) => mapRecords(store, (lease) => ({ ...lease, uid: lease.name }))
  ],
  "keeps times to the millisecond": [
    "create makes the Lease, and get reads what was written",
    (store) =>
      mapRecords(store, (lease) => ({
        ...lease,
        acquireTime: lease.acquireTime === undefined ? undefined : lease.acquireTime / 1000n * 1000n,
        renewTime: lease.renewTime === undefined ? undefined : lease.renewTime / 1000n * 1000n
      }))
  ],
  "replaces the annotations instead of merging them": [
    "patch changes what it names and keeps everything else",
    (store) => ({
      ...store,
      patch: (key, version, write) =>
        Effect.flatMap(current(store, key), ({ annotations }) =>
          store.patch(key, version, {
            ...write,
            annotations: {
              ...Object.fromEntries(Object.keys(annotations).map((name) => [name, null])),
              ...write.annotations
            }
          }))
    })
  ],
  "drops the owners of a Lease that it patches": [
    "patch replaces the list of owners",
    (store) => ({
      ...store,
      patch: (key, version, write) => store.patch(key, version, { ownerReferences: [], ...write })
    })
  ],
  "reads from a cache": [
    "a read that begins after a write was answered sees it, on every connection",
    (store) => {
      let cached: { readonly lease: LeaseRecord } | undefined
      const keep = <E>(effect: Effect.Effect<{ readonly lease: LeaseRecord }, E>) =>
        Effect.tap(effect, (response) =>
          Effect.sync(() => {
            cached = response
          }))
      return {
        ...store,
        get: (key) =>
          Effect.suspend(() => cached?.lease.name === key.name ? Effect.succeed(cached) : keep(store.get(key))),
        create: (key, write) => keep(store.create(key, write)),
        patch: (key, version, write) => keep(store.patch(key, version, write))
      }
    }
  ],
  "watches only what comes after the watch has opened": [
    "changes reports every change after a version, and none before it",
    (store) => ({
      ...store,
      changes: (key) =>
        Stream.unwrap(
          Effect.map(Effect.option(current(store, key)), (lease) =>
            store.changes(key, lease._tag === "Some" ? lease.value.resourceVersion : undefined))
        )
    })
  ],
  "does not say when a watch has opened": [
    "changes waits for a Lease that is not there yet",
    (store) => ({
      ...store,
      changes: (key, since) => Stream.filter(store.changes(key, since), (change) => change._tag !== "Opened")
    })
  ],
  "reports the Lease again and again": [
    "changes reports every change after a version, and none before it",
    (store) => ({
      ...store,
      changes: (key, since) =>
        Stream.flatMap(store.changes(key, since), (change) =>
          Stream.make(change, change).pipe(
            Stream.filter((element) => element._tag !== "Opened" || element === change)
          ))
    })
  ],
  "does not report deletions": [
    "changes reports a deletion with a new version, and the successor with another uid",
    (store) => ({
      ...store,
      changes: (key, since) => Stream.filter(store.changes(key, since), (change) => change._tag !== "Deleted")
    })
  ],
  "reports a deletion with the version of the last write": [
    "changes reports a deletion with a new version, and the successor with another uid",
    (store) => ({
      ...store,
      changes: (key, since) =>
        Stream.map(
          store.changes(key, since),
          (change) =>
            change._tag === "Deleted"
              ? record(change, (lease) => ({ ...lease, resourceVersion: lease.resourceVersion - 1n }))
              : change
        )
    })
  ],
  "reports the changes of every Lease": [
    "changes reports every change after a version, and none before it",
    (store) => ({
      ...store,
      changes: (key, since) =>
        Stream.merge(
          store.changes(key, since),
          Stream.filter(
            store.changes({ ...key, name: `${key.name}-other` }, undefined),
            (change) => change._tag !== "Opened"
          )
        )
    })
  ],
  "begins a watch without a version with nothing": [
    "changes begins with the Lease as it is, where no version is given",
    (store) => ({
      ...store,
      changes: (key, since) =>
        Stream.unwrap(
          Effect.map(Effect.option(current(store, key)), (lease) =>
            store.changes(key, since ?? (lease._tag === "Some" ? lease.value.resourceVersion : undefined)))
        )
    })
  ]
}

describe("a store that", () => {
  it.live("is whole passes", () =>
    Effect.gen(function*() {
      const target = yield* makeTarget("10 seconds", (store) => store)
      assert.deepStrictEqual((yield* LeaseStoreSuite.failures(target)).map(({ message }) => message), [])
    }))

  for (const [what, [found, breakIt]] of Object.entries(broken)) {
    it.live(`${what} is rejected`, () =>
      Effect.gen(function*() {
        const failed = yield* LeaseStoreSuite.failures(yield* makeTarget("100 millis", breakIt))
        assert.include(failed.map(({ name }) => name), found, failed.map(({ message }) => message).join("\n"))
      }))
  }
})
