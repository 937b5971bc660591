#!/usr/bin/env bash
# The long runs: random inputs to every parser, and random statements against protected tables with a search for foreign rows.
# Usage: fuzz.sh MAJOR
#   INPUTS=N      inputs for each target (default: a million)
#   STATEMENTS=N  statements for each type of tenant column (default: 100,000)
#   TENANCY_SEED=N replays a run: each prints its own
# shellcheck source=tests/tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

major=$1
cd "$REPO"
name=fuzz$major
trap '"$TOOLS/server.sh" stop "$name"' EXIT
env=$("$TOOLS/server.sh" start "$major" "$name" --preload max_prepared_transactions=20 tenancy.usage_counters=64)
# shellcheck disable=SC1090
. "$env"
run() {
  say "PostgreSQL $major, $1: $2 …"
  TENANCY_CASES=$2 cargo test --release --manifest-path tests/client/Cargo.toml --target-dir target --test "$1" -- --nocapture
}
run fuzz "${INPUTS:-1000000}"
run random_sql "${STATEMENTS:-100000}"
say "PostgreSQL $major: nothing found"
