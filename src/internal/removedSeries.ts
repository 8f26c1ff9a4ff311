/**
 * Series of metrics that are removed, for exporters that have yet to send what
 * they came to.
 *
 * @internal
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import type * as Scope from "effect/Scope"

type Observer = (snapshots: ReadonlyArray<Metric.Metric.Snapshot>) => void

const observers = new WeakMap<Metric.MetricRegistry, Set<Observer>>()

/** Shows an exporter what is removed from its registry, as it was last, while the scope is open. */
export const observe = (observer: Observer): Effect.Effect<void, never, Scope.Scope> =>
  Effect.gen(function*() {
    const registry = yield* Metric.MetricRegistry
    const all = observers.get(registry) ?? new Set()
    observers.set(registry, all)
    yield* Effect.acquireRelease(
      Effect.sync(() => all.add(observer)),
      () => Effect.sync(() => all.delete(observer))
    )
  })

/** Removes from a registry, and keeps what it removed. */
class Removing extends Map<string, Metric.Metric.Metadata<any, any>> {
  readonly registry: Metric.MetricRegistry
  readonly removed: Metric.MetricRegistry = new Map()
  constructor(registry: Metric.MetricRegistry) {
    super()
    this.registry = registry
  }
  override delete(key: string): boolean {
    const series = this.registry.get(key)
    if (series !== undefined) {
      this.removed.set(key, series)
    }
    return this.registry.delete(key)
  }
}

/** Removes the series of these metrics. */
export const remove = (metrics: Iterable<Metric.Metric<never, unknown>>): Effect.Effect<void> =>
  Effect.contextWith((context: Context.Context<never>) =>
    Effect.sync(() => {
      const registry = Context.get(context, Metric.MetricRegistry)
      const removing = new Removing(registry)
      const inside = Context.add(context, Metric.MetricRegistry, removing)
      for (const metric of metrics) {
        Metric.removeUnsafe(metric, inside)
      }
      const snapshots = Metric.snapshotUnsafe(Context.add(context, Metric.MetricRegistry, removing.removed))
      for (const observer of observers.get(registry) ?? []) {
        observer(snapshots)
      }
    })
  )
