# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What the log says of servers that fail: one line each, with the words that crunch-run looks for."""

import errno
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arvados.collection
import keep_front
import pytest
from arvados_fuse.localcluster import LocalCluster
from conftest import Mounted, poll

TEXT = "what is read"
KEEP_WRITE = "Keep write error"
NOT_FOUND = "Block not found error"
UNHANDLED = "Unhandled exception during FUSE operation"


def options(tmp_path: Path, *more: str) -> list[str]:
    """For a mount with an empty cache."""
    (tmp_path / "cache").mkdir()
    return ["--disable-event-listening", f"--disk-cache-dir={tmp_path / 'cache'}", *more]


def assert_eio(do: Callable[[], object]) -> None:
    with pytest.raises(OSError) as error:
        print("no error, but", do())
    assert error.value.errno == errno.EIO, error.value


def lines_of(mount: Mounted, level: str = "ERROR") -> list[str]:
    """The log's lines of that level; what is not a line of its own is there, too."""
    log = mount.log.read_text().splitlines()
    assert not [line for line in log if "Traceback" in line], log
    return [line for line in log if f" {level}: " in line]


def serve_from_python(mount: Mounted) -> None:
    """Have collection `c` be written to, so that the SDK's code reads it."""
    (mount.path / "home" / "c" / "new").write_text("new")


@pytest.mark.parametrize("native", [True, False], ids=["native", "python"])
@pytest.mark.parametrize(
    ("fault", "phrase"),
    [
        ({"action": "status", "value": 404}, NOT_FOUND),
        ({"action": "status", "value": 403}, NOT_FOUND),
        ({"action": "status", "value": 503}, UNHANDLED),
        ({"action": "status", "value": 400}, UNHANDLED),
        ({"action": "hangup"}, UNHANDLED),
        ({"action": "wrong"}, UNHANDLED),
    ],
    ids=["404", "403", "503", "400", "hangup", "wrong"],
)
def test_a_read_that_fails_says_what_crunch_run_looks_for(
    fresh_cluster: LocalCluster,
    arv_mount: Callable,
    tmp_path: Path,
    native: bool,
    fault: dict,
    phrase: str,
) -> None:
    locator = keep_front.save_block(fresh_cluster, TEXT)
    mount = arv_mount(*options(tmp_path, "--retries=0", "--read-write"))
    file = mount.path / "home" / "c" / "f"
    assert file.stat().st_size == len(TEXT)
    if not native:
        serve_from_python(mount)
    fresh_cluster.faults.add(service="keep", method="GET", **fault)
    assert_eio(file.read_text)
    lines = lines_of(mount)
    assert len(lines) == 1, lines
    logger, _, message = lines[0].split(" ", 2)[2].partition("[")
    assert logger == "arvados.arvados_fuse" and f": {phrase}: " in message, lines
    assert locator[:32] in message and ":" in message, lines
    address = "{}:{}".format(*keep_front.keep_address(fresh_cluster))
    assert f"http://{address}/" in message, lines
    fresh_cluster.faults.clear()
    assert file.read_text() == TEXT


def test_a_write_that_fails_says_what_crunch_run_looks_for(
    fresh_cluster: LocalCluster, arv_mount: Callable, tmp_path: Path
) -> None:
    keep_front.save_block(fresh_cluster, TEXT)
    mount = arv_mount(*options(tmp_path, "--retries=0", "--read-write"))
    fresh_cluster.faults.add(service="keep", method="PUT", action="status", value=503)
    descriptor = os.open(mount.path / "home" / "c" / "new", os.O_CREAT | os.O_WRONLY)
    os.write(descriptor, b"new")
    assert_eio(lambda: os.fsync(descriptor))
    lines = lines_of(mount)
    assert f" arvados.arvados_fuse[{mount.pid()}] ERROR: {KEEP_WRITE}: " in lines[0], lines
    fresh_cluster.faults.clear()
    os.close(descriptor)
    assert (mount.path / "home" / "c" / "new").read_text() == "new"


