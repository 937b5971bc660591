#!/usr/bin/env bash
# `make bench`: what protection, metering, tokens and auditing cost, against what one would write instead. Ratios of one run on one server.
# BENCH_QUICK=1 takes some two minutes for each part and is good for finding mistakes, not for figures.
# Usage: run.sh [speed|instructions|protection|planning|quota|token|audit|cache|stat_tenants|health|migrate|active_tenants …]      MAJOR: that of the server; 15, and for `speed` 18, which has pgvector here
#   without a name all but active_tenants, which is behind docs/active_tenants.md, and instructions, which counts
# shellcheck source=tests/tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../tools/lib.sh"

major=15
trap '"$TOOLS/server.sh" stop "bench$major"; "$TOOLS/server.sh" stop "other$major"' EXIT
# Everything in memory and nothing in the background, so that what is measured is CPU.
settings=(shared_buffers=2GB autovacuum=off jit=off max_wal_size=8GB checkpoint_timeout=1h max_parallel_workers_per_gather=0
  max_prepared_transactions=0) # the default of PostgreSQL, and not of our tests

# measure SCRIPT OPTION…: on a server of $major
measure() {
  local script=$1 env
  shift
  env=$("$TOOLS/server.sh" start "$major" "bench$major" "${settings[@]}" "$@")
  # shellcheck disable=SC1090
  . "$env"
  PATH=$TENANCY_PG_BIN:$PATH TENANCY_SERVER_TOOL=$TOOLS/server.sh python3 "$REPO/tests/bench/$script"
  "$TOOLS/server.sh" stop "bench$major"
}

# Half of the memory in GB, which is to hold six copies of the data: 2 to 10.
buffers() { awk '/^MemTotal/ { n = int($2 / 2097152); print (n < 2 ? 2 : n > 10 ? 10 : n) "GB" }' /proc/meminfo; }

for part in "${@:-speed protection planning quota token audit cache stat_tenants health migrate}"; do
  # shellcheck disable=SC2086
  for name in $part; do
    major=${MAJOR:-15}
    case $name in
      speed)
        major=${MAJOR:-18}
        "$TOOLS/setup.sh" flights
        # What is loaded is not written twice.
        TENANCY_FLIGHTS=$CACHE/flights measure speed.py --preload "shared_buffers=$(buffers)" wal_level=minimal max_wal_senders=0
        ;;
      instructions)
        major=${MAJOR:-18}
        "$TOOLS/setup.sh" flights valgrind
        TENANCY_FLIGHTS=$CACHE/flights measure instructions.py --preload
        ;;
      protection) measure bench.py --preload ;;
      planning) measure planning.py --preload ;;
      quota)
        TENANCY_BENCH_SERVER=preloaded measure quota.py --preload --durable
        TENANCY_BENCH_SERVER=plain measure quota.py --no-preload --durable
        ;;
      token) measure tokens.py --preload ;;
      audit) measure audit.py --preload --durable ;;
      cache) measure cache.py --preload --durable ;;
      stat_tenants)
        # shellcheck disable=SC1090
        other=$(. "$("$TOOLS/server.sh" start "$major" "other$major" --preload "${settings[@]}" tenancy.stat_tenants=0)" && echo "$PGHOST $PGPORT")
        TENANCY_BENCH_OTHER=$other measure stat_tenants.py --preload
        "$TOOLS/server.sh" stop "other$major"
        ;;
      health) measure health.py --preload ;;
      migrate)
        "$TOOLS/setup.sh" flights
        TENANCY_FLIGHTS=$CACHE/flights measure migrate.py --preload --durable
        ;;
      active_tenants) measure active_tenants.py --preload ;;
      *) die "unknown part: $name" ;;
    esac
  done
done
