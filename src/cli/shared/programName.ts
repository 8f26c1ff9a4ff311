/**
 * The name of the command: that of the package, so that
 * `npx effect-kubernetes-leader-election` runs it, and nothing that another
 * package could be called.
 *
 * @internal
 */
export const programName = "effect-kubernetes-leader-election"
