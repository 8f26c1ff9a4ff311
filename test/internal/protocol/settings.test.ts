import { assert, describe, it } from "@effect/vitest"
import { Duration, Result } from "effect"
import { defaults, type Environment, resolve, type Resolved } from "../../../src/internal/protocol/settings.ts"
import { defaultsFor, type Input, type Settings, toEnvironment } from "../../../src/LeaderElectionConfig.ts"

type Variables = Readonly<Record<string, string>>
type Facts = Partial<Omit<Environment, "variables">>

const inCluster: Variables = {
  KUBERNETES_SERVICE_HOST: "10.96.0.1",
  POD_NAME: "web-7d4b9-abcde",
  POD_UID: "0b5e7a3c-6c1f-4a56-9d7e-0a8f3c2b1d00",
  POD_NAMESPACE: "shop"
}

const environment = (variables: Variables, facts: Facts = {}): Environment => ({
  variables,
  credentialsNamespace: undefined,
  credentialsOrigin: "pod",
  process: { hostName: "laptop", processId: 42 },
  random: "00c0ffee00",
  ...facts
})

const succeed = (input: Input, variables: Variables, facts?: Facts): Resolved =>
  Result.getOrThrowWith(resolve(input, environment(variables, facts)), (problems) => new Error(problems.join("\n")))

const settings = (input: Input, variables: Variables, facts?: Facts): Settings =>
  succeed(input, variables, facts).settings

const problems = (input: Input, variables: Variables, facts?: Facts): ReadonlyArray<string> => {
  const result = resolve(input, environment(variables, facts))
  assert(Result.isFailure(result), "expected problems")
  return result.failure
}

