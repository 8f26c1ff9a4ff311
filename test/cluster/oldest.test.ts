/**
 * That the API server is the one that was asked for (TEST_KUBERNETES), and that a leader is replaced on it.
 */
import { assert, describe, it } from "@effect/vitest"
import { assertBetween, milliseconds, releasedLease } from "./support/Trial.ts"
import { makeTrials } from "./support/trials.ts"
import { sharedCluster } from "./utils/Testing.ts"

const trial = makeTrials()
const { duration } = milliseconds

describe("Kubernetes as it was asked for", () => {
  it("says its version", async (context) => {
    await using cluster = await sharedCluster()
    const { gitVersion } = await cluster.admin.ok("GET", "/version")
    context.annotate(`Kubernetes ${gitVersion}`)
    if (process.env["TEST_KUBERNETES"] === "oldest") {
      assert.match(gitVersion, /^v1\.30\./)
    }
  })

  trial(
    "replaces a leader that was killed, and one that ended in good order",
    { lease: releasedLease },
    async (trial) => {
      const { follower, leader } = await trial.pair()
      await trial.change()
      await leader.kill()
      const leading = await follower.first("leading")
      const { at } = trial.lastRenewal(leader)
      assertBetween("since the lease's end", leading.at - (at + duration), -200, 1_500)
      assert.strictEqual(leading.cause, "expired")
      const third = await trial.candidate()
      await third.first("following")
      follower.terminate()
      assert.strictEqual((await third.first("leading")).cause, "released")
    }
  )
})
