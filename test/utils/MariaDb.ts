/**
 * A MariaDB server of a test's own, from the binaries that Debian installs.
 */
import { spawn } from "node:child_process"
import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

const binary = ["/usr/sbin/mariadbd", "/usr/bin/mariadbd"].find(existsSync)

/** Why there is no MariaDB here; `undefined` where there is one. */
export const missingMariaDb = (): string | undefined =>
  binary === undefined ? "MariaDB's server is not installed (Debian's package mariadb-server-core)" : undefined

export interface MariaDb extends AsyncDisposable {
  readonly socketPath: string
}

/** Starts a server without accounts, on a socket only. It ends with this process at the latest. */
export const startMariaDb = async (): Promise<MariaDb> => {
  const directory = mkdtempSync(join(tmpdir(), "mariadb-"))
  const socketPath = join(directory, "socket")
  mkdirSync(join(directory, "data", "mysql"), { recursive: true })
  const server = spawn(binary!, [
    "--no-defaults",
    ...(process.getuid?.() === 0 ? ["--user=root"] : []),
    `--datadir=${join(directory, "data")}`,
    `--socket=${socketPath}`,
    "--skip-networking",
    "--skip-grant-tables",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-buffer-pool-size=32M"
  ], { stdio: "ignore" })
  const kill = () => {
    server.kill("SIGKILL")
    rmSync(directory, { recursive: true, force: true, maxRetries: 3 })
  }
  process.on("exit", kill)
  for (let attempt = 0; !existsSync(socketPath); attempt++) {
    if (attempt === 300 || server.exitCode !== null) {
      kill()
      throw new Error("MariaDB does not start")
    }
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  return {
    socketPath,
    [Symbol.asyncDispose]: async () => {
      process.off("exit", kill)
      const ended = new Promise((resolve) => server.on("exit", resolve))
      server.kill("SIGTERM")
      await ended
      rmSync(directory, { recursive: true, force: true })
    }
  }
}
