# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The local cluster as a program: started, changed and stopped, its folder, its faults."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import arvados.collection
import arvados.events
import arvados.util
import pytest
from arvados_fuse.localcluster import ClusterError, LocalCluster
from conftest import SCRATCH, save_by
from test_localcluster import status_of


@pytest.fixture
def own_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    """A cluster that a test may change for good."""
    with LocalCluster(tmp_path / "c", test_hooks=True) as cluster:
        # Another authority than the cluster's that the other tests use.
        monkeypatch.setenv("SSL_CERT_FILE", cluster.env()["SSL_CERT_FILE"])
        yield cluster


def test_fixtures_replace_its_records(own_cluster: LocalCluster) -> None:
    user = {"uuid": "xlocl-tpzed-000000000000001", "first_name": "Ada", "is_admin": True}
    auth = {
        "uuid": "xlocl-gj3su-000000000000001",
        "owner_uuid": user["uuid"],
        "api_token": "s" * 50,
        "expires_at": "2099-01-01T00:00:00.000000000Z",
    }
    collection = {
        "uuid": "xlocl-4zz18-000000000000001",
        "owner_uuid": user["uuid"],
        "name": "c",
        "manifest_text": ". 37b51d194a7513e45b56f6524f2d51f2+3 0:3:f\n",
    }
    records = {"users": [user], "api_client_authorizations": [auth], "collections": [collection]}
    loaded = own_cluster.load_fixtures(records, [b"bar"], {"admin": auth["api_token"]})
    assert loaded == 3
    api = own_cluster.api("admin")
    for _ in range(2):
        assert [u["uuid"] for u in api.users().list().execute()["items"]] == [user["uuid"]]
        uuids = [c["uuid"] for c in api.collections().list().execute()["items"]]
        assert uuids == [collection["uuid"]]
        record = api.collections().get(uuid=collection["uuid"]).execute()
        assert (record["file_count"], record["version"]) == (1, 1)
        assert arvados.collection.Collection(record["uuid"], api).open("f").read() == "bar"
        api.collections().update(
            uuid=collection["uuid"], body={"collection": {"name": "d"}}
        ).execute()
        save_by(api, "more")
        own_cluster.create_user("Eve")
        own_cluster.reset()


def test_keep_stops_and_starts_anew(own_cluster: LocalCluster) -> None:
    api = own_cluster.api()

    def put(data: bytes) -> str:
        return arvados.KeepClient(api_client=api, num_retries=0).put(data)

    def get(locator: str) -> bytes:
        client = arvados.KeepClient(api_client=api, num_retries=0, block_cache=None)
        return client.get(locator)

    signed = put(b"data")
    assert "+A" in signed and get(signed) == b"data"
    own_cluster.stop_keep()
    with pytest.raises(arvados.errors.KeepReadError):
        get(signed)
    with pytest.raises(arvados.errors.KeepWriteError):
        put(b"data")
    own_cluster.start_keep(3, blob_signing=False)
    assert len(api.keep_services().accessible().execute()["items"]) == 3
    with pytest.raises(arvados.errors.NotFoundError):
        get(signed)
    unsigned = put(b"data").partition("+A")[0]
    assert get(unsigned) == b"data"


