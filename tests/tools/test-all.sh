#!/usr/bin/env bash
# Every test on each of the majors given, after installing what is missing. Two majors at a time, because most tests wait for their server;
# they take turns where they build, and what each prints stays together.
# Usage: test-all.sh MAJOR…
# shellcheck source=tests/tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

exec 2>&1 # one stream, so that lines keep their order
"$TOOLS/setup.sh" "$@" python node pgbouncer prometheus chromium

logs=$(mktemp -d)
pids=()
trap 'kill -- "${pids[@]/#/-}" 2>/dev/null || true; rm -rf "$logs"' EXIT
export TENANCY_BUILD_LOCK=${TENANCY_BUILD_LOCK:-$logs/build.lock}

failed=()
# show PLACE: prints what is there of a major, and what comes, until it ends.
show() {
  local major=$1 pid=$2
  tail -n +1 -f --pid="$pid" "$logs/$major"
  wait "$pid" || failed+=("$major")
}

set -m # a process group for each, so that all of it ends with this script
majors=("$@")
for place in "${!majors[@]}"; do
  [ "$place" -lt 2 ] || show "${majors[place - 2]}" "${pids[place - 2]}"
  : >"$logs/${majors[place]}"
  "$TOOLS/test.sh" "${majors[place]}" >"$logs/${majors[place]}" 2>&1 &
  pids[place]=$!
done
for place in "${!majors[@]}"; do
  [ "$place" -lt $((${#majors[@]} - 2)) ] || show "${majors[place]}" "${pids[place]}"
done
# Once nobody builds any more: what needs the extension in two versions of the server.
if [[ " $* " == *" 15 "* && " $* " == *" 18 "* ]]; then
  "$TOOLS/test.sh" 18 upgrade || failed+=("18 (upgrade)")
fi
if [ ${#failed[@]} != 0 ]; then
  die "tests failed on PostgreSQL ${failed[*]}"
fi
say "all tests passed on PostgreSQL $*"
