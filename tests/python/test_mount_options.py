# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The options of `arv-mount`: what each does, and what it says where it cannot."""

import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from arvados_fuse.arguments import ArgumentParser
from arvados_fuse.localcluster import LocalCluster
from conftest import ARV_MOUNT, force_unmount, is_mounted, poll, save_collection


@pytest.fixture
def run(cluster: LocalCluster, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Runs `arv-mount OPTIONS MOUNT_DIR MORE...` until it ends."""
    path = tmp_path / "mnt"
    path.mkdir()

    def run(
        *options: str, more: tuple[str, ...] = (), path: Path = path, **env: str
    ) -> subprocess.CompletedProcess:
        try:
            return subprocess.run(
                [*ARV_MOUNT, *options, str(path), *more],
                env={**os.environ, **cluster.env(), **env},
                capture_output=True,
                text=True,
                timeout=60,
            )
        finally:
            if "--exec" in more:
                assert not is_mounted(path)
            else:
                force_unmount(path)

    run.path = path  # type: ignore[attr-defined]
    return run


@pytest.mark.parametrize(
    "options, says",
    [
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--refresh-time=-1"], "argument --refresh-time: '-1' is not a whole number of 0 or more"),
        (["--refresh-time=soon"], "argument --refresh-time: 'soon' is not a whole number"),
        (["--api-timeout=0"], "argument --api-timeout: '0' is not a number of 1 or more"),
        (["--directory-cache=-1"], "argument --directory-cache: '-1' is not a size"),
        (["--file-cache=-1"], "argument --file-cache: '-1' is not a size"),
        (["--file-cache=1X"], "give a whole number of bytes, or a number with K, M, G or T"),
        (["--file-cache=1.5"], "argument --file-cache: '1.5' is not a size"),
        (["--file-cache=9999999T"], "argument --file-cache: '9999999T' is not a size"),
        (["--retries=-1"], "argument --retries: '-1' is not a whole number of 0 or more"),
        (["--crunchstat-interval=-1"], "argument --crunchstat-interval: '-1' is not a number"),
        (["--unmount-timeout=nan"], "argument --unmount-timeout: 'nan' is not a number"),
        (["--filters={"], "argument --filters: not a valid JSON string or file path: '{'"),
        (['--filters=[["name"]]'], "argument --filters: filter at index 0 does not have three"),
        (["--encoding=klingon"], "argument --encoding: Python knows no character encoding"),
        (["--encoding=utf-16"], "argument --encoding: 'utf-16' does not write ASCII"),
        (["--storage-classes="], "argument --storage-classes: '' has a class without a name"),
        (["--subtype=a,b"], "argument --subtype: 'a,b' has a comma"),
        (["--by-id", "--by-tag"], "argument --by-tag: not allowed with argument --by-id"),
        (["--replace", "--unmount"], "argument --unmount: not allowed with argument --replace"),
        (["mnt", "--exec"], "argument --exec: a command must follow"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_bad_options_are_named(options: list[str], says: str, tmp_path: Path) -> None:
    place = [] if "mnt" in options else [str(tmp_path)]
    done = subprocess.run(
        [*ARV_MOUNT, *place, *options], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert says in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "options, says",
    [
        (["--collection=xlocl-4zz18-000000000000000"], "has no such collection, or none that"),
        (["--collection=" + "0" * 32 + "+0"], "has no such collection"),
        (["--project=xlocl-j7d0g-000000000000000"], "has no such project, or none that"),
        (["--disk-cache-dir=/nonexistent"], "/nonexistent is not a directory: make it first"),
        (["--logfile=/nonexistent/log"], "/nonexistent/log"),
        (["--home", "--mount-tmp=x"], "Cannot combine 'home' mode with custom --mount-*"),
        (["--mount-tmp=a/b"], "'a/b' is not supported. Give a name without slashes"),
        (["--mount-home=a", "--mount-shared=a"], "'a' is given twice"),
        (['--filters=[["nane", "=", "x"]]'], "the cluster knows no column 'nane'"),
        (['--filters=[["links.nane", "=", "x"]]'], "the cluster knows no column 'nane' of links"),
        (['--filters=[["link.name", "=", "x"]]'], "'link.name' is about no table that is mounted"),
        (['--filters=[["properties.a", "=", "x"]]'], "or 'groups.properties.a'"),
        (["--storage-classes=default,wram"], "the cluster has no class 'wram', but 'cold', 'def"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_cannot_be_mounted_says_why(
    run: Callable, fresh_cluster: LocalCluster, options: list[str], says: str
) -> None:
    done = run(*options)
    assert done.returncode == 1
    assert says in done.stderr and "Traceback" not in done.stderr


def test_a_cluster_that_cannot_be_used_says_why(run: Callable) -> None:
    for env, says in (
        ({"ARVADOS_API_HOST": "", "ARVADOS_API_TOKEN": ""}, "ARVADOS_API_HOST is not set"),
        ({"ARVADOS_API_HOST": "127.0.0.1:1"}, "the API at 127.0.0.1:1 cannot be reached"),
        ({"ARVADOS_API_TOKEN": "v2/a/b"}, "does not accept the token in ARVADOS_API_TOKEN"),
        ({"SSL_CERT_FILE": "/etc/hostname"}, "certificate"),
    ):
        done = run("--retries=0", **env)
        assert done.returncode == 1
        assert says in done.stderr and "Traceback" not in done.stderr


def test_the_mount_point_must_be_a_directory(run: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, says in (
        (tmp_path / "file", "not a directory"),
        (tmp_path / "none", "No such file or directory"),
    ):
        done = run("--foreground", path=path)
        assert done.returncode == 1
        assert str(path) in done.stderr and says in done.stderr
        assert "Traceback" not in done.stderr


def test_what_is_not_empty_is_not_mounted_over(run: Callable, tmp_path: Path) -> None:
    (run.path / "f").write_text("mine")
    for options in ((), ("--foreground",)):
        done = run(*options)
        assert done.returncode == 1 and not is_mounted(run.path)
        assert f"mount point {run.path}: not empty" in done.stderr
        assert "--nonempty" in done.stderr and "Traceback" not in done.stderr
        # What went wrong, and where, is said once.
        assert done.stderr.count("mount point") == 1 and "cannot mount at" not in done.stderr
    done = run("--nonempty", "--by-id", more=("--exec", "ls", str(run.path)))
    assert done.returncode == 0 and "README" in done.stdout.split(), done.stderr
    assert "f" not in done.stdout.split()
    assert (run.path / "f").read_text() == "mine"


def test_a_mount_is_not_mounted_over(
    cluster: LocalCluster, arv_mount: Callable, run: Callable
) -> None:
    # Empty, and so not to be told by what is in it.
    first = arv_mount("--custom", daemon=True)
    pid = first.pid()
    done = run("--by-id", path=first.path, more=())
    assert done.returncode == 1
    assert "not empty, there is a FUSE mount already" in done.stderr and "--replace" in done.stderr
    # `run` has unmounted it; from here on it is one that nobody answers for.
    poll("the end of the first", lambda: not Path(f"/proc/{pid}").exists())
    dead = arv_mount("--by-id", daemon=True)
    os.kill(dead.pid(), signal.SIGKILL)

    def is_dead() -> bool:
        try:
            os.stat(dead.path)
        except OSError as error:
            return error.errno == errno.ENOTCONN
        return False

    poll("a mount that is dead", is_dead)
    command = [*ARV_MOUNT, "--foreground", str(dead.path)]
    env = {**os.environ, **cluster.env()}
    for option, says in (
        ("--by-id", "there is a FUSE mount already, or what is left of one: --replace"),
        ("--nonempty", "Transport endpoint is not connected): --replace unmounts it first"),
    ):
        done = subprocess.run(
            [*command, option], env=env, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 1 and says in done.stderr, done.stderr
        assert done.stderr.count("mount point") == 1
    subprocess.run([*ARV_MOUNT, "--replace", str(dead.path)], env=env, check=True, timeout=60)
    assert "home" in os.listdir(dead.path)


def test_a_mount_that_hangs_is_unmounted(cluster: LocalCluster, arv_mount: Callable) -> None:
    mount = arv_mount("--refresh-time=0", daemon=True)
    pid = mount.pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        done = subprocess.run(
            [*ARV_MOUNT, "--unmount", str(mount.path)], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert not is_mounted(mount.path)
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("write", [False, True], ids=["read-only", "read-write"])
def test_free_space(cluster: LocalCluster, arv_mount: Callable, write: bool) -> None:
    path = arv_mount(*(["--read-write"] if write else [])).path
    told = os.statvfs(path)
    size = told.f_frsize * told.f_blocks
    assert size == 1 << 50 and told.f_bfree == told.f_blocks
    assert told.f_frsize * told.f_bavail == (size if write else 0)
    assert bool(told.f_favail) == write and told.f_namemax == 255
    # Programs from before large file support get each number in 32 bits.
    assert max(told[:8]) < 1 << 32
    listed = subprocess.check_output(["df", "-h", str(path)], text=True).splitlines()[1].split()
    assert listed[1:4] == ["1.0P", "0", "1.0P" if write else "0"]


def test_exec_exits_as_its_command(run: Callable, fresh_cluster: LocalCluster) -> None:
    save_collection(fresh_cluster, "c", "contents")
    done = run("--home", more=("--exec", "cat", str(run.path / "c" / "f")))
    assert (done.returncode, done.stdout) == (0, "contents")
    assert run(more=("--exec", "sh", "-c", "exit 7")).returncode == 7
    assert run(more=("--exec", "sh", "-c", "kill -9 $$")).returncode == 128 + 9
    closed = run.path.with_name("closed")
    closed.write_text("no program")
    for command, status in (("/nonexistent/command", 127), (str(closed), 126)):
        done = run(more=("--exec", command))
        assert done.returncode == status
        assert command in done.stderr and "Traceback" not in done.stderr
    # MOUNT_DIR may follow behind a `--`.
    done = run("--home", "--exec", "cat", str(run.path / "c" / "f"), "--")
    assert (done.returncode, done.stdout) == (0, "contents")


def test_exec_passes_signals_on(cluster: LocalCluster, tmp_path: Path) -> None:
    path = tmp_path / "mnt"
    path.mkdir()
    script = "trap 'exit 5' TERM; touch started; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        [*ARV_MOUNT, str(path), "--exec", "sh", "-c", script],
        env={**os.environ, **cluster.env()},
        cwd=tmp_path,
    )
    try:
        poll("start", (tmp_path / "started").exists)
        process.terminate()
        assert process.wait(20) == 5
        assert not is_mounted(path)
    finally:
        process.kill()
        force_unmount(path)


def test_unmounting_by_subtype_and_below(
    cluster: LocalCluster, arv_mount: Callable, run: Callable
) -> None:
    one = arv_mount("--subtype=one", daemon=True)
    two = arv_mount("--subtype=two", daemon=True)
    table = Path("/proc/mounts").read_text()
    assert re.search(rf"^\S+ {one.path} fuse\.one ", table, re.M)

    def unmount(*options: str, path: Path) -> subprocess.CompletedProcess:
        return subprocess.run([*ARV_MOUNT, *options, str(path)], capture_output=True, text=True)

    assert unmount("--unmount", "--subtype=two", path=one.path).returncode == 0
    assert is_mounted(one.path), "it is of another type"
    refused = unmount("--unmount-all", "--subtype=two", path=one.path.parent)
    assert refused.returncode == 1 and "mount type is fuse.one" in refused.stderr
    assert is_mounted(one.path) and is_mounted(two.path)
    assert unmount("--unmount", "--subtype=one", path=one.path).returncode == 0
    assert not is_mounted(one.path) and is_mounted(two.path)
    assert unmount("--unmount", path=one.path).returncode == 0, "nothing is mounted: all is well"
    arv_mount("--subtype=three", daemon=True)
    assert unmount("--unmount-all", path=one.path.parent).returncode == 0
    assert not [line for line in Path("/proc/mounts").read_text().splitlines()
                if f" {one.path.parent}/" in line]  # fmt: skip


def test_replacing_a_mount(cluster: LocalCluster, arv_mount: Callable) -> None:
    first = arv_mount("--by-id", daemon=True)
    pid = first.pid()
    env = {**os.environ, **cluster.env()}
    command = [*ARV_MOUNT, "--mount-tmp=new", "--replace", str(first.path)]
    subprocess.run(command, env=env, check=True, timeout=60)
    poll("the end of the first", lambda: not Path(f"/proc/{pid}").exists())
    assert os.listdir(first.path) == ["new"]
    assert Path("/proc/mounts").read_text().count(f" {first.path} ") == 1


@pytest.mark.parametrize("daemon", [False, True], ids=["foreground", "daemon"])
def test_crunchstat(
    fresh_cluster: LocalCluster, tmp_path: Path, arv_mount: Callable, daemon: bool
) -> None:
    save_collection(fresh_cluster, "c", "contents")
    mount = arv_mount("--home", "--crunchstat-interval=0.2", daemon=daemon)
    assert (mount.path / "c" / "f").read_text() == "contents"
    # A daemon has no stderr.
    output = mount.log if daemon else mount.path.with_suffix(".stderr")
    start = "" if daemon else "^"

    def told(line: str) -> bool:
        return bool(re.search(f"{start}crunchstat: {line}", output.read_text(), re.M))

    poll("the read", lambda: told("blkio:0:0 0 write 8 read -- interval"))
    # A report is written line by line.
    for group in ("keepcalls", "net:keep0", "keepcache", "fuseops", "fuseop:lookup"):
        line = rf"{group} \d+ \w+ .* -- interval 0\.2000 seconds "
        poll(group, lambda line=line: told(line))
    assert os.listdir(mount.path) == ["c"]


def test_sizes_have_units() -> None:
    parse = ArgumentParser().parse_args
    for text, value in (
        ("0", 0),
        ("1000", 1000),
        ("1k", 1 << 10),
        ("3K", 3 << 10),
        ("2MiB", 2 << 20),
        ("1.5G", 3 << 29),
        ("1 gb", 1 << 30),
        ("4T", 4 << 40),
    ):
        for option, name in (
            ("--file-cache", "file_cache"),
            ("--directory-cache", "directory_cache"),
        ):
            assert getattr(parse([f"{option}={text}", "mnt"]), name) == value


def test_a_local_cluster_without_its_packages(tmp_path: Path) -> None:
    blocked = tmp_path / "aiohttp"
    blocked.mkdir()
    (blocked / "__init__.py").write_text("raise ModuleNotFoundError('it is not', name='aiohttp')")
    (tmp_path / "mnt").mkdir()
    done = subprocess.run(
        [*ARV_MOUNT, "--local", str(tmp_path / "cluster"), str(tmp_path / "mnt")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    assert "not installed (aiohttp): pip install 'arvados_fuse[local]'" in done.stderr
    assert "Traceback" not in done.stderr and "local cluster: " not in done.stderr


def test_what_is_mounted(fresh_cluster: LocalCluster, run: Callable) -> None:
    api = fresh_cluster.api()
    project = api.groups().create(
        body={"group": {"name": "p", "group_class": "project"}}
    ).execute()  # fmt: skip
    uuid = save_collection(fresh_cluster, "c", owner_uuid=project["uuid"])
    link = {"link_class": "tag", "name": "t", "head_uuid": uuid}
    api.links().create(body={"link": link}).execute()
    pdh = api.collections().get(uuid=uuid).execute()["portable_data_hash"]

    def listed(*options: str, below: str = "") -> list[str]:
        done = run(*options, more=("--exec", "ls", "-A", str(run.path / below)))
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    everything = ["README", "by_id", "by_tag", "home", "shared"]
    assert listed() == listed("--all") == everything
    assert listed("--home") == ["p"]
    assert listed("--project", project["uuid"]) == ["c"]
    assert listed("--collection", uuid) == listed("--collection", pdh) == ["f"]
    assert listed("--by-id", below=uuid) == listed("--by-id", below=pdh) == ["f"]
    assert listed("--by-pdh", below=pdh) == ["f"]
    assert run("--by-pdh", more=("--exec", "ls", str(run.path / uuid))).returncode == 2
    assert listed("--by-tag") == ["t"]
    assert listed("--by-tag", below="t") == [uuid]
    assert listed("--shared") == []
    layout = [f"--mount-{kind}={kind}-" for kind in ("home", "shared", "tmp", "by-id", "by-tag")]
    layout += ["--mount-by-pdh=one", "--mount-by-pdh=two"]
    assert listed(*layout) == ["by-id-", "by-tag-", "home-", "one", "shared-", "tmp-", "two"]
    assert listed("--custom", *layout, below="home-") == ["p"]
    assert listed(*layout, below=f"two/{pdh}") == ["f"]


def test_filters(fresh_cluster: LocalCluster, run: Callable, tmp_path: Path) -> None:
    for name in ("alpha", "beta"):
        save_collection(fresh_cluster, name)
    (tmp_path / "filters.json").write_text('[["collections.name", "like", "b%"]]')
    for filters in ('[["collections.name", "=", "beta"]]', str(tmp_path / "filters.json")):
        done = run("--home", "--filters", filters, more=("--exec", "ls", str(run.path)))
        assert done.stdout.split() == ["beta"], done.stderr


def test_storage_classes(fresh_cluster: LocalCluster, arv_mount: Callable) -> None:
    mount = arv_mount("--read-write", "--home", "--storage-classes=fast, cold")
    (mount.path / "c").mkdir()
    found = fresh_cluster.api().collections().list(filters=[["name", "=", "c"]]).execute()["items"]
    assert found[0]["storage_classes_desired"] == ["fast", "cold"]


def test_encoding_and_slashes_in_names(fresh_cluster: LocalCluster, arv_mount: Callable) -> None:
    save_collection(fresh_cluster, "café")
    save_collection(fresh_cluster, "a/b")
    plain = arv_mount("--home").path
    assert sorted(os.listdir(os.fsencode(plain))) == [b"a_b", "café".encode()]
    latin = arv_mount("--home", "--encoding=latin-1", "--fsns=[S]").path
    assert sorted(os.listdir(os.fsencode(latin))) == [b"a[S]b", "café".encode("latin-1")]
    with open(os.path.join(os.fsencode(latin), "café".encode("latin-1"), b"f")) as file:
        assert file.read() == "text"


def test_where_data_is_cached(
    fresh_cluster: LocalCluster, arv_mount: Callable, tmp_path: Path
) -> None:
    def blocks(folder: Path) -> int:
        return len(list(folder.rglob("*.keepcacheblock")))

    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "cache").mkdir()
    save_collection(fresh_cluster, "c", f"contents {time.time()}")
    usual = Path(os.environ["HOME"]) / ".cache" / "arvados" / "keep"
    before = blocks(usual)
    ram = arv_mount("--home", "--ram-cache", f"--file-cache={128 << 20}")
    (ram.path / "c" / "f").read_text()
    assert blocks(usual) == before
    there = os.getcwd()
    os.chdir(tmp_path / "sub")
    try:
        disk = arv_mount("--home", "--disk-cache", "--disk-cache-dir=cache", daemon=True)
    finally:
        os.chdir(there)
    (disk.path / "c" / "f").read_text()
    # It is written behind the reader's back.
    poll("the block", lambda: blocks(tmp_path / "sub" / "cache") == 1)
    assert blocks(usual) == before


def test_logging(fresh_cluster: LocalCluster, arv_mount: Callable) -> None:
    quiet, loud = arv_mount(), arv_mount("--debug")
    for mount in (quiet, loud):
        os.listdir(mount.path / "home")
        mount.unmount()
    assert "DEBUG" not in quiet.log.read_text()
    assert re.search(r"arvados\.arv-mount\[\d+\] DEBUG: arv-mount debugging", loud.log.read_text())
    assert quiet.path.with_suffix(".stderr").read_text() == ""


def test_other_users(arv_mount: Callable) -> None:
    def as_nobody(path: Path) -> bool:
        done = subprocess.run(
            [sys.executable, "-S", "-c", f"import os; os.setuid(65534); os.listdir({str(path)!r})"],
            capture_output=True,
            text=True,
        )
        return done.returncode == 0

    ours, theirs = arv_mount(), arv_mount("--allow-other")
    # pytest's folders are closed to others.
    for folder in (ours.path.parent, *ours.path.parent.parents):
        if os.stat(folder).st_uid == os.getuid() and str(folder).count("pytest-"):
            folder.chmod(0o711)
    assert not as_nobody(ours.path)
    assert as_nobody(theirs.path)


def test_interrupted_while_it_sets_up(cluster: LocalCluster, tmp_path: Path) -> None:
    cluster.faults.add(service="api", action="stall")
    try:
        process = subprocess.Popen(
            [*ARV_MOUNT, "--foreground", str(tmp_path)],
            env={**os.environ, **cluster.env()},
            stderr=subprocess.PIPE,
            text=True,
        )

        def asks() -> bool:
            for fd in Path(f"/proc/{process.pid}/fd").iterdir():
                # One that was listed may be closed by now.
                with contextlib.suppress(FileNotFoundError):
                    if os.readlink(fd).startswith("socket:"):
                        return True
            return False

        try:
            poll("a connection", asks)
            process.send_signal(signal.SIGINT)
            # At once; so long on a machine with much else to do.
            _, stderr = process.communicate(timeout=5)
        finally:
            process.kill()
        assert process.returncode == 130 and "Traceback" not in stderr
    finally:
        cluster.faults.clear()
