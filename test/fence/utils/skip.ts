import { describe, it } from "vitest"

/** Shows in the results that nothing was tested, and why; in CI that is a failure. */
export const skipWhere = (missing: string | undefined): boolean => {
  if (missing === undefined) {
    return false
  }
  if (process.env["CI"] === "true") {
    throw new Error(missing)
  }
  describe.skip(`SKIPPED: ${missing}`, () => it("would be tested", () => {}))
  return true
}
