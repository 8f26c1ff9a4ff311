import { Effect, Layer } from "effect"
import { LeaseApiServer, MemoryCluster } from "../../src/testing/index.ts"
import * as LeaseApiSuite from "../utils/LeaseApiSuite.ts"

const environment = Layer.effect(
  LeaseApiSuite.Environment,
  Effect.gen(function*() {
    const cluster = yield* MemoryCluster.make({ namespaces: ["suite"] })
    yield* cluster.compact
    const server = yield* LeaseApiServer.make({ cluster })
    const stranger = { token: "stranger", user: "system:serviceaccount:suite:stranger" }
    yield* server.addToken(stranger.token, stranger.user)
    yield* server.forbid({ token: stranger.token }, ["get", "list", "watch", "create", "update", "patch", "delete"])
    return LeaseApiSuite.Environment.of({
      client: LeaseApiSuite.makeClient({ url: server.url, token: server.token }),
      namespace: "suite",
      missingNamespace: "missing",
      stranger
    })
  })
)

LeaseApiSuite.suite("local server", environment)
