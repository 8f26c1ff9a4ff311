#!/usr/bin/env bash
# Installs what the tests of test/observability start: Prometheus with promtool, from Debian's packages, where they are
# missing. npm's statsd comes with `npm ci`; the OpenTelemetry Collector is built with Go by the tests themselves.
set -euo pipefail

if command -v prometheus > /dev/null && command -v promtool > /dev/null; then
  exit 0
fi
if ! command -v apt-get > /dev/null; then
  echo "There is no apt-get to install prometheus with: its tests will be SKIPPED" >&2
  exit 0
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  as_root=(sudo --non-interactive)
fi
"${as_root[@]}" apt-get -qq update
# Without its service: the tests start their own, and a running one would keep port 9090.
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq install --yes --no-install-recommends prometheus > /dev/null
