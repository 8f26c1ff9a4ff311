/**
 * `effect-kubernetes-leader-election dev-server`: a local Lease API server, for
 * trying an election, or testing one, without a cluster and in any language.
 *
 * @internal
 */
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Path from "effect/Path"
import * as Predicate from "effect/Predicate"
import { writeFile } from "node:fs/promises"
import { exitCodes } from "./shared/exitCodes.ts"
import { CommandFailure } from "./shared/failure.ts"
import * as Options from "./shared/options.ts"

const failed = (message: string) => new CommandFailure({ message, exitCode: exitCodes.failure })

export const devServer = Effect.fnUntraced(
  function*(options: { readonly port: number | undefined; readonly file: string }) {
    const fs = yield* FileSystem.FileSystem
    const file = (yield* Path.Path).resolve(options.file)
    // Loaded by this command and the demo alone.
    const { make } = yield* Effect.promise(() => import("../testing/LeaseApiServer.ts"))
    const server = yield* Effect.mapError(make({ port: options.port }), ({ message }) => failed(message))
    const cannotWrite = (cause: unknown) =>
      failed(`cannot write ${file}: ${cause instanceof Error ? cause.message : String(cause)}`)
    let written = ""
    // Only where there is nothing yet, so that of two that start at once one is refused.
    yield* Effect.acquireRelease(
      Effect.tryPromise({
        // The error that FileSystem makes of it does not say what is wrong.
        try: () => writeFile(file, written, { flag: "wx", mode: 0o600 }),
        catch: (error) =>
          Predicate.hasProperty(error, "code") && error.code === "EEXIST"
            ? failed(`${file} is there already: remove it, or give another --kubeconfig FILE`)
            : cannotWrite(error)
      }),
      () =>
        fs.readFileString(file).pipe(
          // What stands there now may be of somebody else.
          Effect.flatMap((text) => text === written ? fs.remove(file) : Effect.void),
          Effect.ignore
        )
    )
    yield* server.writeKubeconfig(file).pipe(
      Effect.catchDefect((defect) => Effect.fail(cannotWrite(defect))),
      Effect.andThen(Effect.mapError(fs.readFileString(file), cannotWrite)),
      Effect.map((text) => {
        written = text
      }),
      Effect.uninterruptible
    )
    yield* Effect.logInfo(`Serving Leases at ${server.url}, from memory, until it is stopped`)
    // On stdout, for the shell that sources it.
    yield* Console.log(`export KUBECONFIG=${file.replaceAll(/[^\w/.,:@%+=-]/g, "\\$&")}`)
    return yield* Effect.never
  },
  Effect.scoped
)

export const command = Command.make(
  "dev-server",
  {
    port: Options.port("port").pipe(
      Flag.withDescription("Port to listen on, of 127.0.0.1 (default: a free one)"),
      Flag.optional,
      Flag.map((port) => port._tag === "Some" ? port.value : undefined)
    ),
    file: Options.filled(
      "kubeconfig",
      "FILE",
      "Where to write the kubeconfig that leads there (default leases.kubeconfig)"
    ).pipe(Flag.withDefault("leases.kubeconfig"))
  },
  devServer
).pipe(
  Command.withShortDescription("Serve Leases on this machine, for trying and testing without a cluster"),
  Command.withDescription(
    "Serve Leases on this machine, for trying and testing without a cluster: the part of the Kubernetes API that an\n" +
      "election needs, from memory, held to the real one by tests. Writes a kubeconfig, which kubectl and programs in any\n" +
      "language use, and removes it at the end. Needs nothing else; Ctrl-C ends it.\n\n" +
      "It listens on 127.0.0.1, and everybody on this machine may do everything there. The only namespace is default: in\n" +
      "another one nothing can be created. It reads JSON, and neither protobuf nor YAML; kubectl create and apply need\n" +
      "--validate=false."
  ),
  Command.withExamples([
    {
      command: "effect-kubernetes-leader-election dev-server",
      description: "Then, in another terminal: export KUBECONFIG=leases.kubeconfig"
    },
    {
      command: "effect-kubernetes-leader-election run --kubeconfig leases.kubeconfig --name my-job -- sh",
      description: "In two more terminals"
    }
  ])
)
