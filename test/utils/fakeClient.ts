/**
 * A `KubernetesClient` whose answers a test decides, with everything that was asked.
 */
import { Context, Effect, Exit, Layer, Scope } from "effect"
import { KubernetesClient, KubernetesError, LeaderElection } from "effect-kubernetes-leader-election"
import type { candidate } from "./observed.ts"

export interface Request {
  readonly method: string
  readonly path: string
  readonly body: any
}

export const status = (code: number, message = "no", fromApiServer = true) =>
  new KubernetesError.KubernetesStatusError({ status: code, message, fromApiServer, outcomeUnknown: code >= 500 })

export const unreachable = new KubernetesError.KubernetesConnectionError({
  message: "connect ECONNREFUSED",
  code: "ECONNREFUSED",
  outcomeUnknown: false
})

export interface FakeClient {
  readonly requests: Array<Request>
  answer: (request: Request) => Effect.Effect<void, KubernetesError.KubernetesErrorReason>
  readonly layer: Layer.Layer<KubernetesClient.KubernetesClient>
}

/** Answers 200 unless `answer` says otherwise. */
export const makeClient = (): FakeClient => {
  const requests: Array<Request> = []
  const client: FakeClient = {
    requests,
    answer: () => Effect.void,
    layer: Layer.succeed(KubernetesClient.KubernetesClient, {
      server: "fake",
      namespace: undefined,
      origin: "pod",
      stream: () => Effect.die(new Error("no streams here")),
      request: ({ body, method, path }) =>
        Effect.suspend(() => {
          const request = { method, path, body }
          requests.push(request)
          return client.answer(request)
        }).pipe(
          Effect.mapBoth({
            onFailure: (reason) => new KubernetesError.KubernetesError({ method, path, reason }),
            onSuccess: () => ({ status: 200, headers: {}, serverTime: undefined, body: {} })
          })
        )
    })
  }
  return client
}

/** Builds a layer beside a candidate; `stop` ends it. */
export const attach = Effect.fnUntraced(function*(
  { election, run }: Effect.Success<ReturnType<typeof candidate>>,
  client: FakeClient,
  layer: Layer.Layer<never, never, LeaderElection.LeaderElection | KubernetesClient.KubernetesClient>
) {
  const scope = yield* Scope.fork(yield* Scope.Scope)
  yield* run(Layer.buildWithScope(
    layer.pipe(
      Layer.provide(client.layer),
      Layer.provide(Layer.succeedContext(Context.make(LeaderElection.LeaderElection, election)))
    ),
    scope
  ))
  return Scope.close(scope, Exit.void)
})
