# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""An API that answers with something else than was asked: a listing is complete, or EIO."""

import errno
import http.server
import json
import os
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from arvados_fuse.localcluster import LocalCluster
from conftest import ARV_MOUNT, errno_of, poll, save_collection

BODIES = {
    "html": "<html><body>Welcome</body></html>",
    "empty": "",
    "no_items": "{}",
    "null": '{"items": null, "included": null}',
    "object": '{"items": {}, "included": {}}',
    "numbers": '{"items": [1, 2], "included": []}',
    "no_uuid": '{"items": [{"name": "x"}], "included": []}',
    "null_uuid": '{"items": [{"uuid": null, "name": null}], "included": []}',
}


def tag(cluster: LocalCluster, name: str, uuid: str) -> None:
    link = {"link_class": "tag", "name": name, "head_uuid": uuid}
    cluster.api().links().create(body={"link": link}).execute()


@pytest.mark.parametrize("fault", [*BODIES, "cut"])
def test_what_is_no_listing_is_eio(
    fresh_cluster: LocalCluster, arv_mount: Callable, fault: str
) -> None:
    uuid = save_collection(fresh_cluster, "c")
    tag(fresh_cluster, "t", uuid)
    project = {"name": "p", "group_class": "project"}
    api = fresh_cluster.api()
    project = api.groups().create(body={"group": project}).execute()["uuid"]
    mount = arv_mount("--retries=0", "--refresh-time=1", "--disable-event-listening")
    top = mount.path
    rule: dict[str, Any] = {"action": "cut"}
    if fault != "cut":
        rule = {"action": "body", "value": BODIES[fault]}
    looks = {
        "home": lambda: os.listdir(top / "home"),
        "home/c": lambda: os.stat(top / "home" / "c"),
        "home/p": lambda: os.listdir(top / "home" / "p"),
        "shared": lambda: os.listdir(top / "shared"),
        "by_tag": lambda: os.listdir(top / "by_tag"),
        "by_tag/t": lambda: os.listdir(top / "by_tag" / "t"),
        "by_id/collection": lambda: os.listdir(top / "by_id" / uuid),
        "by_id/project": lambda: os.listdir(top / "by_id" / project),
    }
    # Without this once, the mount's threads find no proper discovery document and go no further.
    rule["path"] = "^/arvados" if fault != "no_uuid" else ""
    fresh_cluster.faults.add(service="api", **rule)
    found = {name: errno_of(look) for name, look in looks.items()}
    assert found == dict.fromkeys(looks, errno.EIO)
    fresh_cluster.faults.clear()
    assert sorted(os.listdir(top / "home")) == ["c", "p"]
    assert os.listdir(top / "home" / "p") == os.listdir(top / "by_id" / project) == []
    assert os.listdir(top / "by_tag") == ["t"] and os.listdir(top / "by_tag" / "t") == [uuid]
    assert os.listdir(top / "by_id" / uuid) == ["f"]
    # Listed before, and then stale.
    fresh_cluster.faults.add(service="api", **rule)
    for name, look in looks.items():
        poll(f"EIO of {name}", lambda look=look: errno_of(look) == errno.EIO)
    log = mount.log.read_text()
    assert "Traceback" not in log, log
    assert f"the API at {os.environ['ARVADOS_API_HOST']}" in log
    fresh_cluster.faults.clear()
    poll("recovery", lambda: errno_of(lambda: os.listdir(top / "home")) == 0)


