#!/usr/bin/env bash
# Provides the PgBouncer that the integration tests use, as $TENANCY_CACHE/pgbouncer/pgbouncer.
#
# `track_extra_parameters`, which lets plain SET survive transaction pooling, came with 1.20;
# Debian 12 has 1.18. So PgBouncer is built from the source package of Debian's next release.
# Where that cannot be had, the packaged one serves; tests print the version they run with.
# shellcheck source=tests/tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

to=$CACHE/pgbouncer
[ -x "$to/pgbouncer" ] && [ -e "$to/.done" ] && exit
rm -rf "$to" && mkdir -p "$to"

new_enough() { # PROGRAM: is it 1.20 or later?
  local version
  version=$("$1" --version 2>/dev/null | awk 'NR == 1 {print $2}')
  [ -n "$version" ] && [ "$(printf '%s\n' 1.20 "$version" | sort -V | head -n 1)" = 1.20 ]
}

build() {
  local work
  apt_need gcc make pkg-config dpkg-dev libevent-dev libssl-dev
  work=$(mktemp -d)
  # A subshell: `die` in there ends the attempt, not the script. Joined by &&, because
  # in a function whose result is tested `set -e` has no effect.
  (
    "$TOOLS/apt-next.sh" source pgbouncer "$work" &&
      cd "$work/pgbouncer" &&
      quietly "PgBouncer: configure" ./configure --prefix="$to" --with-openssl --without-cares \
        --without-pam --without-systemd --without-ldap &&
      quietly "PgBouncer: make" make -j"$(nproc)" pgbouncer &&
      install -m 755 pgbouncer "$to/pgbouncer"
  )
  local rc=$?
  rm -rf "$work"
  return "$rc"
}

if [ -x /usr/sbin/pgbouncer ] && new_enough /usr/sbin/pgbouncer; then
  ln -s /usr/sbin/pgbouncer "$to/pgbouncer"
elif ! build || ! new_enough "$to/pgbouncer"; then
  say "*** PgBouncer 1.20 or later cannot be built here: falling back to the package."
  say "*** The tests of plain SET behind a pooler need it and will say that they did not run."
  # The package starts a pooler of its own; without a policy to run services it does not.
  apt_need pgbouncer
  ln -sf /usr/sbin/pgbouncer "$to/pgbouncer"
  exit # no .done: the next set-up tries again
fi
say "$("$to/pgbouncer" --version | head -n 1)"
touch "$to/.done"
