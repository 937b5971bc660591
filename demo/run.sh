#!/usr/bin/env bash
# `make demo`: installs what is missing, builds, starts a throw-away server, loads the flights
# and gives the tour. With KEEP=1 the server stays up afterwards.
# shellcheck source=tests/tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../tests/tools/lib.sh"

MAJOR=${MAJOR:-15}
NAME=demo
demo=$REPO/demo

"$TOOLS/setup.sh" "$MAJOR" flights
"$TOOLS/install.sh" "$MAJOR"

say "a throw-away PostgreSQL $MAJOR …"
kept=no
finish() { if [ "$kept" = no ]; then "$TOOLS/server.sh" stop "$NAME"; fi; }
trap finish EXIT
env=$("$TOOLS/server.sh" start "$MAJOR" "$NAME" --preload --durable)
# shellcheck disable=SC1090
. "$env"
psql=("$TENANCY_PG_BIN/psql" -X -q -v ON_ERROR_STOP=1)
"${psql[@]}" -c 'CREATE DATABASE flights'
export PGDATABASE=flights
say "loading 336,776 flights of 16 airlines …"
"${psql[@]}" -f "$demo/schema.sql"
(cd "$CACHE/flights" && "${psql[@]}" -f "$demo/load.sql")
say "ready"

python3 "$demo/tour.py"
mkdir -p "$REPO/target"
"${psql[@]}" -Atc 'SELECT tenancy.report()' >"$REPO/target/report.html"
say "all tenants on one page: target/report.html"

connect="psql 'host=$PGHOST port=$PGPORT user=app dbname=flights'"
try="SET tenancy.tenant_id = 'UA'; SELECT count(*) FROM flights;"
echo
if [ "${KEEP:-}" = 1 ]; then
  kept=yes
  printf 'The server stays up.\n  Connect:  %s\n  Try:      %s\n  Stop it:  %s\n' \
    "$connect" "$try" "tests/tools/server.sh stop $NAME"
elif [ -t 0 ] && [ -t 1 ]; then
  printf 'The server is still up. In another terminal:\n  Connect:  %s\n  Try:      %s\n\n' "$connect" "$try"
  read -r -p 'Enter removes the server. ' || true
else
  printf 'The server of this run is removed. To keep one and try it yourself:\n  make demo KEEP=1\n'
  printf 'then connect with the line that it prints, psql as the role app, and:\n  %s\n' "$try"
fi
