/**
 * The proxy on the way to a server: which one, by the rules of Go's `httpproxy`, and how to go through it.
 *
 * The agents are packages of their own, loaded only where there is a proxy.
 *
 * @internal
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import { EventEmitter } from "node:events"
import { BlockList, isIP, type Socket } from "node:net"
import type { KubernetesConfigError } from "../KubernetesError.ts"
import type { Tunnel } from "./dial.ts"
import { isLoopback } from "./loopback.ts"
import { type Load, optionalPackage } from "./optionalPackage.ts"

/** The variables that say which proxy is used; lower case goes first. */
export const variables = ["https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"] as const

export type Environment = Readonly<Partial<Record<typeof variables[number], string | undefined>>>

const schemes = new Set(["http:", "https:", "socks5:"])

const parse = (text: string): URL | undefined => Option.getOrUndefined(Option.liftThrowable(() => new URL(text))())

/** The `proxy-url` of a cluster; `undefined` where it is not one. */
export const parseProxyUrl = (text: string): URL | undefined => {
  const url = parse(text)
  return url !== undefined && schemes.has(url.protocol) && url.host !== "" ? url : undefined
}

/** A variable may leave out the scheme. */
const parseVariable = (text: string): URL | undefined => {
  const url = parse(text)
  return url === undefined || url.host === "" ? parse(`http://${text}`) : url
}

/** The proxy that the variables name for this server, if any. Fails with the variable whose value cannot be used. */
export const fromEnvironment = (server: URL, environment: Environment): Result.Result<URL | undefined, string> => {
  const names = server.protocol === "https:"
    ? ["https_proxy", "HTTPS_PROXY"] as const
    : ["http_proxy", "HTTP_PROXY"] as const
  const name = names.find((name) => environment[name])
  if (name === undefined || isExempt(server, environment.no_proxy || environment.NO_PROXY || "")) {
    return Result.succeed(undefined)
  }
  const url = parseVariable(environment[name] ?? "")
  return url === undefined || !schemes.has(url.protocol)
    ? Result.fail(`${name} is not the URL of a proxy with http, https or socks5`)
    : Result.succeed(url)
}

const defaultPort = (url: URL): string => url.port || (url.protocol === "https:" ? "443" : "80")

const isExempt = (server: URL, noProxy: string): boolean => {
  const host = server.hostname.replace(/^\[|\]$/g, "").toLowerCase()
  return isLoopback(server.hostname) ||
    noProxy.split(",").some((rule) => matches(rule.trim().toLowerCase(), host, server))
}

const matches = (rule: string, host: string, server: URL): boolean => {
  if (rule === "") {
    return false
  }
  if (rule === "*") {
    return true
  }
  const family = isIP(host)
  const network = /^(.+)\/(\d+)$/.exec(rule)
  if (network !== null && isIP(network[1] ?? "") !== 0) {
    return family !== 0 && isWithin(host, family, network[1] ?? "", Number(network[2]))
  }
  const [name, port] = splitPort(rule)
  if (name === "" || (port !== undefined && port !== defaultPort(server))) {
    return false
  }
  if (isIP(name) !== 0 || family !== 0) {
    return isIP(name) !== 0 && family !== 0 && isWithin(host, family, name, isIP(name) === 4 ? 32 : 128)
  }
  const suffix = name.replace(/^\*(?=\.)/, "")
  return suffix.startsWith(".") ? host.endsWith(suffix) : host === suffix || host.endsWith(`.${suffix}`)
}

const splitPort = (rule: string): readonly [string, string | undefined] => {
  if (isIP(rule) !== 0) {
    return [rule, undefined]
  }
  const [, inBrackets, plain, port] = /^(?:\[(.*)\]|([^:]*)):([^:]*)$/.exec(rule) ?? []
  return port === undefined ? [rule.replace(/^\[(.*)\]$/, "$1"), undefined] : [inBrackets ?? plain ?? "", port]
}

const isWithin = (host: string, family: number, network: string, prefix: number): boolean => {
  const list = new BlockList()
  try {
    list.addSubnet(network, prefix, isIP(network) === 4 ? "ipv4" : "ipv6")
  } catch {
    return false
  }
  return list.check(host, family === 4 ? "ipv4" : "ipv6")
}

interface ProxyAgent {
  connect(
    request: unknown,
    options: { readonly host: string; readonly port: number; readonly secureEndpoint: false }
  ): Promise<Socket>
}

interface Agents {
  readonly HttpsProxyAgent: new(proxy: string, options: { readonly signal: AbortSignal }) => ProxyAgent
  readonly SocksProxyAgent: new(
    proxy: string,
    options: { readonly socketOptions: { readonly signal: AbortSignal } }
  ) => ProxyAgent
}

/** The way through this proxy. Loads the package that knows it. */
export const tunnel = (proxy: URL, load: Load): Effect.Effect<Tunnel, KubernetesConfigError> => {
  const socks = proxy.protocol === "socks5:"
  const name = socks ? "socks-proxy-agent" : "https-proxy-agent"
  return Effect.map(
    optionalPackage<Agents>(load, name, `the proxy ${proxy.protocol}//${proxy.host}`),
    (agents): Tunnel => (host, port, signal) => {
      // The socket is bound to a signal of its own: the caller's is aborted later too, when this connection is in use.
      const connecting = new AbortController()
      const abort = () => connecting.abort()
      signal.addEventListener("abort", abort, { once: true })
      const agent = socks
        // The proxy resolves the names, as with Go.
        ? new agents.SocksProxyAgent(proxy.href.replace(/^socks5:/, "socks5h:"), {
          socketOptions: { signal: connecting.signal }
        })
        : new agents.HttpsProxyAgent(proxy.href, { signal: connecting.signal })
      let refusal: string | undefined
      const request = new EventEmitter().on("proxyConnect", ({ statusCode }: { readonly statusCode: number }) => {
        refusal = statusCode === 200 ? undefined : `the proxy answered with ${statusCode}`
      })
      return agent.connect(request, { host, port, secureEndpoint: false })
        .then((socket) => {
          // An error before the next owner listens would end the process.
          socket.on("error", () => {})
          if (refusal !== undefined) {
            socket.destroy()
            throw new Error(refusal)
          }
          return socket
        })
        .finally(() => signal.removeEventListener("abort", abort))
    }
  )
}
