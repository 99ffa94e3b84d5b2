#!/usr/bin/env bash
# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only
#
# Runs a command; shows what it says only if it fails.
set -u
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$@" >"$log" 2>&1 || { status=$?; cat "$log"; exit "$status"; }
