/**
 * `effect-kubernetes-leader-election run` on a real API server, as the executable that users have.
 */
import { assert, describe, it } from "@effect/vitest"
import { setTimeout as sleep } from "node:timers/promises"
import type { TestContext } from "vitest"
import { isAlive, type Running } from "../cli/Executable.ts"
import { leaseDuration, leaseName, logs, makeTrials, quick, says, type Trial } from "../cli/Trial.ts"
import { Proxy } from "./utils/Proxy.ts"
import { eventually, sharedCluster } from "./utils/Testing.ts"

const makeTrial = makeTrials()

/** Ignores SIGTERM, and has a child in its group that does too; tells both process ids. */
const stubborn = [
  "sh",
  "-c",
  `trap "" TERM; sleep 600 & echo "pids $$ $!"; while :; do sleep 600 & wait; done`
]

const pidsOf = (running: Running): Array<number> =>
  (/pids ([\d ]+)\n/.exec(running.stdout)?.[1] ?? "").split(" ").map(Number)

const jsonLines = (text: string): Array<Record<string, unknown>> =>
  text.split("\n").filter((line) => line !== "").map((line) => JSON.parse(line))

/** What `trial.run` starts, for another program to start. */
const runCommand = (trial: Trial, command: string): ReadonlyArray<string> => [
  process.execPath,
  trial.executable,
  "run",
  "--kubeconfig",
  trial.kubeconfig,
  "--name",
  leaseName,
  "--identity",
  "one",
  ...quick,
  "--",
  "sh",
  "-c",
  command
]

