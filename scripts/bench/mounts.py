# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The contestants, and mounts of theirs: each a process of its own."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .runner import Failed, TimedOut, command

#: Seconds that a mount may take to be there.
START = 60.0


def is_mounted(path: Path) -> bool:
    """Return whether a file system is mounted at a path, without asking that file system."""
    wanted = f" {path} "
    return any(wanted in line for line in Path("/proc/self/mountinfo").read_text().splitlines())


@dataclass
class Mount:
    """A mount that is being served."""

    #: The directory that scenes work in.
    path: Path
    process: subprocess.Popen
    log: Path
    #: Where it is mounted: there, or below.
    point: Path

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
        raise Failed("the mount has ended")

    def memory(self) -> int:
        """Return the resident memory of the process, in bytes."""
        self.settle()
        return self._status("VmRSS")

    def peak_memory(self) -> int:
        """Return the most that `memory` has been so far."""
        return self._status("VmHWM")

    def processor(self) -> float:
        """Return the processor time that it has used, in seconds, once it is idle.

        It is the sum of utime and stime in /proc/PID/stat, which are in ticks of 10 ms, from the clock
        that they come from: clock_getcpuclockid(3).
        """
        self.settle()
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def _busy(self) -> int:
        """Return the processor time that it has used, in ticks."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def settle(self, timeout: float = 10) -> None:
        """Wait until it is idle: what the kernel told it to forget is forgotten."""
        deadline, quiet, before = time.monotonic() + timeout, 0, self._busy()
        while quiet < 3 and time.monotonic() < deadline:
            time.sleep(0.03)
            now = self._busy()
            quiet = quiet + 1 if now == before else 0
            before = now

    def end(self) -> None:
        """Unmount, and see the process end, by force if need be."""
        for _ in range(10):
            if not is_mounted(self.point):
                break
            for program in (["umount", "-l"], ["fusermount3", "-u", "-z"]):
                done = subprocess.run([*program, str(self.point)], capture_output=True)
                if done.returncode == 0:
                    break
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
                return


class MountProgram:
    """A contestant: a program that mounts. Its home, with its caches, is its own."""

    def __init__(self, name: str, work: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.work = work / "mounts" / name
        self.home = work / "home" / name
        self.home.mkdir(parents=True, exist_ok=True)
        self.env = {**os.environ, **env, "HOME": str(self.home)}
        for variable in ("XDG_CACHE_HOME", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):
            self.env.pop(variable, None)
        self._count = 0

    def arguments(self, path: Path, log: Path, options: Sequence[str]) -> list[str]:
        """Return the command line of a mount in the foreground."""
        raise NotImplementedError

    def point(self, path: Path, shows: str) -> Path:
        """Return where to mount so that a part of the data set is where arv-mount at `path` has it."""
        return path

    def forget_blocks(self) -> None:
        """Empty the cache of blocks; what else is cached stays, as it does for users."""
        for path in (self.home / ".cache" / "arvados").glob("*"):
            if path.name != "discovery":
                shutil.rmtree(path)

    @contextlib.contextmanager
    def mounted(self, *options: str, shows: str = "small") -> Iterator[Mount]:
        """Mount, yield when it answers, and unmount.

        `shows` is the part of the data set that is worked on, for those who mount but one collection.
        """
        self._count += 1
        path = self.work / f"mnt{self._count}"
        point = self.point(path, shows)
        point.mkdir(parents=True)
        log = path.with_suffix(".log")
        with open(path.with_suffix(".err"), "w") as errors:
            process = subprocess.Popen(
                self.arguments(point, log, options),
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )
        mount = Mount(path, process, log, point)
        try:
            self._await(mount)
            yield mount
        except FileNotFoundError as error:
            raise Failed(f"the mount has ended: {error}") from error
        finally:
            mount.end()
        while point != self.work:
            point.rmdir()
            point = point.parent

    def _await(self, mount: Mount) -> None:
        deadline = time.monotonic() + START
        while not is_mounted(mount.point):
            if mount.process.poll() is not None:
                said = mount.path.with_suffix(".err").read_text().strip().splitlines()
                raise Failed("the mount ended: " + "".join(said[-1:]))
            if time.monotonic() > deadline:
                raise TimedOut(f"not mounted within {START:.0f} s")
            time.sleep(0.001)
        # The first request waits until somebody serves it.
        command("stat", mount.point, timeout=START)


class ArvMount(MountProgram):
    """An arv-mount of an environment, as a user runs it."""

    def __init__(self, name: str, venv: Path, work: Path, env: Mapping[str, str]) -> None:
        super().__init__(name, work, env)
        self._program = venv / "bin" / "arv-mount"

    def arguments(self, path: Path, log: Path, options: Sequence[str]) -> list[str]:
        """See MountProgram."""
        return [str(self._program), "--foreground", "--logfile", str(log), *options, str(path)]


class CoreMount(MountProgram):
    """The core alone: a collection by its manifest, blocks from the Keep service, without Python."""

    def __init__(
        self,
        name: str,
        program: Path,
        keep: str,
        shown: Mapping[str, tuple[str, Path]],
        work: Path,
        env: Mapping[str, str],
    ) -> None:
        """`shown` has path and manifest of the collections that may be mounted."""
        super().__init__(name, work, env)
        self._shown = shown
        self._shows = ""
        cache = self.home / ".cache" / "arvados" / "keep"
        self._command = [str(program), "--keep", keep, "--cache", str(cache)]

    def point(self, path: Path, shows: str) -> Path:
        """See MountProgram."""
        self._shows = shows
        return path / self._shown[shows][0]

    def arguments(self, path: Path, log: Path, options: Sequence[str]) -> list[str]:
        """See MountProgram. It has no options."""
        return [*self._command, "--manifest", str(self._shown[self._shows][1]), str(path)]


class LimitMount(MountProgram):
    """The limit: shows manifests at the paths at which arv-mount shows the collections."""

    def __init__(
        self, name: str, program: Path, blocks: Path, shown: Mapping[str, Path], work: Path
    ) -> None:
        super().__init__(name, work, {})
        self._command = [str(program), "--blocks", str(blocks), "--tmp", "tmp"]
        self._shown = [f"{path}={manifest}" for path, manifest in shown.items()]

    def arguments(self, path: Path, log: Path, options: Sequence[str]) -> list[str]:
        """See MountProgram. It has no options: all parts of the tree are always there."""
        return [*self._command, str(path), *self._shown]
