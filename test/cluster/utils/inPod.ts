/**
 * Starts a program as if in a Pod: with the service account's files where Kubernetes mounts them.
 */
import { spawn } from "node:child_process"
import { once } from "node:events"
import type { TestContext } from "vitest"

const mountPoint = "/var/run/secrets/kubernetes.io/serviceaccount"

// A mount of its own for this process alone: /run is a file system in memory, empty at first.
const script = `mount -t tmpfs none /run && mkdir -p ${mountPoint} && mount --bind "$0" ${mountPoint} && exec "$@"`

/** The command by which `command` starts with these files; after {@link skipWithoutMounts}. */
export const inPod = (files: string, command: ReadonlyArray<string>): readonly [string, ReadonlyArray<string>] => [
  "unshare",
  ["--mount", "sh", "-c", script, files, ...command]
]

/** Skips the test where this process may not mount anything. */
export const skipWithoutMounts = async (context: TestContext, directory: string) => {
  const [command, args] = inPod(directory, ["true"])
  const child = spawn(command, args, { stdio: "ignore" })
  const code = await once(child, "exit").then(([code]) => code, () => undefined)
  if (code !== 0) {
    context.skip("this process may not mount anything, or /var/run is not /run")
  }
}