describe("run", () => {
  it("gives COMMAND the term and the settings, leaves its output alone, and ends with its exit code", async () => {
    await using trial = await makeTrial()
    const run = trial.run("one", quick, ["sh", "-c", "env; printf 'no line end' ; echo mine >&2; exit 7"], {
      POD_LABEL: "kept"
    })
    assert.strictEqual((await run.exit).code, 7)
    const env = new Map(run.stdout.split("\n").map((line) => [line.split("=")[0], line.slice(line.indexOf("=") + 1)]))
    const lease = await trial.lease()
    assert.match(env.get("LEADER_ELECTION_FENCING_TOKEN") ?? "", /^\d+$/)
    assert.isBelow(Number(env.get("LEADER_ELECTION_FENCING_TOKEN")), Number(lease?.metadata.resourceVersion))
    assert.strictEqual(env.get("LEADER_ELECTION_TRANSITIONS"), String(lease?.spec.leaseTransitions))
    assert.strictEqual(env.get("LEADER_ELECTION_NAME"), leaseName)
    assert.strictEqual(env.get("LEADER_ELECTION_NAMESPACE"), trial.namespace)
    assert.strictEqual(env.get("LEADER_ELECTION_IDENTITY"), "one")
    assert.strictEqual(env.get("LEADER_ELECTION_LEASE_DURATION"), "4s")
    assert.strictEqual(env.get("POD_LABEL"), "kept")
    assert.isTrue(run.stdout.endsWith("no line end"), run.stdout)
    // Our own log is on stderr, one JSON object a line; what COMMAND writes there stands between.
    const [own, others] = [/^\{/, /^[^{]/].map((shape) => run.stderr.split("\n").filter((line) => shape.test(line)))
    assert.deepStrictEqual(others, ["mine"])
    for (const line of own ?? []) {
      assert.containsAllKeys(JSON.parse(line), ["timestamp", "level", "message"])
    }
    // Released: the next candidate has nothing to wait for.
    assert.strictEqual(lease?.spec.holderIdentity ?? "", "")
  })

  it("ends as COMMAND does by a signal", async () => {
    await using trial = await makeTrial()
    assert.strictEqual((await trial.run("one", quick, ["sh", "-c", "kill -SEGV $$"]).exit).code, 139)
  })

  it("hands over to another run when COMMAND has ended", async () => {
    await using trial = await makeTrial()
    const one = trial.run("one", quick, ["sh", "-c", "trap 'exit 0' USR1; echo starts; while :; do sleep 0.05; done"])
    await one.until(says("starts"))
    const two = trial.run("two", quick, ["sh", "-c", "echo starts $LEADER_ELECTION_FENCING_TOKEN"])
    await two.until(logs("Following one"))
    assert.isFalse(two.stdout.includes("starts"))
    one.signal("SIGUSR1")
    const { at, code } = await one.exit
    assert.strictEqual(code, 0)
    assert.isBelow((await two.until(says("starts"))) - at, 2_000)
    assert.strictEqual((await two.exit).code, 0)
  })

  it("ends COMMAND before the release when it is told to end, and keeps leading until then", async () => {
    await using trial = await makeTrial()
    const one = trial.run("one", quick, [
      "sh",
      "-c",
      `trap 'exit 3' USR1; trap 'echo told' TERM; echo starts; while :; do sleep 0.05; done`
    ])
    await one.until(says("starts"))
    const two = trial.run("two", quick, ["echo", "starts"])
    await two.until(logs("Following one"))
    one.signal("SIGTERM")
    await one.until(says("told"))
    // Longer than a leader that does not renew any more would keep the Lease.
    await sleep(leaseDuration + 500)
    assert.strictEqual((await trial.lease())?.spec.holderIdentity, "one")
    assert.strictEqual(two.stdout, "")
    one.signal("SIGUSR1")
    assert.strictEqual((await one.exit).code, 3)
    await two.until(says("starts"))
    assert.strictEqual((await two.exit).code, 0)
  })

  it("passes signals on, and again, as long as COMMAND runs", async () => {
    await using trial = await makeTrial()
    const run = trial.run("one", quick, [
      process.execPath,
      "-e",
      `for (const s of ["SIGTERM","SIGINT","SIGHUP","SIGUSR2","SIGWINCH","SIGQUIT"]) process.on(s, () => console.log(s));
       process.on("SIGUSR1", () => process.exit(5)); console.log("starts"); setInterval(() => {}, 1000)`
    ])
    await run.until(says("starts"))
    let expected = "starts\n"
    for (
      const signal of ["SIGHUP", "SIGUSR2", "SIGWINCH", "SIGINT", "SIGQUIT", "SIGTERM", "SIGTERM", "SIGINT"] as const
    ) {
      run.signal(signal)
      expected += `${signal}\n`
      await run.until(({ stdout }) => stdout === expected)
    }
    run.signal("SIGUSR1")
    assert.strictEqual((await run.exit).code, 5)
  })

  it("kills COMMAND when --kill-after has passed since it was told to end", async () => {
    await using trial = await makeTrial()
    const run = trial.run("one", [...quick, "--kill-after", "1s"], stubborn)
    await run.until(says("pids"))
    run.signal("SIGTERM")
    assert.strictEqual((await run.exit).code, 137)
    for (const pid of pidsOf(run)) {
      assert.isFalse(await isAlive(pid))
    }
    assert.strictEqual((await trial.lease())?.spec.holderIdentity ?? "", "")
  })

  it("ends at once while it waits to lead, and disturbs nobody", async () => {
    await using trial = await makeTrial()
    const one = trial.run("one", quick, ["sh", "-c", "echo starts; sleep 600"])
    await one.until(says("starts"))
    for (const [signal, code] of [["SIGTERM", 143], ["SIGINT", 130], ["SIGQUIT", 131]] as const) {
      const two = trial.run("two", quick, ["echo", "starts"])
      await two.until(logs("Following one"))
      two.signal("SIGUSR1")
      two.signal("SIGWINCH")
      two.signal("SIGUSR2")
      two.signal("SIGHUP")
      two.signal(signal)
      assert.strictEqual((await two.exit).code, code)
      assert.strictEqual(two.stdout, "")
    }
    assert.isTrue(one.running)
    assert.strictEqual((await trial.lease())?.spec.holderIdentity, "one")
  })

  it("gives the Lease away when it is told to end while it holds a young one", async () => {
    await using trial = await makeTrial()
    const run = trial.run("one", ["--lease-duration", "4s"], ["echo", "starts"])
    await run.until(logs("Holding a new Lease"))
    run.signal("SIGTERM")
    assert.strictEqual((await run.exit).code, 143)
    assert.strictEqual(run.stdout, "")
    assert.strictEqual((await trial.lease())?.spec.holderIdentity ?? "", "")
  })

  it("begins on a new Lease only when it is old enough", async () => {
    await using trial = await makeTrial()
    const start = performance.now()
    const run = trial.run("one", ["--lease-duration", "3s"], ["echo", "starts"])
    assert.strictEqual((await run.exit).code, 0)
    assert.isAbove(performance.now() - start, 3_000)
  })

  it("ends a COMMAND that ignores SIGTERM before the Lease can be taken, with its group", async () => {
    await using trial = await makeTrial()
    const run = trial.run("one", quick, stubborn)
    await run.until(says("pids"))
    const pids = pidsOf(run)
    assert.strictEqual(pids.length, 2)
    const deleted = performance.now()
    await trial.cluster.admin.deleteLease(trial.namespace, leaseName)
    const { at, code } = await run.exit
    assert.strictEqual(code, 75)
    assert.isBelow(at - deleted, leaseDuration)
    assert.isTrue(run.stderr.includes("the Lease was deleted"), run.stderr)
    assert.isTrue(run.stderr.includes("was killed"), run.stderr)
    for (const pid of pids) {
      assert.isFalse(await isAlive(pid))
    }
  })

  it("campaigns again after a loss with --again, in a new term", async () => {
    await using trial = await makeTrial()
    const run = trial.run("one", [...quick, "--again"], [
      "sh",
      "-c",
      "echo token $LEADER_ELECTION_FENCING_TOKEN; exec sleep 600"
    ])
    await run.until(says("token"))
    await trial.cluster.admin.deleteLease(trial.namespace, leaseName)
    await run.until(({ stdout }) => stdout.split("token").length === 3)
    const [first = 0, second = 0] = [...run.stdout.matchAll(/token (\d+)/g)].map(([, token]) => Number(token))
    assert.isAbove(second, first)
    run.signal("SIGTERM")
    assert.strictEqual((await run.exit).code, 143)
    assert.strictEqual((await trial.lease())?.spec.holderIdentity ?? "", "")
  })

  it("does not campaign again after a loss that came while COMMAND was being told to end", async () => {
    await using trial = await makeTrial()
    const run = trial.run("one", [...quick, "--again"], stubborn)
    await run.until(says("pids"))
    run.signal("SIGTERM")
    await sleep(100)
    await trial.cluster.admin.deleteLease(trial.namespace, leaseName)
    assert.strictEqual((await run.exit).code, 143)
    assert.strictEqual(run.stdout.split("pids").length, 2)
  })

  it("loses its term, and has ended COMMAND, before another could lead when the API server is gone", async () => {
    const cluster = await sharedCluster()
    await using proxy = await Proxy.start(cluster)
    await using trial = await makeTrial({ server: proxy.url })
    await using observer = await cluster.admin.observeLease(trial.namespace, leaseName)
    const run = trial.run("one", ["--lease-duration", "10s", "--new-lease", "lead"], stubborn)
    await run.until(says("pids"))
    const pids = pidsOf(run)
    const seen = observer.events.length
    await observer.waitFor((event) => observer.events.indexOf(event) >= seen)
    // The time that it has counts from the last renewal: what has passed since is room for a slow machine.
    await sleep(1_500)
    const lost = performance.now()
    await proxy.set("refuse")
    await eventually("COMMAND and its child are gone", async () => {
      const alive = await Promise.all(pids.map(isAlive))
      return alive.every((is) => !is)
    }, 20_000)
    assert.isBelow(performance.now() - lost, 10_000)
    assert.strictEqual((await run.exit).code, 75)
    assert.include(run.stderr, "no renewal succeeded within renewDeadline")
    await cluster[Symbol.asyncDispose]()
  })

  it("waits for an API server that is not there yet, and can be ended meanwhile", async () => {
    await using trial = await makeTrial({ server: "https://127.0.0.1:1" })
    const run = trial.run("one", [...quick, "--log-level", "debug"], ["echo", "starts"])
    await run.until(logs("ECONNREFUSED"))
    run.signal("SIGTERM")
    assert.strictEqual((await run.exit).code, 143)
    assert.strictEqual(run.stdout, "")
  })

  it("says which right is missing in one line, when it is missing for leaseDuration", async () => {
    await using trial = await makeTrial({ role: false })
    const run = trial.run("one", quick, ["echo", "starts"])
    assert.strictEqual((await run.exit).code, 77)
    assert.strictEqual(run.stdout, "")
    const last = jsonLines(run.stderr).at(-1)
    assert.strictEqual(last?.["level"], "ERROR")
    assert.match(String(last?.["message"]), /cannot take part in the election: get lease .*\/job: .*leases.*forbidden/)
    assert.notInclude(run.stderr, "    at ")
  })

  it("leaves no COMMAND behind when it is killed hard, and the next one leads without overlap", async () => {
    await using trial = await makeTrial()
    const one = trial.run("one", quick, stubborn)
    await one.until(says("pids"))
    const pids = pidsOf(one)
    const two = trial.run("two", quick, ["echo", "starts"])
    await two.until(logs("Following one"))
    one.signal("SIGKILL")
    await eventually("COMMAND and its child are gone", async () => {
      const alive = await Promise.all(pids.map(isAlive))
      return alive.every((is) => !is)
    }, 1_000)
    assert.notInclude(two.stdout, "starts")
    await two.until(says("starts"))
  })

  it("leaves no COMMAND of a later term behind either", async () => {
    await using trial = await makeTrial()
    const run = trial.run("one", [...quick, "--again"], stubborn)
    await run.until(says("pids"))
    await trial.cluster.admin.deleteLease(trial.namespace, leaseName)
    await run.until(({ stdout }) => stdout.split("pids").length === 3)
    // Longer than the guard waits for a word.
    await sleep(leaseDuration + 500)
    const pids = [...run.stdout.matchAll(/pids ([\d ]+)\n/g)].map(([, text]) => (text ?? "").split(" ").map(Number))
    assert.isTrue(await isAlive(pids[1]?.[0] ?? 0))
    run.signal("SIGKILL")
    await eventually("COMMAND and its child are gone", async () => {
      const alive = await Promise.all(pids.flat().map(isAlive))
      return alive.every((is) => !is)
    }, 1_000)
  })

  it("ends with the exit code of COMMAND, whatever it is told while it releases the Lease", async () => {
    const cluster = await sharedCluster()
    await using proxy = await Proxy.start(cluster)
    await using trial = await makeTrial({ server: proxy.url })
    const run = trial.run("one", quick, ["sh", "-c", "trap 'exit 3' TERM; echo starts; while :; do sleep 0.05; done"])
    await run.until(says("starts"))
    proxy.setDelay(300)
    run.signal("SIGTERM")
    await run.until(logs("has ended with 3"))
    run.signal("SIGTERM")
    run.signal("SIGINT")
    assert.strictEqual((await run.exit).code, 3)
    await cluster[Symbol.asyncDispose]()
  })

  it("kills COMMAND through its guard when it is stopped for longer than the Lease allows", async () => {
    await using trial = await makeTrial()
    // The longer, the more time a slow machine has between the kill and the takeover.
    const options = ["--lease-duration", "10s", "--new-lease", "lead"]
    const one = trial.run("one", options, stubborn)
    await one.until(says("pids"))
    const pids = pidsOf(one)
    // A process that has ended and that nobody has asked for yet is a zombie.
    const look = `case $(cut -d " " -f 3 /proc/${
      pids[0]
    }/stat 2> /dev/null) in ""|Z) echo alone;; *) echo overlap;; esac`
    const two = trial.run("two", options, ["sh", "-c", look])
    await two.until(logs("Following one"))
    one.signal("SIGSTOP")
    await two.until(says("\n"), 40_000)
    assert.strictEqual(two.stdout, "alone\n")
    one.signal("SIGCONT")
    assert.strictEqual((await one.exit).code, 75)
    for (const pid of pids) {
      assert.isFalse(await isAlive(pid))
    }
  })

  it("ends what COMMAND leaves behind in its group", async () => {
    await using trial = await makeTrial()
    const run = trial.run("one", quick, ["sh", "-c", "sleep 600 > /dev/null 2>&1 & echo pids $!; exit 4"])
    assert.strictEqual((await run.exit).code, 4)
    assert.isFalse(await isAlive(pidsOf(run)[0] ?? 0))
  })

  it("lets COMMAND use the terminal, and passes on what is typed there", async (context: TestContext) => {
    await using trial = await makeTrial()
    const python = `import os, pty, sys, time, select
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
out = b""
sent = False
while True:
    r, _, _ = select.select([fd], [], [], 30)
    try:
        chunk = os.read(fd, 4096) if r else b""
    except OSError:
        break
    if not chunk:
        break
    out += chunk
    if b"ready" in out and not sent:
        sent = True
        os.write(fd, b"\\x03")
_, status = os.waitpid(pid, 0)
sys.stdout.write(out.decode())
print("status", os.waitstatus_to_exitcode(status))
`
    if (await trial.start("python3", ["-c", "pass"]).exit.then(({ code }) => code !== 0, () => true)) {
      context.skip("there is no python3 to make a terminal with")
    }
    const command = `test -t 0 && test -t 1 && echo terminal; trap 'echo interrupted; exit 9' INT; echo ready; ` +
      "while :; do sleep 0.05; done"
    const terminal = trial.start("python3", ["-c", python, ...runCommand(trial, command)])
    assert.strictEqual((await terminal.exit).code, 0)
    assert.include(terminal.stdout, "terminal\r\n")
    assert.include(terminal.stdout, "interrupted\r\n")
    assert.include(terminal.stdout, "status 9")
  })

  it("works as process 1", async (context: TestContext) => {
    await using trial = await makeTrial()
    const unshare = ["--pid", "--fork", "--mount-proc"]
    if (await trial.start("unshare", [...unshare, "true"]).exit.then(({ code }) => code !== 0, () => true)) {
      context.skip("this process may not make a process namespace")
    }
    const command =
      `trap 'echo told; exit 6' TERM; (sleep 0.1 &) ; echo parent $(ps -o ppid= -p $$); while :; do sleep 0.05; done`
    const run = trial.start("unshare", [...unshare, ...runCommand(trial, command)])
    await run.until(says("parent"))
    assert.match(run.stdout, /parent +1\n/)
    const inside = Number((await trial.start("pgrep", ["-P", String(run.pid)]).output).trim())
    process.kill(inside, "SIGTERM")
    assert.strictEqual((await run.exit).code, 6)
    assert.include(run.stdout, "told")
  })
})
