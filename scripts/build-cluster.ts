/**
 * The programs that the cluster tests run: etcd, kube-apiserver, kube-controller-manager and the client-go candidate,
 * built from their Go modules (`test/cluster/go`) into a cache outside the checkout, once per version.
 *
 *     node scripts/build-cluster.ts [newest] [oldest]
 *
 * TEST_KUBERNETES=oldest gives the servers of the oldest Kubernetes that is supported (`test/cluster/go-oldest`).
 *
 * With `KUBEBUILDER_ASSETS` set to a directory of ready-made binaries (such as `setup-envtest use -p path` prints) the
 * servers come from there and only the candidate is built.
 */
import { spawn, spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync } from "node:fs"
import { mkdir, open, readFile, rename, rm, stat } from "node:fs/promises"
import { homedir } from "node:os"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { fileURLToPath } from "node:url"

/** Paths of the programs; those that are neither there nor can be built are undefined. */
export interface ClusterPrograms {
  readonly etcd: string
  readonly apiServer: string
  /** Missing in the envtest binaries: then there is no garbage collector. */
  readonly controllerManager: string | undefined
  /** The client-go candidate; missing only where ready-made servers are used on a machine without Go. */
  readonly candidate: string | undefined
}

/** A Go module, and the servers that are built from it. */
interface Module {
  readonly directory: string
  readonly servers: ReadonlyArray<string>
}

const newest: Module = {
  directory: fileURLToPath(new URL("../test/cluster/go", import.meta.url)),
  servers: ["etcd", "kube-apiserver", "kube-controller-manager"]
}
const oldest: Module = {
  directory: fileURLToPath(new URL("../test/cluster/go-oldest", import.meta.url)),
  servers: ["kube-apiserver", "kube-controller-manager"]
}

export type Release = "newest" | "oldest"

const releaseOfTests = (): Release => {
  const release = process.env["TEST_KUBERNETES"] || "newest"
  if (release !== "newest" && release !== "oldest") {
    throw new Error(`TEST_KUBERNETES is ${release}: give newest or oldest`)
  }
  return release
}

/** Finds the programs, building what is missing. Safe to call from several processes at once. */
export const clusterPrograms = async (
  log: (line: string) => void = (line) => void process.stderr.write(`${line}\n`),
  release: Release = releaseOfTests()
): Promise<ClusterPrograms> => {
  const assets = process.env["KUBEBUILDER_ASSETS"]
  if (assets !== undefined && assets !== "") {
    for (const name of ["etcd", "kube-apiserver"]) {
      if (!existsSync(join(assets, name))) {
        throw new Error(`KUBEBUILDER_ASSETS is set, but there is no ${name} in ${assets}`)
      }
    }
    const controllerManager = join(assets, "kube-controller-manager")
    const hasControllerManager = existsSync(controllerManager)
    log(`Servers from KUBEBUILDER_ASSETS: ${assets}`)
    if (!hasControllerManager) {
      log("There is no kube-controller-manager among them: tests that need the garbage collector will be SKIPPED")
    }
    return {
      etcd: join(assets, "etcd"),
      apiServer: join(assets, "kube-apiserver"),
      controllerManager: hasControllerManager ? controllerManager : undefined,
      candidate: await candidateProgram(log)
    }
  }

  const directory = await buildServers(newest, release === "newest" ? newest.servers : ["etcd"], log)
  const servers = release === "newest" ? directory : await buildServers(oldest, oldest.servers, log)
  return {
    etcd: join(directory, "etcd"),
    apiServer: join(servers, "kube-apiserver"),
    controllerManager: join(servers, "kube-controller-manager"),
    candidate: await candidateProgram(log)
  }
}

/** Builds those that are missing, and gives the directory that they are in. */
const buildServers = async (
  module: Module,
  names: ReadonlyArray<string>,
  log: (line: string) => void
): Promise<string> => {
  const { directory, kubernetesVersion } = await cache(module)
  const missing = names.filter((name) => !existsSync(join(directory, name)))
  if (missing.length > 0) {
    if (goVersion(module) === undefined) {
      throw new Error([
        "The cluster tests need Go (1.26 or newer) to build a Kubernetes API server, and there is no `go` in PATH.",
        "Instead of installing Go, you can",
        "  - set KUBEBUILDER_ASSETS to a directory with etcd and kube-apiserver, as setup-envtest installs them, or",
        "  - set TEST_CLUSTER=existing, and KUBECONFIG, to use a running cluster (in namespaces of its own)."
      ].join("\n"))
    }
    log(`Kubernetes ${kubernetesVersion} is not built yet; building into ${directory} (some minutes, only once)`)
    for (const name of missing) {
      const flags = name === "etcd" ? [] : ["-X", `k8s.io/component-base/version.gitVersion=${kubernetesVersion}`]
      await build(module, name, directory, name, flags, log)
    }
  }
  return directory
}

/** Only the client-go candidate: for tests on an existing cluster. Undefined, and said so, where Go is missing. */
export const candidateProgram = (log?: (line: string) => void): Promise<string | undefined> =>
  helperProgram("candidate", "tests against client-go will be SKIPPED", log)

