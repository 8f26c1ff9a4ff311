/**
 * The faults: what each does to a team, once. It is over when the promise is fulfilled; what it broke is whole again
 * then.
 */
import { existsSync } from "node:fs"
import { rename, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { type Lease, leaseRules } from "../cluster/utils/ApiClient.ts"
import { serviceUnavailable, tooManyRequests } from "../cluster/utils/HttpFaultProxy.ts"
import { pause, type Team } from "./Team.ts"

export interface Fault {
  readonly name: string
  readonly inject: (team: Team, round: number) => Promise<void>
  /** Needs an HTTP proxy that can answer by itself. */
  readonly http?: boolean
  /** The processes themselves stand still: their programs cannot end in time, and need not. */
  readonly stalls?: boolean
  /** Their monotonic clocks cannot be compared. */
  readonly monotonic?: false
  readonly environment?: (directory: string, index: number) => Record<string, string>
  /** Why it cannot be tried here. */
  readonly missing?: () => string | undefined
  /** What the leader's program is held to: it has ended this long after its leadership at the latest, in milliseconds. */
  readonly endsWithin?: number
}

const lease = (team: Team) => team.options.leaseSeconds * 1000

const key = (team: Team) => [team.namespace, team.options.name] as const

const faketime = [
  "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
  "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1"
]
  .find(existsSync)

const missingFaketime = () =>
  faketime === undefined ? "libfaketime is not installed (Debian's package faketime)" : undefined

/** Cuts the leader off in one way, for three lease durations. */
const cutOff = (mode: "stall" | "refuse") => async (team: Team) => {
  const leader = await team.holder()
  await leader?.proxy?.set(mode)
  await pause(3 * lease(team))
  await leader?.proxy?.set("pass")
}

const answered = (team: Team, rule: NonNullable<Team["http"]>["rule"], millis: number) => {
  team.http!.rule = rule
  return pause(millis).finally(() => (team.http!.rule = () => undefined))
}

const edits: ReadonlyArray<(team: Team) => Promise<unknown>> = [
  (team) => team.options.cluster.admin.patchLease(...key(team), { metadata: { labels: { edited: "yes" } } }),
  // Emptied in place, as a deployment tool does it.
  (team) =>
    team.options.cluster.admin.patchLease(...key(team), {
      metadata: { annotations: null },
      spec: { holderIdentity: null, leaseDurationSeconds: null, renewTime: null, acquireTime: null }
    }),
  (team) => team.options.cluster.admin.patchLease(...key(team), { spec: { leaseDurationSeconds: 1 } }),
  (team) =>
    team.options.cluster.admin.patchLease(...key(team), {
      spec: { holderIdentity: "an-intruder", leaseDurationSeconds: team.options.leaseSeconds }
    }),
  (team) => team.options.cluster.admin.deleteLease(...key(team))
]

/** What each candidate's Lease looked like when it led, as a backup has it. */
const backups = new WeakMap<Team, Map<string, Lease>>()

/** Names the other candidate in the Lease of a leader, with and without its instance, or puts its last record back. */
const nameTheOther = async (team: Team, round: number): Promise<void> => {
  const { admin } = team.options.cluster
  const [namespace, name] = key(team)
  const lease = await admin.getLease(namespace, name)
  const known = backups.get(team) ?? new Map<string, Lease>()
  backups.set(team, known)
  const holder = lease?.spec.holderIdentity
  const other = team.members.find(({ identity }) => identity !== holder)
  if (lease === undefined || holder === undefined || holder === null || other === undefined) {
    return
  }
  known.set(holder, lease)
  const its = known.get(other.identity)
  const { annotations } = its?.metadata ?? {}
  if (round % 3 === 0 || its === undefined) {
    await admin.patchLease(namespace, name, { spec: { holderIdentity: other.identity } })
  } else if (round % 3 === 1) {
    await admin.patchLease(namespace, name, { metadata: { annotations }, spec: { holderIdentity: other.identity } })
  } else {
    const { resourceVersion } = lease.metadata
    const metadata = { name, resourceVersion, ...(annotations !== undefined && { annotations }) }
    await admin.putLease(namespace, { metadata, spec: its.spec })
  }
}

/** What the guard says first. */
const killed = "its event loop is blocked although the term on"

export const faults: ReadonlyArray<Fault> = [
  {
    name: "kill -9 of the leader",
    inject: async (team) => {
      const leader = await team.holder()
      leader?.process.signal("SIGKILL")
      await pause(1.5 * lease(team))
      leader?.start()
    }
  },
  {
    name: "leader stopped (SIGSTOP) for longer than the lease",
    stalls: true,
    inject: async (team) => {
      const leader = await team.holder()
      leader?.process.signal("SIGSTOP")
      await pause(1.5 * lease(team))
      leader?.process.signal("SIGCONT")
    }
  },
  {
    name: "leader's event loop blocked for longer than the lease",
    stalls: true,
    inject: async (team) => {
      const leader = await team.holder()
      leader?.process.signal("SIGUSR2")
      await pause(1.6 * lease(team))
    }
  },
  {
    name: "leader's event loop blocked for longer than the lease, with TermGuard",
    environment: () => ({ GUARD: "yes" }),
    // With CPU to spare it is less than 100; among all the other faults this process notices an exit late.
    endsWithin: 300,
    inject: async (team) => {
      const leader = await team.holder()
      const run = leader?.process
      run?.signal("SIGUSR2")
      const exit = await Promise.race([run?.exit, pause(1.6 * lease(team))])
      const blocking = run?.values.findLast(({ event }) => event === "blocking")
      if (leader === undefined || run === undefined || exit === undefined || blocking?.validUntil === undefined) {
        // Not killed: how long it went on is in its own lines.
        return
      }
      const monotonicOffset = Number(process.hrtime.bigint()) / 1e6 - performance.now()
      leader.overruns.push(exit.at - performance.timeOrigin + monotonicOffset - blocking.validUntil)
      // Its stderr may be read later than its stdout.
      for (let waited = 0; waited < 1000 && !run.stderr.includes(killed); waited += 20) {
        await pause(20)
      }
      if (exit.signal !== "SIGKILL" || !run.stderr.includes(killed)) {
        throw new Error(`${run.name} ended with ${exit.signal ?? exit.code}, and not by its guard:\n${run.stderr}`)
      }
      leader.start()
    }
  },
  {
    name: "leader stopped (SIGSTOP) for longer than the lease, with nothing but Fence",
    environment: () => ({ FENCE: "yes" }),
    stalls: true,
    inject: async (team) => {
      const leader = await team.holder()
      leader?.process.signal("SIGSTOP")
      await pause(1.5 * lease(team))
      leader?.process.signal("SIGCONT")
    }
  },
  { name: "leader's connections stall", endsWithin: 200, inject: cutOff("stall") },
  { name: "leader's connections refused", endsWithin: 200, inject: cutOff("refuse") },
  {
    name: "slow API server (0.3 s each way)",
    inject: async (team) => {
      team.members.forEach((member) => member.proxy?.setDelay(300))
      await pause(2 * lease(team))
      team.members.forEach((member) => member.proxy?.setDelay(0))
    }
  },
  {
    name: "429 for everything, with Retry-After",
    http: true,
    inject: (team, round) => answered(team, () => tooManyRequests(round % 2 === 0 ? 1 : 30), 0.5 * lease(team))
  },
  {
    name: "503 for everything, for longer than the lease",
    http: true,
    inject: (team) => answered(team, () => serviceUnavailable(), 1.5 * lease(team))
  },
  {
    name: "watch cut every second, and the leader killed",
    http: true,
    inject: async (team) => {
      team.http!.rule = ({ watch }) => watch ? { cutAfter: 1000 } : undefined
      const leader = await team.holder()
      leader?.process.signal("SIGKILL")
      await pause(1.5 * lease(team))
      leader?.start()
    }
  },
  {
    name: "tokens replaced by one that is not accepted",
    inject: async (team) => {
      const token = await team.options.cluster.admin.createToken(team.namespace, "candidate")
      await team.writeTokens("not-a-token")
      await pause(1.5 * lease(team))
      await team.writeTokens(token)
    }
  },
  {
    name: "rights revoked for longer than renewDeadline",
    inject: async (team) => {
      const { admin } = team.options.cluster
      await admin.putRole(team.namespace, "candidate", [])
      // A candidate gives up after a minute.
      await pause(1.5 * lease(team))
      await admin.putRole(team.namespace, "candidate", leaseRules(team.options.name))
    }
  },
  {
    name: "Lease edited, emptied, taken, deleted by others",
    inject: async (team, round) => {
      await edits[round % edits.length]!(team).catch(() => {})
      await pause(lease(team))
    }
  },
  {
    name: "another candidate named in the Lease, or its last record put back, mostly behind a cut connection",
    inject: async (team, round) => {
      const leader = await team.holder()
      if (round % 4 !== 3) {
        await leader?.proxy?.set(round % 2 === 0 ? "stall" : "refuse")
      }
      await nameTheOther(team, round).catch(() => {})
      await pause(1.5 * lease(team))
      await leader?.proxy?.set("pass")
    }
  },
  {
    name: "wall clocks stepped by an hour, forth and back",
    missing: missingFaketime,
    environment: (directory) => ({
      LD_PRELOAD: faketime!,
      FAKETIME_TIMESTAMP_FILE: join(directory, "faketime"),
      FAKETIME_NO_CACHE: "1",
      FAKETIME_DONT_FAKE_MONOTONIC: "1"
    }),
    inject: async (team, round) => {
      for (const [index, member] of team.members.entries()) {
        // Replaced in one step: a file that is half written would be read.
        const file = join(member.directory, "faketime")
        await writeFile(`${file}.new`, (index + round) % 2 === 0 ? "+3600" : "-3600")
        await rename(`${file}.new`, file)
      }
      await pause(lease(team))
    }
  },
  {
    name: "one clock runs 1.3 times as fast",
    missing: missingFaketime,
    monotonic: false,
    environment: (_, index): Record<string, string> =>
      index === 0 ? { LD_PRELOAD: faketime!, FAKETIME: "+0 x1.3", FAKETIME_NO_CACHE: "1" } : {},
    inject: async (team) => {
      const leader = await team.holder()
      leader?.process.signal("SIGKILL")
      await pause(1.5 * lease(team))
      leader?.start()
    }
  }
]

/** What happens to the whole cluster. */
export const clusterFaults: ReadonlyArray<Fault> = [
  {
    name: "API server killed and started again",
    inject: async (team) => {
      await team.options.cluster.stopApiServer()
      await pause(0.5 * lease(team))
      await team.options.cluster.startApiServer()
      await pause(lease(team))
    }
  },
  {
    name: "etcd frozen for longer than the lease",
    inject: async (team) => {
      team.options.cluster.freezeEtcd()
      await pause(1.5 * lease(team))
      team.options.cluster.thawEtcd()
      await pause(1.5 * lease(team))
    }
  }
]
