import { simulate } from "./Simulation.ts"
const from = Number(process.argv[3] ?? 1)
const count = Number(process.argv[2] ?? 10)
const began = performance.now()
let steps = 0, requests = 0, terms = 0, hours = 0
const violations = new Map<string, Array<number>>()
for (let seed = from; seed < from + count; seed++) {
  const trace = process.argv[4] === "trace"
  const outcome = simulate(seed, { trace })
  if (trace) console.log(outcome.timeline.join("\n"))
  steps += outcome.steps
  requests += outcome.requests
  terms += outcome.terms
  hours += outcome.duration / 3.6e12
  if (outcome.violation) {
    if (!violations.has(outcome.violation.invariant)) console.log(seed, outcome.violation.message)
    violations.set(outcome.violation.invariant, [...violations.get(outcome.violation.invariant) ?? [], seed])
  }
}
console.log({ steps, requests, terms, hours, seconds: (performance.now() - began) / 1000 }, violations)