def test_a_service_that_nobody_answers_for_is_named(
    fresh_cluster: LocalCluster, arv_mount: Callable, tmp_path: Path
) -> None:
    keep_front.save_block(fresh_cluster, TEXT)
    with keep_front.served(None) as server:
        gone = f"http://127.0.0.1:{server.server_port}/"
    mount = arv_mount(*options(tmp_path, "--retries=0"), env={"ARVADOS_KEEP_SERVICES": gone})
    assert_eio((mount.path / "home" / "c" / "f").read_text)
    (line,) = lines_of(mount)
    assert gone in line and "refused" in line and UNHANDLED in line


def test_an_api_that_does_not_list_the_services_is_named(
    fresh_cluster: LocalCluster, arv_mount: Callable, tmp_path: Path
) -> None:
    keep_front.save_block(fresh_cluster, TEXT)
    mount = arv_mount(*options(tmp_path, "--retries=0"))
    file = mount.path / "home" / "c" / "f"
    assert file.stat().st_size == len(TEXT)
    fresh_cluster.faults.add(service="api", path="keep_services", action="status", value=503)
    assert_eio(file.read_text)
    (line,) = lines_of(mount)
    host = fresh_cluster.env()["ARVADOS_API_HOST"]
    assert UNHANDLED in line and "no Keep services available" in line, line
    assert host in line and "503" in line, line
    fresh_cluster.faults.clear()
    assert file.read_text() == TEXT


def test_signatures_that_cannot_be_renewed_are_a_line(
    fresh_cluster: LocalCluster, arv_mount: Callable, tmp_path: Path
) -> None:
    keep_front.save_block(fresh_cluster, TEXT)
    mount = arv_mount(*options(tmp_path, "--retries=0"))
    file = mount.path / "home" / "c" / "f"
    assert file.stat().st_size == len(TEXT)
    fresh_cluster.faults.add(service="keep", method="GET", action="status", value=403)
    fresh_cluster.faults.add(service="api", path="collections", action="status", value=503)
    assert_eio(file.read_text)
    lines = lines_of(mount)
    assert any("signatures could not be renewed" in line and "503" in line for line in lines), lines
    assert any(NOT_FOUND in line for line in lines), lines


def test_like_failures_are_counted(
    fresh_cluster: LocalCluster, arv_mount: Callable, tmp_path: Path
) -> None:
    """Of many blocks, too: what differs from one to the next makes no line of its own."""
    keep = fresh_cluster.api().keep
    blocks = [keep.put(bytes([number]) * 1000, copies=2) for number in range(30)]
    text = "." + "".join(f" {block}" for block in blocks)
    text += "".join(f" {1000 * number}:1000:f{number}" for number in range(30)) + "\n"
    arvados.collection.Collection(text, api_client=fresh_cluster.api()).save_new("c")
    mount = arv_mount(*options(tmp_path, "--retries=0"))
    folder = mount.path / "home" / "c"
    assert len(os.listdir(folder)) == 30
    fresh_cluster.faults.add(service="keep", method="GET", action="status", value=503)
    for number in range(30):
        assert_eio((folder / f"f{number}").read_bytes)
    assert len(lines_of(mount)) == 1
    fresh_cluster.faults.clear()
    assert mount.unmount() == 0
    first, second = lines_of(mount)
    told = re.search(r" \(and (\d+) more like it in the last 60 s\)$", second)
    # The kernel may ask for a page twice.
    assert told and int(told[1]) >= 28, second


