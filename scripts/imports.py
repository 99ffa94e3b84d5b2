# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Puts the imports of Rust files into one order, which rustfmt does on nightly only.

The `use` items at the head of a module stand in blocks with an empty line between: std; other
crates; super and crate. `python scripts/imports.py` says which files have them otherwise, and fails;
with `--write` it mends them. Run `cargo fmt` afterwards: it sorts within a block.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("src", "crates", "tests/rust", "benches", "examples", "fuzz/fuzz_targets")
#: Imports without attributes, one after the other, at the outermost level; re-exports stay where they are.
IMPORTS = re.compile(r"(?:^use [^;]*;\n(?:\n(?=use ))?)+", re.M)
ITEM = re.compile(r"^use [^;]*;\n", re.M)
FIRST = re.compile(r"use (?:::)?(\w+)")


def block(item: str) -> int:
    """Return which block an import belongs to."""
    found = FIRST.match(item)
    name = found[1] if found else ""
    if name in ("std", "core", "alloc"):
        return 0
    return 2 if name in ("self", "super", "crate") else 1


def ordered(text: str) -> str:
    """Return a file with its imports in order."""

    def put_right(found: "re.Match[str]") -> str:
        blocks: list[list[str]] = [[], [], []]
        for item in ITEM.findall(found[0]):
            blocks[block(item)].append(item)
        return "\n".join("".join(items) for items in blocks if items)

    return IMPORTS.sub(put_right, text, count=1)


def main() -> int:
    wrong = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.rs")):
            text = path.read_text()
            if (right := ordered(text)) != text:
                wrong.append(str(path.relative_to(ROOT)))
                if "--write" in sys.argv[1:]:
                    path.write_text(right)
    if wrong and "--write" not in sys.argv[1:]:
        print("imports are not in order (python scripts/imports.py --write):", *wrong, sep="\n  ")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
