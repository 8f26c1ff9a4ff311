/**
 * What to say of a right that is missing: the rule, as it stands in a Role.
 *
 * @internal
 */

/** One rule of a Role. */
export interface Rule {
  readonly apiGroup: string
  readonly resource: string
  readonly verb: string
  /** A comment beside the verb. */
  readonly note?: string | undefined
  /** The only object that it is about, where the authoriser knows its name. */
  readonly resourceName?: string | undefined
}

/** Names the namespace, and gives the rule as YAML to be pasted. */
export const missingRule = (namespace: string, rule: Rule): string =>
  [
    `The Role in namespace ${namespace} lacks this rule:`,
    `  - apiGroups: ["${rule.apiGroup}"]`,
    `    resources: ["${rule.resource}"]`,
    `    verbs: ["${rule.verb}"]${rule.note === undefined ? "" : ` # ${rule.note}`}`,
    ...(rule.resourceName === undefined ? [] : [`    resourceNames: ["${rule.resourceName}"]`])
  ].join("\n")
