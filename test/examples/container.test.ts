/**
 * The example of a container image, as far as it can be checked without npm and an API server; the rest is in
 * test/cluster/examples.test.ts.
 */
import { assert, describe, it } from "@effect/vitest"
import { readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { parseAllDocuments } from "yaml"
import { commandOf, parse } from "./Dockerfile.ts"

const root = fileURLToPath(new URL("../..", import.meta.url))
const read = (path: string) => readFileSync(`${root}/${path}`, "utf8")

describe("examples/container", () => {
  const last = parse(read("examples/container/Dockerfile")).at(-1)!

  it("its image is plain Node, builds nothing, and is not root", () => {
    assert.match(last.image, /^node:\d+-slim$/)
    assert.deepStrictEqual(last.instructions.filter(({ keyword }) => keyword === "RUN"), [])
    assert.isAbove(Number(last.instructions.find(({ keyword }) => keyword === "USER")?.text), 0)
    assert.strictEqual(commandOf(last)[0], "node")
  })

  it("its dependencies are those of the package", () => {
    const own = JSON.parse(read("package.json"))
    const { dependencies, devDependencies } = JSON.parse(read("examples/container/package.json"))
    const expected = { ...own.devDependencies, [own.name]: own.version }
    for (const [name, version] of Object.entries({ ...dependencies, ...devDependencies })) {
      assert.strictEqual(version, expected[name], name)
    }
  })

  it("its Deployment asks the port that the image listens on, and not for the leader", () => {
    const objects = parseAllDocuments(read("examples/container/deployment.yaml")).map((document) => document.toJS())
    const { containers } = objects.find(({ kind }) => kind === "Deployment").spec.template.spec
    const [port] = containers[0].ports
    assert.strictEqual(last.instructions.find(({ keyword }) => keyword === "EXPOSE")?.text, String(port.containerPort))
    assert.strictEqual(containers[0].readinessProbe.httpGet.path, "/readyz")
    assert.strictEqual(containers[0].livenessProbe.httpGet.path, "/livez")
    assert.deepStrictEqual(
      [containers[0].readinessProbe, containers[0].livenessProbe].map(({ httpGet }) => httpGet.port),
      [
        port.name,
        port.name
      ]
    )
  })
})
