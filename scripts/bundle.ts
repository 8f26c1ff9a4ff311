/**
 * How the command is bundled: for the build, and for the tests that start the
 * real executable.
 *
 * What only some subcommands need (the HTTP server of `serve`, the demo) is in
 * files of its own: in one file it would cost every replica 12 MB of memory,
 * used or not.
 */
import type { BuildOptions } from "esbuild"
import { fileURLToPath } from "node:url"

export const bundleOptions: BuildOptions = {
  entryPoints: [{ in: fileURLToPath(new URL("../src/cli/main.ts", import.meta.url)), out: "leader-election" }],
  bundle: true,
  platform: "node",
  format: "esm",
  splitting: true,
  chunkNames: "chunks/[name]-[hash]",
  target: "node22",
  // Names stay as they are, for stack traces. `keepNames` would keep them too, by defining them again with each closure
  // that is made: 14 of 96 kB of an election, and time in every takeover.
  minifySyntax: true,
  minifyWhitespace: true,
  legalComments: "none",
  // Only some kubeconfigs need them: loaded from where they are installed.
  external: ["https-proxy-agent", "socks-proxy-agent", "openid-client"],
  banner: {
    js: [
      "#!/usr/bin/env node",
      // What the bundled CommonJS modules use.
      `import{createRequire as __createRequire}from"node:module";const require=__createRequire(import.meta.url);`
    ].join("\n")
  }
}
