import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Console, Duration, Effect } from "effect"
import { Command } from "effect/cli"
import { parseAllDocuments } from "yaml"
import { gracePeriod } from "../../src/cli/manifest/documents.ts"
import { command } from "../../src/cli/manifest/manifest.ts"

/** What the command prints for these arguments, or what it fails with. */
const run = (...args: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    const lines: Array<string> = []
    const result = yield* Command.runWith(command, { version: "0", renderErrors: false })(args).pipe(
      Effect.provideService(
        Console.Console,
        Object.assign(Object.create(console), { log: (text: string) => lines.push(text) })
      ),
      Effect.provide(NodeServices.layer),
      Effect.result
    )
    const documents = parseAllDocuments(lines.join("\n")).map((document) => {
      assert.deepStrictEqual(document.errors, [])
      return document.toJS()
    })
    return { result, documents }
  })

const invoices = ["--name", "invoices", "--image", "invoices:1"]

describe("manifest", () => {
  it.effect("prints everything that a service needs, each part fitting the others", () =>
    Effect.gen(function*() {
      const { documents } = yield* run(...invoices, "--namespace", "billing", "--service-account", "accountant")
      const [account, role, binding, budget, deployment] = documents
      assert.deepStrictEqual(documents.map(({ kind }) => kind), [
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "PodDisruptionBudget",
        "Deployment"
      ])
      assert.isTrue(documents.every(({ metadata }) => metadata.namespace === "billing"))
      assert.strictEqual(account.metadata.name, "accountant")
      assert.deepStrictEqual(binding.subjects, [{ kind: "ServiceAccount", name: "accountant", namespace: "billing" }])
      assert.strictEqual(binding.roleRef.name, role.metadata.name)
      assert.strictEqual(deployment.spec.template.spec.serviceAccountName, "accountant")
      assert.deepStrictEqual(budget.spec.selector, deployment.spec.selector)
      assert.deepStrictEqual(deployment.spec.selector.matchLabels, deployment.spec.template.metadata.labels)
    }))

  it.effect("grants what an election needs, and nothing else", () =>
    Effect.gen(function*() {
      const rules = (documents: ReadonlyArray<any>) =>
        documents[1].rules.map(({ resourceNames, verbs }: any) => [verbs, resourceNames])
      assert.deepStrictEqual(rules((yield* run(...invoices)).documents), [
        [["create"], undefined],
        [["get", "patch", "watch"], ["invoices"]]
      ])
      assert.deepStrictEqual(rules((yield* run(...invoices, "--no-watch")).documents)[1], [["get", "patch"], [
        "invoices"
      ]])
    }))

  it.effect("sets the variables that the options stand for, and the Pod's", () =>
    Effect.gen(function*() {
      const names = (documents: ReadonlyArray<any>) =>
        documents[4].spec.template.spec.containers[0].env.map(({ name, value, valueFrom }: any) =>
          `${name}=${value ?? valueFrom.fieldRef.fieldPath}`
        )
      const pod = ["POD_NAME=metadata.name", "POD_UID=metadata.uid", "POD_NAMESPACE=metadata.namespace"]
      assert.deepStrictEqual(names((yield* run(...invoices)).documents), ["LEADER_ELECTION_NAME=invoices", ...pod])
      assert.deepStrictEqual(
        names((yield* run(...invoices, "--no-watch", "--lease-duration", "1m")).documents),
        [
          "LEADER_ELECTION_NAME=invoices",
          "LEADER_ELECTION_LEASE_DURATION=60s",
          "LEADER_ELECTION_WATCH=false",
          ...pod
        ]
      )
      // A crowd on one Lease. Shards are shared out otherwise, and a few draw nothing.
      assert.include(names((yield* run(...invoices, "--replicas", "9")).documents), "LEADER_ELECTION_CANDIDATES=9")
      for (const options of [["--replicas", "8"], ["--replicas", "9", "--shards"]]) {
        const { documents } = yield* run(...invoices, ...options)
        assert.notInclude(names(documents).join(), "CANDIDATES")
      }
    }))

  it.effect("lets Pods pass PodSecurity restricted and a quota, each container of them", () =>
    Effect.gen(function*() {
      for (const options of [[], ["--sidecar", "le:1", "--probe-port", "8080"], ["--many", "--events"]]) {
        const { documents } = yield* run(...invoices, ...options)
        const { containers, initContainers = [], securityContext } = documents.at(-1).spec.template.spec
        assert.deepStrictEqual(securityContext.seccompProfile, { type: "RuntimeDefault" })
        assert.isTrue(securityContext.runAsNonRoot)
        for (const container of [...containers, ...initContainers]) {
          assert.isFalse(container.securityContext.allowPrivilegeEscalation)
          assert.deepStrictEqual(container.securityContext.capabilities, { drop: ["ALL"] })
          assert.containsAllKeys(container.resources.requests, ["cpu", "memory"])
          assert.containsAllKeys(container.resources.limits, ["memory"])
        }
      }
    }))

  it.effect("asks the probes that there are", () =>
    Effect.gen(function*() {
      const plain = (yield* run(...invoices)).documents.at(-1).spec.template.spec
      assert.notProperty(plain.containers[0], "livenessProbe")
      const probed = (yield* run(...invoices, "--probe-port", "8080")).documents.at(-1).spec.template.spec
      assert.deepStrictEqual(probed.containers[0].livenessProbe.httpGet, { path: "/livez", port: 8080 })
      assert.deepStrictEqual(probed.containers[0].readinessProbe.httpGet, { path: "/readyz", port: 8080 })
    }))

  it.effect("puts serve beside the program, and the election's variables there", () =>
    Effect.gen(function*() {
      const { documents } = yield* run(...invoices, "--sidecar", "le:1", "--statsd", "[fd00::1]:9125")
      const { containers, initContainers, terminationGracePeriodSeconds } = documents.at(-1).spec.template.spec
      const [sidecar] = initContainers
      assert.strictEqual(sidecar.image, "le:1")
      assert.strictEqual(sidecar.restartPolicy, "Always")
      assert.deepStrictEqual(sidecar.args, ["serve", "--metrics-port", "9090", "--statsd", "[fd00::1]:9125"])
      assert.strictEqual(sidecar.livenessProbe.httpGet.port, sidecar.ports[0].name)
      assert.strictEqual(sidecar.ports[0].containerPort, 9090)
      assert.deepStrictEqual(sidecar.env.map(({ name }: any) => name), [
        "LEADER_ELECTION_NAME",
        "POD_NAME",
        "POD_UID",
        "POD_NAMESPACE"
      ])
      assert.deepStrictEqual(containers[0].env, [{ name: "LEADER_ELECTION_URL", value: "http://127.0.0.1:4040" }])
      // The validity that it has given out, 10 s, is waited for.
      assert.strictEqual(terminationGracePeriodSeconds, 40)
    }))

  it.effect("sets the StatsD server, grants Events, and Leases of any name", () =>
    Effect.gen(function*() {
      const { documents } = yield* run(...invoices, "--statsd", "statsd", "--events", "--many")
      const [, role, , schema] = documents
      assert.deepStrictEqual(
        role.rules.map(({ resourceNames, resources, verbs }: any) => [
          resources,
          verbs,
          resourceNames
        ]),
        [
          [["leases"], ["create", "get", "patch", "watch"], undefined],
          [["events"], ["create"], undefined]
        ]
      )
      assert.strictEqual(schema.kind, "FlowSchema")
      assert.deepStrictEqual(documents.at(-1).spec.template.spec.containers[0].env.map(({ name }: any) => name), [
        "POD_NAME",
        "POD_UID",
        "POD_NAMESPACE",
        "STATSD_HOST"
      ])
    }))

  it("leaves time for the program's end, and for the release after it", () => {
    // Release: two pauses of 2 s and a last attempt of 2 s.
    assert.strictEqual(gracePeriod(Duration.seconds(20), Duration.seconds(15)), 30)
    assert.strictEqual(gracePeriod(Duration.minutes(5), Duration.seconds(60)), 300 + 24 + 4)
    assert.strictEqual(gracePeriod(Duration.millis(500), Duration.seconds(5)), 7)
  })

  it.effect("quotes what YAML would read as something else", () =>
    Effect.gen(function*() {
      const { documents } = yield* run("--name", "123", "--image", "0x10", "--namespace", "1e3")
      assert.strictEqual(documents[4].metadata.name, "123")
      assert.strictEqual(documents[4].metadata.namespace, "1e3")
      assert.strictEqual(documents[4].spec.template.spec.containers[0].image, "0x10")
    }))

  const refused: ReadonlyArray<readonly [args: ReadonlyArray<string>, message: RegExp]> = [
    [["--name", "Invoices", "--image", "x"], /--name is "Invoices": give at most 63/],
    [["--name", "a.b", "--image", "x"], /--name is "a\.b"/],
    [["--name", "a", "--image", "x", "--service-account", "A"], /--service-account is "A"/],
    [["--name", "a", "--image", "x", "--namespace", "a.b"], /--namespace is "a\.b".*such as --namespace default$/],
    [["--name", "a", "--image", "x", "-n", ""], /: --namespace is set, but empty: give the namespace/],
    [["--name", "a", "--image", ""], /--image is "": give an image/],
    [["--name", "a", "--image", "x y"], /--image is "x y": give an image/],
    [["--name", "a", "--image", "x", "--sidecar", "x y"], /--sidecar is "x y": give an image/],
    [["--name", "a", "--image", "x", "--sidecar", "y", "--probe-port", "9090"], /--probe-port is 9090.*sidecar's/],
    [["--name", "a", "--image", "x", "--sidecar", "y", "--probe-port", "4040"], /--probe-port is 4040.*sidecar's/],
    [["--name", "a", "--image", "x", "--shards", "--many"], /--shards and --many do not go together/],
    [["--name", "a", "--image", "x", "--shards", "--no-watch"], /--shards and --no-watch do not go together/],
    [["--name", "A", "--image", "", "-n", "B"], /--name is "A".*\n.*--image is "".*\n.*--namespace is "B"/],
    [["--name", "a", "--image", "x", "--sidecar", "y", "--events"], /--events and --sidecar do not go together/],
    [["--name", "a", "--image", "x", "--sidecar", "y", "--many"], /--many and --sidecar do not go together/],
    [
      ["--name", "a", "--image", "x", "--lease-duration", "1500ms"],
      /--lease-duration is 1\.5s: a Lease holds whole seconds/
    ]
  ]
  it.effect.each(refused)(
    "refuses what cannot work, and names the flag: %s",
    ([args, message]) =>
      Effect.gen(function*() {
        const { documents, result } = yield* run(...args)
        assert.isTrue(result._tag === "Failure")
        assert.match(result._tag === "Failure" ? result.failure.message : "", message)
        assert.deepStrictEqual(documents, [])
      })
  )
})
