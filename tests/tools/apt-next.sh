#!/usr/bin/env bash
# Fetches one package from another release of Debian, or a source package from the machine's own,
# without telling the machine's apt about it.
# Usage: apt-next.sh source|binary PACKAGE[=VERSION] DIR [RELEASE]
#   source: the source package, unpacked in DIR; binary: the package's files, unpacked in DIR
#   RELEASE: trixie, unless given; "own": the machine's, its updates included
#
# The archive's address and keys are the machine's own: its Debian sources, with the
# name of the release replaced, in an apt configuration of our own.
# shellcheck source=tests/tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

kind=$1 package=$2 to=$3 NEXT=${4:-trixie}
apt_dir=$CACHE/apt-$NEXT
[ "$(. /etc/os-release && echo "$ID")" = debian ] || die "not Debian, so no Debian sources to read"
release=$(. /etc/os-release && echo "$VERSION_CODENAME")

mkdir -p "$apt_dir"/{lists,cache,sources.d} "$to"
: >"$apt_dir/status"

# Both formats of the machine's sources become one-line ones for that release.
python3 - "$release" "$NEXT" >"$apt_dir/sources.list" <<'PY'
import glob, re, sys

release, following = sys.argv[1:]
suites = {release} | ({release + "-updates", release + "-security"} if following == "own" else set())
found = set()
for path in ["/etc/apt/sources.list", *glob.glob("/etc/apt/sources.list.d/*.list")]:
    try:
        lines = open(path).read().splitlines()
    except FileNotFoundError:
        continue
    for line in lines:
        match = re.match(r"deb\s+(?:\[(.*?)\]\s+)?(\S+)\s+(\S+)\s+(.*)", line.strip())
        if match and match[3] in suites and "main" in match[4].split():
            options = [o for o in (match[1] or "").split() if o.startswith("signed-by=")]
            found.add((match[2], match[3], options[0][10:] if options else ""))
for path in glob.glob("/etc/apt/sources.list.d/*.sources"):
    for stanza in re.split(r"\n\s*\n", open(path).read()):
        fields = {}
        for line in stanza.splitlines():
            if not line.startswith("#") and ":" in line and not line[0].isspace():
                name, value = line.split(":", 1)
                fields[name.lower()] = value.strip()
        # A key written out in the stanza cannot go into a one-line source: apt's own then serve.
        key = fields.get("signed-by", "")
        if "main" in fields.get("components", "").split():
            key = key if key.startswith("/") else ""
            here = suites & set(fields.get("suites", "").split())
            found.update((uri, suite, key) for uri in fields["uris"].split() for suite in here)
for uri, suite, key in sorted(found) if following == "own" else sorted(found)[:1]:
    option = f" [signed-by={key}]" if key else ""
    suite = suite if following == "own" else following
    print(f"deb{option} {uri} {suite} main\ndeb-src{option} {uri} {suite} main")
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
  quietly "unpacking $package" dpkg-source --no-check -x ./*.dsc "${package%%=*}"
else
  quietly "download of $package" apt_next apt-get download "$package"
  dpkg-deb -x ./*.deb .
fi
