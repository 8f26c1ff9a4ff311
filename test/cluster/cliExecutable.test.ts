/**
 * The standalone executable on a real API server: in a root directory that holds it, the libraries that `ldd` names, and
 * what a kubelet mounts; nothing else.
 */
import { assert, describe, it } from "@effect/vitest"
import { execFileSync, spawnSync } from "node:child_process"
import { copyFileSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { afterAll, beforeAll, type TestContext } from "vitest"
import { build, isInstalled } from "../../scripts/build-executable.ts"
import { isAlive, Running } from "../cli/Executable.ts"
import { Proxy } from "./utils/Proxy.ts"
import { eventually, sharedCluster } from "./utils/Testing.ts"

const name = "effect-kubernetes-leader-election"
const emulator = "/usr/bin/qemu-aarch64-static"
const arm64Libraries = "/usr/aarch64-linux-gnu/lib"

let directory: string
const files: Partial<Record<"x64" | "arm64", string>> = {}

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "executable-"))
  if (isInstalled()) {
    files.x64 = await build("x64", directory)
    files.arm64 = await build("arm64", directory)
  }
})
afterAll(() => rmSync(directory, { recursive: true, force: true }))

/** The libraries that a file is linked with, the loader among them. */
const librariesOf = (file: string): ReadonlyArray<string> =>
  [...execFileSync("ldd", [file], { encoding: "utf8" }).matchAll(/(?:=> )?(\/\S+) \(0x/g)].map(([, path]) => path!)

const put = (root: string, file: string, at = file) => {
  mkdirSync(dirname(join(root, at)), { recursive: true })
  copyFileSync(file, join(root, at))
}

const makeTrial = async (context: TestContext, options: { readonly shell?: string; readonly arm64?: true } = {}) => {
  const file = files[options.arm64 === true ? "arm64" : "x64"]
  if (file === undefined || process.arch !== "x64") {
    context.skip("what it is built from is not installed: npm ci --force --prefix packaging")
  }
  if (spawnSync("unshare", ["--mount", "true"]).status !== 0) {
    context.skip("this process may not mount anything")
  }
  const cluster = await sharedCluster()
  const { admin } = cluster
  const namespace = await admin.createNamespace("executable")
  const token = await admin.createCandidateAccount(namespace, "job")
  const root = mkdtempSync(join(directory, "root-"))
  put(root, file, `/${name}`)
  if (options.arm64 === true) {
    put(root, emulator)
    cpSync(arm64Libraries, join(root, "lib"), { recursive: true, verbatimSymlinks: true })
  } else {
    for (const library of new Set([file, ...options.shell === undefined ? [] : [options.shell]].flatMap(librariesOf))) {
      put(root, library)
    }
  }
  if (options.shell !== undefined) {
    put(root, options.shell, "/bin/bash")
  }
  const mounted = await cluster.writeServiceAccountFiles({ token, namespace })
  cpSync(mounted, join(root, "var/run/secrets/kubernetes.io/serviceaccount"), { recursive: true, dereference: true })
  mkdirSync(join(root, "proc"))
  mkdirSync(join(root, "dev"))
  const started: Array<Running> = []
  return {
    cluster,
    namespace,
    file,
    /** The executable in that root, as in a container of a Pod; its process id is that of the executable. */
    start: async (pod: string, args: ReadonlyArray<string>, port = cluster.port) => {
      const { metadata } = await admin.createPod(namespace, pod)
      const script = `mount -t proc proc "$0/proc" && mount --bind /dev "$0/dev" && exec chroot "$0" "$@"`
      const command = options.arm64 === true ? [emulator, `/${name}`] : [`/${name}`]
      const running = new Running("unshare", ["--mount", "sh", "-c", script, root, ...command, ...args], {
        PATH: "/usr/sbin:/usr/bin:/sbin:/bin",
        KUBERNETES_SERVICE_HOST: cluster.host,
        KUBERNETES_SERVICE_PORT: String(port),
        LEADER_ELECTION_NAME: "job",
        LEADER_ELECTION_LEASE_DURATION: "6s",
        LEADER_ELECTION_NEW_LEASE: "lead",
        POD_NAME: pod,
        POD_UID: metadata.uid,
        POD_NAMESPACE: namespace
      })
      started.push(running)
      return running
    },
    holder: async () => (await admin.getLease(namespace, "job"))?.spec.holderIdentity ?? "",
    [Symbol.asyncDispose]: async () => {
      await Promise.all(started.map((running) => running[Symbol.asyncDispose]()))
      await admin.deleteNamespace(namespace)
      await cluster[Symbol.asyncDispose]()
    }
  }
}

/** Runs until it is ended, and needs nothing but the executable. */
const longCommand = [`/${name}`, "dev-server", "--kubeconfig", "/kubeconfig"]

const startedPid = async (running: Running): Promise<number> => {
  await running.until(({ stderr }) => /Started \S+ \(pid \d+\)/.test(stderr))
  return Number(/Started \S+ \(pid (\d+)\)/.exec(running.stderr)![1])
}

describe("the standalone executable", () => {
  it("runs a command, serves and checks, and hands over, where there is nothing else", async (context) => {
    await using trial = await makeTrial(context)
    const doctor = await trial.start("replica-0", ["doctor"])
    assert.strictEqual((await doctor.exit).code, 0, doctor.stdout + doctor.stderr)
    assert.match(doctor.stdout, /own Pod +the token is that of|own Pod +there is a Pod|own Pod +whether there is/)

    const one = await trial.start("replica-1", ["run", "--", ...longCommand])
    const child = await startedPid(one)
    assert.match(await trial.holder(), /^replica-1_/)
    const lease = await trial.cluster.admin.getLease(trial.namespace, "job")
    assert.strictEqual(lease?.metadata.ownerReferences?.[0]?.name, "replica-1")

    const two = await trial.start("replica-2", ["serve", "--port", "0"])
    await two.until(({ stderr }) => stderr.includes("Following replica-1") && /port \d+ of/.test(stderr))
    const status = await readFileSync(`/proc/${two.pid}/status`, "utf8")
    context.annotate(`memory of a serve that follows: ${/VmRSS:\s+(\d+)/.exec(status)?.[1]} KiB`)
    one.signal("SIGTERM")
    assert.strictEqual((await one.exit).code, 143, one.stderr)
    assert.isFalse(await isAlive(child))
    const url = `http://127.0.0.1:${/port (\d+) of/.exec(two.stderr)![1]}`
    await eventually("serve leads", async () => (await fetch(`${url}/leader`)).status === 200)
    assert.match(await (await fetch(`${url}/metrics`)).text(), /leader_election_leader/)
    two.signal("SIGTERM")
    assert.strictEqual((await two.exit).code, 143)
    assert.strictEqual(await trial.holder(), "")
  })

  it("takes no more memory than needed while it waits to run a command", async (context) => {
    await using trial = await makeTrial(context)
    const one = await trial.start("replica-1", ["run", "--", ...longCommand])
    await startedPid(one)
    const two = await trial.start("replica-2", ["run", "--", ...longCommand])
    await two.until(({ stderr }) => stderr.includes("Following replica-1"))
    const resident = Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${two.pid}/status`, "utf8"))?.[1]) / 1024
    context.annotate(`memory of a run that follows: ${resident.toFixed(1)} MiB`)
    assert.isBelow(resident, 128)
  })

  it("ends its command before another could lead, where the connection is stalled", async (context) => {
    await using trial = await makeTrial(context)
    await using proxy = await Proxy.start(trial.cluster)
    const one = await trial.start("replica-1", ["run", "--", ...longCommand], Number(new URL(proxy.url).port))
    const child = await startedPid(one)
    const stalled = performance.now()
    await proxy.set("stall")
    await eventually("COMMAND is gone", async () => !(await isAlive(child)), 10_000)
    // leaseDuration is 6 s, and the last renewal began before the connection was stalled.
    assert.isBelow(performance.now() - stalled, 6_000)
    assert.strictEqual((await one.exit).code, 75, one.stderr)
    assert.notInclude(one.stderr, "defect")
  })

  it("has its command killed by the guard when it is killed, or stopped", async (context) => {
    await using trial = await makeTrial(context, { shell: "/bin/bash" })
    const killed = await trial.start("replica-1", ["run", "--", ...longCommand])
    const first = await startedPid(killed)
    killed.signal("SIGKILL")
    await eventually("COMMAND is gone", async () => !(await isAlive(first)), 2_000)

    const stopped = await trial.start("replica-2", ["run", "--", ...longCommand])
    const second = await startedPid(stopped)
    const next = await trial.start("replica-3", ["run", "--", ...longCommand])
    await next.until(({ stderr }) => stderr.includes("Following replica-2"))
    stopped.signal("SIGSTOP")
    await startedPid(next)
    assert.isFalse(await isAlive(second))
    stopped.signal("SIGCONT")
    assert.strictEqual((await stopped.exit).code, 75, stopped.stderr)
  })

  it("does the same on arm64 (emulated)", async (context) => {
    if (spawnSync(emulator, ["--version"]).status !== 0 || spawnSync("test", ["-d", arm64Libraries]).status !== 0) {
      context.skip("qemu-user-static and libc6-arm64-cross are not installed")
    }
    await using trial = await makeTrial(context, { arm64: true })
    const doctor = await trial.start("replica-0", ["doctor", "--lease-duration", "30s"])
    assert.strictEqual((await doctor.exit).code, 0, doctor.stdout + doctor.stderr)
    const options = ["--lease-duration", "60s"]
    const one = await trial.start("replica-1", ["serve", "--port", "0", ...options])
    await one.until(({ stderr }) => /port \d+ of/.test(stderr), 60_000)
    const url = `http://127.0.0.1:${/port (\d+) of/.exec(one.stderr)![1]}`
    await eventually("it leads", async () => (await fetch(`${url}/leader`)).status === 200, 60_000)
    one.signal("SIGTERM")
    await fetch(`${url}/release`, { method: "POST" }).catch(() => {})
    await one.exit
    assert.strictEqual(await trial.holder(), "")
    // COMMAND is one of this machine's processor: the emulator starts none of the other.
    const two = await trial.start("replica-2", ["run", ...options, "--", emulator, `/${name}`, "--version"])
    assert.strictEqual((await two.exit).code, 0, two.stderr)
    assert.match(two.stdout, /v\d+\.\d+\.\d+/)
  })
})
