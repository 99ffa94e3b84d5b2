# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What programs on a mount see of a cluster that is away, or takes the token no more, or has another idea
of the time; and that all is well again after it, by itself."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arvados.collection
import pytest
from arvados_fuse.localcluster import LocalCluster
from conftest import Mounted, change_by, errno_of, poll, save_by
from test_mount_server_faults import lines_of

#: Lines that the log may have, however often programs ask.
FEW = 6
OFTEN = ["--refresh-time=1"]
#: By how a mount hears of changes.
OPTIONS = {"events": OFTEN, "polling": [*OFTEN, "--disable-event-listening"]}


def text_of(api: Any, uuid: str, name: str) -> str:
    with arvados.collection.Collection(uuid, api_client=api).open(name) as file:
        return file.read()


class Home:
    """A mounted home with collections of which some were read."""

    def __init__(
        self, arv_mount: Callable, api: Any, cache: Path, *options: str, **popen: Any
    ) -> None:
        self.uuids = {name: save_by(api, name, name) for name in ("read", "unread", "written")}
        # What the SDK stored is in its own cache.
        cache.mkdir()
        common = ("--read-write", "--home", "--retries=0", f"--disk-cache-dir={cache}")
        self.mount: Mounted = arv_mount(*common, *options, **popen)
        self.path = self.mount.path
        assert sorted(os.listdir(self.path)) == ["read", "unread", "written"]
        assert (self.path / "read" / "f").read_text() == "read"
        assert os.listdir(self.path / "unread") == ["f"]
        self.file = open(self.path / "written" / "f", "a")
        self.written = "written"

    def assert_fails(self, *expected: int) -> None:
        """What needs the API fails, soon, and the log is no longer for it."""
        for _ in range(10):
            began = time.monotonic()
            self.file.write(".")
            self.written += "."
            assert errno_of(self.file.flush) == 0
            assert errno_of(lambda: os.fsync(self.file.fileno())) in expected
            assert errno_of((self.path / "made").mkdir) in expected
            assert time.monotonic() - began < 20
        errors = lines_of(self.mount) + lines_of(self.mount, "WARNING")
        assert 1 <= len(errors) <= FEW, errors

    def assert_recovers(self, api: Any) -> None:
        poll("it is read", lambda: errno_of((self.path / "unread" / "f").read_text) == 0, 60)
        assert (self.path / "unread" / "f").read_text() == "unread"
        # What was written meanwhile was kept, and is saved unasked.
        written = self.uuids["written"]
        poll("it is saved", lambda: text_of(api, written, "f") == self.written, 60)
        self.file.write("!")
        self.file.close()
        assert text_of(api, written, "f") == self.written + "!"
        assert (self.path / "written" / "f").read_text() == self.written + "!"
        (self.path / "made").mkdir()
        (self.path / "made" / "new").write_text("new")
        record = api.collections().list(filters=[["name", "=", "made"]]).execute()["items"][0]
        assert text_of(api, record["uuid"], "new") == "new"
        change_by(api, self.uuids["read"], "changed")
        poll("a change", lambda: (self.path / "read" / "f").read_text() == "changed", 60)
        save_by(api, "later")
        poll("what is new", lambda: "later" in os.listdir(self.path), 60)
        assert self.mount.unmount() == 0


@pytest.mark.parametrize("hears", OPTIONS)
@pytest.mark.parametrize("what", ["expired", "revoked"])
def test_a_token_that_is_accepted_no_more(
    fresh_cluster: LocalCluster, arv_mount: Callable, tmp_path: Path, what: str, hears: str
) -> None:
    user, token = fresh_cluster.create_user("Ada Lovelace")
    api = fresh_cluster.api(token=token)
    home = Home(
        arv_mount, api, tmp_path / "cache", *OPTIONS[hears], env={"ARVADOS_API_TOKEN": token}
    )
    _, uuid, secret = token.split("/")

    def accept(**differently: str) -> None:
        auth = {"uuid": uuid, "owner_uuid": user["uuid"], "api_token": secret, **differently}
        fresh_cluster.load_fixtures({"api_client_authorizations": [auth]})

    accept(
        **{
            "expired": {"expires_at": "2020-01-01T00:00:00.000000000Z"},
            "revoked": {"api_token": "of no use"},
        }[what]
    )
    fresh_cluster.hook("ws/close", {})
    home.assert_fails(errno.EIO, errno.EACCES)
    log = home.mount.log.read_text()
    assert "does not accept the token" in log
    assert secret not in log
    accept()
    home.assert_recovers(fresh_cluster.api(token=token))


@pytest.mark.parametrize("hears", OPTIONS)
def test_a_cluster_that_is_gone_and_comes_back(
    tmp_path: Path, arv_mount: Callable, monkeypatch: pytest.MonkeyPatch, hears: str
) -> None:
    with LocalCluster(tmp_path / "c", test_hooks=True) as cluster:
        for name, value in cluster.env().items():
            monkeypatch.setenv(name, value)
        home = Home(
            arv_mount, cluster.api(), tmp_path / "cache", *OPTIONS[hears], env=cluster.env()
        )
        cluster.stop()
        assert errno_of((home.path / "unread" / "f").read_text) == errno.EIO
        home.assert_fails(errno.EIO)
        assert "cannot be reached" in home.mount.log.read_text()
    with LocalCluster(tmp_path / "c", test_hooks=True) as cluster:
        home.assert_recovers(cluster.api())


@pytest.mark.parametrize("ahead", [3600, -3600], ids=["behind", "ahead"])
def test_a_clock_that_is_wrong_by_an_hour(
    tmp_path: Path, arv_mount: Callable, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    # Signatures that last for less than the clocks differ.
    with LocalCluster(tmp_path / "c", test_hooks=True, blob_signing_ttl=1200) as cluster:
        for name, value in cluster.env().items():
            monkeypatch.setenv(name, value)
        cluster.set_clock(ahead)
        api = cluster.api()
        home = Home(arv_mount, api, tmp_path / "cache", env=cluster.env())
        many = arvados.collection.Collection(api_client=api)
        for number in range(20):
            with many.open(f"{number}", "w") as file:
                file.write(f"{number}" * 100)
                file.flush()
        many.save_new("many")
        uuid = many.manifest_locator()
        poll("what is new", lambda: "many" in os.listdir(home.path), 60)
        cluster.record_requests()
        for number in range(20):
            assert (home.path / "many" / f"{number}").read_text() == f"{number}" * 100
        for number in range(5):
            (home.path / "many" / "0").write_text(f"new {number}")
            assert text_of(api, uuid, "0") == f"new {number}"
        asked = [r for r in cluster.requests() if (r["service"], r["method"]) == ("api", "GET")]
        assert len([r for r in asked if uuid in r["path"]]) <= 15, asked
        # The cluster's clock goes on: all signatures end.
        cluster.set_clock(ahead + 1300)
        assert (home.path / "unread" / "f").read_text() == "unread"
        (home.path / "many" / "0").write_text("once more")
        assert text_of(api, uuid, "0") == "once more"
        assert text_of(api, uuid, "19") == "19" * 100
        home.assert_recovers(api)
        assert lines_of(home.mount) == []
