/**
 * The connections to one server: those that are idle, those that are being
 * established, and the requests that wait for one.
 *
 * A request takes an idle connection where there is one, and otherwise the first
 * that there is: its own, one that another request has done with, or one that
 * was being established for a request that has found another. So a handshake
 * that hangs holds up nothing but a connection that is not needed. Node's agent
 * ties each request to the connection that was begun for it.
 *
 * @internal
 */
import type { Socket } from "node:net"
import { type DialError, type Dialer, type Dialing, makeDialer, type Step, type Target } from "./dial.ts"

export interface Connection {
  readonly socket: Socket
  /** `10.0.0.1:6443` */
  readonly address: string
  /** How many requests it has carried. */
  uses: number
  /** When it last gave a sign of life (established, or answered), by `performance.now`. */
  aliveAt: number
  /** How long it may be idle, where the server says that it closes it sooner than usual. */
  idleMillis: number
}

/** A request that waits for its connection. */
export interface Ticket {
  /** How far the connection has come that was begun for it. */
  readonly state: () => { readonly step: Step; readonly address: string | undefined }
  /** Waits no longer. */
  readonly cancel: () => void
}

export interface Connections {
  readonly target: Target
  /** How long a connection may take. */
  readonly limitMillis: number
  /**
   * Calls back with a connection, or with the reason why there is none: at once
   * where an idle one is good enough. Of those that wait, streams come last, and
   * they leave idle connections to requests.
   */
  readonly acquire: (options: {
    /** Only a new one, or one that has given a sign of life within so many milliseconds. */
    readonly aliveWithin: number
    readonly stream: boolean
    readonly onConnection: (connection: Connection) => void
    /** Without a cause: it took longer than the limit for a connection. */
    readonly onFailed: (error: DialError) => void
  }) => Ticket
  /** The connection has answered, and is free for the next request. */
  readonly release: (connection: Connection) => void
  /** Those without a sign of life since this time are not used where a new one can be had. */
  readonly distrust: (since: number) => void
  /** Lets the requests under way finish, and keeps no connection after them. */
  readonly retire: () => void
  readonly destroy: () => void
}

/**
 * Shorter than the idle limits of API servers (90 s) and load balancers (60 s
 * and more): the side that closes first cannot be surprised by a request.
 */
const idleLimit = 30_000

/** More than that are closed instead of being kept. */
const maxIdle = 256

/**
 * Streams keep a connection for minutes, so they bring their own: they take an
 * idle one only where more than these are left for requests. Otherwise a watch
 * that is opened again would cost a renewal its warm connection, and many of
 * them all that there are while no new one can be had.
 */
const reserve = 16

/**
 * How many are established at a time. A thousand elections that begin at once
 * would open a thousand: all handshakes would take longer than the time limit of
 * the requests that they are for, and each that fails makes room for the next.
 */
const handshakes = 16

/**
 * How many milliseconds longer than the fastest a handshake may take. One that
 * takes longer says that the server, or this machine, is busy: then a few
 * connections carry as many requests as many would, and a handshake takes the
 * time of several. So half as many are established at a time from then on, down
 * to one, until they are fast again. A server that is far, or lets requests wait,
 * gets as many as before.
 */
const busyAfter = 20

/**
 * A handshake that takes longer, while no other is completed, is not counted any
 * more, for what it waits for is not this machine: the next one begins, and its
 * request takes an idle connection as well, even one that it had reason to
 * avoid.
 */
const slowAfter = 500

/** After a stall of the process timers come first: what has arrived meanwhile is to be handled before they count. */
const afterEvents = (millis: number, callback: () => void): NodeJS.Timeout =>
  setTimeout(() => setImmediate(callback), millis)

interface Waiter {
  readonly stream: boolean
  readonly onConnection: (connection: Connection) => void
  readonly onFailed: (error: DialError) => void
  attempt: Attempt | undefined
}

interface Attempt {
  readonly begunAt: number
  dialing: Dialing | undefined
  waiter: Waiter | undefined
  young: boolean
  /** Its waiter came when it had begun: it gets another one where this turns out to be slow. */
  adopted: boolean
  slowTimer: NodeJS.Timeout | undefined
  limitTimer: NodeJS.Timeout | undefined
}

