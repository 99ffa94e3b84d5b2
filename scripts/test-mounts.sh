#!/usr/bin/env bash
# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only
#
# Runs the tests through mounts, and beside them the released suites, which wait for most of their
# time: what those say comes afterwards. Options are pytest's, for the former.
#
# Job control gives the suites a process group of their own, in which SIGINT is not ignored.
set -euo pipefail -m
cd "$(dirname "$0")/.."
python=.venv/bin/python
said="$TMPDIR/suites.log"
own="$TMPDIR/own.log"

suites() {
    local status=0
    "$python" tests/upstream/suite.py ours || status=1
    "$python" tests/upstream/sdk/suite.py || status=1
    "$python" tests/upstream/suite.py released-modules || status=1
    # Of ours there is only the cluster in this. Once it hung in its first test, and why was not found: what it
    # does again is a failure.
    "$python" tests/upstream/suite.py peer ||
        { echo "== the release failed its own suite: once more" && "$python" tests/upstream/suite.py peer; } ||
        status=1
    return "$status"
}

echo "== running the released suites beside the next (what they say: $said)"
suites >"$said" 2>&1 </dev/null &
suites=$!
stop() { kill -TERM -- "-$suites" 2>/dev/null || true; }
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

status=0
echo "== testing through mounts"
"$python" -m pytest tests/python "$@" 2>&1 | tee "$own" || status=${PIPESTATUS[0]}
# 2: somebody interrupted it.
[ "$status" != 2 ] || exit 130
echo "== waiting for the released suites"
wait "$suites" || status=1
cat "$said"
if [ "$status" != 0 ]; then
    # Whoever sees but the last lines shall see what failed.
    echo "== failed:"
    grep -hE '^(FAILED|ERROR|LEFT BEHIND|WRONG)' "$own" "$said" || tail -n 20 "$own"
fi
exit "$status"
