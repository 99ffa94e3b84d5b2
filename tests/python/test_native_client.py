# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The API client of `arv-mount`, beside the SDK's."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import arvados.api
import arvados.errors
import arvados.util
import httplib2
import pytest
from arvados_fuse import discovery_cache
from arvados_fuse.api_requests import IF_HASH
from arvados_fuse.apierrors import ServerError, http_status
from arvados_fuse.discovery_cache import DiscoveryCache
from arvados_fuse.localcluster import LocalCluster
from arvados_fuse.native_client import NativeClient
from conftest import save_collection


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for caches that nobody used before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    (tmp_path / "cache").mkdir()
    return tmp_path


@pytest.fixture
def native(fresh_cluster: LocalCluster, home: Path) -> Iterator[NativeClient]:
    yield client(fresh_cluster)


def client(cluster: LocalCluster, **options: Any) -> NativeClient:
    settings = {"apiconfig": cluster.env(), "api_params": {"num_retries": 2}}
    return NativeClient(
        **{"time_limit": 60, "keep_params": {}, "version": "v1", **settings, **options}
    )


def known(cluster: LocalCluster) -> dict[str, str]:
    uuid = save_collection(cluster, "a name: ü & /")
    user = cluster.api().users().current().execute()["uuid"]
    group = {"name": "project", "group_class": "project"}
    project = cluster.api().groups().create(body={"group": group}).execute()["uuid"]
    return {"uuid": uuid, "user": user, "project": project}


#: What is asked, of a client and known uuids.
CALLS: dict[str, Callable[[Any, dict[str, str]], Any]] = {
    "user": lambda api, _: api.users().current(),
    "get": lambda api, k: api.collections().get(uuid=k["uuid"]),
    "select": lambda api, k: api.collections().get(uuid=k["uuid"], select=["uuid", "name"]),
    "list": lambda api, k: api.collections().list(
        filters=[["name", "=", "a name: ü & /"]], order=["name asc", "uuid desc"], limit=3
    ),
    "nothing given": lambda api, _: api.collections().list(filters=None, count="none"),
    "booleans": lambda api, _: api.collections().list(include_trash=True, distinct=False),
    "as text": lambda api, _: api.collections().list(filters='[["name","like","a%"]]', limit="2"),
    "long": lambda api, k: api.collections().list(
        filters=[["uuid", "in", [k["uuid"], *(f"zzzzz-4zz18-{n:015}" for n in range(200))]]]
    ),
    "contents": lambda api, k: api.groups().contents(uuid=k["user"], filters=[["uuid", "!=", ""]]),
    "shared": lambda api, _: api.groups().shared(limit=5, include=["owner_uuid"]),
    "services": lambda api, _: api.keep_services().accessible(),
    "configuration": lambda api, _: api.configs().get(),
}


@pytest.mark.parametrize("call", CALLS)
def test_it_answers_as_the_sdks(
    native: NativeClient, fresh_cluster: LocalCluster, call: str
) -> None:
    uuids = known(fresh_cluster)
    fresh_cluster.record_requests()
    theirs = CALLS[call](fresh_cluster.api(), uuids).execute(num_retries=0)
    ours = CALLS[call](native, uuids).execute(num_retries=0)
    # Signatures say when they were made.
    assert _unsigned(ours) == _unsigned(theirs) and ours
    last = [(r["method"], r["path"]) for r in fresh_cluster.requests()][-2:]
    assert last[0] == last[1]


def _unsigned(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _unsigned(v) for k, v in value.items() if k != "manifest_text"}
    if isinstance(value, list):
        return [_unsigned(each) for each in value]
    return value


def test_records_are_made_changed_and_removed(
    native: NativeClient, fresh_cluster: LocalCluster
) -> None:
    made = native.collections().create(body={"collection": {"name": "new"}}).execute()
    uuid = made["uuid"]
    body = {"collection": {"name": "ü"}, "select": ["name"]}
    assert native.collections().update(uuid=uuid, body=body).execute()["name"] == "ü"
    theirs = fresh_cluster.api().collections()
    assert theirs.get(uuid=uuid).execute()["name"] == "ü"
    native.collections().delete(uuid=uuid).execute()
    with pytest.raises(arvados.errors.ApiError):
        theirs.get(uuid=uuid).execute()


def test_errors_are_the_sdks(native: NativeClient, fresh_cluster: LocalCluster) -> None:
    uuid = "zzzzz-4zz18-000000000000000"
    found = []
    for api in (native, fresh_cluster.api()):
        with pytest.raises(arvados.errors.ApiError) as caught:
            api.collections().get(uuid=uuid).execute()
        error = caught.value
        found.append(
            (http_status(error), error.resp.reason, error.uri, error.reason.split("req-")[0])
        )
    assert found[0] == found[1] and found[0][0] == 404
    for call in (
        lambda api: api.collections().get(),
        lambda api: api.collections().list(unknown=1),
    ):
        for api in (native, fresh_cluster.api()):
            with pytest.raises(TypeError):
                call(api)
    for name in ("no_such_resource", "_cached_anything"):
        assert not hasattr(native, name)
    assert not hasattr(native.collections(), "no_such_method")


