/**
 * Establishing one connection: the name, the address, TLS.
 *
 * Node tries the addresses of a name one after the other, and leaves each after
 * 250 ms: a far one never gets the time it needs. Here the next address is tried
 * *beside* the one before, and the first whose handshake is complete wins, so
 * that a name is reached whenever one of its addresses answers.
 *
 * @internal
 */
import { lookup, type LookupAddress } from "node:dns"
import { connect, isIP, isIPv6, type Socket } from "node:net"
import { connect as connectTls, createSecureContext, type SecureContext } from "node:tls"

/** TLS settings as text, so that a change is found by comparing. */
export interface Tls {
  /** PEM; without it the CAs that come with Node are trusted. */
  readonly ca?: string | undefined
  readonly cert?: string | undefined
  readonly key?: string | undefined
  /** The name that the server's certificate must have, where it is not the URL's host. */
  readonly servername?: string | undefined
  /** Do not verify the server's certificate. */
  readonly insecure?: boolean | undefined
  /** Where the CA comes from, for messages. */
  readonly trust?: string | undefined
}

/** Whether a connection made with the one is as good as one made with the other. */
export const sameTls = (one: Tls, other: Tls): boolean =>
  one === other || (one.ca === other.ca && one.cert === other.cert && one.key === other.key &&
    one.servername === other.servername && one.insecure === other.insecure && one.trust === other.trust)

/** A way to the server that is not a connection of our own: through a proxy. */
export type Tunnel = (host: string, port: number, signal: AbortSignal) => Promise<Socket>

export interface Target {
  /** As in the URL: an IPv6 address without brackets. */
  readonly host: string
  readonly port: number
  /** Undefined for plain `http`. */
  readonly tls: Tls | undefined
  readonly tunnel?: Tunnel | undefined
}

/** How far a connection has come; `waiting` is before the first step. */
export type Step = "waiting" | "name" | "connection" | "tls"

export interface Dialed {
  readonly socket: Socket
  /** `10.0.0.1:6443` */
  readonly address: string
}

export interface DialError {
  readonly step: Step
  /** Where it came to, if there is one such place. */
  readonly address: string | undefined
  readonly cause: unknown
}

export interface Dialing {
  /** The furthest that it has come, with the address where that was. */
  readonly state: () => { readonly step: Step; readonly address: string | undefined }
  /** Gives up at once; neither callback is called after that. */
  readonly abort: () => void
}

export interface Dialer {
  readonly dial: (onDone: (dialed: Dialed) => void, onFailed: (error: DialError) => void) => Dialing
}

/** How long an address is tried alone. */
const stagger = 300

const steps: ReadonlyArray<Step> = ["waiting", "name", "connection", "tls"]

const addressOf = (host: string, port: number): string => `${isIPv6(host) ? `[${host}]` : host}:${port}`

/** Gives all addresses of a name, in the order in which they are to be tried. */
export type Resolve = (
  host: string,
  onDone: (cause: Error | null, addresses: ReadonlyArray<LookupAddress>) => void
) => void

const resolveByNode: Resolve = (host, onDone) => lookup(host, { all: true, order: "verbatim" }, onDone)

