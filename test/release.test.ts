/**
 * The command that makes a release ready, in a clone of its own; without the check of the package, which takes minutes.
 */
import { assert, it } from "@effect/vitest"
import { spawnSync } from "node:child_process"
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))

it("a release is made ready by one command, and refused where something is missing", () => {
  const directory = mkdtempSync(join(tmpdir(), "release-"))
  const run = (command: string, ...args: ReadonlyArray<string>) => {
    const { status, stderr, stdout } = spawnSync(command, args, { cwd: directory, encoding: "utf8" })
    return { status, output: `${stdout}${stderr}` }
  }
  const release = (...args: ReadonlyArray<string>) =>
    run(process.execPath, "scripts/release.ts", "--skip-package-check", ...args)
  const succeed = (...args: Parameters<typeof run>) => {
    const { output, status } = run(...args)
    assert.strictEqual(status, 0, output)
    return output
  }
  try {
    succeed("git", "init", "--quiet", "--initial-branch=main")
    for (const file of ["package.json", "package-lock.json", "scripts/release.ts"]) {
      cpSync(join(root, file), join(directory, file))
    }
    const commit = () => {
      succeed("git", "add", "--all")
      succeed("git", "-c", "user.name=test", "-c", "user.email=test@example.com", "commit", "--quiet", "-m", "x")
    }
    for (const name of ["user.name", "user.email"]) {
      succeed("git", "config", name, "test@example.com")
    }
    writeFileSync(join(directory, "CHANGELOG.md"), "# Changelog\n\n## 9.8.7 (unreleased)\n\n- x\n")
    assert.include(release("9.8.7").output, "commit first")
    commit()

    assert.include(release("soon").output, "soon is not a version")
    assert.include(release("0.0.1").output, "0.0.1 is not newer than")
    assert.include(release("9.9.9").output, `CHANGELOG.md has no entry "## 9.9.9 (unreleased)"`)
    assert.include(release("--check", "9.8.7").output, "package.json has version")
    const manifest = JSON.parse(readFileSync(join(directory, "package.json"), "utf8"))
    if (manifest.repository === undefined) {
      assert.include(release("9.8.7").output, "add --repository OWNER/NAME")
      // Nothing is left of the attempt.
      assert.strictEqual(succeed("git", "status", "--porcelain"), "")
    }

    const { output, status } = release("9.8.7", "--repository", "example/elections")
    assert.strictEqual(status, 0, output)
    assert.include(output, "9.8.7 is ready. Publish it with: git push --follow-tags")
    assert.include(release("--check", "9.8.7").output, "This commit is 9.8.7")
    assert.strictEqual(succeed("git", "tag").trim(), "v9.8.7")
    assert.match(readFileSync(join(directory, "CHANGELOG.md"), "utf8"), /^## 9\.8\.7 \(\d{4}-\d\d-\d\d\)$/m)
    const released = JSON.parse(readFileSync(join(directory, "package.json"), "utf8"))
    assert.deepInclude(released, { version: "9.8.7", homepage: "https://github.com/example/elections#readme" })
    assert.strictEqual(Object.keys(released)[0], "name")
    assert.strictEqual(JSON.parse(readFileSync(join(directory, "package-lock.json"), "utf8")).version, "9.8.7")
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
})
