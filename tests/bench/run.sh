#!/usr/bin/env bash
# `make bench`: what protection costs, against what one would write instead. One server, one run, ratios.
# BENCH_QUICK=1 takes less than 90 s and is good for finding mistakes, not for figures.
# shellcheck source=tests/tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../tools/lib.sh"

MAJOR=${MAJOR:-15}
NAME=bench$MAJOR
trap '"$TOOLS/server.sh" stop "$NAME"' EXIT
# Everything in memory and nothing in the background, so that what is measured is CPU.
env=$("$TOOLS/server.sh" start "$MAJOR" "$NAME" --preload shared_buffers=2GB autovacuum=off jit=off \
  max_wal_size=8GB checkpoint_timeout=1h max_parallel_workers_per_gather=0)
# shellcheck disable=SC1090
. "$env"
PATH=$TENANCY_PG_BIN:$PATH python3 "$REPO/tests/bench/bench.py"
