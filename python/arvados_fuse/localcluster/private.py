# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Keeping a cluster's folder to its owner: there are tokens and keys in it."""

import os
from pathlib import Path

#: What is in the folder of a cluster, and in no other.
_OURS = ("cluster.json", "records.sqlite")


def ensure_private(folder: Path) -> None:
    """Make a folder that only its owner may look into, or make one that is there so.

    RuntimeError where that folder holds what is not a cluster's, or belongs to somebody else:
    closing it to others would surprise them.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.stat()
    if not state.st_mode & 0o077:
        return
    found = {entry.name for entry in folder.iterdir()} - {"cluster.log"}
    if state.st_uid != os.geteuid() or (found and not found.intersection(_OURS)):
        raise RuntimeError(
            f"{folder} is open to other users, and there would be tokens in it: "
            "choose a new folder, or `chmod 700` it"
        )
    folder.chmod(0o700)


def write_privately(path: Path, text: str) -> None:
    """Write a file as a whole, for its owner alone: there are tokens in it."""
    new = path.with_suffix(".new")
    # What an interrupted run left behind has the mode that it has.
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(text)
    new.replace(path)
