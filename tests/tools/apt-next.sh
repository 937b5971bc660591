#!/usr/bin/env bash
# Fetches one package from Debian's next release, without telling the machine's apt about it.
# Usage: apt-next.sh source|binary PACKAGE DIR
#   source: the source package, unpacked in DIR; binary: the package's files, unpacked in DIR
#
# The archive's address and keys are the machine's own: its Debian sources, with the
# name of the release replaced, in an apt configuration of our own.
# shellcheck source=tests/tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

NEXT=trixie
kind=$1 package=$2 to=$3
apt_dir=$CACHE/apt-$NEXT
[ "$(. /etc/os-release && echo "$ID")" = debian ] || die "not Debian, so no Debian sources to read"
release=$(. /etc/os-release && echo "$VERSION_CODENAME")

mkdir -p "$apt_dir"/{lists,cache,sources.d} "$to"
: >"$apt_dir/status"

# Both formats of the machine's sources become one-line ones for the next release.
python3 - "$release" "$NEXT" >"$apt_dir/sources.list" <<'PY'
import glob, re, sys

release, following = sys.argv[1:]
found = set()
for path in ["/etc/apt/sources.list", *glob.glob("/etc/apt/sources.list.d/*.list")]:
    try:
        lines = open(path).read().splitlines()
    except FileNotFoundError:
        continue
    for line in lines:
        match = re.match(r"deb\s+(?:\[(.*?)\]\s+)?(\S+)\s+(\S+)\s+(.*)", line.strip())
        if match and match[3] == release and "main" in match[4].split():
            options = [o for o in (match[1] or "").split() if o.startswith("signed-by=")]
            found.add((match[2], options[0][10:] if options else ""))
for path in glob.glob("/etc/apt/sources.list.d/*.sources"):
    for stanza in re.split(r"\n\s*\n", open(path).read()):
        fields = {}
        for line in stanza.splitlines():
            if not line.startswith("#") and ":" in line and not line[0].isspace():
                name, value = line.split(":", 1)
                fields[name.lower()] = value.strip()
        # A key written out in the stanza cannot go into a one-line source: apt's own then serve.
        key = fields.get("signed-by", "")
        if release in fields.get("suites", "").split() and "main" in fields.get("components", "").split():
            found.update((uri, key if key.startswith("/") else "") for uri in fields["uris"].split())
for uri, key in sorted(found)[:1]:
    option = f" [signed-by={key}]" if key else ""
    print(f"deb{option} {uri} {following} main\ndeb-src{option} {uri} {following} main")
PY
[ -s "$apt_dir/sources.list" ] || die "no source of Debian $release on this machine"

apt_next() {
  "$1" -q -y -o Dir::Etc::sourcelist="$apt_dir/sources.list" -o Dir::Etc::sourceparts="$apt_dir/sources.d" \
    -o Dir::State::lists="$apt_dir/lists" -o Dir::State::status="$apt_dir/status" \
    -o Dir::Cache="$apt_dir/cache" -o Dir::Cache::archives="$apt_dir/cache" \
    -o APT::Get::List-Cleanup=false -o APT::Sandbox::User= -o Acquire::Languages=none \
    -o APT::Update::Post-Invoke::= -o APT::Update::Post-Invoke-Success::= "${@:2}"
}
quietly "package lists of Debian $NEXT" apt_next apt-get update
cd "$to"
if [ "$kind" = source ]; then
  quietly "source of $package" apt_next apt-get source --download-only "$package"
  # apt has checked it against the signed index; --no-check leaves out the uploader's signature.
  quietly "unpacking $package" dpkg-source --no-check -x ./*.dsc "$package"
else
  quietly "download of $package" apt_next apt-get download "$package"
  dpkg-deb -x ./*.deb .
fi
