# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The local cluster, with unmodified clients."""

import hashlib
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import arvados.collection
import arvados.events
import arvados.util
import pytest
from arvados_fuse.localcluster import ClusterError, LocalCluster
from conftest import SCRATCH, poll
from googleapiclient.errors import HttpError

BIN = Path(sys.executable).parent


def save(api: Any, name: str, text: str = "text", **options: Any) -> str:
    collection = arvados.collection.Collection(api_client=api)
    with collection.open("f", "w") as file:
        file.write(text)
    collection.save_new(name, **options)
    return collection.manifest_locator()


def status_of(request: Any) -> int:
    with pytest.raises(HttpError) as error:
        request.execute(num_retries=0)
    assert b"errors" in error.value.content
    return int(error.value.resp.status)


def test_arv_put_arv_ls_arv_get(fresh_cluster: LocalCluster, tmp_path: Path) -> None:
    env = {**os.environ, **fresh_cluster.env()}
    (tmp_path / "a b").write_bytes(os.urandom(3 << 20))
    put = subprocess.run(
        [BIN / "arv-put", "--no-resume", "--no-progress", "--name", "c", tmp_path / "a b"],
        env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    uuid = put.stdout.strip()
    listed = subprocess.run([BIN / "arv-ls", uuid], env=env, capture_output=True, text=True)
    assert listed.stdout.strip() == "./a b"
    subprocess.run([BIN / "arv-get", f"{uuid}/a b", tmp_path / "back"], env=env, check=True)
    assert (tmp_path / "back").read_bytes() == (tmp_path / "a b").read_bytes()


def test_collections(fresh_cluster: LocalCluster) -> None:
    api = fresh_cluster.api()
    uuid = save(api, "c", "hello")
    record = api.collections().get(uuid=uuid).execute()
    manifest = ". 5d41402abc4b2a76b9719d911017c592+5 0:5:f\n"
    assert record["unsigned_manifest_text"] == manifest
    assert (
        record["portable_data_hash"]
        == f"{hashlib.md5(manifest.encode()).hexdigest()}+{len(manifest)}"
    )
    assert (record["file_count"], record["file_size_total"], record["version"]) == (1, 5, 1)
    assert "+A" in record["manifest_text"]
    by_hash = api.collections().get(uuid=record["portable_data_hash"]).execute()
    assert by_hash["unsigned_manifest_text"] == manifest
    assert status_of(api.collections().create(body={"collection": {"name": "c"}})) == 422
    again = api.collections().create(body={"collection": {"name": "c"}}, ensure_unique_name=True)
    assert again.execute()["name"].startswith("c (")
    update = {"collection": {"properties": {"kind": "x"}}}
    assert api.collections().update(uuid=uuid, body=update).execute()["properties"] == {"kind": "x"}
    bad = {"collection": {"manifest_text": "no manifest\n"}}
    assert status_of(api.collections().create(body=bad)) == 422
    unsorted = {
        "collection": {"manifest_text": ". d41d8cd98f00b204e9800998ecf8427e+0 0:0:b 0:0:a\n"}
    }
    kept = api.collections().create(body=unsorted).execute()["unsigned_manifest_text"]
    assert kept == unsorted["collection"]["manifest_text"]
    replace = {"/g": f"{record['portable_data_hash']}/f", "/f": ""}
    body = {"collection": {}}
    changed = api.collections().update(uuid=uuid, body=body, replace_files=replace).execute()
    assert changed["unsigned_manifest_text"].endswith(" 0:5:g\n")
    api.collections().delete(uuid=uuid).execute()
    assert status_of(api.collections().get(uuid=uuid)) == 404
    assert api.collections().get(uuid=uuid, include_trash=True).execute()["is_trashed"]
    api.collections().untrash(uuid=uuid).execute()
    assert not api.collections().get(uuid=uuid).execute()["is_trashed"]


def test_versions_of_collections(fresh_cluster: LocalCluster) -> None:
    api = fresh_cluster.api()
    uuid = save(api, "first", preserve_version=True)

    def update(**attributes: Any) -> dict:
        return api.collections().update(uuid=uuid, body={"collection": attributes}).execute()

    def versions(**filters: Any) -> list[tuple[int, str]]:
        about = [["current_version_uuid", "=", uuid]]
        found = api.collections().list(filters=about, order="version", **filters).execute()
        return [(item["version"], item["name"]) for item in found["items"]]

    assert update(replication_desired=1)["version"] == 1
    assert update(preserve_version=False)["preserve_version"]
    second = update(name="second", preserve_version=False)
    assert (second["version"], second["preserve_version"]) == (2, False)
    assert update(name="third")["version"] == 2
    assert versions() == [(2, "third")]
    assert versions(include_old_versions=True) == [(1, "first"), (2, "third")]
    about = [["current_version_uuid", "=", uuid], ["version", "=", 1]]
    past = api.collections().list(filters=about, include_old_versions=True).execute()["items"][0]
    assert past["uuid"] != uuid and past["replication_desired"] == 1
    change = api.collections().update(uuid=past["uuid"], body={"collection": {"name": "x"}})
    assert status_of(change) == 422
    # The name is free again, although a past version has it.
    save(api, "first")
    api.collections().delete(uuid=uuid).execute()
    assert versions(include_old_versions=True) == []


def test_times_are_told_in_one_form(fresh_cluster: LocalCluster) -> None:
    api = fresh_cluster.api()

    def create(trash_at: str) -> dict:
        body = {"collection": {"trash_at": trash_at}}
        return api.collections().create(body=body).execute()

    record = create("2111-01-01T11:11:11.5+02:00")
    assert record["trash_at"] == "2111-01-01T09:11:11.500000000Z"
    assert record["delete_at"] == "2111-01-15T09:11:11.500000000Z"
    assert not record["is_trashed"]
    assert create("2001-01-01T00:00:00")["is_trashed"]
    assert status_of(api.collections().create(body={"collection": {"trash_at": "soon"}})) == 422


def test_filters_order_and_paging(fresh_cluster: LocalCluster) -> None:
    api = fresh_cluster.api()
    for name in ("alpha", "beta", "gamma"):
        properties = {"letter": name[0], "length": len(name)}
        record = {"collection": {"name": name, "properties": properties}}
        api.collections().create(body=record).execute()

    def names(*filters: list, **options: Any) -> list[str]:
        found = api.collections().list(filters=list(filters), order="name", **options).execute()
        return [item["name"] for item in found["items"]]

    assert names(["name", "=", "beta"]) == ["beta"]
    assert names(["name", "!=", "beta"]) == ["alpha", "gamma"]
    assert names(["name", ">", "alpha"], ["name", "<", "gamma"]) == ["beta"]
    assert names(["name", "in", ["alpha", "x"]]) == ["alpha"]
    assert names(["name", "not in", ["alpha", "beta"]]) == ["gamma"]
    assert names(["name", "like", "%a%m%"]) == ["gamma"]
    assert names(["name", "ilike", "AL%"]) == ["alpha"]
    assert names(["uuid", "is_a", "arvados#collection"]) == ["alpha", "beta", "gamma"]
    assert names(["uuid", "is_a", "arvados#group"]) == []
    assert names(["properties.letter", "=", "g"]) == ["gamma"]
    assert names(["properties", "exists", "letter"]) == ["alpha", "beta", "gamma"]
    assert names(["collections.name", "=", "alpha"]) == ["alpha"]
    assert names(limit=1, offset=1) == ["beta"]
    found = api.collections().list(limit=2, select=["name"], count="none").execute()
    assert "items_available" not in found and set(found["items"][0]) == {"name", "kind"}
    every = arvados.util.keyset_list_all(api.collections().list, order_key="uuid", limit=1)
    assert len(list(every)) == 3
    assert status_of(api.collections().list(filters=[["nonsense", "=", 1]])) == 422
    assert status_of(api.collections().list(filters=[["name", "~~", 1]])) == 422
    long = [["name", "in", ["x" * 50] * 200 + ["beta"]]]
    assert [i["name"] for i in api.collections().list(filters=long).execute()["items"]] == ["beta"]


def test_permissions_between_users(fresh_cluster: LocalCluster) -> None:
    api = fresh_cluster.api()
    me = api.users().current().execute()
    _, token = fresh_cluster.create_user("Ada Lovelace")
    hers = fresh_cluster.api(token=token)
    project = hers.groups().create(
        body={"group": {"name": "p", "group_class": "project"}}
    ).execute()  # fmt: skip
    uuid = save(hers, "c", owner_uuid=project["uuid"])
    assert status_of(api.collections().get(uuid=uuid)) == 404
    assert api.groups().shared(include="owner_uuid").execute()["items"] == []
    link = {
        "link_class": "permission", "name": "can_read",
        "tail_uuid": me["uuid"], "head_uuid": project["uuid"],
    }  # fmt: skip
    assert status_of(api.links().create(body={"link": link})) in (403, 422)
    granted = hers.links().create(body={"link": link}).execute()
    assert api.collections().get(uuid=uuid).execute()["name"] == "c"
    shared = api.groups().shared(include="owner_uuid").execute()
    assert [p["name"] for p in shared["items"]] == ["p"]
    assert [u["first_name"] for u in shared["included"]] == ["Ada"]
    assert not api.groups().get(uuid=project["uuid"]).execute()["can_write"]
    rename = {"collection": {"name": "d"}}
    assert status_of(api.collections().update(uuid=uuid, body=rename)) == 403
    hers.links().update(uuid=granted["uuid"], body={"link": {"name": "can_write"}}).execute()
    assert api.collections().update(uuid=uuid, body=rename).execute()["name"] == "d"
    contents = api.groups().contents(uuid=project["uuid"]).execute()["items"]
    assert [item["name"] for item in contents] == ["d"]
    hers.links().delete(uuid=granted["uuid"]).execute()
    assert status_of(api.collections().get(uuid=uuid)) == 404
    assert fresh_cluster.api("admin").collections().get(uuid=uuid).execute()["name"] == "d"
    stranger = fresh_cluster.api(token="v2/xlocl-gj3su-000000000000000/nonsense")
    assert status_of(stranger.users().current()) == 401


def answer(cluster: LocalCluster, method: str, path: str, body: str = "") -> tuple[int, dict]:
    """Send a request that no SDK sends; return the status and the JSON of the answer."""
    request = urllib.request.Request(
        f"https://{cluster.api_host}{path}",
        method=method,
        data=body.encode() or None,
        headers={
            "Authorization": f"Bearer {cluster.token()}",
            "Content-Type": "application/json",
        },
    )
    context = ssl.create_default_context(cafile=cluster.env()["SSL_CERT_FILE"])
    try:
        with urllib.request.urlopen(request, context=context) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize(
    "method, path, body, status",
    [
        ("GET", "/arvados/v1/nothing", "", 404),
        ("GET", "/arvados/v1/too/far/down/here", "", 404),
        ("DELETE", "/arvados/v1/collections", "", 405),
        ("POST", "/arvados/v1/collections", "{", 400),
        ("POST", "/arvados/v1/collections", '{"collection": {"manifest_text": 5}}', 422),
        ("POST", "/arvados/v1/collections", '{"collection": {"properties": "x"}}', 422),
        ("GET", "/arvados/v1/collections?limit=many", "", 422),
        ("GET", "/arvados/v1/collections?offset=-1", "", 422),
        ("GET", "/arvados/v1/collections?order=[1]", "", 422),
        ("GET", "/arvados/v1/collections?order=name+sideways", "", 422),
        ("GET", "/arvados/v1/collections?select=name", "", 422),
        ("GET", "/arvados/v1/collections?filters=x", "", 422),
    ],
)
def test_errors_are_the_apis(
    fresh_cluster: LocalCluster, method: str, path: str, body: str, status: int
) -> None:
    got, error = answer(fresh_cluster, method, path, body)
    assert got == status
    assert error["errors"] and all(isinstance(text, str) for text in error["errors"])
    assert re.fullmatch(r"\d+\+[0-9a-f]{8}", error["error_token"])


def test_projects_in_the_trash_and_in_each_other(fresh_cluster: LocalCluster) -> None:
    api = fresh_cluster.api()

    def project(name: str, owner: str | None = None) -> str:
        record = {"name": name, "group_class": "project", "owner_uuid": owner}
        return api.groups().create(body={"group": record}).execute()["uuid"]

    outer = project("outer")
    inner = project("inner", outer)
    uuid = save(api, "c", owner_uuid=inner)
    pdh = api.collections().get(uuid=uuid).execute()["portable_data_hash"]
    save(api, "at home", "other text")

    def contents(**options: Any) -> list[str]:
        found = api.groups().contents(order="name", **options).execute()["items"]
        return [item["name"] for item in found]

    assert contents(uuid=outer) == ["inner"] and contents(uuid=inner) == ["c"]
    assert contents(uuid=outer, recursive=True) == ["c", "inner"]
    assert contents() == ["at home", "c", "inner", "outer"]
    assert contents(exclude_home_project=True) == ["c", "inner"]
    for owner in (inner, outer):
        circle = {"group": {"owner_uuid": owner}}
        assert status_of(api.groups().update(uuid=outer, body=circle)) == 422
    api.groups().delete(uuid=outer).execute()
    for gone in (
        api.collections().get(uuid=uuid),
        api.collections().get(uuid=pdh),
        api.groups().get(uuid=inner),
        api.groups().contents(uuid=outer),
        api.groups().contents(uuid=inner),
    ):
        assert status_of(gone) == 404
    assert contents() == ["at home"]
    assert api.collections().get(uuid=uuid, include_trash=True).execute()["name"] == "c"
    api.groups().untrash(uuid=outer).execute()
    assert api.collections().get(uuid=pdh).execute()
    past = {"collection": {"trash_at": "2001-01-01T00:00:00Z"}}
    assert api.collections().update(uuid=uuid, body=past).execute()["is_trashed"]
    assert status_of(api.collections().get(uuid=uuid)) == 404
    back = {"collection": {"trash_at": None}}
    assert api.collections().update(uuid=uuid, body=back).execute()["delete_at"] is None
    # Only projects own things.
    group = {"name": "f", "group_class": "filter", "properties": {"filters": []}}
    filtered = api.groups().create(body={"group": group}).execute()["uuid"]
    into = {"collection": {"owner_uuid": filtered}}
    assert status_of(api.collections().create(body=into)) == 422


def test_users_and_tokens(fresh_cluster: LocalCluster) -> None:
    api, admin = fresh_cluster.api(), fresh_cluster.api("admin")
    me = api.users().current().execute()
    assert [user["uuid"] for user in api.users().list().execute()["items"]] == [me["uuid"]]
    everybody = {user["username"] for user in admin.users().list().execute()["items"]}
    assert everybody == {"active", "admin"}
    assert status_of(api.users().delete(uuid=me["uuid"])) == 403
    assert status_of(api.users().update(uuid=me["uuid"], body={"user": {"is_admin": True}})) == 403
    prefs = {"user": {"prefs": {"a": 1}}}
    assert api.users().update(uuid=me["uuid"], body=prefs).execute()["prefs"] == {"a": 1}
    made = api.api_client_authorizations().create(body={"api_client_authorization": {}}).execute()
    token = f"v2/{made['uuid']}/{made['api_token']}"
    other = fresh_cluster.api(token=token)
    assert other.users().current().execute()["uuid"] == me["uuid"]
    assert other.api_client_authorizations().current().execute()["uuid"] == made["uuid"]
    listed = api.api_client_authorizations().list().execute()["items"]
    assert made["uuid"] in [auth["uuid"] for auth in listed]
    assert not any("api_token" in auth for auth in listed)
    expired = {"api_client_authorization": {"expires_at": "2001-01-01T00:00:00Z"}}
    api.api_client_authorizations().update(uuid=made["uuid"], body=expired).execute()
    assert status_of(other.users().current()) == 401


def test_rights_through_a_role(fresh_cluster: LocalCluster) -> None:
    api, admin = fresh_cluster.api(), fresh_cluster.api("admin")
    user, token = fresh_cluster.create_user("Ada Lovelace")
    hers = fresh_cluster.api(token=token)
    record = {"name": "p", "group_class": "project"}
    project = api.groups().create(body={"group": record}).execute()["uuid"]
    uuid = save(api, "c", owner_uuid=project)
    record = {"name": "role", "group_class": "role"}
    role = admin.groups().create(body={"group": record}).execute()["uuid"]

    def link(tail: str, head: str, name: str) -> str:
        record = {"link_class": "permission", "name": name, "tail_uuid": tail, "head_uuid": head}
        return admin.links().create(body={"link": record}).execute()["uuid"]

    link(role, project, "can_write")
    assert status_of(hers.collections().get(uuid=uuid)) == 404
    member = link(user["uuid"], role, "can_read")
    assert hers.collections().get(uuid=uuid).execute()["name"] == "c"
    rename = {"collection": {"name": "d"}}
    assert status_of(hers.collections().update(uuid=uuid, body=rename)) == 403
    admin.links().update(uuid=member, body={"link": {"name": "can_write"}}).execute()
    assert hers.collections().update(uuid=uuid, body=rename).execute()["name"] == "d"
    assert [g["name"] for g in hers.groups().shared().execute()["items"]] == ["p"]


def test_signatures(fresh_cluster: LocalCluster) -> None:
    api = fresh_cluster.api()
    uuid = save(api, "c", "secret")
    signed = api.collections().get(uuid=uuid).execute()["manifest_text"]
    _, token = fresh_cluster.create_user("Eve")
    hers = fresh_cluster.api(token=token)
    assert (
        status_of(hers.collections().create(body={"collection": {"manifest_text": signed}})) == 403
    )
    unsigned = {"collection": {"manifest_text": re.sub(r"\+A\S+", "", signed)}}
    assert status_of(api.collections().create(body=unsigned)) == 403
    assert api.collections().update(uuid=uuid, body=unsigned).execute(), "nothing changes"
    stale = re.sub(r"(?<=@)[0-9a-f]{8}", "00000001", signed)
    body = {"collection": {"manifest_text": stale}}
    assert status_of(api.collections().create(body=body)) == 403
    locator = signed.split()[1]
    keep = hers.keep_services().accessible().execute()["items"][0]
    base = f"http://{keep['service_host']}:{keep['service_port']}/"

    def fetch(locator: str, token: str) -> int:
        request = urllib.request.Request(
            base + locator, headers={"Authorization": f"Bearer {token}"}
        )
        try:
            return urllib.request.urlopen(request).status
        except urllib.error.HTTPError as error:
            return error.code

    assert fetch(locator, fresh_cluster.token()) == 200
    assert fetch(locator, token) == 403
    assert fetch(locator.split("+A")[0], fresh_cluster.token()) == 403
    expired = locator.split("@")[0] + "@00000001"
    assert fetch(expired, fresh_cluster.token()) == 403


def test_no_session_ticket_follows_the_handshake(fresh_cluster: LocalCluster) -> None:
    host, port = fresh_cluster.api_host.split(":")
    context = ssl.create_default_context(cafile=fresh_cluster.env()["SSL_CERT_FILE"])
    with (
        socket.create_connection((host, int(port))) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        connection.sendall(b"GET /_health/ping HTTP/1.0\r\n\r\n")
        assert b"200 OK" in connection.recv(4096)
        assert connection.version() == "TLSv1.3"
        assert connection.session is None or not connection.session.has_ticket


def test_events_and_catching_up(fresh_cluster: LocalCluster) -> None:
    api = fresh_cluster.api()
    heard: list[dict] = []
    client = arvados.events.subscribe(
        api,
        [["event_type", "in", ["create", "update", "delete"]]],
        heard.append,
        poll_fallback=False,
    )
    poll("subscribed", lambda: {"status": 200} in heard)
    uuid = save(api, "c")
    _, token = fresh_cluster.create_user("Other")
    save(fresh_cluster.api(token=token), "not for us")
    api.collections().update(uuid=uuid, body={"collection": {"name": "d"}}).execute()
    poll("two events", lambda: len(heard) >= 3)
    create, update = heard[1:3]
    assert (create["event_type"], create["object_uuid"]) == ("create", uuid)
    assert update["properties"]["old_attributes"]["name"] == "c"
    assert update["properties"]["new_attributes"]["name"] == "d"
    client.close()
    api.collections().delete(uuid=uuid).execute()
    missed: list[dict] = []
    later = arvados.events.EventClient(
        f"{api._rootDesc['websocketUrl']}?api_token={fresh_cluster.token()}",
        [], missed.append, last_log_id=create["id"],
    )  # fmt: skip
    poll("what was missed", lambda: len(missed) >= 3)
    later.close()
    assert [event.get("event_type") for event in missed] == [None, "update", "update"]


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
        save(api, "more")
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
        uuid, host = save(cluster.api(), "kept"), cluster.api_host
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
    save(api, "c")
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
