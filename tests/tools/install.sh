#!/usr/bin/env bash
# Builds the extension and installs it.
# Usage: install.sh MAJOR       into our private PostgreSQL of that major
#        install.sh PG_CONFIG   into the PostgreSQL that this program describes
# shellcheck source=tests/tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cd "$REPO"
case $1 in
  1[0-9])
    pg_config=$(pg_bin "$1")/pg_config
    [ -x "$pg_config" ] || "$TOOLS/setup.sh" "$1"
    what="our PostgreSQL $1"
    ;;
  *)
    pg_config=$(command -v "$1") || die "no $1 on the PATH: make install PG_CONFIG=/path/to/pg_config"
    what=$("$pg_config" --version)
    [ -e "$("$pg_config" --includedir-server)/postgres.h" ] ||
      die "$what has no server headers here (on Debian: apt-get install postgresql-server-dev-NN)"
    "$TOOLS/setup.sh" build
    # The headers that the build reads must be those of this very server.
    export PGRX_HOME=$CACHE/pgrx-install
    rm -rf "$PGRX_HOME"
    major=$("$pg_config" --version | grep -oE '[0-9]+' | head -n 1)
    quietly "cargo pgrx init" cargo pgrx init --no-run "--pg$major=$pg_config"
    ;;
esac
begun=$(mktemp)
trap 'rm -f "$begun"' EXIT
arguments=(install --release --pg-config "$pg_config")
for dir in "$("$pg_config" --pkglibdir)" "$("$pg_config" --sharedir)/extension"; do
  [ -w "$dir" ] || arguments+=(--sudo)
done
build_pgrx "build and install into $what" "${arguments[@]}"
case $1 in
  # In our own copies, files of an earlier version must not stay beside the new ones.
  1[0-9]) find "$("$pg_config" --sharedir)/extension" -name 'tenancy[.-]*' ! -newer "$begun" -delete ;;
esac
# The ways from earlier versions are made of what has been installed.
extension_dir=$("$pg_config" --sharedir)/extension
if [ -w "$extension_dir" ]; then run=(); else run=(as_root); fi
"${run[@]}" python3 sql/update_script.py --all "$extension_dir" >"$CACHE/log/update-scripts.log"
say "installed in $("$pg_config" --pkglibdir)"
