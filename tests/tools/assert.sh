#!/usr/bin/env bash
# Our own suites on a PostgreSQL that checks its assertions, built here from its source.
# Usage: assert.sh MAJOR [STEP…]
#   steps as test.sh has them (default: regress isolation integration client)
# shellcheck source=tests/tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

major=$1
shift
steps=("$@")
[ ${#steps[@]} != 0 ] || steps=(regress isolation integration client)
prefix=$CACHE/assert/$major
modules=(amcheck btree_gin btree_gist citext hstore ltree pageinspect pg_stat_statements pg_trgm)
exec 2>&1 # one stream, so that lines keep their order

build() (
  local tree=$prefix.build stage=$prefix.stage strays
  rm -rf "$prefix" "$tree" "$stage" && mkdir -p "$CACHE/assert"
  cp -r "$source" "$tree"
  cd "$tree"
  # PostgreSQL's makefiles make their headers first only where no other make has called them.
  unset MAKELEVEL MAKEFLAGS MFLAGS
  # Debian's packages have their libraries in a fixed place, where the machine's own PostgreSQL is.
  patch -R -s -p1 <debian/patches/50-per-version-dirs.patch
  # What is left out has nothing to do with us and would only need more packages.
  quietly "configure of PostgreSQL $major with assertions" ./configure --prefix="$prefix" \
    --enable-cassert --enable-debug --without-icu --without-readline --without-zlib CFLAGS='-O1 -fno-omit-frame-pointer'
  quietly "build of PostgreSQL $major with assertions (some minutes)" nice make -s -j "$(nproc)"
  # By way of a directory of its own, so that nothing can come to lie outside ours.
  quietly "install of PostgreSQL $major with assertions" make -s install DESTDIR="$stage"
  # Those that our tests create.
  for module in "${modules[@]}"; do
    quietly "build of $module" make -s -C "contrib/$module" install DESTDIR="$stage"
  done
  strays=$(find "$stage" -type f ! -path "$stage$prefix/*" | head -n 3)
  [ -z "$strays" ] || die "the build would install outside $prefix: $strays"
  mv "$stage$prefix" "$prefix"
  cd / && rm -rf "$tree" "$stage"
)

source=$("$TOOLS/source.sh" "$major")
is=$(sed -n "s/^PACKAGE_VERSION='\(.*\)'/\1/p" "$source/configure")
if [ "$(cat "$prefix/.done" 2>/dev/null)" != "$is ${modules[*]}" ]; then
  apt_need gcc make bison flex perl
  build
  echo "$is ${modules[*]}" >"$prefix/.done"
fi
[ "$("$prefix/bin/pg_config" --configure | grep -c -e --enable-cassert)" = 1 ] || die "no assertions in $prefix"

cd "$REPO"
# A build for other headers than those of our other servers, so in a place of its own.
export CARGO_TARGET_DIR=$REPO/target/assert
"$TOOLS/install.sh" "$prefix/bin/pg_config"
export TENANCY_PG_PREFIX=$prefix
rm -f "$CACHE"/log/server-*"$major".log
rc=0
"$TOOLS/test.sh" "$major" "${steps[@]}" || rc=$?
# A failed assertion ends the backend, which a test may take for an error that it expects. Tests kill with 9 and nothing else.
if grep -h -e 'TRAP:' -e 'was terminated by signal [^9]' "$CACHE"/log/server-*"$major".log; then
  say "an assertion failed: see above, and the logs beside $CACHE/log/server-regress$major.log"
  rc=1
fi
exit "$rc"