def test_what_the_sdk_asks_of_a_client(native: NativeClient, fresh_cluster: LocalCluster) -> None:
    assert native.config()["StorageClasses"] == fresh_cluster.api().config()["StorageClasses"]
    assert native.config() is native.config()
    assert native.localapi() is native
    uuid = save_collection(fresh_cluster, "read", "some text")
    collection = arvados.collection.Collection(uuid, api_client=native)
    assert collection.open("f").read() == "some text"
    with collection.open("g", "w") as file:
        file.write("more")
    collection.save()
    theirs = arvados.collection.CollectionReader(uuid, api_client=fresh_cluster.api())
    assert theirs.open("g").read() == "more"
    listed = arvados.util.keyset_list_all(native.collections().list, filters=[["uuid", "=", uuid]])
    assert [each["uuid"] for each in listed] == [uuid]


def test_an_update_is_made_once(native: NativeClient, fresh_cluster: LocalCluster) -> None:
    uuid = save_collection(fresh_cluster, "updated")
    update = native.collections().update(uuid=uuid, body={"collection": {"name": "once"}})
    update.headers[IF_HASH] = "another"
    fresh_cluster.faults.add(service="api", method="PUT", action="hangup", count=1)
    with pytest.raises(arvados.errors.ApiError) as caught:
        update.execute()
    assert http_status(caught.value) == 412


def test_a_server_that_is_away_is_named(fresh_cluster: LocalCluster, home: Path) -> None:
    settings = {**fresh_cluster.env(), "ARVADOS_API_HOST": "127.0.0.1:1"}
    with pytest.raises(ServerError, match="the API at 127.0.0.1:1 cannot be reached: Conn"):
        client(fresh_cluster, apiconfig=settings, api_params={"num_retries": 0})
    settings["ARVADOS_API_TOKEN"] = "line\nend"
    with pytest.raises(ServerError, match="token"):
        client(fresh_cluster, apiconfig=settings)


# The discovery document


def discovered(cluster: LocalCluster) -> int:
    return len([r for r in cluster.requests() if r["path"].startswith("/discovery/")])


def test_either_reads_what_the_other_kept(fresh_cluster: LocalCluster, home: Path) -> None:
    ours = client(fresh_cluster)
    text = json.dumps(ours._rootDesc).encode()
    headers = {
        "date": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()),
        "cache-control": "public, max-age=600",
        "content-type": "application/json",
    }
    fresh_cluster.record_requests()
    arvados.api.api_from_config("v1", fresh_cluster.env()).users().current().execute()
    assert discovered(fresh_cluster), "the local cluster's is not to be kept"
    DiscoveryCache(ours._url).put(headers, text)
    fresh_cluster.record_requests()
    arvados.api.api_from_config("v1", fresh_cluster.env()).users().current().execute()
    client(fresh_cluster).users().current().execute()
    assert not discovered(fresh_cluster), "both have what ours kept"
    (file,) = (home / "cache" / "arvados" / "discovery").iterdir()
    file.unlink()
    theirs = httplib2.Response({**headers, "status": "200"})
    httplib2._updateCache({}, theirs, text, arvados.api.http_cache("discovery"), ours._url)
    assert DiscoveryCache(ours._url).get() == text
    client(fresh_cluster).users().current().execute()
    assert not discovered(fresh_cluster), "and what theirs kept"


def test_a_document_is_kept_for_as_long_as_it_may_be(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, now = DiscoveryCache("https://api.example/discovery"), time.time()
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now))
    for control in ("no-store", "max-age=0", "no-cache, max-age=100", ""):
        cache.put({"date": date, "cache-control": control}, b"{}")
        assert cache.get() is None, control
    cache.put({"cache-control": "max-age=100"}, b"{}")
    assert cache.get() is None, "nobody knows since when"
    cache.put({"date": date, "cache-control": "private, max-age=100"}, b"{1}")
    assert cache.get() == b"{1}"
    monkeypatch.setattr(discovery_cache.time, "time", lambda: now + 101)
    assert cache.get() is None
    monkeypatch.undo()
    (file,) = (home / "cache" / "arvados" / "discovery").iterdir()
    for broken in (b"", b"\r\n\r\n", b"date: x\r\n\r\n{}", b"\xff\xfe\r\n\r\n{}"):
        file.write_bytes(broken)
        assert cache.get() is None
