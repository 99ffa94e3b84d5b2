# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""In the background as in the foreground: eviction, remote changes, start and end."""

import contextlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import arvados.collection
import pytest
from arvados_fuse.localcluster import LocalCluster
from conftest import ARV_MOUNT, force_unmount, is_mounted, poll, save_collection

both = pytest.mark.parametrize("daemon", [False, True], ids=["foreground", "daemon"])

#: Collections, and files in each, that are walked under a small directory cache.
COLLECTIONS, FILES = 400, 1000


def many_collections(cluster: LocalCluster) -> None:
    user = cluster.api().users().current().execute()
    records = []
    for number in range(COLLECTIONS):
        files = " ".join(f"0:0:file-{number:04d}-{n:04d}.txt" for n in range(FILES))
        text = f". d41d8cd98f00b204e9800998ecf8427e+0 {files}\n"
        records.append(
            {
                "uuid": f"xlocl-4zz18-{number:015d}",
                "current_version_uuid": f"xlocl-4zz18-{number:015d}",
                "owner_uuid": user["uuid"],
                "name": f"c{number:04d}",
                "manifest_text": text,
                "portable_data_hash": f"{number:032x}+{len(text)}",
                "created_at": user["created_at"],
                "modified_at": user["created_at"],
                "modified_by_user_uuid": user["uuid"],
                "properties": {},
                "storage_classes_desired": ["default"],
                "is_trashed": False,
                "trash_at": None,
                "delete_at": None,
                "version": 1,
                "file_count": FILES,
                "file_size_total": 0,
                "description": None,
                "preserve_version": False,
                "replication_desired": None,
            }
        )
    for start in range(0, COLLECTIONS, 50):
        cluster.load_fixtures({"collections": records[start : start + 50]})


@both
@pytest.mark.timeout(400)
def test_memory_stays_flat(fresh_cluster: LocalCluster, arv_mount: Callable, daemon: bool) -> None:
    many_collections(fresh_cluster)
    mount = arv_mount(
        "--home",
        f"--directory-cache={4 << 20}",
        "--disable-event-listening",
        "--refresh-time=600",
        daemon=daemon,
    )
    names = sorted(os.listdir(mount.path))
    assert len(names) == COLLECTIONS
    measured = []
    for number, name in enumerate(names, 1):
        assert len(os.listdir(mount.path / name)) == FILES
        # That there is no such name the kernel remembers, and with it the directory.
        assert not (mount.path / name / "absent").exists()
        if number % 100 == 0:
            measured.append(mount.memory() >> 20)
    print("memory in MiB after each hundred collections:", measured)
    # Kept whole they would be some 800 MiB.
    assert measured[-1] - measured[0] <= 32, measured
    assert measured[-1] <= 256, measured


@both
def test_remote_changes_appear(
    fresh_cluster: LocalCluster, arv_mount: Callable, daemon: bool
) -> None:
    uuid = save_collection(fresh_cluster, "c", "one")
    with_events = arv_mount("--refresh-time=60", daemon=daemon).path / "home"
    without = (
        arv_mount("--refresh-time=2", "--disable-event-listening", daemon=daemon).path / "home"
    )
    for home in (with_events, without):
        assert os.listdir(home) == ["c"]
        assert (home / "c" / "f").read_text() == "one"
    changed = arvados.collection.Collection(uuid, api_client=fresh_cluster.api())
    with changed.open("f", "w") as file:
        file.write("another")
    changed.save()
    save_collection(fresh_cluster, "d", "new")
    start = time.monotonic()

    def seen(home: Path) -> bool:
        return (home / "c" / "f").read_text() == "another" and sorted(os.listdir(home)) == [
            "c",
            "d",
        ]

    poll("the change, by an event", lambda: seen(with_events), timeout=10)
    by_event = time.monotonic() - start
    poll("the change, by polling", lambda: seen(without), timeout=10)
    by_polling = time.monotonic() - start
    print(f"seen after {by_event:.2f} s by an event, {by_polling:.2f} s by polling every 2 s")
    assert by_event <= 1 and by_polling <= 4


