# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What the tests run on: a local cluster, real mounts, and a look at what they leave behind."""

import contextlib
import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRATCH = ROOT / "target" / "tmp"
SCRATCH.mkdir(parents=True, exist_ok=True)

#: Which of the processes that share the tests this is; empty where there is one.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")

# Everything that the SDK and the tests write stays in the checkout.
HOME = SCRATCH / f"home{WORKER}"
HOME.mkdir(exist_ok=True)
os.environ["TMPDIR"] = tempfile.tempdir = str(SCRATCH)
os.environ["HOME"] = str(HOME)
os.environ["PIP_CACHE_DIR"] = str(SCRATCH / "pip")
for _name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "KEEP_LOCAL_STORE"):
    os.environ.pop(_name, None)

import arvados.collection  # noqa: E402
from arvados_fuse.localcluster import LocalCluster  # noqa: E402
from leftovers import force_unmount, is_mounted, running_in, unmount_below  # noqa: E402

#: The package's own.
SOURCES = ROOT / "python" / "arvados_fuse"

ARV_MOUNT = [sys.executable, str(ROOT / "bin" / "arv-mount")]


def poll(what: str, condition: Callable[[], object], timeout: float = 20) -> object:
    """Wait until a condition holds; return its value."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.02)


def pytest_sessionstart(session: pytest.Session) -> None:
    # A shell without job control has what it runs in the background ignore these, and so would every
    # program that is started here.
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    missing = [p for p in ("fusermount3", "git", "rsync", "sqlite3") if not shutil.which(p)]
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        missing.append("/dev/fuse")
    if missing:
        pytest.exit(f"the tests cannot run without {', '.join(missing)}: run `make setup`", 3)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if WORKER:
        # Others are still at work.
        return
    left = unmount_below(SCRATCH)
    running = running_in(SCRATCH)
    if left or running:
        session.exitstatus = 1
        print(f"\nLEFT BEHIND by the tests: mounts {left}, processes {running}")


def pytest_terminal_summary(terminalreporter: object) -> None:
    skipped = terminalreporter.stats.get("skipped", [])  # type: ignore[attr-defined]
    if skipped and os.environ.get("CI"):
        terminalreporter.write_line("A test was skipped, which CI does not allow.")  # type: ignore[attr-defined]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"


@pytest.fixture
def chance() -> random.Random:
    """Random numbers for a test, which prints the seed: TEST_SEED, or another each time."""
    seed = int(os.environ.get("TEST_SEED") or random.randrange(1 << 64))
    print(f"to run this again: TEST_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A cluster with test hooks, shared by all tests; `fresh_cluster` empties it."""
    with LocalCluster(tmp_path_factory.mktemp("cluster"), test_hooks=True) as running:
        os.environ.update(running.env())
        yield running


@pytest.fixture
def fresh_cluster(cluster: LocalCluster) -> LocalCluster:
    """The cluster, as new."""
    cluster.reset()
    return cluster


def run(*words: object, cwd: Path) -> str:
    """Run a program that must succeed; return what it prints."""
    done = subprocess.run(list(map(str, words)), cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_in(place: Path) -> Callable[..., str]:
    """Return `run` for programs that run in a place, unless `cwd` says where."""
    return functools.partial(run, cwd=place)


def make_repository(path: Path) -> None:
    """Make a git repository of this package's sources."""
    run("git", "init", "-q", path.name, cwd=path.parent)
    shutil.copytree(SOURCES, path / "package", ignore=shutil.ignore_patterns("__pycache__"))
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@localhost")
    run(*git, "add", "-A", cwd=path)
    run(*git, "commit", "-qm", "all", cwd=path)


def errno_of(do: Callable[[], object]) -> int:
    """Return the errno of what that raises; 0 where it raises no OSError."""
    try:
        do()
    except OSError as error:
        return error.errno or 0
    return 0


def save_by(api: Any, name: str, text: str = "text", **more: object) -> str:
    """Save a collection with one file, `f`, by an API client; return its uuid."""
    collection = arvados.collection.Collection(api_client=api)
    with collection.open("f", "w") as file:
        file.write(text)
    collection.save_new(name, **more)
    return collection.manifest_locator()


def save_collection(cluster: LocalCluster, name: str, text: str = "text", **more: object) -> str:
    """Save a collection with one file, `f`; return its uuid."""
    return save_by(cluster.api(), name, text, **more)


def change_by(api: Any, uuid: str, text: str) -> None:
    """Write to `f` of a collection, by an API client."""
    collection = arvados.collection.Collection(uuid, api_client=api)
    with collection.open("f", "w") as file:
        file.write(text)
    collection.save()


class Mounted:
    """A running arv-mount."""

    def __init__(self, process: subprocess.Popen | None, path: Path, log: Path) -> None:
        self.process = process
        self.path = path
        self.log = log

    def unmount(self, timeout: float = 20) -> int | None:
        """Unmount; return the exit status of a foreground mount."""
        force_unmount(self.path)
        return self.process.wait(timeout) if self.process else None

    def memory(self) -> int:
        """Resident memory of the mount's process, in bytes."""
        status = Path(f"/proc/{self.pid()}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def pid(self) -> int:
        if self.process:
            return self.process.pid
        listed = subprocess.run(
            ["pgrep", "-f", f"arv-mount.*{self.path}"], capture_output=True, text=True
        ).stdout.split()
        assert len(listed) == 1, listed
        return int(listed[0])


@pytest.fixture
def arv_mount(cluster: LocalCluster, tmp_path: Path) -> Iterator[Callable[..., Mounted]]:
    """Runs `arv-mount` with some options, in the foreground or as a daemon, until the test ends."""
    with contextlib.ExitStack() as cleanup:
        count = iter(range(100))

        def start(
            *options: str, daemon: bool = False, env: dict[str, str] | None = None, **popen: object
        ) -> Mounted:
            path = tmp_path / f"mnt{next(count)}"
            path.mkdir()
            log = path.with_suffix(".log")
            environment = {**os.environ, **cluster.env(), **(env or {})}
            command = [*ARV_MOUNT, "--logfile", str(log), *options]
            if daemon:
                subprocess.run([*command, str(path)], env=environment, check=True, timeout=60)
                mounted = Mounted(None, path, log)
            else:
                process = subprocess.Popen(
                    [*command, "--foreground", str(path)],
                    env=environment,
                    stderr=open(path.with_suffix(".stderr"), "w"),
                    **popen,  # type: ignore[call-overload]
                )
                mounted = Mounted(process, path, log)
                cleanup.callback(process.wait, 20)
            cleanup.callback(force_unmount, path)

            def ready() -> bool:
                if mounted.process and mounted.process.poll() is not None:
                    output = path.with_suffix(".stderr").read_text() + log.read_text()
                    raise AssertionError(f"arv-mount exited {mounted.process.returncode}: {output}")
                return is_mounted(path)

            poll("mounted", ready)
            os.stat(path)
            return mounted

        yield start
