# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Saving while processes are killed, signalled and forked, and while there are very many of them.

`KILL_N` says how often a mount is killed in mid write (10), `make soak` does it 100 times.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import arvados.collection
import pytest
from arvados_fuse.localcluster import LocalCluster
from conftest import Mounted, force_unmount, is_mounted, poll, save_collection
from test_mount_daemon import both
from test_mount_saving import contents, shown

KILLED = int(os.environ.get("KILL_N") or 10)
#: Threads that write to one collection.
WRITERS = 200


class Writing:
    """Threads that write files of several sizes to a mount until that fails or they are stopped."""

    def __init__(self, mount: Path, names: str) -> None:
        #: What every file contains whose close or fsync returned, by path.
        self.acknowledged: dict[str, bytes] = {}
        # What is written where the mount was comes to nothing.
        place = mount / "d"
        place.mkdir()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(place, name)) for name in names]

    def __enter__(self) -> "Writing":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _write(self, place: Path, name: str) -> None:
        for count in range(100_000):
            file, data = f"{name}{count}", os.urandom([5, 5_000, 300_000][count % 3])
            if self._stop.is_set():
                return
            try:
                self._write_one(place / file, data, count % 2 == 1)
            except OSError:
                return

    def _write_one(self, path: Path, data: bytes, sync: bool) -> None:
        with open(path, "wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
                self.acknowledged[f"d/{path.name}"] = data
        self.acknowledged[f"d/{path.name}"] = data


def assert_saved(cluster: LocalCluster, uuid: str, expected: dict[str, bytes]) -> None:
    """The record has these files; whoever reads it has an empty cache."""
    saved = arvados.collection.CollectionReader(uuid, api_client=cluster.api())
    for name, data in expected.items():
        with saved.open(name, "rb") as file:
            assert file.read() == data, name


def is_free(path: Path) -> bool:
    """Unmount what is dead there, as whoever mounts anew does, and return whether that was all."""
    subprocess.run(["fusermount3", "-u", str(path)], capture_output=True)
    return not is_mounted(path)


@pytest.mark.timeout(180 + 10 * KILLED)
def test_a_mount_that_is_killed_loses_nothing_acknowledged(
    arv_mount: Callable, fresh_cluster: LocalCluster, chance: random.Random
) -> None:
    for number in range(KILLED):
        uuid = save_collection(fresh_cluster, f"killed {number}")
        mount = arv_mount("--read-write", "--collection", uuid, stdin=subprocess.DEVNULL)
        with Writing(mount.path, "abc") as writing:
            poll("something is saved", lambda it=writing: len(it.acknowledged) > 3)
            time.sleep(chance.uniform(0, 0.3))
            mount.process.kill()
            began = time.monotonic()
            assert mount.process.wait(20) == -signal.SIGKILL
        poll("the mount point is free", lambda at=mount.path: is_free(at))
        assert time.monotonic() - began < 10
        assert_saved(fresh_cluster, uuid, writing.acknowledged)


def test_a_mount_that_is_told_to_end_in_mid_write(
    arv_mount: Callable, fresh_cluster: LocalCluster, chance: random.Random
) -> None:
    for number in range(3):
        uuid = save_collection(fresh_cluster, f"ended {number}")
        mount = arv_mount("--read-write", "--collection", uuid)
        with Writing(mount.path, "abc") as writing:
            poll("something is saved", lambda it=writing: len(it.acknowledged) > 3)
            time.sleep(chance.uniform(0, 0.3))
            mount.process.terminate()
            status = mount.process.wait(20)
        assert not is_mounted(mount.path)
        assert_saved(fresh_cluster, uuid, writing.acknowledged)
        log = mount.log.read_text()
        assert "Traceback" not in log
        assert status == 0 or f"could not save {uuid}" in log, log


#: Writes numbered lines until it is killed, and says which of them are synced.
PROGRAM = """
import os, sys
with open(sys.argv[1], "wb", buffering=0) as file:
    for number in range(100_000):
        file.write(b"%09d\\n" % number * 100)
        if number % 50 == 49:
            os.fsync(file.fileno())
            print(number, flush=True)
"""


def test_a_program_that_is_killed_in_mid_write(
    arv_mount: Callable, fresh_cluster: LocalCluster
) -> None:
    uuid = save_collection(fresh_cluster, "c")
    mount = arv_mount("--read-write", "--collection", uuid)
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, mount.path / "new"], stdout=subprocess.PIPE
    )
    assert program.stdout is not None
    synced = [int(program.stdout.readline()) for _ in range(3)]
    program.kill()
    assert program.wait(20) == -signal.SIGKILL
    rest = program.stdout.read().split()
    program.stdout.close()
    last = int(rest[-1]) if rest else synced[-1]
    text = (mount.path / "new").read_bytes()
    lines = [b"%09d\n" % number for number in range(len(text) // 1000 + 1)]
    # A write that was under way may have come through in part.
    assert len(text) >= (last + 1) * 1000
    assert text == b"".join(line * 100 for line in lines)[: len(text)]
    # The kernel closed the file.
    poll("it is saved", lambda: contents(fresh_cluster, uuid).get("new") == text.decode())
    assert mount.unmount() == 0


@contextlib.contextmanager
def alarms() -> Iterator[list[int]]:
    """Interrupt this thread's system calls by a signal every few milliseconds; yields how many came."""
    came: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: came.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
    try:
        yield came
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_signals_in_mid_write(arv_mount: Callable, fresh_cluster: LocalCluster) -> None:
    uuid = save_collection(fresh_cluster, "c")
    mount = arv_mount("--read-write", "--collection", uuid, "--write-buffer=1M")
    fresh_cluster.faults.add(service="keep", method="PUT", action="delay", value=0.1)
    fresh_cluster.faults.add(service="api", method="PUT", action="delay", value=0.1)
    data = os.urandom(6 << 20)
    with alarms() as came:
        with open(mount.path / "new", "wb", buffering=0) as file:
            for at in range(0, len(data), 1 << 20):
                rest = data[at : at + (1 << 20)]
                while rest:
                    rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
            before_close = len(came)
            file.write(b"end")
        (mount.path / "new").rename(mount.path / "renamed")
    assert before_close and len(came) > before_close
    fresh_cluster.faults.clear()
    assert (mount.path / "renamed").read_bytes() == data + b"end"
    assert_saved(fresh_cluster, uuid, {"renamed": data + b"end"})
    assert mount.unmount() == 0


def test_two_hundred_writers(arv_mount: Callable, fresh_cluster: LocalCluster) -> None:
    uuid = save_collection(fresh_cluster, "c")
    mount = arv_mount("--read-write", "--collection", uuid)
    failed: list[OSError] = []
    fresh_cluster.record_requests()

    def write(number: int) -> None:
        try:
            with open(mount.path / f"own {number}", "w") as file:
                file.write(f"{number}\n" * 100)
            with open(mount.path / "f", "a") as file:
                file.write(f"\n{number}")
            (mount.path / f"own {number}").rename(mount.path / f"renamed {number}")
            with open(mount.path / f"renamed {number}", "a") as file:
                file.write("end\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert failed == []
    found = contents(fresh_cluster, uuid)
    common = found.pop("f")
    assert common is not None and common.startswith("text\n")
    assert sorted(map(int, common.split("\n")[1:])) == list(range(WRITERS))
    numbers = range(WRITERS)
    assert found == {f"renamed {number}": f"{number}\n" * 100 + "end\n" for number in numbers}
    assert {"f": common, **found} == shown(mount.path)
    saves = [r for r in fresh_cluster.writes() if r["service"] == "api"]
    print(f"{len(saves)} saves of {WRITERS} times four changes")
    assert len(saves) < 2 * WRITERS
    assert mount.unmount() == 0


@both
def test_who_forks_with_a_file_open(
    arv_mount: Callable, fresh_cluster: LocalCluster, daemon: bool
) -> None:
    uuid = save_collection(fresh_cluster, "c")
    mount: Mounted = arv_mount("--read-write", "--collection", uuid, daemon=daemon)
    with open(mount.path / "new", "ab", buffering=0) as file:
        file.write(b"parent, ")
        # The program closes what it was given when it ends.
        script = "import os, sys; os.write(int(sys.argv[1]), b'child, ')"
        descriptor = file.fileno()
        subprocess.run(
            [sys.executable, "-c", script, str(descriptor)], pass_fds=[descriptor], check=True
        )
        poll(
            "what was written until then is saved",
            lambda: contents(fresh_cluster, uuid).get("new") == "parent, child, ",
        )
        file.write(b"parent again")
    expected = {"f": "text", "new": "parent, child, parent again"}
    assert contents(fresh_cluster, uuid) == expected == shown(mount.path)
    # A child that outlives its parent has it open all the while.
    with open(mount.path / "later", "ab", buffering=0) as file:
        file.write(b"parent, ")
        script = "import os, sys; sys.stdin.read(); os.write(int(sys.argv[1]), b'child')"
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(file.fileno())],
            pass_fds=[file.fileno()],
            stdin=subprocess.PIPE,
        )
    assert contents(fresh_cluster, uuid)["later"] == "parent, "
    child.communicate(timeout=20)
    poll(
        "it is saved",
        lambda: contents(fresh_cluster, uuid).get("later") == "parent, child",
    )


def test_what_the_background_could_not_save_is_named(
    arv_mount: Callable, fresh_cluster: LocalCluster
) -> None:
    """Nobody gets the exit status of a daemon."""
    uuid = save_collection(fresh_cluster, "c")
    mount = arv_mount("--read-write", "--collection", uuid, "--retries=0", daemon=True)
    pid = mount.pid()
    (mount.path / "saved").write_text("saved")
    assert contents(fresh_cluster, uuid) == {"f": "text", "saved": "saved"}
    fresh_cluster.faults.add(service="api", method="PUT", action="status", value=500)
    with pytest.raises(OSError), open(mount.path / "lost", "w") as file:
        file.write("lost")
    assert (mount.path / "lost").read_text() == "lost"
    force_unmount(mount.path)
    poll("the end", lambda: not Path(f"/proc/{pid}").exists())
    assert f"could not save {uuid}" in mount.log.read_text()