@pytest.mark.parametrize(
    "fault", [{"action": "status", "value": 503}, {"action": "stall"}], ids=["503", "stall"]
)
def test_who_waits_for_keep_is_told_of_in_time(
    fresh_cluster: LocalCluster, arv_mount: Callable, tmp_path: Path, fault: dict
) -> None:
    keep_front.save_block(fresh_cluster, TEXT)
    mount = arv_mount(*options(tmp_path))
    file = mount.path / "home" / "c" / "f"
    assert file.stat().st_size == len(TEXT)
    fresh_cluster.faults.add(service="keep", method="GET", **fault)
    outcome: list[Any] = []

    def read() -> None:
        try:
            outcome.append(file.read_text())
        except OSError as error:
            outcome.append(error.errno)

    reader = threading.Thread(target=read, daemon=True)
    start = time.monotonic()
    reader.start()
    (line,) = poll("it is told of", lambda: lines_of(mount, "WARNING"), timeout=30)
    assert time.monotonic() - start > 5, "not for every hiccup"
    took = re.search(r"waiting for block \S+ since (\d+) s", line)
    assert took and int(took[1]) < 10, line
    assert "http://" in line and "trying for" in line, line
    assert "503" in line if "value" in fault else "no answer yet" in line, line
    fresh_cluster.faults.clear()
    reader.join(90)
    assert outcome == [TEXT]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"action": "status", "value": 503}, "http://{}: HTTP status 503; trying for"),
        ({"action": "stall"}, "http://{}: no answer yet; trying for"),
    ],
    ids=["503", "stall"],
)
def test_who_waits_for_a_write_is_told_of_in_time(
    fresh_cluster: LocalCluster, arv_mount: Callable, tmp_path: Path, fault: dict, told: str
) -> None:
    keep_front.save_block(fresh_cluster, TEXT)
    mount = arv_mount(*options(tmp_path, "--read-write"))
    fresh_cluster.faults.add(service="keep", method="PUT", **fault)
    writer = threading.Thread(
        target=lambda: (mount.path / "home" / "c" / "new").write_text("new"), daemon=True
    )
    writer.start()
    lines = poll("it is told of", lambda: lines_of(mount, "WARNING"), timeout=30)
    before, _, after = told.partition("{}")
    assert isinstance(lines, list) and before in lines[0] and after in lines[0], lines
    fresh_cluster.faults.clear()
    writer.join(90)
    assert (mount.path / "home" / "c" / "new").read_text() == "new"


def test_a_mount_whose_reader_waits_for_keep_ends_at_once(
    fresh_cluster: LocalCluster, arv_mount: Callable, tmp_path: Path
) -> None:
    keep_front.save_block(fresh_cluster, TEXT)
    mount = arv_mount(*options(tmp_path))
    file = mount.path / "home" / "c" / "f"
    assert file.stat().st_size == len(TEXT)
    fresh_cluster.record_requests()
    fresh_cluster.faults.add(service="keep", method="GET", action="stall")
    reader = threading.Thread(target=lambda: assert_eio_or_gone(file), daemon=True)
    reader.start()
    poll("it waits", lambda: reader.is_alive() and os.path.exists(f"/proc/{mount.pid()}"))
    os.kill(mount.pid(), signal.SIGTERM)
    assert mount.process is not None and mount.process.wait(20) == 0
    reader.join(20)
    assert not reader.is_alive()


def assert_eio_or_gone(file: Path) -> None:
    with pytest.raises(OSError) as error:
        file.read_text()
    assert error.value.errno in (errno.EIO, errno.ENOTCONN, errno.ECONNABORTED, errno.ENOENT)


def test_the_token_does_not_follow_redirects(
    fresh_cluster: LocalCluster, arv_mount: Callable, tmp_path: Path
) -> None:
    keep_front.save_block(fresh_cluster, TEXT)
    address = keep_front.keep_address(fresh_cluster)
    with keep_front.served(keep_front.forward(address)) as other:

        def redirect(handler: Any) -> None:
            handler.send_response(302)
            handler.send_header("Location", f"http://127.0.0.1:{other.server_port}{handler.path}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        with keep_front.served(redirect) as server:
            root = f"http://127.0.0.1:{server.server_port}/"
            settings = {"ARVADOS_KEEP_SERVICES": root}
            mount = arv_mount(*options(tmp_path, "--retries=0"), env=settings)
            assert_eio((mount.path / "home" / "c" / "f").read_text)
            assert server.seen and not other.seen
            (line,) = lines_of(mount)
            assert root in line and "302" in line