describe("settings", () => {
  describe("defaults", () => {
    it("are those of a lease of 15 seconds", () => {
      assert.deepStrictEqual(defaults, {
        leaseDuration: Duration.seconds(15),
        renewInterval: Duration.seconds(5),
        renewDeadline: Duration.seconds(10),
        retryPeriod: Duration.seconds(2),
        requestTimeout: Duration.seconds(2),
        newLease: "wait",
        watch: true
      })
    })

    it.each<[leaseDuration: number, interval: string, deadline: string, retry: string]>([
      [2, "666666666 nanos", "1333333333 nanos", "266666666 nanos"],
      [5, "1666666666 nanos", "3333333333 nanos", "666666666 nanos"],
      [30, "10000 millis", "20000 millis", "4000 millis"],
      [75, "25000 millis", "50000 millis", "10000 millis"],
      [600, "200000 millis", "400000 millis", "10000 millis"]
    ])("derive from a leaseDuration of %d s, and keep the rules", (seconds, interval, deadline, retry) => {
      const leaseDuration = Duration.seconds(seconds)
      const resolved = settings({ name: "jobs", leaseDuration }, inCluster)
      assert.strictEqual(resolved.renewInterval.toString(), interval)
      assert.strictEqual(resolved.renewDeadline.toString(), deadline)
      assert.strictEqual(resolved.retryPeriod.toString(), retry)
      assert.strictEqual(resolved.requestTimeout.toString(), retry)
      const { identity: _i, name: _n, namespace: _s, pod: _p, ...rest } = resolved
      assert.deepStrictEqual(rest, defaultsFor(leaseDuration))
    })

    it("follow from a leaseDuration as settings are written, and from nothing else", () => {
      assert.deepStrictEqual(defaultsFor("30s"), defaultsFor("30 seconds"))
      for (const leaseDuration of [0, Number.NaN, -1, "soon", "1.5s", Duration.infinity]) {
        assert.throws(() => defaultsFor(leaseDuration), /leaseDuration is /)
      }
    })

    it("keep the rules at the largest leaseDuration", () => {
      assert.strictEqual(
        Duration.toSeconds(
          settings({ name: "jobs" }, { ...inCluster, LEADER_ELECTION_LEASE_DURATION: "2147483647" })
            .leaseDuration
        ),
        2147483647
      )
    })

    it("derive requestTimeout from a given retryPeriod", () => {
      assert.deepStrictEqual(
        settings({ name: "jobs", retryPeriod: "1 second" }, inCluster).requestTimeout,
        Duration.seconds(1)
      )
    })
  })

  describe("the namespace", () => {
    const variables = { LEADER_ELECTION_NAMESPACE: "variable", POD_NAMESPACE: "pod" }
    const namespace = (
      given: string | undefined,
      origin: Environment["credentialsOrigin"],
      credentialsNamespace: string | undefined,
      ...names: ReadonlyArray<keyof typeof variables>
    ) =>
      settings(
        { name: "jobs", namespace: given },
        Object.fromEntries(names.map((name) => [name, variables[name]])),
        { credentialsNamespace, credentialsOrigin: origin }
      ).namespace

    it.each(["pod", "given", "found"] as const)("is the option, then its variable (credentials: %s)", (origin) => {
      assert.strictEqual(
        namespace("option", origin, "theirs", "LEADER_ELECTION_NAMESPACE", "POD_NAMESPACE"),
        "option"
      )
      assert.strictEqual(
        namespace(undefined, origin, "theirs", "LEADER_ELECTION_NAMESPACE", "POD_NAMESPACE"),
        "variable"
      )
      assert.strictEqual(namespace(undefined, origin, "theirs"), "theirs")
      assert.strictEqual(namespace(undefined, origin, undefined, "POD_NAMESPACE"), "pod")
    })

    it("is then that of a kubeconfig that was asked for, before POD_NAMESPACE, but of no other credentials", () => {
      assert.strictEqual(namespace(undefined, "given", "theirs", "POD_NAMESPACE"), "theirs")
      assert.strictEqual(namespace(undefined, "found", "theirs", "POD_NAMESPACE"), "pod")
      assert.strictEqual(namespace(undefined, "pod", "theirs", "POD_NAMESPACE"), "pod")
    })
  })

  describe("with credentials that are not the Pod's own", () => {
    const elsewhere: Facts = { credentialsNamespace: "theirs", credentialsOrigin: "given" }
    const notice =
      "The Lease does not name this Pod as its owner, because the credentials are not those of the Pod's " +
      "own service account: in another cluster Kubernetes would find no such Pod, and delete the Lease"

    it("names no owner, and says so once", () => {
      for (const origin of ["given", "found"] as const) {
        const resolved = succeed({ name: "jobs", namespace: "shop" }, inCluster, {
          ...elsewhere,
          credentialsOrigin: origin
        })
        assert.isUndefined(resolved.settings.pod)
        assert.strictEqual(
          resolved.settings.identity,
          "web-7d4b9-abcde_0b5e7a3c-6c1f-4a56-9d7e-0a8f3c2b1d00"
        )
        assert.deepStrictEqual([resolved.warnings, resolved.notices], [[], [notice]])
      }
      assert.deepStrictEqual(succeed({ name: "jobs" }, inCluster).notices, [])
    })

    it("needs no POD_NAME and POD_UID inside a cluster", () => {
      const resolved = succeed({ name: "jobs" }, { KUBERNETES_SERVICE_HOST: "10.96.0.1", POD_NAME: "web" }, elsewhere)
      assert.strictEqual(resolved.settings.namespace, "theirs")
      assert.strictEqual(resolved.settings.identity, "laptop_42_00c0ffee00")
      assert.deepStrictEqual(resolved.notices, [notice])
    })

    it("says nothing outside of any Pod", () => {
      assert.deepStrictEqual(succeed({ name: "jobs" }, {}, elsewhere).notices, [])
    })
  })

  describe("inside a cluster", () => {
    it("needs nothing but the name and the Pod", () => {
      assert.deepStrictEqual(succeed({}, { ...inCluster, LEADER_ELECTION_NAME: "jobs" }), {
        settings: {
          ...defaults,
          namespace: "shop",
          name: "jobs",
          identity: "web-7d4b9-abcde_0b5e7a3c-6c1f-4a56-9d7e-0a8f3c2b1d00",
          pod: { name: "web-7d4b9-abcde", uid: "0b5e7a3c-6c1f-4a56-9d7e-0a8f3c2b1d00" }
        },
        warnings: [],
        notices: []
      })
    })

    it("shows the downward API's lines for what is missing, also when an identity is given", () => {
      const found = problems({ name: "jobs", identity: "me" }, { KUBERNETES_SERVICE_HOST: "10.96.0.1" })
      assert.strictEqual(found.length, 3)
      for (const [variable, path] of [["POD_NAME", "name"], ["POD_UID", "uid"], ["POD_NAMESPACE", "namespace"]]) {
        const line = `{ name: ${variable}, valueFrom: { fieldRef: { fieldPath: metadata.${path} } } }`
        assert.strictEqual(found.filter((problem) => problem.includes(line)).length, 1, variable)
      }
    })

    it("takes the Pod from the program before the environment", () => {
      const resolved = settings({ name: "jobs", pod: { name: "a", uid: "1" } }, inCluster)
      assert.deepStrictEqual(resolved.pod, { name: "a", uid: "1" })
      assert.strictEqual(resolved.identity, "a_1")
    })

    it.each<[name: string, input: Input, variables: Variables, credentials: string | undefined, namespace: string]>([
      ["the program's", { namespace: "a" }, { LEADER_ELECTION_NAMESPACE: "b", POD_NAMESPACE: "c" }, "d", "a"],
      ["the variable's", {}, { LEADER_ELECTION_NAMESPACE: "b", POD_NAMESPACE: "c" }, "d", "b"],
      ["the Pod's", {}, { POD_NAMESPACE: "c" }, "d", "c"],
      ["the credentials'", {}, {}, "d", "d"]
    ])("uses %s namespace", (_, input, variables, credentialsNamespace, namespace) => {
      const { POD_NAMESPACE: _p, ...pod } = inCluster
      assert.strictEqual(
        settings({ ...input, name: "jobs" }, { ...pod, ...variables }, { credentialsNamespace }).namespace,
        namespace
      )
    })

    it.each<[variables: Variables, facts: Facts]>([
      [inCluster, {}],
      [{ ...inCluster, POD_NAMESPACE: "" }, { credentialsNamespace: "shop" }]
    ])("names no owner in another namespace, and warns", (variables, facts) => {
      const { settings, warnings } = succeed({ name: "jobs", namespace: "other" }, variables, facts)
      assert.strictEqual(settings.pod, undefined)
      assert.strictEqual(settings.identity, "web-7d4b9-abcde_0b5e7a3c-6c1f-4a56-9d7e-0a8f3c2b1d00")
      assert.strictEqual(warnings.length, 1)
      assert.include(warnings[0], `"other", but this Pod is in "shop"`)
    })
  })

  describe("outside a cluster", () => {
    it("makes the identity from host, process and a random part", () => {
      const resolved = settings({ name: "jobs" }, {}, { credentialsNamespace: "dev" })
      assert.strictEqual(resolved.identity, "laptop_42_00c0ffee00")
      assert.strictEqual(resolved.namespace, "dev")
      assert.strictEqual(resolved.pod, undefined)
    })

    it("knows the Pod where both of its variables are given", () => {
      const variables = { POD_NAME: "a", POD_UID: "1", KUBERNETES_SERVICE_HOST: "" }
      const resolved = settings({ name: "jobs", namespace: "dev" }, variables)
      assert.deepStrictEqual(resolved.pod, { name: "a", uid: "1" })
      assert.strictEqual(resolved.identity, "a_1")
    })

    it("does not take the kubeconfig's namespace for the Pod's", () => {
      const variables = { POD_NAME: "a", POD_UID: "1" }
      const { settings, warnings } = succeed({ name: "jobs", namespace: "dev" }, variables, {
        credentialsNamespace: "other"
      })
      assert.deepStrictEqual(settings.pod, { name: "a", uid: "1" })
      assert.deepStrictEqual(warnings, [])
    })

    it.each<[variables: Variables, missing: string]>([
      [{ POD_NAME: "a" }, "pod.uid (POD_UID) is not set"],
      [{ POD_UID: "1" }, "pod.name (POD_NAME) is not set"]
    ])("refuses half a Pod: %j", (variables, missing) => {
      const found = problems({ name: "jobs", namespace: "dev" }, variables)
      assert.strictEqual(found.length, 1)
      assert.include(found[0], missing)
    })

    it("asks for a namespace where none is known", () => {
      for (const credentialsNamespace of [undefined, ""]) {
        const found = problems({ name: "jobs" }, {}, { credentialsNamespace })
        assert.strictEqual(found.length, 1)
        assert.include(found[0], "namespace (LEADER_ELECTION_NAMESPACE) is not set")
      }
    })
  })

  describe("the environment", () => {
    const read = (variables: Variables) => settings({}, { ...inCluster, LEADER_ELECTION_NAME: "jobs", ...variables })

    it("has every setting", () => {
      assert.deepStrictEqual(
        read({
          LEADER_ELECTION_NAMESPACE: "shop",
          LEADER_ELECTION_IDENTITY: "me",
          LEADER_ELECTION_LEASE_DURATION: "1m30s",
          LEADER_ELECTION_RENEW_INTERVAL: "20",
          LEADER_ELECTION_RENEW_DEADLINE: "50 seconds",
          LEADER_ELECTION_RETRY_PERIOD: "2.5",
          LEADER_ELECTION_REQUEST_TIMEOUT: "1500ms",
          LEADER_ELECTION_NEW_LEASE: "lead",
          LEADER_ELECTION_WATCH: "false"
        }),
        {
          namespace: "shop",
          name: "jobs",
          identity: "me",
          pod: { name: "web-7d4b9-abcde", uid: "0b5e7a3c-6c1f-4a56-9d7e-0a8f3c2b1d00" },
          leaseDuration: Duration.seconds(90),
          renewInterval: Duration.seconds(20),
          renewDeadline: Duration.seconds(50),
          retryPeriod: Duration.millis(2500),
          requestTimeout: Duration.millis(1500),
          newLease: "lead",
          watch: false
        }
      )
    })

    it("gives way to what the program names, and only to that", () => {
      const variables = {
        ...inCluster,
        LEADER_ELECTION_NAME: "env",
        LEADER_ELECTION_IDENTITY: "env",
        LEADER_ELECTION_LEASE_DURATION: "60",
        LEADER_ELECTION_NEW_LEASE: "lead",
        LEADER_ELECTION_WATCH: "false"
      }
      const input: Input = {
        name: "code",
        identity: "code",
        leaseDuration: "30 seconds",
        newLease: "wait",
        watch: true
      }
      assert.deepStrictEqual(settings(input, variables), {
        ...defaultsFor("30 seconds"),
        namespace: "shop",
        name: "code",
        identity: "code",
        pod: settings({}, variables).pod
      })
      assert.strictEqual(settings({ ...input, watch: undefined }, variables).watch, false)
      assert.deepStrictEqual(settings({ name: "code" }, variables).leaseDuration, Duration.seconds(60))
    })

    it.each(
      [["true", true], ["True", true], ["FALSE", false], ["yes", true], ["1", true], ["off", false], [
        "0",
        false
      ]] as const
    )(
      "reads watch %j",
      (text, watch) => {
        assert.strictEqual(read({ LEADER_ELECTION_WATCH: text }).watch, watch)
      }
    )

    it.each<Settings>([
      settings({ name: "jobs" }, inCluster),
      settings({ name: "jobs", leaseDuration: "2 seconds", newLease: "lead", watch: false }, inCluster),
      settings({ name: "jobs", leaseDuration: "7 seconds", identity: "me" }, inCluster),
      settings({ name: "jobs.v1", namespace: "other", leaseDuration: "10 minutes" }, inCluster)
    ])("has the settings that were written to it: %#", (written) => {
      assert.deepStrictEqual(settings({}, { ...inCluster, ...toEnvironment(written) }), written)
    })
  })

  describe("problems", () => {
    const base: Variables = { ...inCluster, LEADER_ELECTION_NAME: "jobs" }
    const long = (length: number) => "a".repeat(length)

    it.each<[name: string, input: Input, variables: Variables, expected: ReadonlyArray<string>]>([
      // name
      ["no name", {}, { LEADER_ELECTION_NAME: "-" }, [`name (LEADER_ELECTION_NAME) is "-": give the name`]],
      ["empty name", { name: "" }, {}, ["name (LEADER_ELECTION_NAME) is set, but empty: give the name"]],
      ["empty variable", {}, { LEADER_ELECTION_NAME: "" }, ["name (LEADER_ELECTION_NAME) is set, but empty"]],
      ["capital letters", { name: "Jobs" }, {}, [`is "Jobs"`]],
      ["underscore", { name: "my_jobs" }, {}, [`is "my_jobs"`]],
      ["line end", { name: "jobs\n" }, {}, [`is "jobs\\n"`]],
      ["double point", { name: "a..b" }, {}, [`is "a..b"`]],
      ["long name", { name: long(254) }, {}, ["at most 253"]],
      ["undefined name", { name: "undefined" }, {}, ["a value that it was made from is missing"]],
      // namespace
      ["empty namespace", { namespace: "" }, {}, ["namespace (LEADER_ELECTION_NAMESPACE) is set, but empty"]],
      ["namespace with a point", { namespace: "a.b" }, {}, [`namespace (LEADER_ELECTION_NAMESPACE) is "a.b"`]],
      ["long namespace", { namespace: long(64) }, {}, ["namespace (LEADER_ELECTION_NAMESPACE) is"]],
      ["bad POD_NAMESPACE", {}, { POD_NAMESPACE: "A" }, [`namespace (POD_NAMESPACE) is "A"`]],
      ["empty POD_NAMESPACE", {}, { POD_NAMESPACE: "" }, ["namespace (POD_NAMESPACE) is set, but empty"]],
      // pod
      ["empty POD_NAME", {}, { POD_NAME: "" }, ["pod.name (POD_NAME) is set, but empty: add"]],
      ["empty POD_UID", {}, { POD_UID: "" }, ["pod.uid (POD_UID) is set, but empty: add"]],
      ["undefined POD_UID", {}, { POD_UID: "undefined" }, [`pod.uid (POD_UID) is "undefined"`]],
      ["bad POD_UID", {}, { POD_UID: "a b" }, [`pod.uid (POD_UID) is "a b"`]],
      ["bad POD_NAME", {}, { POD_NAME: "$(HOSTNAME)" }, [`pod.name (POD_NAME) is "$(HOSTNAME)": the variable`]],
      ["half a Pod", { pod: { name: "a", uid: "" } }, {}, ["pod.uid (POD_UID) is set, but empty"]],
      // identity
      ["empty identity", { identity: "" }, {}, ["identity (LEADER_ELECTION_IDENTITY) is set, but empty"]],
      ["white identity", { identity: " \n" }, {}, [`is " \\n", only white space: give every process its own`]],
      ["undefined identity", { identity: "undefined" }, {}, [`is "undefined": a value`]],
      ["null identity", { identity: "null" }, {}, [`is "null": a value`]],
      ["undefined twice", { identity: "undefined_undefined" }, {}, [`is "undefined_undefined": a value`]],
      ["unexpanded", {}, { LEADER_ELECTION_IDENTITY: "$(POD_NAME)_x" }, [`is "$(POD_NAME)_x": the variable in it`]],
      ["shell syntax", {}, { LEADER_ELECTION_IDENTITY: "${POD_NAME}" }, ["the variable in it was not replaced"]],
      ["long identity", { identity: long(1025) }, {}, ["has 1025 characters, and at most 1024 are allowed"]],
      // single durations
      ["text", {}, { LEADER_ELECTION_LEASE_DURATION: "soon" }, [
        `leaseDuration (LEADER_ELECTION_LEASE_DURATION) is "soon": write it as 15s, 500ms, 1m30s, 15 seconds`
      ]],
      ["empty", {}, { LEADER_ELECTION_LEASE_DURATION: "" }, [
        "leaseDuration (LEADER_ELECTION_LEASE_DURATION) is set, but"
      ]],
      ["negative text", {}, { LEADER_ELECTION_RETRY_PERIOD: "-5s" }, [
        `(LEADER_ELECTION_RETRY_PERIOD) is "-5s": write`
      ]],
      ["zero text", {}, { LEADER_ELECTION_RETRY_PERIOD: "0s" }, [`is "0s": it must be more than 0, and finite`]],
      ["zero", { renewInterval: 0 }, {}, ["renewInterval (LEADER_ELECTION_RENEW_INTERVAL) is 0 (a number in code is"]],
      ["negative", { requestTimeout: Duration.seconds(-1) }, {}, ["is -1s: it must be more than 0, and finite"]],
      ["infinite", { renewDeadline: Duration.infinity }, {}, ["is Infinity: it must be more than 0, and finite"]],
      ["infinite text", { renewDeadline: "Infinity" }, {}, [`is "Infinity": write it as`]],
      ["not a number", { leaseDuration: Number.NaN }, {}, ["is NaN (a number in code is milliseconds): write it as"]],
      // leaseDuration
      ["half a second", { leaseDuration: "15.5 seconds" }, {}, [
        `is "15.5 seconds": a Lease holds whole seconds, and less than 2 is the mark of a release; give 15s or 16s`
      ]],
      ["below one", {}, { LEADER_ELECTION_LEASE_DURATION: "500ms" }, [
        `is "500ms": a Lease holds whole seconds, and less than 2 is the mark of a release; give 2s`
      ]],
      ["seconds as milliseconds", { leaseDuration: 15 }, {}, [
        "is 15 (a number in code is milliseconds): a Lease holds"
      ]],
      ["too long", {}, { LEADER_ELECTION_LEASE_DURATION: "2147483648" }, [
        `is "2147483648": a Lease holds at most 2147483647s`
      ]],
      // against each other
      ["deadline as long as the lease", { renewDeadline: "15 seconds" }, {}, [
        "renewDeadline must be at most 0.95 × leaseDuration, but 15s > 0.95 × 15s (not given: leaseDuration): no time " +
        "would remain for a program to end before another candidate may lead; lower " +
        "renewDeadline (LEADER_ELECTION_RENEW_DEADLINE) or raise leaseDuration (LEADER_ELECTION_LEASE_DURATION)"
      ]],
      ["B8 deadline just below the lease", { renewDeadline: "14.999 seconds" }, {}, ["14.999s > 0.95 × 15s"]],
      ["a deadline above 0.95 of it", { renewDeadline: "14251 millis" }, {}, ["14.251s > 0.95 × 15s"]],
      ["A4 one second", { leaseDuration: "1 second" }, {}, ["less than 2 is the mark of a release; give 2s"]],
      ["B8 milliseconds meant as seconds", { renewInterval: 5 }, {}, [
        "renewInterval (LEADER_ELECTION_RENEW_INTERVAL) is 5 (a number in code is milliseconds): give 50ms or more"
      ]],
      ["B8 a retryPeriod of 2 ms", { retryPeriod: 2 }, {}, [
        "is 2 (a number in code is milliseconds): give 50ms or more"
      ]],
      ["49 ms", {}, { LEADER_ELECTION_REQUEST_TIMEOUT: "49ms" }, [`is "49ms": give 50ms or more`]],
      ["no time for two attempts", { renewInterval: "7 seconds" }, {}, [
        "renewInterval + the longer of retryPeriod and requestTimeout + requestTimeout must be at most renewDeadline, " +
        "or one hung request costs the term, but 7s + 2s (requestTimeout) + 2s = 11s > 10s (not given: retryPeriod, " +
        "requestTimeout, renewDeadline): lower renewInterval (LEADER_ELECTION_RENEW_INTERVAL), retryPeriod " +
        "(LEADER_ELECTION_RETRY_PERIOD) or requestTimeout (LEADER_ELECTION_REQUEST_TIMEOUT), or raise renewDeadline " +
        "(LEADER_ELECTION_RENEW_DEADLINE)"
      ]],
      ["A6 a retryPeriod longer than the time-out", { retryPeriod: "5 seconds", requestTimeout: "2 seconds" }, {}, [
        "5s + 5s (retryPeriod) + 2s = 12s > 10s"
      ]],
      ["A6 a retryPeriod of an hour", { retryPeriod: "1 hour", requestTimeout: "2 seconds" }, {}, ["> 10s"]],
      ["retryPeriod as time-out", { retryPeriod: "4 seconds" }, {}, ["5s + 4s (requestTimeout) + 4s = 13s > 10s"]],
      [
        "given ones without a lease",
        {
          leaseDuration: "1.5 seconds",
          renewInterval: "2 seconds",
          requestTimeout: "1 second",
          renewDeadline: "3 seconds"
        },
        {},
        ["a Lease holds whole seconds", "2s + 1s (requestTimeout) + 1s = 4s > 3s"]
      ],
      ["nothing derived from a wrong lease", { renewDeadline: "1 minute" }, { LEADER_ELECTION_LEASE_DURATION: "x" }, [
        "leaseDuration (LEADER_ELECTION_LEASE_DURATION)"
      ]],
      // choices
      ["newLease", {}, { LEADER_ELECTION_NEW_LEASE: "Lead" }, [
        `newLease (LEADER_ELECTION_NEW_LEASE) is "Lead": give "wait" or "lead"`
      ]],
      ["empty newLease", {}, { LEADER_ELECTION_NEW_LEASE: "" }, [`is "": give "wait" or "lead"`]],
      ["watch", {}, { LEADER_ELECTION_WATCH: "maybe" }, [`watch (LEADER_ELECTION_WATCH) is "maybe": give "true"`]],
      ["empty watch", {}, { LEADER_ELECTION_WATCH: "" }, [`watch (LEADER_ELECTION_WATCH) is "": give "true"`]],
      ["no candidates", { candidates: 0 }, {}, ["candidates (LEADER_ELECTION_CANDIDATES) is 0: give about"]],
      ["half a candidate", { candidates: 1.5 }, {}, [`is 1.5: give about`]],
      ["candidates without end", { candidates: Infinity }, {}, [`is Infinity: give about`]],
      ["candidates that are no number", { candidates: Number.NaN }, {}, [`is NaN: give about`]],
      ["candidates as text", {}, { LEADER_ELECTION_CANDIDATES: "many" }, [`is "many": give about`]],
      ["no candidates, as text", {}, { LEADER_ELECTION_CANDIDATES: "0" }, [`is "0": give about`]],
      ["candidates with something before", {}, { LEADER_ELECTION_CANDIDATES: "-200" }, [`is "-200": give about`]],
      ["candidates with something after", {}, { LEADER_ELECTION_CANDIDATES: "200 " }, [`is "200 ": give about`]],
      // what the types do not allow
      ...([
        ["a number as identity", { identity: 7 }, [
          "identity (LEADER_ELECTION_IDENTITY) is 7, and not text: give every"
        ]],
        ["a number as name", { name: 5 }, ["name (LEADER_ELECTION_NAME) is 5, and not text: give the name"]],
        ["a list as namespace", { namespace: [] }, ["namespace (LEADER_ELECTION_NAMESPACE) is a list, and not text"]],
        ["a number as note", { note: 5 }, ["note (LEADER_ELECTION_NOTE) is 5, and not text: give at most"]],
        ["a number in a Pod", { pod: { name: 5 } }, ["pod.name (POD_NAME) is 5, and not text: add to"]],
        ["newLease as a choice of two", { newLease: true }, [
          "newLease (LEADER_ELECTION_NEW_LEASE) is true: give \"wait\" or \"lead\""
        ]],
        ["watch as a number", { watch: 1 }, ["watch (LEADER_ELECTION_WATCH) is 1: give \"true\""]],
        ["an empty object as a duration", { leaseDuration: {} }, [
          "leaseDuration (LEADER_ELECTION_LEASE_DURATION) is not a valid duration: write it as"
        ]],
        ["a Date as a duration", { leaseDuration: new Date(0) }, ["is not a valid duration: write it as"]]
      ] as ReadonlyArray<[string, unknown, ReadonlyArray<string>]>).map((
        [name, input, expected]
      ): [string, Input, Variables, ReadonlyArray<string>] => [name, input as Input, {}, expected]),
      ["empty candidates", {}, { LEADER_ELECTION_CANDIDATES: "" }, [`is "": give about`]]
    ])("%s", (_, input, variables, expected) => {
      const found = problems(input, { ...base, ...variables })
      assert.strictEqual(found.length, expected.length, found.join("\n"))
      expected.forEach((part, i) => assert.include(found[i], part))
    })

    it.each<[name: string, input: Input]>([
      ["longest name", { name: `${long(126)}.${long(126)}` }],
      ["longest namespace", { namespace: long(63) }],
      ["longest identity", { identity: long(1024) }],
      ["identity with a missing part", { identity: "web-undefined" }],
      ["identity in another script", { identity: "リーダー" }],
      ["just enough time", { renewInterval: "6 seconds" }],
      ["just at 0.95 of the lease", { renewDeadline: "14250 millis" }],
      ["two seconds", { leaseDuration: "2 seconds" }],
      ["seconds as duration", { leaseDuration: Duration.minutes(1) }]
    ])("none: %s", (_, input) => {
      settings(input, base)
    })

    it("come together", () => {
      const found = problems({}, {
        KUBERNETES_SERVICE_HOST: "10.96.0.1",
        POD_UID: "1",
        LEADER_ELECTION_IDENTITY: "null",
        LEADER_ELECTION_LEASE_DURATION: "15.5s",
        LEADER_ELECTION_RETRY_PERIOD: "often",
        LEADER_ELECTION_NEW_LEASE: "now",
        LEADER_ELECTION_WATCH: "perhaps",
        LEADER_ELECTION_CANDIDATES: "some"
      })
      assert.deepStrictEqual(
        found.map((problem) => problem.split(" ", 2).join(" ")),
        [
          "name (LEADER_ELECTION_NAME)",
          "namespace (LEADER_ELECTION_NAMESPACE)",
          "pod.name (POD_NAME)",
          "identity (LEADER_ELECTION_IDENTITY)",
          "leaseDuration (LEADER_ELECTION_LEASE_DURATION)",
          "retryPeriod (LEADER_ELECTION_RETRY_PERIOD)",
          "newLease (LEADER_ELECTION_NEW_LEASE)",
          "watch (LEADER_ELECTION_WATCH)",
          "candidates (LEADER_ELECTION_CANDIDATES)"
        ]
      )
    })

    it("name the setting, its variable, the value and the remedy, whole", () => {
      const name = "give the name of the Lease, the same for all replicas: at most 253 small letters, digits, " +
        "\"-\" and \".\", such as LEADER_ELECTION_NAME=my-service"
      assert.deepStrictEqual(problems({}, { KUBERNETES_SERVICE_HOST: "10.96.0.1" }), [
        `name (LEADER_ELECTION_NAME) is not set: ${name}`,
        "namespace (LEADER_ELECTION_NAMESPACE) is not set: give the namespace of the Lease, or add to the container's " +
        "env: { name: POD_NAMESPACE, valueFrom: { fieldRef: { fieldPath: metadata.namespace } } }",
        "pod.name (POD_NAME) is not set: in a cluster the Lease names its leader's Pod; add to the container's env: " +
        "{ name: POD_NAME, valueFrom: { fieldRef: { fieldPath: metadata.name } } }",
        "pod.uid (POD_UID) is not set: in a cluster the Lease names its leader's Pod; add to the container's env: " +
        "{ name: POD_UID, valueFrom: { fieldRef: { fieldPath: metadata.uid } } }"
      ])
      assert.deepStrictEqual(problems({ pod: { name: "a", uid: "$(X)" } }, { LEADER_ELECTION_IDENTITY: " " }), [
        `name (LEADER_ELECTION_NAME) is not set: ${name}`,
        "namespace (LEADER_ELECTION_NAMESPACE) is not set: give the namespace of the Lease: at most 63 small letters, " +
        "digits and \"-\", such as LEADER_ELECTION_NAMESPACE=default",
        "pod.uid (POD_UID) is \"$(X)\": the variable in it was not replaced (define it above this one, and write " +
        "$(VARIABLE)): add to the container's env: { name: POD_UID, valueFrom: { fieldRef: { fieldPath: metadata.uid } } }",
        "identity (LEADER_ELECTION_IDENTITY) is \" \", only white space: give every process its own, or none: it is then " +
        "made from POD_NAME and POD_UID"
      ])
      assert.deepStrictEqual(problems({ name: "a", namespace: "b" }, { POD_NAME: "a" }), [
        "pod.uid (POD_UID) is not set: of POD_NAME and POD_UID give both, or neither"
      ])
      assert.deepStrictEqual(problems({ namespace: "A", leaseDuration: "0.5s" }, base), [
        "namespace (LEADER_ELECTION_NAMESPACE) is \"A\": give the namespace of the Lease, or add to the container's env: " +
        "{ name: POD_NAMESPACE, valueFrom: { fieldRef: { fieldPath: metadata.namespace } } }",
        "leaseDuration (LEADER_ELECTION_LEASE_DURATION) is \"0.5s\": a Lease holds whole seconds, and less than 2 is the " +
        "mark of a release; give 2s"
      ])
      assert.deepStrictEqual(problems({ renewInterval: 1n, retryPeriod: Duration.millis(49) }, base), [
        "renewInterval (LEADER_ELECTION_RENEW_INTERVAL) is 1 (a bigint in code is nanoseconds): give 50ms or more (a " +
        "bare number in a variable is seconds, and in code milliseconds)",
        "retryPeriod (LEADER_ELECTION_RETRY_PERIOD) is 49ms: give 50ms or more (a bare number in a variable is " +
        "seconds, and in code milliseconds)"
      ])
    })

    it.each(["\u0000", "a\nb", "a\tb", "\u001b[2J", "\u009b2J", "\ud800", "a\udc00b", "\u007f"])(
      "are characters that cannot be printed, and they are shown escaped: %j",
      (text) => {
        const found = problems({ identity: text, note: text }, base)
        assert.strictEqual(found.length, 2)
        for (const problem of found) {
          assert.match(problem, /^(identity|note) \(\w+\) is ".*", with a line break or another character/)
          assert.notMatch(problem, /[\p{Cc}\p{Cs}]/u)
        }
        assert.strictEqual(settings({ identity: "büro 😀", note: "büro 😀" }, base).identity, "büro 😀")
      }
    )

    it("show at most 300 characters of a value", () => {
      assert.include(problems({ name: `A${long(299)}` }, base)[0]!, `is "A${long(299)}": `)
      assert.include(problems({ name: `A${long(300)}` }, base)[0]!, `is "A${long(299)}…": `)
    })

    it("find no missing part in words that only contain one", () => {
      for (const identity of ["null-1", "undefined.a", "nullable", "--", "a_null"]) {
        assert.strictEqual(settings({ identity }, base).identity, identity)
      }
      for (const identity of ["null.undefined", "-null-", "null/null"]) {
        assert.include(problems({ identity }, base)[0]!, "a value that it was made from is missing")
      }
    })

    it("B8 are warnings where a program has little time to end", () => {
      assert.deepStrictEqual(succeed({ renewDeadline: "13.5s" }, base).warnings, [])
      assert.deepStrictEqual(succeed({ renewDeadline: "13501ms" }, base).warnings, [
        "renewDeadline (LEADER_ELECTION_RENEW_DEADLINE) is 13.501s of 15s: a program that loses its term has only " +
        "749ms to end in before that is an overrun"
      ])
    })

    it.each<[text: string, watch: boolean]>([
      ["true", true],
      ["yes", true],
      ["on", true],
      ["1", true],
      ["y", true],
      ["false", false],
      ["no", false],
      ["off", false],
      ["0", false],
      ["n", false]
    ])("none: watch %j", (text, watch) => {
      assert.strictEqual(settings({}, { ...base, LEADER_ELECTION_WATCH: text }).watch, watch)
    })

    it("are warnings where a lease is short", () => {
      assert.deepStrictEqual(succeed({ leaseDuration: "5 seconds" }, base).warnings, [])
      const { warnings } = succeed({ leaseDuration: "4 seconds" }, base)
      assert.strictEqual(warnings.length, 1)
      assert.include(warnings[0], "leaseDuration (LEADER_ELECTION_LEASE_DURATION) is 4s: below 5s")
    })
  })

  describe("a change of leaseDuration in two rollouts, as the documentation has it", () => {
    const step = (variables: Variables) => settings({ namespace: "a", name: "b" }, { ...inCluster, ...variables })
    const steps = [
      step({ LEADER_ELECTION_LEASE_DURATION: "15s" }),
      step({
        LEADER_ELECTION_LEASE_DURATION: "30s",
        LEADER_ELECTION_RENEW_DEADLINE: "10s",
        LEADER_ELECTION_RENEW_INTERVAL: "5s",
        LEADER_ELECTION_RETRY_PERIOD: "2s"
      }),
      step({ LEADER_ELECTION_LEASE_DURATION: "30s" })
    ]

    it("no candidate's leaseDuration is shorter than another's renewDeadline at any time, in either direction", () => {
      for (const [one, other] of [[steps[0]!, steps[1]!], [steps[1]!, steps[2]!]] as const) {
        assert.isTrue(Duration.isGreaterThan(one.leaseDuration, other.renewDeadline))
        assert.isTrue(Duration.isGreaterThan(other.leaseDuration, one.renewDeadline))
      }
      // In one step it would be.
      assert.isTrue(Duration.isLessThan(steps[0]!.leaseDuration, steps[2]!.renewDeadline))
    })
  })

  describe("the number of candidates", () => {
    const base = { ...inCluster, LEADER_ELECTION_NAME: "jobs" }

    it("is not known where nobody says it", () => {
      assert.notProperty(settings({}, base), "candidates")
    })

    it("comes from the program, else from its variable", () => {
      const variables = { ...base, LEADER_ELECTION_CANDIDATES: "200" }
      assert.strictEqual(settings({}, variables).candidates, 200)
      assert.strictEqual(settings({ candidates: 1 }, variables).candidates, 1)
    })

    it("is refused with its name, variable, value and remedy", () => {
      assert.deepStrictEqual(problems({}, { ...base, LEADER_ELECTION_CANDIDATES: "2e2" }), [
        "candidates (LEADER_ELECTION_CANDIDATES) is \"2e2\": give about how many share the Lease, a whole number, 1 or " +
        "more, or none"
      ])
    })
  })

  describe("the note", () => {
    const given = (note: string) => resolve({ namespace: "a", name: "b", note }, environment({}))

    it("has at most 4096 bytes", () => {
      const longest = "\u{1f600}".repeat(1024)
      assert.strictEqual(Result.getOrThrow(given(longest)).settings.note, longest)
      assert.deepStrictEqual(
        Result.flip(given(`${longest}.`)),
        Result.succeed([
          "note (LEADER_ELECTION_NOTE) has 4097 bytes: give at most 4096 bytes of text, or none"
        ])
      )
    })
  })
})
