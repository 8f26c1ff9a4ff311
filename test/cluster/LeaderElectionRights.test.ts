/**
 * Rights and tokens on a real API server.
 */
import { assert, describe } from "@effect/vitest"
import { readFile } from "node:fs/promises"
import { setTimeout as sleep } from "node:timers/promises"
import { parseAllDocuments } from "yaml"
import { assertBetween, leaseName, milliseconds, releasedLease, type Trial } from "./support/Trial.ts"
import { makeTrials } from "./support/trials.ts"
import { leaseRules } from "./utils/ApiClient.ts"
import { eventually } from "./utils/Testing.ts"

const trial = makeTrials()
const { duration, slack } = milliseconds

/** How long a candidate puts up with refusals: leaseDuration, and at least a minute. */
const patience = Math.max(duration, 60_000)

const manifests = async (): Promise<string> => {
  const page = await readFile(new URL("../../docs/deployment.md", import.meta.url), "utf8")
  const fences = [...page.matchAll(/^```yaml\n(.*?)^```/gms)].map(([, yaml]) => yaml!)
  const found = fences.find((yaml) => /^kind: Role$/m.test(yaml))
  assert.isDefined(found, "the page has no YAML with a Role")
  return found
}

/** What the Deployment of the documentation gives its container, in a Pod of ours; nothing but its variables matters to a candidate. */
const environmentOf = (
  yaml: string,
  pod: { readonly metadata: { readonly name: string; readonly uid: string } },
  namespace: string
) => {
  const deployment = parseAllDocuments(yaml).map((document) => document.toJS()).find(({ kind }) =>
    kind === "Deployment"
  )
  const fields: Record<string, string> = {
    "metadata.name": pod.metadata.name,
    "metadata.uid": pod.metadata.uid,
    "metadata.namespace": namespace
  }
  const variables: Array<{ name: string; value?: string; valueFrom?: { fieldRef: { fieldPath: string } } }> =
    deployment.spec.template.spec.containers[0].env
  return Object.fromEntries(
    variables.map(({ name, value, valueFrom }) => [name, value ?? fields[valueFrom!.fieldRef.fieldPath]])
  )
}

const readmeCandidates = async (trial: Trial, yaml: string) => {
  await trial.admin.apply(yaml, trial.namespace)
  const token = await trial.admin.createToken(trial.namespace, leaseName)
  const start = async (name: string) => {
    const pod = await trial.admin.createPod(trial.namespace, name)
    const cleared = {
      POD_NAME: undefined,
      POD_UID: undefined,
      POD_NAMESPACE: undefined,
      LEADER_ELECTION_NAME: undefined
    }
    const env = { ...cleared, LEADER_ELECTION_LEASE_DURATION: undefined, ...environmentOf(yaml, pod, trial.namespace) }
    return trial.candidate({ pod, token, env })
  }
  return [await start("replica-1"), await start("replica-2")] as const
}

describe.concurrent("the README's Role", () => {
  for (const watch of [true, false]) {
    trial(`is enough, ${watch ? "with" : "without"} watch: first term, renewal, release, takeover, crash`, {
      role: "none",
      features: ["audit"]
    }, async (trial) => {
      const yaml = await manifests()
      const [one, two] = await readmeCandidates(trial, watch ? yaml : yaml.replace(/, watch\]/, "]"))
      const first = await Promise.race([one, two].map(async (candidate) => {
        await candidate.first("leading", 30_000)
        return candidate
      }))
      const second = first === one ? two : one
      await trial.change()
      const asked = first.terminate()
      const leading = await second.first("leading")
      // Without watch the Lease is polled each retryPeriod, 2 s by default.
      assertBetween("from SIGTERM to the next leader", leading.mono - asked, 0, watch ? 1_000 : 2_000 + slack)
      const third = await trial.candidate({
        pod: first.pod,
        token: await trial.admin.createToken(trial.namespace, leaseName),
        env: { LEADER_ELECTION_LEASE_DURATION: undefined }
      })
      // A follower counts from the first renewal that it sees.
      await trial.change()
      await second.kill()
      const last = await third.first("leading", 30_000)
      const end = trial.lastRenewal(second).at + 15_000
      assertBetween("from the lease's end to the next leader", last.at - end, -200, watch ? 1_000 : 2_000 + slack)

      const user = `system:serviceaccount:${trial.namespace}:${leaseName}`
      const requests = await trial.cluster.auditLog({ user })
      const refused = requests.filter(({ responseStatus }) => responseStatus?.code === 403).map(({ verb }) => verb)
      assert.deepStrictEqual([...new Set(refused)], watch ? [] : ["watch"])
      const verbs = new Set(requests.map(({ verb }) => verb))
      assert.deepStrictEqual([...verbs].toSorted(), ["create", "get", "patch", "watch"])
    })
  }
})

