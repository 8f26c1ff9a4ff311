/**
 * The command line: `effect-kubernetes-leader-election SUBCOMMAND`.
 *
 * Each subcommand is a module that exports its `command`. What only one of them
 * needs, and takes time to load, it imports when it is run.
 *
 * @internal
 */
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as Cause from "effect/Cause"
import * as CliConfig from "effect/cli/CliConfig"
import * as CliError from "effect/cli/CliError"
import * as CliOutput from "effect/cli/CliOutput"
import * as Command from "effect/cli/Command"
import * as GlobalFlag from "effect/cli/GlobalFlag"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Runtime from "effect/Runtime"
import packageJson from "../../package.json" with { type: "json" }
import { type OptionalPackage, OptionalPackages } from "../kubernetes/OptionalPackages.ts"
import { command as demo } from "./demo/demo.ts"
import { command as devServer } from "./devServer.ts"
import { command as doctor } from "./doctor/doctor.ts"
import { command as manifest } from "./manifest/manifest.ts"
import { command as candidate } from "./run/candidate.ts"
import { command as run } from "./run/run.ts"
import { remedy } from "./run/separator.ts"
import { command as serve } from "./serve/serve.ts"
import { descriptions, exitCodes, ofSignal } from "./shared/exitCodes.ts"
import { isFailure, report } from "./shared/failure.ts"
import * as Log from "./shared/log.ts"
import { mistakes } from "./shared/mistakes.ts"
import { LogFormat } from "./shared/options.ts"
import { programName } from "./shared/programName.ts"
import { describeFailure, watchStdout } from "./shared/stdout.ts"
import { command as status } from "./status/status.ts"
import { command as stepDown } from "./stepDown.ts"
import { command as watch } from "./watch/watch.ts"

const subcommands = [
  run,
  serve,
  stepDown,
  status,
  watch,
  doctor,
  manifest,
  candidate,
  demo,
  devServer
] as const

// Asked of the arguments themselves: a mistake in one of them is reported in the format of the log, too.
const format = Log.formatOf(process.argv.slice(2))

// Its value is known already; it is asked for so that a wrong one is refused.
const layerLogger = Layer.unwrap(Effect.map(LogFormat, (given) => Logger.layer([Log.logger(given)])))

const root = Command.make(programName).pipe(
  Command.withDescription(
    "Leader election on Kubernetes Leases, for any program.\n\n" +
      `Exit codes:\n${descriptions.map(([code, meaning]) => `  ${code.padEnd(8)} ${meaning}`).join("\n")}`
  ),
  Command.withSubcommands(subcommands),
  Command.provide(layerLogger),
  Command.withGlobalFlags([LogFormat])
)

/** A mistake in the arguments is one line on stderr, not the whole help; that is for no arguments at all. */
const layerPresenter = CliOutput.layerPresenter({
  present: (event) => {
    if (event._tag === "InvalidInvocation") {
      const path = event.commandPath.join(" ")
      // An unknown option of `run` may be one of COMMAND.
      const hint = event.commandPath.at(-1) === "run" && !process.argv.includes("--") ? `; ${remedy}` : ""
      return Effect.forEach(
        mistakes(event.errors, process.argv.slice(2)),
        (mistake) => printError(path, `${mistake}${hint} (see ${path} --help)`),
        { discard: true }
      )
    }
    return event._tag === "Help" && event.reason === "Implicit"
      ? Effect.flatMap(CliOutput.Formatter, (formatter) => Console.error(formatter.formatHelpDoc(event.helpDoc)))
      : CliOutput.defaultPresenter.present(event)
  }
})

/** Reports what went wrong, and gives the exit code. */
const conclude = (cause: Cause.Cause<unknown>): Effect.Effect<number> => {
  if (Cause.hasInterruptsOnly(cause)) {
    return Effect.interrupt
  }
  const error = Cause.squash(cause)
  if (CliError.isCliError(error) && error._tag === "ShowHelp") {
    return Effect.succeed(exitCodes.usage)
  }
  const { exitCode, message } = isFailure(error)
    ? report(error)
    : { exitCode: exitCodes.internal, message: `this is a defect: ${Cause.pretty(cause)}` }
  return Effect.as(message === "" ? Effect.void : printError(programName, message), exitCode)
}

// To people as commands do, to machines as a line of the log.
const printError = (whose: string, message: string): Effect.Effect<void> =>
  format === "text"
    ? Effect.sync(() => Log.print(`${whose}: ${message}`))
    : Effect.provide(Effect.logError(message), Logger.layer([Log.logger(format)]))

/** From where it is installed; in the standalone executable, from within. */
const loadPackage = (name: OptionalPackage): Promise<unknown> => {
  switch (name) {
    case "https-proxy-agent":
      return import("https-proxy-agent")
    case "socks-proxy-agent":
      return import("socks-proxy-agent")
    case "openid-client":
      return import("openid-client")
  }
}

const program = Command.run(root, { version: packageJson.version }).pipe(
  Effect.as<number>(exitCodes.success),
  Effect.catchCause(conclude),
  Effect.provideService(OptionalPackages, loadPackage),
  Effect.provide([
    NodeServices.layer,
    layerPresenter,
    CliConfig.layer({ builtIns: [GlobalFlag.Help, GlobalFlag.Version, GlobalFlag.Completions, GlobalFlag.LogLevel] })
  ])
)

// Node's own listener writes these to stderr in a format of its own.
process.removeAllListeners("warning")
process.on("warning", ({ message, name }) => {
  Effect.runSync(Effect.provide(Effect.logWarning(`${name}: ${message}`), Logger.layer([Log.logger(format)])))
})
process.on("uncaughtException", (error) => {
  Effect.runSync(printError(programName, `this is a defect: ${error.stack ?? String(error)}`))
  Log.exit(exitCodes.internal)
})

// A command that listens to a signal itself has taken it over from here: it ends when it sees fit.
const runMain = Runtime.makeRunMain(({ fiber, teardown }) => {
  // Nobody gets what the command would still say: it ends, and takes away what it has made.
  const stdout = watchStdout(() => fiber.interruptUnsafe(fiber.id))
  let received: NodeJS.Signals | undefined
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => {
      if (process.listenerCount(signal) === 1) {
        received ??= signal
        fiber.interruptUnsafe(fiber.id)
      }
    })
  }
  fiber.addObserver((exit) => {
    const exitCode = Exit.isSuccess(exit) && typeof exit.value === "number"
      ? exit.value
      : received === undefined
      ? exitCodes.internal
      : ofSignal(received)
    teardown(exit, () =>
      stdout.flush((failure) => {
        const message = failure === undefined ? undefined : describeFailure(failure)
        if (message !== undefined) {
          Effect.runSync(printError(programName, message))
        }
        Log.exit(failure === undefined ? exitCode : exitCodes.failure)
      }))
  })
})

runMain(program, { disableErrorReporting: true })
