import { availableParallelism } from "node:os"
import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"

const src = (path: string) => fileURLToPath(new URL(`./src/${path}`, import.meta.url))

// Tests, and the README's code that they run, import the package by its own name.
const alias = [
  { find: /^effect-kubernetes-leader-election$/, replacement: src("index.ts") },
  { find: /^effect-kubernetes-leader-election\/testing$/, replacement: src("testing/index.ts") },
  { find: /^effect-kubernetes-leader-election\/(.*)$/, replacement: src("$1.ts") }
]

export default defineConfig({
  resolve: { alias },
  test: {
    projects: [
      {
        resolve: { alias },
        test: {
          name: "unit",
          include: ["test/**/*.test.ts"],
          exclude: ["test/cluster/**", "test/faults/**", "test/observability/**", "test/fence/**"],
          sequence: { concurrent: true },
          // One registry of modules for all files of a worker: to load Effect anew for each took longer than most tests.
          isolate: false,
          // Some files only wait for processes: more workers than processors.
          maxWorkers: availableParallelism() + 1,
          // All tests of a file run at the same time, and some use real sockets and processes: a slow machine is no failure.
          testTimeout: 60_000,
          hookTimeout: 60_000
        }
      },
      {
        resolve: { alias },
        test: {
          // With the real daemons; see scripts/install-test-daemons.sh.
          name: "observability",
          include: ["test/observability/**/*.test.ts"],
          fileParallelism: false,
          testTimeout: 60_000
        }
      },
      {
        resolve: { alias },
        test: {
          // With real databases; see scripts/install-test-daemons.sh.
          name: "fence",
          include: ["test/fence/**/*.test.ts"],
          testTimeout: 60_000,
          hookTimeout: 60_000
        }
      },
      {
        resolve: { alias },
        test: {
          name: "cluster",
          include: ["test/cluster/**/*.test.ts"],
          globalSetup: ["test/cluster/utils/globalSetup.ts"],
          fileParallelism: false,
          testTimeout: 120_000,
          hookTimeout: 600_000
        }
      }
    ]
  }
})