def test_a_daemon_starts_at_once_whatever_the_limit_of_open_files(
    fresh_cluster: LocalCluster, tmp_path: Path
) -> None:
    path = tmp_path / "mnt"
    path.mkdir()

    def raise_limit() -> None:
        # Where this process may not raise its limit, the highest that it has.
        most = int(Path("/proc/sys/fs/nr_open").read_text())
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    try:
        start = time.monotonic()
        subprocess.run(
            [*ARV_MOUNT, "--logfile", str(tmp_path / "log"), str(path)],
            env={**os.environ, **fresh_cluster.env()},
            preexec_fn=raise_limit,
            check=True,
            timeout=60,
        )
        assert "README" in os.listdir(path)
        print(f"started in {time.monotonic() - start:.2f} s")
    finally:
        force_unmount(path)


@both
def test_a_cluster_of_its_own_runs_as_long_as_the_mount(tmp_path: Path, daemon: bool) -> None:
    path, data = tmp_path / "mnt", tmp_path / "cluster"
    path.mkdir()
    outside = {n: v for n, v in os.environ.items() if not n.startswith(("ARVADOS_", "SSL_"))}
    command = [*ARV_MOUNT, "--local", str(data), "--read-write", "--home", "--logfile"]
    command += [str(tmp_path / "log"), *([] if daemon else ["--foreground"]), str(path)]

    def running() -> list[str]:
        ours = [sys.executable, "-m", "arvados_fuse.localcluster", "--data", str(data)]
        lines = (p.joinpath("cmdline") for p in Path("/proc").iterdir() if p.name.isdigit())
        found = []
        for line in lines:
            with contextlib.suppress(OSError):
                if line.read_bytes().split(b"\0")[:5] == [os.fsencode(word) for word in ours]:
                    found.append(line.parent.name)
        return found

    process = subprocess.Popen(command, env=outside)
    try:
        if daemon:
            assert process.wait(60) == 0
        poll("mounted", lambda: is_mounted(path), timeout=60)
        poll("an answer of the cluster", lambda: os.listdir(path) == [])
        (path / "c").mkdir()
        (path / "c" / "f").write_text("text")
        assert len(running()) == 1
    finally:
        force_unmount(path)
    poll("the end of the cluster", lambda: not running())
    if not daemon:
        assert process.wait(20) == 0


@pytest.mark.parametrize("signal", ["INT", "TERM", "QUIT"])
@both
def test_a_signal_unmounts(
    fresh_cluster: LocalCluster, arv_mount: Callable, signal: str, daemon: bool
) -> None:
    mount = arv_mount(daemon=daemon)
    pid = mount.pid()
    subprocess.run(["kill", f"-{signal}", str(pid)], check=True)
    poll("unmounted", lambda: not is_mounted(mount.path))
    if mount.process:
        assert mount.process.wait(10) == 0
    else:
        poll("gone", lambda: not Path(f"/proc/{pid}").exists())


def test_the_token_is_nowhere_to_be_seen(fresh_cluster: LocalCluster, arv_mount: Callable) -> None:
    mount = arv_mount("--debug", daemon=True)
    os.listdir(mount.path / "home")
    title = Path(f"/proc/{mount.pid()}/cmdline").read_bytes().decode()
    mount.unmount()
    secret = fresh_cluster.token().split("/")[-1]
    assert secret not in title and secret not in mount.log.read_text()


def test_a_thousand_mounts_leave_nothing_behind(tmp_path: Path) -> None:
    script = Path(__file__).with_name("soak_mounts.py")
    path = tmp_path / "mnt"
    path.mkdir()
    try:
        done = subprocess.run(
            [sys.executable, str(script), str(path), "1000"],
            capture_output=True,
            text=True,
            timeout=170,
        )
        print(done.stdout)
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        force_unmount(path)