def test_a_keep_proxy(own_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    own_cluster.start_keep(2)
    url = own_cluster.start_keep_proxy()
    for name, value in own_cluster.env().items():
        monkeypatch.setenv(name, value)
    api = own_cluster.api()
    named = api.keep_services().list().execute()["items"]
    assert sorted(service["service_type"] for service in named) == ["disk", "disk", "proxy"]
    accessible = api.keep_services().accessible().execute()["items"]
    assert {service["service_type"] for service in accessible} == {"disk"}
    through = arvados.KeepClient(api_client=api, proxy=url, local_store="")
    locator = through.put(b"through the proxy", copies=2)
    assert through.using_proxy and "+A" in locator
    direct = arvados.KeepClient(api_client=api, proxy="", local_store="")
    assert direct.get(locator) == through.get(locator) == b"through the proxy"
    for keep in ("keep0", "keep1"):
        assert list((own_cluster.data / keep).glob(f"*/{locator[:32]}"))
    own_cluster.stop_keep_proxy()
    named = api.keep_services().list().execute()["items"]
    assert {service["service_type"] for service in named} == {"disk"}


def test_another_process_speaks_to_it(own_cluster: LocalCluster) -> None:
    other = LocalCluster(own_cluster.data).attach()
    assert other.env("admin") == own_cluster.env("admin")
    other.stop()
    other.reset()
    own_cluster.stop()
    with pytest.raises(ClusterError, match="no cluster is running"):
        LocalCluster(own_cluster.data).attach()


def test_it_restarts_with_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalCluster(tmp_path / "c") as cluster:
        # Another authority than the cluster's that the other tests use.
        monkeypatch.setenv("SSL_CERT_FILE", cluster.env()["SSL_CERT_FILE"])
        uuid, host = save_by(cluster.api(), "kept"), cluster.api_host
        token = cluster.token()
        with pytest.raises(ClusterError, match="another cluster is running"):
            LocalCluster(tmp_path / "c").start()
    with LocalCluster(tmp_path / "c") as cluster:
        assert (cluster.api_host, cluster.token()) == (host, token)
        collection = arvados.collection.Collection(uuid, api_client=cluster.api())
        assert collection.open("f").read() == "text"


def test_the_command_runs_another_and_stops(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "arvados_fuse.localcluster", "--data", str(tmp_path / "c")]
    run = "echo $ARVADOS_API_HOST; exit 3"
    done = subprocess.run([*command, "--exec", "sh", "-c", run], capture_output=True, text=True)
    assert done.returncode == 3 and done.stdout.startswith("127.0.0.1:")
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline().startswith("export ARVADOS_API_HOST=")
    server.terminate()
    assert server.wait(5) == 0
    taken = subprocess.run(
        [*command, "--port", "1", "--host", "192.0.2.1"], capture_output=True, text=True
    )
    assert taken.returncode == 1 and taken.stderr.startswith("local cluster:")


def test_faults_are_caused_and_requests_recorded(fresh_cluster: LocalCluster) -> None:
    api = fresh_cluster.api(num_retries=0)
    fresh_cluster.faults.add(service="api", path="/users/", action="status", value=503, count=1)
    assert status_of(api.users().current()) == 503
    api.users().current().execute()
    fresh_cluster.record_requests()
    save_by(api, "c")
    kinds = {(r["service"], r["method"]) for r in fresh_cluster.writes()}
    assert kinds == {("keep", "PUT"), ("api", "POST")}
    sent = {r["service"]: r["sent"] for r in fresh_cluster.writes()}
    assert sent["keep"] == len("text") and sent["api"] > len("manifest_text")
    fresh_cluster.faults.add(service="api", action="delay", value=0.3, count=1)
    start = time.monotonic()
    api.users().current().execute()
    assert time.monotonic() - start >= 0.3
    fresh_cluster.faults.add(service="api", action="stall")
    stalled = threading.Thread(target=lambda: status_or_none(api))
    stalled.start()
    assert stalled.is_alive()
    fresh_cluster.faults.clear()
    stalled.join(20)
    assert not stalled.is_alive()
    fresh_cluster.faults.add(service="api", method="POST", action="lost", value=504, count=1)
    created = api.collections().create(body={"collection": {"name": "made all the same"}})
    assert status_of(created) == 504
    assert status_of(created) == 422


def test_blocks_are_stored_wrongly(fresh_cluster: LocalCluster) -> None:
    keep = fresh_cluster.api(num_retries=0).keep
    data = b"a block"
    for rule in ({"action": "cut"}, {"action": "lost"}, {"action": "classes", "value": "cold=2"}):
        fresh_cluster.faults.add(service="keep", method="PUT", **rule)
        with pytest.raises(arvados.errors.KeepWriteError):
            keep.put(data, copies=2, num_retries=0, classes=["default"])
        fresh_cluster.faults.clear()
    digest = hashlib.md5(data).hexdigest()
    fresh_cluster.faults.add(service="keep", method="PUT", action="wrong")
    # The SDK believes it.
    assert keep.put(data, copies=2, num_retries=0)[:32] != digest
    fresh_cluster.faults.clear()
    assert keep.put(data, copies=2)[:32] == digest


def status_or_none(api: Any) -> None:
    try:
        api.users().current().execute(num_retries=0)
    except Exception:
        pass


def test_nothing_is_written_outside(fresh_cluster: LocalCluster) -> None:
    assert str(fresh_cluster.data).startswith(str(SCRATCH))


def test_its_folder_is_for_its_owner(tmp_path: Path) -> None:
    def open_to_others(folder: Path) -> list[Path]:
        return [p for p in (folder, *folder.glob("*.sqlite*")) if p.stat().st_mode & 0o077]

    umask = os.umask(0)
    try:
        with LocalCluster(tmp_path / "new" / "c"):
            assert len(list((tmp_path / "new" / "c").glob("*.sqlite*"))) == 3
            assert not open_to_others(tmp_path / "new" / "c")
        # As earlier versions left it.
        for path in (tmp_path / "new" / "c").iterdir():
            path.chmod(path.stat().st_mode | 0o044)
        (tmp_path / "new" / "c").chmod(0o755)
        (tmp_path / "empty").mkdir(mode=0o755)
        for known in (tmp_path / "new" / "c", tmp_path / "empty"):
            with LocalCluster(known):
                assert not open_to_others(known)
        # Somebody's folder of other things stays as it is.
        (tmp_path / "home").mkdir(mode=0o755)
        (tmp_path / "home" / "letter").touch()
        with pytest.raises(RuntimeError, match="is open to other users.*choose a new folder"):
            LocalCluster(tmp_path / "home").start()
        assert (tmp_path / "home").stat().st_mode & 0o777 == 0o755
        assert os.listdir(tmp_path / "home") == ["letter"]
    finally:
        os.umask(umask)
