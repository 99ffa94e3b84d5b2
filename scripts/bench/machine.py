# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The machine that measures: what it is, and having its kernel forget."""

import os
import platform
import subprocess
from pathlib import Path

from .runner import Failed, command


def drop_caches(what: int) -> None:
    """Have the kernel drop page cache (1), names and inodes (2), or both (3). Raises Failed."""
    os.sync()
    control = Path("/proc/sys/vm/drop_caches")
    try:
        control.write_text(str(what))
    except PermissionError:
        if os.geteuid() == 0:
            raise Failed("this container may not drop the kernel's caches") from None
        script = f"echo {what} > {control}"
        command("sudo", "-n", "sh", "-c", script, timeout=30)


def describe() -> dict[str, str]:
    """Return what a reader needs to know about the machine."""
    cpu = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {
        "processor": f"{cpu or platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{memory:.0f} GiB",
        "kernel": platform.release(),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def version(program: Path) -> str:
    """Return what an arv-mount says of its version."""
    done = subprocess.run([str(program), "--version"], capture_output=True, text=True)
    return (done.stdout or done.stderr).strip().rpartition(" ")[2]


def revision() -> str:
    """Return the commit that is measured, marked where the checkout differs from it."""
    words = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(words, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"
