#!/usr/bin/env bash
# Every test on each of the majors given, after installing what is missing.
# Usage: test-all.sh MAJOR…
# shellcheck source=tests/tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

exec 2>&1 # one stream, so that lines keep their order
"$TOOLS/setup.sh" "$@" python node pgbouncer

failed=()
for major in "$@"; do
  "$TOOLS/test.sh" "$major" || failed+=("$major")
done
if [ ${#failed[@]} != 0 ]; then
  die "tests failed on PostgreSQL ${failed[*]}"
fi
say "all tests passed on PostgreSQL $*"