// oxlint-disable-next-line max-lines-per-function -- one pool: its functions share the connections
export const make = (target: Target, limitMillis: number, dialer: Dialer = makeDialer(target)): Connections => {
  const all = new Set<Connection>()
  const idle: Array<Connection> = []
  const attempts = new Set<Attempt>()
  // Each in the order of arrival; a thousand may wait, so that nothing may be done for each of them.
  const waiting = { requests: new Set<Waiter>(), streams: new Set<Waiter>() }
  let young = 0
  let distrusted = -Infinity
  let completedAt = -Infinity
  let answeredAt = -Infinity
  /** How many may be established at a time. */
  let allowed = handshakes
  /** Milliseconds that a handshake took, since the last time that there was no connection: the way may be another now. */
  let fastest = Infinity
  let retired = false

  const isUsable = ({ socket }: Connection) => !socket.destroyed && socket.writable

  /** The one that was used last: it is the least likely to be closed by the other side. */
  const takeIdle = (since: number, stream: boolean): Connection | undefined => {
    if (stream && idle.length <= reserve) {
      return undefined
    }
    for (let index = idle.length - 1; index >= 0; index--) {
      const connection = idle[index]!
      if (connection.aliveAt > since && isUsable(connection)) {
        idle.splice(index, 1)
        connection.socket.setTimeout(0)
        connection.socket.ref()
        return connection
      }
    }
    return undefined
  }

  const queueOf = ({ stream }: Waiter) => stream ? waiting.streams : waiting.requests

  const remove = (waiter: Waiter): boolean => queueOf(waiter).delete(waiter)

  /** The first to be served that is so: requests before streams. */
  const first = (is: (waiter: Waiter) => boolean): Waiter | undefined => {
    for (const queue of [waiting.requests, waiting.streams]) {
      for (const waiter of queue) {
        if (is(waiter)) {
          return waiter
        }
      }
    }
    return undefined
  }

  const firstWithoutAttempt = () => first(({ attempt }) => attempt === undefined)

  const serve = (waiter: Waiter, connection: Connection) => {
    remove(waiter)
    const { attempt } = waiter
    if (attempt !== undefined) {
      waiter.attempt = undefined
      attempt.waiter = undefined
      // What was begun for it goes on for the next that waits.
      const next = firstWithoutAttempt()
      if (next !== undefined && attempts.has(attempt)) {
        next.attempt = attempt
        attempt.waiter = next
      }
    }
    waiter.onConnection(connection)
  }

  const offer = (connection: Connection, isNew: boolean) => {
    const waiter = first(({ stream }) => isNew || !stream || idle.length >= reserve)
    if (waiter !== undefined) {
      serve(waiter, connection)
    } else if (retired || idle.length >= maxIdle || !isUsable(connection)) {
      connection.socket.destroy()
    } else {
      idle.push(connection)
      connection.socket.setTimeout(connection.idleMillis)
      connection.socket.unref()
    }
  }

  const forget = (attempt: Attempt) => {
    if (attempts.delete(attempt)) {
      clearTimeout(attempt.slowTimer)
      clearTimeout(attempt.limitTimer)
      young -= attempt.young ? 1 : 0
    }
  }

  const begin = (waiter: Waiter) => {
    const orphan = [...attempts].find((attempt) => attempt.waiter === undefined && (attempt.young || isProgressing()))
    if (orphan !== undefined) {
      orphan.waiter = waiter
      orphan.adopted = true
      waiter.attempt = orphan
      if (!orphan.young) {
        orphan.young = true
        young++
        watchSlow(orphan)
      }
      return
    }
    const attempt: Attempt = {
      begunAt: performance.now(),
      dialing: undefined,
      waiter,
      young: true,
      adopted: false,
      slowTimer: undefined,
      limitTimer: undefined
    }
    waiter.attempt = attempt
    attempts.add(attempt)
    young++
    watchSlow(attempt)
    attempt.limitTimer = afterEvents(limitMillis, () => {
      if (!attempts.has(attempt)) {
        return
      }
      const state = attempt.dialing?.state() ?? { step: "waiting", address: undefined }
      attempt.dialing?.abort()
      onFailed(attempt, { ...state, cause: undefined })
    })
    attempt.dialing = dialer.dial(
      ({ address, socket }) => {
        forget(attempt)
        completedAt = performance.now()
        adjust(completedAt - attempt.begunAt)
        const connection: Connection = { socket, address, uses: 0, aliveAt: completedAt, idleMillis: idleLimit }
        all.add(connection)
        socket.once("close", () => {
          all.delete(connection)
          const index = idle.indexOf(connection)
          if (index >= 0) {
            idle.splice(index, 1)
          }
        })
        socket.on("timeout", () => {
          if (idle.includes(connection)) {
            socket.destroy()
          }
        })
        const { waiter } = attempt
        if (waiter !== undefined) {
          waiter.attempt = undefined
          attempt.waiter = undefined
        }
        offer(connection, true)
        pump()
      },
      (error) => onFailed(attempt, error)
    )
  }

  const onFailed = (attempt: Attempt, error: DialError) => {
    forget(attempt)
    const { waiter } = attempt
    if (waiter !== undefined) {
      waiter.attempt = undefined
      attempt.waiter = undefined
      const other = takeIdle(-Infinity, waiter.stream)
      if (other !== undefined) {
        serve(waiter, other)
      } else {
        remove(waiter)
        waiter.onFailed(error)
      }
    }
    pump()
  }

  /** One more at a time after a fast handshake, half as many after a slow one. */
  const adjust = (handshakeMillis: number) => {
    fastest = all.size === 0 ? handshakeMillis : Math.min(fastest, handshakeMillis)
    allowed = handshakeMillis > fastest + busyAfter ? Math.max(1, allowed >> 1) : Math.min(handshakes, allowed + 1)
  }

  const isProgressing = () => performance.now() - completedAt < slowAfter

  const watchSlow = (attempt: Attempt) => {
    attempt.slowTimer = afterEvents(slowAfter, () => {
      if (!attempts.has(attempt) || !attempt.young) {
        return
      }
      if (isProgressing()) {
        watchSlow(attempt)
      } else {
        onSlow(attempt)
      }
    })
  }

  const onSlow = (attempt: Attempt) => {
    attempt.young = false
    young--
    // Nothing is answered either: that is not a server that is busy with requests.
    if (performance.now() - answeredAt > slowAfter) {
      allowed = handshakes
    }
    const { waiter } = attempt
    if (waiter !== undefined) {
      if (attempt.adopted) {
        waiter.attempt = undefined
        attempt.waiter = undefined
      }
      const other = takeIdle(-Infinity, waiter.stream)
      if (other !== undefined) {
        serve(waiter, other)
      }
    }
    pump()
  }

  /** Begins as many connections as there are requests without one, as far as that is allowed. */
  const pump = () => {
    for (let waiter = firstWithoutAttempt(); waiter !== undefined; waiter = firstWithoutAttempt()) {
      if (young >= allowed) {
        return
      }
      begin(waiter)
    }
  }

  return {
    target,
    limitMillis,
    distrust: (since) => {
      distrusted = Math.max(distrusted, since)
    },
    acquire: ({ aliveWithin, onConnection, onFailed, stream }) => {
      const existing = takeIdle(Math.max(distrusted, performance.now() - aliveWithin), stream)
      if (existing !== undefined) {
        onConnection(existing)
        return { state: () => ({ step: "waiting", address: existing.address }), cancel: () => {} }
      }
      const waiter: Waiter = { stream, onConnection, onFailed, attempt: undefined }
      queueOf(waiter).add(waiter)
      pump()
      return {
        state: () => waiter.attempt?.dialing?.state() ?? { step: "waiting", address: undefined },
        cancel: () => {
          if (!remove(waiter)) {
            return
          }
          const { attempt } = waiter
          if (attempt !== undefined) {
            // Another that waits goes on with it; without one, nobody needs it.
            const next = firstWithoutAttempt()
            attempt.waiter = next
            if (next !== undefined) {
              next.attempt = attempt
            } else {
              attempt.dialing?.abort()
              forget(attempt)
            }
          }
          pump()
        }
      }
    },
    release: (connection) => {
      answeredAt = performance.now()
      connection.aliveAt = answeredAt
      offer(connection, false)
    },
    retire: () => {
      retired = true
      for (const { socket } of idle) {
        socket.destroy()
      }
    },
    destroy: () => {
      retired = true
      for (const attempt of attempts) {
        attempt.dialing?.abort()
        forget(attempt)
      }
      for (const { socket } of all) {
        socket.destroy()
      }
      for (const waiter of [...waiting.requests, ...waiting.streams]) {
        remove(waiter)
        waiter.onFailed({ step: "waiting", address: undefined, cause: new Error("the client was closed") })
      }
    }
  }
}
