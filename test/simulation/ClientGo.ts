/**
 * A candidate that does as client-go's LeaderElector: polls with jitter, compares the whole record, writes with PUT and
 * the version that it read, counts from answers, creates a missing Lease and takes one without holder at once.
 *
 * It is as safe as it is; what is held to the invariants is what our candidates do beside it.
 */
import type { LeaseRecord } from "../../src/LeaseRecord.ts"
import * as Dice from "./random.ts"
import type { Simulation } from "./Simulation.ts"
import { epoch, key, milli, second } from "./World.ts"

const identity = "client-go"

export class ClientGo {
  leads = false
  private readonly simulation: Simulation
  private readonly dice: Dice.Dice
  private readonly rate: number
  private observed: LeaseRecord | undefined
  private observedAt = 0
  /** Its clock at the last answer that told of success. */
  private renewedAt = 0

  constructor(simulation: Simulation) {
    this.simulation = simulation
    this.dice = Dice.make(simulation.world.seed, "client-go")
    this.rate = 1 + simulation.timing.skew * this.dice.next()
    simulation.fault("client-go takes part")
    simulation.world.after(this.dice.between(0, 30) * second, () => this.turn())
  }

  private get clock(): number {
    return this.simulation.world.now * this.rate
  }

  /** Does something after the delay of a request, or, while there is a storm, now and then not at all. */
  private request(act: () => void): void {
    const { isCalm, world } = this.simulation
    if (isCalm || !this.dice.chance(0.05)) {
      world.after(this.dice.scale(0.5, 50) * milli, act)
    } else {
      world.after(this.simulation.timing.retryPeriod, () => this.again())
    }
  }

  private again(): void {
    const { renewDeadline, retryPeriod } = this.simulation.timing
    const { isCalm } = this.simulation
    if (this.leads && this.clock - this.renewedAt > renewDeadline) {
      this.leads = false
    }
    const roll = this.leads && !isCalm ? this.dice.next() : 1
    if (roll < 0.02) {
      // Its process stalls, or ends without a word and is started again.
      this.leads = false
      this.simulation.world.after(this.dice.scale(0.1, 60) * second, () => this.turn())
    } else if (roll < 0.04) {
      this.release()
    } else {
      this.simulation.world.after(retryPeriod * this.dice.between(1, this.leads ? 1 : 2.2), () => this.turn())
    }
  }

  private release(): void {
    this.leads = false
    const { observed } = this
    this.request(() => {
      if (observed !== undefined) {
        this.write(observed, {
          holderIdentity: "",
          leaseDurationSeconds: 1,
          leaseTransitions: observed.leaseTransitions
        })
      }
      this.simulation.world.after(this.dice.scale(1, 30) * second, () => this.turn())
    })
  }

  private turn(): void {
    const { cluster, timing, world } = this.simulation
    const { observed } = this
    if (this.leads && observed !== undefined) {
      // As it does: the leader writes upon what it has in its cache, and reads only where that is refused.
      const written = this.write(observed, this.spec(observed.leaseTransitions))
      if (written !== undefined) {
        return this.outcome(written)
      }
    }
    this.request(() => {
      const lease = world.sync(cluster.lease(key))
      if (lease === undefined) {
        return this.request(() => {
          const body = { spec: { ...this.spec(0), acquireTime: this.now() } }
          const created = this.simulation.foreign(cluster.createLease(key, body))
          world.note(identity, () => created === undefined ? "could not create" : "created and leads")
          this.outcome(created)
        })
      }
      if (lease.resourceVersion !== this.observed?.resourceVersion || lease.uid !== this.observed.uid) {
        this.observed = lease
        this.observedAt = this.clock
      }
      const mine = lease.holderIdentity === identity
      const duration = (lease.leaseDurationSeconds ?? timing.leaseDuration / second) * second
      if (!mine && lease.holderIdentity !== "" && this.clock < this.observedAt + duration) {
        this.leads = false
        return this.again()
      }
      this.request(() => this.outcome(this.write(lease, this.spec(lease.leaseTransitions + (mine ? 0 : 1)))))
    })
  }

  private now(): string {
    return new Date(epoch + Math.floor(this.simulation.world.now / milli)).toISOString().replace("Z", "000Z")
  }

  private spec(leaseTransitions: number) {
    return {
      holderIdentity: identity,
      leaseDurationSeconds: this.simulation.timing.leaseDuration / second,
      leaseTransitions
    }
  }

  /** A PUT of the whole object as it was read, with this spec. */
  private write(read: LeaseRecord, spec: { readonly [field: string]: unknown }): LeaseRecord | undefined {
    const { cluster, world } = this.simulation
    const written = this.simulation.foreign(
      cluster.putLease(key, {
        metadata: {
          uid: read.uid,
          resourceVersion: read.resourceVersion.toString(),
          annotations: read.annotations,
          ownerReferences: read.ownerReferences
        },
        spec: { ...spec, acquireTime: this.now(), renewTime: this.now() }
      })
    )
    world.note(identity, () => written === undefined ? "conflict" : `wrote v${written.resourceVersion}`)
    return written
  }

  private outcome(written: LeaseRecord | undefined): void {
    if (written !== undefined) {
      this.leads = true
      this.renewedAt = this.clock
      this.observed = written
      this.observedAt = this.clock
      this.simulation.onLeader()
    }
    this.again()
  }
}
