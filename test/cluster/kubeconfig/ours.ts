/**
 * What this library makes of a kubeconfig, in the words of the oracle.
 */
import { Effect, Result } from "effect"
import { normalize } from "node:path"
import * as ExecPlugin from "../../../src/kubernetes/internal/execPlugin.ts"
import * as Kubeconfig from "../../../src/kubernetes/internal/kubeconfig.ts"
import * as Oidc from "../../../src/kubernetes/internal/oidc.ts"

export interface Question {
  readonly list: string
  readonly explicit: string
  readonly context: string
  readonly env: Readonly<Record<string, string>>
}

export interface Answer {
  readonly refused?: string
  readonly server?: string
  readonly namespace?: string
  readonly tls?: {
    readonly ca: string
    readonly cert: string
    readonly key: string
    readonly servername: string
    readonly insecure: boolean
  }
  readonly headers?: Readonly<Record<string, ReadonlyArray<string>>>
  readonly proxy?: string
  readonly exec?: {
    readonly command: string
    readonly args: ReadonlyArray<string> | null
    readonly env: ReadonlyArray<string> | null
    readonly interactiveMode: string
    readonly info: unknown
  }
}

const none = () => Promise.reject(new Error("nothing is fetched here"))

export const resolve = (question: Question): Effect.Effect<Answer> =>
  Effect.gen(function*() {
    const files = question.explicit === ""
      ? question.list.split(":").filter((file) => file !== "")
      : [question.explicit]
    const options: Kubeconfig.Source = {
      files,
      source: question.explicit || "KUBECONFIG",
      context: question.context || undefined,
      proxies: question.env
    }
    const selected = yield* Kubeconfig.read(options)
    const connection = yield* Kubeconfig.resolve(options, selected)
    const { plugin } = yield* Kubeconfig.plan(selected, connection)
    const interactive = plugin === undefined ? Result.succeed(false) : ExecPlugin.isInteractive(plugin.exec, false)
    if (Result.isFailure(interactive)) {
      return { refused: interactive.failure }
    }
    const session: Kubeconfig.Session = {
      oidc: Oidc.makeSession(none),
      // As if it had been started, and given nothing.
      plugin: { token: undefined, cert: undefined, key: undefined, expiry: undefined }
    }
    const { headers, tls } = yield* Kubeconfig.logIn(selected, connection, session, false)
    const { cluster } = selected
    return {
      server: connection.server,
      namespace: selected.namespace,
      ...(connection.url.protocol === "https:" && {
        tls: {
          // Those of the system are no CA of the kubeconfig's.
          ca: cluster.certificateAuthority === "" && cluster.certificateAuthorityData === "" ? "" : tls.ca ?? "",
          cert: tls.cert ?? "",
          key: tls.key ?? "",
          servername: tls.servername ?? "",
          insecure: tls.insecure ?? false
        }
      }),
      headers: Object.fromEntries(
        Object.entries(headers).map(([name, value]) => [
          name.toLowerCase(),
          [value].flat().map((text) => Buffer.from(text, "latin1").toString("utf8"))
        ])
      ),
      proxy: connection.proxy?.href ?? "",
      ...(plugin !== undefined && {
        exec: {
          command: normalize(plugin.exec.command),
          args: plugin.exec.args,
          env: plugin.exec.env.map(({ name, value }) => `${name}=${value}`),
          interactiveMode: plugin.exec.interactiveMode,
          info: JSON.parse(ExecPlugin.execInfo(plugin.exec, interactive.success, plugin.cluster))
        }
      })
    }
  }).pipe(
    Effect.catch((error) => Effect.succeed<Answer>({ refused: error.message }))
  )
