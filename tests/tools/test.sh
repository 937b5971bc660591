#!/usr/bin/env bash
# Every test on one major version of PostgreSQL.
# Usage: test.sh MAJOR [STEP…]
#   steps, in this order: unit install regress isolation integration client; and upgrade, which needs the extension in PostgreSQL 15 as well, and
#   distribute, which needs Citus (see citus.sh)
# A step that fails does not keep the others from running; the exit code tells.
# shellcheck source=tests/tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

major=$1
shift
steps=("${@:-unit install regress isolation integration client}")
# shellcheck disable=SC2206
steps=(${steps[*]})
bin=$(pg_bin "$major")
out=$REPO/target/tests/pg$major
mkdir -p "$out"
cd "$REPO"
exec 2>&1 # one stream, so that lines keep their order

TENANCY_RUN=$(mktemp -d "$CACHE/run/test$major.XXXXXX")
export TENANCY_RUN
trap '"$TOOLS/server.sh" stop-all; rm -rf "$TENANCY_RUN"' EXIT

# serve NAME OPTION…: starts a server and points this shell's clients at it
serve() {
  local env
  env=$("$TOOLS/server.sh" start "$major" "$@")
  # shellcheck disable=SC1090
  . "$env"
}

# cargo pgrx test installs a debug build with test functions in it; so it comes before `install`.
unit() {
  local at=$CACHE/pgrx-test
  local arguments=(pgrx test "pg$major")
  # The path of its socket is limited to 107 characters, hence not under target/.
  mkdir -p "$at"
  if [ "$IS_ROOT" = yes ]; then
    chown postgres "$at"
    arguments+=(--runas postgres)
  fi
  rm -rf "$at/pg$major"
  ${TENANCY_BUILD_LOCK:+flock "$TENANCY_BUILD_LOCK"} cargo "${arguments[@]}" --pgdata "$at/pg$major"
}

install() { "$TOOLS/install.sh" "$major"; }

# The real pg_regress, because `cargo pgrx regress` leaves NOTICE, DETAIL and HINT out.
# pg_regress_run LABEL TEST…
pg_regress_run() {
  local to=$out/$1
  shift
  rm -rf "$to" && mkdir -p "$to"
  "$(pg_regress_dir "$major")/regress/pg_regress" --inputdir="$REPO/tests/pg_regress" --outputdir="$to" \
    --bindir="$bin" --host="$PGHOST" --port="$PGPORT" --user=postgres --dbname=regress "$@" ||
    show_diffs "$to"
}
show_diffs() {
  [ ! -e "$1/regression.diffs" ] || cat "$1/regression.diffs"
  echo "results: $1/results"
  return 1
}

regress() {
  local dir=tests/pg_regress name listed=() tests=(setup) failed=0
  for name in "$dir"/sql/*.sql; do
    name=$(basename "$name" .sql)
    [ "$name" = setup ] || tests+=("$name")
  done
  serve "regress$major" --preload
  echo "-- pg_regress, PostgreSQL $major, shared_preload_libraries = 'tenancy'"
  pg_regress_run preloaded "${tests[@]}" || failed=1

  mapfile -t listed < <(grep -v -e '^#' -e '^$' "$dir/not_preloaded")
  [ ${#listed[@]} -gt 0 ] || { echo "$dir/not_preloaded names no test"; return 1; }
  serve "regress$major" --no-preload
  echo "-- pg_regress, PostgreSQL $major, library not preloaded"
  pg_regress_run not_preloaded setup "${listed[@]}" || failed=1
  return "$failed"
}

isolation() {
  local specs=() to=$out/isolation
  mapfile -t specs < <(find tests/isolation/specs -name '*.spec' -exec basename {} .spec \; | sort)
  [ ${#specs[@]} -gt 0 ] || { echo "no file in tests/isolation/specs"; return 1; }
  serve "isolation$major" --preload
  rm -rf "$to" && mkdir -p "$to"
  "$(pg_regress_dir "$major")/isolation/pg_isolation_regress" --inputdir="$REPO/tests/isolation" \
    --outputdir="$to" --bindir="$bin" --host="$PGHOST" --port="$PGPORT" --user=postgres \
    --dbname=isolation --load-extension=tenancy "${specs[@]}" || show_diffs "$to"
}

# pytest PLACE…
pytest() {
  TENANCY_SERVER_TOOL=$TOOLS/server.sh TENANCY_PGBOUNCER=$CACHE/pgbouncer/pgbouncer \
    TENANCY_NODE_PATH=$CACHE/node/node_modules NODE_PATH=$CACHE/node/node_modules \
    PATH=$bin:$PATH "$CACHE/venv/bin/python" -m pytest -p no:cacheprovider -p no:pgrls -ra --durations=5 "$@"
}

integration() {
  serve "integration$major" --preload
  pytest tests/integration
}

upgrade() {
  serve "upgrade$major" --preload
  pytest tests/upgrade
}

distribute() {
  serve "distribute$major" --preload
  pytest tests/integration/test_distribute.py tests/integration/test_distribute_attacks.py
}

client() {
  # Few counters, so that those of the property test come and go.
  serve "client$major" --preload max_prepared_transactions=20 tenancy.usage_counters=64
  cargo test --release --tests --manifest-path tests/client/Cargo.toml --target-dir target
}

# What a step cannot do without.
needs() {
  case $1 in
    unit | install) echo src/lib.rs ;;
    regress) echo tests/pg_regress/sql/setup.sql tests/pg_regress/not_preloaded ;;
    isolation) echo tests/isolation/specs ;;
    integration) echo tests/integration ;;
    distribute) echo tests/integration/test_distribute.py ;;
    upgrade) echo tests/upgrade ;;
    client) echo tests/client/Cargo.toml ;;
    *) die "unknown step: $1" ;;
  esac
}

summary=() failed=0 good=0
for step in "${steps[@]}"; do
  for need in $(needs "$step"); do
    [ -e "$need" ] || { summary+=("MISSING  $step: there is no $need"); failed=1; continue 2; }
  done
  printf '\n==== PostgreSQL %s: %s ====\n' "$major" "$step"
  begun=$SECONDS
  # Not `step || …`: `set -e` has no effect in a function whose result is tested.
  set +e
  (
    set -e
    trap - EXIT
    "$step"
  )
  rc=$?
  set -e
  "$TOOLS/server.sh" stop-all
  if [ "$rc" = 0 ]; then
    summary+=("passed   $step ($((SECONDS - begun)) s)")
    good=$((good + 1))
  else
    summary+=("FAILED   $step (exit $rc, $((SECONDS - begun)) s)")
    failed=1
  fi
done

printf '\n==== PostgreSQL %s: summary ====\n' "$major"
printf '%s\n' "${summary[@]}"
printf 'layers: %d passed, %d failed\n' "$good" "$((${#summary[@]} - good))"
exit "$failed"
