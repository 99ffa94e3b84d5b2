#!/usr/bin/env bash
# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only
#
# Runs the tests of the core: with cargo-nextest where that is installed, else with cargo test. Options
# are those of either that pick tests (a part of a name).
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"

if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --cargo-quiet --no-default-features "$@"
    # nextest does not run these.
    cargo test -q --doc --no-default-features "$@"
else
    cargo test -q --no-default-features "$@"
fi
