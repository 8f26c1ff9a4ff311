/**
 * How the command is bundled into one file: for the build, and for the tests
 * that start the real executable.
 */
import type { BuildOptions } from "esbuild"
import { fileURLToPath } from "node:url"

export const bundleOptions: BuildOptions = {
  entryPoints: [fileURLToPath(new URL("../src/bin/leader-election.ts", import.meta.url))],
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node22",
  minify: true,
  // Stack traces and error names stay readable.
  keepNames: true,
  legalComments: "none",
  // Loaded only where a kubeconfig is used, from where it is installed.
  external: ["@kubernetes/client-node"],
  banner: {
    js: [
      "#!/usr/bin/env node",
      // What the bundled CommonJS modules use.
      `import{createRequire as __createRequire}from"node:module";const require=__createRequire(import.meta.url);`
    ].join("\n")
  }
}