def test_listings_are_complete(fresh_cluster: LocalCluster, arv_mount: Callable) -> None:
    """Beyond 100 collections of a tag, 1000 tags, and 1000 collections of a project."""
    uuid = save_collection(fresh_cluster, "c")
    api = fresh_cluster.api()
    first = api.collections().get(uuid=uuid).execute()
    owner = first["owner_uuid"]
    keep = ("owner_uuid", "manifest_text", "portable_data_hash", "created_at", "modified_at")
    collections, links = [], []
    for number in range(1100):
        record = {name: first[name] for name in keep}
        made = f"xlocl-4zz18-{number:015d}"
        record |= {"uuid": made, "current_version_uuid": made, "name": f"c{number}"}
        collections.append(record)
        for name in (f"tag{number:04d}", *(["many"] if number < 250 else [])):
            links.append(
                {
                    "uuid": f"xlocl-o0j2j-{len(links):015d}",
                    "owner_uuid": owner,
                    "link_class": "tag",
                    "name": name,
                    "head_uuid": made,
                    "tail_uuid": "",
                    "properties": {},
                    "created_at": first["created_at"],
                    "modified_at": first["modified_at"],
                }
            )
    fresh_cluster.hook(
        "load", {"records": {"collections": collections, "links": links}, "blocks": []}
    )
    top = arv_mount("--disable-event-listening").path
    assert len(os.listdir(top / "by_tag" / "many")) == 250
    assert len(os.listdir(top / "by_tag")) == 1101
    assert len(os.listdir(top / "home")) == 1101


def test_a_page_that_is_served_for_ever_is_an_error(
    fresh_cluster: LocalCluster, arv_mount: Callable
) -> None:
    mount = arv_mount("--retries=0", "--refresh-time=1", "--disable-event-listening")
    record = {
        "uuid": "xlocl-j7d0g-000000000000000",
        "owner_uuid": "xlocl-tpzed-000000000000000",
        "current_version_uuid": "xlocl-4zz18-000000000000000",
        "name": "again",
        "head_uuid": "xlocl-4zz18-000000000000000",
    }
    body = json.dumps({"items": [record] * 1000, "included": []})
    fresh_cluster.faults.add(service="api", path="^/arvados", action="body", value=body)
    before = mount.memory()
    for name in ("home", "shared", "by_tag", "by_tag/again"):
        assert errno_of(lambda name=name: os.listdir(mount.path / name)) == errno.EIO
    assert mount.memory() - before < 64 << 20
    assert "the same page over and over" in mount.log.read_text()


def test_a_trashed_collection_is_not_there(
    fresh_cluster: LocalCluster, arv_mount: Callable
) -> None:
    api = fresh_cluster.api()
    uuid = save_collection(fresh_cluster, "c")
    save_collection(fresh_cluster, "other")
    mount = arv_mount("--retries=0", "--refresh-time=3", "--disable-event-listening")
    home, by_id = mount.path / "home", mount.path / "by_id"
    assert sorted(os.listdir(home)) == ["c", "other"]
    assert os.listdir(by_id / uuid) == ["f"]
    assert uuid in os.listdir(by_id)
    api.collections().delete(uuid=uuid).execute()
    # Its contents were not looked at before.
    assert errno_of(lambda: os.listdir(home / "c")) == errno.ENOENT
    poll("it is gone from its project", lambda: os.listdir(home) == ["other"])
    poll("nothing by its uuid", lambda: errno_of(lambda: os.listdir(by_id / uuid)) == errno.ENOENT)
    # The kernel was told for how long it may believe what it knows.
    poll("nor its attributes", lambda: errno_of(lambda: os.stat(by_id / uuid)) == errno.ENOENT)
    poll("by_id lists it no more", lambda: uuid not in os.listdir(by_id))
    assert "Traceback" not in mount.log.read_text()
    api.collections().untrash(uuid=uuid).execute()
    poll("it is back", lambda: sorted(os.listdir(home)) == ["c", "other"])
    assert os.listdir(home / "c") == os.listdir(by_id / uuid) == ["f"]


@pytest.mark.parametrize("action", ["status", "stall"])
def test_waiting_is_bounded_and_told(
    fresh_cluster: LocalCluster, arv_mount: Callable, action: str
) -> None:
    save_collection(fresh_cluster, "c")
    mount = arv_mount("--api-timeout=12", "--disable-event-listening")
    fresh_cluster.faults.add(service="api", action=action, value=503)
    found: list[tuple[int, float]] = []

    def look() -> None:
        start = time.monotonic()
        found.append((errno_of(lambda: os.listdir(mount.path / "home")), time.monotonic() - start))

    thread = threading.Thread(target=look)
    thread.start()
    says = "answered 503" if action == "status" else "has not answered"
    host = os.environ["ARVADOS_API_HOST"]
    poll("a line in the log", lambda: f"the API at {host} {says}" in mount.log.read_text(), 10)
    assert not found
    thread.join(40)
    assert found and found[0][0] == errno.EIO and found[0][1] < 30, found
    assert "Traceback" not in mount.log.read_text()
    fresh_cluster.faults.clear()
    assert os.listdir(mount.path / "home") == ["c"]


