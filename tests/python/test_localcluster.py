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
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import arvados.collection
import arvados.events
import arvados.util
import pytest
from arvados_fuse.localcluster import LocalCluster
from conftest import poll, save_by
from googleapiclient.errors import HttpError

BIN = Path(sys.executable).parent


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
    uuid = save_by(api, "c", "hello")
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
    uuid = save_by(api, "first", preserve_version=True)

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
    save_by(api, "first")
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
    uuid = save_by(hers, "c", owner_uuid=project["uuid"])
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
    uuid = save_by(api, "c", owner_uuid=inner)
    pdh = api.collections().get(uuid=uuid).execute()["portable_data_hash"]
    save_by(api, "at home", "other text")

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
    uuid = save_by(api, "c", owner_uuid=project)
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
    uuid = save_by(api, "c", "secret")
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
    uuid = save_by(api, "c")
    _, token = fresh_cluster.create_user("Other")
    save_by(fresh_cluster.api(token=token), "not for us")
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