/** What client-go makes of kubeconfigs. Undefined, and said so, where Go is missing. */
export const clientConfigProgram = (log?: (line: string) => void): Promise<string | undefined> =>
  helperProgram("clientconfig", "kubeconfigs will NOT be compared with client-go", log)

const helperProgram = async (
  packageName: string,
  without: string,
  log: (line: string) => void = (line) => void process.stderr.write(`${line}\n`)
): Promise<string | undefined> => {
  const { directory } = await cache(newest)
  // Named by its own source, so that a change to it does not rebuild the servers.
  const name = `${packageName}-${await digest(newest, [`${packageName}/main.go`])}`
  if (!existsSync(join(directory, name))) {
    if (goVersion(newest) === undefined) {
      log(`There is no \`go\` in PATH to build ${packageName} with: ${without}`)
      return undefined
    }
    await build(newest, packageName, directory, name, [], log)
  }
  return join(directory, name)
}

const cache = async (module: Module) => {
  const goMod = await readFile(join(module.directory, "go.mod"), "utf8")
  const kubernetesVersion = /^\s*k8s\.io\/kubernetes (v\S+)$/m.exec(goMod)?.[1]
  if (kubernetesVersion === undefined) throw new Error("go.mod does not require k8s.io/kubernetes")
  const hash = await digest(module, ["go.mod", "go.sum", ...module.servers.map((name) => `${name}/main.go`)])
  const base = process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache")
  return {
    kubernetesVersion,
    directory: join(base, "effect-kubernetes-leader-election", `cluster-${kubernetesVersion.slice(1)}-${hash}`)
  }
}

const digest = async (module: Module, files: ReadonlyArray<string>): Promise<string> => {
  const hash = createHash("sha256")
  for (const file of files) {
    hash.update(await readFile(join(module.directory, file))).update("\0")
  }
  return hash.digest("hex").slice(0, 12)
}

const goVersion = (module: Module): string | undefined => {
  const result = spawnSync("go", ["version"], { cwd: module.directory, encoding: "utf8" })
  return result.status === 0 ? result.stdout.trim() : undefined
}

const build = async (
  module: Module,
  packageName: string,
  directory: string,
  name: string,
  linkerFlags: ReadonlyArray<string>,
  log: (line: string) => void
): Promise<void> => {
  await mkdir(directory, { recursive: true })
  const target = join(directory, name)
  // The lock only saves work: the program is renamed into place, so two builds at once would do no harm.
  const unlock = await lock(
    join(directory, `${name}.lock`),
    () => log(`Another process builds ${name}; waiting for it`)
  )
  try {
    if (existsSync(target)) return
    const started = performance.now()
    log(`Building ${name} ...`)
    const temporary = `${target}.${process.pid}.tmp`
    try {
      await go(module, [
        "build",
        "-ldflags",
        ["-s", "-w", ...linkerFlags].join(" "),
        "-o",
        temporary,
        `./${packageName}`
      ])
      await rename(temporary, target)
    } finally {
      await rm(temporary, { force: true })
    }
    log(`Built ${name} in ${((performance.now() - started) / 1000).toFixed(0)} s`)
  } finally {
    await unlock()
  }
}

const go = (module: Module, args: ReadonlyArray<string>) =>
  new Promise<void>((resolve, reject) => {
    const child = spawn("go", args, {
      cwd: module.directory,
      stdio: ["ignore", "inherit", "inherit"],
      // Without cgo no C compiler is needed. A vendor or workspace setting of the user's is about another module.
      env: { ...process.env, CGO_ENABLED: "0", GOFLAGS: "-mod=readonly -buildvcs=false", GOWORK: "off" }
    })
    // A build goes on for minutes: it must not outlive the one who asked for it.
    const stop = () => void child.kill("SIGTERM")
    process.once("exit", stop)
    child.once("error", reject)
    child.once("exit", (code, signal) => {
      process.removeListener("exit", stop)
      if (code === 0) resolve()
      else reject(new Error(`go ${args.join(" ")} ended with ${signal ?? `code ${code}`}`))
    })
  })

/** A file with the owner's process id; one whose owner is gone counts for nothing, nor does one older than any build. */
const lock = async (path: string, onWait: () => void): Promise<() => Promise<void>> => {
  for (let waited = 0;; waited++) {
    try {
      const file = await open(path, "wx")
      await file.writeFile(String(process.pid))
      await file.close()
      return () => rm(path, { force: true })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error
    }
    const owner = Number(await readFile(path, "utf8").catch(() => ""))
    const age = await stat(path).then((_) => Date.now() - _.mtimeMs, () => 0)
    // Without a process id in it, it is just being written, unless its writer died over it.
    if (owner > 0 ? !isRunning(owner) || age > 3_600_000 : age > 5_000) {
      await rm(path, { force: true })
      continue
    }
    if (waited === 0) onWait()
    await sleep(500)
  }
}

const isRunning = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM"
  }
}

if (import.meta.main) {
  try {
    const given = process.argv.slice(2)
    for (const release of given.length === 0 ? [releaseOfTests()] : given) {
      if (release !== "newest" && release !== "oldest") throw new Error(`${release} is neither newest nor oldest`)
      // oxlint-disable-next-line no-console
      console.log(JSON.stringify(await clusterPrograms(undefined, release), undefined, 2))
    }
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
    process.exitCode = 1
  }
}
