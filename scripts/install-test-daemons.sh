#!/usr/bin/env bash
# Installs, from Debian's packages and only where they are missing, what tests start beside Kubernetes: Prometheus with
# promtool (test/observability), PostgreSQL (test/fence, test/faults), MariaDB (test/fence) and libfaketime (test/faults).
# npm's statsd comes with `npm ci`; the OpenTelemetry Collector is built with Go by its tests.
set -euo pipefail

missing=()
if ! command -v prometheus > /dev/null || ! command -v promtool > /dev/null; then
  missing+=(prometheus)
fi
if ! ls /usr/lib/postgresql/*/bin/initdb > /dev/null 2>&1; then
  missing+=(postgresql)
fi
if ! command -v mariadbd > /dev/null; then
  missing+=(mariadb-server-core)
fi
if ! ls /usr/lib/*/faketime/libfaketimeMT.so.1 > /dev/null 2>&1; then
  missing+=(faketime)
fi
# Shells that may run the guard of `run`, and what runs the executable for arm64.
for shell in mksh zsh ksh93 busybox; do
  if [ ! -e "/bin/$shell" ]; then
    case $shell in
      ksh93) missing+=(ksh93u+m) ;;
      busybox) missing+=(busybox-static) ;;
      *) missing+=("$shell") ;;
    esac
  fi
done
if [ "$(uname -m)" = x86_64 ]; then
  if [ ! -e /usr/bin/qemu-aarch64-static ]; then
    missing+=(qemu-user-static)
  fi
  if [ ! -e /usr/aarch64-linux-gnu/lib/libstdc++.so.6 ]; then
    missing+=(libc6-arm64-cross libstdc++6-arm64-cross)
  fi
fi
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi
if ! command -v apt-get > /dev/null; then
  echo "There is no apt-get to install ${missing[*]} with: their tests will be SKIPPED" >&2
  exit 0
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  as_root=(sudo --non-interactive)
fi
echo "Installing ${missing[*]}"
"${as_root[@]}" apt-get -qq update
# Without their services: the tests start their own, and a running one would keep its port.
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
  apt-get -qq install --yes --no-install-recommends "${missing[@]}" > /dev/null
