#!/bin/sh
# A shell script that only the leader runs: every night it writes one report, also across handovers.
#
# It shows
# - `effect-kubernetes-leader-election run`: the script starts when this replica leads, and knows nothing of Kubernetes;
# - the fencing token, in LEADER_ELECTION_FENCING_TOKEN: the folder with the reports remembers the greatest one, and a
#   script of an earlier term publishes nothing any more;
# - SIGTERM: a report that was begun is finished, and then the script ends; `run` releases the Lease after it, so that
#   another replica goes on within milliseconds. When leadership is lost, SIGTERM comes too, with 4 seconds to end.
#
# Start it in two terminals (here a report every 10 seconds), and stop the one that writes:
#
#     PERIOD=10 npx effect-kubernetes-leader-election run --name nightly -- ./nightly.sh
#
# Needs flock (util-linux or busybox), and for REPORTS a file system that all replicas share and that knows locks.
set -eu

token=${LEADER_ELECTION_FENCING_TOKEN:?"is not set: start this with effect-kubernetes-leader-election run --name nightly -- $0"}
reports=${REPORTS:-reports}
period=${PERIOD:-86400}
mkdir -p "$reports"

end() {
  echo "ends"
  exit 0
}

# While a report is written, SIGTERM is remembered: a shell handles it when its foreground command has ended.
ending=
trap 'ending=yes' TERM

# Waits, and ends at once on SIGTERM: a shell handles it during `wait`. The sleep that is left is ended by `run`.
pause() {
  trap end TERM
  [ -z "$ending" ] || end
  sleep "$1" &
  wait $! || :
  trap 'ending=yes' TERM
}

# Moves a report to its place, unless there is one, or a later leader has been here. Under the lock nobody comes between.
publish() {
  (
    flock 9
    newest=$(cat "$reports/.token" 2>/dev/null || echo 0)
    if [ "$newest" -gt "$token" ]; then
      echo "token $token is over: $newest has published already" >&2
      exit 1
    fi
    echo "$token" >"$reports/.token"
    if [ ! -e "$2" ]; then
      mv "$1" "$2"
      echo "published $2 with token $token"
    fi
  ) 9>"$reports/.lock"
}

while :; do
  now=$(date +%s)
  night=$((now - now % period))
  report=$reports/report-$night
  # The leader before this one may have written it, or nobody: then it is made up for.
  if [ ! -e "$report" ]; then
    draft=$reports/.draft-$token
    echo "report of $night, written with token $token" >"$draft"
    publish "$draft" "$report"
    rm -f "$draft"
  fi
  pause $((period - $(date +%s) % period))
done
