# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Signals to arv-mount, from its first line to its last: none leaves a dead mount, or hangs."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from arvados_fuse.localcluster import LocalCluster
from conftest import ARV_MOUNT, force_unmount, is_mounted, poll, save_collection
from test_mount_daemon import both

#: A process is to end within 5 s of a signal; so long on a machine with much else to do.
BOUND = 12


def launch(path: Path, *options: str, **more: object) -> subprocess.Popen:
    path.mkdir(exist_ok=True)
    return subprocess.Popen(
        [*ARV_MOUNT, *options, str(path)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **more,  # type: ignore[call-overload]
    )


def alive_in(path: Path) -> list[str]:
    """Return the processes of arv-mount with that mount point."""
    found = subprocess.run(["pgrep", "-f", f"arv-mount.*{path}"], capture_output=True, text=True)
    return found.stdout.split()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("to", ["process", "group"])
@pytest.mark.parametrize("name", ["TERM", "INT"])
@pytest.mark.parametrize("kind", ["foreground", "daemon", "exec"])
def test_in_the_moment_of_mounting(
    fresh_cluster: LocalCluster, tmp_path: Path, kind: str, name: str, to: str
) -> None:
    number = int(getattr(signal, f"SIG{name}"))
    for attempt in range(4):
        path = tmp_path / f"mnt{attempt}"
        path.mkdir()
        options = {
            "foreground": ["--foreground", str(path)],
            "daemon": ["--logfile", str(tmp_path / "log"), str(path)],
            "exec": [str(path), "--exec", "sleep", "600"],
        }[kind]
        process = subprocess.Popen(
            [*ARV_MOUNT, *options],
            env={**os.environ, **fresh_cluster.env()},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 60
            # Without a pause: the moment is what matters.
            while not is_mounted(path):
                assert time.monotonic() < deadline and process.poll() in (None, 0)
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if to == "group" else os.kill)(process.pid, number)
            _, stderr = process.communicate(timeout=30)
            expected = 128 + number if kind == "exec" else 0
            assert process.returncode == expected, stderr
            assert "Traceback" not in stderr
            if kind == "daemon" and alive_in(path):
                # The one that was signalled had gone.
                for pid in alive_in(path):
                    os.kill(int(pid), number)
            poll("unmounted", lambda at=path: not is_mounted(at))
            poll("all gone", lambda at=path: not alive_in(at))
        finally:
            for pid in alive_in(path):
                os.kill(int(pid), signal.SIGKILL)
            force_unmount(path)


def catches(pid: int) -> bool:
    """Return whether a process has handlers for what would end it: they are set one after the other, and
    Python has one for SIGINT before."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = int(next(line.split()[1] for line in lines if line.startswith("SigCgt:")), 16)
    names = ("HUP", "INT", "QUIT", "TERM", "USR2", "XCPU")
    return all(mask >> (getattr(signal, f"SIG{name}") - 1) & 1 for name in names)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT"])
def test_while_the_api_stalls_at_the_start(
    cluster: LocalCluster, tmp_path: Path, name: str
) -> None:
    number = int(getattr(signal, f"SIG{name}"))
    cluster.faults.add(service="api", action="stall")
    try:
        for waiting in (False, True):
            process = subprocess.Popen(
                [*ARV_MOUNT, "--foreground", str(tmp_path)],
                env={**os.environ, **cluster.env()},
                stderr=subprocess.PIPE,
                text=True,
            )
            try:
                poll("handlers", lambda pid=process.pid: catches(pid))
                if waiting:
                    poll("a request that waits", cluster.faults.stalled)
                start = time.monotonic()
                process.send_signal(number)
                _, stderr = process.communicate(timeout=20)
                assert time.monotonic() - start < 4
            finally:
                process.kill()
            assert process.returncode == 128 + number and "Traceback" not in stderr
            assert not is_mounted(tmp_path)
    finally:
        cluster.faults.clear()


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_while_a_cluster_of_its_own_starts(tmp_path: Path, name: str) -> None:
    path, data = tmp_path / "mnt", tmp_path / "cluster"
    path.mkdir()
    outside = {n: v for n, v in os.environ.items() if not n.startswith(("ARVADOS_", "SSL_"))}
    process = subprocess.Popen(
        [*ARV_MOUNT, "--local", str(data), "--foreground", str(path)],
        env=outside,
        stderr=subprocess.PIPE,
        text=True,
    )

    def running() -> list[str]:
        command = [sys.executable, "-m", "arvados_fuse.localcluster", "--data", str(data)]
        found = subprocess.run(["pgrep", "-f", " ".join(command)], capture_output=True, text=True)
        return found.stdout.split()

    try:
        poll("the cluster", running)
        process.send_signal(getattr(signal, f"SIG{name}"))
        process.communicate(timeout=20)
        assert process.returncode == 128 + getattr(signal, f"SIG{name}")
        poll("the end of the cluster", lambda: not running())
        assert not is_mounted(path)
    finally:
        process.kill()
        force_unmount(path)


def ends(mount: object, number: int = signal.SIGTERM) -> float:
    """Send a signal to a mount; return how many seconds it took to end."""
    pid = mount.pid()  # type: ignore[attr-defined]
    start = time.monotonic()
    os.kill(pid, number)
    if mount.process:  # type: ignore[attr-defined]
        mount.process.wait(60)  # type: ignore[attr-defined]
    else:
        poll("the end", lambda: not Path(f"/proc/{pid}").exists(), timeout=60)
    return time.monotonic() - start


def failed(cluster: LocalCluster, service: str) -> list[dict]:
    """Return the recorded requests to a service that were answered with 503."""
    return [r for r in cluster.requests() if (r["service"], r["status"]) == (service, 503)]


@pytest.mark.parametrize("fault", ["stall", "503"])
@pytest.mark.parametrize("service", ["keep", "api"])
@both
def test_with_requests_that_wait_for_a_server(
    fresh_cluster: LocalCluster, arv_mount: Callable, service: str, fault: str, daemon: bool
) -> None:
    uuid = save_collection(fresh_cluster, "c", "some text")
    mount = arv_mount("--ram-cache", "--disable-event-listening", daemon=daemon)
    os.listdir(mount.path / "by_id" / uuid if service == "keep" else mount.path)
    if fault == "stall":
        fresh_cluster.faults.add(service=service, action="stall")
    else:
        fresh_cluster.record_requests()
        fresh_cluster.faults.add(service=service, action="status", value=503)
    where = mount.path / "by_id" / uuid / "f" if service == "keep" else mount.path / "home" / "x"

    def ask() -> None:
        with contextlib.suppress(OSError):
            where.read_bytes()

    try:
        users = [threading.Thread(target=ask, daemon=True) for _ in range(5)]
        for user in users:
            user.start()
        if fault == "stall":
            poll("a request that waits", fresh_cluster.faults.stalled)
        else:
            poll("a request that failed", lambda: failed(fresh_cluster, service))
        assert ends(mount) < BOUND
        assert not is_mounted(mount.path)
        if mount.process:
            assert mount.process.returncode == 0
        for user in users:
            user.join(20)
            assert not user.is_alive()
    finally:
        fresh_cluster.faults.clear()


@pytest.mark.parametrize("service", ["keep", "api"])
def test_with_a_save_that_hangs(
    fresh_cluster: LocalCluster, arv_mount: Callable, service: str
) -> None:
    uuid = save_collection(fresh_cluster, "c", "some text")
    mount = arv_mount("--read-write", "--ram-cache", "--disable-event-listening")
    target = mount.path / "by_id" / uuid
    os.listdir(target)
    file = open(target / "new", "w")
    file.write("not saved")
    file.flush()
    fresh_cluster.faults.add(service=service, action="stall")
    try:

        def save() -> None:
            with contextlib.suppress(OSError):
                file.close()

        closing = threading.Thread(target=save, daemon=True)
        closing.start()
        poll("a request that waits", fresh_cluster.faults.stalled)
        assert ends(mount) < BOUND
        assert mount.process.returncode == 1
        assert f"could not save {uuid}" in mount.log.read_text()
        closing.join(20)
        assert not closing.is_alive() and not is_mounted(mount.path)
    finally:
        fresh_cluster.faults.clear()


@both
def test_other_signals_are_told_and_ignored(
    fresh_cluster: LocalCluster, arv_mount: Callable, daemon: bool
) -> None:
    mount = arv_mount(daemon=daemon)
    pid = mount.pid()
    for name in ("USR2", "ALRM", "VTALRM", "PROF", "IO", "PWR"):
        os.kill(pid, getattr(signal, f"SIG{name}"))
        said = getattr(signal, f"SIG{name}").name + " is ignored"
        poll(said, lambda said=said: said in mount.log.read_text())
    os.kill(pid, signal.SIGPIPE)
    os.kill(pid, signal.SIGRTMIN + 3)
    os.kill(pid, signal.SIGUSR1)
    poll("the stacks", lambda: "SIGUSR1: this is where" in mount.log.read_text())
    poll("one of the threads", lambda: "_llfuse_main" in mount.log.read_text())
    assert "README" in os.listdir(mount.path)
    assert ends(mount) < BOUND and not is_mounted(mount.path)


@both
def test_hanging_up_opens_the_log_again(
    fresh_cluster: LocalCluster, arv_mount: Callable, daemon: bool
) -> None:
    mount = arv_mount(daemon=daemon)
    pid = mount.pid()
    for turn in range(3):
        moved = mount.log.with_suffix(f".{turn}")
        mount.log.rename(moved)
        os.kill(pid, signal.SIGHUP)
        poll("a new log", mount.log.exists)
        os.kill(pid, signal.SIGUSR2)
        poll("what is said now", lambda: "SIGUSR2 is ignored" in mount.log.read_text())
        assert moved.read_text().count("SIGUSR2") == (1 if turn else 0)
        assert "README" in os.listdir(mount.path)
    descriptors = [os.readlink(f) for f in Path(f"/proc/{pid}/fd").iterdir()]
    assert [d for d in descriptors if d.startswith(str(mount.path)) and ".stderr" not in d] == [
        str(mount.log)
    ]
    assert ends(mount) < BOUND


def test_hanging_up_unmounts_where_there_is_no_log_file(
    fresh_cluster: LocalCluster, tmp_path: Path
) -> None:
    path = tmp_path / "mnt"
    process = launch(path, "--foreground", env={**os.environ, **fresh_cluster.env()})
    try:
        poll("mounted", lambda: is_mounted(path))
        os.listdir(path)
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=20)
        assert process.returncode == 0 and not is_mounted(path)
    finally:
        process.kill()
        force_unmount(path)


@pytest.mark.parametrize("name", ["TERM", "INT", "QUIT"])
def test_a_command_gets_the_signals(fresh_cluster: LocalCluster, tmp_path: Path, name: str) -> None:
    path = tmp_path / "mnt"
    path.mkdir()
    trap = f"trap 'echo got {name}; exit 7' {name}; echo ready; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        [*ARV_MOUNT, str(path), "--exec", "sh", "-c", trap],
        env={**os.environ, **fresh_cluster.env()},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(getattr(signal, f"SIG{name}"))
        output, _ = process.communicate(timeout=30)
        assert output == f"got {name}\n" and process.returncode == 7
        assert not is_mounted(path)
    finally:
        process.kill()
        force_unmount(path)