def test_a_server_that_trickles_ends(tmp_path: Path, cluster: LocalCluster) -> None:
    class Trickle(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            while True:
                try:
                    self.wfile.write(b" ")
                except OSError:
                    return
                time.sleep(0.2)  # the pace of the trickle

    with https_server(cluster, tmp_path, Trickle) as port:
        start = time.monotonic()
        done = run_mount(tmp_path, cluster, port, "--api-timeout=3")
        assert done.returncode == 1 and time.monotonic() - start < 30
        assert f"the API at 127.0.0.1:{port} cannot be reached: no answer within 3 s" in done.stderr


@contextmanager
def https_server(
    cluster: LocalCluster, folder: Path, handler: type[http.server.BaseHTTPRequestHandler]
) -> Iterator[int]:
    """Serve with the local cluster's certificate; the port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.log_message = lambda *args: None  # type: ignore[method-assign]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(next(Path(cluster.data).rglob("server.pem")))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run_mount(
    folder: Path, cluster: LocalCluster, port: int, *options: str
) -> subprocess.CompletedProcess:
    path = folder / "mnt"
    path.mkdir(exist_ok=True)
    env = {**os.environ, **cluster.env(), "ARVADOS_API_HOST": f"127.0.0.1:{port}"}
    return subprocess.run(
        [*ARV_MOUNT, "--foreground", *options, str(path), "--exec", "true"],
        env=env,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_the_token_follows_no_redirect_to_another_host(
    tmp_path: Path, cluster: LocalCluster
) -> None:
    heard: list[tuple[str, str | None]] = []

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append((self.path, self.headers.get("Authorization")))
            self.send_error(404)

    with https_server(cluster, tmp_path, Other) as other:

        class Redirecting(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(302)
                self.send_header("Location", f"https://127.0.0.1:{other}{self.path}")
                self.send_header("Content-Length", "0")
                self.end_headers()

        with https_server(cluster, tmp_path, Redirecting) as port:
            done = run_mount(tmp_path, cluster, port)
    assert done.returncode == 1
    assert f"to https://127.0.0.1:{other}: not followed" in done.stderr
    assert heard == []


def test_a_redirect_while_mounted(fresh_cluster: LocalCluster, arv_mount: Callable) -> None:
    mount = arv_mount("--retries=0", "--disable-event-listening")
    where = "https://127.0.0.1:1/elsewhere"
    fresh_cluster.faults.add(service="api", action="redirect", value=where)
    assert errno_of(lambda: os.listdir(mount.path / "home")) == errno.EIO
    assert "redirects" in mount.log.read_text() and "Traceback" not in mount.log.read_text()


@pytest.mark.parametrize(
    "env, says",
    [
        ({"ARVADOS_API_HOST": "no-such-host.invalid"}, "there is no host of that name"),
        ({"ARVADOS_API_TOKEN": "v2/a/b"}, "does not accept the token"),
        ({"SSL_CERT_FILE": "/etc/hostname"}, "certificate"),
        (
            {"SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt"},
            "its certificate is not accepted",
        ),
    ],
    ids=["host", "token", "bad_ca", "other_ca"],
)
def test_what_does_not_get_better_is_told_at_once(
    fresh_cluster: LocalCluster, tmp_path: Path, env: dict, says: str
) -> None:
    path = tmp_path / "mnt"
    path.mkdir()
    start = time.monotonic()
    done = subprocess.run(
        [*ARV_MOUNT, "--foreground", str(path)],
        env={**os.environ, **fresh_cluster.env(), **env},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr
    assert time.monotonic() - start < 15
    assert fresh_cluster.token() not in done.stderr
