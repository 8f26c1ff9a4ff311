import { defineConfig } from "vitest/config"

// The tables of the pure rules alone: what they do not notice, no other test has to.
export default defineConfig({
  test: {
    include: [
      "test/internal/protocol/*.test.ts",
      "test/internal/duration.test.ts",
      "test/LeaseRecord.test.ts"
    ]
  }
})
