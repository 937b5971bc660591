#!/usr/bin/env bash
# `make bench`: what protection, metering, tokens and auditing cost, against what one would write instead. Ratios of one run on one server.
# BENCH_QUICK=1 takes some two minutes and is good for finding mistakes, not for figures.
# Usage: run.sh [protection|planning|quota|token|audit …]
# shellcheck source=tests/tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../tools/lib.sh"

MAJOR=${MAJOR:-15}
NAME=bench$MAJOR
trap '"$TOOLS/server.sh" stop "$NAME"' EXIT
# Everything in memory and nothing in the background, so that what is measured is CPU.
settings=(shared_buffers=2GB autovacuum=off jit=off max_wal_size=8GB checkpoint_timeout=1h max_parallel_workers_per_gather=0
  max_prepared_transactions=0) # the default of PostgreSQL, and not of our tests

# measure SCRIPT OPTION…
measure() {
  local script=$1 env
  shift
  env=$("$TOOLS/server.sh" start "$MAJOR" "$NAME" "$@" "${settings[@]}")
  # shellcheck disable=SC1090
  . "$env"
  PATH=$TENANCY_PG_BIN:$PATH python3 "$REPO/tests/bench/$script"
}

for part in "${@:-protection planning quota token audit}"; do
  # shellcheck disable=SC2086
  for name in $part; do
    case $name in
      protection) measure bench.py --preload ;;
      planning) measure planning.py --preload ;;
      quota)
        TENANCY_BENCH_SERVER=preloaded measure quota.py --preload --durable
        TENANCY_BENCH_SERVER=plain measure quota.py --no-preload --durable
        ;;
      token) measure tokens.py --preload ;;
      audit) measure audit.py --preload --durable ;;
      *) die "unknown part: $name" ;;
    esac
  done
done
