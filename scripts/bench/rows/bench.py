# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What all scenes work with."""

import json
import select
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cluster import Cluster
from ..dataset import DataSet, Sizes
from ..mounts import Mount
from ..runner import Failed, TimedOut, command, within


@dataclass
class Bench:
    """The data set, where it is served from, and the program that loads mounts."""

    data: DataSet
    cluster: Cluster
    program: Path
    #: Seconds that a measurement may take.
    timeout: float

    @property
    def sizes(self) -> Sizes:
        """How much of everything."""
        return self.data.sizes

    def load(self, mount: Mount, *words: object, timeout: float | None = None) -> dict[str, Any]:
        """Run the load program in a mount; return what it measured."""
        limit = timeout or self.timeout
        printed = command(self.program, *words, cwd=mount.path, timeout=limit, output=True)
        return json.loads(printed) if printed else {}

    def start(self, mount: Mount, *words: object) -> subprocess.Popen:
        """Start the load program in a mount."""
        return subprocess.Popen(
            within(mount.path, (self.program, *words)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ready(self, process: subprocess.Popen) -> None:
        """Wait until a started program says that it is ready; raises as `finish` does."""
        assert process.stdout
        readable, _, _ = select.select([process.stdout], [], [], self.timeout)
        if not readable or process.stdout.readline() != "ready\n":
            self.finish(process, 1)
            raise Failed("the load program did not say that it is ready")

    def finish(self, process: subprocess.Popen, timeout: float) -> str:
        """Return what a started program printed; raises Failed where it failed, TimedOut."""
        try:
            printed, reason = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise TimedOut(f"not done within {timeout:.0f} s") from None
        if process.returncode:
            raise Failed(reason.strip() or f"the load program exited {process.returncode}")
        return printed

    def list_top(self, mount: Mount, path: str) -> None:
        """Have a collection loaded."""
        command("ls", "-f", path, cwd=mount.path, timeout=self.timeout)

    def count(self, mount: Mount, path: str, expected: int) -> None:
        """Have everything below a path listed. Raises Failed where that is not what there is."""
        words = ("find", path, "-type", "f", "-printf", ".")
        found = len(command(*words, cwd=mount.path, timeout=self.timeout, output=True))
        if found != expected:
            raise Failed(f"{found} files are listed, not {expected}")