// oxlint-disable-next-line max-lines-per-function -- one dial: its attempts share their outcome
export const makeDialer = (target: Target, resolve: Resolve = resolveByNode): Dialer => {
  // Made once: from the certificates' text it takes as long as the rest of a resumed handshake.
  let secureContext: SecureContext | undefined
  let session: Buffer | undefined

  const open = (address: string, tunnelled: Socket | undefined): Socket => {
    const { host, port, tls } = target
    if (tls === undefined) {
      return tunnelled ??
        connect({ host: address, port, noDelay: true, keepAlive: true, keepAliveInitialDelay: 30_000 })
    }
    secureContext ??= createSecureContext({
      ca: tls.ca,
      cert: tls.cert,
      key: tls.key,
      // The CA that was given may be an intermediate one, as with client-go.
      allowPartialTrustChain: tls.ca !== undefined
    })
    const socket = connectTls({
      ...(tunnelled === undefined ? { host: address, port } : { host, socket: tunnelled }),
      secureContext,
      servername: tls.servername ?? (isIP(host) === 0 ? host : ""),
      ALPNProtocols: ["http/1.1"],
      // Said explicitly, so that NODE_TLS_REJECT_UNAUTHORIZED cannot turn it off.
      rejectUnauthorized: tls.insecure !== true,
      ...(session !== undefined && { session })
    })
    socket.setNoDelay(true)
    socket.setKeepAlive(true, 30_000)
    socket.on("session", (newest) => {
      session = newest
    })
    return socket
  }

  // oxlint-disable-next-line max-lines-per-function -- one dial: its attempts share their outcome
  const dial: Dialer["dial"] = (onDone, onFailed) => {
    const attempts = new Set<Socket>()
    const failures: Array<DialError> = []
    const aborted = new AbortController()
    let furthest: { readonly step: Step; readonly address: string | undefined } = { step: "name", address: undefined }
    let over = false
    let timer: NodeJS.Timeout | undefined

    const reach = (step: Step, address: string | undefined) => {
      if (steps.indexOf(step) > steps.indexOf(furthest.step) || (step === furthest.step && !furthest.address)) {
        furthest = { step, address }
      }
    }

    const end = (winner?: Socket) => {
      over = true
      clearTimeout(timer)
      aborted.abort()
      for (const socket of attempts) {
        if (socket !== winner) {
          socket.destroy()
        }
      }
    }

    const fail = (error: DialError) => {
      if (!over) {
        end()
        session = undefined
        onFailed(error)
      }
    }

    const attempt = (addresses: ReadonlyArray<string>, tunnelled?: Socket): void => {
      const [host, ...others] = addresses
      if (over || host === undefined) {
        return
      }
      clearTimeout(timer)
      const address = addressOf(host, target.port)
      let socket: Socket
      try {
        socket = open(host, tunnelled)
      } catch (cause) {
        // A certificate or key that is not one: the same at every address, and reported as any other failure.
        reach("tls", address)
        queueMicrotask(() => fail({ step: "tls", address, cause }))
        return
      }
      attempts.add(socket)
      let step: Step = "connection"
      reach(step, others.length === 0 && attempts.size === 1 && failures.length === 0 ? address : undefined)
      let failed = false
      const onFailure = (cause: unknown) => {
        if (failed || over) {
          return
        }
        failed = true
        attempts.delete(socket)
        failures.push({ step, address, cause })
        if (others.length > 0) {
          attempt(others)
        } else if (attempts.size === 0) {
          fail(summary(failures))
        }
      }
      // Stays for good: an `error` without a listener would end the process, also while the connection is idle.
      socket.on("error", onFailure)
      socket.once("close", () => onFailure(new Error("the connection was closed")))
      const onReady = () => {
        if (!over && !failed) {
          end(socket)
          onDone({ socket, address })
        }
      }
      if (target.tls !== undefined) {
        const onConnected = () => {
          step = "tls"
          reach(step, address)
        }
        if (tunnelled === undefined) {
          socket.once("connect", onConnected)
        } else {
          onConnected()
        }
        socket.once("secureConnect", onReady)
      } else if (tunnelled === undefined) {
        socket.once("connect", onReady)
      } else {
        queueMicrotask(onReady)
      }
      if (others.length > 0) {
        timer = setTimeout(() => attempt(others), stagger)
      }
    }

    if (target.tunnel !== undefined) {
      reach("connection", undefined)
      target.tunnel(target.host, target.port, aborted.signal).then(
        (socket) => over ? socket.destroy() : attempt([target.host], socket),
        (cause: unknown) => fail({ step: "connection", address: undefined, cause })
      )
    } else if (isIP(target.host) !== 0) {
      attempt([target.host])
    } else {
      resolve(target.host, (cause, addresses) =>
        cause !== null
          ? fail({ step: "name", address: undefined, cause })
          : attempt(alternate(addresses)))
    }
    return { state: () => furthest, abort: () => over || end() }
  }

  return { dial }
}

/** One family after the other, beginning with that of the first address: often a whole family leads nowhere. */
const alternate = (addresses: ReadonlyArray<LookupAddress>): ReadonlyArray<string> => {
  const first = addresses.filter(({ family }) => family === addresses[0]?.family)
  const second = addresses.filter(({ family }) => family !== addresses[0]?.family)
  return first.flatMap((address, index) => [address, ...second.slice(index, index + 1)])
    .concat(second.slice(first.length))
    .map(({ address }) => address)
}

/** Where several addresses failed, that of the one that came furthest, with all causes. */
const summary = (failures: ReadonlyArray<DialError>): DialError => {
  const furthest = failures.reduce((best, failure) =>
    steps.indexOf(failure.step) > steps.indexOf(best.step) ? failure : best
  )
  return failures.length === 1
    ? furthest
    : { ...furthest, cause: new AggregateError(failures.map(({ cause }) => cause)) }
}
