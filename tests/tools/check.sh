#!/usr/bin/env bash
# Does the crate compile for a major?
# Usage: check.sh MAJOR
# shellcheck source=tests/tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cd "$REPO"
quietly "cargo check for PostgreSQL $1" ${TENANCY_BUILD_LOCK:+flock "$TENANCY_BUILD_LOCK"} \
  cargo check --no-default-features --features "pg$1"
