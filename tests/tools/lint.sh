#!/usr/bin/env bash
# Formatting, clippy and the rules of this code base. Lists everything that is wrong, then fails.
# Usage: lint.sh
# shellcheck source=tests/tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cd "$REPO"
exec 2>&1 # one stream, so that lines keep their order
failed=0

# run LABEL COMMAND…: one line when it passes, its output when it does not.
run() {
  local label=$1 begun=$SECONDS log
  shift
  log=$(mktemp)
  if "$@" >"$log" 2>&1 </dev/null; then
    say "ok      $label ($((SECONDS - begun)) s)"
  else
    cat "$log"
    say "FAILED  $label"
    failed=1
  fi
  rm -f "$log"
}
# none LABEL COMMAND…: whatever the command prints is a fault.
none() {
  local label=$1 found
  shift
  found=$("$@")
  if [ -z "$found" ]; then
    say "ok      $label"
  else
    printf '%s\n' "$found"
    say "FAILED  $label"
    failed=1
  fi
}

# The files of the project: tracked ones, and those that are about to be.
files() { git ls-files -co --exclude-standard -- "$@" | while read -r file; do [ ! -f "$file" ] || echo "$file"; done; }
[ -n "$(files .)" ] || die "git lists no files here, so there is nothing to look at"

# Only src/pg may touch PostgreSQL's own structures or know its majors. Comments may speak of them.
outside_pg() {
  local file
  files 'src/*.rs' | grep -v '^src/pg/' | while read -r file; do
    sed 's#//.*##' "$file" | { grep -nE '\bunsafe\b|\bpg_sys\b|cfg\(.*feature *= *"pg1' || true; } | sed "s#^#$file:#"
  done
}
too_long() {
  files '*.rs' '*.sql' '*.sh' '*.py' '*.js' | while read -r file; do
    awk -v file="$file" 'END { if (NR > 600) print file ": " NR " lines, at most 600" }' "$file"
  done
}
# CREATE EXTENSION reads it in the encoding of the database.
not_ascii() {
  files 'sql/*.sql' | xargs -d '\n' grep -nP '[^\x00-\x7F]' || true
}
# Addresses and paths of somebody's machine; bracketed letters keep this line out of its own net.
places() {
  files . | xargs -d '\n' grep -nIE \
    'pypi[.]org|pythonhosted[.]org|registry[.]npmjs|(index|static)[.]crates[.]io|deb[.]debian[.]org|(^|[^[:alnum:]._$}*])/(ro[o]t|hom[e]|wor[k])/' || true
}
shell_files() {
  files '*.sh' '.ci/run'
}

say "lint"
none "no unsafe, pg_sys or PostgreSQL major outside src/pg" outside_pg
none "no file over 600 lines" too_long
none "SQL of the extension is ASCII" not_ascii
none "no machine path, no registry address" places
shell_syntax() { shell_files | while read -r file; do bash -n "$file" || return 1; done; }
run "bash -n" shell_syntax
command -v shellcheck >/dev/null || apt_need shellcheck
mapfile -t scripts < <(shell_files)
# Without: functions that are called by name (2317), variables of a sourced subshell (2031).
run "shellcheck" shellcheck -x -P "$REPO" -e SC2317,SC2031 "${scripts[@]}"
mapfile -t pythons < <(files '*.py')
run "Python compiles" python3 -c 'import ast, sys; [ast.parse(open(f).read(), f) for f in sys.argv[1:]]' "${pythons[@]}"

run "cargo fmt" cargo fmt --all -- --check
for major in 15 18; do
  say "clippy for PostgreSQL $major …"
  run "clippy for PostgreSQL $major" ${TENANCY_BUILD_LOCK:+flock "$TENANCY_BUILD_LOCK"} cargo clippy \
    --all-targets --no-default-features --features "pg$major pg_test" -- -D warnings
done
if [ -e tests/client/Cargo.toml ]; then
  run "clippy of the Rust client tests" cargo clippy --all-targets --manifest-path tests/client/Cargo.toml \
    --target-dir target -- -D warnings
fi

[ "$failed" = 0 ] || die "lint found faults: see above"
say "lint found nothing"
