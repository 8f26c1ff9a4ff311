/**
 * What an answer of the API server, or the lack of one, means for a Lease.
 *
 * Only the API server itself can refuse: with a Status object, whatever the
 * code. A page with the same code comes from something in front of it (a proxy
 * without a backend, a login, a captive portal) and says nothing about the
 * Lease, so it counts as no answer.
 *
 * @internal
 */
import {
  LeaseConflict,
  type LeaseErrorReason,
  LeaseExpired,
  LeaseForbidden,
  LeaseInvalid,
  LeaseNotFound,
  LeaseUnauthorized,
  LeaseUnavailable,
  type LeaseVerb
} from "../../LeaseError.ts"
import type { LeaseKey } from "../../LeaseRecord.ts"
import * as KubernetesError from "../KubernetesError.ts"
import { missingRule } from "./missingRule.ts"

/** The reason of a failed request. */
export const fromRequest = (
  key: LeaseKey,
  verb: LeaseVerb,
  error: KubernetesError.KubernetesError
): LeaseErrorReason => {
  const { reason } = error
  switch (reason._tag) {
    case "KubernetesStatusError":
      return fromStatus(key, verb, reason)
    case "KubernetesBodyError":
      return new LeaseUnavailable({
        message: reason.message,
        outcomeUnknown: isWrite(verb),
        code: reason.status
      })
    case "KubernetesConnectionError":
    case "KubernetesTimeoutError":
    case "KubernetesCredentialsError":
      return new LeaseUnavailable({
        message: reason.message,
        outcomeUnknown: KubernetesError.isOutcomeUnknown(error),
        cause: error
      })
  }
}

/**
 * A 2xx that carries something else than a Lease. A write with this answer may
 * have been applied; to which version it led is not known. As with a write whose
 * answer was lost, sending it again on the same version finds that out: it
 * conflicts, and the conflict is followed by a read.
 */
export const noLease = (verb: LeaseVerb, code: number, problem: string): LeaseErrorReason =>
  new LeaseUnavailable({
    message: `the answer (${code}) is not a Lease: ${oneLine(problem)}`,
    outcomeUnknown: isWrite(verb),
    code
  })

/** A schema's complaint takes several. */
export const oneLine = (text: string): string => text.replace(/\s+/g, " ")

const isWrite = (verb: LeaseVerb): boolean => verb === "create" || verb === "patch"

/** The reason of an answer with another status than 2xx. */
export const fromStatus = (
  key: LeaseKey,
  verb: LeaseVerb,
  error: KubernetesError.KubernetesStatusError
): LeaseErrorReason => {
  const message = KubernetesError.describe(error)
  if (!error.fromApiServer) {
    return unavailable(
      error.status < 500 && error.status !== 429
        ? `${message}; this is not the API server's answer: what stands between, and is the URL right?`
        : message,
      error
    )
  }
  const deniedBy = admission(verb, error)
  if (deniedBy !== undefined) {
    return new LeaseForbidden({
      anonymous: false,
      ownerReferences: false,
      deniedBy,
      message: `${message}\nNo right is missing: the request was denied by ${deniedBy}, which must let Leases of ` +
        `namespace ${key.namespace} pass`
    })
  }
  switch (error.status) {
    case 401:
      return new LeaseUnauthorized({
        message: `${message}; the API server did not accept the credentials, which were read again: is the token ` +
          "expired, of another cluster, or of a service account that is deleted?"
      })
    case 403:
      return forbidden(key, verb, error)
    case 404:
      // With any other reason it is about the path and not about the Lease. Taken for a missing Lease it would end a term.
      return error.reason !== "NotFound"
        ? unavailable(message, error)
        : new LeaseNotFound({
          message: verb === "create" ? `the namespace ${key.namespace} does not exist (${message})` : message
        })
    case 409:
      // Sent twice, what it conflicts with may be itself.
      return error.outcomeUnknown ? unavailable(message, error) : new LeaseConflict({ message })
    case 410:
      return new LeaseExpired({ message })
    case 408:
    case 425:
    case 429:
      return unavailable(message, error)
    default:
      return error.status >= 400 && error.status < 500 ? new LeaseInvalid({ message }) : unavailable(message, error)
  }
}

const unavailable = (message: string, error: KubernetesError.KubernetesStatusError): LeaseErrorReason =>
  new LeaseUnavailable({
    message,
    outcomeUnknown: error.outcomeUnknown,
    code: error.status,
    ...(error.retryAfter !== undefined && { retryAfter: error.retryAfter })
  })

/**
 * What denied a request that the rights allow. A webhook chooses the code of its
 * denial (400 by default, and 404 and 409 as well), a policy one of four: the
 * text that the API server itself puts in front shows it. Any other 403 that names
 * no missing right comes from one of its plugins: a quota, a namespace that is
 * being deleted.
 */
const admission = (verb: LeaseVerb, error: KubernetesError.KubernetesStatusError): string | undefined => {
  const webhook = /^admission webhook (".*?") denied the request/.exec(error.message)
  if (webhook !== null) {
    return `the admission webhook ${webhook[1]}`
  }
  const policy = /(?:^| is forbidden: )ValidatingAdmissionPolicy ('.*?') (?:with binding '.*?' )?denied request/
    .exec(error.message)
  if (policy !== null) {
    return `the ValidatingAdmissionPolicy ${policy[1]}`
  }
  return error.status === 403 && !lacksRight(verb, error) && !isAnonymous(error) && !isAboutOwners(error)
    ? "an admission plugin of the API server"
    : undefined
}

const lacksRight = (verb: LeaseVerb, { message }: KubernetesError.KubernetesStatusError): boolean =>
  message.includes(` cannot ${verb} resource "leases"`)

const isAnonymous = ({ message }: KubernetesError.KubernetesStatusError): boolean =>
  message.includes(`"system:anonymous"`)

const isAboutOwners = ({ message }: KubernetesError.KubernetesStatusError): boolean =>
  message.includes("cannot set an ownerRef") || message.includes("cannot set blockOwnerDeletion")

const forbidden = (
  key: LeaseKey,
  verb: LeaseVerb,
  error: KubernetesError.KubernetesStatusError
): LeaseErrorReason => {
  const text = KubernetesError.describe(error)
  if (isAnonymous(error)) {
    return new LeaseForbidden({
      anonymous: true,
      ownerReferences: false,
      message: `${text}\nThe request arrived without a token, or with an empty one: is the service account's token ` +
        "mounted (automountServiceAccountToken), or does the kubeconfig's user have credentials?"
    })
  }
  const rule = isAboutOwners(error)
    ? error.message.includes("cannot set an ownerRef")
      ? { ...leases, verb: "delete", note: "what changing ownerReferences needs here", resourceName: key.name }
      : { apiGroup: "", resource: "pods/finalizers", verb: "update" }
    : verb === "create"
    ? { ...leases, verb, note: "must not be limited by resourceNames" }
    : { ...leases, verb, resourceName: key.name || undefined }
  return new LeaseForbidden({
    anonymous: false,
    ownerReferences: isAboutOwners(error),
    message: `${text}\n${missingRule(key.namespace, rule)}`
  })
}

const leases = { apiGroup: "coordination.k8s.io", resource: "leases" }
