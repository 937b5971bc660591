#!/usr/bin/env bash
# Fetches the server's own source, with Debian's patches, by Debian's ordinary means.
# Usage: source.sh MAJOR   15 or 18; prints the directory
#
# 15 is the release's own package. 18 is in a later release: the minor that it has there is
# the one to test with, so the private server of that major ought to be of the same minor.
# shellcheck source=tests/tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

major=$1
bin=$(pg_bin "$major")
[ -x "$bin/pg_config" ] || "$TOOLS/setup.sh" "$major" >&2
case $major in
  15) release=own package=postgresql-15=$(dpkg-query -W -f '${source:Version}' postgresql-15) ;;
  18) release=forky package=postgresql-18 ;;
  *) die "no source of PostgreSQL $major here: 15 and 18 have one" ;;
esac
to=$CACHE/source/$major
if [ "$(cat "$to/.done" 2>/dev/null)" != "$package" ]; then
  apt_need dpkg-dev >&2
  rm -rf "$to" && mkdir -p "$to"
  "$TOOLS/apt-next.sh" source "$package" "$to" "$release" >&2
  rm -f "$to"/*.tar.* "$to"/*.dsc
  echo "$package" >"$to/.done"
fi
source=$to/postgresql-$major
[ -d "$source/src/test/regress" ] || die "$source has no regression suite"
have=$("$bin/postgres" --version | grep -oE '[0-9]+\.[0-9]+' | head -n 1)
is=$(sed -n "s/^PACKAGE_VERSION='\(.*\)'/\1/p" "$source/configure")
[ "$have" = "$is" ] || say "the server is $have and its source $is: expect differences between minors"
echo "$source"
