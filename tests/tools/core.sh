#!/usr/bin/env bash
# PostgreSQL's own regression and isolation suites, from the server's source, with the library at work.
# Usage: core.sh MAJOR [RUN…]
#   preloaded     regression suite, the library in shared_preload_libraries
#   created       the same in a database that has the extension: its tables, functions and event triggers
#   isolation     isolation suite in such a database
#   control       regression suite without the library; control_isolation likewise
# Default: the first three. A run with a difference is compared with its control, which is run then:
# a test that gives the same output without the library is no fault of ours.
#
# tests/core/RUN/TEST[.MAJOR].patch are the differences that are meant; each begins with its reason.
# shellcheck source=tests/tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

major=$1
shift
runs=("$@")
[ ${#runs[@]} != 0 ] || runs=(preloaded created isolation)
bin=$(pg_bin "$major")
source=$("$TOOLS/source.sh" "$major")
exec 2>&1 # one stream, so that lines keep their order

# The server reads and writes files of the suite, so all of it belongs to the user that runs it.
work=$CACHE/core/$major
mkdir -p "$work"
TENANCY_RUN=$(mktemp -d "$CACHE/run/core$major.XXXXXX")
export TENANCY_RUN
trap '"$TOOLS/server.sh" stop-all; rm -rf "$TENANCY_RUN"' EXIT

# The C functions that the tests call, built with the headers of the server at hand.
libraries() {
  local lib=$work/lib name
  rm -rf "$lib" && mkdir -p "$lib"
  for name in test/regress/regress ../contrib/spi/refint ../contrib/spi/autoinc; do
    [ ! -e "$source/src/$name.c" ] ||
      gcc -shared -fPIC -O1 -w -DREFINT_VERBOSE -I"$("$bin/pg_config" --includedir-server)" \
        -o "$lib/$(basename "$name").so" "$source/src/$name.c"
  done
}

# kind RUN: which suite that is
kind() { case $1 in *isolation) echo isolation ;; *) echo regress ;; esac; }

# prepare RUN: a copy of the suite, with the patches of that run
prepare() {
  local to=$work/$1 patch
  rm -rf "$to" && mkdir -p "$to"
  cp -r "$source/src/test/$(kind "$1")" "$to/suite"
  for patch in "$REPO/tests/core/$1"/*.patch; do
    [ ! -e "$patch" ] || case $patch in
      *."$major".patch | *[!0-9].patch) patch -s -p1 -d "$to/suite" <"$patch" || die "$patch does not apply" ;;
    esac
  done
  mkdir -p "$to/out"
  if [ "$IS_ROOT" = yes ]; then chown -R postgres "$to" "$work/lib"; fi
}

# run RUN: leaves out/regression.out and, where there is any, out/regression.diffs
run() {
  local run=$1 to=$work/$1 program options=() preload=--preload log=$CACHE/log/core-$major-$1.log rc=0 env
  prepare "$run"
  case $run in control*) preload=--no-preload ;; esac
  case $run in created | isolation) options+=(--load-extension=tenancy) ;; esac
  # The settings that the suite's own temporary server would have, and room for both kinds of test.
  env=$("$TOOLS/server.sh" start "$major" "core$major" "$preload" max_prepared_transactions=2 log_min_messages=log \
    log_autovacuum_min_duration=0 log_checkpoints=on "log_line_prefix=%m %b[%p] %q%a " log_lock_waits=on \
    log_temp_files=128kB max_wal_size=1GB shared_buffers=128MB max_connections=100)
  # shellcheck disable=SC1090
  . "$env"
  case $(kind "$run") in
    isolation)
      program=$(pg_regress_dir "$major")/isolation/pg_isolation_regress
      options+=(--schedule="$to/suite/isolation_schedule" --dbname=isolation_regression)
      ;;
    regress)
      program=$(pg_regress_dir "$major")/regress/pg_regress
      options+=(--schedule="$to/suite/parallel_schedule" --dbname=regression --max-concurrent-tests=20)
      ;;
  esac
  say "core suite, PostgreSQL $major, $run …"
  local begun=$SECONDS
  [ "$major" -lt 16 ] || options+=(--expecteddir="$to/suite")
  as_server "$program" --inputdir="$to/suite" --outputdir="$to/out" \
    --bindir="$bin" --dlpath="$work/lib" --host="$PGHOST" --port="$PGPORT" --user=postgres \
    "${options[@]}" >"$log" || rc=$?
  "$TOOLS/server.sh" stop "core$major"
  say "core suite, PostgreSQL $major, $run: $(grep -m 1 -E '[0-9] tests (passed|failed)' "$log" | tr -d '=#' | xargs) ($((SECONDS - begun)) s)"
  # A server that went down fails every test after it, with the control as much as with us.
  ! grep -hE 'TRAP:|PANIC:|was terminated by signal' "$CACHE/log/server-core$major.log" || return 2
  [ "$rc" != 0 ] || return 0
  failed "$log" >"$to/failed"
  [ -s "$to/failed" ] || { tail -n 30 "$log"; return 2; }
  return 1
}
# Both ways in which pg_regress names a test that failed: "not ok 5 - name 12 ms", "name … FAILED 12 ms".
failed() { sed -nE 's/^not ok +[0-9]+ +[-+] +([^ ]+).*/\1/p; s/^(test)? *([a-z0-9_-]+) +\.\.\. FAILED.*/\2/p' "$1"; }

libraries
verdict=0
declare -A controlled
for name in "${runs[@]}"; do
  rc=0
  run "$name" || rc=$?
  [ "$rc" != 0 ] || continue
  if [ "$rc" = 2 ]; then verdict=1; continue; fi
  case $name in control*) continue ;; isolation) control=control_isolation ;; *) control=control ;; esac
  [ -n "${controlled[$control]:-}" ] || run "$control" || true
  controlled[$control]=yes
  while read -r test; do
    if cmp -s "$work/$name/out/results/$test.out" "$work/$control/out/results/$test.out"; then
      echo "$name: $test: the same without the library"
    else
      echo "$name: $test: DIFFERS, and not without the library:"
      diff -U3 "$work/$control/out/results/$test.out" "$work/$name/out/results/$test.out" | head -n 200 || true
      verdict=1
    fi
  done <"$work/$name/failed"
done
[ "$verdict" = 0 ] || die "PostgreSQL's own suite gives other results with the library: see above"
say "PostgreSQL's own suites on $major: no difference that is not meant"
