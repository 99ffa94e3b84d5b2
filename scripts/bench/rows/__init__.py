# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The rows, by theme. A theme's `scenes` returns what measures them."""

from ..runner import Scene
from . import (
    far,
    memory,
    metadata,
    opening,
    programs,
    projects,
    reading,
    saving,
    service,
    writing,
)
from .bench import Bench

__all__ = ["Bench", "all_scenes"]


def all_scenes(bench: Bench) -> list[Scene]:
    """Return every scene, in the order of the report."""
    themes = (
        *(metadata, reading, opening, projects, far),
        *(writing, saving, programs, service, memory),
    )
    return [scene for theme in themes for scene in theme.scenes(bench)]
