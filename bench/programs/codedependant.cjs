/**
 * A candidate of @codedependant/kubernetes-leader-election that tells what
 * happens as the others do: one JSON line for each change.
 */
const { Elector } = require("@codedependant/kubernetes-leader-election")

const [namespace, name, identity] = process.argv.slice(2)
const tell = (event, leader) => {
  process.stdout.write(`${JSON.stringify({ at: performance.timeOrigin + performance.now(), event, identity, leader })}\n`)
}

const elector = new Elector({
  identity,
  lease_name: name,
  namespace,
  // Those of the others, where it has a setting for it; it renews every 10 s by default, of 20 s.
  lease_duration_sec: 15,
  renew_interval_ms: 5000
})

// It has no event for having seen who leads.
const getLease = elector.getLease.bind(elector)
let seen
elector.getLease = async () => {
  const lease = await getLease()
  const holder = lease.spec.holderIdentity ?? ""
  if (holder !== "" && holder !== identity && holder !== seen) {
    seen = holder
    tell("newLeader", holder)
  }
  return lease
}
elector.on(Elector.EVENTS.LEADERSHIP_ACQUIRED, () => tell("leading", identity))
elector.on(Elector.EVENTS.LEADERSHIP_LOST, () => tell("stopped"))
tell("started")
void elector.start()
