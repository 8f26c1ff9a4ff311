/**
 * What to say where no answer came: how far it got, where that was, and what to
 * look at. Nothing was sent before the connection was complete, so until then
 * the outcome of a write is known.
 *
 * @internal
 */
import * as Duration from "effect/Duration"
import * as Predicate from "effect/Predicate"
import { format } from "../../internal/duration.ts"
import { KubernetesConnectionError, KubernetesTimeoutError } from "../KubernetesError.ts"
import type { Connections } from "./connections.ts"
import type { DialError, Step, Target, Tls } from "./dial.ts"
import { outcomeUnknown, type Progress } from "./progress.ts"

const schemeOf = (target: Target): string => target.tls === undefined ? "http" : "https"

/** The server as in its URL, with the address that it stands for where it has another name. */
const place = (target: Target, address: string | undefined): string => {
  const host = target.host.includes(":") ? `[${target.host}]` : target.host
  const named = `${schemeOf(target)}://${host}:${target.port}`
  return address === undefined || address === `${host}:${target.port}` ? named : `${named} (${address})`
}

/** There was no connection. */
export const notConnected = (
  { limitMillis, target }: Connections,
  { address, cause, step }: DialError,
  progress: Progress
): KubernetesConnectionError | KubernetesTimeoutError => {
  if (cause === undefined) {
    return new KubernetesTimeoutError({
      phase: phaseOf(step),
      message: tooSlow(target, step, address, Duration.millis(limitMillis)),
      outcomeUnknown: false
    })
  }
  progress.phase = phaseOf(step)
  const code = codeOf(cause)
  return new KubernetesConnectionError({
    message: explain(target, step, address, code, errorText(cause)),
    ...(code !== undefined && { code }),
    outcomeUnknown: false,
    cause
  })
}

const explain = (
  target: Target,
  step: Step,
  address: string | undefined,
  code: string | undefined,
  text: string
): string => {
  const where = place(target, address)
  if (code !== undefined && untrusted.has(code) && target.tls !== undefined) {
    return `the certificate of ${where} is not trusted (${code}); it must be signed by ${trustOf(target.tls)}`
  }
  if (code === "ERR_TLS_CERT_ALTNAME_INVALID") {
    return `the certificate of ${where} is for another name: ${text}`
  }
  switch (step) {
    case "name":
      return `no connection to ${where}: the name ${target.host} could not be resolved (${text})`
    case "tls":
      return isNotTls(code, text)
        ? `no connection to ${where}: what listens there does not speak TLS (${text}); is the URL right, and its port?`
        : `no connection to ${where}: the TLS handshake failed (${text})`
    default:
      return target.tunnel !== undefined
        ? `no connection to ${where} through the proxy: ${text}`
        : code === "ECONNREFUSED"
        ? `no connection to ${where}: nothing listens there (${text})`
        : `no connection to ${where}: ${text}`
  }
}

const trustOf = (tls: Tls): string =>
  tls.trust ?? (tls.ca !== undefined
    ? "the CA that was given"
    : "a CA that Node knows. For a CA of the system or of a company, name it in the kubeconfig " +
      "(certificate-authority), or start Node with NODE_EXTRA_CA_CERTS or --use-system-ca")

const isNotTls = (code: string | undefined, text: string): boolean =>
  code === "ERR_SSL_WRONG_VERSION_NUMBER" || code === "ERR_SSL_PACKET_LENGTH_TOO_LONG" ||
  /wrong version number|packet length too long|record layer failure/i.test(text)

/** The connection broke, or what came was not HTTP. */
export const broken = (target: Target, progress: Progress, cause: unknown): KubernetesConnectionError => {
  const code = codeOf(cause)
  const text = errorText(cause)
  const where = place(target, progress.address)
  return new KubernetesConnectionError({
    message: !progress.sent
      ? `the request to ${where} could not be sent: ${text}`
      : code?.startsWith("HPE_") === true && progress.status === undefined
      ? `what answers at ${where} does not speak HTTP (${text}); is the URL right, and its port?`
      : progress.status === undefined
      ? `the connection to ${where} broke before the answer: ${text}`
      : `the connection to ${where} broke within the answer: ${text}`,
    ...(code !== undefined && { code }),
    outcomeUnknown: outcomeUnknown(progress),
    cause
  })
}

/** The time of the request is up. */
export const timedOut = (
  target: Target | undefined,
  server: string,
  progress: Progress,
  limit: Duration.Duration
): KubernetesTimeoutError => {
  if (progress.phase !== "credentials" && !progress.sent && target !== undefined) {
    const { address, step } = progress.ticket?.state() ?? { step: "waiting", address: undefined }
    return new KubernetesTimeoutError({
      phase: phaseOf(step),
      message: tooSlow(target, step, address, limit),
      outcomeUnknown: false
    })
  }
  const where = target === undefined ? server : place(target, progress.address)
  return new KubernetesTimeoutError({
    phase: progress.phase,
    message: progress.phase === "credentials"
      ? `the credentials were not there within ${format(limit)}`
      : progress.phase === "body"
      ? `the answer from ${where} was not complete within ${format(limit)}`
      : `no answer from ${where} within ${format(limit)}, though the request was sent`,
    outcomeUnknown: outcomeUnknown(progress)
  })
}

const phaseOf = (step: Step): KubernetesTimeoutError["phase"] => step === "waiting" ? "connection" : step

const tooSlow = (
  target: Target,
  step: Step,
  address: string | undefined,
  limit: Duration.Duration
): string => {
  const where = place(target, address)
  const within = `within ${format(limit)}`
  switch (step) {
    case "waiting":
      return `no connection to ${where} ${within}: others were still being established`
    case "name":
      return `no connection to ${where} ${within}: the name ${target.host} was not resolved`
    case "tls":
      return `no connection to ${where} ${within}: it was accepted, but the TLS handshake was not answered`
    case "connection":
      return target.tunnel !== undefined
        ? `no connection to ${where} through the proxy ${within}`
        : `no connection to ${where} ${within}: nothing answers at this address; is a firewall, a proxy or a VPN between?`
  }
}

const untrusted = new Set([
  "CERT_SIGNATURE_FAILURE",
  "CERT_UNTRUSTED",
  "DEPTH_ZERO_SELF_SIGNED_CERT",
  "SELF_SIGNED_CERT_IN_CHAIN",
  "UNABLE_TO_GET_ISSUER_CERT",
  "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
  "UNABLE_TO_VERIFY_LEAF_SIGNATURE"
])

// That of the first, where several addresses failed.
const codeOf = (cause: unknown): string | undefined =>
  Predicate.hasProperty(cause, "code") && Predicate.isString(cause.code)
    ? cause.code
    : cause instanceof AggregateError
    ? codeOf(cause.errors[0])
    : undefined

const errorText = (cause: unknown): string =>
  cause instanceof AggregateError
    ? cause.errors.map(errorText).join("; ")
    : cause instanceof Error && cause.message !== ""
    ? cause.message.trim().replace(/\s+/g, " ")
    : String(cause)
