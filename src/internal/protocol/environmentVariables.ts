/**
 * The environment variables that settings are read from.
 *
 * @internal
 */

/** The environment variable of each setting. */
export const variables = {
  namespace: "LEADER_ELECTION_NAMESPACE",
  name: "LEADER_ELECTION_NAME",
  identity: "LEADER_ELECTION_IDENTITY",
  leaseDuration: "LEADER_ELECTION_LEASE_DURATION",
  renewInterval: "LEADER_ELECTION_RENEW_INTERVAL",
  renewDeadline: "LEADER_ELECTION_RENEW_DEADLINE",
  retryPeriod: "LEADER_ELECTION_RETRY_PERIOD",
  requestTimeout: "LEADER_ELECTION_REQUEST_TIMEOUT",
  newLease: "LEADER_ELECTION_NEW_LEASE",
  watch: "LEADER_ELECTION_WATCH",
  note: "LEADER_ELECTION_NOTE",
  candidates: "LEADER_ELECTION_CANDIDATES"
} as const

/** The other variables that settings are made from; KUBERNETES_SERVICE_HOST is set inside a cluster. */
export const podVariables = ["POD_NAME", "POD_UID", "POD_NAMESPACE", "KUBERNETES_SERVICE_HOST"] as const
