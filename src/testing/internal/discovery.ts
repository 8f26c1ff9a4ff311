/**
 * What the API server says it has: kubectl asks for it before anything else.
 *
 * @internal
 */
import { apiVersionOf, type ResourceType } from "./resources.ts"

interface Resource {
  readonly groupVersion: string
  readonly name: string
  readonly singularName: string
  readonly namespaced: boolean
  readonly kind: string
  readonly verbs: ReadonlyArray<string>
}

const review = (group: string, kind: string): Resource => ({
  groupVersion: `${group}/v1`,
  name: `${kind.toLowerCase()}s`,
  singularName: kind.toLowerCase(),
  namespaced: false,
  kind,
  verbs: ["create"]
})

const resourcesOf = (types: Iterable<ResourceType>): ReadonlyArray<Resource> => [
  ...[...types].map((type): Resource => ({
    groupVersion: apiVersionOf(type),
    name: type.plural,
    singularName: type.kind.toLowerCase(),
    namespaced: type.namespaced,
    kind: type.kind,
    verbs: ["create", "delete", "get", "list", "patch", "update", "watch"]
  })),
  review("authorization.k8s.io", "SelfSubjectAccessReview"),
  review("authentication.k8s.io", "SelfSubjectReview")
]

const toGroup = (groupVersion: string) => {
  const [name = "", version = ""] = groupVersion.split("/")
  const only = { groupVersion, version }
  return { name, versions: [only], preferredVersion: only }
}

/** The document of a path; `undefined` where it has none. Each group has one version. */
export const document = (path: string, types: Iterable<ResourceType>): object | undefined => {
  const resources = resourcesOf(types)
  const groupVersions = [...new Set(resources.map(({ groupVersion }) => groupVersion))]
  const groups = groupVersions.filter((groupVersion) => groupVersion.includes("/")).map(toGroup)
  const [root, name, version, ...rest] = path.split("/").slice(1).filter((part) => part !== "")
  if (rest.length > 0) {
    return undefined
  }
  if (root === "api" && name === undefined) {
    return { kind: "APIVersions", versions: ["v1"], serverAddressByClientCIDRs: [] }
  }
  if (root === "apis" && name === undefined) {
    return { kind: "APIGroupList", apiVersion: "v1", groups }
  }
  if (root === "apis" && version === undefined) {
    const group = groups.find((group) => group.name === name)
    return group && { kind: "APIGroup", apiVersion: "v1", ...group }
  }
  const wanted = root === "apis" ? `${name}/${version}` : root === "api" && version === undefined ? name : undefined
  return wanted === undefined || !groupVersions.includes(wanted) ? undefined : {
    kind: "APIResourceList",
    apiVersion: "v1",
    groupVersion: wanted,
    resources: resources.filter(({ groupVersion }) => groupVersion === wanted)
      .map(({ groupVersion: _groupVersion, ...resource }) => resource)
  }
}
