/**
 * The declarations that are published, checked as a project checks them that has `skipLibCheck: false`: with `true`,
 * types that cannot be found silently become `any`.
 */
import { assert, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import { globSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))
const directory = join(root, "test/.declarations")

/** What the compiler prints; nothing where it is content. */
const tsc = (...args: ReadonlyArray<string>) =>
  new Promise<string>((resolve) => {
    execFile(
      process.execPath,
      [join(root, "node_modules/typescript/bin/tsc"), ...args],
      { cwd: root },
      (_error, stdout) => resolve(stdout)
    )
  })

it("the declarations have no errors of their own, and name no internal file", { timeout: 60_000 }, async () => {
  rmSync(directory, { recursive: true, force: true })
  const dist = join(directory, "dist")
  assert.strictEqual(await tsc("-p", "tsconfig.build.json", "--emitDeclarationOnly", "--outDir", dist), "")
  const config = join(directory, "tsconfig.json")
  writeFileSync(
    config,
    JSON.stringify({
      compilerOptions: {
        target: "ES2022",
        module: "NodeNext",
        strict: true,
        exactOptionalPropertyTypes: true,
        skipLibCheck: false,
        noEmit: true,
        types: ["node"]
      },
      include: ["dist/**/*.d.ts"]
    })
  )
  assert.strictEqual(await tsc("-p", config), "")
  const internal = globSync(["*.ts", "kubernetes/*.ts", "testing/*.ts"], { cwd: dist }).flatMap((file) =>
    [...readFileSync(join(dist, file), "utf8").matchAll(/from "[^"]*internal[^"]*"/g)].map(([from]) =>
      `${file}: ${from}`
    )
  )
  assert.deepStrictEqual(internal, [])
})
