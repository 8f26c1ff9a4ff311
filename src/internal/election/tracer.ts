/**
 * Spans of the library.
 *
 * A tracer is code of the program that uses it, as a logger is. One that throws
 * must cost no term, and no release: what it does not take goes on without a
 * span, and that is reported once.
 *
 * @internal
 */
import * as Tracer from "effect/Tracer"

let reported = false

const report = (error: unknown): void => {
  if (!reported) {
    reported = true
    process.emitWarning(`A tracer failed, and its spans are lost: ${String(error)}`)
  }
}

/** The methods are replaced in place: exporters know their spans by what they are, so that a wrapper would be none. */
const shieldSpan = (span: Tracer.Span): Tracer.Span => {
  const shielded = <Args extends Array<unknown>>(method: (...args: Args) => void) => (...args: Args): void => {
    try {
      method.apply(span, args)
    } catch (error) {
      report(error)
    }
  }
  return Object.assign(span, {
    attribute: shielded(span.attribute),
    event: shielded(span.event),
    addLinks: shielded(span.addLinks),
    end: shielded(span.end)
  })
}

/** A tracer that never throws. */
export const shield = (tracer: Tracer.Tracer): Tracer.Tracer =>
  tracer === Tracer.nativeTracer ? tracer : Tracer.make({
    span: (options) => {
      try {
        return shieldSpan(tracer.span(options))
      } catch (error) {
        report(error)
        return new Tracer.NativeSpan(options)
      }
    },
    context: tracer.context === undefined
      ? undefined
      : (primitive, fiber) => tracer.context!(primitive, fiber)
  })
