#!/usr/bin/env bash
# What tenancy.distribute does, on a real Citus: it is in no registry, so its source is given. Needs what assert.sh has built.
# Usage: citus.sh MAJOR SOURCE
#   SOURCE: a directory with the source of Citus (14 knows PostgreSQL 16 to 18)
# shellcheck source=tests/tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

major=$1
source=$(cd "$2" && pwd)
base=$CACHE/assert/$major
prefix=$CACHE/citus/$major
[ -x "$base/bin/postgres" ] || die "no $base: first run tests/tools/assert.sh $major"

if [ ! -e "$prefix/.done" ]; then
  apt_need gcc make flex libssl-dev
  rm -rf "$prefix" && mkdir -p "$CACHE/citus"
  cp -r "$base" "$prefix"
  tree=$(mktemp -d)
  trap 'rm -rf "$tree"' EXIT
  cp -r "$source/." "$tree"
  # Else make would have autoconf make them anew, because what they are made of may have been copied after them.
  touch "$tree/configure" "$tree/src/include/citus_config.h.in"
  (
    cd "$tree"
    unset MAKELEVEL MAKEFLAGS MFLAGS
    PG_CONFIG=$prefix/bin/pg_config quietly "configure of Citus" ./configure --without-libcurl --without-lz4 --without-zstd
    quietly "build of Citus (some minutes)" nice make -s -j "$(nproc)"
    quietly "install of Citus" make -s install
  )
  touch "$prefix/.done"
fi

cd "$REPO"
export CARGO_TARGET_DIR=$REPO/target/assert
"$TOOLS/install.sh" "$prefix/bin/pg_config"
export TENANCY_PG_PREFIX=$prefix
"$TOOLS/test.sh" "$major" distribute
