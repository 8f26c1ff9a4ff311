/**
 * What an election shows of itself, collected for assertions: metrics in a registry of the test's own, log lines and
 * spans.
 */
import { Context, Effect, Logger, Metric, References, Tracer } from "effect"
import { LeaderElection, LeaderElectionConfig, LeaseStore } from "effect-kubernetes-leader-election"
import { LeaseFaults, type MemoryCluster, MemoryLeaseStore } from "effect-kubernetes-leader-election/testing"

export interface LogLine {
  readonly level: string
  readonly text: string
  readonly annotations: Readonly<Record<string, unknown>>
}

export interface Observed {
  /** All lines from Debug on, oldest first. */
  readonly lines: Array<LogLine>
  readonly spans: Array<Tracer.Span>
  /** Context with the collectors in it. */
  readonly context: Context.Context<never>
  /** Current value of a counter or gauge; undefined where the series does not exist. */
  readonly value: (name: string, attributes?: Readonly<Record<string, string>>) => number | undefined
  /** All series that are not 0, as `name{a=b}` to value; histograms give their count. */
  readonly nonZero: () => Record<string, number>
}

const render = (message: unknown): string =>
  Array.isArray(message) ? message.map(render).join(" ") : typeof message === "string" ? message : String(message)

const number = (state: unknown): number => {
  const { count, value } = state as { readonly count?: number; readonly value?: number }
  return Number(count ?? value)
}

export const observe = (): Observed => {
  const lines: Array<LogLine> = []
  const spans: Array<Tracer.Span> = []
  const logger = Logger.make((options) => {
    lines.push({
      level: options.logLevel,
      text: render(options.message),
      annotations: { ...options.fiber.getRef(References.CurrentLogAnnotations) }
    })
  })
  const tracer = Tracer.make({
    span: (options) => {
      const span = new Tracer.NativeSpan(options)
      spans.push(span)
      return span
    }
  })
  const context = Context.empty().pipe(
    Context.add(Metric.MetricRegistry, new Map()),
    Context.add(Logger.CurrentLoggers, new Set([logger])),
    Context.add(References.MinimumLogLevel, "Debug"),
    Context.add(Tracer.Tracer, tracer)
  ) as Context.Context<never>
  const key = (name: string, attributes: Readonly<Record<string, string>> = {}) =>
    `${name}{${Object.keys(attributes).sort().map((key) => `${key}=${attributes[key]}`).join(",")}}`
  const series = () =>
    new Map(Metric.snapshotUnsafe(context).map(({ attributes, id, state }) => [key(id, attributes), number(state)]))
  return {
    lines,
    spans,
    context,
    value: (name, attributes) => series().get(key(name, attributes)),
    nonZero: () => Object.fromEntries([...series()].filter(([, value]) => value !== 0))
  }
}

/** A logger of the program's that throws, whatever it is given. */
export const brokenLogger = Logger.layer([
  Logger.make(() => {
    throw new Error("this logger is broken")
  })
])

export const lease = { namespace: "default", name: "demo" }

/** Attributes of a metric of the election on {@link lease}. */
export const attributes = (more: Readonly<Record<string, string>> = {}) => ({ lease: "default/demo", ...more })

/** A candidate on a cluster in memory, with faults on its way there, and everything that it shows. */
export const candidate = Effect.fnUntraced(function*(
  cluster: MemoryCluster.MemoryCluster["Service"],
  identity: string,
  input: Partial<LeaderElectionConfig.Settings> = {}
) {
  const observed = observe()
  const faults = yield* LeaseFaults.make(yield* MemoryLeaseStore.make(cluster, { name: identity }))
  const election = yield* LeaderElection.make.pipe(
    Effect.provideService(LeaderElectionConfig.LeaderElectionConfig, {
      ...LeaderElectionConfig.defaults,
      ...lease,
      identity,
      pod: undefined,
      ...input
    }),
    // Reads have a span of their own, as those of a client on the network have.
    Effect.provideService(LeaseStore.LeaseStore, {
      ...faults.store,
      get: (key) => Effect.withSpan(faults.store.get(key), "get")
    }),
    Effect.provideContext(observed.context)
  )
  return { observed, faults, election, run: Effect.provideContext(observed.context) }
})
