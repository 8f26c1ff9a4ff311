/**
 * What a member gives to others: what is under way, and what came back.
 *
 * @internal
 */
import * as Rule from "../protocol/shards.ts"

// A shard whose program takes its time to end counts as being given up until it has.
const forever = 2n ** 63n

export interface Options {
  /** Nanoseconds, as all times here. */
  readonly leaseDuration: bigint
  readonly retryPeriod: bigint
}

/** Mutable, and without effects: the time is given with each question. */
export class Giving {
  private readonly options: Options
  /** Until when a shard counts as being given up. */
  private readonly until = new Map<string, bigint>()
  private count = 0
  private returnedAt = 0n

  constructor(options: Options) {
    this.options = options
  }

  /** The shards that are being given up, or were and have no new leader yet. */
  get shards(): ReadonlySet<string> {
    return new Set(this.until.keys())
  }

  /** The end of its program has begun. */
  begin(shard: string): void {
    this.until.set(shard, forever)
  }

  /** It is released, and left to others for a while. */
  released(shard: string, now: bigint): void {
    this.until.set(shard, now + Rule.standBack(this.options.retryPeriod))
  }

  /** How long a shard is left to others yet. */
  restOf(shard: string, now: bigint): bigint {
    const until = this.until.get(shard) ?? now
    return until > now ? until - now : 0n
  }

  /**
   * Forgets what has come to its end. `wentTo` says who took a shard: nobody, one
   * who has too many already (then it comes back, too), or one that it was for; or
   * that it is none any more.
   */
  settle(now: bigint, changedAt: bigint, wentTo: (shard: string) => "nobody" | "another" | "receiver" | "gone"): void {
    for (const [shard, until] of this.until) {
      const taker = wentTo(shard)
      if (until <= now || taker !== "nobody") {
        this.until.delete(shard)
        if (taker === "receiver") {
          this.count = 0
        } else if (taker !== "gone") {
          this.cameBack(now, changedAt)
        }
      }
    }
  }

  /** Nobody took what was given, or not the one that it was for. */
  cameBack(now: bigint, changedAt: bigint): void {
    const { count, since } = this.returns(now, changedAt)
    // Those that were given together come back together.
    this.count = since >= Rule.returnTime(count, this.options.leaseDuration) ? count + 1 : count
    this.returnedAt = now
  }

  /** What came back since the members last changed. */
  returns(now: bigint, changedAt: bigint): Rule.Returns {
    return this.returnedAt < changedAt ? Rule.noReturns : { count: this.count, since: now - this.returnedAt }
  }

  /** The moments at which something follows from the time alone. */
  get timers(): ReadonlyArray<bigint> {
    return [...this.until.values(), this.returnedAt + Rule.returnTime(this.count, this.options.leaseDuration)]
  }
}
