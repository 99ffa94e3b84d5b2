#!/usr/bin/env bash
# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only
#
# Sets up what is compared, each in an environment of its own under target/bench, and compares it. The wheel
# is in dist/; that of an earlier version, to be measured beside it, is $BEFORE. Arguments go to the comparison:
# `--help` lists them.
set -euo pipefail
cd "$(dirname "$0")/.."
work=target/bench
mkdir -p "$work"

# An environment, made anew where what it is to hold has changed.
environment() {
    local path=$1 packages=("${@:2}")
    [ "$(cat "$path/.holds" 2>/dev/null)" = "${packages[*]}" ] && return
    echo "== making $path"
    rm -rf "$path"
    python3 -m venv "$path"
    "$path/bin/pip" install -q --disable-pip-version-check "${packages[@]}"
    echo "${packages[*]}" >"$path/.holds"
}

# Before 81, setuptools had the pkg_resources that the release imports.
environment "$work/peer" "setuptools<81" arvados_fuse==3.2.1 arvados-llfuse==1.5.2
wheel=$(echo dist/arvados_fuse-*.whl)
environment "$work/ours" "$wheel[local]"
"$work/ours/bin/pip" install -q --disable-pip-version-check --no-deps --force-reinstall "$wheel"
if [ -n "${BEFORE:-}" ]; then
    environment "$work/before" "$(realpath "$BEFORE")[local]"
    set -- --before "$@"
fi

echo "== building the programs of the benchmark"
cargo build -q --release --no-default-features --example bench-limit --example bench-blocks --example bench-load --example mount-collection
PYTHONPATH=scripts exec "$work/ours/bin/python" -m bench "$@"
