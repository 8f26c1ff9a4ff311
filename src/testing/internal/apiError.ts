/**
 * The API server's refusals, word for word: what a client logs and what tests assert on.
 *
 * @internal
 */
import { ApiError, type StatusDetails } from "../ApiError.ts"
import type { ResourceType } from "./resources.ts"

export { ApiError, type StatusCause, type StatusDetails } from "../ApiError.ts"

export const groupResource = (type: ResourceType): string =>
  type.group === "" ? type.plural : `${type.plural}.${type.group}`

const groupKind = (type: ResourceType): string => type.group === "" ? type.kind : `${type.kind}.${type.group}`

const group = (type: ResourceType) => type.group === "" ? {} : { group: type.group }

// "kind" of the details is the plural, except where validation or a DELETE's precondition failed.
export const pluralDetails = (type: ResourceType, name: string): StatusDetails => ({
  name,
  ...group(type),
  kind: type.plural
})

const kindDetails = (type: ResourceType, name: string): StatusDetails => ({ name, ...group(type), kind: type.kind })

export const notFound = (type: ResourceType, name: string): ApiError =>
  new ApiError({
    code: 404,
    message: `${groupResource(type)} "${name}" not found`,
    reason: "NotFound",
    details: pluralDetails(type, name)
  })

export const alreadyExists = (type: ResourceType, name: string, terminating: boolean): ApiError =>
  new ApiError({
    code: 409,
    message: `${terminating ? "object is being deleted: " : ""}${groupResource(type)} "${name}" already exists`,
    reason: "AlreadyExists",
    details: pluralDetails(type, name)
  })

const conflict = (type: ResourceType, name: string, why: string): ApiError =>
  new ApiError({
    code: 409,
    message: `Operation cannot be fulfilled on ${groupResource(type)} "${name}": ${why}`,
    reason: "Conflict",
    details: pluralDetails(type, name)
  })

export const modified = (type: ResourceType, name: string): ApiError =>
  conflict(
    type,
    name,
    "the object has been modified; please apply your changes to the latest version and try again"
  )

export const uidConflict = (
  type: ResourceType,
  namespace: string,
  name: string,
  wanted: string,
  actual: string
): ApiError =>
  conflict(
    type,
    name,
    `StorageError: invalid object, Code: 4, Key: /registry/${type.plural}/${namespace}/${name}, ResourceVersion: 0, ` +
      `AdditionalErrorMsg: Precondition failed: UID in precondition: ${wanted}, UID in object meta: ${actual}`
  )

export const deleteConflict = (type: ResourceType, name: string, why: string): ApiError =>
  new ApiError({
    code: 409,
    message: `Operation cannot be fulfilled on ${groupKind(type)} "${name}": ${why}`,
    reason: "Conflict",
    details: kindDetails(type, name)
  })

export const badRequest = (message: string): ApiError => new ApiError({ code: 400, message, reason: "BadRequest" })

export const internal = (message: string): ApiError => new ApiError({ code: 500, message })

/** One field that failed validation. */
export interface FieldError {
  readonly field: string
  readonly reason: "FieldValueInvalid" | "FieldValueRequired" | "FieldValueTooLong" | "FieldValueNotSupported"
  readonly message: string
}

export const invalidValue = (field: string, value: unknown, why: string): FieldError => ({
  field,
  reason: "FieldValueInvalid",
  message: `Invalid value: ${typeof value === "string" ? JSON.stringify(value) : String(value)}: ${why}`
})

export const required = (field: string, why: string): FieldError => ({
  field,
  reason: "FieldValueRequired",
  message: why === "" ? "Required value" : `Required value: ${why}`
})

export const invalid = (type: ResourceType, name: string, errors: ReadonlyArray<FieldError>): ApiError => {
  const texts = errors.map((error) => `${error.field}: ${error.message}`)
  return new ApiError({
    code: 422,
    message: `${groupKind(type)} "${name}" is invalid: ${texts.length === 1 ? texts[0] : `[${texts.join(", ")}]`}`,
    reason: "Invalid",
    details: {
      ...kindDetails(type, name),
      causes: errors.map(({ field, message, reason }) => ({ reason, message, field }))
    }
  })
}

/** PUT without a version: the one validation error whose details have the plural. */
export const versionRequired = (type: ResourceType, name: string): ApiError => {
  const error = invalidValue("metadata.resourceVersion", 0, "must be specified for an update")
  return new ApiError({
    code: 422,
    message: `${groupResource(type)} "${name}" is invalid: ${error.field}: ${error.message}`,
    reason: "Invalid",
    details: {
      ...pluralDetails(type, name),
      causes: [{ reason: error.reason, message: error.message, field: error.field }]
    }
  })
}

/** A body that does not decode as the kind: 400 where the whole object was sent. */
export const undecodable = (type: ResourceType, cause: string): ApiError =>
  badRequest(`${type.kind} in version "${type.version}" cannot be handled as a ${type.kind}: ${cause}`)

/** A body that does not decode as the kind: 422 where it came about by a patch. */
export const undecodablePatch = (patched: unknown, cause: string): ApiError => {
  const message = `Invalid value: ${JSON.stringify(JSON.stringify(patched))}: ${cause}`
  return new ApiError({
    code: 422,
    message: ` "" is invalid: patch: ${message}`,
    reason: "Invalid",
    details: { causes: [{ reason: "FieldValueInvalid", message, field: "patch" }] }
  })
}

export const expired = (since: bigint, oldest: bigint): ApiError =>
  new ApiError({
    code: 410,
    message: `too old resource version: ${since} (${oldest})`,
    reason: "Expired"
  })

/** A list cannot go on: how everything was then is forgotten. */
export const continueExpired = new ApiError({
  code: 410,
  message:
    "The provided continue parameter is too old to display a consistent list result. You must start a new list " +
    "without the continue parameter.",
  reason: "Expired"
})

/** The body of an answer that refuses. */
export const toStatus = (error: ApiError) => ({
  kind: "Status",
  apiVersion: "v1",
  metadata: {},
  status: "Failure",
  message: error.message,
  ...(error.reason !== undefined && { reason: error.reason }),
  ...(error.details !== undefined && { details: error.details }),
  code: error.code
})