describe.concurrent("a missing right", () => {
  for (const verb of ["get", "create", "patch"] as const) {
    trial(`to ${verb} is one error that names verb, resource and rule`, {
      role: "none",
      aged: false,
      ...(verb === "patch" ? { lease: releasedLease } : {})
    }, async (trial) => {
      const rules = leaseRules(leaseName).map(({ verbs, ...rule }) =>
        Object.assign(rule, { verbs: verbs.filter((other) => other !== verb) })
      )
      await trial.admin.putRole(trial.namespace, "candidate", rules.filter(({ verbs }) => verbs.length > 0))
      const candidate = await trial.candidate()
      const error = await candidate.first("error", patience + 20_000)
      assert.strictEqual(error.reason, "LeaseRefused")
      // An API server that starts refuses for a while, and a Role may be in the middle of being replaced.
      assertBetween(
        "from the campaign's start to the error",
        error.mono - candidate.since("following"),
        patience,
        // Decided at the first refusal after that: one comes each retryPeriod.
        patience + duration * 2 / 15 + slack
      )
      assert.include(error.message, `cannot ${verb} resource "leases" in API group "coordination.k8s.io"`)
      assert.include(error.message, `The Role in namespace ${trial.namespace} lacks this rule:`)
      assert.include(error.message, `verbs: ["${verb}"]`)
      assert.include(error.message, `apiGroups: ["coordination.k8s.io"]`)
      assert.include(error.message, `resources: ["leases"]`)
      assert.strictEqual(error.message!.includes(`resourceNames: ["${leaseName}"]`), verb !== "create")
      assert.strictEqual((await candidate.exit()).code, 1)
      assert.deepStrictEqual(candidate.terms, [])
    })
  }

  trial("that is granted while the candidate waits is used: no restart is needed", {
    role: "none",
    lease: releasedLease
  }, async (trial) => {
    const candidate = await trial.candidate()
    await eventually("the warning", async () => candidate.process.stderr.includes("cannot get resource"))
    await trial.admin.putRole(trial.namespace, "candidate", leaseRules(leaseName))
    await candidate.first("leading")
  })

  trial("that is taken from a leader for less than renewDeadline costs no term", {
    lease: releasedLease
  }, async (trial) => {
    const { follower, leader } = await trial.pair()
    await trial.admin.putRole(trial.namespace, "candidate", [])
    await eventually("the warning", async () => leader.process.stderr.includes("cannot patch resource"))
    await trial.admin.putRole(trial.namespace, "candidate", leaseRules(leaseName))
    await sleep(duration)
    assert.strictEqual(leader.terms.length, 1)
    assert.strictEqual(leader.terms[0]!.ended, Infinity)
    assert.deepStrictEqual(follower.terms, [])
  })
})

describe.concurrent("a token", () => {
  trial("that is wrong is told, and the candidate leads as soon as its file has the right one", {
    lease: releasedLease
  }, async (trial) => {
    const candidate = await trial.candidate({ token: "wrong" })
    await eventually("the warning", async () => candidate.process.stderr.includes("did not accept the credentials"))
    await sleep(1_000)
    assert.isTrue(candidate.process.running)
    assert.deepStrictEqual(candidate.terms, [])
    await candidate.rotateToken(trial.token)
    const rotated = performance.now()
    await candidate.first("leading")
    assertBetween("from the right token to leading", performance.now() - rotated, 0, 2_000)
  })

  trial("that is rotated under a leader costs no term, also when the old one is no longer accepted", {
    lease: releasedLease
  }, async (trial) => {
    const { follower, leader } = await trial.pair()
    // Tokens of an account end with it; the next one of the same name has the same rights.
    await trial.admin.deleteServiceAccount(trial.namespace, "candidate")
    await trial.admin.createServiceAccount(trial.namespace, "candidate")
    const token = await trial.admin.createToken(trial.namespace, "candidate")
    await Promise.all([leader, follower].map((candidate) => candidate.rotateToken(token)))
    const path = `/apis/coordination.k8s.io/v1/namespaces/${trial.namespace}/leases/${leaseName}`
    await eventually(
      "the old token is refused",
      async () => (await trial.admin.request("GET", path, undefined, { token: trial.token })).status === 401,
      30_000
    )
    const refusedAt = Date.now()
    await sleep(duration)
    assertBetween("renewals since then", trial.lastRenewal(leader).at - refusedAt, 0, Infinity)
    assert.strictEqual(leader.terms.length, 1)
    assert.strictEqual(leader.terms[0]!.ended, Infinity)
    const asked = leader.terminate()
    const leading = await follower.first("leading")
    assertBetween("from SIGTERM to the next leader", leading.mono - asked, 0, 1_000)
  })
})
